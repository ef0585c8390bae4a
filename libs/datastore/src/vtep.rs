//! Tunnel ends of nodes: read where Calico has them, told where others look for them.
//! In: a Node's annotations, Calico's Node, or [`NodeVteps`]. Out: [`Vteps`]; the same as a shared object of a directory.
//! Invariant: an end without an address is none; a MAC that nobody says is derived from the node's name.
//! Never: an end in the place of what cannot be read.

use crate::{Metadata, Object, ObjectError, Objects, convert::InvalidField};
use model::{Mac, NodeName, NodeVteps, Vtep, Vteps};
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use std::net::{IpAddr, Ipv4Addr};

pub(crate) const KIND: &str = "NodeVteps";
pub(crate) const API_VERSION: &str = "tortie.net/v1";

/// Where an address and its MAC stand, IPv4 first.
pub(crate) type Names = [[&'static str; 2]; 2];

/// Where the address within IPIP stands: as an annotation, and in the spec of Calico's Node, beside what it says of BGP.
pub(crate) const IPIP_ANNOTATION: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
pub(crate) const IPIP_FIELD: [&str; 2] = ["bgp", "ipv4IPIPTunnelAddr"];

/// As annotations of a Node (libcalico-go/lib/backend/k8s/resources/node.go).
pub(crate) const ANNOTATIONS: Names = [
    ["projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/VXLANTunnelMACAddr"],
    ["projectcalico.org/IPv6VXLANTunnelAddr", "projectcalico.org/VXLANTunnelMACAddrV6"],
];
/// In the spec of Calico's Node (libcalico-go/lib/apis/v3/node.go).
pub(crate) const FIELDS: Names =
    [["ipv4VXLANTunnelAddr", "vxlanTunnelMACAddr"], ["ipv6VXLANTunnelAddr", "vxlanTunnelMACAddrV6"]];

/// What is said under these names; `place` stands before a name where it is told to people.
pub(crate) fn read<'a>(
    node: &NodeName,
    (place, names): (&str, Names),
    said: impl Fn(&str) -> Option<&'a str>,
    unreadable: &mut Vec<InvalidField>,
) -> Vteps {
    let mut end = |[address, mac]: [&'static str; 2], is_v6: bool| {
        let mut refused = |name: &str, reason: String| {
            let reason = InvalidField::new(&format!("{place}{name}"), reason);
            unreadable.push(reason.so("this node has no tunnel of this family for others"));
            None
        };
        let text = said(address).filter(|text| !text.is_empty())?;
        let Some(found) = text.parse::<IpAddr>().ok().filter(|found| found.is_ipv6() == is_v6) else {
            let family = if is_v6 { "an IPv6" } else { "an IPv4" };
            return refused(address, format!("{text:?} is not {family} address"));
        };
        let mac = match said(mac).filter(|text| !text.is_empty()).map(str::parse::<Mac>) {
            None => vtep_mac(node, is_v6),
            Some(Ok(mac)) => mac,
            Some(Err(error)) => return refused(mac, error.to_string()),
        };
        Some(Vtep { address: found, mac })
    };
    let [v4, v6] = names;
    Vteps { v4: end(v4, false), v6: end(v6, true), ipip: None }
}

/// The address within IPIP; `place`: where it stands.
pub(crate) fn read_ipip(place: &str, said: Option<&str>, unreadable: &mut Vec<InvalidField>) -> Option<Ipv4Addr> {
    let text = said.filter(|text| !text.is_empty())?;
    let found = text.parse();
    if found.is_err() {
        let reason = InvalidField::new(place, format!("{text:?} is not an IPv4 address"));
        unreadable.push(reason.so("this node has no address within IPIP for others"));
    }
    found.ok()
}

/// What stands under each name where this is so; `None`: nothing.
pub(crate) fn told(vteps: &Vteps, names: Names) -> [(&'static str, Option<String>); 4] {
    let [[v4, v4_mac], [v6, v6_mac]] = names;
    let address = |end: Option<Vtep>| end.map(|end| end.address.to_string());
    let mac = |end: Option<Vtep>| end.map(|end| end.mac.to_string());
    [(v4, address(vteps.v4)), (v4_mac, mac(vteps.v4)), (v6, address(vteps.v6)), (v6_mac, mac(vteps.v6))]
}

/// The MAC of a node's tunnel device, where nobody says another (vtepMACForHost of felix/calc/vxlan_resolver.go): `f`, then the first
/// bytes of the name's SHA-1. For IPv6 Calico has a device of its own, and its name an ending.
#[must_use]
pub fn vtep_mac(node: &NodeName, is_v6: bool) -> Mac {
    let text = if is_v6 { format!("{node}-v6") } else { node.to_string() };
    let digest = Sha1::digest(text.as_bytes());
    let mut mac = [b'f'; 6];
    mac[1..].copy_from_slice(&digest[..5]);
    Mac(mac)
}

/// In a directory, whose Nodes are somebody else's to write.
pub(crate) fn tell(objects: &Objects, own: &NodeVteps) -> Result<(), ObjectError> {
    let name = own.node.to_string();
    let found = objects.get(KIND, &name)?;
    let spec = serde_json::to_value(own).unwrap_or(Value::Null);
    if found.as_ref().is_some_and(|found| found.spec == spec) {
        return Ok(());
    }
    let resource_version = found.map(|object| object.metadata.resource_version.unwrap_or_else(|| "0".to_owned()));
    let metadata = Metadata { name, resource_version };
    objects.write(&Object { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), metadata, spec }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(said: &[(&str, &str)]) -> (Vteps, Vec<String>) {
        let mut unreadable = Vec::new();
        let said = |name: &str| said.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let vteps = read(&"node1".into(), ("spec.", FIELDS), said, &mut unreadable);
        (vteps, unreadable.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_mac_is_derived_from_the_name_as_calico_does() {
        // printf node1 | sha1sum; printf node1-v6 | sha1sum
        assert_eq!(vtep_mac(&"node1".into(), false).to_string(), "66:f9:37:c3:7e:94");
        assert_eq!(vtep_mac(&"node1".into(), true).to_string(), "66:0f:35:f2:60:df");
    }

    #[test]
    fn an_end_is_an_address_with_the_mac_that_is_said_or_derived() {
        let (vteps, unreadable) = found(&[
            ("ipv4VXLANTunnelAddr", "10.65.1.0"),
            ("ipv6VXLANTunnelAddr", "fd00:65::1"),
            ("vxlanTunnelMACAddrV6", "66:00:00:00:00:06"),
        ]);
        let (v4, v6) = (vteps.v4.expect("one of IPv4"), vteps.v6.expect("one of IPv6"));
        assert_eq!((v4.address.to_string(), v4.mac), ("10.65.1.0".into(), vtep_mac(&"node1".into(), false)));
        assert_eq!((v6.address.to_string(), v6.mac.to_string()), ("fd00:65::1".into(), "66:00:00:00:00:06".into()));
        assert!(unreadable.is_empty());
        assert_eq!(found(&[("vxlanTunnelMACAddr", "66:00:00:00:00:04")]).0, Vteps::default(), "a MAC alone is none");
        let told: Vec<_> = told(&vteps, FIELDS).into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        assert_eq!(found(&told.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>()).0, vteps);
    }

    #[test]
    fn what_cannot_be_read_is_no_end_and_is_named() {
        for said in [
            [("ipv4VXLANTunnelAddr", "here"), ("", "")],
            [("ipv4VXLANTunnelAddr", "fd00:65::1"), ("", "")],
            [("ipv4VXLANTunnelAddr", "10.65.1.0"), ("vxlanTunnelMACAddr", "66:00")],
        ] {
            let (vteps, unreadable) = found(&said);
            assert_eq!(vteps, Vteps::default(), "{said:?}");
            assert!(unreadable[0].starts_with("spec.") && unreadable[0].contains("no tunnel"), "{unreadable:?}");
        }
    }

    #[test]
    fn what_an_agent_tells_of_its_node_is_written_once_and_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::open(dir.path()).expect("a store");
        let vteps = Vteps {
            v4: Some(Vtep { address: [10, 65, 1, 0].into(), mac: Mac([2; 6]) }),
            ipip: Some([10, 65, 1, 9].into()),
            v6: None,
        };
        let own = NodeVteps { node: "n1".into(), vteps };
        let version = || objects.get(KIND, "n1").expect("readable").expect("it").metadata.resource_version;
        tell(&objects, &own).expect("told");
        let first = version();
        tell(&objects, &own).expect("told again");
        assert_eq!(version(), first);
        let (found, problems) = crate::snapshot::directory(dir.path()).expect("read");
        assert_eq!(found, [model::Resource::NodeVteps(own)]);
        assert!(problems.is_empty(), "{problems:?}");
    }
}
