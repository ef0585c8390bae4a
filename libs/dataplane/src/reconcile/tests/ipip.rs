//! IPIP: what a pass and a look make of it, and in which order.
//! In: how this node takes part, and ways by IPIP. Out: programs at the uplink, `TUNNELS`, routes, an address on loopback.
//! Invariant: the fake panics for a route by IPIP where nothing wraps.
//! Never: a device.

use super::{
    super::ipip::{IPIP_HOOKS, of_peer, of_way},
    *,
};
use crate::tables::prefix;
use abi::tunnel::{FROM_IPIP, FROM_VXLAN};
use calc::{IpipSpec, Latest, NodeRoute, Touched, TunnelSpec};
use model::{Cidr, Vteps};
use netlink::{LOOPBACK, Route};
use std::net::Ipv4Addr;

const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 65, 1, 9);

fn net(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn wrapped(own: Option<Ipv4Addr>) -> Desired {
    let local = Ipv4Addr::new(192, 0, 2, 1);
    let spec = IpipSpec { local, own, peers: [FAR, NEAR].into(), externals: BTreeSet::new(), mtu: None };
    let routes = [("10.65.3.0/26", FAR), ("10.65.2.0/26", NEAR)];
    let routes = routes.map(|(to, remote)| (net(to), NodeRoute::Ipip { remote })).into();
    Desired { routes, ipip: Some(Arc::new(spec)), ..Desired::default() }
}

/// With a gateway, and a network of its own.
fn routed() -> Rc<RefCell<Kernel>> {
    let kernel = kernel();
    let way = |to: &str, gateway: Option<[u8; 4]>| {
        let gateway = gateway.map(IpAddr::from);
        Route { gateway, ..foreign_route(UPLINK, to, 2) }
    };
    let mut held = kernel.borrow_mut();
    held.seen.routes.retain(|route| route.destination != net("0.0.0.0/0"));
    held.seen.routes.extend([way("0.0.0.0/0", Some([192, 0, 2, 254])), way("192.0.2.0/24", None)]);
    held.add_link(LOOPBACK.0, "lo");
    drop(held);
    kernel
}

fn ways(kernel: &Rc<RefCell<Kernel>>) -> Vec<(String, Option<IpAddr>, u32, Option<IpAddr>)> {
    let kernel = kernel.borrow();
    let routes = kernel.seen.node_routes.iter();
    routes.map(|route| (route.destination.to_string(), route.gateway, route.mtu, route.source)).collect()
}

fn position(done: &[String], what: &str) -> usize {
    done.iter().position(|done| done.contains(what)).unwrap_or_else(|| panic!("no {what} in {done:#?}"))
}

#[test]
fn agt_10_programs_and_tables_come_first_and_a_route_leads_by_whoever_leads_to_the_node() {
    let kernel = routed();
    let mut node = node(&kernel);
    apply(&mut node, &wrapped(Some(OWN)));
    let done = std::mem::take(&mut kernel.borrow_mut().done);
    let order = ["attach from_ipip", "attach to_ipip", "Tunnel(", "route"].map(|what| position(&done, what));
    assert!(order.is_sorted(), "{done:#?}");
    let by = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
    let own = Some(IpAddr::V4(OWN));
    let expected = [("10.65.2.0/26".to_owned(), by(2), 1480, own), ("10.65.3.0/26".to_owned(), by(254), 1480, own)];
    assert_eq!(ways(&kernel), expected);
    assert_eq!(kernel.borrow().labelled, [(LOOPBACK.0, OWN)].into());
    let key = |text: &str| prefix::net_key(&net(text)).expect("a key");
    let expected = [
        (key("10.65.2.0/26"), of_way(NEAR)),
        (key("10.65.3.0/26"), of_way(FAR)),
        (key("192.0.2.2/32"), of_peer(NEAR)),
        (key("198.51.100.3/32"), of_peer(FAR)),
    ];
    assert_eq!(kernel.borrow().tables.tunnels, expected.into());
    apply(&mut node, &wrapped(Some(OWN)));
    assert!(kernel.borrow().done.iter().all(|done| done.contains("TunnelLocal")), "{:?}", kernel.borrow().done);
}

#[test]
fn pkt_61_routes_have_the_mtu_that_is_said_from_then_on_and_never_more_than_the_uplink_leaves() {
    let kernel = routed();
    let mut node = node(&kernel);
    for (said, mtu) in [(None, 1480), (Some(1300), 1300), (Some(9000), 1480)] {
        let wanted = wrapped(None);
        let spec = wanted.ipip.as_deref().cloned().expect("it takes part");
        apply(&mut node, &Desired { ipip: Some(Arc::new(IpipSpec { mtu: said, ..spec })), ..wanted });
        assert!(ways(&kernel).iter().all(|(_, _, found, _)| *found == mtu), "{said:?}: {:?}", ways(&kernel));
    }
}

#[test]
fn agt_10_when_no_pool_asks_for_it_routes_go_first_and_the_programs_last() {
    let kernel = routed();
    let mut node = node(&kernel);
    apply(&mut node, &wrapped(Some(OWN)));
    kernel.borrow_mut().done.clear();
    apply(&mut node, &Desired::default());
    node.settle().expect("swept");
    let done = std::mem::take(&mut kernel.borrow_mut().done);
    let order = ["delete route", "None)", "detach from_ipip"].map(|what| position(&done, what));
    assert!(order.is_sorted(), "{done:#?}");
    let kernel = kernel.borrow();
    assert!(kernel.tables.tunnels.is_empty() && kernel.labelled.is_empty() && kernel.seen.node_routes.is_empty());
    assert!(IPIP_HOOKS.iter().all(|hook| !kernel.attached.contains(&(UPLINK, *hook))));
}

#[test]
fn a_former_agents_address_goes_and_one_that_others_took_comes_back() {
    let kernel = routed();
    kernel.borrow_mut().labelled.insert((LOOPBACK.0, Ipv4Addr::new(10, 65, 1, 3)));
    let mut node = node(&kernel);
    apply(&mut node, &wrapped(Some(OWN)));
    assert_eq!(kernel.borrow().labelled, [(LOOPBACK.0, OWN)].into());
    kernel.borrow_mut().labelled.clear();
    let looked = node.look(&wrapped(Some(OWN)), Extent::Everything);
    assert_eq!((looked.repaired.len(), kernel.borrow().labelled.len()), (1, 1), "{:?}", looked.repaired);
}

#[test]
fn an_address_within_that_comes_later_is_in_the_routes_at_once_and_nobody_else_has_changed_them() {
    let kernel = routed();
    let mut node = node(&kernel);
    let sources = || ways(&kernel).into_iter().map(|(.., source)| source).collect::<Vec<_>>();
    // No route is another: what differs is how this node takes part.
    for (number, own) in [(1, None), (2, Some(OWN)), (3, Some(Ipv4Addr::new(10, 65, 1, 10)))] {
        let (desired, touched) = (wrapped(own), Touched::default());
        assert!(node.apply(Latest::numbered(&desired, number, &touched)).failed.is_empty());
        assert_eq!(sources(), [own.map(IpAddr::V4); 2], "{own:?}");
        let looked = node.look(Latest::numbered(&desired, number, &touched), Extent::Told);
        assert!(looked.repaired.is_empty(), "{:?}", looked.repaired);
    }
}

#[test]
fn routes_follow_the_gateway_and_there_is_none_where_nothing_wraps() {
    let kernel = routed();
    let mut node = node(&kernel);
    apply(&mut node, &wrapped(None));
    node.look(&wrapped(None), Extent::Told);
    let far = |kernel: &Rc<RefCell<Kernel>>| ways(kernel).into_iter().find(|(to, ..)| to == "10.65.3.0/26");
    let another = Route { gateway: Some([192, 0, 2, 253].into()), ..foreign_route(UPLINK, "198.51.100.0/24", 4) };
    kernel.borrow_mut().seen.routes.insert(another.clone());
    let looked = node.look(&wrapped(None), Extent::Told);
    assert_eq!(far(&kernel).and_then(|(_, gateway, ..)| gateway), another.gateway);
    assert!(looked.repaired.is_empty(), "nobody else has changed it: {:?}", looked.repaired);
    // By another interface nothing is wrapped.
    kernel.borrow_mut().seen.routes.remove(&another);
    kernel.borrow_mut().seen.routes.insert(Route { interface: Ifindex(OTHER), ..another });
    let looked = node.look(&wrapped(None), Extent::Told);
    assert!(looked.failed.iter().any(|(_, error)| error.reason.contains("not by the uplink")), "{:?}", looked.failed);
    assert_eq!(far(&kernel), None);
    // A kernel that takes no such program.
    let kernel = routed();
    let mut node = self::node(&kernel);
    kernel.borrow_mut().refuses = Some("attach to_ipip");
    let applied = node.apply(&wrapped(None));
    assert!(applied.failed.iter().any(|(item, _)| item == "IPIP"), "{:?}", applied.failed);
    assert_eq!(ways(&kernel), []);
}

#[test]
fn a_node_of_both_kinds_sends_by_both() {
    let kernel = routed();
    let mut node = node(&kernel);
    let (own, peers) = (Vteps::default(), [FAR.into()].into());
    let tunnel =
        TunnelSpec { own, local: Vec::new(), peers, externals: BTreeSet::new(), mtu: None, vni: None, port: None };
    node.apply(&Desired { tunnel: Some(Arc::new(tunnel)), ..wrapped(None) });
    let key = prefix::net_key(&net("198.51.100.3/32")).expect("a key");
    assert_eq!(kernel.borrow().tables.tunnels[&key].ways, FROM_IPIP | FROM_VXLAN);
}
