//! Plans the next revision: contents become numbers, beside the numbers that are in use.
//! In: the image in force, what its numbers mean, and the latest Desired. Out: the step to the next one, or the map that is too small.
//! Invariant: everything new lies where the previous revision looks at nothing; capacity is known before any write; what
//! grows with the cluster and is not new is not looked at, and comes out as if it were.
//! Never: writes; changes an id's content.

use super::{
    affected,
    askers::Numbered,
    capacity::{Asked, Full, Need, remedy},
    ids::Ids,
    image::Image,
    ledger::{Entries, Ledger, place_of},
    names::{Names, NamesChange},
    numbers::{Numbers, lowest},
    sizes::Sizes,
    step::{Change, Step},
    sweep::Retired,
    uses::{Doubtful, UsesChange, Way},
    write::StoreError,
};
use abi::{
    Endpoint, RowRef, Span, Word,
    endpoint::{
        ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_MASQUERADED_V4, ENDPOINT_MASQUERADED_V6, ENDPOINT_QUEUED, ENDPOINT_READY,
        SLOT_FIRST, SLOT_HOST,
    },
    maps::{self, MapSpec},
    rules::{ROW_SPANS_MAX, SET_DENY},
};
use calc::{Desired, Latest, desired::EndpointSpec};
use model::{AttachmentId, IfaceName, PolicyId};
use policy::{Class, Hit, RuleSet};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

mod dead;
mod hosts;
mod peers;
mod rows;

/// So many times what a map holds is counted before it is given up.
const COUNTED: u64 = 2;

/// Nothing was put in force; the previous revision stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A table is too small.
    #[error(transparent)]
    Full(#[from] Full),
    /// A table of services is too small; those of policy have room.
    #[error(transparent)]
    Services(Full),
    /// A row would take too many steps to search.
    #[error(
        "a rule set needs {spans} spans for one class of peers, at most {ROW_SPANS_MAX} are searched; split the policy {policy}"
    )]
    RowTooLong {
        /// Spans needed.
        spans: usize,
        /// First policy of the set.
        policy: String,
    },
    /// The kernel refused a write.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An endpoint that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its interface is not there, or not guarded.
    #[error("its interface {0} is not there or has no programs attached")]
    NotAttached(IfaceName),
    /// Another endpoint has the interface.
    #[error("its interface {0} already serves another endpoint")]
    Shared(IfaceName),
    /// No slot is left.
    #[error("the map {map} is full at {size} entries: {}; an endpoint that goes makes room too", remedy(map, u64::from(*size) + 1))]
    Full {
        /// The map.
        map: &'static str,
        /// Entries it has.
        size: u32,
    },
}

/// The next revision.
#[derive(Debug)]
pub struct Plan {
    /// What differs; nothing, if it is the revision in force.
    pub change: Change,
    /// What becomes of the meaning of its numbers.
    pub names: NamesChange,
    /// And of what is kept beside them.
    pub entries: Entries,
    /// Numbers and keys that it uses no more.
    pub gone: Retired,
    /// Hit ids with a new meaning.
    pub fresh_hits: Vec<u32>,
    /// Endpoints left out.
    pub refused: Vec<(AttachmentId, Refusal)>,
    /// Interfaces whose host endpoint is left out: they stay open.
    pub refused_hosts: Vec<(IfaceName, Refusal)>,
    /// Entries needed of each map.
    pub needs: Vec<Need>,
}

/// An interface that is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// Its index.
    pub ifindex: u32,
    /// A queueing discipline sits on it.
    pub is_queued: bool,
    /// Packets of the network come in by it, those to services of this node too.
    pub is_uplink: bool,
}

/// Finds a guarded interface.
pub type Lookup<'a> = &'a dyn Fn(&IfaceName) -> Option<Guarded>;

/// What a plan starts from.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// In force.
    pub image: &'a Image,
    /// What its numbers mean.
    pub names: &'a Names,
    /// What is kept beside it.
    pub ledger: &'a Ledger,
    /// What is not free yet, of revisions before it.
    pub retired: &'a Retired,
    /// How much fits.
    pub sizes: &'a Sizes,
}

