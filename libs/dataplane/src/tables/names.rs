//! What the numbers in an image mean.
//! In: contents interned by plans. Out: ids for contents, contents for ids.
//! Invariant: equal content, equal id, for as long as it is in use.
//! Never: gives out an id; [`super::numbers`] does.

use super::edits::Edits;
use model::{AttachmentId, IfaceName};
use policy::{Class, Hit, RuleSet};
use std::{collections::BTreeMap, sync::Arc};

/// Contents by id, both ways where both are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Rule sets.
    pub sets: BTreeMap<Arc<RuleSet>, u32>,
    /// Classes; the default class is `CLASS_NONE`.
    pub classes: BTreeMap<Arc<Class>, u32>,
    /// Decisions behind hit ids.
    pub hits: BTreeMap<Arc<Hit>, u32>,
    /// Slots of the endpoints served.
    pub endpoints: BTreeMap<AttachmentId, u32>,
    /// `local` slots of the host endpoints served.
    pub hosts: BTreeMap<IfaceName, u32>,
}

impl Names {
    /// What a hit id in use stands for.
    #[must_use]
    pub fn hit(&self, id: u32) -> Option<&Hit> {
        self.hits.iter().find_map(|(hit, number)| (*number == id).then_some(&**hit))
    }
}

/// What becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesChange {
    /// Of rule sets.
    pub sets: Edits<Arc<RuleSet>, u32>,
    /// Of classes.
    pub classes: Edits<Arc<Class>, u32>,
    /// Of hits.
    pub hits: Edits<Arc<Hit>, u32>,
    /// Of endpoints' slots.
    pub endpoints: Edits<AttachmentId, u32>,
    /// Of host endpoints' slots.
    pub hosts: Edits<IfaceName, u32>,
}

impl NamesChange {
    /// Makes them so.
    pub fn apply(self, names: &mut Names) {
        self.sets.apply(&mut names.sets);
        self.classes.apply(&mut names.classes);
        self.hits.apply(&mut names.hits);
        self.endpoints.apply(&mut names.endpoints);
        self.hosts.apply(&mut names.hosts);
    }
}
