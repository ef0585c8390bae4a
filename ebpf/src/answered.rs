//! Processes of this node behind a service, asked from outside, as a specification: what the stack gets, and how its answers leave.
//! In: the node of `outside`, with an address of its own behind the service. Out: verdicts, translations, entries.
//! Invariant: every row says what a user or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::conntrack::QUOTA_ALL;
use abi::endpoint::{ENDPOINT_KEEP_ESTABLISHED, SLOT_HOST};
use abi::service::BACKEND_LISTED;
use abi::{Word, handover};
use std::vec::Vec;

use crate::accounts::check;
use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, UPLINK, ipv4, tcp, udp, v4};
use crate::gates::{FORWARD, HOST, LOCAL, NOTHING, PASSES, REFUSED, change, forwarding, goes_out};
use crate::outside::{UNTOUCHED, open_by_one};
use crate::services::{PORT, STANDS, TARGET, VIP, backend};
use crate::tables::Arrival;
use crate::tracking::{ACK, B, FIN, OUTSIDE, RST, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};

type Fate = Result<Verdict, DropReason>;
const UP: Fate = Ok(Verdict::ToHost);

/// A process of the node's behind the service, at 80; the frontend at `at`.
fn open_at(mut node: Node, at: u8) -> Node {
    let other = open_by_one();
    (node.frontends, node.members, node.balancers) = (other.frontends, other.members, other.balancers);
    node.services =
        other.services.into_iter().map(|(key, slot)| (abi::ServiceKey { address: v4(at), ..key }, slot)).collect();
    node.backends = other.backends;
    node.backends[1] = backend(1, STANDS);
    node
}

fn open() -> Node {
    open_at(Node::new(), VIP)
}

/// The same, with rules (ingress) in the local layer of a gate at the uplink, and nothing let through its forward layer.
fn guarded(ingress: u32) -> Node {
    let mut node = open_at(forwarding([ingress, NOTHING], [NOTHING, NOTHING]), VIP);
    node.endpoints[SLOT_HOST as usize].layers.uplink = LOCAL;
    node
}

fn at(node: &Node, hook: Hook, ingress_ifindex: u32, frame: &[u8]) -> (Fate, State) {
    let arrival = Arrival { ifindex: UPLINK, ingress_ifindex, ethertype: 0x0800, ..Arrival::default() };
    let told = walk(hook, &Twin(node), &Bytes(frame), &arrival, &mut State::default());
    let (fate, state) = node.run_from(hook, &arrival, frame);
    assert_eq!(told, fate, "the twin");
    (fate, state)
}

fn comes(node: &Node, frame: &[u8]) -> (Fate, State) {
    at(node, Hook::FromUplink, UPLINK, frame)
}

fn leaves(node: &Node, frame: &[u8]) -> (Fate, State) {
    at(node, Hook::ToUplink, 0, frame)
}

fn asks(node: &Node, port: u16, flags: u8) -> Fate {
    comes(node, &tcp(OUTSIDE, VIP, (port, PORT), flags)).0
}

fn answers(node: &Node, port: u16, flags: u8) -> Fate {
    leaves(node, &tcp(HOST, 200, (TARGET, port), flags)).0
}

fn connect(node: &Node, port: u16) {
    assert_eq!((asks(node, port, SYN), answers(node, port, SYN | ACK), asks(node, port, ACK)), (UP, PASSES, UP));
}

#[test]
fn a_process_of_the_node_is_asked_as_the_backend_and_answers_as_the_service() {
    for at in [VIP, 1] {
        let node = open_at(Node::new(), at);
        for flags in [SYN, SYN, ACK, FIN | ACK] {
            let (fate, state) = comes(&node, &tcp(OUTSIDE, at, (4000, PORT), flags));
            assert_eq!((fate, state.translation.end), (UP, Translated::Destination));
            assert_eq!((state.packet.source, state.packet.destination, state.packet.detail), (v4(200), v4(1), TARGET));
            let (fate, state) =
                leaves(&node, &tcp(HOST, 200, (TARGET, 4000), if flags == SYN { SYN | ACK } else { flags }));
            assert_eq!((fate, state.translation.end), (PASSES, Translated::Source));
            assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(at), PORT));
        }
        let (fate, state) = comes(&node, &udp(OUTSIDE, at, (4000, PORT)));
        assert_eq!((fate, state.packet.destination, state.packet.detail), (UP, v4(1), TARGET));
        let (fate, state) = leaves(&node, &udp(HOST, 200, (TARGET, 4000)));
        assert_eq!((fate, u16::from_be(state.translation.port)), (PASSES, PORT));
        assert_eq!(comes(&node, &udp(OUTSIDE, at, (4000, PORT))).0, UP);
        check(&node, "asked from outside");
        assert_eq!(node.tracked.accounts(), [(SLOT_HOST, 4), (QUOTA_ALL, 4)].into(), "all are the node's");
        later(&node, 4000);
        node.cursor_goes_round();
        node.cursor_goes_round();
        assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
    }
}

