//! ICMP errors that the program makes: what the sender of a packet that goes no further is told.
//! In: packets with spent TTLs, too big for the way ahead, or refused by a route. Out: the error, byte by byte.
//! Invariant: an error quotes the packet as it came, comes from the node's address, and its checksums are right.
//! Never: an error about an error, a later fragment, or to an address that is not one host's.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    frame::{Frame, GATEWAY_MAC, SYN, fold, sum_of},
    kernel::{Kernel, ip, on_a_node},
    scenario::{Rules as _, Scenario, allow, policy},
    table::{Action, Fate, Hook, arrives, row, run, sends},
};
use abi::DropReason;
use model::Direction;
use std::net::IpAddr;

const WEB: (u16, u16) = (40000, 80);

/// The client may send; nobody may send to it. An error still reaches it.
fn scenario() -> Scenario {
    let alone = policy("alone", Some("client"), &[Direction::Ingress, Direction::Egress]).egress(allow());
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").policy(alone)
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What an ICMP message of each family begins with: type, code, and the word behind the checksum.
#[derive(Clone, Copy)]
pub struct Kind {
    pub v4: (u8, u8, u32),
    pub v6: (u8, u8, u32),
}

pub const EXPIRED: Kind = Kind { v4: (11, 0, 0), v6: (3, 0, 0) };

fn too_big(mtu: u32) -> Kind {
    Kind { v4: (3, 4, mtu), v6: (2, 0, mtu) }
}

/// `error` tells `to` of `kind` about `sent`, whole or as much of it as an error may quote.
pub fn tells(family: Family, error: &[u8], to: Actor, kind: Kind, sent: &[u8]) -> Result<(), String> {
    let (header, most) = if family == Family::V4 { (20, 576) } else { (40, 1280) };
    let packet = error.get(14..).ok_or("shorter than an Ethernet header")?;
    let quote = &sent[14..];
    let quote = &quote[..quote.len().min(most - header - 8)];
    let (expected, protocol, length) = match family {
        Family::V4 => (kind.v4, 1, 20 + 8 + quote.len()),
        Family::V6 => (kind.v6, 58, 8 + quote.len()),
    };
    let message = &packet[header..];
    let same = |what: &str, found: &[u8], wanted: &[u8]| {
        if found == wanted { Ok(()) } else { Err(format!("{what}: {found:02x?}, not {wanted:02x?}")) }
    };
    let (source_at, length_at, protocol_at, ttl_at) = if family == Family::V4 { (12, 2, 9, 8) } else { (8, 4, 6, 7) };
    let addresses = [octets(NODE.address(family)), octets(to.address(family))].concat();
    same("MACs", &error[..12], &[to.mac.0, GATEWAY_MAC].concat())?;
    same("addresses", &packet[source_at..source_at + addresses.len()], &addresses)?;
    same("length", &packet[length_at..length_at + 2], &u16::try_from(length).expect("short").to_be_bytes())?;
    same("protocol and TTL", &[packet[protocol_at], packet[ttl_at]], &[protocol, 64])?;
    // Internetwork control, and whole to its receiver (RFC 1812 §4.3.2.5).
    let marks = if family == Family::V4 { [packet[1], packet[6]] } else { [packet[0], packet[1]] };
    same("class and fragmentation", &marks, if family == Family::V4 { &[0xc0, 0x40] } else { &[0x60, 0] })?;
    same("type and code", &message[..2], &[expected.0, expected.1])?;
    same("its word", &message[4..8], &expected.2.to_be_bytes())?;
    same("quote", &message[8..], quote)?;
    let pseudo = match family {
        Family::V4 => 0,
        Family::V6 => sum_of(&addresses) + 58 + u32::try_from(message.len()).expect("short"),
    };
    same("checksum", &fold(pseudo + sum_of(message)).to_be_bytes(), &[0, 0])?;
    let header_sum = if family == Family::V4 { fold(sum_of(&packet[..20])) } else { 0 };
    same("header checksum", &header_sum.to_be_bytes(), &[0, 0])
}

fn probe(family: Family, to: Actor, data: usize) -> Frame {
    CLIENT.udp(family, to, WEB, &vec![7; data])
}

#[test]
fn pkt_34_a_packet_whose_hops_are_spent_is_told_to_its_sender() {
    let told = Fate::Told(CLIENT, DropReason::Expired);
    let rows = vec![
        row("PKT-34 UDP to a pod here", sends(CLIENT, |f| probe(f, DB, 5).ttl(1).bytes()), told)
            .opens(2)
            .check(|f, error| tells(f, error, CLIENT, EXPIRED, &probe(f, DB, 5).ttl(1).bytes())),
        row("PKT-34 UDP to elsewhere", sends(CLIENT, |f| probe(f, OUTSIDE, 4).ttl(1).bytes()), told)
            .opens(1)
            .check(|f, error| tells(f, error, CLIENT, EXPIRED, &probe(f, OUTSIDE, 4).ttl(1).bytes())),
        row("PKT-34 TCP", sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, SYN).ttl(1).bytes()), told)
            .opens(2)
            .check(|f, error| tells(f, error, CLIENT, EXPIRED, &CLIENT.tcp(f, DB, WEB, SYN).ttl(1).bytes())),
        row("PKT-34 a ping", sends(CLIENT, |f| CLIENT.ping(f, OUTSIDE, 7).ttl(1).bytes()), told)
            .opens(1)
            .check(|f, error| tells(f, error, CLIENT, EXPIRED, &CLIENT.ping(f, OUTSIDE, 7).ttl(1).bytes())),
        row("PKT-34 none left at all", sends(CLIENT, |f| probe(f, DB, 0).ttl(0).bytes()), told)
            .opens(2)
            .check(|f, error| tells(f, error, CLIENT, EXPIRED, &probe(f, DB, 0).ttl(0).bytes())),
        row("PKT-34 with options", sends(CLIENT, |f| with_options(f).bytes()), told)
            .opens(2)
            .only(&[Family::V4])
            .check(|f, error| tells(f, error, CLIENT, EXPIRED, &with_options(f).bytes())),
        row("PKT-34 from outside", arrives(|f| from_outside(f, 5).ttl(1).bytes()), Fate::Told(DB, DropReason::Expired))
            .opens(1)
            .check(|f, error| tells(f, error, OUTSIDE, EXPIRED, &from_outside(f, 5).ttl(1).bytes())),
        row("PKT-34 the node itself is where it ends", sends(CLIENT, |f| probe(f, NODE, 5).ttl(1).bytes()), Fate::Host)
            .opens(1),
    ];
    on_a_node(|| run(&scenario(), rows));
}

