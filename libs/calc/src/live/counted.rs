//! Values that several users have at once.
//! In: a use more or less. Out: whether it was the first, or the last.
//! Invariant: a value is there as long as it has a user.
//! Never: knows its users.

use std::{borrow::Borrow, collections::BTreeMap};

/// How many use each value.
#[derive(Clone, Debug)]
pub(super) struct Counted<T>(BTreeMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Counted<T> {
    /// Whether it is the first use.
    pub(super) fn add(&mut self, value: T) -> bool {
        let uses = self.0.entry(value).or_default();
        *uses += 1;
        *uses == 1
    }

    /// Whether it was the last use.
    pub(super) fn remove(&mut self, value: &T) -> bool {
        let Some(uses) = self.0.get_mut(value) else { return false };
        *uses -= 1;
        let is_last = *uses == 0;
        if is_last {
            self.0.remove(value);
        }
        is_last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, value: &T) -> bool {
        self.0.contains_key(value)
    }

    /// The copy that is there, where the values are shared ones.
    pub(super) fn get<Q: Ord + ?Sized>(&self, value: &Q) -> Option<&T>
    where
        T: Borrow<Q>,
    {
        self.0.get_key_value(value).map(|(known, _)| known)
    }
}
