//! The tunnel device: what a pass and a look make of it, and in which order.
//! In: this node's end and ways by tunnels. Out: the device, its programs, `TUNNELS`, and routes by it.
//! Invariant: the fake panics where it is set up without its programs.
//! Never: a device that is not of its name.

use super::{
    super::tunnel::{DEVICE, TUNNEL_HOOKS},
    *,
};
use crate::tables::prefix;
use abi::{NetKey, TunnelEnd as Entry};
use calc::{NodeRoute, TunnelEnd, TunnelSpec};
use model::{Cidr, Vtep, Vteps};

const MAC: Mac = Mac([0x66, 0, 0, 0, 0, 1]);

fn net(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn at(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn spec(own: &str, peers: &[&str]) -> Option<Arc<TunnelSpec>> {
    let v4 = Some(Vtep { address: at(own), mac: MAC });
    let peers = peers.iter().map(|peer| at(peer)).collect();
    let (own, local) = (Vteps { v4, ..Vteps::default() }, vec![at("192.0.2.1")]);
    Some(Arc::new(TunnelSpec { own, local, peers, externals: BTreeSet::new(), mtu: None, vni: None, port: None }))
}

fn far(number: u8) -> NodeRoute {
    let (remote, gateway) = ([198, 51, 100, number].into(), [10, 65, number, 0].into());
    NodeRoute::Tunnel(TunnelEnd { remote, gateway, mac: Mac([0x66, 0, 0, 0, 0, number]) })
}

fn wrapped(routes: &[(&str, NodeRoute)], peers: &[&str]) -> Desired {
    let routes = routes.iter().map(|(to, route)| (net(to), route.clone())).collect();
    Desired { routes, tunnel: spec("10.65.1.0", peers), ..Desired::default() }
}

fn index(kernel: &Rc<RefCell<Kernel>>) -> Option<u32> {
    kernel.borrow().seen.links.get(&IfaceName(DEVICE.into())).map(|link| link.index.0)
}

fn key(text: &str) -> NetKey {
    prefix::net_key(&net(text)).expect("a key")
}

fn held(kernel: &Rc<RefCell<Kernel>>) -> BTreeMap<NetKey, Entry> {
    kernel.borrow().tables.tunnels.clone()
}

fn position(done: &[String], what: &str) -> usize {
    done.iter().position(|done| done.contains(what)).unwrap_or_else(|| panic!("no {what} in {done:#?}"))
}

#[test]
fn agt_10_the_device_is_guarded_and_its_table_written_before_it_is_up_and_routes_come_last() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]));
    let done = std::mem::take(&mut kernel.borrow_mut().done);
    let device = index(&kernel).expect("the device");
    let order = ["Tunnel(", "create", "attach from_tunnel", "attach to_tunnel", &format!("up {device}"), "route"];
    let order = order.map(|what| position(&done, what));
    assert!(order.is_sorted(), "{done:#?}");
    let remote = prefix::address_key(at("198.51.100.3")).expect("a key");
    let expected = [
        (key("10.65.3.0/26"), Entry { remote, mac: [0x66, 0, 0, 0, 0, 3], ..Entry::default() }),
        (key("198.51.100.3/32"), Entry { remote, ways: abi::tunnel::FROM_VXLAN, ..Entry::default() }),
    ];
    assert_eq!(held(&kernel), expected.into());
    let link = kernel.borrow_mut().link(Ifindex(device)).expect("it").clone();
    assert_eq!((link.mac, link.mtu, link.up), (Some(MAC), 1450, true));
    assert_eq!(kernel.borrow().addresses, [(device, at("10.65.1.0"))]);
    let route = kernel.borrow().seen.node_routes.first().cloned().expect("a route");
    assert_eq!((route.gateway, route.interface.0, route.on_link), (Some(at("10.65.3.0")), device, true));
    apply(&mut node, &wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]));
    let again: Vec<_> = kernel.borrow().done.iter().filter(|done| !done.contains("TunnelLocal")).cloned().collect();
    assert_eq!(again, Vec::<String>::new());
}

