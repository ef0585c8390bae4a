//! At the pod's own interface, on the way in: what the host made, and what it forwards from the uplink or a pod.
//! In: packets for a pod, by every way into the stack. Out: passed on, or dropped for what they claim to be.
//! Invariant: only what the host itself made counts as the host's; a local source has come by its own interface.
//! Never: shows that the stack forwards; `tests/system` does, with the stack's own routes.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, GATEWAY_MAC, SYN, arp, listener_report, solicitation},
    kernel::on_a_node,
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{By, Fate, Step, arrives, forwarded, host_sends, row, run, sends},
};
use abi::DropReason;
use model::{Direction, Protocol};
use std::net::IpAddr;

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const SQL: (u16, u16) = (40000, 5432);
const WEB: (u16, u16) = (40000, 80);

fn scenario() -> Scenario {
    let rule = allow().port(Protocol::TCP, 5432);
    let db_in = policy("db-in", Some("db"), &[Direction::Ingress]).ingress(rule);
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(db_in)
}

fn at_db(reason: DropReason) -> Fate {
    Fate::Drop(Some(DB), reason)
}

fn client(by: By, flags: u8) -> Step {
    forwarded(DB, by, move |f| CLIENT.tcp(f, DB, SQL, flags).with_destination_mac(DB.mac.0).bytes())
}

fn node(by: By, ports: (u16, u16), flags: u8) -> Step {
    forwarded(DB, by, move |f| NODE.tcp(f, DB, ports, flags).with_destination_mac(DB.mac.0).bytes())
}

#[test]
fn np_52_only_what_the_host_made_is_the_hosts() {
    let rows = vec![
        row("the host may open anything", node(By::Host, WEB, SYN), Fate::Host).opens(0),
        row("its address from the uplink may not", node(By::Uplink, WEB, SYN), at_db(DropReason::IngressPolicy))
            .judged(1),
        row("nor from a pod", node(By::Pod(OTHER), WEB, SYN), at_db(DropReason::IngressPolicy)).judged(1),
        row("nor within the host's own flow", node(By::Uplink, WEB, ACK), at_db(DropReason::NoFlow)).given(vec![node(
            By::Host,
            WEB,
            SYN,
        )]),
        row("the host's own flow goes on", node(By::Host, WEB, ACK), Fate::Host).given(vec![node(By::Host, WEB, SYN)]),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn what_the_host_forwards_is_judged_like_what_is_redirected() {
    let outside = |ports, flags| {
        forwarded(DB, By::Uplink, move |f| OUTSIDE.tcp(f, DB, ports, flags).with_destination_mac(DB.mac.0).bytes())
    };
    let last_hop = || sends(CLIENT, |f| CLIENT.tcp(f, DB, SQL, SYN).ttl(1).bytes());
    let rows = vec![
        row("an allowed opening from outside", outside(SQL, SYN), Fate::Host).opens(1),
        row("a refused one", outside(WEB, SYN), at_db(DropReason::IngressPolicy)).judged(1),
        row("a segment of nothing", outside(SQL, ACK), at_db(DropReason::NoFlow)),
        row("a pod's own packet that was left to the stack", client(By::Pod(CLIENT), SYN), Fate::Host)
            .given(vec![last_hop()]),
        row(
            "for another pod",
            host_sends(DB, |f| NODE.udp(f, OTHER, WEB, b"x").bytes()),
            at_db(DropReason::NoEndpoint),
        ),
        row(
            "for another pod, within its flow",
            host_sends(DB, |f| NODE.tcp(f, OTHER, WEB, ACK).bytes()),
            at_db(DropReason::NoEndpoint),
        )
        .given(vec![host_sends(OTHER, |f| NODE.tcp(f, OTHER, WEB, SYN).bytes())]),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_52_from_the_uplink_only_what_was_sent_to_it_reaches_a_pod() {
    let to = |mac: [u8; 6]| arrives(move |f| OUTSIDE.tcp(f, DB, SQL, SYN).with_destination_mac(mac).bytes());
    let rows = vec![
        row("PKT-52 its own MAC", to(NODE.mac.0), Fate::To(DB)).opens(1),
        row("PKT-52 another's, overheard", to([2, 0, 0, 0, 0, 7]), Fate::Host),
        row("PKT-52 everybody's", to([0xff; 6]), Fate::Host),
        row("PKT-52 a group's", to([0x33, 0x33, 0, 0, 0, 1]), Fate::Host),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn spf_1_a_local_source_comes_by_its_own_interface() {
    let local = at_db(DropReason::SourceIsLocal);
    let opened = || vec![sends(CLIENT, |f| CLIENT.tcp(f, DB, SQL, SYN).bytes())];
    let rows = vec![
        row("a pod's address from the uplink", client(By::Uplink, SYN), local),
        row("a pod's address from another pod", client(By::Pod(OTHER), SYN), local),
        row("a pod's address from the host", client(By::Host, SYN), local),
        row("within its flow, from the uplink", client(By::Uplink, ACK), local).given(opened()),
        row("within its flow, from another pod", client(By::Pod(OTHER), ACK), local).given(opened()),
        row("within its flow, from itself", client(By::Pod(CLIENT), ACK), Fate::Host).given(opened()),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_5_only_the_host_has_neighbours_at_a_pods_interface() {
    let question = |by| forwarded(DB, by, |_| arp(OUTSIDE, 1, [192, 0, 2, 9], [10, 65, 0, 3]));
    let v6 = |by| {
        forwarded(DB, by, |f| solicitation(OUTSIDE, octets(OUTSIDE.address(f)), octets(DB.address(f)), true).bytes())
    };
    let listener = |by| forwarded(DB, by, |_| listener_report(OUTSIDE).bytes());
    let unanswered = at_db(DropReason::NeighbourUnanswered);
    let rows = vec![
        row("the host's ARP", question(By::Host), Fate::Host).only(V4),
        row("ARP from elsewhere", question(By::Uplink), unanswered).only(V4),
        row("the host's solicitation", v6(By::Host), Fate::Host).only(V6),
        row("a solicitation from elsewhere", v6(By::Pod(OTHER)), unanswered).only(V6),
        row("the host's listener report", listener(By::Host), Fate::Host).only(V6),
        row("a listener report from elsewhere", listener(By::Uplink), at_db(DropReason::Multicast)).only(V6),
        row(
            "PKT-53 the host's multicast",
            host_sends(DB, |f| {
                let group = if f == Family::V4 { "224.0.0.5" } else { "ff02::5" };
                NODE.udp(f, DB, WEB, b"x").with_destination(group).with_source_mac(GATEWAY_MAC).bytes()
            }),
            at_db(DropReason::Multicast),
        ),
    ];
    on_a_node(|| run(&scenario(), rows));
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    }
}
