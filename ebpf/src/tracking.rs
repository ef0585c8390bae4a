//! The flow tables as a specification: what is half-open, what is kept, and how it ends.
//! In: packets of two pods, time, changes of rules. Out: verdicts, entries, states.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::conntrack::{CT_RESET, QUOTA_ALL, STATE_ANSWERED, STATE_CLOSED, STATE_ESTABLISHED, STATE_NEW};
use abi::endpoint::ENDPOINT_KEEP_ESTABLISHED;
use abi::{DropReason, DropReason::*, Timeout};

use crate::accounts::check;
use crate::fake::{ALLOW, Node, SOME, icmp, ipv4, tcp, udp};
use crate::walk::Verdict;

pub(crate) const A: (u32, u8) = (2, 2);
pub(crate) const B: (u32, u8) = (3, 3);
pub(crate) const OUTSIDE: (u32, u8) = (0, 200);
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
pub(crate) const TO_A: Result<Verdict, DropReason> = Ok(Verdict::ToEndpoint(2));
pub(crate) const TO_B: Result<Verdict, DropReason> = Ok(Verdict::ToEndpoint(3));

/// A packet of the pod in slot 2 to the one in slot 3, by the port it comes from.
pub(crate) fn a_says(node: &Node, port: u16, flags: u8) -> Result<Verdict, DropReason> {
    node.pod_sends(2, &tcp(A, 3, (port, 80), flags))
}

pub(crate) fn b_says(node: &Node, port: u16, flags: u8) -> Result<Verdict, DropReason> {
    node.pod_sends(3, &tcp(B, 2, (80, port), flags))
}

pub(crate) fn a_asks(node: &Node, port: u16) -> Result<Verdict, DropReason> {
    node.pod_sends(2, &udp(A, 3, (port, 53)))
}

pub(crate) fn b_replies(node: &Node, port: u16) -> Result<Verdict, DropReason> {
    node.pod_sends(3, &udp(B, 2, (53, port)))
}

pub(crate) fn connect(node: &Node, port: u16) {
    assert_eq!(a_says(node, port, SYN), TO_B);
    assert_eq!(b_says(node, port, SYN | ACK), TO_A);
    assert_eq!(a_says(node, port, ACK), TO_B);
}

/// A TCP connection from port 4000 of the one pod to port 80 of the other.
pub(crate) fn connected() -> Node {
    let node = Node::new();
    connect(&node, 4000);
    node
}

pub(crate) fn later(node: &Node, seconds: u32) {
    node.now_s.set(node.now_s.get() + seconds);
}

#[test]
fn a_connection_is_kept_from_the_openers_second_word_on() {
    let node = Node::new();
    for (from, flags, state, kept) in [
        (2, SYN, STATE_NEW, 0),
        (3, SYN | ACK, STATE_ANSWERED, 0),
        (3, SYN | ACK, STATE_ANSWERED, 0),
        (2, SYN, STATE_ANSWERED, 0),
        (2, ACK, STATE_ESTABLISHED, 1),
        (3, ACK, STATE_ESTABLISHED, 1),
    ] {
        let said = if from == 2 { a_says(&node, 4000, flags) } else { b_says(&node, 4000, flags) };
        said.expect("allowed");
        assert_eq!((node.flow_now().state.get(), node.tracked.kept().len()), (state, kept), "after {from} {flags}");
    }
    assert_eq!(node.flow_now().packets.get(), 6);
    assert_eq!(node.tracked.accounts(), [(QUOTA_ALL, 1), (2, 1)].into());
    check(&node, "connected");
}

#[test]
fn pkt_78_a_flood_of_openings_takes_no_place_of_an_established_flow() {
    let node = connected();
    node.tracked.new_room.set(8);
    for port in 0..100 {
        // Unanswered, refused by the peer's stack, and answered to a sender that is not where it says it is.
        a_says(&node, 5000 + port, SYN).expect("allowed");
        b_says(&node, 5000 + port, [RST | ACK, SYN | ACK][usize::from(port % 2)]).expect("part of the flow");
        node.arrives(&tcp(OUTSIDE, 3, (port, 80), SYN)).expect("allowed");
        node.pod_sends(3, &tcp(B, 200, (80, port), SYN | ACK)).expect("part of the flow");
        a_asks(&node, port).expect("allowed");
        node.pod_sends(2, &icmp(A, 3, 8, port)).expect("allowed");
        node.pod_sends(3, &icmp(B, 2, 0, port)).expect("part of the flow");
    }
    assert_eq!((node.tracked.kept().len(), node.tracked.new_count()), (1, 8));
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
    assert_eq!(b_says(&node, 4000, ACK), TO_A);
    connect(&node, 4001);
}

