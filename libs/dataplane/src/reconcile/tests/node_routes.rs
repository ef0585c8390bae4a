//! Routes to other nodes: what a pass and a look make of them.
//! In: small Desireds, and routes of others. Out: the kernel's routes, and which calls that took.
//! Invariant: nothing is done where all is as wanted.
//! Never: a route of another protocol.

use super::{
    super::node_routes::{blackhole, via},
    *,
};
use calc::NodeRoute;
use model::Cidr;
use netlink::{Route, watch::Event};

fn net(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn gateway(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

fn by(number: u8) -> NodeRoute {
    NodeRoute::Via { gateway: gateway(number), interface: IfaceName("eth0".into()) }
}

fn desired(routes: &[(&str, NodeRoute)]) -> Desired {
    let routes = routes.iter().map(|(to, route)| (net(to), route.clone())).collect();
    Desired { routes, ..Desired::default() }
}

fn there(kernel: &Rc<RefCell<Kernel>>) -> Vec<Route> {
    kernel.borrow().seen.node_routes.iter().cloned().collect()
}

fn done(kernel: &Rc<RefCell<Kernel>>) -> Vec<String> {
    std::mem::take(&mut kernel.borrow_mut().done).into_iter().filter(|done| done.contains("route")).collect()
}

#[test]
fn ipam_24_routes_come_change_and_go_and_what_a_former_agent_left_goes_too() {
    let kernel = kernel();
    kernel.borrow_mut().seen.learn(Event::Route(via(net("10.65.9.0/26"), gateway(9), Ifindex(UPLINK))));
    let mut node = node(&kernel);
    let wanted = desired(&[
        ("10.65.0.0/26", NodeRoute::Blackhole),
        ("10.65.1.0/26", by(2)),
        ("fd00::/122", NodeRoute::None("n3".into(), calc::Unroutable::Far)),
    ]);
    apply(&mut node, &wanted);
    assert_eq!(there(&kernel), [blackhole(net("10.65.0.0/26")), via(net("10.65.1.0/26"), gateway(2), Ifindex(UPLINK))]);
    done(&kernel);
    apply(&mut node, &wanted);
    assert_eq!(done(&kernel), Vec::<String>::new());
    // One that leads elsewhere is replaced, and at no moment gone.
    apply(&mut node, &desired(&[("10.65.0.0/26", NodeRoute::Blackhole), ("10.65.1.0/26", by(3))]));
    assert_eq!(done(&kernel), [format!("route {UPLINK} 10.65.1.0/26")]);
    // A block that comes to this node leads nowhere from then on.
    apply(&mut node, &desired(&[("10.65.1.0/26", NodeRoute::Blackhole)]));
    assert_eq!(there(&kernel), [blackhole(net("10.65.1.0/26"))]);
    apply(&mut node, &Desired::default());
    assert_eq!(there(&kernel), []);
}

#[test]
fn anothers_route_to_the_same_network_stays_and_ours_comes_once_it_is_gone() {
    let kernel = kernel();
    let others = foreign_route(UPLINK, "10.65.1.0/26", 12);
    kernel.borrow_mut().seen.routes.insert(others.clone());
    let mut node = node(&kernel);
    let wanted = desired(&[("10.65.1.0/26", by(2)), ("10.65.2.0/26", by(3))]);
    apply(&mut node, &wanted);
    assert!(kernel.borrow().seen.routes.contains(&others));
    assert_eq!(there(&kernel).len(), 1);
    // A look that knows all the others asks for the one that waits.
    for _ in 0..2 {
        let failed = node.look(&wanted, Extent::Told).failed;
        let [(item, error)] = &failed[..] else { panic!("{failed:?}") };
        assert!(item.contains("10.65.1.0/26") && error.to_string().contains("protocol 12"), "{item}: {error}");
    }
    kernel.borrow_mut().seen.routes.remove(&others);
    let looked = node.look(&wanted, Extent::Told);
    assert!(looked.failed.is_empty() && looked.repaired.is_empty(), "nobody changed it: {looked:?}");
    assert_eq!(there(&kernel).len(), 2);
}

#[test]
fn one_of_ours_that_leads_elsewhere_does_not_stay_beside_anothers() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &desired(&[("10.65.1.0/26", by(2))]));
    let others = Route { metric: 32, ..foreign_route(UPLINK, "10.65.1.0/26", 12) };
    kernel.borrow_mut().seen.routes.insert(others.clone());
    apply(&mut node, &desired(&[("10.65.1.0/26", by(2))]));
    assert_eq!(there(&kernel).len(), 1, "it was there first, and is right");
    apply(&mut node, &desired(&[("10.65.1.0/26", by(3))]));
    assert_eq!(there(&kernel), [], "packets would go on to the former node");
    assert!(kernel.borrow().seen.routes.contains(&others));
}

#[test]
fn the_way_is_never_gone_between_two() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &desired(&[("10.65.1.0/26", by(2))]));
    done(&kernel);
    apply(&mut node, &desired(&[("10.65.1.0/26", NodeRoute::Blackhole)]));
    assert_eq!(done(&kernel), ["route 0 10.65.1.0/26".to_owned(), format!("delete route {UPLINK} 10.65.1.0/26")]);
}

#[test]
fn where_the_interface_is_down_that_is_told_and_the_route_comes_back_with_it() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let wanted = desired(&[("10.65.1.0/26", by(2))]);
    apply(&mut node, &wanted);
    let link = |up: bool| {
        let uplink = kernel.borrow().seen.links[&IfaceName("eth0".into())].clone();
        kernel.borrow_mut().seen.learn(Event::Link(netlink::Link { up, ..uplink }));
    };
    link(false);
    assert_eq!(there(&kernel), [], "it went with the link");
    let failed = node.look(&wanted, Extent::Told).failed;
    assert!(failed.iter().any(|(_, error)| error.to_string().contains("eth0 is down")), "{failed:?}");
    link(true);
    assert!(node.look(&wanted, Extent::Told).failed.is_empty());
    assert_eq!(there(&kernel).len(), 1);
}

#[test]
fn what_others_take_away_or_change_is_put_back_and_a_look_at_what_is_right_does_nothing() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let wanted = desired(&[("10.65.0.0/26", NodeRoute::Blackhole), ("10.65.1.0/26", by(2))]);
    apply(&mut node, &wanted);
    let all = there(&kernel);
    node.look(&wanted, Extent::Told);
    done(&kernel);
    assert!(node.look(&wanted, Extent::Told).repaired.is_empty());
    for gone in all.clone() {
        kernel.borrow_mut().seen.learn(Event::RouteGone(gone));
    }
    let repaired = node.look(&wanted, Extent::Told).repaired;
    assert!(repaired.len() == 2 && repaired.iter().all(|drift| drift.kind == DriftKind::Route), "{repaired:?}");
    assert_eq!(there(&kernel), all);
    kernel.borrow_mut().seen.learn(Event::Route(via(net("10.65.1.0/26"), gateway(7), Ifindex(UPLINK))));
    assert_eq!(node.look(&wanted, Extent::Told).repaired.len(), 1);
    assert_eq!(there(&kernel), all);
}
