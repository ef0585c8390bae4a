//! Services behind a gate as a specification: which rules of the uplink's host endpoint are asked about a packet that a service leads on.
//! In: the node of `outside`, its frontend at an address of the node's own, and a gate at its uplink. Out: verdicts, entries.
//! Invariant: every row says what a user or an attacker would see; before each packet the twins say the same.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::conntrack::{NAT_AHEAD, NAT_LEADS};
use abi::endpoint::{ENDPOINT_HOST, ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_READY, SLOT_HOST};
use abi::rules::{SET_DEFAULT_ONLY, SET_OPEN, SpanKind, x_of};
use abi::{Address, Endpoint, RowRef, SetEntry, Span, Word, handover};

use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, UPLINK, ipv4, tcp, udp, v4};
use crate::outside::open_by_one;
use crate::services::{PORT, TARGET, VIP};
use crate::tables::Arrival;
use crate::tracking::{ACK, B, OUTSIDE, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

/// Slots of the gate's layers, and of a gate elsewhere.
pub const LOCAL: u32 = 5;
const FORWARD: u32 = 6;
pub const PRE_DNAT: u32 = 7;
pub const OTHER: u32 = 8;
/// Rule sets: refuses everything; refuses the frontend's port and lets the next layer say what becomes of all others.
pub const NOTHING: u32 = 0;
const NO_FRONTEND: u32 = 3;
/// An address of the service's that is not the node's own.
pub const EXTERNAL: u8 = 98;

type Fate = Result<Verdict, DropReason>;
const OUT: Fate = Ok(Verdict::ByRoute);
pub const THROUGH: Fate = Ok(Verdict::Through);
pub const REFUSED: Fate = Err(HostEndpoint);

/// A gate that lets nothing in for the node itself, with rules (ingress, egress) for what is forwarded.
pub fn gated(forward: [u32; 2]) -> Node {
    let mut node = open_by_one();
    node.owns(v4(VIP), SLOT_HOST);
    let external = |protocol| abi::ServiceKey { address: v4(EXTERNAL), ..crate::services::key(PORT, protocol) };
    node.services.extend([(external(6), 1), (external(17), 1)]);
    let at = node.spans.len() as u32;
    node.spans.extend([
        Span::new(0, SpanKind::Next, 0),
        Span::new(x_of(6, PORT), SpanKind::Deny, 9),
        Span::new(x_of(6, PORT + 1), SpanKind::Next, 0),
    ]);
    node.sets.push(SetEntry { row: RowRef { offset: at, len: 3 }, flags: SET_DEFAULT_ONLY, pad: 0 });
    for _ in LOCAL..=OTHER {
        node.endpoints.push(Endpoint { flags: ENDPOINT_READY | ENDPOINT_HOST, rev: 1, ..Endpoint::default() });
    }
    node.endpoints[LOCAL as usize].ifindex = UPLINK;
    node.endpoints[LOCAL as usize].layers.forward = FORWARD;
    node.endpoints[SLOT_HOST as usize].layers.uplink = LOCAL;
    node.interfaces.insert(UPLINK, LOCAL);
    rules(&mut node, LOCAL, [NOTHING, NOTHING]);
    rules(&mut node, FORWARD, forward);
    node
}

/// The same without a layer for what is forwarded.
pub fn gated_alone() -> Node {
    let mut node = gated([SET_OPEN, SET_OPEN]);
    node.endpoints[LOCAL as usize].layers.forward = 0;
    node
}

/// The same with a backend on another node.
fn gated_to_elsewhere(forward: [u32; 2]) -> Node {
    let mut node = gated(forward);
    node.backends[1].address = v4(201);
    node
}

pub fn rules(node: &mut Node, slot: u32, [ingress, egress]: [u32; 2]) {
    let layer = &mut node.endpoints[slot as usize];
    (layer.ingress, layer.egress) = (Word::settled(ingress), Word::settled(egress));
}

/// A commit that changes a layer's rules: those of the pods' flows move on with it.
pub fn change(node: &mut Node, slot: u32, ingress: u32) {
    node.generation.set(node.generation.get() + 1);
    let revision = node.generation.get() as u32;
    node.endpoints.iter_mut().for_each(|endpoint| endpoint.rev = revision);
    let egress = node.endpoints[slot as usize].egress.new();
    rules(node, slot, [ingress, egress]);
}

/// Through a hook; the twin has to say the same, and to write nothing.
pub fn by(node: &Node, hook: Hook, arrival: &Arrival, frame: &[u8]) -> (Fate, State) {
    let told = walk(hook, &Twin(node), &Bytes(frame), arrival, &mut State::default());
    let (fate, state) = node.run_from(hook, arrival, frame);
    assert_eq!(told, fate, "the twin at {hook:?}");
    (fate, state)
}

pub const COMES: Arrival = Arrival {
    ifindex: UPLINK,
    ingress_ifindex: UPLINK,
    ethertype: 0x0800,
    vlan: false,
    untagged: false,
    foreign: false,
    overheard: false,
    handed: [0; 2],
    mark: 0,
};

fn gate(node: &Node, frame: &[u8]) -> (Fate, State) {
    by(node, Hook::FromHostEndpoint, &COMES, frame)
}

/// In by the gate, and what the uplink's program then does.
pub fn comes(node: &Node, frame: &[u8]) -> (Fate, State) {
    let (fate, state) = gate(node, frame);
    let words = if state.translation.end == Translated::Ahead { handover::to_cb_ahead } else { handover::to_cb };
    match fate {
        Ok(Verdict::Through) => {
            by(node, Hook::FromUplink, &Arrival { handed: words(state.generation), ..COMES }, frame)
        }
        Ok(Verdict::Untouched) => by(node, Hook::FromUplink, &COMES, frame),
        _ => (fate, state),
    }
}

/// Out by the gate: what came in by another interface, or what the node itself sends (0).
pub fn leaves(node: &Node, ingress_ifindex: u32, frame: &[u8]) -> Fate {
    by(node, Hook::ToHostEndpoint, &Arrival { ingress_ifindex, ..COMES }, frame).0
}

pub fn asks(node: &Node, port: u16, flags: u8) -> Fate {
    comes(node, &tcp(OUTSIDE, VIP, (port, PORT), flags)).0
}

pub fn asks_udp(node: &Node, port: u16) -> Fate {
    comes(node, &udp(OUTSIDE, VIP, (port, PORT))).0
}

/// The backend answers, and the answer leaves as the service's.
pub fn answers(node: &Node, port: u16, flags: u8) -> Fate {
    let fate = node.pod_sends(3, &tcp(B, 200, (TARGET, port), flags));
    if fate == OUT { leaves(node, 3, &tcp((0, VIP), 200, (PORT, port), flags)) } else { fate }
}

pub fn connect(node: &Node, port: u16) {
    assert_eq!((asks(node, port, SYN), answers(node, port, SYN | ACK)), (TO_B, THROUGH));
    assert_eq!((asks(node, port, ACK), answers(node, port, ACK), asks(node, port, ACK)), (TO_B, THROUGH, TO_B));
}

/// The port by which this node stands for the client of a packet that goes on, and leaves by the gate.
fn goes_on(node: &Node, port: u16, flags: u8) -> u16 {
    let (fate, state) = comes(node, &tcp(OUTSIDE, VIP, (port, PORT), flags));
    assert_eq!((fate, state.translation.is_masked), (OUT, true));
    let mask = u16::from_be(state.translation.mask_port);
    let fate = leaves(node, UPLINK, &tcp((0, 1), 201, (mask, TARGET), flags));
    assert!([THROUGH, Ok(Verdict::Untouched)].contains(&fate), "{fate:?}");
    mask
}

/// What the backend elsewhere says comes back, and leaves as the service's.
fn returns(node: &Node, mask: u16, port: u16, flags: u8) -> Fate {
    let fate = comes(node, &tcp((0, 201), 1, (TARGET, mask), flags)).0;
    if fate == OUT { leaves(node, UPLINK, &tcp((0, VIP), 200, (PORT, port), flags)) } else { fate }
}

#[test]
fn hep_4_rules_for_the_node_itself_are_not_asked_about_what_a_service_leads_on() {
    let node = gated([ALLOW, NOTHING]);
    connect(&node, 4000);
    assert_eq!(asks_udp(&node, 4000), TO_B);
    let other = |port| comes(&node, &tcp(OUTSIDE, VIP, (4000, port), SYN)).0;
    assert_eq!((other(444), other(22)), (REFUSED, REFUSED), "other ports of the node's");
    assert_eq!(comes(&node, &tcp(OUTSIDE, 1, (4000, PORT), SYN)).0, REFUSED, "another address of the node's");
    let node = gated_alone();
    connect(&node, 4000);
    assert_eq!(asks_udp(&node, 4000), TO_B);
    let kinds: Vec<_> = node.flows().iter().map(|(_, flow)| flow.nat_kind.get()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == NAT_AHEAD).count(), 2, "{kinds:?}");
}