/// Plans. `holds`: the number of the Desired in force.
///
/// # Errors
/// Something does not fit.
pub fn plan(
    ground: Ground<'_>,
    latest: Latest<'_>,
    holds: Option<u64>,
    lookup: Lookup<'_>,
) -> Result<Plan, CommitError> {
    let touched = latest.since(holds);
    let mut draft = Draft::new(ground);
    draft.hosts(&latest, lookup)?;
    draft.endpoints(&latest, lookup);
    draft.addresses(&latest, touched);
    draft.nets(&latest, touched);
    draft.rows()?;
    draft.bury(touched.is_none());
    let needs = draft.fits()?;
    Ok(draft.finish(needs))
}

struct Draft<'a> {
    old: &'a Image,
    known: &'a Names,
    ledger: &'a Ledger,
    sizes: &'a Sizes,
    retired: &'a Retired,
    change: Change,
    names: NamesChange,
    uses: UsesChange,
    numbers: Numbers,
    /// Endpoints and their interfaces, all of them: they are looked at whole.
    endpoints: BTreeMap<u32, Endpoint>,
    interfaces: BTreeMap<u32, u32>,
    /// Slot of the uplink's own host endpoint; 0: it has none.
    uplink: u32,
    refused: Vec<(AttachmentId, Refusal)>,
    refused_hosts: Vec<(IfaceName, Refusal)>,
    /// Contents that were met in this plan, by where they lie.
    met: HashMap<usize, u32>,
    met_sets: Vec<(Arc<RuleSet>, u32)>,
    met_classes: HashMap<*const Class, u32>,
    /// Sets that endpoints ask.
    words: Ids,
    fresh_sets: BTreeMap<u32, Arc<RuleSet>>,
    /// Sets that are to be compiled yet.
    waiting: Vec<(Arc<RuleSet>, u32)>,
    fresh_classes: Numbered<Class>,
    fresh_class_ids: Vec<u32>,
    fresh_hits: BTreeMap<u32, Arc<Hit>>,
    /// Hits of ends of tiers of the set that is being compiled, by where the policies lie that they name.
    ends: HashMap<*const PolicyId, u32>,
    /// What lies where the image in force has nothing.
    placed: HashMap<Arc<[Span]>, RowRef>,
    contents: BTreeMap<RowRef, Arc<[Span]>>,
    /// What may have lost its last user, and what has.
    doubtful: Doubtful,
    gone: Retired,
}

impl<'a> Draft<'a> {
    fn new(Ground { image: old, names: known, ledger, retired, sizes }: Ground<'a>) -> Self {
        Self {
            old,
            known,
            ledger,
            sizes,
            retired,
            change: Change::default(),
            names: NamesChange::default(),
            uses: UsesChange::default(),
            numbers: ledger.numbers.clone(),
            endpoints: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            uplink: 0,
            refused: Vec::new(),
            refused_hosts: Vec::new(),
            met: HashMap::new(),
            met_sets: Vec::new(),
            met_classes: HashMap::new(),
            words: Ids::default(),
            fresh_sets: BTreeMap::new(),
            waiting: Vec::new(),
            fresh_classes: Numbered::default(),
            fresh_class_ids: Vec::new(),
            fresh_hits: BTreeMap::new(),
            ends: HashMap::new(),
            placed: HashMap::new(),
            contents: BTreeMap::new(),
            doubtful: Doubtful::default(),
            gone: Retired::default(),
        }
    }

