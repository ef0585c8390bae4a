//! Limits of Calico's API: what is longer does not fit, and is refused as a whole (CAL-10).
//! In: a spec with rules. Out: the first list or selector that is too long.
//! Invariant: a limit is that of the type's marker in api/pkg/apis/projectcalico/v3.
//! Never: cuts a list short: the rest of a deny would be let through.

use super::super::field::InvalidField;
use model::Selector;
use serde_json::Value;

/// Rules in one direction.
pub(super) const RULES_MAX: usize = 1024;
/// Networks of one field.
pub(super) const NETS_MAX: usize = 256;
/// Ports of one field.
pub(super) const PORTS_MAX: usize = 50;

/// Checks the spec of a policy or profile.
pub(super) fn check(spec: &Value) -> Result<(), InvalidField> {
    for field in ["selector", "namespaceSelector", "serviceAccountSelector"] {
        selector(&format!("spec.{field}"), spec.get(field))?;
    }
    for direction in ["ingress", "egress"] {
        let path = format!("spec.{direction}");
        list(&path, spec.get(direction), RULES_MAX)?;
        for (index, rule) in members(spec.get(direction)).enumerate() {
            for end in ["source", "destination"] {
                entity(&format!("{path}[{index}].{end}"), rule.get(end))?;
            }
        }
    }
    Ok(())
}

fn members(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn entity(path: &str, entity: Option<&Value>) -> Result<(), InvalidField> {
    let field = |name: &str| (format!("{path}.{name}"), entity.and_then(|entity| entity.get(name)));
    for name in ["selector", "notSelector", "namespaceSelector"] {
        let (path, value) = field(name);
        selector(&path, value)?;
    }
    for (name, most) in [("nets", NETS_MAX), ("notNets", NETS_MAX), ("ports", PORTS_MAX), ("notPorts", PORTS_MAX)] {
        let (path, value) = field(name);
        list(&path, value, most)?;
    }
    Ok(())
}

fn selector(path: &str, value: Option<&Value>) -> Result<(), InvalidField> {
    let length = value.and_then(Value::as_str).map_or(0, |text| text.chars().count());
    within(path, length, Selector::LENGTH_MAX, "characters; say it in fewer, or in several rules or policies")
}

fn list(path: &str, value: Option<&Value>, most: usize) -> Result<(), InvalidField> {
    within(path, members(value).count(), most, "entries; divide it between several")
}

fn within(path: &str, found: usize, most: usize, advice: &str) -> Result<(), InvalidField> {
    if found <= most {
        return Ok(());
    }
    Err(InvalidField::new(path, format!("{found} are more than {most} {advice}")))
}
