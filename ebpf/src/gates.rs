//! Host endpoints as a specification: what a gate does with which packet.
//! In: a node with a gate at its uplink, rule sets for its layers. Out: verdicts, reasons and entries, row by row.
//! Invariant: every row says what a user or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use abi::DropReason::{self, *};
use abi::conntrack::{STATE_ESTABLISHED, STATE_MIDWAY, zone_of};
use abi::endpoint::{ENDPOINT_HOST, ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_READY, SLOT_FIRST};
use abi::rules::{SET_DEFAULT_ONLY, SET_OPEN, SpanKind, x_of};
use abi::{Endpoint, RowRef, SetEntry, Span, Word};
use std::vec::Vec;

use crate::fake::{ALLOW, Bytes, Node, SOME, Twin, UPLINK, icmp, ipv4, mac, tcp, udp};
use crate::tables::Arrival;
pub(crate) use crate::tracking::{ACK, OUTSIDE, RST, SYN};
use crate::walk::{Hook, State, Verdict, walk};

/// The gate's own slot, and those of its other layers.
pub(crate) const LOCAL: u32 = 4;
pub(crate) const FORWARD: u32 = 5;
const UNTRACKED: u32 = 6;
const PRE_DNAT: u32 = 7;
/// Rule set that refuses everything, by no rule.
pub(crate) const NOTHING: u32 = 0;
/// Rule set that allows TCP 2379, denies TCP 99, and says nothing of the rest.
pub(crate) const OPINION: u32 = 3;
/// The node, as its packets leave by the uplink.
pub(crate) const HOST: (u32, u8) = (9, 1);
pub(crate) type Fate = Result<Verdict, DropReason>;
pub(crate) const PASSES: Fate = Ok(Verdict::Through);
pub(crate) const UNTOUCHED: Fate = Ok(Verdict::Untouched);
pub(crate) const REFUSED: Fate = Err(HostEndpoint);

/// A node whose uplink has a gate, with rules (ingress, egress) in its local layer, and nothing in the others.
pub(crate) fn guarded(local: [u32; 2]) -> Node {
    let mut node = Node::new();
    let at = node.spans.len() as u32;
    node.spans.extend([
        Span::new(0, SpanKind::Next, 0),
        Span::new(x_of(6, 99), SpanKind::Deny, 9),
        Span::new(x_of(6, 100), SpanKind::Next, 0),
        Span::new(x_of(6, 2379), SpanKind::Allow, 8),
        Span::new(x_of(6, 2380), SpanKind::Next, 0),
    ]);
    node.sets.push(SetEntry { row: RowRef { offset: at, len: 5 }, flags: SET_DEFAULT_ONLY, pad: 0 });
    node.interfaces.insert(UPLINK, LOCAL);
    for _ in LOCAL..=PRE_DNAT {
        node.endpoints.push(Endpoint { flags: ENDPOINT_READY, rev: 1, ..Endpoint::default() });
    }
    let own = &mut node.endpoints[LOCAL as usize];
    (own.ifindex, own.flags) = (UPLINK, ENDPOINT_READY | ENDPOINT_HOST);
    set_rules(&mut node, LOCAL, local);
    node
}

/// The same with a forward layer.
pub(crate) fn forwarding(local: [u32; 2], forward: [u32; 2]) -> Node {
    let mut node = guarded(local);
    node.endpoints[LOCAL as usize].layers.forward = FORWARD;
    set_rules(&mut node, FORWARD, forward);
    node
}

fn set_rules(node: &mut Node, slot: u32, [ingress, egress]: [u32; 2]) {
    let layer = &mut node.endpoints[slot as usize];
    (layer.ingress, layer.egress) = (Word::settled(ingress), Word::settled(egress));
}

/// A commit that changes a layer's rules.
pub(crate) fn change(node: &mut Node, slot: u32, rules: [u32; 2]) {
    node.generation.set(node.generation.get() + 1);
    set_rules(node, slot, rules);
    for slot in [LOCAL, FORWARD] {
        node.endpoints[slot as usize].rev = node.generation.get() as u32;
    }
}

