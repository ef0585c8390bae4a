//! Backends elsewhere as a specification: who stands for a client outside, and how what they answer finds it.
//! In: the node of `outside`, with a backend on another node. Out: verdicts, ports, entries.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::Word;
use abi::conntrack::QUOTA_ALL;
use abi::endpoint::SLOT_HOST;
use abi::masquerade::TCP;

use crate::accounts::check;
use crate::conntrack::Socket;
use crate::fake::{Bytes, Node, Twin, UPLINK, ipv4, tcp, udp, v4};
use crate::outside::{OUT, UNTOUCHED, asks, comes, open_by_one};
use crate::parse::Packet;
use crate::services::{PORT, TARGET, VIP};
use crate::tables::{Arrival, Frame};
use crate::tracking::{A, ACK, OUTSIDE, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

/// The same with a backend on another node behind it.
fn open_to_elsewhere() -> Node {
    let mut node = open_by_one();
    node.backends[1].address = v4(201);
    node.owns(v4(VIP), SLOT_HOST);
    node
}

/// The port by which this node stands for the client of a packet that goes on.
fn mask_of(node: &Node, frame: &[u8]) -> u16 {
    let (verdict, state) = comes(node, frame);
    assert_eq!((verdict, state.translation.end, state.translation.is_masked), (OUT, Translated::Destination, true));
    assert_eq!((state.packet.destination, state.packet.detail), (v4(201), TARGET));
    assert_eq!(state.translation.mask, v4(1));
    let port = u16::from_be(state.translation.mask_port);
    assert!((1025..30_000).contains(&port), "{port}");
    port
}

/// What the backend answers to this node.
fn returns(node: &Node, to: u16, flags: u8) -> (Result<Verdict, DropReason>, State) {
    comes(node, &tcp((0, 201), 1, (TARGET, to), flags))
}

fn connect_elsewhere(node: &Node, port: u16) -> u16 {
    let segment = |flags| tcp(OUTSIDE, VIP, (port, PORT), flags);
    let mask = mask_of(node, &segment(SYN));
    assert_eq!(mask_of(node, &segment(SYN)), mask, "pkt_73");
    assert_eq!(returns(node, mask, SYN | ACK).0, OUT);
    assert_eq!(mask_of(node, &segment(ACK)), mask);
    mask
}

#[test]
fn a_backend_elsewhere_sees_this_node_and_its_answers_go_to_the_client_as_the_services() {
    let node = open_to_elsewhere();
    let mask = connect_elsewhere(&node, 4000);
    let (verdict, state) = returns(&node, mask, ACK);
    let (packet, translation) = (&state.packet, &state.translation);
    assert_eq!((verdict, translation.end, translation.is_masked), (OUT, Translated::Source, true));
    assert_eq!((packet.source, packet.destination, packet.detail), (v4(201), v4(200), 4000));
    assert_eq!((translation.frontend, u16::from_be(translation.port)), (v4(VIP), PORT));
    assert_eq!((translation.mask, u16::from_be(translation.mask_port)), (v4(1), mask));
    check(&node, "elsewhere");
    assert_eq!(node.tracked.kept().len(), 3, "the flow, what leads there, and what comes back");
    assert_eq!(node.tracked.accounts(), [(SLOT_HOST, 3), (QUOTA_ALL, 3)].into());
    // A long answer: the client says nothing.
    for _ in 0..3 {
        later(&node, 3000);
        assert_eq!(returns(&node, mask, ACK).0, OUT);
        node.cursor_goes_round();
    }
    assert_eq!(mask_of(&node, &tcp(OUTSIDE, VIP, (4000, PORT), ACK)), mask);
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn pkt_79_clients_with_one_port_are_told_apart_by_the_port_that_stands_for_each() {
    let node = open_to_elsewhere();
    let ask = |client: u8| {
        node.chance.set(u32::from(client).wrapping_mul(0x9e37_79b9));
        mask_of(&node, &tcp((0, 100 + client), VIP, (4000, PORT), SYN))
    };
    let masks: Vec<_> = (1..100).map(ask).collect();
    let mut apart = masks.clone();
    apart.sort_unstable();
    apart.dedup();
    // The tables in memory hold a hundred half-open flows, of which each takes three.
    assert!(apart.len() > 90, "{masks:?}");
    let node = open_to_elsewhere();
    let masks = [201, 202, 203].map(|client| (client, mask_of(&node, &tcp((0, client), VIP, (4000, PORT), SYN))));
    for (client, mask) in masks {
        assert_eq!(returns(&node, mask, SYN | ACK).1.packet.destination, v4(client));
    }
}

#[test]
fn a_datagram_keeps_the_port_that_stands_for_its_client_though_what_leads_there_is_forgotten() {
    let node = open_to_elsewhere();
    let asks = |node: &Node| mask_of(node, &udp(OUTSIDE, VIP, (4000, PORT)));
    let mask = asks(&node);
    let leads = node.flows().into_iter().find(|(_, flow)| flow.nat_kind.get() == abi::conntrack::NAT_LEADS);
    leads.expect("one leads").1.forget();
    assert_eq!(asks(&node), mask);
    let returns = node.flows().into_iter().find(|(_, flow)| flow.nat_kind.get() == abi::conntrack::NAT_RETURNS);
    returns.expect("one comes back").1.forget();
    assert_eq!(asks(&node), mask, "nor that by which it comes back");
    let (verdict, state) = comes(&node, &udp((0, 201), 1, (TARGET, mask)));
    assert_eq!((verdict, state.packet.destination), (OUT, v4(200)));
}

#[test]
fn a_long_answer_to_a_client_that_says_nothing_more_comes_through() {
    let node = open_to_elsewhere();
    let mask = mask_of(&node, &udp(OUTSIDE, VIP, (4000, PORT)));
    for _ in 0..10 {
        later(&node, 50);
        assert_eq!(comes(&node, &udp((0, 201), 1, (TARGET, mask))).0, OUT);
        node.cursor_goes_round();
    }
    later(&node, 61);
    assert_eq!(comes(&node, &udp((0, 201), 1, (TARGET, mask))).0, UNTOUCHED);
}

#[test]
fn a_first_answer_comes_through_however_long_the_client_had_to_ask() {
    let node = open_to_elsewhere();
    let ask = || mask_of(&node, &udp(OUTSIDE, VIP, (4000, PORT)));
    let mask = ask();
    for _ in 0..3 {
        later(&node, 50);
        assert_eq!(ask(), mask);
    }
    later(&node, 50);
    assert_eq!(comes(&node, &udp((0, 201), 1, (TARGET, mask))).0, OUT);
}

#[test]
fn a_dry_run_sees_that_a_client_is_masked_and_takes_no_port() {
    let node = open_to_elsewhere();
    let mut state = State::default();
    let arrival = Arrival { ifindex: UPLINK, ingress_ifindex: UPLINK, ..Arrival::default() };
    let frame = tcp(OUTSIDE, VIP, (4000, PORT), SYN);
    assert_eq!(walk(Hook::FromUplink, &Twin(&node), &Bytes(&frame), &arrival, &mut state), OUT);
    assert_eq!((state.translation.is_masked, state.translation.mask), (true, v4(1)));
    assert!(node.flows().is_empty());
}

/// A frame on a host with a socket at this port, that would hear the packet's receiver.
struct Heard<'a>(Bytes<'a>, u16);

impl Frame for Heard<'_> {
    fn len(&self) -> u32 {
        self.0.len()
    }
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.load(at)
    }
    fn has_socket(&self, packet: &Packet, (own, port): Socket) -> bool {
        (own, packet.destination, u16::from_be(port)) == (v4(1), v4(201), self.1)
    }
}

