//! Errors about services as a specification: which read as about the packet that their receiver sent, and which are nobody's.
//! In: flows through services, of pods and from outside; errors that quote them, whole and in pieces, at each hook. Out: verdicts.
//! Invariant: every row says what a user or an attacker would see; an error that is not translated keeps the addresses it came with.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::conntrack::{NAT_LEADS, NAT_TRANSLATED};
use abi::endpoint::SLOT_HOST;
use abi::{Balancer, Frontend, ServiceKey, Word};

use crate::fake::{Node, ipv4, tcp, udp, v4};
use crate::outside::{OUT, UNTOUCHED, comes, open_by_one};
use crate::services::{OF, PORT, TARGET, TO_C, VIP, asks_udp, key, served_by_one};
use crate::tracking::{A, B, OUTSIDE, TO_A, TO_B};
use crate::translation::Translated;
use crate::walk::{Hook, Verdict};

/// An ICMP error (port unreachable) about what somebody sent.
fn unreachable(from: (u32, u8), to: u8, about: &[u8]) -> Vec<u8> {
    ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

/// The first piece of it.
fn piece(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] = 0x20;
    frame
}

/// A node port with a backend on another node, and the port by which this node stands for its client.
fn masked() -> (Node, u16) {
    let mut node = open_by_one();
    node.backends[1].address = v4(201);
    node.owns(v4(VIP), SLOT_HOST);
    let (verdict, state) = comes(&node, &udp(OUTSIDE, VIP, (4000, PORT)));
    assert_eq!(verdict, OUT);
    let mask = u16::from_be(state.translation.mask_port);
    (node, mask)
}

#[test]
fn pkt_30_a_piece_of_an_error_about_a_service_is_no_service_and_keeps_its_addresses() {
    let node = served_by_one();
    assert_eq!(asks_udp(&node, 4000), TO_B);
    let says = |slot, frame: &[u8]| {
        let (verdict, state) = node.run(Hook::FromWorkload, slot, slot, frame);
        (verdict, state.translation.end, state.packet.destination)
    };
    // By the client about an answer, by the backend about a question.
    let answer = unreachable(A, VIP, &udp((3, VIP), 2, (PORT, 4000)));
    assert_eq!(says(2, &answer), (TO_B, Translated::QuotedSource, v4(3)));
    assert_eq!(says(2, &piece(answer)), (Ok(Verdict::ByRoute), Translated::Nothing, v4(VIP)));
    let question = unreachable(B, 2, &udp(A, 3, (4000, TARGET)));
    assert_eq!(says(3, &question), (TO_A, Translated::QuotedDestination, v4(2)));
    assert_eq!(says(3, &piece(question)), (TO_A, Translated::Nothing, v4(2)));
    // From outside, where the address is the node's: it is the stack's.
    let arrives = |node: &Node, frame: &[u8]| {
        let (verdict, state) = comes(node, frame);
        (verdict, state.packet.destination)
    };
    let mut node = open_by_one();
    node.owns(v4(VIP), SLOT_HOST);
    assert_eq!(comes(&node, &udp(OUTSIDE, VIP, (4000, PORT))).0, TO_B);
    let answer = unreachable(OUTSIDE, VIP, &udp((0, VIP), 200, (PORT, 4000)));
    assert_eq!((arrives(&node, &answer), arrives(&node, &piece(answer))), ((TO_B, v4(3)), (UNTOUCHED, v4(VIP))));
    let (node, mask) = masked();
    let question = unreachable((0, 201), 1, &udp((0, 1), 201, (mask, TARGET)));
    assert_eq!((arrives(&node, &question), arrives(&node, &piece(question))), ((OUT, v4(200)), (UNTOUCHED, v4(1))));
    let answer = unreachable(OUTSIDE, VIP, &udp((0, VIP), 200, (PORT, 4000)));
    assert_eq!((arrives(&node, &answer), arrives(&node, &piece(answer))), ((OUT, v4(201)), (UNTOUCHED, v4(VIP))));
}

#[test]
fn pkt_31_an_error_about_an_answer_is_believed_where_its_client_sends_and_nowhere_else() {
    let node = open_by_one();
    assert_eq!(comes(&node, &udp(OUTSIDE, VIP, (4000, PORT))).0, TO_B);
    let error = unreachable(OUTSIDE, VIP, &udp((0, VIP), 200, (PORT, 4000)));
    assert_eq!(node.run(Hook::ToWorkload, 3, 9, &error).0, Err(NoEndpoint), "what the stack carries to the backend");
    assert_eq!(node.arrives(&error), TO_B);
}

#[test]
fn pkt_31_an_error_in_a_services_name_is_about_a_flow_that_came_through_it() {
    let node = served_by_one();
    assert_eq!(asks_udp(&node, 4000), TO_B);
    let error = unreachable(A, VIP, &udp((3, VIP), 2, (PORT, 4000)));
    assert_eq!(node.pod_sends(2, &error), TO_B);
    // That flow is over, and another has its ports: straight to the backend.
    let flow = node.flows().into_iter().find(|(_, flow)| flow.nat_kind.get() == NAT_TRANSLATED);
    flow.expect("the flow").1.forget();
    assert_eq!(node.pod_sends(2, &udp(A, 3, (4000, TARGET))), TO_B);
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &error);
    assert_eq!((verdict, state.translation.end), (Ok(Verdict::ByRoute), Translated::Nothing), "as any message");
}

#[test]
fn pkt_31_an_error_about_a_masked_clients_question_is_about_his_flow_to_that_backend() {
    let (mut node, mask) = masked();
    let error = unreachable((0, 201), 1, &udp((0, 1), 201, (mask, TARGET)));
    assert_eq!(node.arrives(&error), OUT);
    // The backend's own address is a frontend too, and its client asks there by the same port.
    node.services.insert(ServiceKey { address: v4(201), ..key(TARGET, 17) }, 2);
    node.balancers.push(Balancer { of: OF, offset: 1, len: 1, ..Balancer::default() });
    node.frontends.push(Frontend { outside: Word::settled(3), ..Frontend::default() });
    for (_, flow) in node.flows().iter().filter(|(_, flow)| [NAT_LEADS, NAT_TRANSLATED].contains(&flow.nat_kind.get()))
    {
        flow.forget();
    }
    assert_eq!(node.arrives(&udp(OUTSIDE, 201, (4000, TARGET))), TO_C);
    assert_eq!(node.arrives(&error), UNTOUCHED, "what leads is no flow");
    // A pod has the backend's address by now: what it says of that port is for this node.
    let (mut node, mask) = masked();
    node.owns(v4(201), 3);
    let error = unreachable((3, 201), 1, &udp((0, 1), 201, (mask, TARGET)));
    let (verdict, state) = node.run(Hook::FromWorkload, 3, 3, &error);
    assert_eq!((verdict, state.packet.destination), (Ok(Verdict::ToHost), v4(1)));
}

#[test]
fn pkt_31_what_a_pod_says_of_its_own_packet_to_itself_is_believed_at_its_own_hook_alone() {
    let mut node = served_by_one();
    node.backends[1].address = v4(2);
    assert_eq!(asks_udp(&node, 4000), TO_A);
    let error = unreachable(A, VIP, &udp((2, VIP), 2, (4000, TARGET)));
    assert_eq!(node.pod_sends(2, &error), TO_A);
    assert_eq!(node.run(Hook::ToWorkload, 2, 2, &error).0, Err(NoEndpoint));
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (1, PORT + 1), crate::tracking::SYN)), Ok(Verdict::ByRoute));
}
