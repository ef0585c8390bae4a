//! Objects of the cluster as this project sees them: only the fields that mean something here.
//! In: converted manifests and API objects. Out: values the calculation works on.
//! Invariant: `Resource::key` names an object the same way whichever document it came from.
//! Never: keeps a field nobody reads.

use crate::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockClaim, Cidr, Created, EndpointSlice, EndpointSliceId,
    FelixConfiguration, HostEndpoint, IpPool, IpReservation, IpamConfig, Labels, NamespaceName, NetworkSet,
    NetworkSetId, NodeAddresses, NodeBgp, NodeName, NodeVteps, PodAsks, PodId, Policy, PolicyId, PortName, Profile,
    Protocol, Service, ServiceAddresses, ServiceId, Tier, TierName, ToldAddresses, Vteps,
};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, sync::Arc};

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: PortName,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub id: PodId,
    /// The node it is bound to, if it is.
    pub node: Option<NodeName>,
    /// Its labels.
    pub labels: Labels,
    /// The name of its service account.
    pub service_account: Option<Arc<str>>,
    /// Its addresses as known to the cluster (status, else Calico's annotations: NP-61).
    pub addresses: Box<[IpAddr]>,
    /// Named ports of its containers and sidecars (NP-72).
    pub ports: Box<[NamedPort]>,
    /// It shares the node's network: neither subject nor peer (NP-55).
    pub host_network: bool,
    /// Its containers have ended and its addresses may be reused (NP-60).
    pub finished: bool,
    /// Addresses that it asks to be reached at beside its own.
    pub floating: Option<Box<FloatingIps>>,
    /// The profiles that its endpoint names, in order; `None`: its namespace's and its account's.
    pub profiles: Option<Box<[Arc<str>]>>,
    /// The container, as its runtime names it, of which all this is said; `None`: of whichever it has.
    pub container: Option<Arc<str>>,
    /// What it asks of its own addresses.
    pub asks: Option<Box<PodAsks>>,
}

impl Pod {
    /// One of which nothing more is said.
    #[must_use]
    pub fn bare(id: PodId, node: Option<NodeName>) -> Self {
        Self {
            id,
            node,
            labels: Labels::default(),
            service_account: None,
            addresses: [].into(),
            ports: [].into(),
            host_network: false,
            finished: false,
            floating: None,
            profiles: None,
            container: None,
            asks: None,
        }
    }
}

/// What a pod says of floating addresses (`cni.projectcalico.org/floatingIPs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingIps {
    /// They.
    pub addresses: Vec<IpAddr>,
    /// What is wrong with what is written there; there are none then.
    pub unread: Option<String>,
    /// When the pod was made: of two that want one address the older has it.
    pub created: Created,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: NamespaceName,
    /// Its labels, `kubernetes.io/metadata.name` included (NP-41).
    pub labels: Labels,
    /// What it asks for its pods.
    pub asks: Option<Box<PodAsks>>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// All its addresses, internal ones first.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Networks whose addresses are its own pods' (`spec.podCIDRs`), as a cluster without IPAM of its own gives them.
    pub pod_cidrs: Vec<Cidr>,
    /// Where its tunnels end.
    pub vteps: Vteps,
    /// The addresses that its agent has found for it.
    pub told: ToldAddresses,
    /// How it speaks BGP.
    pub bgp: NodeBgp,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
}

/// What an agent tells the other nodes of a pod it attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadAddress {
    /// The pod.
    pub pod: PodId,
    /// Where it runs.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels, where no manifest describes it.
    pub labels: Labels,
}

/// Any object. Those that come by the ten thousand are shared by all who hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A pod.
    Pod(Arc<Pod>),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A service account.
    ServiceAccount(ServiceAccount),
    /// A tier.
    Tier(Tier),
    /// A policy.
    Policy(Arc<Policy>),
    /// A set of networks.
    NetworkSet(Arc<NetworkSet>),
    /// A service.
    Service(Arc<Service>),
    /// Some of the endpoints of a service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A profile.
    Profile(Profile),
    /// A host endpoint.
    HostEndpoint(HostEndpoint),
    /// How the agent is told to behave.
    FelixConfiguration(FelixConfiguration),
    /// How nodes speak BGP.
    BgpConfiguration(Box<BgpConfiguration>),
    /// With whom.
    BgpPeer(Box<BgpPeer>),
    /// What is asked of routes.
    BgpFilter(BgpFilter),
    /// An IP pool.
    IpPool(IpPool),
    /// Addresses that are given to nobody who does not name them.
    IpReservation(IpReservation),
    /// How nodes take blocks, by its name.
    IpamConfig(String, IpamConfig),
    /// A block that a node holds.
    BlockClaim(BlockClaim),
    /// A pod's addresses as its node's agent knows them.
    WorkloadAddress(WorkloadAddress),
    /// Where a node's tunnels end, as its agent tells it.
    NodeVteps(NodeVteps),
    /// By which addresses a node is reached, as its agent tells it.
    NodeAddresses(NodeAddresses),
    /// Addresses that a load balancer was given.
    ServiceAddresses(ServiceAddresses),
}

