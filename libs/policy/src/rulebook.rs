//! The rulebook: all policies in the order they are asked.
//! In: tiers and policies as told, in any order. Out: ordered tiers of ordered policies.
//! Invariant: every policy stands in exactly one tier; a tier without policies is not there.
//! Never: looks at rules.

use model::{LabelView, Order, Policy, Tier, TierEnd, TierName, Truth};
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

/// Tiers in order.
#[derive(Clone, Debug, Default)]
pub struct Rulebook<'a>(pub Vec<RuledTier<'a>>);

impl<'a> Rulebook<'a> {
    /// Puts everything in order. `tiers` overrule the built-in ones of their names. Staged policies are not asked (CAL-13).
    #[must_use]
    pub fn of(tiers: impl IntoIterator<Item = &'a Tier>, policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        Self::ordered(tiers, policies.into_iter().filter(|policy| policy.stage.is_none()))
    }

    pub(crate) fn ordered(
        tiers: impl IntoIterator<Item = &'a Tier>,
        policies: impl IntoIterator<Item = &'a Policy>,
    ) -> Self {
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
        Self(ruled)
    }

    /// What applies to an endpoint with these labels.
    #[must_use]
    pub fn applying(&self, labels: &impl LabelView) -> Vec<Applying<'_>> {
        let of_tier = |ruled: &'_ RuledTier<'a>| -> Vec<(&'a Policy, Truth)> {
            let selected = ruled.policies.iter().map(|policy| (*policy, policy.subject.matches(labels)));
            selected.filter(|(_, applies)| applies.possibly()).collect()
        };
        let tiers = self.0.iter().map(|ruled| Applying { tier: &ruled.tier, policies: of_tier(ruled) });
        tiers.filter(|applying| !applying.policies.is_empty()).collect()
    }
}

fn ruled<'a>(known: Option<&Tier>, name: &TierName, mut policies: Vec<&'a Policy>) -> RuledTier<'a> {
    // Among others a staged policy stands where it would stand if it were enforced.
    policies.sort_by_cached_key(|policy| (policy.order, policy.id.enforced()));
    let unknown = || Tier { name: name.clone(), order: Order::Unset, end: TierEnd::Deny };
    RuledTier { tier: known.cloned().unwrap_or_else(unknown), is_unknown: known.is_none(), policies }
}