#[test]
fn a_port_at_which_a_socket_of_the_hosts_would_hear_the_backend_stands_for_nobody() {
    let frame = tcp(OUTSIDE, VIP, (4000, PORT), SYN);
    let mask = mask_of(&open_to_elsewhere(), &frame);
    let node = open_to_elsewhere();
    let mut state = State::default();
    let arrival = Arrival { ifindex: UPLINK, ingress_ifindex: UPLINK, ..Arrival::default() };
    assert_eq!(walk(Hook::FromUplink, &node, &Heard(Bytes(&frame), mask), &arrival, &mut state), OUT);
    let other = u16::from_be(state.translation.mask_port);
    assert!(other != mask && (1025..30_000).contains(&other), "{other} of {mask}");
    assert_eq!(returns(&node, mask, SYN | ACK).0, UNTOUCHED);
    assert_eq!(mask_of(&node, &frame), other, "and keeps it");
}

#[test]
fn what_comes_back_for_nobody_or_from_another_is_the_stacks() {
    let node = open_to_elsewhere();
    let mask = connect_elsewhere(&node, 4000);
    assert_eq!(returns(&node, mask + 1, ACK).0, UNTOUCHED);
    assert_eq!(comes(&node, &tcp((0, 202), 1, (TARGET, mask), ACK)).0, UNTOUCHED, "another");
    assert_eq!(comes(&node, &tcp((0, 201), 1, (TARGET + 1, mask), ACK)).0, UNTOUCHED, "another port");
    assert_eq!(comes(&node, &udp((0, 201), 1, (TARGET, mask))).0, UNTOUCHED, "another protocol");
    // What passes this node between the two is not this flow's.
    assert_eq!(node.arrives(&tcp(OUTSIDE, 201, (4000, TARGET), ACK)), UNTOUCHED);
    assert_eq!(node.arrives(&tcp((0, 201), 200, (TARGET, 4000), ACK)), UNTOUCHED);
    later(&node, 4000);
    assert_eq!(returns(&node, mask, ACK).0, UNTOUCHED, "the flow is over");
}

