//! On the wire: what a test run cannot show, with real frames through the attached programs.
//! In: a frame sent at a pod's end of its pair. Out: what arrives at another pod's end, and by which way.
//! Invariant: a frame counts as arrived when its own bytes are read at the other end; every wait is bounded.
//! Never: concludes from silence.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    frame::Frame,
    kernel::{Kernel, ip, on_a_node},
    port::{OFFLOAD, Port},
    scenario::{Scenario, interface},
};
use abi::{DropReason, endpoint::ENDPOINT_QUEUED};
use std::process::Command;

const PORTS: (u16, u16) = (40000, 80);
const NOTHING: [u8; OFFLOAD] = [0; OFFLOAD];

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

/// Bytes that the interface's queue has let through.
fn queued_bytes(actor: Actor) -> u64 {
    let shown = Command::new("tc").args(["-s", "qdisc", "show", "dev", &interface(actor).0]).output().expect("tc runs");
    let text = String::from_utf8(shown.stdout).expect("tc speaks text");
    let mut words = text.split_whitespace().skip_while(|word| *word != "Sent").skip(1);
    words.next().and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("no count in {text}"))
}

#[test]
fn a_queue_on_a_pods_interface_is_passed_by_unless_the_endpoint_says_that_it_counts() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let queue = ["qdisc", "add", "dev", &interface(DB).0, "root", "pfifo"].map(str::to_owned);
        assert!(Command::new("tc").args(queue).status().expect("tc runs").success());
        let (mut client, mut db) = (Port::at(&kernel, CLIENT), Port::at(&kernel, DB));
        for (flags, family) in [(0, Family::V4), (ENDPOINT_QUEUED, Family::V4), (ENDPOINT_QUEUED, Family::V6)] {
            kernel.change_endpoint(DB, |db| db.flags |= flags);
            let before = queued_bytes(DB);
            let frame = CLIENT.udp(family, DB, PORTS, &[family as u8 + 1; 1400]);
            client.send([0; OFFLOAD], &frame.bytes());
            db.receive(&frame.payload[8..]);
            let passed = queued_bytes(DB) - before;
            assert_eq!(passed > 1400, flags != 0, "{passed} bytes went through the queue, {family:?}");
        }
    });
}

/// A TCP SYN of this many bytes of data, to be cut into segments of 1000 by whoever sends it on.
fn segmented(family: Family, data: usize) -> (Frame, [u8; OFFLOAD]) {
    let mut frame = CLIENT.tcp(family, DB, PORTS, crate::frame::SYN);
    frame.payload.extend(vec![7; data]);
    let network: u16 = if family == Family::V4 { 20 } else { 40 };
    let ([h0, h1], [s0, s1], [c0, c1]) =
        ((14 + network + 20).to_ne_bytes(), 1000u16.to_ne_bytes(), (14 + network).to_ne_bytes());
    // Its checksum is still to be summed, from the TCP header on, into that header's bytes 16 and 17.
    let kind = if family == Family::V4 { 1 } else { 4 };
    (frame, [1, kind, h0, h1, s0, s1, c0, c1, 16, 0])
}

#[test]
fn own_18_a_segmented_packet_above_the_mtu_is_delivered_whole() {
    on_a_node(|| {
        let kernel = Kernel::new(&scenario());
        let (mut client, mut db) = (Port::at(&kernel, CLIENT), Port::at(&kernel, DB));
        for family in Family::BOTH {
            let (frame, offload) = segmented(family, 9000);
            client.send(offload, &frame.bytes());
            let (received, bytes) = db.receive(&[7; 1000]);
            assert_eq!(bytes.len(), frame.bytes().len(), "{family:?}");
            assert_eq!(received[4..6], 1000u16.to_ne_bytes(), "{family:?}: its segments stayed as long");
        }
    });
}

/// A frame whose L3 packet stands behind these bytes instead of its EtherType.
fn behind(frame: &[u8], header: &[u8]) -> Vec<u8> {
    [&frame[..12], header, &frame[14..]].concat()
}

#[test]
fn own_11_pkt_50_pkt_51_frames_of_other_kinds_reach_nobody_and_are_counted() {
    on_a_node(|| {
        let kernel = Kernel::new(&scenario());
        let (mut client, mut db) = (Port::at(&kernel, CLIENT), Port::at(&kernel, DB));
        for (family, ethertype) in [(Family::V4, [8, 0]), (Family::V6, [0x86, 0xdd])] {
            let inner = CLIENT.udp(family, DB, PORTS, b"not for you").bytes();
            let tagged = [&[0x81, 0, 0, 5][..], &ethertype].concat();
            let twice = [&[0x88, 0xa8, 0, 6][..], &tagged].concat();
            let sent = [
                (behind(&inner, &tagged), DropReason::Vlan),
                (behind(&inner, &twice), DropReason::Vlan),
                (behind(&inner, &[0x88, 0x47, 0, 1, 0x01, 64]), DropReason::NotIp),
                (behind(&inner, &[0x88, 0xcc]), DropReason::NotIp),
                (behind(&inner, &[0, 60]), DropReason::NotIp),
            ];
            let counted = |kernel: &Kernel| {
                [DropReason::Vlan, DropReason::NotIp].map(|why| kernel.dropped(why).values().sum::<u64>())
            };
            let before = counted(&kernel);
            for (frame, _) in &sent {
                client.send(NOTHING, frame);
            }
            let marker = CLIENT.udp(family, DB, PORTS, b"the last one").bytes();
            client.send(NOTHING, &marker);
            let arrived = db.received_before(b"the last one");
            assert!(!arrived.iter().any(|frame| frame.ends_with(b"not for you")), "{family:?}: {arrived:02x?}");
            let expected = [DropReason::Vlan, DropReason::NotIp]
                .map(|why| sent.iter().filter(|(_, reason)| *reason == why).count() as u64);
            let after = counted(&kernel);
            assert_eq!([after[0] - before[0], after[1] - before[1]], expected, "{family:?}: tagged, not IP");
        }
    });
}

