//! The rulebook: all policies in the order they are asked.
//! In: tiers and policies as told, in any order. Out: ordered tiers of ordered policies.
//! Invariant: every policy stands in exactly one tier; a tier without policies is not there.
//! Never: looks at rules.

use crate::SelectorIndex;
use model::{LabelView, Order, Policy, Selector, Tier, TierEnd, TierName, Truth};
use std::collections::BTreeMap;

/// A tier and its policies, in order.
#[derive(Clone, Debug)]
pub struct RuledTier<'a> {
    /// The tier.
    pub tier: Tier,
    /// Nobody made it: it comes last and ends in deny (felix/calc/policy_sorter.go).
    pub is_unknown: bool,
    /// Its policies.
    pub policies: Vec<&'a Policy>,
}

/// What is asked of one endpoint: a tier, and its policies that apply or may apply.
#[derive(Clone, Debug)]
pub struct Applying<'a> {
    /// The tier.
    pub tier: &'a Tier,
    /// Its policies, in order, each with how certain it is that it applies.
    pub policies: Vec<(&'a Policy, Truth)>,
}

/// Tiers in order, and whom their policies are for.
#[derive(Clone, Debug, Default)]
pub struct Rulebook<'a> {
    /// The tiers.
    pub tiers: Vec<RuledTier<'a>>,
    /// Each policy by its subject, with the place of its tier.
    subjects: SelectorIndex<&'a Selector, (usize, &'a Policy)>,
}

impl<'a> Rulebook<'a> {
    /// Puts everything in order. `tiers` overrule the built-in ones of their names.
    #[must_use]
    pub fn of(tiers: impl IntoIterator<Item = &'a Tier>, policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut known: BTreeMap<TierName, Tier> = BTreeMap::new();
        for tier in Tier::built_in().into_iter().chain(tiers.into_iter().cloned()) {
            known.insert(tier.name.clone(), tier);
        }
        let mut by_tier: BTreeMap<&TierName, Vec<&Policy>> = BTreeMap::new();
        for policy in policies {
            by_tier.entry(&policy.tier).or_default().push(policy);
        }
        let mut ruled: Vec<_> =
            by_tier.into_iter().map(|(name, policies)| ruled(known.get(name), name, policies)).collect();
        ruled.sort_by(|a, b| {
            let place = |ruled: &RuledTier<'_>| (ruled.is_unknown, ruled.tier.order);
            place(a).cmp(&place(b)).then_with(|| a.tier.name.cmp(&b.tier.name))
        });
        let of_tier = |(place, ruled): (usize, &RuledTier<'a>)| {
            ruled.policies.iter().map(move |policy| (&policy.subject, (place, *policy))).collect::<Vec<_>>()
        };
        let subjects = SelectorIndex::of(ruled.iter().enumerate().flat_map(of_tier));
        Self { tiers: ruled, subjects }
    }

    /// What applies to an endpoint with these labels.
    #[must_use]
    pub fn applying(&self, labels: &impl LabelView) -> Vec<Applying<'_>> {
        let mut applying: Vec<Applying<'_>> = Vec::new();
        let mut last = None;
        for (_, (place, policy), applies) in self.subjects.matching(labels) {
            if last != Some(*place) {
                applying.push(Applying { tier: &self.tiers[*place].tier, policies: Vec::new() });
                last = Some(*place);
            }
            applying.last_mut().expect("because one was just made").policies.push((*policy, applies));
        }
        applying
    }
}

fn ruled<'a>(known: Option<&Tier>, name: &TierName, mut policies: Vec<&'a Policy>) -> RuledTier<'a> {
    policies.sort_by(|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
    let unknown = || Tier { name: name.clone(), order: Order::Unset, end: TierEnd::Deny };
    RuledTier { tier: known.cloned().unwrap_or_else(unknown), is_unknown: known.is_none(), policies }
}
