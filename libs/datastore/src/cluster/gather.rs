//! Gathers what the watches of all kinds say.
//! In: objects and their ends, and where a list begins and is over. Out: batches of updates.
//! Invariant: there is no batch before every kind has been listed once; what a later list lacks is gone only when it is over.
//! Never: takes trouble for absence.

use super::{MANAGER, kinds::Watched};
use crate::{Batch, Problem, catalog::Reading, given, standing::Standing};
use model::Update;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// As kubectl names them: their status may be our own word.
pub(super) const SERVICES: &str = "services";

/// What a watch says.
#[derive(Debug)]
pub(super) enum Said {
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
}

/// What is known of a kind.
#[derive(Debug)]
struct Known {
    name: String,
    /// Places that were there when the list began and have not come yet.
    missing: Option<BTreeSet<PathBuf>>,
    is_listed: bool,
    trouble: Option<String>,
}

/// All kinds.
#[derive(Debug)]
pub(super) struct Gather {
    standing: Standing,
    known: Vec<Known>,
    is_in_sync: bool,
    server: String,
}

impl Gather {
    pub(super) fn new(standing: Standing, kinds: &[Watched], server: String) -> Self {
        let known = |kind: &Watched| Known { name: kind.name(), missing: None, is_listed: false, trouble: None };
        Self { standing, known: kinds.iter().map(known).collect(), is_in_sync: false, server }
    }

    pub(super) fn hear(&mut self, kind: usize, said: Said) {
        let trouble = if let Said::Trouble(message) = &said { Some(message.clone()) } else { None };
        if self.known[kind].trouble != trouble {
            self.known[kind].trouble = trouble;
            self.standing.tell_beside(self.troubles());
        }
        let Self { standing, known, .. } = self;
        let known = &mut known[kind];
        match said {
            Said::Listing => known.missing = Some(standing.places_within(Path::new(&known.name))),
            Said::Object(mut object) => {
                let place = place(&known.name, &object);
                let given = (known.name == SERVICES).then(|| given::taken_out(&mut object, MANAGER)).flatten();
                if !known.is_listed {
                    standing.expect(&place);
                }
                if let Some(missing) = &mut known.missing {
                    missing.remove(&place);
                }
                standing.take_in(&place, Some(Reading::of_object(&object).and(given.as_ref())));
            }
            Said::Gone(object) => standing.take_in(&place(&known.name, &object), None),
            Said::Listed => {
                known.is_listed = true;
                for place in known.missing.take().unwrap_or_default() {
                    standing.take_in(&place, None);
                }
            }
            // Objects go before their kind does: a kind that is not there takes none away.
            Said::Absent => known.is_listed = true,
            Said::Trouble(_) => {}
        }
    }

    /// What is new. Nothing, before everything has been listed.
    pub(super) fn batch(&mut self) -> Batch {
        if self.is_in_sync {
            return self.standing.changes();
        }
        if !self.known.iter().all(|known| known.is_listed) {
            return Batch::new();
        }
        self.is_in_sync = true;
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
            Some(Problem { file: known.name.clone().into(), line: None, object: None, message })
        };
        self.known.iter().filter_map(problem).collect()
    }
}

/// Where an object lies: `KIND/NAMESPACE/NAME`, as kubectl names it.
fn place(kind: &str, object: &Value) -> PathBuf {
    let part = |field| object.pointer(field).and_then(Value::as_str);
    let mut place = PathBuf::from(kind);
    place.extend([part("/metadata/namespace"), part("/metadata/name")].into_iter().flatten());
    place
}

#[cfg(test)]
mod tests;
