//! Host endpoints as a specification, second part: errors, pieces, addresses that were put in another's place, room, revisions.
//! In: a node with a gate at its uplink. Out: verdicts, entries, accounts.
//! Invariant: every row says what a user or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::conntrack::QUOTA_ALL;
use abi::rules::SET_OPEN;
use abi::{Word, handover};
use std::vec::Vec;

use crate::fake::{ALLOW, Node, SOME, UPLINK, ipv4, tcp, udp, v4};
use crate::gates::{
    ACK, FORWARD, HOST, LOCAL, NOTHING, OUTSIDE, PASSES, REFUSED, RST, SYN, UNTOUCHED, change, comes_in, forwarding,
    goes_out, guarded, pods_goes_out,
};
use crate::tables::Arrival;
use crate::tracking::later;
use crate::walk::{Hook, Verdict};

/// An ICMP error (port unreachable) from outside about what somebody here sent.
fn unreachable(to: u8, about: &[u8]) -> Vec<u8> {
    ipv4(OUTSIDE, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

#[test]
fn pkt_30_pkt_31_an_error_passes_with_a_flow_of_this_gate_and_is_judged_without() {
    let node = forwarding([NOTHING, ALLOW], [NOTHING, ALLOW]);
    let own = udp(HOST, 200, (5, 53));
    assert_eq!(comes_in(&node, &unreachable(1, &own)), Err(IcmpUnrelated));
    assert_eq!(goes_out(&node, &own), PASSES);
    assert_eq!(comes_in(&node, &unreachable(1, &own)), PASSES);
    // The pod's flow is known to the pod's program, and not yet to the gate.
    let pods = udp((2, 2), 200, (5, 53));
    assert_eq!(node.pod_sends(2, &pods), Ok(Verdict::ByRoute));
    assert_eq!(comes_in(&node, &unreachable(2, &pods)), Err(IcmpUnrelated));
    assert_eq!(pods_goes_out(&node, &pods), PASSES);
    assert_eq!(comes_in(&node, &unreachable(2, &pods)), PASSES);
    assert_eq!(node.flows().len(), 3, "an error is no flow");
}

#[test]
fn pkt_22_pkt_23_a_piece_passes_a_gate_after_its_first_did() {
    let node = guarded([SOME, NOTHING]);
    let piece = |offset: u8, more: u8, port| {
        let mut frame = udp(OUTSIDE, 1, (5, port));
        (frame[20], frame[21]) = (more << 5, offset);
        frame
    };
    assert_eq!(comes_in(&node, &piece(9, 0, 53)), Err(FragmentBeforeFirst));
    assert_eq!(comes_in(&node, &piece(0, 1, 54)), REFUSED);
    assert_eq!(comes_in(&node, &piece(9, 0, 53)), Err(FragmentBeforeFirst), "its first was refused");
    assert_eq!(comes_in(&node, &piece(0, 1, 53)), PASSES);
    assert_eq!(comes_in(&node, &piece(9, 0, 99)), PASSES);
}

#[test]
fn what_somebody_sends_on_under_the_nodes_address_is_answered_there() {
    for forward in [[SET_OPEN, SET_OPEN], [NOTHING, ALLOW]] {
        let node = forwarding([NOTHING, NOTHING], forward);
        assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (80, 5), SYN | ACK)), REFUSED);
        assert_eq!(pods_goes_out(&node, &tcp(HOST, 200, (5, 80), SYN)), PASSES, "a pod's, masqueraded");
        assert_eq!(node.flow_now().owner(), FORWARD);
        assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (80, 5), SYN | ACK)), PASSES, "its answer");
        assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (80, 6), SYN | ACK)), REFUSED, "no answer");
    }
    // A port of the node's that somebody leads on to a pod, whose answers he brings back.
    let node = forwarding([SOME, NOTHING], [NOTHING, NOTHING]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), PASSES);
    assert_eq!(pods_goes_out(&node, &tcp(HOST, 200, (80, 5), SYN | ACK)), PASSES);
}

#[test]
fn a_flow_that_the_local_layer_let_in_lets_in_nothing_that_is_forwarded() {
    let mut node = forwarding([ALLOW, ALLOW], [NOTHING, NOTHING]);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (5, 53))), PASSES);
    node.owns(v4(1), 0);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (5, 53))), REFUSED, "the address is no longer the node's");
    let node = forwarding([NOTHING, NOTHING], [NOTHING, ALLOW]);
    assert_eq!(pods_goes_out(&node, &udp((2, 2), 200, (5, 53))), PASSES);
    assert_eq!(comes_in(&node, &udp((0, 2), 200, (5, 53))), REFUSED, "from outside, in the pod's name");
    assert_eq!(goes_out(&node, &udp((2, 2), 200, (5, 53))), REFUSED, "the node itself, by the same ports");
}

