//! A strict stand-in for the kernel's tables, and a packet's way through them as the programs go it.
//! In: writes. Out: what a packet would be told; an error for a write that no careful agent makes.
//! Invariant: what a packet in flight may still look at cannot be taken away, nor what is in use be edited.
//! Never: more forgiving than the kernel.

use super::{
    audit::{same_class, same_endpoint},
    nested, prefix,
    services::{ServiceWrite, rig::Rig},
    sizes::Sizes,
    write::{Key, Keyed, Snapshot, Store, StoreError, Write},
};
use abi::{
    Address, Endpoint, Layers, Masquerade, NetKey, RowKey, RowRef, ServiceKey, SetEntry, Span, SpanKind, TunnelEnd,
    TunnelLocal,
    endpoint::{ENDPOINT_HOST, NODE_REFUSES_WORKLOADS, SLOT_FIRST, SLOT_HOST, SLOT_NONE},
    maps::{self, MapSpec},
    rules::{CLASS_NONE, HIT_NONE, SET_DEFAULT_ONLY, SET_DENY, SET_OPEN},
};
use model::Direction;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// The tables, as maps in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeStore {
    pub held: Snapshot,
    pub spans: BTreeMap<u32, Span>,
    pub sizes: Sizes,
    /// The tables of services.
    pub services: Rig,
    /// Where ICMP errors come from, by family.
    pub sources: BTreeMap<u32, Address>,
    /// What lies behind which node, and from where this one sends.
    pub tunnels: BTreeMap<NetKey, TunnelEnd>,
    pub tunnel_local: BTreeMap<u32, TunnelLocal>,
    pub masquerade: BTreeMap<u32, Masquerade>,
    pub writes: usize,
    /// Fails the write of this number (from 0), once.
    pub fail_at: Option<usize>,
    /// Graces take their time: none is over until it is waited for, or [`FakeStore::pass`] says so.
    pub slow: bool,
    /// Graces that somebody waited for.
    pub waits: usize,
    /// What packets of every revision under way are asked, again and again.
    pub probes: Vec<Probe>,
    under_way: UnderWay,
    /// What the revision in force told when it came into force.
    now: Vec<Told>,
    /// Graces asked for and not over, with what each will end.
    asked: VecDeque<UnderWay>,
    over: u64,
}

/// Where a packet is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At a pod's interface.
    Pod(u32),
    /// At an interface of the node's own.
    Host(u32, Layer),
    /// At every pod, by a layer of the host endpoint of all interfaces.
    Node(Layer),
    /// At every pod, whether the node takes what it sends to it.
    ToNode,
    /// At every pod, or (ingress) from outside: where it is sent, if the peer's address and this port of TCP are a service's.
    Service(u16),
}

/// Which of a host endpoint's rule sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Local,
    Untracked,
    PreDnat,
    Forward,
}

impl Layer {
    pub const ALL: [Self; 4] = [Self::Local, Self::Untracked, Self::PreDnat, Self::Forward];
}

/// The own address of every packet that asks, and its source port.
pub const OWN: Address = Address::from_v4([10, 65, 0, 3]);
pub const PORT: u32 = 68;

/// A question that a packet asks: where, direction, peer, what of it rules name.
pub type Probe = (At, Direction, Address, u32);
/// What it is told: allowed or not, and the hit; `None`: what it reads is of no revision.
type Told = Option<(bool, u32)>;

/// What packets that have begun may still look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UnderWay {
    /// Rows that were taken away: their spans.
    walked: Vec<RowRef>,
    /// Revisions before the one in force, and what each told.
    revisions: BTreeMap<u64, Vec<Told>>,
    /// Hashes that a key was deleted from: its element goes to the next that is inserted.
    freed: BTreeSet<&'static str>,
    /// Host endpoints' slots that were named: a packet may have found them.
    named: BTreeSet<u32>,
}

fn covers(row: RowRef, index: u32) -> bool {
    row.offset <= index && index < row.offset + row.len
}

impl UnderWay {
    fn end(&mut self, other: &Self) {
        self.walked.retain(|row| !other.walked.contains(row));
        self.revisions.retain(|generation, _| !other.revisions.contains_key(generation));
        self.freed.retain(|map| !other.freed.contains(map));
        self.named.retain(|slot| !other.named.contains(slot));
    }
}

