//! What this node's own processes open to services as a specification: where it goes, what hears its answers, and what it leaves alone.
//! In: the node of `services`, whose sockets nobody asks when they call. Out: verdicts, translations, entries.
//! Invariant: every row says what a process or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use std::vec::Vec;

use abi::DropReason::{self, *};
use abi::conntrack::{NAT_TRANSLATED, QUOTA_ALL};
use abi::endpoint::{NODE_TRANSLATES, SLOT_HOST};
use abi::service::{BACKEND_LISTED, BALANCER_SILENT};
use abi::{Address, ServiceKey, Word};

use crate::accounts::check;
use crate::fake::{Bytes, Node, SOME, Twin, UPLINK, icmp, ipv4, tcp, udp, v4};
use crate::gates::{FORWARD, HOST, LOCAL, NOTHING, PASSES, change, comes_in, forwarding, goes_out};
use crate::outside::{OUT, UNTOUCHED};
use crate::services::{PORT, STANDS, TARGET, TO_C, VIP, backend, served, served_by_one};
use crate::tables::Arrival;
use crate::tracking::{ACK, B, FIN, OUTSIDE, RST, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

pub(crate) type Fate = Result<Verdict, DropReason>;
pub(crate) const SOCKET: Fate = Ok(Verdict::ToSocket);
pub(crate) const LO: u32 = 1;
/// A backend of another node's.
pub(crate) const FAR: (u32, u8) = (0, 201);

pub(crate) fn at(node: &Node, hook: Hook, (ifindex, ingress_ifindex): (u32, u32), frame: &[u8]) -> (Fate, State) {
    let arrival = Arrival { ifindex, ingress_ifindex, ethertype: 0x0800, ..Arrival::default() };
    let told = walk(hook, &Twin(node), &Bytes(frame), &arrival, &mut State::default());
    let (fate, state) = node.run_from(hook, &arrival, frame);
    assert_eq!(told, fate, "the twin");
    (fate, state)
}

/// The node itself sends, by the uplink or by loopback.
pub(crate) fn sends(node: &Node, ifindex: u32, frame: &[u8]) -> (Fate, State) {
    at(node, Hook::FromNode, (ifindex, 0), frame)
}

pub(crate) fn asks(node: &Node, port: u16, flags: u8) -> Fate {
    sends(node, UPLINK, &tcp(HOST, VIP, (port, PORT), flags)).0
}

pub(crate) fn asks_udp(node: &Node, port: u16) -> Fate {
    sends(node, UPLINK, &udp(HOST, VIP, (port, PORT))).0
}

/// What comes back from who was asked: a pod, somebody elsewhere, or this node itself.
pub(crate) fn says(node: &Node, from: (u32, u8), frame: &[u8]) -> (Fate, State) {
    match from {
        FAR => at(node, Hook::FromUplink, (UPLINK, UPLINK), frame),
        HOST => sends(node, LO, frame),
        (slot, _) => at(node, Hook::FromWorkload, (slot, slot), frame),
    }
}

fn answers(node: &Node, from: (u32, u8), port: u16, flags: u8) -> (Fate, State) {
    says(node, from, &tcp(from, 1, (TARGET, port), flags))
}

pub(crate) fn connect(node: &Node, from: (u32, u8), port: u16) {
    let (asked, answered) = (asks(node, port, SYN), answers(node, from, port, SYN | ACK).0);
    assert_eq!((asked, answered, asks(node, port, ACK)), (way_to(from), SOCKET, way_to(from)));
}

pub(crate) fn way_to(backend: (u32, u8)) -> Fate {
    match backend {
        FAR => OUT,
        HOST => SOCKET,
        (slot, _) => Ok(Verdict::ToEndpoint(slot)),
    }
}

/// One backend alone, and the frontend at `at`.
pub(crate) fn behind(mut node: Node, at: u8, (_, last): (u32, u8)) -> Node {
    let other = served_by_one();
    (node.frontends, node.members, node.balancers) = (other.frontends, other.members, other.balancers);
    node.services =
        other.services.into_iter().map(|(key, slot)| (ServiceKey { address: v4(at), ..key }, slot)).collect();
    node.backends = other.backends;
    node.backends[1] = backend(last, STANDS);
    node
}

#[test]
fn a_process_reaches_a_backend_wherever_it_is_by_any_address_of_the_service_and_hears_it_by_that() {
    // The service's own address leaves by the uplink; a node port, at the node's, by loopback.
    for (frontend, by) in [(VIP, UPLINK), (1, LO)] {
        for to in [B, FAR, HOST] {
            let node = behind(Node::new(), frontend, to);
            let ask = |frame: &[u8]| {
                let (fate, state) = sends(&node, by, frame);
                assert_eq!((fate, state.translation.end), (way_to(to), Translated::Destination), "{frontend} {to:?}");
                let packet = &state.packet;
                assert_eq!((packet.source, packet.destination, packet.detail), (v4(1), v4(to.1), TARGET));
            };
            let hear = |frame: &[u8]| {
                let (fate, state) = says(&node, to, frame);
                let translation = &state.translation;
                assert_eq!((fate, translation.end), (SOCKET, Translated::Source), "{frontend} {to:?}");
                assert_eq!((translation.frontend, u16::from_be(translation.port)), (v4(frontend), PORT));
                assert_eq!((state.packet.destination, translation.is_hairpin), (v4(1), false));
            };
            for (flags, back) in [(SYN, SYN | ACK), (SYN, SYN | ACK), (ACK, ACK), (FIN | ACK, FIN | ACK)] {
                ask(&tcp(HOST, frontend, (4000, PORT), flags));
                hear(&tcp(to, 1, (TARGET, 4000), back));
            }
            for _ in 0..3 {
                ask(&udp(HOST, frontend, (4000, PORT)));
                hear(&udp(to, 1, (TARGET, 4000)));
            }
            // Where it leaves for the backend it is met again, and let be.
            let again = tcp(HOST, to.1, (4000, TARGET), ACK);
            match to {
                FAR => assert_eq!(sends(&node, UPLINK, &again).0, UNTOUCHED),
                B => assert_eq!(node.host_sends(3, &again), TO_B),
                _ => assert_eq!(sends(&node, LO, &again).0, UNTOUCHED),
            }
            check(&node, "opened by the node");
            assert!(node.tracked.accounts().keys().all(|of| [SLOT_HOST, QUOTA_ALL].contains(of)), "all are the node's");
            node.cursor_goes_round();
            ask(&udp(HOST, frontend, (4000, PORT)));
            later(&node, 4000);
            node.cursor_goes_round();
            node.cursor_goes_round();
            assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty(), "{frontend} {to:?}");
        }
    }
}

