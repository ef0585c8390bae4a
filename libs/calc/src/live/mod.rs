//! Desired, kept as the World changes: what a change costs follows the change, not the cluster.
//! In: the same updates, attachments and observations as [`World`]. Out: the present [`Desired`], and what of it is new.
//! Invariant: equal to [`crate::desired`] of the same World, whatever the history; tests hold the two together.
//! Never: does I/O; says what is desired before every watched kind has delivered its first full list.

mod backends;
mod claims;
mod counted;
mod dirty;
mod floats;
mod hosts;
mod judges;
mod latest;
mod lent;
mod node_routes;
mod numbers;
mod peers;
mod refresh;
mod services;
mod whereabouts;

use crate::{Desired, Neighbour, NodePortAddresses, PodCidrs, World};
use backends::Backends;
use claims::Claims;
use dirty::Dirty;
use floats::Floats;
use hosts::Hosts;
use judges::Judges;
use latest::Followed;
pub use latest::{Latest, Touched};
use model::{
    Attachment, AttachmentId, Cidr, IfaceName, NodeName, PodId, Policy, PolicyId, PortName, ResourceKey, ServiceId,
    Update,
};
use node_routes::NodeRoutes;
use peers::Peers;
use policy::{Active, Class, Shared};
use service::{HealthCheck, Remark};
use services::Services;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Deref,
};

/// The World, and what follows from it.
#[derive(Clone, Debug)]
pub struct Live {
    world: World,
    dirty: Dirty,
    claims: Claims,
    peers: Peers,
    backends: Backends,
    services: Services,
    floats: Floats,
    judges: Judges,
    hosts: Hosts,
    routes: NodeRoutes,
    /// Networks that rules name, and what network sets, nodes and services say of networks.
    active: Active,
    /// Pods by the names of their ports.
    named: BTreeMap<PortName, BTreeSet<PodId>>,
    ports: BTreeMap<PodId, BTreeSet<PortName>>,
    /// Pods whose ports nobody has described.
    portless: BTreeSet<PodId>,
    classes: Shared<Class>,
    /// Of policies that have any.
    remarks: BTreeMap<PolicyId, Vec<String>>,
    /// Endpoints of each local pod.
    endpoints: BTreeMap<PodId, Vec<AttachmentId>>,
    desired: Followed,
}

impl Live {
    /// An empty world, seen from `node`. `keep_established`: allowed flows outlive a new deny.
    #[must_use]
    pub fn new(node: NodeName, keep_established: bool) -> Self {
        Self {
            world: World::new(node, keep_established),
            dirty: Dirty::default(),
            claims: Claims::default(),
            peers: Peers::default(),
            backends: Backends::default(),
            services: Services::default(),
            floats: Floats::default(),
            judges: Judges::default(),
            hosts: Hosts::default(),
            routes: NodeRoutes::default(),
            active: Active::default(),
            named: BTreeMap::new(),
            ports: BTreeMap::new(),
            portless: BTreeSet::new(),
            classes: Shared::default(),
            remarks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            desired: Followed::default(),
        }
    }

    /// Takes in one change of the datastore. `false`: what is desired stays as it is.
    pub fn apply(&mut self, update: Update) -> bool {
        let mut changed = false;
        for update in self.world.admit(update) {
            changed |= self.take(update);
        }
        changed
    }

    fn take(&mut self, update: Update) -> bool {
        let key = match &update {
            Update::Set(resource) => Some(resource.key()),
            Update::Gone(key) => Some(key.clone()),
            Update::InSync | Update::Anew { .. } => None,
        };
        if let Some(key @ ResourceKey::BlockClaim(_)) = &key {
            // The block that it was on.
            self.dirty.mark(&self.world, key);
        }
        let before = self.routed_cidrs(key.as_ref());
        let changed = self.world.take(update);
        let after = self.routed_cidrs(key.as_ref());
        if before != after {
            self.dirty.blocks.extend(before.into_iter().chain(after));
            self.dirty.pools = true;
        }
        if let Some(key) = key.filter(|_| changed) {
            self.dirty.mark(&self.world, &key);
            self.remark(&key);
        }
        changed
    }

    /// A node's own networks, where this is a node's key.
    fn routed_cidrs(&self, key: Option<&ResourceKey>) -> Vec<Cidr> {
        match key {
            Some(ResourceKey::Node(name)) => self.world.routed_cidrs(name),
            _ => Vec::new(),
        }
    }

    /// Staged policies are tried, or set aside where they need more room than there is. `true`: it was otherwise until now.
    pub fn try_staged(&mut self, tried: bool) -> bool {
        let changed = self.world.tries_staged != tried;
        self.world.tries_staged = tried;
        self.dirty.every_rule_set |= changed;
        changed
    }

    /// What the writers of policies should know.
    pub fn remarks(&self) -> impl Iterator<Item = &String> {
        self.remarks.values().flatten()
    }

    fn remark(&mut self, key: &ResourceKey) {
        let Self { world, remarks, .. } = self;
        let of = |policy: &Policy| (policy.id.clone(), world.remarks_on(policy));
        match key {
            ResourceKey::Policy(id) => {
                remarks.remove(id);
                remarks.extend(world.policy(id).map(of).filter(|(_, any)| !any.is_empty()));
            }
            ResourceKey::Tier(_) => {
                *remarks = world.policies().map(of).filter(|(_, any)| !any.is_empty()).collect();
            }
            _ => {}
        }
    }

