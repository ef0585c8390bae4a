//! A map that knows what was changed in it.
//! In: objects as they were read, and changes. Out: the objects as they are now, and of each that was touched how it was.
//! Invariant: whatever is changed is noted first; reading costs no copy, and a change one of the object that it changes.
//! Never: compares all it has to find what was changed.

use crate::Kept;
use std::{
    collections::{BTreeMap, btree_map},
    ops::Deref,
};

/// Objects by key. Reads as the map that it is.
#[derive(Clone, Debug)]
pub struct Tracked<K, T> {
    now: BTreeMap<K, Kept<T>>,
    /// How each was that has been touched since.
    before: Before<K, T>,
    /// While something is under way that may be undone: how each was that had been touched when it began.
    earlier: Option<Before<K, T>>,
}

/// How objects were; `None`: not there.
type Before<K, T> = BTreeMap<K, Option<Kept<T>>>;

impl<K: Ord + Clone, T: Clone> Tracked<K, T> {
    /// Takes in an object, or replaces it. What was taken out before keeps the revision at which it is stored.
    pub fn insert(&mut self, key: K, mut kept: Kept<T>) -> Option<Kept<T>> {
        self.note(&key);
        kept.revision = kept.revision.or_else(|| self.stored(&key));
        self.now.insert(key, kept)
    }

    /// Takes one out.
    pub fn remove(&mut self, key: &K) -> Option<Kept<T>> {
        if !self.now.contains_key(key) {
            return None;
        }
        self.note(key);
        self.now.remove(key)
    }

    /// One, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut Kept<T>> {
        if !self.now.contains_key(key) {
            return None;
        }
        self.note(key);
        self.now.get_mut(key)
    }

    /// All, to be changed: each counts as touched.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Kept<T>> {
        let keys: Vec<K> = self.now.keys().cloned().collect();
        keys.iter().for_each(|key| self.note(key));
        self.now.values_mut()
    }

    /// Takes out those of which this is false.
    pub fn retain(&mut self, mut stays: impl FnMut(&K, &Kept<T>) -> bool) {
        let gone: Vec<K> =
            self.now.iter().filter(|(key, kept)| !stays(key, kept)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| drop(self.remove(key)));
    }

    /// As it is now is how it was.
    pub fn settle(&mut self) {
        self.before.clear();
    }

    /// What was touched: how it was, and how it is.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (&K, Option<&Kept<T>>, Option<&Kept<T>>)> {
        self.before.iter().map(|(key, before)| (key, before.as_ref(), self.now.get(key)))
    }

    /// All that was touched, before what is under way and in it.
    pub(crate) fn all_touched(&self) -> impl Iterator<Item = &K> {
        self.earlier.iter().flat_map(BTreeMap::keys).chain(self.before.keys())
    }

    /// Begins what may be undone.
    pub(crate) fn begin(&mut self) {
        self.earlier = Some(std::mem::take(&mut self.before));
    }

    /// Ends it: it counts, or it never was.
    pub(crate) fn end(&mut self, counts: bool) {
        let earlier = self.earlier.take().unwrap_or_default();
        if counts {
            self.before.extend(earlier);
            return;
        }
        for (key, before) in std::mem::replace(&mut self.before, earlier) {
            match before {
                Some(kept) => drop(self.now.insert(key, kept)),
                None => drop(self.now.remove(&key)),
            }
        }
    }

    /// The revision at which it was read.
    fn stored(&self, key: &K) -> Option<String> {
        let read = self.earlier.as_ref().and_then(|earlier| earlier.get(key)).or_else(|| self.before.get(key))?;
        read.as_ref()?.revision.clone()
    }

    fn note(&mut self, key: &K) {
        if !self.before.contains_key(key) {
            self.before.insert(key.clone(), self.now.get(key).cloned());
        }
    }
}

impl<K, T> Deref for Tracked<K, T> {
    type Target = BTreeMap<K, Kept<T>>;

    fn deref(&self) -> &Self::Target {
        &self.now
    }
}

impl<'a, K, T> IntoIterator for &'a Tracked<K, T> {
    type Item = (&'a K, &'a Kept<T>);
    type IntoIter = btree_map::Iter<'a, K, Kept<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.now.iter()
    }
}

impl<K, T> Default for Tracked<K, T> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: BTreeMap::new(), earlier: None }
    }
}

/// Two are the same that have the same in them, however it came there.
impl<K: PartialEq, T: PartialEq> PartialEq for Tracked<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.now == other.now
    }
}

impl<K: Eq, T: Eq> Eq for Tracked<K, T> {}

/// As it was read: nothing of it is a change.
impl<K: Ord, T> FromIterator<(K, Kept<T>)> for Tracked<K, T> {
    fn from_iter<I: IntoIterator<Item = (K, Kept<T>)>>(objects: I) -> Self {
        Self { now: objects.into_iter().collect(), before: BTreeMap::new(), earlier: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(value: u32) -> Kept<u32> {
        Kept { revision: None, value }
    }

    #[test]
    fn what_is_undone_never_was_and_what_counts_is_noted_as_it_was_first() {
        let mut map: Tracked<u8, u32> = [(1, kept(10)), (2, kept(20))].into_iter().collect();
        map.get_mut(&1).expect("there").value = 11;
        map.begin();
        map.get_mut(&1).expect("there").value = 12;
        map.insert(3, kept(30));
        map.remove(&2);
        map.end(false);
        assert_eq!(map.iter().map(|(key, kept)| (*key, kept.value)).collect::<Vec<_>>(), [(1, 11), (2, 20)]);
        map.begin();
        map.get_mut(&1).expect("there").value = 13;
        map.end(true);
        let touched: Vec<_> = map.touched().map(|(key, was, is)| (*key, was.cloned(), is.cloned())).collect();
        assert_eq!(touched, [(1, Some(kept(10)), Some(kept(13)))]);
        assert!(map.get_mut(&9).is_none() && map.remove(&9).is_none());
        assert_eq!(map.touched().count(), 1, "what is not there is not touched");
    }

    #[test]
    fn what_is_taken_out_and_comes_again_is_written_over_what_is_stored() {
        let read = Kept { revision: Some("7".into()), value: 1 };
        for is_under_way in [false, true] {
            let mut map: Tracked<u8, u32> = [(1, read.clone())].into_iter().collect();
            map.remove(&1);
            if is_under_way {
                map.begin();
            }
            map.insert(1, kept(2));
            assert_eq!(map[&1].revision, read.revision);
        }
    }
}
