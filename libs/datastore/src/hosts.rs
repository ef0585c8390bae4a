//! Host endpoints of nodes, as calico-kube-controllers makes them (kube-controllers/pkg/controllers/node/hostendpoints.go).
//! In: Node objects, host endpoints that are there, and which are wanted. Out: what to make, to change and to remove.
//! Invariant: one that does not carry the label of those controllers is somebody else's, whatever its name.
//! Never: writes.

use crate::{
    census::{CONTROLLERS, DEFAULT},
    convert::is_object_name,
};
use model::{Cidr, Labels, Selector, Truth};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, net::IpAddr};

/// By which they are told from those of others.
const CREATED_BY: (&str, &str) = ("projectcalico.org/created-by", "calico-kube-controllers");
/// What lets all through where no policy says otherwise.
const PROFILES: [&str; 1] = ["projectcalico-default-allow"];
/// Annotations of a Node with addresses that it has among nodes, in the order in which Calico names them.
const ADDRESSES: [&str; 5] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
];

/// Which host endpoints nodes are to have; none, where that is switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// One of all interfaces.
    has_default: bool,
    templates: Vec<Template>,
}

/// One host endpoint of each node that is selected and has an address in these networks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    name: String,
    selector: Selector,
    networks: Vec<Cidr>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Wanted {
    /// By the spec of the controllers' settings; `None`: nothing is said, and nothing is done.
    ///
    /// # Errors
    /// What is said means nothing, or more than is done here.
    pub fn of(spec: &Value) -> Result<Option<Self>, String> {
        let given = spec.pointer("/controllers/node/hostEndpoint").unwrap_or(&Value::Null);
        Self::read(given).map_err(|what| {
            format!("{CONTROLLERS} {DEFAULT}: spec.controllers.node.hostEndpoint{what}; nothing is done")
        })
    }

    fn read(given: &Value) -> Result<Option<Self>, String> {
        match choice(given, "autoCreate")? {
            None => return Ok(None),
            Some(false) => return Ok(Some(Self::default())),
            Some(true) => {}
        }
        let has_default = choice(given, "createDefaultHostEndpoint")?.unwrap_or(true);
        let templates = given["templates"].as_array().into_iter().flatten().enumerate();
        let read = |(number, given)| Template::read(given).map_err(|what| format!(".templates[{number}]{what}"));
        Ok(Some(Self { has_default, templates: templates.map(read).collect::<Result<_, _>>()? }))
    }

    /// Whether nodes have none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.has_default && self.templates.is_empty()
    }

    /// Those of a node, by its Node object, each with its name.
    pub(crate) fn of_node(&self, node: &Value) -> Vec<(String, Host)> {
        let Some(name) = node.pointer("/metadata/name").and_then(Value::as_str) else { return Vec::new() };
        let (labels, addresses) = (strings(node.pointer("/metadata/labels")), expected(node));
        let view: Labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let selecting = self.templates.iter().filter(|template| template.selector.matches(&view) == Truth::Yes);
        let made = selecting.filter_map(|template| template.of(name, &labels, &addresses));
        let default = self.has_default.then(|| {
            let spec = json!({
                "node": name, "interfaceName": "*", "expectedIPs": addresses, "profiles": PROFILES,
            });
            (named(&[name]), Host::made(labels.clone(), BTreeMap::new(), spec))
        });
        default.into_iter().chain(made).collect()
    }
}

/// Enabled or Disabled.
fn choice(given: &Value, field: &str) -> Result<Option<bool>, String> {
    match &given[field] {
        Value::Null => Ok(None),
        Value::String(said) if said == "Enabled" => Ok(Some(true)),
        Value::String(said) if said == "Disabled" => Ok(Some(false)),
        other => Err(format!(".{field}: {other} is neither Enabled nor Disabled")),
    }
}

impl Template {
    fn read(given: &Value) -> Result<Self, String> {
        if given["interfacePattern"].as_str().is_some_and(|pattern| !pattern.is_empty()) {
            return Err(".interfacePattern: is not understood here".to_owned());
        }
        let text = |field: &str| given[field].as_str().unwrap_or_default();
        let name = text("generateName").to_owned();
        if !is_object_name(&name) {
            return Err(format!(
                ".generateName: {name:?} is no part of a name: letters and digits in lower case, '-' and '.'"
            ));
        }
        let selector = match text("nodeSelector") {
            "" => Selector::All,
            said => said.parse().map_err(|error| format!(".nodeSelector: {error}"))?,
        };
        let networks = given["interfaceCIDRs"].as_array().into_iter().flatten();
        let network =
            |given: &Value| given.as_str().unwrap_or_default().parse().map_err(|why| format!(".interfaceCIDRs: {why}"));
        let (labels, annotations) = (strings(given.get("labels")), strings(given.get("annotations")));
        Ok(Self { name, selector, networks: networks.map(network).collect::<Result<_, _>>()?, labels, annotations })
    }

