//! Fragments: the first carries ports and verdict, the later ones follow it or are dropped.
//! In: a UDP packet in pieces, in every order. Out: the same fate for all pieces of an allowed packet.
//! Invariant: no piece passes whose first piece was not let through.
//! Never: reads ports from a later piece.

use crate::{
    cast::{Actor, CLIENT, DB, NODE, OTHER, OUTSIDE},
    kernel::on_a_node,
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Fate, Step, arrives, row, run, sends},
};
use abi::DropReason;
use model::{Direction, Protocol};

fn scenario() -> Scenario {
    let rule = allow().port(Protocol::UDP, 53);
    let dns = policy("dns", Some("db"), &[Direction::Ingress]).ingress(rule);
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(dns)
}

/// Piece of a 64-byte datagram to `port`.
fn piece(port: u16, offset: u16, more: bool) -> Step {
    sends(CLIENT, move |f| CLIENT.udp(f, DB, (40000, port), &[7; 56]).fragment(offset, 32, more).bytes())
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
