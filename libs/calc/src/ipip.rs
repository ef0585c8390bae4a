//! IPIP: to which nodes packets go within others, and from whom they come.
//! In: [`World`]: pools, nodes' addresses, this node's address within IPIP. Out: a way to a node, and how this node takes part.
//! Invariant: everything is of IPv4, as with Calico; a node is reached without having said where its tunnel ends.
//! Never: wraps what no pool asks for.

use crate::{
    World,
    desired::{IpipSpec, NodeRoute, Unroutable},
    host::chosen,
    tunnel,
};
use model::{Cidr, IpPool, Node, NodeName, Wrapper};
use std::net::{IpAddr, Ipv4Addr};

/// The way to a node.
pub(crate) fn to(world: &World, node: &NodeName, cidr: Cidr) -> Result<NodeRoute, Unroutable> {
    if !cidr.is_v4() {
        return Err(Unroutable::Wrapped);
    }
    if !tunnel::is_on(world, Wrapper::Ipip) {
        return Err(Unroutable::NoIpip);
    }
    address(world, &world.node).ok_or(Unroutable::OwnAddressless)?;
    let remote = address(world, node).ok_or(Unroutable::Addressless)?;
    Ok(NodeRoute::Ipip { remote })
}

/// How this node takes part, where a pool asks for it and the node has an address.
pub(crate) fn spec(world: &World) -> Option<IpipSpec> {
    let is_wanted = !world.leaves_routes && world.pools.values().any(IpPool::uses_ipip);
    if !is_wanted || !tunnel::is_on(world, Wrapper::Ipip) {
        return None;
    }
    let others = world.nodes.values().filter(|node| node.name != world.node);
    let addresses = others.flat_map(Node::reached_at).filter(|address| !world.host.contains(address));
    Some(IpipSpec {
        local: address(world, &world.node)?,
        own: tunnel::vteps(world, &world.node).ipip,
        peers: addresses.filter_map(v4).collect(),
        externals: tunnel::externals(world).filter(Cidr::is_v4).collect(),
        mtu: mtu(world),
    })
}

/// What FelixConfiguration says of packets through IPIP.
pub(crate) fn mtu(world: &World) -> Option<u32> {
    chosen(world, |felix| felix.ipip_mtu)
}

fn address(world: &World, node: &NodeName) -> Option<Ipv4Addr> {
    v4(tunnel::address(world, node, true)?)
}

const fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{BlockClaim, FelixConfiguration, IfaceName, Labels, Resource, Update, Vteps, Wrapping};

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    fn node(name: &str, addresses: &[&str], ipip: Option<Ipv4Addr>) -> Update {
        let addresses = addresses.iter().map(|text| at(text)).collect();
        let (labels, pod_cidrs, vteps) = (Labels::default(), Vec::new(), Vteps { ipip, ..Vteps::default() });
        Update::Set(Resource::Node(Node {
            name: name.into(),
            addresses,
            labels,
            pod_cidrs,
            vteps,
            bgp: Default::default(),
            told: Default::default(),
        }))
    }

    /// n1 is here, n2 is near, n3 far.
    fn world(wrapping: Wrapping) -> World {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses(["192.0.2.1", "2001:db8::1"].map(at).into());
        world.set_host_networks([(IfaceName("eth0".into()), ["192.0.2.0/24"].map(net).into())].into());
        for (name, cidr, size) in [("v4", "10.65.0.0/16", 26), ("v6", "fd00:65::/64", 122)] {
            let pool = IpPool { wrapping, ..IpPool::of_pods(name, net(cidr), size) };
            world.apply(Update::Set(Resource::IpPool(pool)));
        }
        let nodes = [("n1", "192.0.2.1"), ("n2", "192.0.2.2"), ("n3", "198.51.100.3")];
        for (number, (name, address)) in nodes.into_iter().enumerate() {
            world.apply(node(name, &[address, "2001:db8::9"], None));
            for cidr in [format!("10.65.{number}.0/26"), format!("fd00:65::{number}:0/122")] {
                let name = cidr.clone();
                let claim = BlockClaim { name, cidr: net(&cidr), node: nodes[number].0.into() };
                world.apply(Update::Set(Resource::BlockClaim(claim)));
            }
        }
        world.apply(Update::InSync);
        world
    }

    fn route(world: &World, to: &str) -> NodeRoute {
        crate::desired(world.in_sync().expect("in sync")).routes[&net(to)].clone()
    }

    fn wrapped(remote: [u8; 4]) -> NodeRoute {
        NodeRoute::Ipip { remote: remote.into() }
    }

    #[test]
    fn agt_10_blocks_of_other_nodes_are_reached_by_ipip_or_only_those_of_nodes_elsewhere() {
        let direct = NodeRoute::Via { gateway: at("192.0.2.2"), interface: IfaceName("eth0".into()) };
        let (always, crossing) = (world(Wrapping::Always), world(Wrapping::CrossSubnet));
        assert_eq!(route(&always, "10.65.1.0/26"), wrapped([192, 0, 2, 2]));
        assert_eq!(route(&crossing, "10.65.1.0/26"), direct);
        assert_eq!(route(&always, "10.65.2.0/26"), wrapped([198, 51, 100, 3]));
        assert_eq!(route(&crossing, "10.65.2.0/26"), wrapped([198, 51, 100, 3]));
        assert_eq!(route(&always, "fd00:65::2:0/122"), NodeRoute::None("n3".into(), Unroutable::Wrapped));
    }

    #[test]
    fn without_an_address_of_ipv4_here_there_is_no_way_and_a_reason() {
        let mut world = world(Wrapping::Always);
        world.apply(node("n1", &["2001:db8::1"], None));
        assert_eq!(route(&world, "10.65.2.0/26"), NodeRoute::None("n3".into(), Unroutable::OwnAddressless));
        assert_eq!(spec(&world), None);
    }

    #[test]
    fn packets_come_from_every_other_node_and_from_no_address_of_this_one() {
        let mut world = world(Wrapping::CrossSubnet);
        world.apply(node("n4", &["192.0.2.1", "198.51.100.4"], None));
        world.apply(node("n1", &["192.0.2.1"], Some([10, 65, 0, 5].into())));
        let found = spec(&world).expect("it takes part");
        assert_eq!((found.local, found.own), ([192, 0, 2, 1].into(), Some([10, 65, 0, 5].into())));
        let peers: [[u8; 4]; 3] = [[192, 0, 2, 2], [198, 51, 100, 3], [198, 51, 100, 4]];
        assert_eq!(found.peers, peers.map(Ipv4Addr::from).into());
        world.apply(Update::Set(Resource::IpPool(IpPool {
            wrapping: Wrapping::Never,
            ..IpPool::of_pods("v4", net("10.65.0.0/16"), 26)
        })));
        assert_eq!(spec(&world), None, "one of IPv6 asks for nothing that there is");
    }

    #[test]
    fn pkt_61_pods_have_what_the_narrowest_tunnel_lets_pass() {
        let mut world = world(Wrapping::CrossSubnet);
        let says = |world: &mut World, ipip_mtu, vxlan_mtu_v6| {
            let felix = FelixConfiguration { name: "default".into(), ipip_mtu, vxlan_mtu_v6, ..Default::default() };
            world.apply(Update::Set(Resource::FelixConfiguration(felix)));
        };
        assert_eq!((spec(&world).expect("it takes part").mtu, world.tunnelled_mtu(1500)), (None, 1480));
        says(&mut world, Some(1400), Some(1300));
        assert_eq!((spec(&world).expect("it takes part").mtu, world.tunnelled_mtu(1500)), (Some(1400), 1400));
        assert_eq!(world.tunnelled_mtu(1410), 1390, "what the uplink leaves");
        world.apply(Update::Set(Resource::IpPool(IpPool {
            wrapping: Wrapping::Always,
            wrapper: Wrapper::Vxlan,
            ..IpPool::of_pods("v6", net("fd00:65::/64"), 122)
        })));
        assert_eq!(world.tunnelled_mtu(1500), 1300, "that of IPv6 is narrower");
        says(&mut world, None, None);
        assert_eq!(world.tunnelled_mtu(1500), 1430);
    }
}
