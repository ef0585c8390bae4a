//! Floating addresses as a specification: an address of which every protocol and port leads to one pod.
//! In: the node of `spec`, an address that floats to B. Out: verdicts, entries, who is seen where.
//! Invariant: every row says what a user or an attacker would see; before each packet the twin says the same.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::announce::ANNOUNCED_ENDPOINT;
use abi::conntrack::{CT_HOST_OPENED, NAT_LEADS, NAT_TRANSLATED, QUOTA_ALL};
use abi::endpoint::SLOT_HOST;
use abi::service::{FRONTENDS_FLOATING, FRONTENDS_PORTS};
use abi::{Announcing, Backend, Balancer, Frontend, Member, ServiceKey, Word};

use crate::accounts::check;
use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, UPLINK, icmp, ipv4, tcp, udp, v4};
use crate::led::{COMES, PRE_DNAT, change, gated};
use crate::outside::{OUT, UNTOUCHED};
use crate::services::{OF, PORT, STANDS, TARGET, TO_C, VIP, served_by_one};
use crate::tables::Arrival;
use crate::tracking::{A, ACK, B, FIN, OUTSIDE, RST, SYN, TO_A, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

type Fate = Result<Verdict, DropReason>;

/// The address that floats.
pub(crate) const FLOAT: u8 = 77;
/// A protocol without ports.
const GRE: u8 = 47;
const HOST: (u32, u8) = (0, 1);

/// Has .77 float to the pod at an address.
fn float(mut node: Node, to: u8) -> Node {
    let (slot, id) = (node.frontends.len() as u32, node.balancers.len().max(1) as u32);
    let (backend, offset) = (node.backends.len().max(1) as u32, node.members.len() as u32);
    let Frontend { inside, outside } = &mut node.frontends[0];
    for side in [inside, outside] {
        *side = Word::settled(side.new() | FRONTENDS_FLOATING);
    }
    node.services.insert(ServiceKey::floating(v4(FLOAT)), slot);
    node.frontends.push(Frontend { inside: Word::settled(id), outside: Word::settled(id) });
    node.balancers.resize(id as usize, Balancer::default());
    node.balancers.push(Balancer { of: OF + 1, offset, len: 1, ..Balancer::default() });
    node.members.push(Member { backend, pad: 0 });
    node.backends.resize(backend as usize, Backend::default());
    let standing = Word::settled(STANDS);
    node.backends.push(Backend { standing, address: v4(to), of: OF + 1, born: 1, port: [0; 2], pad: [0; 2] });
    node
}

pub(crate) fn to_b() -> Node {
    float(Node::new(), 3)
}

/// Through a hook; the twin has to say the same, and to write nothing.
fn by(node: &Node, hook: Hook, (ifindex, ingress_ifindex): (u32, u32), frame: &[u8]) -> (Fate, State) {
    let arrival = Arrival { ifindex, ingress_ifindex, ..Arrival::default() };
    let told = walk(hook, &Twin(node), &Bytes(frame), &arrival, &mut State::default());
    let (fate, state) = node.run_from(hook, &arrival, frame);
    assert_eq!(told, fate, "the twin at {hook:?}");
    (fate, state)
}

fn pod(node: &Node, slot: u32, frame: &[u8]) -> (Fate, State) {
    by(node, Hook::FromWorkload, (slot, slot), frame)
}

fn comes(node: &Node, frame: &[u8]) -> (Fate, State) {
    by(node, Hook::FromUplink, (UPLINK, UPLINK), frame)
}

fn host(node: &Node, frame: &[u8]) -> (Fate, State) {
    by(node, Hook::ToWorkload, (3, 0), frame)
}

/// The messages of every protocol: what is asked, and what is answered.
fn messages(from: (u32, u8), to: u8, is_answer: bool) -> Vec<Vec<u8>> {
    let (ports, flags): ((u16, u16), u8) = if is_answer { ((80, 4000), SYN | ACK) } else { ((4000, 80), SYN) };
    let bare = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0; 2], [0; 2], [0; 2], [0; 2]].concat();
    vec![
        tcp(from, to, ports, flags),
        udp(from, to, ports),
        icmp(from, to, if is_answer { 0 } else { 8 }, 9),
        ipv4(from, to, 132, &bare),
        ipv4(from, to, 136, &bare),
        ipv4(from, to, GRE, &[0; 4]),
    ]
}

