//! Services asked from outside as a specification: which backend a packet that comes by the uplink gets, and who hears what.
//! In: the node of `services`, its service at an address for who is outside. Out: verdicts, backends, entries.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::conntrack::QUOTA_ALL;
use abi::endpoint::{NODE_BESIDE, SLOT_HOST};
use abi::service::{BACKEND_LISTED, BALANCER_BOUNDS_AT, BALANCER_HASHED, BALANCER_SILENT};
use abi::{Balancer, Member, Word};

use crate::accounts::check;
use crate::fake::{ALLOW, Node, SOME, UPLINK, icmp, tcp, udp, v4};
use crate::services::{OF, PORT, TARGET, TO_C, VIP, served};
use crate::tracking::{A, ACK, B, FIN, OUTSIDE, RST, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict};

pub const OUT: Result<Verdict, DropReason> = Ok(Verdict::ByRoute);
pub const UNTOUCHED: Result<Verdict, DropReason> = Ok(Verdict::Untouched);

/// B and C stand behind the service for pods and for who is outside.
pub fn open() -> Node {
    let mut node = served();
    node.frontends[0].outside = Word::settled(1);
    node.frontends[1].outside = Word::settled(1);
    node
}

/// The same with B alone, for who is outside.
pub fn open_by_one() -> Node {
    let mut node = open();
    node.balancers.push(Balancer { of: OF, offset: 0, len: 1, ..Balancer::default() });
    node.frontends[1].outside = Word::settled(2);
    node
}

pub fn asks(node: &Node, port: u16, flags: u8) -> Result<Verdict, DropReason> {
    node.arrives(&tcp(OUTSIDE, VIP, (port, PORT), flags))
}

pub fn comes(node: &Node, frame: &[u8]) -> (Result<Verdict, DropReason>, State) {
    node.run(Hook::FromUplink, UPLINK, UPLINK, frame)
}

pub fn answers(node: &Node, port: u16, flags: u8) -> (Result<Verdict, DropReason>, State) {
    node.run(Hook::FromWorkload, 3, 3, &tcp(B, 200, (TARGET, port), flags))
}

pub fn connect(node: &Node, port: u16) {
    assert_eq!((asks(node, port, SYN), answers(node, port, SYN | ACK).0, asks(node, port, ACK)), (TO_B, OUT, TO_B));
}

#[test]
fn a_flow_from_outside_goes_to_a_backend_with_its_clients_address_and_its_answers_come_from_the_service() {
    let node = open_by_one();
    let (verdict, state) = comes(&node, &tcp(OUTSIDE, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.translation.end), (TO_B, Translated::Destination));
    let packet = &state.packet;
    assert_eq!((packet.source, packet.destination, packet.detail), (v4(200), v4(3), TARGET));
    let (verdict, state) = answers(&node, 4000, SYN | ACK);
    assert_eq!((verdict, state.translation.end), (OUT, Translated::Source));
    assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(VIP), PORT));
    assert_eq!(asks(&node, 4000, ACK), TO_B);
    check(&node, "from outside");
    assert_eq!(node.tracked.accounts(), [(3, 2), (QUOTA_ALL, 2)].into(), "both entries are the backend's");
    assert_eq!((asks(&node, 4000, FIN | ACK), answers(&node, 4000, FIN | ACK).0), (TO_B, OUT));
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn flows_from_outside_go_to_every_backend_and_stay_where_they_are() {
    let node = open();
    for frame in [|port| tcp(OUTSIDE, VIP, (port, PORT), SYN), |port| udp(OUTSIDE, VIP, (port, PORT))] {
        let ask = || (4000..4020).map(|port| node.arrives(&frame(port))).collect::<Vec<_>>();
        let first = ask();
        assert!(first.contains(&TO_B) && first.contains(&TO_C), "{first:?}");
        assert_eq!(ask(), first);
    }
}

