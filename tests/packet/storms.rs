//! Storms of commits: every packet belongs to one revision, and a commit that is killed anywhere leaves one.
//! In: two scenarios, flipped as fast as the tables take them (`TORTIE_FLIPS`, else 60; `TORTIE_KILLED_COMMITS`, else 200).
//! Out: every packet that a mixture of both would have treated otherwise.
//! Invariant: the live program runs on one core while the agent's own commit runs on another.
//! Never: is content with one revision: both have to be met.

use crate::{
    cast::{Actor, CLIENT, DB, Family, OTHER},
    frame::{ACK, SYN},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, Hook},
};
use abi::{DropReason, NetKey, Timeouts, TunnelEnd, answer::Outcome};
use calc::Desired;
use dataplane::tables::{Guarded, KernelStore, Key, Keyed, Sizes, Snapshot, Store, StoreError, Tables, Write};
use model::{
    Direction::{Egress, Ingress},
    IfaceName, Protocol,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::{
    collections::BTreeMap,
    env,
    io::{Read as _, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

mod hosts;

/// Runs of a packet by one call of the kernel.
const REPEAT: u32 = 256;
/// Flows that a test's conntrack takes before it is emptied.
const FLOWS: u16 = 400;

fn number(variable: &str, default: u32) -> u32 {
    env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Keeps the thread on one core, where there is more than one.
pub fn pin(core: usize) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(core % cores);
    sched_setaffinity(None, &set).expect("a thread may stay on its core");
}

fn desired(scenario: &Scenario) -> Desired {
    calc::desired(scenario.world().in_sync().expect("the world is complete"))
}

/// Flips between the revisions while `packets` runs again and again.
fn storm(kernel: &mut Kernel, revisions: [&Scenario; 2], mut packets: impl FnMut(&mut Kernel)) {
    let (wanted, interfaces) = (revisions.map(desired), kernel.interfaces());
    let store = KernelStore::open(&kernel.pins_dir(), Timeouts::DEFAULT).expect("the maps are pinned");
    let mut tables = Tables::adopt(store).expect("what the dataplane left");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            for flip in 0..number("TORTIE_FLIPS", 60) {
                commit(&mut tables, &wanted[flip as usize % 2], &interfaces);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        pin(1);
        while !is_over.load(Ordering::Relaxed) {
            packets(kernel);
        }
    });
}

fn commit<S: Store>(tables: &mut Tables<S>, wanted: &Desired, interfaces: &BTreeMap<IfaceName, u32>) {
    let guarded = |name: &IfaceName| {
        Some(Guarded { ifindex: *interfaces.get(name)?, is_queued: false, is_uplink: name.0 == crate::kernel::UPLINK })
    };
    let committed = tables.commit(wanted, &guarded).expect("it fits");
    assert!(committed.refused.is_empty(), "{:?}", committed.refused);
    // What is not over yet is met by the next.
    tables.sweep().expect("a sweep");
}

/// Neither revision lets CLIENT reach DB; any mixture of an allow of the one with an allow of the other would.
fn nothing_passes(revisions: [&Scenario; 2]) {
    nothing_passes_to(DB, revisions, [DropReason::EgressPolicy, DropReason::IngressPolicy]);
}

/// The same of whom CLIENT sends to, and of what each revision refuses for.
fn nothing_passes_to(whom: Actor, revisions: [&Scenario; 2], reasons: [DropReason; 2]) {
    let mut kernel = Kernel::new(revisions[0]);
    kernel.fresh();
    let (before, mut runs, mut port) = (kernel.seen().drops, 0u64, 1024u16);
    storm(&mut kernel, revisions, |kernel| {
        for family in Family::BOTH {
            port = port.checked_add(1).unwrap_or(1024);
            let frame = CLIENT.udp(family, whom, (port, 80), b"word").bytes();
            assert_eq!(kernel.repeat(Hook::Pod(CLIENT), &frame, REPEAT), Action::Drop);
            runs += u64::from(REPEAT);
        }
    });
    let seen = kernel.seen();
    assert!(seen.entries.is_empty(), "a packet was let through by a mixture of two revisions: {:?}", seen.entries);
    let counted = |reason| {
        let of = |drops: &BTreeMap<(u32, DropReason), u64>| {
            drops.iter().filter(|((_, r), _)| *r == reason).map(|(_, count)| count).sum::<u64>()
        };
        of(&seen.drops) - of(&before)
    };
    let [first, second] = reasons.map(counted);
    println!("{runs} packets: {first} refused for {:?}, {second} for {:?}", reasons[0], reasons[1]);
    assert_eq!(first + second, runs, "every packet was judged: {:?}", seen.drops);
    assert!(first > 0 && second > 0, "both revisions were met");
}

fn pods() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

#[test]
fn in_a_storm_of_flips_no_packet_passes_by_the_senders_rules_of_one_revision_and_the_receivers_of_another() {
    let receiver_refuses = pods().policy(policy("in", Some("db"), &[Ingress]));
    let sender_refuses = pods().policy(policy("out", Some("client"), &[Egress]));
    on_a_node(|| nothing_passes([&receiver_refuses, &sender_refuses]));
}

#[test]
fn in_a_storm_of_flips_no_packet_passes_by_the_class_of_one_revision_and_the_rules_of_another() {
    let only_to_db = || policy("out", Some("client"), &[Egress]).egress(allow().pods("db"));
    let refuses = pods().policy(only_to_db()).policy(policy("in", Some("db"), &[Ingress]));
    // DB is open, and no longer called what CLIENT may reach.
    let renamed = Scenario::default().pod(CLIENT, "client").pod(DB, "renamed").pod(OTHER, "other").policy(only_to_db());
    on_a_node(|| nothing_passes([&refuses, &renamed]));
}

/// Both revisions let CLIENT reach DB, each by other names: any mixture would refuse.
fn allowed(client: &str, db: &str) -> Scenario {
    let named = Scenario::default().pod(CLIENT, client).pod(DB, db).pod(OTHER, "other");
    let out = policy(&format!("out-{client}"), Some(client), &[Egress]).egress(allow().pods(db));
    let into = policy(&format!("in-{db}"), Some(db), &[Ingress]).ingress(allow().pods(client));
    named.policy(out).policy(into)
}

#[test]
fn in_a_storm_of_flips_no_packet_is_refused_that_both_revisions_allow() {
    let (one, other) = (allowed("client", "db"), allowed("caller", "store"));
    on_a_node(|| {
        let mut kernel = Kernel::new(&one);
        let (there, back) = ((40000, 80), (80, 40000));
        let segment = |from: Actor, to, ports, flags| from.tcp(Family::V4, to, ports, flags).bytes();
        let establish = |kernel: &mut Kernel| {
            kernel.fresh();
            for (from, to, ports, flags) in [(CLIENT, DB, there, SYN), (DB, CLIENT, back, SYN | ACK)] {
                let ran = kernel.run(Hook::Pod(from), &segment(from, to, ports, flags)).action;
                assert_eq!(ran, Action::Redirect, "a flow that both revisions allow");
            }
        };
        establish(&mut kernel);
        let (mut flows, mut packets) = (0u16, 0u64);
        storm(&mut kernel, [&one, &other], |kernel| {
            flows += 1;
            if flows == FLOWS {
                flows = 0;
                establish(kernel);
            }
            let family = Family::BOTH[usize::from(flows % 2)];
            let fresh = CLIENT.udp(family, DB, (1024 + flows, 80), b"word").bytes();
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &fresh).action, Action::Redirect, "a new flow");
            for (from, to, ports) in [(CLIENT, DB, there), (DB, CLIENT, back)] {
                let ran = kernel.run(Hook::Pod(from), &segment(from, to, ports, ACK)).action;
                assert_eq!(ran, Action::Redirect, "an established flow");
            }
            packets += 3;
        });
        println!("{packets} packets, all let through");
    });
}