#[test]
fn a_packet_to_a_pod_is_counted_once_and_both_entries_are_kept_for_good() {
    let node = served_by_one();
    for flags in [SYN, ACK, ACK, ACK] {
        assert_eq!(asks(&node, 4000, flags), TO_B);
        assert_eq!(node.host_sends(3, &tcp(HOST, 3, (4000, TARGET), flags)), TO_B);
        if flags == SYN {
            assert_eq!(answers(&node, B, 4000, SYN | ACK).0, SOCKET);
        }
    }
    let kept = node.tracked.kept();
    let packets: Vec<_> =
        kept.iter().map(|(_, flow)| flow).filter(|flow| flow.nat_kind.get() == NAT_TRANSLATED).collect();
    // Where the stack's hook met it first, it was opened by the one before.
    assert_eq!((kept.len(), packets[0].packets.get()), (2, 6));
}

#[test]
fn what_leads_to_a_process_of_the_node_lives_as_long_as_its_flow() {
    for (frontend, by) in [(VIP, UPLINK), (1, LO)] {
        let node = behind(Node::new(), frontend, HOST);
        let ask = |flags| sends(&node, by, &tcp(HOST, frontend, (4000, PORT), flags)).0;
        assert_eq!((ask(SYN), answers(&node, HOST, 4000, SYN | ACK).0, ask(ACK)), (SOCKET, SOCKET, SOCKET));
        let flows = node.tracked.kept().len();
        node.cursor_goes_round();
        assert_eq!((node.tracked.kept().len(), flows), (2, 2));
    }
}

