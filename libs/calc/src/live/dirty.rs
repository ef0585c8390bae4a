//! What was told since Desired was last brought up to date, by what it can concern.
//! In: the key of an object that changed. Out: the pods, sets, nodes, slices, services and policies to look at again.
//! Invariant: a change marks everything that reads the object, and no more than its neighbourhood.
//! Never: keeps what the object was.

use crate::World;
use model::{
    Attachment, Cidr, EndpointSliceId, NamespaceName, NetworkSetId, NodeName, PodId, PolicyId, Profile, ResourceKey,
    ServiceId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    pub(super) pods: BTreeSet<PodId>,
    pub(super) sets: BTreeSet<NetworkSetId>,
    pub(super) nodes: BTreeSet<NodeName>,
    pub(super) slices: BTreeSet<EndpointSliceId>,
    pub(super) services: BTreeSet<ServiceId>,
    pub(super) policies: BTreeSet<PolicyId>,
    /// Tiers or profiles: every local endpoint's rule sets.
    pub(super) every_rule_set: bool,
    pub(super) hosts: BTreeSet<String>,
    /// What every host endpoint of this node reads.
    pub(super) every_host: bool,
    /// This node's own interfaces.
    pub(super) interfaces: bool,
    /// Blocks of which somebody else may be the holder.
    pub(super) blocks: BTreeSet<Cidr>,
    /// Which addresses are of a pool, and whether it has packets wrapped.
    pub(super) pools: bool,
    /// This node's networks and addresses: by which neighbour another is reached.
    pub(super) networks: bool,
    /// Where node ports are served, or who translates.
    pub(super) place: bool,
    /// Addresses that became or ceased to be the host's.
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Dirty {
    /// Marks what reads this object. `world` may know the object before or after the change.
    pub(super) fn mark(&mut self, world: &World, key: &ResourceKey) {
        match key {
            ResourceKey::Pod(id) | ResourceKey::WorkloadAddress(id) => {
                self.pods.insert(id.clone());
            }
            ResourceKey::Namespace(name) => {
                self.every_host |= is_profile_of_a_host(world, &Profile::of_namespace(name));
                self.pods.extend(pods_of(world, name).chain(naming(world, &Profile::of_namespace(name))).cloned());
                let first = NetworkSetId { namespace: Some(name.clone()), name: "".into() };
                let sets = world.network_sets.range(first..).map(|(id, _)| id);
                self.sets.extend(sets.take_while(|id| id.namespace.as_ref() == Some(name)).cloned());
            }
            ResourceKey::ServiceAccount(namespace, account) => {
                let runs_as = |id: &&PodId| {
                    let pod = world.pods.get(*id);
                    pod.is_some_and(|pod| pod.service_account.as_deref() == Some(account))
                };
                self.pods.extend(pods_of(world, namespace).filter(runs_as).cloned());
                let profile = Profile::of_account(namespace, account);
                self.pods.extend(naming(world, &profile).cloned());
                self.every_host |= is_profile_of_a_host(world, &profile);
            }
            ResourceKey::Node(name) => {
                self.nodes.insert(name.clone());
                // Its labels may be selected by another FelixConfiguration now.
                self.every_host |= *name == world.node && world.felix.values().any(|felix| felix.selector.is_some());
            }
            ResourceKey::NodeVteps(name) | ResourceKey::NodeAddresses(name) => {
                self.nodes.insert(name.clone());
            }
            ResourceKey::Policy(id) => {
                self.policies.insert(id.clone());
            }
            ResourceKey::NetworkSet(id) => {
                self.sets.insert(id.clone());
            }
            ResourceKey::Service(id) | ResourceKey::ServiceAddresses(id) => {
                self.services.insert(id.clone());
            }
            ResourceKey::EndpointSlice(id) => {
                self.slices.insert(id.clone());
            }
            ResourceKey::Tier(_) => self.every_rule_set = true,
            ResourceKey::Profile(name) => {
                self.every_rule_set = true;
                // Its labels are those of the pods whose profile it is.
                self.pods.extend(naming(world, name).cloned());
                if let Some(namespace) = Profile::namespace_of(name) {
                    self.pods.extend(pods_of(world, &namespace).cloned());
                }
            }
            ResourceKey::HostEndpoint(name) => {
                self.hosts.insert(name.clone());
            }
            ResourceKey::FelixConfiguration(_) => self.every_host = true,
            ResourceKey::IpPool(_) => self.pools = true,
            ResourceKey::BlockClaim(name) => self.blocks.extend(world.blocks.named(name).map(|claim| claim.cidr)),
            ResourceKey::IpReservation(_)
            | ResourceKey::IpamConfig(_)
            | ResourceKey::BgpConfiguration(_)
            | ResourceKey::BgpPeer(_)
            | ResourceKey::BgpFilter(_) => {}
        }
    }
}

/// A namespace or account makes a profile by being there, and host endpoints may name it.
fn is_profile_of_a_host(world: &World, profile: &String) -> bool {
    let own = world.host_endpoints.values().filter(|host| host.node == world.node);
    own.flat_map(|host| &host.profiles).any(|named| named == profile)
}

/// Pods that name this profile.
fn naming<'a>(world: &'a World, profile: &str) -> impl Iterator<Item = &'a PodId> + use<'a> {
    let names = |id: &&PodId| world.pods.get(*id).and_then(|pod| pod.profiles.as_ref());
    let names = |id: &&PodId| names(id).is_some_and(|named| named.iter().any(|name| **name == *profile));
    world.naming.iter().filter(names).collect::<Vec<_>>().into_iter()
}

/// Pods of a namespace that anybody spoke of.
fn pods_of<'a>(world: &'a World, namespace: &'a NamespaceName) -> impl Iterator<Item = &'a PodId> {
    let first = PodId { namespace: namespace.clone(), name: "".into() };
    let attached = world.attachments.values().map(|Attachment { pod, .. }| pod);
    within(&world.pods, &first, namespace)
        .chain(within(&world.published, &first, namespace))
        .chain(attached.filter(move |pod| pod.namespace == *namespace))
}

fn within<'a, V>(
    pods: &'a BTreeMap<PodId, V>,
    first: &PodId,
    namespace: &'a NamespaceName,
) -> impl Iterator<Item = &'a PodId> + use<'a, V> {
    pods.range(first.clone()..).map(|(id, _)| id).take_while(move |id| id.namespace == *namespace)
}
