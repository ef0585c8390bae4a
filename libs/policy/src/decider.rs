//! Verdicts, and who decided them.
//! In: the end of a judgement, by evaluator or by row. Out: values that compare, and their text.
//! Invariant: the same decision has the same decider, whoever made it.
//! Never: judges.

use model::{Direction, PolicyId, TierName};
use std::{fmt, sync::Arc};

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Refuse.
    Deny,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// What decided a verdict: the content behind a hit id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// No policy applies in this direction: the profile that every namespace implies lets everything through.
    NoPolicy(Direction),
    /// Policies apply, and every tier passes it on to that profile.
    AllPassed(Direction),
    /// This rule of this policy.
    Rule {
        /// The policy's tier.
        tier: TierName,
        /// The policy.
        policy: PolicyId,
        /// Which of its lists.
        direction: Direction,
        /// Index in that list.
        place: u16,
    },
    /// These policies of the tier apply, no rule of them matched, and the tier ends in a refusal.
    EndOfTier {
        /// The tier.
        tier: TierName,
        /// The direction.
        direction: Direction,
        /// The policies, in order.
        policies: Arc<[PolicyId]>,
    },
    /// This rule of a profile that an object gives.
    Profile {
        /// The profile.
        profile: String,
        /// Which of its lists.
        direction: Direction,
        /// Index in that list.
        place: u16,
    },
    /// No rule of the endpoint's profiles matched.
    NoProfile(Direction),
}

impl Decider {
    /// The direction that was judged.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::NoPolicy(direction)
            | Self::AllPassed(direction)
            | Self::NoProfile(direction)
            | Self::Rule { direction, .. }
            | Self::EndOfTier { direction, .. }
            | Self::Profile { direction, .. } => *direction,
        }
    }

    /// The tier in which it was decided.
    #[must_use]
    pub fn tier(&self) -> Option<&TierName> {
        match self {
            Self::Rule { tier, .. } | Self::EndOfTier { tier, .. } => Some(tier),
            Self::NoPolicy(_) | Self::AllPassed(_) | Self::Profile { .. } | Self::NoProfile(_) => None,
        }
    }

    /// The policies that have a part in it: the one whose rule decided, or all of the tier that applied.
    #[must_use]
    pub fn policies(&self) -> &[PolicyId] {
        match self {
            Self::Rule { policy, .. } => std::slice::from_ref(policy),
            Self::EndOfTier { policies, .. } => policies,
            Self::NoPolicy(_) | Self::AllPassed(_) | Self::Profile { .. } | Self::NoProfile(_) => &[],
        }
    }

    /// The index of the rule that decided, in the object's own list.
    #[must_use]
    pub fn place(&self) -> Option<u16> {
        match self {
            Self::Rule { place, .. } | Self::Profile { place, .. } => Some(*place),
            Self::NoPolicy(_) | Self::AllPassed(_) | Self::EndOfTier { .. } | Self::NoProfile(_) => None,
        }
    }
}

/// The default tier goes without saying.
impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = |tier: &TierName| tier.0 != TierName::DEFAULT;
        match self {
            Self::NoPolicy(direction) => write!(f, "no {direction} policy applies"),
            Self::AllPassed(direction) => write!(f, "every tier passes {direction} on to the namespace's profile"),
            Self::Rule { tier, policy, direction, place } if other(tier) => {
                write!(f, "{policy} {direction} rule {place} (tier {tier})")
            }
            Self::Rule { policy, direction, place, .. } => write!(f, "{policy} {direction} rule {place}"),
            Self::EndOfTier { tier, direction, policies } => {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                write!(f, "no {direction} rule of {} matches", names.join(", "))?;
                if other(tier) { write!(f, ", and tier {tier} ends in deny") } else { Ok(()) }
            }
            Self::Profile { profile, direction, place } => write!(f, "profile {profile} {direction} rule {place}"),
            Self::NoProfile(direction) => write!(f, "no profile allows {direction}"),
        }
    }
}
