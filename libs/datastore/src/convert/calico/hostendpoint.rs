//! HostEndpoint.
//! In: Calico's HostEndpoint (api/pkg/apis/projectcalico/v3/hostendpoint.go). Out: [`model::HostEndpoint`].
//! Invariant: it says of which node it is, and which interface is meant, by name or by address.
//! Never: one of which a part was not understood: what it was to guard would stand open.

use super::{
    super::{
        field::{InvalidField, Meta, is_object_name, read, spec},
        port,
    },
    metadata::complain_of_reserved,
    rule,
};
use crate::crds::{checks, shapes};
use model::{HostEndpoint, HostInterface, IfaceName, NamedPort, NodeName, PortName};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// An interface of a node that policies may select.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = checks::of(checks::HOST_ENDPOINT)))]
pub(crate) struct Spec {
    /// The node.
    node: Option<String>,
    /// The interface's name, or "*" for all of the node.
    #[schemars(length(max = 15))]
    interface_name: Option<String>,
    /// Addresses by which the interface is found where it is not named, and by which rules select it.
    #[serde(rename = "expectedIPs")]
    #[schemars(with = "Option<Vec<shapes::Address>>", length(max = 1024))]
    expected_ips: Option<Vec<String>>,
    /// Profiles, in the order in which they are asked.
    profiles: Option<Vec<String>>,
    /// Names of ports, for rules.
    #[schemars(length(max = 1024))]
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Port {
    /// The name.
    name: String,
    /// TCP, UDP, SCTP or a number.
    #[schemars(with = "shapes::Protocol")]
    protocol: Value,
    /// The number.
    #[schemars(with = "u16", range(min = 1))]
    port: Value,
}

pub(in super::super) fn convert(
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<HostEndpoint, InvalidField> {
    spec(object)?;
    let spec: Spec = read("spec", object)?;
    let interface = interface(spec.interface_name.as_deref().unwrap_or_default())?;
    let expected_ips = each("spec.expectedIPs", spec.expected_ips, expected)?;
    if interface.is_none() && expected_ips.is_empty() {
        let reason = "is required where no address is expected: the name of an interface, or \"*\" for all of the node";
        return Err(InvalidField::new("spec.interfaceName", reason));
    }
    let profiles = each("spec.profiles", spec.profiles, profile)?;
    if let Some((index, name)) = profiles.iter().enumerate().find(|(index, name)| profiles[..*index].contains(name)) {
        return Err(InvalidField::new(&format!("spec.profiles[{index}]"), format!("{name:?} stands there twice")));
    }
    let labels = meta.labels();
    complain_of_reserved(&labels, unreadable);
    Ok(HostEndpoint {
        name: meta.name.clone(),
        node: node(spec.node.unwrap_or_default())?,
        interface,
        expected_ips,
        labels,
        profiles,
        ports: each("spec.ports", spec.ports, named)?,
    })
}

fn each<W, T>(
    path: &str,
    written: Option<Vec<W>>,
    read: impl Fn(&str, W) -> Result<T, InvalidField>,
) -> Result<Vec<T>, InvalidField> {
    let written = written.unwrap_or_default().into_iter().enumerate();
    written.map(|(index, value)| read(&format!("{path}[{index}]"), value)).collect()
}

fn node(name: String) -> Result<NodeName, InvalidField> {
    if is_object_name(&name) {
        return Ok(NodeName(name.into()));
    }
    Err(InvalidField::new("spec.node", format!("{name:?} is not the name of a node; it is required")))
}

/// As Linux allows: no slash, no space, at most 15.
fn interface(name: &str) -> Result<Option<HostInterface>, InvalidField> {
    let allowed = |c: char| c.is_ascii_graphic() && !"/:*".contains(c);
    match name {
        "" => Ok(None),
        "*" => Ok(Some(HostInterface::Any)),
        name if name.len() <= 15 && name.chars().all(allowed) && ![".", ".."].contains(&name) => {
            Ok(Some(HostInterface::Named(IfaceName(name.to_owned()))))
        }
        other => {
            let reason = format!("{other:?} is neither the name of an interface such as eth0 nor \"*\"");
            Err(InvalidField::new("spec.interfaceName", reason))
        }
    }
}

fn expected(path: &str, text: String) -> Result<IpAddr, InvalidField> {
    text.parse().map_err(|_| InvalidField::new(path, format!("{text:?} is not an address such as 192.0.2.1")))
}

fn profile(path: &str, name: String) -> Result<String, InvalidField> {
    if is_object_name(&name) {
        return Ok(name);
    }
    Err(InvalidField::new(path, format!("{name:?} is not the name of a profile")))
}

fn named(path: &str, port: Port) -> Result<NamedPort, InvalidField> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if port.name.is_empty() || port.name.len() > 128 || !port.name.chars().all(allowed) {
        let reason = format!("{:?} is not a port name: letters, digits, '_', '.' and '-', at most 128", port.name);
        return Err(InvalidField::new(&format!("{path}.name"), reason));
    }
    let at = format!("{path}.protocol");
    let protocol = rule::protocol(&at, Some(&port.protocol))?.filter(|protocol| protocol.has_ports());
    Ok(NamedPort {
        name: PortName(port.name.into()),
        protocol: protocol
            .ok_or_else(|| InvalidField::new(&at, format!("{} is none of TCP, UDP and SCTP", port.protocol)))?,
        port: port::number(&format!("{path}.port"), &port.port)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::tests::{known, refusal},
        *,
    };
    use model::{Protocol, Resource};

    fn text(spec: &str) -> String {
        let metadata = "{name: n1-eth0, labels: {role: edge}}";
        format!("{{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {metadata}, spec: {spec}}}")
    }

    fn host(text: &str) -> (HostEndpoint, Vec<String>) {
        match known(text) {
            (Resource::HostEndpoint(host), unreadable) => (host, unreadable),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hep_11_it_means_an_interface_by_name_all_of_them_or_one_by_its_address() {
        let interface = |spec: &str| host(&text(spec)).0.interface;
        let named = |name: &str| Some(HostInterface::Named(IfaceName(name.into())));
        assert_eq!(interface("{node: n1, interfaceName: eth0}"), named("eth0"));
        assert_eq!(interface("{node: n1, interfaceName: bond0.100, expectedIPs: []}"), named("bond0.100"));
        assert_eq!(interface("{node: n1, interfaceName: '*'}"), Some(HostInterface::Any));
        assert_eq!(interface("{node: n1, interfaceName: '', expectedIPs: [192.0.2.1]}"), None);
        for (spec, field) in [
            ("{node: n1}", "spec.interfaceName: is required where"),
            ("{node: n1, interfaceName: eth*}", "spec.interfaceName: \"eth*\" is neither"),
            ("{node: n1, interfaceName: sixteen-letters-}", "spec.interfaceName: "),
            ("{node: n1, interfaceName: a b}", "spec.interfaceName: "),
            ("{node: n1, expectedIPs: [192.0.2.0/24]}", "spec.expectedIPs[0]: \"192.0.2.0/24\" is not an address"),
            ("{interfaceName: eth0}", "spec.node: "),
            ("{node: N 1, interfaceName: eth0}", "spec.node: \"N 1\" is not the name of a node"),
            ("{node: n1, interfaceName: eth0, profiles: [a, B]}", "spec.profiles[1]: \"B\" is not"),
            ("{node: n1, interfaceName: eth0, profiles: [a, b, a]}", "spec.profiles[2]: \"a\" stands there twice"),
            ("{node: n1, interface: eth0}", "spec.interface: unknown field"),
        ] {
            let said = refusal(&text(spec));
            assert!(said.starts_with(field), "{spec}: {said}");
        }
    }

    #[test]
    fn cal_25_hep_13_it_has_ports_with_names_profiles_in_order_and_labels() {
        let (host, unreadable) = host(&text(
            "{node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1, '2001:db8::1'], profiles: [b, projectcalico-default-allow],
              ports: [{name: http_alt, protocol: TCP, port: 8080}, {name: dns, protocol: 17, port: 53}]}",
        ));
        assert_eq!(unreadable, [""; 0]);
        assert_eq!((host.name.as_str(), &*host.node.0, host.expected_ips.len()), ("n1-eth0", "n1", 2));
        assert_eq!(host.labels.get("role"), Some("edge"));
        assert_eq!(host.profiles, ["b", "projectcalico-default-allow"]);
        let ports: Vec<_> = host.ports.iter().map(|port| (&*port.name.0, port.protocol, port.port)).collect();
        assert_eq!(ports, [("http_alt", Protocol::TCP, 8080), ("dns", Protocol::UDP, 53)]);
        let with = |port: &str| refusal(&text(&format!("{{node: n1, interfaceName: eth0, ports: [{port}]}}")));
        assert!(with("{name: a b, protocol: TCP, port: 1}").starts_with("spec.ports[0].name: "));
        assert!(with("{name: a, protocol: ICMP, port: 1}").starts_with("spec.ports[0].protocol: "));
        assert!(with("{name: a, protocol: TCP, port: 0}").starts_with("spec.ports[0].port: 0 is not"));
        assert!(with("{name: a, protocol: TCP, port: '80'}").starts_with("spec.ports[0].port: "));
    }

    #[test]
    fn it_is_read_as_calico_stores_it_and_labels_that_calico_gives_are_spoken_of() {
        let annotation = "{projectcalico.org/metadata: '{\"labels\": {\"role\": \"edge\", \"projectcalico.org/namespace\": \"shop\"}}'}";
        let stored = format!(
            "{{apiVersion: crd.projectcalico.org/v1, kind: HostEndpoint, metadata: {{name: h, annotations: {annotation}}},
              spec: {{node: n1, interfaceName: eth0}}}}"
        );
        let (host, unreadable) = host(&stored);
        assert_eq!(host.labels.get("role"), Some("edge"));
        assert!(unreadable[0].starts_with("metadata.labels[projectcalico.org/namespace]: "), "{unreadable:?}");
    }
}