#[test]
fn spf_1_nobody_is_masked_who_asks_in_the_name_of_this_node_or_of_a_pod() {
    let node = open_to_elsewhere();
    for from in [1, 2, 3] {
        assert_eq!(node.arrives(&tcp((0, from), VIP, (4000, PORT), SYN)), Err(SourceIsLocal));
    }
    assert!(node.flows().is_empty());
    assert_eq!(node.pod_sends(2, &tcp((2, 201), 1, (TARGET, 20_000), SYN)), Err(Spoofed));
}

#[test]
fn a_backend_elsewhere_that_is_gone_ends_its_flows_and_one_that_asks_itself_gets_an_answer() {
    let mut node = open_to_elsewhere();
    connect_elsewhere(&node, 4000);
    node.backends[1].standing = Word::settled(0);
    assert_eq!(asks(&node, 4000, ACK), UNTOUCHED, "the stack refuses it");
    let mut node = open_to_elsewhere();
    node.backends[1].address = v4(200);
    let (verdict, state) = comes(&node, &tcp(OUTSIDE, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.translation.is_masked, state.translation.is_hairpin), (OUT, true, false));
    let mask = u16::from_be(state.translation.mask_port);
    let (verdict, state) = comes(&node, &tcp(OUTSIDE, 1, (TARGET, mask), SYN | ACK));
    assert_eq!((verdict, state.packet.destination, state.packet.detail), (OUT, v4(200), 4000));
    assert_eq!(state.translation.frontend, v4(VIP));
    node.cursor_goes_round();
}

