//! What people and the reference evaluator ask of the World.
//! In: [`World`]. Out: counts, objects in order, a pod's addresses, the evaluator's view.
//! Invariant: answers from the same workloads that [`crate::desired`] works on.
//! Never: changes anything; waits for the first full list.

use crate::{
    World,
    desired::{IPIP, VXLAN_V4, VXLAN_V6, left},
    host, ipip,
    pod_cidrs::is_of_node,
    tunnel,
    workload::workloads,
};
use model::{
    Attachment, AttachmentId, Cidr, EndpointSlice, IfaceName, IpPool, IpamConfig, Labels, NamespaceName, NetworkSet,
    Node, NodeName, Pod, PodAsks, PodId, Policy, PolicyId, Service, ServiceAccount, ServiceAddresses, ServiceId,
    ToldAddresses, Vteps, WorkloadAddress, Wrapper,
};
use policy::{Endpoint, View};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The datastore has said everything it has.
    pub in_sync: bool,
    /// Pods with a manifest.
    pub pods: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Nodes.
    pub nodes: usize,
    /// Service accounts.
    pub service_accounts: usize,
    /// Policies.
    pub policies: usize,
    /// Services.
    pub services: usize,
    /// IP pools.
    pub pools: usize,
    /// Attachments of this node, committed or not.
    pub attachments: usize,
}

