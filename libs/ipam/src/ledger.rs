//! The ledger: pools, blocks, affinities and handles as last read; decisions are made on it and become writes.
//! In: objects as they were read. Out: the writes that make true what was decided, each with the revision it was decided on.
//! Invariant: writes are in the order that a crash between any two leaves nothing given twice and nothing held without a trace.
//! Never: writes; a writer that finds another revision throws the decision away and asks again on a fresh ledger.

use crate::{AffinityState, AllocationAttribute, Block, BlockAffinity, IpamHandle, Tracked, affinity::cidr_name};
use model::{Cidr, IpPool, IpamConfig, Labels, NodeName};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// An object and the revision it was read at; `None`: it is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// `metadata.resourceVersion`.
    pub revision: Option<String>,
    /// The object.
    pub value: T,
}

/// Everything a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By name.
    pub pools: BTreeMap<String, IpPool>,
    /// How nodes take blocks.
    pub config: IpamConfig,
    /// What is given to nobody who does not ask for it by number.
    pub reserved: Vec<Cidr>,
    /// The node that decides, and its labels.
    pub here: Option<(NodeName, Labels)>,
    /// By network.
    pub blocks: Tracked<Cidr, Block>,
    /// By object name.
    pub affinities: Tracked<String, BlockAffinity>,
    /// By handle; only those in question.
    pub handles: Tracked<String, IpamHandle>,
    /// Not all blocks and affinities are here: the node's own, and what the handles name.
    pub is_partial: bool,
    /// Something could not be decided because not all are here: what was decided means nothing.
    pub is_short: bool,
}

/// One object to write or to remove, if it is still at `revision` (`None`: if it does not exist).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A block.
    Block(String, Kept<Block>),
    /// A claim.
    Affinity(String, Kept<BlockAffinity>),
    /// The claim that was written as pending earlier in the same list: confirmed now.
    Confirm(String, BlockAffinity),
    /// A handle.
    Handle(String, Kept<IpamHandle>),
    /// A block that is empty and nobody's.
    RemoveBlock(String, Option<String>),
    /// A handle that holds nothing any more.
    RemoveHandle(String, Option<String>),
    /// A claim that counts no more; at the revision that an earlier write of the list gave it, if one did.
    RemoveAffinity(String, Option<String>),
}

impl Ledger {
    /// Begins what may fail.
    pub(crate) fn begin(&mut self) {
        self.blocks.begin();
        self.affinities.begin();
        self.handles.begin();
    }

    /// Ends it: it counts, or never was.
    pub(crate) fn end(&mut self, counts: bool) {
        self.blocks.end(counts);
        self.affinities.end(counts);
        self.handles.end(counts);
    }

    /// The handles of what the blocks say that pods of `node` hold.
    #[must_use]
    pub fn handles_of_pods(&self, node: &NodeName) -> BTreeSet<String> {
        let sound = self.blocks.values().filter(|block| block.value.check().is_ok());
        let held = sound.flat_map(|block| block.value.attributes.iter());
        let is_pods = |held: &&AllocationAttribute| {
            held.secondary.get("node").is_some_and(|held| **held == *node.0) && held.secondary.contains_key("pod")
        };
        held.filter(is_pods).filter_map(|held| held.handle_id.clone()).collect()
    }

    /// The addresses `handle` holds, in any block.
    #[must_use]
    pub fn held_by(&self, handle: &str) -> Vec<IpAddr> {
        let sound = self.blocks.values().filter(|block| block.value.check().is_ok());
        sound.flat_map(|block| block.value.held_by(handle)).collect()
    }

    /// A handle counts what the blocks say that it names, and those that were touched: a count that a crash left behind heals with
    /// the next decision.
    pub(crate) fn recount(&mut self, handle: &str) {
        let named = self.handles.get(handle).into_iter().flat_map(|kept| kept.value.block.keys());
        let places: BTreeSet<Cidr> = named.chain(self.blocks.touched().map(|(cidr, ..)| cidr)).copied().collect();
        self.recount_in(handle, places.into_iter());
    }

    /// The same by all blocks.
    pub(crate) fn recount_everywhere(&mut self, handle: &str) {
        let places: Vec<_> = self.blocks.keys().copied().collect();
        self.recount_in(handle, places.into_iter());
    }

