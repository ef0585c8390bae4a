//! Gathers what etcd says of Calico's objects, and of who has which block; and what an API server beside it says of services.
//! In: keys and values, and where a list begins and is over. Out: batches of updates.
//! Invariant: there is no batch while a list of etcd's goes on, nor while Calico's objects are not there, locked, or another cluster's;
//! what a later list lacks is gone only when it is over.
//! Never: takes trouble, or an etcd in which nothing is, for absence.

use super::{
    layout::{self, INFORMATION, Information, RESOURCES},
    records::{self, HOSTS},
    services::{SERVED, Services},
    watched::{Revisions, Said},
    whose::Whose,
};
use crate::{Batch, Problem, cluster, standing::Standing};
use model::Update;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What is watched by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Calico's resources.
    Resources,
    /// Which node has which block: Calico keeps that beside its resources.
    Claims,
}

/// Before the places of claims; those of resources are their names.
const CLAIMS: &str = "claims";

impl Part {
    /// What its keys begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Resources => RESOURCES,
            Self::Claims => HOSTS,
        }
    }

    /// The place of what stands under a key.
    fn place(self, key: &str) -> Option<PathBuf> {
        let name = key.strip_prefix(self.prefix())?;
        match self {
            // Of no kind that is read, and not to be taken for what others say.
            Self::Resources if [CLAIMS, SERVED].iter().any(|other| Path::new(name).starts_with(other)) => None,
            Self::Resources => Some(name.into()),
            Self::Claims => Some(Path::new(CLAIMS).join(name)),
        }
    }

    fn has(self, place: &Path) -> bool {
        match self {
            Self::Resources => !place.starts_with(CLAIMS) && !place.starts_with(SERVED),
            Self::Claims => place.starts_with(CLAIMS),
        }
    }
}

/// How far a part was heard.
#[derive(Debug, Default)]
struct Hearing {
    /// Places that were there when the list began and have not come yet.
    missing: Option<BTreeSet<PathBuf>>,
    is_listed: bool,
    trouble: Option<String>,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Gather {
    standing: Standing,
    resources: Hearing,
    claims: Hearing,
    services: Services,
    is_in_sync: bool,
    /// What ClusterInformation says; `None`: there is none.
    information: Option<Information>,
    /// The same in the list that goes on, which unlocks nothing before it is over.
    listed: Option<Information>,
    /// Which cluster's objects came into force.
    whose: Whose,
    /// There was a break, and whether a list was over after it, of which nobody has been told.
    anew: Option<bool>,
    server: String,
}

impl Gather {
    pub(super) fn new(standing: Standing, server: String, whose: Whose, services: Services) -> Self {
        Self {
            standing,
            resources: Hearing::default(),
            claims: Hearing::default(),
            services,
            is_in_sync: false,
            information: None,
            listed: None,
            whose,
            anew: None,
            server,
        }
    }

    fn hearing(&mut self, part: Part) -> &mut Hearing {
        match part {
            Part::Resources => &mut self.resources,
            Part::Claims => &mut self.claims,
        }
    }

    pub(super) fn hear(&mut self, part: Part, said: Said) {
        match said {
            Said::Listing => {
                let mut places = self.standing.places_within(Path::new(""));
                places.retain(|place| part.has(place));
                self.hearing(part).missing = Some(places);
                if part == Part::Resources {
                    self.listed = None;
                }
            }
            Said::Is(key, value, revisions) => self.take(part, &key, Some((&value, revisions))),
            Said::Gone(key, _) => self.take(part, &key, None),
            Said::Listed => self.listed(part),
            Said::Again if part == Part::Resources => self.anew = self.anew.or(Some(false)),
            // Both are watched in one etcd: of its breaks one tells.
            Said::Again => {}
            Said::Trouble(trouble) => {
                if std::mem::replace(&mut self.hearing(part).trouble, trouble.clone()) == trouble {
                    return;
                }
            }
        }
        let beside = self.troubles();
        self.standing.tell_beside(beside);
    }

    /// Of services, by the number of their kind.
    pub(super) fn hear_of_services(&mut self, kind: usize, said: cluster::Said) {
        self.services.hear(&mut self.standing, kind, said);
        let beside = self.troubles();
        self.standing.tell_beside(beside);
    }

    /// All is there but services: nobody waits for them for ever.
    pub(super) fn awaits_services(&self) -> bool {
        !self.is_in_sync && self.is_heard() && !self.services.are_known()
    }

    /// Policies come into force without them. Services that were in force when the agent last ran stay until all have been heard.
    pub(super) fn leave_services(&mut self) {
        self.services.are_late(&mut self.standing);
        let beside = self.troubles();
        self.standing.tell_beside(beside);
    }

    /// Whether etcd has said everything, and may be taken at its word.
    fn is_heard(&self) -> bool {
        let is_over = |hearing: &Hearing| hearing.is_listed && hearing.missing.is_none();
        is_over(&self.resources) && is_over(&self.claims) && !self.is_locked()
    }

    fn listed(&mut self, part: Part) {
        let hearing = self.hearing(part);
        let was_listed = std::mem::replace(&mut hearing.is_listed, true);
        for place in hearing.missing.take().unwrap_or_default() {
            self.standing.take_in(&place, None);
        }
        if part == Part::Resources {
            self.information = self.listed.take();
            self.anew = if was_listed { Some(true) } else { self.anew };
        }
    }

    fn take(&mut self, part: Part, key: &str, value: Option<(&[u8], Revisions)>) {
        let Some(place) = part.place(key) else { return };
        if place == Path::new(INFORMATION) {
            let said = value.map(|(value, _)| layout::information(value));
            match self.resources.missing {
                Some(_) => self.listed = said,
                None => self.information = said,
            }
            return;
        }
        if let Some(missing) = &mut self.hearing(part).missing {
            missing.remove(&place);
        }
        if !self.is_in_sync {
            self.standing.expect(&place);
        }
        let reading = value.and_then(|(value, revisions)| match part {
            Part::Resources => Some(layout::reading(layout::name_of(key)?, value)?.made_at(revisions.made)),
            Part::Claims => records::claim(key, value, revisions.at),
        });
        self.standing.take_in(&place, reading);
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
        if !self.is_heard() || !self.is_in_sync && !self.services.are_known() {
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
        let trouble = self.resources.trouble.as_ref().or(self.claims.trouble.as_ref());
        let trouble = trouble.map(|trouble| problem(&self.server, format!("{trouble}; all stays as it was")));
        let locked = match self.information.as_ref().map(|said| said.is_ready) {
            _ if !self.resources.is_listed => None,
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
            .chain(self.services.troubles())
            .collect()
    }
}

#[cfg(test)]
mod tests;
