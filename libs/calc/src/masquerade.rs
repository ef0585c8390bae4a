//! Masquerade: whose pods are this node outside of all pools.
//! In: [`World`]: pools, nodes' addresses, FelixConfiguration. Out: what is not outside, as a rule set; of an endpoint, which families.
//! Invariant: what lies in any pool, of whatever use, is not outside; nodes are, unless FelixConfiguration says otherwise.
//! Never: knows this node's own address, or a port that is taken.

use crate::{World, host::chosen};
use model::{Cidr, IpPool};
use policy::RuleSet;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// What this node is for its pods outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerading {
    /// Allows what is not outside.
    pub inside: Arc<RuleSet>,
    /// The IPv4 address by which it stands for them; `None`: its own.
    pub address: Option<Ipv4Addr>,
    /// The first and the last port; `None`: this project's.
    pub ports: Option<(u16, u16)>,
}

/// What is not outside, if any pool's pods are this node there.
pub(crate) fn inside(world: &World) -> Option<RuleSet> {
    if !world.pools.values().any(|pool| pool.nat_outgoing) {
        return None;
    }
    let pools = world.pools.values().map(|pool| pool.cidr);
    let nodes = world.nodes.values().filter(|_| excludes_nodes(world)).flat_map(|node| &node.addresses);
    Some(RuleSet::of_networks(&pools.chain(nodes.map(|address| Cidr::host(*address))).collect::<Vec<_>>()))
}

/// Whether nodes' addresses are not outside.
pub(crate) fn excludes_nodes(world: &World) -> bool {
    chosen(world, |felix| felix.nat_excludes_nodes).unwrap_or(false)
}

pub(crate) fn of_node(world: &World, inside: Option<Arc<RuleSet>>) -> Option<Masquerading> {
    let address = chosen(world, |felix| felix.nat_address);
    let ports = chosen(world, |felix| felix.nat_ports);
    Some(Masquerading { inside: inside?, address, ports })
}

/// The pool that an address is of: the smallest that holds it.
fn pool_of(world: &World, address: IpAddr) -> Option<&IpPool> {
    let pools = world.pools.values().filter(|pool| pool.cidr.contains(address));
    pools.max_by_key(|pool| pool.cidr.prefix_len())
}

impl World {
    /// The pool by which what a pod of this node sends from one address to another leaves as this node's; `None`: it keeps its source,
    /// if it leaves at all.
    #[must_use]
    pub fn masquerades(&self, source: IpAddr, destination: IpAddr) -> Option<&str> {
        let has = |node: &model::Node| node.addresses.contains(&destination);
        let is_own = self.host_addresses().contains(&destination);
        let is_excluded = is_own || (excludes_nodes(self) && self.nodes.values().any(has));
        let is_inside = pool_of(self, destination).is_some() || is_excluded;
        let pool = pool_of(self, source).filter(|pool| pool.nat_outgoing && !is_inside)?;
        Some(&pool.name)
    }
}

/// Whether who has these addresses is masqueraded: by IPv4, by IPv6.
pub(crate) fn of_addresses(world: &World, addresses: &[IpAddr]) -> [bool; 2] {
    let asks = |address: &IpAddr| pool_of(world, *address).is_some_and(|pool| pool.nat_outgoing);
    [true, false].map(|v4| addresses.iter().any(|address| address.is_ipv4() == v4 && asks(address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{FelixConfiguration, Labels, Node, Resource, Update};

    fn world(pools: &[(&str, &str, bool)], excludes_nodes: bool) -> World {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses([IpAddr::from([192, 0, 2, 1])].into());
        for (name, cidr, nat_outgoing) in pools {
            let pool = IpPool::of_pods(name, cidr.parse().expect("a network"), 26);
            world.apply(Update::Set(Resource::IpPool(IpPool { nat_outgoing: *nat_outgoing, ..pool })));
        }
        world.apply(Update::Set(Resource::Node(Node {
            name: "n2".into(),
            addresses: vec![[192, 0, 2, 2].into()],
            labels: Labels::default(),
            pod_cidrs: Vec::new(),
            vteps: Default::default(),
            told: Default::default(),
            bgp: Default::default(),
        })));
        let felix = FelixConfiguration {
            nat_excludes_nodes: Some(excludes_nodes),
            name: FelixConfiguration::DEFAULT.into(),
            ..FelixConfiguration::default()
        };
        world.apply(Update::Set(Resource::FelixConfiguration(felix)));
        world
    }

    #[test]
    fn ipam_26_a_pod_of_a_pool_that_asks_is_its_node_outside_of_every_pool_and_nodes_are_outside_unless_excluded() {
        let pools = [("asks", "10.65.0.0/16", true), ("not", "10.65.9.0/24", false), ("other", "10.66.0.0/16", false)];
        for excluded in [false, true] {
            let world = world(&pools, excluded);
            let says = |from: [u8; 4], to: [u8; 4]| world.masquerades(from.into(), to.into());
            assert_eq!(says([10, 65, 1, 1], [203, 0, 113, 1]), Some("asks"));
            assert_eq!(says([10, 65, 9, 1], [203, 0, 113, 1]), None, "the smallest pool of its address counts");
            assert_eq!(says([10, 66, 0, 1], [203, 0, 113, 1]), None);
            for inside in [[10, 65, 1, 2], [10, 65, 9, 2], [10, 66, 0, 2], [192, 0, 2, 1]] {
                assert_eq!(says([10, 65, 1, 1], inside), None, "{inside:?}: a pool's, or this node's own");
            }
            assert_eq!(says([10, 65, 1, 1], [192, 0, 2, 2]), (!excluded).then_some("asks"), "{excluded}");
        }
    }
}
