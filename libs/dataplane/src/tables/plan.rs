//! Plans the next revision: contents become numbers, beside the numbers that are in use.
//! In: the image in force, what its numbers mean, and a Desired. Out: the next image, or the map that is too small.
//! Invariant: everything new lies where the previous revision looks at nothing; capacity is known before any write.
//! Never: writes; changes an id's content.

use super::{
    affected,
    capacity::{Full, Need, Step, heaviest, remedy},
    ids::Ids,
    image::{Entry, Image},
    names::{FreshIds, FreshSpans, Names},
    nested, prefix,
    sizes::Sizes,
    sweep::Retired,
    write::StoreError,
};
use abi::{
    Endpoint, NetKey, RowKey, RowRef, SetEntry, Span, SpanKind, Word,
    endpoint::{ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_QUEUED, ENDPOINT_READY, SLOT_FIRST, SLOT_HOST, SLOT_NONE},
    maps::{self, MapSpec},
    rules::{CLASS_NONE, HIT_NONE, ROW_SPANS_MAX, SET_ASKS_OWN, SET_DEFAULT_ONLY},
};
use calc::{
    Desired,
    desired::{EndpointSpec, Owner},
};
use model::{AttachmentId, IfaceName};
use policy::{Answer, Class, Hit, Row, Rows, RuleSet, Verdict};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

mod hosts;

/// So many times what a map holds is counted before it is given up.
const COUNTED: u64 = 2;

/// Nothing was put in force; the previous revision stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A table is too small.
    #[error(transparent)]
    Full(#[from] Full),
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
    /// Its numbers; its generation is the old one if nothing changes.
    pub image: Image,
    /// Their meaning.
    pub names: Names,
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
}

/// Finds a guarded interface.
pub type Lookup<'a> = &'a dyn Fn(&IfaceName) -> Option<Guarded>;

/// Plans. What is `retired` is not given out.
///
/// # Errors
/// Something does not fit.
pub fn plan(
    old: &Image,
    known: &Names,
    desired: &Desired,
    lookup: Lookup<'_>,
    sizes: &Sizes,
    retired: &Retired,
) -> Result<Plan, CommitError> {
    let mut draft = Draft::new(old, known, sizes, retired);
    draft.hosts(desired, lookup)?;
    draft.endpoints(desired, lookup);
    draft.addresses(desired);
    draft.nets(desired);
    draft.rows()?;
    draft.forget_dead_hits();
    let needs = draft.fits()?;
    Ok(draft.finish(needs))
}

struct Draft<'a> {
    old: &'a Image,
    known: &'a Names,
    sizes: &'a Sizes,
    retired: &'a Retired,
    image: Image,
    names: Names,
    refused: Vec<(AttachmentId, Refusal)>,
    refused_hosts: Vec<(IfaceName, Refusal)>,
    /// Contents that were met, by where they lie: held here, so that nothing else comes to lie there.
    sets: HashMap<*const RuleSet, (Arc<RuleSet>, u32)>,
    classes: HashMap<*const Class, (Arc<Class>, u32)>,
    used_sets: Ids,
    used_classes: Ids,
    fresh_sets: Ids,
    fresh_classes: Ids,
    set_ids: FreshIds,
    class_ids: FreshIds,
    class_slots: FreshIds,
    endpoint_slots: FreshIds,
    hit_ids: FreshIds,
    fresh_hits: Vec<u32>,
    room: FreshSpans,
    contents: BTreeMap<RowRef, Arc<[Span]>>,
    /// Once something is to be placed.
    placed: Option<HashMap<Arc<[Span]>, RowRef>>,
    /// Sets that are to be compiled yet.
    waiting: Vec<(Arc<RuleSet>, u32)>,
}

impl<'a> Draft<'a> {
    fn new(old: &'a Image, known: &'a Names, sizes: &'a Sizes, retired: &'a Retired) -> Self {
        let but = |mut used: Ids, retired: &BTreeSet<u32>, first| {
            used.extend(retired.iter().copied());
            FreshIds::new(used, first)
        };
        let mut hits = old.hits();
        hits.extend(known.hits.values().copied());
        // Whoever holds a content that is known holds the very same one, nearly always.
        let sets = known.sets.iter().map(|(set, id)| (Arc::as_ptr(set), (Arc::clone(set), *id))).collect();
        let classes = known.classes.iter().map(|(class, id)| (Arc::as_ptr(class), (Arc::clone(class), *id))).collect();
        Self {
            old,
            known,
            sizes,
            retired,
            image: Image { generation: old.generation, ..Image::default() },
            names: Names { endpoints: BTreeMap::new(), hosts: BTreeMap::new(), ..known.clone() },
            sets,
            classes,
            used_sets: Ids::default(),
            used_classes: Ids::default(),
            fresh_sets: Ids::default(),
            fresh_classes: Ids::default(),
            refused: Vec::new(),
            refused_hosts: Vec::new(),
            set_ids: but(old.set_ids(), &retired.sets, 1),
            class_ids: but(old.class_ids(), &retired.classes, 1),
            class_slots: but(old.class_slots(), &retired.class_slots, 1),
            endpoint_slots: but(old.endpoints.keys().copied().collect(), &retired.slots, SLOT_FIRST),
            hit_ids: but(hits, &retired.hits, known.last_hit + 1),
            fresh_hits: Vec::new(),
            room: FreshSpans::new(old.spans.keys().chain(&retired.spans).copied()),
            contents: old.spans.clone(),
            placed: None,
            waiting: Vec::new(),
        }
    }

