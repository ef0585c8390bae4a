//! The ledger: pools, blocks, affinities and handles as last read; decisions are made on it and become writes.
//! In: objects as they were read. Out: the writes that make true what was decided, each with the revision it was decided on.
//! Invariant: writes are in the order that a crash between any two leaves nothing given twice and nothing held without a trace.
//! Never: writes; a writer that finds another revision throws the decision away and asks again on a fresh ledger.

use crate::{
    AffinityState, AllocationAttribute, Block, BlockAffinity, IpamHandle, Tracked, affinity::cidr_name,
    hold::is_sticky_handle,
};
use model::{Cidr, IpPool, IpamConfig, Labels, NodeName};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// An object and the revision it was read at; `None`: it is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// `metadata.resourceVersion`.
    pub revision: Option<String>,
    /// The object.
    pub value: T,
}

/// The time of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Since 1970: what is held from now on is held until some time after it.
    pub at: Duration,
    /// The same, as Kubernetes writes it. Empty: nobody knows.
    pub now: String,
    /// What was given back before is given again: earlier by what the configuration says.
    pub cooled: String,
}

impl Clock {
    /// When what is given back now was, where it has to cool down.
    pub(crate) fn stamp(&self, config: IpamConfig) -> Option<&str> {
        (config.cooldown > 0 && !self.now.is_empty()).then_some(&*self.now)
    }
}

/// Everything a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// When it decides.
    pub clock: Clock,
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
    /// The handle that is counted anew in all blocks that may have addresses of it: its node's, where that node's agent decides. Who
    /// else counts it can say only of blocks that it writes that nothing comes to them at the same time.
    pub counted: Option<String>,
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
    /// The handle that was written earlier in the same list: as blocks say now.
    Recount(String, IpamHandle),
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

    /// The owners of what the blocks say that pods of `node` have.
    #[must_use]
    pub fn owners_of_pods(&self, node: &NodeName) -> BTreeSet<String> {
        let sound = self.blocks.values().filter(|block| block.value.check().is_ok());
        let held = sound.flat_map(|block| block.value.attributes.iter());
        let is_pods = |held: &&AllocationAttribute| {
            held.secondary.get("node").is_some_and(|held| **held == *node.0) && held.secondary.contains_key("pod")
        };
        held.filter(is_pods).filter_map(|held| held.owner().map(str::to_owned)).collect()
    }

    /// The addresses that `owner` has, in any block.
    #[must_use]
    pub fn held_by(&self, owner: &str) -> Vec<IpAddr> {
        let sound = self.blocks.values().filter(|block| block.value.check().is_ok());
        sound.flat_map(|block| block.value.held_by(owner)).collect()
    }

    /// The blocks in which somebody is to be looked for first: those that these handles name, and `node`'s own.
    pub(crate) fn places(&self, handles: &[&str], node: Option<&NodeName>) -> BTreeSet<Cidr> {
        let named = handles.iter().filter_map(|handle| self.handles.get(*handle));
        let named = named.flat_map(|kept| kept.value.block.keys().copied());
        let own = node.into_iter().flat_map(|node| self.claims(node).map(|claim| claim.cidr));
        named.chain(own).chain(self.blocks.all_touched().copied()).collect()
    }

    /// Handles count what blocks say: in those that were written, and what is counted anew in all that may have some of it.
    pub(crate) fn recount(&mut self) {
        let mut counts: BTreeMap<String, BTreeMap<Cidr, u32>> = BTreeMap::new();
        for (cidr, was, is) in self.blocks.touched() {
            let (was, is) = (counts_of(was), counts_of(is));
            for handle in was.keys().chain(is.keys()).filter(|handle| was.get(*handle) != is.get(*handle)) {
                let count = is.get(handle).copied().unwrap_or_default();
                counts.entry((*handle).to_owned()).or_default().insert(*cidr, count);
            }
        }
        if let Some(handle) = &self.counted {
            let node = self.here.as_ref().map(|(node, _)| node);
            let count = |cidr: Cidr| {
                let counts = counts_of(self.blocks.get(&cidr));
                (cidr, counts.get(&**handle).copied().unwrap_or_default())
            };
            let all = self.places(&[handle], node).into_iter().map(count).collect();
            counts.insert(handle.clone(), all);
        }
        for (handle, counts) in counts {
            self.count(&handle, counts);
        }
    }

    /// What of a handle is in these blocks.
    fn count(&mut self, handle: &str, counts: BTreeMap<Cidr, u32>) {
        let known = self.handles.get(handle);
        let mut block = known.map(|kept| kept.value.block.clone()).unwrap_or_default();
        block.extend(counts);
        block.retain(|_, count| *count > 0);
        if block.is_empty() {
            self.handles.remove(&handle.to_owned());
        } else if known.is_none_or(|known| known.value.block != block) {
            let revision = known.and_then(|kept| kept.revision.clone());
            let value = IpamHandle { handle_id: handle.to_owned(), block, deleted: false };
            self.handles.insert(handle.to_owned(), Kept { revision, value });
        }
    }

    /// Has blocks written of which a handle counts otherwise than they say, that it is counted right: who would add to them at the same
    /// time is told by that write. Of a block that is not there only the handle's node can say that it is not about to be.
    pub fn mend(&mut self, handle: &str, places: impl IntoIterator<Item = Cidr>) {
        let mut counts = BTreeMap::new();
        for cidr in places {
            let counted = self.handles.get(handle).and_then(|kept| kept.value.block.get(&cidr)).copied();
            let Some(kept) = self.blocks.get(&cidr) else { continue };
            let count = counts_of(Some(kept)).get(handle).copied().unwrap_or_default();
            if kept.value.check().is_ok() && counted.unwrap_or_default() != count {
                counts.insert(cidr, count);
                if let Some(kept) = self.blocks.get_mut(&cidr) {
                    kept.value.sequence_number = kept.value.sequence_number.wrapping_add(1);
                }
            }
        }
        if !counts.is_empty() {
            self.count(handle, counts);
        }
    }

    /// What to write to make true what was changed since the ledger was read.
    #[must_use]
    pub fn writes(&mut self) -> Vec<Write> {
        self.recount();
        let (mut before, mut after) =
            (Ledger::default(), Ledger { counted: self.counted.clone(), ..Ledger::default() });
        (before.blocks, after.blocks) = both(&self.blocks);
        (before.affinities, after.affinities) = both(&self.affinities);
        (before.handles, after.handles) = both(&self.handles);
        // It may be right already, and has to be written all the same.
        if let Some((handle, kept)) = self.counted.as_ref().and_then(|handle| self.handles.get_key_value(handle))
            && !after.handles.contains_key(handle)
        {
            before.handles.insert(handle.clone(), kept.clone());
            after.handles.insert(handle.clone(), kept.clone());
        }
        for handle in self.names_that_gain() {
            if after.handles.contains_key(&handle) {
                continue;
            }
            let Some(kept) = self.handles.get(&handle) else { continue };
            let mut less = kept.clone();
            less.value.block.clear();
            before.handles.insert(handle.clone(), less);
            after.handles.insert(handle, kept.clone());
        }
        after.writes_since(&before)
    }

    /// Handles of names that get an address now: written even where they count it already, that who counts one down at the same time
    /// is told.
    fn names_that_gain(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (_, was, is) in self.blocks.touched() {
            let (was, is) = (counts_of(was), counts_of(is));
            let gains = is.iter().filter(|(handle, count)| **count > was.get(*handle).copied().unwrap_or_default());
            names.extend(gains.map(|(handle, _)| *handle).filter(|handle| is_sticky_handle(handle)).map(str::to_owned));
        }
        names
    }

    /// What to write to get from `before` to `self`: claims (pending) and what is about to be given up, handles that count more, blocks,
    /// claims (confirmed), handles that count less, then what is gone.
    fn writes_since(&self, before: &Ledger) -> Vec<Write> {
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
        // What holds more says so before it does, and what holds less afterwards: where there may be an address is always counted.
        let first = self.counted_first(before);
        let is_first = |id: &String| first.is_some() && self.counted.as_ref() == Some(id);
        let (more, less): (Vec<_>, Vec<_>) = changed(&self.handles, &before.handles)
            .filter(|(id, _)| !is_first(id))
            .partition(|(id, kept)| grows(before.handles.get(*id), kept));
        let counted = |(id, kept): (&String, &Kept<IpamHandle>)| Write::Handle(id.to_lowercase(), kept.clone());
        writes.extend(more.into_iter().map(counted));
        if let Some(first) = &first {
            writes.push(counted((&first.value.handle_id, first)));
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
        writes.extend(less.into_iter().map(counted));
        if let Some(kept) = first.and_then(|first| self.handles.get(&first.value.handle_id)) {
            writes.push(Write::Recount(kept.value.handle_id.to_lowercase(), kept.value.clone()));
        }
        let handles = gone(&self.handles, &before.handles);
        writes.extend(handles.map(|(id, kept)| Write::RemoveHandle(id.to_lowercase(), kept.revision.clone())));
        let claims = gone(&self.affinities, &before.affinities);
        writes.extend(claims.map(|(name, kept)| Write::RemoveAffinity(name.clone(), kept.revision.clone())));
        writes
    }
}