    /// Of a node; `None`: it has no such address.
    fn of(&self, node: &str, labels: &BTreeMap<String, String>, addresses: &[IpAddr]) -> Option<(String, Host)> {
        let is_in = |address: &&IpAddr| self.networks.iter().any(|network| network.contains(**address));
        let expected: Vec<_> = addresses.iter().filter(is_in).collect();
        let spec = json!({ "node": node, "expectedIPs": expected, "profiles": PROFILES });
        let mut labels = labels.clone();
        labels.extend(self.labels.clone());
        (!expected.is_empty()).then(|| (named(&[node, &self.name]), Host::made(labels, self.annotations.clone(), spec)))
    }
}

fn named(parts: &[&str]) -> String {
    format!("{}-auto-hep", parts.join("-"))
}

/// A host endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) spec: Value,
}

impl Host {
    fn made(mut labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>, spec: Value) -> Self {
        labels.insert(CREATED_BY.0.to_owned(), CREATED_BY.1.to_owned());
        Self { labels, annotations, spec }
    }

    /// Whether Calico's controllers, or who does their work, made it.
    fn is_made(&self) -> bool {
        self.labels.get(CREATED_BY.0).is_some_and(|by| by == CREATED_BY.1)
    }

    /// Whether it says what the other does, of what Calico's controllers compare.
    fn is_as(&self, other: &Self) -> bool {
        let same = |field: &str| self.spec[field] == other.spec[field];
        let is_named_alike = self.labels == other.labels && self.annotations == other.annotations;
        is_named_alike && same("expectedIPs") && same("interfaceName")
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Make(String, Host),
    Change(String, Host),
    Remove(String),
}

/// What makes those that are there what they are to be; `wanted`: all of all nodes.
pub(crate) fn steps(there: &BTreeMap<String, Host>, wanted: &BTreeMap<String, Host>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, wanted) in wanted {
        match there.get(name) {
            None => steps.push(Step::Make(name.clone(), wanted.clone())),
            Some(own) if own.is_made() && !own.is_as(wanted) => steps.push(Step::Change(name.clone(), wanted.clone())),
            Some(_) => {}
        }
    }
    let is_over = |(name, own): &(&String, &Host)| own.is_made() && !wanted.contains_key(*name);
    steps.extend(there.iter().filter(is_over).map(|(name, _)| Step::Remove(name.clone())));
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

    fn wanted(said: Value) -> Wanted {
        let spec = json!({ "controllers": { "node": { "hostEndpoint": said } } });
        Wanted::of(&spec).expect("understood").expect("something is said")
    }

    fn node(name: &str, labels: Value) -> Value {
        json!({
            "metadata": { "name": name, "labels": labels, "annotations": { "projectcalico.org/IPv4Address": "192.0.2.1/24" } },
            "status": { "addresses": [
                { "type": "Hostname", "address": name }, { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "ExternalIP", "address": "203.0.113.1" }, { "type": "InternalIP", "address": "2001:db8::1" } ] },
        })
    }

    fn by_default(name: &str, labels: Value) -> (String, Host) {
        wanted(json!({ "autoCreate": "Enabled" })).of_node(&node(name, labels)).remove(0)
    }

