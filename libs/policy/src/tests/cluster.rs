//! ClusterNetworkPolicies, case by case as the API's own conformance suites put them: CNPT-1 to CNPT-9.
//! In: the cast; pods of x are the subject, pods of y or networks the peers. Out: what is let through.
//! Invariant: each case stands beside the one that it turns round.
//! Never: how a manifest is read; converters have tests of their own.

use super::cast::*;
use crate::{compiled::Compiled, row};
use model::{Action, EntityMatch, Node, PolicyKind, PortMatch, PortRange, Protocol, Rule, TierName};

const ADMIN: &str = TierName::KUBE_ADMIN;
const BASELINE: &str = TierName::KUBE_BASELINE;
const PROTOCOLS: [Protocol; 3] = [TCP, UDP, SCTP];

/// For all pods of x, asked in no direction yet.
fn cluster(tier: &str, name: &str, priority: f64) -> Draft {
    let mut draft = global(tier, name).at(priority).selecting("projectcalico.org/namespace == 'x'");
    draft.0.id.kind = PolicyKind::ClusterNetworkPolicy;
    draft
}

fn ports(port: Option<u16>) -> Option<Box<[PortMatch]>> {
    port.map(|port| [PortMatch::Range(PortRange::single(port))].into())
}

fn pods_of_y() -> EntityMatch {
    end("pcns.ns == 'y'")
}

fn from_y(action: Action, protocol: Protocol, port: Option<u16>) -> Rule {
    let destination = EntityMatch { ports: ports(port), ..EntityMatch::default() };
    Rule { protocol: Some(protocol), source: pods_of_y(), destination, ..does(action) }
}

fn to_y(action: Action, protocol: Protocol, port: Option<u16>) -> Rule {
    Rule { protocol: Some(protocol), destination: EntityMatch { ports: ports(port), ..pods_of_y() }, ..does(action) }
}

/// What two rules in this order make of ports 80 and 81: `(actions and ports, lets 80, lets 81)`.
type Case = ([(Action, Option<u16>); 2], bool, bool);

const ALLOW_AND_DENY: [Case; 4] = [
    ([(Action::Allow, None), (Action::Deny, None)], true, true),
    ([(Action::Deny, None), (Action::Allow, None)], false, false),
    ([(Action::Allow, Some(80)), (Action::Deny, None)], true, false),
    ([(Action::Deny, Some(80)), (Action::Allow, None)], false, true),
];
const PASS: [Case; 2] = [
    ([(Action::Pass, None), (Action::Deny, None)], true, true),
    ([(Action::Pass, Some(80)), (Action::Deny, None)], true, false),
];

fn ingress_cases(tier: &str, cases: &[Case]) {
    for protocol in PROTOCOLS {
        for (rules, at_80, at_81) in cases {
            let rules = rules.map(|(action, port)| from_y(action, protocol, port));
            let cast = Cast::new([cluster(tier, "p", 5.0).into(rules)]);
            let lets = [80, 81].map(|port| cast.lets("y/a", "x/a", protocol, port));
            assert_eq!(lets, [*at_80, *at_81], "{protocol} {:?}", cast.0.policies[0].ingress);
            let others = PROTOCOLS.into_iter().filter(|other| *other != protocol);
            assert!(others.into_iter().all(|other| cast.lets("y/a", "x/a", other, 80)), "another protocol");
            assert!(cast.lets("z/a", "x/a", protocol, 80) && cast.lets("x/a", "y/a", protocol, 80), "nobody else");
        }
    }
}

fn egress_cases(tier: &str, cases: &[Case]) {
    for protocol in PROTOCOLS {
        for (rules, at_80, at_81) in cases {
            let rules = rules.map(|(action, port)| to_y(action, protocol, port));
            let cast = Cast::new([cluster(tier, "p", 5.0).out(rules)]);
            let lets = [80, 81].map(|port| cast.lets("x/a", "y/a", protocol, port));
            assert_eq!(lets, [*at_80, *at_81], "{protocol} {:?}", cast.0.policies[0].egress);
            assert!(cast.lets("x/a", "z/a", protocol, 80) && cast.lets("y/a", "x/a", protocol, 80), "nobody else");
        }
    }
}

