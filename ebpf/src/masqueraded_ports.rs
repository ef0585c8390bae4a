//! Ports of masquerade as a specification: which one a flow has, when it is another's, and what is left where none is.
//! In: the node of `masqueraded`, with all its ports or with few. Out: ports, refusals, whose answers they are.
//! Invariant: at one receiver no two flows that go on have one port.
//! Never: looks inside a stage.

use std::collections::BTreeSet;

use abi::DropReason::*;
use abi::Masquerade;
use abi::conntrack::{NAT_RETURNS, QUOTA_ALL};
use abi::masquerade::Ports;

use crate::accounts::check;
use crate::fake::{Node, tcp, udp};
use crate::masqueraded::{Fate, TO_A, connect_out, from_a, mask_of, node, returns, sends};
use crate::outside::OUT;
use crate::tracking::{A, ACK, FIN, RST, SYN, TO_B, later};

/// From now on pods are this node by these ports.
pub(crate) fn stands_by(node: &mut Node, ports: Ports) {
    node.masquerade = node.masquerade.map(|own| Masquerade { tcp: ports, others: ports, ..own });
}

#[test]
fn a_pod_that_asks_from_a_port_again_leaves_by_the_same_whoever_asked_meanwhile() {
    let mut node = node();
    node.tracked.new_room.set(4000);
    let before: Vec<_> = (32_768..33_000).map(|port| from_a(&node, port, SYN)).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 232, "each port its own");
    later(&node, 61);
    node.chance.set(77);
    mask_of(&node, 3, &tcp((3, 3), 200, (40_000, 80), SYN));
    assert_eq!((32_768..33_000).map(|port| from_a(&node, port, SYN)).collect::<Vec<_>>(), before);
    stands_by(&mut node, Ports { first: 40_000, count: 20_000 });
    assert!(
        (40_000..60_000).contains(&u16::from_be(sends(&node, 2, &tcp(A, 201, (7, 80), SYN)).1.translation.mask_port))
    );
}

#[test]
fn pkt_79_a_thousand_flows_to_one_receiver_have_a_thousand_ports() {
    let node = node();
    node.tracked.new_room.set(4000);
    let ask = |port: u16| {
        node.chance.set(u32::from(port).wrapping_mul(0x9e37_79b9));
        mask_of(&node, 2, &udp(A, 200, (port, 53)))
    };
    let ports: BTreeSet<u16> = (1..=1000).map(ask).collect();
    assert!(ports.iter().all(|port| (20_000..30_000).contains(port)), "others than TCP's are Calico's");
    assert_eq!(ports.len(), 1000);
    assert_eq!(mask_of(&node, 2, &udp(A, 200, (7, 53))), mask_of(&node, 2, &udp(A, 200, (7, 53))));
}

#[test]
fn where_all_ports_are_taken_a_flow_is_refused_and_leaves_by_none_and_another_receivers_is_not() {
    let mut node = node();
    stands_by(&mut node, Ports { first: 20_000, count: 2 });
    let asks = |port, to| sends(&node, 2, &udp(A, to, (port, 53)));
    let taken: BTreeSet<u16> = (1..=9).filter(|port| asks(*port, 200).0 == OUT).collect();
    assert_eq!(taken.len(), 2);
    let refused = (1..=9).find(|port| !taken.contains(port)).expect("one");
    for _ in 0..3 {
        assert_eq!(asks(refused, 200).0, Err(NatCollision), "again, too");
    }
    assert_eq!(asks(refused, 201).0, OUT);
    later(&node, 61);
    assert_eq!(asks(refused, 200).0, OUT, "those are over");
}

/// A node with one port for all its pods, and a flow of a's that took it.
fn with_one_port() -> (Node, u16) {
    let mut node = node();
    stands_by(&mut node, Ports { first: 20_000, count: 1 });
    let mask = connect_out(&node, 4000);
    (node, mask)
}

fn b_asks(node: &Node) -> Fate {
    sends(node, 3, &tcp((3, 3), 200, (4000, 80), SYN)).0
}

#[test]
fn a_port_is_taken_from_a_flow_that_both_ends_have_closed_and_not_before() {
    let (node, mask) = with_one_port();
    returns(&node, mask, FIN | ACK).0.expect("part of the flow");
    assert_eq!(b_asks(&node), Err(NatCollision), "half-closed");
    from_a(&node, 4000, FIN | ACK);
    assert_eq!(b_asks(&node), Err(NatCollision), "the last FIN is under way");
    returns(&node, mask, ACK).0.expect("part of the flow");
    assert_eq!(b_asks(&node), OUT);
    assert_eq!(returns(&node, mask, SYN | ACK).0, TO_B, "and nobody else");
    assert_eq!(sends(&node, 2, &tcp(A, 200, (4000, 80), ACK)).0, Err(NoFlow), "whose port it was");
    assert_eq!(mask_of(&node, 3, &tcp((3, 3), 200, (4000, 80), ACK)), mask);
    assert_eq!(sends(&node, 2, &tcp(A, 200, (4000, 80), SYN)).0, Err(NatCollision));
    check(&node, "handed on");
    assert_eq!(node.tracked.accounts(), [(2, 1), (3, 2), (QUOTA_ALL, 3)].into());
    node.cursor_goes_round();
    assert_eq!(node.tracked.accounts(), [(3, 2), (QUOTA_ALL, 2)].into());
}

#[test]
fn a_port_is_taken_from_a_flow_that_was_reset_once_its_end_is_silent() {
    let (node, mask) = with_one_port();
    returns(&node, mask, RST).0.expect("part of the flow");
    assert_eq!(b_asks(&node), Err(NatCollision), "it may be forged");
    returns(&node, mask, ACK).0.expect("it was");
    later(&node, 2);
    assert_eq!(b_asks(&node), Err(NatCollision), "the flow goes on");
    returns(&node, mask, RST).0.expect("part of the flow");
    later(&node, 2);
    assert_eq!(b_asks(&node), OUT);
}

#[test]
fn a_port_is_not_taken_from_who_opens_its_closed_flow_again() {
    let (node, mask) = with_one_port();
    returns(&node, mask, FIN | ACK).0.expect("part of the flow");
    from_a(&node, 4000, FIN | ACK);
    returns(&node, mask, ACK).0.expect("part of the flow");
    assert_eq!(from_a(&node, 4000, SYN), mask);
    assert_eq!(b_asks(&node), Err(NatCollision));
    assert_eq!(returns(&node, mask, SYN | ACK).0, TO_A);
}

#[test]
fn of_two_processors_that_find_a_port_over_one_has_it() {
    let mut node = node();
    stands_by(&mut node, Ports { first: 20_000, count: 1 });
    from_a(&node, 4000, SYN);
    later(&node, 61);
    let left = node.flows().into_iter().find(|(_, flow)| flow.nat_kind.get() == NAT_RETURNS);
    let place = left.expect("what is left of the opening").1;
    let serial = place.serial.replace(0);
    assert_eq!(b_asks(&node), Err(NatCollision), "the other is at it");
    place.serial.set(serial);
    assert_eq!(b_asks(&node), OUT);
}
