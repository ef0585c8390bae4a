//! One allocation for equal values: policies that name the same peers share them, and so do rule sets and classes.
//! In: a value. Out: the shared copy of it.
//! Invariant: what nobody else holds is forgotten before there is twice as much as when it was last looked for.
//! Never: frees what is in use.

use std::{collections::BTreeSet, sync::Arc};

/// Room that is not worth tidying.
const SOME: usize = 1024;

/// The values in use, and a few that were.
#[derive(Clone, Debug)]
pub struct Shared<T> {
    values: BTreeSet<Arc<T>>,
    tidy_at: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), tidy_at: SOME }
    }
}

impl<T: Ord> Shared<T> {
    /// The shared copy of `value`.
    pub fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.tidy_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.tidy_at = SOME.max(2 * self.values.len());
        }
        let fresh = Arc::new(value);
        self.values.insert(Arc::clone(&fresh));
        fresh
    }

    /// The same, where the value is somebody else's.
    pub fn intern(&mut self, value: &T) -> Arc<T>
    where
        T: Clone,
    {
        match self.values.get(value) {
            Some(known) => Arc::clone(known),
            None => self.share(value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_what_nobody_holds_is_forgotten() {
        let mut shared = Shared::default();
        let held = shared.share(0);
        for number in 1..10 * SOME {
            drop(shared.share(number));
        }
        assert!(Arc::ptr_eq(&held, &shared.intern(&0)));
        assert!(shared.values.len() <= SOME + 1, "{}", shared.values.len());
    }
}
