//! Labels: what selectors are matched against.
//! In: key and value strings. Out: an ordered map, and the keys that mean something to Calico or Kubernetes.
//! Invariant: ordered by key, so equal label sets are equal values.
//! Never: inherits; [`crate::EffectiveLabels`] joins what a selector may see.

/// Labels of one object.
pub type Labels = std::collections::BTreeMap<String, String>;

/// The namespace an endpoint or network set is in.
pub const NAMESPACE: &str = "projectcalico.org/namespace";
/// The service account a pod runs as.
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Who started an endpoint.
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// What [`ORCHESTRATOR`] says of pods.
pub const KUBERNETES: &str = "k8s";
/// A namespace's or service account's own name, behind its prefix.
pub const NAME: &str = "projectcalico.org/name";
/// The same of a namespace, as the API server writes it (NP-41).
pub const KUBERNETES_NAME: &str = "kubernetes.io/metadata.name";
/// Before the labels of a namespace.
pub const NAMESPACE_PREFIX: &str = "pcns.";
/// Before the labels of a service account.
pub const ACCOUNT_PREFIX: &str = "pcsa.";

/// Whether a label of this key may be one that nobody has told yet: those of a namespace or service account, and the
/// account's name. All others are there or not.
#[must_use]
pub fn is_inherited(key: &str) -> bool {
    key == SERVICE_ACCOUNT || key.starts_with(NAMESPACE_PREFIX) || key.starts_with(ACCOUNT_PREFIX)
}
