//! Notes of flows through services as a specification: quick where nothing changed, and never a word too long.
//! In: the node of `services`, a connection long enough to be noted, and what happens in the same second. Out: verdicts, bytes' ends.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use std::vec::Vec;

use abi::DropReason::{self, *};
use abi::conntrack::NAT_TRANSLATED;
use abi::service::BACKEND_LISTED;
use abi::{Backend, Frontend, Word};

use crate::fake::{Node, tcp, udp, v4};
use crate::recent::{NOTES, Note, SHORT};
use crate::services::*;
use crate::shelf::FlowTables;
use crate::tracking::{A, ACK, B, FIN, RST, SYN, TO_A, TO_B};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict};

/// A connection to B of which both directions are noted.
fn noted(node: &Node) {
    connect(node, 4000);
    go_on(node);
    let by_note = |node: &Node| node.notes.iter().map(|note| note.counted()).sum::<u32>();
    let before = by_note(node);
    assert_eq!((asks(node, 4000, ACK), answers(node, B, 4000, ACK).0), (TO_B, TO_A));
    assert_eq!(by_note(node), before + 2);
}

fn go_on(node: &Node) {
    for _ in 0..=SHORT {
        assert_eq!((asks(node, 4000, ACK), answers(node, B, 4000, ACK).0), (TO_B, TO_A));
    }
}

fn asked(node: &Node, flags: u8) -> (Result<Verdict, DropReason>, State) {
    node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), flags))
}

#[test]
fn a_noted_packet_is_translated_as_those_before_it() {
    let node = served_by_one();
    noted(&node);
    let (verdict, state) = asked(&node, ACK);
    assert_eq!((verdict, state.translation.end), (TO_B, Translated::Destination));
    assert_eq!((state.packet.destination, u16::from_be(state.packet.destination_port)), (v4(3), TARGET));
    assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(VIP), PORT));
    let (verdict, state) = answers(&node, B, 4000, ACK);
    assert_eq!((verdict, state.translation.end, state.translation.is_hairpin), (TO_A, Translated::Source, false));
    assert_eq!((state.translation.frontend, u16::from_be(state.translation.port)), (v4(VIP), PORT));
}

#[test]
fn datagrams_are_noted_too_and_counted_once() {
    let node = served_by_one();
    let ask = || {
        assert_eq!(asks_udp(&node, 4000), TO_B);
        assert_eq!(node.pod_sends(3, &udp(B, 2, (TARGET, 4000))), TO_A);
    };
    (0..2 * SHORT).for_each(|_| ask());
    node.now_s.set(node.now_s.get() + 1);
    ask();
    let kept = node.tracked.kept();
    let packets: Vec<u32> = kept.iter().map(|(_, flow)| flow.packets.get()).collect();
    assert!(packets.contains(&(4 * SHORT + 2)), "{packets:?}");
}

#[test]
fn every_datagram_is_counted_once_where_flows_through_a_service_share_a_place() {
    let mut node = served_by_one();
    node.tracked = FlowTables::with_room(20 * NOTES as usize);
    let ports: Vec<u16> = (1..=2 * NOTES as u16).collect();
    let exchange = |node: &Node, port| {
        assert_eq!(asks_udp(node, port), TO_B);
        assert_eq!(node.pod_sends(3, &udp(B, 2, (TARGET, port))), TO_A);
    };
    for _ in 0..=SHORT {
        ports.iter().for_each(|port| exchange(&node, *port));
    }
    for second in 0..3 {
        node.now_s.set(node.now_s.get() + 1);
        // Whoever comes first has the place for this second.
        let turned: Vec<u16> = if second % 2 == 0 { ports.iter().rev().copied().collect() } else { ports.clone() };
        turned.into_iter().for_each(|port| exchange(&node, port));
    }
    let noted: u32 = node.notes.iter().map(Note::counted).sum();
    let flows = node.tracked.kept();
    let counted: u32 = flows
        .iter()
        .filter(|(_, flow)| flow.nat_kind.get() == NAT_TRANSLATED)
        .map(|(_, flow)| flow.packets.get())
        .sum();
    assert_eq!(counted + noted, 2 * 2 * u32::from(NOTES as u16) * (SHORT + 4));
}

#[test]
fn a_noted_flow_ends_with_its_backend_at_once_and_lives_on_while_that_is_listed() {
    let mut node = served_by_one();
    noted(&node);
    node.backends[1].standing = Word::settled(BACKEND_LISTED);
    assert_eq!(asks(&node, 4000, ACK), TO_B);
    node.backends[1].standing = Word::settled(0);
    let (verdict, state) = asked(&node, ACK);
    assert_eq!((verdict, state.packet.destination), (Err(BackendGone), v4(VIP)));
    node.backends[1] = Backend { born: 9, ..backend(4, STANDS) };
    node.generation.set(9);
    assert_eq!(asks(&node, 4000, ACK), Err(BackendGone), "the slot means another now");
}

#[test]
fn own_1_a_new_deny_counts_for_a_noted_flow_through_a_service_at_once() {
    let mut node = served_by_one();
    noted(&node);
    node.change_ingress(3, 0);
    assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (Err(FlowRefused), Err(FlowRefused)));
}

#[test]
fn a_port_that_is_used_again_in_the_same_second_is_not_served_by_the_note_of_the_flow_before() {
    for end in [RST, FIN | ACK] {
        let mut node = served_by_one();
        noted(&node);
        assert_eq!((asks(&node, 4000, end), answers(&node, B, 4000, FIN | ACK).0), (TO_B, TO_A));
        // B is still there, and new flows go to C.
        node.members[0].backend = 2;
        node.backends[1].standing = Word::settled(BACKEND_LISTED);
        node.tracked.flush(2);
        assert_eq!((asks(&node, 4000, SYN), answers(&node, C, 4000, SYN | ACK).0), (TO_C, TO_A));
        assert_eq!(asks(&node, 4000, ACK), TO_C);
    }
}

#[test]
fn an_answer_in_the_same_second_comes_from_the_service_that_was_asked_last() {
    let mut node = served_by_one();
    noted(&node);
    node.tracked.flush(2);
    node.frontends.push(Frontend { inside: Word::settled(1), ..Frontend::default() });
    node.services.insert(key(444, 6), 2);
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (4000, 444), SYN)), TO_B);
    for flags in [SYN | ACK, ACK] {
        let (verdict, state) = answers(&node, B, 4000, flags);
        assert_eq!((verdict, u16::from_be(state.translation.port)), (TO_A, 444));
    }
}

#[test]
fn an_answer_of_a_flow_straight_to_the_backend_is_not_taken_for_the_services() {
    let node = served_by_one();
    noted(&node);
    node.tracked.flush(2);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, TARGET), SYN)), TO_B);
    for flags in [SYN | ACK, ACK] {
        let (verdict, state) = answers(&node, B, 4000, flags);
        assert_eq!((verdict, state.translation.end), (TO_A, Translated::Nothing));
    }
}

#[test]
fn what_a_service_sends_to_its_own_sender_is_not_noted() {
    let mut node = served_by_one();
    node.backends[1].address = v4(2);
    let ask = |flags| asked(&node, flags).0;
    let answer = |flags| node.pod_sends(2, &tcp(A, VIP, (TARGET, 4000), flags));
    assert_eq!((ask(SYN), answer(SYN | ACK), ask(ACK)), (TO_A, TO_A, TO_A));
    for _ in 0..=2 * SHORT {
        assert_eq!((ask(ACK), answer(ACK)), (TO_A, TO_A));
    }
    assert!(node.notes.iter().all(|note| note.counted() == 0));
}