#[test]
fn each_side_has_backends_of_its_own_and_what_is_for_pods_alone_nobody_outside_gets() {
    let mut node = open_by_one();
    assert!((4000..4020).all(|port| asks(&node, port, SYN) == TO_B));
    let pods: Vec<_> = (4000..4020).map(|port| node.pod_sends(2, &tcp(A, VIP, (port, PORT), SYN))).collect();
    assert!(pods.contains(&TO_B) && pods.contains(&TO_C));
    node.frontends[1].outside = Word::settled(0);
    assert_eq!(asks(&node, 5000, SYN), UNTOUCHED, "a cluster IP");
    assert_eq!((asks(&node, 5000, ACK), node.arrives(&udp(OUTSIDE, VIP, (5000, PORT)))), (UNTOUCHED, UNTOUCHED));
    let mut node = open_by_one();
    node.frontends[0].outside = Word::settled(0);
    assert_eq!(asks(&node, 5000, SYN), UNTOUCHED, "a node that has nothing for who is outside");
}

#[test]
fn policy_judges_the_client_and_the_backend_and_a_new_deny_cuts_the_flow_both_ways() {
    let mut node = open_by_one();
    node.change_ingress(3, SOME);
    assert_eq!(asks(&node, 4000, SYN), TO_B, "port 80 is let in");
    node.backends[1].port = 8080u16.to_be_bytes();
    assert_eq!(asks(&node, 4001, SYN), Err(IngressPolicy), "port 8080 is not");
    node.backends[1].port = TARGET.to_be_bytes();
    node.change_ingress(3, 0);
    assert_eq!(asks(&node, 4002, SYN), Err(IngressPolicy));
    assert_eq!((asks(&node, 4000, SYN), answers(&node, 4000, ACK).0), (Err(FlowRefused), Err(FlowRefused)));
    node.change_ingress(3, ALLOW);
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, SYN)), (Err(FlowRefused), TO_B));
}

#[test]
fn spf_1_nobody_outside_asks_in_the_name_of_this_node_or_of_a_pod() {
    let mut node = open_by_one();
    for from in [1, 2, 3] {
        assert_eq!(node.arrives(&tcp((0, from), VIP, (4000, PORT), SYN)), Err(SourceIsLocal), "from {from}");
        assert_eq!(node.arrives(&udp((0, from), VIP, (4000, PORT))), Err(SourceIsLocal), "from {from}");
        assert_eq!(node.arrives(&tcp((0, from), VIP, (4000, PORT), ACK)), Err(SourceIsLocal), "nor is it answered");
    }
    // A pod's own flow through the service is no cover.
    assert_eq!(node.pod_sends(2, &udp(A, VIP, (4001, PORT))), TO_B);
    assert_eq!(node.arrives(&udp((0, 2), VIP, (4001, PORT))), Err(SourceIsLocal));
    node.balancers[2].len = 0;
    assert_eq!(node.arrives(&tcp((0, 2), VIP, (4002, PORT), SYN)), Err(SourceIsLocal), "told nothing either");
}

#[test]
fn pkt_35_a_service_without_backends_refuses_who_is_outside_or_is_silent_where_they_are_elsewhere() {
    let mut node = open_by_one();
    for flags in [0, BALANCER_SILENT] {
        node.balancers[2] = Balancer { of: OF, flags, ..Balancer::default() };
        for frame in [tcp(OUTSIDE, VIP, (4000, PORT), SYN), udp(OUTSIDE, VIP, (4000, PORT))] {
            let (verdict, state) = comes(&node, &frame);
            assert_eq!((verdict, state.translation.is_silent, state.slot), (Err(NoBackend), flags != 0, 0));
        }
    }
    assert!(node.flows().is_empty());
}

#[test]
fn a_stray_segment_from_outside_is_refused_unless_it_is_for_an_address_of_the_nodes() {
    let mut node = open_by_one();
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, RST)), (Err(BackendGone), UNTOUCHED));
    node.owns(v4(VIP), SLOT_HOST);
    assert_eq!(asks(&node, 4000, ACK), UNTOUCHED, "a socket's, or the stack's to refuse");
    assert_eq!(asks(&node, 4000, SYN), TO_B);
    connect(&node, 4001);
    node.backends[1].standing = Word::settled(0);
    assert_eq!(asks(&node, 4001, ACK), UNTOUCHED, "its backend is gone");
}

