//! The kernel's tables, opened by their pins.
//! In: writes of a commit. Out: array words stored in place, hash entries by bpf(2).
//! Invariant: the order in which writes are given is the order in which programs see them.
//! Never: updates a hash key in place.

use super::{
    Tables,
    audit::{same_class, same_endpoint},
    graces::{Graces, grace},
    keys,
    mapped::MappedArray,
    nested,
    services::kernel::ServiceMaps,
    sizes::Sizes,
    write::{Key, Keyed, Snapshot, Store, StoreError, Write},
};
use crate::{
    bpf::{Bytes, NEW_ONLY},
    conntrack::Conntrack,
    pins,
};
use abi::{
    Address, ClassEntry, Endpoint, Masquerade, NetKey, RowKey, RowRef, SetEntry, SocketKey, Span, Timeouts, TunnelEnd,
    TunnelLocal,
    maps::{self, MapSpec},
    verdict::DROP_REASONS,
};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, lpm_trie};
use service::Frontend;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};

/// The maps.
pub struct KernelStore {
    generation: MappedArray<u64>,
    endpoints: MappedArray<Endpoint>,
    classes: MappedArray<ClassEntry>,
    spans: MappedArray<Span>,
    interfaces: HashMap<MapData, u32, u32>,
    addresses: HashMap<MapData, Address, u32>,
    nets: LpmTrie<MapData, [u8; 16], u32>,
    sets: Array<MapData, SetEntry>,
    rows: HashMap<MapData, RowKey, RowRef>,
    hits: PerCpuArray<MapData, u64>,
    /// The same once more: to clear many.
    hit_bytes: (MapData, MapInfo),
    drops: PerCpuArray<MapData, u64>,
    /// DROPS once more, for a walk over all of it.
    all_drops: MapData,
    sources: Array<MapData, Address>,
    tunnels: LpmTrie<MapData, [u8; 16], TunnelEnd>,
    tunnel_local: Array<MapData, TunnelLocal>,
    masquerade: Array<MapData, Masquerade>,
    /// Tracked flows.
    pub conntrack: Conntrack,
    services: ServiceMaps,
    /// The maps of [`Keyed`] once more, for walks over their keys.
    keyed: BTreeMap<Keyed, MapData>,
    graces: Graces,
    sizes: Sizes,
}

/// The map behind a keyed table.
const fn spec_of(table: Keyed) -> &'static MapSpec {
    match table {
        Keyed::Interfaces => &maps::INTERFACES,
        Keyed::Addresses => &maps::ADDRESSES,
        Keyed::Nets => &maps::NETS,
        Keyed::Rows => &maps::ROWS,
        Keyed::Services => &maps::SERVICES,
    }
}

/// An error of a map.
pub fn failed(spec: &MapSpec, error: impl fmt::Display) -> StoreError {
    StoreError { map: spec.name, reason: error.to_string() }
}

fn open(dir: &Path, spec: &MapSpec) -> Result<MapData, StoreError> {
    MapData::from_pin(dir.join(pins::map_name(spec))).map_err(|error| failed(spec, error))
}

pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(dir: &Path, spec: &MapSpec) -> Result<M, StoreError> {
    let map = Map::from_map_data(open(dir, spec)?).map_err(|error| failed(spec, error))?;
    M::try_from(map).map_err(|error| failed(spec, error))
}

pub(super) fn mapped<T: aya::Pod>(dir: &Path, spec: &MapSpec, sizes: &Sizes) -> Result<MappedArray<T>, StoreError> {
    let data = open(dir, spec)?;
    MappedArray::map(data.fd().as_fd(), sizes.of(spec)).map_err(|error| failed(spec, error))
}

fn with_info(dir: &Path, spec: &MapSpec) -> Result<(MapData, MapInfo), StoreError> {
    let data = open(dir, spec)?;
    let info = data.info().map_err(|error| failed(spec, error))?;
    Ok((data, info))
}

