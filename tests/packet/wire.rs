//! On the wire: what a test run cannot show, with real frames through the attached programs.
//! In: a frame sent at a pod's end of its pair. Out: what arrives at another pod's end, and by which way.
//! Invariant: a frame counts as arrived when its own bytes are read at the other end; every wait is bounded.
//! Never: concludes from silence.

use crate::{
    cast::{Actor, CLIENT, DB, Family},
    frame::Frame,
    kernel::{Kernel, on_a_node},
    port::{OFFLOAD, Port},
    scenario::{Scenario, interface},
};
use abi::endpoint::ENDPOINT_QUEUED;
use std::process::Command;

const PORTS: (u16, u16) = (40000, 80);
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
