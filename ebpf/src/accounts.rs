//! The flow tables as a specification, second part: on whose quota a flow is, and what takes it away.
//! In: packets of two pods, full tables, the cursor's rounds, random histories. Out: verdicts, accounts, tickets.
//! Invariant: after every step an entry of CONNTRACK is on one account and has one ticket.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::conntrack::QUOTA_ALL;
use abi::endpoint::SLOT_HOST;
use std::collections::BTreeMap;
use std::vec::Vec;

use crate::expiry::{Round, pace};
use crate::fake::{ALLOW, Node, SOME, icmp, tcp, udp, v4};
use crate::tables::Tables as _;
use crate::tracking::{
    A, ACK, B, FIN, OUTSIDE, RST, SYN, TO_A, TO_B, a_asks, a_says, b_replies, b_says, connect, connected, later,
};

/// Entries by owner, as the accounts should have them.
fn owned(node: &Node) -> BTreeMap<u32, i64> {
    let mut owned = BTreeMap::new();
    for (_, flow) in node.tracked.kept() {
        *owned.entry(flow.owner()).or_default() += 1;
        *owned.entry(QUOTA_ALL).or_default() += 1;
    }
    owned
}

pub(crate) fn check(node: &Node, what: &str) {
    assert_eq!(node.tracked.accounts(), owned(node), "accounts, {what}");
    let tickets = node.tracked.tickets();
    for (key, flow) in node.tracked.kept() {
        let own = tickets.iter().filter(|ticket| ticket.key == key && ticket.serial == flow.serial.get());
        assert_eq!(own.count(), 1, "tickets of {key:?}, {what}");
    }
}

#[test]
fn pkt_78_an_endpoint_owns_as_many_flows_as_it_may_and_others_are_not_concerned() {
    let node = Node::new();
    node.tracked.quota.set(2);
    connect(&node, 4000);
    a_asks(&node, 9).expect("allowed");
    b_replies(&node, 9).expect("part of the flow");
    a_asks(&node, 8).expect("allowed");
    b_replies(&node, 8).expect("part of the flow");
    a_asks(&node, 9).expect("there is room for one more");
    let (verdict, state) = node.run(crate::walk::Hook::FromWorkload, 3, 3, &udp(B, 2, (53, 8)));
    assert_eq!((verdict, state.slot), (Err(FlowQuota), 2), "on its owner's account, whoever sent the packet");
    assert_eq!(a_says(&node, 4001, SYN), Err(FlowQuota), "no handshake that leads to nothing");
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (1, 80), SYN)), TO_A);
    assert_eq!(node.tracked.accounts(), [(QUOTA_ALL, 2), (2, 2)].into());
    later(&node, 61);
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
    node.cursor_goes_round();
    connect(&node, 4001);
    check(&node, "room again");
}

#[test]
fn pkt_78_what_comes_from_outside_is_on_the_responders_quota_and_a_probe_of_the_nodes_on_none() {
    let node = Node::new();
    node.tracked.quota.set(1);
    node.arrives(&tcp(OUTSIDE, 2, (5, 80), SYN)).expect("allowed");
    node.pod_sends(2, &tcp(A, 200, (80, 5), SYN | ACK)).expect("part of the flow");
    node.arrives(&tcp(OUTSIDE, 2, (5, 80), ACK)).expect("part of the flow");
    assert_eq!(node.tracked.accounts(), [(QUOTA_ALL, 1), (2, 1)].into());
    assert_eq!(node.arrives(&tcp(OUTSIDE, 2, (6, 80), SYN)), Err(FlowQuota));
    for port in [5, 6] {
        node.host_sends(2, &tcp((0, 1), 2, (port, 80), SYN)).expect("the node's own");
        node.pod_sends(2, &tcp(A, 1, (80, port), SYN | ACK)).expect("part of the flow");
        node.host_sends(2, &tcp((0, 1), 2, (port, 80), ACK)).expect("the node's own");
    }
    assert_eq!(node.tracked.accounts(), [(QUOTA_ALL, 3), (SLOT_HOST, 2), (2, 1)].into());
}

#[test]
fn pkt_78_a_flow_that_finds_no_room_is_refused_and_kept_once_there_is() {
    let node = connected();
    let rooms: [fn(&Node, usize); 2] =
        [|node, room| node.tracked.room.set(room), |node, room| node.tracked.queue_room.set(room)];
    for full in rooms {
        full(&node, 1);
        a_says(&node, 4001, SYN).expect("allowed");
        b_says(&node, 4001, SYN | ACK).expect("part of the flow");
        assert_eq!(a_says(&node, 4001, ACK), Err(ConntrackFull));
        assert_eq!(a_says(&node, 4000, ACK), TO_B, "the flow of before");
        check(&node, "full");
        full(&node, 100);
        assert_eq!(a_says(&node, 4001, ACK), TO_B, "its next segment");
        check(&node, "room again");
        a_says(&node, 4001, RST).expect("part of the flow");
        later(&node, 41);
        node.cursor_goes_round();
    }
}

#[test]
fn an_entry_whose_ticket_finds_no_room_any_more_does_not_stay_for_ever() {
    let node = connected();
    let ticket = node.tracked.next_ticket().expect("there is one");
    crate::expiry::abandon(&node, &ticket, node.now_s.get());
    assert_eq!(node.tracked.accounts(), [].into());
    assert_eq!(node.tracked.kept().len(), 0);
}

