//! Subjects and peers of a ClusterNetworkPolicy.
//! In: what selects pods, nodes or networks. Out: a selector, or one end of a rule.
//! Invariant: exactly one way to select is given, and it is one that is known.
//! Never: a network set or a host-network pod where pods are asked for (CNP-8, CNP-11).

use super::{
    super::{
        field::{InvalidField, read_at},
        selector::LabelSelector,
    },
    at_least_one,
};
use model::{Action, Cidr, Direction, EntityMatch, Selector};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    namespaces: Option<LabelSelector>,
    pods: Option<Pods>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pods {
    namespace_selector: Option<LabelSelector>,
    pod_selector: Option<LabelSelector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    namespaces: Option<LabelSelector>,
    pods: Option<Pods>,
    nodes: Option<LabelSelector>,
    networks: Option<Vec<String>>,
    domain_names: Option<Value>,
}

/// The pods that a policy is for (CNP-4).
pub(super) fn subject(path: &str, value: &Value) -> Result<Selector, InvalidField> {
    let subject: Subject = read_at(path, value)?;
    match (subject.namespaces, subject.pods) {
        (Some(namespaces), None) => in_namespaces(&format!("{path}.namespaces"), &namespaces),
        (None, Some(chosen)) => pods(&format!("{path}.pods"), &chosen),
        _ => Err(InvalidField::new(path, "must give exactly one of namespaces and pods")),
    }
}

/// The other ends of a rule.
pub(super) fn peers(
    path: &str,
    direction: Direction,
    written: &[Value],
    action: Action,
) -> Result<Vec<EntityMatch>, InvalidField> {
    let read = |(index, value)| {
        let path = format!("{path}[{index}]");
        let peer: Peer = read_at(&path, value)?;
        match direction {
            Direction::Ingress => from(&path, &peer),
            Direction::Egress => to(&path, &peer, action),
        }
    };
    at_least_one(path, written)?.iter().enumerate().map(read).collect()
}

/// Nothing but pods can be told by where traffic comes from.
fn from(path: &str, peer: &Peer) -> Result<EntityMatch, InvalidField> {
    match peer {
        Peer { namespaces, pods, nodes: None, networks: None, domain_names: None } => {
            selected(path, namespaces.as_ref(), pods.as_ref())
        }
        _ => Err(InvalidField::new(path, "must give namespaces or pods; the rest is for egress rules only")),
    }
}

fn to(path: &str, peer: &Peer, action: Action) -> Result<EntityMatch, InvalidField> {
    match peer {
        Peer { namespaces, pods, nodes: None, networks: None, domain_names: None } => {
            selected(path, namespaces.as_ref(), pods.as_ref())
        }
        Peer { namespaces: None, pods: None, nodes: Some(nodes), networks: None, domain_names: None } => {
            let nodes = nodes.selector(&format!("{path}.nodes"))?;
            Ok(EntityMatch { nodes: Some(nodes.into()), ..EntityMatch::default() })
        }
        Peer { namespaces: None, pods: None, nodes: None, networks: Some(nets), domain_names: None } => {
            networks(&format!("{path}.networks"), nets)
        }
        Peer { namespaces: None, pods: None, nodes: None, networks: None, domain_names: Some(_) } => {
            let reason = match action {
                Action::Allow => "names are not resolved here; give networks instead",
                _ => "may stand in an Accept rule only; give networks instead",
            };
            Err(InvalidField::new(&format!("{path}.domainNames"), reason))
        }
        _ => Err(InvalidField::new(path, "must give exactly one of namespaces, pods, nodes, networks and domainNames")),
    }
}

fn selected(
    path: &str,
    namespaces: Option<&LabelSelector>,
    chosen: Option<&Pods>,
) -> Result<EntityMatch, InvalidField> {
    let selector = match (namespaces, chosen) {
        (Some(namespaces), None) => in_namespaces(&format!("{path}.namespaces"), namespaces)?,
        (None, Some(chosen)) => pods(&format!("{path}.pods"), chosen)?,
        // A peer whose every field is unknown to this version has none that is known: not everybody (CNP-10).
        _ => return Err(InvalidField::new(path, "must give exactly one way to select the peer")),
    };
    Ok(EntityMatch { selector: Some(selector.into()), ..EntityMatch::default() })
}

fn in_namespaces(path: &str, namespaces: &LabelSelector) -> Result<Selector, InvalidField> {
    Ok(Selector::pods_of(namespaces.selector(path)?.of_namespaces(), Selector::All))
}

/// No namespaceSelector: any namespace.
fn pods(path: &str, chosen: &Pods) -> Result<Selector, InvalidField> {
    let Some(own) = &chosen.pod_selector else {
        return Err(InvalidField::new(&format!("{path}.podSelector"), "is required; {} selects all"));
    };
    let own = own.selector(&format!("{path}.podSelector"))?;
    let namespaces = match &chosen.namespace_selector {
        Some(namespaces) => namespaces.selector(&format!("{path}.namespaceSelector"))?,
        None => Selector::All,
    };
    Ok(Selector::pods_of(namespaces.of_namespaces(), own))
}

/// CNP-13.
fn networks(path: &str, written: &[String]) -> Result<EntityMatch, InvalidField> {
    super::at_most(path, written.len(), super::ENTRIES_MAX)?;
    let net = |(index, text): (usize, &String)| {
        text.parse::<Cidr>().map_err(|error| InvalidField::new(&format!("{path}[{index}]"), error))
    };
    let nets: Box<[Cidr]> = written.iter().enumerate().map(net).collect::<Result<_, _>>()?;
    if nets.is_empty() {
        return Err(InvalidField::new(path, "must have an entry at least"));
    }
    Ok(EntityMatch { nets: Some(nets), ..EntityMatch::default() })
}
