//! Anti-spoofing: a pod speaks with its own addresses and its own MAC, or not at all; nobody outside speaks for it.
//! In: forged packets, opening a flow and within one. Out: a drop with its reason, before any policy.
//! Invariant: nothing of a forged packet is remembered.
//! Never: a forged packet is judged.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, Frame, SYN},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, Fate, Hook, Row, Step, arrives, row, run, sends},
};
use abi::DropReason;
use model::Direction;

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
    on_a_node(|| run(&scenario, martians()));
}

#[test]
fn spf_2_leave_to_send_from_everywhere_is_no_leave_to_send_from_nowhere() {
    let scenario = Scenario::default().pod(CLIENT, "client").pod(DB, "db");
    let scenario = scenario.sending_from(CLIENT, &["0.0.0.0/0", "::/0"], true);
    let mut rows = martians();
    rows.push(row("an address outside", sends_by(CLIENT, OUTSIDE, DB, SYN), Fate::To(DB)).opens(2));
    on_a_node(|| run(&scenario, rows));
}

fn martians() -> Vec<Row> {
    let from = |source: &'static str| {
        sends(CLIENT, move |f| {
            let family_of = if source.contains(':') { Family::V6 } else { Family::V4 };
            assert_eq!(f, family_of, "the row says which family it is for");
            CLIENT.udp(f, DB, PORTS, b"x").with_source(source).bytes()
        })
    };
    let v4 = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"];
    let v6 = ["::", "::1", "ff02::1", "fe80::1"];
    let rows = v4.map(|source| row(source, from(source), SPOOFED).only(&[Family::V4]));
    rows.into_iter().chain(v6.map(|source| row(source, from(source), SPOOFED).only(&[Family::V6]))).collect()
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

/// The address outside, and what is around it.
const PREFIXES: [&str; 2] = ["192.0.2.8/29", "2001:db8::8/125"];

fn lending() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").sending_from(CLIENT, &PREFIXES, true)
}

/// From a pod's interface, by another's address.
fn by(family: Family, pod: Actor, source: Actor, to: Actor, flags: u8) -> Frame {
    let mut frame = pod.tcp(family, to, PORTS, flags);
    frame.source = source.address(family);
    frame
}

fn sends_by(pod: Actor, source: Actor, to: Actor, flags: u8) -> Step {
    sends(pod, move |f| by(f, pod, source, to, flags).bytes())
}

#[test]
fn spf_2_a_pod_sends_from_the_networks_that_it_is_allowed_and_from_nothing_else() {
    let spoofed = |pod| Fate::Drop(Some(pod), DropReason::Spoofed);
    let opened = || vec![sends_by(CLIENT, OUTSIDE, DB, SYN)];
    let back = |flags| sends(DB, move |f| DB.tcp(f, OUTSIDE, BACK, flags).bytes());
    let rows = vec![
        row("from one of them, to a pod", sends_by(CLIENT, OUTSIDE, DB, SYN), Fate::To(DB)).opens(2),
        row("the answer comes to who sent it", back(SYN | ACK), Fate::To(CLIENT)).given(opened()),
        row("and it goes on", sends_by(CLIENT, OUTSIDE, DB, ACK), Fate::To(DB)).given({
            let mut given = opened();
            given.push(back(SYN | ACK));
            given
        }),
        row("its own address too", sends_by(CLIENT, CLIENT, DB, SYN), Fate::To(DB)).opens(2),
        row("another pod's address", sends_by(CLIENT, OTHER, DB, SYN), spoofed(CLIENT)),
        row("the node's address, beside the network", sends_by(CLIENT, NODE, DB, SYN), spoofed(CLIENT)),
        row("another pod, from the same network", sends_by(OTHER, OUTSIDE, DB, SYN), spoofed(OTHER)),
        row("another pod, in the flow", sends_by(OTHER, OUTSIDE, DB, ACK), spoofed(OTHER)).given(opened()),
        row(
            "another MAC",
            sends(CLIENT, |f| by(f, CLIENT, OUTSIDE, DB, SYN).with_source_mac(OTHER.mac.0).bytes()),
            spoofed(CLIENT),
        ),
        row("mid-flow, of no flow", sends_by(CLIENT, OUTSIDE, DB, ACK), Fate::Drop(Some(CLIENT), DropReason::NoFlow)),
        row(
            "who has the address outside is not let in by the pod's flow",
            arrives(|f| OUTSIDE.tcp(f, DB, PORTS, ACK).with_destination_mac(NODE.mac.0).bytes()),
            Fate::Drop(Some(DB), DropReason::NoFlow),
        )
        .given(opened()),
    ];
    on_a_node(|| run(&lending(), rows));
}

