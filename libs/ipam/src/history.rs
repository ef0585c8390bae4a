//! Every history: nodes and a collector that read and write one store, a write at a time, and may be killed between any two.
//! In: random histories of wishes, releases, stale reads, crashes, changed rules. Out: nothing, or the shortest that breaks a promise.
//! Invariant: of an address that somebody was told nobody else is; what a crash left behind its node takes back; at rest all agree.
//! Never: looks at how a decision is made; only at what is stored, and at what who waits is told.

use crate::{
    AffinityState, Block, BlockAffinity, Clock, IpamHandle, Kept, Ledger, Request, Tracked, Write,
    audit::{Holding, holdings},
    hold::{self, Sticky},
    is_node_handle, node_handle,
};
use model::{Cidr, IpPool, IpamConfig, Labels, NodeName, PodId};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

/// Longest history: a million steps are `PROPTEST_CASES=32000 cargo test --release -p ipam history`.
const LONGEST: usize = 250;
const NODES: usize = 3;
/// Who collects garbage: beside the nodes.
const COLLECTOR: usize = NODES;
/// Pods whose addresses outlive them, by their numbers; for how long.
const FIRST_STICKY: u8 = 100;
const STICKY: u8 = 3;
const HELD: Duration = Duration::from_secs(30);
/// What is read is what is stored.
const NOW: Late = (0, 0);

/// How many steps ago was stored what is read: blocks and claims, and, that is read before them, handles.
type Late = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    /// A node that is idle reads what was stored so many steps ago, and decides to attach this pod, and the next.
    Attach { node: usize, pod: u8, more: bool, late: Late },
    /// The same for a pod whose addresses outlive it, and that may be on any node.
    Stick { node: usize, pod: u8, late: Late },
    /// Time passes.
    Tick(u8),
    /// The same for a pod that has its addresses: the runtime asks once more.
    Again { node: usize, pod: u8, late: Late },
    /// The same to detach it.
    Detach { node: usize, pod: u8, late: Late },
    /// Whoever collects garbage looks at what was stored so many steps ago.
    Collect { late: Late },
    /// Somebody does the next write.
    Write { actor: usize },
    /// Somebody does all that is left.
    Finish { actor: usize },
    /// A node is killed, and starts anew.
    Crash { actor: usize },
    /// Strict affinity is turned on or off, or an address is reserved or not, or a pool selects all nodes or all but the first.
    Rule(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let late = || {
        let blocks = prop_oneof![4 => Just(0), 1 => 0..12_usize];
        (blocks, prop_oneof![4 => Just(0), 1 => 0..8_usize]).prop_map(|(blocks, before)| (blocks, blocks + before))
    };
    prop_oneof![
        6 => (0..NODES, 0..6_u8, any::<bool>(), late()).prop_map(|(node, pod, more, late)| Step::Attach { node, pod, more, late }),
        3 => (0..NODES, 0..STICKY, late()).prop_map(|(node, pod, late)| Step::Stick { node, pod: FIRST_STICKY + pod, late }),
        3 => (0..NODES, 0..STICKY, late()).prop_map(|(node, pod, late)| Step::Detach { node, pod: FIRST_STICKY + pod, late }),
        1 => (0..40_u8).prop_map(Step::Tick),
        1 => (0..NODES, 0..6_u8, late()).prop_map(|(node, pod, late)| Step::Again { node, pod, late }),
        5 => (0..NODES, 0..6_u8, late()).prop_map(|(node, pod, late)| Step::Detach { node, pod, late }),
        2 => late().prop_map(|late| Step::Collect { late }),
        14 => (0..=COLLECTOR).prop_map(|actor| Step::Write { actor }),
        4 => (0..=COLLECTOR).prop_map(|actor| Step::Finish { actor }),
        2 => (0..=COLLECTOR).prop_map(|actor| Step::Crash { actor }),
        1 => (0..3_u8).prop_map(Step::Rule),
    ]
}

/// What is stored.
#[derive(Clone, Debug, Default)]
struct Store {
    revision: u64,
    blocks: BTreeMap<String, Kept<Block>>,
    affinities: BTreeMap<String, Kept<BlockAffinity>>,
    handles: BTreeMap<String, Kept<IpamHandle>>,
}

/// Somebody else was first.
struct Conflict;

