//! Kinds that are watched, and which of Calico's two groups a cluster keeps its objects in.
//! In: a client. Out: each kind's address on the API server; when the newer group comes.
//! Invariant: a kind that every cluster has is required; nothing is in sync without it.
//! Never: guesses while the server does not answer.

use crate::node_status;
use futures::{Stream, StreamExt as _};
use kube::{
    Api, Client, Error,
    core::{DynamicObject, Status},
    discovery::ApiResource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use model::{PolicyKind, ResourceKey};
use serde_json::Value;

/// Whether Calico's objects may be used at all.
pub(super) const CLUSTER_INFORMATION: &str = "ClusterInformation";

/// A kind.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
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
    /// Whether a kind is one of it.
    pub(super) fn has(self, kind: &Watched) -> bool {
        kind.resource.group == self.group().0
    }

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
    let found = api_services(client.clone()).get_opt(NATIVE).await?;
    Ok(if found.is_some_and(|found| is_native(&found)) { Calico::Native } else { Calico::Stored })
}

/// Each time that the server says whether Calico's objects can be [`Calico::Native`].
pub(super) fn native(client: Client) -> impl Stream<Item = bool> {
    let only = watcher::Config::default().fields(&format!("metadata.name={NATIVE}"));
    let events = watcher(api_services(client), only).default_backoff();
    // What a list lacks is gone when it is over.
    let mut in_list = false;
    events.filter_map(move |event| std::future::ready(said_native(event.ok(), &mut in_list)))
}

fn said_native(event: Option<Event<DynamicObject>>, in_list: &mut bool) -> Option<bool> {
    match event? {
        Event::Init => {
            *in_list = false;
            None
        }
        Event::InitApply(found) => {
            *in_list = is_native(&found);
            None
        }
        Event::InitDone => Some(*in_list),
        Event::Apply(found) => Some(is_native(&found)),
        Event::Delete(_) => Some(false),
    }
}

/// What serves `projectcalico.org/v3`.
const NATIVE: &str = "v3.projectcalico.org";

fn api_services(client: Client) -> Api<DynamicObject> {
    Api::all_with(client, &api_service())
}

fn api_service() -> ApiResource {
    of(("apiregistration.k8s.io", "v1", "APIService", "apiservices", false)).resource
}

fn is_native(service: &DynamicObject) -> bool {
    service.data.pointer("/spec/service").is_none_or(Value::is_null)
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
        ("BGPConfiguration", "bgpconfigurations"),
        ("BGPPeer", "bgppeers"),
        ("BGPFilter", "bgpfilters"),
        ("IPPool", "ippools"),
        ("IPReservation", "ipreservations"),
        match calico {
            Calico::Stored => ("IPAMConfig", "ipamconfigs"),
            Calico::Native => ("IPAMConfiguration", "ipamconfigurations"),
        },
        ("BlockAffinity", "blockaffinities"),
        (CLUSTER_INFORMATION, "clusterinformations"),
    ]
    .map(|(kind, plural)| (group, version, kind, plural, true));
    own.into_iter().chain(calicos).map(of).collect()
}

