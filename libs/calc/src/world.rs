//! The World: the last known state of everything this node was told.
//! In: datastore updates, attachments of the CNI, this host's addresses. Out: [`InSync`], the only way to a Desired.
//! Invariant: an update replaces; nothing depends on the order in which things were told, but what `lifeline` holds back.
//! Never: forgets an object because another is missing.

use crate::{Neighbour, NodePortAddresses, PodCidrs, bgp::Bgp, blocks::Blocks, lifeline::Lifeline};
use model::{
    Attachment, AttachmentId, Cidr, EndpointSlice, EndpointSliceId, FelixConfiguration, HostEndpoint, IfaceName,
    IpPool, IpReservation, IpamConfig, Labels, Namespace, NamespaceName, NetworkSet, NetworkSetId, Node, NodeAddresses,
    NodeName, NodeVteps, Pod, PodAsks, PodId, Policy, PolicyId, Profile, Resource, ResourceKey, Service,
    ServiceAccount, ServiceAddresses, ServiceId, Tier, TierName, Update, WorkloadAddress,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// The last known state.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) node: NodeName,
    pub(crate) keep_established: bool,
    /// Rule sets say what staged policies would make of them.
    pub(crate) tries_staged: bool,
    in_sync: bool,
    pub(crate) pods: BTreeMap<PodId, Arc<Pod>>,
    /// Those that name their profiles.
    pub(crate) naming: BTreeSet<PodId>,
    /// A namespace that nobody described has no profile.
    pub(crate) profiles_are_told: bool,
    pub(crate) namespaces: BTreeMap<NamespaceName, Labels>,
    pub(crate) namespace_asks: BTreeMap<NamespaceName, Box<PodAsks>>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    /// What agents tell of their nodes' tunnels, where the nodes do not say it themselves.
    pub(crate) told_vteps: BTreeMap<NodeName, NodeVteps>,
    /// By which addresses nodes are reached, where agents tell it and the nodes do not say it themselves.
    pub(crate) told_addresses: BTreeMap<NodeName, NodeAddresses>,
    /// Nodes of which agents tell that, as they are written.
    untold: BTreeMap<NodeName, Node>,
    pub(crate) accounts: BTreeMap<(NamespaceName, String), ServiceAccount>,
    pub(crate) tiers: BTreeMap<TierName, Tier>,
    pub(crate) policies: BTreeMap<PolicyId, Arc<Policy>>,
    pub(crate) network_sets: BTreeMap<NetworkSetId, Arc<NetworkSet>>,
    pub(crate) services: BTreeMap<ServiceId, Arc<Service>>,
    /// Those of load balancers without an address, as they are written.
    pub(crate) unaddressed: BTreeMap<ServiceId, Arc<Service>>,
    pub(crate) given: BTreeMap<ServiceId, ServiceAddresses>,
    /// Those that are not served for want of room.
    pub(crate) put_off: BTreeSet<ServiceId>,
    pub(crate) slices: BTreeMap<EndpointSliceId, Arc<EndpointSlice>>,
    /// Slices of the API server's own service that are held back.
    pub(crate) lifeline: Lifeline,
    pub(crate) profiles: BTreeMap<String, Profile>,
    pub(crate) host_endpoints: BTreeMap<String, HostEndpoint>,
    pub(crate) felix: BTreeMap<String, FelixConfiguration>,
    /// What is said of BGP.
    pub(crate) bgp: Bgp,
    pub(crate) pools: BTreeMap<String, IpPool>,
    pub(crate) reservations: BTreeMap<String, IpReservation>,
    pub(crate) ipam_configs: BTreeMap<String, IpamConfig>,
    /// Blocks that nodes hold.
    pub(crate) blocks: Blocks,
    pub(crate) published: BTreeMap<PodId, WorkloadAddress>,
    pub(crate) attachments: BTreeMap<AttachmentId, Attachment>,
    /// Attachments of each pod.
    pub(crate) attached: BTreeMap<PodId, BTreeSet<AttachmentId>>,
    pub(crate) host: BTreeSet<IpAddr>,
    /// Node ports are served at this node's addresses in these; none: at all of them.
    pub(crate) node_ports: NodePortAddresses,
    /// What another service proxy does in the host's stack.
    pub(crate) proxy: Neighbour,
    /// This node's own interfaces, with their addresses.
    pub(crate) interfaces: BTreeMap<IfaceName, BTreeSet<IpAddr>>,
    /// Somebody else makes the routes to other nodes.
    pub(crate) leaves_routes: bool,
    /// How nodes' own networks are reached.
    pub(crate) pod_cidrs: PodCidrs,
    /// A speaker of BGP finds the way to nodes of no network of ours.
    pub(crate) leaves_far_nodes: bool,
    /// The networks that those are in.
    pub(crate) networks: BTreeMap<IfaceName, BTreeSet<Cidr>>,
}