fn with_options(family: Family) -> Frame {
    probe(family, DB, 600).ttl(1).options(&[1, 1, 1, 0])
}

fn from_outside(family: Family, data: usize) -> Frame {
    OUTSIDE.udp(family, DB, WEB, &vec![7; data]).with_destination_mac(NODE.mac.0)
}

#[test]
fn pkt_32_pkt_33_a_packet_that_does_not_fit_is_told_with_the_mtu() {
    let told = |whose| Fate::Told(whose, DropReason::TooBig);
    let rows = vec![
        row("PKT-32 for a pod here", sends(CLIENT, |f| probe(f, DB, 1480).bytes()), told(CLIENT))
            .opens(2)
            .check(|f, error| tells(f, error, CLIENT, too_big(1500), &probe(f, DB, 1480).bytes())),
        row("PKT-32 for elsewhere", sends(CLIENT, |f| probe(f, OUTSIDE, 1481).bytes()), told(CLIENT))
            .opens(1)
            .check(|f, error| tells(f, error, CLIENT, too_big(1500), &probe(f, OUTSIDE, 1481).bytes())),
        row("PKT-32 from outside", arrives(|f| from_outside(f, 1482).bytes()), told(DB))
            .opens(1)
            .check(|f, error| tells(f, error, OUTSIDE, too_big(1500), &from_outside(f, 1482).bytes())),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_32_pkt_33_the_mtu_of_a_route_and_of_the_receiver_is_the_one_told() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.change_endpoint(DB, |db| db.mtu = 1300);
        ip("route add 198.51.100.0/24 via 192.0.2.9 mtu lock 1400");
        ip("route add 2001:db8:1::/48 via 2001:db8::9 mtu lock 1400");
        for family in Family::BOTH {
            let away = if family == Family::V4 { "198.51.100.7" } else { "2001:db8:1::7" };
            let to_pod = probe(family, DB, 1400).bytes();
            let by_route = probe(family, OUTSIDE, 1400).with_destination(away).bytes();
            for (sent, mtu) in [(to_pod, 1300), (by_route, 1400)] {
                let ran = kernel.run(Hook::Pod(CLIENT), &sent);
                assert_eq!(ran.action, Action::Redirect, "{family:?} {mtu}");
                tells(family, &ran.bytes, CLIENT, too_big(mtu), &sent).expect("the error is right");
            }
        }
    });
}

