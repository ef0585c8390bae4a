//! What staged policies would do, counted: the new flows that each of their rules would have decided, and those otherwise.
//! In: the decisions behind hit ids, and their counters. Out: a row for each decision that would be another, and sums.
//! Invariant: a flow counts once for each end that judged it; only what was judged since the hit id was given out counts.
//! Never: a verdict; counts are of flows judged by what is in force.

use crate::tables::{StoreError, names::Names};
use model::PolicyId;
use policy::{Decider, Hit, Preview, RuleSet, Verdict};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// New flows that staged policies would have decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Which they would have refused.
    pub would_refuse: u64,
    /// Which they would have let in.
    pub would_let_in: u64,
    /// As they were decided, though for another reason.
    pub same: u64,
}

impl Tried {
    fn add(&mut self, now: Verdict, then: Verdict, flows: u64) {
        *match (now, then) {
            (Verdict::Deny, Verdict::Deny) => &mut self.same,
            (_, Verdict::Deny) => &mut self.would_refuse,
            (Verdict::Deny, _) => &mut self.would_let_in,
            _ => &mut self.same,
        } += flows;
    }

    fn all(self) -> u64 {
        self.would_refuse + self.would_let_in + self.same
    }
}

/// Staged policies, and what would decide because of them.
type Would<'a> = (BTreeSet<PolicyId>, &'a Decider);

/// How a decision is counted.
pub(crate) type Count<'a> = &'a dyn Fn(u32) -> Result<u64, StoreError>;

/// All together.
///
/// # Errors
/// A counter cannot be read.
pub(crate) fn sum(names: &Names, count: Count<'_>) -> Result<Tried, StoreError> {
    let mut sum = Tried::default();
    for (hit, preview, id) in previewed(names) {
        sum.add(hit.verdict, preview.verdict, count(id)?);
    }
    Ok(sum)
}

/// One row for everything that would decide in the place of something else.
///
/// # Errors
/// A counter cannot be read.
pub(crate) fn rows(names: &Names, count: Count<'_>) -> Result<Vec<Value>, StoreError> {
    let gone = replaced(names);
    let mut rows: BTreeMap<Would<'_>, (Tried, BTreeSet<&Decider>)> = BTreeMap::new();
    for (hit, preview, id) in previewed(names) {
        let (tried, now) = rows.entry((responsible(hit, preview, &gone), &preview.decider)).or_default();
        tried.add(hit.verdict, preview.verdict, count(id)?);
        now.insert(&hit.decider);
    }
    Ok(rows.iter().map(|((policies, then), (tried, now))| row(policies, then, *tried, now)).collect())
}

fn previewed(names: &Names) -> impl Iterator<Item = (&Hit, &Preview, u32)> {
    names.hits.iter().filter_map(|(hit, id)| Some((&**hit, hit.preview.as_ref()?, *id)))
}

/// Policies in force that a staged one would take the place of, or end.
fn replaced(names: &Names) -> BTreeSet<PolicyId> {
    let of_set = |set: &RuleSet| -> Vec<PolicyId> {
        let Some(then) = &set.preview else { return Vec::new() };
        let stays = |id: &PolicyId| then.policies().any(|policy| policy.id == *id);
        set.policies().map(|policy| policy.id.clone()).filter(|id| !stays(id)).collect()
    };
    names.sets.keys().flat_map(|set| of_set(set)).collect()
}

/// The staged policies by which it would be so: those that would decide, or those that take away what decides now. None: a
/// staged rule passes to what would decide.
fn responsible(hit: &Hit, preview: &Preview, replaced: &BTreeSet<PolicyId>) -> BTreeSet<PolicyId> {
    let deciding: BTreeSet<_> = preview.decider.policies().iter().filter(|id| id.kind.is_staged()).cloned().collect();
    if !deciding.is_empty() {
        return deciding;
    }
    let gone = hit.decider.policies().iter().filter(|id| replaced.contains(*id));
    gone.filter_map(|id| Some(PolicyId { kind: id.kind.staged()?, ..id.clone() })).collect()
}

fn row(policies: &BTreeSet<PolicyId>, then: &Decider, tried: Tried, now: &BTreeSet<&Decider>) -> Value {
    json!({
        "policy": policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        "tier": then.tier().map(ToString::to_string),
        "direction": then.direction().to_string(),
        "rule": then.place(),
        "ifEnforced": then.to_string(),
        "newFlows": tried.all(),
        "wouldRefuse": tried.would_refuse,
        "wouldLetIn": tried.would_let_in,
        "now": now.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Direction, PolicyKind, TierName};
    use std::sync::Arc;

    fn rule(name: &str, kind: PolicyKind, place: u16) -> Decider {
        let policy = PolicyId { name: name.into(), namespace: "x".into(), kind };
        Decider::Rule { tier: TierName::DEFAULT.into(), policy, direction: Direction::Ingress, place }
    }

    fn names(hits: &[(Verdict, Decider, Verdict, Decider)]) -> Names {
        let hit = |(verdict, now, then, would): &(Verdict, Decider, Verdict, Decider)| Hit {
            verdict: *verdict,
            decider: now.clone(),
            logs: Vec::new(),
            preview: Some(Preview { verdict: *then, decider: would.clone() }),
        };
        let hits = hits.iter().map(hit).map(Arc::new).zip(1..).collect();
        Names { hits, ..Names::default() }
    }

    #[test]
    fn agt_11_each_staged_rule_has_its_flows_and_those_that_it_would_decide_otherwise() {
        let open = Decider::NoPolicy(Direction::Ingress);
        let kind = PolicyKind::StagedNetworkPolicy;
        let names = names(&[
            (Verdict::Allow, open.clone(), Verdict::Deny, rule("p", kind, 1)),
            (Verdict::Allow, open, Verdict::Allow, rule("p", kind, 0)),
            (Verdict::Deny, rule("old", PolicyKind::NetworkPolicy, 0), Verdict::Allow, rule("p", kind, 0)),
        ]);
        // Hits are numbered in the order of the test, and counted by their number.
        let ids: BTreeMap<u32, u64> = names.hits.values().map(|id| (*id, u64::from(*id) * 10)).collect();
        let count = |id: u32| Ok(ids[&id]);
        let rows = rows(&names, &count).expect("counters can be read");
        let said: Vec<_> = rows
            .iter()
            .map(|row| {
                (row["rule"].clone(), row["newFlows"].clone(), row["wouldRefuse"].clone(), row["wouldLetIn"].clone())
            })
            .collect();
        let wanted = vec![(json!(0), json!(50), json!(0), json!(30)), (json!(1), json!(10), json!(10), json!(0))];
        assert_eq!(said, wanted, "{rows:?}");
        assert!(rows.iter().all(|row| row["policy"] == "StagedNetworkPolicy x/p"));
        let sums = sum(&names, &count).expect("counters can be read");
        assert_eq!(sums, Tried { would_refuse: 10, would_let_in: 30, same: 20 });
    }
}
