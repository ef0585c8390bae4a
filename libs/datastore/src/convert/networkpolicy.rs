//! NetworkPolicy of Kubernetes.
//! In: a `networking.k8s.io/v1` NetworkPolicy. Out: [`Policy`]; one [`Rule`] per peer and protocol of a written rule.
//! Invariant: a part that cannot be read leaves an unreadable rule in its place, and never a rule without that part.
//! Never: reads on past an unknown field of the spec: a misspelt `from` must not mean "from everywhere".

use super::{
    combine::{Service, combine},
    field::{self, InvalidField, Meta, read, read_at},
    port,
    selector::LabelSelector,
};
use model::{
    Action, Cidr, Direction, EntityMatch, Layer, NamespaceName, Order, Policy, PolicyId, PolicyKind, PolicyTypes,
    PortMatch, PortRange, Protocol, Rule, Selector, TierName,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    pod_selector: Option<LabelSelector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<Value>>,
    egress: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    from: Option<Vec<Value>>,
    ports: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    to: Option<Vec<Value>>,
    ports: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<IpBlock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IpBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Port {
    protocol: Option<String>,
    port: Option<Value>,
    end_port: Option<u16>,
}

pub(super) fn convert(meta: &Meta, object: &Value, unreadable: &mut Vec<InvalidField>) -> Result<Policy, InvalidField> {
    field::spec(object)?;
    let spec: Spec = read("spec", object)?;
    let namespace = meta.namespace();
    let types = policy_types(&spec)?;
    let pods = spec.pod_selector.unwrap_or_else(LabelSelector::everything).selector("spec.podSelector")?;
    let mut rules = |direction, applies: bool, written: Option<Vec<Value>>| {
        let mut section = Section { direction, namespace: &namespace, unreadable: &mut *unreadable };
        // A section whose direction is not isolated has no effect (NP-51).
        written.filter(|_| applies).map(|written| section.rules(&written)).unwrap_or_default()
    };
    let ingress = rules(Direction::Ingress, types.ingress, spec.ingress);
    let egress = rules(Direction::Egress, types.egress, spec.egress);
    Ok(Policy {
        subject: Selector::pods_of(Selector::in_namespace(&namespace), pods).into(),
        id: PolicyId { name: meta.name.as_str().into(), namespace, kind: PolicyKind::KubernetesNetworkPolicy },
        tier: TierName::DEFAULT.into(),
        order: Order::KUBERNETES,
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        types,
        ingress: ingress.into(),
        egress: egress.into(),
    })
}

/// Absent or empty: ingress always, egress if it has a rule (NP-50).
fn policy_types(spec: &Spec) -> Result<PolicyTypes, InvalidField> {
    let written = spec.policy_types.as_deref().unwrap_or_default();
    if written.is_empty() {
        let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        return Ok(PolicyTypes { ingress: true, egress });
    }
    field::policy_types("spec.policyTypes", written)
}

/// One of the two lists of rules.
struct Section<'a> {
    direction: Direction,
    namespace: &'a NamespaceName,
    unreadable: &'a mut Vec<InvalidField>,
}

/// Peers or protocols of a rule, and the entries that could not be read.
type Parts<T> = (Vec<T>, Vec<InvalidField>);

impl Section<'_> {
    fn rules(&mut self, written: &[Value]) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (index, value) in written.iter().enumerate() {
            let place = u16::try_from(index).unwrap_or(u16::MAX);
            let path = format!("spec.{}[{index}]", self.direction);
            let errors = match self.rule(&path, value, &Rule::new(place, Action::Allow)) {
                Ok((read, errors)) => {
                    rules.extend(read);
                    errors
                }
                Err(error) => vec![error],
            };
            for error in errors {
                rules.push(Rule::unreadable(place, Action::Allow, &error));
                self.unreadable.push(error.so("this part matches nothing"));
            }
        }
        rules
    }

    fn rule(&self, path: &str, value: &Value, bare: &Rule) -> Result<Parts<Rule>, InvalidField> {
        let (peers_field, peers, ports) = match self.direction {
            Direction::Ingress => {
                let rule: IngressRule = read_at(path, value)?;
                ("from", rule.from, rule.ports)
            }
            Direction::Egress => {
                let rule: EgressRule = read_at(path, value)?;
                ("to", rule.to, rule.ports)
            }
        };
        let (peers, mut errors) = self.peers(&format!("{path}.{peers_field}"), &peers.unwrap_or_default());
        let (services, port_errors) = services(&format!("{path}.ports"), &ports.unwrap_or_default());
        errors.extend(port_errors);
        Ok((combine(bare, self.direction, &peers, &services), errors))
    }

    /// No peer given: everybody (NP-62). Peers given and none readable: nobody.
    fn peers(&self, path: &str, written: &[Value]) -> Parts<EntityMatch> {
        if written.is_empty() {
            return (vec![EntityMatch::default()], Vec::new());
        }
        let read = |(index, value)| self.peer(&format!("{path}[{index}]"), value);
        partition(written.iter().enumerate().map(read))
    }

    fn peer(&self, path: &str, value: &Value) -> Result<EntityMatch, InvalidField> {
        let peer: Peer = read_at(path, value)?;
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match peer.ip_block {
            Some(_) if selects => Err(InvalidField::new(path, "ipBlock cannot stand beside a selector")),
            Some(block) => ip_block(&format!("{path}.ipBlock"), &block),
            None if selects => self.selected(path, &peer),
            None => Err(InvalidField::new(path, "must give podSelector, namespaceSelector or ipBlock")),
        }
    }

    /// Pods alone are pods of the policy's own namespace (NP-3).
    fn selected(&self, path: &str, peer: &Peer) -> Result<EntityMatch, InvalidField> {
        let pods = peer
            .pod_selector
            .as_ref()
            .map_or(Ok(Selector::All), |selector| selector.selector(&format!("{path}.podSelector")))?;
        let namespaces = match &peer.namespace_selector {
            None => Selector::in_namespace(self.namespace),
            Some(selector) => selector.selector(&format!("{path}.namespaceSelector"))?.of_namespaces(),
        };
        Ok(EntityMatch { selector: Some(Selector::pods_of(namespaces, pods).into()), ..EntityMatch::default() })
    }
}

