//! Gathers what etcd says of Calico's objects.
//! In: keys and values, and where a list begins and is over. Out: batches of updates.
//! Invariant: there is no batch before everything has been listed once, nor while Calico's objects are not there or locked; what a
//! later list lacks is gone only when it is over.
//! Never: takes trouble, or an etcd in which nothing is, for absence.

use super::{
    layout::{self, INFORMATION},
    watched::Said,
};
use crate::{Batch, Problem, standing::Standing};
use model::Update;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// All objects.
#[derive(Debug)]
pub(super) struct Gather {
    standing: Standing,
    /// Places that were there when the list began and have not come yet.
    missing: Option<BTreeSet<PathBuf>>,
    is_listed: bool,
    is_in_sync: bool,
    /// What ClusterInformation says; `None`: there is none.
    is_ready: Option<bool>,
    /// It has not come yet in the list that goes on.
    is_information_missing: bool,
    trouble: Option<String>,
    server: String,
}

impl Gather {
    pub(super) fn new(standing: Standing, server: String) -> Self {
        Self {
            standing,
            missing: None,
            is_listed: false,
            is_in_sync: false,
            is_ready: None,
            is_information_missing: true,
            trouble: None,
            server,
        }
    }

    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Listing => {
                self.missing = Some(self.standing.places_within(Path::new("")));
                self.is_information_missing = true;
            }
            Said::Is(key, value) => self.take(&key, Some(&value)),
            Said::Gone(key) => self.take(&key, None),
            Said::Listed => {
                self.is_listed = true;
                for place in self.missing.take().unwrap_or_default() {
                    self.standing.take_in(&place, None);
                }
                if self.is_information_missing {
                    self.is_ready = None;
                }
            }
            Said::Trouble(trouble) => {
                if self.trouble == trouble {
                    return;
                }
                self.trouble = trouble;
            }
        }
        let beside = self.troubles();
        self.standing.tell_beside(beside);
    }

    fn take(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(name) = layout::name_of(key) else { return };
        if name == INFORMATION {
            self.is_information_missing = false;
            self.is_ready = value.map(layout::is_ready);
            return;
        }
        let place = Path::new(name);
        if let Some(missing) = &mut self.missing {
            missing.remove(place);
        }
        if !self.is_listed {
            self.standing.expect(place);
        }
        let reading = value.and_then(|value| layout::reading(name, value));
        self.standing.take_in(place, reading);
    }

    /// Whether Calico's objects are locked, or not there at all.
    pub(super) fn is_locked(&self) -> bool {
        self.is_ready != Some(true)
    }

    /// What is new. Nothing, before everything has been listed, nor while objects are locked.
    pub(super) fn batch(&mut self) -> Batch {
        if !self.is_listed || self.is_locked() {
            return Batch::new();
        }
        let mut batch = self.standing.changes();
        if !self.is_in_sync {
            self.is_in_sync = true;
            batch.push(Update::InSync);
        }
        batch
    }

    /// Writes one of the last good policies down. False: all are.
    pub(super) fn keep_one(&mut self) -> bool {
        self.is_in_sync && self.standing.keep_one()
    }

    fn troubles(&self) -> Vec<Problem> {
        let problem = |file: &str, message: String| Problem { file: file.into(), line: None, object: None, message };
        let trouble = self.trouble.as_ref();
        let trouble = trouble.map(|trouble| problem(&self.server, format!("{trouble}; all stays as it was")));
        let locked = match self.is_ready {
            _ if !self.is_listed => None,
            Some(true) => None,
            Some(false) => Some(
                "datastoreReady is not true: somebody changes Calico's objects as a whole; all stays as it was until it is",
            ),
            None => Some(
                "there is none: Calico's objects are not in this etcd, or not yet; all stays as it was until there is",
            ),
        };
        trouble.into_iter().chain(locked.map(|message| problem(INFORMATION, message.to_owned()))).collect()
    }
}

#[cfg(test)]
mod tests;
