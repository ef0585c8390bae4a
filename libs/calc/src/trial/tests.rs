//! Trials over random worlds: judged as the evaluator judges, and every verdict that changes is found.
//! In: two random worlds with the same pods, all on this node. Out: flows and differences that agree with the evaluator.
//! Invariant: a flow between two places is covered by a difference exactly when its verdict is another.
//! Never: measures time.

use super::*;
use crate::{
    World,
    live::tests::{attachment, resources},
};
use model::{Direction, HostEndpoint, IfaceName, Resource, Update};
use policy::{
    AtHost, HostLayer, View, evaluate, evaluate_at,
    generate::{Case, INTERFACES},
};
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
    let own: BTreeSet<_> = case.view.host.iter().map(Cidr::network).collect();
    world.set_host_interfaces(INTERFACES.map(|name| (IfaceName(name.into()), own.clone())).into());
    world.set_host_addresses(own);
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

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The host endpoints that govern this node's interfaces, as the evaluator sees them.
fn governors<'a>(desired: &Desired, view: &'a View) -> Vec<(IfaceName, &'a HostEndpoint)> {
    let named =
        |name: &str| view.host_endpoints.iter().find(|host| host.name == name).expect("it is one of the view's");
    desired.host_endpoints.iter().map(|(interface, spec)| (interface.clone(), named(&spec.name))).collect()
}

fn refused(view: &View, host: &HostEndpoint, (layer, direction): (HostLayer, Direction), flow: &Flow) -> bool {
    let said = evaluate_at(view, AtHost { host, layer, direction }, flow);
    said.is_some_and(|said| said.verdict == Verdict::Deny)
}

#[test]
fn a_flow_at_a_gate_is_judged_as_the_evaluator_judges_it_layer_by_layer() {
    let (mut decided, mut at_pods, mut behind) = (0, 0, 0);
    for seed in 0..150 {
        let (world, _, flows) = worlds(seed);
        let (view, desired) = (world.view(), desired(&world));
        let mut trial = Trial::of(&desired);
        let (all, own) = (governors(&desired, &view), crate::host::own(&world));
        for (flow, (interface, host)) in flows.iter().flat_map(|flow| all.iter().map(move |at| (flow, at))) {
            let lasts = [HostLayer::Local, HostLayer::Forward, HostLayer::PreDnat];
            for (direction, last) in DIRECTIONS.into_iter().flat_map(|to| lasts.map(|last| (to, last))) {
                let layers = [HostLayer::Untracked, HostLayer::PreDnat].into_iter();
                let layers = layers.chain((last != HostLayer::PreDnat).then_some(last));
                let mut said = layers
                    .filter_map(|layer| Some((layer, evaluate_at(&view, AtHost { host, layer, direction }, flow)?)));
                let goes_on = |layer, verdict| {
                    verdict == Verdict::Next || layer == HostLayer::PreDnat && verdict == Verdict::Allow
                };
                let wanted = said.find(|(layer, said)| !goes_on(*layer, said.verdict)).map(|(_, said)| said);
                decided += usize::from(wanted.is_some());
                let found = trial.at_gate(interface, direction, last, flow);
                assert_eq!(found, wanted, "seed {seed}: {interface} {direction} {last:?} {flow:?}");
            }
            // Behind the uplink's gate, of the backend of a client outside.
            let is_nodes = view.host.iter().any(|net| net.contains(flow.destination));
            let layer = if is_nodes { HostLayer::Local } else { HostLayer::Forward };
            let wanted = refused(&view, host, (layer, Direction::Ingress), flow);
            assert_eq!(trial.refused_behind(interface, flow).is_some(), wanted, "seed {seed}: {interface} {flow:?}");
            behind += usize::from(wanted);
        }
        for (flow, host) in flows.iter().flat_map(|flow| crate::host::of_all_interfaces(&own).map(|host| (flow, host)))
        {
            let is_pods = |address| view.endpoints.iter().any(|endpoint| endpoint.addresses.contains(&address));
            let is_nodes = |address| view.host.iter().any(|net| net.contains(address));
            let sends = is_pods(flow.source) && !is_nodes(flow.destination);
            let receives = is_pods(flow.destination) && !is_nodes(flow.source);
            let wanted = is_pods(flow.source) && refused(&view, host, (HostLayer::PreDnat, Direction::Ingress), flow)
                || sends && refused(&view, host, (HostLayer::Forward, Direction::Ingress), flow)
                || receives && refused(&view, host, (HostLayer::Forward, Direction::Egress), flow);
            assert_eq!(trial.refused_at_pods(flow).is_some(), wanted, "seed {seed}: {flow:?}");
            at_pods += usize::from(wanted);
        }
    }
    let counted = format!("{decided} decided at gates, {at_pods} refused at pods, {behind} behind a gate");
    assert!(decided > 5000 && at_pods > 20 && behind > 100, "{counted}");
}

