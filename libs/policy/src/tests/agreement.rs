//! Random worlds: what the evaluator says is what the rows say.
//! In: seeds. Out: nothing, or the seed and the flow on which they differ.
//! Invariant: every row that a judgement can meet is looked at, at both sides of each of its borders.
//! Never: a world that the same seed would not make again.

use crate::{Flow, Row, View, compiled::Compiled, evaluate, generate::Case, row};
use model::Protocol;
use proptest::prelude::*;
use std::net::IpAddr;

/// Every pair of addresses of one family that the case's flows name.
fn pairs(case: &Case) -> Vec<(IpAddr, IpAddr)> {
    let mut pairs: Vec<_> = case.flows.iter().map(|flow| (flow.source, flow.destination)).collect();
    pairs.sort();
    pairs.dedup();
    pairs
}

/// The rows that packets from `source` to `destination` can meet.
fn rows(compiled: &Compiled, case: &Case, (source, destination): (IpAddr, IpAddr)) -> Vec<Row> {
    let at = |address| case.view.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address));
    let egress = at(source).map(|at| row(&compiled.sets[at].1, &compiled.class(destination)));
    let ingress = at(destination).map(|at| row(&compiled.sets[at].0, &compiled.class(source)));
    egress.into_iter().chain(ingress).collect()
}

/// What a packet at `x` would be, if there is such a packet.
fn flow_at(x: u32, (source, destination): (IpAddr, IpAddr)) -> Option<Flow> {
    let protocol = Protocol(u8::try_from(x >> 16).ok()?);
    let detail = x as u16;
    let has_detail = protocol.has_ports() || [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
    (has_detail || detail == 0).then_some(Flow { source, destination, protocol, detail })
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
            prop_assert_eq!(compiled.previewed(flow), evaluate(&if_enforced, flow), "previewed {:?}", flow);
        }
    }

    #[test]
    fn they_agree_on_both_sides_of_every_border(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        let if_enforced = case.view.if_enforced();
        for ends in pairs(&case).into_iter().take(6) {
            let starts = rows(&compiled, &case, ends).into_iter().flat_map(|row| row.0).map(|span| span.start);
            let sides = starts.flat_map(|start| [start, start.saturating_sub(1)]);
            for flow in sides.filter_map(|x| flow_at(x, ends)) {
                prop_assert_eq!(evaluate(&case.view, &flow), compiled.outcome(&flow), "{:?}", flow);
                prop_assert_eq!(evaluate(&if_enforced, &flow), compiled.previewed(&flow), "previewed {:?}", flow);
            }
        }
    }

    #[test]
    fn a_row_starts_at_0_is_sorted_and_neighbours_differ(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        for row in pairs(&case).into_iter().flat_map(|ends| rows(&compiled, &case, ends)) {
            prop_assert_eq!(row.0.first().map(|span| span.start), Some(0));
            for pair in row.0.windows(2) {
                prop_assert!(pair[0].start < pair[1].start && pair[1].start < abi::rules::X_END);
                prop_assert!(pair[0].hit() != pair[1].hit());
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
