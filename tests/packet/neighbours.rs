//! ARP and neighbour discovery at the pod's boundary: answered by the program, from tables alone.
//! In: requests of a pod. Out: the reply's every field, or silence with a reason.
//! Invariant: a pod's own address, probes and announcements are never answered (PKT-2, PKT-3, PKT-7); a claim to the
//! gateway's address is.
//! Never: depends on a route or on proxy_arp; the node here has neither for these targets.

use crate::{
    cast::{CLIENT, DB, Family},
    frame::{Frame, GATEWAY_MAC, arp, fold, listener_report, solicitation, sum_of},
    kernel::on_a_node,
    scenario::Scenario,
    table::{Fate, row, run, sends},
};
use abi::{DropReason, endpoint::GATEWAY_V6};
use std::net::IpAddr;

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const GROUP: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const UNANSWERED: Fate = Fate::Drop(Some(CLIENT), DropReason::NeighbourUnanswered);

fn v4(actor: crate::cast::Actor) -> [u8; 4] {
    match actor.address(Family::V4) {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("asked for IPv4"),
    }
}

fn v6(actor: crate::cast::Actor) -> [u8; 16] {
    match actor.address(Family::V6) {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(_) => unreachable!("asked for IPv6"),
    }
}

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

#[test]
fn pkt_1_pkt_2_arp_is_answered_for_every_target_but_the_askers_own() {
    let rows = || {
        vec![
            row("PKT-1 the gateway", sends(CLIENT, |_| arp(CLIENT, 1, v4(CLIENT), [169, 254, 1, 1])), Fate::Answered)
                .check(|_, reply| is_arp_reply(reply, [169, 254, 1, 1])),
            row("PKT-2 another pod", sends(CLIENT, |_| arp(CLIENT, 1, v4(CLIENT), v4(DB))), Fate::Answered)
                .check(|_, reply| is_arp_reply(reply, v4(DB))),
            row(
                "PKT-2 somebody nobody knows",
                sends(CLIENT, |_| arp(CLIENT, 1, v4(CLIENT), [203, 0, 113, 7])),
                Fate::Answered,
            )
            .check(|_, reply| is_arp_reply(reply, [203, 0, 113, 7])),
            row("PKT-2 its own address", sends(CLIENT, |_| arp(CLIENT, 1, v4(DB), v4(CLIENT))), UNANSWERED),
            row("PKT-2 an address probe", sends(CLIENT, |_| arp(CLIENT, 1, [0; 4], v4(CLIENT))), UNANSWERED),
            row("PKT-2 a probe for another", sends(CLIENT, |_| arp(CLIENT, 1, [0; 4], [10, 65, 0, 77])), UNANSWERED),
            row(
                "PKT-7 a probe for the gateway's address",
                sends(CLIENT, |_| arp(CLIENT, 1, [0; 4], GATEWAY)),
                Fate::Answered,
            )
            .check(|_, reply| defends(reply, [0; 4])),
            row(
                "PKT-7 an announcement of the gateway's address",
                sends(CLIENT, |_| arp(CLIENT, 1, GATEWAY, GATEWAY)),
                Fate::Answered,
            )
            .check(|_, reply| defends(reply, GATEWAY)),
            row("PKT-7 a reply in the gateway's name", sends(CLIENT, |_| arp(CLIENT, 2, GATEWAY, GATEWAY)), UNANSWERED),
            row("PKT-3 an announcement", sends(CLIENT, |_| arp(CLIENT, 1, v4(CLIENT), v4(CLIENT))), UNANSWERED),
            row("PKT-3 a reply nobody asked for", sends(CLIENT, |_| arp(CLIENT, 2, v4(CLIENT), v4(DB))), UNANSWERED),
        ]
        .into_iter()
        .map(|row| row.only(V4))
        .collect()
    };
    on_a_node(|| run(&scenario(), rows()));
}

