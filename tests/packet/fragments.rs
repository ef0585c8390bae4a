//! Fragments: the first carries ports and verdict, the later ones follow it or are dropped.
//! In: a UDP packet in pieces, in every order. Out: the same fate for all pieces of an allowed packet.
//! Invariant: no piece passes whose first piece was not let through, or that lies over it.
//! Never: reads ports from a later piece.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, Fate, Hook, Step, arrives, row, run, sends},
};
use abi::{
    DropReason,
    fragment::{LIFE_V4_S, LIFE_V6_S},
};
use model::{Direction, Protocol};

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];

fn scenario() -> Scenario {
    let rule = allow().port(Protocol::UDP, 53);
    let dns = policy("dns", Some("db"), &[Direction::Ingress]).ingress(rule);
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(dns)
}

/// Piece of a 64-byte datagram to `port`.
fn piece(port: u16, offset: u16, more: bool) -> Step {
    sends(CLIENT, move |f| CLIENT.udp(f, DB, (40000, port), &[7; 56]).fragment(offset, 32, more).bytes())
}

/// Piece of an echo request of 64 bytes.
fn ping(offset: u16, more: bool) -> Step {
    sends(CLIENT, move |f| {
        let message = [&[if f == Family::V4 { 8 } else { 128 }, 0, 0, 0, 0, 7, 0, 1][..], &[7; 56]].concat();
        CLIENT.icmp(f, OTHER, message).fragment(offset, 32, more).bytes()
    })
}

