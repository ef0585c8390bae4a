//! Sets of small numbers: ids and slots, tens of thousands of them, asked for at every commit.
//! In: numbers. Out: which are there, the last one, the first that is free.
//! Invariant: says of every 32-bit number what a set would say; those that no table numbers take no room.
//! Never: orders by anything but the number.

use std::collections::BTreeSet;

/// Numbers below are bits, others (a key that somebody else wrote) are entries.
const DENSE: u32 = 1 << 21;

/// A set of numbers.
#[derive(Clone, Debug)]
pub struct Ids {
    bits: Vec<u64>,
    others: BTreeSet<u32>,
    /// Of the numbers from 1 on, all before this one are there: whoever fills a table need not begin at its beginning each time.
    free_from: u32,
}

impl Default for Ids {
    fn default() -> Self {
        Self { bits: Vec::new(), others: BTreeSet::new(), free_from: 1 }
    }
}

impl Ids {
    /// Whether it was not there.
    pub fn insert(&mut self, id: u32) -> bool {
        let Some((word, bit)) = place(id) else { return self.others.insert(id) };
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        if id == self.free_from {
            self.free_from = self.search(id);
        }
        is_new
    }

    /// Takes it away.
    pub fn remove(&mut self, id: u32) {
        if id > 0 {
            self.free_from = self.free_from.min(id);
        }
        match place(id) {
            Some((word, bit)) => self.bits.get_mut(word).into_iter().for_each(|bits| *bits &= !bit),
            None => drop(self.others.remove(&id)),
        }
    }

    /// Whether it is there.
    pub fn contains(&self, id: u32) -> bool {
        match place(id) {
            Some((word, bit)) => self.bits.get(word).is_some_and(|bits| bits & bit != 0),
            None => self.others.contains(&id),
        }
    }

    /// The highest.
    pub fn last(&self) -> Option<u32> {
        self.others.last().copied().or_else(|| {
            let word = self.bits.iter().rposition(|bits| *bits != 0)?;
            Some(number(word, 63 - self.bits[word].leading_zeros()))
        })
    }

    /// One past the highest, and 1 at the least: nobody is given 0.
    pub fn end(&self) -> u32 {
        self.last().map_or(1, |last| last.saturating_add(1))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let of_word = |(word, bits): (usize, &u64)| {
            let bits = *bits;
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| number(word, bit))
        };
        self.bits.iter().enumerate().flat_map(of_word).chain(self.others.iter().copied())
    }

    /// The first from `first` on that is not there.
    pub fn first_free(&self, first: u32) -> u32 {
        self.search(if first > 0 { first.max(self.free_from) } else { first })
    }

    fn search(&self, first: u32) -> u32 {
        let Some((word, _)) = place(first) else { return (first..).find(|id| !self.contains(*id)).unwrap_or(u32::MAX) };
        let free = |word: usize| !self.bits.get(word).copied().unwrap_or_default();
        let from = free(word) & (u64::MAX << (first % 64));
        let words = (word + 1..).map(|word| (word, free(word)));
        let (word, bits) = std::iter::once((word, from)).chain(words).find(|(_, bits)| *bits != 0).unwrap_or((word, 1));
        let id = number(word, bits.trailing_zeros());
        if place(id).is_some() { id } else { self.search(DENSE) }
    }
}

/// Room at the end makes no difference, nor where a search begins.
impl PartialEq for Ids {
    fn eq(&self, other: &Self) -> bool {
        let used = |ids: &Self| ids.bits.iter().rposition(|bits| *bits != 0).map_or(0, |last| last + 1);
        self.others == other.others && self.bits[..used(self)] == other.bits[..used(other)]
    }
}

impl Eq for Ids {}

impl Extend<u32> for Ids {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, ids: T) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl FromIterator<u32> for Ids {
    fn from_iter<T: IntoIterator<Item = u32>>(ids: T) -> Self {
        let mut this = Self::default();
        this.extend(ids);
        this
    }
}

/// `None`: it is no bit.
fn place(id: u32) -> Option<(usize, u64)> {
    let word = usize::try_from(id / 64).ok()?;
    (id < DENSE).then_some((word, 1 << (id % 64)))
}

fn number(word: usize, bit: u32) -> u32 {
    u32::try_from(word).map_or(u32::MAX, |word| word * 64 + bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_begins_later_finds_what_one_from_the_beginning_finds() {
        let (mut ids, mut set) = (Ids::default(), BTreeSet::new());
        let mut dice = 1u32;
        for _ in 0..20_000 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = (dice >> 16) % 300;
            if dice >> 31 == 0 {
                ids.insert(id);
                set.insert(id);
            } else {
                ids.remove(id);
                set.remove(&id);
            }
            for first in [0, 1, 2, id] {
                assert_eq!(Some(ids.first_free(first)), (first..).find(|id| !set.contains(id)));
            }
        }
    }

    #[test]
    fn numbers_of_tables_and_any_others_are_told_as_a_set_tells_them() {
        let numbers = [0, 1, 63, 64, 4000, DENSE - 1, DENSE, u32::MAX];
        for skipped in 0..=numbers.len() {
            let some: Vec<_> = numbers.iter().copied().take(skipped).collect();
            let (ids, set): (Ids, BTreeSet<u32>) = (some.iter().copied().collect(), some.iter().copied().collect());
            assert_eq!(ids.last(), set.last().copied());
            for first in [0, 1, 2, 63, 64, 65, DENSE - 1, DENSE] {
                assert_eq!(Some(ids.first_free(first)), (first..).find(|id| !set.contains(id)));
            }
            assert!(numbers.iter().all(|id| ids.contains(*id) == set.contains(id)));
            let all: Ids = numbers.into_iter().collect();
            assert_eq!(all == ids, skipped == numbers.len());
            assert!(ids.iter().eq(set.iter().copied()));
            assert_eq!(
                (ids.end(), Ids::default().end()),
                (set.last().map_or(1, |last| last.saturating_add(1)).max(1), 1)
            );
            let mut fewer = all;
            some.iter().for_each(|id| fewer.remove(*id));
            assert_eq!(fewer, numbers.into_iter().skip(skipped).collect());
        }
    }
}
