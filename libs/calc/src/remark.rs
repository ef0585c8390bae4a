//! Remarks: policies that can be read and are not enforced as their writer may think.
//! In: [`World`]. Out: one line each, for the status.
//! Invariant: what is remarked on is enforced all the same, in its restrictive reading.
//! Never: a remark on what the datastore has already refused or found unreadable.

use crate::World;
use model::{Direction, Policy, Rule, Tier, TierName};

impl World {
    /// What the writers of policies should know.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let built_in = Tier::built_in().map(|tier| tier.name);
        let is_made = |name: &TierName| built_in.contains(name) || self.tiers.contains_key(name);
        let lost = self.policies.values().filter(|policy| !is_made(&policy.tier)).map(|policy| {
            let Policy { id, tier, .. } = policy;
            format!("{id}: there is no tier {tier}; until there is, it is asked after all others, and what no rule matches is denied")
        });
        lost.chain(self.policies.values().flat_map(source_ports)).collect()
    }
}

fn source_ports(policy: &Policy) -> impl Iterator<Item = String> + '_ {
    let in_direction = move |direction: Direction| {
        let asking = policy.rules(direction).iter().filter(|rule| rule.asks_source_ports());
        asking.map(move |Rule { place, .. }| {
            let what = "asks for source ports, which are not told apart yet";
            format!("{}: {direction} rule {place} {what}: an allow matches nothing, a deny every port", policy.id)
        })
    };
    [Direction::Ingress, Direction::Egress].into_iter().flat_map(in_direction)
}