impl World {
    /// How much is known.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            in_sync: self.in_sync().is_some(),
            pods: self.pods.len(),
            namespaces: self.namespaces.len(),
            nodes: self.nodes.len(),
            service_accounts: self.accounts.len(),
            policies: self.policies.len(),
            services: self.services.len(),
            pools: self.pools().count(),
            attachments: self.attachments.len(),
        }
    }

    /// The node it is seen from.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Pods with a manifest, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(Arc::as_ref)
    }

    /// A pod's manifest.
    #[must_use]
    pub fn pod(&self, id: &PodId) -> Option<&Pod> {
        self.pods.get(id).map(Arc::as_ref)
    }

    /// What agents tell of pods they attached, by name.
    pub fn published(&self) -> impl Iterator<Item = &WorkloadAddress> {
        self.published.values()
    }

    /// Namespaces and their labels, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&NamespaceName, &Labels)> {
        self.namespaces.iter()
    }

    /// Nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node it is seen from, as the datastore has it.
    #[must_use]
    pub fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node)
    }

    /// The networks that an interface of this node's own is in.
    #[must_use]
    pub fn host_networks(&self, interface: &IfaceName) -> Option<&BTreeSet<Cidr>> {
        self.networks.get(interface)
    }

    /// The networks of all of them.
    #[must_use]
    pub fn networks(&self) -> &BTreeMap<IfaceName, BTreeSet<Cidr>> {
        &self.networks
    }

    /// By which addresses this node is reached, as its agent tells it where the node does not say it itself.
    #[must_use]
    pub fn told_addresses(&self) -> ToldAddresses {
        self.told_addresses.get(&self.node).map(|own| own.told).unwrap_or_default()
    }

    /// Where this node's tunnels end, as everybody is told.
    #[must_use]
    pub fn vteps(&self) -> Vteps {
        tunnel::vteps(self, &self.node)
    }

    /// The largest packet that each of its tunnels lets pass over an uplink that lets this large ones pass: the least of them.
    #[must_use]
    pub fn tunnelled_mtu(&self, uplink: u32) -> u32 {
        let [by_vxlan, by_ipip] = [Wrapper::Vxlan, Wrapper::Ipip].map(|wrapper| tunnel::is_on(self, wrapper));
        let wraps = |pool: &IpPool| (by_vxlan && pool.uses_vxlan(), by_ipip && pool.uses_ipip(), pool.cidr.is_v4());
        let passes = |pool: &IpPool| match wraps(pool) {
            (true, _, true) => left(uplink, VXLAN_V4, tunnel::mtu(self, true)),
            (true, _, false) => left(uplink, VXLAN_V6, tunnel::mtu(self, false)),
            (false, true, _) => left(uplink, IPIP, ipip::mtu(self)),
            (false, false, _) => uplink,
        };
        self.pools.values().filter(|_| !self.leaves_routes).map(passes).min().unwrap_or(uplink)
    }

    /// Whether somebody else makes the routes to other nodes.
    #[must_use]
    pub fn leaves_routes(&self) -> bool {
        self.leaves_routes
    }

    /// Service accounts, by namespace and name.
    pub fn service_accounts(&self) -> impl Iterator<Item = &ServiceAccount> {
        self.accounts.values()
    }

    /// Policies, by identity; their order of evaluation is [`Policy::order`], then identity.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().map(Arc::as_ref)
    }

    /// Whether staged policies are there that rule sets say nothing of, for want of room.
    #[must_use]
    pub fn sets_staged_aside(&self) -> bool {
        !self.tries_staged && self.has_staged()
    }

    /// Whether there are staged policies.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.policies.keys().any(|id| id.kind.is_staged())
    }

    /// One policy.
    #[must_use]
    pub fn policy(&self, id: &PolicyId) -> Option<&Policy> {
        self.policies.get(id).map(Arc::as_ref)
    }

    /// IP pools, by name, as they are told.
    pub fn pools(&self) -> impl Iterator<Item = &IpPool> {
        self.pools.values().filter(|pool| !is_of_node(pool))
    }

    /// How nodes take blocks.
    #[must_use]
    pub fn ipam_config(&self) -> IpamConfig {
        self.ipam_configs.get(IpamConfig::NAME).copied().unwrap_or_default()
    }

    /// What is given to nobody who does not name it.
    #[must_use]
    pub fn reserved(&self) -> Vec<Cidr> {
        self.reservations.values().flat_map(|reservation| reservation.cidrs.iter().copied()).collect()
    }

    /// What a pod asks of its addresses: as it says itself, else its namespace.
    #[must_use]
    pub fn asks_of(&self, pod: &PodId) -> PodAsks {
        let own = self.pods.get(pod).and_then(|pod| pod.asks.as_deref()).cloned().unwrap_or_default();
        self.with_namespace(own, &pod.namespace)
    }

    /// The same with what the pod says itself.
    #[must_use]
    pub fn with_namespace(&self, own: PodAsks, namespace: &NamespaceName) -> PodAsks {
        own.or(self.namespace_asks.get(namespace).map(Box::as_ref))
    }

    /// The labels of a namespace, if it is known.
    #[must_use]
    pub fn namespace(&self, name: &NamespaceName) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.services.get(id).map(Arc::as_ref)
    }

    /// Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(Arc::as_ref)
    }

    /// Load balancers to which addresses are given here, as they are written: those whose status says none.
    pub fn unaddressed(&self) -> impl Iterator<Item = &Service> {
        self.unaddressed.values().map(Arc::as_ref)
    }

    /// One of them.
    #[must_use]
    pub fn unaddressed_service(&self, id: &ServiceId) -> Option<&Service> {
        self.unaddressed.get(id).map(Arc::as_ref)
    }

    /// What was given to a load balancer.
    #[must_use]
    pub fn given_to(&self, id: &ServiceId) -> Option<&ServiceAddresses> {
        self.given.get(id)
    }

    /// What load balancers asked for and cannot have.
    pub fn balancer_remarks(&self) -> impl Iterator<Item = (&ServiceId, &String)> {
        self.given.values().flat_map(|given| given.remarks.iter().map(|remark| (&given.service, remark)))
    }

    /// Attachments of this node, committed or not.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// One attachment.
    #[must_use]
    pub fn attachment(&self, id: &AttachmentId) -> Option<&Attachment> {
        self.attachments.get(id)
    }

    /// The host's own interfaces with their addresses, as last observed.
    #[must_use]
    pub fn host_interfaces(&self) -> &BTreeMap<IfaceName, BTreeSet<IpAddr>> {
        &self.interfaces
    }

    /// The host's addresses as last observed.
    #[must_use]
    pub fn host_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.host
    }

    /// The addresses of a pod anywhere, as traffic to and from it carries them. `None`: no such pod is known, or it is
    /// finished. A host-network pod has its manifest's addresses.
    #[must_use]
    pub fn addresses_of(&self, id: &PodId) -> Option<Vec<IpAddr>> {
        let workloads = workloads(self);
        let workload = workloads.iter().find(|workload| workload.id == id);
        let addresses = workload.map(|workload| workload.addresses.keys().copied().collect());
        addresses.or_else(|| self.addresses_of_the_host(id))
    }

    /// Those of a pod that shares them with its node.
    pub(crate) fn addresses_of_the_host(&self, id: &PodId) -> Option<Vec<IpAddr>> {
        let pod = self.pods.get(id).filter(|pod| pod.host_network && !pod.finished)?;
        Some(pod.addresses.to_vec())
    }

    /// The pod that has this address, if one has.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<PodId> {
        let workloads = workloads(self);
        workloads.iter().find(|workload| workload.addresses.contains_key(&address)).map(|workload| workload.id.clone())
    }

    /// Which pod has which address.
    #[must_use]
    pub fn pods_by_address(&self) -> BTreeMap<IpAddr, PodId> {
        let workloads = workloads(self);
        let named = workloads.iter().flat_map(|each| each.addresses.keys().map(|address| (*address, each.id.clone())));
        named.collect()
    }

    /// Whether allowed flows outlive a new deny.
    #[must_use]
    pub fn keeps_established(&self) -> bool {
        self.keep_established
    }

    /// Every pod that is subject or peer, with the addresses that it has.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |workload: &crate::workload::Workload<'_>| Endpoint {
            id: workload.id.clone(),
            labels: workload.labels.clone(),
            service_account: workload.account.map(str::to_owned),
            addresses: workload.addresses.keys().copied().collect(),
            ports: workload.ports.map(<[_]>::to_vec),
            profiles: workload.named.map(|named| named.iter().map(|name| (**name).to_owned()).collect()),
        };
        workloads(self).iter().map(endpoint).collect()
    }

    /// What the reference evaluator sees.
    #[must_use]
    pub fn view(&self) -> View {
        let account =
            |(key, account): (&(NamespaceName, String), &ServiceAccount)| (key.clone(), account.labels.clone());
        View {
            namespaces: self.namespaces.clone(),
            accounts: self.accounts.iter().map(account).collect(),
            nodes: self.nodes.values().cloned().collect(),
            endpoints: self.endpoints(),
            network_sets: self.network_sets.values().map(|set| NetworkSet::clone(set)).collect(),
            host_endpoints: self.host_endpoints.values().cloned().collect(),
            failsafes: host::failsafes(self),
            slices: self.slices.values().map(|slice| EndpointSlice::clone(slice)).collect(),
            tiers: self.tiers.values().cloned().collect(),
            policies: self.policies.values().map(|policy| Policy::clone(policy)).collect(),
            profiles: self.profiles.values().cloned().collect(),
            host: self.host.iter().copied().map(Cidr::host).collect(),
        }
    }
}
