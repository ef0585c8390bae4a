//! Trials over random worlds: judged as the evaluator judges, and every verdict that changes is found.
//! In: two random worlds with the same pods, all on this node. Out: flows and differences that agree with the evaluator.
//! Invariant: a flow between two places is covered by a difference exactly when its verdict is another.
//! Never: measures time.

use super::*;
use crate::{
    World,
    live::tests::{attachment, resources},
};
use model::{Resource, Update};
use policy::{View, evaluate, generate::Case};
use std::collections::BTreeSet;

/// The world of this case with all its pods here.
fn world(case: &Case) -> World {
    let mut world = World::new("here".into(), false);
    for (number, resource) in resources(case).into_iter().enumerate() {
        if let Resource::Pod(pod) = &resource {
            world.attach(attachment(pod, number, true));
        }
        world.apply(Update::Set(resource));
    }
    world.set_host_addresses(case.view.host.iter().map(Cidr::network).collect());
    world.apply(Update::InSync);
    world
}

fn desired(world: &World) -> Desired {
    crate::desired(world.in_sync().expect("all is said"))
}

/// Two worlds that differ in their policies.
fn worlds(seed: u64) -> (World, World, Vec<Flow>) {
    let one = Case::from_seed(2 * seed);
    let policies = Case::from_seed(2 * seed + 1).view.policies;
    let mut other = one.clone();
    other.view.policies.truncate(other.view.policies.len() / 2);
    let fresh: Vec<_> =
        policies.into_iter().filter(|each| !one.view.policies.iter().any(|known| known.id == each.id)).collect();
    other.view.policies.extend(fresh.into_iter().take(2));
    (world(&one), world(&other), one.flows)
}

#[test]
fn a_flow_is_judged_as_the_evaluator_judges_it() {
    for seed in 0..150 {
        let (world, _, flows) = worlds(seed);
        let (view, desired) = (world.view(), desired(&world));
        let mut trial = Trial::of(&desired);
        for flow in &flows {
            assert_eq!(trial.outcome(flow), evaluate(&view, flow), "seed {seed}: {flow:?}");
        }
    }
}

/// Whether the difference speaks of this address: the narrowest place that is told apart.
fn is_of(place: &[Cidr], address: IpAddr, all: &[Cidr]) -> bool {
    let narrowest = all.iter().filter(|net| net.contains(address)).max_by_key(|net| net.prefix_len());
    narrowest.is_some_and(|narrowest| place.contains(narrowest))
}

/// Those that generated rules name, and those after them.
const SOURCE_PORTS: [u16; 12] = [0, 1, 53, 54, 79, 80, 81, 82, 84, 85, 86, u16::MAX];

#[test]
fn every_verdict_that_changes_is_found_and_no_other() {
    let mut changed = 0;
    for seed in 0..150 {
        let (one, other, flows) = worlds(seed);
        let (before, after) = (desired(&one), desired(&other));
        let found = compare(&before, &after);
        if found.unlisted > 0 {
            continue;
        }
        assert_eq!(found.unlooked, 0, "seed {seed}: small worlds are looked at whole");
        let mut all: Vec<Cidr> = [model::Family::V4, model::Family::V6].map(Cidr::all).into();
        for desired in [&before, &after] {
            all.extend(desired.addresses.keys().copied().map(Cidr::host));
            all.extend(desired.nets.keys());
        }
        let (view_before, view_after) = (one.view(), other.view());
        for flow in &flows {
            let verdict = |view: &View, source_port| evaluate(view, &Flow { source_port, ..*flow }).verdict();
            let flips = |source_port| {
                let (was, is) = (verdict(&view_before, source_port), verdict(&view_after, source_port));
                (was != is).then_some(is == Verdict::Allow)
            };
            let x = u32::from(flow.protocol.0) << 16 | u32::from(flow.detail);
            let covering = found.differences.iter().filter(|found| {
                is_of(&found.from, flow.source, &all)
                    && is_of(&found.to, flow.destination, &all)
                    && found.what.iter().any(|range| range.contains(&x))
            });
            let said: BTreeSet<_> = covering.map(|found| found.lets_in).collect();
            // A difference is one if it is one from some source port.
            let wanted: BTreeSet<_> = SOURCE_PORTS.into_iter().filter_map(flips).collect();
            assert_eq!(said, wanted, "seed {seed}: {flow:?}");
            changed += usize::from(flips(flow.source_port).is_some());
        }
    }
    assert!(changed > 300, "only {changed} verdicts changed");
}

#[test]
fn what_is_only_staged_changes_nothing() {
    for seed in 0..100 {
        let case = Case::from_seed(seed);
        let mut bare = case.clone();
        bare.view.policies.retain(|policy| policy.stage.is_none());
        let (with, without) = (desired(&world(&case)), desired(&world(&bare)));
        let found = compare(&without, &with);
        assert!(found.pods.is_empty() && found.differences.is_empty(), "seed {seed}: {found:?}");
    }
}