/// Through the gate by a hook; the twin has to say the same, and to write nothing.
pub(crate) fn at(node: &Node, hook: Hook, arrival: &Arrival, frame: &[u8]) -> Fate {
    let told = walk(hook, &Twin(node), &Bytes(frame), arrival, &mut State::default());
    let (fate, state) = node.run_from(hook, arrival, frame);
    assert_eq!(told, fate, "the twin");
    assert!(fate.is_ok() || state.slot >= SLOT_FIRST, "on the account of an endpoint");
    fate
}

fn by(ingress_ifindex: u32) -> Arrival {
    Arrival { ifindex: UPLINK, ingress_ifindex, ethertype: 0x0800, ..Arrival::default() }
}

pub(crate) fn comes_in(node: &Node, frame: &[u8]) -> Fate {
    at(node, Hook::FromHostEndpoint, &by(UPLINK), frame)
}

/// The node itself sends.
pub(crate) fn goes_out(node: &Node, frame: &[u8]) -> Fate {
    at(node, Hook::ToHostEndpoint, &by(0), frame)
}

/// What came from the pod in slot 2 leaves.
pub(crate) fn pods_goes_out(node: &Node, frame: &[u8]) -> Fate {
    at(node, Hook::ToHostEndpoint, &by(2), frame)
}

#[test]
fn hep_1_hep_12_what_no_rule_lets_pass_is_refused_in_both_directions_and_leaves_no_entry() {
    let node = guarded([NOTHING, NOTHING]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), REFUSED);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (5, 53))), REFUSED);
    assert_eq!(comes_in(&node, &icmp(OUTSIDE, 1, 8, 7)), REFUSED);
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (5, 80), SYN)), REFUSED);
    assert!(node.flows().is_empty());
}

#[test]
fn hep_1_hep_4_what_is_forwarded_is_not_the_local_layers() {
    let node = guarded([NOTHING, NOTHING]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 2, (5, 80), SYN)), UNTOUCHED, "to a pod");
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 201, (5, 80), SYN)), UNTOUCHED, "to elsewhere");
    assert_eq!(pods_goes_out(&node, &tcp((2, 2), 200, (5, 80), SYN)), UNTOUCHED);
    assert!(node.flows().is_empty());
}

#[test]
fn an_interface_without_a_gate_or_with_one_that_is_not_ready_or_open_is_left_alone() {
    let mut node = guarded([NOTHING, NOTHING]);
    let says =
        |node: &Node| (comes_in(node, &tcp(OUTSIDE, 1, (5, 80), SYN)), goes_out(node, &tcp(HOST, 200, (5, 80), SYN)));
    for change in [
        (|node| node.interfaces.clear()) as fn(&mut Node),
        |node| node.endpoints[LOCAL as usize].flags &= !ENDPOINT_READY,
        |node| node.endpoints[LOCAL as usize].flags &= !ENDPOINT_HOST,
        |node| node.endpoints[LOCAL as usize].ifindex = 77,
        |node| set_rules(node, LOCAL, [SET_OPEN, SET_OPEN]),
    ] {
        let mut node = guarded([NOTHING, NOTHING]);
        change(&mut node);
        assert_eq!(says(&node), (UNTOUCHED, UNTOUCHED));
        assert!(node.flows().is_empty());
    }
    // A word that is to close the gate does so from its generation on.
    let next = node.generation.get() + 1;
    node.endpoints[LOCAL as usize].ingress = Word::changing(SET_OPEN, NOTHING, next);
    node.endpoints[LOCAL as usize].egress = Word::changing(SET_OPEN, NOTHING, next);
    assert_eq!(says(&node), (UNTOUCHED, UNTOUCHED));
    node.generation.set(next);
    assert_eq!(says(&node), (REFUSED, REFUSED));
}