#[test]
fn pkt_78_what_this_node_only_sends_on_leaves_room_for_its_pods_and_for_itself() {
    let node = open_to_elsewhere();
    node.tracked.quota.set(2);
    // Four quotas, and three entries a flow.
    for port in 4000..4003 {
        connect_elsewhere(&node, port);
    }
    let (verdict, state) = comes(&node, &tcp(OUTSIDE, VIP, (4003, PORT), SYN));
    assert_eq!((verdict, state.slot), (Err(FlowQuota), SLOT_HOST));
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (5, 80), SYN)), TO_B);
    assert_eq!(node.host_sends(2, &tcp((0, 1), 2, (5, 81), SYN)), Ok(Verdict::ToEndpoint(2)));
}

/// An ICMP error (port unreachable) about what somebody sent.
fn unreachable(from: (u32, u8), to: u8, about: &[u8]) -> Vec<u8> {
    ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

#[test]
fn pkt_30_an_error_about_a_masked_clients_flow_goes_to_the_end_that_sent_what_it_quotes() {
    let node = open_to_elsewhere();
    let mask = mask_of(&node, &udp(OUTSIDE, VIP, (4000, PORT)));
    let question = unreachable((0, 201), 1, &udp((0, 1), 201, (mask, TARGET)));
    let (verdict, state) = comes(&node, &question);
    let (packet, translation) = (&state.packet, &state.translation);
    assert_eq!((verdict, translation.end, translation.is_masked), (OUT, Translated::QuotedDestination, true));
    assert_eq!((packet.destination, translation.frontend), (v4(200), v4(VIP)));
    assert_eq!((u16::from_be(translation.mask_port), u16::from_be(translation.port)), (4000, PORT));
    let answer = unreachable(OUTSIDE, VIP, &udp((0, VIP), 200, (PORT, 4000)));
    let (verdict, state) = comes(&node, &answer);
    let (packet, translation) = (&state.packet, &state.translation);
    assert_eq!((verdict, translation.end, translation.is_masked), (OUT, Translated::QuotedSource, true));
    assert_eq!((packet.destination, translation.mask), (v4(201), v4(1)));
    assert_eq!((u16::from_be(translation.mask_port), u16::from_be(translation.port)), (mask, TARGET));
    assert_eq!(node.flows().len(), 3, "an error is no flow");
    // Not about the flow, or not to who sent it.
    let about = |from, to, ports| udp((0, from), to, ports);
    for (to, quoted) in [
        (1, about(1, 202, (mask, TARGET))),
        (1, about(1, 201, (mask, PORT))),
        (1, about(201, 1, (TARGET, mask))),
        (VIP, about(1, 201, (mask, TARGET))),
        (VIP, about(VIP, 202, (PORT, 4000))),
    ] {
        assert_eq!(node.arrives(&unreachable(OUTSIDE, to, &quoted)), UNTOUCHED);
    }
    for from in [1, 2] {
        let forged = unreachable((0, from), 1, &udp((0, 1), 201, (mask, TARGET)));
        assert_eq!(node.arrives(&forged), Err(SourceIsLocal));
    }
    later(&node, 61);
    assert_eq!((node.arrives(&question), node.arrives(&answer)), (UNTOUCHED, UNTOUCHED), "it is over");
}

#[test]
fn pkt_79_a_port_that_stands_for_a_client_stands_for_no_other_that_would_have_it() {
    let ask = |node: &Node, client: (u8, u16)| mask_of(node, &tcp((0, client.0), VIP, (client.1, PORT), SYN));
    // Of many clients, and of one alone.
    for (one, other) in [((202, 4000), (203, 4000)), ((202, 4000), (202, 4000 + TCP.count))] {
        assert_eq!(ask(&open_to_elsewhere(), one), ask(&open_to_elsewhere(), other));
        let node = open_to_elsewhere();
        let (mine, others) = (ask(&node, one), ask(&node, other));
        assert_ne!(mine, others);
        for (client, mask) in [(one, mine), (other, others)] {
            let state = returns(&node, mask, SYN | ACK).1;
            assert_eq!((state.packet.destination, state.packet.detail), (v4(client.0), client.1));
        }
    }
}
