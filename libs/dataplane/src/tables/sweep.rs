//! What a commit leaves for later: words to settle, keys to delete, numbers to free, each after its grace.
//! In: a step, and what it uses no more. Out: the writes that are due, and what a later commit may not touch meanwhile.
//! Invariant: a number is free again two graces after the commit that dropped it; a word changes only once it is settled.
//! Never: waits.

use super::{
    image::Image,
    order,
    step::{Change, Step},
    write::Write,
};
use abi::{Address, Endpoint, RowRef};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers and keys that are nobody's any more, and not free yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    pub sets: BTreeSet<u32>,
    pub classes: BTreeSet<u32>,
    pub class_slots: BTreeSet<u32>,
    pub slots: BTreeSet<u32>,
    pub hits: BTreeSet<u32>,
    pub spans: BTreeSet<RowRef>,
    pub interfaces: BTreeSet<u32>,
    pub addresses: BTreeSet<Address>,
    /// Networks and rows, of which only the number counts.
    pub nets: usize,
    pub rows: usize,
}

impl Retired {
    fn add(&mut self, other: &Self) {
        self.sets.extend(&other.sets);
        self.classes.extend(&other.classes);
        self.class_slots.extend(&other.class_slots);
        self.slots.extend(&other.slots);
        self.hits.extend(&other.hits);
        self.spans.extend(&other.spans);
        self.interfaces.extend(&other.interfaces);
        self.addresses.extend(&other.addresses);
        self.nets += other.nets;
        self.rows += other.rows;
    }
}

/// What is left of one commit.
#[derive(Debug)]
struct Sweep {
    /// The grace it waits for.
    grace: u64,
    /// Due after the first grace; `None`: done, and the second is waited for.
    settle: Option<Vec<Write>>,
    /// Due after the second.
    clear: Vec<Write>,
    /// Endpoints whose words are not settled, or that name a layer which goes, as they were written.
    words: BTreeMap<u32, Endpoint>,
    /// Class slots whose words are not settled.
    classes: BTreeSet<u32>,
    /// It changed networks.
    has_nets: bool,
    retired: Retired,
}

/// What all commits have left.
#[derive(Debug, Default)]
pub struct Sweeps(Vec<Sweep>);

