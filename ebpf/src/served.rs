//! Flows through services as a specification: how long each goes where it went, and who shares ports with whom.
//! In: the node of `services`, time, backends that go. Out: verdicts, entries, accounts.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use abi::DropReason::*;
use abi::service::BACKEND_LISTED;
use abi::{Backend, Member, Timeout, Word};
use core::mem;

use crate::accounts::check;
use crate::fake::{Node, tcp, udp, v4};
use crate::tracking::{A, ACK, B, FIN, RST, SYN, TO_A, TO_B, later};
use crate::translation::Translated;
use crate::walk::{Hook, Verdict};

use crate::services::*;

#[test]
fn the_flows_of_a_backend_that_is_gone_end_and_those_of_one_that_is_only_not_chosen_live_on() {
    let mut node = served_by_one();
    connect(&node, 4000);
    assert_eq!(asks_udp(&node, 4000), TO_B);
    node.members[0].backend = 2;
    node.backends[1].standing = Word::settled(BACKEND_LISTED);
    assert_eq!((asks(&node, 4000, ACK), asks_udp(&node, 4000)), (TO_B, TO_B), "terminating, and still there");
    assert_eq!((asks(&node, 4001, SYN), asks_udp(&node, 4001)), (TO_C, TO_C));
    node.backends[1].standing = Word::settled(0);
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), ACK));
    assert_eq!((verdict, state.slot, state.translation.is_silent), (Err(BackendGone), 2, false));
    assert_eq!(state.packet.destination, v4(VIP), "it is the service that says so");
    assert_eq!(asks_udp(&node, 4000), TO_C, "a datagram goes to another");
    assert_eq!(asks_udp(&node, 4000), TO_C);
    assert_eq!(asks(&node, 4000, SYN), TO_C, "and so does a new connection");
    assert_eq!(node.pod_sends(3, &tcp((3, 2), VIP, (4000, PORT), ACK)), Err(Spoofed), "nobody hears it for another");
}

#[test]
fn a_slot_that_means_another_backend_now_serves_no_flow_of_the_former() {
    let mut node = served_by_one();
    connect(&node, 4000);
    node.generation.set(9);
    node.backends[1] = Backend { born: 9, ..backend(4, STANDS) };
    assert_eq!(asks(&node, 4000, ACK), Err(BackendGone));
    assert_eq!(asks(&node, 4001, SYN), TO_C);
}

#[test]
fn a_segment_of_a_connection_that_nobody_knows_is_refused_and_a_reset_is_not_answered() {
    let node = served();
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, FIN | ACK)), (Err(BackendGone), Err(BackendGone)));
    assert_eq!(asks(&node, 4000, RST), Err(NoFlow));
    assert_eq!(node.pod_sends(2, &tcp(A, VIP, (4000, 444), ACK)), Err(NoFlow));
}

#[test]
fn a_client_keeps_to_its_backend_until_it_was_silent_for_too_long() {
    let mut node = served();
    node.balancers[1].affinity_s = 100;
    let first = asks(&node, 4000, SYN);
    assert!((4001..4020).all(|port| asks(&node, port, SYN) == first && asks_udp(&node, port) == first));
    let of_b: Vec<_> = (5000..5010).map(|port| node.pod_sends(3, &tcp(B, VIP, (port, PORT), SYN))).collect();
    assert!(of_b.iter().all(|verdict| *verdict == of_b[0]), "{of_b:?}");
    later(&node, 101);
    let after: Vec<_> =
        [6000, 6001].map(|port| (node.chance.set(u32::from(port == 6000) << 31), asks(&node, port, SYN)).1).into();
    assert_eq!(after[0], after[1], "and keeps to the next");
    let (other, others) = if after[0] == TO_B { (1, TO_C) } else { (2, TO_B) };
    node.backends[other].standing = Word::settled(BACKEND_LISTED);
    node.members = [3 - other as u32; 2].map(|backend| Member { backend, pad: 0 }).into();
    assert_eq!(asks(&node, 6002, SYN), others, "one that is not chosen any more is kept to no longer");
}

