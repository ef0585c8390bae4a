//! Torn and contradictory packets: dropped, counted, never read past their end.
//! In: packets cut at every length, and headers that lie. Out: `malformed`, nothing else.
//! Invariant: no byte of a torn packet reaches anybody.
//! Never: tries to make sense of one.

use crate::{
    cast::{CLIENT, DB, Family},
    frame::SYN,
    kernel::on_a_node,
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Fate, row, run, sends},
};
use abi::DropReason;
use model::{Direction, Protocol};

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

/// A TCP SYN to `port` behind hop-by-hop options, destination options and a fragment header of these bytes.
fn hidden(port: u16, fragment: [u8; 4]) -> Vec<u8> {
    let whole = CLIENT.tcp(Family::V6, DB, (40000, port), SYN).bytes();
    let headers = [&[60, 0, 1, 4, 0, 0, 0, 0], &[44, 0, 1, 4, 0, 0, 0, 0], &[6, 0][..], &fragment[2..], &[0, 0, 0, 9]];
    let headers = headers.concat();
    let mut frame = whole[..54].to_vec();
    frame[20] = 0;
    frame[18..20].copy_from_slice(&u16::try_from(20 + headers.len()).expect("short").to_be_bytes());
    frame.extend(headers);
    frame.extend(&whole[54..]);
    frame
}

#[test]
fn own_12_pkt_44_no_chain_of_headers_hides_a_denied_port() {
    let only_web = policy("web", Some("db"), &[Direction::Ingress]).ingress(allow().port(Protocol::TCP, 80));
    let scenario = scenario().policy(only_web);
    const ATOMIC: [u8; 4] = [0, 0, 0, 0];
    const FIRST: [u8; 4] = [0, 0, 0, 1];
    let denied = Fate::Drop(Some(DB), DropReason::IngressPolicy);
    let rows = vec![
        row("OWN-12 an allowed port", sends(CLIENT, |_| hidden(80, ATOMIC)), Fate::To(DB)).opens(2),
        row("OWN-12 an atomic fragment", sends(CLIENT, |_| hidden(22, ATOMIC)), denied).judged(2),
        row("OWN-12 a first fragment", sends(CLIENT, |_| hidden(22, FIRST)), denied).judged(2),
        row("PKT-46 a jumbogram that is none", sends(CLIENT, |_| jumbogram()), TORN),
    ];
    let rows = rows.into_iter().map(|row| row.only(V6)).collect();
    on_a_node(|| run(&scenario, rows));
}

/// A short packet whose length is said by the option for long ones (RFC 2675).
fn jumbogram() -> Vec<u8> {
    let whole = CLIENT.udp(Family::V6, DB, WEB, b"x").bytes();
    let mut frame = whole[..54].to_vec();
    frame[18..20].fill(0);
    frame[20] = 0;
    frame.extend([17, 0, 0xc2, 4, 0, 1, 0, 0]);
    frame.extend(&whole[54..]);
    frame
}

#[test]
fn pkt_46_what_has_no_ports_is_one_flow_both_ways() {
    let of = |protocol: u8| sends(CLIENT, move |f| CLIENT.ip(f, DB, protocol, vec![7; 24]).bytes());
    let back = |protocol: u8| sends(DB, move |f| DB.ip(f, CLIENT, protocol, vec![7; 24]).bytes());
    // ESP, GRE, the two numbers for experiments.
    let rows = [50, 47, 253, 254].into_iter().flat_map(|protocol| {
        [
            row("PKT-46 a protocol without ports", of(protocol), Fate::To(DB)).opens(2),
            row("PKT-46 and its answer", back(protocol), Fate::To(CLIENT)).given(vec![of(protocol)]),
        ]
    });
    let rows = rows.collect();
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_40_ipv4_options_do_not_hide_the_port() {
    let with_options = |f| CLIENT.tcp(f, DB, WEB, SYN).options(&[1, 1, 1, 0, 1, 1, 1, 0]).bytes();
    let with_a_route = |f| CLIENT.tcp(f, DB, WEB, SYN).options(&[137, 3, 4, 0]).bytes();
    let refused = Fate::Drop(Some(CLIENT), DropReason::RoutingHeader);
    let rows = vec![
        row("PKT-40", sends(CLIENT, with_options), Fate::To(DB)).opens(2).only(V4),
        row("PKT-40 a route in the shortest header with options", sends(CLIENT, with_a_route), refused).only(V4),
    ];
    on_a_node(|| run(&scenario(), rows));
}
