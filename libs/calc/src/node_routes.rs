//! NodeRoutes: where packets to pods of other nodes go.
//! In: [`World`]: blocks and who holds them, nodes' addresses, pools, this node's networks, pods. Out: a [`NodeRoute`] for each block, and one
//! for each pod elsewhere whose address is of no block of its node (borrowed, or of no block at all).
//! Invariant: a way leads by an address of the other node that is a neighbour; nothing is routed through the wrong wrapping.
//! Never: a way to a pod of this node, or to its own addresses; one for addresses of no pool.

use crate::{
    World,
    desired::{NodeRoute, Unroutable},
    ipip, tunnel,
};
use model::{Cidr, IfaceName, IpPool, Node, NodeName, PodId, Wrapper, Wrapping};
use std::{collections::BTreeMap, net::IpAddr};

/// All of them; `pods`: addresses of pods elsewhere.
pub(crate) fn node_routes<'a>(
    world: &World,
    pods: impl Iterator<Item = (IpAddr, &'a PodId)>,
) -> BTreeMap<Cidr, NodeRoute> {
    let blocks = world.blocks.all().filter_map(|cidr| Some((cidr, of_block(world, cidr)?)));
    let strays = pods.filter_map(|(address, pod)| Some((Cidr::host(address), of_pod(world, address, pod)?)));
    // A block of one address goes before the pod that borrows it nowhere.
    strays.chain(blocks).collect()
}

/// To the node that holds a block.
pub(crate) fn of_block(world: &World, cidr: Cidr) -> Option<NodeRoute> {
    let node = world.blocks.holder(cidr).filter(|_| !world.leaves_routes)?;
    if *node == world.node || world.has_own_cidr(cidr) {
        return Some(NodeRoute::Blackhole);
    }
    Some(to(world, node, cidr, pool_of(world, cidr.network())?))
}

/// To a pod elsewhere. `None`: it is not elsewhere, or goes with a block of its node.
pub(crate) fn of_pod(world: &World, address: IpAddr, pod: &PodId) -> Option<NodeRoute> {
    let node = node_of(world, pod).filter(|node| **node != world.node && !world.leaves_routes)?;
    let pool = pool_of(world, address).filter(|_| world.blocks.holder_of(address) != Some(node))?;
    Some(to(world, node, Cidr::host(address), pool))
}

/// Where a pod runs, as far as anybody has said.
pub(crate) fn node_of<'a>(world: &'a World, pod: &PodId) -> Option<&'a NodeName> {
    let told = || world.published.get(pod).map(|told| &told.node);
    world.pods.get(pod).and_then(|pod| pod.node.as_ref()).or_else(told)
}

fn to(world: &World, node: &NodeName, cidr: Cidr, pool: &IpPool) -> NodeRoute {
    let addresses = world.nodes.get(node).into_iter().flat_map(Node::reached_at);
    let mut usable = addresses.filter(|address| address.is_ipv4() == cidr.is_v4()).peekable();
    if usable.peek().is_none() {
        return NodeRoute::None(node.clone(), Unroutable::Addressless);
    }
    let near = usable.find_map(|address| Some((address, towards(world, address)?.clone())));
    match (near, pool.wrapping) {
        (_, Wrapping::Always) | (None, Wrapping::CrossSubnet) => match pool.wrapper {
            Wrapper::Vxlan => tunnel::to(world, node, cidr).unwrap_or_else(|why| NodeRoute::None(node.clone(), why)),
            Wrapper::Ipip => ipip::to(world, node, cidr).unwrap_or_else(|why| NodeRoute::None(node.clone(), why)),
        },
        (None, Wrapping::Never) if world.leaves_far_nodes => NodeRoute::None(node.clone(), Unroutable::Left),
        (None, Wrapping::Never) => NodeRoute::None(node.clone(), Unroutable::Far),
        (Some((gateway, interface)), Wrapping::Never | Wrapping::CrossSubnet) => NodeRoute::Via { gateway, interface },
    }
}

