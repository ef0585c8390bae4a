//! Rows by themselves: what painting makes of rules, and that large sets stay small and quick.
//! In: rule sets written by hand. Out: spans.
//! Invariant: what is expected is written as spans, not computed.
//! Never: policies or pods.

use super::cast::{SCTP, TCP, UDP};
use crate::{
    Answer, Class, Decider, Hit, PacketTest, PolicyRules, RowSpan, RuleSet, SetAction, SetPort, SetRule, TierRules,
    Verdict, row,
};
use abi::rules::x_of;
use model::{Direction, PolicyId, PolicyKind, PortRange, Protocol, TierEnd, TierName};

fn id(name: &str) -> PolicyId {
    PolicyId { name: name.into(), namespace: "x".into(), kind: PolicyKind::KubernetesNetworkPolicy }
}

fn rule(place: u16, protocol: Option<Protocol>, ports: Option<&[(u16, u16)]>) -> SetRule {
    let range = |(first, last): &(u16, u16)| SetPort::Range(PortRange::new(*first, *last).expect("a range"));
    let ports = ports.map(|ports| ports.iter().map(range).collect());
    let packet = PacketTest { protocol, ports, ..PacketTest::default() };
    SetRule { packet, ..SetRule::new(place, SetAction::Allow) }
}

fn set(rules: Vec<SetRule>) -> RuleSet {
    let policies = vec![PolicyRules { id: id("p"), rules }];
    let tier = TierRules { name: TierName::DEFAULT.into(), end: TierEnd::Deny, policies };
    RuleSet { tiers: vec![tier], ..RuleSet::new(Direction::Ingress) }
}

/// Spans as `(start, place of the rule)`, `None` where no rule matched.
fn spans(rules: Vec<SetRule>) -> Vec<(u32, Option<u16>)> {
    let row = row(&set(rules), &Class::default());
    row.0.iter().map(|span| (span.start, decided(span).decider.place())).collect()
}

fn decided(span: &RowSpan) -> &Hit {
    let Answer::Decided(hit) = &span.answer else { panic!("{span:?} asks further") };
    hit
}

#[test]
fn no_policy_is_one_span_that_allows() {
    let free = RuleSet::new(Direction::Egress);
    let row = row(&free, &Class::default());
    assert_eq!(row.0.len(), 1);
    let Hit { verdict, decider, .. } = decided(&row.0[0]);
    assert_eq!((*verdict, decider), (Verdict::Allow, &Decider::NoPolicy(Direction::Egress)));
}

#[test]
fn a_policy_without_rules_is_one_span_that_denies() {
    let row = row(&set(vec![]), &Class::default());
    assert_eq!(row.0.len(), 1);
    assert_eq!(decided(&row.0[0]).verdict, Verdict::Deny);
    assert_eq!(
        decided(&row.0[0]).decider,
        Decider::EndOfTier {
            tier: TierName::DEFAULT.into(),
            direction: Direction::Ingress,
            policies: [id("p")].into(),
        }
    );
}

#[test]
fn a_rule_for_everything_leaves_nothing_to_later_ones() {
    assert_eq!(spans(vec![rule(0, None, None), rule(1, Some(TCP), None)]), [(0, Some(0))]);
}

#[test]
fn the_first_rule_keeps_what_a_later_one_overlaps() {
    let rules = vec![rule(0, Some(TCP), Some(&[(80, 90)])), rule(1, Some(TCP), Some(&[(85, 100)]))];
    let tcp = |port| x_of(6, port);
    assert_eq!(spans(rules), [(0, None), (tcp(80), Some(0)), (tcp(91), Some(1)), (tcp(101), None)]);
}

#[test]
fn a_later_rule_fills_both_sides_of_an_earlier_one() {
    let rules = vec![rule(0, Some(UDP), Some(&[(53, 53)])), rule(1, Some(UDP), None)];
    let udp = |port| x_of(17, port);
    let expected = [(0, None), (udp(0), Some(1)), (udp(53), Some(0)), (udp(54), Some(1)), (x_of(18, 0), None)];
    assert_eq!(spans(rules), expected);
}

#[test]
fn touching_stretches_of_one_rule_are_one_span() {
    let rules = vec![rule(0, Some(TCP), Some(&[(81, 81), (80, 80), (80, 82)]))];
    assert_eq!(spans(rules), [(0, None), (x_of(6, 80), Some(0)), (x_of(6, 83), None)]);
}

#[test]
fn touching_stretches_of_two_rules_stay_two_spans() {
    let rules = vec![rule(0, Some(TCP), Some(&[(80, 80)])), rule(1, Some(TCP), Some(&[(81, 81)]))];
    assert_eq!(spans(rules).len(), 4);
}

#[test]
fn an_empty_list_of_ports_matches_nothing() {
    assert_eq!(spans(vec![rule(0, Some(TCP), Some(&[]))]), [(0, None)]);
}

#[test]
fn the_last_port_of_the_last_protocol_is_reached() {
    assert_eq!(spans(vec![rule(0, Some(Protocol(255)), None)]), [(0, None), (x_of(255, 0), Some(0))]);
    let top = [(0, None), (x_of(132, u16::MAX), Some(0)), (x_of(133, 0), None)];
    assert_eq!(spans(vec![rule(0, Some(SCTP), Some(&[(u16::MAX, u16::MAX)]))]), top);
}

#[test]
fn a_large_set_of_scattered_ports_has_a_span_for_each_stretch_and_gap() {
    let one = |place: u16| {
        let ports: Vec<_> = (0..10).map(|port| (place * 5 + port * 2, place * 5 + port * 2)).collect();
        rule(place, Some(TCP), Some(&ports))
    };
    let spans = spans((0..12_500).map(one).collect());
    assert!(spans.len() > 25_000 && spans.len() < abi::rules::ROW_SPANS_MAX as usize, "{}", spans.len());
    assert!(spans.windows(2).all(|pair| pair[0].0 < pair[1].0));
}
