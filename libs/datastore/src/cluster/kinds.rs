//! Kinds that are watched, and which of Calico's two groups a cluster keeps its objects in.
//! In: a client, asked once. Out: each kind's address on the API server.
//! Invariant: a kind that every cluster has is required; nothing is in sync without it.
//! Never: guesses while the server does not answer.

use kube::{Client, Error, core::Status, discovery::ApiResource};
use std::time::Duration;

/// A server that does not answer is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

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

/// What serves a group: a Service, if it is not the API server itself.
#[derive(Debug, serde::Deserialize)]
struct ApiService {
    spec: ApiServiceSpec,
}

#[derive(Debug, serde::Deserialize)]
struct ApiServiceSpec {
    service: Option<serde_json::Value>,
}

impl Calico {
    /// Native where `projectcalico.org/v3` is served by the API server itself and by no server behind it.
    pub(super) async fn of(client: &Client, server: &str) -> Self {
        loop {
            match asked(client).await {
                Ok(found) => return found,
                Err(error) => tracing::warn!(server, "the API server does not say which groups it has: {error}"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

async fn asked(client: &Client) -> Result<Calico, Error> {
    const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v3.projectcalico.org";
    let request = kube::core::request::Request::new("").get("", &kube::api::GetParams::default());
    let mut request = request.map_err(Error::BuildRequest)?;
    *request.uri_mut() = PATH.parse().expect("a path is a URI");
    match client.request::<ApiService>(request).await {
        Ok(ApiService { spec }) => Ok(if spec.service.is_none() { Calico::Native } else { Calico::Stored }),
        Err(Error::Api(status)) if is_absent(&status) => Ok(Calico::Stored),
        Err(error) => Err(error),
    }
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
    let (group, version) = match calico {
        Calico::Stored => ("crd.projectcalico.org", "v1"),
        Calico::Native => ("projectcalico.org", "v3"),
    };
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
pub(super) fn shared(kind: &str) -> ApiResource {
    let plural = match kind {
        "BlockAffinity" => "blockaffinities".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    of(("crd.projectcalico.org", "v1", kind, &plural, false)).resource
}

/// Pods.
pub(super) fn pods() -> ApiResource {
    of(("", "v1", "Pod", "pods", false)).resource
}

fn of((group, version, kind, plural, is_optional): (&str, &str, &str, &str, bool)) -> Watched {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let (group, version, kind, plural) = (group.to_owned(), version.to_owned(), kind.to_owned(), plural.to_owned());
    Watched { resource: ApiResource { group, version, api_version, kind, plural }, is_optional }
}
