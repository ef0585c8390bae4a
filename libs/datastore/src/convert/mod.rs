//! Manifests to model: one file per kind, every refusal naming its field.
//! In: one object as JSON. Out: a [`Resource`], with the parts that could not be read; or why it is none.
//! Invariant: what is refused or unreadable never makes a policy wider.
//! Never: keeps quiet about a part it could not read.

mod field;
mod ippool;
mod namespace;
mod networkpolicy;
mod node;
mod pod;
mod selector;
mod serviceaccount;

pub(crate) use field::InvalidField;

use crate::workload;
use field::{Meta, read};
use model::{NamespaceName, PodId, PolicyId, PolicyKind, Resource, ResourceKey, WorkloadAddress};
use serde_json::Value;

/// What an object turned out to be.
#[derive(Debug)]
pub(crate) enum Converted {
    /// An object, and parts of it that hold their place but could not be read.
    Known { resource: Resource, unreadable: Vec<InvalidField> },
    /// It has a name and cannot be read.
    Refused { key: ResourceKey, error: InvalidField },
    /// It cannot even be named.
    Nameless { error: InvalidField },
    /// A policy of a kind that is not enforced: silence would look like protection.
    NotEnforced { object: String },
    /// Not for this project.
    Foreign { kind: String },
}

/// The kinds read here, by API version and kind.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Pod,
    Namespace,
    Node,
    ServiceAccount,
    NetworkPolicy,
    IpPool,
    WorkloadAddress,
}

fn kind_of(api_version: &str, kind: &str) -> Option<Kind> {
    match (api_version, kind) {
        ("v1", "Pod") => Some(Kind::Pod),
        ("v1", "Namespace") => Some(Kind::Namespace),
        ("v1", "Node") => Some(Kind::Node),
        ("v1", "ServiceAccount") => Some(Kind::ServiceAccount),
        ("networking.k8s.io/v1", "NetworkPolicy") => Some(Kind::NetworkPolicy),
        ("projectcalico.org/v3" | "crd.projectcalico.org/v1", "IPPool") => Some(Kind::IpPool),
        (workload::API_VERSION, workload::KIND) => Some(Kind::WorkloadAddress),
        _ => None,
    }
}

/// Reads one object.
pub(crate) fn convert(value: &Value) -> Converted {
    let (Some(api_version), Some(written)) = (text(value, "apiVersion"), text(value, "kind")) else {
        let missing = if text(value, "kind").is_none() { "kind" } else { "apiVersion" };
        return Converted::Nameless { error: InvalidField::new(missing, "is required and must be text") };
    };
    let Some(kind) = kind_of(api_version, written) else { return foreign(value, api_version, written) };
    let meta = match Meta::read(value) {
        Ok(meta) => meta,
        Err(error) => return Converted::Nameless { error },
    };
    let mut unreadable = Vec::new();
    match resource(kind, &meta, value, &mut unreadable) {
        Ok(resource) => Converted::Known { resource, unreadable },
        Err(error) => Converted::Refused { key: key(kind, &meta, value), error },
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

fn foreign(value: &Value, api_version: &str, kind: &str) -> Converted {
    if kind.ends_with("NetworkPolicy") {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
        return Converted::NotEnforced { object: format!("{kind} {name} ({api_version})") };
    }
    Converted::Foreign { kind: format!("{kind} ({api_version})") }
}

fn resource(
    kind: Kind,
    meta: &Meta,
    value: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Resource, InvalidField> {
    Ok(match kind {
        Kind::Pod => Resource::Pod(pod::convert(meta, value)?),
        Kind::Namespace => Resource::Namespace(namespace::convert(meta)),
        Kind::Node => Resource::Node(node::convert(meta, value)?),
        Kind::ServiceAccount => Resource::ServiceAccount(serviceaccount::convert(meta)),
        Kind::NetworkPolicy => Resource::Policy(networkpolicy::convert(meta, value, unreadable)?),
        Kind::IpPool => Resource::IpPool(ippool::convert(meta, value)?),
        Kind::WorkloadAddress => {
            let address: WorkloadAddress = read("spec", value)?;
            if workload::object_name(&address.pod) != meta.name {
                return Err(InvalidField::new("metadata.name", "is not NAMESPACE.POD of spec.pod"));
            }
            Resource::WorkloadAddress(address)
        }
    })
}

/// The key an object would have if it could be read.
fn key(kind: Kind, meta: &Meta, value: &Value) -> ResourceKey {
    let (namespace, name) = (meta.namespace(), meta.name.clone());
    match kind {
        Kind::Pod => ResourceKey::Pod(PodId { namespace, name }),
        Kind::Namespace => ResourceKey::Namespace(NamespaceName(name)),
        Kind::Node => ResourceKey::Node(model::NodeName(name)),
        Kind::ServiceAccount => ResourceKey::ServiceAccount(namespace, name),
        Kind::NetworkPolicy => {
            ResourceKey::Policy(PolicyId { name, namespace, kind: PolicyKind::KubernetesNetworkPolicy })
        }
        Kind::IpPool => ResourceKey::IpPool(name),
        Kind::WorkloadAddress => {
            let part = |field| value.pointer(field).and_then(Value::as_str).unwrap_or_default();
            let (namespace, pod) = name.split_once('.').unwrap_or((part("/spec/pod/namespace"), &name));
            ResourceKey::WorkloadAddress(PodId::new(namespace, pod))
        }
    }
}

#[cfg(test)]
mod tests;
