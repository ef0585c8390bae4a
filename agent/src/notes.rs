//! What the writers of rules noted on them (`metadata.annotations`), beside the rules as they are shown (CAL-39).
//! In: deciders, or rows of `show policies`; the World. Out: annotations.
//! Invariant: a rule is found by its policy, direction and place, as every report names it.
//! Never: means anything to a verdict.

use calc::World;
use model::{Direction, Labels, Policy};
use policy::Decider;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is noted on the rule that decided.
pub fn on(world: &World, decider: &Decider) -> Labels {
    match decider {
        Decider::Rule { policy, direction, place, .. } => {
            world.policy(policy).map(|policy| of(policy, *direction, *place)).unwrap_or_default()
        }
        _ => Labels::new(),
    }
}

fn of(policy: &Policy, direction: Direction, place: u16) -> Labels {
    let rule = policy.rules(direction).iter().find(|rule| rule.place == place);
    rule.map(|rule| rule.annotations.clone()).unwrap_or_default()
}

/// Puts them into rows that name a policy, a direction and a rule.
pub fn annotate(world: &World, rows: &mut Value) {
    let Some(rows) = rows.as_array_mut() else { return };
    let noted = world.policies().filter(|policy| {
        let rules = policy.ingress.iter().chain(&policy.egress);
        rules.into_iter().any(|rule| !rule.annotations.is_empty())
    });
    let noted: BTreeMap<String, &Policy> = noted.map(|policy| (policy.id.to_string(), policy)).collect();
    for row in rows {
        let policy = row["policy"].as_str().and_then(|name| noted.get(name));
        let place = row["rule"].as_u64().and_then(|place| u16::try_from(place).ok());
        let direction = match row["direction"].as_str() {
            Some("ingress") => Direction::Ingress,
            _ => Direction::Egress,
        };
        if let (Some(policy), Some(place)) = (policy, place) {
            let noted = of(policy, direction, place);
            if !noted.is_empty() {
                row["annotations"] = json!(noted);
            }
        }
    }
}
