//! Services in rules: CAL-36.
//! In: the cast, slices of endpoints, and one rule that asks for a service. Out: who is let in, or may be reached.
//! Invariant: every endpoint of every slice counts, and none that is in no slice.
//! Never: the address of a service itself.

use super::cast::*;
use crate::{compiled::Compiled, row};
use model::{Action, EndpointSlice, EndpointSliceId, Protocol, Rule, ServiceId, SliceEndpoint, SlicePort};

const OUTSIDE: &str = "198.51.100.9";

fn shop() -> ServiceId {
    ServiceId { namespace: "y".into(), name: "shop".into() }
}

fn asks(action: Action) -> Rule {
    Rule { service: Some(shop().into()), ..does(action) }
}

fn out_of_x(rules: [Rule; 2]) -> Cast {
    Cast::new([global("default", "p").selecting("projectcalico.org/namespace == 'x'").out(rules)])
}

fn into_x(rules: [Rule; 2]) -> Cast {
    Cast::new([global("default", "p").selecting("projectcalico.org/namespace == 'x'").into(rules)])
}

/// A rule that matches nothing, to stand beside the one that matters.
fn nothing() -> Rule {
    Rule { source: end("has(nothing)"), ..does(Action::Allow) }
}

fn slice(name: &str, service: ServiceId, ends: &[&str], ports: &[(Protocol, u16)]) -> EndpointSlice {
    let addresses = ends
        .iter()
        .flat_map(|end| if end.contains('/') { block(end).to_vec() } else { vec![cidr(&format!("{end}/32"))] });
    let endpoints = addresses.map(|net| SliceEndpoint::ready_at(net.network())).collect();
    let port = |(protocol, port): &(Protocol, u16)| SlicePort { name: "".into(), protocol: *protocol, port: *port };
    EndpointSlice {
        id: EndpointSliceId { namespace: service.namespace.clone(), name: name.into() },
        service: Some(service),
        endpoints,
        ports: ports.iter().map(port).collect(),
        unproxied: false,
    }
}

#[test]
fn cal_36_egress_to_a_service_is_to_its_endpoints_at_its_ports_alone() {
    let mut cast = out_of_x([asks(Action::Allow), nothing()]);
    assert_eq!(cast.reached_by("x/a"), "", "a service that nobody described has no endpoints");
    cast.0.slices = vec![slice("s-1", shop(), &["y/a", OUTSIDE], &[(TCP, 80), (UDP, 53)])];
    assert_eq!(cast.reached_by("x/a"), "y/a");
    for (protocol, port, open) in
        [(TCP, 80, true), (UDP, 53, true), (TCP, 53, false), (UDP, 80, false), (SCTP, 80, false)]
    {
        assert_eq!(cast.lets("x/a", "y/a", protocol, port), open, "{protocol} {port}");
        assert_eq!(cast.lets("x/a", OUTSIDE, protocol, port), open, "{protocol} {port} outside");
    }
    assert!(!cast.lets("x/a", "y/a", Protocol::ICMP, 0) && !cast.lets("x/a", STRANGER, TCP, 80));
}

#[test]
fn cal_36_slices_of_one_service_add_up_and_each_has_its_own_ports() {
    let mut cast = out_of_x([asks(Action::Allow), nothing()]);
    let other = ServiceId { namespace: "z".into(), name: "shop".into() };
    cast.0.slices = vec![
        slice("s-1", shop(), &["y/a", "y/b"], &[(TCP, 80)]),
        slice("s-2", shop(), &["y/b", "z/a"], &[(TCP, 81)]),
        slice("s-1", other, &["y/c"], &[(TCP, 80)]),
    ];
    assert_eq!(cast.reached_by("x/a"), "y/a y/b");
    let at_81 = ["y/a", "y/b", "y/c", "z/a"].map(|to| cast.lets("x/a", to, TCP, 81));
    assert_eq!(at_81, [false, true, false, true]);
    cast.0.slices.remove(0);
    assert_eq!(cast.reached_by("x/a"), "", "y/b stays an endpoint, at the other port");
    assert!(cast.lets("x/a", "y/b", TCP, 81));
}

#[test]
fn cal_36_a_denied_service_leaves_other_ports_and_everybody_else_open() {
    let mut cast = out_of_x([asks(Action::Deny), does(Action::Allow)]);
    cast.0.slices = vec![slice("s-1", shop(), &["y/a"], &[(TCP, 80)])];
    assert_eq!(cast.reached_by("x/a"), "x/b x/c y/b y/c z/a z/b z/c");
    assert!(cast.lets("x/a", "y/a", TCP, 81) && cast.lets("x/a", "y/a", UDP, 80));
}

#[test]
fn cal_36_ingress_from_a_service_asks_for_the_address_alone_and_ports_may_stand_beside_it() {
    let mut cast = into_x([asks(Action::Allow), nothing()]);
    cast.0.slices = vec![slice("s-1", shop(), &["y/a", OUTSIDE], &[]), slice("s-2", shop(), &["z/b"], &[(TCP, 9)])];
    assert_eq!(cast.reach("x/a"), "y/a z/b");
    assert!(cast.lets("y/a", "x/a", UDP, 7) && cast.lets(OUTSIDE, "x/a", TCP, 81));
    let narrow = Rule { protocol: Some(TCP), destination: end_ports(&[(80, 80)], &[]), ..asks(Action::Allow) };
    let mut cast = into_x([narrow, nothing()]);
    cast.0.slices = vec![slice("s-1", shop(), &["y/a"], &[])];
    assert!(cast.lets("y/a", "x/a", TCP, 80) && !cast.lets("y/a", "x/a", TCP, 81));
}

#[test]
fn cal_36_endpoints_that_no_rule_asks_for_are_in_no_class() {
    let mut cast = out_of_x([asks(Action::Allow), nothing()]);
    let other = ServiceId { namespace: "y".into(), name: "other".into() };
    cast.0.slices = vec![slice("s-1", shop(), &["y/a"], &[(TCP, 80)]), slice("s-2", other, &["y/b"], &[(TCP, 80)])];
    let compiled = Compiled::of(&cast.0);
    let [asked, unasked, nobody] = ["y/a", "y/b", "y/c"].map(|pod| compiled.class(block(pod)[0].network()));
    assert_eq!(asked.services.len(), 1);
    assert!(unasked.services.is_empty() && unasked == nobody);
    let sets = &compiled.sets[0].1;
    assert!(sets.asks_peer() && row(sets, &asked) != row(sets, &nobody));
}
