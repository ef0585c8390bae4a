//! How often each number and range is referred to: what nothing refers to any more goes with the revision that dropped it.
//! In: one reference more or less. Out: how many there are.
//! Invariant: what is counted is what the image says, counted from the beginning; tests hold the two together.
//! Never: counts endpoints' words: endpoints are few, and looked at whole.

use super::{
    edits::Edits,
    image::{Entry, Image},
    nested,
};
use abi::{RowRef, Span, rules::CLASS_NONE};
use std::collections::{BTreeMap, BTreeSet};

/// References, by what is referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Classes: by addresses and networks.
    classes: BTreeMap<u32, u32>,
    /// Ranges of spans: by rows and sets, and by the rows that name lists.
    spans: BTreeMap<RowRef, u32>,
    /// Sets: by ranges of spans.
    sets: BTreeMap<u32, u32>,
    /// Hits: by ranges of spans.
    hits: BTreeMap<u32, u32>,
}

impl Uses {
    /// Counted from the beginning.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        let mut uses = Self::default();
        let mut counted = UsesChange::default();
        for entry in image.addresses.values().chain(image.nets.values()) {
            counted.class(&uses, entry, More);
        }
        for row in image.sets.values().map(|entry| &entry.row).chain(image.rows.values()) {
            counted.range(&uses, *row, More);
        }
        for spans in image.spans.values() {
            let lists = nested::lists(spans).filter_map(|offset| nested::list_at(&image.spans, offset));
            for (list, _) in lists {
                counted.range(&uses, list, More);
            }
            counted.content(&uses, spans, More, &mut Doubtful::default());
        }
        counted.apply(&mut uses);
        uses
    }
}

/// What may have lost its last user.
#[derive(Debug, Default)]
pub struct Doubtful {
    pub sets: BTreeSet<u32>,
    pub classes: BTreeSet<u32>,
    pub hits: BTreeSet<u32>,
}

/// Which way a count goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    More,
    Less,
}
use Way::{Less, More};

/// What becomes of the counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsesChange {
    classes: Edits<u32, u32>,
    spans: Edits<RowRef, u32>,
    sets: Edits<u32, u32>,
    hits: Edits<u32, u32>,
}

impl UsesChange {
    /// An address or network has this class, or has it no more. Gives how many there are.
    pub fn class(&mut self, uses: &Uses, entry: &Entry, way: Way) -> u32 {
        if entry.class == CLASS_NONE { 1 } else { count(&mut self.classes, &uses.classes, entry.class, way) }
    }

    /// A row, or a set's default, is this range.
    pub fn range(&mut self, uses: &Uses, row: RowRef, way: Way) -> u32 {
        count(&mut self.spans, &uses.spans, row, way)
    }

    /// A range with these spans comes into use, or falls out of it.
    pub fn content(&mut self, uses: &Uses, spans: &[Span], way: Way, doubtful: &mut Doubtful) {
        for id in nested::sets(spans) {
            if count(&mut self.sets, &uses.sets, id, way) == 0 {
                doubtful.sets.insert(id);
            }
        }
        for span in spans.iter().filter(|span| span.kind().decides()) {
            if count(&mut self.hits, &uses.hits, span.hit, way) == 0 {
                doubtful.hits.insert(span.hit);
            }
        }
    }

    /// How many addresses and networks have a class.
    pub fn of_class(&self, uses: &Uses, id: u32) -> u32 {
        self.classes.get(&uses.classes, &id).copied().unwrap_or(0)
    }

    /// How many ranges name a set.
    pub fn of_set(&self, uses: &Uses, id: u32) -> u32 {
        self.sets.get(&uses.sets, &id).copied().unwrap_or(0)
    }

    /// How many ranges name a hit.
    pub fn of_hit(&self, uses: &Uses, id: u32) -> u32 {
        self.hits.get(&uses.hits, &id).copied().unwrap_or(0)
    }

    /// Makes the counts so.
    pub fn apply(self, uses: &mut Uses) {
        self.classes.apply(&mut uses.classes);
        self.spans.apply(&mut uses.spans);
        self.sets.apply(&mut uses.sets);
        self.hits.apply(&mut uses.hits);
    }
}

fn count<K: Ord + Clone>(edits: &mut Edits<K, u32>, base: &BTreeMap<K, u32>, key: K, way: Way) -> u32 {
    let before = edits.get(base, &key).copied().unwrap_or(0);
    let now = match way {
        More => before + 1,
        Less => before.saturating_sub(1),
    };
    edits.set(base, key, (now > 0).then_some(now));
    now
}