#[test]
fn what_the_node_sends_otherwise_leaves_as_it_is() {
    let node = open();
    connect(&node, 4000);
    let flows = node.flows().len();
    let others = [
        tcp(HOST, 200, (TARGET, 4001), ACK),
        tcp(HOST, 200, (81, 4000), ACK),
        tcp(HOST, 201, (TARGET, 4000), ACK),
        tcp((9, 5), 200, (TARGET, 4000), ACK),
        udp(HOST, 200, (TARGET, 4000)),
        tcp(HOST, 200, (5, 443), SYN),
        ipv4(HOST, 200, 6, &[0; 3]),
        b"no frame".to_vec(),
    ];
    for frame in others {
        assert_eq!(leaves(&node, &frame).0, UNTOUCHED, "{frame:?}");
    }
    // What this node forwards was translated where it came in, or is nobody's; so are frames of a VLAN.
    let answer = tcp(HOST, 200, (TARGET, 4000), ACK);
    assert_eq!(at(&node, Hook::ToUplink, 2, &answer).0, UNTOUCHED);
    let vlan = Arrival { ifindex: UPLINK, vlan: true, ..Arrival::default() };
    assert_eq!(node.run_from(Hook::ToUplink, &vlan, &answer).0, UNTOUCHED);
    assert_eq!(node.flows().len(), flows);
}

#[test]
fn a_pods_flow_from_outside_is_no_cover_for_what_the_node_sends_nor_the_nodes_for_a_pod() {
    let node = open_by_one();
    assert_eq!(comes(&node, &tcp(OUTSIDE, VIP, (4000, PORT), SYN)).0, TO_B);
    assert_eq!(leaves(&node, &tcp((9, 3), 200, (TARGET, 4000), ACK)).0, UNTOUCHED);
    let node = open();
    connect(&node, 4000);
    assert_eq!(node.pod_sends(3, &tcp((3, 1), 200, (TARGET, 4000), ACK)), Err(Spoofed));
    assert_eq!(node.pod_sends(3, &tcp(B, 200, (TARGET, 4000), ACK)), Err(NoFlow));
}

#[test]
fn spf_1_nobody_asks_a_process_in_the_name_of_this_node_or_of_a_pod() {
    let node = open();
    for from in [1, 2, 3] {
        assert_eq!(comes(&node, &tcp((0, from), VIP, (4000, PORT), SYN)).0, Err(SourceIsLocal), "from {from}");
        assert_eq!(comes(&node, &udp((0, from), VIP, (4000, PORT))).0, Err(SourceIsLocal), "from {from}");
    }
    assert!(node.flows().is_empty());
}

#[test]
fn who_asks_the_process_itself_by_the_same_ports_is_not_mixed_up_with_who_asks_the_service() {
    let node = open();
    assert_eq!(comes(&node, &tcp(OUTSIDE, 1, (4001, TARGET), SYN)).0, UNTOUCHED, "no service's");
    connect(&node, 4000);
    assert_eq!(comes(&node, &tcp(OUTSIDE, 1, (4000, TARGET), SYN)).0, Err(NatCollision));
    assert_eq!(comes(&node, &tcp(OUTSIDE, 1, (4000, TARGET), ACK)).0, Err(NatCollision));
    assert_eq!(asks(&node, 4000, ACK), UP);
}

#[test]
fn the_flows_of_a_process_that_is_gone_end_and_those_of_one_that_is_only_not_chosen_live_on() {
    let mut node = open();
    connect(&node, 4000);
    node.backends[1].standing = Word::settled(BACKEND_LISTED);
    node.members[0].backend = 2;
    assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (UP, PASSES));
    node.backends[1].standing = Word::settled(0);
    assert_eq!(asks(&node, 4000, ACK), Err(BackendGone));
}

#[test]
fn hep_1_hep_2_the_uplinks_host_endpoint_is_asked_about_the_process_and_a_new_deny_cuts_the_flow_both_ways() {
    let mut node = guarded(SOME);
    connect(&node, 4000);
    node.backends[1].port = 8080u16.to_be_bytes();
    let (fate, state) = comes(&node, &tcp(OUTSIDE, VIP, (4001, PORT), SYN));
    assert_eq!((fate, state.slot), (Err(HostEndpoint), LOCAL), "8080 is not let in");
    node.backends[1].port = TARGET.to_be_bytes();
    change(&mut node, LOCAL, [NOTHING, NOTHING]);
    assert_eq!(answers(&node, 4000, ACK), Err(FlowRefused), "also where the client is silent");
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, SYN)), (Err(FlowRefused), Err(HostEndpoint)));
    change(&mut node, LOCAL, [ALLOW, NOTHING]);
    assert_eq!(asks(&node, 4000, ACK), Err(FlowRefused));
    connect(&node, 4000);
    change(&mut node, LOCAL, [SOME, NOTHING]);
    assert_eq!((answers(&node, 4000, ACK), asks(&node, 4000, ACK)), (PASSES, UP), "judged again, and allowed");
}

