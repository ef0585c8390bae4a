//! What other hands changed on this node, as the operator hears of it: a line in the log, and counts for `show status`.
//! In: what each look came to. Out: warnings, and one row a kind: how often, what last, how long ago.
//! Invariant: everything that was put back is counted; what cannot be put back is said once, until it changes.
//! Never: repairs.

use dataplane::{Drift, DriftKind, Extent, Looked};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

/// Repairs so far.
#[derive(Debug, Default)]
pub struct Repairs {
    kinds: BTreeMap<DriftKind, Repaired>,
    /// What the last look could not put back.
    failed: Vec<(String, String)>,
}

#[derive(Debug)]
struct Repaired {
    count: u64,
    last: String,
    at: Instant,
}

impl Repairs {
    /// Takes in a look.
    pub fn hear(&mut self, looked: &Looked, extent: Extent) {
        for Drift { kind, found } in &looked.repaired {
            tracing::warn!(%kind, "changed by other hands and put back: {found}");
            let (last, at) = (found.clone(), Instant::now());
            let count = self.kinds.get(kind).map_or(0, |repaired| repaired.count) + 1;
            self.kinds.insert(*kind, Repaired { count, last, at });
        }
        let failed: Vec<_> = looked.failed.iter().map(|(item, error)| (item.clone(), error.to_string())).collect();
        for (item, error) in failed.iter().filter(|failure| !self.failed.contains(failure)) {
            tracing::warn!(item, "changed by other hands, and cannot be put back yet: {error}");
        }
        // A look at less says nothing about the rest.
        if extent == Extent::Everything || !failed.is_empty() {
            self.failed = failed;
        }
    }

    /// What could not be put back.
    pub fn failed(&self) -> &[(String, String)] {
        &self.failed
    }

    /// One row a kind.
    pub fn rows(&self) -> Vec<Value> {
        let row = |(kind, repaired): (&DriftKind, &Repaired)| {
            json!({
                "kind": kind.to_string(),
                "count": repaired.count,
                "last": repaired.last,
                "secondsAgo": repaired.at.elapsed().as_secs(),
            })
        };
        self.kinds.iter().map(row).collect()
    }
}
