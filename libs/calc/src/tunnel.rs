//! Tunnels: where wrapped packets go, and from whom they come.
//! In: [`World`]: pools, nodes' addresses and the ends of their tunnels. Out: a way to a node, and this node's own end.
//! Invariant: outer and inner header are of one family, as with Calico.
//! Never: a tunnel that no pool asks for.

use crate::{
    World,
    desired::{NodeRoute, TunnelEnd, TunnelSpec, Unroutable},
    host::chosen,
};
use model::{Cidr, IpPool, Node, NodeName, Vteps, Wrapper};
use std::net::IpAddr;

/// The way to a node by its tunnel.
pub(crate) fn to(world: &World, node: &NodeName, cidr: Cidr) -> Result<NodeRoute, Unroutable> {
    if !is_on(world, Wrapper::Vxlan) {
        return Err(Unroutable::NoVxlan);
    }
    let family = cidr.network();
    vteps(world, &world.node).of(family).ok_or(Unroutable::OwnEndless)?;
    let end = vteps(world, node).of(family).ok_or(Unroutable::Endless)?;
    let remote = address(world, node, family.is_ipv4()).ok_or(Unroutable::Addressless)?;
    Ok(NodeRoute::Tunnel(TunnelEnd { remote, gateway: end.address, mac: end.mac }))
}

/// This node's end, where a pool asks for tunnels and the node has an address on them.
pub(crate) fn spec(world: &World) -> Option<TunnelSpec> {
    let is_wanted = !world.leaves_routes && world.pools.values().any(IpPool::uses_vxlan);
    if !is_wanted || !is_on(world, Wrapper::Vxlan) {
        return None;
    }
    let own = vteps(world, &world.node);
    own.all().next()?;
    let local = own.all().filter_map(|end| address(world, &world.node, end.address.is_ipv4())).collect();
    let others = world.nodes.values().filter(|node| node.name != world.node);
    let reached = others.filter(|node| vteps(world, &node.name).all().next().is_some()).flat_map(Node::reached_at);
    let is_served = |address: &IpAddr| own.of(*address).is_some() && !world.host.contains(address);
    let said = [own.v4.and(mtu(world, true)), own.v6.and(mtu(world, false))];
    let mtu = said.into_iter().flatten().min();
    let (vni, port) = (chosen(world, |felix| felix.vxlan_vni), port(world));
    let externals = externals(world).filter(|net| own.of(net.network()).is_some()).collect();
    Some(TunnelSpec { own, local, peers: reached.filter(is_served).collect(), externals, mtu, vni, port })
}

/// What FelixConfiguration says of packets through VXLAN of a family.
pub(crate) fn mtu(world: &World, is_v4: bool) -> Option<u32> {
    chosen(world, |felix| if is_v4 { felix.vxlan_mtu } else { felix.vxlan_mtu_v6 })
}

/// The UDP port of all tunnels, where FelixConfiguration says it.
pub(crate) fn port(world: &World) -> Option<u16> {
    chosen(world, |felix| felix.vxlan_port)
}

/// Who is no node, and may send wrapped packets: nobody by an address of a pod.
pub(crate) fn externals(world: &World) -> impl Iterator<Item = Cidr> {
    let is_pods = |net: &Cidr| {
        let within = |pool: &IpPool| pool.cidr.contains(net.network()) && net.prefix_len() >= pool.cidr.prefix_len();
        world.pools.values().any(within)
    };
    let said = chosen(world, |felix| felix.external_nodes.clone()).unwrap_or_default();
    said.into_iter().filter(move |net| !is_pods(net))
}

/// Whether packets are wrapped this way where pools ask for it.
pub(crate) fn is_on(world: &World, wrapper: Wrapper) -> bool {
    let said = chosen(world, |felix| match wrapper {
        Wrapper::Vxlan => felix.vxlan_enabled,
        Wrapper::Ipip => felix.ipip_enabled,
    });
    said.unwrap_or(true)
}

/// What its agent tells counts before what stands at the node.
pub(crate) fn vteps(world: &World, node: &NodeName) -> Vteps {
    let told = world.told_vteps.get(node).map(|told| told.vteps);
    told.or_else(|| world.nodes.get(node).map(|node| node.vteps)).unwrap_or_default()
}