    /// Takes in, or replaces, an attachment of this node. It becomes an endpoint once it is `committed`.
    pub fn attach(&mut self, attachment: Attachment) {
        self.dirty.mark(&self.world, &ResourceKey::Pod(attachment.pod.clone()));
        if let Some(before) = self.world.attachment(&attachment.id) {
            let key = ResourceKey::Pod(before.pod.clone());
            self.dirty.mark(&self.world, &key);
        }
        self.world.attach(attachment);
    }

    /// Forgets an attachment.
    pub fn detach(&mut self, id: &AttachmentId) -> Option<Attachment> {
        let gone = self.world.detach(id)?;
        self.dirty.mark(&self.world, &ResourceKey::Pod(gone.pod.clone()));
        Some(gone)
    }

    /// The addresses this host has now, loopback and link-local ones left out.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.dirty.addresses.extend(self.world.host_addresses().symmetric_difference(&addresses));
        self.dirty.networks |= !self.dirty.addresses.is_empty();
        self.world.set_host_addresses(addresses);
    }

    /// At which of this node's addresses node ports are served.
    pub fn set_node_ports(&mut self, at: NodePortAddresses) {
        self.dirty.place |= self.world.node_ports != at;
        self.world.set_node_ports(at);
    }

    /// See [`World::set_profiles_told`]; before anything is told.
    pub fn set_profiles_told(&mut self, told: bool) {
        self.world.set_profiles_told(told);
    }

    /// See [`World::leave_routes`]; before anything is told.
    pub fn leave_routes(&mut self, leaves: bool) {
        self.world.leave_routes(leaves);
    }

    /// See [`World::use_pod_cidrs`]; before anything is told.
    pub fn use_pod_cidrs(&mut self, how: PodCidrs) {
        self.world.use_pod_cidrs(how);
    }

    /// As [`World::leave_far_nodes`]; before anything is resolved.
    pub fn leave_far_nodes(&mut self, leaves: bool) {
        self.world.leave_far_nodes(leaves);
    }

    /// A service is served, or put off: see [`World::set_served`].
    pub fn set_served(&mut self, id: &ServiceId, served: bool) -> bool {
        let changed = self.world.set_served(id, served);
        if changed {
            self.dirty.services.insert(id.clone());
        }
        changed
    }

    /// What load balancers are told, as of the last [`Self::desired`].
    #[must_use]
    pub fn health_checks(&self) -> &BTreeMap<ServiceId, HealthCheck> {
        self.services.health_checks()
    }

    /// What another service proxy does in the host's stack.
    pub fn set_proxy(&mut self, proxy: Neighbour) {
        let changed = self.world.proxy != proxy;
        self.dirty.place |= changed;
        self.dirty.every_host |= changed;
        self.world.set_proxy(proxy);
    }

    /// What the writers of services should know, as of the last [`Self::desired`].
    #[must_use]
    pub fn service_remarks(&self) -> BTreeMap<&ServiceId, Vec<Remark>> {
        let mut remarks = self.services.remarks(&self.desired);
        if let Some((id, said)) = self.world.lifeline_remark() {
            remarks.entry(id).or_default().push(said);
        }
        remarks
    }

    /// Which floating addresses do not float, as of the last [`Self::desired`].
    #[must_use]
    pub fn floating_remarks(&self) -> &[String] {
        self.floats.remarks()
    }

    /// To which nodes there is no way, as of the last [`Self::desired`].
    #[must_use]
    pub fn route_remarks(&self) -> Vec<String> {
        node_routes::remarks(&self.desired.routes)
    }

    /// The node's own interfaces with their addresses: neither loopback nor those of workloads.
    pub fn set_host_interfaces(&mut self, interfaces: BTreeMap<IfaceName, BTreeSet<IpAddr>>) {
        self.dirty.interfaces |= self.world.interfaces != interfaces;
        self.world.set_host_interfaces(interfaces);
    }

    /// The networks that those are in.
    pub fn set_host_networks(&mut self, networks: BTreeMap<IfaceName, BTreeSet<Cidr>>) {
        self.dirty.networks |= self.world.networks != networks;
        self.world.set_host_networks(networks);
    }

    /// Asks what is desired now, and what would be if the datastore said this; afterwards all is as before. `None` until the
    /// datastore has said everything it has. What it costs follows the change.
    pub fn supposing<R>(&mut self, updates: Vec<Update>, ask: impl FnOnce(&Desired, &Desired) -> R) -> Option<R> {
        let before = self.desired()?.clone();
        let mut undo = Vec::new();
        for update in updates {
            undo.extend(self.world.inverse(&update));
            self.apply(update);
        }
        let answer = self.desired().map(|after| ask(&before, after));
        for update in undo.into_iter().rev() {
            self.apply(update);
        }
        self.refresh();
        answer
    }

    /// What this node's kernel should hold. `None` until the datastore has said everything it has.
    pub fn desired(&mut self) -> Option<&Desired> {
        self.world.in_sync()?;
        self.refresh();
        Some(&self.desired)
    }

    /// The same, with what changed since it was last asked for in this way.
    pub fn latest(&mut self) -> Option<Latest<'_>> {
        self.desired()?;
        Some(self.desired.latest())
    }
}

/// Questions go to the World.
impl Deref for Live {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

#[cfg(test)]
pub(crate) mod tests;
