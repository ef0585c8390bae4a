//! What a revision uses no more: classes nobody falls into, sets nobody asks, rows and spans of theirs, hits that decide nothing.
//! In: what may have lost its last user; after a start, everything. Out: keys that go, names that are forgotten.
//! Invariant: what is left in the next image has a user in it.
//! Never: gives a number back that the old image has: its packets still read it.

use super::Draft;
use crate::tables::ids::Ids;
use abi::RowKey;
use std::{collections::BTreeSet, sync::Arc};

impl Draft<'_> {
    /// `all`: anything may have.
    pub(super) fn bury(&mut self, all: bool) {
        if all {
            self.doubt_everything();
        }
        for class in std::mem::take(&mut self.doubtful.classes) {
            if !self.has_class(class) {
                self.bury_class(class);
            }
        }
        // A set that goes may be the last to name others.
        while let Some(set) = self.doubtful.sets.pop_first() {
            if self.is_living(set) && !self.is_used(set) {
                self.bury_set(set);
            }
        }
        for hit in std::mem::take(&mut self.doubtful.hits) {
            if self.uses.of_hit(&self.ledger.uses, hit) == 0 {
                self.bury_hit(hit);
            }
        }
    }

    /// Whether it is a set at all, and was not buried by a commit before.
    fn is_living(&self, set: u32) -> bool {
        self.numbers.sets.contains(set) && !self.retired.sets.contains(&set)
    }

    /// Others, or a commit that broke off, may have left what nothing refers to. What is retired has been buried before.
    fn doubt_everything(&mut self) {
        let (numbers, retired) = (&self.ledger.numbers, self.retired);
        let living =
            |ids: &Ids, retired: &BTreeSet<u32>| ids.iter().filter(|id| !retired.contains(id)).collect::<Vec<_>>();
        self.doubtful.sets.extend(living(&numbers.sets, &retired.sets));
        self.doubtful.classes.extend(living(&numbers.classes, &retired.classes));
        self.doubtful.hits.extend(living(&numbers.hits, &retired.hits));
    }

    fn bury_class(&mut self, class: u32) {
        let content = self.ledger.classes.get(class);
        // What an earlier agent left is known by nothing but its number.
        let asking =
            content.map_or_else(|| self.old.sets.keys().copied().collect(), |class| self.ledger.sets.met(&**class));
        asking.into_iter().for_each(|set| self.bury_row(RowKey { set, class }));
        if let Some(content) = content {
            self.names.classes.set(&self.known.classes, Arc::clone(content), None);
        }
        self.gone.classes.insert(class);
    }

    fn bury_set(&mut self, set: u32) {
        let all = RowKey { set, class: 0 }..=RowKey { set, class: u32::MAX };
        let rows: Vec<_> = self.change.rows.within(&self.old.rows, all).map(|(key, _)| *key).collect();
        rows.into_iter().for_each(|key| self.bury_row(key));
        if let Some(entry) = self.change.sets.get(&self.old.sets, &set).copied() {
            self.refer_no_more(entry.row);
            self.change.sets.set(&self.old.sets, set, None);
        }
        let fresh = self.fresh_sets.remove(&set);
        if let Some(content) = fresh.as_ref().or_else(|| self.ledger.sets.get(set)) {
            self.names.sets.set(&self.known.sets, Arc::clone(content), None);
        }
        if fresh.is_some() {
            self.numbers.sets.remove(set);
        } else {
            self.gone.sets.insert(set);
        }
    }

    fn bury_row(&mut self, key: RowKey) {
        if let Some(row) = self.change.rows.get(&self.old.rows, &key).copied() {
            self.refer_no_more(row);
            self.change.rows.set(&self.old.rows, key, None);
        }
    }

    fn bury_hit(&mut self, hit: u32) {
        let fresh = self.fresh_hits.remove(&hit);
        if let Some(content) = fresh.as_ref().or_else(|| self.ledger.hits.get(&hit)) {
            self.names.hits.set(&self.known.hits, Arc::clone(content), None);
        }
        if fresh.is_some() {
            self.numbers.hits.remove(hit);
        } else {
            self.gone.hits.insert(hit);
        }
    }
}