/// The tables without graces: no packet is under way while these commits run, so that a kill meets writes, not waits.
struct Hasty(KernelStore);

impl Store for Hasty {
    fn read(&self) -> Result<Snapshot, StoreError> {
        self.0.read()
    }
    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        if *write == Write::Grace { Ok(()) } else { self.0.write(write) }
    }
    fn tunnels(&self) -> Result<BTreeMap<NetKey, TunnelEnd>, StoreError> {
        self.0.tunnels()
    }

    fn ask_grace(&mut self) -> u64 {
        0
    }
    fn graces_over(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
    fn await_grace(&mut self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }
    fn holds(&self, write: &Write) -> Result<bool, StoreError> {
        self.0.holds(write)
    }
    fn mend(&mut self, write: &Write) -> Result<(), StoreError> {
        self.0.mend(write)
    }
    fn keys(&self, table: Keyed, after: Option<&Key>, most: usize) -> Result<Vec<Key>, StoreError> {
        self.0.keys(table, after, most)
    }
    fn sizes(&self) -> Sizes {
        self.0.sizes()
    }
}

fn adopted(kernel: &Kernel) -> Tables<Hasty> {
    let store = KernelStore::open(&kernel.pins_dir(), Timeouts::DEFAULT).expect("the maps are pinned");
    Tables::adopt(Hasty(store)).expect("what was left can be adopted")
}

/// What the live tables say of a packet from everybody to everybody.
fn answers(kernel: &mut Kernel) -> Vec<Outcome> {
    let everybody = [CLIENT, DB, OTHER];
    let pairs = everybody.into_iter().flat_map(|from| everybody.into_iter().map(move |to| (from, to)));
    let packets: Vec<_> = pairs
        .filter(|(from, to)| from != to)
        .flat_map(|(from, to)| Family::BOTH.into_iter().flat_map(move |f| [(from, to, f, 80), (from, to, f, 81)]))
        .collect();
    packets
        .into_iter()
        .map(|(from, to, family, port)| {
            kernel.ask(Hook::Pod(from), &from.tcp(family, to, (1024, port), SYN).bytes()).outcome
        })
        .collect()
}

