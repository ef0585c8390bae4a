//! Network sets: addresses outside the cluster that have labels.
//! In: NetworkSet and GlobalNetworkSet objects. Out: networks that selectors find by those labels.
//! Invariant: a set without a namespace is a global one.
//! Never: a pod; whoever asks for pods alone asks for the orchestrator's label too.

use crate::{Cidr, Labels, NamespaceName};
use std::{fmt, sync::Arc};

/// What names a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkSetId {
    /// Its namespace; `None`: a GlobalNetworkSet.
    pub namespace: Option<NamespaceName>,
    /// Its name.
    pub name: Arc<str>,
}

/// A set of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its name.
    pub id: NetworkSetId,
    /// Its labels.
    pub labels: Labels,
    /// Its members.
    pub nets: Vec<Cidr>,
}

impl fmt::Display for NetworkSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "NetworkSet {namespace}/{}", self.name),
            None => write!(f, "GlobalNetworkSet {}", self.name),
        }
    }
}
