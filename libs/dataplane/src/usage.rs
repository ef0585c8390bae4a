//! How full each map is, and how full it has been.
//! In: what the tables and the kernel say. Out: one [`Usage`] a map.
//! Invariant: a map is full at 100 percent: the next thing that asks for an entry is refused.
//! Never: counts what has no bound of its own to reach.

use crate::{
    gauges::Gauges,
    tables::{Need, Store, StoreError, Tables},
};
use abi::maps::{self, MapSpec, Sizing};

/// How much of a map is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Which.
    pub map: &'static MapSpec,
    /// Entries in use, or for arrays the end of what is in use.
    pub used: u64,
    /// The most that were since the agent started.
    pub peak: u64,
}

/// One map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Which.
    pub map: &'static MapSpec,
    /// Entries in use, or for arrays the end of what is in use; `None` where there is nothing to fill.
    pub used: Option<u64>,
    /// The most entries in use since the agent started; a commit holds two revisions for a moment.
    pub peak: Option<u64>,
    /// Entries that fit.
    pub size: u32,
    /// Bytes of kernel memory it is charged for.
    pub memory: u64,
}

impl Usage {
    /// The part of the map that is in use, from 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people and graphs; sizes are far below 2^52")]
    pub fn ratio(&self) -> Option<f64> {
        self.used.map(|used| used as f64 / f64::from(self.size.max(1)))
    }

    /// The same in percent, to a tenth.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        self.ratio().map(|ratio| (ratio * 1000.0).round() / 10.0)
    }

    /// The setting that changes its size.
    #[must_use]
    pub fn setting(&self) -> Option<String> {
        match self.map.sizing {
            Sizing::Setting | Sizing::CoversEndpoints => Some(format!("mapEntries {}", self.map.name)),
            Sizing::PerEndpoint(_) => Some(format!("mapEntries {}", maps::ENDPOINTS.name)),
            Sizing::As(other) => Some(format!("mapEntries {other}")),
            Sizing::PerFlow(_) => Some(format!("mapEntries {}", maps::CONNTRACK.name)),
            Sizing::Fixed => None,
        }
    }
}

/// What commits filled.
pub fn filled<S: Store>(tables: &Tables<S>) -> Vec<Filled> {
    let filled = |Need { map, entries }| Filled { map, used: entries, peak: tables.peak(map).max(entries) };
    tables.needs().into_iter().map(filled).collect()
}

/// Every map at this moment: what commits filled as it was told, what programs fill as the kernel says.
///
/// # Errors
/// A map cannot be read.
pub fn usages(by_commits: &[Filled], gauges: &Gauges) -> Result<Vec<Usage>, StoreError> {
    let by_programs = gauges.filled_by_programs()?;
    let usage = |gauge: crate::gauges::MapGauge| {
        let map = gauge.map;
        let filled = by_commits.iter().chain(&by_programs).find(|filled| filled.map.name == map.name);
        let (used, peak) = (filled.map(|filled| filled.used), filled.map(|filled| filled.peak));
        Usage { map, used, peak, size: gauge.size, memory: gauge.memory }
    };
    Ok(gauges.maps()?.into_iter().map(usage).collect())
}