/// How far a killed commit had come: words that are not in force yet, words that are but not settled, neither.
fn left(kernel: &Kernel) -> &'static str {
    let held = KernelStore::open(&kernel.pins_dir(), Timeouts::DEFAULT)
        .and_then(|store| store.read())
        .expect("the tables can be read");
    let words = held.endpoints.values().flat_map(|entry| [entry.egress, entry.ingress]);
    let classes = held.classes.values().flat_map(|entry| [entry.class, entry.endpoint]);
    let open: Vec<_> = words.chain(classes).filter(|word| !word.is_settled()).collect();
    match open.first() {
        None => "settled",
        Some(word) if word.at(held.generation) == word.old() => "not in force",
        Some(_) => "in force, not settled",
    }
}

/// A process that commits one revision after the other until it is killed, `life` after its first commits.
fn killed_after(kernel: &Kernel, wanted: &[Desired; 2], interfaces: &BTreeMap<IfaceName, u32>, life: Duration) {
    let (mut begun, mut begin) = std::io::pipe().expect("a pipe can be made");
    // SAFETY: the child only computes, calls the kernel and allocates, for which the C library prepares a fork; it never
    // returns from here.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a process can be made");
    if child == 0 {
        let endless = || {
            let mut tables = adopted(kernel);
            wanted.iter().for_each(|wanted| commit(&mut tables, wanted, interfaces));
            begin.write_all(&[1]).expect("the parent listens");
            for wanted in wanted.iter().cycle() {
                commit(&mut tables, wanted, interfaces);
            }
        };
        let _failed = catch_unwind(AssertUnwindSafe(endless));
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(1) }
    }
    drop(begin);
    begun.read_exact(&mut [0]).expect("the child commits");
    thread::sleep(life);
    let mut status = 0;
    // SAFETY: the child is ours, and nobody else waits for it.
    let killed = unsafe { libc::kill(child, libc::SIGKILL) == 0 && libc::waitpid(child, &raw mut status, 0) == child };
    assert!(killed && libc::WIFSIGNALED(status), "the committing process ended by itself: {status:#x}");
}

#[test]
fn own_2_a_commit_that_is_killed_anywhere_leaves_one_revision_and_the_next_agent_reaches_the_wanted_one() {
    let web = || allow().pods("client").port(Protocol::TCP, 80);
    let one = pods().policy(policy("in", Some("db"), &[Ingress]).ingress(web())).policy(policy(
        "shut",
        Some("other"),
        &[Ingress],
    ));
    let other = Scenario::default()
        .pod(CLIENT, "client")
        .pod(DB, "renamed")
        .pod(OTHER, "other")
        .policy(policy("out", Some("client"), &[Egress]).egress(allow().net("10.65.0.4/32")))
        .policy(
            policy("nets", Some("renamed"), &[Ingress]).ingress(allow().net("10.65.0.0/29").port(Protocol::TCP, 81)),
        );
    on_a_node(|| {
        let mut kernel = Kernel::new(&one);
        let (wanted, interfaces) = ([desired(&one), desired(&other)], kernel.interfaces());
        let speaks = [0, 1].map(|which: usize| {
            commit(&mut adopted(&kernel), &wanted[which], &interfaces);
            answers(&mut kernel)
        });
        assert_ne!(speaks[0], speaks[1], "two revisions that differ");
        let mut tally = BTreeMap::<(&str, usize), u32>::new();
        for kill in 0..number("TORTIE_KILLED_COMMITS", 200) {
            // Lives of other lengths each time, so that kills meet every write by and by.
            killed_after(&kernel, &wanted, &interfaces, Duration::from_micros(u64::from(kill * 7919 % 2_000)));
            let far = left(&kernel);
            let found = answers(&mut kernel);
            let which = speaks.iter().position(|said| *said == found);
            let which = which.unwrap_or_else(|| panic!("kill {kill} ({far}) left neither revision"));
            *tally.entry((far, which)).or_default() += 1;
            let mut tables = adopted(&kernel);
            assert_eq!(answers(&mut kernel), speaks[which], "kill {kill} ({far}): adopted as it was");
            commit(&mut tables, &wanted[0], &interfaces);
            tables.settle().expect("a sweep");
            assert_eq!(answers(&mut kernel), speaks[0], "kill {kill} ({far}): the wanted one is reached");
            assert_eq!(tables.audit(), Ok(vec![]), "kill {kill} ({far}): the tables hold it and nothing else");
        }
        println!("killed commits were left so: {tally:?}");
    });
}