/// Proof that every watched kind has delivered its first full list.
#[derive(Clone, Copy, Debug)]
pub struct InSync<'a>(pub(crate) &'a World);

impl World {
    /// An empty world, seen from `node`. `keep_established`: allowed flows outlive a new deny.
    #[must_use]
    pub fn new(node: NodeName, keep_established: bool) -> Self {
        Self {
            node,
            keep_established,
            tries_staged: true,
            in_sync: false,
            pods: BTreeMap::new(),
            naming: BTreeSet::new(),
            profiles_are_told: false,
            namespaces: BTreeMap::new(),
            namespace_asks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            told_vteps: BTreeMap::new(),
            told_addresses: BTreeMap::new(),
            untold: BTreeMap::new(),
            accounts: BTreeMap::new(),
            tiers: BTreeMap::new(),
            policies: BTreeMap::new(),
            network_sets: BTreeMap::new(),
            services: BTreeMap::new(),
            unaddressed: BTreeMap::new(),
            given: BTreeMap::new(),
            put_off: BTreeSet::new(),
            slices: BTreeMap::new(),
            lifeline: Lifeline::default(),
            profiles: BTreeMap::new(),
            host_endpoints: BTreeMap::new(),
            felix: BTreeMap::new(),
            bgp: Bgp::default(),
            pools: BTreeMap::new(),
            reservations: BTreeMap::new(),
            ipam_configs: BTreeMap::new(),
            blocks: Blocks::default(),
            published: BTreeMap::new(),
            attachments: BTreeMap::new(),
            attached: BTreeMap::new(),
            host: BTreeSet::new(),
            node_ports: NodePortAddresses::default(),
            proxy: Neighbour::None,
            interfaces: BTreeMap::new(),
            leaves_routes: false,
            pod_cidrs: PodCidrs::Off,
            leaves_far_nodes: false,
            networks: BTreeMap::new(),
        }
    }

    /// Takes in one change of the datastore. `false`: what is desired stays as it is.
    pub fn apply(&mut self, update: Update) -> bool {
        let mut changed = false;
        for update in self.admit(update) {
            changed |= self.take(update);
        }
        changed
    }

