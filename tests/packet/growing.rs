//! A table that grows while flows come: whatever step a start dies after, the next one ends with every flow, its ticket, and
//! accounts that say how many there are.
//! In: the agent's own steps over the kernel's maps, cut off after each in turn. Out: flows, tickets, accounts, pins.
//! Invariant: before and after each step a flow is born in the maps of whatever programs run then.
//! Never: loads a program: what one writes is written here.

use crate::kernel::{OWN_FOLDER, map, map_mut, object, on_a_node};
use abi::{
    ConntrackEntry, FlowKey, Ticket, Timeout,
    conntrack::QUOTA_ALL,
    maps::{self, MAPS},
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, Queue},
};
use dataplane::{
    Sizes,
    growth::{Growth, last_steps, take},
};
use rustix::mount::{MountFlags, mount};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A key must be new (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// Sizes of the first programs' tables; those of the next are so many times larger.
const FIRST: [(&str, u32); 2] = [("CONNTRACK", 128), ("ENDPOINTS", 8)];

/// Tables of one size; the others are small and stay so.
fn sizes(times: u32) -> Sizes {
    let small = |name: &&maps::MapSpec| matches!(name.sizing, maps::Sizing::Setting);
    let small = MAPS.iter().filter(small).map(|map| (map.name.to_owned(), 64));
    let grown = FIRST.iter().map(|(name, entries)| ((*name).to_owned(), entries * times));
    Sizes::asked(&small.chain(grown).collect::<BTreeMap<_, _>>()).expect("the sizes make sense")
}

/// The tables of a node, and what was ever written to them.
struct Node {
    dir: PathBuf,
    object: Vec<u8>,
    /// Who runs. None of them is forgotten: a map lives as long as its programs.
    running: Vec<Ebpf>,
    born: u16,
}

impl Node {
    fn new(dir: PathBuf, object: Vec<u8>) -> Self {
        std::fs::create_dir(&dir).expect("a folder of pins");
        let mut node = Self { dir, object, running: Vec::new(), born: 0 };
        let growth = Growth::plan(&node.dir, &sizes(1)).expect("nothing is there");
        let first = node.load(&growth, &sizes(1));
        node.running.push(first);
        node
    }

    fn load(&self, growth: &Growth, sizes: &Sizes) -> Ebpf {
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_max_entries(map.name, sizes.of(map));
            loader.map_pin_path(map.name, growth.place(map));
        }
        loader.load(&self.object).expect("the object loads")
    }

    /// Programs that run keep a flow.
    fn keep(running: &mut Ebpf, number: u16, serial: u32) {
        let (key, owner) = (key(number), 2 + u32::from(number % 3));
        let entry =
            ConntrackEntry { low_slot: owner, serial, timeout: Timeout::Generic as u8, ..ConntrackEntry::default() };
        let mut flows: HashMap<&mut MapData, FlowKey, ConntrackEntry> = map_mut(running, &maps::CONNTRACK);
        // Others may have been faster, where all run over the same table.
        if flows.insert(&key, &entry, BPF_NOEXIST).is_err() {
            return;
        }
        let mut tickets: Queue<&mut MapData, Ticket> = map_mut(running, &maps::CTQ);
        tickets.push(&Ticket { key, serial, pad: 0 }, 0).expect("there is room");
        let mut accounts: Array<&mut MapData, u64> = map_mut(running, &maps::QUOTA);
        for account in [owner, QUOTA_ALL] {
            let count = accounts.get(&account, 0).expect("an account");
            accounts.set(account, &(count + 1), 0).expect("an account");
        }
    }

    /// Each of those that run keeps a new flow; and one that they all see, each of them.
    fn flows_come(&mut self) {
        let several = self.running.len() > 1;
        for running in &mut self.running {
            self.born += 1;
            Self::keep(running, self.born, u32::from(self.born));
        }
        if several {
            self.born += 1;
            for (serial, running) in (1000 * u32::from(self.born)..).zip(&mut self.running) {
                Self::keep(running, self.born, serial);
            }
        }
    }

    /// A start that asks for so much, and dies after `most` steps. Whether it came to its end, and how many it took.
    fn start(&mut self, times: u32, most: usize) -> Option<usize> {
        let growth = Growth::plan(&self.dir, &sizes(times)).expect("the pins are whole");
        let programs = self.load(&growth, &sizes(times));
        let mut taken = 0;
        let mut step = |node: &mut Self, (map, step)| {
            let goes_on = taken < most;
            if goes_on {
                take(&node.dir, map, step).unwrap_or_else(|error| panic!("{} {step:?}: {error}", map.name));
                node.flows_come();
                taken += 1;
            }
            goes_on
        };
        if !growth.steps().all(|each| step(self, each)) {
            return None;
        }
        // One interface after the other: for a time both run.
        self.running.push(programs);
        self.flows_come();
        self.running.drain(..self.running.len() - 1);
        let last: Vec<_> = last_steps(&self.dir).collect();
        last.into_iter().all(|each| step(self, each)).then_some(taken)
    }

    fn assert_whole(&mut self, when: &str) {
        let pins = std::fs::read_dir(&self.dir).expect("pins").count();
        assert_eq!(pins, MAPS.len(), "{when}: one pin a map");
        let present = self.running.last_mut().expect("somebody runs");
        let flows: HashMap<&MapData, FlowKey, ConntrackEntry> = map(present, &maps::CONNTRACK);
        let flows: BTreeMap<_, _> = flows.iter().map(|flow| flow.expect("it can be read")).collect();
        let missing: Vec<_> = (1..=self.born).filter(|number| !flows.contains_key(&key(*number))).collect();
        assert!(
            missing.is_empty() && flows.len() == usize::from(self.born),
            "{when}: of {} lost {missing:?}",
            self.born
        );
        let accounts: Array<&MapData, u64> = map(present, &maps::QUOTA);
        let owned =
            |account: u32| flows.values().filter(|flow| account == QUOTA_ALL || flow.owner() == account).count();
        for account in 0..accounts.len() {
            let said = accounts.get(&account, 0).expect("an account");
            assert_eq!(said, owned(account) as u64, "{when}: account {account}");
        }
        let mut tickets: Queue<&mut MapData, Ticket> = map_mut(present, &maps::CTQ);
        let tickets: Vec<Ticket> = std::iter::from_fn(|| tickets.pop(0).ok()).collect();
        for (key, flow) in &flows {
            let own = tickets.iter().filter(|ticket| (&ticket.key, ticket.serial) == (key, flow.serial)).count();
            assert_eq!(own, 1, "{when}: tickets of {key:?}");
        }
    }
}

