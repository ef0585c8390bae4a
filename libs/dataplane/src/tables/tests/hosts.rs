//! Host endpoints in the tables: what moves on together, what waits, and what there is no room for.
//! In: small Desireds with a host endpoint. Out: revisions of its slots, writes, refusals.
//! Invariant: an interface without a host endpoint is open.
//! Never: a time, a thread or a kernel.

use super::super::Refusal;
use super::{late::slow_tables, *};

fn gate(layers: [Rules; 4]) -> Sketch {
    Sketch { host: Some(layers), ..Sketch::default() }
}

/// Revisions of a host endpoint's slots: its own, and those of its layers that have one.
fn revs(tables: &Tables<FakeStore>) -> Vec<u32> {
    let own = tables.names.hosts[&IfaceName("eth0".into())];
    let abi::Layers { untracked, pre_dnat, forward, .. } = tables.image.endpoints[&own].layers;
    let slots = [own, untracked, pre_dnat, forward].into_iter().filter(|slot| *slot != SLOT_NONE);
    slots.map(|slot| tables.image.endpoints[&slot].rev).collect()
}

#[test]
fn the_layers_of_a_host_endpoint_move_on_together_and_what_is_asked_of_all_pods_moves_all_pods() {
    let allow = || Some(vec![rule(4, 80, SetAction::Allow)]);
    let pods = Sketch { endpoints: [Some((None, None)), None, None], ..gate([allow(), None, None, allow()]) };
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    let pod = |tables: &Tables<FakeStore>| tables.image.endpoints[&tables.names.endpoints[&attachment(0)]].rev;
    let mut commit = |sketch: &Sketch| {
        tables.commit(&sketch.desired(), &guarded).expect("it fits");
        (revs(&tables), pod(&tables))
    };
    assert_eq!(commit(&pods), (vec![1, 1], 1));
    let other_local = Sketch { host: Some([Some(vec![]), None, None, allow()]), ..pods.clone() };
    assert_eq!(commit(&other_local), (vec![2, 2], 1), "forward with local");
    let other_forward = Sketch { host: Some([Some(vec![]), None, None, Some(vec![])]), ..pods.clone() };
    assert_eq!(commit(&other_forward), (vec![3, 3], 3), "local with forward, and pods with what the uplink forwards");
    let untracked = Sketch { host: Some([Some(vec![]), allow(), None, Some(vec![])]), ..pods.clone() };
    assert_eq!(commit(&untracked), (vec![4, 4, 4], 3), "both with a layer that comes");
    assert_eq!(commit(&other_forward), (vec![5, 5], 3), "and with one that goes");
    let of_node = |pre_dnat: Rules, forward: Rules, refuses| Sketch {
        node: [pre_dnat, forward],
        refuses,
        ..other_forward.clone()
    };
    assert_eq!(commit(&of_node(None, allow(), false)).1, 6, "a node's layer that comes");
    assert_eq!(commit(&of_node(None, Some(vec![]), false)).1, 7, "that changes");
    assert_eq!(commit(&of_node(allow(), Some(vec![]), false)).1, 8, "one more");
    assert_eq!(commit(&of_node(Some(vec![]), Some(vec![]), false)).1, 9, "that changes");
    assert_eq!(commit(&of_node(Some(vec![]), None, true)).1, 10, "one that goes, and pods are refused");
    assert_eq!(commit(&of_node(None, None, true)).1, 11, "both");
    assert_eq!(commit(&of_node(None, None, false)).1, 12, "pods are refused no more");
    assert_eq!(commit(&of_node(None, None, false)).1, 12);
}

#[test]
fn a_layer_that_comes_again_while_packets_may_still_find_it_waits() {
    let allow = || Some(vec![rule(4, 80, SetAction::Allow)]);
    let mut tables = slow_tables();
    for layers in [[allow(), allow(), None, None], [allow(), None, None, None], [allow(), Some(vec![]), None, None]] {
        tables.commit(&gate(layers).desired(), &guarded).expect("it fits");
    }
    assert!(tables.store.waits > 0);
    for sketch in [gate([allow(), None, None, None]), Sketch::default(), gate([None, None, None, allow()])] {
        tables.commit(&sketch.desired(), &guarded).expect("it fits");
    }
    tables.settle().expect("a sweep");
    assert_nothing_left(&tables);
}

#[test]
fn a_host_endpoint_without_room_is_left_open_and_named_and_one_that_is_judged_refuses_the_revision() {
    let allow = || Some(vec![rule(4, 80, SetAction::Allow)]);
    let two = gate([allow(), None, None, allow()]).desired();
    let mut tables = Tables::adopt(FakeStore::with_sizes(&[("ENDPOINTS", 3)])).expect("empty tables");
    let committed = tables.commit(&two, &guarded).expect("the rest fits");
    let full = Refusal::Full { map: "ENDPOINTS", size: 3 };
    assert_eq!(committed.refused_hosts, [(IfaceName("eth0".into()), full)]);
    assert!(tables.store.held.interfaces.is_empty());
    let one = gate([allow(), None, None, None]).desired();
    assert_eq!(
        tables.commit(&one, &guarded).map(|committed| committed.refused_hosts),
        Ok(vec![]),
        "its slot was given back"
    );
    tables.settle().expect("a sweep");
    let (before, meaning) = (tables.store.held.clone(), hits(&tables.names));
    let refused = tables.commit(&two, &guarded);
    assert!(matches!(&refused, Err(CommitError::Full(full)) if full.map == "ENDPOINTS"), "{refused:?}");
    assert_eq!(before, tables.store.held);
    assert_speaks(&tables.store, &one, &meaning, "the previous revision");
    // A pod is the one that is refused where both want the last slot.
    let pod = Sketch { endpoints: [Some((None, None)), None, None], ..gate([allow(), None, None, None]) };
    let committed = tables.commit(&pod.desired(), &guarded).expect("the host endpoint fits");
    assert_eq!((committed.refused.len(), committed.refused_hosts.len()), (1, 0));
}
