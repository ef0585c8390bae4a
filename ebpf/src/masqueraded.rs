//! Masquerade as a specification: who leaves as this node, by which port, and what comes back to whom.
//! In: a node whose pods are in a pool with `natOutgoing`, and pools elsewhere. Out: verdicts, ports, entries.
//! Invariant: every row says what a pod, a peer or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::address::ClassEntry;
use abi::conntrack::{NAT_MASQUERADED, NAT_RETURNS, QUOTA_ALL};
use abi::endpoint::{ENDPOINT_HOST, ENDPOINT_MASQUERADED_V4, ENDPOINT_READY, NODE_MASQUERADES, SLOT_HOST};
use abi::masquerade::{OTHERS, TCP};
use abi::rules::RowRef;
use abi::{Endpoint, Masquerade, NetKey, RowKey, SetEntry, Word};

use crate::accounts::check;
use crate::conntrack::Socket;
use crate::fake::{Bytes, Node, Twin, UPLINK, icmp, ipv4, tcp, udp, v4};
use crate::outside::{OUT, UNTOUCHED, comes};
use crate::parse::Packet;
use crate::tables::{Arrival, Frame};
use crate::tracking::{A, ACK, OUTSIDE, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

pub(crate) type Fate = Result<Verdict, DropReason>;
pub(crate) const TO_A: Fate = Ok(Verdict::ToEndpoint(2));
/// Of a pool, on another node.
const ELSEWHERE: u8 = 170;
const IN_POOL: u32 = 50;

/// Pods of this node are in a pool that is masqueraded.
pub(crate) fn masquerading(mut node: Node) -> Node {
    let set = node.sets.len() as u32;
    node.sets.push(SetEntry { row: RowRef { offset: 1, len: 1 }, flags: 0, pad: 0 });
    node.rows.insert(RowKey { set, class: IN_POOL }, RowRef { offset: 0, len: 1 });
    node.classes.push(ClassEntry { class: Word::settled(IN_POOL), endpoint: Word::settled(0) });
    let net = NetKey { prefix_len: 96 + 28, address: v4(160).to_bytes() };
    node.nets.push((net, node.classes.len() as u32 - 1));
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(NODE_MASQUERADES);
    let layer = node.endpoints.len() as u32;
    let flags = ENDPOINT_READY | ENDPOINT_HOST;
    node.endpoints.push(Endpoint { egress: Word::settled(set), flags, ..Endpoint::default() });
    node.endpoints[SLOT_HOST as usize].layers.untracked = layer;
    for pod in [2, 3] {
        node.endpoints[pod].flags |= ENDPOINT_MASQUERADED_V4;
    }
    node.masquerade = Some(Masquerade { address: v4(1), tcp: TCP, others: OTHERS, ifindex: UPLINK, pad: 0 });
    node
}

pub(crate) fn node() -> Node {
    masquerading(Node::new())
}

pub(crate) fn sends(node: &Node, slot: u32, frame: &[u8]) -> (Fate, State) {
    let arrival = Arrival { ifindex: slot, ingress_ifindex: slot, ..Arrival::default() };
    let told = walk(Hook::FromWorkload, &Twin(node), &Bytes(frame), &arrival, &mut State::default());
    let (fate, state) = node.run_from(Hook::FromWorkload, &arrival, frame);
    if fate != Err(NatCollision) {
        assert_eq!(told, fate, "the twin");
    }
    (fate, state)
}

/// The port by which a pod's packet leaves.
pub(crate) fn mask_of(node: &Node, slot: u32, frame: &[u8]) -> u16 {
    let (fate, state) = sends(node, slot, frame);
    let translation = &state.translation;
    assert_eq!((fate, translation.end, translation.mask), (OUT, Translated::Masked, v4(1)));
    assert_eq!(state.packet.source, v4(slot as u8), "rules and errors see the pod");
    let port = u16::from_be(translation.mask_port);
    assert!((1025..30_000).contains(&port), "{port}");
    port
}

pub(crate) fn from_a(node: &Node, port: u16, flags: u8) -> u16 {
    mask_of(node, 2, &tcp(A, 200, (port, 80), flags))
}

/// What who is outside answers to this node.
pub(crate) fn returns(node: &Node, to: u16, flags: u8) -> (Fate, State) {
    comes(node, &tcp(OUTSIDE, 1, (80, to), flags))
}

pub(crate) fn connect_out(node: &Node, port: u16) -> u16 {
    let mask = from_a(node, port, SYN);
    assert_eq!(from_a(node, port, SYN), mask, "pkt_73");
    assert_eq!(returns(node, mask, SYN | ACK).0, TO_A);
    assert_eq!(from_a(node, port, ACK), mask);
    mask
}

#[test]
fn ipam_26_a_pod_leaves_all_pools_as_this_node_and_hears_its_answers() {
    let node = node();
    let mask = connect_out(&node, 4000);
    for _ in 0..3 {
        let (fate, state) = returns(&node, mask, ACK);
        let (packet, translation) = (&state.packet, &state.translation);
        assert_eq!((fate, translation.end), (TO_A, Translated::Unmasked));
        assert_eq!((packet.source, packet.destination, packet.detail), (v4(200), v4(2), 4000));
        assert_eq!((translation.mask, u16::from_be(translation.mask_port)), (v4(1), mask));
        assert_eq!(from_a(&node, 4000, ACK), mask);
    }
    check(&node, "masqueraded");
    assert_eq!(
        node.tracked.accounts(),
        [(2, 2), (QUOTA_ALL, 2)].into(),
        "the flow, and what comes back, are the pod's"
    );
    // A long answer: the pod says nothing.
    for _ in 0..3 {
        later(&node, 3000);
        assert_eq!(returns(&node, mask, ACK).0, TO_A);
        node.cursor_goes_round();
    }
    assert_eq!(from_a(&node, 4000, ACK), mask);
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn ipam_26_what_goes_to_a_pool_to_this_node_or_from_a_pool_that_does_not_ask_keeps_its_address() {
    let node = node();
    for (to, fate) in [(ELSEWHERE, OUT), (3, TO_B), (1, Ok(Verdict::ToHost))] {
        let (verdict, state) = sends(&node, 2, &tcp(A, to, (4000, 80), SYN));
        assert_eq!((verdict, state.translation.end), (fate, Translated::Nothing), "{to}");
    }
    let plain = |node: &Node, to| {
        let (verdict, state) = sends(node, 2, &udp(A, to, (4001, 53)));
        assert_eq!((verdict, state.translation.end), (OUT, Translated::Nothing));
    };
    let mut quiet = masquerading(Node::new());
    quiet.endpoints[2].flags &= !ENDPOINT_MASQUERADED_V4;
    plain(&quiet, 200);
    let mut quiet = masquerading(Node::new());
    quiet.endpoints[SLOT_HOST as usize].ingress = Word::settled(0);
    plain(&quiet, 200);
}

#[test]
fn what_was_opened_goes_on_as_it_was_whatever_pools_say_now() {
    let mut node = node();
    let mask = connect_out(&node, 4000);
    node.endpoints[2].flags &= !ENDPOINT_MASQUERADED_V4;
    assert_eq!((from_a(&node, 4000, ACK), returns(&node, mask, ACK).0), (mask, TO_A));
    assert_eq!(sends(&node, 2, &tcp(A, 200, (4001, 80), SYN)).1.translation.end, Translated::Nothing);
    node.endpoints[2].flags |= ENDPOINT_MASQUERADED_V4;
    assert_eq!(sends(&node, 2, &tcp(A, 200, (4001, 80), SYN)).1.translation.end, Translated::Nothing);
}

#[test]
fn pkt_79_pods_with_one_port_are_told_apart_and_each_hears_its_own_answers() {
    let node = node();
    let (a, b) = (from_a(&node, 4000, SYN), mask_of(&node, 3, &tcp((3, 3), 200, (4000, 80), SYN)));
    assert_ne!(a, b);
    assert_eq!((returns(&node, a, SYN | ACK).0, returns(&node, b, SYN | ACK).0), (TO_A, TO_B));
}

#[test]
fn a_datagram_and_an_echo_go_out_and_come_back() {
    let node = node();
    let mask = mask_of(&node, 2, &udp(A, 200, (4000, 53)));
    for _ in 0..4 {
        let (fate, state) = comes(&node, &udp(OUTSIDE, 1, (53, mask)));
        assert_eq!((fate, state.packet.destination, state.packet.detail), (TO_A, v4(2), 4000));
    }
    assert_eq!(mask_of(&node, 2, &udp(A, 200, (4000, 53))), mask);
    check(&node, "datagrams");
    assert_eq!(node.tracked.kept().len(), 2, "kept for good by an answer, and with it what answers find");
    for _ in 0..3 {
        let id = mask_of(&node, 2, &icmp(A, 200, 8, 7));
        let (fate, state) = comes(&node, &icmp(OUTSIDE, 1, 0, id));
        let packet = &state.packet;
        assert_eq!((fate, packet.destination, u16::from_be(packet.destination_port)), (TO_A, v4(2), 7));
        assert_eq!(packet.icmp_type(), 0);
        assert_eq!(comes(&node, &icmp(OUTSIDE, 1, 8, id)).0, UNTOUCHED, "who asks this node itself");
    }
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty(), "echoes are over, too");
}

#[test]
fn what_no_port_tells_apart_does_not_leave_and_nothing_leaves_where_the_node_has_no_address() {
    let mut node = node();
    assert_eq!(sends(&node, 2, &ipv4(A, 200, 47, &[0; 8])).0, Err(ForwardFailed));
    assert_eq!(sends(&node, 2, &icmp(A, 200, 0, 7)).0, Err(ForwardFailed), "an answer that nobody asked for");
    let stray = ipv4(A, 200, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &udp(OUTSIDE, 2, (5, 53))[14..]].concat());
    assert_eq!(sends(&node, 2, &stray).0, Err(IcmpUnrelated));
    assert_eq!(sends(&node, 2, &ipv4(A, ELSEWHERE, 47, &[0; 8])).0, OUT);
    node.masquerade.as_mut().expect("one").address = abi::Address::default();
    assert_eq!(sends(&node, 2, &tcp(A, 200, (4000, 80), SYN)).0, Err(ForwardFailed));
    assert!(node.flows().iter().all(|(_, flow)| flow.nat_kind.get() != NAT_MASQUERADED));
}

