//! The packet's way as a specification, second part: what was judged, and then something moved on.
//! In: a flow, then a change of rules, owners, readiness, time or generation. Out: what its next packets meet.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::Word;
use abi::endpoint::ENDPOINT_KEEP_ESTABLISHED;

use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, ipv4, tcp, udp, v4};
use crate::tables::Arrival;
use crate::tracking::{A, ACK, B, SYN, TO_A, TO_B};
use crate::walk::{Hook, State, Verdict, walk};

/// An ICMP error (port unreachable) of the pod in slot 3 about what the pod in slot 2 sent.
fn unreachable(about: &[u8]) -> Vec<u8> {
    ipv4(B, 2, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

#[test]
fn a_word_that_is_not_in_force_yet_changes_nothing() {
    let mut node = Node::new();
    let next = node.generation.get() + 1;
    node.endpoints[3].ingress = Word::changing(ALLOW, 0, next);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), TO_B);
    node.generation.set(next);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (3, 4))), Err(IngressPolicy));
}

#[test]
fn a_stamp_is_current_also_after_the_generations_have_wrapped() {
    let mut node = Node::new();
    for slot in [2, 3] {
        node.endpoints[slot].rev = u32::MAX;
    }
    node.generation.set((1 << 32) + 3);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, 3, (4000, 80), ACK));
    assert_eq!((verdict, state.tracked), (TO_B, true));
}

#[test]
fn a_judgement_at_the_revision_itself_is_in_force() {
    let mut node = Node::new();
    node.change_ingress(3, ALLOW);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    assert!(node.run(Hook::FromWorkload, 2, 2, &tcp(A, 3, (4000, 80), ACK)).1.tracked);
}

#[test]
fn an_end_that_is_no_longer_ready_gets_and_sends_nothing() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    node.endpoints[3].flags = 0;
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), Err(FlowRefused));
    assert_eq!(node.pod_sends(3, &udp(B, 2, (1, 2))), Err(NoEndpoint));
    let mut foreign = udp(B, 2, (1, 2));
    (foreign[12], foreign[13]) = (0x88, 0xcc);
    assert_eq!(node.pod_sends(3, &foreign), Err(NoEndpoint));
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), Err(NoEndpoint));
}

#[test]
fn a_refused_flow_is_asked_about_once_and_once_allowed_it_stays_allowed() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &udp(A, 3, (9999, 53))), TO_B);
    node.change_ingress(3, 0);
    for asked in [true, false] {
        let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &udp(A, 3, (9999, 53)));
        assert_eq!((verdict, state.ingress_hit.is_some()), (Err(FlowRefused), asked));
    }
    node.change_ingress(3, SOME);
    assert_eq!(node.pod_sends(3, &udp(B, 2, (53, 9999))), TO_A);
    assert_eq!(node.pod_sends(3, &udp(B, 2, (53, 9999))), TO_A);
}

#[test]
fn cal_14_keeping_established_flows_does_not_bring_back_a_refused_one() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &udp(A, 3, (9999, 53))), TO_B);
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (9999, 53))), Err(FlowRefused));
    node.endpoints[3].flags |= ENDPOINT_KEEP_ESTABLISHED;
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (9999, 53))), Err(FlowRefused));
}

#[test]
fn np_52_a_flow_of_the_nodes_own_outlives_every_change_of_rules() {
    let mut node = Node::new();
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), SYN)), TO_A);
    node.change_ingress(2, 0);
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), ACK)), TO_A);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), ACK)), Ok(Verdict::ToHost));
}

#[test]
fn pkt_31_an_error_about_a_refused_or_forgotten_flow_is_unrelated() {
    let mut node = Node::new();
    let sent = udp(A, 3, (9999, 53));
    assert_eq!(node.pod_sends(2, &sent), TO_B);
    node.change_ingress(2, 0);
    assert_eq!(node.pod_sends(3, &unreachable(&sent)), TO_A);
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &sent), Err(FlowRefused));
    assert_eq!(node.pod_sends(3, &unreachable(&sent)), Err(IcmpUnrelated));
    let node = Node::new();
    assert_eq!(node.pod_sends(2, &sent), TO_B);
    let mut node = node;
    node.change_ingress(2, 0);
    node.now_s.set(node.now_s.get() + 61);
    assert_eq!(node.pod_sends(3, &unreachable(&sent)), Err(IcmpUnrelated));
}

#[test]
fn a_dry_run_leaves_alone_what_a_live_packet_would_write_again_or_remove() {
    let mut node = Node::new();
    let arrival = Arrival { ifindex: 3, ingress_ifindex: 3, ..Arrival::default() };
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    let stamp = node.flow_now().stamp.get();
    node.change_ingress(3, SOME);
    let answer = tcp(B, 2, (80, 4000), ACK);
    let dry = |node: &Node| walk(Hook::FromWorkload, &Twin(node), &Bytes(&answer), &arrival, &mut State::default());
    assert_eq!(dry(&node), TO_A);
    assert_eq!((node.flow_now().stamp.get(), node.flow_now().packets.get()), (stamp, 1));
    node.owns(v4(3), 0);
    assert_eq!(dry(&node), Err(NoFlow));
    assert_eq!(node.flows().len(), 1);
}