impl Ledger {
    /// The node's handle as it has to be written first, where it counted too much before: what comes to a block is always added, or
    /// somebody who sees it count too much might count it down at the same time, and would not be told.
    fn counted_first(&self, before: &Ledger) -> Option<Kept<IpamHandle>> {
        let kept = self.handles.get(self.counted.as_ref()?)?;
        let handle = &*kept.value.handle_id;
        let mut first = kept.clone();
        for (cidr, block) in &self.blocks {
            let count = |block| counts_of(block).get(handle).copied().unwrap_or_default();
            let more = count(Some(block)).saturating_sub(count(before.blocks.get(cidr)));
            let known = before.handles.get(handle).and_then(|kept| kept.value.block.get(cidr)).copied();
            if let Some(counted) = first.value.block.get_mut(cidr).filter(|_| more > 0) {
                *counted = (*counted).max(known.unwrap_or_default().saturating_add(more));
            }
        }
        (first.value.block != kept.value.block).then_some(first)
    }
}

/// How many addresses of a block are counted under each handle; nothing is known of one that contradicts itself.
fn counts_of(block: Option<&Kept<Block>>) -> BTreeMap<&str, u32> {
    block.map(|kept| &kept.value).filter(|block| block.check().is_ok()).map(Block::counts).unwrap_or_default()
}

/// Whether a handle counts more of any block than before.
fn grows(before: Option<&Kept<IpamHandle>>, now: &Kept<IpamHandle>) -> bool {
    let was = |cidr: &Cidr| before.and_then(|kept| kept.value.block.get(cidr)).copied().unwrap_or_default();
    now.value.block.iter().any(|(cidr, count)| *count > was(cidr))
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