#[test]
fn what_the_node_sends_otherwise_leaves_as_it_is_and_leaves_nothing_behind() {
    let node = served_by_one();
    connect(&node, B, 4000);
    let flows = node.flows().len();
    let mut others: Vec<Vec<u8>> = [
        tcp(HOST, 200, (4000, PORT), SYN),
        tcp(HOST, VIP, (4000, 22), SYN),
        tcp(HOST, 200, (4000, PORT), ACK),
        udp(HOST, 200, (5, 53)),
        icmp(HOST, VIP, 8, 7),
        ipv4(HOST, 200, 6, &[0; 3]),
        ipv4(HOST, 200, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &udp(OUTSIDE, 1, (5, 53))[14..]].concat()),
        b"no frame".to_vec(),
    ]
    .into();
    // Nobody's address, a pod's, one of loopback's.
    others.extend([7, 2].map(|last| tcp((9, last), VIP, (4000, PORT), SYN)));
    let mut loopback = tcp(HOST, VIP, (4000, PORT), SYN);
    loopback[26..30].copy_from_slice(&[127, 0, 0, 1]);
    others.push(loopback);
    for frame in &others {
        for by in [UPLINK, LO] {
            assert_eq!(sends(&node, by, frame).0, UNTOUCHED, "{frame:?}");
        }
    }
    // What this node forwards was translated where it came in; so are frames of a VLAN none of ours.
    let asked = tcp(HOST, VIP, (4001, PORT), SYN);
    assert_eq!(at(&node, Hook::FromNode, (UPLINK, 2), &asked).0, UNTOUCHED);
    let vlan = Arrival { ifindex: UPLINK, vlan: true, ..Arrival::default() };
    assert_eq!(node.run_from(Hook::FromNode, &vlan, &asked).0, UNTOUCHED);
    assert_eq!(node.flows().len(), flows);
}

#[test]
fn while_another_proxy_translates_nothing_new_is_opened_and_what_was_goes_on() {
    let mut node = served_by_one();
    connect(&node, B, 4000);
    node.endpoints[SLOT_HOST as usize].ingress = Word::settled(NODE_TRANSLATES);
    assert_eq!((asks(&node, 4001, SYN), asks_udp(&node, 4001)), (UNTOUCHED, UNTOUCHED));
    assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (TO_B, SOCKET));
}

#[test]
fn nobody_is_asked_about_what_the_node_opens_also_when_rules_change() {
    let mut node = served_by_one();
    node.change_ingress(3, NOTHING);
    connect(&node, B, 4000);
    for set in [SOME, NOTHING] {
        node.change_ingress(3, set);
        assert_eq!((answers(&node, B, 4000, ACK).0, asks(&node, 4000, ACK)), (SOCKET, TO_B));
    }
    // Elsewhere the gate is asked, about the backend.
    for rules in [[NOTHING, NOTHING], [NOTHING, SOME]] {
        let mut node = behind(forwarding(rules, [NOTHING, NOTHING]), VIP, FAR);
        node.endpoints[SLOT_HOST as usize].layers.uplink = LOCAL;
        assert_eq!(asks(&node, 4000, SYN), OUT);
        let leaves = |node: &Node, flags| goes_out(node, &tcp(HOST, 201, (4000, TARGET), flags));
        if rules[1] == NOTHING {
            assert_eq!(leaves(&node, SYN), Err(HostEndpoint));
            continue;
        }
        let comes = |node: &Node, flags| {
            let frame = tcp(FAR, 1, (TARGET, 4000), flags);
            assert_eq!(comes_in(node, &frame), PASSES);
            says(node, FAR, &frame).0
        };
        assert_eq!((leaves(&node, SYN), comes(&node, SYN | ACK), leaves(&node, ACK)), (PASSES, SOCKET, PASSES));
        change(&mut node, LOCAL, [NOTHING, crate::fake::ALLOW]);
        assert_eq!((comes(&node, ACK), asks(&node, 4000, ACK), leaves(&node, ACK)), (SOCKET, OUT, PASSES));
        change(&mut node, FORWARD, [NOTHING, NOTHING]);
        assert_eq!((comes(&node, ACK), asks(&node, 4000, ACK)), (SOCKET, OUT));
    }
}