/// How somebody's packet comes to the node.
type Sends = fn(&Node, &[u8]) -> (Fate, State);

#[test]
fn spf_4_what_is_sent_to_a_floating_address_goes_to_its_pod_whatever_the_protocol_and_is_answered_in_its_name() {
    let node = to_b();
    let clients: [((u32, u8), Sends, Fate); 3] =
        [(A, |node, frame| pod(node, 2, frame), TO_A), (OUTSIDE, comes, OUT), (HOST, host, Ok(Verdict::ToHost))];
    for (client, sends, back) in clients {
        for (asks, answers) in messages(client, FLOAT, false).iter().zip(messages(B, client.1, true)) {
            for turn in 0..3 {
                let (verdict, state) = sends(&node, asks);
                assert_eq!((verdict, state.translation.end), (TO_B, Translated::Destination), "{client:?}, {turn}");
                assert_eq!((state.packet.source, state.packet.destination), (v4(client.1), v4(3)));
                assert_eq!(state.translation.frontend, v4(FLOAT));
                let (port, detail) = (state.packet.destination_port, state.packet.detail);
                let wanted = match state.packet.protocol {
                    1 => (9, 8 << 8),
                    GRE => (0, 0),
                    _ => (80, 80),
                };
                assert_eq!((u16::from_be(port), detail), wanted, "ports stay as they are");
                let (verdict, state) = pod(&node, 3, &answers);
                assert_eq!((verdict, state.translation.end), (back, Translated::Source), "{client:?}, {turn}");
                assert_eq!((state.translation.frontend, state.translation.port), (v4(FLOAT), state.packet.source_port));
            }
        }
    }
    check(&node, "floating");
    let kinds: Vec<u8> = node.tracked.kept().iter().map(|(_, flow)| flow.nat_kind.get()).collect();
    let of = |kind| kinds.iter().filter(|known| **known == kind).count();
    // All but those of TCP, of which nobody has said more than a first word.
    assert_eq!((of(NAT_LEADS), of(NAT_TRANSLATED), kinds.len()), (15, 15, 30));
    assert_eq!(node.tracked.accounts()[&QUOTA_ALL], 30);
    assert_eq!(node.tracked.accounts()[&SLOT_HOST], 10, "what the node opened is on its own account");
    later(&node, 5000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn spf_4_ingress_rules_are_asked_about_the_pod_and_its_port_and_the_nodes_own_packets_are_let_in() {
    let mut node = to_b();
    node.change_ingress(3, SOME);
    let asks = |port| tcp(A, FLOAT, (4000, port), SYN);
    assert_eq!((pod(&node, 2, &asks(80)).0, pod(&node, 2, &asks(8080)).0), (TO_B, Err(IngressPolicy)));
    let from_outside = |port| tcp(OUTSIDE, FLOAT, (4000, port), SYN);
    assert_eq!((comes(&node, &from_outside(80)).0, comes(&node, &from_outside(8080)).0), (TO_B, Err(IngressPolicy)));
    assert_eq!(comes(&node, &icmp(OUTSIDE, FLOAT, 8, 1)).0, TO_B, "an echo request is what it is to rules");
    assert_eq!(comes(&node, &icmp(OUTSIDE, FLOAT, 13, 1)).0, Err(IngressPolicy));
    assert_eq!(comes(&node, &ipv4(OUTSIDE, FLOAT, GRE, &[0; 4])).0, Err(IngressPolicy));
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (5, 8080), SYN)).0, TO_B);
    let forwarded = by(&node, Hook::ToWorkload, (3, 8), &tcp(OUTSIDE, FLOAT, (5, 8080), SYN)).0;
    assert_eq!(forwarded, Err(IngressPolicy), "what came by another interface is no packet of the node's own");
    assert_eq!(by(&node, Hook::ToWorkload, (3, 8), &tcp(OUTSIDE, FLOAT, (5, 80), SYN)).0, TO_B);
    let forged = by(&node, Hook::ToWorkload, (3, 8), &tcp((2, 2), FLOAT, (5, 80), SYN)).0;
    assert_eq!(forged, Err(SourceIsLocal));
    node.change_ingress(3, 0);
    let cut = (pod(&node, 2, &tcp(A, FLOAT, (4000, 80), ACK)).0, comes(&node, &tcp(OUTSIDE, FLOAT, (4000, 80), ACK)).0);
    assert_eq!(cut, (Err(FlowRefused), Err(FlowRefused)), "a new deny cuts what is there");
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (5, 8080), ACK)).0, TO_B, "and nothing of the node's own");
    assert_eq!(comes(&node, &tcp((0, 2), FLOAT, (1, 80), SYN)).0, Err(SourceIsLocal));
    assert_eq!(pod(&node, 2, &tcp((2, 9), FLOAT, (1, 80), SYN)).0, Err(Spoofed));
}

