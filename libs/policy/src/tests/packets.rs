//! What a rule asks of protocol, ports and ICMP messages, and its negations: CAL rows.
//! In: the cast and one rule. Out: which packets it lets in.
//! Invariant: each row names its conformance id.
//! Never: ends; `anybody` may send.

use super::cast::*;
use model::{Action, EntityMatch, IcmpMatch, NamedPort, PortMatch, PortRange, Protocol, Rule};

const UDPLITE: Protocol = Protocol(136);
const OTHER: Protocol = Protocol(253);

fn allowing(rule: Rule) -> Cast {
    Cast::new([global("default", "p").selecting("pod == 'a'").into([rule])])
}

/// Whether it gets through in both families.
fn lets(rule: &Rule, protocol: Protocol, detail: u16) -> bool {
    allowing(rule.clone()).lets("y/b", "x/a", protocol, detail)
}

fn named(names: &[&str], not_names: &[&str]) -> EntityMatch {
    let all = |names: &[&str]| names.iter().map(|name| PortMatch::Named((*name).into())).collect::<Box<[_]>>();
    let given = Some(all(names)).filter(|names| !names.is_empty());
    EntityMatch { ports: given, not_ports: all(not_names), ..EntityMatch::default() }
}

#[test]
fn cal_20_a_protocol_by_number_and_its_negation() {
    let only = Rule { protocol: Some(OTHER), ..does(Action::Allow) };
    assert!(lets(&only, OTHER, 0) && !lets(&only, Protocol(254), 0) && !lets(&only, TCP, 80));
    let not = Rule { not_protocol: Some(TCP), ..does(Action::Allow) };
    assert!(!lets(&not, TCP, 80) && lets(&not, UDP, 80) && lets(&not, OTHER, 0) && lets(&not, Protocol::ICMP, 0));
    let neither = Rule { protocol: Some(TCP), ..not };
    assert!(!lets(&neither, TCP, 80) && !lets(&neither, UDP, 80));
}

#[test]
fn cal_21_port_ranges_reach_both_edges_and_hold_no_packet_without_ports() {
    let to =
        |ports: &[(u16, u16)]| Rule { protocol: Some(TCP), destination: end_ports(ports, &[]), ..does(Action::Allow) };
    let low = to(&[(0, 80)]);
    assert!(lets(&low, TCP, 0) && lets(&low, TCP, 80) && !lets(&low, TCP, 81));
    let high = to(&[(80, 65535)]);
    assert!(lets(&high, TCP, 80) && lets(&high, TCP, 65535) && !lets(&high, TCP, 79));
    let several = to(&[(81, 82), (90, 90), (65535, 65535)]);
    assert!([81, 82, 90, 65535].into_iter().all(|port| lets(&several, TCP, port)));
    assert!([80, 83, 89, 91, 65534].into_iter().all(|port| !lets(&several, TCP, port)));
    assert!(!lets(&several, UDP, 81) && !lets(&several, OTHER, 0));
}

#[test]
fn cal_21_cal_11_negated_ports_take_out_of_positive_ones() {
    let ports = |ports: &[(u16, u16)], not: &[(u16, u16)]| Rule {
        protocol: Some(TCP),
        destination: end_ports(ports, not),
        ..does(Action::Allow)
    };
    let not = ports(&[], &[(80, 81), (90, 90)]);
    assert!(lets(&not, TCP, 79) && lets(&not, TCP, 82) && lets(&not, TCP, 0));
    assert!(!lets(&not, TCP, 80) && !lets(&not, TCP, 81) && !lets(&not, TCP, 90) && !lets(&not, UDP, 79));
    let hole = ports(&[(80, 90)], &[(85, 85)]);
    assert!(lets(&hole, TCP, 84) && lets(&hole, TCP, 86) && !lets(&hole, TCP, 85) && !lets(&hole, TCP, 91));
}

