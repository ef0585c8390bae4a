//! Node.
//! In: a `v1` Node. Out: [`model::Node`].
//! Invariant: every address of the status that is an IP address is there, internal ones first, then what was found for it; names are not.
//! Never: resolves a host name.

use super::{
    InvalidField,
    field::{Meta, read},
};
use crate::{bgp, node_addresses, vtep};
use model::{Cidr, Node, ToldAddresses};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

pub(super) fn convert(meta: &Meta, object: &Value, unreadable: &mut Vec<InvalidField>) -> Result<Node, InvalidField> {
    let status: Status = read("status", object)?;
    let spec: Spec = read("spec", object)?;
    let mut addresses: Vec<(bool, IpAddr)> = Vec::new();
    for (index, entry) in status.addresses.unwrap_or_default().into_iter().enumerate() {
        if !["InternalIP", "ExternalIP"].contains(&entry.kind.as_str()) {
            continue;
        }
        let address = entry.address.parse().map_err(|_| {
            let path = format!("status.addresses[{index}].address");
            InvalidField::new(&path, format!("{:?} is not an IP address", entry.address))
        })?;
        addresses.push((entry.kind != "InternalIP", address));
    }
    addresses.sort_by_key(|(is_external, _)| *is_external);
    let addresses = addresses.into_iter().map(|(_, address)| address).collect();
    let name = meta.name.as_str().into();
    let said = |name: &str| meta.annotation(name);
    let mut vteps = vtep::read(&name, ("metadata.annotations.", vtep::ANNOTATIONS), said, unreadable);
    let place = format!("metadata.annotations.{}", vtep::IPIP_ANNOTATION);
    vteps.ipip = vtep::read_ipip(&place, meta.annotation(vtep::IPIP_ANNOTATION), unreadable);
    let bgp = bgp::read(
        ("metadata.annotations.", bgp::ANNOTATIONS),
        |name| meta.annotation(name).map(str::to_owned),
        unreadable,
    );
    let told = node_addresses::read(said, unreadable);
    let (labels, pod_cidrs) = (meta.labels(), pod_cidrs(spec, unreadable));
    let node = Node { name, addresses, labels, pod_cidrs, vteps, told: ToldAddresses::default(), bgp };
    Ok(node.told(told))
}

/// A node that is told but one network may have it by the older name alone.
fn pod_cidrs(spec: Spec, unreadable: &mut Vec<InvalidField>) -> Vec<Cidr> {
    let listed = spec.pod_cidrs.filter(|list| !list.is_empty()).unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let mut network = |text: &String| {
        let refused = || InvalidField::new("spec.podCIDRs", format!("{text:?} is not a network such as 10.244.1.0/24"));
        text.parse::<Cidr>().map_err(|_| unreadable.push(refused().so("no pod gets an address of it"))).ok()
    };
    listed.iter().filter(|text| !text.is_empty()).filter_map(&mut network).collect()
}