/// The pool of an address, which says how packets go.
fn pool_of(world: &World, address: IpAddr) -> Option<&IpPool> {
    world.pools.values().find(|pool| pool.cidr.contains(address))
}

/// The interface at which an address of another is a neighbour.
fn towards(world: &World, address: IpAddr) -> Option<&IfaceName> {
    let mut near = world.networks.iter().filter(|(_, nets)| nets.iter().any(|net| net.contains(address)));
    near.next().map(|(name, _)| name).filter(|_| !world.host.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{BlockClaim, IpPool, Labels, NodeAddresses, Resource, ToldAddresses, Update, WorkloadAddress};

    const HERE: &str = "n1";

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    fn node(name: &str, addresses: &[&str]) -> Resource {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        Resource::Node(Node {
            name: name.into(),
            addresses,
            pod_cidrs: Vec::new(),
            bgp: Default::default(),
            labels: Labels::default(),
            vteps: Default::default(),
            told: Default::default(),
        })
    }

    fn claim(node: &str, cidr: &str) -> Resource {
        Resource::BlockClaim(BlockClaim { name: format!("{node}-{cidr}"), cidr: net(cidr), node: node.into() })
    }

    fn pod(name: &str, node: &str, addresses: &[&str]) -> Resource {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        let (pod, labels) = (PodId::new("x", name), Labels::default());
        Resource::WorkloadAddress(WorkloadAddress { pod, node: node.into(), addresses, labels })
    }

    /// This node is in 192.0.2.0/24 and 2001:db8::/64; the pools want packets as they are, or as is said.
    fn routes(wrapping: Wrapping, told: Vec<Resource>) -> BTreeMap<String, NodeRoute> {
        let mut world = World::new(HERE.into(), false);
        world.set_host_addresses(["192.0.2.1", "2001:db8::1"].map(address).into());
        world.set_host_networks([(IfaceName("eth0".into()), ["192.0.2.0/24", "2001:db8::/64"].map(net).into())].into());
        let pools = [("v4", "10.65.0.0/16", 26), ("v6", "fd00:65::/64", 122)];
        for (name, cidr, size) in pools {
            let pool = IpPool { wrapping, ..IpPool::of_pods(name, net(cidr), size) };
            world.apply(Update::Set(Resource::IpPool(pool)));
        }
        for resource in told {
            world.apply(Update::Set(resource));
        }
        world.apply(Update::InSync);
        let desired = crate::desired(world.in_sync().expect("in sync"));
        desired.routes.into_iter().map(|(to, route)| (to.to_string(), route)).collect()
    }

    fn via(gateway: &str) -> NodeRoute {
        NodeRoute::Via { gateway: address(gateway), interface: IfaceName("eth0".into()) }
    }

    fn near() -> Resource {
        node("n2", &["192.0.2.2", "2001:db8::2"])
    }

    fn far() -> Resource {
        node("n3", &["198.51.100.3"])
    }

    #[test]
    fn ipam_24_blocks_lead_to_their_nodes_by_an_address_of_their_family_and_own_ones_nowhere() {
        let told =
            vec![near(), claim(HERE, "10.65.0.0/26"), claim("n2", "10.65.1.0/26"), claim("n2", "fd00:65::40/122")];
        let expected = [
            ("10.65.0.0/26", NodeRoute::Blackhole),
            ("10.65.1.0/26", via("192.0.2.2")),
            ("fd00:65::40/122", via("2001:db8::2")),
        ];
        let expected = expected.map(|(to, route)| (to.to_owned(), route)).into();
        for wrapping in [Wrapping::Never, Wrapping::CrossSubnet] {
            assert_eq!(routes(wrapping, told.clone()), expected, "{wrapping:?}");
        }
    }

    #[test]
    fn where_nothing_wraps_and_no_neighbour_is_there_is_no_route_and_a_reason() {
        let told = || {
            vec![
                node(HERE, &["192.0.2.1"]),
                near(),
                far(),
                claim("n2", "10.65.1.0/26"),
                claim("n3", "10.65.3.0/26"),
                claim("n3", "fd00:65::/122"),
                claim("n9", "10.65.9.0/26"),
            ]
        };
        for (wrapping, of_near, of_far) in [
            (Wrapping::Never, via("192.0.2.2"), NodeRoute::None("n3".into(), Unroutable::Far)),
            (Wrapping::CrossSubnet, via("192.0.2.2"), NodeRoute::Ipip { remote: [198, 51, 100, 3].into() }),
            (
                Wrapping::Always,
                NodeRoute::Ipip { remote: [192, 0, 2, 2].into() },
                NodeRoute::Ipip { remote: [198, 51, 100, 3].into() },
            ),
        ] {
            let found = routes(wrapping, told());
            assert_eq!((&found["10.65.1.0/26"], &found["10.65.3.0/26"]), (&of_near, &of_far), "{wrapping:?}");
            assert_eq!(found["fd00:65::/122"], NodeRoute::None("n3".into(), Unroutable::Addressless), "of IPv4 alone");
            assert_eq!(found["10.65.9.0/26"], NodeRoute::None("n9".into(), Unroutable::Addressless), "nobody knows it");
        }
    }

    #[test]
    fn ipam_4_a_pod_outside_its_nodes_blocks_has_a_route_of_its_own_and_others_have_none() {
        let told = vec![
            near(),
            claim(HERE, "10.65.0.0/26"),
            claim("n2", "10.65.1.0/26"),
            pod("own-block", "n2", &["10.65.1.9"]),
            pod("borrowed", "n2", &["10.65.0.9"]),
            pod("no-block", "n2", &["10.65.7.9"]),
            pod("no-pool", "n2", &["172.16.0.9"]),
            pod("here", HERE, &["10.65.1.10"]),
        ];
        let found = routes(Wrapping::Never, told);
        let hosts: Vec<_> = found.iter().filter(|(to, _)| to.ends_with("/32")).collect();
        let expected = [("10.65.0.9/32".to_owned(), via("192.0.2.2")), ("10.65.7.9/32".to_owned(), via("192.0.2.2"))];
        assert_eq!(hosts, expected.iter().map(|(to, route)| (to, route)).collect::<Vec<_>>());
    }

    #[test]
    fn the_address_that_was_found_for_a_node_goes_before_those_that_it_says() {
        let found = |v4: &str| {
            let told = ToldAddresses { v4: Some(v4.parse().expect("an address")), v6: None };
            Resource::NodeAddresses(NodeAddresses { node: "n2".into(), told })
        };
        let routes = |v4: &str| routes(Wrapping::Never, vec![near(), claim("n2", "10.65.1.0/26"), found(v4)]);
        assert_eq!(routes("192.0.2.7/24")["10.65.1.0/26"], via("192.0.2.7"));
        assert_eq!(routes("198.51.100.7/24")["10.65.1.0/26"], via("192.0.2.2"), "no neighbour");
    }

    #[test]
    fn a_node_elsewhere_is_left_to_bgp_where_that_is_spoken_and_one_nearby_is_not() {
        let mut world = World::new(HERE.into(), false);
        world.leave_far_nodes(true);
        world.set_host_networks([(IfaceName("eth0".into()), ["192.0.2.0/24"].map(net).into())].into());
        let pool = Resource::IpPool(IpPool::of_pods("v4", net("10.65.0.0/16"), 26));
        let told = [pool, near(), far(), claim("n2", "10.65.1.0/26"), claim("n3", "10.65.3.0/26")];
        for resource in told {
            world.apply(Update::Set(resource));
        }
        assert_eq!(of_block(&world, net("10.65.1.0/26")), Some(via("192.0.2.2")));
        let left = NodeRoute::None("n3".into(), Unroutable::Left);
        assert_eq!(of_block(&world, net("10.65.3.0/26")), Some(left));
    }

    #[test]
    fn a_node_that_says_an_address_of_this_one_is_not_routed_to() {
        let told = vec![node("n2", &["192.0.2.1"]), claim("n2", "10.65.1.0/26")];
        let expected = NodeRoute::None("n2".into(), Unroutable::Far);
        assert_eq!(routes(Wrapping::Never, told)["10.65.1.0/26"], expected);
    }
}
