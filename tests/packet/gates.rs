//! Host endpoints: what the programs at the node's own interfaces let pass.
//! In: rules of each layer, packets of the node, of pods and of others. Out: fates, entries, judgements.
//! Invariant: what a layer's rules do not let pass, and no flow of the gate's own, is dropped as `host-endpoint`.
//! Never: shows what policies a layer's rules are made of; `tests/system` does.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    frame::{ACK, Frame, RST, SYN, arp, listener_report, solicitation},
    kernel::{
        Kernel,
        guard::{ALLOW, DENY, Guard, LOCAL, NO_GUARD, OPEN, Rules},
        on_a_node,
    },
    scenario::Scenario,
    table::{Action, By, Fate, Hook, Row, Step, arrives, comes_in, goes_out, host_sends, row, run_on, sends},
};
use abi::{
    DropReason, SpanKind, Word,
    conntrack::{CT_REFUSED, zone_of},
    endpoint::NODE_REFUSES_WORKLOADS,
    handover,
    rules::x_of,
};
use std::net::IpAddr;

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const SSH: (u16, u16) = (40000, 22);
const WEB: (u16, u16) = (40000, 80);
const REFUSED: Fate = Fate::Drop(None, DropReason::HostEndpoint);

/// TCP 22 alone, as of a failsafe port.
const SSH_ONLY: Rules = &[(0, SpanKind::Deny), (x_of(6, 22), SpanKind::Allow), (x_of(6, 23), SpanKind::Deny)];
/// Protocol 253 alone.
const RAW_ONLY: Rules = &[(0, SpanKind::Deny), (x_of(253, 0), SpanKind::Allow), (x_of(254, 0), SpanKind::Deny)];
/// TCP 22 passes, TCP 80 does not, and of the rest others are asked.
const OPINION: Rules = &[
    (0, SpanKind::Next),
    (x_of(6, 22), SpanKind::Allow),
    (x_of(6, 23), SpanKind::Next),
    (x_of(6, 80), SpanKind::Deny),
    (x_of(6, 81), SpanKind::Next),
];

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

fn with(guard: Guard, rows: Vec<Row>) {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.guard(&guard);
        run_on(&mut kernel, &scenario(), rows);
    });
}

/// From outside to the node.
fn asks(f: Family, ports: (u16, u16), flags: u8) -> Frame {
    OUTSIDE.tcp(f, NODE, ports, flags).with_destination_mac(NODE.mac.0)
}

/// From outside to a pod.
fn asks_pod(f: Family, ports: (u16, u16), flags: u8) -> Frame {
    OUTSIDE.tcp(f, DB, ports, flags).with_destination_mac(NODE.mac.0)
}

fn node_says(f: Family, ports: (u16, u16), flags: u8) -> Frame {
    NODE.tcp(f, OUTSIDE, ports, flags).with_destination_mac(OUTSIDE.mac.0)
}

fn comes(ports: (u16, u16), flags: u8) -> Step {
    comes_in(move |f| asks(f, ports, flags).bytes())
}

fn comes_for_pod(ports: (u16, u16), flags: u8) -> Step {
    comes_in(move |f| asks_pod(f, ports, flags).bytes())
}

fn node_sends(ports: (u16, u16), flags: u8) -> Step {
    goes_out(By::Host, move |f| node_says(f, ports, flags).bytes())
}

fn pod_sends(ports: (u16, u16), flags: u8) -> Step {
    goes_out(By::Pod(CLIENT), move |f| CLIENT.tcp(f, OUTSIDE, ports, flags).bytes())
}

fn raw(protocol: u8) -> impl Fn(Family) -> Vec<u8> + Send + Sync + 'static {
    move |f| OUTSIDE.ip(f, NODE, protocol, b"raw bytes".to_vec()).with_destination_mac(NODE.mac.0).bytes()
}

#[test]
fn hep_1_hep_12_without_a_rule_nothing_passes_but_what_keeps_the_link_alive_and_what_is_forwarded() {
    let rows = vec![
        row("TCP to the node", comes(WEB, SYN), REFUSED).judged(1),
        row("UDP to the node", comes_in(|f| to_node_by_udp(f).bytes()), REFUSED).judged(1),
        row("a ping", comes_in(|f| OUTSIDE.ping(f, NODE, 7).with_destination_mac(NODE.mac.0).bytes()), REFUSED)
            .judged(1),
        row("TCP of the node", node_sends(WEB, SYN), REFUSED).judged(1),
        row("TCP to a pod", comes_for_pod(WEB, SYN), Fate::Host),
        row("a pod's TCP", pod_sends(WEB, SYN), Fate::Host),
        row("ARP", comes_in(|_| arp(OUTSIDE, 1, [192, 0, 2, 9], [192, 0, 2, 1])), Fate::Host).only(V4),
        row("the node's ARP", goes_out(By::Host, |_| arp(NODE, 1, [192, 0, 2, 1], [192, 0, 2, 9])), Fate::Host)
            .only(V4),
        row("a neighbour's question", comes_in(|_| solicits().bytes()), Fate::Host).only(V6),
        row("a listener's report", comes_in(|_| listener_report(OUTSIDE).bytes()), Fate::Host).only(V6),
    ];
    with(Guard { local: [DENY, DENY], ..NO_GUARD }, rows);
}

