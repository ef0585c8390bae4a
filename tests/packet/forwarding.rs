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
        row("to its own address", sends(CLIENT, |f| CLIENT.tcp(f, CLIENT, WEB, SYN).bytes()), Fate::To(CLIENT))
            .opens(2)
            .check(|f, frame| routed(f, frame, CLIENT.mac.0, GATEWAY_MAC, 63)),
    ];
    on_a_node(|| run(&scenario(), rows));
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
