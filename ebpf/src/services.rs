//! Services as a specification: which backend a packet of a pod gets, for how long, and what its answers look like.
//! In: a node of three pods and a service with two of them behind it. Out: verdicts, backends, entries.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::conntrack::{NAT_LEADS, NAT_TRANSLATED, QUOTA_ALL};
use abi::endpoint::ENDPOINT_READY;
use abi::service::{BACKEND_CHOSEN, BACKEND_LISTED, BALANCER_SILENT};
use abi::{Address, Backend, Balancer, Endpoint, Frontend, Member, ServiceKey, Word};

use crate::accounts::check;
use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, icmp, ipv4, mac, tcp, udp, v4};
use crate::tables::Arrival;
use crate::tracking::{A, ACK, B, OUTSIDE, SYN, TO_A, TO_B};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

/// The service's address, its port, and the one behind it.
pub(crate) const VIP: u8 = 99;
pub(crate) const PORT: u16 = 443;
pub(crate) const TARGET: u16 = 80;
pub(crate) const C: (u32, u8) = (4, 4);
pub(crate) const TO_C: Result<Verdict, DropReason> = Ok(Verdict::ToEndpoint(4));
pub(crate) const STANDS: u32 = BACKEND_LISTED | BACKEND_CHOSEN;
pub(crate) const OF: u64 = 77;

pub(crate) fn backend(last: u8, standing: u32) -> Backend {
    let (address, port) = (v4(last), TARGET.to_be_bytes());
    Backend { standing: Word::settled(standing), address, of: OF, born: 1, port, pad: [0; 2] }
}

pub(crate) fn key(port: u16, protocol: u8) -> ServiceKey {
    ServiceKey { address: v4(VIP), port: port.to_be_bytes(), protocol, pad: [0; 5] }
}

/// Pods A, B and C; the last two behind port 443 of the service, TCP and UDP.
pub(crate) fn served() -> Node {
    let mut node = Node::new();
    node.endpoints.push(Endpoint {
        egress: Word::settled(ALLOW),
        ingress: Word::settled(ALLOW),
        ifindex: 4,
        rev: 1,
        mtu: 1500,
        flags: ENDPOINT_READY,
        mac: mac(4),
        ..Endpoint::default()
    });
    node.interfaces.insert(4, 4);
    node.owns(v4(4), 4);
    node.frontends[0].inside = Word::settled(1);
    node.frontends.push(Frontend { inside: Word::settled(1), ..Frontend::default() });
    node.services.extend([(key(PORT, 6), 1), (key(PORT, 17), 1)]);
    node.members = [1, 2].map(|backend| Member { backend, pad: 0 }).into();
    node.balancers = vec![Balancer::default(), Balancer { of: OF, offset: 0, len: 2, ..Balancer::default() }];
    node.backends = vec![Backend::default(), backend(3, STANDS), backend(4, STANDS)];
    node
}

/// The same with B alone.
pub(crate) fn served_by_one() -> Node {
    let mut node = served();
    node.balancers[1].len = 1;
    node
}

pub(crate) fn asks(node: &Node, port: u16, flags: u8) -> Result<Verdict, DropReason> {
    node.pod_sends(2, &tcp(A, VIP, (port, PORT), flags))
}

pub(crate) fn asks_udp(node: &Node, port: u16) -> Result<Verdict, DropReason> {
    node.pod_sends(2, &udp(A, VIP, (port, PORT)))
}

/// What comes back from the pod that was asked.
pub(crate) fn answers(node: &Node, from: (u32, u8), port: u16, flags: u8) -> (Result<Verdict, DropReason>, State) {
    node.run(Hook::FromWorkload, from.0, from.0, &tcp(from, 2, (TARGET, port), flags))
}

pub(crate) fn connect(node: &Node, port: u16) {
    assert_eq!(asks(node, port, SYN), TO_B);
    assert_eq!(answers(node, B, port, SYN | ACK).0, TO_A);
    assert_eq!(asks(node, port, ACK), TO_B);
}

#[test]
fn a_flow_to_a_service_goes_to_a_backend_and_its_answers_come_from_the_service() {
    let node = served_by_one();
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.translation.end), (TO_B, Translated::Destination));
    assert_eq!((state.packet.destination, u16::from_be(state.packet.destination_port)), (v4(3), TARGET));
    assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(VIP), PORT));
    let (verdict, state) = answers(&node, B, 4000, SYN | ACK);
    assert_eq!((verdict, state.translation.end), (TO_A, Translated::Source));
    assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(VIP), PORT));
    assert_eq!(asks(&node, 4000, ACK), TO_B);
    check(&node, "services");
    let kept: Vec<u8> = node.tracked.kept().iter().map(|(_, flow)| flow.nat_kind.get()).collect();
    assert!(kept.len() == 2 && kept.contains(&NAT_LEADS) && kept.contains(&NAT_TRANSLATED), "{kept:?}");
    assert_eq!(node.tracked.accounts(), [(2, 2), (QUOTA_ALL, 2)].into(), "both entries are the client's");
    assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (TO_B, TO_A));
}

