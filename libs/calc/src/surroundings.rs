//! Surroundings: what selectors find that is no pod.
//! In: [`World`]. Out: its network sets and nodes, with the labels they are seen by.
//! Invariant: nothing is copied; a set sees the labels of its namespace (CAL-33).
//! Never: decides what any of it is asked for.

use crate::World;
use model::{EffectiveLabels, NetworkSet};
use policy::{NodeFacts, SetFacts, Surroundings};

/// Network sets and nodes.
pub(crate) fn surroundings(world: &World) -> Surroundings<'_> {
    let sets = world.network_sets.values().map(|set| set_facts(world, set));
    let nodes = world.nodes.values().map(|node| NodeFacts { labels: &node.labels, addresses: &node.addresses });
    Surroundings { sets: sets.collect(), nodes: nodes.collect() }
}

fn set_facts<'a>(world: &'a World, set: &'a NetworkSet) -> SetFacts<'a> {
    let labels = match &set.id.namespace {
        Some(namespace) => EffectiveLabels::network_set(&set.labels, namespace, world.namespaces.get(namespace)),
        None => EffectiveLabels::global_network_set(&set.labels),
    };
    SetFacts { labels, nets: &set.nets }
}