/// A node's first address of a family, one that was found for it before those that it says; that of another is none of this node's.
pub(crate) fn address(world: &World, node: &NodeName, is_v4: bool) -> Option<IpAddr> {
    let is_it = |address: &IpAddr| address.is_ipv4() == is_v4 && (*node == world.node || !world.host.contains(address));
    world.nodes.get(node)?.reached_at().find(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        BlockClaim, FelixConfiguration, IfaceName, IpPool, Labels, Mac, NodeVteps, Resource, ResourceKey, Update, Vtep,
        Wrapping,
    };

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    fn end(address: &str, last: u8) -> Vtep {
        Vtep { address: at(address), mac: Mac([0x66, 0, 0, 0, 0, last]) }
    }

    fn node(name: &str, addresses: &[&str], vteps: Vteps) -> Update {
        let addresses = addresses.iter().map(|text| at(text)).collect();
        let (labels, pod_cidrs) = (Labels::default(), Vec::new());
        let told = Default::default();
        Update::Set(Resource::Node(Node {
            name: name.into(),
            addresses,
            labels,
            pod_cidrs,
            vteps,
            told,
            bgp: Default::default(),
        }))
    }

    /// n1 is here, n2 is near, n3 far; each has a block, and an end of its tunnels of IPv4.
    fn world(wrapping: Wrapping) -> World {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses(["192.0.2.1", "2001:db8::1"].map(at).into());
        world.set_host_networks([(IfaceName("eth0".into()), ["192.0.2.0/24"].map(net).into())].into());
        let pool = IpPool { wrapping, wrapper: Wrapper::Vxlan, ..IpPool::of_pods("p", net("10.65.0.0/16"), 26) };
        world.apply(Update::Set(Resource::IpPool(pool)));
        let mut number = 0;
        for (name, address) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2"), ("n3", "198.51.100.3")] {
            number += 1;
            let vteps = Vteps { v4: Some(end(&format!("10.65.{number}.0"), number)), ..Vteps::default() };
            world.apply(node(name, &[address], vteps));
            let cidr = net(&format!("10.65.{number}.0/26"));
            world.apply(Update::Set(Resource::BlockClaim(BlockClaim { name: name.into(), cidr, node: name.into() })));
        }
        world.apply(Update::InSync);
        world
    }

    fn route(world: &World, to: &str) -> NodeRoute {
        crate::desired(world.in_sync().expect("in sync")).routes[&net(to)].clone()
    }

    fn tunnel(remote: &str, gateway: &str, last: u8) -> NodeRoute {
        NodeRoute::Tunnel(TunnelEnd { remote: at(remote), gateway: at(gateway), mac: end(gateway, last).mac })
    }

    #[test]
    fn agt_10_blocks_of_nodes_elsewhere_are_reached_by_their_tunnels_ends() {
        let far = tunnel("198.51.100.3", "10.65.3.0", 3);
        let direct = NodeRoute::Via { gateway: at("192.0.2.2"), interface: IfaceName("eth0".into()) };
        assert_eq!(route(&world(Wrapping::CrossSubnet), "10.65.2.0/26"), direct);
        assert_eq!(route(&world(Wrapping::CrossSubnet), "10.65.3.0/26"), far);
        assert_eq!(route(&world(Wrapping::Always), "10.65.2.0/26"), tunnel("192.0.2.2", "10.65.2.0", 2));
        assert_eq!(route(&world(Wrapping::Always), "10.65.3.0/26"), far);
    }

    #[test]
    fn agt_10_without_an_end_here_or_there_is_no_way_and_a_reason() {
        let mut world = world(Wrapping::Always);
        world.apply(node("n3", &["198.51.100.3"], Vteps::default()));
        assert_eq!(route(&world, "10.65.3.0/26"), NodeRoute::None("n3".into(), Unroutable::Endless));
        let told = |v4| {
            let vteps = Vteps { v4, ..Vteps::default() };
            Update::Set(Resource::NodeVteps(NodeVteps { node: "n3".into(), vteps }))
        };
        world.apply(told(Some(end("10.65.3.7", 9))));
        assert_eq!(route(&world, "10.65.3.0/26"), tunnel("198.51.100.3", "10.65.3.7", 9), "its agent tells it");
        world.apply(Update::Gone(ResourceKey::NodeVteps("n3".into())));
        world.apply(node("n1", &["192.0.2.1"], Vteps::default()));
        assert_eq!(route(&world, "10.65.2.0/26"), NodeRoute::None("n2".into(), Unroutable::OwnEndless));
        assert_eq!(spec(&world), None);
    }

    #[test]
    fn tunnelled_packets_come_from_nodes_that_have_tunnels_and_from_no_address_of_this_one() {
        let mut world = world(Wrapping::CrossSubnet);
        world.apply(node("n4", &["198.51.100.4"], Vteps::default()));
        let own = Vteps { v4: Some(end("10.65.5.0", 5)), ..Vteps::default() };
        world.apply(node("n5", &["192.0.2.1", "198.51.100.5", "2001:db8::5"], own));
        let found = spec(&world).expect("a tunnel");
        assert_eq!((found.own.v4, found.mac()), (Some(end("10.65.1.0", 1)), Some(end("10.65.1.0", 1).mac)));
        assert_eq!(found.local, [at("192.0.2.1")]);
        assert_eq!(found.peers, ["192.0.2.2", "198.51.100.3", "198.51.100.5"].map(at).into());
        let said = ["198.51.100.64/26", "2001:db8:7::/64", "10.65.9.0/24"].map(net).into();
        let felix = FelixConfiguration { name: "default".into(), external_nodes: Some(said), ..Default::default() };
        world.apply(Update::Set(Resource::FelixConfiguration(felix)));
        let found = spec(&world).expect("a tunnel");
        assert_eq!(
            found.externals,
            [net("198.51.100.64/26")].into(),
            "of the family that it has an end of, and no pod's"
        );
        let pool = IpPool { wrapping: Wrapping::Never, ..world.pools["p"].clone() };
        world.apply(Update::Set(Resource::IpPool(pool)));
        assert_eq!(spec(&world), None, "no pool asks for one");
    }
}
