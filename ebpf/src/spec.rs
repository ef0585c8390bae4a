//! The packet's way as a specification: what each hook does with which packet.
//! In: a node of two pods. Out: verdicts, reasons and entries, row by row.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::conntrack::{CT_HOST_OPENED, CT_REFUSED, CT_RESET, STATE_ANSWERED, STATE_ESTABLISHED};
use abi::endpoint::{ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_READY, SLOT_HOST};
use abi::{RowKey, RowRef, Span, Word};

use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, icmp, ipv4, tcp, udp, v4};
use crate::tables::Arrival;
use crate::tracking::{A, ACK, B, RST, SYN, TO_A, TO_B};
use crate::walk::{Hook, State, Verdict, walk};

/// How the pod in slot 2 connects to the one in slot 3.
fn handshake() -> [(u32, Vec<u8>); 3] {
    let from_a = |flags| (2, tcp(A, 3, (4000, 80), flags));
    [from_a(SYN), (3, tcp(B, 2, (80, 4000), SYN | ACK)), from_a(ACK)]
}

#[test]
fn a_flow_that_both_ends_allow_passes_both_ways_on_one_entry() {
    let node = Node::new();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), SYN | ACK)), TO_A);
    assert_eq!(node.flow_now().state.get(), STATE_ANSWERED);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), TO_B);
    assert_eq!(node.flow_now().state.get(), STATE_ESTABLISHED);
    assert_eq!(node.flow_now().packets.get(), 3);
}

#[test]
fn the_receivers_rules_refuse_and_leave_no_entry() {
    let mut node = Node::new();
    node.change_ingress(3, SOME);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 82), SYN)), Err(IngressPolicy));
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 79), SYN)), Err(IngressPolicy));
    assert_eq!(node.pod_sends(2, &udp(A, 3, (4000, 54))), Err(IngressPolicy));
    assert!(node.flows().is_empty());
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 81), SYN)), TO_B);
}

#[test]
fn a_row_of_its_own_decides_for_its_class_only() {
    let mut node = Node::new();
    node.change_ingress(3, SOME);
    node.rows.insert(RowKey { set: SOME, class: 2 }, RowRef { offset: 0, len: 1 });
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 99))), TO_B);
    assert_eq!(node.arrives(&udp((0, 200), 3, (1, 99))), Err(IngressPolicy));
}

#[test]
fn rows_and_sets_that_point_outside_are_corrupt_and_rule_set_0_refuses() {
    let mut node = Node::new();
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), Err(IngressPolicy));
    node.change_ingress(3, 77);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), Err(TableCorrupt));
    node.change_ingress(3, SOME);
    node.rows.insert(RowKey { set: SOME, class: 2 }, RowRef { offset: 1000, len: 9 });
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), Err(TableCorrupt));
    node.spans = vec![Span::default()];
    assert_eq!(node.pod_sends(3, &udp(B, 2, (1, 2))), Err(EgressPolicy));
}

#[test]
fn a_pod_sends_as_itself_to_the_gateways_mac_only() {
    let node = Node::new();
    assert_eq!(node.pod_sends(2, &udp((2, 3), 200, (1, 2))), Err(Spoofed));
    assert_eq!(node.pod_sends(2, &udp((3, 2), 200, (1, 2))), Err(Spoofed));
    let mut misdirected = udp(A, 200, (1, 2));
    misdirected[0] = 2;
    assert_eq!(node.pod_sends(2, &misdirected), Err(WrongMac));
    assert_eq!(node.pod_sends(8, &udp(A, 200, (1, 2))), Err(NoEndpoint));
    assert_eq!(node.pod_sends(2, &udp(A, 200, (1, 2))), Ok(Verdict::ByRoute));
    assert_eq!(node.pod_sends(2, &udp(A, 1, (1, 2))), Ok(Verdict::ToHost));
}

#[test]
fn a_flow_is_no_cover_for_another_pods_packets() {
    let node = Node::new();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    assert_eq!(node.pod_sends(3, &tcp((3, 2), 3, (4000, 80), ACK)), Err(Spoofed));
    assert_eq!(node.arrives(&tcp((0, 2), 3, (4000, 80), SYN)), Err(SourceIsLocal));
}

