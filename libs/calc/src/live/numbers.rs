//! Numbers for values that are long to say and often said.
//! In: a value. Out: its number, as long as it is kept.
//! Invariant: one number a value; a number that was given back may be given out again.
//! Never: forgets by itself.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) struct Numbers<T> {
    by_value: BTreeMap<T, u32>,
    by_number: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { by_value: BTreeMap::new(), by_number: Vec::new(), free: Vec::new() }
    }
}

impl<T: Ord + Clone> Numbers<T> {
    /// The value's number; a fresh one if it has none.
    pub(super) fn number(&mut self, value: &T) -> u32 {
        if let Some(number) = self.by_value.get(value) {
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.by_number.push(None);
            u32::try_from(self.by_number.len() - 1).expect("what has a number fits memory")
        });
        self.by_value.insert(value.clone(), number);
        *self.at(number) = Some(value.clone());
        number
    }

    pub(super) fn get(&self, value: &T) -> Option<u32> {
        self.by_value.get(value).copied()
    }

    pub(super) fn value(&self, number: u32) -> Option<&T> {
        self.by_number.get(number as usize)?.as_ref()
    }

    /// Gives a value's number back.
    pub(super) fn forget(&mut self, value: &T) -> Option<u32> {
        let number = self.by_value.remove(value)?;
        *self.at(number) = None;
        self.free.push(number);
        Some(number)
    }

    fn at(&mut self, number: u32) -> &mut Option<T> {
        &mut self.by_number[number as usize]
    }
}
