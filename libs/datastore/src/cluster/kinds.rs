//! Kinds that are watched, and which of Calico's two groups a cluster keeps its objects in.
//! In: a client, asked once. Out: each kind's address on the API server.
//! Invariant: a kind that every cluster has is required; nothing is in sync without it.
//! Never: guesses while the server does not answer.

use kube::{
    Api, Client, Error,
    core::{DynamicObject, Status},
    discovery::ApiResource,
};
use serde_json::Value;

/// A kind.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) resource: ApiResource,
    /// A cluster may do without it: then there are no objects of it.
    pub(super) is_optional: bool,
}

impl Watched {
    /// As kubectl names it: `networkpolicies.networking.k8s.io`, `pods`.
    pub(super) fn name(&self) -> String {
        let ApiResource { group, plural, .. } = &self.resource;
        if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
    }
}

/// Where Calico's objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calico {
    /// `crd.projectcalico.org/v1`: as its own API server, or calicoctl, keeps them.
    Stored,
    /// `projectcalico.org/v3`, as resources of the cluster's own API server.
    Native,
}

impl Calico {
    fn group(self) -> (&'static str, &'static str) {
        match self {
            Self::Stored => ("crd.projectcalico.org", "v1"),
            Self::Native => ("projectcalico.org", "v3"),
        }
    }
}

/// Native where `projectcalico.org/v3` is served by the API server itself, and by no server behind it: what serves a group is a
/// Service then.
pub(super) async fn calico(client: &Client) -> Result<Calico, Error> {
    let services = of(("apiregistration.k8s.io", "v1", "APIService", "apiservices", false)).resource;
    let found = Api::<DynamicObject>::all_with(client.clone(), &services).get_opt("v3.projectcalico.org").await?;
    let is_native = found.is_some_and(|found| found.data.pointer("/spec/service").is_none_or(Value::is_null));
    Ok(if is_native { Calico::Native } else { Calico::Stored })
}

pub(super) fn is_absent(status: &Status) -> bool {
    status.code == 404
}

/// All kinds.
pub(super) fn watched(calico: Calico) -> Vec<Watched> {
    let own = [
        ("", "v1", "Pod", "pods", false),
        ("", "v1", "Namespace", "namespaces", false),
        ("", "v1", "Node", "nodes", false),
        ("", "v1", "ServiceAccount", "serviceaccounts", false),
        ("", "v1", "Service", "services", false),
        ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", false),
        ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", false),
        ("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", true),
    ];
    let (group, version) = calico.group();
    let calicos = [
        ("Tier", "tiers"),
        ("GlobalNetworkPolicy", "globalnetworkpolicies"),
        ("NetworkPolicy", "networkpolicies"),
        ("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies"),
        ("StagedNetworkPolicy", "stagednetworkpolicies"),
        ("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies"),
        ("GlobalNetworkSet", "globalnetworksets"),
        ("NetworkSet", "networksets"),
        ("HostEndpoint", "hostendpoints"),
        ("FelixConfiguration", "felixconfigurations"),
        ("IPPool", "ippools"),
    ]
    .map(|(kind, plural)| (group, version, kind, plural, true));
    own.into_iter().chain(calicos).map(of).collect()
}

/// A kind of objects that agents share, all of the cluster and not of a namespace.
pub(super) fn shared(calico: Calico, kind: &str) -> ApiResource {
    let plural = match kind {
        "BlockAffinity" => "blockaffinities".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let (group, version) = calico.group();
    of((group, version, kind, &plural, false)).resource
}

/// Pods.
pub(super) fn pods() -> ApiResource {
    of(("", "v1", "Pod", "pods", false)).resource
}

/// Services.
pub(super) fn services() -> ApiResource {
    of(("", "v1", "Service", "services", false)).resource
}

/// Leases.
pub(super) fn leases() -> ApiResource {
    of(("coordination.k8s.io", "v1", "Lease", "leases", false)).resource
}

fn of((group, version, kind, plural, is_optional): (&str, &str, &str, &str, bool)) -> Watched {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let (group, version, kind, plural) = (group.to_owned(), version.to_owned(), kind.to_owned(), plural.to_owned());
    Watched { resource: ApiResource { group, version, api_version, kind, plural }, is_optional }
}