#[test]
fn the_cursor_leaves_what_a_packet_has_claimed_and_what_another_ticket_stands_for() {
    let node = connected();
    later(&node, 4000);
    let (_, flow) = node.tracked.kept()[0];
    let serial = node.claim(flow);
    node.cursor_goes_round();
    assert_eq!((node.tracked.kept().len(), node.tracked.tickets().len()), (1, 1), "claimed");
    flow.serial.set(serial + 1);
    node.cursor_goes_round();
    assert_eq!((node.tracked.kept().len(), node.tracked.tickets().len()), (1, 0), "another's");
}

#[test]
fn the_cursor_goes_round_in_ten_seconds_as_far_as_its_bound_lets_it() {
    assert_eq!(pace(0), (100, 1));
    assert_eq!(pace(2500), (100, 25));
    assert_eq!(pace(100_000), (10, 100));
    assert_eq!(pace(524_288), (10, 256));
    assert_eq!(pace(-1), (100, 1));
}

#[test]
fn a_flow_that_two_processors_keep_at_once_is_kept_and_counted_once() {
    let node = Node::new();
    a_says(&node, 4000, SYN).expect("allowed");
    b_says(&node, 4000, SYN | ACK).expect("part of the flow");
    node.tracked.rival.set(true);
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
    assert_eq!(node.tracked.kept().len(), 1);
    check(&node, "at once");
}

#[test]
fn a_place_is_claimed_before_it_is_taken_over_and_left_alone_while_another_has_it() {
    let node = connected();
    b_says(&node, 4000, RST).expect("part of the flow");
    let (_, old) = node.tracked.kept()[0];
    a_says(&node, 4000, SYN).expect("allowed");
    b_says(&node, 4000, SYN | ACK).expect("part of the flow");
    let serial = node.claim(old);
    assert_eq!(a_says(&node, 4000, ACK), TO_B, "another processor is at it");
    assert_eq!(node.tracked.kept()[0].1.packets.get(), old.packets.get(), "its place is as it was");
    old.serial.set(serial);
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
    assert_eq!((old.serial.get(), node.tracked.kept()[0].1.serial.get()), (0, serial));
    check(&node, "taken over");
}

#[test]
fn tickets_of_flushed_flows_do_not_wait_for_their_turn() {
    let node = connected();
    for port in 0..50 {
        connect(&node, port);
    }
    node.tracked.flush(2);
    connect(&node, 4000);
    let mut round = Round { now_s: node.now_s.get(), left: pace(1).1, dead: 0 };
    while node.tracked.next_ticket().is_some_and(|ticket| round.look(&node, &ticket)) {}
    assert_eq!((round.dead, node.tracked.tickets().len()), (51, 1), "all of them in one tick");
    assert_eq!(round.next_tick_ms(100), 10, "and the next one comes soon");
    check(&node, "flushed");
}

/// A number below `bound`, the next of a sequence.
fn next(seed: &mut u64, bound: u16) -> u16 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*seed >> 33) % u64::from(bound)) as u16
}

fn some_step(node: &mut Node, seed: &mut u64) {
    let port = 4000 + next(seed, 4);
    let flags = [SYN, SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST][usize::from(next(seed, 8))];
    let _verdict = match next(seed, 16) {
        0..=3 => a_says(node, port, flags),
        4..=7 => b_says(node, port, flags),
        8 => a_asks(node, port),
        9 => b_replies(node, port),
        10 => node.pod_sends(3, &icmp(B, 2, [8, 0][usize::from(port % 2)], 7)),
        11 => node.pod_sends(2, &icmp(A, 3, [8, 0][usize::from(port % 2)], 7)),
        12 => {
            let set = [0, ALLOW, SOME][usize::from(next(seed, 3))];
            node.change_ingress(2 + u32::from(next(seed, 2)), set);
            return;
        }
        13 => return later(node, [1, 6, 30, 70, 4000][usize::from(next(seed, 5))]),
        14 => return node.cursor_goes_round(),
        _ if next(seed, 4) == 0 => return node.tracked.flush(2 + u32::from(next(seed, 2))),
        // The address moves to another slot, or back.
        _ => return node.owns(v4(3), [3, 3, 3, 0][usize::from(next(seed, 4))]),
    };
}

#[test]
fn accounts_and_tickets_are_right_after_any_history() {
    for seed in 0..300 {
        let (mut node, mut state) = (Node::new(), seed);
        node.tracked.quota.set(u32::from(3 + next(&mut state, 3)));
        node.tracked.room.set(usize::from(4 + next(&mut state, 4)));
        node.tracked.new_room.set(usize::from(2 + next(&mut state, 8)));
        for step in 0..120 {
            some_step(&mut node, &mut state);
            check(&node, &std::format!("seed {seed}, step {step}"));
        }
        later(&node, 4000);
        node.cursor_goes_round();
        assert_eq!((node.tracked.kept().len(), node.tracked.accounts()), (0, BTreeMap::new()), "seed {seed}");
        let left: Vec<_> = node.tracked.tickets();
        assert_eq!(left, [], "seed {seed}");
    }
}