#[test]
fn what_is_at_a_loopback_address_is_for_the_node_itself_and_no_pod() {
    let mut node = served_by_one();
    let at = |address: Address| ServiceKey { address, ..key(PORT, 6) };
    node.services.insert(at(Address::from_v4([127, 0, 0, 1])), 1);
    let mut frame = tcp(A, VIP, (4000, PORT), SYN);
    frame[30..34].copy_from_slice(&[127, 0, 0, 1]);
    assert_eq!(node.pod_sends(2, &frame), Err(Unroutable));
    frame[30..34].copy_from_slice(&[127, 9, 0, 1]);
    assert_eq!(node.pod_sends(2, &frame), Err(Unroutable));
}

#[test]
fn new_flows_go_to_every_backend_and_a_flow_stays_where_it_is() {
    let node = served();
    let first: Vec<_> = (0..10).map(|port| asks(&node, 4000 + port, SYN)).collect();
    assert!(first.contains(&TO_B) && first.contains(&TO_C), "{first:?}");
    for turn in 0..3 {
        let again: Vec<_> = (0..10).map(|port| asks(&node, 4000 + port, SYN)).collect();
        assert_eq!(first, again, "pkt_73: a SYN that is sent again, {turn}");
    }
    let udp: Vec<_> = (0..10).map(|port| asks_udp(&node, 4000 + port)).collect();
    let again: Vec<_> = (0..10).map(|port| asks_udp(&node, 4000 + port)).collect();
    assert_eq!(udp, again);
    assert!(udp.contains(&TO_B) && udp.contains(&TO_C), "{udp:?}");
}

#[test]
fn policy_judges_the_backend_and_the_port_behind_the_service() {
    let mut node = served_by_one();
    node.change_ingress(3, SOME);
    assert_eq!(asks(&node, 4000, SYN), TO_B, "port 80 is let in");
    node.backends[1].port = 8080u16.to_be_bytes();
    assert_eq!(asks(&node, 4001, SYN), Err(IngressPolicy), "port 8080 is not");
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4002, 8080), SYN)), Err(IngressPolicy));
    node.backends[1].port = 80u16.to_be_bytes();
    node.change_ingress(3, 0);
    assert_eq!((asks(&node, 4000, SYN), asks(&node, 4000, ACK)), (Err(FlowRefused), Err(FlowRefused)));
}

#[test]
fn own_1_a_new_deny_cuts_a_connection_through_a_service_both_ways() {
    let mut node = served_by_one();
    connect(&node, 4000);
    node.change_ingress(3, 0);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (Err(FlowRefused), Err(FlowRefused)));
    node.change_ingress(3, ALLOW);
    assert_eq!(asks(&node, 4000, ACK), Err(FlowRefused), "until a new SYN");
    assert_eq!(asks(&node, 4000, SYN), TO_B);
}

#[test]
fn what_is_no_frontend_goes_where_it_is_sent() {
    let node = served();
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (4000, 444), SYN)), Ok(Verdict::ByRoute));
    assert_eq!(node.pod_sends(2, &icmp(A, VIP, 8, 1)), Ok(Verdict::ByRoute));
    assert_eq!(node.arrives(&tcp(OUTSIDE, VIP, (4000, PORT), SYN)), Ok(Verdict::Untouched), "not asked outside");
    let mut node = served();
    node.frontends[0].inside = Word::settled(0);
    assert_eq!(asks(&node, 4000, SYN), Ok(Verdict::ByRoute), "a node without services");
}

#[test]
fn pkt_35_a_service_without_backends_refuses_its_senders_and_nobody_in_anothers_name() {
    let mut node = served();
    node.balancers[1].len = 0;
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.slot, state.translation.is_silent), (Err(NoBackend), 2, false));
    assert_eq!(asks_udp(&node, 4000), Err(NoBackend));
    assert_eq!(node.pod_sends(2, &tcp((2, 3), VIP, (4000, PORT), SYN)), Err(Spoofed));
    assert!(node.flows().is_empty());
    node.balancers[1].flags = BALANCER_SILENT;
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.translation.is_silent), (Err(NoBackend), true));
}

#[test]
fn each_packet_sees_the_services_of_its_own_generation() {
    let mut node = served();
    // From generation 6 on C alone; until then B alone.
    node.members.extend([2, 1].map(|backend| Member { backend, pad: 0 }));
    node.balancers = [0, 0, 2, 3].map(|offset| Balancer { of: OF, offset, len: 1, ..Balancer::default() }).into();
    node.frontends[1].inside = Word::changing(3, 2, 6);
    node.backends[1].standing = Word::changing(STANDS, 0, 6);
    node.backends[2].standing = Word::changing(0, STANDS, 6);
    connect(&node, 4000);
    node.generation.set(6);
    assert_eq!(asks(&node, 4000, ACK), Err(BackendGone));
    assert_eq!(asks(&node, 4001, SYN), TO_C);
    node.frontends[1].inside = Word::changing(2, 0, 7);
    assert_eq!(asks(&node, 4002, SYN), TO_C);
    node.generation.set(7);
    assert_eq!(asks(&node, 4003, SYN), Ok(Verdict::ByRoute), "the service is gone");
    assert_eq!(asks(&node, 4000, SYN), Ok(Verdict::ByRoute), "for who asked it before as well");
}