fn sizes(dir: &Path) -> Result<Sizes, StoreError> {
    let size = |spec: &MapSpec| {
        let info = open(dir, spec)?.info().map_err(|error| failed(spec, error))?;
        Ok((spec.name, info.max_entries()))
    };
    maps::MAPS.iter().map(size).collect::<Result<_, _>>().map(Sizes)
}

impl Tables<KernelStore> {
    /// Whether the kernel leads a frontend where the revision in force has it lead.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn leads(&self, frontend: &Frontend) -> Result<bool, StoreError> {
        self.services.leads(frontend, &self.store.services, self.image.generation)
    }
}

impl KernelStore {
    /// See [`ServiceMaps::is_of_gone_backend`].
    pub fn is_of_gone_backend(&self, key: &SocketKey, generation: u64) -> Result<bool, StoreError> {
        self.services.is_of_gone_backend(key, generation)
    }

    /// Opens the maps pinned in a directory. `timeouts`: those that the programs were loaded with.
    ///
    /// # Errors
    /// A map is not there or is of another kind.
    pub fn open(dir: &Path, timeouts: Timeouts) -> Result<Self, StoreError> {
        let sizes = sizes(dir)?;
        Ok(Self {
            generation: mapped(dir, &maps::GENERATION, &sizes)?,
            endpoints: mapped(dir, &maps::ENDPOINTS, &sizes)?,
            classes: mapped(dir, &maps::CLASSES, &sizes)?,
            spans: mapped(dir, &maps::SPANS, &sizes)?,
            interfaces: typed(dir, &maps::INTERFACES)?,
            addresses: typed(dir, &maps::ADDRESSES)?,
            nets: typed(dir, &maps::NETS)?,
            sets: typed(dir, &maps::SETS)?,
            rows: typed(dir, &maps::ROWS)?,
            hits: typed(dir, &maps::HITS)?,
            hit_bytes: with_info(dir, &maps::HITS)?,
            drops: typed(dir, &maps::DROPS)?,
            all_drops: open(dir, &maps::DROPS)?,
            sources: typed(dir, &maps::SOURCES)?,
            tunnels: typed(dir, &maps::TUNNELS)?,
            tunnel_local: typed(dir, &maps::TUNNEL_LOCAL)?,
            masquerade: typed(dir, &maps::MASQUERADE)?,
            conntrack: Conntrack::new(
                open(dir, &maps::CONNTRACK)?,
                open(dir, &maps::NEWFLOW)?,
                mapped(dir, &maps::QUOTA, &sizes)?,
                timeouts,
            ),
            services: ServiceMaps::open(dir, &sizes)?,
            keyed: Keyed::ALL
                .into_iter()
                .chain([Keyed::Services])
                .map(|table| Ok((table, open(dir, spec_of(table))?)))
                .collect::<Result<_, _>>()?,
            graces: Graces::start()?,
            sizes,
        })
    }

