//! Masquerade: whose pods are this node outside of all pools.
//! In: [`World`]: pools, nodes' addresses, FelixConfiguration. Out: what is not outside, as a rule set; of an endpoint, which families.
//! Invariant: what lies in any pool, of whatever use, is not outside; nodes are, unless FelixConfiguration says otherwise.
//! Never: knows this node's own address, or a port that is taken.

use crate::{World, host::chosen};
use model::Cidr;
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

/// Whether who has these addresses is masqueraded: by IPv4, by IPv6.
pub(crate) fn of_addresses(world: &World, addresses: &[IpAddr]) -> [bool; 2] {
    let asks = |address: &IpAddr| {
        let pool = world.pools.values().filter(|pool| pool.cidr.contains(*address));
        pool.max_by_key(|pool| pool.cidr.prefix_len()).is_some_and(|pool| pool.nat_outgoing)
    };
    [true, false].map(|v4| addresses.iter().any(|address| address.is_ipv4() == v4 && asks(address)))
}
