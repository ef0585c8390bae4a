//! Host endpoints of nodes, as calico-kube-controllers makes them (kube-controllers/pkg/controllers/node/hostendpoints.go).
//! In: Node objects, host endpoints that are there, and whether they are wanted. Out: what to make, to change and to remove.
//! Invariant: one that does not carry the label of those controllers is somebody else's, whatever its name.
//! Never: writes.

use crate::census::{CONTROLLERS, DEFAULT};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// By which they are told from those of others.
const CREATED_BY: (&str, &str) = ("projectcalico.org/created-by", "calico-kube-controllers");
/// Annotations of a Node with addresses that it has among nodes, in the order in which Calico names them.
const ADDRESSES: [&str; 5] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
];

/// Whether nodes are to have host endpoints, by the spec of the controllers' settings; `None`: nothing is said, and nothing is done.
///
/// # Errors
/// What is said means nothing, or more than is done here.
pub fn are_wanted(spec: &Value) -> Result<Option<bool>, String> {
    let field = "spec.controllers.node.hostEndpoint";
    let failed = |what: String| Err(format!("{CONTROLLERS} {DEFAULT}: {field}{what}"));
    let given = spec.pointer("/controllers/node/hostEndpoint").unwrap_or(&Value::Null);
    let is_wanted = match given["autoCreate"].as_str() {
        None if given["autoCreate"].is_null() => return Ok(None),
        Some("Enabled") => true,
        Some("Disabled") => false,
        _ => return failed(format!(".autoCreate: {} is neither Enabled nor Disabled", given["autoCreate"])),
    };
    if is_wanted && given["createDefaultHostEndpoint"] == "Disabled" {
        return failed(".createDefaultHostEndpoint: Disabled is not understood here: none is made".to_owned());
    }
    if is_wanted && given["templates"].as_array().is_some_and(|templates| !templates.is_empty()) {
        return failed(".templates: are not understood here: none is made".to_owned());
    }
    Ok(Some(is_wanted))
}

/// A host endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) spec: Value,
}

impl Host {
    /// That of a node, by its Node object, and its name.
    pub(crate) fn of_node(node: &Value) -> Option<(String, Self)> {
        let name = node.pointer("/metadata/name")?.as_str()?;
        let mut labels = strings(node.pointer("/metadata/labels"));
        labels.insert(CREATED_BY.0.to_owned(), CREATED_BY.1.to_owned());
        let spec = json!({
            "node": name, "interfaceName": "*", "expectedIPs": expected(node), "profiles": ["projectcalico-default-allow"],
        });
        Some((format!("{name}-auto-hep"), Self { labels, spec }))
    }

    /// Whether Calico's controllers, or who does their work, made it.
    fn is_made(&self) -> bool {
        self.labels.get(CREATED_BY.0).is_some_and(|by| by == CREATED_BY.1)
    }

    fn node(&self) -> &str {
        self.spec["node"].as_str().unwrap_or_default()
    }

    /// Whether it says what the other does, of what Calico's controllers compare.
    fn is_as(&self, other: &Self) -> bool {
        let same = |field: &str| self.spec[field] == other.spec[field];
        self.labels == other.labels && same("expectedIPs") && same("interfaceName")
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Make(String, Host),
    Change(String, Host),
    Remove(String),
}

/// What makes those that are there what they are to be; `nodes`: all that there are.
pub(crate) fn steps(there: &BTreeMap<String, Host>, nodes: &BTreeMap<String, Host>, is_wanted: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, wanted) in nodes.iter().filter(|_| is_wanted) {
        match there.get(name) {
            None => steps.push(Step::Make(name.clone(), wanted.clone())),
            Some(own) if own.is_made() && !own.is_as(wanted) => steps.push(Step::Change(name.clone(), wanted.clone())),
            Some(_) => {}
        }
    }
    let known: BTreeSet<&str> = nodes.values().map(Host::node).collect();
    let is_over = |own: &Host| own.is_made() && (!is_wanted || !known.contains(own.node()));
    steps.extend(there.iter().filter(|(_, own)| is_over(own)).map(|(name, _)| Step::Remove(name.clone())));
    steps
}