    /// All of them, and with them what becomes of endpoints and interfaces.
    fn endpoints(&mut self, desired: &Desired, lookup: Lookup<'_>) {
        let mut left_out = BTreeSet::new();
        for (id, spec) in &desired.endpoints {
            match self.endpoint(spec, lookup) {
                Ok(slot) if self.known.endpoints.get(id) == Some(&slot) => {}
                Ok(slot) => self.names.endpoints.set(&self.known.endpoints, id.clone(), Some(slot)),
                Err(refusal) => {
                    left_out.insert(id);
                    self.refused.push((id.clone(), refusal));
                }
            }
        }
        let is_served = |id: &&AttachmentId| desired.endpoints.contains_key(*id) && !left_out.contains(*id);
        for gone in self.known.endpoints.keys().filter(|id| !is_served(id)) {
            self.names.endpoints.set(&self.known.endpoints, gone.clone(), None);
        }
        for gone in self.old.endpoints.keys().filter(|slot| !self.endpoints.contains_key(slot)) {
            self.change.endpoints.set(&self.old.endpoints, *gone, None);
        }
        for gone in self.old.interfaces.keys().filter(|index| !self.interfaces.contains_key(index)) {
            self.change.interfaces.set(&self.old.interfaces, *gone, None);
        }
        for (slot, entry) in &self.endpoints {
            self.change.endpoints.set(&self.old.endpoints, *slot, Some(*entry));
        }
        for (index, slot) in &self.interfaces {
            self.change.interfaces.set(&self.old.interfaces, *index, Some(*slot));
        }
        let judged = self.change.endpoints.all(&self.old.endpoints).filter(|(slot, ..)| **slot != SLOT_HOST);
        let was = judged.filter_map(|(_, was, _)| was);
        self.doubtful.sets.extend(was.flat_map(Endpoint::sets));
    }

    fn endpoint(&mut self, spec: &EndpointSpec, lookup: Lookup<'_>) -> Result<u32, Refusal> {
        let guarded = lookup(&spec.interface).ok_or_else(|| Refusal::NotAttached(spec.interface.clone()))?;
        let ifindex = guarded.ifindex;
        if self.interfaces.contains_key(&ifindex) {
            return Err(Refusal::Shared(spec.interface.clone()));
        }
        self.room_for(ifindex)?;
        let slot = self.slot_of(ifindex)?;
        let keep = if spec.keep_established { ENDPOINT_KEEP_ESTABLISHED } else { 0 };
        let queued = if guarded.is_queued { ENDPOINT_QUEUED } else { 0 };
        let [v4, v6] = spec.masqueraded;
        let masqueraded = if v4 { ENDPOINT_MASQUERADED_V4 } else { 0 } | if v6 { ENDPOINT_MASQUERADED_V6 } else { 0 };
        let entry = Endpoint {
            egress: Word::settled(self.asked(&spec.egress)),
            ingress: Word::settled(self.asked(&spec.ingress)),
            ifindex,
            rev: self.old.endpoints.get(&slot).map_or(0, |found| found.rev),
            mtu: spec.mtu,
            flags: ENDPOINT_READY | keep | queued | masqueraded,
            mac: spec.mac.0,
            layers: abi::Layers::default(),
            spare: [0; 4],
            sources: Word::settled(spec.sources.as_ref().map_or(SET_DENY, |set| self.asked(set))),
        };
        self.interfaces.insert(ifindex, slot);
        self.endpoints.insert(slot, entry);
        Ok(slot)
    }

    /// A key of its own for the interface, beside those that are swept only later.
    fn room_for(&self, ifindex: u32) -> Result<(), Refusal> {
        let held = &self.old.interfaces;
        if held.contains_key(&ifindex) {
            return Ok(());
        }
        let fresh = self.interfaces.keys().filter(|index| !held.contains_key(index)).count();
        let (size, used) = (self.sizes.of(&maps::INTERFACES), held.len() + self.retired.interfaces.len() + fresh);
        if u64::try_from(used).is_ok_and(|used| used < u64::from(size)) {
            return Ok(());
        }
        Err(Refusal::Full { map: maps::INTERFACES.name, size })
    }

    /// An interface keeps its slot, also over a restart: its flows name it.
    fn slot_of(&mut self, ifindex: u32) -> Result<u32, Refusal> {
        let full = Refusal::Full { map: maps::ENDPOINTS.name, size: self.sizes.of(&maps::ENDPOINTS) };
        self.held_slot(ifindex).or_else(|| self.free_slot()).ok_or(full)
    }

    fn held_slot(&self, ifindex: u32) -> Option<u32> {
        let held = self.old.interfaces.get(&ifindex).copied();
        held.filter(|slot| self.old.endpoints.get(slot).is_some_and(|entry| entry.ifindex == ifindex))
    }