#[test]
fn hep_5_rules_for_what_is_forwarded_are_asked_about_the_client_and_the_backend() {
    // 80 is let in, which is the backend's port; the frontend's is not.
    let node = gated([SOME, NOTHING]);
    connect(&node, 4000);
    let mut node = gated([SOME, NOTHING]);
    node.backends[1].port = 8080u16.to_be_bytes();
    let (fate, state) = comes(&node, &tcp(OUTSIDE, VIP, (4000, PORT), SYN));
    assert_eq!((fate, state.ingress_hit), (REFUSED, Some(2)));
    assert_eq!(comes(&node, &tcp(OUTSIDE, EXTERNAL, (4000, PORT), SYN)).0, REFUSED);
    assert!(node.flows().iter().all(|(_, flow)| flow.nat_kind.get() != NAT_LEADS), "nothing leads there");
    let node = gated([NO_FRONTEND, NOTHING]);
    assert_eq!(asks(&node, 4000, SYN), REFUSED, "no rule lets it in");
    // An address that is not the node's own is asked about in the same way.
    let node = gated([SOME, NOTHING]);
    let external = |flags| comes(&node, &tcp(OUTSIDE, EXTERNAL, (4001, PORT), flags)).0;
    assert_eq!((external(SYN), external(ACK)), (TO_B, TO_B));
    // The pod's own rules are asked as well.
    let mut node = gated([ALLOW, NOTHING]);
    node.change_ingress(3, NOTHING);
    assert_eq!(asks(&node, 4000, SYN), Err(IngressPolicy));
}