#[test]
fn cal_22_cal_23_named_ports_are_those_of_the_destination_by_its_own_protocol() {
    let mut rule = Rule { destination: named(&["serve-81-tcp", "serve-80-udp"], &[]), ..does(Action::Allow) };
    assert!(lets(&rule, TCP, 81) && lets(&rule, UDP, 80) && !lets(&rule, TCP, 80) && !lets(&rule, UDP, 81));
    rule.protocol = Some(TCP);
    assert!(lets(&rule, TCP, 81) && !lets(&rule, UDP, 80));
    let range = model::PortRange::new(90, 99).expect("a range");
    let both = rule.destination.ports.into_iter().flatten().chain([PortMatch::Range(range)]);
    rule.destination.ports = Some(both.collect());
    assert!(lets(&rule, TCP, 81) && lets(&rule, TCP, 95) && !lets(&rule, TCP, 80), "numbers and names are OR");
}

#[test]
fn cal_22_a_negated_name_matches_whoever_has_no_such_port() {
    let rule = Rule { destination: named(&[], &["web"]), ..does(Action::Allow) };
    let mut outwards = Cast::new([global("default", "p").selecting("pod == 'a'").out([rule.clone()])]);
    let web = |port| NamedPort { name: "web".into(), protocol: TCP, port };
    outwards.pod("y/b").ports.get_or_insert_default().push(web(80));
    assert!(!outwards.lets("x/a", "y/b", TCP, 80) && outwards.lets("x/a", "y/b", TCP, 81));
    assert!(outwards.lets("x/a", "y/c", TCP, 80) && outwards.lets("x/a", STRANGER, TCP, 80));
    let mut inwards = allowing(rule);
    inwards.pod("x/a").ports.get_or_insert_default().push(web(80));
    assert!(!inwards.lets("y/b", "x/a", TCP, 80) && inwards.lets("y/b", "x/a", UDP, 80));
    assert!(inwards.lets("y/b", "x/a", OTHER, 0), "a packet without ports has none that is named");
}

#[test]
fn cal_22_a_port_name_of_a_pod_without_a_manifest_counts_against_the_traffic() {
    let rule = |ports: &[&str], not: &[&str], action| Rule { destination: named(ports, not), ..does(action) };
    let verdicts = |first: Rule| {
        let rules = [first, does(Action::Allow)];
        let mut inwards = Cast::new([global("default", "p").selecting("pod == 'a'").into(rules.clone())]);
        let mut outwards = Cast::new([global("default", "p").selecting("pod == 'a'").out(rules)]);
        inwards.pod("x/a").ports = None;
        outwards.pod("y/b").ports = None;
        let said = [inwards.lets("y/b", "x/a", TCP, 80), inwards.lets("y/b", "x/a", OTHER, 0)];
        assert_eq!(said, [outwards.lets("x/a", "y/b", TCP, 80), outwards.lets("x/a", "y/b", OTHER, 0)]);
        said
    };
    // Whether a port that may have the name passes, and a packet without ports.
    assert_eq!(verdicts(rule(&["web"], &[], Action::Deny)), [false, true]);
    assert_eq!(verdicts(rule(&[], &["web"], Action::Deny)), [false, false]);
    assert_eq!(verdicts(rule(&["web"], &[], Action::Pass)), [false, true], "a pass in doubt refuses");
    let only = |rule: Rule| {
        let mut cast = allowing(rule);
        cast.pod("x/a").ports = None;
        [cast.lets("y/b", "x/a", TCP, 80), cast.lets("y/b", "x/a", OTHER, 0)]
    };
    assert_eq!(only(rule(&["web"], &[], Action::Allow)), [false, false]);
    assert_eq!(only(rule(&[], &["web"], Action::Allow)), [false, true]);
    let mut mixed = rule(&["web"], &[], Action::Allow);
    mixed.destination.ports = Some([PortMatch::Named("web".into()), PortMatch::Range(PortRange::single(80))].into());
    assert_eq!(only(mixed), [true, false], "a number is known");
}

