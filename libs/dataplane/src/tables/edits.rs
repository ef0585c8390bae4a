//! What becomes of an ordered map: the keys that will differ, and the map as it will be, seen through them.
//! In: a map, and one key after another with what it shall be. Out: what came, went and changed, in the order of the keys.
//! Invariant: a key that is named here differs from what the map has.
//! Never: walks over the map to find what differs; changes the map before it is told to.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map},
    ops::RangeBounds,
};

/// What some keys of a map will be; `None`: gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edits<K, V>(BTreeMap<K, Option<V>>);

/// One key that differs: what was and what is.
pub type Edit<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K, V> Default for Edits<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Edits<K, V> {
    /// What a key will be.
    pub fn get<'a, Q: Ord + ?Sized>(&'a self, base: &'a BTreeMap<K, V>, key: &Q) -> Option<&'a V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map_or_else(|| base.get(key), Option::as_ref)
    }

    /// Says what a key will be.
    pub fn set(&mut self, base: &BTreeMap<K, V>, key: K, value: Option<V>) {
        if base.get(&key) == value.as_ref() {
            self.0.remove(&key);
        } else {
            self.0.insert(key, value);
        }
    }

    /// Every key that differs.
    pub fn all<'a>(&'a self, base: &'a BTreeMap<K, V>) -> impl Iterator<Item = Edit<'a, K, V>> + Clone {
        self.0.iter().map(|(key, is)| (key, base.get(key), is.as_ref()))
    }

    /// Keys that come.
    pub fn added<'a>(&'a self, base: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> + Clone {
        self.all(base).filter_map(|(key, was, is)| is.filter(|_| was.is_none()).map(|is| (key, is)))
    }

    /// Keys that go.
    pub fn gone<'a>(&'a self, base: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> + Clone {
        self.all(base).filter_map(|(key, was, is)| was.filter(|_| is.is_none()).map(|was| (key, was)))
    }

    /// Keys that stay, with another value.
    pub fn changed<'a>(&'a self, base: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V, &'a V)> + Clone {
        self.all(base).filter_map(|(key, was, is)| Some((key, was?, is?)))
    }

    /// The map as it will be.
    pub fn whole<'a>(&'a self, base: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
        self.within(base, ..)
    }

    /// A part of it.
    pub fn within<'a>(
        &'a self,
        base: &'a BTreeMap<K, V>,
        keys: impl RangeBounds<K> + Clone,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        Whole { base: base.range(keys.clone()).peekable(), edits: self.0.range(keys).peekable() }
    }

    /// Its entries.
    pub fn len(&self, base: &BTreeMap<K, V>) -> usize {
        base.len() + self.added(base).count() - self.gone(base).count()
    }

    /// No fewer entries than it will have, without counting them.
    pub fn at_most(&self, base: &BTreeMap<K, V>) -> usize {
        base.len() + self.0.len()
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the map so.
    pub fn apply(self, base: &mut BTreeMap<K, V>) {
        for (key, value) in self.0 {
            match value {
                Some(value) => drop(base.insert(key, value)),
                None => drop(base.remove(&key)),
            }
        }
    }
}

/// A walk over both, side by side.
struct Whole<'a, K, V> {
    base: std::iter::Peekable<btree_map::Range<'a, K, V>>,
    edits: std::iter::Peekable<btree_map::Range<'a, K, Option<V>>>,
}

impl<'a, K: Ord, V> Iterator for Whole<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((edited, _)) = self.edits.peek() else { return self.base.next() };
            match self.base.peek() {
                Some((key, _)) if key < edited => return self.base.next(),
                Some((key, _)) if key == edited => drop(self.base.next()),
                _ => {}
            }
            if let Some((key, Some(value))) = self.edits.next() {
                return Some((key, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_and_changed_is_told_in_order_and_what_is_as_it_was_is_not() {
        let base = BTreeMap::from([(1, "a"), (2, "b"), (4, "d"), (5, "e")]);
        let mut edits = Edits::default();
        for (key, value) in [(9, Some("n")), (4, Some("x")), (1, None), (0, Some("n")), (5, None), (7, None)] {
            edits.set(&base, key, value);
        }
        edits.set(&base, 2, Some("b"));
        edits.set(&base, 5, Some("e"));
        assert_eq!(edits.added(&base).collect::<Vec<_>>(), [(&0, &"n"), (&9, &"n")]);
        assert_eq!(edits.gone(&base).collect::<Vec<_>>(), [(&1, &"a")]);
        assert_eq!(edits.changed(&base).collect::<Vec<_>>(), [(&4, &"d", &"x")]);
        assert_eq!(edits.all(&base).map(|(key, ..)| *key).collect::<Vec<_>>(), [0, 1, 4, 9]);
        let mut applied = base.clone();
        edits.clone().apply(&mut applied);
        assert!(edits.whole(&base).eq(applied.iter()));
        assert_eq!(edits.len(&base), applied.len());
        assert_eq!([0, 1, 2, 3].map(|key| edits.get(&base, &key)), [0, 1, 2, 3].map(|key| applied.get(&key)));
    }
}