#[test]
fn a_service_without_backends_refuses_and_says_so_unless_it_shall_be_silent() {
    let mut node = served_by_one();
    node.balancers[1].len = 0;
    for silent in [false, true] {
        node.balancers[1].flags = if silent { BALANCER_SILENT } else { 0 };
        let (fate, state) = sends(&node, UPLINK, &tcp(HOST, VIP, (4000, PORT), SYN));
        assert_eq!((fate, state.translation.is_silent, state.slot), (Err(NoBackend), silent, SLOT_HOST));
        assert_eq!(asks_udp(&node, 4000), Err(NoBackend));
    }
    assert_eq!(node.counted.borrow().refused[&1], 4);
    assert!(node.flows().is_empty());
}

#[test]
fn a_backend_that_goes_ends_connections_and_datagrams_go_to_another() {
    let mut node = served_by_one();
    connect(&node, B, 4000);
    assert_eq!(asks_udp(&node, 4000), TO_B);
    node.backends[1].standing = Word::settled(BACKEND_LISTED);
    node.members[0].backend = 2;
    assert_eq!((asks(&node, 4000, ACK), asks_udp(&node, 4000)), (TO_B, TO_B), "listed still");
    assert_eq!(asks(&node, 4001, SYN), TO_C);
    node.backends[1].standing = Word::settled(0);
    assert_eq!((asks(&node, 4000, ACK), asks_udp(&node, 4000)), (Err(BackendGone), TO_C));
    assert_eq!((asks(&node, 4000, RST), asks(&node, 4000, SYN)), (UNTOUCHED, TO_C));
    assert_eq!(asks(&node, 4002, ACK), Err(BackendGone), "a segment that nobody knows");
    // At the node's own address a socket may have sent it.
    let node = behind(Node::new(), 1, B);
    assert_eq!(sends(&node, LO, &tcp(HOST, 1, (4002, PORT), ACK)).0, UNTOUCHED);
}

#[test]
fn the_node_is_one_client_to_a_service_that_keeps_it_to_a_backend_whichever_address_it_speaks_by() {
    let mut node = served();
    node.balancers[1].affinity_s = 100;
    node.owns(v4(9), SLOT_HOST);
    // The twin has a chance of its own.
    let first = node.run(Hook::FromNode, UPLINK, 0, &tcp(HOST, VIP, (4000, PORT), SYN)).0;
    for port in 4001..4020 {
        assert_eq!(asks(&node, port, SYN), first);
        assert_eq!(sends(&node, UPLINK, &tcp((9, 9), VIP, (port, PORT), SYN)).0, first);
    }
    let clients: Vec<Address> = node.affinity.borrow().keys().map(|key| key.client).collect();
    assert_eq!(clients, [Address::from_v4([0; 4])], "as where its sockets are asked");
}

#[test]
fn a_flow_straight_to_a_pod_by_the_same_ports_is_not_mixed_up_with_one_through_a_service() {
    let mut node = served();
    assert_eq!(node.host_sends(3, &tcp(HOST, 3, (4000, TARGET), SYN)), TO_B);
    for _ in 0..4 {
        assert_eq!(asks(&node, 4000, SYN), TO_C, "B's is somebody else's");
    }
    node.balancers[1].len = 1;
    assert_eq!(node.host_sends(3, &tcp(HOST, 3, (4001, TARGET), SYN)), TO_B);
    assert_eq!(asks(&node, 4001, SYN), Err(NatCollision));
}
