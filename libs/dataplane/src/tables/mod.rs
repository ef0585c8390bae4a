//! The tables of policy: what is in force, and the way to the next revision.
//! In: `Desired` after `Desired`. Out: a generation in force, or an error with the previous one untouched.
//! Invariant: what a commit left for later is done before the next one begins.
//! Never: sweeps before a commit said what is wanted.

mod affected;
#[cfg(test)]
pub(crate) mod fake;
pub mod image;
mod kernel;
mod mapped;
pub mod names;
mod order;
mod plan;
pub mod prefix;
#[cfg(test)]
mod tests;
mod write;

pub use kernel::KernelStore;
pub use plan::{CommitError, Guarded, Lookup, Refusal};
pub use write::{Sizes, Snapshot, Store, StoreError, Write};

use abi::maps;
use calc::Desired;
use image::Image;
use model::AttachmentId;
use names::Names;

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
}

impl<S: Store> Tables<S> {
    /// Takes over what the store holds: it stays in force until the first commit.
    ///
    /// # Errors
    /// The store cannot be read, or contradicts itself.
    pub fn adopt(store: S) -> Result<Self, StoreError> {
        let mut tables =
            Self { store, image: Image::default(), names: Names::default(), pending: Vec::new(), is_torn: false };
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

    /// The revision in force.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What its numbers mean.
    pub fn names(&self) -> &Names {
        &self.names
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