/// Compares and writes; the new revision.
fn swap<T: Clone>(
    objects: &mut BTreeMap<String, Kept<T>>,
    name: &str,
    kept: &Kept<T>,
    next: &str,
) -> Result<(), Conflict> {
    let found = objects.get(name).map(|kept| kept.revision.clone());
    if found.unwrap_or_default() != kept.revision {
        return Err(Conflict);
    }
    objects.insert(name.to_owned(), Kept { revision: Some(next.to_owned()), value: kept.value.clone() });
    Ok(())
}

fn delete<T>(objects: &mut BTreeMap<String, Kept<T>>, name: &str, revision: Option<&String>) -> Result<(), Conflict> {
    match objects.get(name) {
        Some(kept) if kept.revision.as_ref() != revision => Err(Conflict),
        _ => {
            objects.remove(name);
            Ok(())
        }
    }
}

impl Store {
    fn write(&mut self, write: &Write, claimed: &mut BTreeMap<String, String>) -> Result<(), Conflict> {
        self.revision += 1;
        let next = self.revision.to_string();
        match write {
            Write::Block(name, kept) => swap(&mut self.blocks, name, kept, &next),
            Write::Handle(name, kept) => {
                swap(&mut self.handles, name, kept, &next)?;
                claimed.insert(name.clone(), next);
                Ok(())
            }
            Write::Recount(name, value) => {
                let kept = Kept { revision: claimed.get(name).cloned(), value: value.clone() };
                swap(&mut self.handles, name, &kept, &next)
            }
            Write::Affinity(name, kept) => {
                swap(&mut self.affinities, name, kept, &next)?;
                claimed.insert(name.clone(), next);
                Ok(())
            }
            Write::Confirm(name, value) => {
                let kept = Kept { revision: claimed.get(name).cloned(), value: value.clone() };
                swap(&mut self.affinities, name, &kept, &next)
            }
            Write::RemoveBlock(name, revision) => delete(&mut self.blocks, name, revision.as_ref()),
            Write::RemoveHandle(name, revision) => delete(&mut self.handles, name, revision.as_ref()),
            Write::RemoveAffinity(name, revision) => {
                delete(&mut self.affinities, name, claimed.get(name).or(revision.as_ref()))
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Task {
    Attach(Vec<String>),
    Detach(Vec<String>),
    Collect,
}

/// Decided and not wholly written.
#[derive(Clone, Debug)]
struct Begun {
    task: Task,
    writes: VecDeque<Write>,
    claimed: BTreeMap<String, String>,
    /// When it was decided.
    at: u64,
    /// What is given back.
    freed: Vec<IpAddr>,
    /// What those who wait are told at the end.
    given: Vec<(String, Vec<IpAddr>)>,
    near: BTreeMap<String, Kept<BlockAffinity>>,
}

#[derive(Clone, Debug, Default)]
struct Actor {
    near: BTreeMap<String, Kept<BlockAffinity>>,
    begun: Option<Begun>,
    /// The store's revision when it wrote last.
    seen: u64,
    /// What the node's own records say that a crash left: to be taken back before anything else.
    left: BTreeSet<String>,
}

struct World {
    store: Store,
    /// As it was, newest last.
    past: VecDeque<Store>,
    rules: Ledger,
    actors: Vec<Actor>,
    /// What was told, until it is asked to be taken back.
    told: BTreeMap<String, Vec<IpAddr>>,
    /// Steps so far: the time.
    now: u64,
    /// When each address was given back last, as far as it cools down.
    freed: BTreeMap<IpAddr, u64>,
    /// Sandboxes of a pod so far: each has another handle.
    sandboxes: u32,
    /// The handle of each pod that is attached, or about to be.
    pods: BTreeMap<(usize, u8), String>,
}

impl World {
    fn new(cooldown: u32) -> Self {
        let mut rules = Ledger::default();
        rules.config.cooldown = cooldown;
        for (name, cidr, block_size) in [("v4", "10.65.0.0/28", 30), ("v6", "fd00::/125", 126)] {
            let cidr = cidr.parse().expect("a network");
            rules.pools.insert(name.into(), IpPool::of_pods(name, cidr, block_size));
        }
        Self {
            store: Store::default(),
            past: VecDeque::new(),
            rules,
            actors: vec![Actor::default(); NODES + 1],
            told: BTreeMap::new(),
            now: 0,
            freed: BTreeMap::new(),
            sandboxes: 0,
            pods: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: Step) {
        self.now += 1;
        self.past.push_back(self.store.clone());
        self.past.keep_newest(16);
        match step {
            Step::Attach { node, pod, more, late } if self.is_idle(node) => {
                let pods = if more { vec![pod, (pod + 1) % 6] } else { vec![pod] };
                let free: Vec<u8> = pods.into_iter().filter(|pod| !self.pods.contains_key(&(node, *pod))).collect();
                let handles: Vec<_> = free.into_iter().map(|pod| self.sandbox(node, pod)).collect();
                if !handles.is_empty() {
                    self.begin(node, Task::Attach(handles), late, false);
                }
            }
            Step::Stick { node, pod, late } if self.is_idle(node) => {
                if !self.pods.contains_key(&(node, pod)) {
                    let owner = self.sandbox(node, pod);
                    self.begin(node, Task::Attach(vec![owner]), late, false);
                }
            }
            Step::Tick(seconds) => self.rules.clock.at += Duration::from_secs(seconds.into()),
            Step::Again { node, pod, late } if self.is_idle(node) => {
                if let Some(handle) = self.pods.get(&(node, pod)).cloned() {
                    self.begin(node, Task::Attach(vec![handle]), late, false);
                }
            }
            Step::Detach { node, pod, late } if self.is_idle(node) => {
                if let Some(handle) = self.pods.remove(&(node, pod)) {
                    self.told.remove(&handle);
                    self.begin(node, Task::Detach(vec![handle]), late, false);
                }
            }
            Step::Collect { late } if self.actors[COLLECTOR].begun.is_none() => {
                self.begin(COLLECTOR, Task::Collect, late, true);
            }
            Step::Write { actor } => self.write(actor),
            Step::Finish { actor } => self.finish(actor),
            Step::Crash { actor } => self.crash(actor),
            Step::Rule(which) => self.rule(which),
            Step::Attach { .. }
            | Step::Stick { .. }
            | Step::Again { .. }
            | Step::Detach { .. }
            | Step::Collect { .. } => {}
        }
    }

    fn cooldown(&self) -> u64 {
        self.rules.config.cooldown.into()
    }

    fn sandbox(&mut self, node: usize, pod: u8) -> String {
        self.sandboxes += 1;
        let handle = format!("net.{node}-{pod}-{}", self.sandboxes);
        self.pods.insert((node, pod), handle.clone());
        handle
    }

    /// What a crash left is taken back first.
    fn is_idle(&mut self, node: usize) -> bool {
        if self.actors[node].begun.is_some() {
            return false;
        }
        let left: Vec<_> = self.actors[node].left.iter().cloned().collect();
        if left.is_empty() {
            return true;
        }
        self.begin(node, Task::Detach(left), NOW, false);
        false
    }

    fn rule(&mut self, which: u8) {
        match which {
            0 => self.rules.config.strict_affinity = !self.rules.config.strict_affinity,
            1 if self.rules.reserved.is_empty() => {
                self.rules.reserved.push("10.65.0.4/31".parse().expect("a network"));
            }
            1 => self.rules.reserved.clear(),
            _ => {
                let pool = self.rules.pools.get_mut("v4").expect("it is there");
                let all = model::Selector::All;
                pool.nodes = if pool.nodes == all { "name != 'n0'".parse().expect("a selector") } else { all };
            }
        }
    }

    fn ledger(&self, actor: usize, store: &Store, before: &Store, near: bool, names: &BTreeSet<String>) -> Ledger {
        let own = &self.actors[actor].near;
        let is_partial = near && !own.is_empty();
        let counted = (actor != COLLECTOR).then(|| node_handle(&name(actor)));
        let is_known = |handle: &String| counted.as_ref().is_none_or(|own| own == handle) || names.contains(handle);
        let known = before.handles.iter().filter(|(handle, _)| is_known(handle));
        let handles: Tracked<_, _> = known.map(|(handle, kept)| (handle.clone(), kept.clone())).collect();
        let named: BTreeSet<Cidr> = handles.values().flat_map(|kept| kept.value.block.keys().copied()).collect();
        let is_near = |cidr: &Cidr| own.values().any(|kept| kept.value.cidr == *cidr) || named.contains(cidr);
        let blocks = store.blocks.values().filter(|kept| !is_partial || is_near(&kept.value.cidr));
        let clock = Clock {
            at: self.rules.clock.at,
            now: stamp(self.now),
            cooled: stamp(self.now.saturating_sub(self.cooldown())),
        };
        let mut blocks: BTreeMap<_, _> = blocks.map(|kept| (kept.value.cidr, kept.clone())).collect();
        blocks.values_mut().for_each(|kept| kept.value.thaw(&clock.cooled));
        let blocks = blocks.into_iter().collect();
        let affinities = if is_partial { own } else { &store.affinities };
        let affinities = affinities.iter().map(|(name, kept)| (name.clone(), kept.clone())).collect();
        let here = (actor != COLLECTOR).then(|| (name(actor), labels(actor)));
        Ledger { clock, blocks, affinities, handles, counted, here, is_partial, ..self.rules.clone() }
    }

    /// Reads, and decides.
    fn begin(&mut self, actor: usize, task: Task, late: Late, whole: bool) {
        // Nobody reads what was before his own last write.
        let seen = self.actors[actor].seen;
        let past = |late: usize| {
            let past = self.past.iter().rev().nth(late).filter(|past| late > 0 && past.revision >= seen);
            past.unwrap_or(&self.store)
        };
        let (store, before) = (past(late.0), past(late.1));
        let before = if before.revision > store.revision { store } else { before };
        let owners = match &task {
            Task::Attach(owners) | Task::Detach(owners) => owners.as_slice(),
            Task::Collect => &[],
        };
        let names = owners.iter().filter_map(|owner| sticky(owner)).map(|sticky| sticky.handle()).collect();
        let mut ledger = self.ledger(actor, store, before, !whole, &names);
        let (mut given, mut freed) = (Vec::new(), Vec::new());
        match &task {
            Task::Attach(handles) => {
                for handle in handles {
                    let held = sticky(handle).map(|sticky| expected(&ledger, &sticky));
                    let addresses = ledger.assign(&request(actor, handle)).unwrap_or_default();
                    if let Some(held) = held.filter(|_| !ledger.is_short) {
                        held.check(handle, &addresses);
                    }
                    given.push((handle.clone(), addresses));
                }
            }
            Task::Detach(handles) => {
                freed.extend(handles.iter().flat_map(|handle| ledger.release(handle)));
                // What is held is its name's, and has not been free.
                let held: BTreeSet<IpAddr> = ledger.holds().map(|hold| hold.address).collect();
                freed.retain(|address| !held.contains(address));
            }
            Task::Collect => self.collect(&mut ledger),
        }
        if ledger.is_short {
            return self.begin(actor, task, late, true);
        }
        let is_own = |claim: &BlockAffinity| {
            claim.node == name(actor)
                && ledger.blocks.get(&claim.cidr).is_some_and(|kept| kept.value.belongs_to(&claim.node))
        };
        let near = ledger.affinities.iter().filter(|(_, kept)| is_own(&kept.value));
        let near = near.map(|(name, kept)| (name.clone(), kept.clone())).collect();
        let (writes, at) = (ledger.writes().into(), self.now);
        let begun = Begun { task, writes, claimed: BTreeMap::new(), at, freed, given, near };
        self.actors[actor].begun = Some(begun);
    }

    /// Takes back what no pod has that is there, or about to be, and gives up empty blocks but one of a node.
    fn collect(&self, ledger: &mut Ledger) {
        let mut used: BTreeSet<&String> = self.pods.values().collect();
        for actor in &self.actors {
            used.extend(&actor.left);
            if let Some(Begun { task: Task::Attach(handles) | Task::Detach(handles), .. }) = &actor.begun {
                used.extend(handles);
            }
        }
        let mut leaked = Vec::new();
        for block in ledger.blocks.values().map(|kept| &kept.value) {
            for (ordinal, index) in block.allocations.iter().enumerate() {
                let Some(owner) = index.and_then(|index| block.attributes[index].owner()).map(str::to_owned) else {
                    continue;
                };
                let is_held = index.is_some_and(|index| hold::held_until(&block.attributes[index]).is_some());
                if !used.contains(&owner) && !is_held {
                    let count = block.sequence_number_for_allocation[&ordinal.to_string()];
                    leaked.push((block.address(ordinal), owner, count));
                }
            }
        }
        for (address, owner, count) in leaked {
            ledger.part_seen(address, &owner, count).expect("as it was just seen");
        }
        let over = ledger.holds_over(self.rules.clock.at, |_| true);
        assert_eq!(ledger.end_holds(&over).len(), over.len(), "as they were just seen");
        for handle in ledger.handles.keys().cloned().collect::<Vec<_>>() {
            let places: Vec<_> = ledger.blocks.keys().copied().collect();
            ledger.mend(&handle, places);
        }
        let mut seen = BTreeSet::new();
        let blocks: Vec<_> = ledger.blocks.values().map(|kept| kept.value.clone()).collect();
        for block in blocks.iter().filter(|block| block.is_empty()) {
            if !seen.insert((block.affinity.clone(), block.cidr.is_v4())) {
                ledger.give_up(block.cidr);
            }
        }
    }

    fn write(&mut self, actor: usize) {
        let Some(mut begun) = self.actors[actor].begun.take() else { return };
        if let Some(write) = begun.writes.pop_front() {
            let written = self.store.write(&write, &mut begun.claimed);
            self.actors[actor].seen = self.store.revision;
            if written.is_err() {
                // Whoever loses reads again, all of it, and decides anew; garbage is looked for another time.
                if actor != COLLECTOR {
                    self.begin(actor, begun.task, NOW, true);
                }
                return;
            }
            if !begun.writes.is_empty() {
                self.actors[actor].begun = Some(begun);
                return;
            }
        }
        self.actors[actor].near = begun.near;
        self.freed.extend(begun.freed.into_iter().map(|address| (address, begun.at)));
        let cooldown = self.cooldown();
        match begun.task {
            Task::Attach(_) => {
                for (handle, addresses) in begun.given {
                    if addresses.is_empty() {
                        // Refused: it is undone.
                        self.pods.retain(|_, known| *known != handle);
                        self.told.remove(&handle);
                        self.actors[actor].left.insert(handle);
                    } else {
                        // Rules may have changed since it asked first: one family is added, or not said again.
                        let told = self.told.entry(handle.clone()).or_default();
                        for address in addresses {
                            let same = told.iter().find(|told| told.is_ipv4() == address.is_ipv4());
                            assert!(
                                same.is_none_or(|same| *same == address),
                                "{handle} has {same:?}, and is told {address}"
                            );
                            if same.is_none() {
                                told.push(address);
                                // Whoever gives it decided so once it was cold.
                                let freed = self.freed.get(&address).copied();
                                let is_cold = freed.is_none_or(|freed| freed + cooldown < begun.at || cooldown == 0);
                                assert!(is_cold, "{address} was freed at {freed:?}, given at {}", begun.at);
                            }
                        }
                    }
                }
            }
            Task::Detach(handles) => self.actors[actor].left.retain(|handle| !handles.contains(handle)),
            Task::Collect => {}
        }
    }

    fn finish(&mut self, actor: usize) {
        for _ in 0..200 {
            if self.actors[actor].begun.is_none() {
                return;
            }
            self.write(actor);
        }
        panic!("{actor} is never done");
    }

    /// What its records say was begun is taken back when it starts anew.
    fn crash(&mut self, actor: usize) {
        let Actor { begun, left, seen, .. } = std::mem::take(&mut self.actors[actor]);
        (self.actors[actor].left, self.actors[actor].seen) = (left, seen);
        if let Some(Begun { task: Task::Attach(handles) | Task::Detach(handles), .. }) = begun {
            self.pods.retain(|_, known| !handles.contains(known));
            self.told.retain(|known, _| !handles.contains(known));
            self.actors[actor].left.extend(handles);
        }
    }

    /// What holds at every moment.
    fn check(&self) {
        let mut all = BTreeMap::new();
        for (handle, addresses) in &self.told {
            for address in addresses {
                assert_eq!(all.insert(address, handle), None, "{address} is also {handle}'s");
                let block = self.store.blocks.values().find(|kept| kept.value.cidr.contains(*address));
                let held = block.is_some_and(|kept| kept.value.held_by(handle).contains(address));
                assert!(held, "{address} is {handle}'s, and its block says otherwise");
            }
        }
        for (name, kept) in &self.store.blocks {
            kept.value.check().expect(name);
            for (handle, count) in kept.value.counts() {
                let counted = self.store.handles.get(handle).and_then(|own| own.value.block.get(&kept.value.cidr));
                assert!(
                    counted.is_some_and(|counted| *counted >= count),
                    "{handle} has {count} of {name}: {counted:?}"
                );
            }
        }
    }

    /// What a crash left in a name's handle of blocks that were never written nobody is to heal: it says nothing.
    fn counted(&self, name: &str, handle: &IpamHandle) -> BTreeMap<Cidr, u32> {
        let is_there =
            |cidr: &Cidr| is_node_handle(name) || self.store.blocks.values().any(|kept| kept.value.cidr == *cidr);
        handle.block.iter().filter(|(cidr, _)| is_there(cidr)).map(|(cidr, count)| (*cidr, *count)).collect()
    }

    /// Everybody is let finish; then all that is stored agrees with what is told.
    fn rest(&mut self) {
        for _ in 0..4 {
            for actor in 0..=COLLECTOR {
                self.finish(actor);
                if actor != COLLECTOR && !self.is_idle(actor) {
                    self.finish(actor);
                }
            }
        }
        // What a dead collector took back and did not count another does, or the node.
        for node in 0..NODES {
            self.begin(node, Task::Detach(Vec::new()), NOW, false);
            self.finish(node);
        }
        self.begin(COLLECTOR, Task::Collect, NOW, true);
        self.finish(COLLECTOR);
        self.check();
        let mut counted: BTreeMap<String, BTreeMap<Cidr, u32>> = BTreeMap::new();
        for block in self.store.blocks.values().map(|kept| &kept.value) {
            for index in block.allocations.iter().flatten() {
                let attribute = &block.attributes[*index];
                if attribute.released_at().is_some() {
                    continue;
                }
                let owner = attribute.owner().expect("each has one");
                let is_known = self.told.contains_key(owner) || hold::held_until(attribute).is_some();
                assert!(is_known, "{owner} has an address of {} and is nobody", block.cidr);
                let is_ours = |handle: &String| is_node_handle(handle) || handle.starts_with("sticky.");
                let handle = attribute.handle_id.clone().filter(is_ours).expect("a node's, or a name's");
                *counted.entry(handle).or_default().entry(block.cidr).or_default() += 1;
            }
        }
        let handles = self.store.handles.iter().map(|(name, kept)| (name.clone(), self.counted(name, &kept.value)));
        let handles = handles.filter(|(_, counts)| !counts.is_empty());
        assert_eq!(handles.collect::<BTreeMap<_, _>>(), counted, "handles count what blocks say");
        // Nothing is lost for good: with all pods gone every address can be given again.
        for ((node, _), handle) in std::mem::take(&mut self.pods) {
            self.told.remove(&handle);
            self.begin(node, Task::Detach(vec![handle]), NOW, false);
            self.finish(node);
        }
        // What is held is so until its time is over.
        self.rules.clock.at += HELD;
        self.begin(COLLECTOR, Task::Collect, NOW, true);
        self.finish(COLLECTOR);
        let is_cold = |kept: &Kept<Block>| {
            kept.value.counts().is_empty() && kept.value.attributes.len() <= kept.value.cooling_down().count()
        };
        let mut handles = self.store.handles.iter();
        assert!(
            handles.all(|(name, kept)| self.counted(name, &kept.value).is_empty())
                && self.store.blocks.values().all(is_cold)
        );
        self.now += 1_000;
        self.rules.config = IpamConfig { cooldown: self.rules.config.cooldown, ..IpamConfig::default() };
        self.rules.reserved.clear();
        self.rules.pools.get_mut("v4").expect("there").nodes = model::Selector::All;
        self.rules.pools.remove("v6");
        let handles: Vec<_> = (0..16).map(|pod| format!("net.last-{pod}")).collect();
        self.begin(1, Task::Attach(handles), NOW, false);
        self.finish(1);
        assert_eq!(self.told.len(), 16, "all of the pool is to be had: {:#?}", self.store.blocks);
        self.check();
        for kept in self.store.affinities.values().filter(|kept| kept.value.node == name(1)) {
            let is_confirmed = kept.value.state == AffinityState::Confirmed;
            assert!(is_confirmed || !kept.value.cidr.is_v4(), "{:?}", kept.value);
        }
    }
}

/// A time, of one length.
fn stamp(step: u64) -> String {
    format!("{step:08}")
}

fn name(actor: usize) -> NodeName {
    format!("n{actor}").as_str().into()
}

fn labels(actor: usize) -> Labels {
    Labels::from([("name", &*format!("n{actor}"))])
}

fn request(actor: usize, owner: &str) -> Request {
    Request {
        node: name(actor),
        node_labels: labels(actor),
        owner: owner.to_owned(),
        sticky: sticky(owner),
        sequence: 1,
        ..Request::default()
    }
}

/// Whose address outlives the sandbox: `net.NODE-POD-SANDBOX`.
fn sticky(owner: &str) -> Option<Sticky> {
    let pod = owner.strip_prefix("net.")?.split('-').nth(1)?.parse::<u8>().ok()?;
    let name = PodId::new("x", &format!("p{pod}"));
    (pod >= FIRST_STICKY).then_some(Sticky { name, is_machine: false, held: HELD })
}

/// What a name is to get of what a ledger says.
struct Expected {
    /// One of these of each family, if it gets one at all.
    held: Vec<IpAddr>,
    /// Sandboxes that have an address.
    alive: BTreeSet<(bool, String)>,
}

fn expected(ledger: &Ledger, sticky: &Sticky) -> Expected {
    let handle = sticky.handle();
    let all = ledger.blocks.values().flat_map(|kept| holdings(&kept.value));
    let own: Vec<_> = all.filter(|holding| holding.attribute.handle_id.as_ref() == Some(&handle)).collect();
    // What its handle does not count, as a crash leaves it, is not found, and freed when its time is over.
    let counted = |holding: &Holding<'_>| {
        ledger.handles.get(&handle).is_some_and(|kept| kept.value.block.contains_key(&holding.block.cidr))
    };
    let is_free = |address: &IpAddr| {
        let pool = ledger.pools.values().find(|pool| pool.cidr.contains(*address));
        let selected = pool.is_some_and(|pool| pool.nodes == model::Selector::All);
        !ledger.config.strict_affinity && selected && !ledger.is_reserved(*address)
    };
    let is_held = |holding: &&Holding<'_>| hold::held_until(holding.attribute).is_some();
    let held = own.iter().filter(is_held).filter(|holding| counted(holding) && is_free(&holding.address));
    let alive = own.iter().filter(|holding| !is_held(holding) && counted(holding));
    Expected {
        held: held.map(|holding| holding.address).collect(),
        alive: alive
            .filter_map(|holding| Some((holding.address.is_ipv4(), holding.attribute.owner()?.to_owned())))
            .collect(),
    }
}

impl Expected {
    fn check(&self, owner: &str, given: &[IpAddr]) {
        // A family that is not asked for here says nothing.
        let is_its = |address: &IpAddr| {
            let mut same = self.alive.iter().filter(|(v4, _)| *v4 == address.is_ipv4()).peekable();
            // Two that were first at once have an address each.
            same.peek().is_none() || same.any(|(_, alive)| alive == owner)
        };
        assert!(given.iter().all(is_its), "{owner}: {:?} live", self.alive);
        for address in given.iter().filter(|_| self.alive.is_empty()) {
            let mut kept = self.held.iter().filter(|held| held.is_ipv4() == address.is_ipv4()).peekable();
            assert!(
                kept.peek().is_none() || kept.any(|held| held == address),
                "{owner} gets {address}, and {:?} is held",
                self.held
            );
        }
    }
}

trait Shorten {
    fn keep_newest(&mut self, most: usize);
}

impl<T> Shorten for VecDeque<T> {
    fn keep_newest(&mut self, most: usize) {
        self.drain(..self.len().saturating_sub(most));
    }
}

/// A quarter of what is usual, for a history is long: 64 unless `PROPTEST_CASES` says otherwise.
fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases / 4, max_shrink_iters: 20_000, ..usual }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn ipam_18_no_history_gives_an_address_twice_or_loses_one(
        steps in proptest::collection::vec(step(), 0..LONGEST),
        cooldown in prop_oneof![Just(0_u32), Just(20)],
    ) {
        let mut world = World::new(cooldown);
        for step in steps {
            world.take(step);
            world.check();
        }
        world.rest();
    }
}