#[test]
fn spf_4_a_pod_that_asks_its_own_floating_address_hears_itself_under_it() {
    let node = float(Node::new(), 2);
    for (asks, answers) in messages(A, FLOAT, false).iter().zip(messages(A, FLOAT, true)) {
        for turn in 0..3 {
            for (frame, is_answer) in [(asks, false), (&answers, true)] {
                let (verdict, state) = pod(&node, 2, frame);
                assert_eq!((verdict, state.translation.sends_back()), (TO_A, true), "{turn}, answer {is_answer}");
                let seen = (state.translation.frontend, state.translation.end);
                // Without ports, who asks and who answers send the same.
                let is_asked = !is_answer && (state.packet.protocol != GRE || turn == 0);
                let end = if is_asked { Translated::Destination } else { Translated::Source };
                assert_eq!(seen, (v4(FLOAT), end), "{turn}, answer {is_answer}");
            }
        }
    }
    check(&node, "to itself");
    later(&node, 5000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn spf_4_what_the_pod_opens_itself_keeps_its_own_address() {
    let node = to_b();
    for frame in messages(B, 200, false) {
        let (verdict, state) = pod(&node, 3, &frame);
        assert_eq!((verdict, state.translation.end), (OUT, Translated::Nothing));
    }
    for frame in messages(OUTSIDE, 3, true) {
        let (verdict, state) = comes(&node, &frame);
        assert_eq!((verdict, state.translation.end), (TO_B, Translated::Nothing));
    }
    assert_eq!(pod(&node, 3, &tcp((3, FLOAT), 200, (1, 2), SYN)).0, Err(Spoofed), "it is no address of its own");
}

#[test]
fn a_port_of_a_service_at_that_address_comes_first_and_other_addresses_go_where_they_went() {
    let mut node = float(served_by_one(), 4);
    assert_eq!(pod(&node, 2, &tcp(A, FLOAT, (4000, PORT), SYN)).0, TO_C);
    node.services.insert(ServiceKey { address: v4(FLOAT), ..crate::services::key(PORT, 6) }, 1);
    assert_eq!(pod(&node, 2, &tcp(A, FLOAT, (4001, PORT), SYN)).0, TO_B);
    assert_eq!(pod(&node, 2, &tcp(A, VIP, (4002, PORT), SYN)).0, TO_B);
    let others = [tcp(A, VIP, (1, PORT + 1), SYN), icmp(A, VIP, 8, 1), ipv4(A, FLOAT + 1, GRE, &[0; 4])];
    assert_eq!(others.map(|frame| pod(&node, 2, &frame).0), [OUT; 3]);
    assert_eq!(comes(&node, &tcp(OUTSIDE, FLOAT + 1, (1, 2), SYN)).0, UNTOUCHED);
    node.frontends[0].inside = Word::settled(FRONTENDS_PORTS);
    assert_eq!(pod(&node, 2, &tcp(A, FLOAT, (4003, 1), SYN)).0, OUT, "a node without any");
    assert_eq!(comes(&node, &tcp(OUTSIDE, FLOAT, (4003, TARGET), SYN)).0, TO_C, "those are for who is inside");
    // At a pod's own interface nobody is sent on to another.
    let vip = by(&node, Hook::ToWorkload, (3, 0), &tcp(HOST, VIP, (1, PORT), SYN)).0;
    assert_eq!(vip, Err(NoEndpoint));
    assert_eq!(by(&node, Hook::ToWorkload, (3, 0), &tcp(HOST, FLOAT, (1, 1), SYN)).0, Err(NoEndpoint));
}

#[test]
fn spf_4_flows_end_with_the_pod_and_nobody_else_is_reached_by_them() {
    let mut node = to_b();
    let (syn, ack) = (tcp(OUTSIDE, FLOAT, (4000, 80), SYN), tcp(OUTSIDE, FLOAT, (4000, 80), ACK));
    assert_eq!(comes(&node, &syn).0, TO_B);
    assert_eq!(comes(&node, &tcp(OUTSIDE, FLOAT, (4001, 80), ACK)).0, Err(BackendGone), "nobody knows it");
    assert_eq!(comes(&node, &tcp(OUTSIDE, FLOAT, (4001, 80), RST)).0, UNTOUCHED);
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (4001, 80), ACK)).0, Err(BackendGone));
    node.backends[1].standing = Word::settled(0);
    node.frontends[1] = Frontend { inside: Word::settled(0), outside: Word::settled(0) };
    assert_eq!((comes(&node, &ack).0, pod(&node, 2, &tcp(A, FLOAT, (1, 80), SYN)).0), (UNTOUCHED, OUT));
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (1, 80), SYN)).0, Err(NoEndpoint));
    // Another pod has the address from then on.
    node.generation.set(9);
    let standing = Word::settled(STANDS);
    node.backends[1] = Backend { standing, address: v4(2), of: OF + 1, born: 9, ..Backend::default() };
    node.frontends[1] = Frontend { inside: Word::settled(1), outside: Word::settled(1) };
    assert_eq!((comes(&node, &ack).0, comes(&node, &syn).0), (Err(BackendGone), TO_A));
}

