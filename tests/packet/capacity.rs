//! Tables that are exactly large enough, and too small by one: the kernel's own maps, and packets through them.
//! In: two scenarios, of which the second asks for more of every table. Out: what is refused by name, and what packets meet.
//! Invariant: what the agent takes for enough is enough for the kernel, to the entry.
//! Never: a size that was worked out by hand.

use crate::{
    cast::{Actor, CLIENT, DB, Family},
    frame::{ACK, SYN},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, Hook},
};
use abi::{DropReason, conntrack::QUOTA_ALL, maps};
use dataplane::{Attach, Commit};
use model::{Direction, Protocol};
use std::collections::BTreeMap;

const FAR: [Actor; 4] =
    [Actor::pod("far1", 131), Actor::pod("far2", 132), Actor::pod("far3", 133), Actor::pod("far4", 134)];

fn base() -> Scenario {
    let only_80 = policy("db", Some("db"), &[Direction::Ingress]).ingress(allow().port(Protocol::TCP, 80));
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").policy(only_80)
}

/// Asks for more of every table, and would cut the client off from the database.
fn large() -> Scenario {
    let mut wide = allow().pods("far");
    for number in 0..24 {
        wide = wide.port(Protocol::TCP, 1000 + 2 * number);
    }
    let nets = (0..24).map(|number| allow().net(&format!("198.51.{number}.0/24")));
    let mut narrow = policy("wide", Some("client"), &[Direction::Egress]).egress(wide);
    for net in nets {
        narrow = narrow.egress(net);
    }
    FAR.into_iter().fold(base(), |scenario, far| scenario.remote_pod(far, "far")).policy(narrow)
}

fn opens(kernel: &mut Kernel, family: Family, port: u16) -> Action {
    kernel.fresh();
    kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(family, DB, (40000, port), SYN).bytes()).action
}

/// What port 80 and another answer to the client.
fn assert_base_is_in_force(kernel: &mut Kernel, when: &str) {
    for family in Family::BOTH {
        assert_eq!(opens(kernel, family, 80), Action::Redirect, "{when} {family:?}");
        assert_eq!(opens(kernel, family, 81), Action::Drop, "{when} {family:?}");
    }
}

/// Entries that the step from the base to the large scenario needs of each table, found by making it.
fn needed() -> BTreeMap<&'static str, u32> {
    let mut kernel = Kernel::bare();
    kernel.commit(&base());
    let peaks = |kernel: &Kernel| -> BTreeMap<&'static str, u64> {
        let usages = kernel.dataplane.usages().expect("the maps can be read");
        usages.into_iter().filter_map(|usage| Some((usage.map.name, usage.peak?))).collect()
    };
    let before = peaks(&kernel);
    assert!(kernel.apply(&large()).failed.is_empty());
    let grown = peaks(&kernel).into_iter().filter(|(map, peak)| before.get(map) < Some(peak));
    grown.map(|(map, peak)| (map, u32::try_from(peak).expect("a small number"))).collect()
}

#[test]
fn tables_that_fit_to_the_entry_take_everything_and_one_entry_less_is_refused_by_name() {
    on_a_node(|| {
        let needed = needed();
        let tables = ["ADDRESSES", "CLASSES", "HITS", "NETS", "ROWS", "SETS", "SPANS"];
        assert_eq!(needed.keys().copied().collect::<Vec<_>>(), tables);
        let exact: Vec<_> = needed.iter().map(|(map, entries)| (*map, *entries)).collect();
        let mut kernel = Kernel::sized(&exact);
        kernel.commit(&base());
        let applied = kernel.apply(&large());
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_eq!(opens(&mut kernel, Family::V4, 80), Action::Drop, "the large scenario is in force");

        for (map, entries) in exact.into_iter().filter(|(map, _)| *map != "HITS") {
            on_a_node(|| one_less(map, entries - 1));
        }
    });
}

fn one_less(map: &str, entries: u32) {
    let mut kernel = Kernel::sized(&[(map, entries)]);
    kernel.commit(&base());
    let before = kernel.dataplane.usages().expect("the maps can be read");
    for _ in 0..2 {
        let applied = kernel.apply(&large());
        assert_eq!(applied.commit, Commit::Refused, "{map}");
        let (_, error) = applied.failed.first().expect("it says what does not fit");
        let said = error.to_string();
        assert!(said.contains(map) && said.contains("NetworkPolicy default/wide"), "{map}: {said}");
        assert_base_is_in_force(&mut kernel, map);
    }
    let used =
        |usages: &[dataplane::Usage]| usages.iter().map(|usage| (usage.map.name, usage.used)).collect::<Vec<_>>();
    kernel.fresh();
    assert_eq!(used(&before), used(&kernel.dataplane.usages().expect("the maps can be read")), "{map}");
    let open = Scenario { policies: Vec::new(), ..base() };
    kernel.commit(&open);
    let shut = base().policy(policy("db", Some("db"), &[Direction::Ingress]));
    kernel.commit(&shut);
    assert_eq!(opens(&mut kernel, Family::V4, 80), Action::Drop, "{map}: the next revision that fits is in force");
    kernel.commit(&open);
    kernel.commit(&base());
    assert_base_is_in_force(&mut kernel, map);
}