    fn recount_in(&mut self, handle: &str, places: impl Iterator<Item = Cidr>) {
        let count = |cidr: Cidr| {
            let block = self.blocks.get(&cidr).map(|kept| &kept.value).filter(|block| block.check().is_ok())?;
            u32::try_from(block.held_by(handle).len()).ok().filter(|count| *count > 0).map(|count| (cidr, count))
        };
        let block: BTreeMap<Cidr, u32> = places.filter_map(count).collect();
        let known = self.handles.get(handle);
        if block.is_empty() {
            self.handles.remove(&handle.to_owned());
        } else if known.is_none_or(|known| known.value.block != block) {
            let revision = known.and_then(|kept| kept.revision.clone());
            let value = IpamHandle { handle_id: handle.to_owned(), block, deleted: false };
            self.handles.insert(handle.to_owned(), Kept { revision, value });
        }
    }

    /// What to write to make true what was changed since the ledger was read.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        let (mut before, mut after) = (Ledger::default(), Ledger::default());
        (before.blocks, after.blocks) = both(&self.blocks);
        (before.affinities, after.affinities) = both(&self.affinities);
        (before.handles, after.handles) = both(&self.handles);
        after.writes_since(&before)
    }

    /// What to write to get from `before` to `self`: claims (pending) and what is about to be given up, handles, blocks, claims
    /// (confirmed), then what is gone.
    #[must_use]
    pub fn writes_since(&self, before: &Ledger) -> Vec<Write> {
        let mut writes = Vec::new();
        let (new, known): (Vec<_>, Vec<_>) =
            changed(&self.affinities, &before.affinities).partition(|(_, kept)| kept.revision.is_none());
        for (name, kept) in &new {
            let pending = BlockAffinity { state: AffinityState::Pending, ..kept.value.clone() };
            writes.push(Write::Affinity((*name).clone(), Kept { revision: None, value: pending }));
        }
        for (name, kept) in gone(&self.affinities, &before.affinities) {
            let cidr = kept.value.cidr;
            let goes_too = self.blocks.get(&cidr) != before.blocks.get(&cidr);
            if goes_too && kept.value.state != AffinityState::PendingDeletion {
                let value = BlockAffinity { state: AffinityState::PendingDeletion, ..kept.value.clone() };
                writes.push(Write::Affinity(name.clone(), Kept { revision: kept.revision.clone(), value }));
            }
        }
        for (id, kept) in changed(&self.handles, &before.handles) {
            writes.push(Write::Handle(id.to_lowercase(), kept.clone()));
        }
        for (cidr, kept) in changed(&self.blocks, &before.blocks) {
            let mut kept = kept.clone();
            // Wraps as Calico's does: a file may say any number.
            kept.value.sequence_number = kept.value.sequence_number.wrapping_add(1);
            writes.push(Write::Block(cidr_name(*cidr), kept));
        }
        let empty = gone(&self.blocks, &before.blocks);
        writes.extend(empty.map(|(cidr, kept)| Write::RemoveBlock(cidr_name(*cidr), kept.revision.clone())));
        writes.extend(new.iter().map(|(name, kept)| Write::Confirm((*name).clone(), kept.value.clone())));
        writes.extend(known.iter().map(|(name, kept)| Write::Affinity((*name).clone(), (*kept).clone())));
        let handles = gone(&self.handles, &before.handles);
        writes.extend(handles.map(|(id, kept)| Write::RemoveHandle(id.to_lowercase(), kept.revision.clone())));
        let claims = gone(&self.affinities, &before.affinities);
        writes.extend(claims.map(|(name, kept)| Write::RemoveAffinity(name.clone(), kept.revision.clone())));
        writes
    }
}

/// Of what was touched: how it was, and how it is.
fn both<K: Ord + Clone, T: Clone>(objects: &Tracked<K, T>) -> (Tracked<K, T>, Tracked<K, T>) {
    let was = objects.touched().filter_map(|(key, was, _)| Some((key.clone(), was?.clone())));
    let is = objects.touched().filter_map(|(key, _, is)| Some((key.clone(), is?.clone())));
    (was.collect(), is.collect())
}

fn gone<'a, K: Ord, T>(
    after: &'a BTreeMap<K, Kept<T>>,
    before: &'a BTreeMap<K, Kept<T>>,
) -> impl Iterator<Item = (&'a K, &'a Kept<T>)> {
    before.iter().filter(|(key, _)| !after.contains_key(*key))
}

fn changed<'a, K: Ord, T: PartialEq>(
    after: &'a BTreeMap<K, Kept<T>>,
    before: &'a BTreeMap<K, Kept<T>>,
) -> impl Iterator<Item = (&'a K, &'a Kept<T>)> {
    after.iter().filter(|(key, kept)| before.get(key) != Some(kept))
}

#[cfg(test)]
mod tests;