#[test]
fn two_flows_that_would_share_ports_at_one_backend_go_to_two_or_the_later_is_refused() {
    let node = served();
    // To B itself, from the port that then asks the service.
    for port in 4000..4010 {
        assert_eq!(node.pod_sends(2, &tcp(A, 3, (port, TARGET), SYN)), TO_B);
        assert_eq!(asks(&node, port, SYN), TO_C, "port {port}");
    }
    let node = served_by_one();
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4000, TARGET), SYN)), TO_B);
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), SYN));
    assert_eq!((verdict, state.slot), (Err(NatCollision), 2));
    connect(&node, 4001);
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (4001, TARGET), SYN)), Err(NatCollision), "the other way round");
    assert_eq!(asks(&node, 4001, ACK), TO_B);
}

#[test]
fn a_flow_that_was_straight_to_a_backend_and_is_just_over_leaves_no_note_for_the_service() {
    let straight = |node: &Node, flags| node.pod_sends(2, &tcp(A, 3, (4000, TARGET), flags));
    for (node, now) in [(served_by_one(), Err(NatCollision)), (served(), TO_C)] {
        assert_eq!(
            (straight(&node, SYN), answers(&node, B, 4000, SYN | ACK).0, straight(&node, ACK)),
            (TO_B, TO_A, TO_B)
        );
        assert_eq!((straight(&node, FIN | ACK), answers(&node, B, 4000, FIN | ACK).0), (TO_B, TO_A));
        assert_eq!(asks(&node, 4000, SYN), now);
    }
    let node = served_by_one();
    assert_eq!((straight(&node, SYN), answers(&node, B, 4000, SYN | ACK).0, straight(&node, ACK)), (TO_B, TO_A, TO_B));
    assert_eq!((straight(&node, FIN | ACK), answers(&node, B, 4000, FIN | ACK).0), (TO_B, TO_A));
    later(&node, 2);
    assert_eq!(asks(&node, 4000, SYN), TO_B);
}

#[test]
fn what_was_sent_to_an_address_before_it_was_a_services_and_nobody_answered_goes_to_the_service_when_sent_again() {
    let mut node = served_by_one();
    let there = mem::replace(&mut node.frontends[1].inside, Word::settled(0));
    let by_route = Ok(Verdict::ByRoute);
    assert_eq!([asks(&node, 4000, SYN), asks_udp(&node, 53), asks_udp(&node, 54)], [by_route; 3]);
    assert_eq!(asks(&node, 4001, SYN), by_route);
    // Somebody has the address, and answers there.
    node.arrives(&udp((0, VIP), 2, (PORT, 54))).expect("part of the flow");
    node.frontends[1].inside = there;
    assert_eq!([asks(&node, 4000, SYN), asks_udp(&node, 53)], [TO_B; 2]);
    assert_eq!(asks_udp(&node, 54), by_route, "who is answered is served");
    assert_eq!(asks(&node, 4001, ACK), by_route, "it does not begin anew");
    answers(&node, B, 4000, SYN | ACK).0.expect("part of the flow");
    assert_eq!(asks(&node, 4000, ACK), TO_B);
    check(&node, "what leads lies where the flow was");
}

#[test]
fn what_leads_to_a_flow_lives_as_long_as_the_flow_and_leaves_with_it() {
    let node = served_by_one();
    connect(&node, 4000);
    // A long answer: the client says nothing.
    for _ in 0..3 {
        later(&node, Timeout::TcpEstablished as u32 * 1000);
        assert_eq!(answers(&node, B, 4000, ACK).0, TO_A);
        node.cursor_goes_round();
        check(&node, "services");
    }
    assert_eq!(asks(&node, 4000, ACK), TO_B);
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.tickets().is_empty());
    assert!(node.tracked.accounts().is_empty());
}