fn to_node_by_udp(f: Family) -> Frame {
    OUTSIDE.udp(f, NODE, WEB, b"x").with_destination_mac(NODE.mac.0)
}

fn solicits() -> Frame {
    let octets = |address| match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(_) => panic!("an IPv6 address"),
    };
    solicitation(OUTSIDE, octets(OUTSIDE.address(Family::V6)), octets(NODE.address(Family::V6)), true)
}

#[test]
fn hep_2_hep_7_a_port_that_is_let_in_is_answered_and_no_other_way_is_opened_by_it() {
    let talk = || vec![comes(SSH, SYN), node_sends((22, 40000), SYN | ACK), comes(SSH, ACK)];
    let rows = vec![
        row("in", comes(SSH, SYN), Fate::Host).opens(1),
        row("the answer", node_sends((22, 40000), SYN | ACK), Fate::Host).given(vec![comes(SSH, SYN)]),
        row("of the connection", comes(SSH, ACK), Fate::Host).given(talk()),
        row("and its answer", node_sends((22, 40000), ACK), Fate::Host).given(talk()),
        row("the node's own to that port", node_sends(SSH, SYN), REFUSED).judged(1),
        row("another port", comes(WEB, SYN), REFUSED).judged(1),
        row("a RST of no connection", comes(SSH, RST), Fate::Drop(None, DropReason::NoFlow)),
        row("a connection older than the gate", comes(SSH, ACK), Fate::Host).opens(1),
        row("and its answer", node_sends((22, 40000), ACK), Fate::Host).given(vec![comes(SSH, ACK)]),
    ];
    with(Guard { local: [SSH_ONLY, DENY], ..NO_GUARD }, rows);
}

#[test]
fn hep_3_protocols_without_ports_are_policed_and_answered() {
    let answer = |protocol| goes_out(By::Host, move |f| NODE.ip(f, OUTSIDE, protocol, b"raw bytes".to_vec()).bytes());
    let rows = vec![
        row("the one that is let in", comes_in(raw(253)), Fate::Host).opens(1),
        row("its answer", answer(253), Fate::Host).given(vec![comes_in(raw(253))]),
        row("no answer", answer(253), REFUSED).judged(1),
        row("another", comes_in(raw(254)), REFUSED).judged(1),
    ];
    with(Guard { local: [RAW_ONLY, DENY], ..NO_GUARD }, rows);
}

#[test]
fn hep_4_hep_5_hep_7_what_is_forwarded_is_judged_by_the_forward_layer_alone() {
    let closed = vec![
        row("to a pod, at a port that is let in to the node", comes_for_pod(SSH, SYN), REFUSED).judged(1),
        row("a pod's", pod_sends(SSH, SYN), REFUSED).judged(1),
        row("to the node", comes(SSH, SYN), Fate::Host).opens(1),
    ];
    with(Guard { local: [SSH_ONLY, DENY], forward: [DENY, DENY], ..NO_GUARD }, closed);
    let open = vec![
        row("to a pod", comes_for_pod(SSH, SYN), Fate::Host).opens(1),
        row(
            "the pod's answer",
            goes_out(By::Pod(DB), |f| DB.tcp(f, OUTSIDE, (22, 40000), SYN | ACK).bytes()),
            Fate::Host,
        )
        .given(vec![comes_for_pod(SSH, SYN)]),
        row("a pod's own", pod_sends(SSH, SYN), REFUSED).judged(1),
        row("to the node", comes(SSH, SYN), REFUSED).judged(1),
    ];
    with(Guard { local: [DENY, DENY], forward: [SSH_ONLY, DENY], ..NO_GUARD }, open);
}

