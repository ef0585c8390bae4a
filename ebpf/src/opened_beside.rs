//! What this node's own processes open to services, second part: who else is heard, errors, pieces.
//! In: the node of `opened`. Out: verdicts, translations.
//! Invariant: every row says what a process or an attacker would see; before each packet its twin says the same.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::Word;

use crate::fake::{Node, UPLINK, ipv4, tcp, udp, v4};
use crate::floating::{FLOAT, to_b};
use crate::gates::{HOST, PASSES};
use crate::opened::{FAR, LO, SOCKET, at, behind, connect, says, sends, way_to};
use crate::outside::UNTOUCHED;
use crate::services::{C, PORT, TARGET, VIP, key, served_by_one};
use crate::tracking::{ACK, B, OUTSIDE, SYN, TO_B};
use crate::translation::Translated;
use crate::walk::{Hook, Verdict};

#[test]
fn what_the_node_sends_to_an_address_that_floats_is_left_to_its_route_to_the_pod() {
    let node = to_b();
    for by in [UPLINK, LO] {
        let (fate, state) = sends(&node, by, &tcp(HOST, FLOAT, (4000, 80), SYN));
        assert_eq!((fate, state.translation.end), (UNTOUCHED, Translated::Nothing));
    }
    assert_eq!(node.flows().len(), 0);
}

#[test]
fn spf_1_nobody_else_is_heard_in_the_services_name() {
    let node = behind(Node::new(), VIP, FAR);
    connect(&node, FAR, 4000);
    let comes = |frame: &[u8]| at(&node, Hook::FromUplink, (UPLINK, UPLINK), frame).0;
    for (from, ports) in [((0, 202), (TARGET, 4000)), (FAR, (81, 4000)), (FAR, (TARGET, 4001))] {
        assert_eq!(comes(&tcp(from, 1, ports, ACK)), UNTOUCHED, "{from:?} {ports:?}");
    }
    // In its name nobody speaks but by loopback.
    assert_eq!(comes(&tcp((0, VIP), 1, (PORT, 4000), ACK)), Err(NoFlow));
    assert_eq!(comes(&tcp((0, VIP), 1, (PORT, 4001), ACK)), UNTOUCHED, "nobody asked");
    assert_eq!(node.pod_sends(3, &tcp((3, 201), 1, (TARGET, 4000), ACK)), Err(Spoofed));
    let node = served_by_one();
    connect(&node, B, 4000);
    assert_eq!(node.pod_sends(4, &tcp((4, 3), 1, (TARGET, 4000), ACK)), Err(Spoofed));
    let own = node.pod_sends(C.0, &tcp(C, 1, (TARGET, 4000), ACK));
    assert_eq!(own, Err(NoFlow));
}

#[test]
fn who_asks_a_process_of_the_node_from_outside_is_none_of_its_own_flows() {
    let mut node = behind(Node::new(), VIP, HOST);
    (node.frontends[0].outside, node.frontends[1].outside) = (Word::settled(1), Word::settled(1));
    assert_eq!(node.arrives(&tcp(OUTSIDE, VIP, (4000, PORT), SYN)), Ok(Verdict::ToHost));
    let answer = tcp(HOST, 200, (TARGET, 4000), SYN | ACK);
    assert_eq!(sends(&node, UPLINK, &answer).0, UNTOUCHED);
    assert_eq!(at(&node, Hook::ToUplink, (UPLINK, 0), &answer).0, PASSES, "the program beside it");
    assert_eq!(node.arrives(&udp(OUTSIDE, VIP, (4000, PORT))), Ok(Verdict::ToHost));
    let unreachable = [&[3, 3, 0, 0, 0, 0, 0, 0], &udp(OUTSIDE, 1, (4000, TARGET))[14..]].concat();
    assert_eq!(sends(&node, UPLINK, &ipv4(HOST, 200, 1, &unreachable)).0, UNTOUCHED);
}

#[test]
fn pkt_30_errors_about_what_the_node_asked_name_the_service_and_those_about_answers_the_backend() {
    let about =
        |from: (u32, u8), to: u8, what: &[u8]| ipv4(from, to, 1, &[&[3, 4, 0, 0, 0, 0, 5, 0], &what[14..]].concat());
    for (frontend, by) in [(VIP, UPLINK), (1, LO)] {
        for to in [B, FAR, HOST] {
            let node = behind(Node::new(), frontend, to);
            assert_eq!(sends(&node, by, &udp(HOST, frontend, (4000, PORT))).0, way_to(to));
            let question = udp(HOST, to.1, (4000, TARGET));
            let (fate, state) = says(&node, to, &about(to, 1, &question));
            let translation = &state.translation;
            assert_eq!((fate, translation.end), (SOCKET, Translated::QuotedDestination), "{frontend} {to:?}");
            assert_eq!((translation.frontend, u16::from_be(translation.port)), (v4(frontend), PORT));
            assert!(!translation.is_hairpin && state.packet.destination == v4(1));
            if to == FAR {
                let router = says(&node, FAR, &about((0, 77), 1, &question)).0;
                assert_eq!(router, SOCKET, "anybody on the way");
                let other = says(&node, FAR, &about((0, 77), 1, &udp(HOST, to.1, (4001, TARGET)))).0;
                assert_eq!(other, UNTOUCHED);
            }
            // The socket that asked is gone.
            let answer = udp((0, frontend), 1, (PORT, 4000));
            let (fate, state) = sends(&node, by, &about(HOST, frontend, &answer));
            assert_eq!((fate, state.translation.end), (way_to(to), Translated::QuotedSource), "{frontend} {to:?}");
            assert_eq!((state.packet.destination, state.translation.is_hairpin), (v4(to.1), false));
            let again = about(HOST, to.1, &udp(to, 1, (TARGET, 4000)));
            match to {
                B => assert_eq!(node.host_sends(3, &again), TO_B),
                FAR => assert_eq!(sends(&node, UPLINK, &again).0, UNTOUCHED),
                _ => {}
            }
        }
    }
}

#[test]
fn pkt_26_pieces_of_a_datagram_go_where_the_first_went() {
    for to in [B, FAR, HOST] {
        let node = behind(Node::new(), VIP, to);
        let piece = |from: (u32, u8), last: u8, offset: u8, more: u8, ports| {
            let mut frame = udp(from, last, ports);
            (frame[18], frame[19], frame[20], frame[21]) = (9, 9, more << 5, offset);
            frame
        };
        assert_eq!(sends(&node, UPLINK, &piece(HOST, VIP, 0, 1, (4000, PORT))).0, way_to(to));
        let (fate, state) = sends(&node, UPLINK, &piece(HOST, VIP, 9, 0, (5, 5)));
        assert_eq!((fate, state.packet.destination), (way_to(to), v4(to.1)));
        assert_eq!(says(&node, to, &piece(to, 1, 0, 1, (TARGET, 4000))).0, SOCKET);
        assert_eq!(says(&node, to, &piece(to, 1, 9, 0, (5, 5))).0, SOCKET);
    }
    let node = served_by_one();
    let mut orphan = udp(HOST, VIP, (5, 5));
    orphan[21] = 9;
    assert_eq!(sends(&node, UPLINK, &orphan).0, UNTOUCHED, "nobody is kept from anything here");
    assert_eq!(node.services.get(&key(PORT, 17)), Some(&1));
}