impl Sweeps {
    /// Takes in what a commit, written as `written`, leaves until `grace` and the one after it: `retired`, and the words.
    pub fn add(&mut self, step: Step<'_>, retired: Retired, written: &[Write], grace: u64) {
        if step.change.is_empty() {
            return;
        }
        let (mut words, mut classes) = (BTreeMap::new(), BTreeSet::new());
        for write in written {
            match write {
                Write::Endpoint(slot, entry) if !is_final(entry, step.endpoint(*slot)) => {
                    words.insert(*slot, *entry);
                }
                Write::Class(slot, entry) if !(entry.class.is_settled() && entry.endpoint.is_settled()) => {
                    classes.insert(*slot);
                }
                _ => {}
            }
        }
        // Those of an earlier commit are its own to settle.
        words.retain(|slot, _| self.0.iter().all(|sweep| !sweep.words.contains_key(slot)));
        let (settle, clear) = (Some(order::sweep(step)), order::clear(step));
        let has_nets = !step.change.nets.is_empty();
        self.0.push(Sweep { grace, settle, clear, words, classes, has_nets, retired });
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all of it: the tables are read anew.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The last grace that something waits for.
    pub fn last(&self) -> Option<u64> {
        self.0.iter().map(|sweep| sweep.grace).max()
    }

    /// The next that is due when the graces up to `over` are: its writes, and what follows them.
    pub fn due(&mut self, image: &Image, over: u64) -> Option<(Vec<Write>, Then)> {
        let at = self.0.iter().position(|sweep| sweep.grace <= over)?;
        let sweep = &mut self.0[at];
        match sweep.settle.take() {
            Some(mut writes) => {
                writes.retain_mut(|write| sweep.is_due(write, image));
                (sweep.words, sweep.classes) = (BTreeMap::new(), BTreeSet::new());
                Some((writes, Then::Grace(at)))
            }
            None => {
                let Sweep { mut clear, retired, .. } = self.0.remove(at);
                clear.push(Write::FlushFlows(retired.slots.clone()));
                Some((clear, Then::Free(retired)))
            }
        }
    }

    /// The second grace of the one at this place.
    pub fn wait(&mut self, at: usize, grace: u64) {
        if let Some(sweep) = self.0.get_mut(at) {
            sweep.grace = grace;
        }
    }

    /// Everything that is not free yet.
    pub fn retired(&self) -> Retired {
        let mut all = Retired::default();
        self.0.iter().for_each(|sweep| all.add(&sweep.retired));
        all
    }

    /// A later commit stamps endpoints whose words a packet under way still reads: those stay as they are.
    pub fn keep_words(&self, writes: &mut [Write]) {
        for write in writes {
            if let Write::Endpoint(slot, entry) = write
                && let Some(written) = self.0.iter().find_map(|sweep| sweep.words.get(slot))
            {
                (entry.egress, entry.ingress, entry.layers) = (written.egress, written.ingress, written.layers);
                entry.sources = written.sources;
            }
        }
    }

    /// Whether a step touches what a packet under way may still read, so that it has to wait.
    pub fn forbid(&self, step: Step<'_>) -> bool {
        if self.is_empty() || step.change.is_empty() {
            return false;
        }
        // What an address answers before its generation is worked out from the networks.
        let open = || self.0.iter().filter(|sweep| sweep.settle.is_some());
        let nets = open().any(|sweep| sweep.has_nets) || (!step.change.nets.is_empty() && open().next().is_some());
        nets || open().any(|sweep| sweep.reads(step)) || self.0.iter().any(|sweep| sweep.holds(step.old, step.change))
    }
}

/// Whether a slot was written as it stays.
fn is_final(written: &Endpoint, stays: Option<&Endpoint>) -> bool {
    let names_the_same = stays.map(|entry| entry.layers).unwrap_or_default() == written.layers;
    written.is_settled() && names_the_same
}

impl Sweep {
    /// Whether a write of the first part is still this commit's to make: what it left settled, a later one may have changed.
    /// An endpoint may have been stamped since.
    fn is_due(&self, write: &mut Write, image: &Image) -> bool {
        match write {
            Write::Class(slot, _) => self.classes.contains(slot),
            Write::Endpoint(slot, entry) => match image.endpoints.get(slot) {
                Some(now) => {
                    *entry = *now;
                    self.words.contains_key(slot)
                }
                // Cleared, if it was this commit that let it go.
                None => self.retired.slots.contains(slot) || self.words.contains_key(slot),
            },
            _ => true,
        }
    }

    /// Words that the step would change.
    fn reads(&self, step: Step<'_>) -> bool {
        let moved = |slot: &u32| match (step.old.endpoints.get(slot), step.endpoint(*slot)) {
            (Some(was), Some(is)) => {
                let of = |entry: &Endpoint| (entry.egress, entry.ingress, entry.sources, entry.ifindex, entry.layers);
                of(was) != of(is)
            }
            (was, is) => was.is_some() != is.is_some(),
        };
        let mut was = step.change.addresses.all(&step.old.addresses).filter_map(|(_, was, _)| was);
        self.words.keys().any(moved) || was.any(|entry| self.classes.contains(&entry.slot))
    }

    /// Keys that the step would insert while the former ones are still there, or while a packet may look at the element
    /// that a deleted one has left: a hash gives it to the next.
    fn holds(&self, old: &Image, change: &Change) -> bool {
        let retired = &self.retired;
        let is_deleted = self.settle.is_none();
        let mut addresses = change.addresses.added(&old.addresses).map(|(key, _)| key);
        let mut interfaces = change.interfaces.added(&old.interfaces).map(|(key, _)| key);
        let mut rows = change.rows.added(&old.rows);
        addresses.any(|key| retired.addresses.contains(key) || (is_deleted && !retired.addresses.is_empty()))
            || interfaces.any(|key| retired.interfaces.contains(key) || (is_deleted && !retired.interfaces.is_empty()))
            || (is_deleted && retired.rows > 0 && rows.next().is_some())
    }
}

/// What follows a sweep's writes.
pub enum Then {
    /// Another grace, for the one at this place.
    Grace(usize),
    /// Nothing: these are free.
    Free(Retired),
}