    /// A hit's packets, over all processors.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn hit_count(&self, hit: u32) -> Result<u64, StoreError> {
        sum(&self.hits, hit).map_err(|error| failed(&maps::HITS, error))
    }

    /// Packets counted at an index of `DROPS`, over all processors.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn drop_count(&self, index: u32) -> Result<u64, StoreError> {
        sum(&self.drops, index).map_err(|error| failed(&maps::DROPS, error))
    }

    /// The tables of services.
    #[must_use]
    pub fn services(&self) -> &ServiceMaps {
        &self.services
    }

    fn clear_hit(&self, hit: u32) -> std::io::Result<()> {
        let (data, info) = &self.hit_bytes;
        Bytes::new(data.fd().as_fd(), info)?.clear(&hit.to_ne_bytes())
    }

    fn set_class(&self, slot: u32, entry: &ClassEntry) -> Result<(), StoreError> {
        self.classes.set(slot, entry).ok_or_else(|| outside(&maps::CLASSES, slot))
    }

    fn put_spans(&self, offset: u32, spans: &[Span]) -> Result<(), StoreError> {
        let put = |(index, span)| self.spans.set(index, span).ok_or_else(|| outside(&maps::SPANS, index));
        (offset..).zip(spans).try_for_each(put)
    }

    /// A slot's next owner starts from nothing: no flows, no drops.
    fn forget_slots(&mut self, slots: &BTreeSet<u32>) -> Result<(), StoreError> {
        self.conntrack.flush(slots)?;
        self.counting(slots)?.into_iter().try_for_each(|index| self.retire(index))
    }

    /// Where these slots may have counted drops. An agent that starts asks for all slots: one by one that is a call for each
    /// of thirty thousand counters.
    fn counting(&self, slots: &BTreeSet<u32>) -> Result<Vec<u32>, StoreError> {
        if slots.len() < SLOTS_ASKED_EACH {
            return Ok(slots.iter().flat_map(|slot| drop_counters(*slot)).collect());
        }
        let error = |error: &dyn fmt::Display| failed(&maps::DROPS, error);
        let info = self.all_drops.info().map_err(|why| error(&why))?;
        let bytes = Bytes::new(self.all_drops.fd().as_fd(), &info).map_err(|why| error(&why))?;
        let mut counting = Vec::new();
        let walked = bytes.walk(|key, values| {
            let index = key.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            let is_counted = values.iter().any(|byte| *byte != 0);
            counting.extend((is_counted && slots.contains(&(index / DROP_REASONS))).then_some(index));
        });
        walked.map_err(|why| error(&why)).map(|()| counting)
    }

    /// The slot after the last one: on its account go the drops of endpoints that are gone.
    #[must_use]
    pub fn slot_of_gone(&self) -> u32 {
        self.sizes.of(&maps::ENDPOINTS)
    }

    /// Moves a counter to the account of those that are gone. If we die in between it counts twice; it never shrinks.
    fn retire(&mut self, index: u32) -> Result<(), StoreError> {
        let error = |error| failed(&maps::DROPS, error);
        let counted = self.drops.get(&index, 0).map_err(error)?;
        if counted.iter().all(|packets| *packets == 0) {
            return Ok(());
        }
        let account = drop_counters(self.slot_of_gone()).start + index % DROP_REASONS;
        let gone = self.drops.get(&account, 0).map_err(error)?;
        let sum: Vec<u64> = gone.iter().zip(counted.iter()).map(|(gone, own)| gone.wrapping_add(*own)).collect();
        let sum = PerCpuValues::try_from(sum).map_err(|error| failed(&maps::DROPS, error))?;
        self.drops.set(account, sum, 0).map_err(error)?;
        clear(&mut self.drops, index, &maps::DROPS)
    }

    fn row_spans(&self, row: RowRef) -> Result<Arc<[Span]>, StoreError> {
        let end = row.offset.checked_add(row.len).filter(|end| *end <= self.spans.len());
        let end = end.ok_or_else(|| outside(&maps::SPANS, row.offset))?;
        Ok((row.offset..end).filter_map(|index| self.spans.get(index)).collect())
    }

    fn read_sets(&self) -> Result<BTreeMap<u32, SetEntry>, StoreError> {
        let mut sets = BTreeMap::new();
        for (id, entry) in (0..self.sets.len()).zip(self.sets.iter()) {
            let entry = entry.map_err(|error| failed(&maps::SETS, error))?;
            if entry != SetEntry::default() {
                sets.insert(id, entry);
            }
        }
        Ok(sets)
    }
}

/// Below so many slots their counters are asked for one by one.
const SLOTS_ASKED_EACH: usize = 16;

/// Where a slot's drops are counted.
fn drop_counters(slot: u32) -> std::ops::Range<u32> {
    slot * DROP_REASONS..(slot + 1) * DROP_REASONS
}

fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(counters.get(&index, 0)?.iter().sum())
}

