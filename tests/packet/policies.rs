//! Policy as packets meet it: who opens what, and which end refuses.
//! In: one policy a table. Out: the fate of opening packets of every protocol.
//! Invariant: a refused opening leaves no trace but its counters.
//! Never: says what the reference evaluator says better; `differential` covers the language.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE, REMOTE},
    frame::{ACK, SYN},
    kernel::on_a_node,
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Fate, arrives, host_sends, row, run, sends},
};
use abi::DropReason;
use model::{Direction, Protocol};

const SQL: (u16, u16) = (40000, 5432);
const WEB: (u16, u16) = (40000, 80);
const REFUSED_IN: Fate = Fate::Drop(Some(DB), DropReason::IngressPolicy);

fn cast() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").remote_pod(REMOTE, "client")
}

fn db_in() -> Scenario {
    let rule = allow().pods("client").port(Protocol::TCP, 5432);
    cast().policy(policy("db-in", Some("db"), &[Direction::Ingress]).ingress(rule))
}

#[test]
fn np_14_a_rule_needs_its_peer_and_its_port() {
    let rows = vec![
        row("client may open to db", sends(CLIENT, |f| CLIENT.tcp(f, DB, SQL, SYN).bytes()), Fate::To(DB)).opens(2),
        row("another port is refused", sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, SYN).bytes()), REFUSED_IN).judged(2),
        row("another pod is refused", sends(OTHER, |f| OTHER.tcp(f, DB, SQL, SYN).bytes()), REFUSED_IN).judged(2),
        row("NP-40 UDP on the port is refused", sends(CLIENT, |f| CLIENT.udp(f, DB, SQL, b"x").bytes()), REFUSED_IN)
            .judged(2),
        row("NP-38 SCTP on the port is refused", sends(CLIENT, |f| CLIENT.sctp_init(f, DB, SQL).bytes()), REFUSED_IN)
            .judged(2),
        row("NP-63 a ping is refused", sends(CLIENT, |f| CLIENT.ping(f, DB, 7).bytes()), REFUSED_IN).judged(2),
        row("the other way is open", sends(DB, |f| DB.tcp(f, CLIENT, WEB, SYN).bytes()), Fate::To(CLIENT)).opens(2),
        row("an unpoliced pod is open", sends(CLIENT, |f| CLIENT.udp(f, OTHER, WEB, b"x").bytes()), Fate::To(OTHER))
            .opens(2),
    ];
    on_a_node(|| run(&db_in(), rows));
}

#[test]
fn a_pod_elsewhere_is_judged_where_it_arrives() {
    let to_node = NODE.mac.0;
    let rows = vec![
        row(
            "a client of another node may open",
            arrives(move |f| REMOTE.tcp(f, DB, SQL, SYN).with_destination_mac(to_node).bytes()),
            Fate::To(DB),
        )
        .opens(1),
        row(
            "an outsider may not",
            arrives(move |f| OUTSIDE.tcp(f, DB, SQL, SYN).with_destination_mac(to_node).bytes()),
            REFUSED_IN,
        )
        .judged(1),
        row(
            "what is for the node itself is left alone",
            arrives(move |f| OUTSIDE.tcp(f, NODE, WEB, SYN).with_destination_mac(to_node).bytes()),
            Fate::Host,
        ),
    ];
    on_a_node(|| run(&db_in(), rows));
}

#[test]
fn np_52_the_nodes_own_traffic_is_always_let_in() {
    let scenario = cast().policy(policy("deny-all", None, &[Direction::Ingress, Direction::Egress]));
    let probe = |f: Family| NODE.tcp(f, DB, WEB, SYN).with_destination_mac(DB.mac.0).bytes();
    let rows = vec![
        row("a probe gets in", host_sends(DB, probe), Fate::Host).opens(0),
        row("its answer gets out", sends(DB, |f| DB.tcp(f, NODE, (80, 40000), SYN | ACK).bytes()), Fate::Host)
            .given(vec![host_sends(DB, probe)]),
        row(
            "the pod opens nothing to the node",
            sends(DB, |f| DB.tcp(f, NODE, WEB, SYN).bytes()),
            Fate::Drop(Some(DB), DropReason::EgressPolicy),
        )
        .judged(1),
    ];
    on_a_node(|| run(&scenario, rows));
}

#[test]
fn np_28_both_ends_must_allow_and_the_sender_is_asked_first() {
    let scenario = db_in().policy(policy("client-out", Some("client"), &[Direction::Egress]));
    let rows = vec![
        row(
            "the sender's end refuses",
            sends(CLIENT, |f| CLIENT.tcp(f, DB, SQL, SYN).bytes()),
            Fate::Drop(Some(CLIENT), DropReason::EgressPolicy),
        )
        .judged(1),
        row("others send", sends(DB, |f| DB.tcp(f, OTHER, WEB, SYN).bytes()), Fate::To(OTHER)).opens(2),
    ];
    on_a_node(|| run(&scenario, rows));
}

#[test]
fn np_36_an_except_is_a_hole_in_its_own_peer_only() {
    let mut hole = allow().net("10.65.0.0/16").net("fd00:65::/64");
    hole.peer.not_nets = ["10.65.0.2/32", "fd00:65::2/128"].map(|net| net.parse().expect("valid")).into();
    let scenario = cast().policy(policy("nets", Some("db"), &[Direction::Ingress]).ingress(hole));
    let rows = vec![
        row("who is in the net may", sends(OTHER, |f| OTHER.tcp(f, DB, WEB, SYN).bytes()), Fate::To(DB)).opens(2),
        row("who is excepted may not", sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, SYN).bytes()), REFUSED_IN).judged(2),
    ];
    on_a_node(|| run(&scenario, rows));
}

#[test]
fn np_30_a_protocol_without_port_opens_the_whole_protocol() {
    let rule = allow().protocol(Protocol::SCTP);
    let scenario = cast().policy(policy("sctp", Some("db"), &[Direction::Ingress]).ingress(rule));
    let rows = vec![
        row("any SCTP port", sends(CLIENT, |f| CLIENT.sctp_init(f, DB, (5, 9)).bytes()), Fate::To(DB)).opens(2),
        row("NP-39 no TCP", sends(CLIENT, |f| CLIENT.tcp(f, DB, (5, 9), SYN).bytes()), REFUSED_IN).judged(2),
        row("PKT-46 no protocol 253", sends(CLIENT, |f| CLIENT.ip(f, DB, 253, vec![0; 8]).bytes()), REFUSED_IN)
            .judged(2),
    ];
    on_a_node(|| run(&scenario, rows));
}