#[test]
fn a_full_conntrack_is_seen_and_takes_new_flows_as_soon_as_old_ones_are_gone() {
    on_a_node(|| {
        let mut kernel = Kernel::sized(&[("CONNTRACK", 64)]);
        kernel.commit(&base());
        kernel.fill_conntrack();
        let usage = |kernel: &Kernel| {
            let usages = kernel.dataplane.usages().expect("the maps can be read");
            usages.into_iter().find(|usage| usage.map.name == maps::CONNTRACK.name).expect("there is a conntrack")
        };
        assert_eq!((usage(&kernel).used, usage(&kernel).percent()), (Some(64), Some(100.0)));
        let connects = |kernel: &mut Kernel| {
            let there = |flags| CLIENT.tcp(Family::V4, DB, (40000, 80), flags).bytes();
            kernel.run(Hook::Pod(CLIENT), &there(SYN));
            kernel.run(Hook::Pod(DB), &DB.tcp(Family::V4, CLIENT, (80, 40000), SYN | ACK).bytes());
            kernel.run(Hook::Pod(CLIENT), &there(ACK)).action
        };
        assert_eq!(connects(&mut kernel), Action::Drop);
        assert!(kernel.seen().drops.keys().any(|(_, reason)| *reason == DropReason::ConntrackFull));
        kernel.fresh();
        assert_eq!(connects(&mut kernel), Action::Redirect);
        assert_eq!((usage(&kernel).used, usage(&kernel).peak), (Some(1), Some(64)));
    });
}

#[test]
fn a_flood_of_fragments_pushes_out_the_oldest_and_lets_nothing_through() {
    on_a_node(|| {
        let mut kernel = Kernel::sized(&[("FRAGMENTS", 64)]);
        kernel.commit(&Scenario::default().pod(CLIENT, "client").pod(DB, "db"));
        let piece = |id: u16, offset, more| {
            CLIENT.udp(Family::V4, DB, (40000, 80), &[7; 56]).fragment(offset, 32, more).identified(id).bytes()
        };
        let mut run = |bytes: &[u8]| kernel.run(Hook::Pod(CLIENT), bytes).action;
        assert_eq!((run(&piece(1, 0, true)), run(&piece(1, 4, false))), (Action::Redirect, Action::Redirect));
        // One that was asked for is kept longer than those that were not.
        for id in 2..1000 {
            assert_eq!(run(&piece(id, 0, true)), Action::Redirect);
        }
        assert_eq!(run(&piece(2, 4, false)), Action::Drop, "the oldest is forgotten");
        assert_eq!(run(&piece(999, 4, false)), Action::Redirect, "the newest is known");
        assert_eq!(run(&piece(2000, 4, false)), Action::Drop, "a first that never came");
    });
}

#[test]
fn rules_past_the_end_of_the_counters_decide_as_before() {
    on_a_node(|| {
        let mut kernel = Kernel::sized(&[("HITS", 2)]);
        kernel.commit(&base());
        assert!(kernel.dataplane.uncounted() > 0);
        assert_base_is_in_force(&mut kernel, "with two counters");
        let answer = DB.tcp(Family::V4, CLIENT, (80, 40000), SYN | ACK).bytes();
        assert_eq!(opens(&mut kernel, Family::V4, 80), Action::Redirect);
        assert_eq!(kernel.run(Hook::Pod(DB), &answer).action, Action::Redirect);
    });
}

