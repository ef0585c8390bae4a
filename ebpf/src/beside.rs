//! Beside a foreign service proxy as a specification: what goes through the host's stack, and where it is judged.
//! In: the node of `services`, of which a proxy in the stack serves the service. Out: verdicts, entries.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::conntrack::{CT_VIA_HOST, QUOTA_ALL};
use abi::endpoint::{ENDPOINT_READY, NODE_TRANSLATES, SLOT_HOST};
use abi::rules::{SET_DEFAULT_ONLY, SpanKind, x_of};
use abi::service::BALANCER_BY_HOST;
use abi::{Endpoint, RowRef, SetEntry, Span, Word, handover};
use std::vec::Vec;

use crate::accounts::check;
use crate::fake::{ALLOW, Node, SOME, UPLINK, ipv4, tcp, udp};
use crate::services::{PORT, TARGET, VIP, answers, asks, asks_udp, connect, served_by_one};
use crate::tables::Arrival;
use crate::tracking::{A, ACK, B, RST, SYN, TO_A, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict};

type Fate = Result<Verdict, DropReason>;

const UP: Fate = Ok(Verdict::ToHost);
const UNTOUCHED: Fate = Ok(Verdict::Untouched);
const MARKED: u32 = handover::UNJUDGED;
/// A backend elsewhere, and the node itself.
const REMOTE: u8 = 201;
const NODE: u8 = 1;

fn translate(node: &mut Node, by_host: bool) {
    node.generation.set(node.generation.get() + 1);
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(if by_host { NODE_TRANSLATES } else { 0 });
    node.balancers[1].flags = if by_host { BALANCER_BY_HOST } else { 0 };
}

fn beside() -> Node {
    let mut node = served_by_one();
    translate(&mut node, true);
    node
}

/// What the stack brings to the pod in `slot`, of what came in by an interface.
fn brought(node: &Node, slot: u32, from: u32, mark: u32, frame: &[u8]) -> (Fate, State) {
    let arrival = Arrival { ifindex: slot, ingress_ifindex: from, mark, ..Arrival::default() };
    node.run_from(Hook::ToWorkload, &arrival, frame)
}

/// What leaves by the uplink of what came in by an interface.
fn leaves(node: &Node, from: u32, mark: u32, frame: &[u8]) -> (Fate, State) {
    let arrival = Arrival { ifindex: UPLINK, ingress_ifindex: from, mark, ethertype: 0x0800, ..Arrival::default() };
    node.run_from(Hook::ToHostEndpoint, &arrival, frame)
}

fn to_b(flags: u8) -> Vec<u8> {
    tcp(A, 3, (4000, TARGET), flags)
}

fn to_remote(port: u16, flags: u8) -> Vec<u8> {
    tcp(A, REMOTE, (4000, port), flags)
}

fn from_service(flags: u8) -> Vec<u8> {
    tcp((3, VIP), 2, (PORT, 4000), flags)
}

/// A connection of A to the service, which the stack sends to B.
fn connect_by_host(node: &Node) {
    for (flags, back) in [(SYN, SYN | ACK), (ACK, ACK), (ACK, ACK)] {
        assert_eq!(asks(node, 4000, flags), UP);
        assert_eq!(brought(node, 3, 2, MARKED, &to_b(flags)).0, TO_B);
        assert_eq!(answers(node, B, 4000, back).0, UP, "back the way it came");
        assert_eq!(brought(node, 2, 3, 0, &from_service(back)).0, TO_A);
    }
}

#[test]
fn a_flow_to_a_service_of_another_proxy_goes_through_the_stack_both_ways_and_is_never_noted() {
    let node = beside();
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.translation.end), (UP, Translated::ByHost));
    connect_by_host(&node);
    for _ in 0..40 {
        assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (UP, UP));
        assert_eq!(brought(&node, 2, 3, 0, &from_service(ACK)).0, TO_A);
    }
    check(&node, "by the host");
    assert_eq!(node.tracked.accounts(), [(2, 2), (QUOTA_ALL, 2)].into(), "both entries are the client's");
    assert!(node.flows().iter().all(|(_, flow)| flow.flags.get() & CT_VIA_HOST != 0));
    assert_eq!(asks_udp(&node, 4000), UP);
}

