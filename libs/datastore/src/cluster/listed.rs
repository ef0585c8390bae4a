//! One kind as its watch tells it: which of its objects stand, and which go.
//! In: what the watch says. Out: readings, each in its place: `KIND/NAMESPACE/NAME`.
//! Invariant: what a later list lacks is gone only when it is over; what was in force when the agent last ran can count until the first
//! one is.
//! Never: takes trouble for absence.

use super::{
    MANAGER,
    gather::{SERVICES, Said},
    kinds::Watched,
};
use crate::{catalog::Reading, given, standing::Standing};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What is known of a kind.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) kind: Watched,
    /// Where its objects lie.
    pub(super) root: PathBuf,
    /// Places that were there when the list began and have not come yet.
    pub(super) missing: Option<BTreeSet<PathBuf>>,
    pub(crate) is_listed: bool,
    pub(crate) trouble: Option<String>,
}

impl Known {
    /// Nothing yet. Its objects lie within a folder.
    pub(crate) fn new(kind: Watched, folder: &Path) -> Self {
        let root = folder.join(kind.name());
        Self { kind, root, missing: None, is_listed: false, trouble: None }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.root.ends_with(name)
    }

    /// Where an object lies: as kubectl names it.
    pub(super) fn place(&self, object: &Value) -> PathBuf {
        let part = |field| object.pointer(field).and_then(Value::as_str);
        let mut place = self.root.clone();
        place.extend([part("/metadata/namespace"), part("/metadata/name")].into_iter().flatten());
        place
    }

    /// Whether its trouble is another by what is said now.
    pub(crate) fn has_trouble(&mut self, said: &Said) -> bool {
        let trouble = if let Said::Trouble(message) = said { Some(message.clone()) } else { None };
        let is_another = self.trouble != trouble;
        self.trouble = trouble;
        is_another
    }

    /// Takes in what is said. `note` is told of each place that is another: with the object that is there, or `None`: it is gone.
    pub(crate) fn hear(
        &mut self,
        standing: &mut Standing,
        said: Said,
        mut note: impl FnMut(&Watched, &Standing, &Path, Option<&Value>),
    ) {
        match said {
            Said::Listing => self.missing = Some(standing.places_within(&self.root)),
            Said::Object(mut object) => {
                let place = self.place(&object);
                let given = self.is_called(SERVICES).then(|| taken_out(&mut object)).flatten();
                if !self.is_listed {
                    standing.expect(&place);
                }
                if let Some(missing) = &mut self.missing {
                    missing.remove(&place);
                }
                standing.take_in(&place, Some(Reading::of_object(&object).and(given.as_ref())));
                note(&self.kind, standing, &place, Some(&object));
            }
            Said::Gone(object) => {
                let place = self.place(&object);
                standing.take_in(&place, None);
                note(&self.kind, standing, &place, None);
            }
            Said::Listed => {
                self.is_listed = true;
                for place in self.missing.take().unwrap_or_default() {
                    standing.take_in(&place, None);
                    note(&self.kind, standing, &place, None);
                }
            }
            // Objects go before their kind does: a kind that is not there takes none away.
            Said::Absent => self.is_listed = true,
            Said::Trouble(_) | Said::Native(_) | Said::Mirror(_) => {}
        }
    }

    /// Nobody waits for the first list any longer: what was in force when the agent last ran counts until it is over.
    pub(crate) fn is_late(&mut self, standing: &mut Standing) {
        if self.is_listed {
            return;
        }
        let expected = standing.expect_within(&self.root);
        if let Some(missing) = &mut self.missing {
            missing.extend(expected);
        }
    }
}

/// What we gave a Service. Who wrote which field of it is asked by nobody after that.
fn taken_out(service: &mut Value) -> Option<Value> {
    let given = given::taken_out(service, MANAGER);
    service["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
    given
}