impl FakeStore {
    /// Whose graces come late, and whose packets ask.
    pub fn slow(probes: Vec<Probe>) -> Self {
        Self { slow: true, probes, ..Self::default() }
    }

    pub fn with_sizes(sizes: &[(&'static str, u32)]) -> Self {
        Self { sizes: Sizes(sizes.iter().copied().collect()), ..Self::default() }
    }

    /// What a packet is told there: allowed or not, and the hit id.
    pub fn judge(&self, at: At, direction: Direction, peer: Address, x: u32) -> (bool, u32) {
        self.judge_at(self.held.generation, (at, direction, peer, x)).expect("a span in use")
    }

    /// The slot whose sets are asked; `None`: nobody is, everything passes.
    fn slot_at(&self, at: At) -> Option<u32> {
        let interface = |ifindex| self.held.interfaces.get(&ifindex).copied();
        let layers = |slot| self.held.endpoints.get(&slot).map(|entry: &Endpoint| entry.layers).unwrap_or_default();
        let named = |slot: u32| Some(slot).filter(|slot| *slot != SLOT_NONE);
        match at {
            At::Pod(ifindex) => Some(interface(ifindex).unwrap_or(SLOT_NONE)),
            At::Host(ifindex, Layer::Local) => interface(ifindex),
            At::Host(ifindex, Layer::Untracked) => named(layers(interface(ifindex)?).untracked),
            At::Host(ifindex, Layer::PreDnat) => named(layers(interface(ifindex)?).pre_dnat),
            At::Host(ifindex, Layer::Forward) => named(layers(interface(ifindex)?).forward),
            At::Node(Layer::PreDnat) => named(layers(SLOT_HOST).pre_dnat),
            At::Node(Layer::Forward) => named(layers(SLOT_HOST).forward),
            At::Node(Layer::Local | Layer::Untracked) | At::ToNode | At::Service(_) => None,
        }
    }

    fn judge_at(&self, generation: u64, (at, direction, peer, x): Probe) -> Told {
        if at == At::ToNode {
            let says = self.held.endpoints.get(&SLOT_HOST).map_or(0, |node| node.ingress.at(generation));
            return Some((says & NODE_REFUSES_WORKLOADS == 0, HIT_NONE));
        }
        if let At::Service(port) = at {
            return Some(self.routed(generation, (direction, peer), port));
        }
        let Some(slot) = self.slot_at(at) else { return Some((true, HIT_NONE)) };
        let endpoint = self.held.endpoints.get(&slot).copied().unwrap_or_default();
        let set = match direction {
            Direction::Egress => endpoint.egress.at(generation),
            Direction::Ingress => endpoint.ingress.at(generation),
        };
        if set == SET_OPEN {
            return Some((true, HIT_NONE));
        }
        let row = self.row(set, self.resolve_at(generation, peer)?.0);
        let found = self.search(row, x)?.unwrap_or_default();
        let found = match found.kind() {
            SpanKind::Cell => {
                self.search(self.row(found.hit, self.resolve_at(generation, OWN)?.0), x)?.unwrap_or_default()
            }
            _ => found,
        };
        let found = match found.kind() {
            SpanKind::Ports => {
                let list = nested::range_of(found.hit, *self.spans.get(&found.hit)?);
                self.search(RowRef { offset: list.offset + 1, len: list.len - 1 }, PORT)?.unwrap_or_default()
            }
            _ => found,
        };
        Some((found.allows(), found.hit))
    }

    /// Whether a service is there, and a number for where it leads.
    fn routed(&self, generation: u64, (direction, address): (Direction, Address), port: u16) -> (bool, u32) {
        let key = ServiceKey { address, port: port.to_be_bytes(), protocol: 6, pad: [0; 5] };
        let exact = self.services.route(generation, direction, &key);
        let route = exact.or_else(|| self.services.route(generation, direction, &ServiceKey::floating(address)));
        let mut hasher = DefaultHasher::new();
        route.hash(&mut hasher);
        (route.is_some(), (hasher.finish() >> 32).try_into().expect("half of it"))
    }

    /// The span of a row that `x` lies in; `None` outside: it is not there any more.
    fn search(&self, row: RowRef, x: u32) -> Option<Option<Span>> {
        let spans: Option<Vec<_>> = (row.offset..row.offset + row.len).map(|index| self.spans.get(&index)).collect();
        Some(spans?.into_iter().take_while(|span| span.start() <= x).last().copied())
    }

    /// Whether packets are under way that began under another revision.
    pub fn has_old_packets(&self) -> bool {
        !self.under_way.revisions.is_empty()
    }

    /// Class and owner of an address.
    pub fn resolve(&self, address: Address) -> (u32, u32) {
        self.resolve_at(self.held.generation, address).expect("a class slot is written before its key")
    }

    fn resolve_at(&self, generation: u64, address: Address) -> Option<(u32, u32)> {
        let slot = self.held.addresses.get(&address);
        let slot = slot.or_else(|| prefix::longest(&prefix::host(address), |net| self.held.nets.get(net)));
        let Some(slot) = slot else { return Some((CLASS_NONE, SLOT_NONE)) };
        let entry = self.held.classes.get(slot)?;
        Some((entry.class.at(generation), entry.endpoint.at(generation)))
    }

    fn told(&self, generation: u64) -> Vec<Told> {
        self.probes.iter().map(|probe| self.judge_at(generation, *probe)).collect()
    }

    /// A packet of any revision goes by that one to its end.
    fn assert_told(&self, write: &Write) {
        let now = Some((&self.held.generation, &self.now)).filter(|(_, told)| !told.is_empty());
        for (generation, told) in self.under_way.revisions.iter().chain(now) {
            assert_eq!(*told, self.told(*generation), "packets of generation {generation} after {write:?}");
        }
    }

    /// The next `count` graces are over.
    pub fn pass(&mut self, count: usize) {
        for ended in self.asked.drain(..count.min(self.asked.len())) {
            self.under_way.end(&ended);
            self.over += 1;
        }
    }

    fn row(&self, set: u32, class: u32) -> RowRef {
        let entry = self.held.sets.get(&set).copied().unwrap_or_default();
        let own = self.held.rows.get(&RowKey { set, class });
        if entry.flags & SET_DEFAULT_ONLY != 0 { entry.row } else { own.copied().unwrap_or(entry.row) }
    }

    fn refers(&self, index: u32) -> bool {
        let rows = self.held.rows.values().copied().chain(self.held.sets.values().map(|entry| entry.row));
        let mut rows = rows.chain(self.under_way.walked.iter().copied());
        rows.any(|row| covers(row, index) || self.lists(row).any(|list| covers(list, index)))
    }

    /// Whether a row or a set refers to this span.
    pub fn is_referred(&self, index: u32) -> bool {
        self.refers(index)
    }

    /// The lists that a row's spans name.
    fn lists(&self, row: RowRef) -> impl Iterator<Item = RowRef> + '_ {
        let spans = (row.offset..row.offset + row.len).filter_map(|index| self.spans.get(&index));
        let heads = spans.filter(|span| span.kind() == SpanKind::Ports).map(|span| span.hit);
        heads.filter_map(|head| Some(nested::range_of(head, *self.spans.get(&head)?)))
    }

    fn is_used(&self, set: u32) -> bool {
        let judged = self.held.endpoints.iter().filter(|(slot, _)| **slot != SLOT_HOST);
        let words = judged.flat_map(|(_, entry)| [entry.egress, entry.ingress, entry.sources]);
        let mut ids = words.flat_map(|word| [word.new(), word.old()]).filter(|id| ![SET_DENY, SET_OPEN].contains(id));
        ids.any(|id| id == set || self.names(id, set))
    }

    /// Whether a row of this set names the other.
    fn names(&self, id: u32, named: u32) -> bool {
        let rows = self.held.rows.iter().filter(|(key, _)| key.set == id).map(|(_, row)| *row);
        let rows = rows.chain(self.held.sets.get(&id).map(|entry| entry.row));
        let spans = rows.flat_map(|row| row.offset..row.offset + row.len).filter_map(|index| self.spans.get(&index));
        spans.filter(|span| span.kind() == SpanKind::Cell).any(|span| span.hit == named)
    }

    fn put_spans(&mut self, offset: u32, spans: &[Span]) {
        for (index, span) in (offset..).zip(spans) {
            assert!(!self.refers(index), "span {index} is in use");
            assert!(index < self.sizes.of(&maps::SPANS), "span {index} is past the end");
            self.spans.insert(index, *span);
        }
    }

    fn put_set(&mut self, id: u32, entry: SetEntry) {
        assert!(!self.is_used(id), "rule set {id} is in use");
        assert!(id < self.sizes.of(&maps::SETS), "rule set {id} is past the end");
        let before = self.held.sets.remove(&id).unwrap_or_default();
        self.under_way.walked.push(before.row);
        if entry != SetEntry::default() {
            self.held.sets.insert(id, entry);
        }
    }

    /// A slot that a host endpoint names is there, and one that a packet may have found goes on answering.
    fn put_endpoint(&mut self, slot: u32, entry: &Endpoint) {
        for named in parts(entry.layers) {
            let is_there = self.held.endpoints.get(&named).is_some_and(|found| found.flags & ENDPOINT_HOST != 0);
            assert!(is_there, "slot {slot} names {named}, which is nobody's");
        }
        let is_taken = entry.flags & ENDPOINT_HOST == 0 && slot >= SLOT_FIRST;
        assert!(!(is_taken && self.under_way.named.contains(&slot)), "slot {slot}: a packet may have found it");
        let was = self.held.endpoints.insert(slot, *entry).unwrap_or_default();
        let kept: Vec<_> = parts(entry.layers).collect();
        if slot == SLOT_HOST || self.held.interfaces.values().any(|own| *own == slot) {
            self.under_way.named.extend(parts(was.layers).filter(|named| !kept.contains(named)));
        }
    }

    /// Its name is taken away.
    fn was_named(&mut self, slot: u32) {
        let found = self.held.endpoints.get(&slot).filter(|entry| entry.flags & ENDPOINT_HOST != 0);
        self.under_way.named.extend(found.into_iter().flat_map(|own| parts(own.layers).chain([slot])));
    }

    fn put_generation(&mut self, generation: u64) {
        let before = self.held.generation;
        assert_eq!(generation, before + 1, "generations follow each other");
        let told = self.told(before);
        self.under_way.revisions.insert(before, told);
        self.held.generation = generation;
        self.now = self.told(generation);
    }

    fn free(&mut self, map: &'static str) {
        self.no_old_packets();
        self.under_way.freed.insert(map);
    }

    /// Where revisions overlap, what packets are told says whether one was too early.
    fn no_old_packets(&self) {
        let is_early = !self.slow && !self.under_way.revisions.is_empty();
        assert!(!is_early, "packets of the previous revision are still under way");
    }

    fn no_reuse(&self, map: &'static str) {
        assert!(!self.under_way.freed.contains(map), "{map}: a packet may look at the element that is given out again");
    }

    fn settled_only_after_grace(&self, is_settled: bool) {
        if is_settled {
            self.no_old_packets();
        }
    }

    fn put_service(&mut self, write: &ServiceWrite, sizes: &Sizes) {
        match write {
            ServiceWrite::Key(..) => self.no_reuse(maps::SERVICES.name),
            ServiceWrite::DeleteKey(_) => self.free(maps::SERVICES.name),
            ServiceWrite::Frontend(_, words) => {
                self.settled_only_after_grace(words.inside.is_settled() && words.outside.is_settled());
            }
            ServiceWrite::Backend(_, backend) => self.settled_only_after_grace(backend.standing.is_settled()),
            ServiceWrite::Members(..)
            | ServiceWrite::Balancer(..)
            | ServiceWrite::FreshFrontend(_)
            | ServiceWrite::FreshBackend(_) => {}
        }
        self.services.put(write, sizes);
    }

    fn put_tunnel(&mut self, net: NetKey, end: Option<TunnelEnd>) {
        let before = match end {
            Some(end) => self.tunnels.insert(net, end),
            None => self.tunnels.remove(&net),
        };
        assert!(end.is_some() || before.is_some(), "behind no node lies what is forgotten");
    }

    fn put(&mut self, write: &Write) -> Result<(), StoreError> {
        let number = self.writes;
        self.writes += 1;
        if self.fail_at == Some(number) {
            return Err(StoreError { map: "FAKE", reason: "told to fail".into() });
        }
        let sizes = self.sizes.clone();
        match write {
            Write::Spans(offset, spans) => self.put_spans(*offset, spans),
            Write::ClearHit(_) => {}
            Write::Set(id, entry) => self.put_set(*id, *entry),
            Write::Row(key, row) => {
                self.no_reuse(maps::ROWS.name);
                insert(&mut self.held.rows, *key, *row, &maps::ROWS, &sizes);
            }
            Write::DeleteRow(key) => {
                self.free(maps::ROWS.name);
                self.under_way.walked.push(self.held.rows.remove(key).expect("a row that is there"));
            }
            Write::Class(slot, entry) => {
                self.settled_only_after_grace(entry.class.is_settled() && entry.endpoint.is_settled());
                assert!(*slot < sizes.of(&maps::CLASSES), "class slot {slot} is past the end");
                self.held.classes.insert(*slot, *entry);
            }
            Write::Address(key, slot) => {
                self.no_reuse(maps::ADDRESSES.name);
                insert(&mut self.held.addresses, *key, *slot, &maps::ADDRESSES, &sizes);
            }
            Write::DeleteAddress(key) => {
                self.free(maps::ADDRESSES.name);
                self.held.addresses.remove(key).expect("an address that is there");
            }
            Write::Net(key, slot) => insert(&mut self.held.nets, *key, *slot, &maps::NETS, &sizes),
            Write::DeleteNet(key) => {
                self.no_old_packets();
                self.held.nets.remove(key).expect("a network that is there");
            }
            Write::Endpoint(slot, entry) => {
                self.settled_only_after_grace(entry.is_settled());
                assert!(*slot < sizes.of(&maps::ENDPOINTS), "endpoint slot {slot} is past the end");
                self.put_endpoint(*slot, entry);
            }
            Write::Interface(index, slot) => {
                self.no_reuse(maps::INTERFACES.name);
                insert(&mut self.held.interfaces, *index, *slot, &maps::INTERFACES, &sizes);
            }
            Write::DeleteInterface(index) => {
                self.free(maps::INTERFACES.name);
                let slot = self.held.interfaces.remove(index).expect("an interface that is there");
                self.was_named(slot);
            }
            Write::Generation(generation) => self.put_generation(*generation),
            Write::Services(write) => self.put_service(write, &sizes),
            Write::Grace => {
                self.ask_grace();
                self.pass(usize::MAX);
            }
            Write::FlushFlows(_) => self.no_old_packets(),
            Write::FlushAhead(_) => {}
            Write::Tunnel(net, end) => self.put_tunnel(*net, *end),
            Write::TunnelLocal(family, own) => drop(self.tunnel_local.insert(*family, *own)),
            Write::Source(family, address) => {
                assert!(*family < sizes.of(&maps::SOURCES), "there is no family {family}");
                self.sources.insert(*family, *address);
            }
            Write::Masquerade(family, own) => {
                assert!(*family < sizes.of(&maps::MASQUERADE), "there is no family {family}");
                self.masquerade.insert(*family, *own);
            }
        }
        Ok(())
    }
}

/// The slots that it names.
fn parts(layers: Layers) -> impl Iterator<Item = u32> {
    let Layers { untracked, pre_dnat, forward, uplink } = layers;
    [untracked, pre_dnat, forward, uplink].into_iter().filter(|slot| *slot != SLOT_NONE)
}

/// Inserts a key that must be new into a map that must have room.
fn insert<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, spec: &MapSpec, sizes: &Sizes) {
    assert!(map.len() < usize::try_from(sizes.of(spec)).expect("32 bits fit"), "{} is full", spec.name);
    assert!(map.insert(key, value).is_none(), "{}: a key in use is updated in place", spec.name);
}