    #[test]
    fn hep_13_a_nodes_host_endpoint_is_calicos() {
        let (name, host) = by_default("n1", json!({ "role": "edge" }));
        assert_eq!(name, "n1-auto-hep");
        let spec = json!({ "node": "n1", "interfaceName": "*", "expectedIPs": ["192.0.2.1", "2001:db8::1"],
            "profiles": ["projectcalico-default-allow"] });
        assert_eq!(host.spec, spec);
        let labels = [("projectcalico.org/created-by", "calico-kube-controllers"), ("role", "edge")];
        assert_eq!(host.labels, labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn hep_13_a_template_makes_one_of_each_node_that_it_selects_and_that_has_an_address_there() {
        let template = json!({ "generateName": "front", "interfaceCIDRs": ["192.0.2.0/25", "10.0.0.0/8"],
            "nodeSelector": "role == 'edge'", "labels": { "role": "front" }, "annotations": { "who": "we" } });
        let said = json!({ "autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled", "templates": [template] });
        let wanted = wanted(said);
        assert!(!wanted.is_none());
        assert!(wanted.of_node(&node("n2", json!({ "role": "db" }))).is_empty(), "it is not selected");
        let made = wanted.of_node(&node("n1", json!({ "role": "edge", "a": "b" })));
        let [(name, host)] = &made[..] else { panic!("{made:?}") };
        assert_eq!(name, "n1-front-auto-hep");
        let spec = json!({ "node": "n1", "expectedIPs": ["192.0.2.1"], "profiles": ["projectcalico-default-allow"] });
        assert_eq!(host.spec, spec, "of those that lie in its networks, and of no interface");
        let labels = [("a", "b"), ("projectcalico.org/created-by", "calico-kube-controllers"), ("role", "front")];
        assert_eq!(host.labels, labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(host.annotations, [("who".to_owned(), "we".to_owned())].into());
        let mut elsewhere = node("n1", json!({ "role": "edge" }));
        elsewhere["metadata"]["annotations"] = json!({});
        elsewhere["status"]["addresses"] = json!([{ "type": "InternalIP", "address": "172.16.0.1" }]);
        assert!(wanted.of_node(&elsewhere).is_empty(), "without an address it would be of every interface");
    }

    #[test]
    fn they_come_and_go_with_their_nodes_and_those_of_others_are_left_alone() {
        let nodes: BTreeMap<_, _> = [by_default("n1", json!({})), by_default("n2", json!({ "a": "b" }))].into();
        let made = steps(&BTreeMap::new(), &nodes);
        assert!(matches!(&made[..], [Step::Make(..), Step::Make(..)]), "{made:?}");
        assert!(steps(&nodes, &nodes).is_empty());
        let mut there = nodes.clone();
        there.get_mut("n2-auto-hep").expect("it").labels.remove("a");
        there.extend([by_default("n3", json!({}))]);
        let mut others = by_default("n4", json!({})).1;
        others.labels.clear();
        there.insert("n1-auto-hep".into(), others.clone());
        there.insert("by-hand".into(), others);
        let done = steps(&there, &nodes);
        let expected =
            [Step::Change("n2-auto-hep".into(), nodes["n2-auto-hep"].clone()), Step::Remove("n3-auto-hep".into())];
        assert_eq!(done, expected);
        let off = steps(&there, &BTreeMap::new());
        assert_eq!(off, [Step::Remove("n2-auto-hep".into()), Step::Remove("n3-auto-hep".into())]);
        there.get_mut("n2-auto-hep").expect("it").annotations.insert("a".into(), "b".into());
        there.get_mut("n2-auto-hep").expect("it").labels.insert("a".into(), "b".into());
        assert!(matches!(&steps(&there, &nodes)[0], Step::Change(..)), "annotations are compared, too");
    }

    #[test]
    fn what_is_said_of_them_is_understood_or_named() {
        let of = |said: Value| Wanted::of(&json!({ "controllers": { "node": { "hostEndpoint": said } } }));
        assert_eq!(Wanted::of(&json!({})), Ok(None));
        assert!(
            of(json!({ "autoCreate": "Disabled", "templates": [{}] })).expect("understood").expect("said").is_none()
        );
        for (said, field) in [
            (json!({ "autoCreate": "yes" }), ".autoCreate: \"yes\""),
            (json!({ "autoCreate": "Enabled", "createDefaultHostEndpoint": "no" }), ".createDefaultHostEndpoint"),
            (json!({ "autoCreate": "Enabled", "templates": [{}] }), ".templates[0].generateName"),
            (
                json!({ "autoCreate": "Enabled", "templates": [{ "generateName": "Front" }] }),
                ".templates[0].generateName",
            ),
            (template(json!({ "interfacePattern": "eth.*" })), ".templates[0].interfacePattern"),
            (template(json!({ "interfaceCIDRs": ["10.0.0.0"] })), ".templates[0].interfaceCIDRs: \"10.0.0.0\""),
            (template(json!({ "nodeSelector": "a ==" })), ".templates[0].nodeSelector"),
        ] {
            assert!(
                of(said.clone()).is_err_and(|error| error.contains(&format!("hostEndpoint{field}"))),
                "{said} {:?}",
                of(said.clone())
            );
        }
    }

    fn template(mut with: Value) -> Value {
        with["generateName"] = "a".into();
        json!({ "autoCreate": "Enabled", "templates": [with] })
    }
}
