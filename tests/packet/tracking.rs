//! The flow tables in the kernel: what lies where, on whose account, and that the cursor takes away what is over.
//! In: sequences of packets, floods, entries made old by hand. Out: fates, entries by table, accounts.
//! Invariant: after every test the accounts say what a listing says.
//! Never: waits for a timeout; an entry's clock is set back instead. The state machine itself is held by `ebpf`'s own tests.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, FIN, RST, SYN},
    kernel::{FLOW_QUOTA, Kernel, NEWFLOW_ENTRIES, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, By, Fate, Hook, Step, arrives, host_sends, row, run, sends},
};
use abi::{
    ConntrackEntry, DropReason, FlowKey, Timeout,
    conntrack::{QUOTA_ALL, STATE_ANSWERED, STATE_CLOSED, STATE_ESTABLISHED, STATE_NEW},
    maps,
};
use model::Direction;

const WEB: u16 = 80;

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

fn client(kernel: &mut Kernel, family: Family, port: u16, flags: u8) -> Action {
    kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(family, DB, (port, WEB), flags).bytes()).action
}

fn db(kernel: &mut Kernel, family: Family, port: u16, flags: u8) -> Action {
    kernel.run(Hook::Pod(DB), &DB.tcp(family, CLIENT, (WEB, port), flags).bytes()).action
}

fn connect(kernel: &mut Kernel, family: Family, port: u16) {
    assert_eq!(client(kernel, family, port, SYN), Action::Redirect);
    assert_eq!(db(kernel, family, port, SYN | ACK), Action::Redirect);
    assert_eq!(client(kernel, family, port, ACK), Action::Redirect);
}

/// Entries of CONNTRACK, counted by listing and by their owners' accounts, which must agree.
fn kept(kernel: &Kernel) -> usize {
    let entries = kernel.entries(&maps::CONNTRACK);
    let listed = |slot| entries.values().filter(|entry| entry.owner() == slot).count() as u64;
    assert_eq!(kernel.account(QUOTA_ALL), entries.len() as u64, "all");
    for slot in 1..16 {
        assert_eq!(kernel.account(slot), listed(slot), "slot {slot}");
    }
    entries.len()
}

fn only(kernel: &Kernel) -> (FlowKey, ConntrackEntry) {
    let entries = kernel.seen().entries;
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().expect("there is one")
}

#[test]
fn pkt_70_71_72_76_a_connection_goes_through_its_states() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            for (end, state, timeout) in [
                (&[(true, FIN | ACK)][..], STATE_ESTABLISHED, Timeout::TcpEstablished),
                (&[(true, FIN | ACK), (false, FIN | ACK)], STATE_CLOSED, Timeout::TcpFinsSeen),
                (&[(false, RST)], STATE_ESTABLISHED, Timeout::TcpResetSeen),
                (&[(false, RST), (true, ACK)], STATE_ESTABLISHED, Timeout::TcpResetSeen),
                (&[(false, RST), (false, ACK)], STATE_ESTABLISHED, Timeout::TcpEstablished),
            ] {
                kernel.fresh();
                for (says, state, kept_now) in [
                    (client as fn(&mut Kernel, Family, u16, u8) -> Action, STATE_NEW, 0),
                    (db, STATE_ANSWERED, 0),
                    (client, STATE_ESTABLISHED, 1),
                ] {
                    let flags = [SYN, SYN | ACK, ACK][usize::from(state)];
                    assert_eq!(says(&mut kernel, family, 40000, flags), Action::Redirect);
                    assert_eq!((only(&kernel).1.state, kept(&kernel)), (state, kept_now), "{family:?}");
                }
                for (from_client, flags) in end {
                    let says = if *from_client { client } else { db };
                    assert_eq!(says(&mut kernel, family, 40000, *flags), Action::Redirect);
                }
                let (_, entry) = only(&kernel);
                assert_eq!((entry.state, entry.timeout), (state, timeout as u8), "{family:?} {end:?}");
            }
        }
    });
}