#[test]
fn from_outside_only_what_is_for_a_pod_is_touched() {
    let node = Node::new();
    assert_eq!(node.arrives(&udp((0, 200), 1, (1, 2))), Ok(Verdict::Untouched));
    assert_eq!(node.arrives(&udp((0, 200), 201, (1, 2))), Ok(Verdict::Untouched));
    assert_eq!(node.arrives(&udp((0, 1), 2, (1, 2))), Err(SourceIsLocal));
    assert_eq!(node.arrives(&udp((0, 200), 2, (1, 2))), TO_A);
}

#[test]
fn np_52_the_nodes_own_packets_are_let_in_and_answered() {
    let mut node = Node::new();
    node.change_ingress(2, 0);
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), SYN)), TO_A);
    assert_eq!(node.flow_now().flags.get() & CT_HOST_OPENED, CT_HOST_OPENED);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), SYN | ACK)), Ok(Verdict::ToHost));
    let forwarded = node.run(Hook::ToWorkload, 2, 9, &tcp((0, 1), 2, (6, 81), SYN));
    assert_eq!(forwarded.0, Err(IngressPolicy));
}

#[test]
fn the_nodes_own_segment_in_mid_flow_passes_but_opens_nothing() {
    let node = Node::new();
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), ACK)), TO_A);
    assert!(node.flows().is_empty());
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), ACK)), Err(NoFlow));
}

#[test]
fn a_new_deny_cuts_a_live_flow_both_ways_until_a_new_syn_is_allowed() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), ACK)), Err(FlowRefused));
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), Err(FlowRefused));
    assert_eq!(node.flow_now().flags.get() & CT_REFUSED, CT_REFUSED);
    node.change_ingress(3, ALLOW);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), Err(FlowRefused));
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
}

#[test]
fn a_refused_udp_flow_is_judged_again_from_its_openers_side_when_policy_moves_on() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &udp(A, 3, (9999, 53))), TO_B);
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(3, &udp(B, 2, (53, 9999))), Err(FlowRefused));
    node.change_ingress(3, SOME);
    assert_eq!(node.pod_sends(3, &udp(B, 2, (53, 9999))), TO_A);
}

#[test]
fn an_unchanged_verdict_stamps_the_flow_and_keep_spares_it() {
    let mut node = Node::new();
    for (slot, frame) in handshake() {
        node.pod_sends(slot, &frame).expect("allowed");
    }
    node.change_ingress(3, SOME);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), TO_B);
    assert_eq!(u64::from(node.flow_now().stamp.get()), node.generation.get());
    node.change_ingress(3, 0);
    node.endpoints[3].flags |= ENDPOINT_KEEP_ESTABLISHED;
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), TO_B);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4001, 80), SYN)), Err(IngressPolicy));
}

#[test]
fn an_entry_whose_address_moved_to_another_slot_lets_nothing_pass() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    node.endpoints[3].flags |= ENDPOINT_KEEP_ESTABLISHED;
    node.change_ingress(3, ALLOW);
    node.owns(v4(3), 0);
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), ACK)), Err(NoFlow));
    assert!(node.flows().is_empty());
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), SYN)), Err(Spoofed));
}

#[test]
fn pkt_72_a_syn_on_a_closed_flow_is_judged_anew() {
    let mut node = Node::new();
    node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)).expect("allowed");
    node.pod_sends(3, &tcp(B, 2, (80, 4000), RST)).expect("part of the flow");
    assert_ne!(node.flow_now().flags.get() & CT_RESET, 0);
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), Err(IngressPolicy));
}

#[test]
fn pkt_75_a_segment_without_a_flow_is_dropped_and_an_expired_entry_is_none() {
    let node = Node::new();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), Err(NoFlow));
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN | ACK)), Err(NoFlow));
    node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)).expect("allowed");
    node.now_s.set(node.now_s.get() + 21);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), ACK)), Err(NoFlow));
}

#[test]
fn pkt_37_an_echo_lets_its_reply_pass_and_nothing_else() {
    let mut node = Node::new();
    node.change_ingress(2, 0);
    assert_eq!(node.pod_sends(3, &icmp(B, 2, 0, 7)), Err(IngressPolicy));
    assert_eq!(node.pod_sends(2, &icmp(A, 3, 8, 7)), TO_B);
    assert_eq!(node.pod_sends(3, &icmp(B, 2, 0, 7)), TO_A);
    assert_eq!(node.pod_sends(3, &icmp(B, 2, 8, 7)), Err(IngressPolicy));
    assert_eq!(node.pod_sends(3, &icmp(B, 2, 13, 7)), Err(IngressPolicy));
}

