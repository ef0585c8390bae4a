//! Source ports and log entries: which packets of one pair of addresses are told apart, and who is named for it.
//! In: the cast and Calico's policies. Out: which source ports are let in; which log rules a packet meets.
//! Invariant: each row names its conformance id.
//! Never: says what a destination's port does.

use super::cast::*;
use crate::Outcome;
use model::{Action, Direction, EntityMatch, NamedPort, Order, PortMatch, PortRange, Protocol, Rule, Tier, TierEnd};

fn range(first: u16, last: u16) -> PortMatch {
    PortMatch::Range(PortRange::new(first, last).expect("a range"))
}

fn named(name: &str) -> PortMatch {
    PortMatch::Named(name.into())
}

fn from(ports: &[PortMatch]) -> EntityMatch {
    EntityMatch { ports: Some(ports.into()), ..EntityMatch::default() }
}

fn but(ports: &[PortMatch]) -> EntityMatch {
    EntityMatch { not_ports: ports.into(), ..EntityMatch::default() }
}

fn rule(protocol: Protocol, action: Action, source: EntityMatch) -> Rule {
    Rule { protocol: Some(protocol), source, ..does(action) }
}

fn into_a<const N: usize>(rules: [Rule; N]) -> Cast {
    Cast::new([global("default", "p").selecting("pod == 'a'").into(rules)])
}

/// Which of these source ports `x/a` lets in from `y/b`, to TCP 80.
fn let_in(cast: &Cast, protocol: Protocol, ports: &[u16]) -> Vec<u16> {
    ports.iter().copied().filter(|port| cast.lets_from("y/b", *port, "x/a", protocol, 80)).collect()
}

#[test]
fn cal_21_source_ports_are_ranges_with_both_their_ends_and_edges() {
    for protocol in [TCP, UDP, SCTP] {
        let edges = [0, 1, 79, 80, 81, u16::MAX - 1, u16::MAX];
        let open = |source| let_in(&into_a([rule(protocol, Action::Allow, source)]), protocol, &edges);
        assert_eq!(open(from(&[range(0, 80)])), [0, 1, 79, 80]);
        assert_eq!(open(from(&[range(80, u16::MAX)])), [80, 81, u16::MAX - 1, u16::MAX]);
        assert_eq!(open(from(&[range(u16::MAX, u16::MAX), range(1, 1)])), [1, u16::MAX]);
        assert_eq!(open(but(&[range(0, 79), range(81, u16::MAX)])), [80]);
        assert_eq!(open(from(&[])), [0u16; 0]);
        assert_eq!(open(from(&[range(0, u16::MAX)])), edges);
    }
}

#[test]
fn cal_21_a_source_port_of_one_protocol_says_nothing_of_another() {
    let cast = into_a([rule(TCP, Action::Allow, from(&[range(68, 68)]))]);
    assert!(!cast.lets_from("y/b", 68, "x/a", UDP, 80));
    let any = into_a([Rule { source: from(&[range(68, 68)]), ..does(Action::Allow) }]);
    assert!([TCP, UDP, SCTP].into_iter().all(|protocol| let_in(&any, protocol, &[67, 68]) == [68]));
    assert!(!any.lets("y/b", "x/a", Protocol::ICMP, 0x0800), "what has no ports is among none");
    let all_but = into_a([Rule { source: but(&[range(68, 68)]), ..does(Action::Allow) }]);
    assert!(all_but.lets("y/b", "x/a", Protocol(50), 0), "nor among those that are left out");
}

#[test]
fn cal_11_source_ports_and_the_ones_left_out_of_them_both_hold() {
    let mut source = from(&[range(80, 90)]);
    source.not_ports = [range(85, 85)].into();
    let cast = into_a([rule(TCP, Action::Allow, source)]);
    assert_eq!(let_in(&cast, TCP, &[79, 80, 84, 85, 86, 90, 91]), [80, 84, 86, 90]);
}

#[test]
fn cal_11_both_ends_ports_are_and() {
    let mut both = rule(TCP, Action::Allow, from(&[range(68, 68)]));
    both.destination.ports = Some([range(80, 81)].into());
    let cast = into_a([both]);
    for (from, to, open) in [(68, 80, true), (68, 81, true), (68, 82, false), (67, 80, false)] {
        assert_eq!(cast.lets_from("y/b", from, "x/a", TCP, to), open, "{from} to {to}");
    }
}

#[test]
fn cal_22_a_source_ports_name_is_the_senders_whoever_is_judged() {
    for protocol in [TCP, UDP, SCTP] {
        let name = format!("serve-81-{}", protocol.to_string().to_lowercase());
        let by_name = || rule(protocol, Action::Allow, from(&[named(&name)]));
        let out_of_b = Cast::new([global("default", "p").selecting("pod == 'b'").out([by_name()])]);
        for cast in [into_a([by_name()]), out_of_b] {
            assert_eq!(let_in(&cast, protocol, &[80, 81, 82]), [81]);
        }
    }
    let mut cast = into_a([rule(TCP, Action::Allow, from(&[named("own")]))]);
    let own = |port| NamedPort { name: "own".into(), protocol: TCP, port };
    cast.pod("y/b").ports.get_or_insert_default().push(own(1000));
    cast.pod("z/b").ports.get_or_insert_default().push(own(2000));
    cast.pod("x/a").ports.get_or_insert_default().push(own(3000));
    assert_eq!(let_in(&cast, TCP, &[1000, 2000, 3000]), [1000]);
    assert!(cast.lets_from("z/b", 2000, "x/a", TCP, 80) && !cast.lets_from(STRANGER, 1000, "x/a", TCP, 80));
}

