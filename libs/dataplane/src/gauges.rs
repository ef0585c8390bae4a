//! What the kernel itself says of its maps: memory, entries of the programs' own, drops.
//! In: the pins. Out: numbers, read by whoever holds the gauges, on whatever thread.
//! Invariant: no number of drops goes backwards while the maps live, whoever restarts or leaves.
//! Never: writes; asks the agent's owner.

use crate::{
    bpf::{self, Bytes},
    pins,
    tables::StoreError,
    usage::Filled,
};
use abi::{
    DropReason,
    conntrack::QUOTA_ALL,
    maps::{self, MAPS, MapSpec},
    verdict::DROP_REASONS,
};
use aya::maps::{MapData, MapInfo};
use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Handles of all maps.
#[derive(Debug)]
pub struct Gauges {
    held: BTreeMap<&'static str, (MapData, MapInfo)>,
    /// The most entries of the programs' own that these gauges have shown.
    peaks: Mutex<BTreeMap<&'static str, u64>>,
}

/// One map as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapGauge {
    /// Which.
    pub map: &'static MapSpec,
    /// Entries that fit.
    pub size: u32,
    /// Bytes of kernel memory it is charged for.
    pub memory: u64,
}

fn failed(map: &'static str, error: impl fmt::Display) -> StoreError {
    StoreError { map, reason: error.to_string() }
}

impl Gauges {
    /// Over the maps pinned below `bpffs`.
    ///
    /// # Errors
    /// One is not there.
    pub fn open(bpffs: &Path) -> Result<Self, StoreError> {
        let dir = pins::maps_dir(bpffs);
        let open = |spec: &MapSpec| {
            let data = MapData::from_pin(dir.join(pins::map_name(spec))).map_err(|error| failed(spec.name, error))?;
            let info = data.info().map_err(|error| failed(spec.name, error))?;
            Ok((spec.name, (data, info)))
        };
        Ok(Self { held: MAPS.iter().map(open).collect::<Result<_, _>>()?, peaks: Mutex::default() })
    }

    /// Every map.
    ///
    /// # Errors
    /// The kernel does not tell a map's memory.
    pub fn maps(&self) -> Result<Vec<MapGauge>, StoreError> {
        let gauge = |map: &'static MapSpec| {
            let (data, info) = self.held(map)?;
            let memory = bpf::memory(data.fd().as_fd()).map_err(|error| failed(map.name, error))?;
            Ok(MapGauge { map, size: info.max_entries(), memory })
        };
        MAPS.iter().map(gauge).collect()
    }

    /// Entries that the programs themselves made, in the maps where they do. CONNTRACK's are counted by them, too.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn filled_by_programs(&self) -> Result<Vec<Filled>, StoreError> {
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut filled = |map: &'static MapSpec| {
            let used = if *map == maps::CONNTRACK { self.tracked()? } else { self.count(map)? };
            let peak = peaks.entry(map.name).or_default();
            *peak = used.max(*peak);
            Ok(Filled { map, used, peak: *peak })
        };
        [&maps::CONNTRACK, &maps::NEWFLOW, &maps::FRAGMENTS].into_iter().map(&mut filled).collect()
    }

    /// Entries of CONNTRACK, those included that the cursor has yet to remove.
    fn tracked(&self) -> Result<u64, StoreError> {
        let mut all = 0;
        self.walk(&maps::QUOTA, |slot, count| {
            if slot == QUOTA_ALL.to_ne_bytes() {
                all = count.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            }
        })?;
        Ok(all)
    }

    /// Dropped packets by reason, over all endpoints, those that are gone included.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, StoreError> {
        let mut sums: BTreeMap<_, u64> = DropReason::ALL.iter().map(|reason| (*reason, 0)).collect();
        self.walk(&maps::DROPS, |key, values| {
            let index = key.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            let sum = DropReason::from_number(index % DROP_REASONS).and_then(|reason| sums.get_mut(&reason));
            if let Some(sum) = sum {
                let each = values.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes));
                *sum = each.fold(*sum, u64::wrapping_add);
            }
        })?;
        Ok(sums)
    }

    /// Flows opened through services, and packets to them that found no backend; those of services that are gone included.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn service_flows(&self) -> Result<(u64, u64), StoreError> {
        let mut sums = [0u64; 2];
        self.walk(&maps::FRONTEND_COUNTS, |_, counts| {
            for (sum, bytes) in sums.iter_mut().zip(counts.as_chunks().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*bytes));
            }
        })?;
        Ok((sums[0], sums[1]))
    }

    fn count(&self, map: &'static MapSpec) -> Result<u64, StoreError> {
        let mut count = 0;
        self.walk(map, |_, _| count += 1)?;
        Ok(count)
    }

    fn walk(&self, map: &'static MapSpec, visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let (data, info) = self.held(map)?;
        let fd: BorrowedFd<'_> = data.fd().as_fd();
        Bytes::new(fd, info).and_then(|bytes| bytes.walk(visit)).map_err(|error| failed(map.name, error))
    }

    fn held(&self, map: &'static MapSpec) -> Result<&(MapData, MapInfo), StoreError> {
        self.held.get(map.name).ok_or_else(|| failed(map.name, "it is not held"))
    }
}
