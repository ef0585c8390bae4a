//! The node's own word on what pods send and receive, as a specification: the host endpoint of all interfaces, and what
//! pods may send to the node.
//! In: a node of two pods, settings in the node's own slot. Out: verdicts, reasons, and which rule decided.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::Word;
use abi::endpoint::{ENDPOINT_READY, NODE_REFUSES_WORKLOADS, SLOT_HOST};
use abi::rules::SET_OPEN;
use abi::{Endpoint, RowKey, RowRef};

use crate::fake::{ALLOW, Node, SOME, UPLINK, tcp, udp};
use crate::tracking::{A, ACK, B, OUTSIDE, SYN, TO_A, TO_B};
use crate::walk::{Hook, Verdict};

/// Slot of the rules for all interfaces, in whichever layer a test has them.
const LAYER: u32 = 4;

/// A node with these rules (ingress, egress) for what it forwards, at all interfaces.
fn forwarding([ingress, egress]: [u32; 2]) -> Node {
    let mut node = Node::new();
    let (ingress, egress) = (Word::settled(ingress), Word::settled(egress));
    node.endpoints.push(Endpoint { ingress, egress, flags: ENDPOINT_READY, rev: 1, ..Endpoint::default() });
    node.endpoints[SLOT_HOST as usize].layers.forward = LAYER;
    node
}

#[test]
fn hep_5_hep_6_what_a_pod_sends_passes_its_own_rules_then_those_of_all_interfaces_then_the_receivers() {
    let node = forwarding([0, ALLOW]);
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &udp(A, 3, (1, 2)));
    assert_eq!((verdict, state.slot), (Err(HostEndpoint), 2), "on the sender's account");
    assert_eq!((state.egress_hit, state.ingress_hit), (Some(1), Some(0)), "the last hit is whose refusal it is");
    assert_eq!(node.pod_sends(2, &udp(A, 200, (1, 2))), Err(HostEndpoint));
    assert_eq!(node.pod_sends(2, &udp(A, 1, (1, 2))), Ok(Verdict::ToHost), "to the node nothing is forwarded");
    assert_eq!(node.arrives(&udp(OUTSIDE, 2, (1, 2))), TO_A, "what no pod sent does not come in by a pod's interface");
    assert!(node.flows().len() == 2);
    let node = forwarding([ALLOW, 0]);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), Err(HostEndpoint));
    assert_eq!(node.arrives(&udp(OUTSIDE, 2, (1, 2))), Err(HostEndpoint));
    assert_eq!(node.pod_sends(2, &udp(A, 200, (1, 2))), Ok(Verdict::ByRoute), "the way out has a gate of its own");
    let mut node = forwarding([SOME, SOME]);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 80), SYN)), TO_B);
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 4000), SYN | ACK)), TO_A, "an answer is no opening");
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, 82), SYN)), Err(HostEndpoint));
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4001, 80), SYN)), Err(IngressPolicy), "it lets nothing in by itself");
}

#[test]
fn hep_5_the_peer_of_what_comes_in_is_the_sender_and_of_what_goes_out_the_receiver() {
    for (ingress, egress) in [(SOME, ALLOW), (ALLOW, SOME)] {
        for class in [2, 3] {
            let mut node = forwarding([ingress, egress]);
            // Everything is allowed with the peer of this class, and little with any other.
            node.rows.insert(RowKey { set: SOME, class }, RowRef { offset: 0, len: 1 });
            let peer = if ingress == SOME { 2 } else { 3 };
            let expected = if class == peer { TO_B } else { Err(HostEndpoint) };
            assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 99))), expected, "{ingress} {egress} {class}");
        }
    }
}

#[test]
fn hep_4_the_nodes_own_packets_to_its_pods_are_nobodys_to_refuse() {
    let mut node = forwarding([0, 0]);
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), SYN)), TO_A);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), SYN | ACK)), Ok(Verdict::ToHost));
    let forwarded = node.run(Hook::ToWorkload, 2, UPLINK, &tcp((0, 1), 2, (6, 81), SYN)).0;
    assert_eq!(forwarded, Err(HostEndpoint), "but what it only forwards is");
    node.endpoints[LAYER as usize].egress = Word::settled(SET_OPEN);
    node.endpoints[LAYER as usize].ingress = Word::settled(SET_OPEN);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), TO_B, "without rules all is open");
}

