//! Gathers what etcd says of Calico's objects.
//! In: keys and values, and where a list begins and is over. Out: batches of updates.
//! Invariant: there is no batch while a list goes on, nor while Calico's objects are not there, locked, or another cluster's; what a
//! later list lacks is gone only when it is over.
//! Never: takes trouble, or an etcd in which nothing is, for absence.

use super::{
    layout::{self, INFORMATION, Information},
    watched::Said,
    whose::Whose,
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
    information: Option<Information>,
    /// The same in the list that goes on, which unlocks nothing before it is over.
    listed: Option<Information>,
    /// Which cluster's objects came into force.
    whose: Whose,
    /// There was a break, and whether a list was over after it, of which nobody has been told.
    anew: Option<bool>,
    trouble: Option<String>,
    server: String,
}

impl Gather {
    pub(super) fn new(standing: Standing, server: String, whose: Whose) -> Self {
        Self {
            standing,
            missing: None,
            is_listed: false,
            is_in_sync: false,
            information: None,
            listed: None,
            whose,
            anew: None,
            trouble: None,
            server,
        }
    }

    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Listing => {
                self.missing = Some(self.standing.places_within(Path::new("")));
                self.listed = None;
            }
            Said::Is(key, value, revisions) => self.take(&key, Some((&value, revisions.made))),
            Said::Gone(key, _) => self.take(&key, None),
            Said::Listed => {
                if std::mem::replace(&mut self.is_listed, true) {
                    self.anew = Some(true);
                }
                for place in self.missing.take().unwrap_or_default() {
                    self.standing.take_in(&place, None);
                }
                self.information = self.listed.take();
            }
            Said::Again => self.anew = self.anew.or(Some(false)),
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

    /// `value`: and the revision at which it was made.
    fn take(&mut self, key: &str, value: Option<(&[u8], i64)>) {
        let Some(name) = layout::name_of(key) else { return };
        if name == INFORMATION {
            let said = value.map(|(value, _)| layout::information(value));
            match self.missing {
                Some(_) => self.listed = said,
                None => self.information = said,
            }
            return;
        }
        let place = Path::new(name);
        if let Some(missing) = &mut self.missing {
            missing.remove(place);
        }
        if !self.is_in_sync {
            self.standing.expect(place);
        }
        let reading = value.and_then(|(value, made)| Some(layout::reading(name, value)?.made_at(made)));
        self.standing.take_in(place, reading);
    }

    /// Whether Calico's objects are locked, another cluster's, or not there at all.
    pub(super) fn is_locked(&self) -> bool {
        !self.information.as_ref().is_some_and(|said| said.is_ready) || self.is_of_another_cluster()
    }

    /// What begins anew in an etcd that lost everything has a name of its own (`clusterGUID`, which Calico makes up where there is no
    /// ClusterInformation), and lacks every policy.
    fn is_of_another_cluster(&self) -> bool {
        self.whose.is_another(self.cluster())
    }

    fn cluster(&self) -> Option<&str> {
        self.information.as_ref()?.cluster.as_deref()
    }

    /// What is new. Nothing before everything has been listed, nor while a list goes on: half of what changed together is not what
    /// anybody wrote. Nothing while objects are locked.
    pub(super) fn batch(&mut self) -> Batch {
        if !self.is_listed || self.missing.is_some() || self.is_locked() {
            return Batch::new();
        }
        if let Some(cluster) = self.cluster().map(str::to_owned) {
            self.whose.take(&cluster);
        }
        let mut batch = self.standing.changes();
        let anew = self.anew.take();
        if !std::mem::replace(&mut self.is_in_sync, true) {
            batch.push(Update::InSync);
        } else if let Some(listed) = anew {
            batch.push(Update::Anew { listed });
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
        let locked = match self.information.as_ref().map(|said| said.is_ready) {
            _ if !self.is_listed => None,
            _ if self.is_of_another_cluster() => Some(
                "clusterGUID is another cluster's: etcd was made anew; all stays as it was; restore it, or say `tortie forget-cluster` and start the agent again if it is meant",
            ),
            Some(true) => None,
            Some(false) => Some(
                "datastoreReady is not true: somebody changes Calico's objects as a whole; all stays as it was until it is",
            ),
            None => Some(
                "there is none: Calico's objects are not in this etcd, or not yet; all stays as it was until there is",
            ),
        };
        let unwritten = self.whose.trouble().map(|message| problem(INFORMATION, message));
        trouble
            .into_iter()
            .chain(unwritten)
            .chain(locked.map(|message| problem(INFORMATION, message.to_owned())))
            .collect()
    }
}

#[cfg(test)]
mod tests;