#[test]
fn hep_9_rules_before_translation_are_asked_about_the_frontend() {
    for (pre_dnat, fate) in [(SOME, REFUSED), (NO_FRONTEND, REFUSED), (ALLOW, TO_B)] {
        let mut node = gated_alone();
        node.endpoints[LOCAL as usize].layers.pre_dnat = PRE_DNAT;
        rules(&mut node, PRE_DNAT, [pre_dnat, SET_OPEN]);
        assert_eq!(asks(&node, 4000, SYN), fate, "{pre_dnat}");
        if fate == TO_B {
            assert_eq!((answers(&node, 4000, SYN | ACK), asks(&node, 4000, ACK)), (THROUGH, TO_B));
            change(&mut node, PRE_DNAT, NOTHING);
            assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (Err(FlowRefused), Err(FlowRefused)));
            assert_eq!(asks(&node, 4000, SYN), REFUSED, "own_1: a new deny cuts");
            change(&mut node, PRE_DNAT, ALLOW);
            assert_eq!(asks(&node, 4000, SYN), TO_B);
        } else {
            assert_eq!(asks(&node, 4000, ACK), REFUSED, "an ACK is no way in");
            assert!(node.flows().is_empty());
        }
    }
}

#[test]
fn own_1_a_new_deny_of_what_is_forwarded_cuts_the_flows_that_a_service_leads_on() {
    for client_first in [true, false] {
        let mut node = gated([SOME, NOTHING]);
        connect(&node, 4000);
        assert_eq!(asks_udp(&node, 4000), REFUSED);
        change(&mut node, FORWARD, ALLOW);
        assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (TO_B, THROUGH), "still let in");
        assert_eq!(asks_udp(&node, 4000), TO_B);
        change(&mut node, FORWARD, NOTHING);
        let cut = (Err(FlowRefused), Err(FlowRefused));
        if client_first {
            assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), cut);
        } else {
            assert_eq!((answers(&node, 4000, ACK), asks(&node, 4000, ACK)), cut);
        }
        assert_eq!((asks(&node, 4000, SYN), asks_udp(&node, 4000)), (REFUSED, Err(FlowRefused)));
        change(&mut node, FORWARD, SOME);
        assert_eq!(asks(&node, 4000, ACK), Err(FlowRefused), "until a new SYN");
        connect(&node, 4000);
    }
}