#[test]
fn the_senders_rules_are_asked_about_the_backend_that_the_stack_chose_and_nowhere_else() {
    let mut node = beside();
    node.endpoints[2].egress = Word::settled(SOME);
    assert_eq!(asks(&node, 4000, SYN), UP, "port 443 is none of theirs");
    assert_eq!(brought(&node, 3, 2, MARKED, &to_b(SYN)).0, TO_B);
    let (verdict, state) = brought(&node, 3, 2, MARKED, &tcp(A, 3, (4000, 8080), SYN));
    assert_eq!((verdict, state.egress_hit), (Err(EgressPolicy), Some(2)));
    node.endpoints[2].egress = Word::settled(ALLOW);
    node.change_ingress(3, SOME);
    assert_eq!(brought(&node, 3, 2, MARKED, &tcp(A, 3, (4001, 8080), SYN)).0, Err(IngressPolicy));
    for mark in [MARKED, 0] {
        assert_eq!(brought(&node, 3, 4, mark, &to_b(SYN)).0, Err(SourceIsLocal), "by another pod's interface");
    }
}

#[test]
fn what_leaves_the_node_is_judged_there_whether_or_not_its_mark_is_still_there() {
    for mark in [MARKED, 0] {
        let mut node = beside();
        node.endpoints[2].egress = Word::settled(SOME);
        assert_eq!(asks(&node, 4000, SYN), UP);
        let (verdict, state) = leaves(&node, 2, mark, &to_remote(8080, SYN));
        assert_eq!((verdict, state.slot, state.egress_hit), (Err(EgressPolicy), 2, Some(2)));
        assert_eq!(leaves(&node, 2, mark, &udp(A, REMOTE, (4000, 54))).0, Err(EgressPolicy));
        assert_eq!(leaves(&node, 2, mark, &to_remote(TARGET, ACK)).0, Err(NoFlow));
        assert_eq!(leaves(&node, 4, mark, &to_remote(TARGET, SYN)).0, Err(SourceIsLocal), "by another pod's interface");
        assert_eq!(leaves(&node, 2, mark, &to_remote(TARGET, SYN)).0, UNTOUCHED);
        // What answers goes up, and comes to the client as the service's.
        assert_eq!(node.arrives(&tcp((0, REMOTE), 2, (TARGET, 4000), SYN | ACK)), UNTOUCHED);
        assert_eq!(brought(&node, 2, UPLINK, 0, &from_service(SYN | ACK)).0, TO_A);
        assert_eq!((asks(&node, 4000, ACK), leaves(&node, 2, mark, &to_remote(TARGET, ACK)).0), (UP, UNTOUCHED));
        check(&node, "elsewhere");
        assert_eq!(node.tracked.kept().len(), 2);
        // A new deny cuts it.
        node.generation.set(node.generation.get() + 1);
        (node.endpoints[2].egress, node.endpoints[2].rev) = (Word::settled(0), node.generation.get() as u32);
        assert_eq!(asks(&node, 4000, ACK), UP);
        assert_eq!(leaves(&node, 2, mark, &to_remote(TARGET, ACK)).0, Err(FlowRefused));
        assert_eq!(node.arrives(&tcp((0, REMOTE), 2, (TARGET, 4000), ACK)), Err(FlowRefused));
    }
}

#[test]
fn what_a_pod_sends_past_the_stack_and_what_is_no_pods_leaves_as_it_is() {
    let node = beside();
    for _ in 0..3 {
        assert_eq!(node.pod_sends(2, &udp(A, 200, (5, 53))), Ok(Verdict::ByRoute));
        let counted = node.flow_now().packets.get();
        assert_eq!(leaves(&node, 2, 0, &udp(A, 200, (5, 53))).0, UNTOUCHED);
        assert_eq!(node.flow_now().packets.get(), counted, "it was counted where it came in");
    }
    assert_eq!(leaves(&node, 0, 0, &tcp((0, NODE), 200, (5, 80), SYN)).0, UNTOUCHED, "the node's own");
    assert_eq!(leaves(&node, UPLINK, 0, &tcp((0, 200), REMOTE, (5, 80), SYN)).0, UNTOUCHED, "forwarded");
    assert_eq!(leaves(&node, 3, 0, &tcp((0, NODE), 200, (30443, 5), SYN | ACK)).0, UNTOUCHED, "a node port's answer");
}