#[test]
fn pkt_80_a_question_and_its_answer_are_never_kept_and_a_talk_is() {
    for third in [a_asks, b_replies] {
        let node = Node::new();
        assert_eq!(a_asks(&node, 9), TO_B);
        assert_eq!(b_replies(&node, 9), TO_A);
        assert_eq!(node.tracked.kept().len(), 0);
        third(&node, 9).expect("part of the flow");
        assert_eq!(node.tracked.kept().len(), 1);
        assert_eq!(b_replies(&node, 9), TO_A);
        assert_eq!(node.pod_sends(3, &udp(B, 2, (54, 9))), TO_A, "a flow of its own");
        assert_eq!(node.tracked.live().len(), 2);
    }
}

#[test]
fn pkt_46_a_protocol_without_ports_is_one_flow_both_ways() {
    let mut node = Node::new();
    node.change_ingress(2, 0);
    let there = ipv4(A, 3, 253, &[1, 2, 3, 4]);
    let back = ipv4(B, 2, 253, &[1, 2, 3, 4]);
    assert_eq!(node.pod_sends(3, &back), Err(IngressPolicy));
    assert_eq!(node.pod_sends(2, &there), TO_B);
    assert_eq!(node.pod_sends(3, &back), TO_A);
    assert_eq!(node.pod_sends(3, &back), TO_A);
    assert_eq!((node.flow_now().timeout.get(), node.tracked.kept().len()), (Timeout::Generic as u8, 1));
}

#[test]
fn pkt_70_a_flow_lives_as_long_as_its_kind_and_state_say() {
    type Says = fn(&Node) -> Result<Verdict, DropReason>;
    let syn: Says = |node| a_says(node, 4000, SYN);
    let syn_ack: Says = |node| b_says(node, 4000, SYN | ACK);
    let ack: Says = |node| a_says(node, 4000, ACK);
    let fin: Says = |node| a_says(node, 4000, FIN | ACK);
    let fin_back: Says = |node| b_says(node, 4000, FIN | ACK);
    let rst: Says = |node| b_says(node, 4000, RST);
    let ask: Says = |node| a_asks(node, 9);
    let reply: Says = |node| b_replies(node, 9);
    let ping: Says = |node| node.pod_sends(2, &icmp(A, 3, 8, 7));
    let generic: Says = |node| node.pod_sends(2, &ipv4(A, 3, 253, &[0; 4]));
    for (what, says, seconds) in [
        ("a SYN", &[syn][..], 20),
        ("an answered SYN", &[syn, syn_ack], 20),
        ("a connection", &[syn, syn_ack, ack], 3600),
        ("one end's FIN", &[syn, syn_ack, ack, fin], 3600),
        ("both ends' FIN", &[syn, syn_ack, ack, fin, fin_back], 30),
        ("a RST", &[syn, syn_ack, ack, rst], 40),
        ("a refused SYN", &[syn, rst], 40),
        ("a datagram", &[ask], 60),
        ("datagrams", &[ask, reply, ask], 60),
        ("a ping", &[ping], 5),
        ("raw IP", &[generic], 600),
    ] {
        let node = Node::new();
        for say in says {
            say(&node).expect(what);
        }
        let kept = node.tracked.kept().len();
        later(&node, seconds);
        node.cursor_goes_round();
        assert_eq!(node.tracked.kept().len(), kept, "{what} lives {seconds} s");
        assert!(!crate::conntrack::expired(&node, node.flow_now(), node.now_s.get()), "{what} lives {seconds} s");
        later(&node, 1);
        assert!(crate::conntrack::expired(&node, node.flow_now(), node.now_s.get()), "{what} lives no longer");
        node.cursor_goes_round();
        assert_eq!((node.tracked.kept().len(), node.tracked.tickets().len()), (0, 0), "{what} is removed");
        check(&node, what);
    }
}