#[test]
fn hep_5_own_1_a_backend_elsewhere_is_asked_about_as_one_here() {
    for client_first in [true, false] {
        let mut node = gated_to_elsewhere([SOME, SET_OPEN]);
        let mask = goes_on(&node, 4000, SYN);
        assert_eq!(returns(&node, mask, 4000, SYN | ACK), THROUGH);
        assert_eq!(goes_on(&node, 4000, ACK), mask);
        assert_eq!((returns(&node, mask, 4000, ACK), goes_on(&node, 4000, ACK)), (THROUGH, mask));
        change(&mut node, FORWARD, ALLOW);
        assert_eq!((goes_on(&node, 4000, ACK), returns(&node, mask, 4000, ACK)), (mask, THROUGH), "still let in");
        change(&mut node, FORWARD, NOTHING);
        let (asks, returns) = (|node: &Node| asks(node, 4000, ACK), |node: &Node| returns(node, mask, 4000, ACK));
        let cut = (Err(FlowRefused), Err(FlowRefused));
        if client_first {
            assert_eq!((asks(&node), returns(&node)), cut);
        } else {
            assert_eq!((returns(&node), asks(&node)), cut);
        }
        assert_eq!(comes(&node, &tcp(OUTSIDE, VIP, (4000, PORT), SYN)).0, REFUSED);
        change(&mut node, FORWARD, SOME);
        goes_on(&node, 4000, SYN);
    }
    let mut node = gated_to_elsewhere([SOME, SET_OPEN]);
    node.backends[1].port = 8080u16.to_be_bytes();
    assert_eq!(asks(&node, 4000, SYN), REFUSED);
    // What is kept is kept (establishedFlows), and what was refused stays so.
    let mut node = gated_to_elsewhere([SOME, SET_OPEN]);
    let mask = goes_on(&node, 4000, SYN);
    assert_eq!((returns(&node, mask, 4000, SYN | ACK), goes_on(&node, 4000, ACK)), (THROUGH, mask));
    node.endpoints[LOCAL as usize].flags |= ENDPOINT_KEEP_ESTABLISHED;
    node.endpoints[FORWARD as usize].flags |= ENDPOINT_KEEP_ESTABLISHED;
    change(&mut node, FORWARD, NOTHING);
    assert_eq!(asks(&node, 4000, ACK), OUT);
}

#[test]
fn hep_4_what_comes_back_from_a_backend_elsewhere_passes_a_gate_that_lets_nothing_in() {
    for node in [gated_to_elsewhere([ALLOW, SET_OPEN]), {
        let mut node = gated_to_elsewhere([SET_OPEN; 2]);
        node.endpoints[LOCAL as usize].layers.forward = 0;
        node
    }] {
        let mask = goes_on(&node, 4000, SYN);
        assert_eq!(returns(&node, mask, 4000, SYN | ACK), THROUGH);
        assert_eq!(goes_on(&node, 4000, ACK), mask);
        assert_eq!(returns(&node, mask, 4000, ACK), THROUGH);
        assert_eq!(comes(&node, &tcp((0, 202), 1, (TARGET, mask), ACK)).0, REFUSED, "of nobody's");
    }
}

#[test]
fn pkt_26_pieces_of_a_datagram_that_a_service_leads_on_pass_after_their_first() {
    let node = gated([ALLOW, NOTHING]);
    let piece = |offset: u8, more: u8, ports| {
        let mut frame = udp(OUTSIDE, VIP, ports);
        (frame[18], frame[19], frame[20], frame[21]) = (9, 9, more << 5, offset);
        frame
    };
    assert_eq!(comes(&node, &piece(9, 0, (5, 5))).0, Err(FragmentBeforeFirst));
    assert_eq!(comes(&node, &piece(0, 1, (4000, PORT))).0, TO_B);
    assert_eq!(comes(&node, &piece(9, 0, (5, 5))).0, TO_B);
}

#[test]
fn pkt_30_errors_about_what_a_service_leads_on_pass_the_gate_with_its_flow() {
    let node = gated([ALLOW, NOTHING]);
    assert_eq!(asks_udp(&node, 4000), TO_B);
    let unreachable = |from, to, about: &[u8]| ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat());
    // About the answer, by its client.
    let answer = udp((0, VIP), 200, (PORT, 4000));
    assert_eq!(comes(&node, &unreachable(OUTSIDE, VIP, &answer)).0, TO_B);
    assert_eq!(gate(&node, &unreachable(OUTSIDE, VIP, &udp((0, VIP), 200, (PORT, 4001)))).0, Err(IcmpUnrelated));
    // About the question, in the service's name.
    let question = udp(OUTSIDE, VIP, (4000, PORT));
    assert_eq!(leaves(&node, 3, &unreachable((0, VIP), 200, &question)), THROUGH);
    assert_eq!(Address::default(), node.backends[0].address);
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}