#[test]
fn who_speaks_to_the_pod_itself_by_the_ports_of_a_flow_to_its_floating_address_is_refused() {
    let node = to_b();
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (4000, 80), SYN)).0, TO_B);
    let (verdict, state) = host(&node, &tcp(HOST, 3, (4000, 80), SYN));
    assert_eq!((verdict, state.slot), (Err(NatCollision), 3));
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (4000, 80), ACK)).0, TO_B);
    assert_eq!(host(&node, &tcp(HOST, 3, (4001, 80), SYN)).0, TO_B);
    assert_eq!(host(&node, &tcp(HOST, FLOAT, (4001, 80), SYN)).0, Err(NatCollision));
    assert_eq!(host(&node, &tcp(HOST, 3, (4001, 80), FIN | ACK)).0, TO_B);
    let echo = |to| icmp(OUTSIDE, to, 8, 5);
    assert_eq!([FLOAT, 3, FLOAT].map(|to| comes(&node, &echo(to)).0), [TO_B, Err(NatCollision), TO_B]);
}

#[test]
fn pkt_26_pieces_follow_their_first() {
    let node = to_b();
    let piece = |from: (u32, u8), to: u8, offset: u8, message: &[u8]| {
        let mut frame = ipv4(from, to, 1, message);
        (frame[18], frame[19], frame[20], frame[21]) = (9, from.1, if offset == 0 { 0x20 } else { 0 }, offset);
        frame
    };
    let (echo, data) = ([8, 0, 0, 0, 0, 9, 0, 0], [0xff; 8]);
    let clients: [((u32, u8), Sends); 3] = [(A, |node, frame| pod(node, 2, frame)), (OUTSIDE, comes), (HOST, host)];
    for (client, sends) in clients {
        for (offset, bytes) in [(0, &echo), (1, &data)] {
            let (verdict, state) = sends(&node, &piece(client, FLOAT, offset, bytes));
            assert_eq!((verdict, state.translation.end), (TO_B, Translated::Destination), "{client:?} {offset}");
        }
        for (offset, bytes) in [(0, &[0, 0, 0, 0, 0, 9, 0, 0]), (1, &data)] {
            let (_, state) = pod(&node, 3, &piece(B, client.1, offset, bytes));
            assert_eq!((state.translation.end, state.translation.frontend), (Translated::Source, v4(FLOAT)));
        }
    }
}

#[test]
fn pkt_31_errors_are_about_what_their_receiver_sent_in_both_directions() {
    let error = |from, to, about: &[u8]| ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat());
    let node = to_b();
    for what in ["an echo request", "a datagram"] {
        let sent = |from, to| if what == "a datagram" { udp(from, to, (5, 5)) } else { icmp(from, to, 8, 5) };
        for (client, to_client) in [(A, TO_A), (OUTSIDE, OUT), (HOST, Ok(Verdict::ToHost))] {
            let sends = |frame: &[u8]| match client {
                A => pod(&node, 2, frame),
                OUTSIDE => comes(&node, frame),
                _ => host(&node, frame),
            };
            assert_eq!(sends(&sent(client, FLOAT)).0, TO_B, "{what}");
            // The pod complains about the question: it quotes itself, and the client hears of what it wrote.
            let (verdict, state) = pod(&node, 3, &error(B, client.1, &sent(client, 3)));
            let seen = (verdict, state.translation.end, state.translation.frontend);
            assert_eq!(seen, (to_client, Translated::QuotedDestination, v4(FLOAT)), "{what}, {client:?}");
            // The client about the answer.
            let (verdict, state) = sends(&error(client, FLOAT, &sent((0, FLOAT), client.1)));
            assert_eq!((verdict, state.translation.end), (TO_B, Translated::QuotedSource), "{what}, {client:?}");
            assert_eq!((state.packet.destination, state.translation.port), (v4(3), state.quoted.source_port));
        }
    }
    let unasked = error(OUTSIDE, FLOAT, &udp((0, FLOAT), 200, (6, 6)));
    assert_eq!(comes(&node, &unasked).0, UNTOUCHED, "about nothing that was sent");
}

