//! Masquerade as a specification, third part: services whose backends are outside of all pools.
//! In: the node of `masqueraded`, its service's backend outside. Out: verdicts, ports, entries.
//! Invariant: every row says what a pod, that backend or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use std::vec::Vec;

use abi::DropReason::*;
use abi::conntrack::{NAT_TRANSLATED, QUOTA_ALL};
use abi::endpoint::{ENDPOINT_MASQUERADED_V4, SLOT_HOST};
use abi::masquerade::Ports;
use abi::{Balancer, Word};

use crate::accounts::check;
use crate::fake::{Node, ipv4, tcp, udp, v4};
use crate::masqueraded::{Fate, TO_A, masquerading, sends};
use crate::masqueraded_ports::stands_by;
use crate::outside::{OUT, comes};
use crate::recent::SHORT;
use crate::services::{PORT, TARGET, VIP, served, served_by_one};
use crate::tracking::{A, ACK, SYN, TO_B, later};
use crate::translation::Translated;
use crate::walk::State;

/// Where the backend is.
const THERE: u8 = 201;

fn node() -> Node {
    let mut node = masquerading(served_by_one());
    node.backends[1].address = v4(THERE);
    node
}

/// The port by which a packet to the service leaves.
fn mask_of(node: &Node, frame: &[u8]) -> u16 {
    let (fate, state) = sends(node, 2, frame);
    let translation = &state.translation;
    assert_eq!((fate, translation.end, translation.is_masked), (OUT, Translated::Destination, true));
    assert_eq!((translation.mask, translation.frontend), (v4(1), v4(VIP)));
    assert_eq!((state.packet.source, state.packet.destination), (v4(2), v4(THERE)), "rules and errors see the pod");
    let port = u16::from_be(translation.mask_port);
    assert!((1025..30_000).contains(&port), "{port}");
    port
}

fn asks(node: &Node, port: u16, flags: u8) -> u16 {
    mask_of(node, &tcp(A, VIP, (port, PORT), flags))
}

/// What the backend answers to this node.
fn returns(node: &Node, to: u16, flags: u8) -> (Fate, State) {
    comes(node, &tcp((0, THERE), 1, (TARGET, to), flags))
}

fn connect(node: &Node, port: u16) -> u16 {
    let mask = asks(node, port, SYN);
    assert_eq!(asks(node, port, SYN), mask, "pkt_73");
    assert_eq!(returns(node, mask, SYN | ACK).0, TO_A);
    assert_eq!(asks(node, port, ACK), mask);
    mask
}

/// An ICMP error (port unreachable) about what somebody sent.
fn unreachable(from: (u32, u8), to: u8, about: &[u8]) -> Vec<u8> {
    ipv4(from, to, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &about[14..]].concat())
}