#[test]
fn cnpt_1_admin_ingress_allows_denies_and_passes_in_the_order_of_its_rules_also_by_port() {
    ingress_cases(ADMIN, &ALLOW_AND_DENY);
    ingress_cases(ADMIN, &PASS);
}

#[test]
fn cnpt_2_admin_egress_allows_denies_and_passes_in_the_order_of_its_rules_also_by_port() {
    egress_cases(ADMIN, &ALLOW_AND_DENY);
    egress_cases(ADMIN, &PASS);
}

#[test]
fn cnpt_3_both_directions_of_one_policy_are_judged_by_their_own_rules() {
    let of = |into: Action, out: Action| {
        let every = |rule: fn(Action, Protocol, Option<u16>) -> Rule, action| {
            PROTOCOLS.map(|protocol| rule(action, protocol, None))
        };
        Cast::new([cluster(ADMIN, "p", 5.0).into(every(from_y, into)).out(every(to_y, out))])
    };
    let actions = [(Action::Allow, true), (Action::Deny, false), (Action::Pass, true)];
    for ((into, lets_in), (out, lets_out)) in actions.into_iter().flat_map(|into| actions.map(|out| (into, out))) {
        let cast = of(into, out);
        for protocol in PROTOCOLS {
            assert_eq!(cast.lets("y/b", "x/b", protocol, 80), lets_in, "{into:?} {out:?} {protocol}");
            assert_eq!(cast.lets("x/b", "y/b", protocol, 80), lets_out, "{into:?} {out:?} {protocol}");
        }
    }
}

#[test]
fn cnpt_4_two_policies_that_change_places_change_the_verdict() {
    let of = |denies: f64, passes: f64| {
        let deny = cluster(ADMIN, "deny", denies).into([from_y(Action::Deny, TCP, None)]);
        let pass = cluster(ADMIN, "pass", passes).into([from_y(Action::Pass, TCP, None)]);
        let baseline = cluster(BASELINE, "base", 0.0)
            .into([from_y(Action::Deny, TCP, Some(80)), from_y(Action::Allow, TCP, None)]);
        Cast::new([deny, pass, baseline])
    };
    assert!(!of(10.0, 20.0).lets("y/a", "x/a", TCP, 81));
    let swapped = of(20.0, 10.0);
    assert!(swapped.lets("y/a", "x/a", TCP, 81) && !swapped.lets("y/a", "x/a", TCP, 80), "the baseline decides");
}

#[test]
fn cnpt_6_networks_hold_for_pods_too_and_what_is_accepted_before_them_stays_open() {
    let everywhere = || Rule { destination: end_nets(&["0.0.0.0/0", "::/0"], &[]), ..does(Action::Deny) };
    let to_pods = Rule { destination: pods_of_y(), ..does(Action::Allow) };
    let mut cast = Cast::new([cluster(ADMIN, "p", 5.0).out([to_pods.clone(), everywhere()])]);
    assert_eq!(cast.reached_by("x/a"), "y/a y/b y/c");
    assert!(!cast.lets("x/a", STRANGER, TCP, 80));
    cast.0.namespaces.insert("y".into(), labels(&[("ns", "other")]));
    assert_eq!(cast.reached_by("x/a"), "", "a namespace that is labelled otherwise");
    let one = block("z/b").map(|net| net.to_string());
    let to_one = Rule { destination: end_nets(&[&one[0], &one[1]], &[]), ..does(Action::Allow) };
    let cast = Cast::new([cluster(ADMIN, "p", 5.0).out([to_one, to_pods, everywhere()])]);
    assert_eq!(cast.reached_by("x/a"), "y/a y/b y/c z/b");
}

