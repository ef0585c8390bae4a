//! What nodes say of BGP, where Calico has it.
//! In: a Node's annotations, or Calico's Node. Out: [`NodeBgp`].
//! Invariant: addresses are said with the length of their network, or without.
//! Never: a number or an address in the place of what cannot be read.

use crate::convert::InvalidField;
use model::NodeBgp;
use serde_json::Value;
use std::net::IpAddr;

/// Number, IPv4 address, IPv6 address, cluster of reflectors.
pub(crate) type Names = [&'static str; 4];

/// As annotations of a Node (libcalico-go/lib/backend/k8s/resources/node.go).
pub(crate) const ANNOTATIONS: Names = [
    "projectcalico.org/ASNumber",
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/RouteReflectorClusterID",
];
/// In `spec.bgp` of Calico's Node (libcalico-go/lib/apis/v3/node.go).
pub(crate) const FIELDS: Names = ["asNumber", "ipv4Address", "ipv6Address", "routeReflectorClusterID"];

/// A value as text.
pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.is_number().then(|| value.to_string()))
}

/// What is said under these names; `place` stands before a name where it is told to people.
pub(crate) fn read(
    (place, [number, v4, v6, cluster]): (&str, Names),
    said: impl Fn(&str) -> Option<String>,
    unreadable: &mut Vec<InvalidField>,
) -> NodeBgp {
    let said = |name: &str| said(name).filter(|text| !text.is_empty());
    let mut refused =
        |name: &str, reason: String| unreadable.push(InvalidField::new(&format!("{place}{name}"), reason));
    let as_number = said(number)
        .and_then(|text| text.parse().map_err(|expected| refused(number, format!("{text:?} is not {expected}"))).ok());
    let mut addresses = Vec::new();
    for (name, is_v4) in [(v4, true), (v6, false)] {
        let Some(text) = said(name) else { continue };
        let address = text.split('/').next().and_then(|address| address.parse::<IpAddr>().ok());
        match address.filter(|address| address.is_ipv4() == is_v4) {
            Some(address) => addresses.push(address),
            None => refused(name, format!("{text:?} is not an address of its family; the node's first is taken")),
        }
    }
    let cluster_id = said(cluster).and_then(|text| {
        let why = || format!("{text:?} is not an identity such as 244.0.0.1; the node reflects no routes");
        text.parse().map_err(|_| refused(cluster, why())).ok()
    });
    NodeBgp { as_number, addresses, cluster_id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::AsNumber;

    fn found(said: &[(&str, &str)]) -> (NodeBgp, Vec<String>) {
        let mut unreadable = Vec::new();
        let of = |name: &str| said.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let bgp = read(("spec.bgp.", FIELDS), of, &mut unreadable);
        (bgp, unreadable.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_node_says_its_number_its_addresses_and_what_it_reflects() {
        let (bgp, unreadable) = found(&[
            ("asNumber", "64600"),
            ("ipv4Address", "192.0.2.1/24"),
            ("ipv6Address", "2001:db8::1"),
            ("routeReflectorClusterID", "244.0.0.1"),
        ]);
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().expect("one"));
        assert_eq!((bgp.as_number, &*bgp.addresses), (Some(AsNumber(64600)), &addresses[..]));
        assert_eq!((bgp.cluster_id, unreadable.len()), (Some([244, 0, 0, 1].into()), 0));
    }

    #[test]
    fn what_cannot_be_read_is_not_there_and_is_named() {
        let (bgp, unreadable) =
            found(&[("asNumber", "x"), ("ipv4Address", "2001:db8::1"), ("routeReflectorClusterID", "one")]);
        assert_eq!(bgp, NodeBgp::default());
        assert_eq!(unreadable.len(), 3, "{unreadable:?}");
    }
}
