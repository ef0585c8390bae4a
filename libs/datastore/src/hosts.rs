//! Host endpoints of nodes, as calico-kube-controllers makes them (kube-controllers/pkg/controllers/node/hostendpoints.go).
//! In: Nodes as Kubernetes or Calico has them, host endpoints that are there, and which are wanted. Out: what to make, to change and to
//! remove.
//! Invariant: one that does not carry the label of those controllers is somebody else's, whatever its name.
//! Never: writes.

use crate::{
    census::{CONTROLLERS, DEFAULT},
    convert::is_object_name,
    interfaces,
};
use data_encoding::BASE64URL_NOPAD;
use model::{Cidr, Labels, Selector, Truth};
use regex_lite::Regex;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, net::IpAddr};

/// Their kind.
pub(crate) const KIND: &str = "HostEndpoint";
/// By which they are told from those of others.
const CREATED_BY: (&str, &str) = ("projectcalico.org/created-by", "calico-kube-controllers");
/// What lets all through where no policy says otherwise.
const PROFILES: [&str; 1] = ["projectcalico-default-allow"];
/// Where a Node says an address that it has among nodes, as annotation of Kubernetes' and within the spec of Calico's, in the order in
/// which Calico names them.
const ADDRESSES: [(&str, &str); 7] = [
    ("projectcalico.org/IPv4Address", "/bgp/ipv4Address"),
    ("projectcalico.org/IPv6Address", "/bgp/ipv6Address"),
    ("projectcalico.org/IPv4IPIPTunnelAddr", "/bgp/ipv4IPIPTunnelAddr"),
    ("projectcalico.org/IPv4VXLANTunnelAddr", "/ipv4VXLANTunnelAddr"),
    ("projectcalico.org/IPv6VXLANTunnelAddr", "/ipv6VXLANTunnelAddr"),
    ("projectcalico.org/IPv4WireguardInterfaceAddr", "/wireguard/interfaceIPv4Address"),
    ("projectcalico.org/IPv6WireguardInterfaceAddr", "/wireguard/interfaceIPv6Address"),
];
/// No name is longer.
const NAME_MAX: usize = 253;
/// What every name ends with.
const SUFFIX: &str = "auto-hep";

/// What host endpoints are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    name: String,
    labels: BTreeMap<String, String>,
    /// Addresses that it says of itself, each once; those of its interfaces last.
    addresses: Vec<IpAddr>,
    interfaces: Vec<(String, Vec<IpAddr>)>,
}

impl Node {
    /// As the API server has it; `None`: it has no name.
    pub(crate) fn of_kubernetes(node: &Value) -> Option<Self> {
        let name = node.pointer("/metadata/name").and_then(Value::as_str)?;
        let annotations = strings(node.pointer("/metadata/annotations"));
        let said = ADDRESSES.iter().filter_map(|(key, _)| annotations.get(*key).cloned()).collect();
        let interfaces = annotations.get(interfaces::ANNOTATION).and_then(|text| serde_json::from_str(text).ok());
        Some(Self::of(name, node, (said, node.pointer("/status/addresses")), interfaces.as_ref()))
    }

    /// As Calico keeps it in etcd, under this name.
    pub(crate) fn of_calico(name: &str, node: &Value) -> Self {
        let spec = &node["spec"];
        let said = ADDRESSES.iter().filter_map(|(_, at)| Some(spec.pointer(at)?.as_str()?.to_owned())).collect();
        Self::of(name, node, (said, spec.get("addresses")), spec.get(interfaces::FIELD))
    }

    fn of(name: &str, node: &Value, (said, listed): (Vec<String>, Option<&Value>), interfaces: Option<&Value>) -> Self {
        let all = listed.and_then(Value::as_array).into_iter().flatten();
        let internal = all.filter(|address| address["type"] == "InternalIP");
        let internal = internal.filter_map(|own| address(own["address"].as_str()?));
        let interfaces = interfaces::read(interfaces);
        let said = said.iter().filter_map(|text| address(text)).chain(internal);
        let said: Vec<_> = said.chain(interfaces.iter().flat_map(|(_, own)| own.iter().copied())).collect();
        let addresses = with(&[], &said);
        Self { name: name.to_owned(), labels: strings(node.pointer("/metadata/labels")), addresses, interfaces }
    }
}

/// These, and of those what is not among them.
fn with(these: &[IpAddr], those: &[IpAddr]) -> Vec<IpAddr> {
    let mut all = these.to_vec();
    for address in those {
        if !all.contains(address) {
            all.push(*address);
        }
    }
    all
}

/// Which host endpoints nodes are to have; none, where that is switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// One of all interfaces.
    has_default: bool,
    templates: Vec<Template>,
}