#[test]
fn pkt_20_to_pkt_22_later_fragments_follow_their_first() {
    let lost = Fate::Drop(Some(CLIENT), DropReason::FragmentBeforeFirst);
    let rows = vec![
        row("PKT-20 the first opens the flow", piece(53, 0, true), Fate::To(DB)).opens(2),
        row("PKT-20 the last follows", piece(53, 4, false), Fate::To(DB)).given(vec![piece(53, 0, true)]),
        row("PKT-21 the last comes first", piece(53, 4, false), lost),
        row(
            "PKT-21 another pod's last",
            sends(OTHER, |f| OTHER.udp(f, DB, (40000, 53), &[7; 56]).fragment(4, 32, false).bytes()),
            Fate::Drop(Some(OTHER), DropReason::FragmentBeforeFirst),
        )
        .given(vec![piece(53, 0, true)]),
        row(
            "PKT-21 another protocol's last",
            sends(CLIENT, |f| CLIENT.ip(f, DB, 253, vec![7; 64]).fragment(4, 32, false).bytes()),
            lost,
        )
        .given(vec![piece(53, 0, true)]),
        row("PKT-20 the last of an echo request", ping(4, false), Fate::To(OTHER)).given(vec![ping(0, true)]),
        row(
            "PKT-20 the first of a refused packet",
            piece(54, 0, true),
            Fate::Drop(Some(DB), DropReason::IngressPolicy),
        )
        .judged(2),
        row("PKT-20 and its last", piece(54, 4, false), lost).given(vec![piece(54, 0, true)]),
        row(
            "PKT-22 a first piece too short for its ports",
            sends(CLIENT, |f| CLIENT.udp(f, DB, (40000, 53), &[7; 56]).fragment(0, 4, true).bytes()),
            Fate::Drop(Some(CLIENT), DropReason::Malformed),
        ),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_22_pkt_23_no_fragment_lies_over_its_first() {
    let over = Fate::Drop(Some(CLIENT), DropReason::FragmentOverlap);
    let first = || vec![piece(53, 0, true)];
    let tiny =
        |length| sends(CLIENT, move |f| CLIENT.udp(f, DB, (40000, 53), &[7; 56]).fragment(0, length, true).bytes());
    let second =
        |offset| sends(CLIENT, move |f| CLIENT.udp(f, DB, (40000, 53), &[9; 56]).fragment(offset, 8, true).bytes());
    let longer = || sends(CLIENT, |f| CLIENT.udp(f, DB, (40000, 53), &[9; 56]).fragment(0, 40, true).bytes());
    let rows = vec![
        row("PKT-22 a later one over the first's last bytes", second(3), over).given(first()),
        row("PKT-22 a later one over the ports", second(1), over).given(first()),
        row("PKT-22 one that begins where the first ends", second(4), Fate::To(DB)).given(first()),
        row("PKT-22 a first that holds its ports and no more", tiny(8), Fate::To(DB)).opens(2),
        row("PKT-22 and what follows it", second(1), Fate::To(DB)).given(vec![tiny(8)]),
        row("PKT-22 a first of half a unit more ends with it", second(1), over).given(vec![tiny(12)]),
        row("PKT-20 the same first once more", piece(53, 0, true), Fate::To(DB)).given(first()),
        row("PKT-23 a first over the first", longer(), over).given(first()).only(V6),
        row("PKT-23 with it the whole packet is lost", piece(53, 4, false), over)
            .given(vec![piece(53, 0, true), longer()])
            .only(V6),
        row("PKT-23 with any overlap the whole packet is lost", piece(53, 4, false), over)
            .given(vec![piece(53, 0, true), second(3)])
            .only(V6),
        row("PKT-20 of IPv4 an identification comes again", longer(), Fate::To(DB)).given(first()).only(V4),
        row("PKT-20 and an overlap costs only itself", piece(53, 4, false), Fate::To(DB))
            .given(vec![piece(53, 0, true), second(3)])
            .only(V4),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_25_a_first_fragment_is_remembered_as_long_as_a_receiver_waits_for_the_rest() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let part =
            |family, offset, more| CLIENT.udp(family, DB, (40000, 53), &[7; 56]).fragment(offset, 32, more).bytes();
        for (family, life_s) in [(Family::V4, LIFE_V4_S), (Family::V6, LIFE_V6_S)] {
            for (age_s, fate) in [(life_s - 1, Action::Redirect), (life_s + 2, Action::Drop)] {
                kernel.fresh();
                assert_eq!(kernel.run(Hook::Pod(CLIENT), &part(family, 0, true)).action, Action::Redirect);
                kernel.age_fragments(age_s);
                let last = kernel.run(Hook::Pod(CLIENT), &part(family, 4, false)).action;
                assert_eq!(last, fate, "{family:?} after {age_s} s");
            }
        }
    });
}

#[test]
fn own_9_a_later_fragment_of_a_flow_that_was_cut_is_dropped() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.commit(&scenario());
            kernel.fresh();
            let part = |offset, more| CLIENT.udp(family, DB, (40000, 53), &[7; 56]).fragment(offset, 32, more).bytes();
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &part(0, true)).action, Action::Redirect);
            kernel.commit(&scenario().policy(policy("dns", Some("db"), &[Direction::Ingress])));
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &part(4, false)).action, Action::Drop, "{family:?}");
            assert!(kernel.seen().drops.keys().any(|(_, reason)| *reason == DropReason::FlowRefused), "{family:?}");
        }
    });
}

#[test]
fn pkt_20_pkt_21_fragments_from_outside() {
    let piece = |to: Actor, offset, more| {
        arrives(move |f| {
            let datagram = OUTSIDE.udp(f, to, (40000, 53), &[7; 56]).with_destination_mac(NODE.mac.0);
            datagram.fragment(offset, 32, more).bytes()
        })
    };
    let rows = vec![
        row("PKT-20 the first opens the flow", piece(DB, 0, true), Fate::To(DB)).opens(1),
        row("PKT-20 the last follows", piece(DB, 4, false), Fate::To(DB)).given(vec![piece(DB, 0, true)]),
        row("PKT-21 the last comes first", piece(DB, 4, false), Fate::Drop(Some(DB), DropReason::FragmentBeforeFirst)),
        row("PKT-21 the node's own are the stack's", piece(NODE, 4, false), Fate::Host),
    ];
    on_a_node(|| run(&scenario(), rows));
}
