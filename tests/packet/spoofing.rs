//! Anti-spoofing: a pod speaks with its own addresses and its own MAC, or not at all; nobody outside speaks for it.
//! In: forged packets, opening a flow and within one. Out: a drop with its reason, before any policy.
//! Invariant: nothing of a forged packet is remembered.
//! Never: a forged packet is judged.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, SYN},
    kernel::on_a_node,
    scenario::Scenario,
    table::{Fate, arrives, row, run, sends},
};
use abi::DropReason;

const SPOOFED: Fate = Fate::Drop(Some(CLIENT), DropReason::Spoofed);
const PORTS: (u16, u16) = (40000, 80);
const BACK: (u16, u16) = (80, 40000);

#[test]
fn spf_1_a_forged_source_is_dropped_first() {
    let scenario = Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other");
    let claims = |family, address: crate::cast::Actor| {
        let mut frame = CLIENT.tcp(family, DB, PORTS, SYN);
        frame.source = address.address(family);
        frame
    };
    let rows = vec![
        row("SPF-1 another pod's address", sends(CLIENT, move |f| claims(f, OTHER).bytes()), SPOOFED),
        row("SPF-1 an address outside", sends(CLIENT, move |f| claims(f, OUTSIDE).bytes()), SPOOFED),
        row("SPF-1 the node's address", sends(CLIENT, move |f| claims(f, NODE).bytes()), SPOOFED),
        row(
            "SPF-1 another MAC",
            sends(CLIENT, |f| CLIENT.tcp(f, DB, PORTS, SYN).with_source_mac(OTHER.mac.0).bytes()),
            SPOOFED,
        ),
        row(
            "SPF-1 another pod's flow",
            sends(CLIENT, move |f| {
                let mut frame = OTHER.tcp(f, DB, PORTS, ACK);
                frame.source_mac = CLIENT.mac.0;
                frame.bytes()
            }),
            SPOOFED,
        )
        .given(vec![
            sends(OTHER, |f| OTHER.tcp(f, DB, PORTS, SYN).bytes()),
            sends(DB, |f| DB.tcp(f, OTHER, BACK, SYN | ACK).bytes()),
        ]),
        row("SPF-1 another pod's flow, its MAC too", sends(CLIENT, |f| OTHER.tcp(f, DB, PORTS, ACK).bytes()), SPOOFED)
            .given(vec![sends(OTHER, |f| OTHER.tcp(f, DB, PORTS, SYN).bytes())]),
        row(
            "SPF-1 another MAC in its own flow",
            sends(CLIENT, |f| CLIENT.tcp(f, DB, PORTS, ACK).with_source_mac(OTHER.mac.0).bytes()),
            SPOOFED,
        )
        .given(vec![sends(CLIENT, |f| CLIENT.tcp(f, DB, PORTS, SYN).bytes())]),
    ];
    on_a_node(|| run(&scenario, rows));
}

#[test]
fn pkt_54_martian_sources_are_spoofed() {
    let scenario = Scenario::default().pod(CLIENT, "client").pod(DB, "db");
    let from = |source: &'static str| {
        sends(CLIENT, move |f| {
            let family_of = if source.contains(':') { Family::V6 } else { Family::V4 };
            assert_eq!(f, family_of, "the row says which family it is for");
            CLIENT.udp(f, DB, PORTS, b"x").with_source(source).bytes()
        })
    };
    let v4 = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"];
    let v6 = ["::1", "ff02::1", "fe80::1"];
    let rows = v4.map(|source| row(source, from(source), SPOOFED).only(&[Family::V4]));
    let rows = rows.into_iter().chain(v6.map(|source| row(source, from(source), SPOOFED).only(&[Family::V6])));
    let rows = rows.collect();
    on_a_node(|| run(&scenario, rows));
}

#[test]
fn nobody_outside_speaks_for_this_node_or_its_pods() {
    let scenario = Scenario::default().pod(CLIENT, "client").pod(DB, "db");
    let local = Fate::Drop(Some(DB), DropReason::SourceIsLocal);
    let rows = vec![
        row(
            "a pod's address",
            arrives(|f| CLIENT.tcp(f, DB, PORTS, SYN).with_destination_mac(NODE.mac.0).bytes()),
            local,
        ),
        row(
            "the node's address",
            arrives(|f| NODE.tcp(f, DB, PORTS, SYN).with_destination_mac(NODE.mac.0).bytes()),
            local,
        ),
        row(
            "a pod's address, within a flow",
            arrives(|f| CLIENT.tcp(f, DB, PORTS, ACK).with_destination_mac(NODE.mac.0).bytes()),
            local,
        )
        .given(vec![sends(CLIENT, |f| CLIENT.tcp(f, DB, PORTS, SYN).bytes())]),
    ];
    on_a_node(|| run(&scenario, rows));
}