fn partition<T>(read: impl Iterator<Item = Result<T, InvalidField>>) -> Parts<T> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for part in read {
        match part {
            Ok(part) => good.push(part),
            Err(error) => bad.push(error),
        }
    }
    (good, bad)
}

fn ip_block(path: &str, block: &IpBlock) -> Result<EntityMatch, InvalidField> {
    let cidr: Cidr = block.cidr.parse().map_err(|error| InvalidField::new(&format!("{path}.cidr"), error))?;
    let mut not_nets = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let path = format!("{path}.except[{index}]");
        let hole: Cidr = text.parse().map_err(|error| InvalidField::new(&path, error))?;
        if !cidr.covers(&hole) || cidr == hole {
            return Err(InvalidField::new(&path, format!("{hole} is not inside {cidr}, or is all of it")));
        }
        not_nets.push(hole);
    }
    Ok(EntityMatch { nets: Some([cidr].into()), not_nets: not_nets.into(), ..EntityMatch::default() })
}

/// No port given: any protocol (NP-63). An entry without a port number opens its whole protocol (NP-30).
fn services(path: &str, written: &[Value]) -> Parts<Service> {
    if written.is_empty() {
        return (vec![Service::ANY], Vec::new());
    }
    let (entries, errors) =
        partition(written.iter().enumerate().map(|(index, value)| port(&format!("{path}[{index}]"), value)));
    let mut by_protocol: BTreeMap<Protocol, Option<Vec<PortMatch>>> = BTreeMap::new();
    for (protocol, ports) in entries {
        let known = by_protocol.entry(protocol).or_insert_with(|| Some(Vec::new()));
        *known = known.take().zip(ports).map(|(mut known, port)| {
            known.push(port);
            known
        });
    }
    let service =
        |(protocol, ports): (_, Option<Vec<_>>)| Service { protocol: Some(protocol), ports: ports.map(Into::into) };
    (by_protocol.into_iter().map(service).collect(), errors)
}

/// `None`: every port of the protocol.
fn port(path: &str, value: &Value) -> Result<(Protocol, Option<PortMatch>), InvalidField> {
    let port: Port = read_at(path, value)?;
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::TCP,
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        Some(other) => {
            let reason = format!("{other:?} is not TCP, UDP or SCTP");
            return Err(InvalidField::new(&format!("{path}.protocol"), reason));
        }
    };
    Ok((protocol, port_match(path, &port)?))
}

/// NP-46: `endPort` only beside a number, and not below it.
fn port_match(path: &str, written: &Port) -> Result<Option<PortMatch>, InvalidField> {
    let end_path = format!("{path}.endPort");
    match (&written.port, written.end_port) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(InvalidField::new(&end_path, "needs a port to start from")),
        (Some(Value::String(_)), Some(_)) => Err(InvalidField::new(&end_path, "cannot follow a named port")),
        (Some(Value::String(name)), None) => Ok(Some(PortMatch::Named(port::name(&format!("{path}.port"), name)?))),
        (Some(number), end) => {
            let first = port::number(&format!("{path}.port"), number)?;
            let range = PortRange::new(first, end.unwrap_or(first));
            range.map(|range| Some(PortMatch::Range(range))).map_err(|error| InvalidField::new(&end_path, error))
        }
    }
}