#[test]
fn pkt_26_pieces_of_a_datagram_go_where_the_first_went_and_come_back_as_the_services() {
    let node = served();
    let piece = |from: (u32, u8), to: u8, offset: u8, ports: [u16; 2]| {
        let mut frame = udp(from, to, (ports[0], ports[1]));
        (frame[18], frame[19], frame[20], frame[21]) = (9, from.1, if offset == 0 { 0x20 } else { 0 }, offset);
        frame
    };
    let mut seen = Vec::new();
    for port in 4000..4010 {
        let first = node.pod_sends(2, &piece(A, VIP, 0, [port, PORT]));
        let (rest, state) = node.run(Hook::FromWorkload, 2, 2, &piece(A, VIP, 1, [0xffff, 0xffff]));
        assert_eq!((first, state.translation.end), (rest, Translated::Destination), "port {port}");
        seen.push(first);
        let from = if first == TO_B { B } else { C };
        assert_eq!(node.pod_sends(from.0, &piece(from, 2, 0, [TARGET, port])), TO_A);
        let (rest, state) = node.run(Hook::FromWorkload, from.0, from.0, &piece(from, 2, 1, [9, 9]));
        assert_eq!((rest, state.translation.end, state.translation.frontend), (TO_A, Translated::Source, v4(VIP)));
    }
    assert!(seen.contains(&TO_B) && seen.contains(&TO_C));
}

#[test]
fn a_backend_elsewhere_answers_by_the_uplink_and_nobody_there_speaks_for_the_service() {
    let mut node = served_by_one();
    node.backends[1].address = v4(200);
    assert_eq!(asks(&node, 4000, SYN), Ok(Verdict::ByRoute));
    let arrives = |frame: &[u8]| node.run(Hook::FromUplink, 9, 9, frame);
    let (verdict, state) = arrives(&tcp(OUTSIDE, 2, (TARGET, 4000), SYN | ACK));
    assert_eq!((verdict, state.translation.end, state.translation.frontend), (TO_A, Translated::Source, v4(VIP)));
    assert_eq!(asks(&node, 4000, ACK), Ok(Verdict::ByRoute));
    let (verdict, state) = arrives(&tcp((0, VIP), 2, (PORT, 4000), ACK));
    assert_eq!((verdict, state.slot), (Err(NoFlow), 2));
    assert_eq!(asks(&node, 4000, ACK), Ok(Verdict::ByRoute));
}

#[test]
fn what_the_stack_carries_to_the_client_is_the_services_already_and_is_not_translated_twice() {
    let node = served_by_one();
    connect(&node, 4000);
    let (verdict, state) = node.run(Hook::ToWorkload, 2, 3, &tcp((3, VIP), 2, (PORT, 4000), ACK));
    assert_eq!((verdict, state.translation.end), (TO_A, Translated::Before));
    let forged = node.run(Hook::ToWorkload, 2, 4, &tcp((3, VIP), 2, (PORT, 4000), ACK)).0;
    assert_eq!(forged, Err(SourceIsLocal), "by another pod's interface");
    let (verdict, state) = node.run(Hook::ToWorkload, 3, 2, &tcp(A, 3, (4000, TARGET), ACK));
    assert_eq!((verdict, state.translation.end), (TO_B, Translated::Nothing));
}

#[test]
fn a_dry_run_sees_what_the_packet_would_and_leaves_no_trace() {
    let mut node = served();
    node.balancers[1].affinity_s = 100;
    let dry = |frame: &[u8]| {
        let arrival = Arrival { ifindex: 2, ingress_ifindex: 2, ..Arrival::default() };
        let mut state = State::default();
        (walk(Hook::FromWorkload, &Twin(&node), &Bytes(frame), &arrival, &mut state), state)
    };
    let (verdict, state) = dry(&tcp(A, VIP, (4000, PORT), SYN));
    assert!((verdict == TO_B || verdict == TO_C) && state.translation.end == Translated::Destination);
    assert!(node.flows().is_empty() && node.affinity.borrow().is_empty());
    let first = asks(&node, 4000, SYN);
    assert_eq!(dry(&tcp(A, VIP, (4000, PORT), SYN)).0, first);
    assert_eq!(dry(&tcp(A, VIP, (4001, PORT), SYN)).0, first, "the client's own backend");
}

#[test]
fn other_protocols_to_a_services_address_are_none_of_its() {
    let node = served();
    assert_eq!(node.pod_sends(2, &ipv4(A, VIP, 132, &[0; 12])), Ok(Verdict::ByRoute));
    assert_eq!(Address::default(), node.backends[0].address);
}
