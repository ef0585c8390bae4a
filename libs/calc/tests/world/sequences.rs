//! State sequences: any world after any world gives what that world gives from scratch.
//! In: the states below. Out: their Desired along every expanded path.
//! Invariant: how a world came about leaves no trace in its Desired, nor in the evaluator's view.
//! Never: compares less than the whole Desired.

use crate::scenery::{
    Fact, HERE, State, THERE, account, allow, allow_named_port, app, attached, empty_world, enforced, found_by, global,
    host, manifest, namespace, nets, network_set, node, nodes_by, pod, pods_in, pods_of, policy, port, profile,
    published, service, slice, tier,
};
use calc::{Desired, World};
use model::{Pod, Selector, TierEnd};

/// From one pod to everything that can be told, each asking for something that the one before did not.
fn states() -> Vec<State> {
    let web = State::of([
        attached("shop/web", &["10.0.0.2", "fd00::2"]),
        enforced(policy("shop/undescribed", app("args"), vec![], vec![])),
    ]);
    let described = web.plus([pod(manifest("shop/web", "web", &[]))]);
    let policed =
        described.plus([enforced(policy("shop/p1", app("web"), vec![allow(pods_in("shop", app("db")))], vec![]))]);
    let peer = policed.plus([pod(manifest("shop/db", "db", &["10.0.1.3"])), host(&["192.0.2.1"])]);
    let moved = peer.plus([published("shop/db", THERE, "old", &["10.0.1.4"])]);
    let team = pods_of(Selector::Equals("team".into(), "a".into()), Selector::All);
    let two = moved.plus([
        namespace("shop", &[("team", "a")]),
        enforced(policy("shop/p0", Selector::All, vec![allow(team)], vec![allow_named_port("http")])),
        pod(Pod { ports: [port("http", 8080)].into(), ..manifest("shop/db", "db", &[]) }),
    ]);
    let walled = two.plus([
        enforced(policy(
            "shop/p2",
            app("web"),
            vec![allow(nets(&["10.0.0.0/8", "10.0.0.0/16"], &["10.0.1.0/24"]))],
            vec![],
        )),
        attached("shop/api", &["10.0.0.5"]),
        pod(Pod { finished: true, ..manifest("shop/job", "db", &["10.0.1.9"]) }),
        pod(Pod { host_network: true, ..manifest("shop/proxy", "db", &["192.0.2.1"]) }),
    ]);
    let claimed = walled.plus([
        pod(manifest("shop/thief", "db", &["10.0.0.2", "10.0.1.4", "10.0.1.77", "192.0.2.1"])),
        published("shop/web", HERE, "stale", &["10.9.9.9"]),
    ]);
    let tiered = claimed.plus([
        tier("platform", 7.0, TierEnd::Pass),
        enforced(global(
            "platform",
            "g",
            vec![allow(found_by("role == 'bank'")), allow(nodes_by("rack == 'a'"))],
            vec![],
        )),
        enforced(global("nowhere", "n", vec![allow(found_by("pcsa.kind == 'machine'"))], vec![])),
        node(THERE, "a", &["192.0.2.2"]),
    ]);
    let around = tiered.plus([
        network_set(None, "wide", "bank", &["203.0.113.0/24", "10.0.0.0/16"]),
        network_set(Some("shop"), "narrow", "bank", &["203.0.113.0/25"]),
        account("shop", "default", &[("kind", "machine")]),
        profile("kns.shop", vec![allow(found_by("app == 'db'"))]),
    ]);
    let served = around.plus([
        service("web", &["10.96.0.7", "fd96::7"], &["203.0.113.9"], "2026-01-01T00:00:00Z"),
        slice("web-1", "web", &["10.0.0.2", "10.0.1.4"]),
        slice("web-2", "web", &["fd00::2"]),
    ]);
    let wanted = served.plus([
        service("older", &["10.96.0.8"], &["203.0.113.9"], "2025-01-01T00:00:00Z"),
        slice("web-1", "older", &["10.0.0.2"]),
    ]);
    vec![web, described, policed, peer, moved, two, walled, claimed, tiered, around, served, wanted]
}

fn resolved(world: &World) -> Desired {
    calc::desired(world.in_sync().expect("the scenery is in sync"))
}

/// Tells `world`, which holds `from`, what differs in `to`.
fn walk(world: &mut World, from: &State, to: &State, reversed: bool) {
    let told = to.0.iter().filter(|(key, fact)| from.0.get(*key) != Some(fact)).map(|(_, fact)| (fact, true));
    let taken = from.0.iter().filter(|(key, _)| !to.0.contains_key(*key)).map(|(_, fact)| (fact, false));
    let mut steps: Vec<(&Fact, bool)> = told.chain(taken).collect();
    if reversed {
        steps.reverse();
    }
    for (fact, is_told) in steps {
        let before = resolved(world);
        let is_news = if is_told { fact.clone().tell(world) } else { fact.clone().take_back(world) };
        assert!(is_news || resolved(world) == before, "no news, and yet it changes something: {fact:?}");
    }
}

/// Every state on the way, in both orders of telling, is as if it had been told alone.
fn check(name: &str, path: &[State]) {
    for reversed in [false, true] {
        let (mut world, mut held) = (empty_world(), State::default());
        for (step, state) in path.iter().enumerate() {
            walk(&mut world, &held, state, reversed);
            let alone = state.world();
            assert_eq!(resolved(&world), resolved(&alone), "{name}: step {step}, reversed: {reversed}");
            assert_eq!(format!("{:?}", world.view()), format!("{:?}", alone.view()), "{name}: view at step {step}");
            held = state.clone();
        }
    }
}

#[test]
fn states_in_order_and_in_reverse() {
    let mut path = states();
    check("in order", &path);
    path.reverse();
    check("in reverse", &path);
}

#[test]
fn states_with_nothing_between_them() {
    let path: Vec<State> = states().into_iter().flat_map(|state| [state, State::default()]).collect();
    check("with empties", &path);
}

#[test]
fn each_state_alone_is_the_same_told_forwards_and_backwards() {
    for state in states() {
        check("alone", &[state]);
    }
}

#[test]
fn every_state_after_every_other() {
    for first in states() {
        for second in states() {
            check("pair", &[first.clone(), second]);
        }
    }
}

#[test]
fn each_resource_deleted_while_others_refer_to_it_and_told_again() {
    for state in states() {
        for key in state.0.keys() {
            check(&format!("without {key}"), &[state.clone(), state.without(key), state.clone()]);
        }
    }
}

#[test]
fn each_state_asks_for_something_else_than_the_one_before() {
    let desired: Vec<Desired> = states().iter().map(|state| resolved(&state.world())).collect();
    for pair in desired.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
}
