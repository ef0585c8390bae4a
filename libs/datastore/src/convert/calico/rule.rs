//! Rules of Calico's policies and profiles.
//! In: the list of one direction. Out: a [`Rule`] for each, in its place.
//! Invariant: a rule of which any part cannot be read stays in its place as an unreadable one, with its action.
//! Never: a rule without the part that could not be read; an action that was only guessed to allow.

use super::{
    super::field::{InvalidField, read_at},
    entity, service,
};
use crate::crds::{checks, shapes};
use model::{Action, Direction, Family, IcmpMatch, Labels, NamespaceName, PortMatch, Protocol, Rule};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// What becomes of packets that match all of this.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = checks::of(checks::RULE)))]
pub(super) struct Written {
    /// Allow, Deny, Pass to the next tier, or Log and go on.
    #[serde(rename = "action")]
    #[schemars(extend("enum" = ["Allow", "Deny", "Pass", "Log"]))]
    _action: String,
    /// 4 or 6.
    #[schemars(extend("enum" = [4, 6]))]
    ip_version: Option<u8>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number.
    #[schemars(with = "Option<shapes::Protocol>")]
    protocol: Option<Value>,
    /// Every protocol but this.
    #[schemars(with = "Option<shapes::Protocol>")]
    not_protocol: Option<Value>,
    /// Messages of this type and code.
    icmp: Option<Icmp>,
    /// Every message but these.
    #[serde(rename = "notICMP")]
    not_icmp: Option<Icmp>,
    /// Who sends.
    #[schemars(with = "Option<entity::Entity>")]
    source: Option<Value>,
    /// Who receives.
    #[schemars(with = "Option<entity::Entity>")]
    destination: Option<Value>,
    /// Requests, which are not looked into here: such a rule allows nothing, or denies everything.
    http: Option<Value>,
    /// What is noted of the rule.
    metadata: Option<Metadata>,
}

#[derive(Deserialize, JsonSchema)]
struct Metadata {
    /// Notes, by name.
    #[schemars(with = "Option<std::collections::BTreeMap<String, String>>")]
    annotations: Option<Labels>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = checks::of(checks::ICMP)))]
struct Icmp {
    /// 0 to 254.
    #[serde(rename = "type")]
    #[schemars(range(max = 254))]
    kind: Option<u8>,
    /// 0 to 255, beside its type.
    code: Option<u8>,
}

/// The rules of one direction. `namespace`: that of a namespaced policy.
pub(super) fn rules(
    direction: Direction,
    written: &[Value],
    namespace: Option<&NamespaceName>,
    unreadable: &mut Vec<InvalidField>,
) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(written.len());
    for (index, value) in written.iter().enumerate() {
        let place = u16::try_from(index).unwrap_or(u16::MAX);
        let path = format!("spec.{direction}[{index}]");
        let action = action(&format!("{path}.action"), value);
        let read =
            action.clone().and_then(|action| rule((&path, direction), value, Rule::new(place, action), namespace));
        rules.push(read.unwrap_or_else(|error| {
            // What may have been meant as a deny refuses.
            let action = action.unwrap_or(Action::Deny);
            let rule = Rule::unreadable(place, action, &error);
            unreadable.push(error.so_the_rule(action));
            rule
        }));
    }
    rules
}

/// Capitalised, as the API has them (CAL-9).
fn action(path: &str, value: &Value) -> Result<Action, InvalidField> {
    match value.get("action") {
        Some(Value::String(text)) => match text.as_str() {
            "Allow" => Ok(Action::Allow),
            "Deny" => Ok(Action::Deny),
            "Pass" => Ok(Action::Pass),
            "Log" => Ok(Action::Log),
            other => Err(InvalidField::new(path, format!("{other:?} is not Allow, Deny, Pass or Log"))),
        },
        _ => Err(InvalidField::new(path, "is required: Allow, Deny, Pass or Log")),
    }
}