#[test]
fn agt_8_every_table_grows_under_live_flows_and_nothing_is_lost_or_opened() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&base());
        assert_eq!(opens(&mut kernel, Family::V4, 81), Action::Drop);
        kernel.commit(&Scenario::default().pod(CLIENT, "client"));
        kernel.commit(&base());
        assert_eq!(opens(&mut kernel, Family::V4, 81), Action::Drop);
        assert_eq!(opens(&mut kernel, Family::V4, 80), Action::Redirect);
        let answer = DB.tcp(Family::V4, CLIENT, (80, 40000), SYN | ACK).bytes();
        assert_eq!(kernel.run(Hook::Pod(DB), &answer).action, Action::Redirect);
        let ack = CLIENT.tcp(Family::V4, DB, (40000, 80), ACK).bytes();
        assert_eq!(kernel.run(Hook::Pod(CLIENT), &ack).action, Action::Redirect);
        let sizes = |kernel: &Kernel| -> BTreeMap<&'static str, u32> {
            let usages = kernel.dataplane.usages().expect("the maps can be read");
            usages.into_iter().map(|usage| (usage.map.name, usage.size)).collect()
        };
        // The account of endpoints that are gone is always the last.
        let drops = |kernel: &Kernel, slots: u32| -> Vec<_> {
            let drops = kernel.dropped(DropReason::IngressPolicy).into_iter();
            drops.map(|(slot, packets)| ((slot < slots).then_some(slot), packets)).collect()
        };
        let (before, flows) = (sizes(&kernel), kernel.seen().entries);
        let dropped = drops(&kernel, before["ENDPOINTS"]);
        assert!(dropped.iter().any(|(slot, ..)| slot.is_none()) && dropped.iter().any(|(slot, ..)| slot.is_some()));
        kernel.leave_a_map_half_made();
        let mut former = kernel.grow();
        for (map, size) in sizes(&kernel) {
            let grown = match map {
                "GENERATION" | "EXPIRY" | "CLOCK" | "SOURCES" | "MASQUERADE" | "ANNOUNCING" | "ANNOUNCED"
                | "TUNNEL_LOCAL" => before[map],
                "QUOTA" => 2 * (before[map] - 1) + 1,
                "ICMP_BUDGETS" => 2 * (before[map] - 2) + 2,
                "DROPS" => 2 * (before[map] - abi::verdict::DROP_REASONS) + abi::verdict::DROP_REASONS,
                _ => 2 * before[map],
            };
            assert_eq!(size, grown, "{map}");
        }
        assert_eq!(drops(&kernel, 2 * before["ENDPOINTS"]), dropped, "drops were carried over");
        assert_eq!(kernel.seen().entries, flows, "flows were carried over");
        let tracked: Vec<_> = kernel.entries(&maps::CONNTRACK).into_keys().collect();
        assert!(!tracked.is_empty() && tracked.iter().all(|key| kernel.has_ticket(key)), "their tickets too");
        assert_eq!(kernel.account(QUOTA_ALL), tracked.len() as u64, "and their places in the accounts");
        // Before the new agent has committed anything, flows and policy are as they were.
        assert_eq!(kernel.run(Hook::Pod(CLIENT), &ack).action, Action::Redirect, "the flow lives");
        assert_base_is_in_force(&mut kernel, "grown");
        let pins = || std::fs::read_dir(kernel.pins_dir()).expect("pins").flatten();
        assert_eq!(pins().count(), maps::MAPS.len(), "{:?}", pins().map(|pin| pin.file_name()).collect::<Vec<_>>());

        // As if the start had died before it came to its end.
        let key = abi::FlowKey { protocol: 253, ..abi::FlowKey::default() };
        kernel.leave_a_former_flow(&mut former, &abi::Ticket { key, serial: 5, pad: 0 });
        kernel.restart(Attach::Auto);
        assert!(kernel.seen().entries.contains_key(&key), "the next start goes on from there");
        assert!(kernel.has_ticket(&key), "and the cursor will look at it");
        let entries = kernel.entries(&maps::CONNTRACK).len() as u64;
        assert_eq!(kernel.account(QUOTA_ALL), entries, "and it counts");
        assert_eq!(std::fs::read_dir(kernel.pins_dir()).expect("pins").count(), maps::MAPS.len());
        kernel.commit(&large());
        assert_eq!(opens(&mut kernel, Family::V4, 80), Action::Drop, "the next revision is in force");
        let error = kernel.reopen("CONNTRACK", 64).expect_err("a table does not shrink");
        // Not the queue, which has its size from the table.
        assert!(error.contains("CONNTRACK") && error.contains("does not shrink"), "{error}");
    });
}

#[test]
fn drops_of_an_endpoint_that_goes_are_kept_in_the_sum() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&base());
        assert_eq!(opens(&mut kernel, Family::V4, 81), Action::Drop);
        // By their reason: what the node's own stack sends meanwhile is dropped for others.
        let refused = |kernel: &Kernel| kernel.dropped(DropReason::IngressPolicy);
        let of_pod = kernel.slot_of(DB);
        assert_eq!(refused(&kernel), [(of_pod, 1)].into());
        kernel.commit(&Scenario::default().pod(CLIENT, "client"));
        let left = refused(&kernel);
        assert_eq!(left.values().sum::<u64>(), 1, "nothing is forgotten");
        assert!(!left.contains_key(&of_pod), "the next owner starts from nothing");
        let shown = kernel.dataplane.report("drops").expect("drops can be shown").to_string();
        assert!(shown.contains("endpoints that are gone"), "{shown}");
    });
}

#[test]
fn drops_on_a_slot_that_was_freed_before_its_agent_died_are_in_the_sum_after_the_next_start() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&base());
        let refused = |kernel: &Kernel| kernel.dropped(DropReason::IngressPolicy);
        assert_eq!(opens(&mut kernel, Family::V4, 81), Action::Drop);
        let (of_pod, nobodys) = (kernel.slot_of(DB), 50);
        kernel.count_drop(nobodys, DropReason::IngressPolicy);
        kernel.restart(Attach::Auto);
        let left = refused(&kernel);
        assert_eq!((left.get(&of_pod), left.get(&nobodys)), (Some(&1), None), "{left:?}");
        assert_eq!(left.values().sum::<u64>(), 2, "nothing is forgotten: {left:?}");
    });
}
