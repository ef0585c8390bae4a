//! Tracked flows from the agent's side: expiry, and an end to those of an endpoint that is gone.
//! In: the CONNTRACK map. Out: deletions, and the flows for people to read.
//! Invariant: keys are collected first, then deleted: iteration begins anew where its key vanishes.
//! Never: makes or changes an entry; programs do.

use crate::tables::StoreError;
use abi::{ConntrackEntry, FlowKey, conntrack::seconds_of, maps};
use aya::maps::{HashMap, MapData, MapError};
use std::collections::BTreeSet;

/// The map.
#[derive(Debug)]
pub struct Conntrack(HashMap<MapData, FlowKey, ConntrackEntry>);

/// What the programs stamp flows with at this moment.
#[must_use]
pub fn now_s() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds =
        now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.unsigned_abs());
    seconds_of(nanoseconds)
}

fn failed(error: &MapError) -> StoreError {
    StoreError { map: maps::CONNTRACK.name, reason: error.to_string() }
}

impl Conntrack {
    /// Over the map.
    #[must_use]
    pub fn new(map: HashMap<MapData, FlowKey, ConntrackEntry>) -> Self {
        Self(map)
    }

    /// All flows, those that vanish meanwhile left out.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, ConntrackEntry)>, StoreError> {
        let mut flows = Vec::new();
        for key in self.0.keys() {
            let key = key.map_err(|error| failed(&error))?;
            match self.0.get(&key, 0) {
                Ok(entry) => flows.push((key, entry)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(flows)
    }

    /// Deletes what has expired; says how many.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn sweep(&mut self, now_s: u32) -> Result<usize, StoreError> {
        self.delete(|key, entry| entry.expired(key.protocol, now_s))
    }

    /// Deletes the flows that name one of these slots; says how many.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flush(&mut self, slots: &BTreeSet<u32>) -> Result<usize, StoreError> {
        if slots.is_empty() {
            return Ok(0);
        }
        self.delete(|_, entry| slots.contains(&entry.low_slot) || slots.contains(&entry.high_slot))
    }

    /// Deletes the flows stamped later than a generation; says how many.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flush_ahead(&mut self, generation: u64) -> Result<usize, StoreError> {
        #[expect(clippy::cast_possible_truncation, reason = "a stamp is the low 32 bits")]
        let stamp = generation as u32;
        // Serial arithmetic, as the programs compare stamps.
        self.delete(|_, entry| (1..1 << 31).contains(&entry.stamp.wrapping_sub(stamp)))
    }

    fn delete(&mut self, dead: impl Fn(&FlowKey, &ConntrackEntry) -> bool) -> Result<usize, StoreError> {
        let dead: Vec<_> = self.flows()?.into_iter().filter(|(key, entry)| dead(key, entry)).collect();
        Ok(dead.iter().filter(|(key, _)| self.0.remove(key).is_ok()).count())
    }
}
