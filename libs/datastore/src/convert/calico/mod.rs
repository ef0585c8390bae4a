//! Calico's resources, in both API groups that hold them.
//! In: objects of `projectcalico.org/v3`, as people write them, and of `crd.projectcalico.org/v1`, as Calico stores them.
//! Out: the same model for both.
//! Invariant: what Calico's API refuses is refused or unreadable here (libcalico-go/lib/validator/v3 and the rules in the
//! types of api/pkg/apis/projectcalico/v3).
//! Never: a default that Calico does not have.

pub(super) mod bgpconfiguration;
pub(super) mod bgpfilter;
pub(super) mod bgppeer;
pub(super) mod entity;
mod expression;
pub(super) mod felixconfiguration;
pub(super) mod hostendpoint;
mod limit;
pub(super) mod metadata;
pub(super) mod networkset;
pub(super) mod node;
pub mod parameters;
pub(super) mod policy;
pub(super) mod profile;
mod rule;
mod service;
pub(super) mod tier;
pub(super) mod workloadendpoint;

/// An API group of Calico's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// `projectcalico.org/v3`
    Api,
    /// `crd.projectcalico.org/v1`
    Stored,
}

impl Group {
    pub(super) fn of(api_version: &str) -> Option<Self> {
        match api_version {
            "projectcalico.org/v3" => Some(Self::Api),
            "crd.projectcalico.org/v1" => Some(Self::Stored),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
