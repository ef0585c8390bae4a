//! Masquerade as a specification, second part: errors, pieces, the uplink's gate, and services that come later.
//! In: the node of `masqueraded`. Out: verdicts, translations, ports.
//! Invariant: every row says what a pod, a peer or an attacker would see.
//! Never: looks inside a stage.

use std::vec::Vec;

use abi::DropReason::*;
use abi::Word;
use abi::endpoint::SLOT_HOST;

use crate::fake::{icmp, ipv4, tcp, udp, v4};
use crate::gates::{FORWARD, HOST, LOCAL, NOTHING, PASSES, comes_in, forwarding, pods_goes_out};
use crate::masqueraded::{TO_A, mask_of, masquerading, node, sends};
use crate::outside::{OUT, comes};
use crate::services::{PORT, VIP, served_by_one};
use crate::tracking::{A, ACK, OUTSIDE, SYN, TO_B};
use crate::translation::Translated;

/// An ICMP error (port unreachable) about what somebody sent.
fn unreachable(from: (u32, u8), to: u8, about: &[u8]) -> Vec<u8> {
    ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

#[test]
fn pkt_30_an_error_about_what_a_pod_sent_reaches_the_pod_and_quotes_it() {
    let node = node();
    let mask = mask_of(&node, 2, &udp(A, 200, (4000, 53)));
    // By the receiver, and by a router on the way.
    for from in [OUTSIDE, (0, 77)] {
        let (fate, state) = comes(&node, &unreachable(from, 1, &udp(HOST, 200, (mask, 53))));
        let (packet, translation) = (&state.packet, &state.translation);
        assert_eq!((fate, translation.end), (TO_A, Translated::QuotedUnmasked));
        assert_eq!((packet.source, packet.destination), (v4(from.1), v4(2)));
        assert_eq!(u16::from_be(translation.mask_port), 4000);
    }
    let id = mask_of(&node, 2, &icmp(A, 200, 8, 7));
    let (fate, state) = comes(&node, &unreachable((0, 77), 1, &icmp(HOST, 200, 8, id)));
    assert_eq!((fate, u16::from_be(state.translation.mask_port)), (TO_A, 7), "about an echo");
    // Not about the flow, or not to who sent it.
    for (to, quoted) in [
        (1, udp(HOST, 202, (mask, 53))),
        (1, udp(HOST, 200, (mask, 54))),
        (1, udp(OUTSIDE, 1, (53, mask))),
        (2, udp(HOST, 200, (mask, 53))),
    ] {
        assert_ne!(comes(&node, &unreachable(OUTSIDE, to, &quoted)).1.translation.end, Translated::QuotedUnmasked);
    }
    assert_eq!(node.arrives(&unreachable((0, 3), 1, &udp(HOST, 200, (mask, 53)))), Err(SourceIsLocal));
    let flows = node.flows().len();
    assert_eq!(flows, 4, "an error is no flow");
}

#[test]
fn pkt_30_a_pods_error_about_what_it_heard_leaves_as_this_nodes() {
    let node = node();
    let mask = mask_of(&node, 2, &udp(A, 200, (4000, 53)));
    let (fate, state) = sends(&node, 2, &unreachable(A, 200, &udp(OUTSIDE, 2, (53, 4000))));
    let translation = &state.translation;
    assert_eq!((fate, translation.end, translation.mask), (OUT, Translated::QuotedMasked, v4(1)));
    assert_eq!(u16::from_be(translation.mask_port), mask);
    assert_eq!(sends(&node, 2, &unreachable(A, 200, &udp(OUTSIDE, 2, (54, 4000)))).0, Err(IcmpUnrelated));
}

#[test]
fn pkt_22_later_pieces_go_as_their_first_in_both_directions() {
    let node = node();
    let piece = |mut frame: Vec<u8>, offset: u8, more: u8| {
        (frame[20], frame[21]) = (more << 5, offset);
        frame
    };
    let out = |port| udp(A, 200, (port, 53));
    assert_eq!(sends(&node, 2, &piece(out(4000), 9, 0)).0, Err(FragmentBeforeFirst));
    let mask = mask_of(&node, 2, &piece(out(4000), 0, 1));
    assert_eq!(mask_of(&node, 2, &piece(out(9), 9, 0)), mask);
    let back = |port| udp(OUTSIDE, 1, (53, port));
    assert_eq!(comes(&node, &piece(back(mask), 0, 1)).0, TO_A);
    let (fate, state) = comes(&node, &piece(back(9), 9, 0));
    assert_eq!((fate, state.packet.destination, state.packet.detail), (TO_A, v4(2), 4000));
}

#[test]
fn hep_5_the_uplinks_forward_layer_is_asked_about_the_pod_and_its_answers_pass_the_gate() {
    for (egress, fate) in [(crate::fake::ALLOW, OUT), (NOTHING, Err(HostEndpoint))] {
        let mut node = masquerading(forwarding([NOTHING, NOTHING], [NOTHING, egress]));
        node.endpoints[SLOT_HOST as usize].layers.uplink = LOCAL;
        let (verdict, state) = sends(&node, 2, &tcp(A, 200, (4000, 80), SYN));
        assert_eq!(verdict, fate);
        if fate != OUT {
            continue;
        }
        let mask = u16::from_be(state.translation.mask_port);
        // What the gate would say about this node is not asked.
        node.endpoints[FORWARD as usize].egress = Word::settled(NOTHING);
        assert_eq!(pods_goes_out(&node, &tcp(HOST, 200, (mask, 80), SYN)), PASSES);
        assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (80, mask), SYN | ACK)), PASSES);
        assert_eq!(comes_in(&node, &unreachable((0, 77), 1, &tcp(HOST, 200, (mask, 80), ACK))), PASSES);
        assert_ne!(comes_in(&node, &tcp(OUTSIDE, 1, (80, mask + 1), SYN | ACK)), PASSES);
        assert_ne!(pods_goes_out(&node, &tcp(HOST, 200, (mask + 1, 80), SYN)), PASSES);
    }
}

#[test]
fn what_was_sent_before_its_receiver_was_a_service_goes_to_the_service_when_it_is_sent_again() {
    let (mut node, other) = (node(), served_by_one());
    mask_of(&node, 2, &tcp(A, VIP, (4000, PORT), SYN));
    (node.frontends, node.members, node.balancers) = (other.frontends, other.members, other.balancers);
    (node.services, node.backends) = (other.services, other.backends);
    let (fate, state) = sends(&node, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((fate, state.translation.end), (TO_B, Translated::Destination));
}