/// One host endpoint of each node that is selected and has an address in these networks; or one for each of its interfaces that are
/// called so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    name: String,
    selector: Selector,
    networks: Vec<Cidr>,
    interfaces: Option<Pattern>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Of interfaces' names.
#[derive(Clone, Debug)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

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

    /// Those of a node, each with its name.
    pub(crate) fn of_node(&self, node: &Node) -> Vec<(String, Host)> {
        let view: Labels = node.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let selecting = self.templates.iter().filter(|template| template.selector.matches(&view) == Truth::Yes);
        let default = self.has_default.then(|| {
            let host = Host::made(node.labels.clone(), BTreeMap::new(), spec(node, Some("*"), &node.addresses));
            (named(&[&node.name]), host)
        });
        default.into_iter().chain(selecting.flat_map(|template| template.of(node))).collect()
    }
}

fn spec(node: &Node, interface: Option<&str>, addresses: &[IpAddr]) -> Value {
    let mut spec = json!({ "node": node.name, "profiles": PROFILES });
    if let Some(name) = interface {
        spec["interfaceName"] = name.into();
    }
    if !addresses.is_empty() {
        spec["expectedIPs"] = json!(addresses);
    }
    spec
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
        let text = |field: &str| given[field].as_str().unwrap_or_default();
        let interfaces = match text("interfacePattern") {
            "" => None,
            said => Some(Pattern(Regex::new(said).map_err(|error| format!(".interfacePattern: {said:?}: {error}"))?)),
        };
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
        let networks = networks.map(network).collect::<Result<_, _>>()?;
        Ok(Self { name, selector, networks, interfaces, labels, annotations })
    }

    /// Of a node: none, where it has no such address or interface.
    fn of(&self, node: &Node) -> Vec<(String, Host)> {
        let is_in = |address: &&IpAddr| self.networks.iter().any(|network| network.contains(**address));
        let expected: Vec<_> = node.addresses.iter().filter(is_in).copied().collect();
        let mut labels = node.labels.clone();
        labels.extend(self.labels.clone());
        let host = |spec| Host::made(labels.clone(), self.annotations.clone(), spec);
        let Some(Pattern(pattern)) = &self.interfaces else {
            // Without an address it would be of every interface.
            let made =
                (!expected.is_empty()).then(|| (named(&[&node.name, &self.name]), host(spec(node, None, &expected))));
            return made.into_iter().collect();
        };
        let called = node.interfaces.iter().filter(|(name, _)| pattern.is_match(name));
        let made = called.map(|(name, own)| {
            (named(&[&node.name, &self.name, name]), host(spec(node, Some(name), &with(&expected, own))))
        });
        made.collect()
    }
}

