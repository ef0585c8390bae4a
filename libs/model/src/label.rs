//! Labels: what selectors are matched against.
//! In: key and value strings. Out: an ordered map, and the keys that mean something to Calico or Kubernetes.
//! Invariant: ordered by key, each key once, so equal label sets are equal values; a copy is the same labels in memory.
//! Never: inherits; [`crate::EffectiveLabels`] joins what a selector may see.

use crate::Shared;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// A key and its value.
type Pair = (Box<str>, Box<str>);

/// Label sets that many objects have, each once.
pub type SharedLabels = Shared<[Pair]>;

/// Labels of one object: read by everybody, changed by nobody.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[Pair]>);

impl Labels {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(place).map(|(_, value)| &**value)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With these besides; of two with one key the later counts.
    #[must_use]
    pub fn with<K: Into<Box<str>>, V: Into<Box<str>>>(&self, others: impl IntoIterator<Item = (K, V)>) -> Self {
        let others = others.into_iter().map(|(key, value)| (key.into(), value.into()));
        self.0.iter().cloned().chain(others).collect()
    }

    /// The copy that all objects with these labels share.
    #[must_use]
    pub fn shared(&self, known: &mut SharedLabels) -> Self {
        Self(known.adopt(&self.0))
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into()));
        Self(pairs.collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer).map(Self::from_iter)
    }
}

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