/// A frame on a host with a socket at this port.
struct Heard<'a>(Bytes<'a>, u16);

impl Frame for Heard<'_> {
    fn len(&self) -> u32 {
        self.0.len()
    }
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.load(at)
    }
    fn has_socket(&self, _: &Packet, (own, port): Socket) -> bool {
        (own, u16::from_be(port)) == (v4(1), self.1)
    }
}

#[test]
fn a_port_of_the_hosts_own_sockets_stands_for_no_pod() {
    let frame = tcp(A, 200, (4000, 80), SYN);
    let mask = mask_of(&node(), 2, &frame);
    let (node, mut state) = (node(), State::default());
    let arrival = Arrival { ifindex: 2, ingress_ifindex: 2, ..Arrival::default() };
    assert_eq!(walk(Hook::FromWorkload, &node, &Heard(Bytes(&frame), mask), &arrival, &mut state), OUT);
    assert_ne!(u16::from_be(state.translation.mask_port), mask);
    assert_eq!(returns(&node, mask, SYN | ACK).0, UNTOUCHED);
}

#[test]
fn spf_4_who_is_outside_reaches_no_pod_by_a_port_of_somebody_elses_flow() {
    let node = node();
    let mask = connect_out(&node, 4000);
    assert_eq!(returns(&node, mask + 1, ACK).0, UNTOUCHED);
    assert_eq!(comes(&node, &tcp((0, 202), 1, (80, mask), ACK)).0, UNTOUCHED, "another");
    assert_eq!(comes(&node, &tcp(OUTSIDE, 1, (81, mask), ACK)).0, UNTOUCHED, "another port");
    assert_eq!(comes(&node, &udp(OUTSIDE, 1, (80, mask))).0, UNTOUCHED, "another protocol");
    // The pod itself by its own address: the flow is not known by that.
    assert_eq!(node.arrives(&tcp(OUTSIDE, 2, (80, 4000), ACK)), Err(NoFlow));
    // In the node's name from a pod, and in the receiver's from the pods' side.
    assert_eq!(node.pod_sends(2, &tcp((2, 1), 200, (mask, 80), ACK)), Err(Spoofed));
    assert_eq!(node.pod_sends(3, &tcp((3, 200), 1, (80, mask), ACK)), Err(Spoofed));
    later(&node, 4000);
    assert_eq!(returns(&node, mask, ACK).0, UNTOUCHED, "the flow is over");
}

#[test]
fn a_forgotten_way_back_is_made_again_by_the_pods_next_packet() {
    let node = node();
    let ask = || mask_of(&node, 2, &udp(A, 200, (4000, 53)));
    let mask = ask();
    let returns = node.flows().into_iter().find(|(_, flow)| flow.nat_kind.get() == NAT_RETURNS);
    returns.expect("one comes back").1.forget();
    assert_eq!(comes(&node, &udp(OUTSIDE, 1, (53, mask))).0, UNTOUCHED);
    assert_eq!(ask(), mask);
    assert_eq!(comes(&node, &udp(OUTSIDE, 1, (53, mask))).0, TO_A);
}
