//! Calico's Node, as it lies in etcd.
//! In: a Node (libcalico-go/lib/apis/v3/node.go). Out: [`model::Node`].
//! Invariant: the addresses by which nodes reach each other come first.
//! Never: an address twice.

use super::super::{
    InvalidField,
    field::{Meta, read},
};
use crate::{bgp, vtep};
use model::{Family, Node, Prefixed, ToldAddresses};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Deserialize)]
struct Spec {
    bgp: Option<Bgp>,
    addresses: Option<Vec<Address>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bgp {
    ipv4_address: Option<String>,
    ipv6_address: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

pub(in super::super) fn convert(
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Node, InvalidField> {
    let spec: Spec = read("spec", object)?;
    let (mut addresses, mut told) = (Vec::new(), ToldAddresses::default());
    let bgp = spec.bgp.unwrap_or_default();
    let own = [
        ("spec.bgp.ipv4Address", bgp.ipv4_address, Family::V4),
        ("spec.bgp.ipv6Address", bgp.ipv6_address, Family::V6),
    ];
    for (path, text, family) in own {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let found = address(path, &text)?;
            add(&mut addresses, found.address());
            if Family::of(found.address()) == family {
                *told.of_mut(family) = Some(found);
            }
        }
    }
    for (index, entry) in spec.addresses.unwrap_or_default().into_iter().enumerate() {
        add(&mut addresses, address(&format!("spec.addresses[{index}].address"), &entry.address)?.address());
    }
    let name = meta.name.as_str().into();
    let said = |name: &str| object.get("spec")?.get(name)?.as_str();
    let mut vteps = vtep::read(&name, ("spec.", vtep::FIELDS), said, unreadable);
    let [part, field] = vtep::IPIP_FIELD;
    let of_ipip = object.get("spec").and_then(|spec| spec.get(part)?.get(field)?.as_str());
    vteps.ipip = vtep::read_ipip(&format!("spec.{part}.{field}"), of_ipip, unreadable);
    let bgp =
        bgp::read(("spec.bgp.", bgp::FIELDS), |name| bgp::text(object.pointer("/spec/bgp")?.get(name)?), unreadable);
    Ok(Node { name, addresses, labels: meta.labels(), pod_cidrs: Vec::new(), vteps, told, bgp })
}

fn add(addresses: &mut Vec<IpAddr>, address: IpAddr) {
    if !addresses.contains(&address) {
        addresses.push(address);
    }
}

/// With the length of its network, or without.
fn address(path: &str, text: &str) -> Result<Prefixed, InvalidField> {
    text.parse()
        .map_err(|_| InvalidField::new(path, format!("{text:?} is not an address such as 192.0.2.1 or 192.0.2.1/24")))
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{known, refusal};
    use model::Resource;

    fn text(spec: &str) -> String {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: n1, labels: {{a: b}}}}, spec: {spec}}}"
        )
    }

    #[test]
    fn a_node_has_the_address_of_bgp_first_and_each_once() {
        let Resource::Node(node) = known(&text(
            "{bgp: {asNumber: 64512, ipv4Address: 192.0.2.1/24, ipv6Address: '2001:db8::1/64'},
              addresses: [{address: 192.0.2.1/24, type: CalicoNodeIP}, {address: 198.51.100.7, type: InternalIP}]}",
        ))
        .0
        else {
            panic!("a node")
        };
        let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1", "2001:db8::1", "198.51.100.7"]);
        assert_eq!((&*node.name.0, node.labels.get("a")), ("n1", Some("b")));
        assert!(refusal(&text("{bgp: {ipv4Address: here}}")).starts_with("spec.bgp.ipv4Address: \"here\" is not"));
        assert!(refusal(&text("{addresses: [{address: 192.0.2.1/99}]}")).starts_with("spec.addresses[0].address: "));
    }
}
