//! What the numbers in an image mean.
//! In: contents interned by plans. Out: ids for contents, contents for ids.
//! Invariant: equal content, equal id, for as long as it is in use.
//! Never: gives out an id that the previous revision still uses.

use super::ids::Ids;
use model::{AttachmentId, IfaceName};
use policy::{Class, Hit, RuleSet};
use std::{collections::BTreeMap, sync::Arc};

/// Contents by id, both ways where both are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Rule sets.
    pub sets: BTreeMap<Arc<RuleSet>, u32>,
    /// Classes; the default class is `CLASS_NONE`.
    pub classes: BTreeMap<Arc<Class>, u32>,
    /// Decisions behind hit ids.
    pub hits: BTreeMap<Arc<Hit>, u32>,
    /// Slots of the endpoints served.
    pub endpoints: BTreeMap<AttachmentId, u32>,
    /// `local` slots of the host endpoints served.
    pub hosts: BTreeMap<IfaceName, u32>,
    /// The hit id given out last, so that a freed one rests as long as possible.
    pub last_hit: u32,
}

impl Names {
    /// What a hit id in use stands for.
    #[must_use]
    pub fn hit(&self, id: u32) -> Option<&Hit> {
        self.hits.iter().find_map(|(hit, number)| (*number == id).then_some(&**hit))
    }
}

/// Gives out ids that are not in use: the lowest first, or in turn.
#[derive(Clone, Debug)]
pub struct FreshIds {
    used: Ids,
    next: u32,
}

impl FreshIds {
    /// Ids from `first` on, without those used.
    #[must_use]
    pub fn new(used: Ids, first: u32) -> Self {
        Self { used, next: first }
    }

    /// An id that nobody uses.
    pub fn take(&mut self) -> u32 {
        while self.used.contains(self.next) {
            self.next += 1;
        }
        self.used.insert(self.next);
        self.next
    }

    /// An id from `first` to below `end` that nobody uses, the search going on where the last one was found.
    pub fn take_within(&mut self, first: u32, end: u32) -> Option<u32> {
        let from = self.next.clamp(first, end);
        let found = (from..end).chain(first..from).find(|id| !self.used.contains(*id))?;
        self.used.insert(found);
        self.next = found + 1;
        Some(found)
    }

    /// Takes an id back that was not used after all.
    pub fn give_back(&mut self, id: u32) {
        self.used.remove(id);
    }
}

/// Gives out ranges of the span table that no row of the previous revision lies in.
#[derive(Clone, Debug)]
pub struct FreshSpans {
    /// Free ranges, start to length; the last has no end.
    gaps: BTreeMap<u32, u32>,
    /// One past the highest index given out.
    pub end: u32,
}

impl FreshSpans {
    /// Everything but the ranges used.
    #[must_use]
    pub fn new(used: impl Iterator<Item = abi::RowRef>) -> Self {
        let mut sorted: Vec<_> = used.collect();
        sorted.sort_unstable();
        let (mut gaps, mut free_from) = (BTreeMap::new(), 0u32);
        for range in sorted {
            if range.offset > free_from {
                gaps.insert(free_from, range.offset - free_from);
            }
            free_from = free_from.max(range.offset.saturating_add(range.len));
        }
        gaps.insert(free_from, u32::MAX - free_from);
        Self { gaps, end: free_from }
    }

    /// The first range of `len` that fits; `None` only when 32 bits do not number the spans.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let (start, room) = self.gaps.iter().find(|(_, room)| **room >= len).map(|(start, room)| (*start, *room))?;
        self.gaps.remove(&start);
        if room > len {
            self.gaps.insert(start + len, room - len);
        }
        self.end = self.end.max(start + len);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::RowRef;

    #[test]
    fn ids_in_use_are_not_given_out() {
        let mut ids = FreshIds::new([1, 3].into_iter().collect(), 1);
        assert_eq!([ids.take(), ids.take(), ids.take()], [2, 4, 5]);
    }

    #[test]
    fn a_hit_id_rests_before_it_is_given_out_again() {
        let mut ids = FreshIds::new([1, 2].into_iter().collect(), 4);
        assert_eq!([ids.take_within(1, 6), ids.take_within(1, 6), ids.take_within(1, 6)], [Some(4), Some(5), Some(3)]);
        assert_eq!(ids.take_within(1, 6), None);
    }

    #[test]
    fn spans_fill_gaps_and_never_overlap_what_is_used() {
        let used = [RowRef { offset: 2, len: 3 }, RowRef { offset: 7, len: 1 }, RowRef { offset: 2, len: 3 }];
        let mut spans = FreshSpans::new(used.into_iter());
        assert_eq!([spans.take(2), spans.take(3), spans.take(2)], [Some(0), Some(8), Some(5)]);
    }
}
