//! Routes to other nodes as blocks, nodes and pods change.
//! In: what changed. Out: the routes to those blocks and addresses in Desired.
//! Invariant: equal to [`crate::node_routes::node_routes`] of the same World.
//! Never: looks at a block or a pod that no change concerns, unless pools, this node's networks or its addresses changed.

use super::{claims::Claims, dirty::Dirty, latest::Followed};
use crate::{
    World,
    desired::{NodeRoute, Unroutable},
    node_routes, tunnel,
};
use model::{Cidr, NodeName, PodId, Wrapper};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
};

/// Pods that have a way of their own, by their nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeRoutes {
    strays: BTreeMap<NodeName, BTreeSet<IpAddr>>,
    of: BTreeMap<IpAddr, NodeName>,
    /// Which ways packets may be wrapped.
    wraps: Option<[bool; 2]>,
}

impl NodeRoutes {
    /// Blocks and addresses on which this may bear, but for addresses of pods that changed themselves.
    pub(super) fn concerned(
        &self,
        world: &World,
        claims: &Claims,
        dirty: &Dirty,
    ) -> (BTreeSet<Cidr>, BTreeSet<IpAddr>) {
        let mut blocks = dirty.blocks.clone();
        let mut addresses: BTreeSet<IpAddr> = dirty.blocks.iter().flat_map(|cidr| claims.within(cidr)).collect();
        if dirty.pools || dirty.networks {
            blocks.extend(world.blocks.all());
            addresses.extend(self.of.keys());
        }
        if dirty.pools {
            addresses.extend(claims.all());
        }
        for node in &dirty.nodes {
            blocks.extend(world.blocks.of_node(node));
            addresses.extend(self.strays.get(node).into_iter().flatten());
        }
        (blocks, addresses)
    }

    /// Whether other ways of wrapping are open than when this was asked last.
    pub(super) fn take_switched(&mut self, world: &World) -> bool {
        let wraps = Some([Wrapper::Vxlan, Wrapper::Ipip].map(|wrapper| tunnel::is_on(world, wrapper)));
        mem::replace(&mut self.wraps, wraps) != wraps
    }

    /// Writes the ways of these.
    pub(super) fn put(
        &mut self,
        world: &World,
        claims: &Claims,
        (blocks, addresses): (BTreeSet<Cidr>, BTreeSet<IpAddr>),
        desired: &mut Followed,
    ) {
        for address in &addresses {
            let pod = elsewhere(world, claims, *address);
            let way = pod.and_then(|pod| node_routes::of_pod(world, *address, pod));
            self.note(*address, pod.filter(|_| way.is_some()).and_then(|pod| node_routes::node_of(world, pod)));
            let cidr = Cidr::host(*address);
            desired.put_route(cidr, node_routes::of_block(world, cidr).or(way));
        }
        for cidr in blocks {
            let address = cidr.network();
            let of_pod = || node_routes::of_pod(world, address, elsewhere(world, claims, address)?);
            let is_one = cidr == Cidr::host(address);
            desired.put_route(cidr, node_routes::of_block(world, cidr).or_else(|| of_pod().filter(|_| is_one)));
        }
    }

    /// All of them.
    pub(super) fn strays(&self) -> impl Iterator<Item = &IpAddr> {
        self.of.keys()
    }

    /// It has a way of its own to this node, or none.
    fn note(&mut self, address: IpAddr, node: Option<&NodeName>) {
        if self.of.get(&address) == node {
            return;
        }
        if let Some(before) = self.of.remove(&address)
            && let Some(strays) = self.strays.get_mut(&before)
        {
            strays.remove(&address);
            if strays.is_empty() {
                self.strays.remove(&before);
            }
        }
        if let Some(node) = node {
            self.strays.entry(node.clone()).or_default().insert(address);
            self.of.insert(address, node.clone());
        }
    }
}

/// To which nodes there is no way, and why.
pub(super) fn remarks(routes: &BTreeMap<Cidr, NodeRoute>) -> Vec<String> {
    let mut unreached: BTreeMap<(&NodeName, Unroutable), usize> = BTreeMap::new();
    for route in routes.values() {
        if let NodeRoute::None(node, why) = route
            && *why != Unroutable::Left
        {
            *unreached.entry((node, *why)).or_default() += 1;
        }
    }
    let said = |((node, why), count): ((&NodeName, Unroutable), usize)| {
        let why = match why {
            Unroutable::NoVxlan => {
                "their pool has packets wrapped (vxlanMode), and vxlanEnabled of FelixConfiguration is false"
            }
            Unroutable::NoIpip => {
                "their pool has packets wrapped (ipipMode), and ipipEnabled of FelixConfiguration is false"
            }
            Unroutable::Wrapped => {
                "their pool has packets between nodes wrapped by IPIP (ipipMode), which wraps no IPv6: vxlanMode does"
            }
            Unroutable::Endless => {
                "their pool has packets wrapped (vxlanMode), and it has not said its tunnel address yet"
            }
            Unroutable::OwnEndless => {
                "their pool has packets wrapped (vxlanMode), and this node has no tunnel address yet"
            }
            Unroutable::Far => {
                "it is in no network of this node's: routers have to know the way, or their pool an encapsulation"
            }
            Unroutable::Left => "BGP has to say the way",
            Unroutable::Addressless => "its Node has no address of their family",
            Unroutable::OwnAddressless => "this node's own Node has no address of their family to send from (ipipMode)",
        };
        format!("Node {node}: no route to {count} of its blocks and addresses: {why}")
    };
    unreached.into_iter().map(said).collect()
}

/// The pod elsewhere that has an address.
fn elsewhere<'a>(world: &World, claims: &'a Claims, address: IpAddr) -> Option<&'a PodId> {
    let (pod, endpoint) = claims.holder(address).filter(|_| !world.host.contains(&address))?;
    endpoint.is_none().then_some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_complains_of_ways_that_are_left_to_bgp() {
        let route = |cidr: &str, why| (cidr.parse().expect("a network"), NodeRoute::None("n2".into(), why));
        let routes = [route("10.65.0.0/26", Unroutable::Left), route("10.65.0.64/26", Unroutable::Far)];
        let said = remarks(&routes.into());
        assert!(said.len() == 1 && said[0].contains("no route to 1 of its"), "{said:?}");
    }
}