#[test]
fn pkt_70_a_timeout_that_is_set_reaches_the_flows_that_are_there() {
    let mut node = connected();
    later(&node, 100);
    node.tracked.timeouts = node.tracked.timeouts.with(Timeout::TcpEstablished, 99);
    assert_eq!(a_says(&node, 4000, ACK), Err(NoFlow));
}

fn is_reset(node: &Node) -> bool {
    node.flow_now().flags.get() & CT_RESET != 0
}

#[test]
fn pkt_71_nobody_is_kept_for_a_reset_alone() {
    let node = Node::new();
    a_says(&node, 4000, SYN).expect("allowed");
    a_says(&node, 4000, RST | ACK).expect("part of the flow");
    a_says(&node, 4000, ACK).expect("part of the flow");
    a_says(&node, 4000, ACK).expect("part of the flow");
    assert_eq!(node.tracked.kept().len(), 0, "nobody has answered");
    b_says(&node, 4000, SYN | ACK).expect("part of the flow");
    b_says(&node, 4000, RST).expect("part of the flow");
    a_says(&node, 4000, ACK).expect("part of the flow");
    assert_eq!(node.tracked.kept().len(), 0, "the other end has ended it");
}

#[test]
fn pkt_71_a_forged_reset_is_retracted_when_its_sender_goes_on() {
    let node = connected();
    assert_eq!(b_says(&node, 4000, RST), TO_A);
    assert!(is_reset(&node));
    assert_eq!(a_says(&node, 4000, ACK), TO_B, "what was under way says nothing");
    assert!(is_reset(&node));
    assert_eq!(b_says(&node, 4000, ACK), TO_A);
    assert!(!is_reset(&node));
    later(&node, 3600);
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
}

#[test]
fn pkt_71_a_forged_reset_of_both_ends_is_retracted_when_both_go_on() {
    let node = connected();
    for says in [a_says, b_says] {
        says(&node, 4000, RST).expect("part of the flow");
    }
    a_says(&node, 4000, ACK).expect("part of the flow");
    assert!(is_reset(&node));
    b_says(&node, 4000, ACK).expect("part of the flow");
    assert!(!is_reset(&node));
}

#[test]
fn pkt_71_a_forged_reset_does_not_keep_a_connection_from_opening() {
    let node = Node::new();
    a_says(&node, 4000, SYN).expect("allowed");
    b_says(&node, 4000, RST | ACK).expect("part of the flow");
    assert_eq!(b_says(&node, 4000, SYN | ACK), TO_A);
    a_says(&node, 4000, RST).expect("part of the flow");
    assert_eq!(a_says(&node, 4000, ACK), TO_B);
    assert_eq!(node.flow_now().state.get(), STATE_ESTABLISHED);
    assert!(!is_reset(&node));
}

#[test]
fn pkt_72_a_new_connection_takes_the_place_of_the_one_that_is_over() {
    for ends in [&[(3, RST)][..], &[(2, FIN | ACK), (3, FIN | ACK)]] {
        let mut node = connected();
        for (from, flags) in ends {
            (if *from == 2 { a_says } else { b_says })(&node, 4000, *flags).expect("part of the flow");
        }
        assert_eq!(a_says(&node, 4000, ACK), TO_B, "the last words");
        node.change_ingress(3, 0);
        assert_eq!(a_says(&node, 4000, SYN), Err(IngressPolicy), "judged anew");
        node.change_ingress(3, ALLOW);
        node.change_ingress(2, 0);
        assert_eq!(b_says(&node, 4000, SYN), Err(IngressPolicy), "not turned round");
        let ticket = node.tracked.tickets();
        connect(&node, 4000);
        assert_eq!(node.flow_now().state.get(), STATE_ESTABLISHED);
        assert_eq!(node.tracked.tickets(), ticket, "no ticket beside the one that is there");
        check(&node, "taken over");
    }
}

#[test]
fn pkt_72_a_place_that_is_taken_over_by_another_owner_moves_accounts() {
    let node = connected();
    b_says(&node, 4000, RST).expect("part of the flow");
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), SYN)), TO_A);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN | ACK)), TO_B);
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), ACK)), TO_A);
    assert_eq!(node.tracked.accounts(), [(QUOTA_ALL, 1), (3, 1)].into());
    check(&node, "the other way round");
}

