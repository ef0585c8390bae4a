//! Torn and contradictory packets: dropped, counted, never read past their end.
//! In: packets cut at every length, and headers that lie. Out: `malformed`, nothing else.
//! Invariant: no byte of a torn packet reaches anybody.
//! Never: tries to make sense of one.

use crate::{
    cast::{CLIENT, DB, Family},
    frame::SYN,
    kernel::on_a_node,
    scenario::Scenario,
    table::{Fate, row, run, sends},
};
use abi::DropReason;

const TORN: Fate = Fate::Drop(Some(CLIENT), DropReason::Malformed);
const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const WEB: (u16, u16) = (40000, 80);

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

fn patched(at: usize, bytes: &'static [u8]) -> impl Fn(Family) -> Vec<u8> + Send {
    move |family| {
        let mut frame = CLIENT.tcp(family, DB, WEB, SYN).bytes();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    }
}

#[test]
fn pkt_41_a_packet_cut_anywhere_in_its_headers_is_dropped() {
    let lengths = |first: usize, headers: usize, family| (first..headers).map(move |len| (len, family));
    // The kernel runs no frame that is cut within its IP header; the stages' own tests do.
    let rows = lengths(34, 54, V4).chain(lengths(54, 74, V6)).map(|(len, family)| {
        row("cut", sends(CLIENT, move |f| CLIENT.tcp(f, DB, WEB, SYN).cut(len)), TORN).only(family)
    });
    let rows = rows.collect();
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_40_to_pkt_42_headers_that_lie_are_dropped() {
    let rows = vec![
        row("PKT-40 an IPv4 header of four words", sends(CLIENT, patched(14, &[0x44])), TORN).only(V4),
        row("PKT-40 an IPv4 header longer than the packet", sends(CLIENT, patched(14, &[0x4f])), TORN).only(V4),
        row("PKT-42 a total length beyond the frame", sends(CLIENT, patched(16, &[0x0f, 0xff])), TORN).only(V4),
        row("PKT-42 a total length below the header", sends(CLIENT, patched(16, &[0, 19])), TORN).only(V4),
        row("IPv6's number under IPv4's type", sends(CLIENT, patched(14, &[0x65])), TORN).only(V4),
        row("IPv4's number under IPv6's type", sends(CLIENT, patched(14, &[0x45])), TORN).only(V6),
        row("PKT-42 a payload beyond the frame", sends(CLIENT, patched(18, &[0x0f, 0xff])), TORN).only(V6),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_43_to_pkt_45_extension_headers_are_walked_to_their_end() {
    let extended = |next: u8, header: &'static [u8]| {
        move |family| {
            let whole = CLIENT.tcp(family, DB, WEB, SYN).bytes();
            let mut frame = whole[..54].to_vec();
            frame[20] = next;
            frame[18..20].copy_from_slice(&u16::try_from(20 + header.len()).expect("short").to_be_bytes());
            frame.extend(header);
            frame.extend(&whole[54..]);
            frame
        }
    };
    const OPTIONS: &[u8] = &[6, 0, 1, 4, 0, 0, 0, 0];
    const ROUTING_0: &[u8] = &[6, 0, 0, 0, 0, 0, 0, 0];
    const ATOMIC: &[u8] = &[6, 0, 0, 0, 0, 0, 0, 1];
    const AUTHENTICATION: &[u8] = &[6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const ENDLESS: &[u8] = &[6, 255, 0, 0, 0, 0, 0, 0];
    let to_db = Fate::To(DB);
    let rows = vec![
        row("PKT-43 hop-by-hop", sends(CLIENT, extended(0, OPTIONS)), to_db).opens(2),
        row("PKT-43 destination options", sends(CLIENT, extended(60, OPTIONS)), to_db).opens(2),
        row("PKT-23 an atomic fragment", sends(CLIENT, extended(44, ATOMIC)), to_db).opens(2),
        row("PKT-43 authentication", sends(CLIENT, extended(51, AUTHENTICATION)), to_db).opens(2),
        row(
            "PKT-45 routing type 0",
            sends(CLIENT, extended(43, ROUTING_0)),
            Fate::Drop(Some(CLIENT), DropReason::RoutingHeader),
        ),
        row("PKT-44 options beyond the packet", sends(CLIENT, extended(60, ENDLESS)), TORN),
    ];
    let rows = rows.into_iter().map(|row| row.only(V6)).collect();
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_40_ipv4_options_do_not_hide_the_port() {
    let with_options = |f| CLIENT.tcp(f, DB, WEB, SYN).options(&[1, 1, 1, 0, 1, 1, 1, 0]).bytes();
    let rows = vec![row("PKT-40", sends(CLIENT, with_options), Fate::To(DB)).opens(2).only(V4)];
    on_a_node(|| run(&scenario(), rows));
}
