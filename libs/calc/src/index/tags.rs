//! Tags: every label that some item carries or some selector seeks, once.
//! In: who begins or ceases to carry or seek a tag. Out: the carriers and the seekers of a tag.
//! Invariant: a tag that nobody carries and nobody seeks takes no room.
//! Never: knows what a selector says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A label, or any label with this key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tag {
    /// This key with this value.
    Label(Arc<str>, Arc<str>),
    /// This key.
    Key(Arc<str>),
}

impl Tag {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Label(key, _) | Self::Key(key) => key,
        }
    }
}

/// The number of a tag while somebody carries or seeks it: items hold many, and cluster-wide most are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TagId(u32);

#[derive(Clone, Debug)]
pub(super) struct Tags<I, S> {
    ids: BTreeMap<Tag, TagId>,
    known: BTreeMap<TagId, Known<I, S>>,
    free: Vec<TagId>,
}

#[derive(Clone, Debug)]
struct Known<I, S> {
    tag: Tag,
    carriers: BTreeSet<I>,
    seekers: BTreeSet<S>,
}

impl<I, S> Default for Tags<I, S> {
    fn default() -> Self {
        Self { ids: BTreeMap::new(), known: BTreeMap::new(), free: Vec::new() }
    }
}

impl<I: Ord + Clone, S: Ord + Clone> Tags<I, S> {
    /// The tag's number, until [`Tags::tidy`] finds that nobody needs it.
    pub(super) fn id(&mut self, tag: Tag) -> TagId {
        if let Some(id) = self.ids.get(&tag) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| TagId(u32::try_from(self.known.len()).expect("labels fit memory")));
        self.known.insert(id, Known { tag: tag.clone(), carriers: BTreeSet::new(), seekers: BTreeSet::new() });
        self.ids.insert(tag, id);
        id
    }

    pub(super) fn carry(&mut self, id: TagId, item: &I) {
        if let Some(known) = self.known.get_mut(&id) {
            known.carriers.insert(item.clone());
        }
    }

    pub(super) fn let_go(&mut self, id: TagId, item: &I) {
        if let Some(known) = self.known.get_mut(&id) {
            known.carriers.remove(item);
        }
        self.tidy(id);
    }

    pub(super) fn seek(&mut self, id: TagId, selector: &S) {
        if let Some(known) = self.known.get_mut(&id) {
            known.seekers.insert(selector.clone());
        }
    }

    pub(super) fn stop_seeking(&mut self, id: TagId, selector: &S) {
        if let Some(known) = self.known.get_mut(&id) {
            known.seekers.remove(selector);
        }
        self.tidy(id);
    }

    pub(super) fn carriers(&self, id: TagId) -> impl Iterator<Item = &I> {
        self.known.get(&id).into_iter().flat_map(|known| &known.carriers)
    }

    pub(super) fn seekers(&self, id: TagId) -> impl Iterator<Item = &S> {
        self.known.get(&id).into_iter().flat_map(|known| &known.seekers)
    }

    /// How many carry this tag.
    pub(super) fn weight(&self, tag: &Tag) -> usize {
        self.ids.get(tag).and_then(|id| self.known.get(id)).map_or(0, |known| known.carriers.len())
    }

    fn tidy(&mut self, id: TagId) {
        let unused = |known: &Known<I, S>| known.carriers.is_empty() && known.seekers.is_empty();
        if self.known.get(&id).is_some_and(unused)
            && let Some(known) = self.known.remove(&id)
        {
            self.ids.remove(&known.tag);
            self.free.push(id);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
