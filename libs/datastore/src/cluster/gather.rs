//! Gathers what the watches of all kinds say.
//! In: objects and their ends, and where a list begins and is over. Out: batches of updates.
//! Invariant: there is no batch before every kind has been listed once and this node's own Node is this machine, nor while Calico's
//! objects are locked; what a later list lacks is gone only when it is over.
//! Never: takes trouble for absence.

use super::{
    kinds::{CLUSTER_INFORMATION, Calico, Watched},
    listed::Known,
    noted::Notes,
};
use crate::{Batch, Problem, standing::Standing};
use model::NodeName;
use model::Update;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// As kubectl names them: their status may be our own word.
pub(super) const SERVICES: &str = "services";
/// This node's own is among them.
const NODES: &str = "nodes";

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Said {
    /// A list begins: the first, or one after a watch that was lost.
    Listing,
    /// An object as it is now.
    Object(Value),
    /// It is gone.
    Gone(Value),
    /// The list is over.
    Listed,
    /// The server has no such kind.
    Absent,
    /// It could not be asked.
    Trouble(String),
    /// Of no kind: whether the server can keep Calico's objects itself now.
    Native(bool),
    /// Of no kind: why the mirror is not heard; `None`: it is.
    Mirror(Option<String>),
}

/// What an agent is of a cluster.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The node.
    pub node: NodeName,
    /// Which start of which machine, as Linux numbers them; `None`: nobody knows.
    pub boot: Option<String>,
}

impl Machine {
    /// How the Node of this name is another machine, as long as nothing of it is in force here.
    pub(super) fn another(&self, notes: &Notes) -> Option<String> {
        let noted = notes.look();
        let (own, said) = (self.boot.as_ref()?, noted.boot.as_ref()?);
        (!noted.is_in_sync && own != said).then(|| {
            format!(
                "the Node {} is another machine: its bootID is {said}, and this one's is {own}; two agents must not be one node: \
                 correct --node, which is the host name where nothing is said",
                self.node
            )
        })
    }
}

/// All kinds.
#[derive(Debug)]
pub(super) struct Gather {
    standing: Standing,
    known: Vec<Known>,
    is_in_sync: bool,
    /// Calico's objects may be in another group than is watched.
    is_native: bool,
    /// Why the mirror is not heard.
    mirror: Option<String>,
    /// The place of what says so.
    locked: Option<PathBuf>,
    server: String,
    machine: Machine,
    notes: Arc<Notes>,
}

impl Gather {
    pub(super) fn new(
        standing: Standing,
        kinds: &[Watched],
        server: String,
        (machine, notes): (Machine, Arc<Notes>),
    ) -> Self {
        let known = kinds.iter().map(|kind| Known::new(kind.clone(), Path::new(""))).collect();
        Self {
            standing,
            known,
            is_in_sync: false,
            is_native: false,
            mirror: None,
            locked: None,
            server,
            machine,
            notes,
        }
    }

    pub(super) fn hear(&mut self, kind: usize, said: Said) {
        if let Said::Native(is_native) = said {
            self.is_native = is_native;
            return self.standing.tell_beside(self.troubles());
        }
        if let Said::Mirror(why) = said {
            self.mirror = why;
            return self.standing.tell_beside(self.troubles());
        }
        self.hear_of_kind(kind, said);
        if self.is_native {
            self.standing.tell_beside(self.troubles());
        }
    }

    fn hear_of_kind(&mut self, kind: usize, said: Said) {
        if self.known[kind].has_trouble(&said) {
            self.standing.tell_beside(self.troubles());
        }
        if self.known[kind].kind.resource.kind == CLUSTER_INFORMATION {
            return self.hear_of_lock(kind, &said);
        }
        let Self { standing, known, machine, notes, .. } = self;
        let (number, known) = (kind, &mut known[kind]);
        let is_of_nodes = known.is_called(NODES);
        known.hear(standing, said, |kind, standing, place, object| match object {
            Some(object) => {
                notes.take((number, kind), place, object, standing.trouble_of(place));
                if is_of_nodes {
                    notes.take_node(&machine.node, place, object);
                }
            }
            None => {
                notes.gone(place);
                if is_of_nodes {
                    notes.node_gone(place);
                }
            }
        });
        if is_of_nodes && !self.is_in_sync {
            self.standing.tell_beside(self.troubles());
        }
    }

