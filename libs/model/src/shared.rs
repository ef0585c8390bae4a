//! One allocation for equal values: objects that say the same share it, and so do rule sets and classes.
//! In: a value. Out: the shared copy of it.
//! Invariant: what nobody else holds is forgotten before there is twice as much as when it was last looked for.
//! Never: frees what is in use.

use std::{collections::BTreeSet, sync::Arc};

/// Room that is not worth tidying.
const SOME: usize = 1024;

/// The values in use, and a few that were.
#[derive(Clone, Debug)]
pub struct Shared<T: ?Sized> {
    values: BTreeSet<Arc<T>>,
    tidy_at: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), tidy_at: SOME }
    }
}

impl<T: Ord + ?Sized> Shared<T> {
    /// The shared copy of `value`.
    pub fn share(&mut self, value: T) -> Arc<T>
    where
        T: Sized,
    {
        match self.values.get(&value) {
            Some(known) => Arc::clone(known),
            None => self.keep(Arc::new(value)),
        }
    }

    /// The same, where it has an allocation of its own: which becomes the shared one, if it is the first.
    pub fn adopt(&mut self, value: &Arc<T>) -> Arc<T> {
        match self.values.get(value) {
            Some(known) => Arc::clone(known),
            None => self.keep(Arc::clone(value)),
        }
    }

    fn keep(&mut self, fresh: Arc<T>) -> Arc<T> {
        if self.values.len() >= self.tidy_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.tidy_at = SOME.max(2 * self.values.len());
        }
        self.values.insert(Arc::clone(&fresh));
        fresh
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
        assert!(Arc::ptr_eq(&held, &shared.share(0)) && Arc::ptr_eq(&held, &shared.adopt(&Arc::new(0))));
        assert!(shared.values.len() <= SOME + 1, "{}", shared.values.len());
    }
}