/// A kind of objects that agents share, all of the cluster and not of a namespace.
pub(super) fn shared(calico: Calico, kind: &str) -> ApiResource {
    let plural = match kind {
        "BlockAffinity" => "blockaffinities".to_owned(),
        node_status::KIND => node_status::PLURAL.to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let (group, version) = calico.group();
    of((group, version, kind, &plural, false)).resource
}

/// Services, and what stands behind them.
pub(super) fn of_services() -> Vec<Watched> {
    let is_one = |kind: &Watched| ["Service", "EndpointSlice"].contains(&&*kind.resource.kind);
    watched(Calico::Stored).into_iter().filter(is_one).collect()
}

/// Pods.
pub(super) fn pods() -> ApiResource {
    of(("", "v1", "Pod", "pods", false)).resource
}

/// Namespaces.
pub(super) fn namespaces() -> ApiResource {
    of(("", "v1", "Namespace", "namespaces", false)).resource
}

/// Nodes.
pub(super) fn nodes() -> ApiResource {
    of(("", "v1", "Node", "nodes", false)).resource
}

/// Events.
pub(super) fn events() -> ApiResource {
    of(("", "v1", "Event", "events", false)).resource
}

/// Where an object is: its kind, its namespace if the kind has them, its name.
pub(super) fn of_key(calico: Calico, key: &ResourceKey) -> Option<(ApiResource, Option<String>, String)> {
    let (kind, namespace, name) = match key {
        ResourceKey::Pod(pod) => ("Pod", Some(&pod.namespace), pod.name.to_string()),
        ResourceKey::Service(service) => ("Service", Some(&service.namespace), service.name.clone()),
        ResourceKey::EndpointSlice(slice) => ("EndpointSlice", Some(&slice.namespace), slice.name.clone()),
        ResourceKey::Policy(policy) => {
            let namespace = Some(&policy.namespace).filter(|namespace| !namespace.0.is_empty());
            let kind = match policy.kind {
                PolicyKind::KubernetesNetworkPolicy | PolicyKind::NetworkPolicy => "NetworkPolicy",
                PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
                PolicyKind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
                PolicyKind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
                PolicyKind::StagedNetworkPolicy => "StagedNetworkPolicy",
                PolicyKind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            };
            (kind, namespace, policy.name.to_string())
        }
        ResourceKey::NetworkSet(set) => {
            let kind = if set.namespace.is_some() { "NetworkSet" } else { "GlobalNetworkSet" };
            (kind, set.namespace.as_ref(), set.name.to_string())
        }
        ResourceKey::Tier(name) => ("Tier", None, name.to_string()),
        ResourceKey::HostEndpoint(name) => ("HostEndpoint", None, name.clone()),
        ResourceKey::FelixConfiguration(name) => ("FelixConfiguration", None, name.clone()),
        ResourceKey::BgpConfiguration(name) => ("BGPConfiguration", None, name.clone()),
        ResourceKey::BgpPeer(name) => ("BGPPeer", None, name.clone()),
        ResourceKey::BgpFilter(name) => ("BGPFilter", None, name.clone()),
        ResourceKey::IpPool(name) => ("IPPool", None, name.clone()),
        ResourceKey::IpReservation(name) => ("IPReservation", None, name.clone()),
        ResourceKey::BlockClaim(name) => ("BlockAffinity", None, name.clone()),
        ResourceKey::IpamConfig(name) => {
            let kind = if calico == Calico::Stored { "IPAMConfig" } else { "IPAMConfiguration" };
            (kind, None, name.clone())
        }
        ResourceKey::Node(_)
        | ResourceKey::Namespace(_)
        | ResourceKey::ServiceAccount(..)
        | ResourceKey::Profile(_)
        | ResourceKey::WorkloadAddress(_)
        | ResourceKey::NodeVteps(_)
        | ResourceKey::NodeAddresses(_)
        | ResourceKey::ServiceAddresses(_) => return None,
    };
    let is_it = |watched: &Watched| {
        let is_kubernetes =
            matches!(key, ResourceKey::Policy(policy) if policy.kind == PolicyKind::KubernetesNetworkPolicy);
        watched.resource.kind == kind
            && (kind != "NetworkPolicy" || is_kubernetes == (watched.resource.group == "networking.k8s.io"))
    };
    let found = watched(calico).into_iter().find(is_it)?;
    Some((found.resource, namespace.map(|namespace| namespace.to_string()), name))
}

/// Services.
pub(super) fn services() -> ApiResource {
    of(("", "v1", "Service", "services", false)).resource
}

/// Secrets.
pub(super) fn secrets() -> ApiResource {
    of(("", "v1", "Secret", "secrets", false)).resource
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn calicos_objects_are_the_clusters_own_for_as_long_as_the_server_says_so() {
        let service = |spec: Value| {
            let mut object = DynamicObject::new(NATIVE, &api_service());
            object.data = json!({ "spec": spec });
            object
        };
        let (own, behind) = (|| service(json!({})), || service(json!({ "service": { "name": "calico-api" } })));
        let mut in_list = false;
        let mut said = |event| said_native(Some(event), &mut in_list);
        assert_eq!([said(Event::Init), said(Event::InitDone)], [None, Some(false)]);
        assert_eq!([said(Event::Apply(own())), said(Event::Apply(behind()))], [Some(true), Some(false)]);
        assert_eq!([said(Event::Apply(own())), said(Event::Delete(own()))], [Some(true), Some(false)]);
        assert_eq!([said(Event::Init), said(Event::InitApply(own())), said(Event::InitDone)], [None, None, Some(true)]);
        assert_eq!([said(Event::Init), said(Event::InitDone)], [None, Some(false)], "it went while nobody heard");
        assert_eq!(said_native(None, &mut true), None, "trouble says nothing");
    }
}