#[test]
fn pkt_30_an_error_about_a_flow_passes_and_pkt_31_others_are_for_policy() {
    let mut node = Node::new();
    node.pod_sends(2, &udp(A, 3, (9999, 53))).expect("allowed");
    node.change_ingress(2, 0);
    let error = |about: &[u8]| {
        let mut payload = vec![3, 3, 0, 0, 0, 0, 0, 0];
        payload.extend(&about[14..]);
        payload
    };
    assert_eq!(node.pod_sends(3, &ipv4(B, 2, 1, &error(&udp(A, 3, (9999, 53))))), TO_A);
    assert_eq!(node.pod_sends(3, &ipv4(B, 2, 1, &error(&udp(A, 3, (9998, 53))))), Err(IcmpUnrelated));
    assert_eq!(node.pod_sends(3, &ipv4(B, 2, 1, &error(&udp(A, 200, (9999, 53))))), Err(IcmpUnrelated));
    assert_eq!(node.pod_sends(3, &ipv4((3, 9), 2, 1, &error(&udp(A, 3, (9999, 53))))), Err(Spoofed));
}

#[test]
fn pkt_31_a_quote_behind_the_packets_end_is_none() {
    let mut node = Node::new();
    node.pod_sends(2, &udp(A, 3, (9999, 53))).expect("allowed");
    node.change_ingress(2, 0);
    let quote = &udp(A, 3, (9999, 53))[14..];
    let mut error = ipv4(B, 2, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], quote].concat());
    // As long as it says, byte by byte: only the whole quote counts, wherever the frame ends.
    for length in 28..28 + quote.len() {
        error[17] = length as u8;
        assert_eq!(node.pod_sends(3, &error), Err(IcmpUnrelated), "{length}");
    }
    error[17] += 1;
    assert_eq!(node.pod_sends(3, &error), TO_A);
}

#[test]
fn pkt_30_an_error_about_a_half_open_flow_passes() {
    let mut node = Node::new();
    node.pod_sends(2, &udp(A, 3, (9, 53))).expect("allowed");
    node.change_ingress(2, 0);
    let error = |port| ipv4(B, 2, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &udp(A, 3, (port, 53))[14..]].concat());
    assert_eq!(node.pod_sends(3, &error(9)), TO_A);
    assert_eq!(node.pod_sends(3, &error(8)), Err(IcmpUnrelated));
    node.pod_sends(3, &udp(B, 2, (53, 9))).expect("part of the flow");
    node.pod_sends(2, &udp(A, 3, (9, 53))).expect("part of the flow");
    assert_eq!(node.pod_sends(3, &error(9)), TO_A, "nor does it matter that it is kept by now");
}

#[test]
fn pkt_20_a_later_fragment_follows_its_first_and_pkt_21_never_comes_before_it() {
    let mut node = Node::new();
    node.change_ingress(3, SOME);
    let mut first = udp(A, 3, (9999, 53));
    first[20] = 0x20;
    let mut later = ipv4(A, 3, 17, &[0; 16]);
    later[21] = 1;
    assert_eq!(node.pod_sends(2, &later), Err(FragmentBeforeFirst));
    assert_eq!(node.pod_sends(2, &first), TO_B);
    assert_eq!(node.pod_sends(2, &later), TO_B);
    let mut refused = udp(A, 3, (9999, 54));
    (refused[19], refused[20], later[19]) = (8, 0x20, 8);
    assert_eq!(node.pod_sends(2, &refused), Err(IngressPolicy));
    assert_eq!(node.pod_sends(2, &later), Err(FragmentBeforeFirst));
}

#[test]
fn pkt_22_41_42_torn_headers_are_malformed() {
    let node = Node::new();
    let broken = |at: usize, value: u8| {
        let mut frame = tcp(A, 3, (4000, 80), SYN);
        frame[at] = value;
        node.pod_sends(2, &frame)
    };
    for (at, value) in [(14, 0x44), (14, 0x4f), (14, 0x65), (17, 19), (17, 41), (46, 0x40), (21, 1)] {
        assert_eq!(broken(at, value), Err(Malformed), "byte {at} = {value:#x}");
    }
    for length in 14..54 {
        let frame = tcp(A, 3, (4000, 80), SYN);
        assert_eq!(node.pod_sends(2, &frame[..length]), Err(Malformed), "cut to {length}");
    }
}

