//! Random worlds: what the evaluator says is what the rows say.
//! In: seeds. Out: nothing, or the seed and the flow on which they differ.
//! Invariant: every row that a judgement can meet is looked at, at both sides of each of its borders.
//! Never: a world that the same seed would not make again.

use crate::{
    Answer, Class, Flow, Outcome, Row, RowSpan, RuleSet, View, compiled::Compiled, evaluate, generate::Case, row,
};
use model::Protocol;
use proptest::prelude::*;
use std::net::IpAddr;

/// Every pair of addresses of one family that the case's flows name.
pub fn pairs(case: &Case) -> Vec<(IpAddr, IpAddr)> {
    let mut pairs: Vec<_> = case.flows.iter().map(|flow| (flow.source, flow.destination)).collect();
    pairs.sort();
    pairs.dedup();
    pairs
}

/// The rows that packets from `source` to `destination` can meet, each with the class of the address it is the own one's.
fn rows(compiled: &Compiled, case: &Case, (source, destination): (IpAddr, IpAddr)) -> Vec<(Row, Class)> {
    let at = |address| case.view.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address));
    let met = |set: &RuleSet, peer, own| (row(set, &compiled.class(peer)), compiled.class(own));
    let egress = at(source).map(|at| met(&compiled.sets[at].1, destination, source));
    let ingress = at(destination).map(|at| met(&compiled.sets[at].0, source, destination));
    egress.into_iter().chain(ingress).collect()
}

/// `x` and source port on both sides of every border of a row, those of what it refers to included.
pub fn sides((row, own): &(Row, Class)) -> Vec<(u32, u16)> {
    let both = |start: u32| [start, start.saturating_sub(1)];
    let of_span = |span: &RowSpan| -> Vec<(u32, u16)> {
        match &span.answer {
            Answer::Decided(_) => both(span.start).map(|x| (x, 40_000)).into(),
            Answer::Ports(ports) => {
                let borders = ports.iter().flat_map(|port| both(port.start)).map(|port| (span.start, port as u16));
                both(span.start).map(|x| (x, 68)).into_iter().chain(borders).collect()
            }
            Answer::Cell(set) => {
                let deeper = sides(&(crate::row(set, own), own.clone()));
                both(span.start).map(|x| (x, 40_000)).into_iter().chain(deeper).collect()
            }
        }
    };
    row.0.iter().flat_map(of_span).collect()
}

/// What a packet at `x` would be, if there is such a packet.
pub fn flow_at((x, port): (u32, u16), (source, destination): (IpAddr, IpAddr)) -> Option<Flow> {
    let protocol = Protocol(u8::try_from(x >> 16).ok()?);
    let detail = x as u16;
    let has_detail = protocol.has_ports() || [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
    let source_port = if protocol.has_ports() { port } else { 0 };
    (has_detail || detail == 0).then_some(Flow { source, destination, protocol, detail, source_port })
}

/// What is staged logs nothing.
fn unlogged(mut outcome: Outcome) -> Outcome {
    let ends = [&mut outcome.egress, &mut outcome.ingress];
    ends.into_iter().flatten().for_each(|judgement| judgement.logs.clear());
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rows_say_what_the_evaluator_says(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        for flow in &case.flows {
            prop_assert_eq!(evaluate(&case.view, flow), compiled.outcome(flow), "{:?}", flow);
        }
    }

    #[test]
    fn cal_13_staged_policies_change_no_verdict_and_rows_say_what_they_would_be(seed: u64) {
        let case = Case::from_seed(seed);
        let bare = View { policies: case.view.policies.iter().filter(|policy| policy.stage.is_none()).cloned().collect(), ..case.view.clone() };
        let (compiled, without) = (Compiled::of(&case.view), Compiled::of(&bare));
        let if_enforced = case.view.if_enforced();
        for flow in &case.flows {
            prop_assert_eq!(compiled.outcome(flow), without.outcome(flow), "{:?}", flow);
            prop_assert_eq!(compiled.previewed(flow), unlogged(evaluate(&if_enforced, flow)), "previewed {:?}", flow);
        }
    }

    #[test]
    fn they_agree_on_both_sides_of_every_border(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        let if_enforced = case.view.if_enforced();
        for ends in pairs(&case).into_iter().take(6) {
            let sides = rows(&compiled, &case, ends).into_iter().flat_map(|row| sides(&row));
            for flow in sides.filter_map(|side| flow_at(side, ends)) {
                prop_assert_eq!(evaluate(&case.view, &flow), compiled.outcome(&flow), "{:?}", flow);
                prop_assert_eq!(unlogged(evaluate(&if_enforced, &flow)), compiled.previewed(&flow), "previewed {:?}", flow);
            }
        }
    }

    #[test]
    fn a_row_starts_at_0_is_sorted_and_neighbours_differ(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        for (row, _) in pairs(&case).into_iter().flat_map(|ends| rows(&compiled, &case, ends)) {
            prop_assert_eq!(row.0.first().map(|span| span.start), Some(0));
            for pair in row.0.windows(2) {
                prop_assert!(pair[0].start < pair[1].start && pair[1].start < abi::rules::X_END);
                prop_assert!(pair[0].answer != pair[1].answer);
            }
            for ports in row.0.iter().filter_map(|span| if let Answer::Ports(ports) = &span.answer { Some(ports) } else { None }) {
                prop_assert_eq!(ports[0].start, 0);
                prop_assert!(ports.len() > 1, "one answer is no list");
                for pair in ports.windows(2) {
                    prop_assert!(pair[0].start < pair[1].start && pair[1].start < 1 << 16);
                    prop_assert!(pair[0].hit != pair[1].hit);
                }
            }
        }
    }

    #[test]
    fn a_set_that_asks_nothing_of_peers_has_one_row_for_all(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        let sets = compiled.sets.iter().flat_map(|(ingress, egress)| [ingress, egress]);
        for set in sets.filter(|set| !set.asks_peer()) {
            for flow in &case.flows {
                prop_assert_eq!(row(set, &compiled.class(flow.source)), row(set, &crate::Class::default()));
            }
        }
    }
}

/// A generator that never makes the interesting worlds would let everything agree.
#[test]
fn the_generator_makes_every_kind_of_decision_in_both_directions() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..600 {
        let case = Case::from_seed(seed);
        for flow in &case.flows {
            let outcome = evaluate(&case.view, flow);
            for judgement in outcome.egress.into_iter().chain(outcome.ingress) {
                let kind = match judgement.decider {
                    crate::Decider::NoPolicy(_) => "no policy",
                    crate::Decider::AllPassed(_) => "all passed",
                    crate::Decider::Rule { .. } => "rule",
                    crate::Decider::EndOfTier { .. } => "end of tier",
                    crate::Decider::Profile { .. } => "profile",
                    crate::Decider::NoProfile(_) => "no profile",
                    host => panic!("{host} at a workload"),
                };
                let direction = judgement.decider.direction();
                *seen.entry(format!("{direction} {kind} {}", judgement.verdict)).or_default() += 1;
            }
        }
    }
    assert_eq!(seen.len(), 16, "{seen:?}");
    assert!(seen.values().all(|count| *count > 50), "{seen:?}");
}