#[test]
fn a_port_that_is_used_again_begins_a_flow_of_its_own() {
    let mut node = served_by_one();
    connect(&node, 4000);
    assert_eq!((asks(&node, 4000, FIN | ACK), answers(&node, B, 4000, FIN | ACK).0), (TO_B, TO_A));
    node.members[0].backend = 2;
    node.backends[1].standing = Word::settled(0);
    assert_eq!(asks(&node, 4000, SYN), TO_C);
    assert_eq!(answers(&node, C, 4000, SYN | ACK).0, TO_A);
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, ACK)), (TO_C, TO_C));
    check(&node, "services");
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn a_flood_of_half_open_flows_takes_no_kept_one_and_its_way() {
    let node = served_by_one();
    connect(&node, 4000);
    for port in 0..500 {
        assert_eq!(asks(&node, 5000 + port, SYN), TO_B);
    }
    assert_eq!((asks(&node, 4000, ACK), answers(&node, B, 4000, ACK).0), (TO_B, TO_A));
}

#[test]
fn own_5_cnp_30_a_pod_that_a_service_sends_to_itself_is_judged_and_hears_the_service_at_both_ends() {
    let mut node = served_by_one();
    node.backends[1].address = v4(2);
    let asks = |node: &Node, flags| node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (4000, PORT), flags));
    let answers = |node: &Node, flags| node.run(Hook::FromWorkload, 2, 2, &tcp(A, VIP, (TARGET, 4000), flags));
    let (verdict, state) = asks(&node, SYN);
    assert_eq!((verdict, state.translation.end, state.translation.sends_back()), (TO_A, Translated::Destination, true));
    assert_eq!((state.packet.source, state.packet.destination), (v4(VIP), v4(2)), "as the service, to itself");
    let (verdict, state) = answers(&node, SYN | ACK);
    assert_eq!((verdict, state.translation.end, state.translation.sends_back()), (TO_A, Translated::Source, true));
    assert_eq!(u16::from_be(state.translation.port), PORT);
    assert_eq!((asks(&node, ACK).0, answers(&node, ACK).0, asks(&node, ACK).0), (TO_A, TO_A, TO_A));
    check(&node, "hairpin");
    assert_eq!(node.tracked.kept().len(), 2);
    // What leads there stays as long as the flow does.
    node.cursor_goes_round();
    assert_eq!(node.tracked.kept().len(), 2);
    node.change_ingress(2, 0);
    assert_eq!((asks(&node, ACK).0, answers(&node, ACK).0), (Err(FlowRefused), Err(FlowRefused)));
    let (verdict, mut state) = asks(&node, SYN);
    assert_eq!(verdict, Err(IngressPolicy), "its own rules count");
    state.swap_ends();
    assert_eq!(
        (state.packet.source, state.packet.destination),
        (v4(2), v4(VIP)),
        "what it is told about is what it sent"
    );
    later(&node, 4000);
    node.cursor_goes_round();
    node.cursor_goes_round();
    assert!(node.tracked.kept().is_empty() && node.tracked.accounts().is_empty());
}

#[test]
fn a_flow_is_counted_once_at_its_frontend_and_backend_and_a_refusal_for_who_sends_as_himself() {
    let mut node = served_by_one();
    connect(&node, 4000);
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4001, SYN), asks(&node, 4001, SYN)), (TO_B, TO_B, TO_B));
    assert_eq!(node.counted.borrow().opened, [((1, 1), 2)].into(), "however many packets");
    assert_eq!((asks(&node, 4000, FIN | ACK), answers(&node, B, 4000, FIN | ACK).0), (TO_B, TO_A));
    assert_eq!(asks(&node, 4000, SYN), TO_B);
    assert_eq!(node.counted.borrow().opened, [((1, 1), 3)].into(), "its port is used again");
    node.change_ingress(3, 0);
    assert_eq!(asks(&node, 4002, SYN), Err(IngressPolicy));
    assert_eq!(node.counted.borrow().opened, [((1, 1), 3)].into(), "what policy refuses is no flow");
    node.balancers[1].len = 0;
    assert_eq!((asks(&node, 4003, SYN), asks_udp(&node, 4003)), (Err(NoBackend), Err(NoBackend)));
    assert_eq!(node.pod_sends(3, &tcp((3, 2), VIP, (4000, PORT), SYN)), Err(Spoofed));
    assert_eq!(node.counted.borrow().refused, [(1, 2)].into());
}
