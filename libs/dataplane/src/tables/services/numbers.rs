//! Numbers of frontends, balancers and backends, and room for lists of members.
//! In: what an image uses; what a plan takes; what has come free. Out: numbers and ranges that nobody has.
//! Invariant: what is given out is not given out again before it is given back.
//! Never: gives anything back by itself; a plan that is dropped has taken from a copy.

use super::image::Image;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers from 1 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    free: BTreeSet<u32>,
    /// One past the highest that was ever given out.
    pub end: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: BTreeSet::new(), end: 1 }
    }
}

impl Slots {
    fn without(used: impl Iterator<Item = u32> + Clone) -> Self {
        let end = used.clone().max().map_or(1, |last| last.saturating_add(1));
        let used: BTreeSet<u32> = used.collect();
        Self { free: (1..end).filter(|slot| !used.contains(slot)).collect(), end }
    }

    /// The lowest that nobody has.
    pub fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        })
    }

    fn give_back(&mut self, slot: u32) {
        self.free.insert(slot);
        while self.free.last().is_some_and(|last| last + 1 == self.end) {
            self.free.pop_last();
            self.end -= 1;
        }
    }
}

/// The member table: ranges that no list lies in.
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
    fn without(used: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut sorted: Vec<_> = used.filter(|(_, len)| *len > 0).collect();
        sorted.sort_unstable();
        let (mut gaps, mut free_from) = (BTreeMap::new(), 0u32);
        for (offset, len) in sorted {
            if offset > free_from {
                gaps.insert(free_from, offset - free_from);
            }
            free_from = free_from.max(offset.saturating_add(len));
        }
        gaps.insert(free_from, u32::MAX - free_from);
        Self { gaps }
    }

    /// The first range of `len` that fits. Past all that any table has, it is refused for its size.
    pub fn take(&mut self, len: u32) -> u32 {
        let found = self.gaps.iter().find(|(_, room)| **room >= len).map(|(start, room)| (*start, *room));
        let Some((start, room)) = found.filter(|_| len > 0) else { return 0 };
        self.gaps.remove(&start);
        if room > len {
            self.gaps.insert(start + len, room - len);
        }
        start
    }

    fn give_back(&mut self, (offset, len): (u32, u32)) {
        let (mut start, mut end) = (offset, offset.saturating_add(len));
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
    pub fn end(&self) -> u32 {
        self.gaps.last_key_value().map_or(0, |(start, _)| *start)
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub frontends: Slots,
    pub lists: Slots,
    pub backends: Slots,
    pub members: Room,
}

impl Numbers {
    /// Those that an image uses.
    pub fn of(image: &Image) -> Self {
        Self {
            frontends: Slots::without(image.frontends.values().map(|held| held.slot)),
            lists: Slots::without(image.lists.keys().copied()),
            backends: Slots::without(image.backends.keys().copied()),
            members: Room::without(image.lists.values().map(|list| (list.entry.offset, list.entry.len))),
        }
    }
}

/// Numbers that no packet can read any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    pub frontends: Vec<u32>,
    pub lists: Vec<u32>,
    pub backends: Vec<u32>,
    pub members: Vec<(u32, u32)>,
}

impl Free {
    /// Gives them back.
    pub fn give_back(self, numbers: &mut Numbers) {
        self.frontends.into_iter().for_each(|slot| numbers.frontends.give_back(slot));
        self.lists.into_iter().for_each(|id| numbers.lists.give_back(id));
        self.backends.into_iter().for_each(|slot| numbers.backends.give_back(slot));
        self.members.into_iter().for_each(|range| numbers.members.give_back(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_that_nobody_has_is_given_out() {
        let mut slots = Slots::without([1, 3].into_iter());
        assert_eq!([slots.take(), slots.take(), slots.take()], [2, 4, 5]);
        slots.give_back(4);
        assert_eq!([slots.take(), slots.take()], [4, 6]);
        (1..7).for_each(|slot| slots.give_back(slot));
        assert_eq!(slots, Slots::default());
    }

    #[test]
    fn lists_fill_gaps_never_overlap_and_leave_one_gap_behind() {
        let mut room = Room::without([(2, 3), (7, 1), (9, 0)].into_iter());
        assert_eq!([room.take(2), room.take(3), room.take(2), room.take(0)], [0, 8, 5, 0]);
        assert_eq!(room.end(), 11);
        [(0, 2), (8, 3), (5, 2), (2, 3), (7, 1)].into_iter().for_each(|range| room.give_back(range));
        assert_eq!(room, Room::default());
    }
}