#[test]
fn pkt_72_74_a_syn_finds_no_flow_that_is_over_and_is_judged_by_the_rules_of_now() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            connect(&mut kernel, family, 40000);
            // Now and then the cursor comes between the SYN and the flow's third packet, and takes the former one away.
            let taken_over = (0..100).any(|_| {
                assert_eq!(db(&mut kernel, family, 40000, RST), Action::Redirect);
                let serial = only(&kernel).1.serial;
                connect(&mut kernel, family, 40000);
                assert_eq!(kept(&kernel), 1);
                only(&kernel).1.serial == serial
            });
            assert!(taken_over, "the place and its ticket are taken over");
            assert_eq!(client(&mut kernel, family, 40001, SYN), Action::Redirect);
            kernel.commit(&scenario().policy(policy("deny", Some("db"), &[Direction::Ingress])));
            for port in [40000, 40001] {
                assert_eq!(client(&mut kernel, family, port, SYN), Action::Drop);
                assert_eq!(db(&mut kernel, family, port, SYN | ACK), Action::Drop);
            }
            kernel.commit(&scenario());
        }
    });
}

#[test]
fn pkt_46_70_80_what_is_no_tcp_is_kept_at_its_third_packet() {
    let udp = || sends(CLIENT, |f| CLIENT.udp(f, DB, (9, 53), b"x").bytes());
    let udp_back = || sends(DB, |f| DB.udp(f, CLIENT, (53, 9), b"y").bytes());
    let ping = || sends(CLIENT, |f| CLIENT.ping(f, DB, 7).bytes());
    let pong = || sends(DB, |f| DB.pong(f, CLIENT, 7).bytes());
    let raw = || sends(CLIENT, |f| CLIENT.ip(f, DB, 253, vec![1; 8]).bytes());
    let raw_back = || sends(DB, |f| DB.ip(f, CLIENT, 253, vec![1; 8]).bytes());
    let steps: [[fn() -> Step; 2]; 3] = [[udp, udp_back], [ping, pong], [raw, raw_back]];
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for (family, [there, back]) in Family::BOTH.into_iter().flat_map(|family| steps.map(|step| (family, step))) {
            kernel.fresh();
            for (step, kept_now) in [(there(), 0), (there(), 0), (back(), 0), (back(), 1), (there(), 1)] {
                assert_eq!(step.take(&mut kernel, family), Action::Redirect);
                assert_eq!((kept(&kernel), kernel.seen().entries.len()), (kept_now, 1), "{family:?}");
            }
        }
    });
}

#[test]
fn pkt_78_a_flood_pushes_out_half_open_flows_only() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            connect(&mut kernel, family, 40000);
            for port in 1..=3 * u16::try_from(NEWFLOW_ENTRIES).expect("a test's tables are small") {
                kernel.run(Hook::Pod(OTHER), &OTHER.tcp(family, DB, (port, WEB), SYN).bytes());
                kernel.run(Hook::Pod(DB), &DB.tcp(family, OTHER, (WEB, port), RST | ACK).bytes());
                kernel.run(Hook::Pod(OTHER), &OTHER.udp(family, DB, (port, 53), b"x").bytes());
                kernel.run(Hook::Pod(OTHER), &OTHER.ping(family, DB, port).bytes());
                kernel.run(Hook::Pod(DB), &DB.pong(family, OTHER, port).bytes());
                let from_outside = OUTSIDE.tcp(family, DB, (port, WEB), SYN).with_destination_mac(NODE.mac.0);
                kernel.run(Hook::Uplink, &from_outside.bytes());
                kernel.run(Hook::Pod(DB), &DB.tcp(family, OUTSIDE, (WEB, port), SYN | ACK).bytes());
            }
            assert_eq!(kept(&kernel), 1, "none of the flood was kept");
            assert!(kernel.entries(&maps::NEWFLOW).len() <= NEWFLOW_ENTRIES as usize);
            assert_eq!(client(&mut kernel, family, 40000, ACK), Action::Redirect);
            assert_eq!(db(&mut kernel, family, 40000, ACK), Action::Redirect);
            connect(&mut kernel, family, 40001);
        }
    });
}