#[test]
fn spf_1_whose_packet_was_masqueraded_unjudged_nobody_can_tell_so_it_goes_nowhere() {
    let node = beside();
    let masqueraded = tcp((0, NODE), 3, (50_000, TARGET), SYN);
    assert_eq!(brought(&node, 3, 2, MARKED, &masqueraded).0, Err(SourceIsLocal));
    assert_eq!(brought(&node, 3, 2, 0, &masqueraded).0, Err(SourceIsLocal), "nor of what went up unknown to us");
    assert_eq!(brought(&node, 3, UPLINK, 0, &masqueraded).0, TO_B, "what comes from outside to a node port");
    assert_eq!(leaves(&node, 2, MARKED, &tcp((0, NODE), REMOTE, (50_000, TARGET), SYN)).0, Err(SourceIsLocal));
    assert_eq!(leaves(&node, 2, MARKED, &[0; 20]).0, Err(Malformed));
    assert_eq!(node.arrives(&from_service(SYN | ACK)), Err(NoFlow));
    assert_eq!(asks(&node, 4000, SYN), UP);
    let (verdict, state) = node.run(Hook::FromUplink, UPLINK, UPLINK, &from_service(SYN | ACK));
    assert_eq!((verdict, state.slot), (Err(NoFlow), 2), "nobody outside speaks for the service");
    assert_eq!(node.run(Hook::FromWorkload, 3, 3, &tcp((3, 2), VIP, (4001, PORT), SYN)).0, Err(Spoofed));
}

#[test]
fn own_5_cnp_30_a_pod_that_the_stack_sends_to_itself_is_judged_by_its_own_rules() {
    let mut node = beside();
    let comes = |node: &Node, flags| brought(node, 2, 2, MARKED, &tcp((0, NODE), 2, (50_000, TARGET), flags)).0;
    let goes = |node: &Node, flags| node.pod_sends(2, &tcp(A, NODE, (TARGET, 50_000), flags));
    let hears = |node: &Node, flags| brought(node, 2, 2, 0, &tcp((2, VIP), 2, (PORT, 4000), flags)).0;
    for (flags, back) in [(SYN, SYN | ACK), (ACK, ACK)] {
        assert_eq!((asks(&node, 4000, flags), comes(&node, flags)), (UP, TO_A));
        assert_eq!((goes(&node, back), hears(&node, back)), (UP, TO_A));
    }
    check(&node, "hairpin");
    node.change_ingress(2, ALLOW);
    assert_eq!((goes(&node, ACK), hears(&node, ACK)), (UP, TO_A), "judged again from either side");
    node.change_ingress(2, ALLOW);
    assert_eq!((asks(&node, 4000, ACK), comes(&node, ACK)), (UP, TO_A));
    node.change_ingress(2, 0);
    assert_eq!((comes(&node, ACK), goes(&node, ACK)), (Err(FlowRefused), Err(FlowRefused)));
    assert_eq!(comes(&node, SYN), Err(IngressPolicy));
}

#[test]
fn pkt_30_errors_about_what_goes_through_the_stack_go_through_it_too() {
    let mut node = beside();
    node.endpoints[2].ingress = Word::settled(SOME);
    let error =
        |from: (u32, u8), to: u8, about: &[u8]| ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat());
    let (asked, to_b, to_remote) =
        (udp(A, VIP, (4000, PORT)), udp(A, 3, (4000, TARGET)), udp(A, REMOTE, (4000, TARGET)));
    let heard = error((3, VIP), 2, &asked);
    assert_eq!(brought(&node, 2, 3, 0, &heard).0, Err(IcmpUnrelated));
    assert_eq!((asks_udp(&node, 4000), brought(&node, 3, 2, MARKED, &to_b).0), (UP, TO_B));
    assert_eq!(node.pod_sends(3, &error(B, 2, &to_b)), UP);
    assert_eq!(brought(&node, 2, 3, 0, &heard).0, TO_A);
    assert_eq!(leaves(&node, 2, MARKED, &to_remote).0, UNTOUCHED);
    assert_eq!(node.arrives(&error((0, 200), 2, &to_remote)), UNTOUCHED, "by a router on the way");
    // The client about an answer: to the service, and as the stack sends it on.
    let answer = udp((3, VIP), 2, (PORT, 4000));
    assert_eq!(node.pod_sends(2, &error(A, VIP, &answer)), UP);
    assert_eq!(leaves(&node, 2, 0, &error(A, REMOTE, &udp((0, REMOTE), 2, (TARGET, 4000)))).0, UNTOUCHED);
    assert_eq!(leaves(&node, 2, 0, &error(A, 202, &udp((0, 202), 2, (TARGET, 4000)))).0, UNTOUCHED, "as any message");
}

