//! ServiceAccount.
//! In: a `v1` ServiceAccount. Out: [`model::ServiceAccount`].
//! Invariant: belongs to a namespace.
//! Never: refuses; an account is its name and labels.

use super::field::Meta;
use model::ServiceAccount;

pub(super) fn convert(meta: &Meta) -> ServiceAccount {
    ServiceAccount { namespace: meta.namespace(), name: meta.name.clone(), labels: meta.labels() }
}