#[test]
fn pkt_78_an_endpoint_that_owns_its_quota_gets_no_more_and_others_do() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let quota = u16::try_from(FLOW_QUOTA).expect("a test's quota is small");
        for family in Family::BOTH {
            kernel.fresh();
            (0..quota).for_each(|number| connect(&mut kernel, family, 40000 + number));
            assert_eq!(kept(&kernel), usize::from(quota));
            let drops = |kernel: &Kernel, reason| {
                let slot = kernel.slot_of(CLIENT);
                kernel.seen().drops.get(&(slot, reason)).copied().unwrap_or(0)
            };
            let before = drops(&kernel, DropReason::FlowQuota);
            assert_eq!(client(&mut kernel, family, 50000, SYN), Action::Drop);
            let question = CLIENT.udp(family, DB, (9, 53), b"x").bytes();
            let answer = DB.udp(family, CLIENT, (53, 9), b"y").bytes();
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &question).action, Action::Redirect, "a question needs no quota");
            assert_eq!(kernel.run(Hook::Pod(DB), &answer).action, Action::Redirect);
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &question).action, Action::Drop);
            assert_eq!(drops(&kernel, DropReason::FlowQuota) - before, 2, "on its owner's account");
            assert_eq!(kernel.run(Hook::Pod(DB), &answer).action, Action::Drop, "whoever sends");
            assert_eq!(drops(&kernel, DropReason::FlowQuota) - before, 3);
            assert_eq!(client(&mut kernel, family, 40000, ACK), Action::Redirect, "what it has stays");
            // The others', from this endpoint's view too.
            for (hook, flags) in [(Hook::Pod(DB), SYN), (Hook::Pod(CLIENT), SYN | ACK), (Hook::Pod(DB), ACK)] {
                let frame = match hook {
                    Hook::Pod(DB) => DB.tcp(family, CLIENT, (1, 81), flags),
                    _ => CLIENT.tcp(family, DB, (81, 1), flags),
                };
                assert_eq!(kernel.run(hook, &frame.bytes()).action, Action::Redirect);
            }
            assert_eq!(kept(&kernel), usize::from(quota) + 1);
        }
    });
}

#[test]
fn pkt_78_the_nodes_own_probe_reaches_a_pod_that_owns_its_quota() {
    let quota = u16::try_from(FLOW_QUOTA).expect("a test's quota is small");
    let mut full = Vec::new();
    for port in 0..quota {
        full.push(arrives(move |f| OUTSIDE.tcp(f, DB, (port, WEB), SYN).with_destination_mac(NODE.mac.0).bytes()));
        full.push(sends(DB, move |f| DB.tcp(f, OUTSIDE, (WEB, port), SYN | ACK).bytes()));
        full.push(arrives(move |f| OUTSIDE.tcp(f, DB, (port, WEB), ACK).with_destination_mac(NODE.mac.0).bytes()));
    }
    let one_more = arrives(|f| OUTSIDE.tcp(f, DB, (50000, WEB), SYN).with_destination_mac(NODE.mac.0).bytes());
    let probe = |flags| host_sends(DB, move |f| NODE.tcp(f, DB, (40000, WEB), flags).bytes());
    let answer = sends(DB, |f| DB.tcp(f, NODE, (WEB, 40000), SYN | ACK).bytes());
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            for step in &full {
                assert_ne!(step.take(&mut kernel, family), Action::Drop);
            }
            assert_eq!(one_more.take(&mut kernel, family), Action::Drop, "the responder's quota");
            for step in [&probe(SYN), &answer, &probe(ACK)] {
                assert_ne!(step.take(&mut kernel, family), Action::Drop);
            }
            assert_eq!(kept(&kernel), usize::from(quota) + 1);
        }
    });
}

#[test]
fn a_refused_flow_stays_refused_wherever_it_lies_and_whatever_is_left_of_its_opening() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            connect(&mut kernel, family, 40000);
            client(&mut kernel, family, 40001, SYN);
            kernel.commit(&scenario().policy(policy("deny", Some("db"), &[Direction::Ingress])));
            for port in [40000, 40001] {
                assert_eq!(client(&mut kernel, family, port, ACK), Action::Drop);
            }
            kernel.commit(&scenario());
            for port in [40000, 40001] {
                assert_eq!(db(&mut kernel, family, port, SYN | ACK), Action::Drop, "{family:?} {port}");
                assert_eq!(client(&mut kernel, family, port, ACK), Action::Drop);
            }
            // The tombstone is over, and was removed; the SYN's own entry still lies in NEWFLOW.
            kernel.age(&maps::CONNTRACK, 3600);
            kernel.wait_for_the_cursor(0);
            assert_eq!(db(&mut kernel, family, 40000, ACK), Action::Drop);
            assert_eq!(client(&mut kernel, family, 40000, ACK), Action::Drop);
            assert_eq!(kept(&kernel), 0);
        }
    });
}

