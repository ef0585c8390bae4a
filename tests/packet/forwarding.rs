//! Forwarding: what a packet looks like when it leaves the program.
//! In: allowed packets to a pod, to the node, to elsewhere. Out: MACs, TTL, checksum.
//! Invariant: one hop is one hop: TTL or hop limit falls by one, and an IPv4 header stays right.
//! Never: forwards what the pod may not send at all (multicast, tunnels, foreign frames).

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{GATEWAY_MAC, SYN, fold, sum_of},
    kernel::on_a_node,
    scenario::Scenario,
    table::{Fate, row, run, sends},
};
use abi::DropReason;

const WEB: (u16, u16) = (40000, 80);

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

/// What a DHCP client sends before it has an address.
fn dhcp(family: Family) -> Vec<u8> {
    if family == Family::V4 {
        let frame = CLIENT.udp(family, DB, (68, 67), b"x").with_source("0.0.0.0").with_destination("255.255.255.255");
        frame.with_destination_mac([0xff; 6]).bytes()
    } else {
        let frame = CLIENT.udp(family, DB, (546, 547), b"x").with_source("fe80::2").with_destination("ff02::1:2");
        frame.with_destination_mac([0x33, 0x33, 0, 1, 0, 2]).bytes()
    }
}

fn routed(family: Family, frame: &[u8], destination: [u8; 6], source: [u8; 6], hops: u8) -> Result<(), String> {
    if frame[..6] != destination || frame[6..12] != source {
        return Err(format!("its MACs are {:02x?}", &frame[..12]));
    }
    let ttl = if family == Family::V4 { frame[22] } else { frame[21] };
    if ttl != hops {
        return Err(format!("its TTL is {ttl}"));
    }
    if family == Family::V4 && fold(sum_of(&frame[14..34])) != 0 {
        return Err("its IPv4 checksum is wrong".into());
    }
    Ok(())
}

#[test]
fn pkt_34_a_forwarded_packet_is_one_hop_older() {
    let rows = vec![
        row("to a pod here", sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, SYN).bytes()), Fate::To(DB))
            .opens(2)
            .check(|f, frame| routed(f, frame, DB.mac.0, GATEWAY_MAC, 63)),
        row(
            "to elsewhere by the routing table",
            sends(CLIENT, |f| CLIENT.tcp(f, OUTSIDE, WEB, SYN).bytes()),
            Fate::Answered,
        )
        .opens(1)
        .check(|f, frame| routed(f, frame, OUTSIDE.mac.0, NODE.mac.0, 63)),
        row("to the node itself", sends(CLIENT, |f| CLIENT.tcp(f, NODE, WEB, SYN).bytes()), Fate::Host).opens(1),
        row(
            "OWN-5 to its own address, by the wire",
            sends(CLIENT, |f| CLIENT.tcp(f, CLIENT, WEB, SYN).bytes()),
            Fate::To(CLIENT),
        )
        .opens(2)
        .check(|f, frame| routed(f, frame, CLIENT.mac.0, GATEWAY_MAC, 63)),
    ];
    on_a_node(|| run(&scenario(), rows));
}