#[test]
fn hep_8_what_is_not_tracked_is_asked_packet_by_packet_before_all_else() {
    let rows = vec![
        row("let in at once", comes(SSH, SYN), Fate::Host).judged(1),
        row("the next one too", comes(SSH, ACK), Fate::Host).judged(1).given(vec![comes(SSH, SYN)]),
        row("its answer needs a rule", node_sends((22, 40000), SYN | ACK), REFUSED)
            .judged(2)
            .given(vec![comes(SSH, SYN)]),
        row("the rule", node_sends((40000, 22), SYN), Fate::Host).judged(1),
        row("refused", comes(WEB, SYN), REFUSED).judged(1),
        row("no opinion", comes((40000, 81), SYN), Fate::Host).judged(1).opens(2),
        row("to a pod as well", comes_for_pod(WEB, SYN), REFUSED).judged(1),
    ];
    with(Guard { local: [ALLOW, DENY], untracked: [OPINION, OPINION], ..NO_GUARD }, rows);
}

#[test]
fn hep_9_before_translation_a_rule_may_refuse_and_skips_nothing() {
    let rows = vec![
        row("refused there", comes(WEB, SYN), REFUSED).judged(1),
        row("refused there, to a pod", comes_for_pod(WEB, SYN), REFUSED).judged(1),
        row("let in there, and asked on", comes(SSH, SYN), REFUSED).judged(2),
        row("no opinion, and asked on", comes((40000, 443), SYN), REFUSED).judged(2),
        row("what goes out is not asked", node_sends(WEB, SYN), Fate::Host).opens(1),
        row("nor its answer", comes((80, 40000), SYN | ACK), Fate::Host).given(vec![node_sends(WEB, SYN)]),
    ];
    with(Guard { local: [DENY, ALLOW], pre_dnat: OPINION, ..NO_GUARD }, rows);
}

#[test]
fn pkt_23_pkt_30_errors_pass_with_their_flow_and_pieces_with_their_first() {
    let about = |f| NODE.udp(f, OUTSIDE, WEB, b"x");
    let error =
        move || comes_in(move |f| OUTSIDE.unreachable(f, NODE, &about(f)).with_destination_mac(NODE.mac.0).bytes());
    let piece = |offset, more| {
        goes_out(By::Host, move |f| NODE.udp(f, OUTSIDE, WEB, &[7; 56]).fragment(offset, 32, more).bytes())
    };
    let rows = vec![
        row("an error about the node's flow", error(), Fate::Host)
            .given(vec![goes_out(By::Host, move |f| about(f).bytes())]),
        row("about none", error(), Fate::Drop(None, DropReason::IcmpUnrelated)).judged(1),
        row("a piece", piece(4, false), Fate::Host).given(vec![piece(0, true)]),
        row("a piece without its first", piece(4, false), Fate::Drop(None, DropReason::FragmentBeforeFirst)),
    ];
    with(Guard { local: [DENY, ALLOW], ..NO_GUARD }, rows);
}

#[test]
fn own_1_a_new_deny_cuts_a_flow_at_the_gate_and_the_pods_flow_is_another() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let guard = |forward| Guard { local: [DENY, DENY], forward, ..NO_GUARD };
        for family in Family::BOTH {
            kernel.guard(&guard([ALLOW, DENY]));
            let pass = |kernel: &mut Kernel, step: &Step, wanted| {
                assert_eq!(step.take(kernel, family), wanted, "{family:?}");
            };
            let syn = asks_pod(family, SSH, SYN).bytes();
            pass(&mut kernel, &comes_for_pod(SSH, SYN), Action::PassOn);
            assert_eq!(kernel.run(Hook::Uplink, &syn).action, Action::Redirect);
            let zones: Vec<_> = kernel.flows().into_iter().map(|key| key.zone).collect();
            assert_eq!(zones, [[0; 3], zone_of(LOCAL)], "{family:?}");
            kernel.guard(&guard([DENY, DENY]));
            pass(&mut kernel, &comes_for_pod(SSH, ACK), Action::Drop);
            let refused = |zone| {
                let entries = kernel.seen().entries;
                entries.iter().any(|(key, entry)| key.zone == zone && entry.flags & CT_REFUSED != 0)
            };
            assert!(refused(zone_of(LOCAL)) && !refused([0; 3]), "{family:?}");
            assert_eq!(kernel.run(Hook::Uplink, &asks_pod(family, SSH, ACK).bytes()).action, Action::Redirect);
            kernel.fresh();
        }
    });
}