#[test]
fn hep_12_an_answer_in_a_services_name_passes_the_uplinks_gate_and_nothing_else_by_it() {
    let node = guarded(SOME);
    let leaves = |from: u8, ports, flags| goes_out(&node, &tcp((9, from), 200, ports, flags));
    assert_eq!(leaves(VIP, (PORT, 4000), SYN | ACK), REFUSED);
    connect(&node, 4000);
    for flags in [SYN | ACK, ACK, RST | ACK] {
        assert_eq!(leaves(VIP, (PORT, 4000), flags), PASSES);
    }
    let other = [leaves(VIP, (PORT, 4001), ACK), leaves(1, (TARGET, 4000), ACK), leaves(1, (PORT, 4000), ACK)];
    assert_eq!(other, [REFUSED; 3]);
    let forwarded = Arrival { ifindex: UPLINK, ingress_ifindex: 2, ethertype: 0x0800, ..Arrival::default() };
    let answer = tcp((9, VIP), 200, (PORT, 4000), ACK);
    assert_eq!(node.run_from(Hook::ToHostEndpoint, &forwarded, &answer).0, REFUSED, "a pod's, under that address");
    assert_eq!(goes_out(&node, &tcp((9, 200), VIP, (4000, PORT), ACK)), REFUSED, "the other way");
    // Where a pod answers, the node does not in its place.
    let mut node = guarded(SOME);
    node.backends[1] = backend(3, STANDS);
    node.endpoints[FORWARD as usize].ingress = Word::settled(ALLOW);
    assert_eq!(asks(&node, 4000, SYN), TO_B);
    assert_eq!(goes_out(&node, &tcp((9, VIP), 200, (PORT, 4000), SYN | ACK)), REFUSED);
}

#[test]
fn own_1_hep_6_what_is_forwarded_says_nothing_of_a_process_and_flows_live_through_a_gate_that_comes_and_goes() {
    let mut node = guarded(ALLOW);
    connect(&node, 4000);
    change(&mut node, FORWARD, [NOTHING, NOTHING]);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (UP, PASSES));
    node.interfaces.remove(&UPLINK);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (UP, PASSES), "no gate any more");
    connect(&node, 4001);
    node.interfaces.insert(UPLINK, LOCAL);
    change(&mut node, LOCAL, [SOME, NOTHING]);
    assert_eq!((asks(&node, 4001, ACK), answers(&node, 4001, ACK)), (UP, PASSES), "another, which lets it in");
    change(&mut node, LOCAL, [NOTHING, NOTHING]);
    assert_eq!((answers(&node, 4001, ACK), asks(&node, 4001, ACK)), (Err(FlowRefused), Err(FlowRefused)));
    // Those that were there are kept where the node says so.
    let mut node = guarded(ALLOW);
    connect(&node, 4000);
    node.endpoints[LOCAL as usize].flags |= ENDPOINT_KEEP_ESTABLISHED;
    change(&mut node, LOCAL, [NOTHING, NOTHING]);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (UP, PASSES));
    assert_eq!(asks(&node, 4001, SYN), Err(HostEndpoint));
}

#[test]
fn pkt_26_every_piece_of_an_answer_leaves_as_the_services() {
    let piece = |offset: u8, more: u8, from: (u32, u8), to: u8, ports| {
        let mut frame = udp(from, to, ports);
        (frame[20], frame[21]) = (more << 5, offset);
        frame
    };
    let node = open();
    assert_eq!(comes(&node, &piece(0, 1, OUTSIDE, VIP, (4000, PORT))).0, UP);
    let (fate, state) = comes(&node, &piece(9, 0, OUTSIDE, VIP, (0, 0)));
    assert_eq!((fate, state.packet.destination), (UP, v4(1)));
    assert_eq!(leaves(&node, &piece(9, 0, HOST, 200, (0, 0))).0, UNTOUCHED, "its first was not seen");
    assert_eq!(leaves(&node, &piece(0, 1, HOST, 200, (TARGET, 4000))).0, PASSES);
    let (fate, state) = leaves(&node, &piece(9, 0, HOST, 200, (0, 0)));
    assert_eq!((fate, state.translation.end, state.translation.frontend), (PASSES, Translated::Source, v4(VIP)));
    // Another datagram with the number of the former, of no service's.
    assert_eq!(leaves(&node, &piece(0, 1, HOST, 200, (81, 4000))).0, UNTOUCHED);
    assert_eq!(leaves(&node, &piece(9, 0, HOST, 200, (0, 0))).0, UNTOUCHED);
    // To somebody else.
    assert_eq!(leaves(&node, &piece(0, 1, HOST, 201, (TARGET, 4000))).0, UNTOUCHED);
    assert_eq!(leaves(&node, &piece(9, 0, HOST, 201, (0, 0))).0, UNTOUCHED);
}

