//! Manifests to model: one file per kind, every refusal naming its field.
//! In: one object as JSON. Out: a [`Resource`], with the parts that could not be read; or why it is none.
//! Invariant: what is refused or unreadable never makes a policy wider.
//! Never: keeps quiet about a part it could not read.

mod asks;
mod calico;
mod cluster;
mod combine;
mod duration;
mod endpointslice;
mod field;
mod floating;
mod ipam;
mod ippool;
mod kind;
mod namespace;
mod networkpolicy;
mod node;
mod pod;
mod port;
mod selector;
mod service;
mod serviceaccount;
mod staged;

pub(crate) use asks::{ADDRESSES, ADDRESSES_OF_NO_POOL, FAMILIES, MAC, POOLS, SOURCES, STICKY};
pub use calico::parameters;
pub(crate) use calico::{
    bgpconfiguration::Spec as BgpConfigurationSpec, bgpfilter::Spec as BgpFilterSpec, bgppeer::Spec as BgpPeerSpec,
    hostendpoint::Spec as HostEndpointSpec, networkset::Spec as NetworkSetSpec, policy::Spec as PolicySpec,
    tier::Spec as TierSpec,
};
pub(crate) use duration::duration;
pub(crate) use field::{InvalidField, is_object_name, read};
pub(crate) use floating::FLOATING_IPS;
pub(crate) use ipam::{Config as IpamConfigSpec, Reservation as IpReservationSpec, config as ipam_config};
pub(crate) use ippool::Spec as IpPoolSpec;
pub(crate) use pod::{AWS_POD_IPS, POD_IP, POD_IPS};

use crate::{given, settings::Setting, workload};
use calico::Group;
use field::Meta;
use kind::Kind;
use model::{NodeAddresses, NodeVteps, PolicyKind, Resource, ResourceKey, ServiceAddresses, Vtep, WorkloadAddress};
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
    /// It is to keep traffic out, and is not enforced: silence would look like protection.
    NotEnforced { object: String, reason: &'static str },
    /// Not for this project.
    Foreign { kind: String },
}

const NOT_SUPPORTED: &str = "this kind of policy is not supported yet";

/// Reads one object.
pub(crate) fn convert(value: &Value) -> Converted {
    let (Some(api_version), Some(written)) = (text(value, "apiVersion"), text(value, "kind")) else {
        let missing = if text(value, "kind").is_none() { "kind" } else { "apiVersion" };
        return Converted::Nameless { error: InvalidField::new(missing, "is required and must be text") };
    };
    let Some(kind) = Kind::of(api_version, written) else { return foreign(value, api_version, written) };
    let mut meta = match Meta::read(value) {
        Ok(meta) => meta,
        Err(error) => return Converted::Nameless { error },
    };
    if Group::of(api_version) == Some(Group::Stored)
        && let Err(error) = calico::metadata::restore(&mut meta, value, kind.is_policy())
    {
        return Converted::Nameless { error };
    }
    let mut unreadable = Vec::new();
    match resource(kind, &meta, value, &mut unreadable) {
        Ok(Some(resource)) => Converted::Known { resource, unreadable },
        Ok(None) => Converted::Foreign { kind: written.to_owned() },
        Err(error) => Converted::Refused { key: kind.key(&meta, value), error },
    }
}

/// Which of the kinds that commands change it is.
pub(crate) fn setting(value: &Value) -> Option<Setting> {
    match Kind::of(text(value, "apiVersion")?, text(value, "kind")?)? {
        Kind::IpPool => Some(Setting::Pool),
        Kind::IpReservation => Some(Setting::Reservation),
        Kind::IpamConfig => Some(Setting::Config),
        Kind::Node => Some(Setting::Node),
        _ => None,
    }
}