/// Whether the difference speaks of this address: the narrowest place that is told apart.
fn is_of(place: &[Cidr], address: IpAddr, all: &[Cidr]) -> bool {
    let narrowest = all.iter().filter(|net| net.contains(address)).max_by_key(|net| net.prefix_len());
    narrowest.is_some_and(|narrowest| place.contains(narrowest))
}

/// Every place that rules tell apart.
fn places(both: [&Desired; 2]) -> Vec<Cidr> {
    let mut all: Vec<Cidr> = [model::Family::V4, model::Family::V6].map(Cidr::all).into();
    for desired in both {
        all.extend(desired.addresses.keys().copied().map(Cidr::host));
        all.extend(desired.nets.keys());
    }
    all
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
        let all = places([&before, &after]);
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
fn every_verdict_of_a_host_endpoints_layer_that_changes_is_found_and_no_other() {
    let mut changed = 0;
    for seed in 0..150 {
        let (one, other, flows) = worlds(seed);
        let (before, after) = (desired(&one), desired(&other));
        let found = compare(&before, &after);
        if found.unlisted > 0 {
            continue;
        }
        let all = places([&before, &after]);
        let (view_before, view_after) = (one.view(), other.view());
        let layers = HostLayer::ALL.into_iter().flat_map(|layer| DIRECTIONS.map(|direction| (layer, direction)));
        let asked = layers.flat_map(|at| flows.iter().map(move |flow| (at, flow)));
        for ((at, flow), (interface, host)) in
            asked.flat_map(|asked| governors(&after, &view_after).into_iter().map(move |host| (asked, host)))
        {
            let flips = |source_port| {
                let flow = Flow { source_port, ..*flow };
                let (was, is) = (refused(&view_before, host, at, &flow), refused(&view_after, host, at, &flow));
                (was != is).then_some(was)
            };
            let (peer, own) = match at.1 {
                Direction::Ingress => (flow.source, flow.destination),
                Direction::Egress => (flow.destination, flow.source),
            };
            let x = u32::from(flow.protocol.0) << 16 | u32::from(flow.detail);
            let covering = found.at_hosts.iter().filter(|found| {
                (&found.interface, found.layer, found.direction) == (&interface, at.0, at.1)
                    && is_of(&found.peers, peer, &all)
                    && (found.own.is_empty() || is_of(&found.own, own, &all))
                    && found.what.iter().any(|range| range.contains(&x))
            });
            let said: BTreeSet<_> = covering.map(|found| found.lets_in).collect();
            let wanted: BTreeSet<_> = SOURCE_PORTS.into_iter().filter_map(flips).collect();
            assert_eq!(said, wanted, "seed {seed}: {interface} {at:?} {flow:?}");
            changed += wanted.len();
        }
    }
    assert!(changed > 200, "only {changed} verdicts changed");
}

#[test]
fn what_is_only_staged_changes_nothing() {
    for seed in 0..100 {
        let case = Case::from_seed(seed);
        let mut bare = case.clone();
        bare.view.policies.retain(|policy| policy.stage.is_none());
        let (with, without) = (desired(&world(&case)), desired(&world(&bare)));
        let found = compare(&without, &with);
        let nothing = found.pods.is_empty() && found.differences.is_empty() && found.at_hosts.is_empty();
        assert!(nothing, "seed {seed}: {found:?}");
    }
}
