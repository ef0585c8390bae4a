//! Policy: who may talk to whom, as written, with names not yet resolved.
//! In: converted policies of every kind. Out: a place among policies, a subject, and ordered rules.
//! Invariant: a rule part that could not be read stays in its place, in the restrictive reading (`Rule::unreadable`).
//! Never: holds addresses of pods; a selector names them.

use crate::{Order, PolicyId, Rule, Selector, TierName};
use std::{fmt, sync::Arc};

/// From the endpoint's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What comes to it.
    Ingress,
    /// What it sends.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The directions in which a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyTypes {
    /// For what comes to the subject.
    pub ingress: bool,
    /// For what the subject sends.
    pub egress: bool,
}

/// Where on a packet's way a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// At host endpoints, before connection tracking, packet by packet (`doNotTrack`).
    Untracked,
    /// At host endpoints, before a service's address is translated (`preDNAT`).
    PreDnat,
    /// Where flows are judged.
    Ordinary {
        /// Also of what a host endpoint forwards (`applyOnForward`).
        on_forward: bool,
    },
}

/// What a staged policy stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// That it is enforced, in the place of the policy of its name, if there is one.
    Set,
    /// That the policy of its name goes.
    Delete,
}

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// Its tier.
    pub tier: TierName,
    /// Its place within the tier; ties are broken by `id` (CAL-1).
    pub order: Order,
    /// Where it is asked.
    pub layer: Layer,
    /// It is only tried: it changes no verdict.
    pub stage: Option<Stage>,
    /// The endpoints it applies to.
    pub subject: Arc<Selector>,
    /// The directions in which it is asked.
    pub types: PolicyTypes,
    /// Rules for what comes to the subject.
    pub ingress: Box<[Rule]>,
    /// Rules for what the subject sends.
    pub egress: Box<[Rule]>,
}

impl Policy {
    /// Whether it is asked in this direction.
    #[must_use]
    pub fn applies(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.types.ingress,
            Direction::Egress => self.types.egress,
        }
    }

    /// Whether workloads are judged by it, or would be if it were enforced.
    #[must_use]
    pub fn judges_workloads(&self) -> bool {
        matches!(self.layer, Layer::Ordinary { .. })
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