    fn free_slot(&mut self) -> Option<u32> {
        self.numbers.slot(self.sizes.of(&maps::ENDPOINTS))
    }

    /// The number of a set that an endpoint asks. Where it lies, nothing else does while it is desired.
    fn asked(&mut self, content: &Arc<RuleSet>) -> u32 {
        let place = place_of(content);
        let met = self.ledger.met.get(&place).map(|(_, id)| *id).or_else(|| self.met.get(&place).copied());
        let id = met.unwrap_or_else(|| {
            let id = self.set(content);
            self.met.insert(place, id);
            self.met_sets.push((Arc::clone(content), id));
            id
        });
        self.words.insert(id);
        id
    }

    fn set(&mut self, content: &Arc<RuleSet>) -> u32 {
        if let Some(id) = self.names.sets.get(&self.known.sets, content) {
            return *id;
        }
        let id = lowest(&mut self.numbers.sets);
        self.names.sets.set(&self.known.sets, Arc::clone(content), Some(id));
        self.fresh_sets.insert(id, Arc::clone(content));
        self.waiting.push((Arc::clone(content), id));
        self.doubtful.sets.insert(id);
        id
    }

    /// What is far too much is refused before it takes time and memory: nobody needs to know how much it would have been.
    fn is_bounded(&self) -> Result<(), CommitError> {
        let count = |entries: usize| u64::try_from(entries).unwrap_or(u64::MAX);
        let (old, change) = (self.old, &self.change);
        let found = [
            (&maps::ADDRESSES, count(change.addresses.at_most(&old.addresses))),
            (&maps::NETS, count(change.nets.at_most(&old.nets))),
            (&maps::SETS, count(change.sets.at_most(&old.sets).max(self.waiting.len()))),
            (&maps::ROWS, count(change.rows.at_most(&old.rows))),
            (&maps::SPANS, u64::from(self.numbers.room.end())),
        ];
        let is_far = |(map, needed): &(&MapSpec, u64)| *needed > COUNTED * u64::from(self.sizes.of(map));
        let Some((map, needed)) = found.into_iter().find(is_far) else { return Ok(()) };
        let (size, demand, remedy) = (self.sizes.of(map), self.needed().demand(map), remedy(map.name, needed));
        Err(Full { map: map.name, needed, all_counted: false, size, demand, remedy }.into())
    }

    fn fits(&self) -> Result<Vec<Need>, CommitError> {
        Ok(self.needed().fits(self.sizes)?)
    }

    fn needed(&self) -> Asked<'_> {
        Asked {
            step: Step { old: self.old, change: &self.change },
            retired: self.retired,
            known: self.known,
            names: &self.names,
            numbers: &self.numbers,
        }
    }

    fn finish(mut self, needs: Vec<Need>) -> Plan {
        let Self { old, change, gone, .. } = &mut self;
        let slots = change.addresses.gone(&old.addresses).map(|(_, was)| was.slot);
        gone.class_slots = slots.chain(change.nets.gone(&old.nets).map(|(_, was)| was.slot)).collect();
        gone.slots =
            change.endpoints.gone(&old.endpoints).map(|(slot, _)| *slot).filter(|slot| *slot >= SLOT_FIRST).collect();
        gone.spans = change.spans.gone(&old.spans).map(|(range, _)| *range).collect();
        gone.interfaces = change.interfaces.gone(&old.interfaces).map(|(index, _)| *index).collect();
        gone.addresses = change.addresses.gone(&old.addresses).map(|(key, _)| *key).collect();
        gone.nets = change.nets.gone(&old.nets).count();
        gone.rows = change.rows.gone(&old.rows).count();
        if !change.is_empty() {
            affected::stamp(old, change);
        }
        let Self { change, names, uses, numbers, met_sets: met, gone, refused, refused_hosts, .. } = self;
        let fresh_hits = self.fresh_hits.into_keys().collect();
        Plan { change, names, entries: Entries { uses, numbers, met }, gone, fresh_hits, refused, refused_hosts, needs }
    }
}
