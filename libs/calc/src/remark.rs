//! Remarks: policies that can be read and are not enforced as their writer may think.
//! In: [`World`]. Out: one line each, for the status.
//! Invariant: what is remarked on is enforced all the same, in its restrictive reading.
//! Never: a remark on what the datastore has already refused or found unreadable.

use crate::World;
use model::{Direction, Policy, Rule, Tier};

impl World {
    /// What the writers of policies should know, asked of every policy; [`crate::Live`] keeps it.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        self.policies.values().flat_map(|policy| self.remarks_on(policy)).collect()
    }

    /// What the writer of this policy should know.
    pub(crate) fn remarks_on(&self, policy: &Policy) -> Vec<String> {
        let Policy { id, tier, .. } = policy;
        let is_made = self.tiers.contains_key(tier) || Tier::built_in().iter().any(|made| made.name == *tier);
        let lost = || {
            format!(
                "{id}: there is no tier {tier}; until there is, it is asked after all others, and what no rule matches is denied"
            )
        };
        (!is_made).then(lost).into_iter().chain(source_ports(policy)).collect()
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