#[test]
fn pkt_4_arp_with_another_sender_mac_is_dropped() {
    on_a_node(|| {
        let forged = sends(CLIENT, |_| {
            let mut bytes = arp(CLIENT, 1, v4(CLIENT), [169, 254, 1, 1]);
            bytes[22..28].copy_from_slice(&DB.mac.0);
            bytes
        });
        let sent_by_another = sends(CLIENT, |_| {
            let mut bytes = arp(CLIENT, 1, v4(CLIENT), [169, 254, 1, 1]);
            bytes[6..12].copy_from_slice(&DB.mac.0);
            bytes
        });
        let spoofed = Fate::Drop(Some(CLIENT), DropReason::Spoofed);
        let rows = vec![
            row("PKT-4 in the message", forged, spoofed).only(V4),
            row("PKT-4 in the frame", sent_by_another, spoofed).only(V4),
        ];
        run(&scenario(), rows);
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of data")]
fn pkt_6_pkt_7_neighbour_solicitations_are_answered_but_never_address_detection() {
    let rows = || {
        vec![
            row(
                "PKT-6 the gateway",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true).bytes()),
                Fate::Answered,
            )
            .check(|_, reply| is_advertisement(reply, GATEWAY_V6)),
            row(
                "PKT-6 without the link-layer option",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, false).bytes()),
                Fate::Answered,
            )
            .check(|_, reply| is_advertisement(reply, GATEWAY_V6)),
            row(
                "PKT-6 a unicast probe, as of a neighbour that was known",
                sends(CLIENT, |_| probe(v6(CLIENT)).bytes()),
                Fate::Answered,
            )
            .check(|_, reply| is_advertisement(reply, GATEWAY_V6)),
            row(
                "PKT-6 PKT-55 from a link-local address",
                sends(CLIENT, |_| solicitation(CLIENT, LINK_LOCAL, GATEWAY_V6, true).bytes()),
                Fate::Answered,
            )
            .check(|_, reply| is_advertisement_to(reply, LINK_LOCAL, GATEWAY_V6)),
            row(
                "PKT-6 with a nonce",
                sends(CLIENT, |_| {
                    with_option(solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true), [14, 1, 1, 2, 3, 4, 5, 6])
                }),
                Fate::Answered,
            )
            .check(|_, reply| is_advertisement(reply, GATEWAY_V6)),
            row(
                "PKT-7 detection of the gateway's address",
                sends(CLIENT, |_| solicitation(CLIENT, [0; 16], GATEWAY_V6, false).bytes()),
                Fate::Answered,
            )
            .check(|_, reply| is_defence(reply)),
            row(
                "PKT-7 the same with a nonce (RFC 7527)",
                sends(CLIENT, |_| {
                    with_option(solicitation(CLIENT, [0; 16], GATEWAY_V6, false), [14, 1, 1, 2, 3, 4, 5, 6])
                }),
                Fate::Answered,
            )
            .check(|_, reply| is_defence(reply)),
            row(
                "PKT-6 an advertisement that nobody asked for",
                sends(CLIENT, |_| {
                    let mut frame = solicitation(CLIENT, v6(CLIENT), v6(CLIENT), true);
                    (frame.payload[0], frame.payload[4], frame.payload[24]) = (136, 0x20, 2);
                    frame.bytes()
                }),
                UNANSWERED,
            ),
            row(
                "PKT-6 another pod",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), v6(DB), true).bytes()),
                Fate::Answered,
            )
            .check(|_, reply| is_advertisement(reply, v6(DB))),
            row(
                "PKT-7 duplicate address detection",
                sends(CLIENT, |_| solicitation(CLIENT, [0; 16], v6(CLIENT), false).bytes()),
                UNANSWERED,
            ),
            row(
                "PKT-7 its own address",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), v6(CLIENT), true).bytes()),
                UNANSWERED,
            ),
            row(
                "PKT-6 a router solicitation",
                sends(CLIENT, |_| {
                    let mut frame = solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true);
                    frame.payload[0] = 133;
                    frame.bytes()
                }),
                UNANSWERED,
            ),
            row(
                "PKT-7 detection of another's address",
                sends(CLIENT, |_| solicitation(CLIENT, [0; 16], v6(DB), false).bytes()),
                UNANSWERED,
            ),
        ]
        .into_iter()
        .map(|row| row.only(V6))
        .collect()
    };
    on_a_node(|| run(&scenario(), rows()));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of data")]
fn pkt_8_a_solicitation_that_is_forged_or_torn_is_dropped() {
    let rows = || {
        vec![
            row(
                "PKT-8 another MAC",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true).with_source_mac(DB.mac.0).bytes()),
                Fate::Drop(Some(CLIENT), DropReason::Spoofed),
            ),
            row(
                "PKT-8 a wrong checksum",
                sends(CLIENT, |_| spoilt(solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true).bytes(), 57)),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "PKT-8 a wrong byte in its option",
                sends(CLIENT, |_| spoilt(solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true).bytes(), 85)),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "PKT-8 an empty option",
                sends(CLIENT, |_| {
                    with_option(solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true), [14, 0, 1, 2, 3, 4, 5, 6])
                }),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "PKT-8 longer than any honest one",
                sends(CLIENT, |_| {
                    let mut frame = solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true);
                    frame.payload.extend([14, 1, 0, 0, 0, 0, 0, 0].repeat(7));
                    frame.payload.extend([&[14, 2][..], &[0; 14]].concat());
                    frame.bytes()
                }),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "PKT-8 an option beyond its end",
                sends(CLIENT, |_| {
                    with_option(solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true), [14, 2, 1, 2, 3, 4, 5, 6])
                }),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "PKT-8 code 1",
                sends(CLIENT, |_| {
                    let mut frame = solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true);
                    frame.payload[1] = 1;
                    frame.bytes()
                }),
                UNANSWERED,
            ),
            row(
                "PKT-8 a redirect",
                sends(CLIENT, |_| {
                    let mut frame = solicitation(CLIENT, LINK_LOCAL, GATEWAY_V6, true);
                    frame.payload[0] = 137;
                    frame.bytes()
                }),
                UNANSWERED,
            ),
            row(
                "PKT-8 a group as its target",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), GROUP, true).bytes()),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "PKT-8 a solicitation behind an extension header",
                sends(CLIENT, |_| behind_options(&solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true).bytes())),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
            row(
                "a listener report is nobody's business",
                sends(CLIENT, |_| listener_report(CLIENT).bytes()),
                Fate::Drop(Some(CLIENT), DropReason::Multicast),
            ),
            row(
                "PKT-55 a link-local source but for discovery",
                sends(CLIENT, |f| CLIENT.ping(f, DB, 7).with_source("fe80::1").bytes()),
                Fate::Drop(Some(CLIENT), DropReason::Spoofed),
            ),
            row(
                "PKT-8 a solicitation that crossed a router",
                sends(CLIENT, |_| solicitation(CLIENT, v6(CLIENT), GATEWAY_V6, true).ttl(254).bytes()),
                Fate::Drop(Some(CLIENT), DropReason::Malformed),
            ),
        ]
        .into_iter()
        .map(|row| row.only(V6))
        .collect()
    };
    on_a_node(|| run(&scenario(), rows()));
}