#[test]
fn arp_neighbours_other_protocols_and_other_vlans_pass_and_what_only_looks_so_does_not() {
    let node = guarded([NOTHING, NOTHING]);
    let frame = |ethertype: [u8; 2], rest: &[u8]| [&[0xff; 6], &mac(9)[..], &ethertype, rest].concat();
    assert_eq!(comes_in(&node, &frame([8, 6], &[0; 28])), Err(Malformed), "the stack takes it for IPv4");
    for ethertype in [[8, 6], [0x88, 0xcc]] {
        let arrival = Arrival { ethertype: u16::from_be_bytes(ethertype), ..by(UPLINK) };
        for hook in [Hook::FromHostEndpoint, Hook::ToHostEndpoint] {
            assert_eq!(at(&node, hook, &arrival, &frame(ethertype, &[0; 28])), UNTOUCHED);
        }
    }
    let syn = tcp(OUTSIDE, 1, (5, 80), SYN);
    let tagged = |untagged| Arrival { vlan: true, untagged, ..by(UPLINK) };
    assert_eq!(at(&node, Hook::FromHostEndpoint, &tagged(false), &syn), UNTOUCHED, "another interface's");
    assert_eq!(at(&node, Hook::FromHostEndpoint, &tagged(true), &syn), REFUSED, "a priority is no VLAN");
    let inner = Arrival { ethertype: 0x8100, ..tagged(true) };
    assert_eq!(at(&node, Hook::FromHostEndpoint, &inner, &frame([0x81, 0], &syn[12..])), Err(Vlan));
    let overheard = Arrival { foreign: true, overheard: true, ..by(UPLINK) };
    assert_eq!(at(&node, Hook::FromHostEndpoint, &overheard, &syn), UNTOUCHED);
    let out = Arrival { ingress_ifindex: 0, ..overheard };
    assert_eq!(
        at(&node, Hook::ToHostEndpoint, &out, &tcp(HOST, 200, (5, 80), SYN)),
        REFUSED,
        "no matter on the way out"
    );
    let to_all = Arrival { foreign: true, ..by(UPLINK) };
    assert_eq!(at(&node, Hook::FromHostEndpoint, &to_all, &tcp(OUTSIDE, 255, (5, 80), SYN)), REFUSED);
    for kind in 130..=137 {
        let v6 = [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0xfe, 0x80], &[0; 13], &[1]].concat();
        let message =
            |to: [u8; 2]| frame([0x86, 0xdd], &[&v6[..], &to, &[0; 14], &[kind, 0, 0, 0, 0, 0, 0, 0]].concat());
        let arrival = Arrival { ethertype: 0x86dd, ..by(UPLINK) };
        assert_eq!(at(&node, Hook::FromHostEndpoint, &arrival, &message([0xfe, 0x80])), UNTOUCHED, "{kind}");
        assert_eq!(at(&node, Hook::FromHostEndpoint, &arrival, &message([0xff, 2])), UNTOUCHED, "{kind}");
        let own = Arrival { ingress_ifindex: 0, ..arrival };
        assert_eq!(at(&node, Hook::ToHostEndpoint, &own, &message([0xfe, 0x80])), UNTOUCHED, "{kind}");
        let node = forwarding([NOTHING, NOTHING], [NOTHING, NOTHING]);
        let from_pod = Arrival { ingress_ifindex: 2, ..arrival };
        assert_eq!(at(&node, Hook::ToHostEndpoint, &from_pod, &message([0x20, 1])), REFUSED, "{kind}, forwarded");
    }
}

#[test]
fn a_flow_that_the_rules_let_in_is_answered_without_being_asked_and_the_other_way_round() {
    let node = guarded([SOME, NOTHING]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), PASSES);
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (80, 5), SYN | ACK)), PASSES);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), ACK)), PASSES);
    assert_eq!((node.flow_now().state.get(), node.flow_now().packets.get()), (STATE_ESTABLISHED, 3));
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (80, 6), SYN)), REFUSED);
    let node = guarded([NOTHING, SOME]);
    assert_eq!(goes_out(&node, &udp(HOST, 200, (5, 53))), PASSES);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (53, 5))), PASSES);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (53, 6))), REFUSED);
}