/// Whether it is of this kind of Calico's.
pub(crate) fn is_calicos(value: &Value, kind: &str) -> bool {
    text(value, "kind") == Some(kind) && text(value, "apiVersion").and_then(Group::of).is_some()
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

fn foreign(value: &Value, api_version: &str, kind: &str) -> Converted {
    if kind.ends_with("NetworkPolicy") {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
        let object = format!("{kind} {name} ({api_version})");
        return Converted::NotEnforced { object, reason: NOT_SUPPORTED };
    }
    Converted::Foreign { kind: format!("{kind} ({api_version})") }
}

/// `None`: its writer has set it aside.
fn resource(
    kind: Kind,
    meta: &Meta,
    value: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Option<Resource>, InvalidField> {
    Ok(Some(match kind {
        Kind::Pod => Resource::Pod(pod::convert(meta, value, unreadable)?.into()),
        Kind::Namespace => Resource::Namespace(namespace::convert(meta, unreadable)),
        Kind::Node => Resource::Node(node::convert(meta, value, unreadable)?),
        Kind::ServiceAccount => Resource::ServiceAccount(serviceaccount::convert(meta)),
        Kind::Policy(PolicyKind::KubernetesNetworkPolicy, _) => {
            Resource::Policy(networkpolicy::convert(meta, value, unreadable)?.into())
        }
        Kind::Policy(PolicyKind::ClusterNetworkPolicy, _) => {
            Resource::Policy(cluster::convert(meta, value, unreadable)?.into())
        }
        Kind::Policy(policy, group) if policy.is_staged() => {
            return Ok(
                staged::convert(policy, group, meta, value, unreadable)?.map(|policy| Resource::Policy(policy.into()))
            );
        }
        Kind::Policy(policy, group) => {
            let id = kind::policy_id(policy, meta);
            Resource::Policy(calico::policy::convert(id, group, value, unreadable)?.into())
        }
        Kind::Tier => Resource::Tier(calico::tier::convert(meta, value)?),
        Kind::NetworkSet { global } => {
            let id = kind::set_id(global, meta);
            Resource::NetworkSet(calico::networkset::convert(id, meta, value, unreadable)?.into())
        }
        Kind::Service => Resource::Service(service::convert(kind::service_id(meta), meta, value, unreadable)?.into()),
        Kind::EndpointSlice => {
            Resource::EndpointSlice(endpointslice::convert(kind::slice_id(meta), meta, value)?.into())
        }
        Kind::Profile => Resource::Profile(calico::profile::convert(meta, value, unreadable)?),
        Kind::HostEndpoint => Resource::HostEndpoint(calico::hostendpoint::convert(meta, value, unreadable)?),
        Kind::FelixConfiguration => {
            Resource::FelixConfiguration(calico::felixconfiguration::convert(meta, value, unreadable)?)
        }
        Kind::BgpConfiguration | Kind::BgpPeer | Kind::BgpFilter => bgp(kind, meta, value, unreadable)?,
        Kind::IpPool => Resource::IpPool(ippool::convert(meta, value)?),
        Kind::IpReservation => Resource::IpReservation(ipam::reservation(meta, value)?),
        Kind::IpamConfig => Resource::IpamConfig(meta.name.clone(), ipam::config(value)?),
        Kind::BlockClaim => return Ok(ipam::claim(meta, value)?.map(Resource::BlockClaim)),
        Kind::CalicoNode => Resource::Node(calico::node::convert(meta, value, unreadable)?),
        Kind::WorkloadEndpoint => Resource::Pod(calico::workloadendpoint::convert(meta, value, unreadable)?.into()),
        Kind::WorkloadAddress | Kind::NodeVteps | Kind::NodeAddresses | Kind::ServiceAddresses => {
            shared(kind, meta, value)?
        }
    }))
}

/// What agents tell each other: each object is named by what it is about.
fn shared(kind: Kind, meta: &Meta, value: &Value) -> Result<Resource, InvalidField> {
    Ok(match kind {
        Kind::WorkloadAddress => {
            let address: WorkloadAddress = read("spec", value)?;
            if workload::object_name(&address.pod) != meta.name {
                return Err(InvalidField::new("metadata.name", "is not NAMESPACE.POD of spec.pod"));
            }
            Resource::WorkloadAddress(address)
        }
        Kind::NodeVteps => {
            let told: NodeVteps = read("spec", value)?;
            if *told.node.0 != *meta.name {
                return Err(InvalidField::new("metadata.name", "is not spec.node"));
            }
            let is_of = |end: Option<Vtep>, is_v6: bool| end.is_none_or(|end| end.address.is_ipv6() == is_v6);
            if !is_of(told.vteps.v4, false) || !is_of(told.vteps.v6, true) {
                return Err(InvalidField::new("spec", "an address is not of the family that it stands under"));
            }
            Resource::NodeVteps(told)
        }
        Kind::NodeAddresses => {
            let own: NodeAddresses = read("spec", value)?;
            if *own.node.0 != *meta.name {
                return Err(InvalidField::new("metadata.name", "is not spec.node"));
            }
            if !own.told.is_in_place() {
                return Err(InvalidField::new("spec", "an address is not of the family that it stands under"));
            }
            Resource::NodeAddresses(own)
        }
        _ => {
            let given: ServiceAddresses = read("spec", value)?;
            if given::object_name(&given.service) != meta.name {
                return Err(InvalidField::new("metadata.name", "is not NAMESPACE.SERVICE of spec.service"));
            }
            Resource::ServiceAddresses(given)
        }
    })
}

/// The kinds of BGP.
fn bgp(kind: Kind, meta: &Meta, value: &Value, unreadable: &mut Vec<InvalidField>) -> Result<Resource, InvalidField> {
    Ok(match kind {
        Kind::BgpFilter => Resource::BgpFilter(calico::bgpfilter::convert(meta, value)?),
        Kind::BgpPeer => Resource::BgpPeer(calico::bgppeer::convert(meta, value)?.into()),
        _ => Resource::BgpConfiguration(calico::bgpconfiguration::convert(meta, value, unreadable)?.into()),
    })
}

#[cfg(test)]
mod said;
#[cfg(test)]
mod tests;