#[test]
fn pkt_51_53_56_what_no_pod_may_send() {
    let node = Node::new();
    let mut foreign = udp(A, 3, (1, 2));
    (foreign[12], foreign[13]) = (0x88, 0xcc);
    assert_eq!(node.pod_sends(2, &foreign), Err(NotIp));
    (foreign[12], foreign[13]) = (0x81, 0);
    assert_eq!(node.pod_sends(2, &foreign), Err(Vlan));
    let to = |destination: [u8; 4]| {
        let mut frame = udp(A, 3, (1, 2));
        frame[30..34].copy_from_slice(&destination);
        node.pod_sends(2, &frame)
    };
    assert_eq!(to([224, 0, 0, 1]), Err(Multicast));
    assert_eq!(to([255; 4]), Err(Multicast));
    assert_eq!(to([127, 0, 0, 1]), Err(Unroutable));
    assert_eq!(node.pod_sends(2, &udp(A, 200, (1, 4789))), Err(Encapsulated));
    assert_eq!(node.pod_sends(2, &ipv4(A, 200, 4, &[0; 20])), Err(Encapsulated));
}

#[test]
fn pkt_56_the_port_of_tunnels_is_the_one_of_the_packets_generation_and_no_flow_outlives_its_becoming_that() {
    let mut node = Node::new();
    node.endpoints[SLOT_HOST as usize].egress = Word::changing(0, 5000, 6);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 5000))), TO_B, "not before it is in force");
    assert_eq!(node.pod_sends(3, &udp(B, 2, (5000, 1))), TO_A);
    assert_eq!(node.pod_sends(3, &udp(B, 2, (2, 6000))), TO_A);
    node.generation.set(6);
    for slot in [2, 3] {
        (node.endpoints[slot].rev, node.endpoints[slot].flags) = (6, ENDPOINT_READY | ENDPOINT_KEEP_ESTABLISHED);
    }
    assert_eq!(node.pod_sends(3, &udp(B, 2, (5000, 1))), Err(FlowRefused), "nor does its answer bring it back");
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 5000))), Err(FlowRefused));
    assert_eq!(node.pod_sends(2, &udp(A, 200, (3, 5000))), Err(Encapsulated));
    assert_eq!(node.pod_sends(2, &udp(A, 3, (3, 4789))), TO_B, "that is a port like any by now");
    assert_eq!(node.pod_sends(2, &udp(A, 3, (6000, 2))), Ok(Verdict::ToEndpoint(3)), "other flows go on");
}

#[test]
fn a_dry_run_gives_the_live_answer_and_writes_nothing() {
    let mut node = Node::new();
    node.change_ingress(3, SOME);
    let arrival = Arrival { ifindex: 2, ingress_ifindex: 0, ..Arrival::default() };
    for port in [80, 90] {
        let frame = tcp(A, 3, (4000, port), SYN);
        let mut state = State::default();
        let dry = walk(Hook::FromWorkload, &Twin(&node), &Bytes(&frame), &arrival, &mut state);
        assert_eq!(state.egress_hit, Some(1));
        assert_eq!(state.ingress_hit, Some(if port == 80 { 4 } else { 2 }));
        assert_eq!(node.pod_sends(2, &frame), dry);
    }
    let mut first = udp(A, 3, (9999, 53));
    first[20] = 0x20;
    let dry = walk(Hook::FromWorkload, &Twin(&node), &Bytes(&first), &arrival, &mut State::default());
    assert_eq!(dry, TO_B);
    node.change_ingress(3, 0);
    let before = node.flow_now().stamp.get();
    let frame = tcp(A, 3, (4000, 80), ACK);
    let mut state = State::default();
    let dry = walk(Hook::FromWorkload, &Twin(&node), &Bytes(&frame), &arrival, &mut state);
    assert_eq!((dry, node.flow_now().stamp.get(), node.flow_now().packets.get()), (Err(FlowRefused), before, 1));
}