#[test]
fn agt_10_who_is_gone_is_forgotten_after_the_route_and_who_moves_is_written_over() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let both = [("10.65.3.0/26", far(3)), ("10.65.4.0/26", far(4))];
    apply(&mut node, &wrapped(&both, &["198.51.100.3", "198.51.100.4"]));
    kernel.borrow_mut().done.clear();
    apply(&mut node, &wrapped(&[("10.65.3.0/26", far(4))], &["198.51.100.4"]));
    let done = std::mem::take(&mut kernel.borrow_mut().done);
    assert!(position(&done, "delete route") < position(&done, "None)"), "{done:#?}");
    let left: Vec<_> = held(&kernel).into_keys().collect();
    assert_eq!(
        left,
        [key("10.65.3.0/26"), key("198.51.100.4/32")]
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(held(&kernel)[&key("10.65.3.0/26")].mac[5], 4);
}

#[test]
fn another_device_of_the_name_is_replaced_and_ours_goes_when_no_pool_asks_for_it() {
    let kernel = kernel();
    kernel.borrow_mut().add_link(40, DEVICE);
    let mut node = node(&kernel);
    apply(&mut node, &Desired::default());
    assert_eq!(index(&kernel), Some(40), "another's is left alone as long as no tunnel is wanted");
    apply(&mut node, &wrapped(&[], &[]));
    assert_ne!(index(&kernel), Some(40));
    // Another address of this node's: the device is made anew.
    let before = index(&kernel);
    apply(&mut node, &Desired { tunnel: spec("10.65.9.0", &[]), ..Desired::default() });
    assert_eq!(kernel.borrow().addresses.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [at("10.65.9.0")]);
    assert!(before.is_some() && index(&kernel).is_some());
    apply(&mut node, &Desired::default());
    assert_eq!(index(&kernel), None);
    assert_eq!(held(&kernel), BTreeMap::new());
}

#[test]
fn pkt_61_the_device_has_the_mtu_that_is_said_from_then_on_and_never_more_than_the_uplink_leaves() {
    let kernel = kernel();
    let mut node = node(&kernel);
    for (said, mtu) in [(None, 1450), (Some(1300), 1300), (Some(9000), 1450)] {
        let wanted = wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]);
        let spec = wanted.tunnel.as_deref().cloned().expect("an end");
        apply(&mut node, &Desired { tunnel: Some(Arc::new(TunnelSpec { mtu: said, ..spec })), ..wanted });
        let device = index(&kernel).expect("the device");
        assert_eq!(kernel.borrow_mut().link(Ifindex(device)).expect("it").mtu, mtu, "{said:?}");
    }
}

#[test]
fn who_is_no_node_may_send_where_it_is_said_and_a_node_among_them_is_a_node() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let wanted = wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]);
    let spec = wanted.tunnel.as_deref().cloned().expect("an end");
    let externals = ["198.51.100.64/26", "198.51.100.3/32"].map(net).into();
    apply(&mut node, &Desired { tunnel: Some(Arc::new(TunnelSpec { externals, ..spec })), ..wanted.clone() });
    let ways = abi::tunnel::FROM_VXLAN | abi::tunnel::ANYONE;
    let remote = prefix::address_key(at("198.51.100.3")).expect("a key");
    assert_eq!(held(&kernel)[&key("198.51.100.64/26")], Entry { ways, ..Entry::default() });
    assert_eq!(held(&kernel)[&key("198.51.100.3/32")], Entry { remote, ways, ..Entry::default() });
    apply(&mut node, &wanted);
    assert!(!held(&kernel).contains_key(&key("198.51.100.64/26")), "not any more");
    assert_eq!(held(&kernel)[&key("198.51.100.3/32")].ways, abi::tunnel::FROM_VXLAN);
}