#[test]
fn ipam_26_a_pod_asks_a_service_outside_as_this_node_and_hears_the_service() {
    let node = node();
    let mask = connect(&node, 4000);
    // Longer than what is noted of a flow.
    for _ in 0..2 * SHORT {
        let (fate, state) = returns(&node, mask, ACK);
        let (packet, translation) = (&state.packet, &state.translation);
        assert_eq!((fate, translation.end, translation.is_masked), (TO_A, Translated::Source, true));
        assert_eq!((packet.source, packet.destination, packet.detail), (v4(THERE), v4(2), 4000));
        assert_eq!((translation.frontend, u16::from_be(translation.port)), (v4(VIP), PORT));
        assert_eq!((translation.mask, u16::from_be(translation.mask_port)), (v4(1), mask));
        assert_eq!(asks(&node, 4000, ACK), mask);
    }
    check(&node, "masqueraded through a service");
    assert_eq!(
        node.tracked.accounts(),
        [(2, 3), (QUOTA_ALL, 3)].into(),
        "the flow, what leads there and what comes back"
    );
    for _ in 0..3 {
        later(&node, 3000);
        assert_eq!(returns(&node, mask, ACK).0, TO_A);
        node.cursor_goes_round();
    }
    assert_eq!(asks(&node, 4000, ACK), mask);
    later(&node, 4000);
    (0..3).for_each(|_| node.cursor_goes_round());
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn ipam_26_datagrams_to_a_service_outside_go_as_this_node_from_the_first_on() {
    let node = node();
    let mask = mask_of(&node, &udp(A, VIP, (4000, PORT)));
    let (fate, state) = comes(&node, &udp((0, THERE), 1, (TARGET, mask)));
    assert_eq!((fate, state.translation.end, state.packet.destination), (TO_A, Translated::Source, v4(2)));
    for _ in 0..2 * SHORT {
        assert_eq!(mask_of(&node, &udp(A, VIP, (4000, PORT))), mask);
        assert_eq!(comes(&node, &udp((0, THERE), 1, (TARGET, mask))).0, TO_A);
    }
}

#[test]
fn ipam_26_a_service_inside_or_a_pool_that_does_not_ask_keeps_the_pods_address() {
    let plain = |node: &Node, port, fate: Fate| {
        let (verdict, state) = sends(node, 2, &tcp(A, VIP, (port, PORT), SYN));
        assert_eq!((verdict, state.translation.end), (fate, Translated::Destination));
        assert!(!state.translation.is_masked);
    };
    plain(&masquerading(served_by_one()), 4000, TO_B);
    let mut node = node();
    node.endpoints[2].flags &= !ENDPOINT_MASQUERADED_V4;
    plain(&node, 4000, OUT);
    // What was opened goes on as it was.
    node.endpoints[2].flags |= ENDPOINT_MASQUERADED_V4;
    plain(&node, 4000, OUT);
    let mask = connect(&node, 4001);
    node.endpoints[2].flags &= !ENDPOINT_MASQUERADED_V4;
    assert_eq!((asks(&node, 4001, ACK), returns(&node, mask, ACK).0), (mask, TO_A));
    plain(&node, 4002, OUT);
    // What led to a flow that is over says nothing of the next one of its ports.
    let flow = node.flows().into_iter().find(|(key, flow)| {
        flow.nat_kind.get() == NAT_TRANSLATED && [key.low_port, key.high_port].contains(&4001u16.to_be_bytes())
    });
    flow.expect("the flow").1.forget();
    plain(&node, 4001, OUT);
}

#[test]
fn a_flow_that_goes_from_outside_to_a_backend_inside_leaves_no_mask_behind() {
    let mut node = masquerading(served());
    node.backends[1].address = v4(THERE);
    node.balancers[1] = Balancer { len: 1, ..node.balancers[1] };
    asks(&node, 4000, SYN);
    // That backend goes; the next SYN of this port is led to the other, which is a pod.
    node.balancers[1] = Balancer { offset: 1, len: 1, ..node.balancers[1] };
    node.backends[1].standing = Word::settled(0);
    let (fate, state) = sends(&node, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((fate, state.translation.is_masked), (crate::services::TO_C, false));
}

#[test]
fn nothing_leaves_with_a_pods_address_where_no_port_is_left() {
    let mut node = node();
    stands_by(&mut node, Ports { first: 20_000, count: 1 });
    assert_eq!(asks(&node, 4000, SYN), 20_000);
    for _ in 0..3 {
        assert_eq!(sends(&node, 2, &tcp(A, VIP, (4001, PORT), SYN)).0, Err(NatCollision));
    }
    stands_by(&mut node, Ports { first: 20_000, count: 10_000 });
    node.chance.set(1 << 31);
    assert_ne!(asks(&node, 4001, SYN), 20_000, "sent again it tries again");
}

#[test]
fn what_comes_back_is_the_pods_by_its_flow_alone() {
    let node = node();
    let mask = connect(&node, 4000);
    // Neither by another port of the backend's, nor by another host.
    assert_ne!(comes(&node, &tcp((0, THERE), 1, (TARGET + 1, mask), ACK)).0, TO_A);
    assert_ne!(comes(&node, &tcp((0, 202), 1, (TARGET, mask), ACK)).0, TO_A);
    assert_eq!(returns(&node, mask, ACK).0, TO_A);
}

#[test]
fn pkt_30_an_error_about_what_a_pod_asked_reaches_it_as_about_the_service_and_its_own_leaves_as_this_nodes() {
    let node = node();
    let mask = mask_of(&node, &udp(A, VIP, (4000, PORT)));
    assert_eq!(comes(&node, &udp((0, THERE), 1, (TARGET, mask))).0, TO_A);
    let (fate, state) = comes(&node, &unreachable((0, THERE), 1, &udp((0, 1), THERE, (mask, TARGET))));
    let translation = &state.translation;
    assert_eq!((fate, translation.end, state.packet.destination), (TO_A, Translated::QuotedDestination, v4(2)));
    assert_eq!((translation.frontend, u16::from_be(translation.mask_port)), (v4(VIP), 4000));
    let (fate, state) = sends(&node, 2, &unreachable(A, VIP, &udp((SLOT_HOST, VIP), 2, (PORT, 4000))));
    let translation = &state.translation;
    assert_eq!((fate, translation.end, state.packet.destination), (OUT, Translated::QuotedSource, v4(THERE)));
    assert_eq!((translation.is_masked, translation.mask), (true, v4(1)));
    assert_eq!(u16::from_be(translation.mask_port), mask);
}