#[test]
fn e2h_1_what_a_pod_opens_to_the_node_is_refused_after_its_own_rules_and_answers_pass() {
    let mut node = Node::new();
    assert_eq!(node.pod_sends(2, &udp(A, 1, (1, 2))), Ok(Verdict::ToHost));
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(NODE_REFUSES_WORKLOADS);
    (node.endpoints[2].rev, node.endpoints[3].rev) = (6, 6);
    node.generation.set(6);
    assert_eq!(node.pod_sends(2, &udp(A, 1, (1, 2))), Err(FlowRefused), "one that was there before as well");
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, 1, (4000, 22), SYN));
    assert_eq!((verdict, state.slot, state.egress_hit), (Err(EndpointToHost), 2, Some(1)));
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), TO_B);
    assert_eq!(node.pod_sends(2, &udp(A, 200, (1, 2))), Ok(Verdict::ByRoute));
    node.endpoints[2].egress = Word::settled(0);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (4001, 22), SYN)), Err(EgressPolicy), "its own rules come first");
    node.endpoints[2].egress = Word::settled(ALLOW);
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), SYN)), TO_A);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), SYN | ACK)), Ok(Verdict::ToHost));
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), ACK)), TO_A);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), ACK)), Ok(Verdict::ToHost));
}

/// A node with these rules for what pods send, before translation, at all interfaces.
fn before_translation(set: u32) -> Node {
    let mut node = forwarding([set, SET_OPEN]);
    node.endpoints[SLOT_HOST as usize].layers = abi::Layers { pre_dnat: LAYER, ..abi::Layers::default() };
    node
}

#[test]
fn e2h_6_before_translation_a_deny_refuses_whatever_a_pod_opens_first_of_all_and_nothing_else() {
    let mut node = before_translation(0);
    node.endpoints[2].egress = Word::settled(0);
    for to in [1, 3, 200] {
        let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, to, (4000, 80), SYN));
        assert_eq!((verdict, state.slot), (Err(HostEndpoint), 2), "to {to}, on the sender's account");
        assert_eq!((state.egress_hit, state.ingress_hit), (None, Some(0)), "before its own rules");
    }
    assert_eq!(node.arrives(&udp(OUTSIDE, 2, (1, 2))), TO_A, "what no pod sends is its gate's");
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), SYN)), TO_A);
    assert_eq!(node.pod_sends(2, &tcp(A, 1, (81, 5), SYN | ACK)), Ok(Verdict::ToHost), "an answer is no opening");
    let by_stack = node.run(Hook::ToWorkload, 3, 2, &tcp(A, 3, (4000, 80), SYN)).0;
    assert_eq!(by_stack, Err(HostEndpoint), "nor by the stack");
}

#[test]
fn e2h_6_before_translation_an_allow_rescues_nothing() {
    let mut node = before_translation(ALLOW);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), TO_B);
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(NODE_REFUSES_WORKLOADS);
    assert_eq!(node.pod_sends(2, &udp(A, 1, (1, 2))), Err(EndpointToHost));
    node.change_ingress(3, 0);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (2, 2))), Err(IngressPolicy));
    node.endpoints[2].egress = Word::settled(0);
    assert_eq!(node.pod_sends(2, &udp(A, 3, (3, 2))), Err(EgressPolicy));
    let mut node = before_translation(ALLOW);
    node.endpoints.push(Endpoint { flags: ENDPOINT_READY, rev: 1, ..Endpoint::default() });
    node.endpoints[SLOT_HOST as usize].layers.forward = LAYER + 1;
    assert_eq!(node.pod_sends(2, &udp(A, 3, (1, 2))), Err(HostEndpoint), "what is forwarded is asked about, too");
}

#[test]
fn what_the_node_takes_from_pods_is_decided_by_the_packets_generation() {
    let mut node = Node::new();
    node.endpoints[SLOT_HOST as usize].ingress = Word::changing(0, NODE_REFUSES_WORKLOADS, 6);
    assert_eq!(node.pod_sends(2, &udp(A, 1, (1, 2))), Ok(Verdict::ToHost), "not before it is in force");
    node.generation.set(6);
    assert_eq!(node.pod_sends(2, &udp(A, 1, (2, 2))), Err(EndpointToHost));
}
