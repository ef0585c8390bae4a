//! Staged policies: what would be in force if every one of them were enforced, beside what is.
//! In: policies, staged ones among them; rule sets and rows as they are and as they would be. Out: both, side by side.
//! Invariant: a row's verdicts are those of the set in force, whatever is staged (CAL-13).
//! Never: a preview of a preview.

use crate::{Hit, Preview, Row, RowSpan, RuleSet, Rulebook, View};
use model::{Policy, PolicyId, Stage, Tier};
use std::{collections::BTreeSet, sync::Arc};

impl<'a> Rulebook<'a> {
    /// Everything in order, as if every staged policy were enforced: in the place of the one of its name, or beside the
    /// others; without the one whose end is staged. `is_staged`: a staged policy speaks of the one of this name.
    #[must_use]
    pub fn if_enforced(
        tiers: impl IntoIterator<Item = &'a Tier>,
        policies: impl IntoIterator<Item = &'a Policy>,
        is_staged: impl Fn(&PolicyId) -> bool,
    ) -> Self {
        let stays = |policy: &&Policy| match policy.stage {
            None => !is_staged(&policy.id),
            Some(Stage::Set) => true,
            Some(Stage::Delete) => false,
        };
        Self::ordered(tiers, policies.into_iter().filter(stays))
    }
}

/// The policies that staged ones speak of, by the names of those that are, or would be, enforced.
pub fn spoken_of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> BTreeSet<PolicyId> {
    let staged = policies.into_iter().filter(|policy| policy.stage.is_some());
    staged.map(|policy| policy.id.enforced()).collect()
}

impl RuleSet {
    /// The same set, with what would be in its place if every staged policy were enforced.
    #[must_use]
    pub fn previewing(self, then: Self) -> Self {
        let preview = (then != self).then(|| Arc::new(then));
        Self { preview, ..self }
    }
}

impl Row {
    /// This row, cut also where the other changes, and with what the other says wherever that differs.
    #[must_use]
    pub(crate) fn beside(self, then: Self) -> Self {
        let mut spans: Vec<RowSpan> = Vec::with_capacity(self.0.len() + then.0.len());
        let (mut now, mut then) = (self.0.into_iter().peekable(), then.0.into_iter().peekable());
        let (mut of_now, mut of_then) = (now.next(), then.next());
        while let (Some(one), Some(other)) = (&of_now, &of_then) {
            let start = one.start.max(other.start);
            let same = one.verdict == other.verdict && one.decider == other.decider;
            let preview = (!same).then(|| Preview { verdict: other.verdict, decider: other.decider.clone() });
            let span = RowSpan { start, preview, ..one.clone() };
            if spans.last().is_none_or(|last| last.hit() != span.hit()) {
                spans.push(span);
            }
            let next = |spans: Option<&RowSpan>| spans.map_or(u32::MAX, |span| span.start);
            let (next_now, next_then) = (next(now.peek()), next(then.peek()));
            if next_now <= next_then {
                of_now = now.next();
            }
            if next_then <= next_now {
                of_then = then.next();
            }
        }
        Self(spans)
    }
}

impl RowSpan {
    /// What is counted for it.
    #[must_use]
    pub fn hit(&self) -> Hit {
        Hit { verdict: self.verdict, decider: self.decider.clone(), preview: self.preview.clone() }
    }
}

impl View {
    /// The same world, with every staged policy enforced under its own name.
    #[must_use]
    pub fn if_enforced(&self) -> Self {
        let replaced = spoken_of(&self.policies);
        let policies = self.policies.iter().filter(|policy| match policy.stage {
            None => !replaced.contains(&policy.id),
            Some(stage) => stage == Stage::Set,
        });
        let policies = policies.map(|policy| Policy { stage: None, ..policy.clone() }).collect();
        Self { policies, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decider, Verdict};
    use abi::rules::X_END;
    use model::Direction;
    use proptest::prelude::*;

    const WHO: [Decider; 3] = [
        Decider::NoPolicy(Direction::Ingress),
        Decider::AllPassed(Direction::Ingress),
        Decider::NoProfile(Direction::Ingress),
    ];

    fn row() -> impl Strategy<Value = Row> {
        let span = (1u32..40, 0usize..3, any::<bool>());
        prop::collection::vec(span, 0..6).prop_map(|mut spans| {
            spans.push((0, 0, true));
            spans.sort_by_key(|span| span.0);
            spans.dedup_by_key(|span| span.0);
            let spans = spans.into_iter().map(|(start, who, allows)| {
                let verdict = if allows { Verdict::Allow } else { Verdict::Deny };
                RowSpan { start, verdict, decider: WHO[who].clone(), preview: None }
            });
            Row(spans.collect())
        })
    }

    proptest! {
        #[test]
        fn cal_13_a_row_beside_another_keeps_its_verdicts_and_says_both(now in row(), then in row()) {
            let both = now.clone().beside(then.clone());
            for x in (0..48).chain([X_END - 1]) {
                let (one, other) = (now.at(x).expect("a span"), then.at(x).expect("a span"));
                let span = both.at(x).expect("a span");
                prop_assert_eq!((span.verdict, &span.decider), (one.verdict, &one.decider));
                let said = span.preview.as_ref().map_or((one.verdict, &one.decider), |said| (said.verdict, &said.decider));
                prop_assert_eq!(said, (other.verdict, &other.decider));
            }
            prop_assert!(both.0.windows(2).all(|pair| pair[0].start < pair[1].start && pair[0].hit() != pair[1].hit()));
        }
    }
}