impl Store for FakeStore {
    fn read(&self) -> Result<Snapshot, StoreError> {
        let mut held = self.held.clone();
        held.services = self.services.read();
        let named: BTreeSet<_> = held.addresses.values().chain(held.nets.values()).copied().collect();
        held.classes.retain(|slot, _| named.contains(slot));
        let rows = held.rows.values().copied().chain(held.sets.values().map(|entry| entry.row));
        let rows: BTreeSet<_> = rows.flat_map(|row| self.lists(row).chain([row])).collect();
        let spans = |row: RowRef| (row.offset..row.offset + row.len).map(|index| self.spans[&index]).collect();
        held.spans = rows.into_iter().map(|row| (row, spans(row))).collect();
        Ok(held)
    }

    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        self.put(write)?;
        self.assert_told(write);
        Ok(())
    }

    fn tunnels(&self) -> Result<BTreeMap<NetKey, TunnelEnd>, StoreError> {
        Ok(self.tunnels.clone())
    }

    fn ask_grace(&mut self) -> u64 {
        self.asked.push_back(self.under_way.clone());
        let grace = self.over + u64::try_from(self.asked.len()).expect("few");
        if !self.slow {
            self.pass(usize::MAX);
        }
        grace
    }

    fn graces_over(&self) -> Result<u64, StoreError> {
        Ok(self.over)
    }

    fn await_grace(&mut self, grace: u64) -> Result<(), StoreError> {
        self.waits += 1;
        self.pass(usize::try_from(grace.saturating_sub(self.over)).expect("few"));
        Ok(())
    }

    fn holds(&self, write: &Write) -> Result<bool, StoreError> {
        let held = &self.held;
        Ok(match write {
            Write::Generation(generation) => held.generation == *generation,
            Write::Endpoint(slot, wanted) => {
                same_endpoint(&held.endpoints.get(slot).copied().unwrap_or_default(), wanted)
            }
            Write::Class(slot, wanted) => held.classes.get(slot).is_some_and(|found| same_class(found, wanted)),
            Write::Spans(offset, wanted) => {
                (*offset..).zip(wanted.iter()).all(|(index, span)| self.spans.get(&index) == Some(span))
            }
            Write::Set(id, wanted) => held.sets.get(id) == Some(wanted),
            Write::Row(key, wanted) => held.rows.get(key) == Some(wanted),
            Write::Interface(index, slot) => held.interfaces.get(index) == Some(slot),
            Write::Address(key, slot) => held.addresses.get(key) == Some(slot),
            Write::Net(key, slot) => held.nets.get(key) == Some(slot),
            Write::Services(write) => self.services.holds(write),
            other => panic!("{other:?} is no state"),
        })
    }

    fn mend(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Spans(offset, spans) => self.spans.extend((*offset..).zip(spans.iter().copied())),
            Write::Set(id, entry) => drop(self.held.sets.insert(*id, *entry)),
            Write::Row(key, row) => drop(self.held.rows.insert(*key, *row)),
            Write::DeleteRow(key) => drop(self.held.rows.remove(key)),
            Write::Class(slot, entry) => drop(self.held.classes.insert(*slot, *entry)),
            Write::Address(key, slot) => drop(self.held.addresses.insert(*key, *slot)),
            Write::DeleteAddress(key) => drop(self.held.addresses.remove(key)),
            Write::Net(key, slot) => drop(self.held.nets.insert(*key, *slot)),
            Write::DeleteNet(key) => drop(self.held.nets.remove(key)),
            Write::Endpoint(slot, entry) => drop(self.held.endpoints.insert(*slot, *entry)),
            Write::Interface(index, slot) => drop(self.held.interfaces.insert(*index, *slot)),
            Write::DeleteInterface(index) => drop(self.held.interfaces.remove(index)),
            Write::Generation(generation) => self.held.generation = *generation,
            Write::Services(write) => self.services.mend(write),
            other => panic!("{other:?} mends nothing"),
        }
        Ok(())
    }

    fn keys(&self, table: Keyed, after: Option<&Key>, most: usize) -> Result<Vec<Key>, StoreError> {
        let held = &self.held;
        let all: Vec<Key> = match table {
            Keyed::Interfaces => held.interfaces.keys().copied().map(Key::Interface).collect(),
            Keyed::Addresses => held.addresses.keys().copied().map(Key::Address).collect(),
            Keyed::Nets => held.nets.keys().copied().map(Key::Net).collect(),
            Keyed::Rows => held.rows.keys().copied().map(Key::Row).collect(),
            Keyed::Services => self.services.keys().collect(),
        };
        let known = after.filter(|key| all.contains(key));
        Ok(all.iter().filter(|key| known.is_none_or(|last| *key > last)).take(most).copied().collect())
    }

    fn sizes(&self) -> Sizes {
        self.sizes.clone()
    }
}