#[test]
fn a_stray_segment_from_outside_is_the_stacks_where_another_proxys_rules_may_know_it() {
    let mut node = open_by_one();
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(NODE_BESIDE);
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, FIN | ACK)), (UNTOUCHED, UNTOUCHED));
    assert!(node.flows().is_empty());
    connect(&node, 4000);
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (4000, PORT), ACK)), Err(BackendGone), "a pod's is known, or nobody's");
}

#[test]
fn the_flows_of_a_backend_that_is_gone_end_and_those_of_one_that_is_only_not_chosen_live_on() {
    let mut node = open_by_one();
    connect(&node, 4000);
    assert_eq!(node.arrives(&udp(OUTSIDE, VIP, (4000, PORT))), TO_B);
    node.members[0].backend = 2;
    node.backends[1].standing = Word::settled(BACKEND_LISTED);
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4001, SYN)), (TO_B, TO_C));
    node.backends[1].standing = Word::settled(0);
    assert_eq!(asks(&node, 4000, ACK), Err(BackendGone));
    assert_eq!(node.arrives(&udp(OUTSIDE, VIP, (4000, PORT))), TO_C, "a datagram goes to another");
}

#[test]
fn a_client_outside_keeps_to_its_backend_where_the_service_says_so() {
    let mut node = open();
    node.balancers[1].affinity_s = 100;
    let first = asks(&node, 4000, SYN);
    assert!((4001..4020).all(|port| asks(&node, port, SYN) == first));
    let next: Vec<_> = (4000..4020).map(|port| node.arrives(&tcp((0, 201), VIP, (port, PORT), SYN))).collect();
    assert!(next.iter().all(|verdict| *verdict == next[0]));
}

#[test]
fn two_flows_from_outside_with_one_set_of_addresses_and_ports_are_not_mixed_up() {
    let node = open_by_one();
    assert_eq!(node.arrives(&tcp(OUTSIDE, 3, (4000, TARGET), SYN)), TO_B, "straight to the backend");
    assert_eq!(asks(&node, 4000, SYN), Err(NatCollision));
    connect(&node, 4001);
    let (verdict, state) = comes(&node, &tcp(OUTSIDE, 3, (4001, TARGET), SYN));
    assert_eq!((verdict, state.slot), (Err(NatCollision), 3));
    assert_eq!(asks(&node, 4001, ACK), TO_B);
}

#[test]
fn what_is_no_frontend_or_of_another_protocol_is_left_alone() {
    let node = open_by_one();
    assert_eq!(node.arrives(&tcp(OUTSIDE, VIP, (4000, 444), SYN)), UNTOUCHED);
    assert_eq!(node.arrives(&icmp(OUTSIDE, VIP, 8, 1)), UNTOUCHED);
    assert_eq!(node.arrives(&tcp((0, VIP), 200, (PORT, 4000), ACK)), UNTOUCHED);
    connect(&node, 4000);
    assert_eq!(node.arrives(&tcp((0, VIP), 200, (PORT, 4000), ACK)), UNTOUCHED, "what somebody else answers");
}

#[test]
fn every_node_sends_a_flow_to_the_same_backend_where_its_balancer_says_so() {
    let (mut here, mut there) = (open(), open());
    for node in [&mut here, &mut there] {
        node.balancers[1].flags = BALANCER_HASHED;
    }
    // The same backends in other slots.
    there.backends.swap(1, 2);
    there.members.swap(0, 1);
    // And chance has them in another turn.
    there.chance.set(0xf777_7777);
    for frame in [|port| tcp(OUTSIDE, VIP, (port, PORT), SYN), |port| udp(OUTSIDE, VIP, (port, PORT))] {
        let of = |node: &Node| (4000..4040).map(|port| node.arrives(&frame(port))).collect::<Vec<_>>();
        let (mine, others) = (of(&here), of(&there));
        assert_eq!(mine, others);
        let to_b = mine.iter().filter(|verdict| **verdict == TO_B).count();
        assert!((8..32).contains(&to_b), "{to_b} of 40");
    }
}

