//! Random worlds at host endpoints: what the evaluator says of every layer is what the rows say.
//! In: seeds. Out: nothing, or the seed, the layer and the flow on which they differ.
//! Invariant: every layer and direction is asked of every flow, at both sides of each border of its rows.
//! Never: a world that the same seed would not make again.

use super::agreement::{flow_at, pairs, sides};
use crate::{AtHost, Decider, Flow, HostLayer, Verdict, compiled::Compiled, evaluate_at, generate::Case, row};
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

fn agree(
    case: &Case,
    compiled: &Compiled<'_>,
    (place, at): (usize, AtHost<'_>),
    flow: &Flow,
) -> Result<(), TestCaseError> {
    let found = compiled.at_host(place, at.layer, at.direction, flow);
    prop_assert_eq!(evaluate_at(&case.view, at, flow), found, "{:?} at {:?}", flow, at);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rows_of_every_layer_say_what_the_evaluator_says(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        for question in questions(&case) {
            for flow in &case.flows {
                agree(&case, &compiled, question, flow)?;
            }
        }
    }

    #[test]
    fn they_agree_on_both_sides_of_every_border_of_every_layer(seed: u64) {
        let case = Case::from_seed(seed);
        let compiled = Compiled::of(&case.view);
        for (place, at) in questions(&case) {
            let Some(set) = compiled.at_hosts[place].get(&(at.layer, at.direction)) else { continue };
            for ends in pairs(&case).into_iter().take(3) {
                let (peer, own) = if at.direction == Direction::Ingress { ends } else { (ends.1, ends.0) };
                let met = (row(set, &compiled.class(peer)), compiled.class(own));
                for flow in sides(&met).into_iter().filter_map(|side| flow_at(side, ends)) {
                    agree(&case, &compiled, (place, at), &flow)?;
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
