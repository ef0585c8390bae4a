//! Labels lent to the index for as long as it asks.
//! In: the name of a pod or network set. Out: its labels as the World has them now.
//! Invariant: what is gone has no labels.
//! Never: a copy.

use crate::{World, host, index::Labelled, surroundings::set_labels, workload::workload};
use model::{EffectiveLabels, Label, LabelView, NetworkSetId, PodId};

pub(super) struct Lent<'a>(Option<EffectiveLabels<'a>>);

impl<'a> Lent<'a> {
    pub(super) fn pod(world: &'a World, id: &PodId) -> Self {
        Self(workload(world, id).map(|workload| workload.facts().labels))
    }

    pub(super) fn set(world: &'a World, id: &NetworkSetId) -> Self {
        Self(world.network_sets.get(id).map(|set| set_labels(world, set)))
    }

    pub(super) fn host(world: &'a World, name: &str) -> Self {
        Self(world.host_endpoints.get(name).map(host::labels))
    }

    pub(super) fn nothing() -> Self {
        Self(None)
    }
}

impl LabelView for Lent<'_> {
    fn label(&self, key: &str) -> Label<'_> {
        self.0.as_ref().map_or(Label::Absent, |labels| labels.label(key))
    }
}

impl Labelled for Lent<'_> {
    fn each_label(&self, each: &mut dyn FnMut(&str, &str)) {
        if let Some(labels) = &self.0 {
            labels.each_label(each);
        }
    }

    fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(Labelled::is_complete)
    }
}

impl Labelled for EffectiveLabels<'_> {
    fn each_label(&self, each: &mut dyn FnMut(&str, &str)) {
        self.each_known(each);
    }

    fn is_complete(&self) -> bool {
        Self::is_complete(self)
    }
}