fn clear(counters: &mut PerCpuArray<MapData, u64>, index: u32, spec: &MapSpec) -> Result<(), StoreError> {
    let processors = aya::util::nr_cpus().map_err(|(_, error)| failed(spec, error))?;
    let zeros = vec![0u64; usize::try_from(processors.get()).unwrap_or(1)];
    let zeros = PerCpuValues::try_from(zeros).map_err(|error| failed(spec, error))?;
    counters.set(index, zeros, 0).map_err(|error| failed(spec, error))
}

pub(super) fn outside(spec: &MapSpec, index: u32) -> StoreError {
    failed(spec, format!("index {index} is past its end"))
}

pub(super) fn read_hash<K, V>(map: &HashMap<MapData, K, V>, spec: &MapSpec) -> Result<BTreeMap<K, V>, StoreError>
where
    K: aya::Pod + Ord,
    V: aya::Pod,
{
    map.iter().collect::<Result<_, _>>().map_err(|error| failed(spec, error))
}

/// A value, if there is one.
pub(super) fn found<V>(result: Result<V, MapError>, spec: &MapSpec) -> Result<Option<V>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed(spec, error)),
    }
}

/// What is not there need not be deleted.
pub(super) fn absent_is_fine(result: Result<(), MapError>, spec: &MapSpec) -> Result<(), StoreError> {
    match result {
        Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(spec, error)),
    }
}

fn walk<K: aya::Pod>(
    map: BorrowedFd<'_>,
    last: Option<K>,
    most: usize,
    key: impl Fn(K) -> Key,
) -> std::io::Result<Vec<Key>> {
    Ok(keys::after(map, last, most)?.into_iter().map(key).collect())
}

fn net_of(key: &lpm_trie::Key<[u8; 16]>) -> NetKey {
    NetKey { prefix_len: key.prefix_len(), address: key.data() }
}

fn key_of(net: &NetKey) -> lpm_trie::Key<[u8; 16]> {
    lpm_trie::Key::new(net.prefix_len, net.address)
}