#[test]
fn hep_9_the_uplinks_gate_asks_before_translation_about_the_floating_address_and_the_rest_about_the_pod() {
    let through = |node: &Node, frame: &[u8]| {
        let (fate, state) = crate::led::by(node, Hook::FromHostEndpoint, &COMES, frame);
        let words =
            if state.translation.end == Translated::Ahead { abi::handover::to_cb_ahead } else { abi::handover::to_cb };
        match fate {
            Ok(Verdict::Through) => {
                let arrival = Arrival { handed: words(state.generation), ..COMES };
                crate::led::by(node, Hook::FromUplink, &arrival, frame).0
            }
            _ => fate,
        }
    };
    let mut node = float(gated([ALLOW, ALLOW]), 3);
    for frame in messages(OUTSIDE, FLOAT, false) {
        assert_eq!(through(&node, &frame), TO_B);
    }
    let error = ipv4(OUTSIDE, FLOAT, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &udp((0, FLOAT), 200, (80, 4000))[14..]].concat());
    assert_eq!(through(&node, &error), TO_B, "an error about what it answered");
    change(&mut node, crate::led::LOCAL + 1, SOME);
    assert_eq!(through(&node, &tcp(OUTSIDE, FLOAT, (1, 80), SYN)), TO_B);
    assert_eq!(through(&node, &tcp(OUTSIDE, FLOAT, (1, 8080), SYN)), Err(HostEndpoint));
    assert_eq!(through(&node, &icmp(OUTSIDE, FLOAT, 8, 77)), TO_B);
    assert_eq!(through(&node, &icmp(OUTSIDE, FLOAT, 13, 78)), Err(HostEndpoint));
    node.endpoints[crate::led::LOCAL as usize].layers.pre_dnat = PRE_DNAT;
    change(&mut node, PRE_DNAT, 0);
    assert_eq!(through(&node, &icmp(OUTSIDE, FLOAT, 8, 79)), Err(HostEndpoint));
}

#[test]
fn a_floating_address_is_answered_for_while_it_floats() {
    let mut node = to_b();
    node.announced.announcing = Announcing { until_ns: 0, ifindex: UPLINK, mac: [2; 6], pad: [0; 6] };
    node.announced.addresses.insert(v4(FLOAT), ANNOUNCED_ENDPOINT);
    let mut ask = [0; 42];
    ask[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    ask[28..32].copy_from_slice(&[10, 65, 0, 200]);
    ask[38..42].copy_from_slice(&[10, 65, 0, FLOAT]);
    let arrival = Arrival { ifindex: UPLINK, ingress_ifindex: UPLINK, foreign: true, ..Arrival::default() };
    let answered = |node: &Node| node.run_from(Hook::FromUplink, &arrival, &ask).0;
    assert_eq!(answered(&node), Ok(Verdict::AnswerArp));
    node.frontends[1].outside = Word::changing(1, 0, 6);
    assert_eq!(answered(&node), Ok(Verdict::AnswerArp), "until the next revision");
    node.generation.set(6);
    assert_eq!(answered(&node), UNTOUCHED);
    node.services.clear();
    assert_eq!(answered(&node), UNTOUCHED);
}

#[test]
fn what_the_node_opened_is_known_as_its_own() {
    let node = to_b();
    assert_eq!(host(&node, &icmp(HOST, FLOAT, 8, 1)).0, TO_B);
    let flags: Vec<u8> = node.flows().iter().map(|(_, flow)| flow.flags.get() & CT_HOST_OPENED).collect();
    assert_eq!(flags, [CT_HOST_OPENED; 2], "the flow, and what leads to it");
}