#[test]
fn hep_3_protocols_without_ports_are_judged_by_their_number_and_answered() {
    let mut node = guarded([SOME, NOTHING]);
    let at = node.spans.len() as u32;
    let (deny, allow) = (SpanKind::Deny, SpanKind::Allow);
    node.spans.extend([Span::new(0, deny, 2), Span::new(x_of(253, 0), allow, 7), Span::new(x_of(254, 0), deny, 2)]);
    node.sets.push(SetEntry { row: RowRef { offset: at, len: 3 }, flags: 0, pad: 0 });
    change(&mut node, LOCAL, [4, NOTHING]);
    assert_eq!(comes_in(&node, &ipv4(OUTSIDE, 1, 254, b"raw")), REFUSED);
    assert_eq!(goes_out(&node, &ipv4(HOST, 200, 253, b"raw")), REFUSED);
    assert_eq!(comes_in(&node, &ipv4(OUTSIDE, 1, 253, b"raw")), PASSES);
    assert_eq!(goes_out(&node, &ipv4(HOST, 200, 253, b"raw")), PASSES, "the same flow");
}

#[test]
fn hep_5_hep_7_what_is_forwarded_is_the_forward_layers_alone_and_its_flows_are_no_others() {
    let node = forwarding([SOME, SOME], [NOTHING, NOTHING]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), PASSES, "to the node");
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 2, (5, 80), SYN)), REFUSED, "to a pod, at the same port");
    assert_eq!(pods_goes_out(&node, &tcp((2, 2), 200, (5, 80), SYN)), REFUSED);
    let node = forwarding([NOTHING, NOTHING], [SOME, NOTHING]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), REFUSED);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 2, (5, 80), SYN)), PASSES);
    assert_eq!(pods_goes_out(&node, &tcp((2, 2), 200, (80, 5), SYN | ACK)), PASSES);
    assert_eq!(node.flow_now().owner(), FORWARD);
}

#[test]
fn hep_8_the_untracked_layer_is_asked_of_each_packet_and_remembers_nothing() {
    let mut node = guarded([SOME, NOTHING]);
    node.endpoints[LOCAL as usize].layers.untracked = UNTRACKED;
    set_rules(&mut node, UNTRACKED, [OPINION, SET_OPEN]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 2379), SYN)), PASSES);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 2379), ACK)), PASSES);
    assert!(node.flows().is_empty());
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (2379, 5), SYN | ACK)), REFUSED, "nothing was remembered");
    set_rules(&mut node, UNTRACKED, [OPINION, ALLOW]);
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (2379, 5), SYN | ACK)), PASSES);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 99), SYN)), REFUSED);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), PASSES, "no opinion: the local layer's");
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 82), SYN)), REFUSED, "no opinion: the local layer's");
    // A layer that denies what an entry would let pass.
    set_rules(&mut node, UNTRACKED, [NOTHING, SET_OPEN]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), ACK)), REFUSED);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 2, (5, 80), SYN)), REFUSED, "what is forwarded as well");
}

#[test]
fn hep_9_the_layer_before_translation_refuses_what_comes_in_and_lets_nothing_in_by_itself() {
    let mut node = guarded([SOME, SOME]);
    node.endpoints[LOCAL as usize].layers.pre_dnat = PRE_DNAT;
    set_rules(&mut node, PRE_DNAT, [NOTHING, SET_OPEN]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), REFUSED);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 2, (5, 80), SYN)), REFUSED, "what is forwarded as well");
    assert_eq!(pods_goes_out(&node, &tcp((2, 2), 200, (5, 80), SYN)), PASSES, "what leaves, with no forward layer");
    assert_eq!(goes_out(&node, &udp(HOST, 200, (5, 53))), PASSES);
    assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (53, 5))), PASSES, "an answer is no opening");
    set_rules(&mut node, PRE_DNAT, [ALLOW, SET_OPEN]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), SYN)), PASSES);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 82), SYN)), REFUSED, "the local layer's");
    set_rules(&mut node, PRE_DNAT, [OPINION, SET_OPEN]);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (6, 80), SYN)), PASSES);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (6, 99), SYN)), REFUSED);
}