#[test]
fn what_a_proxy_brings_from_outside_is_answered_through_it() {
    for by_host in [true, false] {
        let mut node = beside();
        translate(&mut node, by_host);
        let comes = tcp((0, 200), 3, (6000, TARGET), SYN);
        assert_eq!(brought(&node, 3, UPLINK, 0, &comes).0, TO_B);
        let back = node.pod_sends(3, &tcp(B, 200, (TARGET, 6000), SYN | ACK));
        assert_eq!(back, if by_host { UP } else { Ok(Verdict::ByRoute) });
        assert_eq!(brought(&node, 3, 0, 0, &tcp((0, NODE), 3, (7000, TARGET), SYN)).0, TO_B, "the node's own");
        assert_eq!(node.arrives(&tcp((0, 200), 3, (6001, TARGET), SYN)), TO_B, "straight to the pod");
        assert_eq!(node.pod_sends(3, &tcp(B, 200, (TARGET, 6001), SYN | ACK)), Ok(Verdict::ByRoute));
    }
}

#[test]
fn flows_stay_with_the_proxy_that_opened_them_and_new_ones_go_to_who_serves_now() {
    let mut node = served_by_one();
    connect(&node, 5000);
    assert_eq!(asks_udp(&node, 5000), TO_B);
    translate(&mut node, true);
    assert_eq!((asks(&node, 5000, ACK), answers(&node, B, 5000, ACK).0), (TO_B, TO_A));
    assert_eq!(asks_udp(&node, 5000), TO_B);
    connect_by_host(&node);
    assert_eq!(asks_udp(&node, 4000), UP);
    node.backends[1].standing = Word::settled(0);
    assert_eq!((asks(&node, 5000, SYN), asks_udp(&node, 5000)), (UP, UP), "its backend is gone");
    node.backends[1] = crate::services::backend(3, crate::services::STANDS);
    translate(&mut node, false);
    connect(&node, 5001);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (UP, UP));
    assert_eq!(brought(&node, 2, 3, 0, &from_service(ACK)).0, TO_A);
    assert_eq!((asks_udp(&node, 4000), asks(&node, 4000, RST)), (UP, UP));
    later(&node, 21);
    assert_eq!(asks_udp(&node, 4000), TO_B, "after a silence its flow need not know any more who translated it");
    check(&node, "moved");
}

#[test]
fn hep_9_rules_before_translation_are_asked_about_the_services_address_whenever_its_flow_is_judged() {
    let mut node = beside();
    assert_eq!(asks(&node, 4000, SYN), UP);
    let at = node.spans.len() as u32;
    node.spans.extend([
        Span::new(0, SpanKind::Next, 0),
        Span::new(x_of(6, PORT), SpanKind::Deny, 9),
        Span::new(x_of(6, PORT + 1), SpanKind::Next, 0),
    ]);
    node.sets.push(SetEntry { row: RowRef { offset: at, len: 3 }, flags: SET_DEFAULT_ONLY, pad: 0 });
    let (set, slot) = (node.sets.len() as u32 - 1, node.endpoints.len() as u32);
    node.endpoints.push(Endpoint { ingress: Word::settled(set), flags: ENDPOINT_READY, ..Endpoint::default() });
    node.endpoints[SLOT_HOST as usize].layers.pre_dnat = slot;
    node.generation.set(node.generation.get() + 1);
    node.endpoints[2].rev = node.generation.get() as u32;
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4001, SYN)), (Err(FlowRefused), Err(HostEndpoint)));
}
