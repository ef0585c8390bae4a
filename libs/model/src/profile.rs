//! Profiles: what holds for a workload where no policy has the last word.
//! In: Profile objects. Out: rules for both directions, and labels.
//! Invariant: a pod's profiles are `kns.NAMESPACE` and `ksa.NAMESPACE.ACCOUNT`, in this order, unless its endpoint names others.
//! Never: the one that is implied by every namespace and lets everything through; an object of its name replaces it.

use crate::{Direction, Labels, NamespaceName, Rule};

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Labels that those have whose profile it is.
    pub labels: Labels,
    /// Rules for what comes to the workload.
    pub ingress: Vec<Rule>,
    /// Rules for what the workload sends.
    pub egress: Vec<Rule>,
}

impl Profile {
    /// So many an endpoint may name.
    pub const NAMED_MAX: usize = 4;

    /// The name of a namespace's profile.
    #[must_use]
    pub fn of_namespace(namespace: &NamespaceName) -> String {
        format!("kns.{namespace}")
    }

    /// The name of a service account's profile.
    #[must_use]
    pub fn of_account(namespace: &NamespaceName, account: &str) -> String {
        format!("ksa.{namespace}.{account}")
    }

    /// The namespace whose pods have the profile of this name unless they name others; `None`: who names it.
    #[must_use]
    pub fn namespace_of(profile: &str) -> Option<NamespaceName> {
        let of_account = || Some(profile.strip_prefix("ksa.")?.split_once('.')?.0);
        profile.strip_prefix("kns.").or_else(of_account).map(NamespaceName::from)
    }

    /// Its rules in this direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}