    /// Of Calico's own word on its objects: whether they are complete. Where there is none, nobody locks them.
    fn hear_of_lock(&mut self, kind: usize, said: &Said) {
        let known = &mut self.known[kind];
        match said {
            // What is locked stays so until the list is over: an object that is there comes again.
            Said::Listing => known.missing = Some(self.locked.iter().cloned().collect()),
            Said::Object(object) => {
                let is_ready = object.pointer("/spec/datastoreReady").and_then(Value::as_bool);
                let place = known.place(object);
                if let Some(missing) = &mut known.missing {
                    missing.remove(&place);
                }
                if is_ready == Some(false) {
                    self.locked = Some(place);
                } else if self.locked.as_ref() == Some(&place) {
                    self.locked = None;
                }
            }
            Said::Gone(object) if self.locked == Some(known.place(object)) => self.locked = None,
            Said::Listed => {
                known.is_listed = true;
                let missing = known.missing.take().unwrap_or_default();
                self.locked.take_if(|place| missing.contains(place));
            }
            Said::Absent => known.is_listed = true,
            Said::Gone(_) | Said::Trouble(_) | Said::Native(_) | Said::Mirror(_) => {}
        }
        self.standing.tell_beside(self.troubles());
    }

    /// Whether all is to be heard anew: Calico's objects can be in another group, and there are none in the one that is watched, of
    /// which any could be lost.
    pub(super) fn begins_anew(&self) -> bool {
        self.locked.is_none() && self.keeps_stored() == Some(false)
    }

    /// Where Calico's objects can be in another group: whether there are any in the one that is watched; `None`: nobody knows yet.
    fn keeps_stored(&self) -> Option<bool> {
        let mut own = self.known.iter().filter(|known| Calico::Stored.has(&known.kind));
        let is_known = self.is_native && own.clone().all(|known| known.is_listed && known.missing.is_none());
        is_known.then(|| own.any(|known| self.standing.has_within(&known.root)))
    }

    /// What stands, for who hears all anew.
    pub(super) fn into_standing(self) -> Standing {
        self.standing
    }

    /// Whether Calico's objects are locked.
    pub(super) fn is_locked(&self) -> bool {
        self.locked.is_some()
    }

    /// What is new. Nothing, before everything has been listed, nor while objects are locked.
    pub(super) fn batch(&mut self) -> Batch {
        if self.is_locked() {
            return Batch::new();
        }
        if self.is_in_sync {
            return self.standing.changes();
        }
        if !self.known.iter().all(|known| known.is_listed) || self.machine.another(&self.notes).is_some() {
            return Batch::new();
        }
        self.is_in_sync = true;
        self.notes.look().is_in_sync = true;
        let mut batch = self.standing.changes();
        batch.push(Update::InSync);
        batch
    }

    /// Writes one of the last good policies down. False: all are.
    pub(super) fn keep_one(&mut self) -> bool {
        self.is_in_sync && self.standing.keep_one()
    }

    fn troubles(&self) -> Vec<Problem> {
        let problem = |known: &Known| {
            let trouble = known.trouble.as_ref()?;
            let message = format!("{}: {trouble}; all stays as it was", self.server);
            Some(Problem { file: known.root.clone(), line: None, object: None, message })
        };
        let locked = |place: &PathBuf| {
            Problem {
            file: place.clone(),
            line: None,
            object: None,
            message: "datastoreReady is false: somebody changes Calico's objects as a whole; all stays as it was until it is true"
                .to_owned(),
        }
        };
        let another = self.machine.another(&self.notes).map(|message| {
            let file = Path::new(NODES).join(&*self.machine.node.0);
            Problem { file, line: None, object: None, message }
        });
        let moved = (self.keeps_stored() == Some(true)).then(|| {
            let message = "can be the cluster's own objects now: once Calico's are there as a whole, start the agent again; until then \
                           those in crd.projectcalico.org/v1 count"
                .to_owned();
            Problem { file: "projectcalico.org/v3".into(), line: None, object: None, message }
        });
        let told = self.known.iter().filter_map(problem).chain(self.locked.iter().map(locked));
        let mirror = self.mirror.as_ref().map(|message| Problem {
            file: "mirror".into(),
            line: None,
            object: None,
            message: message.clone(),
        });
        told.chain(another).chain(moved).chain(mirror).collect()
    }
}

#[cfg(test)]
mod tests;