#[test]
fn hep_5_hep_6_the_host_endpoint_of_all_interfaces_is_asked_of_what_pods_send_and_receive() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let to_db = || sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, SYN).bytes());
        let out = || sends(CLIENT, |f| CLIENT.tcp(f, OUTSIDE, WEB, SYN).bytes());
        let to_node = || sends(CLIENT, |f| CLIENT.tcp(f, NODE, WEB, SYN).bytes());
        let into_db = || arrives(|f| asks_pod(f, WEB, SYN).bytes());
        let of_node = || host_sends(DB, |f| NODE.tcp(f, DB, WEB, SYN).with_destination_mac(DB.mac.0).bytes());
        let by = |whom| Fate::Drop(Some(whom), DropReason::HostEndpoint);
        kernel.node_says(0, Some(Guard { forward: [DENY, ALLOW], ..NO_GUARD }));
        let rows = vec![
            row("to a pod here", to_db(), by(CLIENT)).judged(2),
            row("to elsewhere", out(), by(CLIENT)).judged(2),
            row("to the node", to_node(), Fate::Host).opens(1),
            row("from outside", into_db(), Fate::To(DB)).opens(2),
            row("from the node", of_node(), Fate::Host).opens(0),
        ];
        run_on(&mut kernel, &scenario(), rows);
        kernel.node_says(0, Some(Guard { forward: [OPEN, DENY], ..NO_GUARD }));
        let rows = vec![
            row("to a pod here", to_db(), by(CLIENT)).judged(2),
            row("to elsewhere", out(), Fate::Answered).opens(1),
            row("from outside", into_db(), by(DB)).judged(1),
            row("from the node", of_node(), Fate::Host).opens(0),
        ];
        run_on(&mut kernel, &scenario(), rows);
    });
}

#[test]
fn e2h_6_the_host_endpoint_of_all_interfaces_is_asked_before_translation_of_what_pods_send() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let to = |whom: Actor| sends(CLIENT, move |f| CLIENT.tcp(f, whom, WEB, SYN).bytes());
        let into_db = || arrives(|f| asks_pod(f, WEB, SYN).bytes());
        let of_node = || host_sends(DB, |f| NODE.tcp(f, DB, WEB, SYN).with_destination_mac(DB.mac.0).bytes());
        kernel.node_says(0, Some(Guard { pre_dnat: DENY, ..NO_GUARD }));
        let refused = || Fate::Drop(Some(CLIENT), DropReason::HostEndpoint);
        let rows = vec![
            row("to a pod here", to(DB), refused()).judged(1),
            row("to elsewhere", to(OUTSIDE), refused()).judged(1),
            row("to the node", to(NODE), refused()).judged(1),
            row("from outside", into_db(), Fate::To(DB)).opens(1),
            row("from the node", of_node(), Fate::Host).opens(0),
        ];
        run_on(&mut kernel, &scenario(), rows);
        // TCP 80 is refused, TCP 22 allowed, and of the rest others are asked.
        kernel.node_says(NODE_REFUSES_WORKLOADS, Some(Guard { pre_dnat: OPINION, ..NO_GUARD }));
        let ssh = |whom: Actor| sends(CLIENT, move |f| CLIENT.tcp(f, whom, SSH, SYN).bytes());
        let rows = vec![
            row("to a pod's refused port", to(DB), refused()).judged(1),
            row("to its allowed one", ssh(DB), Fate::To(DB)).opens(3),
            row(
                "to one of which nothing is said",
                sends(CLIENT, |f| CLIENT.udp(f, DB, WEB, b"x").bytes()),
                Fate::To(DB),
            )
            .opens(3),
            row("to the node's allowed one", ssh(NODE), Fate::Drop(Some(CLIENT), DropReason::EndpointToHost)).judged(2),
        ];
        run_on(&mut kernel, &scenario(), rows);
    });
}

#[test]
fn e2h_1_what_pods_open_to_the_node_is_refused_and_what_they_answer_is_not() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.node_says(NODE_REFUSES_WORKLOADS, None);
        let of_node =
            |flags| host_sends(DB, move |f| NODE.tcp(f, DB, WEB, flags).with_destination_mac(DB.mac.0).bytes());
        let answer = |flags| sends(DB, move |f| DB.tcp(f, NODE, (80, 40000), flags).bytes());
        let refused = Fate::Drop(Some(CLIENT), DropReason::EndpointToHost);
        let link_local = |f: Family| CLIENT.udp(f, NODE, WEB, b"x").with_destination(&gateways_own());
        let rows = vec![
            row("TCP", sends(CLIENT, |f| CLIENT.tcp(f, NODE, WEB, SYN).bytes()), refused).judged(1),
            row("a ping", sends(CLIENT, |f| CLIENT.ping(f, NODE, 7).bytes()), refused).judged(1),
            row("to an address of the interface's own", sends(CLIENT, move |f| link_local(f).bytes()), refused)
                .opens(1)
                .only(V6),
            row("to elsewhere", sends(CLIENT, |f| CLIENT.tcp(f, OUTSIDE, WEB, SYN).bytes()), Fate::Answered).opens(1),
            row("an answer", answer(SYN | ACK), Fate::Host).given(vec![of_node(SYN)]),
            row("and the next", answer(ACK), Fate::Host).given(vec![of_node(SYN), answer(SYN | ACK), of_node(ACK)]),
        ];
        run_on(&mut kernel, &scenario(), rows);
    });
}