#[test]
fn a_piece_of_an_answer_from_the_same_address_is_remembered_by_nobody_before_the_gate() {
    let node = open_at(Node::new(), 1);
    let mut first = udp(HOST, 200, (TARGET, 4000));
    first[20] = 1 << 5;
    assert_eq!(comes(&node, &udp(OUTSIDE, 1, (4000, PORT))).0, UP);
    assert_eq!(leaves(&node, &first).0, PASSES);
    assert!(node.fragments.borrow().is_empty());
}

/// An ICMP error (port unreachable) about a packet.
fn error(from: (u32, u8), to: u8, about: &[u8]) -> Vec<u8> {
    ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

#[test]
fn pkt_30_errors_of_the_node_about_what_a_client_sent_quote_the_service_and_those_about_answers_the_process() {
    let node = open();
    assert_eq!(comes(&node, &udp(OUTSIDE, VIP, (4000, PORT))).0, UP);
    let (fate, state) = leaves(&node, &error(HOST, 200, &udp((0, 200), 1, (4000, TARGET))));
    assert_eq!((fate, state.translation.end), (PASSES, Translated::QuotedDestination));
    assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(VIP), PORT));
    let (fate, state) = comes(&node, &error((0, 77), VIP, &udp((0, VIP), 200, (PORT, 4000))));
    assert_eq!((fate, state.translation.end, state.packet.destination), (UP, Translated::QuotedSource, v4(1)));
    assert_eq!(u16::from_be(state.translation.port), TARGET);
    // About nothing that anybody sent.
    for about in [udp((0, 200), 1, (4001, TARGET)), udp((0, 201), 1, (4000, TARGET)), udp((0, 200), 1, (4000, 81))] {
        assert_eq!(leaves(&node, &error(HOST, about[29], &about)).0, UNTOUCHED);
    }
    assert_eq!(comes(&node, &error((0, 77), VIP, &udp((0, VIP), 200, (PORT, 4001)))).0, UNTOUCHED);
    assert_eq!(
        comes(&node, &error((0, 2), VIP, &udp((0, VIP), 200, (PORT, 4000)))).0,
        Err(SourceIsLocal),
        "in a pod's name"
    );
}

#[test]
fn a_rst_of_the_node_ends_the_flow_and_leaves_as_the_services() {
    let node = open();
    assert_eq!((asks(&node, 4000, SYN), answers(&node, 4000, RST | ACK)), (UP, PASSES));
    later(&node, 41);
    assert_eq!(asks(&node, 4000, ACK), Err(BackendGone), "nobody knows it any more");
    assert_eq!(asks(&node, 4000, SYN), UP);
}

#[test]
fn a_packet_is_judged_by_the_revision_of_the_gate_before_and_an_answer_by_the_one_in_force() {
    let mut node = guarded(ALLOW);
    let before = node.generation.get();
    node.endpoints[LOCAL as usize].ingress = Word::changing(ALLOW, NOTHING, before + 1);
    node.endpoints[LOCAL as usize].rev = before as u32 + 1;
    node.generation.set(before + 1);
    let arrival = |handed| Arrival { ifindex: UPLINK, ingress_ifindex: UPLINK, handed, ..Arrival::default() };
    let syn = tcp(OUTSIDE, VIP, (4000, PORT), SYN);
    assert_eq!(node.run_from(Hook::FromUplink, &arrival([0; 2]), &syn).0, Err(HostEndpoint));
    assert_eq!(node.run_from(Hook::FromUplink, &arrival(handover::to_cb(before)), &syn).0, UP);
    assert_eq!(answers(&node, 4000, SYN | ACK), Err(FlowRefused));
}

#[test]
fn pkt_78_a_flood_to_a_process_ends_where_the_nodes_account_is_full_for_others() {
    let node = open();
    node.tracked.quota.set(1);
    for port in 1..=2 {
        connect(&node, port);
    }
    assert_eq!(asks(&node, 3, SYN), Err(FlowQuota));
    assert_eq!(node.tracked.accounts(), [(SLOT_HOST, 4), (QUOTA_ALL, 4)].into());
}