#[test]
fn cnpt_7_a_named_port_is_the_destinations_in_both_directions() {
    let named =
        || EntityMatch { ports: Some([PortMatch::Named("serve-81-udp".into())].into()), ..EntityMatch::default() };
    let into = Rule { source: pods_of_y(), destination: named(), ..does(Action::Allow) };
    let out = Rule { destination: EntityMatch { ports: named().ports, ..pods_of_y() }, ..does(Action::Allow) };
    let closed = || does(Action::Deny);
    let into = Cast::new([cluster(ADMIN, "p", 5.0).into([into, closed()])]);
    let out = Cast::new([cluster(ADMIN, "p", 5.0).out([out, closed()])]);
    for (protocol, port) in PROTOCOLS.into_iter().flat_map(|protocol| [(protocol, 80), (protocol, 81)]) {
        let is_it = (protocol, port) == (UDP, 81);
        assert_eq!(into.lets("y/a", "x/a", protocol, port), is_it, "{protocol} {port}");
        assert_eq!(out.lets("x/a", "y/a", protocol, port), is_it, "{protocol} {port}");
    }
}

#[test]
fn cnpt_8_nodes_are_accepted_passed_and_denied_as_peers_of_egress() {
    let nodes = |action| Rule {
        destination: EntityMatch { nodes: Some(is("role", "edge").into()), ..EntityMatch::default() },
        ..does(action)
    };
    for (action, open) in [(Action::Allow, true), (Action::Pass, true), (Action::Deny, false)] {
        let mut cast = Cast::new([cluster(ADMIN, "p", 5.0).out([nodes(action), to_y(Action::Deny, TCP, None)])]);
        let node = |name: &str, address: &str, role: &str| Node {
            name: name.into(),
            addresses: vec![address.parse().expect("because the test writes an address")],
            labels: labels(&[("role", role)]),
            pod_cidrs: vec![],
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        };
        cast.0.nodes =
            vec![node("here", HOST, "edge"), node("there", STRANGER, "edge"), node("far", "198.51.100.9", "other")];
        for address in [HOST, STRANGER] {
            assert_eq!(cast.lets("x/a", address, TCP, 80), open, "{action:?} {address}");
        }
        assert!(cast.lets("x/a", "198.51.100.9", TCP, 80), "a node that is not selected");
    }
}

#[test]
fn cnpt_9_the_baseline_allows_and_denies_as_the_admin_tier_does() {
    ingress_cases(BASELINE, &ALLOW_AND_DENY);
    egress_cases(BASELINE, &ALLOW_AND_DENY);
    let deny = || cluster(BASELINE, "p", 5.0).into([from_y(Action::Deny, TCP, None)]);
    let open = policy("x", "open").ingress([all()]);
    assert!(Cast::new([deny(), open]).lets("y/a", "x/a", TCP, 80), "a policy of the pod comes first");
}

/// As a peer is written: nothing, everything, or a label.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Nil,
    Empty,
    Label,
}

const WANTED: [Wanted; 3] = [Wanted::Nil, Wanted::Empty, Wanted::Label];

/// A peer of a NetworkPolicy of x, and whether it is meant to be somebody.
fn peer(pod: Wanted, namespace: Wanted) -> (EntityMatch, impl Fn(&str) -> bool) {
    let pods = if pod == Wanted::Label { is("pod", "b") } else { model::Selector::All };
    let written = match namespace {
        Wanted::Nil => super::cast::pods("x", pods),
        Wanted::Empty => both(model::Selector::All, pods),
        Wanted::Label => both(is("ns", "y"), pods),
    };
    let means = move |who: &str| {
        let in_namespace = match namespace {
            Wanted::Nil => who.starts_with("x/"),
            Wanted::Empty => true,
            Wanted::Label => who.starts_with("y/"),
        };
        in_namespace && (pod != Wanted::Label || who.ends_with("/b"))
    };
    (written, means)
}

/// As written, and who is meant.
type Peer = (EntityMatch, Box<dyn Fn(&str) -> bool>);

