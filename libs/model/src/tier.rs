//! Tiers: the rounds in which policies are asked.
//! In: a Tier object, or the name of one that nobody made. Out: its place and what its end does.
//! Invariant: the three tiers that Calico makes by itself are there, unless an object says otherwise.
//! Never: holds policies; they name their tier.

use crate::{Order, TierName};

/// What a tier does with traffic that its policies are asked about and none of their rules matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierEnd {
    /// Refuse it.
    Deny,
    /// Ask the next tier.
    Pass,
}

/// A tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: TierName,
    /// Its place among tiers.
    pub order: Order,
    /// What its end does.
    pub end: TierEnd,
}

impl Tier {
    /// The tiers that are there without an object (api/pkg/apis/projectcalico/v3/tier.go).
    #[must_use]
    pub fn built_in() -> [Self; 3] {
        let tier = |name: &str, order, end| Self { name: name.into(), order: Order::At(order), end };
        [
            tier(TierName::KUBE_ADMIN, 1_000.0, TierEnd::Pass),
            tier(TierName::DEFAULT, 1_000_000.0, TierEnd::Deny),
            tier(TierName::KUBE_BASELINE, 10_000_000.0, TierEnd::Pass),
        ]
    }
}