    fn endpoints(&mut self, desired: &Desired, lookup: Lookup<'_>) {
        for (id, spec) in &desired.endpoints {
            match self.endpoint(spec, lookup) {
                Ok(slot) => {
                    self.names.endpoints.insert(id.clone(), slot);
                }
                Err(refusal) => self.refused.push((id.clone(), refusal)),
            }
        }
    }

    fn endpoint(&mut self, spec: &EndpointSpec, lookup: Lookup<'_>) -> Result<u32, Refusal> {
        let guarded = lookup(&spec.interface).ok_or_else(|| Refusal::NotAttached(spec.interface.clone()))?;
        let ifindex = guarded.ifindex;
        if self.image.interfaces.contains_key(&ifindex) {
            return Err(Refusal::Shared(spec.interface.clone()));
        }
        self.room_for(ifindex)?;
        let slot = self.slot_of(ifindex)?;
        let keep = if spec.keep_established { ENDPOINT_KEEP_ESTABLISHED } else { 0 };
        let queued = if guarded.is_queued { ENDPOINT_QUEUED } else { 0 };
        let entry = Endpoint {
            egress: Word::settled(self.set(&spec.egress)),
            ingress: Word::settled(self.set(&spec.ingress)),
            ifindex,
            rev: self.old.endpoints.get(&slot).map_or(0, |found| found.rev),
            mtu: spec.mtu,
            flags: ENDPOINT_READY | keep | queued,
            mac: spec.mac.0,
            layers: abi::Layers::default(),
            spare: [0; 16],
        };
        self.image.interfaces.insert(ifindex, slot);
        self.image.endpoints.insert(slot, entry);
        Ok(slot)
    }