/// The IPv6 link-local address of every pod's interface on the node.
fn gateways_own() -> String {
    std::net::Ipv6Addr::from(abi::endpoint::GATEWAY_V6).to_string()
}

#[test]
fn what_passes_a_gate_is_judged_at_the_pod_by_the_gates_revision() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.guard(&Guard { local: [DENY, DENY], forward: [ALLOW, ALLOW], ..NO_GUARD });
        for family in Family::BOTH {
            let now = kernel.generation();
            let syn = asks_pod(family, WEB, SYN).bytes();
            let (ran, words) = kernel.run_handing(Hook::In, &syn, [0; 2]);
            assert_eq!((ran.action, words), (Action::PassOn, handover::to_cb(now)), "{family:?}");
            // A commit comes between: what the pod lets in from the next revision on, this packet does not know of.
            kernel.change_endpoint(DB, |db| {
                (db.ingress, db.rev) = (Word::changing(0, db.ingress.new(), now + 1), now as u32 + 1);
            });
            kernel.write_generation(now + 1);
            assert_eq!(kernel.run_handing(Hook::Uplink, &syn, words).0.action, Action::Drop, "{family:?}");
            assert_eq!(kernel.run_handing(Hook::Uplink, &syn, [0; 2]).0.action, Action::Redirect, "{family:?}");
            kernel.fresh();
            kernel.write_generation(now + 2);
            assert_eq!(kernel.run_handing(Hook::Uplink, &syn, words).0.action, Action::Redirect, "too old to count");
            kernel.fresh();
        }
    });
}

#[test]
fn what_leaves_a_pod_is_judged_at_the_gate_by_the_pods_revision() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.guard(&Guard { local: [DENY, DENY], forward: [ALLOW, ALLOW], ..NO_GUARD });
        for family in Family::BOTH {
            let now = kernel.generation();
            let syn = CLIENT.tcp(family, OUTSIDE, WEB, SYN).bytes();
            let (ran, words) = kernel.run_handing(Hook::Pod(CLIENT), &syn, [0; 2]);
            assert_eq!((ran.action, words), (Action::Redirect, handover::to_cb(now)), "{family:?}");
            kernel.change_gate(|forward| forward.egress = Word::changing(0, forward.egress.new(), now + 1));
            kernel.write_generation(now + 1);
            let out = Hook::Out(By::Pod(CLIENT));
            assert_eq!(kernel.run_handing(out, &ran.bytes, words).0.action, Action::Drop, "{family:?}");
            assert_eq!(kernel.run_handing(out, &ran.bytes, [0; 2]).0.action, Action::PassOn, "{family:?}");
            kernel.fresh();
        }
    });
}

#[test]
fn the_twins_of_a_gate_say_what_it_does_and_leave_no_trace() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.guard(&Guard { local: [SSH_ONLY, DENY], untracked: [OPINION, OPEN], ..NO_GUARD });
        for family in Family::BOTH {
            kernel.fresh();
            for (hook, frame) in [
                (Hook::In, asks(family, SSH, SYN)),
                (Hook::In, asks(family, (5, 23), SYN)),
                (Hook::In, asks(family, WEB, SYN)),
                (Hook::In, asks_pod(family, SSH, SYN)),
                (Hook::Out(By::Host), node_says(family, (22, 40000), SYN | ACK)),
                (Hook::Out(By::Host), node_says(family, WEB, SYN)),
                (Hook::Out(By::Pod(CLIENT)), CLIENT.tcp(family, OUTSIDE, WEB, SYN)),
            ] {
                let bytes = frame.bytes();
                let before = kernel.seen();
                let answer = kernel.ask(hook, &bytes);
                assert_eq!(kernel.seen(), before, "the twin wrote something at {hook:?}");
                let passes = kernel.run(hook, &bytes).action == Action::PassOn;
                let told = matches!(answer.outcome, abi::Outcome::ToHost);
                assert_eq!(told, passes, "{hook:?} {family:?} {answer:?}");
            }
        }
    });
}