impl Store for KernelStore {
    fn read(&self) -> Result<Snapshot, StoreError> {
        let generation = self.generation.get(0).ok_or_else(|| outside(&maps::GENERATION, 0))?;
        let endpoints = (0..self.endpoints.len()).filter_map(|slot| Some((slot, self.endpoints.get(slot)?)));
        let nets: BTreeMap<_, _> = self
            .nets
            .iter()
            .map(|entry| entry.map(|(key, slot)| (net_of(&key), slot)))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(&maps::NETS, error))?;
        let addresses = read_hash(&self.addresses, &maps::ADDRESSES)?;
        let named: BTreeSet<u32> = addresses.values().chain(nets.values()).copied().collect();
        let class = |slot: u32| Some((slot, self.classes.get(slot)?));
        let sets = self.read_sets()?;
        let rows = read_hash(&self.rows, &maps::ROWS)?;
        let referred: BTreeSet<RowRef> = rows.values().copied().chain(sets.values().map(|entry| entry.row)).collect();
        let spans = referred.into_iter().map(|row| Ok((row, self.row_spans(row)?)));
        let mut spans: BTreeMap<_, _> = spans.collect::<Result<_, StoreError>>()?;
        let heads: BTreeSet<u32> = spans.values().flat_map(|spans| nested::lists(spans)).collect();
        for offset in heads {
            let head = self.spans.get(offset).ok_or_else(|| outside(&maps::SPANS, offset))?;
            let range = nested::range_of(offset, head);
            spans.insert(range, self.row_spans(range)?);
        }
        Ok(Snapshot {
            generation,
            endpoints: endpoints.filter(|(_, entry)| *entry != Endpoint::default()).collect(),
            interfaces: read_hash(&self.interfaces, &maps::INTERFACES)?,
            classes: named.into_iter().filter_map(class).collect(),
            spans,
            addresses,
            nets,
            sets,
            rows,
            services: self.services.read()?,
        })
    }

    fn tunnels(&self) -> Result<BTreeMap<NetKey, TunnelEnd>, StoreError> {
        let entries = self.tunnels.iter().map(|entry| entry.map(|(key, end)| (net_of(&key), end)));
        entries.collect::<Result<_, _>>().map_err(|error| failed(&maps::TUNNELS, error))
    }

    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Spans(offset, spans) => self.put_spans(*offset, spans),
            Write::ClearHit(hit) => self.clear_hit(*hit).map_err(|error| failed(&maps::HITS, error)),
            Write::Set(id, entry) => self.sets.set(*id, entry, 0).map_err(|error| failed(&maps::SETS, error)),
            Write::Row(key, row) => self.rows.insert(key, row, NEW_ONLY).map_err(|error| failed(&maps::ROWS, error)),
            Write::DeleteRow(key) => absent_is_fine(self.rows.remove(key), &maps::ROWS),
            Write::Class(slot, entry) => self.set_class(*slot, entry),
            Write::Address(key, slot) => {
                self.addresses.insert(key, slot, NEW_ONLY).map_err(|error| failed(&maps::ADDRESSES, error))
            }
            Write::DeleteAddress(key) => absent_is_fine(self.addresses.remove(key), &maps::ADDRESSES),
            Write::Net(key, slot) => {
                self.nets.insert(&key_of(key), slot, NEW_ONLY).map_err(|error| failed(&maps::NETS, error))
            }
            Write::DeleteNet(key) => absent_is_fine(self.nets.remove(&key_of(key)), &maps::NETS),
            Write::Endpoint(slot, entry) => {
                self.endpoints.set(*slot, entry).ok_or_else(|| outside(&maps::ENDPOINTS, *slot))
            }
            Write::Interface(index, slot) => {
                self.interfaces.insert(index, slot, NEW_ONLY).map_err(|error| failed(&maps::INTERFACES, error))
            }
            Write::DeleteInterface(index) => absent_is_fine(self.interfaces.remove(index), &maps::INTERFACES),
            Write::Generation(generation) => {
                self.generation.set(0, generation).ok_or_else(|| outside(&maps::GENERATION, 0))
            }
            Write::Services(write) => self.services.write(write),
            Write::Grace => grace(),
            Write::Source(family, address) => {
                self.sources.set(*family, address, 0).map_err(|error| failed(&maps::SOURCES, error))
            }
            // One that is there is replaced as a whole.
            Write::Tunnel(net, Some(end)) => {
                self.tunnels.insert(&key_of(net), end, 0).map_err(|error| failed(&maps::TUNNELS, error))
            }
            Write::Tunnel(net, None) => absent_is_fine(self.tunnels.remove(&key_of(net)), &maps::TUNNELS),
            Write::TunnelLocal(family, own) => {
                self.tunnel_local.set(*family, own, 0).map_err(|error| failed(&maps::TUNNEL_LOCAL, error))
            }
            Write::Masquerade(family, own) => {
                self.masquerade.set(*family, own, 0).map_err(|error| failed(&maps::MASQUERADE, error))
            }
            Write::FlushFlows(slots) => self.forget_slots(slots),
            Write::FlushAhead(generation) => self.conntrack.flush_ahead(*generation).map(drop),
        }
    }

    fn ask_grace(&mut self) -> u64 {
        self.graces.ask()
    }

    fn graces_over(&self) -> Result<u64, StoreError> {
        self.graces.over()
    }

    fn await_grace(&mut self, grace: u64) -> Result<(), StoreError> {
        self.graces.wait(grace)
    }

    fn holds(&self, write: &Write) -> Result<bool, StoreError> {
        Ok(match write {
            Write::Generation(generation) => self.generation.get(0) == Some(*generation),
            Write::Endpoint(slot, wanted) => {
                self.endpoints.get(*slot).is_some_and(|found| same_endpoint(&found, wanted))
            }
            Write::Class(slot, wanted) => self.classes.get(*slot).is_some_and(|found| same_class(&found, wanted)),
            Write::Spans(offset, wanted) => {
                (*offset..).zip(wanted.iter()).all(|(index, span)| self.spans.get(index) == Some(*span))
            }
            Write::Set(id, wanted) => found(self.sets.get(id, 0), &maps::SETS)? == Some(*wanted),
            Write::Row(key, wanted) => found(self.rows.get(key, 0), &maps::ROWS)? == Some(*wanted),
            Write::Interface(index, slot) => found(self.interfaces.get(index, 0), &maps::INTERFACES)? == Some(*slot),
            Write::Address(key, slot) => found(self.addresses.get(key, 0), &maps::ADDRESSES)? == Some(*slot),
            Write::Services(write) => self.services.holds(write)?,
            // The answer of another network is another slot.
            Write::Net(key, slot) => found(self.nets.get(&key_of(key), 0), &maps::NETS)? == Some(*slot),
            _ => true,
        })
    }

    fn mend(&mut self, write: &Write) -> Result<(), StoreError> {
        // In place where there is something: one update and a grace, so that no other update takes what a packet looks at.
        match write {
            Write::Row(key, row) => self.rows.insert(key, row, 0).map_err(|error| failed(&maps::ROWS, error)),
            Write::Address(key, slot) => {
                self.addresses.insert(key, slot, 0).map_err(|error| failed(&maps::ADDRESSES, error))
            }
            Write::Net(key, slot) => {
                self.nets.insert(&key_of(key), slot, 0).map_err(|error| failed(&maps::NETS, error))
            }
            Write::Interface(index, slot) => {
                self.interfaces.insert(index, slot, 0).map_err(|error| failed(&maps::INTERFACES, error))
            }
            Write::Services(write) => self.services.mend(write),
            write => self.write(write),
        }?;
        grace()
    }

    fn keys(&self, table: Keyed, after: Option<&Key>, most: usize) -> Result<Vec<Key>, StoreError> {
        let spec = spec_of(table);
        let map = self.keyed.get(&table).ok_or_else(|| failed(spec, "is not open"))?.fd().as_fd();
        let keys = match (table, after) {
            (Keyed::Interfaces, Some(Key::Interface(last))) => walk(map, Some(*last), most, Key::Interface),
            (Keyed::Interfaces, _) => walk(map, None, most, Key::Interface),
            (Keyed::Addresses, Some(Key::Address(last))) => walk(map, Some(*last), most, Key::Address),
            (Keyed::Addresses, _) => walk(map, None, most, Key::Address),
            (Keyed::Nets, Some(Key::Net(last))) => walk(map, Some(key_of(last)), most, |key| Key::Net(net_of(&key))),
            (Keyed::Nets, _) => walk(map, None, most, |key| Key::Net(net_of(&key))),
            (Keyed::Rows, Some(Key::Row(last))) => walk(map, Some(*last), most, Key::Row),
            (Keyed::Rows, _) => walk(map, None, most, Key::Row),
            (Keyed::Services, Some(Key::Service(last))) => walk(map, Some(*last), most, Key::Service),
            (Keyed::Services, _) => walk(map, None, most, Key::Service),
        };
        keys.map_err(|error| failed(spec, error))
    }

    fn sizes(&self) -> Sizes {
        self.sizes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::DropReason;

    #[test]
    fn a_freed_slot_clears_the_counters_of_all_its_reasons_and_of_no_neighbour() {
        let counted = |slot: u32| DropReason::ALL.iter().map(move |reason| slot * DROP_REASONS + *reason as u32);
        let cleared: BTreeSet<_> = drop_counters(7).collect();
        assert!(counted(7).all(|index| cleared.contains(&index)));
        assert!(counted(6).chain(counted(8)).all(|index| !cleared.contains(&index)));
    }
}
