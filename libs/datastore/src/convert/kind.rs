//! Kinds: which objects are read, and what names them.
//! In: an API version and a kind, and an object's metadata. Out: a kind, and the key of one of its objects.
//! Invariant: an object has the key it would have if it could be read, and the same in every API group.
//! Never: looks into a spec, but for objects whose name does not say enough: some of our own, and an endpoint, which is its pod's.

use super::{
    calico::{Group, workloadendpoint},
    field::Meta,
};
use crate::{given, node_addresses, vtep, workload};
use model::{EndpointSliceId, NamespaceName, NetworkSetId, PodId, PolicyId, PolicyKind, ResourceKey, ServiceId};
use serde_json::Value;

/// The kinds read here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Pod,
    Namespace,
    Node,
    ServiceAccount,
    /// Of Calico's groups the one it came from counts: what lies in the store is not filled in.
    Policy(PolicyKind, Group),
    Tier,
    NetworkSet {
        global: bool,
    },
    Service,
    EndpointSlice,
    Profile,
    HostEndpoint,
    FelixConfiguration,
    BgpConfiguration,
    BgpPeer,
    BgpFilter,
    IpPool,
    IpReservation,
    IpamConfig,
    BlockClaim,
    /// Calico's own word on a node.
    CalicoNode,
    WorkloadEndpoint,
    WorkloadAddress,
    NodeVteps,
    NodeAddresses,
    ServiceAddresses,
}

