//! Namespace.
//! In: a `v1` Namespace. Out: [`model::Namespace`].
//! Invariant: carries `kubernetes.io/metadata.name`, as the API server would have added it (NP-41).
//! Never: refuses; a namespace is its name and labels, and what it asks for its pods.

use super::{InvalidField, asks, field::Meta};
use model::Namespace;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn convert(meta: &Meta, unreadable: &mut Vec<InvalidField>) -> Namespace {
    let name = meta.name.as_str();
    let asks = asks::of_namespace(meta, unreadable);
    Namespace { name: name.into(), labels: meta.labels().with([(NAME_LABEL, name)]), asks }
}
