//! Surroundings: what selectors find that is no pod.
//! In: [`World`]. Out: its network sets, host endpoints, nodes and endpoints of services, with the labels they are seen by.
//! Invariant: nothing is copied; a set sees the labels of its namespace (CAL-33).
//! Never: decides what any of it is asked for.

use crate::{World, host};
use model::{EffectiveLabels, HostEndpoint, NetworkSet, Node};
use policy::{HostFacts, NodeFacts, SetFacts, Surroundings};
use std::sync::Arc;

/// Network sets, host endpoints, nodes and endpoints of services.
pub(crate) fn surroundings(world: &World) -> Surroundings<'_> {
    let sets = world.network_sets.values().map(|set| set_facts(world, set));
    Surroundings {
        sets: sets.collect(),
        hosts: world.host_endpoints.values().map(host_facts).collect(),
        nodes: world.nodes.values().map(node_facts).collect(),
        slices: world.slices.values().map(Arc::as_ref).collect(),
    }
}

pub(crate) fn host_facts(host: &HostEndpoint) -> HostFacts<'_> {
    HostFacts { labels: host::labels(host), addresses: &host.expected_ips, ports: &host.ports }
}

pub(crate) fn node_facts(node: &Node) -> NodeFacts<'_> {
    NodeFacts { labels: &node.labels, addresses: &node.addresses }
}

pub(crate) fn set_facts<'a>(world: &'a World, set: &'a NetworkSet) -> SetFacts<'a> {
    SetFacts { labels: set_labels(world, set), nets: &set.nets }
}

/// What selectors see of a network set.
pub(crate) fn set_labels<'a>(world: &'a World, set: &'a NetworkSet) -> EffectiveLabels<'a> {
    match &set.id.namespace {
        Some(namespace) => EffectiveLabels::network_set(&set.labels, namespace, world.namespaces.get(namespace)),
        None => EffectiveLabels::global_network_set(&set.labels),
    }
}
