//! Addresses of nodes' tunnels, counted as Calico counts them (libcalico-go/lib/ipam, node/pkg/allocateip).
//! In: a node and a family. Out: the handle of its tunnel's address, and what stands beside it.
//! Invariant: a tunnel has one address a family, which no pod's handle counts.
//! Never: decides; a wish with such a handle is one like any other.

use crate::{Ledger, Request};
use model::{Family, IpPool, NodeName};
use std::{collections::BTreeMap, net::IpAddr};

/// What a node has an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnel {
    /// VXLAN of a family.
    Vxlan(Family),
    /// IPIP.
    Ipip,
}

impl Tunnel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Vxlan(Family::V4), Self::Vxlan(Family::V6), Self::Ipip];

    /// Of which family its address is.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Vxlan(family) => family,
            Self::Ipip => Family::V4,
        }
    }
}

/// Under which handle the address of a node's tunnel is counted.
#[must_use]
pub fn tunnel_handle(node: &NodeName, tunnel: Tunnel) -> String {
    match tunnel {
        Tunnel::Vxlan(Family::V4) => format!("vxlan-tunnel-addr-{node}"),
        Tunnel::Vxlan(Family::V6) => format!("vxlan-v6-tunnel-addr-{node}"),
        Tunnel::Ipip => format!("ipip-tunnel-addr-{node}"),
    }
}

/// What stands beside it.
#[must_use]
pub fn tunnel_attributes(node: &NodeName, tunnel: Tunnel) -> BTreeMap<String, String> {
    let kind = match tunnel {
        Tunnel::Vxlan(Family::V4) => "vxlanTunnelAddress",
        Tunnel::Vxlan(Family::V6) => "vxlanV6TunnelAddress",
        Tunnel::Ipip => "ipipTunnelAddress",
    };
    [("node", node.to_string()), ("type", kind.to_owned())].map(|(key, value)| (key.to_owned(), value)).into()
}

impl Ledger {
    /// Gives a tunnel its address: that which it has, as long as it is of the pools that are asked.
    ///
    /// # Errors
    /// There is no address left in them.
    pub fn assign_tunnel(&mut self, request: &Request) -> Result<Vec<IpAddr>, crate::AssignError> {
        let asked = |pool: &&IpPool| request.pools.values().flatten().any(|name| *name == pool.name);
        let is_kept = |held: &IpAddr| self.pools.values().filter(asked).any(|pool| pool.cidr.contains(*held));
        if !self.held_by(&request.owner).iter().all(is_kept) {
            self.release(&request.owner);
        }
        self.assign(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Wrapper, Wrapping};

    fn ledger(pools: &[(&str, &str)]) -> Ledger {
        let pool = |(name, cidr): &(&str, &str)| {
            let pool = IpPool::of_pods(name, cidr.parse().expect("a network"), 26);
            let pool = IpPool { wrapping: Wrapping::Always, wrapper: Wrapper::Vxlan, ..pool };
            ((*name).to_owned(), pool)
        };
        Ledger { pools: pools.iter().map(pool).collect(), ..Ledger::default() }
    }

    fn wish(node: &str, pool: &str) -> Request {
        let (node, handle) = (NodeName::from(node), tunnel_handle(&node.into(), Tunnel::Vxlan(Family::V4)));
        Request {
            secondary: tunnel_attributes(&node, Tunnel::Vxlan(Family::V4)),
            node,
            owner: handle.clone(),
            tunnel: Some(handle),
            pools: [(Family::V4, vec![pool.to_owned()])].into(),
            families: vec![Family::V4],
            ..Request::default()
        }
    }

    #[test]
    fn a_tunnel_has_one_address_counted_as_calico_counts_it() {
        let mut ledger = ledger(&[("p", "10.65.0.0/16")]);
        let first = ledger.assign_tunnel(&wish("n1", "p")).expect("an address");
        assert_eq!(ledger.assign_tunnel(&wish("n1", "p")), Ok(first.clone()), "the same again");
        let other = ledger.assign_tunnel(&wish("n2", "p")).expect("an address");
        assert_ne!(first, other);
        let block = &ledger.blocks.values().find(|kept| kept.value.belongs_to(&"n1".into())).expect("a block").value;
        let held: Vec<_> = block.attributes.iter().collect();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].handle_id.as_deref(), Some("vxlan-tunnel-addr-n1"));
        assert_eq!(held[0].secondary, tunnel_attributes(&"n1".into(), Tunnel::Vxlan(Family::V4)));
        assert!(!ledger.writes().is_empty());
        assert!(ledger.handles.contains_key("vxlan-tunnel-addr-n1"), "{:?}", ledger.handles);
        assert_eq!(tunnel_handle(&"n1".into(), Tunnel::Ipip), "ipip-tunnel-addr-n1");
        assert_eq!(tunnel_attributes(&"n1".into(), Tunnel::Ipip)["type"], "ipipTunnelAddress");
    }

    #[test]
    fn of_a_pool_that_is_not_for_tunnels_none_is_given_and_one_of_a_pool_that_is_over_is_given_back() {
        let mut ledger = ledger(&[("p", "10.65.0.0/16"), ("q", "10.66.0.0/16")]);
        let first = ledger.assign_tunnel(&wish("n1", "p")).expect("an address");
        let second = ledger.assign_tunnel(&wish("n1", "q")).expect("an address");
        assert_eq!(ledger.held_by("vxlan-tunnel-addr-n1"), second);
        assert_ne!(first, second);
        if let Some(pool) = ledger.pools.get_mut("p") {
            pool.uses.tunnel = false;
        }
        assert!(ledger.assign_tunnel(&wish("n2", "p")).is_err());
    }
}
