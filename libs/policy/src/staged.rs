//! Staged policies: what would be in force if every one of them were enforced, beside what is.
//! In: policies, staged ones among them; rule sets and rows as they are and as they would be. Out: both, side by side.
//! Invariant: a row's verdicts are those of the set in force, whatever is staged (CAL-13).
//! Never: a preview of a preview.

use crate::{Answer, Hit, PortSpan, Preview, Row, RowSpan, RuleSet, Rulebook, View};
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
    /// This row, cut also where the other changes, and with what the other says wherever that differs. `rest` is what is left
    /// of both sets where one of them leaves it to the own class.
    #[must_use]
    pub(crate) fn beside(self, then: Self, rest: &mut impl FnMut() -> Arc<RuleSet>) -> Self {
        let list = |row: Self| row.0.into_iter().map(|span| (span.start, span.answer)).collect();
        let both = zip(list(self), list(then), |now: &Answer, then: &Answer| now.beside(then, rest));
        Self(both.into_iter().map(|(start, answer)| RowSpan { start, answer }).collect())
    }
}

impl Answer {
    fn beside(&self, then: &Self, rest: &mut impl FnMut() -> Arc<RuleSet>) -> Self {
        match (self, then) {
            (Self::Decided(now), Self::Decided(then)) => Self::Decided(now.beside(then)),
            (Self::Cell(_), _) | (_, Self::Cell(_)) => Self::Cell(rest()),
            _ => {
                let both = zip(self.by_port(), then.by_port(), Hit::beside);
                match &both[..] {
                    [(_, hit)] => Self::Decided(hit.clone()),
                    _ => Self::Ports(both.into_iter().map(|(start, hit)| PortSpan { start, hit }).collect()),
                }
            }
        }
    }

    /// What is decided from each source port on.
    fn by_port(&self) -> Vec<(u32, Hit)> {
        match self {
            Self::Decided(hit) => vec![(0, hit.clone())],
            Self::Ports(ports) => ports.iter().map(|port| (port.start, port.hit.clone())).collect(),
            Self::Cell(_) => Vec::new(),
        }
    }
}

impl Hit {
    fn beside(&self, then: &Self) -> Self {
        let same = self.verdict == then.verdict && self.decider == then.decider;
        let preview = (!same).then(|| Preview { verdict: then.verdict, decider: then.decider.clone() });
        Self { preview, ..self.clone() }
    }
}

/// Two lists of stretches, each from its start to the next one's, as one that is cut where either is.
fn zip<A, B: PartialEq>(now: Vec<(u32, A)>, then: Vec<(u32, A)>, mut both: impl FnMut(&A, &A) -> B) -> Vec<(u32, B)> {
    let mut zipped: Vec<(u32, B)> = Vec::with_capacity(now.len() + then.len());
    let (mut now, mut then) = (now.into_iter().peekable(), then.into_iter().peekable());
    let (mut of_now, mut of_then) = (now.next(), then.next());
    while let (Some((start, one)), Some((start_then, other))) = (&of_now, &of_then) {
        let said = both(one, other);
        if zipped.last().is_none_or(|(_, last)| *last != said) {
            zipped.push((*start.max(start_then), said));
        }
        let next = |list: Option<&(u32, A)>| list.map_or(u32::MAX, |(start, _)| *start);
        let (next_now, next_then) = (next(now.peek()), next(then.peek()));
        if next_now <= next_then {
            of_now = now.next();
        }
        if next_then <= next_now {
            of_then = then.next();
        }
    }
    zipped
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
                RowSpan { start, answer: Answer::Decided(Hit::new(verdict, WHO[who].clone())) }
            });
            Row(spans.collect())
        })
    }

    fn hit(row: &Row, x: u32) -> &Hit {
        let Answer::Decided(hit) = &row.at(x).expect("a span").answer else { panic!("a plain span") };
        hit
    }

    proptest! {
        #[test]
        fn cal_13_a_row_beside_another_keeps_its_verdicts_and_says_both(now in row(), then in row()) {
            let both = now.clone().beside(then.clone(), &mut || panic!("no row asks the own class"));
            for x in (0..48).chain([X_END - 1]) {
                let (one, other) = (hit(&now, x), hit(&then, x));
                let span = hit(&both, x);
                prop_assert_eq!((span.verdict, &span.decider), (one.verdict, &one.decider));
                let said = span.preview.as_ref().map_or((one.verdict, &one.decider), |said| (said.verdict, &said.decider));
                prop_assert_eq!(said, (other.verdict, &other.decider));
            }
            prop_assert!(both.0.windows(2).all(|pair| pair[0].start < pair[1].start && pair[0].answer != pair[1].answer));
        }
    }
}
