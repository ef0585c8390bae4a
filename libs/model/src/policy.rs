//! Policy: who may talk to whom, as written, with names not yet resolved.
//! In: converted policies of every kind. Out: a place among policies, a subject, and ordered rules.
//! Invariant: a rule part that could not be read stays in its place, in the restrictive reading (`Rule::unreadable`).
//! Never: holds addresses of pods; a selector names them.

use crate::{Order, PolicyId, Rule, Selector, TierName};
use std::fmt;

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

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// Its tier.
    pub tier: TierName,
    /// Its place within the tier; ties are broken by `id` (CAL-1).
    pub order: Order,
    /// The endpoints it applies to.
    pub subject: Selector,
    /// The directions in which it is asked.
    pub types: PolicyTypes,
    /// Rules for what comes to the subject.
    pub ingress: Vec<Rule>,
    /// Rules for what the subject sends.
    pub egress: Vec<Rule>,
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

    /// Its rules in this direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}