/// One that is too long is told from others by what it would be.
fn named(parts: &[&str]) -> String {
    let name = format!("{}-{SUFFIX}", parts.join("-"));
    if name.len() <= NAME_MAX {
        return name;
    }
    let hash = BASE64URL_NOPAD.encode(&Sha256::digest(&name)).replace(['-', '_'], "").to_lowercase();
    format!("{hash}-{SUFFIX}")
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

impl Step {
    /// Of which it is, and what is said of it once it is done.
    pub(crate) fn said(&self) -> (&str, String) {
        let (name, what) = match self {
            Self::Make(name, _) => (name, "was made"),
            Self::Change(name, _) => (name, "follows its node"),
            Self::Remove(name) => (name, "was removed"),
        };
        (name, format!("{KIND} {name} {what}"))
    }
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
        let annotations = json!({ "projectcalico.org/IPv4Address": "192.0.2.1/24" });
        json!({
            "metadata": { "name": name, "labels": labels, "annotations": annotations },
            "status": { "addresses": [
                { "type": "Hostname", "address": name }, { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "ExternalIP", "address": "203.0.113.1" }, { "type": "InternalIP", "address": "2001:db8::1" } ] },
        })
    }

    fn made_of(wanted: &Wanted, node: &Value) -> Vec<(String, Host)> {
        wanted.of_node(&Node::of_kubernetes(node).expect("it has a name"))
    }

    fn by_default(name: &str, labels: Value) -> (String, Host) {
        made_of(&wanted(json!({ "autoCreate": "Enabled" })), &node(name, labels)).remove(0)
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
        assert!(made_of(&wanted, &node("n2", json!({ "role": "db" }))).is_empty(), "it is not selected");
        let made = made_of(&wanted, &node("n1", json!({ "role": "edge", "a": "b" })));
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
        assert!(made_of(&wanted, &elsewhere).is_empty(), "without an address it would be of every interface");
    }

    #[test]
    fn hep_13_a_template_makes_one_for_each_interface_that_is_called_so_with_its_addresses_beside_those_of_the_networks()
     {
        let said = r#"[{"name": "eth0", "addresses": ["192.0.2.1"]}, {"name": "eth1", "addresses": ["10.0.0.7", "no"]},
            {"name": "wlan0", "addresses": []}]"#;
        let mut node = node("n1", json!({}));
        node["metadata"]["annotations"]["projectcalico.org/Interfaces"] = said.into();
        let template =
            json!({ "generateName": "if", "interfacePattern": "^eth|lan", "interfaceCIDRs": ["2001:db8::/32"] });
        let said = json!({ "autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled", "templates": [template] });
        let made = made_of(&wanted(said), &node);
        let of = |(name, host): &(String, Host)| {
            (name.clone(), host.spec["interfaceName"].clone(), host.spec["expectedIPs"].clone())
        };
        let expected = [
            ("n1-if-eth0-auto-hep".to_owned(), json!("eth0"), json!(["2001:db8::1", "192.0.2.1"])),
            ("n1-if-eth1-auto-hep".to_owned(), json!("eth1"), json!(["2001:db8::1", "10.0.0.7"])),
            ("n1-if-wlan0-auto-hep".to_owned(), json!("wlan0"), json!(["2001:db8::1"])),
        ];
        assert_eq!(made.iter().map(of).collect::<Vec<_>>(), expected);
        let (_, default) = made_of(&wanted(json!({ "autoCreate": "Enabled" })), &node).remove(0);
        assert_eq!(
            default.spec["expectedIPs"],
            json!(["192.0.2.1", "2001:db8::1", "10.0.0.7"]),
            "and those of interfaces"
        );
        node["metadata"]["annotations"]["projectcalico.org/Interfaces"] = "no list".into();
        let only = wanted(template_alone());
        assert!(made_of(&only, &node).is_empty(), "nobody knows of any interface");
    }

    fn template_alone() -> Value {
        let mut said = template(json!({ "interfacePattern": "." }));
        said["createDefaultHostEndpoint"] = "Disabled".into();
        said["templates"] = json!([said["templates"][0]]);
        said
    }

    #[test]
    fn hep_13_calicos_own_node_says_the_same_as_that_of_kubernetes() {
        let mut kubernetes = node("n1", json!({ "role": "edge" }));
        kubernetes["metadata"]["annotations"] = json!({
            "projectcalico.org/IPv4Address": "192.0.2.1/24", "projectcalico.org/IPv6Address": "2001:db8::1/64",
            "projectcalico.org/IPv4IPIPTunnelAddr": "10.65.0.1", "projectcalico.org/IPv4VXLANTunnelAddr": "10.65.0.2",
            "projectcalico.org/IPv6VXLANTunnelAddr": "fd00::2", "projectcalico.org/IPv4WireguardInterfaceAddr": "10.65.0.3",
            "projectcalico.org/IPv6WireguardInterfaceAddr": "fd00::3",
            "projectcalico.org/Interfaces": r#"[{"name": "eth1", "addresses": ["10.0.0.7"]}]"#,
        });
        kubernetes["status"]["addresses"] = json!([{ "type": "InternalIP", "address": "192.0.2.9" }]);
        let calico = json!({ "metadata": { "name": "others", "labels": { "role": "edge" } }, "spec": {
            "bgp": { "ipv4Address": "192.0.2.1/24", "ipv6Address": "2001:db8::1/64", "ipv4IPIPTunnelAddr": "10.65.0.1" },
            "ipv4VXLANTunnelAddr": "10.65.0.2", "ipv6VXLANTunnelAddr": "fd00::2",
            "wireguard": { "interfaceIPv4Address": "10.65.0.3", "interfaceIPv6Address": "fd00::3" },
            "addresses": [{ "address": "192.0.2.9", "type": "InternalIP" }, { "address": "203.0.113.1", "type": "ExternalIP" }],
            "interfaces": [{ "name": "eth1", "addresses": ["10.0.0.7"] }] } });
        let of_calico = Node::of_calico("n1", &calico);
        assert_eq!(Some(&of_calico), Node::of_kubernetes(&kubernetes).as_ref());
        assert_eq!(of_calico.addresses.len(), 9);
    }

    #[test]
    fn hep_13_a_name_that_is_too_long_is_calicos_hash_of_it() {
        let long = "n".repeat(250);
        // SHA-256 of the name that is too long, in base64url without '-' and '_', in small letters.
        assert_eq!(named(&[&long]), "fsetawr4cyeogg79xle7sas6qytoq8j2wa55iiu0owe-auto-hep");
        assert_eq!(named(&["n1", "front", "eth0"]), "n1-front-eth0-auto-hep");
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
            (template(json!({ "interfacePattern": "eth[" })), ".templates[0].interfacePattern: \"eth[\""),
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
