//! Says a judgement to people and to programs.
//! In: a [`Judgement`] or a [`Decider`], from the evaluator or from a hit id. Out: one sentence, or named fields.
//! Invariant: the same decision reads the same, whoever made it.
//! Never: judges.

use crate::{Decider, Judgement, Outcome, Verdict};
use serde::Serialize;
use std::fmt;

/// One end's answer in named fields, for machine output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `ingress` or `egress`.
    pub direction: String,
    /// `allow` or `deny`.
    pub verdict: String,
    /// The tier in which it was decided.
    pub tier: Option<String>,
    /// The policy or profile whose rule decided.
    pub policy: Option<String>,
    /// The rule's index in the policy's own list.
    pub rule: Option<u16>,
    /// The policies that apply, where none of their rules matched.
    pub applying: Vec<String>,
    /// The Log rules that matched on the way, in order.
    pub logs: Vec<String>,
    /// All of it in one sentence.
    pub text: String,
}

impl From<&Judgement> for Explanation {
    fn from(judgement: &Judgement) -> Self {
        let decider = &judgement.decider;
        let names = || decider.policies().iter().map(ToString::to_string);
        let (policy, applying) = match decider {
            Decider::Rule { .. } => (names().next(), Vec::new()),
            Decider::Profile { profile, .. } => (Some(format!("Profile {profile}")), Vec::new()),
            _ => (None, names().collect()),
        };
        Self {
            direction: judgement.decider.direction().to_string(),
            verdict: judgement.verdict.to_string(),
            tier: decider.tier().map(ToString::to_string),
            policy,
            rule: decider.place(),
            applying,
            logs: judgement.logs.iter().map(ToString::to_string).collect(),
            text: judgement.to_string(),
        }
    }
}

impl Outcome {
    /// What each end that was asked answered, the sender's first.
    #[must_use]
    pub fn explanations(&self) -> Vec<Explanation> {
        [&self.egress, &self.ingress].into_iter().flatten().map(Explanation::from).collect()
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.decider, self.verdict) {
            (decider @ (Decider::Rule { .. } | Decider::Profile { .. }), Verdict::Allow) => {
                write!(f, "{decider} allows")
            }
            (decider @ (Decider::Rule { .. } | Decider::Profile { .. }), Verdict::Deny) => {
                write!(f, "{decider} denies")
            }
            (decider, Verdict::Allow) => write!(f, "{decider}: allowed"),
            (decider, Verdict::Deny) => write!(f, "{decider}: denied"),
            (decider, Verdict::Next) => write!(f, "{decider}: what comes next is asked"),
        }?;
        match &self.logs[..] {
            [] => Ok(()),
            logs => write!(f, " (logged by {})", logs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.egress, &self.ingress) {
            (None, None) => f.write_str("no policy is asked: allowed"),
            (Some(end), None) | (None, Some(end)) => end.fmt(f),
            (Some(egress), Some(ingress)) => write!(f, "{egress}; {ingress}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Direction, PolicyId, PolicyKind, TierName};

    fn db_in() -> PolicyId {
        PolicyId { name: "db-in".into(), namespace: "default".into(), kind: PolicyKind::KubernetesNetworkPolicy }
    }

    fn allowed_by_rule() -> Judgement {
        let decider =
            Decider::Rule { tier: TierName::DEFAULT.into(), policy: db_in(), direction: Direction::Ingress, place: 0 };
        Judgement { verdict: Verdict::Allow, decider, logs: Vec::new() }
    }

    #[test]
    fn a_rule_is_named_by_policy_direction_and_place() {
        assert_eq!(allowed_by_rule().to_string(), "NetworkPolicy default/db-in ingress rule 0 allows");
    }

    #[test]
    fn an_isolated_pod_names_every_policy_that_applies() {
        let decider = Decider::EndOfTier {
            tier: TierName::DEFAULT.into(),
            direction: Direction::Egress,
            policies: [db_in(), db_in()].into(),
        };
        let judgement = Judgement { verdict: Verdict::Deny, decider, logs: Vec::new() };
        let text = "no egress rule of NetworkPolicy default/db-in, NetworkPolicy default/db-in matches: denied";
        assert_eq!(judgement.to_string(), text);
        assert_eq!(Explanation::from(&judgement).applying.len(), 2);
    }

    #[test]
    fn a_free_flow_names_both_ends() {
        let open = Judgement { verdict: Verdict::Allow, decider: Decider::NoPolicy(Direction::Egress), logs: vec![] };
        let outcome = Outcome { egress: Some(open), ingress: Some(allowed_by_rule()) };
        let text = "no egress policy applies: allowed; NetworkPolicy default/db-in ingress rule 0 allows";
        assert_eq!(outcome.to_string(), text);
        let [egress, ingress] = &outcome.explanations()[..] else { panic!("two ends were asked") };
        assert_eq!((egress.direction.as_str(), egress.rule), ("egress", None));
        assert_eq!((ingress.verdict.as_str(), ingress.rule), ("allow", Some(0)));
    }
}