/// The same frame with another type of service or traffic class.
fn marked(family: Family, class: u8) -> Vec<u8> {
    let mut bytes = CLIENT.udp(family, DB, WEB, b"x").bytes();
    if family == Family::V6 {
        bytes[14..18].copy_from_slice(&[0x60 | class >> 4, class << 4 | 0x0a, 0xbc, 0xde]);
        return bytes;
    }
    bytes[15] = class;
    let sum = fold(sum_of(&[&bytes[14..24], &bytes[26..34]].concat()));
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Everything behind the IP header, which no hop may change.
fn same_payload(family: Family, frame: &[u8], sent: &[u8]) -> Result<(), String> {
    let at = if family == Family::V4 { 34 } else { 54 };
    if frame[at..] == sent[at..] { Ok(()) } else { Err(format!("its payload is {:02x?}", &frame[at..])) }
}

fn wrong_checksum(family: Family) -> Vec<u8> {
    let mut bytes = CLIENT.tcp(family, DB, WEB, SYN).bytes();
    let at = bytes.len() - 4;
    bytes[at] ^= 0x55;
    bytes
}

#[test]
fn pkt_47_pkt_59_pkt_62_what_a_hop_must_leave_as_it_is() {
    const EXPEDITED_AND_CONGESTED: u8 = 46 << 2 | 3;
    let rows = vec![
        row("PKT-62 DSCP, ECN and flow label", sends(CLIENT, |f| marked(f, EXPEDITED_AND_CONGESTED)), Fate::To(DB))
            .opens(2)
            .check(|f, frame| {
                let sent = marked(f, EXPEDITED_AND_CONGESTED);
                let (from, to) = if f == Family::V4 { (14, 16) } else { (14, 18) };
                if frame[from..to] != sent[from..to] {
                    return Err(format!("its class is {:02x?}", &frame[from..to]));
                }
                routed(f, frame, DB.mac.0, GATEWAY_MAC, 63)
            }),
        row("PKT-47 a wrong checksum is not put right", sends(CLIENT, wrong_checksum), Fate::To(DB))
            .opens(2)
            .check(|f, frame| same_payload(f, frame, &wrong_checksum(f))),
        row(
            "PKT-59 an SCTP packet with its sum",
            sends(CLIENT, |f| CLIENT.sctp_init(f, DB, WEB).bytes()),
            Fate::To(DB),
        )
        .opens(2)
        .check(|f, frame| same_payload(f, frame, &CLIENT.sctp_init(f, DB, WEB).bytes())),
        row("PKT-40 a harmless option", sends(CLIENT, |f| with_options(f, &[148, 4, 0, 0])), Fate::To(DB))
            .opens(2)
            .only(&[Family::V4])
            .check(|_, frame| {
                let right = fold(sum_of(&frame[14..38])) == 0 && frame[34..38] == [148, 4, 0, 0];
                if right { Ok(()) } else { Err(format!("its header is {:02x?}", &frame[14..38])) }
            }),
    ];
    on_a_node(|| run(&scenario(), rows));
}

fn with_options(family: Family, options: &[u8]) -> Vec<u8> {
    CLIENT.udp(family, DB, WEB, b"x").options(options).bytes()
}

#[test]
fn pkt_40_an_ipv4_packet_does_not_choose_its_way() {
    let refused = Fate::Drop(Some(CLIENT), DropReason::RoutingHeader);
    let torn = Fate::Drop(Some(CLIENT), DropReason::Malformed);
    let from = |options: &'static [u8]| sends(CLIENT, move |f| with_options(f, options));
    let rows = vec![
        row("PKT-40 a loose source route", from(&[131, 7, 4, 192, 0, 2, 9, 0]), refused),
        row("PKT-40 a strict source route", from(&[137, 7, 4, 192, 0, 2, 9, 0]), refused),
        row("PKT-40 a source route behind others", from(&[1, 7, 7, 4, 0, 0, 0, 0, 131, 3, 4, 0]), refused),
        row("PKT-40 an option without a length", from(&[7, 0, 4, 0]), torn),
        row("PKT-40 an option beyond the header", from(&[7, 40, 4, 0]), torn),
        row("PKT-40 a recorded route that looks like one", from(&[7, 7, 4, 131, 137, 131, 137, 0]), Fate::To(DB))
            .opens(2),
    ];
    on_a_node(|| run(&scenario(), rows.into_iter().map(|row| row.only(&[Family::V4])).collect()));
}

#[test]
fn pkt_50_to_pkt_56_what_a_pod_may_not_send_at_all() {
    let drop = |reason| Fate::Drop(Some(CLIENT), reason);
    let plain = |f| CLIENT.udp(f, DB, WEB, b"x").bytes();
    let ethertype = move |kind: [u8; 2]| {
        move |f| {
            let mut bytes = plain(f);
            bytes[12..14].copy_from_slice(&kind);
            bytes
        }
    };
    let rows = vec![
        row("PKT-51 LLDP", sends(CLIENT, ethertype([0x88, 0xcc])), drop(DropReason::NotIp)),
        row("PKT-51 MPLS", sends(CLIENT, ethertype([0x88, 0x47])), drop(DropReason::NotIp)),
        row("PKT-51 MPLS for a group", sends(CLIENT, ethertype([0x88, 0x48])), drop(DropReason::NotIp)),
        row("PKT-51 PPPoE discovery", sends(CLIENT, ethertype([0x88, 0x63])), drop(DropReason::NotIp)),
        row("PKT-51 PPPoE", sends(CLIENT, ethertype([0x88, 0x64])), drop(DropReason::NotIp)),
        row("PKT-51 EAPOL", sends(CLIENT, ethertype([0x88, 0x8e])), drop(DropReason::NotIp)),
        row("PKT-51 reverse ARP", sends(CLIENT, ethertype([0x80, 0x35])), drop(DropReason::NotIp)),
        row("PKT-51 an IEEE 802.3 length", sends(CLIENT, ethertype([0x00, 0x26])), drop(DropReason::NotIp)),
        row("PKT-50 a VLAN tag", sends(CLIENT, ethertype([0x81, 0x00])), drop(DropReason::Vlan)),
        row("PKT-50 a service tag", sends(CLIENT, ethertype([0x88, 0xa8])), drop(DropReason::Vlan)),
        row(
            "PKT-52 another MAC than the gateway's",
            sends(CLIENT, |f| CLIENT.udp(f, DB, WEB, b"x").with_destination_mac(OTHER.mac.0).bytes()),
            drop(DropReason::WrongMac),
        ),
        row(
            "PKT-56 VXLAN",
            sends(CLIENT, |f| CLIENT.udp(f, OUTSIDE, (9, 4789), b"x").bytes()),
            drop(DropReason::Encapsulated),
        ),
        row(
            "PKT-56 IPIP",
            sends(CLIENT, |f| CLIENT.ip(f, OUTSIDE, 4, vec![0x45; 20]).bytes()),
            drop(DropReason::Encapsulated),
        ),
        row(
            "PKT-53 multicast",
            sends(CLIENT, |f| {
                CLIENT
                    .udp(f, DB, WEB, b"x")
                    .with_destination(if f == Family::V4 { "224.0.0.5" } else { "ff02::5" })
                    .bytes()
            }),
            drop(DropReason::Multicast),
        ),
        row("PKT-53 DHCP", sends(CLIENT, dhcp), drop(DropReason::Multicast)),
        row(
            "PKT-53 a network's own broadcast address is the stack's, after the sender's rules",
            sends(CLIENT, |f| CLIENT.udp(f, DB, (68, 67), b"x").with_destination("192.0.2.255").bytes()),
            Fate::Host,
        )
        .opens(1)
        .only(&[Family::V4]),
        row(
            "PKT-53 broadcast",
            sends(CLIENT, |f| {
                CLIENT
                    .udp(f, DB, (68, 67), b"x")
                    .with_destination("255.255.255.255")
                    .with_destination_mac([0xff; 6])
                    .bytes()
            }),
            drop(DropReason::Multicast),
        )
        .only(&[Family::V4]),
    ];
    on_a_node(|| run(&scenario(), rows));
}
