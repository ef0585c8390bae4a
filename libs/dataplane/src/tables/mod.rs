//! The tables of policy: what is in force, and the way to the next revision.
//! In: `Desired` after `Desired`. Out: a generation in force, or an error with the previous one untouched.
//! Invariant: what a commit left for later is done before the next one begins.
//! Never: sweeps before a commit said what is wanted.

mod affected;
mod audit;
mod capacity;
#[cfg(test)]
pub(crate) mod fake;
pub mod image;
mod kernel;
mod keys;
pub(crate) mod mapped;
pub mod names;
mod order;
mod plan;
pub mod prefix;
mod sizes;
#[cfg(test)]
mod tests;
mod write;

pub use audit::slice;
pub use capacity::{Demand, Full, Need};
pub use kernel::KernelStore;
pub use plan::{CommitError, Guarded, Lookup, Refusal};
pub use sizes::{SizeError, Sizes};
pub use write::{Key, Keyed, Snapshot, Store, StoreError, Write};

use abi::{
    maps::{self, MapSpec},
    rules::HIT_NONE,
};
use audit::Walk;
use calc::Desired;
use capacity::Step;
use image::Image;
use model::AttachmentId;
use names::Names;
use std::collections::BTreeMap;

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The generation in force.
    pub generation: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// Endpoints that are not served, and why.
    pub refused: Vec<(AttachmentId, Refusal)>,
}

/// The tables.
#[derive(Debug)]
pub struct Tables<S> {
    store: S,
    image: Image,
    names: Names,
    /// The sweep after the last commit.
    pending: Vec<Write>,
    /// A write failed: what the tables hold must be read again.
    is_torn: bool,
    /// The most entries that were ever needed of a map, by its name.
    peaks: BTreeMap<&'static str, u64>,
    walk: Walk,
}

impl<S: Store> Tables<S> {
    /// Takes over what the store holds: it stays in force until the first commit.
    ///
    /// # Errors
    /// The store cannot be read, or contradicts itself.
    pub fn adopt(store: S) -> Result<Self, StoreError> {
        let (image, names, pending, peaks) = (Image::default(), Names::default(), Vec::new(), BTreeMap::new());
        let mut tables = Self { store, image, names, pending, is_torn: false, peaks, walk: Walk::default() };
        tables.take_over()?;
        Ok(tables)
    }

    /// Puts `desired` in force. `lookup` finds an interface that is guarded.
    ///
    /// # Errors
    /// Something does not fit, or a write failed: the previous revision is in force.
    pub fn commit(&mut self, desired: &Desired, lookup: Lookup<'_>) -> Result<Committed, CommitError> {
        self.settle()?;
        let plan = plan::plan(&self.image, &self.names, desired, lookup, &self.store.sizes())?;
        let changed = plan.image != self.image;
        self.write_all(&order::put_in_force(&self.image, &plan.image, &plan.fresh_hits))?;
        for need in &plan.needs {
            let peak = self.peaks.entry(need.map.name).or_default();
            *peak = need.entries.max(*peak);
        }
        self.pending = order::sweep(&self.image, &plan.image);
        self.image = plan.image;
        self.names = plan.names;
        Ok(Committed { generation: self.image.generation, changed, refused: plan.refused })
    }

    /// Waits until no packet sees the revision before the last commit, and takes it away.
    ///
    /// # Errors
    /// A write failed; the next call reads the tables and begins anew.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        if self.is_torn {
            self.take_over()?;
        }
        let pending = std::mem::take(&mut self.pending);
        self.write_all(&pending)
    }

    /// Holds a part of the tables against the revision in force, the whole of them by and by, and puts back what others
    /// changed. Says what that was. Flows may have come by it: all are judged again.
    ///
    /// # Errors
    /// A map cannot be read or written; the tables are read anew before the next commit.
    pub fn audit(&mut self) -> Result<Vec<String>, StoreError> {
        if self.is_torn || !self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let wrong = self.walk.look(&self.image, &self.store)?;
        if wrong.is_empty() {
            return Ok(Vec::new());
        }
        let mended = wrong.iter().try_for_each(|write| self.store.mend(write));
        self.is_torn = mended.is_err();
        mended?;
        if wrong.contains(&Write::Generation(self.image.generation)) {
            self.write_all(&[Write::FlushAhead(self.image.generation)])?;
        }
        self.judge_again()?;
        Ok(wrong.iter().map(audit::text).collect())
    }

    /// The same revision under the next generation, with every endpoint stamped.
    fn judge_again(&mut self) -> Result<(), StoreError> {
        let mut next = self.image.clone();
        next.generation += 1;
        for entry in next.endpoints.values_mut() {
            entry.rev = affected::revision(next.generation);
        }
        self.write_all(&order::put_in_force(&self.image, &next, &[]))?;
        self.pending = order::sweep(&self.image, &next);
        self.image = next;
        Ok(())
    }

    /// The revision in force.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What its numbers mean.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Entries that the revision in force takes of each map that commits write.
    pub fn needs(&self) -> Vec<Need> {
        let spans_end = self.image.spans.keys().map(|row| row.offset.saturating_add(row.len)).max().unwrap_or(0);
        Step { old: &self.image, new: &self.image, names: &self.names, spans_end }.needs()
    }

    /// The most entries that commits of this process needed of a map, two revisions together.
    pub fn peak(&self, map: &MapSpec) -> u64 {
        self.peaks.get(map.name).copied().unwrap_or_default()
    }

    /// Spans whose rule is not counted apart, because `HITS` was full when they were compiled.
    pub fn uncounted(&self) -> usize {
        self.image.spans.values().flat_map(|spans| spans.iter()).filter(|span| span.hit == HIT_NONE).count()
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store, for the tables that no commit writes.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ids in the tables keep no meaning but the hits still counted: every content gets a fresh id beside them.
    fn take_over(&mut self) -> Result<(), StoreError> {
        let (image, repairs) = image::adopt(self.store.read()?, self.store.sizes().of(&maps::ENDPOINTS));
        let live = image.hits();
        let hits = std::mem::take(&mut self.names).hits.into_iter().filter(|(_, id)| live.contains(id)).collect();
        self.names = Names { hits, last_hit: live.last().copied().unwrap_or_default(), ..Names::default() };
        self.pending = Vec::new();
        self.image = image;
        self.is_torn = false;
        self.write_all(&repairs)
    }

    fn write_all(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        for write in writes {
            if let Err(error) = self.store.write(write) {
                self.is_torn = true;
                return Err(error);
            }
        }
        Ok(())
    }
}