#[test]
fn own_1_each_layers_flows_follow_their_own_layers_rules() {
    let mut node = forwarding([SOME, NOTHING], [SOME, NOTHING]);
    let local = |node: &Node| comes_in(node, &udp(OUTSIDE, 1, (5, 53)));
    let forwarded = |node: &Node| comes_in(node, &udp(OUTSIDE, 2, (5, 53)));
    assert_eq!((local(&node), forwarded(&node)), (PASSES, PASSES));
    change(&mut node, FORWARD, [NOTHING, ALLOW]);
    assert_eq!((local(&node), forwarded(&node)), (PASSES, Err(FlowRefused)));
    change(&mut node, LOCAL, [NOTHING, ALLOW]);
    change(&mut node, FORWARD, [ALLOW, NOTHING]);
    assert_eq!((local(&node), forwarded(&node)), (Err(FlowRefused), PASSES));
}

#[test]
fn pkt_78_a_gate_that_owns_its_quota_still_lets_the_allowed_in_and_others_are_not_concerned() {
    let node = guarded([ALLOW, NOTHING]);
    node.tracked.quota.set(1);
    for port in 1..=6 {
        assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (port, 53))), PASSES);
        assert_eq!(goes_out(&node, &udp(HOST, 200, (53, port))), PASSES);
        assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (port, 53))), PASSES);
    }
    assert_eq!(node.tracked.accounts(), [(QUOTA_ALL, 4), (LOCAL, 4)].into(), "four times a pod's");
    assert_eq!(node.pod_sends(2, &tcp((2, 2), 3, (5, 80), SYN)), Ok(Verdict::ToEndpoint(3)));
    later(&node, 4000);
    node.cursor_goes_round();
    assert_eq!((node.tracked.accounts(), node.tracked.tickets()), ([].into(), [].into()));
}

#[test]
fn a_rst_ends_a_gates_flow_and_a_segment_of_before_does_not_bring_it_back() {
    let node = guarded([SOME, NOTHING]);
    let asks = |flags| comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), flags));
    assert_eq!(asks(SYN), PASSES);
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (80, 5), RST | ACK)), PASSES, "nobody listens");
    later(&node, 41);
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (80, 5), ACK)), REFUSED);
}

#[test]
fn a_packet_is_judged_by_the_revision_of_the_program_before() {
    let mut node = guarded([ALLOW, ALLOW]);
    let before = node.generation.get();
    // A commit comes between the gate and the pod's program: the pod's new rules are not for this packet.
    node.endpoints[2].ingress = Word::changing(ALLOW, NOTHING, before + 1);
    node.endpoints[2].rev = before as u32 + 1;
    node.generation.set(before + 1);
    let arrival = |handed| Arrival { ifindex: UPLINK, ingress_ifindex: UPLINK, handed, ..Arrival::default() };
    let syn = tcp(OUTSIDE, 2, (5, 80), SYN);
    let sees = |node: &Node, hook, handed| node.run_from(hook, &arrival(handed), &syn).1.generation;
    let by = |handed| node.run_from(Hook::FromUplink, &arrival(handed), &syn).0;
    assert_eq!(by([0; 2]), Err(IngressPolicy));
    assert_eq!(by(handover::to_cb(before)), Ok(Verdict::ToEndpoint(2)));
    assert_eq!(by(handover::to_cb(before + 1)), Err(FlowRefused), "the next packet, of the next revision");
    // Who is asked first asks for itself; a revision of long ago, or none yet, counts for nobody.
    for (hook, taken) in [
        (Hook::FromUplink, true),
        (Hook::ToHostEndpoint, true),
        (Hook::FromHostEndpoint, false),
        (Hook::FromWorkload, false),
        (Hook::ToWorkload, false),
    ] {
        let present = before + 1;
        assert_eq!(sees(&node, hook, handover::to_cb(before)), if taken { before } else { present }, "{hook:?}");
        for other in [before - 1, present + 1] {
            assert_eq!(sees(&node, hook, handover::to_cb(other)), present, "{hook:?}");
        }
    }
}

#[test]
fn own_4_a_gate_in_anothers_place_serves_none_of_its_flows() {
    let node = guarded([SOME, NOTHING]);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (5, 53))), PASSES);
    let mut node = node;
    // The interface gets another host endpoint, in another slot.
    node.endpoints[FORWARD as usize] = node.endpoints[LOCAL as usize];
    node.interfaces.insert(UPLINK, FORWARD);
    assert_eq!(goes_out(&node, &udp(HOST, 200, (53, 5))), REFUSED);
    node.interfaces.clear();
    assert_eq!(goes_out(&node, &udp(HOST, 200, (53, 5))), UNTOUCHED);
}