fn rule(
    (path, direction): (&str, Direction),
    value: &Value,
    bare: Rule,
    namespace: Option<&NamespaceName>,
) -> Result<Rule, InvalidField> {
    let written: Written = read_at(path, value)?;
    let field = |name: &str| format!("{path}.{name}");
    if written.http.is_some() {
        let reason = "requests are not looked into; without that, the rule would match all of its connections";
        return Err(InvalidField::new(&field("http"), reason));
    }
    let rule = Rule {
        family: family(&field("ipVersion"), written.ip_version)?,
        protocol: protocol(&field("protocol"), written.protocol.as_ref())?,
        not_protocol: protocol(&field("notProtocol"), written.not_protocol.as_ref())?,
        icmp: icmp(&field("icmp"), written.icmp.as_ref())?,
        not_icmp: icmp(&field("notICMP"), written.not_icmp.as_ref())?,
        source: entity::convert(&field("source"), written.source.as_ref(), namespace)?,
        destination: entity::convert(&field("destination"), written.destination.as_ref(), namespace)?,
        service: service::convert(path, direction, value, namespace)?,
        annotations: written.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default(),
        ..bare
    };
    ports_have_a_protocol(path, &rule)?;
    icmp_has_its_protocol(path, &rule, written.icmp.is_some())?;
    Ok(rule)
}

fn family(path: &str, version: Option<u8>) -> Result<Option<Family>, InvalidField> {
    match version {
        None => Ok(None),
        Some(4) => Ok(Some(Family::V4)),
        Some(6) => Ok(Some(Family::V6)),
        Some(other) => Err(InvalidField::new(path, format!("{other} is neither 4 nor 6"))),
    }
}

/// A name, or a number written as number or text (CAL-20).
pub(super) fn protocol(path: &str, value: Option<&Value>) -> Result<Option<Protocol>, InvalidField> {
    let text = match value {
        None => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.parse().map(Some).map_err(|error| InvalidField::new(path, error))
}

/// Types are 0 to 254, and a code stands beside its type (CAL-29). Nothing given asks for nothing.
fn icmp(path: &str, written: Option<&Icmp>) -> Result<Option<IcmpMatch>, InvalidField> {
    match written {
        Some(Icmp { kind: Some(u8::MAX), .. }) => {
            Err(InvalidField::new(&format!("{path}.type"), "255 is not a type from 0 to 254"))
        }
        Some(Icmp { kind: None, code: Some(code) }) => {
            Err(InvalidField::new(&format!("{path}.code"), format!("{code} needs a type beside it")))
        }
        Some(Icmp { kind: Some(kind), code }) => Ok(Some(IcmpMatch { kind: *kind, code: *code })),
        Some(Icmp { kind: None, code: None }) | None => Ok(None),
    }
}

/// Numbers need TCP, UDP or SCTP beside them (CAL-21); a name brings its own protocol (CAL-23).
fn ports_have_a_protocol(path: &str, rule: &Rule) -> Result<(), InvalidField> {
    let with_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    for (end, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (field, ports) in [("ports", entity.ports.as_deref().unwrap_or_default()), ("notPorts", &entity.not_ports)]
        {
            let named = ports.iter().all(|port| matches!(port, PortMatch::Named(_)));
            if !rule.protocol.map_or(named, |protocol| ports.is_empty() || with_ports.contains(&protocol)) {
                let reason = "needs protocol TCP, UDP or SCTP in the rule; only names may stand without a protocol";
                return Err(InvalidField::new(&format!("{path}.{end}.{field}"), reason));
            }
        }
    }
    Ok(())
}

fn icmp_has_its_protocol(path: &str, rule: &Rule, asked: bool) -> Result<(), InvalidField> {
    let field = |name: &str| format!("{path}.{name}");
    if asked && !matches!(rule.protocol, Some(Protocol::ICMP | Protocol::ICMPV6)) {
        return Err(InvalidField::new(&field("icmp"), "needs protocol ICMP or ICMPv6 in the rule"));
    }
    for (name, protocol) in [("protocol", rule.protocol), ("notProtocol", rule.not_protocol)] {
        let family = match protocol {
            Some(Protocol::ICMP) => Family::V4,
            Some(Protocol::ICMPV6) => Family::V6,
            _ => continue,
        };
        if rule.family.is_some_and(|wanted| wanted != family) {
            let reason = "ICMP goes with ipVersion 4, ICMPv6 with 6; change one of them";
            return Err(InvalidField::new(&field(name), reason));
        }
    }
    Ok(())
}
