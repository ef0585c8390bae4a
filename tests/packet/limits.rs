//! Limits and faults: what happens when nothing is there, nothing fits, or a table is broken.
//! In: an interface of nobody, a full conntrack, a word that points nowhere, a route that refuses. Out: a counted drop.
//! Invariant: every fault closes.
//! Never: a row for `ForwardFailed`: the helpers behind it refuse only what earlier stages have already dropped.

use crate::{
    cast::{CLIENT, DB, Family, OUTSIDE},
    frame::{ACK, SYN},
    kernel::{Kernel, UPLINK, ip, on_a_node},
    scenario::{Scenario, interface},
    table::{Action, Hook},
};
use abi::{DropReason, Word, word::ID_MAX};
use model::IfaceName;

const WEB: (u16, u16) = (40000, 80);

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

/// The one reason counted since `work` began, and what the program did.
fn dropped(kernel: &mut Kernel, work: impl FnOnce(&mut Kernel) -> Action) -> Option<DropReason> {
    let before = kernel.seen().drops;
    assert_eq!(work(kernel), Action::Drop);
    let after = kernel.seen().drops;
    let mut grown = after.iter().filter(|(key, count)| before.get(key) != Some(count));
    let reason = grown.next().map(|((_, reason), _)| *reason);
    assert!(grown.next().is_none(), "one drop, one reason: {after:?}");
    reason
}

fn syn(family: Family) -> Vec<u8> {
    CLIENT.tcp(family, DB, WEB, SYN).bytes()
}

#[test]
fn an_interface_of_nobody_lets_nothing_through() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for program in ["from_workload", "to_workload"] {
            for family in Family::BOTH {
                let at_nobodys =
                    |kernel: &mut Kernel| kernel.run_at(program, &IfaceName(UPLINK.into()), &syn(family)).action;
                assert_eq!(dropped(&mut kernel, at_nobodys), Some(DropReason::NoEndpoint), "{program} {family:?}");
            }
        }
    });
}

#[test]
fn own_3_np_57_a_pod_that_is_not_in_force_is_nobody() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let gone = Scenario::default().pod(DB, "db");
        kernel.commit(&gone);
        let sends = |kernel: &mut Kernel| kernel.run_at("from_workload", &interface(CLIENT), &syn(Family::V4)).action;
        assert_eq!(dropped(&mut kernel, sends), Some(DropReason::NoEndpoint));
    });
}

#[test]
fn pkt_78_a_full_conntrack_refuses_new_flows_and_keeps_the_old() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            let client = |port, flags| CLIENT.tcp(family, DB, (port, 80), flags).bytes();
            let db = |port, flags| DB.tcp(family, CLIENT, (80, port), flags).bytes();
            let runs = |kernel: &mut Kernel, hook, frame: Vec<u8>| kernel.run(hook, &frame).action;
            assert_eq!(runs(&mut kernel, Hook::Pod(CLIENT), client(40000, SYN)), Action::Redirect);
            assert_eq!(runs(&mut kernel, Hook::Pod(DB), db(40000, SYN | ACK)), Action::Redirect);
            assert_eq!(runs(&mut kernel, Hook::Pod(CLIENT), client(40000, ACK)), Action::Redirect);
            kernel.fill_conntrack();
            // A connection that cannot be kept gets no further than its handshake.
            assert_eq!(runs(&mut kernel, Hook::Pod(CLIENT), client(40001, SYN)), Action::Redirect);
            assert_eq!(runs(&mut kernel, Hook::Pod(DB), db(40001, SYN | ACK)), Action::Redirect);
            let third = |kernel: &mut Kernel| runs(kernel, Hook::Pod(CLIENT), client(40001, ACK));
            assert_eq!(dropped(&mut kernel, third), Some(DropReason::ConntrackFull));
            assert_eq!(runs(&mut kernel, Hook::Pod(DB), db(40000, ACK)), Action::Redirect, "the flow of before");
        }
    });
}

#[test]
fn a_word_that_points_nowhere_closes() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.change_endpoint(CLIENT, |client| client.egress = Word::settled(ID_MAX));
        let opens = |kernel: &mut Kernel| kernel.run(Hook::Pod(CLIENT), &syn(Family::V4)).action;
        assert_eq!(dropped(&mut kernel, opens), Some(DropReason::TableCorrupt));
    });
}

#[test]
fn a_route_that_refuses_is_a_drop_with_its_own_reason() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for (family, net) in [(Family::V4, "198.51.100.0/24"), (Family::V6, "2001:db8:bad::/48")] {
            ip(&format!("route add blackhole {net}"));
            let target = if family == Family::V4 { "198.51.100.7" } else { "2001:db8:bad::7" };
            let opens = |kernel: &mut Kernel| {
                let frame = CLIENT.tcp(family, OUTSIDE, WEB, SYN).with_destination(target);
                kernel.run(Hook::Pod(CLIENT), &frame.bytes()).action
            };
            assert_eq!(dropped(&mut kernel, opens), Some(DropReason::Unroutable));
        }
    });
}
