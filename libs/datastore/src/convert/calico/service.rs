//! Services in rules of Calico's.
//! In: both ends of a rule. Out: the service whose endpoints the other end must be among.
//! Invariant: it stands where Calico's API lets it stand: at the other end alone, beside nothing else that says whom, and where
//! something is sent without ports of its own (CAL-36).
//! Never: a service whose namespace is left to a guess.

use super::super::field::{InvalidField, is_label_name, is_object_name, read_at};
use model::{Direction, NamespaceName, ServiceId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// Its name.
    #[schemars(length(max = 253))]
    name: Option<String>,
    /// Its namespace; that of the policy, if nothing stands here.
    #[schemars(length(max = 253))]
    namespace: Option<String>,
}

/// Fields that say whom, too.
const OTHERS: [&str; 6] = ["nets", "notNets", "selector", "notSelector", "namespaceSelector", "serviceAccounts"];
const PORTS: [&str; 2] = ["ports", "notPorts"];

/// The service that the rule at `path` asks for. `namespace`: that of a namespaced policy.
pub(super) fn convert(
    path: &str,
    direction: Direction,
    rule: &Value,
    namespace: Option<&NamespaceName>,
) -> Result<Option<Arc<ServiceId>>, InvalidField> {
    let (own, other, verb) = match direction {
        Direction::Ingress => ("destination", "source", "receives"),
        Direction::Egress => ("source", "destination", "sends"),
    };
    if given(rule.get(own), "services").is_some() {
        let reason = format!("cannot say who {verb}: that is the policy's own endpoint; services may stand in {other}");
        return Err(InvalidField::new(&format!("{path}.{own}.services"), reason));
    }
    let end = rule.get(other);
    let Some(value) = given(end, "services") else { return Ok(None) };
    let path = format!("{path}.{other}");
    let without = if direction == Direction::Egress { &PORTS[..] } else { &[] };
    if let Some(field) = OTHERS.iter().chain(without).find(|field| given(end, field).is_some()) {
        let reason = "cannot stand beside services; remove one of them, or give it a rule of its own";
        return Err(InvalidField::new(&format!("{path}.{field}"), reason));
    }
    named(&format!("{path}.services"), read_at(&format!("{path}.services"), value)?, namespace)
        .map(|service| Some(service.into()))
}

/// A field of an end, unless it is as good as not given.
fn given<'a>(end: Option<&'a Value>, field: &str) -> Option<&'a Value> {
    end?.get(field).filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(entries) => !entries.is_empty(),
        _ => true,
    })
}

fn named(path: &str, service: Service, own: Option<&NamespaceName>) -> Result<ServiceId, InvalidField> {
    let name = service
        .name
        .filter(|name| is_object_name(name))
        .ok_or_else(|| InvalidField::new(&format!("{path}.name"), "must be the name of a service"))?;
    let path = format!("{path}.namespace");
    let namespace = match service.namespace.filter(|namespace| !namespace.is_empty()) {
        Some(namespace) if is_label_name(&namespace) => NamespaceName(namespace.into()),
        Some(other) => return Err(InvalidField::new(&path, format!("{other:?} is not the name of a namespace"))),
        None => own.cloned().ok_or_else(|| {
            InvalidField::new(
                &path,
                "is required: a policy without a namespace of its own must say whose service it is",
            )
        })?,
    };
    Ok(ServiceId { namespace, name })
}
