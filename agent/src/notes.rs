//! What the agent puts beside rows of the kernel's tables: notes that writers of rules made on them (`metadata.annotations`,
//! CAL-39), and where a pod's addresses are answered for.
//! In: deciders, or rows as they are shown; the World, the announcer. Out: annotations; `announced`.
//! Invariant: a rule is found by its policy, direction and place, as every report names it.
//! Never: means anything to a verdict.

use crate::announce::Announcer;
use calc::World;
use model::{Direction, Labels, Policy};
use policy::Decider;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr};

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

/// Puts into rows of endpoints which of their addresses this node answers for at its uplink.
pub fn announced(announcer: &Announcer, rows: &mut Value) {
    for row in rows.as_array_mut().into_iter().flatten() {
        let lists = ["addresses", "floating"].map(|name| row[name].as_array().into_iter().flatten());
        let addresses = lists.into_iter().flatten().filter_map(Value::as_str);
        let is_answered = |text: &&str| text.parse().is_ok_and(|address: IpAddr| announcer.answers_for_pod(address));
        let said: Vec<_> =
            addresses.filter(is_answered).map(|text| format!("{text} at {}", announcer.uplink)).collect();
        if !said.is_empty() {
            row["announced"] = json!(said);
        }
    }
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