#[test]
fn pkt_72_a_closed_flow_is_not_brought_back_by_what_is_left_of_its_opening() {
    let mut node = connected();
    node.tracked.timeouts = node.tracked.timeouts.with(Timeout::TcpSynSent, 1000);
    a_says(&node, 4000, FIN | ACK).expect("part of the flow");
    b_says(&node, 4000, FIN | ACK).expect("part of the flow");
    assert_eq!(node.flow_now().state.get(), STATE_CLOSED);
    later(&node, 31);
    assert_eq!(a_says(&node, 4000, ACK), Err(NoFlow));
    node.cursor_goes_round();
    assert_eq!(node.tracked.kept().len(), 0);
    assert_eq!(a_says(&node, 4000, ACK), Err(NoFlow));
    assert_eq!(b_says(&node, 4000, ACK), Err(NoFlow));
}

#[test]
fn a_refused_flow_is_not_brought_back_by_what_is_left_of_its_opening() {
    let mut node = connected();
    node.tracked.timeouts = node.tracked.timeouts.with(Timeout::TcpSynSent, 1000);
    node.change_ingress(3, 0);
    assert_eq!(b_says(&node, 4000, ACK), Err(FlowRefused));
    node.change_ingress(3, ALLOW);
    assert_eq!(a_says(&node, 4000, ACK), Err(FlowRefused));
    later(&node, 61);
    node.cursor_goes_round();
    for says in [a_says, b_says] {
        assert_eq!(says(&node, 4000, ACK), Err(NoFlow));
    }
}

#[test]
fn a_flow_that_is_refused_while_half_open_is_refused_both_ways() {
    let mut node = Node::new();
    a_asks(&node, 9).expect("allowed");
    a_says(&node, 4000, SYN).expect("allowed");
    node.change_ingress(3, 0);
    assert_eq!(a_asks(&node, 9), Err(FlowRefused));
    assert_eq!(b_replies(&node, 9), Err(FlowRefused), "the other end cannot turn it round");
    assert_eq!(b_says(&node, 4000, SYN | ACK), Err(FlowRefused));
    assert_eq!(b_says(&node, 4000, ACK), Err(FlowRefused));
    later(&node, 61);
    assert_eq!(b_replies(&node, 9), TO_A, "its own flow, by then");
}

#[test]
fn pkt_74_a_syn_that_is_sent_again_is_judged_by_the_rules_of_now() {
    for keep in [0, ENDPOINT_KEEP_ESTABLISHED] {
        let mut node = Node::new();
        a_says(&node, 4000, SYN).expect("allowed");
        node.endpoints[3].flags |= keep;
        node.change_ingress(3, 0);
        assert_eq!(a_says(&node, 4000, SYN), Err(FlowRefused));
        assert_eq!(a_says(&node, 4000, SYN), Err(IngressPolicy));
        assert_eq!(b_says(&node, 4000, SYN | ACK), Err(FlowRefused));
        node.change_ingress(3, SOME);
        connect(&node, 4000);
        check(&node, "allowed again");
    }
}

#[test]
fn pkt_76_half_a_connection_lives_on_and_both_ends_may_open_at_once() {
    let node = connected();
    a_says(&node, 4000, FIN | ACK).expect("part of the flow");
    for _ in 0..5 {
        later(&node, 3000);
        assert_eq!(b_says(&node, 4000, ACK), TO_A, "data after the other end's FIN");
    }
    b_says(&node, 4000, FIN | ACK).expect("part of the flow");
    assert_eq!(node.flow_now().state.get(), STATE_CLOSED);
    let mut node = Node::new();
    a_says(&node, 4000, SYN).expect("allowed");
    node.change_ingress(2, 0);
    assert_eq!(b_says(&node, 4000, SYN), TO_A);
    assert_eq!(a_says(&node, 4000, SYN | ACK), TO_B);
    assert_eq!(b_says(&node, 4000, SYN | ACK), TO_A);
    assert_eq!(node.flow_now().state.get(), STATE_ESTABLISHED);
}