    /// A key of its own for the interface, beside those that are swept only later.
    fn room_for(&self, ifindex: u32) -> Result<(), Refusal> {
        let held = &self.old.interfaces;
        let fresh = self.image.interfaces.keys().filter(|index| !held.contains_key(index)).count();
        let (size, used) = (self.sizes.of(&maps::INTERFACES), held.len() + self.retired.interfaces.len() + fresh);
        if held.contains_key(&ifindex) || u64::try_from(used).is_ok_and(|used| used < u64::from(size)) {
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
        self.endpoint_slots.take_within(SLOT_FIRST, self.sizes.of(&maps::ENDPOINTS))
    }

    fn set(&mut self, content: &Arc<RuleSet>) -> u32 {
        let met = self.sets.get(&Arc::as_ptr(content)).map(|(_, id)| *id);
        let id = met.or_else(|| self.names.sets.get(content).copied()).unwrap_or_else(|| {
            let id = self.set_ids.take();
            self.names.sets.insert(Arc::clone(content), id);
            self.fresh_sets.insert(id);
            id
        });
        if met.is_none() {
            self.sets.insert(Arc::as_ptr(content), (Arc::clone(content), id));
        }
        if self.used_sets.insert(id) {
            self.waiting.push((Arc::clone(content), id));
        }
        id
    }

    fn class(&mut self, content: &Arc<Class>) -> u32 {
        if **content == Class::default() {
            return CLASS_NONE;
        }
        let met = self.classes.get(&Arc::as_ptr(content)).map(|(_, id)| *id);
        let id = met.or_else(|| self.names.classes.get(content).copied()).unwrap_or_else(|| {
            let id = self.class_ids.take();
            self.names.classes.insert(Arc::clone(content), id);
            self.fresh_classes.insert(id);
            id
        });
        if met.is_none() {
            self.classes.insert(Arc::as_ptr(content), (Arc::clone(content), id));
        }
        self.used_classes.insert(id);
        id
    }

    /// Names stay with what this revision uses.
    fn forget_unused(&mut self) {
        self.names.sets.retain(|_, id| self.used_sets.contains(*id));
        self.names.classes.retain(|_, id| self.used_classes.contains(*id));
    }

    fn addresses(&mut self, desired: &Desired) {
        for (address, spec) in &desired.addresses {
            let Some(key) = prefix::address_key(*address) else { continue };
            let owner = match &spec.owner {
                Owner::Elsewhere => SLOT_NONE,
                Owner::Host => SLOT_HOST,
                Owner::Endpoint(id) => self.names.endpoints.get(id).copied().unwrap_or(SLOT_NONE),
            };
            let class = self.class(&spec.class);
            let slot = self.old.addresses.get(&key).map(|entry| entry.slot);
            let slot = slot.unwrap_or_else(|| self.class_slots.take());
            self.image.addresses.insert(key, Entry { slot, class, owner });
        }
    }

    fn nets(&mut self, desired: &Desired) {
        for (cidr, class) in &desired.nets {
            if let Some(key) = prefix::net_key(cidr) {
                let class = self.class(class);
                self.net(key, class);
            }
        }
        let reaches_v4 = prefix::guard(self.image.nets.keys());
        if reaches_v4 && !self.image.nets.contains_key(&prefix::ALL_V4) {
            self.net(prefix::ALL_V4, CLASS_NONE);
        }
    }

    fn net(&mut self, key: NetKey, class: u32) {
        let slot = self.old.nets.get(&key).map(|entry| entry.slot);
        let slot = slot.unwrap_or_else(|| self.class_slots.take());
        self.image.nets.insert(key, Entry { slot, class, owner: SLOT_NONE });
    }

    /// A row of its own for every class that a set answers otherwise than by default. What a known set says of a known
    /// class stands in the old image; only what is new on either side is compiled. Rows may name further sets.
    fn rows(&mut self) -> Result<(), CommitError> {
        let used = self.names.classes.iter().filter(|(_, id)| self.used_classes.contains(**id));
        let classes = used.map(|(class, id)| (Arc::clone(class), *id));
        let (fresh, known): (Vec<_>, Vec<_>) = classes.partition(|(_, id)| self.fresh_classes.contains(*id));
        let kept: Ids = known.iter().map(|(_, id)| *id).collect();
        while let Some((set, id)) = self.waiting.pop() {
            self.is_bounded()?;
            let is_known = !self.fresh_sets.contains(id);
            let SetEntry { row: default, flags, .. } = self.default_row(&set, id, is_known)?;
            if flags & SET_DEFAULT_ONLY != 0 {
                continue;
            }
            if is_known {
                self.carry_over(id, &kept);
            }
            let untold = if is_known { &[][..] } else { &known };
            if untold.is_empty() && fresh.is_empty() {
                continue;
            }
            let rows = Rows::of(&set);
            for (class, class_id) in untold.iter().chain(&fresh) {
                let row = self.compile(&set, &rows.row(class))?;
                if row != default {
                    self.keep(row);
                    self.image.rows.insert(RowKey { set: id, class: *class_id }, row);
                    self.is_bounded()?;
                }
            }
        }
        self.forget_unused();
        Ok(())
    }

    /// What is far too much is refused before it takes time and memory: nobody needs to know how much it would have been.
    fn is_bounded(&mut self) -> Result<(), CommitError> {
        let count = |entries: usize| u64::try_from(entries).unwrap_or(u64::MAX);
        let image = &self.image;
        let found = [
            (&maps::ADDRESSES, count(image.addresses.len())),
            (&maps::NETS, count(image.nets.len())),
            (&maps::SETS, count(image.sets.len().max(self.waiting.len()))),
            (&maps::ROWS, count(image.rows.len())),
            (&maps::SPANS, u64::from(self.room.end)),
        ];
        let is_far = |(map, needed): &(&MapSpec, u64)| *needed > COUNTED * u64::from(self.sizes.of(map));
        let Some((map, needed)) = found.into_iter().find(is_far) else { return Ok(()) };
        self.forget_unused();
        let (size, demand, remedy) = (self.sizes.of(map), self.step().demand(map), remedy(map.name, needed));
        Err(Full { map: map.name, needed, all_counted: false, size, demand, remedy }.into())
    }

    fn default_row(&mut self, set: &RuleSet, id: u32, is_known: bool) -> Result<SetEntry, CommitError> {
        let entry = match self.old.sets.get(&id).filter(|_| is_known) {
            Some(entry) => *entry,
            None => SetEntry {
                row: self.compile(set, &policy::row(set, &Class::default()))?,
                flags: if set.asks_peer() { 0 } else { SET_DEFAULT_ONLY }
                    | if set.asks_own() { SET_ASKS_OWN } else { 0 },
                pad: 0,
            },
        };
        self.keep(entry.row);
        self.image.sets.insert(id, entry);
        Ok(entry)
    }

    /// The rows of a set for classes that stay.
    fn carry_over(&mut self, set: u32, classes: &Ids) {
        let of_set = RowKey { set, class: 0 }..=RowKey { set, class: u32::MAX };
        let old = self.old;
        for (key, row) in old.rows.range(of_set).filter(|(key, _)| classes.contains(key.class)) {
            self.keep(*row);
            self.image.rows.insert(*key, *row);
        }
    }

    /// Keeps a row, the lists that it names, and the sets, which the former revision may have named as well.
    fn keep(&mut self, row: RowRef) {
        let Some(spans) = self.contents.get(&row).cloned() else { return };
        if self.image.spans.insert(row, Arc::clone(&spans)).is_some() {
            return;
        }
        let lists = nested::lists(&spans).filter_map(|offset| nested::list_at(&self.contents, offset));
        self.image.spans.extend(lists.map(|(place, list)| (place, Arc::clone(list))));
        for id in nested::sets(&spans) {
            let known = self.known.sets.iter().find_map(|(set, known)| (*known == id).then(|| Arc::clone(set)));
            known.map(|set| self.set(&set));
        }
    }

    fn compile(&mut self, set: &RuleSet, row: &Row) -> Result<RowRef, CommitError> {
        let mut spans = Vec::with_capacity(row.0.len());
        for span in &row.0 {
            spans.push(match &span.answer {
                Answer::Decided(hit) => self.span(span.start, hit),
                Answer::Ports(ports) => {
                    let ports = ports.iter().map(|port| self.span(port.start, &port.hit)).collect();
                    Span::new(span.start, SpanKind::Ports, self.place(set, nested::list(ports))?.offset)
                }
                Answer::Cell(own) => Span::new(span.start, SpanKind::Cell, self.set(own)),
            });
        }
        self.place(set, spans.into())
    }

    /// Where these spans lie, or will.
    fn place(&mut self, set: &RuleSet, spans: Arc<[Span]>) -> Result<RowRef, CommitError> {
        let place = |(place, spans): (&RowRef, &Arc<[Span]>)| (Arc::clone(spans), *place);
        let placed = self.placed.get_or_insert_with(|| self.old.spans.iter().map(place).collect());
        if let Some(place) = placed.get(&spans) {
            return Ok(*place);
        }
        let len = u32::try_from(spans.len()).ok().filter(|len| *len <= ROW_SPANS_MAX);
        let too_long = || CommitError::RowTooLong {
            spans: spans.len(),
            policy: heaviest(set).map(|policy| policy.id.to_string()).unwrap_or_default(),
        };
        let len = len.ok_or_else(too_long)?;
        let offset = self.room.take(len).ok_or_else(|| {
            let remedy = "no setting raises it further".to_owned();
            let (size, demand) = (self.sizes.of(&maps::SPANS), None);
            Full { map: maps::SPANS.name, needed: u64::from(u32::MAX), all_counted: false, size, demand, remedy }
        })?;
        let place = RowRef { offset, len };
        self.contents.insert(place, Arc::clone(&spans));
        self.placed.get_or_insert_default().insert(spans, place);
        Ok(place)
    }

    fn span(&mut self, start: u32, hit: &Hit) -> Span {
        let kind = match hit.verdict {
            Verdict::Allow => SpanKind::Allow,
            Verdict::Deny => SpanKind::Deny,
            Verdict::Next => SpanKind::Next,
        };
        let span = Span::new(start, kind, self.hit(hit));
        if hit.logs.is_empty() { span } else { span.logged() }
    }

    /// Past the end of the counters what is staged is not counted apart, and then nothing: they share the hit that means "none".
    fn hit(&mut self, hit: &Hit) -> u32 {
        if let Some(id) = self.names.hits.get(hit) {
            return *id;
        }
        let Some(id) = self.hit_ids.take_within(HIT_NONE + 1, self.sizes.of(&maps::HITS)) else {
            return self.names.hits.get(&hit.plain()).copied().unwrap_or(HIT_NONE);
        };
        self.names.hits.insert(Arc::new(hit.clone()), id);
        self.names.last_hit = id;
        self.fresh_hits.push(id);
        id
    }

    fn forget_dead_hits(&mut self) {
        let live = self.image.hits();
        self.names.hits.retain(|_, id| live.contains(*id));
        self.fresh_hits.retain(|id| live.contains(*id));
    }

    fn fits(&self) -> Result<Vec<Need>, CommitError> {
        Ok(self.step().fits(self.sizes)?)
    }

    fn step(&self) -> Step<'_> {
        Step { old: self.old, new: &self.image, retired: self.retired, names: &self.names, spans_end: self.room.end }
    }

    fn finish(mut self, needs: Vec<Need>) -> Plan {
        if self.image != *self.old {
            let generation = self.old.generation + 1;
            self.image.generation = generation;
            affected::stamp(self.old, &mut self.image);
        }
        let Self { image, names, fresh_hits, refused, refused_hosts, .. } = self;
        Plan { image, names, fresh_hits, refused, refused_hosts, needs }
    }
}