#[test]
fn the_network_that_is_said_is_written_and_another_port_needs_another_device() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let wanted = wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]);
    let saying = |vni, port| {
        let spec = wanted.tunnel.as_deref().cloned().expect("an end");
        Desired { tunnel: Some(Arc::new(TunnelSpec { vni, port, ..spec })), ..wanted.clone() }
    };
    let now = || {
        let device = index(&kernel).expect("the device");
        let link = kernel.borrow_mut().link(Ifindex(device)).expect("it").clone();
        let own = kernel.borrow().tables.tunnel_local[&0];
        let leads = kernel.borrow().seen.node_routes.iter().any(|route| route.interface.0 == device);
        (link.vxlan_port, link.up, own.network(), leads, device)
    };
    apply(&mut node, &saying(None, None));
    let (port, up, vni, leads, first) = now();
    assert_eq!((port, up, vni, leads), (Some(4789), true, 4096, true));
    apply(&mut node, &saying(Some(7), None));
    assert_eq!(now(), (Some(4789), true, 7, true, first), "the network alone needs none");
    kernel.borrow_mut().done.clear();
    apply(&mut node, &saying(Some(7), Some(4790)));
    let (port, up, vni, leads, second) = now();
    assert_eq!((port, up, vni, leads), (Some(4790), true, 7, true), "its routes are there at once");
    let done = std::mem::take(&mut kernel.borrow_mut().done);
    let order = [&format!("delete link {first}"), "create", "attach to_tunnel", &format!("up {second}"), "route"];
    assert!(order.map(|what| position(&done, what)).is_sorted(), "{done:#?}");
    assert!(node.look(&saying(Some(7), Some(4790)), Extent::Everything).repaired.is_empty());
}

#[test]
fn what_others_do_to_the_device_is_put_right_by_the_next_look() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let wanted = wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]);
    apply(&mut node, &wanted);
    let spoil: [fn(&mut Kernel, u32); 4] = [
        |kernel, index| kernel.link(Ifindex(index)).expect("it").mtu = 9000,
        |kernel, index| kernel.link(Ifindex(index)).expect("it").up = false,
        |kernel, index| kernel.link(Ifindex(index)).expect("it").mac = Some(Mac([2; 6])),
        |kernel, index| kernel.remove_link(index),
    ];
    for spoil in spoil {
        let device = index(&kernel).expect("the device");
        spoil(&mut kernel.borrow_mut(), device);
        let looked = node.look(&wanted, Extent::Everything);
        assert!(!looked.repaired.is_empty());
        let device = index(&kernel).expect("the device");
        let link = kernel.borrow_mut().link(Ifindex(device)).expect("it").clone();
        assert_eq!((link.mac, link.mtu, link.up), (Some(MAC), 1450, true));
        let is_guarded = TUNNEL_HOOKS.iter().all(|hook| kernel.borrow().attached.contains(&(device, *hook)));
        assert!(is_guarded);
        assert!(node.look(&wanted, Extent::Everything).repaired.is_empty(), "once");
    }
}

#[test]
fn a_device_that_cannot_be_had_is_named_and_the_rest_goes_on() {
    let kernel = kernel();
    kernel.borrow_mut().refuses = Some("create");
    let mut node = node(&kernel);
    let mut wanted = wrapped(&[("10.65.3.0/26", far(3))], &["198.51.100.3"]);
    wanted.routes.insert(net("10.65.1.0/26"), NodeRoute::Blackhole);
    let applied = apply(&mut node, &wanted);
    assert!(applied.failed.iter().any(|(item, error)| item == DEVICE && error.step == "make it"), "{applied:?}");
    assert_eq!(kernel.borrow().seen.node_routes.len(), 1, "the others are there");
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut node, &wanted).failed.is_empty());
    assert_eq!(kernel.borrow().seen.node_routes.len(), 2);
}
