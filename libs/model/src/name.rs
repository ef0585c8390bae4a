//! Names: one newtype per kind of name, so that two of a kind cannot be swapped.
//! In: strings from manifests, flags and the runtime. Out: ordered, printable names.
//! Invariant: a name prints as the user wrote it; identifiers print as `namespace/name`; a copy of a name is the same text in memory.
//! Never: checks that the named thing exists.

use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, sync::Arc};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
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
    /// A tier of policies.
    TierName;
}

impl TierName {
    /// Where a policy stands that names no tier, and every Kubernetes NetworkPolicy.
    pub const DEFAULT: &str = "default";
    /// Where ClusterNetworkPolicies of the tier Admin stand.
    pub const KUBE_ADMIN: &str = "kube-admin";
    /// Where ClusterNetworkPolicies of the tier Baseline stand.
    pub const KUBE_BASELINE: &str = "kube-baseline";
}

/// A pod: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: Arc<str>,
}

impl PodId {
    /// From two strings.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    KubernetesNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `projectcalico.org/v3` NetworkPolicy.
    NetworkPolicy,
    /// `projectcalico.org/v3` GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// `projectcalico.org/v3` StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
    /// `projectcalico.org/v3` StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// `projectcalico.org/v3` StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
}

impl PolicyKind {
    /// What Calico calls it when it breaks a tie (libcalico-go/lib/backend/model).
    fn sorted_as(self) -> &'static str {
        match self {
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Self::ClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
        }
    }

    /// The kind that a policy of this kind would be if it were enforced.
    #[must_use]
    pub const fn enforced(self) -> Self {
        match self {
            Self::StagedKubernetesNetworkPolicy => Self::KubernetesNetworkPolicy,
            Self::StagedNetworkPolicy => Self::NetworkPolicy,
            Self::StagedGlobalNetworkPolicy => Self::GlobalNetworkPolicy,
            enforced => enforced,
        }
    }

    /// The kind that stages policies of this one, if there is one.
    #[must_use]
    pub const fn staged(self) -> Option<Self> {
        match self {
            Self::KubernetesNetworkPolicy => Some(Self::StagedKubernetesNetworkPolicy),
            Self::NetworkPolicy => Some(Self::StagedNetworkPolicy),
            Self::GlobalNetworkPolicy => Some(Self::StagedGlobalNetworkPolicy),
            Self::ClusterNetworkPolicy
            | Self::StagedKubernetesNetworkPolicy
            | Self::StagedNetworkPolicy
            | Self::StagedGlobalNetworkPolicy => None,
        }
    }

    /// Whether policies of this kind are only tried.
    #[must_use]
    pub const fn is_staged(self) -> bool {
        matches!(
            self,
            Self::StagedKubernetesNetworkPolicy | Self::StagedNetworkPolicy | Self::StagedGlobalNetworkPolicy
        )
    }
}

/// As kubectl writes kinds: with the group where two groups have one of this name.
impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KubernetesNetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy.projectcalico.org",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
        })
    }
}

/// A policy object. Ordered as Calico breaks ties: by the text `name/namespace/kind` (felix/calc/policy_sorter.go).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyId {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace; empty for a cluster-wide kind.
    pub namespace: NamespaceName,
    /// Its kind.
    pub kind: PolicyKind,
}

impl PolicyId {
    /// The policy that this one is, or would be the next revision of.
    #[must_use]
    pub fn enforced(&self) -> Self {
        Self { kind: self.kind.enforced(), ..self.clone() }
    }
}

/// As text that goes on with a slash: `-` and `.` come before it.
fn before_slash(one: &str, other: &str) -> Ordering {
    let shared = one.len().min(other.len());
    let (of_one, of_other) = (one.as_bytes(), other.as_bytes());
    let next = |bytes: &[u8]| bytes.get(shared).copied().unwrap_or(b'/');
    of_one[..shared].cmp(&of_other[..shared]).then_with(|| next(of_one).cmp(&next(of_other)))
}

impl Ord for PolicyId {
    fn cmp(&self, other: &Self) -> Ordering {
        before_slash(&self.name, &other.name)
            .then_with(|| before_slash(&self.namespace.0, &other.namespace.0))
            .then_with(|| self.kind.sorted_as().cmp(other.kind.sorted_as()))
            // Names of objects hold no slash; whatever does is told apart all the same.
            .then_with(|| (&self.name, &self.namespace).cmp(&(&other.name, &other.namespace)))
    }
}

impl PartialOrd for PolicyId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace.0 {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, namespace: &str, kind: PolicyKind) -> PolicyId {
        PolicyId { name: name.into(), namespace: namespace.into(), kind }
    }

    #[test]
    fn cal_1_ties_are_broken_by_the_text_name_namespace_kind() {
        let kind = PolicyKind::GlobalNetworkPolicy;
        // '-' and '.' come before the '/' that ends the shorter name.
        assert!(id("a-b", "", kind) < id("a", "", kind) && id("a.b", "", kind) < id("a", "", kind));
        assert!(id("a", "", kind) < id("a0", "", kind));
        assert!(id("a", "x", PolicyKind::NetworkPolicy) < id("a", "y", PolicyKind::KubernetesNetworkPolicy));
        assert!(id("a", "", kind) < id("a", "x", PolicyKind::KubernetesNetworkPolicy));
        assert!(id("a", "x", PolicyKind::KubernetesNetworkPolicy) < id("a", "x", PolicyKind::NetworkPolicy));
        assert!(id("a", "", kind) < id("a", "", PolicyKind::ClusterNetworkPolicy));
    }

    #[test]
    fn a_policy_is_named_by_kind_and_namespace() {
        assert_eq!(id("p", "x", PolicyKind::KubernetesNetworkPolicy).to_string(), "NetworkPolicy x/p");
        assert_eq!(id("p", "x", PolicyKind::NetworkPolicy).to_string(), "NetworkPolicy.projectcalico.org x/p");
        assert_eq!(id("p", "", PolicyKind::GlobalNetworkPolicy).to_string(), "GlobalNetworkPolicy p");
    }
}