    /// Takes in what was admitted.
    pub(crate) fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Set(resource) => self.set(resource),
            Update::Gone(key) => self.remove(&key),
            Update::InSync => !std::mem::replace(&mut self.in_sync, true),
            Update::Anew { .. } => false,
        }
    }

    /// What puts back what this update is about to change.
    pub(crate) fn inverse(&self, update: &Update) -> Option<Update> {
        let key = match update {
            Update::Set(resource) => resource.key(),
            Update::Gone(key) => key.clone(),
            Update::InSync | Update::Anew { .. } => return None,
        };
        Some(self.resource(&key).map_or(Update::Gone(key), Update::Set))
    }

    /// An object as it was told last.
    #[must_use]
    pub fn resource(&self, key: &ResourceKey) -> Option<Resource> {
        match key {
            ResourceKey::Pod(id) => self.pods.get(id).cloned().map(Resource::Pod),
            ResourceKey::Namespace(name) => {
                let labels = self.namespaces.get(name)?.clone();
                let asks = self.namespace_asks.get(name).cloned();
                Some(Resource::Namespace(Namespace { name: name.clone(), labels, asks }))
            }
            ResourceKey::Node(name) => {
                self.untold.get(name).or_else(|| self.nodes.get(name)).cloned().map(Resource::Node)
            }
            ResourceKey::ServiceAccount(namespace, name) => {
                self.accounts.get(&(namespace.clone(), name.clone())).cloned().map(Resource::ServiceAccount)
            }
            ResourceKey::Tier(name) => self.tiers.get(name).cloned().map(Resource::Tier),
            ResourceKey::Policy(id) => self.policies.get(id).cloned().map(Resource::Policy),
            ResourceKey::NetworkSet(id) => self.network_sets.get(id).cloned().map(Resource::NetworkSet),
            ResourceKey::Profile(name) => self.profiles.get(name).cloned().map(Resource::Profile),
            ResourceKey::HostEndpoint(name) => self.host_endpoints.get(name).cloned().map(Resource::HostEndpoint),
            ResourceKey::FelixConfiguration(name) => self.felix.get(name).cloned().map(Resource::FelixConfiguration),
            ResourceKey::BgpConfiguration(_) | ResourceKey::BgpPeer(_) | ResourceKey::BgpFilter(_) => self.bgp.get(key),
            ResourceKey::IpPool(name) => self.pools.get(name).cloned().map(Resource::IpPool),
            ResourceKey::IpReservation(name) => self.reservations.get(name).cloned().map(Resource::IpReservation),
            ResourceKey::IpamConfig(name) => {
                self.ipam_configs.get(name).map(|config| Resource::IpamConfig(name.clone(), *config))
            }
            ResourceKey::BlockClaim(name) => self.blocks.named(name).cloned().map(Resource::BlockClaim),
            ResourceKey::WorkloadAddress(id) => self.published.get(id).cloned().map(Resource::WorkloadAddress),
            ResourceKey::NodeVteps(name) => self.told_vteps.get(name).cloned().map(Resource::NodeVteps),
            ResourceKey::NodeAddresses(name) => self.told_addresses.get(name).cloned().map(Resource::NodeAddresses),
            ResourceKey::Service(id) => {
                self.unaddressed.get(id).or_else(|| self.services.get(id)).cloned().map(Resource::Service)
            }
            ResourceKey::ServiceAddresses(id) => self.given.get(id).cloned().map(Resource::ServiceAddresses),
            ResourceKey::EndpointSlice(id) => self.slices.get(id).cloned().map(Resource::EndpointSlice),
        }
    }

    fn set(&mut self, resource: Resource) -> bool {
        match resource {
            Resource::Pod(pod) => {
                if pod.profiles.is_some() {
                    self.naming.insert(pod.id.clone());
                } else {
                    self.naming.remove(&pod.id);
                }
                put(&mut self.pods, pod.id.clone(), pod)
            }
            Resource::Namespace(Namespace { name, labels, asks }) => {
                // What it asks for its pods changes nothing of those that are attached.
                match asks {
                    Some(asks) => drop(self.namespace_asks.insert(name.clone(), asks)),
                    None => drop(self.namespace_asks.remove(&name)),
                }
                put(&mut self.namespaces, name, labels)
            }
            Resource::Node(node) => self.set_node(node),
            Resource::ServiceAccount(account) => {
                put(&mut self.accounts, (account.namespace.clone(), account.name.clone()), account)
            }
            Resource::Tier(tier) => put(&mut self.tiers, tier.name.clone(), tier),
            Resource::Policy(policy) => put(&mut self.policies, policy.id.clone(), policy),
            Resource::NetworkSet(set) => put(&mut self.network_sets, set.id.clone(), set),
            Resource::Service(service) => self.set_service(service),
            Resource::ServiceAddresses(given) => {
                let id = given.service.clone();
                let changed = put(&mut self.given, id.clone(), given);
                self.unaddressed.get(&id).cloned().is_some_and(|service| self.set_service(service)) || changed
            }
            Resource::EndpointSlice(slice) => put(&mut self.slices, slice.id.clone(), slice),
            Resource::Profile(profile) => put(&mut self.profiles, profile.name.clone(), profile),
            Resource::HostEndpoint(host) => put(&mut self.host_endpoints, host.name.clone(), host),
            Resource::FelixConfiguration(felix) => put(&mut self.felix, felix.name.clone(), felix),
            Resource::BgpConfiguration(_) | Resource::BgpPeer(_) | Resource::BgpFilter(_) => self.bgp.set(resource),
            Resource::IpPool(pool) => put(&mut self.pools, pool.name.clone(), pool),
            Resource::IpReservation(reserved) => put(&mut self.reservations, reserved.name.clone(), reserved),
            Resource::IpamConfig(name, config) => put(&mut self.ipam_configs, name, config),
            Resource::BlockClaim(claim) => self.blocks.put(claim),
            Resource::NodeVteps(told) => put(&mut self.told_vteps, told.node.clone(), told),
            Resource::NodeAddresses(own) => {
                let name = own.node.clone();
                put(&mut self.told_addresses, name.clone(), own) | self.tell_node(&name)
            }
            Resource::WorkloadAddress(address) => {
                // What this node tells the others is no news to itself, unless somebody else told it before.
                let before = self.published.insert(address.pod.clone(), address.clone());
                let matters = |told: &WorkloadAddress| told.node != self.node;
                before.as_ref() != Some(&address) && (matters(&address) || before.as_ref().is_some_and(matters))
            }
        }
    }

    /// What its agent tells of it counts before what it says itself.
    fn set_node(&mut self, node: Node) -> bool {
        let name = node.name.clone();
        self.unclaim_cidrs(&name);
        let told = self.told_addresses.get(&name).map(|own| own.told);
        let full = told.map_or_else(|| node.clone(), |told| node.clone().told(told));
        match told {
            Some(_) => drop(self.untold.insert(name.clone(), node)),
            None => drop(self.untold.remove(&name)),
        }
        let changed = put(&mut self.nodes, name.clone(), full);
        self.claim_cidrs(&name);
        changed
    }

    /// Its agent tells something else, or nothing any more.
    fn tell_node(&mut self, name: &NodeName) -> bool {
        let node = self.untold.get(name).or_else(|| self.nodes.get(name)).cloned();
        node.is_some_and(|node| self.set_node(node))
    }

    /// A load balancer of whose addresses its own status says nothing has those that it was given.
    fn set_service(&mut self, service: Arc<Service>) -> bool {
        let id = service.id.clone();
        if !service.awaits_addresses() {
            self.unaddressed.remove(&id);
            return put(&mut self.services, id, service);
        }
        let given = self.given.get(&id).map(|given| given.addresses.clone()).unwrap_or_default();
        let served = if given.is_empty() {
            Arc::clone(&service)
        } else {
            Service { load_balancer: given, ..(*service).clone() }.into()
        };
        let changed = put(&mut self.unaddressed, id.clone(), service);
        put(&mut self.services, id, served) || changed
    }

    fn remove(&mut self, key: &ResourceKey) -> bool {
        match key {
            ResourceKey::Pod(id) => {
                self.naming.remove(id);
                self.pods.remove(id).is_some()
            }
            ResourceKey::Namespace(name) => {
                self.namespace_asks.remove(name);
                self.namespaces.remove(name).is_some()
            }
            ResourceKey::Node(name) => {
                self.unclaim_cidrs(name);
                self.untold.remove(name);
                self.nodes.remove(name).is_some()
            }
            ResourceKey::ServiceAccount(namespace, name) => {
                self.accounts.remove(&(namespace.clone(), name.clone())).is_some()
            }
            ResourceKey::Tier(name) => self.tiers.remove(name).is_some(),
            ResourceKey::Policy(id) => self.policies.remove(id).is_some(),
            ResourceKey::NetworkSet(id) => self.network_sets.remove(id).is_some(),
            ResourceKey::Service(id) => {
                self.unaddressed.remove(id);
                self.services.remove(id).is_some()
            }
            ResourceKey::ServiceAddresses(id) => {
                let changed = self.given.remove(id).is_some();
                self.unaddressed.get(id).cloned().is_some_and(|service| self.set_service(service)) || changed
            }
            ResourceKey::EndpointSlice(id) => self.slices.remove(id).is_some(),
            ResourceKey::Profile(name) => self.profiles.remove(name).is_some(),
            ResourceKey::HostEndpoint(name) => self.host_endpoints.remove(name).is_some(),
            ResourceKey::FelixConfiguration(name) => self.felix.remove(name).is_some(),
            ResourceKey::BgpConfiguration(_) | ResourceKey::BgpPeer(_) | ResourceKey::BgpFilter(_) => {
                self.bgp.remove(key)
            }
            ResourceKey::IpPool(name) => self.pools.remove(name).is_some(),
            ResourceKey::IpReservation(name) => self.reservations.remove(name).is_some(),
            ResourceKey::IpamConfig(name) => self.ipam_configs.remove(name).is_some(),
            ResourceKey::BlockClaim(name) => self.blocks.remove(name),
            ResourceKey::NodeVteps(name) => self.told_vteps.remove(name).is_some(),
            ResourceKey::NodeAddresses(name) => self.told_addresses.remove(name).is_some() | self.tell_node(name),
            ResourceKey::WorkloadAddress(id) => self.published.remove(id).is_some_and(|told| told.node != self.node),
        }
    }

    /// The labels of a service account, if somebody described it.
    pub(crate) fn account(&self, namespace: &NamespaceName, name: &str) -> Option<&Labels> {
        let key = (namespace.clone(), name.to_owned());
        self.accounts.get(&key).map(|account| &account.labels)
    }

    /// Takes in, or replaces, an attachment of this node. It becomes an endpoint once it is `committed`.
    pub fn attach(&mut self, attachment: Attachment) {
        self.detach(&attachment.id);
        self.attached.entry(attachment.pod.clone()).or_default().insert(attachment.id.clone());
        self.attachments.insert(attachment.id.clone(), attachment);
    }

    /// Forgets an attachment.
    pub fn detach(&mut self, id: &AttachmentId) -> Option<Attachment> {
        let gone = self.attachments.remove(id)?;
        if let Some(left) = self.attached.get_mut(&gone.pod) {
            left.remove(id);
            if left.is_empty() {
                self.attached.remove(&gone.pod);
            }
        }
        Some(gone)
    }

    /// Whether an attachment of this pod has host ports.
    pub(crate) fn asks_for_host_ports(&self, id: &PodId) -> bool {
        let own = self.attached.get(id).into_iter().flatten().filter_map(|id| self.attachments.get(id));
        own.into_iter().any(|attachment| !attachment.host_ports.is_empty())
    }

    /// The addresses this host has now, loopback and link-local ones left out.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.host = addresses;
    }

    /// At which of this node's addresses node ports are served.
    pub fn set_node_ports(&mut self, at: NodePortAddresses) {
        self.node_ports = at;
    }

    /// Namespaces are what their profiles tell, as where Calico keeps its objects in etcd: of one that nobody described there is no
    /// profile, and a profile that is not there denies what comes to it.
    pub fn set_profiles_told(&mut self, told: bool) {
        self.profiles_are_told = told;
    }

    /// Somebody else makes the routes to other nodes, and to this one's blocks.
    pub fn leave_routes(&mut self, leaves: bool) {
        self.leaves_routes = leaves;
    }

    /// What another service proxy does in the host's stack.
    pub fn set_proxy(&mut self, proxy: Neighbour) {
        self.proxy = proxy;
    }

    /// A service is served, or put off for want of room: it stays known, to policies and to who gives addresses, and has no
    /// frontend. It stays so whatever is told of it. `true`: it was otherwise until now.
    pub fn set_served(&mut self, id: &ServiceId, served: bool) -> bool {
        if served { self.put_off.remove(id) } else { self.put_off.insert(id.clone()) }
    }

    /// Whether a service is not served for want of room.
    #[must_use]
    pub fn is_put_off(&self, id: &ServiceId) -> bool {
        self.put_off.contains(id)
    }

    /// The node's own interfaces with their addresses: neither loopback nor those of workloads.
    pub fn set_host_interfaces(&mut self, interfaces: BTreeMap<IfaceName, BTreeSet<IpAddr>>) {
        self.interfaces = interfaces;
    }

    /// The networks that those are in.
    pub fn set_host_networks(&mut self, networks: BTreeMap<IfaceName, BTreeSet<Cidr>>) {
        self.networks = networks;
    }

    /// `Some` once the datastore has said everything it has.
    #[must_use]
    pub fn in_sync(&self) -> Option<InSync<'_>> {
        self.in_sync.then_some(InSync(self))
    }
}

/// Whether it was not there, or otherwise.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}