#[test]
fn own_1_a_new_deny_cuts_a_gates_flow_both_ways_until_a_new_syn_is_allowed() {
    let mut node = guarded([SOME, NOTHING]);
    let from_outside = |node: &Node, flags| comes_in(node, &tcp(OUTSIDE, 1, (5, 80), flags));
    let answer = |node: &Node, flags| goes_out(node, &tcp(HOST, 200, (80, 5), flags));
    let talk = |node: &Node| [from_outside(node, SYN), answer(node, SYN | ACK), from_outside(node, ACK)];
    assert_eq!(talk(&node), [PASSES; 3]);
    change(&mut node, LOCAL, [ALLOW, NOTHING]);
    assert_eq!(answer(&node, ACK), PASSES, "asked about from its opener's side");
    change(&mut node, LOCAL, [NOTHING, ALLOW]);
    assert_eq!((answer(&node, ACK), from_outside(&node, ACK)), (Err(FlowRefused), Err(FlowRefused)));
    change(&mut node, LOCAL, [SOME, NOTHING]);
    assert_eq!(answer(&node, ACK), Err(FlowRefused));
    assert_eq!(talk(&node), [PASSES; 3]);
    node.endpoints[LOCAL as usize].flags |= ENDPOINT_KEEP_ESTABLISHED;
    change(&mut node, LOCAL, [NOTHING, NOTHING]);
    assert_eq!((answer(&node, ACK), from_outside(&node, ACK)), (PASSES, PASSES), "kept");
}

#[test]
fn a_pods_flow_through_a_gate_is_one_flow_at_the_pod_and_another_at_the_gate() {
    let node = forwarding([NOTHING, NOTHING], [NOTHING, NOTHING]);
    let syn = tcp((2, 2), 200, (5, 80), SYN);
    assert_eq!(node.pod_sends(2, &syn), Ok(Verdict::ByRoute));
    assert_eq!(pods_goes_out(&node, &syn), REFUSED, "the pod's entry is no cover");
    let node = forwarding([NOTHING, NOTHING], [NOTHING, ALLOW]);
    assert_eq!((node.pod_sends(2, &syn), pods_goes_out(&node, &syn)), (Ok(Verdict::ByRoute), PASSES));
    let zones: Vec<_> = node.flows().iter().map(|(key, flow)| (key.zone, flow.owner())).collect();
    assert_eq!(zones, [([0; 3], 2), (zone_of(LOCAL), FORWARD)]);
    let back = tcp(OUTSIDE, 2, (80, 5), SYN | ACK);
    assert_eq!(comes_in(&node, &back), PASSES);
    assert_eq!(node.arrives(&back), Ok(Verdict::ToEndpoint(2)));
    // Neither is the gate's entry a cover at the pod.
    let node = forwarding([NOTHING, NOTHING], [ALLOW, ALLOW]);
    assert_eq!(pods_goes_out(&node, &udp((2, 2), 200, (5, 53))), PASSES);
    let mut node = node;
    node.change_ingress(2, 0);
    assert_eq!(node.arrives(&udp(OUTSIDE, 2, (53, 5))), Err(IngressPolicy));
}

#[test]
fn a_connection_older_than_the_gate_goes_on_by_the_rules_of_the_side_that_speaks() {
    let node = guarded([SOME, NOTHING]);
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (80, 5), ACK)), REFUSED);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), RST)), Err(NoFlow));
    assert!(node.flows().is_empty());
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), ACK)), PASSES);
    assert_eq!(node.flow_now().state.get(), STATE_MIDWAY);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), ACK)), PASSES);
    assert_eq!(node.flow_now().state.get(), STATE_MIDWAY, "the other end was not heard");
    assert_eq!(goes_out(&node, &tcp(HOST, 200, (80, 5), ACK)), PASSES);
    assert_eq!(comes_in(&node, &tcp(OUTSIDE, 1, (5, 80), ACK)), PASSES);
    assert_eq!(node.flow_now().state.get(), STATE_ESTABLISHED);
    assert_eq!(node.tracked.kept().len(), 1);
}
