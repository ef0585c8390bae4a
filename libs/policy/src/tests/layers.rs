//! Random worlds at host endpoints: what the evaluator says of every layer is what the rows say.
//! In: seeds. Out: nothing, or the seed, the layer and the flow on which they differ, as it is or if staged policies were enforced.
//! Invariant: every layer and direction is asked of every flow, at both sides of each border of its rows.
//! Never: a world that the same seed would not make again.

use super::agreement::{flow_at, pairs, sides};
use crate::{AtHost, Decider, Flow, HostLayer, Verdict, View, compiled::Compiled, evaluate_at, generate::Case, row};
use model::Direction;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Every question at every host endpoint of the case.
fn questions(case: &Case) -> impl Iterator<Item = (usize, AtHost<'_>)> {
    let of_host = |(place, host)| {
        let layers = HostLayer::ALL.into_iter().flat_map(|layer| DIRECTIONS.map(|direction| (layer, direction)));
        layers.map(move |(layer, direction)| (place, AtHost { host, layer, direction }))
    };
    case.view.host_endpoints.iter().enumerate().flat_map(of_host)
}

/// A case with what it would be if every staged policy were enforced.
struct Both<'a> {
    case: &'a Case,
    compiled: Compiled<'a>,
    if_enforced: View,
}

impl<'a> Both<'a> {
    fn of(case: &'a Case) -> Self {
        Self { case, compiled: Compiled::of(&case.view), if_enforced: case.view.if_enforced() }
    }

    fn agree(&self, (place, at): (usize, AtHost<'_>), flow: &Flow) -> Result<(), TestCaseError> {
        let found = self.compiled.at_host(place, at.layer, at.direction, flow);
        prop_assert_eq!(evaluate_at(&self.case.view, at, flow), found, "{:?} at {:?}", flow, at);
        let Some(would) = self.compiled.previewed_at_host(place, at.layer, at.direction, flow) else { return Ok(()) };
        match evaluate_at(&self.if_enforced, at, flow) {
            Some(said) => {
                prop_assert_eq!((said.verdict, said.decider), (would.verdict, would.decider), "{:?} at {:?}", flow, at)
            }
            // Without the policies that a staged one ends nobody would be asked.
            None => prop_assert!(would.verdict != Verdict::Deny, "{:?} at {:?}: {:?}", flow, at, would),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cal_13_the_rows_of_every_layer_say_what_the_evaluator_says_also_of_what_is_staged(seed: u64) {
        let case = Case::from_seed(seed);
        let both = Both::of(&case);
        for question in questions(&case) {
            for flow in &case.flows {
                both.agree(question, flow)?;
            }
        }
    }

    #[test]
    fn they_agree_on_both_sides_of_every_border_of_every_layer(seed: u64) {
        let case = Case::from_seed(seed);
        let both = Both::of(&case);
        let compiled = &both.compiled;
        for (place, at) in questions(&case) {
            let Some(set) = compiled.at_hosts[place].get(&(at.layer, at.direction)) else { continue };
            for ends in pairs(&case).into_iter().take(3) {
                let (peer, own) = if at.direction == Direction::Ingress { ends } else { (ends.1, ends.0) };
                let met = (row(set, &compiled.class(peer)), compiled.class(own));
                for flow in sides(&met).into_iter().filter_map(|side| flow_at(side, ends)) {
                    both.agree((place, at), &flow)?;
                }
            }
        }
    }
}

/// A generator that never makes the interesting worlds would let everything agree.
#[test]
fn the_generator_makes_every_kind_of_decision_in_every_layer() {
    let mut seen = BTreeMap::<String, usize>::new();
    for seed in 0..600 {
        let case = Case::from_seed(seed);
        for (_, at) in questions(&case) {
            for judgement in case.flows.iter().filter_map(|flow| evaluate_at(&case.view, at, flow)) {
                let kind = match judgement.decider {
                    Decider::Rule { .. } => "rule",
                    Decider::EndOfTier { .. } => "end of tier",
                    Decider::Profile { .. } => "profile",
                    Decider::NoProfile(_) => "no profile",
                    Decider::NoRule(_) => "no rule",
                    Decider::Forwarded(_) => "forwarded",
                    Decider::Failsafe { .. } => "failsafe",
                    Decider::NoPolicy(_) | Decider::AllPassed(_) => panic!("{} at a host endpoint", judgement.decider),
                };
                *seen.entry(format!("{:?} {} {kind} {}", at.layer, at.direction, judgement.verdict)).or_default() += 1;
            }
        }
    }
    assert!(seen.values().all(|count| *count > 5), "{seen:#?}");
    let of = |layer: HostLayer| seen.keys().filter(|key| key.starts_with(&format!("{layer:?} "))).count();
    let expected =
        [(HostLayer::Untracked, 8), (HostLayer::PreDnat, 4), (HostLayer::Forward, 8), (HostLayer::Local, 14)];
    assert_eq!(expected.map(|(layer, _)| (layer, of(layer))), expected, "{seen:#?}");
    assert!(
        seen.keys().all(|key| !key.ends_with(&Verdict::Next.to_string())
            || key.contains("no rule")
            || key.contains("failsafe"))
    );
}
