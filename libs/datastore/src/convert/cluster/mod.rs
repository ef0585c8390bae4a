//! ClusterNetworkPolicy of Kubernetes.
//! In: a `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy. Out: [`Policy`] in the tier kube-admin or
//! kube-baseline (CNP-36); one [`Rule`] per peer and protocol of a written rule.
//! Invariant: one part that cannot be read makes its whole rule unreadable (CAL-18): an accept matches nothing, a deny or
//! pass refuses everything (CNP-10).
//! Never: isolates a direction for which it has no rules (CNP-5, CNP-31).

mod peer;
mod protocol;

use super::{
    combine::{Service, combine},
    field::{InvalidField, Meta, read, read_at, spec},
    kind::policy_id,
};
use model::{Action, Direction, Layer, Order, Policy, PolicyKind, PolicyTypes, Rule, TierName};
use serde::Deserialize;
use serde_json::Value;

/// Rules in one direction (CNP-5), and peers, networks or protocols of one rule.
const ENTRIES_MAX: usize = 25;
/// Characters of a rule's name (CNP-6).
const NAME_MAX: usize = 100;
/// Largest priority (CNP-3).
const PRIORITY_MAX: u16 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    tier: String,
    priority: u16,
    subject: Value,
    ingress: Option<Vec<Value>>,
    egress: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    #[serde(rename = "action")]
    _action: String,
    from: Option<Vec<Value>>,
    to: Option<Vec<Value>>,
    protocols: Option<Vec<Value>>,
}

pub(super) fn convert(meta: &Meta, object: &Value, unreadable: &mut Vec<InvalidField>) -> Result<Policy, InvalidField> {
    spec(object)?;
    let spec: Spec = read("spec", object)?;
    let tier = match spec.tier.as_str() {
        "Admin" => TierName::KUBE_ADMIN.into(),
        "Baseline" => TierName::KUBE_BASELINE.into(),
        other => return Err(InvalidField::new("spec.tier", format!("{other:?} is neither Admin nor Baseline"))),
    };
    if spec.priority > PRIORITY_MAX {
        let reason = format!("{} is not from 0 to {PRIORITY_MAX}", spec.priority);
        return Err(InvalidField::new("spec.priority", reason));
    }
    let subject = peer::subject("spec.subject", &spec.subject)?;
    let mut rules = |direction, written: Option<Vec<Value>>| {
        rules(direction, &written.unwrap_or_default(), unreadable).map(|rules| (!rules.is_empty(), rules))
    };
    let (has_ingress, ingress) = rules(Direction::Ingress, spec.ingress)?;
    let (has_egress, egress) = rules(Direction::Egress, spec.egress)?;
    Ok(Policy {
        id: policy_id(PolicyKind::ClusterNetworkPolicy, meta),
        tier,
        order: Order::At(spec.priority.into()),
        subject: subject.into(),
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        types: PolicyTypes { ingress: has_ingress, egress: has_egress },
        ingress: ingress.into(),
        egress: egress.into(),
    })
}

fn rules(
    direction: Direction,
    written: &[Value],
    unreadable: &mut Vec<InvalidField>,
) -> Result<Vec<Rule>, InvalidField> {
    at_most(&format!("spec.{direction}"), written.len(), ENTRIES_MAX)?;
    let mut rules = Vec::new();
    for (index, value) in written.iter().enumerate() {
        let place = u16::try_from(index).unwrap_or(u16::MAX);
        let path = format!("spec.{direction}[{index}]");
        let action = action(&format!("{path}.action"), value);
        match action.clone().and_then(|action| rule(&path, direction, value, &Rule::new(place, action))) {
            Ok(read) => rules.extend(read),
            Err(error) => {
                // What may have been meant as a deny refuses.
                let action = action.unwrap_or(Action::Deny);
                rules.push(Rule::unreadable(place, action, &error));
                unreadable.push(error.so_the_rule(action));
            }
        }
    }
    Ok(rules)
}

/// CNP-7.
fn action(path: &str, value: &Value) -> Result<Action, InvalidField> {
    match value.get("action").and_then(Value::as_str) {
        Some("Accept") => Ok(Action::Allow),
        Some("Deny") => Ok(Action::Deny),
        Some("Pass") => Ok(Action::Pass),
        Some(other) => Err(InvalidField::new(path, format!("{other:?} is not Accept, Deny or Pass"))),
        None => Err(InvalidField::new(path, "is required: Accept, Deny or Pass")),
    }
}

fn rule(path: &str, direction: Direction, value: &Value, bare: &Rule) -> Result<Vec<Rule>, InvalidField> {
    let written: Written = read_at(path, value)?;
    at_most(&format!("{path}.name"), written.name.map_or(0, |name| name.chars().count()), NAME_MAX)?;
    let (field, peers, other) = match direction {
        Direction::Ingress => ("from", written.from, ("to", written.to)),
        Direction::Egress => ("to", written.to, ("from", written.from)),
    };
    if other.1.is_some() {
        return Err(InvalidField::new(&format!("{path}.{}", other.0), format!("has no place here; give {field}")));
    }
    let services = protocol::services(&format!("{path}.protocols"), written.protocols.as_deref())?;
    let peers = peer::peers(&format!("{path}.{field}"), direction, &peers.unwrap_or_default(), bare.action)?;
    if peers.iter().any(|peer| peer.selector.is_none()) && services.iter().any(Service::asks_name) {
        let reason = "names a port beside a peer that is no pod and has no names; give its number (CNP-18)";
        return Err(InvalidField::new(&format!("{path}.protocols"), reason));
    }
    Ok(combine(bare, direction, &peers, &services))
}

fn at_most(path: &str, found: usize, most: usize) -> Result<(), InvalidField> {
    if found <= most {
        return Ok(());
    }
    Err(InvalidField::new(path, format!("{found} are more than {most}; divide it between several")))
}

/// The entries of a list that must have some.
fn at_least_one<'a>(path: &str, entries: &'a [Value]) -> Result<&'a [Value], InvalidField> {
    at_most(path, entries.len(), ENTRIES_MAX)?;
    if entries.is_empty() { Err(InvalidField::new(path, "must have an entry at least")) } else { Ok(entries) }
}

#[cfg(test)]
mod tests;