#[test]
fn cal_22_a_port_name_meets_the_selector_of_its_end() {
    let destination = EntityMatch { selector: Some(written("pcns.ns == 'y'").into()), ..named(&["web"], &[]) };
    let rule = Rule { destination, ..does(Action::Allow) };
    let mut cast = Cast::new([global("default", "p").selecting("pod == 'a'").out([rule])]);
    for pod in ["y/b", "z/b"] {
        cast.pod(pod).ports.get_or_insert_default().push(NamedPort { name: "web".into(), protocol: TCP, port: 80 });
    }
    assert_eq!(cast.reached_by("x/a"), "y/b");
}

#[test]
fn cal_24_one_number_of_two_protocols_is_two_ports() {
    let rule = Rule { protocol: Some(UDP), destination: end_ports(&[(80, 80)], &[]), ..does(Action::Allow) };
    assert!(lets(&rule, UDP, 80) && !lets(&rule, TCP, 80) && !lets(&rule, SCTP, 80) && !lets(&rule, UDPLITE, 80));
    let any = Rule { protocol: None, ..rule };
    assert!([TCP, UDP, SCTP, UDPLITE].into_iter().all(|protocol| lets(&any, protocol, 80)));
}

/// In IPv4, where `protocol` is ICMP.
fn lets_message(rule: &Rule, kind: u8, code: u8) -> bool {
    allowing(rule.clone()).lets(STRANGER, "x/a", Protocol::ICMP, u16::from_be_bytes([kind, code]))
}

#[test]
fn cal_29_icmp_by_type_and_by_type_and_code() {
    let icmp = |kind, code| Rule { icmp: Some(IcmpMatch { kind, code }), ..does(Action::Allow) };
    assert!(lets_message(&icmp(8, None), 8, 0) && lets_message(&icmp(8, None), 8, 255));
    assert!(!lets_message(&icmp(8, None), 10, 0) && !lets_message(&icmp(8, None), 7, 255));
    assert!(!lets(&icmp(8, None), TCP, 0x0800), "a port is no message");
    let one = icmp(8, Some(3));
    assert!(lets_message(&one, 8, 3) && !lets_message(&one, 8, 4) && !lets_message(&one, 10, 3));
    let v6 = allowing(icmp(128, None));
    assert!(v6.lets("2001:db8::7", "x/a", Protocol::ICMPV6, 0x8000));
    assert!(!v6.lets("2001:db8::7", "x/a", Protocol::ICMPV6, 0x8100));
}

#[test]
fn cal_29_negated_icmp_takes_out_the_message_and_nothing_else() {
    let not = |kind, code| Rule { not_icmp: Some(IcmpMatch { kind, code }), ..does(Action::Allow) };
    assert!(lets_message(&not(8, None), 10, 0) && !lets_message(&not(8, None), 8, 0));
    assert!(lets(&not(8, None), TCP, 0x0800), "what is no ICMP is not that message");
    let one = not(8, Some(3));
    assert!(lets_message(&one, 8, 4) && lets_message(&one, 10, 3) && !lets_message(&one, 8, 3));
    let icmp_only = Rule { protocol: Some(Protocol::ICMP), ..not(8, None) };
    assert!(lets_message(&icmp_only, 0, 0) && !lets_message(&icmp_only, 8, 0) && !lets(&icmp_only, TCP, 80));
}

#[test]
fn cal_10_a_thousand_rules_are_asked_in_their_order() {
    let closed =
        |port| Rule { protocol: Some(TCP), destination: end_ports(&[(port, port)], &[]), ..does(Action::Deny) };
    let mut draft = global("default", "p").selecting("pod == 'a'").into([]);
    let last = Rule { place: 1023, ..does(Action::Allow) };
    draft.0.ingress = (0..1023).map(|place| Rule { place, ..closed(2 * place) }).chain([last]).collect();
    let cast = Cast::new([draft]);
    assert!(
        !cast.lets("y/b", "x/a", TCP, 2044) && cast.lets("y/b", "x/a", TCP, 2045) && cast.lets("y/b", "x/a", TCP, 2046)
    );
}