/// The same IPv6 frame with empty destination options before its message.
fn behind_options(plain: &[u8]) -> Vec<u8> {
    let mut frame = plain[..54].to_vec();
    let length = u16::try_from(plain.len() - 54 + 8).expect("a solicitation is short");
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = 60;
    frame.extend([58, 0, 1, 4, 0, 0, 0, 0]);
    frame.extend(&plain[54..]);
    frame
}

fn same(what: &str, found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:02x?}, not {expected:02x?}")) }
}

fn is_arp_reply(reply: &[u8], target: [u8; 4]) -> Result<(), String> {
    same("Ethernet", &reply[..14], &[&CLIENT.mac.0[..], &GATEWAY_MAC, &[8, 6]].concat())?;
    same("operation", &reply[14..22], &[0, 1, 8, 0, 6, 4, 0, 2])?;
    same("sender", &reply[22..32], &[&GATEWAY_MAC[..], &target].concat())?;
    same("target", &reply[32..42], &[&CLIENT.mac.0[..], &v4(CLIENT)].concat())
}

const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// The gateway says that its address is taken, to whoever claims or tries it.
fn defends(reply: &[u8], claimant: [u8; 4]) -> Result<(), String> {
    same("Ethernet", &reply[..14], &[&CLIENT.mac.0[..], &GATEWAY_MAC, &[8, 6]].concat())?;
    same("operation", &reply[14..22], &[0, 1, 8, 0, 6, 4, 0, 2])?;
    same("sender", &reply[22..32], &[&GATEWAY_MAC[..], &GATEWAY].concat())?;
    same("target", &reply[32..42], &[&CLIENT.mac.0[..], &claimant].concat())
}

/// A solicitation to the gateway's own MAC and address.
fn probe(source: [u8; 16]) -> Frame {
    let mut frame = solicitation(CLIENT, source, GATEWAY_V6, true).with_destination_mac(GATEWAY_MAC);
    frame.destination = IpAddr::from(GATEWAY_V6);
    frame
}

fn with_option(mut frame: Frame, option: [u8; 8]) -> Vec<u8> {
    frame.payload.extend(option);
    frame.bytes()
}

fn spoilt(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0x10;
    bytes
}

/// The gateway's address is taken: told to all nodes, not solicited (RFC 4861 §7.2.4).
fn is_defence(reply: &[u8]) -> Result<(), String> {
    same("Ethernet", &reply[..14], &[&[0x33, 0x33, 0, 0, 0, 1], &GATEWAY_MAC[..], &[0x86, 0xdd]].concat())?;
    same("source", &reply[22..38], &GATEWAY_V6)?;
    same("destination", &reply[38..54], &GROUP)?;
    same("flags: router, override", &reply[58..62], &[0xa0, 0, 0, 0])?;
    same("target", &reply[62..78], &GATEWAY_V6)?;
    same("link-layer option", &reply[78..86], &[&[2, 1], &GATEWAY_MAC[..]].concat())?;
    same("checksum", &fold(sum_of(&reply[22..86]) + 32 + 58).to_be_bytes(), &[0, 0])
}

fn is_advertisement(reply: &[u8], target: [u8; 16]) -> Result<(), String> {
    is_advertisement_to(reply, v6(CLIENT), target)
}

fn is_advertisement_to(reply: &[u8], asker: [u8; 16], target: [u8; 16]) -> Result<(), String> {
    same("Ethernet", &reply[..14], &[&CLIENT.mac.0[..], &GATEWAY_MAC, &[0x86, 0xdd]].concat())?;
    same("length, next header, hop limit", &reply[18..22], &[0, 32, 58, 255])?;
    same("source", &reply[22..38], &target)?;
    same("destination", &reply[38..54], &asker)?;
    same("type and code", &reply[54..56], &[136, 0])?;
    same("flags: router, solicited, override", &reply[58..62], &[0xe0, 0, 0, 0])?;
    same("target", &reply[62..78], &target)?;
    same("target's link-layer address", &reply[78..86], &[&[2, 1], &GATEWAY_MAC[..]].concat())?;
    let sum = sum_of(&reply[22..54]) + 32 + 58 + sum_of(&reply[54..86]);
    if fold(sum) == 0 { Ok(()) } else { Err("its checksum is wrong".into()) }
}