#[test]
fn a_flow_whose_place_at_its_backend_is_taken_goes_to_another_whatever_its_balancer_says() {
    let mut node = open();
    node.balancers[1].flags = BALANCER_HASHED;
    for port in 4000..4020 {
        assert_eq!(node.arrives(&tcp(OUTSIDE, 3, (port, TARGET), SYN)), TO_B, "straight to the backend");
        assert_eq!(asks(&node, port, SYN), TO_C);
    }
}

#[test]
fn who_keeps_to_a_backend_keeps_to_the_same_on_every_node() {
    for client in 200..220 {
        let (mut here, mut there) = (open(), open());
        for node in [&mut here, &mut there] {
            (node.balancers[1].flags, node.balancers[1].affinity_s) = (BALANCER_HASHED, 100);
        }
        let asks = |node: &Node, port| node.arrives(&tcp((0, client), VIP, (port, PORT), SYN));
        assert_eq!(asks(&here, 4000), asks(&there, 5000), "{client}");
    }
}

/// B alone, for clients from `from` to before `to`.
fn open_to(from: u8, to: u8) -> Node {
    let mut node = open_by_one();
    let words = |last: u8| v4(last).to_bytes().map(u32::from);
    let word = |bytes: &[u32]| bytes.iter().fold(0, |word, byte| word << 8 | byte);
    let bounds = [words(from), words(to)].concat();
    node.members = [1, 2].into_iter().chain(bounds.chunks(4).map(word)).map(member).collect();
    node.members.remove(1);
    node.balancers[2].flags = 2 << BALANCER_BOUNDS_AT;
    node.frontends[1] = abi::Frontend { inside: Word::settled(2), outside: Word::settled(2) };
    node
}

fn member(backend: u32) -> Member {
    Member { backend, pad: 0 }
}

#[test]
fn only_clients_in_source_ranges_get_a_backend_and_others_hear_nothing() {
    let node = open_to(200, 202);
    let asks = |from: u8| comes(&node, &tcp((0, from), VIP, (4000, PORT), SYN));
    assert_eq!((asks(200).0, asks(201).0), (TO_B, TO_B));
    for from in [199, 202] {
        let (verdict, state) = asks(from);
        assert_eq!((verdict, state.translation.is_silent), (Err(NoBackend), true), "{from}");
    }
    assert_eq!(node.arrives(&udp((0, 202), VIP, (4000, PORT))), Err(NoBackend));
    assert_eq!(asks(2).0, Err(SourceIsLocal), "nor is anybody told of them who is not himself");
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (4000, PORT), SYN)), Err(NoBackend), "pods as well");
    assert_eq!(node.pod_sends(2, &tcp((2, 200), VIP, (4000, PORT), SYN)), Err(Spoofed));
    assert_eq!(node.counted.borrow().refused[&1], 4);
    let node = open_to(2, 3);
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (4000, PORT), SYN)), TO_B);
}

#[test]
fn a_new_source_range_leaves_flows_alone_and_asks_about_each_that_is_opened_anew() {
    let mut node = open_to(200, 201);
    connect(&node, 4000);
    assert_eq!(node.arrives(&udp(OUTSIDE, VIP, (4000, PORT))), TO_B);
    let other = open_to(201, 202);
    (node.members, node.balancers) = (other.members, other.balancers);
    node.generation.set(node.generation.get() + 1);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK).0), (TO_B, OUT));
    assert_eq!(node.arrives(&udp(OUTSIDE, VIP, (4000, PORT))), TO_B);
    assert_eq!(asks(&node, 4001, SYN), Err(NoBackend));
    // By the ports of a connection that is over what led to it is still there.
    assert_eq!((asks(&node, 4000, FIN | ACK), answers(&node, 4000, FIN | ACK).0), (TO_B, OUT));
    let (verdict, state) = comes(&node, &tcp(OUTSIDE, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.translation.is_silent), (Err(NoBackend), true));
    let other = open_to(200, 201);
    (node.members, node.balancers) = (other.members, other.balancers);
    node.generation.set(node.generation.get() + 1);
    assert_eq!(asks(&node, 4000, SYN), TO_B);
}