/// What names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKey {
    /// A pod.
    Pod(PodId),
    /// A namespace.
    Namespace(NamespaceName),
    /// A node.
    Node(NodeName),
    /// A service account: namespace and name.
    ServiceAccount(NamespaceName, String),
    /// A tier.
    Tier(TierName),
    /// A policy.
    Policy(PolicyId),
    /// A set of networks.
    NetworkSet(NetworkSetId),
    /// A service.
    Service(ServiceId),
    /// Some of the endpoints of a service.
    EndpointSlice(EndpointSliceId),
    /// A profile.
    Profile(String),
    /// A host endpoint.
    HostEndpoint(String),
    /// How the agent is told to behave.
    FelixConfiguration(String),
    /// How nodes speak BGP.
    BgpConfiguration(String),
    /// With whom.
    BgpPeer(String),
    /// What is asked of routes.
    BgpFilter(String),
    /// An IP pool.
    IpPool(String),
    /// Addresses that are given to nobody who does not name them.
    IpReservation(String),
    /// How nodes take blocks.
    IpamConfig(String),
    /// A block that a node holds.
    BlockClaim(String),
    /// A pod's addresses as its node's agent knows them.
    WorkloadAddress(PodId),
    /// Where a node's tunnels end, as its agent tells it.
    NodeVteps(NodeName),
    /// By which addresses a node is reached, as its agent tells it.
    NodeAddresses(NodeName),
    /// Addresses that a load balancer was given.
    ServiceAddresses(ServiceId),
}

impl Resource {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Pod(pod) => ResourceKey::Pod(pod.id.clone()),
            Self::Namespace(namespace) => ResourceKey::Namespace(namespace.name.clone()),
            Self::Node(node) => ResourceKey::Node(node.name.clone()),
            Self::ServiceAccount(account) => {
                ResourceKey::ServiceAccount(account.namespace.clone(), account.name.clone())
            }
            Self::Tier(tier) => ResourceKey::Tier(tier.name.clone()),
            Self::Policy(policy) => ResourceKey::Policy(policy.id.clone()),
            Self::NetworkSet(set) => ResourceKey::NetworkSet(set.id.clone()),
            Self::Service(service) => ResourceKey::Service(service.id.clone()),
            Self::EndpointSlice(slice) => ResourceKey::EndpointSlice(slice.id.clone()),
            Self::Profile(profile) => ResourceKey::Profile(profile.name.clone()),
            Self::HostEndpoint(host) => ResourceKey::HostEndpoint(host.name.clone()),
            Self::FelixConfiguration(felix) => ResourceKey::FelixConfiguration(felix.name.clone()),
            Self::BgpConfiguration(bgp) => ResourceKey::BgpConfiguration(bgp.name.clone()),
            Self::BgpPeer(peer) => ResourceKey::BgpPeer(peer.name.clone()),
            Self::BgpFilter(filter) => ResourceKey::BgpFilter(filter.name.clone()),
            Self::IpPool(pool) => ResourceKey::IpPool(pool.name.clone()),
            Self::IpReservation(reservation) => ResourceKey::IpReservation(reservation.name.clone()),
            Self::IpamConfig(name, _) => ResourceKey::IpamConfig(name.clone()),
            Self::BlockClaim(claim) => ResourceKey::BlockClaim(claim.name.clone()),
            Self::WorkloadAddress(address) => ResourceKey::WorkloadAddress(address.pod.clone()),
            Self::NodeVteps(told) => ResourceKey::NodeVteps(told.node.clone()),
            Self::NodeAddresses(told) => ResourceKey::NodeAddresses(told.node.clone()),
            Self::ServiceAddresses(given) => ResourceKey::ServiceAddresses(given.service.clone()),
        }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(id) => write!(f, "Pod {id}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::ServiceAccount(namespace, name) => write!(f, "ServiceAccount {namespace}/{name}"),
            Self::Tier(name) => write!(f, "Tier {name}"),
            Self::Policy(id) => id.fmt(f),
            Self::NetworkSet(id) => id.fmt(f),
            Self::Service(id) => write!(f, "Service {id}"),
            Self::EndpointSlice(id) => id.fmt(f),
            Self::Profile(name) => write!(f, "Profile {name}"),
            Self::HostEndpoint(name) => write!(f, "HostEndpoint {name}"),
            Self::FelixConfiguration(name) => write!(f, "FelixConfiguration {name}"),
            Self::BgpConfiguration(name) => write!(f, "BGPConfiguration {name}"),
            Self::BgpPeer(name) => write!(f, "BGPPeer {name}"),
            Self::BgpFilter(name) => write!(f, "BGPFilter {name}"),
            Self::IpPool(name) => write!(f, "IPPool {name}"),
            Self::IpReservation(name) => write!(f, "IPReservation {name}"),
            Self::IpamConfig(name) => write!(f, "IPAMConfiguration {name}"),
            Self::BlockClaim(name) => write!(f, "BlockAffinity {name}"),
            Self::WorkloadAddress(id) => write!(f, "WorkloadAddress {id}"),
            Self::NodeVteps(name) => write!(f, "NodeVteps {name}"),
            Self::NodeAddresses(name) => write!(f, "NodeAddresses {name}"),
            Self::ServiceAddresses(id) => write!(f, "ServiceAddresses {id}"),
        }
    }
}
