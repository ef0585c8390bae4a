//! Flows: what conntrack lets by without asking, and what it does not take for a flow.
//! In: sequences of packets. Out: the fate of the last, and whether an entry came of it.
//! Invariant: only a SYN opens a TCP flow; a reply needs no rule; an entry serves exactly its own tuple.
//! Never: waits; timeouts are checked where the clock is a value (`ebpf`'s own tests).

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, FIN, Frame, RST, SYN},
    kernel::on_a_node,
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Fate, Step, arrives, row, run, sends},
};
use abi::DropReason;
use model::{Direction, Protocol};

const THERE: (u16, u16) = (40000, 5432);
const BACK: (u16, u16) = (5432, 40000);

/// Nobody may send to the client, and the client may send to the db only.
fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(
        policy("client", Some("client"), &[Direction::Ingress, Direction::Egress])
            .egress(allow().pods("db").port(Protocol::TCP, 5432))
            .egress(allow().pods("db").protocol(Protocol::UDP))
            .egress(allow().pods("db").protocol(Protocol::ICMP))
            .egress(allow().pods("db").protocol(Protocol::ICMPV6))
            .egress(allow().net("192.0.2.0/24"))
            .egress(allow().net("2001:db8::/64")),
    )
}

fn tcp(flags: u8) -> Step {
    sends(CLIENT, move |f| CLIENT.tcp(f, DB, THERE, flags).bytes())
}

fn tcp_back(flags: u8) -> Step {
    sends(DB, move |f| DB.tcp(f, CLIENT, BACK, flags).bytes())
}

#[test]
fn np_2_replies_pass_and_nothing_else_does() {
    let to_client = Fate::To(CLIENT);
    let refused = Fate::Drop(Some(CLIENT), DropReason::IngressPolicy);
    let rows = vec![
        row("a SYN opens", tcp(SYN), Fate::To(DB)).opens(2),
        row("its reply needs no rule", tcp_back(SYN | ACK), to_client).given(vec![tcp(SYN)]),
        row("nor does what follows", tcp(ACK), Fate::To(DB)).given(vec![tcp(SYN), tcp_back(SYN | ACK)]),
        row("the other way cannot be opened", tcp_back(SYN), refused).judged(2),
        row(
            "from another port neither",
            sends(DB, |f| DB.tcp(f, CLIENT, (5433, 40000), ACK).bytes()),
            Fate::Drop(Some(DB), DropReason::NoFlow),
        )
        .given(vec![tcp(SYN)]),
        row("a UDP answer passes", sends(DB, |f| DB.udp(f, CLIENT, BACK, b"y").bytes()), to_client)
            .given(vec![sends(CLIENT, |f| CLIENT.udp(f, DB, THERE, b"x").bytes())]),
        row(
            "PKT-80 a UDP answer from another port does not",
            sends(DB, |f| DB.udp(f, CLIENT, (99, 40000), b"y").bytes()),
            refused,
        )
        .given(vec![sends(CLIENT, |f| CLIENT.udp(f, DB, THERE, b"x").bytes())])
        .judged(2),
        row("an SCTP packet is no UDP answer", sends(DB, |f| DB.sctp_init(f, CLIENT, BACK).bytes()), refused)
            .given(vec![sends(CLIENT, |f| CLIENT.udp(f, DB, THERE, b"x").bytes())])
            .judged(2),
        row("PKT-37 a pong passes", sends(DB, |f| DB.pong(f, CLIENT, 7).bytes()), to_client)
            .given(vec![sends(CLIENT, |f| CLIENT.ping(f, DB, 7).bytes())]),
        row("PKT-37 a pong to nothing does not", sends(DB, |f| DB.pong(f, CLIENT, 7).bytes()), refused).judged(2),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_75_own_20_only_a_syn_opens_a_tcp_flow_whoever_else_may_have_let_it_in() {
    let none = Fate::Drop(Some(CLIENT), DropReason::NoFlow);
    let rows = [("ACK", ACK), ("SYN and ACK", SYN | ACK), ("FIN", FIN | ACK), ("RST", RST), ("no flag", 0)]
        .map(|(name, flags)| row(name, tcp(flags), none))
        .into_iter()
        .collect();
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn pkt_72_a_syn_on_a_closed_flow_is_judged_as_new() {
    let closed = || vec![tcp(SYN), tcp_back(SYN | ACK), tcp(ACK), tcp(RST)];
    let rows = vec![
        row("the client opens again", tcp(SYN), Fate::To(DB)).given(closed()).judged(2),
        row("the server may not turn it round", tcp_back(SYN), Fate::Drop(Some(CLIENT), DropReason::IngressPolicy))
            .given(closed())
            .judged(2),
        row("a FIN closes half, the rest flows", tcp_back(ACK), Fate::To(CLIENT)).given(vec![
            tcp(SYN),
            tcp_back(SYN | ACK),
            tcp(FIN | ACK),
        ]),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn answers_from_outside_come_in_by_the_uplink() {
    let out = || sends(CLIENT, |f| CLIENT.tcp(f, OUTSIDE, (40000, 443), SYN).bytes());
    let back =
        |flags| arrives(move |f| OUTSIDE.tcp(f, CLIENT, (443, 40000), flags).with_destination_mac(NODE.mac.0).bytes());
    let rows = vec![
        row("the answer of an opened flow", back(SYN | ACK), Fate::To(CLIENT)).given(vec![out()]),
        row("an opening", back(SYN), Fate::Drop(Some(CLIENT), DropReason::IngressPolicy)).judged(1),
        row("a segment of nothing", back(ACK), Fate::Drop(Some(CLIENT), DropReason::NoFlow)),
    ];
    on_a_node(|| run(&scenario(), rows));
}

#[test]
fn datagrams_and_echoes_go_by_the_uplink_both_ways() {
    let asks = || sends(CLIENT, |f| CLIENT.udp(f, OUTSIDE, (40000, 53), b"x").bytes());
    let pings = || sends(CLIENT, |f| CLIENT.ping(f, OUTSIDE, 7).bytes());
    let comes = |frame: fn(Family) -> Frame| arrives(move |f| frame(f).with_destination_mac(NODE.mac.0).bytes());
    let refused = Fate::Drop(Some(CLIENT), DropReason::IngressPolicy);
    let rows = vec![
        row("a datagram leaves", asks(), Fate::Answered).opens(1),
        row("its answer", comes(|f| OUTSIDE.udp(f, CLIENT, (53, 40000), b"y")), Fate::To(CLIENT)).given(vec![asks()]),
        row("PKT-80 an answer from another port", comes(|f| OUTSIDE.udp(f, CLIENT, (54, 40000), b"y")), refused)
            .given(vec![asks()])
            .judged(1),
        row("an unasked datagram", comes(|f| OUTSIDE.udp(f, CLIENT, (53, 40000), b"y")), refused).judged(1),
        row("an unpoliced pod's datagram", comes(|f| OUTSIDE.udp(f, DB, (53, 40000), b"y")), Fate::To(DB)).opens(1),
        row("a ping leaves", pings(), Fate::Answered).opens(1),
        row("PKT-37 its pong", comes(|f| OUTSIDE.pong(f, CLIENT, 7)), Fate::To(CLIENT)).given(vec![pings()]),
        row("PKT-37 a pong of another ping", comes(|f| OUTSIDE.pong(f, CLIENT, 8)), refused)
            .given(vec![pings()])
            .judged(1),
        row("an unpoliced pod is pinged", comes(|f| OUTSIDE.ping(f, DB, 7)), Fate::To(DB)).opens(1),
    ];
    on_a_node(|| run(&scenario(), rows));
}