fn expected(node: &Value) -> Vec<IpAddr> {
    let annotations = strings(node.pointer("/metadata/annotations"));
    let annotated = ADDRESSES.iter().filter_map(|key| address(annotations.get(*key)?));
    let all = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let internal =
        all.filter(|address| address["type"] == "InternalIP").filter_map(|own| address(own["address"].as_str()?));
    let mut expected = Vec::new();
    for address in annotated.chain(internal) {
        if !expected.contains(&address) {
            expected.push(address);
        }
    }
    expected
}

fn address(text: &str) -> Option<IpAddr> {
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    address.parse().ok()
}

pub(crate) fn strings(map: Option<&Value>) -> BTreeMap<String, String> {
    let fields = map.and_then(Value::as_object).into_iter().flat_map(Map::iter);
    fields.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, labels: Value) -> (String, Host) {
        let node = json!({
            "metadata": { "name": name, "labels": labels, "annotations": { "projectcalico.org/IPv4Address": "192.0.2.1/24" } },
            "status": { "addresses": [
                { "type": "Hostname", "address": name }, { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "ExternalIP", "address": "203.0.113.1" }, { "type": "InternalIP", "address": "2001:db8::1" } ] },
        });
        Host::of_node(&node).expect("a node")
    }

    #[test]
    fn hep_13_a_nodes_host_endpoint_is_calicos() {
        let (name, host) = node("n1", json!({ "role": "edge" }));
        assert_eq!(name, "n1-auto-hep");
        let spec = json!({ "node": "n1", "interfaceName": "*", "expectedIPs": ["192.0.2.1", "2001:db8::1"],
            "profiles": ["projectcalico-default-allow"] });
        assert_eq!(host.spec, spec);
        let labels = [("projectcalico.org/created-by", "calico-kube-controllers"), ("role", "edge")];
        assert_eq!(host.labels, labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn they_come_and_go_with_their_nodes_and_those_of_others_are_left_alone() {
        let nodes: BTreeMap<_, _> = [node("n1", json!({})), node("n2", json!({ "a": "b" }))].into();
        let made = steps(&BTreeMap::new(), &nodes, true);
        assert!(matches!(&made[..], [Step::Make(..), Step::Make(..)]), "{made:?}");
        assert!(steps(&nodes, &nodes, true).is_empty());
        let mut there = nodes.clone();
        there.get_mut("n2-auto-hep").expect("it").labels.remove("a");
        there.extend([node("n3", json!({}))]);
        let mut others = node("n4", json!({})).1;
        others.labels.clear();
        there.insert("n1-auto-hep".into(), others.clone());
        there.insert("by-hand".into(), others);
        let done = steps(&there, &nodes, true);
        let expected =
            [Step::Change("n2-auto-hep".into(), nodes["n2-auto-hep"].clone()), Step::Remove("n3-auto-hep".into())];
        assert_eq!(done, expected);
        let off = steps(&there, &nodes, false);
        assert_eq!(off, [Step::Remove("n2-auto-hep".into()), Step::Remove("n3-auto-hep".into())]);
    }

    #[test]
    fn what_is_said_of_them_is_understood_or_named() {
        let of = |said: Value| are_wanted(&json!({ "controllers": { "node": { "hostEndpoint": said } } }));
        assert_eq!(are_wanted(&json!({})), Ok(None));
        assert_eq!(of(json!({ "autoCreate": "Enabled" })), Ok(Some(true)));
        assert_eq!(of(json!({ "autoCreate": "Disabled", "templates": [{}] })), Ok(Some(false)));
        for said in [
            json!({ "autoCreate": "yes" }),
            json!({ "autoCreate": "Enabled", "templates": [{}] }),
            json!({ "autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled" }),
        ] {
            assert!(of(said.clone()).is_err_and(|error| error.contains("hostEndpoint.")), "{said}");
        }
    }
}
