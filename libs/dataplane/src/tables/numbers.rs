//! Numbers and room that are given out: to the revision in force, or to one before that packets may still read.
//! In: what an image uses; what a plan takes; what has come free. Out: numbers and ranges that nobody has.
//! Invariant: what is given out is not given out again before it is given back.
//! Never: gives anything back by itself; a plan that is dropped has taken from a copy.

use super::{ids::Ids, image::Image, sweep::Retired};
use abi::{RowRef, endpoint::SLOT_FIRST, rules::HIT_NONE};
use std::collections::BTreeMap;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub sets: Ids,
    pub classes: Ids,
    pub class_slots: Ids,
    pub slots: Ids,
    pub hits: Ids,
    /// Where the search for a hit goes on, so that one that came free rests as long as possible.
    next_hit: u32,
    pub room: Room,
}

impl Numbers {
    /// Those that an image uses.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        let hits = image.hits();
        Self {
            sets: image.set_ids(),
            classes: image.class_ids(),
            class_slots: image.class_slots(),
            slots: image.endpoints.keys().copied().filter(|slot| *slot >= SLOT_FIRST).collect(),
            next_hit: hits.last().unwrap_or(HIT_NONE) + 1,
            hits,
            room: Room::without(image.spans.keys().copied()),
        }
    }

    /// The lowest endpoint slot below `end`.
    pub fn slot(&mut self, end: u32) -> Option<u32> {
        let slot = self.slots.first_free(SLOT_FIRST);
        (slot < end).then(|| {
            self.slots.insert(slot);
            slot
        })
    }

    /// A hit below `end`, in turn.
    pub fn hit(&mut self, end: u32) -> Option<u32> {
        let found = [self.next_hit, HIT_NONE + 1].map(|first| self.hits.first_free(first));
        let hit = found.into_iter().find(|hit| *hit < end)?;
        self.hits.insert(hit);
        self.next_hit = hit + 1;
        Some(hit)
    }

    /// Gives back what no packet can read any more.
    pub fn free(&mut self, retired: &Retired) {
        retired.sets.iter().for_each(|id| self.sets.remove(*id));
        retired.classes.iter().for_each(|id| self.classes.remove(*id));
        retired.class_slots.iter().for_each(|slot| self.class_slots.remove(*slot));
        retired.slots.iter().for_each(|slot| self.slots.remove(*slot));
        retired.hits.iter().for_each(|hit| self.hits.remove(*hit));
        retired.spans.iter().for_each(|range| self.room.give_back(*range));
    }
}

/// The lowest number from 1 on that nobody has.
pub fn lowest(ids: &mut Ids) -> u32 {
    let id = ids.first_free(1);
    ids.insert(id);
    id
}

/// A table of lists: ranges that none of them lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free ranges, start to length, none next to another; the last has no end.
    gaps: BTreeMap<u32, u32>,
}

impl Default for Room {
    fn default() -> Self {
        Self { gaps: BTreeMap::from([(0, u32::MAX)]) }
    }
}

impl Room {
    /// Everything but the ranges used.
    #[must_use]
    pub fn without(used: impl Iterator<Item = RowRef>) -> Self {
        let mut sorted: Vec<_> = used.filter(|range| range.len > 0).collect();
        sorted.sort_unstable();
        let (mut gaps, mut free_from) = (BTreeMap::new(), 0u32);
        for range in sorted {
            if range.offset > free_from {
                gaps.insert(free_from, range.offset - free_from);
            }
            free_from = free_from.max(range.offset.saturating_add(range.len));
        }
        gaps.insert(free_from, u32::MAX - free_from);
        Self { gaps }
    }

    /// The first range of `len` that fits; `None` only when 32 bits do not number the entries.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let (start, room) = self.gaps.iter().find(|(_, room)| **room >= len).map(|(start, room)| (*start, *room))?;
        self.gaps.remove(&start);
        if room > len {
            self.gaps.insert(start + len, room - len);
        }
        Some(start)
    }

    /// Takes a range back. Part of it may be free already: ranges that others wrote may overlap.
    pub fn give_back(&mut self, range: RowRef) {
        let (mut start, mut end) = (range.offset, range.offset.saturating_add(range.len));
        // From the last gap on that begins at or before its end, as long as they touch it.
        while let Some((from, room)) = self.gaps.range(..=end).next_back().map(|(from, room)| (*from, *room)) {
            if from + room < start {
                break;
            }
            self.gaps.remove(&from);
            (start, end) = (start.min(from), end.max(from + room));
        }
        if end > start {
            self.gaps.insert(start, end - start);
        }
    }

    /// One past the highest index given out.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.gaps.last_key_value().map_or(0, |(start, _)| *start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_id_that_is_not_in_use_is_given_out() {
        let mut ids = [1, 3].into_iter().collect();
        assert_eq!([lowest(&mut ids), lowest(&mut ids), lowest(&mut ids)], [2, 4, 5]);
    }

    #[test]
    fn a_hit_id_rests_before_it_is_given_out_again() {
        let mut numbers = Numbers { hits: [1, 2].into_iter().collect(), next_hit: 4, ..Numbers::default() };
        assert_eq!([numbers.hit(6), numbers.hit(6), numbers.hit(6)], [Some(4), Some(5), Some(3)]);
        assert_eq!(numbers.hit(6), None);
    }

    #[test]
    fn spans_fill_gaps_and_never_overlap_what_is_used() {
        let used = [RowRef { offset: 2, len: 3 }, RowRef { offset: 7, len: 1 }, RowRef { offset: 2, len: 3 }];
        let mut room = Room::without(used.into_iter());
        assert_eq!([room.take(2), room.take(3), room.take(2)], [Some(0), Some(8), Some(5)]);
        assert_eq!(room.end(), 11);
    }

    #[test]
    fn what_is_given_back_is_one_gap_with_what_is_free_beside_it() {
        let used = [(0, 2), (2, 3), (4, 4), (9, 1)].map(|(offset, len)| RowRef { offset, len });
        let mut room = Room::without(used.into_iter());
        // 2 to 5 and 4 to 8 overlap; 8 to 9 is free.
        room.give_back(used[1]);
        assert_eq!(room.gaps, BTreeMap::from([(2, 3), (8, 1), (10, u32::MAX - 10)]));
        room.give_back(used[2]);
        assert_eq!(room.gaps, BTreeMap::from([(2, 7), (10, u32::MAX - 10)]));
        room.give_back(used[3]);
        room.give_back(used[0]);
        assert_eq!(room, Room::default());
    }
}
