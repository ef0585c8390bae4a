//! Namespace.
//! In: a `v1` Namespace. Out: [`model::Namespace`].
//! Invariant: carries `kubernetes.io/metadata.name`, as the API server would have added it (NP-41).
//! Never: refuses; a namespace is its name and labels.

use super::field::Meta;
use model::{Namespace, NamespaceName};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn convert(meta: &Meta) -> Namespace {
    let mut labels = meta.labels();
    labels.insert(NAME_LABEL.to_owned(), meta.name.clone());
    Namespace { name: NamespaceName(meta.name.clone()), labels }
}
