//! Staged policies: tried beside those in force, and never asked.
//! In: casts with staged policies. Out: verdicts that stay, and what rows say that they would be.
//! Invariant: as the rest of these tests: evaluator and rows agree, on what is and on what would be.
//! Never: a kernel.

use super::cast::*;
use crate::{Verdict, compiled::Compiled, evaluate};
use model::{PolicyKind, Stage};

fn staged(draft: Draft, stage: Stage) -> Draft {
    let Draft(mut policy) = draft;
    policy.id.kind = policy.id.kind.staged().unwrap_or(PolicyKind::StagedNetworkPolicy);
    policy.stage = Some(stage);
    Draft(policy)
}

/// Whether `from` would reach `to`, and who would say so, if everything staged were enforced.
fn would(cast: &Cast, from: &str, to: &str) -> (bool, String) {
    let flow = Cast::flow(from, to);
    let outcome = Compiled::of(&cast.0).previewed(&flow);
    assert_eq!(outcome, evaluate(&cast.0.if_enforced(), &flow), "evaluator and rows differ on what would be");
    let last = outcome.ingress.as_ref().or(outcome.egress.as_ref()).expect("an end is asked");
    (outcome.verdict() == Verdict::Allow, last.to_string())
}

#[test]
fn cal_13_a_staged_deny_refuses_nothing_and_says_what_it_would() {
    let isolate = policy("x", "isolate").ingress([]);
    let cast = Cast::new([staged(isolate, Stage::Set)]);
    assert!(cast.lets("y/a", "x/a", TCP, 80));
    let (lets, said) = would(&cast, "y/a", "x/a");
    assert!(!lets && said.contains("StagedKubernetesNetworkPolicy x/isolate"), "{said}");
    assert_eq!(would(&cast, "y/a", "z/a"), (true, "no ingress policy applies: allowed".into()));
}

#[test]
fn cal_13_an_all_staged_tier_is_as_if_it_were_not_there() {
    let cast = Cast::new([staged(policy("x", "isolate").ingress([]), Stage::Set)]);
    assert_eq!(cast.says("y/a", "x/a"), "no ingress policy applies: allowed");
}

#[test]
fn cal_13_set_takes_the_place_of_the_policy_of_its_name() {
    let closed = policy("x", "web").ingress([]);
    let open = policy("x", "web").ingress([all()]);
    let cast = Cast::new([closed, staged(open, Stage::Set)]);
    assert!(!cast.lets("y/a", "x/a", TCP, 80));
    let (lets, said) = would(&cast, "y/a", "x/a");
    assert!(lets && said.contains("StagedKubernetesNetworkPolicy x/web"), "{said}");
}

#[test]
fn cal_13_delete_hides_the_policy_of_its_name_from_the_preview_alone() {
    let closed = policy("x", "web").ingress([]);
    let cast = Cast::new([closed.clone(), staged(closed, Stage::Delete)]);
    assert!(!cast.lets("y/a", "x/a", TCP, 80));
    assert_eq!(would(&cast, "y/a", "x/a"), (true, "no ingress policy applies: allowed".into()));
}
