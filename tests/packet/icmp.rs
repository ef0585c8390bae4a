//! ICMP errors: part of the flow they are about, or judged like anything else.
//! In: errors about known and unknown flows. Out: passed on, or `icmp-unrelated`.
//! Invariant: an error makes no entry.
//! Never: believes an error about a flow nobody opened.

use crate::{
    cast::{CLIENT, DB, NODE, OTHER, OUTSIDE},
    frame::SYN,
    kernel::on_a_node,
    scenario::{Rules as _, Scenario, allow, policy},
    table::{Fate, arrives, row, run, sends},
};
use abi::DropReason;
use model::Direction;

/// The client may send; nobody may send to it.
fn scenario() -> Scenario {
    let alone = policy("alone", Some("client"), &[Direction::Ingress, Direction::Egress]).egress(allow());
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(alone)
}

#[test]
fn np_64_pkt_30_pkt_31_an_error_passes_with_its_flow_only() {
    let open = || sends(CLIENT, |f| CLIENT.udp(f, DB, (40000, 53), b"x").bytes());
    let out = || sends(CLIENT, |f| CLIENT.tcp(f, OUTSIDE, (40000, 443), SYN).bytes());
    let rows = vec![
        row(
            "PKT-30 the receiver's port is closed",
            sends(DB, |f| DB.unreachable(f, CLIENT, &CLIENT.udp(f, DB, (40000, 53), b"x")).bytes()),
            Fate::To(CLIENT),
        )
        .given(vec![open()]),
        row(
            "PKT-30 a router on the way says so",
            arrives(|f| {
                let about = CLIENT.tcp(f, OUTSIDE, (40000, 443), SYN);
                let router = crate::cast::Actor::outside("router", 77);
                router.unreachable(f, CLIENT, &about).with_destination_mac(NODE.mac.0).bytes()
            }),
            Fate::To(CLIENT),
        )
        .given(vec![out()]),
        row(
            "PKT-31 about a flow nobody opened",
            sends(DB, |f| DB.unreachable(f, CLIENT, &CLIENT.udp(f, DB, (40001, 53), b"x")).bytes()),
            Fate::Drop(Some(CLIENT), DropReason::IcmpUnrelated),
        )
        .given(vec![open()])
        .judged(2),
        row(
            "PKT-31 from a pod that has no part in the flow",
            sends(OTHER, |f| OTHER.unreachable(f, CLIENT, &CLIENT.udp(f, DB, (40000, 53), b"x")).bytes()),
            Fate::Drop(Some(CLIENT), DropReason::IcmpUnrelated),
        )
        .given(vec![open()])
        .judged(2),
        row(
            "PKT-31 about somebody else's flow",
            arrives(|f| {
                let about = DB.tcp(f, OUTSIDE, (40000, 443), SYN);
                OUTSIDE.unreachable(f, CLIENT, &about).with_destination_mac(NODE.mac.0).bytes()
            }),
            Fate::Drop(Some(CLIENT), DropReason::IcmpUnrelated),
        )
        .given(vec![sends(DB, |f| DB.tcp(f, OUTSIDE, (40000, 443), SYN).bytes())])
        .judged(1),
    ];
    on_a_node(|| run(&scenario(), rows));
}
