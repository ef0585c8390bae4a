//! The tables of policy: what is in force, and the way to the next revision.
//! In: `Desired` after `Desired`. Out: a generation in force, or an error with the previous one untouched.
//! Invariant: what a commit left for later is done before a next one touches it.
//! Never: sweeps before a commit said what is wanted.

mod affected;
mod audit;
mod capacity;
mod diff;
#[cfg(test)]
pub(crate) mod fake;
mod graces;
mod ids;
pub mod image;
mod kernel;
mod keys;
pub(crate) mod mapped;
pub mod names;
mod nested;
mod order;
mod plan;
pub mod prefix;
mod sizes;
mod sweep;
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
use model::{AttachmentId, IfaceName};
use names::Names;
use plan::Plan;
use std::collections::BTreeMap;
use sweep::{Retired, Sweeps, Then};

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The generation in force.
    pub generation: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// Endpoints that are not served, and why.
    pub refused: Vec<(AttachmentId, Refusal)>,
    /// Interfaces whose host endpoint is not served, and why.
    pub refused_hosts: Vec<(IfaceName, Refusal)>,
}

/// The tables.
#[derive(Debug)]
pub struct Tables<S> {
    store: S,
    image: Image,
    names: Names,
    /// What is left of commits that are in force.
    sweeps: Sweeps,
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
        let (image, names, peaks) = (Image::default(), Names::default(), BTreeMap::new());
        let (sweeps, walk) = (Sweeps::default(), Walk::default());
        let mut tables = Self { store, image, names, sweeps, is_torn: false, peaks, walk };
        tables.take_over()?;
        Ok(tables)
    }

    /// Puts `desired` in force. `lookup` finds an interface that is guarded. Waits for packets under way only if they may
    /// still read what is to change, or hold the room that is needed.
    ///
    /// # Errors
    /// Something does not fit, or a write failed: the previous revision is in force.
    pub fn commit(&mut self, desired: &Desired, lookup: Lookup<'_>) -> Result<Committed, CommitError> {
        self.sweep()?;
        let plan = match self.plan(desired, lookup) {
            Ok(plan) if !self.must_wait(&plan) => plan,
            Err(error) if self.sweeps.is_empty() => return Err(error),
            Ok(_) | Err(_) => {
                self.settle()?;
                self.plan(desired, lookup)?
            }
        };
        let changed = plan.image != self.image;
        for need in &plan.needs {
            let peak = self.peaks.entry(need.map.name).or_default();
            *peak = need.entries.max(*peak);
        }
        self.put_in_force(plan.image, &plan.fresh_hits)?;
        self.names = plan.names;
        let (refused, refused_hosts) = (plan.refused, plan.refused_hosts);
        Ok(Committed { generation: self.image.generation, changed, refused, refused_hosts })
    }

    fn plan(&self, desired: &Desired, lookup: Lookup<'_>) -> Result<Plan, CommitError> {
        plan::plan(&self.image, &self.names, desired, lookup, &self.store.sizes(), &self.sweeps.retired())
    }

    fn must_wait(&self, plan: &Plan) -> bool {
        let refusals = plan.refused.iter().map(|(_, refusal)| refusal);
        let of_hosts = plan.refused_hosts.iter().map(|(_, refusal)| refusal);
        let is_full = refusals.chain(of_hosts).any(|refusal| matches!(refusal, Refusal::Full { .. }));
        !self.sweeps.is_empty() && (is_full || self.sweeps.forbid(&self.image, &plan.image))
    }

    fn put_in_force(&mut self, next: Image, fresh_hits: &[u32]) -> Result<(), StoreError> {
        if next == self.image {
            return Ok(());
        }
        let mut writes = order::put_in_force(&self.image, &next, fresh_hits);
        self.sweeps.keep_words(&mut writes);
        self.write_all(&writes)?;
        let grace = self.store.ask_grace();
        self.sweeps.add(&self.image, &next, &writes, grace);
        self.image = next;
        Ok(())
    }

    /// Takes away what no packet can see any more, without waiting. Whether something is left.
    ///
    /// # Errors
    /// A write failed; the next call reads the tables and begins anew.
    pub fn sweep(&mut self) -> Result<bool, StoreError> {
        if self.is_torn {
            self.take_over()?;
        }
        let over = self.store.graces_over()?;
        while let Some((writes, then)) = self.sweeps.due(&self.image, over) {
            self.write_all(&writes)?;
            if let Then::Grace(at) = then {
                self.sweeps.wait(at, self.store.ask_grace());
            }
        }
        Ok(!self.sweeps.is_empty())
    }

    /// Waits until no packet sees any revision but the one in force, and takes the others away.
    ///
    /// # Errors
    /// A write failed; the next call reads the tables and begins anew.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        while self.sweep()? {
            if let Some(grace) = self.sweeps.last() {
                self.store.await_grace(grace)?;
            }
        }
        Ok(())
    }

    /// Holds a part of the tables against the revision in force, the whole of them by and by, and puts back what others
    /// changed. Says what that was. Flows may have come by it: all are judged again.
    ///
    /// # Errors
    /// A map cannot be read or written; the tables are read anew before the next commit.
    pub fn audit(&mut self) -> Result<Vec<String>, StoreError> {
        if self.is_torn || !self.sweeps.is_empty() {
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
        self.put_in_force(next, &[])
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
        Step { old: &self.image, new: &self.image, retired: &Retired::default(), names: &self.names, spans_end }.needs()
    }

    /// The most entries that commits of this process needed of a map, two revisions together.
    pub fn peak(&self, map: &MapSpec) -> u64 {
        self.peaks.get(map.name).copied().unwrap_or_default()
    }

    /// Spans whose rule is not counted apart, because `HITS` was full when they were compiled.
    pub fn uncounted(&self) -> usize {
        let spans = self.image.spans.values().flat_map(|spans| spans.iter());
        spans.filter(|span| span.kind().decides() && span.hit == HIT_NONE).count()
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
        let hits = std::mem::take(&mut self.names).hits.into_iter().filter(|(_, id)| live.contains(*id)).collect();
        self.names = Names { hits, last_hit: live.last().unwrap_or_default(), ..Names::default() };
        self.sweeps.clear();
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