#[test]
fn cyc_7_every_way_to_say_a_peer_alone_and_in_pairs_in_both_directions() {
    let combinations = WANTED.into_iter().flat_map(|pod| WANTED.map(|namespace| (pod, namespace)));
    let mut peers: Vec<Peer> = Vec::new();
    for (pod, namespace) in combinations.filter(|one| *one != (Wanted::Nil, Wanted::Nil)) {
        let (written, means) = peer(pod, namespace);
        peers.push((written, Box::new(means)));
    }
    let nets = [cidr("10.65.2.0/24"), cidr("fd65::2:0/112")];
    peers.push((ip_block(&nets, &[]), Box::new(|who| who.starts_with("y/"))));
    peers.push((ip_block(&nets, &block("y/b")), Box::new(|who| who.starts_with("y/") && who != "y/b")));
    for one in 0..peers.len() {
        for other in one..peers.len() {
            let written = || super::cast::peers([peers[one].0.clone(), peers[other].0.clone()]);
            let means = |who: &str| (peers[one].1)(who) || (peers[other].1)(who);
            let expected: Vec<_> = everybody().filter(|who| who != "x/a" && means(who)).collect();
            let into = Cast::new([policy("x", "p").of(is("pod", "a")).ingress([written()])]);
            assert_eq!(into.reach("x/a"), expected.join(" "), "peers {one} and {other}");
            let out = Cast::new([policy("x", "p").of(is("pod", "a")).egress([written()])]);
            assert_eq!(out.reached_by("x/a"), expected.join(" "), "peers {one} and {other}");
        }
    }
}

#[test]
fn own_7_a_thousand_exceptions_of_everything_are_holes_of_one_address_each() {
    let hole = |number: u32| cidr(&format!("{}/32", std::net::Ipv4Addr::from(0xc633_6400 + 2 * number)));
    let holes: Vec<_> = (0..1000).map(hole).collect();
    let cast = Cast::new([policy("x", "p").ingress([peers([ip_block(&[cidr("0.0.0.0/0")], &holes)])])]);
    for number in [0u32, 1, 499, 999] {
        let address = |offset| std::net::Ipv4Addr::from(0xc633_6400 + 2 * number + offset).to_string();
        assert!(!cast.lets(&address(0), "x/a", TCP, 80) && cast.lets(&address(1), "x/a", TCP, 80), "{number}");
    }
    assert!(!cast.lets("2001:db8::7", "x/a", TCP, 80), "and nothing of the other family");
}

#[test]
fn own_8_a_thousand_peers_at_a_thousand_ports_cost_a_peer_its_own_ports_alone() {
    let ports: Box<[_]> = (0..1000).map(|number| PortMatch::Range(PortRange::single(2 * number + 1))).collect();
    let address = |number: u32| std::net::Ipv4Addr::from(0xc633_6400 + number);
    let peer = |number: u32| Rule {
        protocol: Some(TCP),
        source: end_nets(&[&format!("{}/32", address(number))], &[]),
        destination: EntityMatch { ports: Some(ports.clone()), ..EntityMatch::default() },
        ..does(Action::Allow)
    };
    let mut draft = policy("x", "p").of(is("pod", "a"));
    draft.0.types.ingress = true;
    draft.0.ingress = (0..1000).map(peer).collect();
    let cast = Cast::new([draft]);
    let compiled = Compiled::of(&cast.0);
    let at = cast.0.endpoints.iter().position(|endpoint| endpoint.id.to_string() == "x/a");
    let set = &compiled.sets[at.expect("one of the cast")].0;
    let spans = |from: u32| row(set, &compiled.class(address(from).into())).0.len();
    // Each of its ports, what lies between them, and what comes after.
    assert_eq!([0, 1, 499, 999].map(spans), [2001; 4]);
    assert_eq!(spans(1000), 1, "for somebody else");
    let lets = |from: u32, port| cast.lets(&address(from).to_string(), "x/a", TCP, port);
    assert!(lets(999, 1999) && !lets(999, 1998) && !lets(1000, 1999));
}