#[test]
fn pkt_50_a_tagged_frame_from_outside_reaches_no_pod() {
    on_a_node(|| {
        let kernel = Kernel::new(&scenario());
        let (mut outside, mut db) = (Port::at(&kernel, OUTSIDE), Port::at(&kernel, DB));
        for (family, ethertype) in [(Family::V4, [8, 0]), (Family::V6, [0x86, 0xdd])] {
            let to_db = |data: &[u8]| OUTSIDE.udp(family, DB, PORTS, data).with_destination_mac(NODE.mac.0).bytes();
            outside.send(NOTHING, &behind(&to_db(b"of another network"), &[&[0x81, 0, 0, 5][..], &ethertype].concat()));
            outside.send(NOTHING, &to_db(b"the last one"));
            let arrived = db.received_before(b"the last one");
            assert!(!arrived.iter().any(|frame| frame.ends_with(b"of another network")), "{family:?}: {arrived:02x?}");
        }
    });
}

/// What of a transport checksum of this protocol is still to be summed, as an offload header says it.
fn to_be_summed(family: Family, checksum_at: u8) -> [u8; OFFLOAD] {
    let start = if family == Family::V4 { 34 } else { 54 };
    [1, 0, 0, 0, 0, 0, start, 0, checksum_at, 0]
}

#[test]
fn pkt_58_pkt_60_checksums_stay_as_far_summed_as_they_were() {
    on_a_node(|| {
        let kernel = Kernel::new(&scenario());
        let (mut client, mut db) = (Port::at(&kernel, CLIENT), Port::at(&kernel, DB));
        for family in Family::BOTH {
            let at = if family == Family::V4 { 34 } else { 54 };
            let datagram = |sum: [u8; 2], data: &[u8]| {
                let mut bytes = CLIENT.udp(family, DB, PORTS, data).bytes();
                bytes[at + 6..at + 8].copy_from_slice(&sum);
                bytes
            };
            for (sum, data, offload) in [
                ([0x12, 0x34], b"half", to_be_summed(family, 6)),
                ([0, 0], b"none", NOTHING),
                ([0x66, 0x66], b"lies", NOTHING),
            ] {
                client.send(offload, &datagram(sum, data));
                let (received, bytes) = db.receive(data);
                assert_eq!(bytes[at + 6..at + 8], sum, "{family:?} {data:?}");
                assert_eq!(received[0], offload[0], "{family:?} {data:?}: nobody vouches for it, nobody sums it");
            }
        }
    });
}

#[test]
fn pkt_57_a_packet_of_a_jumbo_mtu_is_delivered_whole() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for actor in [CLIENT, DB] {
            let widen = |name: &str| ip(&format!("link set {name} mtu 9000"));
            widen(&interface(actor).0);
            netlink::namespace::inside(kernel.pods(), || widen(actor.name))
                .expect("the pods' namespace can be entered");
        }
        kernel.change_endpoint(DB, |db| db.mtu = 9000);
        let (mut client, mut db) = (Port::at(&kernel, CLIENT), Port::at(&kernel, DB));
        for family in Family::BOTH {
            let headers = if family == Family::V4 { 28 } else { 48 };
            let frame = CLIENT.udp(family, DB, PORTS, &vec![family as u8 + 1; 9000 - headers]);
            client.send(NOTHING, &frame.bytes());
            assert_eq!(db.receive(&frame.payload[8..]).1.len(), 9014, "{family:?}");
        }
    });
}

#[test]
fn pkt_34_own_5_what_comes_back_to_its_sender_comes_by_its_own_interface() {
    on_a_node(|| {
        let kernel = Kernel::new(&scenario());
        let mut client = Port::at(&kernel, CLIENT);
        for family in Family::BOTH {
            let spent = CLIENT.udp(family, DB, PORTS, b"no hop left").ttl(1).bytes();
            client.send(NOTHING, &spent);
            let error = client.receive(&spent[14..]).1;
            assert_eq!(error[..6], CLIENT.mac.0, "{family:?}");
            assert_eq!(error[if family == Family::V4 { 34 } else { 54 }], if family == Family::V4 { 11 } else { 3 });
            let own = CLIENT.udp(family, CLIENT, PORTS, b"to myself").bytes();
            client.send(NOTHING, &own);
            assert_eq!(client.receive(b"to myself").1[..6], CLIENT.mac.0, "{family:?}");
        }
    });
}