#[test]
fn pkt_35_what_a_route_refuses_is_told_as_the_route_says() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let unreachable = Kind { v4: (3, 1, 0), v6: (1, 0, 0) };
        let prohibited = Kind { v4: (3, 13, 0), v6: (1, 1, 0) };
        for (route, third, kind) in [("unreachable", 1, unreachable), ("prohibit", 2, prohibited)] {
            for (family, net, to) in [
                (Family::V4, format!("198.51.10{third}.0/24"), format!("198.51.10{third}.7")),
                (Family::V6, format!("2001:db8:{third}::/48"), format!("2001:db8:{third}::7")),
            ] {
                ip(&format!("route add {route} {net}"));
                // Also with its last hop: the way is refused before the hops are counted.
                for ttl in [64, 1] {
                    let sent = probe(family, OUTSIDE, 5).with_destination(&to).ttl(ttl).bytes();
                    let counted = |kernel: &Kernel| kernel.dropped(DropReason::Unroutable).values().sum::<u64>();
                    let before = counted(&kernel);
                    let ran = kernel.run(Hook::Pod(CLIENT), &sent);
                    assert_eq!(ran.action, Action::Redirect, "{route} {family:?}");
                    tells(family, &ran.bytes, CLIENT, kind, &sent).expect("the error is right");
                    assert_eq!(counted(&kernel), before + 1);
                }
            }
        }
    });
}

#[test]
fn pkt_38_nobody_is_told_about_what_must_not_be_answered() {
    let silent = Fate::Drop(Some(DB), DropReason::Expired);
    let from = |v4: &'static str, v6: &'static str| {
        arrives(move |f| {
            let source = if f == Family::V4 { v4 } else { v6 };
            from_outside(f, 5).with_source(source).ttl(1).bytes()
        })
    };
    let about = |f| DB.udp(f, OUTSIDE, WEB, b"x");
    let first = || vec![arrives(|f| from_outside(f, 56).fragment(0, 32, true).bytes())];
    let rows = vec![
        row(
            "PKT-38 an ICMP error",
            arrives(move |f| OUTSIDE.unreachable(f, DB, &about(f)).with_destination_mac(NODE.mac.0).ttl(1).bytes()),
            silent,
        )
        .given(vec![sends(DB, move |f| about(f).bytes())]),
        row("PKT-38 a later fragment", arrives(|f| from_outside(f, 56).fragment(4, 32, false).ttl(1).bytes()), silent)
            .given(first()),
        row("PKT-38 an unspecified source", from("0.0.0.0", "::"), silent).opens(1),
        row("PKT-38 a group as source", from("224.0.0.5", "ff02::5"), silent).opens(1),
        row("PKT-38 loopback as source", from("127.0.0.1", "::1"), silent).opens(1),
        row(
            "PKT-38 a first fragment may be told about",
            arrives(|f| from_outside(f, 56).fragment(0, 32, true).ttl(1).bytes()),
            Fate::Told(DB, DropReason::Expired),
        )
        .opens(1),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_38_errors_have_a_budget_for_each_endpoint_and_side() {
    for family in Family::BOTH {
        on_a_node(|| {
            let mut kernel = Kernel::new(&scenario());
            let ways = [
                (Hook::Pod(CLIENT), probe(family, DB, 5).ttl(1).bytes()),
                (Hook::Pod(DB), DB.udp(family, OUTSIDE, WEB, b"x").ttl(1).bytes()),
                (Hook::Uplink, from_outside(family, 5).ttl(1).bytes()),
            ];
            // Each is spent in turn, and none of those before it was spent on its account.
            for (hook, frame) in &ways {
                assert_eq!(kernel.run(*hook, frame).action, Action::Redirect, "{family:?} {hook:?}: its own account");
                let limited = (0..500).filter(|_| kernel.run(*hook, frame).action == Action::Drop).count();
                assert!(limited > 0, "{family:?} {hook:?}: 500 errors at once");
            }
            let limited = kernel.seen().drops.into_keys().filter(|(_, why)| *why == DropReason::IcmpLimited);
            assert_eq!(limited.count(), 2, "{family:?}: on the accounts of the two pods");
        });
    }
}

#[test]
fn pkt_34_the_stack_takes_apart_what_is_segmented_before_it_complains() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            let spent = CLIENT.tcp(family, DB, WEB, SYN).ttl(1).bytes();
            let mut run = |segment| {
                kernel.segment = segment;
                let ran = kernel.run(Hook::Pod(CLIENT), &spent);
                (ran.action, ran.bytes == spent)
            };
            assert_eq!(run(1000), (Action::PassOn, true), "{family:?}");
            assert_eq!(run(0), (Action::Redirect, false), "{family:?}");
        }
    });
}