impl Kind {
    pub(super) fn of(api_version: &str, kind: &str) -> Option<Self> {
        if let Some(group) = Group::of(api_version) {
            return Self::of_calico(group, kind);
        }
        match (api_version, kind) {
            ("v1", "Pod") => Some(Self::Pod),
            ("v1", "Namespace") => Some(Self::Namespace),
            ("v1", "Node") => Some(Self::Node),
            ("v1", "ServiceAccount") => Some(Self::ServiceAccount),
            ("v1", "Service") => Some(Self::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Self::EndpointSlice),
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                Some(Self::Policy(PolicyKind::KubernetesNetworkPolicy, Group::Api))
            }
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
                Some(Self::Policy(PolicyKind::ClusterNetworkPolicy, Group::Api))
            }
            (workload::API_VERSION, workload::KIND) => Some(Self::WorkloadAddress),
            (vtep::API_VERSION, vtep::KIND) => Some(Self::NodeVteps),
            (node_addresses::API_VERSION, node_addresses::KIND) => Some(Self::NodeAddresses),
            (given::API_VERSION, given::KIND) => Some(Self::ServiceAddresses),
            _ => None,
        }
    }

    fn of_calico(group: Group, kind: &str) -> Option<Self> {
        match kind {
            "IPPool" => Some(Self::IpPool),
            "IPReservation" => Some(Self::IpReservation),
            // The newer name is of the newer group, the older of what is stored.
            "IPAMConfiguration" | "IPAMConfig" => Some(Self::IpamConfig),
            "BlockAffinity" => Some(Self::BlockClaim),
            "Tier" => Some(Self::Tier),
            "NetworkPolicy" => Some(Self::Policy(PolicyKind::NetworkPolicy, group)),
            "GlobalNetworkPolicy" => Some(Self::Policy(PolicyKind::GlobalNetworkPolicy, group)),
            "StagedKubernetesNetworkPolicy" => Some(Self::Policy(PolicyKind::StagedKubernetesNetworkPolicy, group)),
            "StagedNetworkPolicy" => Some(Self::Policy(PolicyKind::StagedNetworkPolicy, group)),
            "StagedGlobalNetworkPolicy" => Some(Self::Policy(PolicyKind::StagedGlobalNetworkPolicy, group)),
            "NetworkSet" => Some(Self::NetworkSet { global: false }),
            "GlobalNetworkSet" => Some(Self::NetworkSet { global: true }),
            "Profile" => Some(Self::Profile),
            "HostEndpoint" => Some(Self::HostEndpoint),
            "FelixConfiguration" => Some(Self::FelixConfiguration),
            "BGPConfiguration" => Some(Self::BgpConfiguration),
            "BGPPeer" => Some(Self::BgpPeer),
            "BGPFilter" => Some(Self::BgpFilter),
            "Node" => Some(Self::CalicoNode),
            "WorkloadEndpoint" => Some(Self::WorkloadEndpoint),
            _ => None,
        }
    }

    pub(super) fn is_policy(self) -> bool {
        matches!(self, Self::Policy(..))
    }

    /// The key of the object with this metadata.
    pub(super) fn key(self, meta: &Meta, value: &Value) -> ResourceKey {
        let (namespace, name) = (meta.namespace(), meta.name.clone());
        match self {
            Self::Pod => ResourceKey::Pod(PodId { namespace, name: name.into() }),
            Self::Namespace => ResourceKey::Namespace(name.into()),
            Self::Node | Self::CalicoNode => ResourceKey::Node(name.into()),
            Self::WorkloadEndpoint => ResourceKey::Pod(workloadendpoint::pod_id(meta, value)),
            Self::ServiceAccount => ResourceKey::ServiceAccount(namespace, name),
            Self::Policy(kind, _) => ResourceKey::Policy(policy_id(kind, meta)),
            Self::Tier => ResourceKey::Tier(name.into()),
            Self::NetworkSet { global } => ResourceKey::NetworkSet(set_id(global, meta)),
            Self::Service => ResourceKey::Service(service_id(meta)),
            Self::EndpointSlice => ResourceKey::EndpointSlice(slice_id(meta)),
            Self::Profile => ResourceKey::Profile(name),
            Self::HostEndpoint => ResourceKey::HostEndpoint(name),
            Self::FelixConfiguration => ResourceKey::FelixConfiguration(name),
            Self::BgpConfiguration => ResourceKey::BgpConfiguration(name),
            Self::BgpPeer => ResourceKey::BgpPeer(name),
            Self::BgpFilter => ResourceKey::BgpFilter(name),
            Self::IpPool => ResourceKey::IpPool(name),
            Self::IpReservation => ResourceKey::IpReservation(name),
            Self::IpamConfig => ResourceKey::IpamConfig(name),
            Self::BlockClaim => ResourceKey::BlockClaim(name),
            Self::WorkloadAddress => {
                let part = |field| value.pointer(field).and_then(Value::as_str).unwrap_or_default();
                let (namespace, pod) = name.split_once('.').unwrap_or((part("/spec/pod/namespace"), &name));
                ResourceKey::WorkloadAddress(PodId::new(namespace, pod))
            }
            Self::NodeVteps => ResourceKey::NodeVteps(name.into()),
            Self::NodeAddresses => ResourceKey::NodeAddresses(name.into()),
            // Namespace names have no dots.
            Self::ServiceAddresses => {
                let (namespace, service) = name.split_once('.').unwrap_or(("", &name));
                ResourceKey::ServiceAddresses(ServiceId { namespace: namespace.into(), name: service.to_owned() })
            }
        }
    }
}

/// Cluster-wide kinds have no namespace, whatever their metadata says.
pub(super) fn policy_id(kind: PolicyKind, meta: &Meta) -> PolicyId {
    let namespace = match kind {
        PolicyKind::KubernetesNetworkPolicy
        | PolicyKind::NetworkPolicy
        | PolicyKind::StagedKubernetesNetworkPolicy
        | PolicyKind::StagedNetworkPolicy => meta.namespace(),
        PolicyKind::ClusterNetworkPolicy | PolicyKind::GlobalNetworkPolicy | PolicyKind::StagedGlobalNetworkPolicy => {
            NamespaceName::default()
        }
    };
    PolicyId { name: meta.name.as_str().into(), namespace, kind }
}

pub(super) fn service_id(meta: &Meta) -> ServiceId {
    ServiceId { namespace: meta.namespace(), name: meta.name.clone() }
}

pub(super) fn slice_id(meta: &Meta) -> EndpointSliceId {
    EndpointSliceId { namespace: meta.namespace(), name: meta.name.clone() }
}

pub(super) fn set_id(global: bool, meta: &Meta) -> NetworkSetId {
    NetworkSetId { namespace: (!global).then(|| meta.namespace()), name: meta.name.as_str().into() }
}
