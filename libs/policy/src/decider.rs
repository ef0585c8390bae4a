//! Verdicts, and who decided them.
//! In: the end of a judgement, by evaluator or by row. Out: values that compare, and their text.
//! Invariant: the same decision has the same decider, whoever made it.
//! Never: judges.

use crate::sources;
use model::{Direction, PolicyId, Protocol, TierName};
use std::{fmt, sync::Arc};

/// Yes or no, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Refuse.
    Deny,
    /// No rule of a set without an end decides: whatever comes after it is asked.
    Next,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Next => "next",
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
    /// No rule of a set without an end matched: nobody has decided.
    NoRule(Direction),
    /// Policies apply to what a host endpoint forwards, and every tier passes it on.
    Forwarded(Direction),
    /// A port that no policy of a host endpoint closes.
    Failsafe {
        /// The direction.
        direction: Direction,
        /// The port's protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

/// What would be decided if every staged policy were enforced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Preview {
    /// Yes or no.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
}

/// What a hit id stands for: a decision, who wants to read of it, and what staged policies would make of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hit {
    /// Yes or no.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
    /// The Log rules that matched before, in order, each named as if it had decided.
    pub logs: Vec<Decider>,
    /// Where staged policies would decide otherwise, or for another reason.
    pub preview: Option<Preview>,
}

impl Hit {
    /// A decision that nobody wants to read of, nor to change.
    #[must_use]
    pub fn new(verdict: Verdict, decider: Decider) -> Self {
        Self { verdict, decider, logs: Vec::new(), preview: None }
    }

    /// The same decision, and nothing said of staged policies.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self { preview: None, ..self.clone() }
    }
}

impl Decider {
    /// The direction that was judged.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::NoPolicy(direction)
            | Self::AllPassed(direction)
            | Self::NoProfile(direction)
            | Self::NoRule(direction)
            | Self::Forwarded(direction)
            | Self::Failsafe { direction, .. }
            | Self::Rule { direction, .. }
            | Self::EndOfTier { direction, .. }
            | Self::Profile { direction, .. } => *direction,
        }
    }

    /// Whether it decides of a flow: else, of the address by which somebody sends, where no policy has a part.
    #[must_use]
    pub fn is_of_a_flow(&self) -> bool {
        !matches!(self, Self::Profile { profile, .. } if sources::is_name(profile))
    }

    /// The tier in which it was decided.
    #[must_use]
    pub fn tier(&self) -> Option<&TierName> {
        match self {
            Self::Rule { tier, .. } | Self::EndOfTier { tier, .. } => Some(tier),
            _ => None,
        }
    }

    /// The policies that have a part in it: the one whose rule decided, or all of the tier that applied.
    #[must_use]
    pub fn policies(&self) -> &[PolicyId] {
        match self {
            Self::Rule { policy, .. } => std::slice::from_ref(policy),
            Self::EndOfTier { policies, .. } => policies,
            _ => &[],
        }
    }

    /// The index of the rule that decided, in the object's own list.
    #[must_use]
    pub fn place(&self) -> Option<u16> {
        match self {
            Self::Rule { place, .. } | Self::Profile { place, .. } => Some(*place),
            _ => None,
        }
    }
}

/// The default tier goes without saying.
impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = |tier: &TierName| *tier.0 != *TierName::DEFAULT;
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
            Self::NoRule(direction) => write!(f, "no {direction} rule matches"),
            Self::Forwarded(direction) => {
                write!(f, "every tier passes {direction} on, and nothing is asked of what is forwarded")
            }
            Self::Failsafe { direction, protocol, port } => write!(f, "failsafe {direction} port {protocol} {port}"),
        }
    }
}
