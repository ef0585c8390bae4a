//! Names: one newtype per kind of name, so that two of a kind cannot be swapped.
//! In: strings from manifests, flags and the runtime. Out: ordered, printable names.
//! Invariant: a name prints as the user wrote it; identifiers print as `namespace/name`.
//! Never: checks that the named thing exists.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    )*};
}

names! {
    /// A Kubernetes node.
    NodeName;
    /// A Kubernetes namespace.
    NamespaceName;
    /// A named container port.
    PortName;
}

/// A pod: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
}

impl PodId {
    /// From two strings.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.to_owned() }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of policy, in the order of their printed names (Calico breaks ties by `name/namespace/kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    KubernetesNetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KubernetesNetworkPolicy => f.write_str("NetworkPolicy"),
        }
    }
}

/// A policy object. Ordered by name, namespace, kind: Calico's tie-break (felix/calc/policy_sorter.go).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Its name.
    pub name: String,
    /// Its namespace; empty for a cluster-wide kind.
    pub namespace: NamespaceName,
    /// Its kind.
    pub kind: PolicyKind,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