#[test]
fn spf_2_without_leave_the_networks_that_a_pod_asks_for_are_nobodys() {
    let asks = Scenario::default().pod(CLIENT, "client").pod(DB, "db").sending_from(CLIENT, &PREFIXES, false);
    let rows = vec![row("from one of them", sends_by(CLIENT, OUTSIDE, DB, SYN), SPOOFED)];
    on_a_node(|| run(&asks, rows));
}

#[test]
fn spf_2_both_ends_rules_are_asked_about_who_sends_and_by_which_address() {
    let from = |who| policy("db", Some("db"), &[Direction::Ingress]).ingress(allow().pods(who));
    let rows =
        |fate: Fate, judged| vec![row("from one of them", sends_by(CLIENT, OUTSIDE, DB, SYN), fate).judged(judged)];
    on_a_node(|| {
        let deaf = lending().policy(policy("client", Some("client"), &[Direction::Egress]));
        run(&deaf, rows(Fate::Drop(Some(CLIENT), DropReason::EgressPolicy), 1));
        // To who hears it, it is who has the address: nobody's, though its pod is called so.
        run(&lending().policy(from("client")), rows(Fate::Drop(Some(DB), DropReason::IngressPolicy), 2));
        // Of a pod's address, that pod; the flow is the sender's all the same.
        let as_other = Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other");
        let as_other = as_other.sending_from(CLIENT, &["10.65.0.4/32", "fd00:65::4/128"], true).policy(from("other"));
        let rows = vec![row("as another pod", sends_by(CLIENT, OTHER, DB, SYN), Fate::To(DB)).opens(2)];
        run(&as_other, rows);
    });
}

#[test]
fn spf_2_flows_live_over_a_change_and_end_with_the_leave() {
    let established = |family| {
        let mut kernel = Kernel::new(&lending());
        assert_eq!(there(&mut kernel, family, SYN), Action::Redirect);
        assert_eq!(back(&mut kernel, family, SYN | ACK), Action::Redirect);
        assert_eq!(there(&mut kernel, family, ACK), Action::Redirect);
        kernel
    };
    on_a_node(|| {
        for family in Family::BOTH {
            let mut kernel = established(family);
            kernel.commit(&lending().policy(policy("open", Some("db"), &[Direction::Ingress]).ingress(allow())));
            assert_eq!(back(&mut kernel, family, ACK), Action::Redirect, "the answering end speaks first");
            assert_eq!(there(&mut kernel, family, ACK), Action::Redirect);
            let wider = [PREFIXES[0], PREFIXES[1], "203.0.113.0/24"];
            kernel.commit(&lending().sending_from(CLIENT, &wider, true));
            assert_eq!(there(&mut kernel, family, ACK), Action::Redirect, "more is allowed than before");
            kernel.commit(&lending().sending_from(CLIENT, &["203.0.113.0/24"], true));
            assert_eq!(there(&mut kernel, family, ACK), Action::Drop, "the leave is over");
            assert_eq!(back(&mut kernel, family, ACK), Action::Drop);
            assert_eq!(there(&mut kernel, family, SYN), Action::Drop);
            drop(kernel);
            let mut kernel = established(family);
            kernel.commit(&lending().sending_from(CLIENT, &PREFIXES, false));
            assert_eq!(back(&mut kernel, family, ACK), Action::Drop, "the answering end speaks first");
            assert_eq!(there(&mut kernel, family, ACK), Action::Drop);
        }
    });
}

fn there(kernel: &mut Kernel, family: Family, flags: u8) -> Action {
    kernel.run(Hook::Pod(CLIENT), &by(family, CLIENT, OUTSIDE, DB, flags).bytes()).action
}

fn back(kernel: &mut Kernel, family: Family, flags: u8) -> Action {
    kernel.run(Hook::Pod(DB), &DB.tcp(family, OUTSIDE, BACK, flags).bytes()).action
}