fn key(number: u16) -> FlowKey {
    FlowKey { high_port: number.to_be_bytes(), protocol: 253, ..FlowKey::default() }
}

/// A folder of pins in a file system of this test's own.
fn pins_folder() -> PathBuf {
    let root = Path::new(OWN_FOLDER).join("growing");
    std::fs::create_dir(&root).expect("a folder");
    mount("tortie-test", &root, "bpf", MountFlags::empty(), None).expect("root may mount");
    root
}

#[test]
fn own_3_whatever_step_a_growth_dies_after_the_next_start_ends_with_every_flow_its_ticket_and_right_accounts() {
    on_a_node(|| {
        let (root, object) = (pins_folder(), object());
        let mut whole = Node::new(root.join("whole"), object.clone());
        whole.flows_come();
        let steps = whole.start(2, usize::MAX).expect("it comes to its end");
        whole.assert_whole("at once");
        assert!(steps > 30, "{steps} steps of seven maps");
        for (cut, next) in (0..steps).flat_map(|cut| [(cut, 2), (cut, 3)]) {
            let mut node = Node::new(root.join(format!("{cut}-{next}")), object.clone());
            node.flows_come();
            assert_eq!(node.start(2, cut), None, "it dies after {cut} steps");
            node.flows_come();
            node.start(next, usize::MAX).expect("the next start goes on from there");
            node.assert_whole(&format!("after {cut} steps, then {next} times as large"));
        }
    });
}
