//! Tracked flows from the agent's side: an end to those of an endpoint that is gone, and the flows for people to read.
//! In: the maps CONNTRACK, NEWFLOW and QUOTA. Out: deletions, counted; flows; numbers.
//! Invariant: an entry that is taken out of CONNTRACK leaves its owner's account; its ticket finds nothing and ends.
//! Never: makes or changes an entry; programs do. Nor removes what has expired; the programs' cursor does.

use crate::{
    bpf::{self, Bytes},
    tables::{StoreError, mapped::MappedArray},
};
use abi::{
    ConntrackEntry, FlowKey, Timeouts,
    conntrack::{QUOTA_ALL, seconds_of},
    maps::{self, MapSpec},
};
use aya::maps::MapData;
use std::{collections::BTreeSet, fmt, os::fd::AsFd as _};

/// The maps.
#[derive(Debug)]
pub struct Conntrack {
    flows: MapData,
    new_flows: MapData,
    quota: MappedArray<u64>,
    timeouts: Timeouts,
}

/// What the programs stamp flows with at this moment.
#[must_use]
pub fn now_s() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds =
        now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.unsigned_abs());
    seconds_of(nanoseconds)
}

fn failed(spec: &MapSpec, error: impl fmt::Display) -> StoreError {
    StoreError { map: spec.name, reason: error.to_string() }
}

impl Conntrack {
    /// Over the maps of established and half-open flows, and the accounts.
    #[must_use]
    pub fn new(flows: MapData, new_flows: MapData, quota: MappedArray<u64>, timeouts: Timeouts) -> Self {
        Self { flows, new_flows, quota, timeouts }
    }

    /// All flows that are not over, half-open ones after the others.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, ConntrackEntry)>, StoreError> {
        let (mut live, now_s) = (Vec::new(), now_s());
        for (spec, map) in [(&maps::CONNTRACK, &self.flows), (&maps::NEWFLOW, &self.new_flows)] {
            let entries = entries(spec, map)?;
            live.extend(entries.into_iter().filter(|(_, entry)| !entry.expired(&self.timeouts, now_s)));
        }
        Ok(live)
    }

    /// Deletes the flows that name one of these slots; says how many.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn flush(&mut self, slots: &BTreeSet<u32>) -> Result<usize, StoreError> {
        if slots.is_empty() {
            return Ok(0);
        }
        self.take_out(|entry| slots.contains(&entry.low_slot) || slots.contains(&entry.high_slot))
    }

    /// Deletes the flows stamped later than a generation; says how many.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn flush_ahead(&mut self, generation: u64) -> Result<usize, StoreError> {
        #[expect(clippy::cast_possible_truncation, reason = "a stamp is the low 32 bits")]
        let stamp = generation as u32;
        // Serial arithmetic, as the programs compare stamps.
        self.take_out(|entry| (1..1 << 31).contains(&entry.stamp.wrapping_sub(stamp)))
    }

    fn take_out(&mut self, dead: impl Fn(&ConntrackEntry) -> bool) -> Result<usize, StoreError> {
        let mut taken = 0;
        for (spec, map) in [(&maps::CONNTRACK, &self.flows), (&maps::NEWFLOW, &self.new_flows)] {
            let found = entries(spec, map)?;
            for (key, _) in found.into_iter().filter(|(_, entry)| dead(entry)) {
                let Some(entry) = take(spec, map, &key)? else { continue };
                taken += 1;
                if *spec == maps::CONNTRACK {
                    self.quota.subtract(entry.owner(), 1);
                    self.quota.subtract(QUOTA_ALL, 1);
                }
            }
        }
        Ok(taken)
    }
}

fn bytes<'a>(spec: &MapSpec, map: &'a MapData) -> Result<Bytes<'a>, StoreError> {
    let info = map.info().map_err(|error| failed(spec, error))?;
    Bytes::new(map.fd().as_fd(), &info).map_err(|error| failed(spec, error))
}

fn entries(spec: &MapSpec, map: &MapData) -> Result<Vec<(FlowKey, ConntrackEntry)>, StoreError> {
    let mut entries = Vec::new();
    let read = |key: &[u8], value: &[u8]| entries.extend(bpf::value_of(key).zip(bpf::value_of(value)));
    bytes(spec, map)?.walk(read).map_err(|error| failed(spec, error))?;
    Ok(entries)
}

fn take(spec: &MapSpec, map: &MapData, key: &FlowKey) -> Result<Option<ConntrackEntry>, StoreError> {
    let taken = bytes(spec, map)?.take(bpf::bytes_of(key)).map_err(|error| failed(spec, error))?;
    Ok(taken.and_then(|value| bpf::value_of(&value)))
}