#[test]
fn cal_22_names_stand_among_sixteen_numbers_and_negated() {
    let mut ports: Vec<_> = (1..=16).map(|port| range(port * 10, port * 10)).collect();
    ports.push(named("serve-80-tcp"));
    let cast = into_a([rule(TCP, Action::Allow, from(&ports))]);
    assert_eq!(let_in(&cast, TCP, &[9, 10, 79, 80, 160, 161]), [10, 80, 160]);
    let cast = into_a([rule(TCP, Action::Allow, but(&ports))]);
    assert_eq!(let_in(&cast, TCP, &[9, 10, 79, 80, 160, 161]), [9, 79, 161]);
    assert!(!cast.lets_from(STRANGER, 80, "x/a", TCP, 80), "a stranger's 80 is one of the numbers");
    let nobodys = into_a([rule(TCP, Action::Allow, but(&[named("nowhere")]))]);
    assert_eq!(let_in(&nobodys, TCP, &[1, 80]), [1, 80], "a name that the sender does not have leaves out nothing");
}

#[test]
fn a_deny_and_a_pass_by_source_port_leave_the_others_alone() {
    let deny = rule(TCP, Action::Deny, from(&[range(68, 68)]));
    assert_eq!(let_in(&into_a([deny, does(Action::Allow)]), TCP, &[67, 68, 69]), [67, 69]);
    let pass = rule(TCP, Action::Pass, from(&[range(68, 68)]));
    let cast = Cast::new([
        global("security", "first").selecting("pod == 'a'").into([pass, does(Action::Deny)]),
        global("default", "second").selecting("pod == 'a'").into([does(Action::Allow)]),
    ]);
    let mut cast = cast;
    cast.0.tiers = vec![tier("security", TierEnd::Deny)];
    assert_eq!(let_in(&cast, TCP, &[67, 68, 69]), [68]);
}

/// The log rules that a packet of `y/b` to `x/a`'s TCP 80 meets, by their places, at the end of this direction.
fn logged(cast: &Cast, direction: Direction, port: u16) -> (Vec<Option<u16>>, bool) {
    let pair = (block("y/b")[0].network(), block("x/a")[0].network());
    let (source, destination) = pair;
    let flow = crate::Flow { source, destination, protocol: TCP, detail: 80, source_port: port };
    let outcome: Outcome = cast.outcome_of(&flow);
    let allowed = outcome.verdict() == crate::Verdict::Allow;
    let end = if direction == Direction::Ingress { outcome.ingress } else { outcome.egress };
    (end.expect("asked").logs.iter().map(crate::Decider::place).collect(), allowed)
}

fn log(source: EntityMatch) -> Rule {
    rule(TCP, Action::Log, source)
}

fn anybody() -> EntityMatch {
    EntityMatch::default()
}

fn tier(name: &str, end: TierEnd) -> Tier {
    Tier { name: name.into(), order: Order::At(1.0), end }
}

#[test]
fn cal_8_a_log_rule_is_named_and_the_next_one_decides() {
    let cast = into_a([log(anybody()), log(from(&[range(68, 68)])), does(Action::Allow)]);
    assert_eq!(logged(&cast, Direction::Ingress, 68), (vec![Some(0), Some(1)], true));
    assert_eq!(logged(&cast, Direction::Ingress, 67), (vec![Some(0)], true));
    let denies = into_a([does(Action::Deny), log(anybody())]);
    assert_eq!(logged(&denies, Direction::Ingress, 67), (vec![], false), "what is decided before it does not meet it");
}

#[test]
fn cal_8_a_log_rule_at_the_end_neither_allows_nor_denies() {
    assert_eq!(logged(&into_a([log(anybody())]), Direction::Ingress, 1), (vec![Some(0)], false));
    let mut cast = Cast::new([global("security", "first").selecting("pod == 'a'").into([log(anybody())])]);
    cast.0.tiers = vec![tier("security", TierEnd::Pass)];
    assert_eq!(logged(&cast, Direction::Ingress, 1), (vec![Some(0)], true), "it goes on to the profile");
}

#[test]
fn cal_8_a_log_rule_of_a_tier_that_passes_on_is_still_named() {
    let mut cast = Cast::new([
        global("security", "first").selecting("pod == 'b'").out([log(anybody()), does(Action::Pass)]),
        global("default", "second").selecting("pod == 'b'").out([
            log(end("pod == 'c'")),
            log(anybody()),
            does(Action::Allow),
        ]),
    ]);
    cast.0.tiers = vec![tier("security", TierEnd::Deny)];
    assert_eq!(logged(&cast, Direction::Egress, 1), (vec![Some(0), Some(1)], true));
}

#[test]
fn cal_8_a_log_rule_that_only_may_match_logs_nothing() {
    let mut unread = log(anybody());
    unread.unreadable = Some("of another world".into());
    assert_eq!(logged(&into_a([unread, does(Action::Allow)]), Direction::Ingress, 1).0, []);
    let mut cast = into_a([
        Rule { source: end("pcns.ns == 'nowhere'"), ..log(anybody()) },
        Rule { source: end("pod == 'b'"), ..log(anybody()) },
    ]);
    cast.0.namespaces.remove(&"y".into());
    assert_eq!(logged(&cast, Direction::Ingress, 1).0, [Some(1)]);
}