#[test]
fn the_cursor_removes_what_is_over_and_nothing_else_with_nobody_about() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        (0..12).for_each(|number| connect(&mut kernel, Family::V4, 40000 + number));
        kernel.age(&maps::CONNTRACK, 3500);
        (0..6).for_each(|number| connect(&mut kernel, Family::V6, 40000 + number));
        kernel.arm_again();
        kernel.age(&maps::CONNTRACK, 200);
        kernel.wait_for_the_cursor(6);
        assert_eq!(kept(&kernel), 6);
        (0..6).for_each(|number| assert_eq!(client(&mut kernel, Family::V6, 40000 + number, ACK), Action::Redirect));
        kernel.age(&maps::CONNTRACK, 7200);
        kernel.wait_for_the_cursor(0);
        assert_eq!(kept(&kernel), 0);
    });
}

#[test]
fn the_flows_of_a_freed_slot_leave_their_owners_accounts() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for port in 40000..40010 {
            connect(&mut kernel, Family::V4, port);
            kernel.run(Hook::Pod(OTHER), &OTHER.tcp(Family::V4, DB, (port, WEB), SYN).bytes());
            kernel.run(Hook::Pod(DB), &DB.tcp(Family::V4, OTHER, (WEB, port), SYN | ACK).bytes());
            kernel.run(Hook::Pod(OTHER), &OTHER.tcp(Family::V4, DB, (port, WEB), ACK).bytes());
            kernel.run(Hook::Pod(CLIENT), &CLIENT.udp(Family::V4, OTHER, (port, 53), b"x").bytes());
        }
        assert_eq!(kept(&kernel), 20);
        kernel.commit(&Scenario::default().pod(DB, "db").pod(OTHER, "other"));
        assert_eq!(kept(&kernel), 10);
        assert_eq!(kernel.seen().entries.len(), 10, "half-open ones went too");
    });
}

#[test]
fn pkt_30_errors_about_half_open_flows_pass() {
    let asks = || sends(CLIENT, |f| CLIENT.udp(f, DB, (9, 53), b"x").bytes());
    let error = sends(DB, |f| DB.unreachable(f, CLIENT, &CLIENT.udp(f, DB, (9, 53), b"x")).bytes());
    let closed = scenario()
        .policy(policy("client", Some("client"), &[Direction::Ingress, Direction::Egress]).egress(allow().pods("db")));
    on_a_node(|| run(&closed, vec![row("about a datagram", error, Fate::To(CLIENT)).given(vec![asks()])]));
}

#[test]
fn pkt_76_both_ends_may_open_at_once() {
    let from_client = |flags| sends(CLIENT, move |f| CLIENT.tcp(f, DB, (40000, WEB), flags).bytes());
    let from_db = |flags| sends(DB, move |f| DB.tcp(f, CLIENT, (WEB, 40000), flags).bytes());
    let closed = scenario().policy(policy("client", Some("client"), &[Direction::Ingress]));
    let refused = Fate::Drop(Some(CLIENT), DropReason::IngressPolicy);
    let rows = vec![
        row("the other end alone", from_db(SYN), refused).judged(2),
        row("the other end too", from_db(SYN), Fate::To(CLIENT)).given(vec![from_client(SYN)]),
        row("its answer", from_db(SYN | ACK), Fate::To(CLIENT)).given(vec![
            from_client(SYN),
            from_db(SYN),
            from_client(SYN | ACK),
        ]),
    ];
    on_a_node(|| run(&closed, rows));
}

#[test]
fn pkt_77_a_flow_whose_syn_went_another_way_is_none() {
    let answer = arrives(|f| OUTSIDE.tcp(f, CLIENT, (443, 40000), SYN | ACK).with_destination_mac(NODE.mac.0).bytes());
    let forwarded = crate::table::forwarded(CLIENT, By::Uplink, |f| OUTSIDE.tcp(f, CLIENT, (443, 40000), ACK).bytes());
    let none = Fate::Drop(Some(CLIENT), DropReason::NoFlow);
    on_a_node(|| run(&scenario(), vec![row("by the uplink", answer, none), row("by the stack", forwarded, none)]));
}
