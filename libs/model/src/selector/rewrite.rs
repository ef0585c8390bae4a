//! Rewriting: what is said of namespaces, or of service accounts, said of the endpoints that are theirs.
//! In: a namespaceSelector or service account selector. Out: a selector over effective labels.
//! Invariant: as Calico rewrites them (libcalico-go/lib/backend/syncersv1/updateprocessors: rules.go, selectors.go).
//! Never: changes a value.

use super::Selector;
use crate::{
    NamespaceName,
    label::{ACCOUNT_PREFIX, KUBERNETES, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT},
};

impl Selector {
    /// Everything in this namespace.
    #[must_use]
    pub fn in_namespace(namespace: &NamespaceName) -> Self {
        Self::Equals(NAMESPACE.to_owned(), namespace.0.to_string())
    }

    /// Every pod, and nothing else.
    #[must_use]
    pub fn pods() -> Self {
        Self::Equals(ORCHESTRATOR.to_owned(), KUBERNETES.to_owned())
    }

    /// Pods of namespaces (see [`Self::of_namespaces`]) with these labels: never network sets or host endpoints (CAL-38).
    #[must_use]
    pub fn pods_of(namespaces: Self, labels: Self) -> Self {
        let labels = Some(labels).filter(|labels| *labels != Self::All);
        Self::all_of([Self::pods(), namespaces].into_iter().chain(labels).collect())
    }

    /// Pods that run as one of these accounts.
    #[must_use]
    pub fn service_accounts(names: impl IntoIterator<Item = String>) -> Self {
        Self::In(SERVICE_ACCOUNT.to_owned(), names.into_iter().collect())
    }

    /// What is in the namespaces that `self` selects: `all()` is any namespace, `global()` none (CAL-32).
    #[must_use]
    pub fn of_namespaces(&self) -> Self {
        self.rewritten(&|label| format!("{NAMESPACE_PREFIX}{label}"), &|call| match call {
            Call::All => Self::Has(NAMESPACE.to_owned()),
            Call::Global => Self::has_not(NAMESPACE.to_owned()),
        })
    }

    /// Pods that run as the accounts that `self` selects. `all()` stays: it says nothing of accounts.
    #[must_use]
    pub fn of_accounts(&self) -> Self {
        self.rewritten(&|label| format!("{ACCOUNT_PREFIX}{label}"), &|call| match call {
            Call::All => Self::All,
            Call::Global => Self::Global,
        })
    }

    /// Whether `global()` stands in it: only a namespaceSelector may say so.
    #[must_use]
    pub fn says_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(inner) => inner.says_global(),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::says_global),
            _ => false,
        }
    }

    fn rewritten(&self, label: &dyn Fn(&str) -> String, call: &dyn Fn(Call) -> Self) -> Self {
        let all = |parts: &[Self]| parts.iter().map(|part| part.rewritten(label, call)).collect();
        match self {
            Self::All => call(Call::All),
            Self::Global => call(Call::Global),
            Self::Equals(key, value) => Self::Equals(label(key), value.clone()),
            Self::NotEquals(key, value) => Self::NotEquals(label(key), value.clone()),
            Self::In(key, values) => Self::In(label(key), values.clone()),
            Self::NotIn(key, values) => Self::NotIn(label(key), values.clone()),
            Self::Contains(key, value) => Self::Contains(label(key), value.clone()),
            Self::StartsWith(key, value) => Self::StartsWith(label(key), value.clone()),
            Self::EndsWith(key, value) => Self::EndsWith(label(key), value.clone()),
            Self::Has(key) => Self::Has(label(key)),
            Self::Not(inner) => inner.rewritten(label, call).negated(),
            Self::And(parts) => Self::all_of(all(parts)),
            Self::Or(parts) => Self::any_of(all(parts)),
        }
    }
}

/// A part that names no label.
enum Call {
    All,
    Global,
}
