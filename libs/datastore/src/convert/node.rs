//! Node.
//! In: a `v1` Node. Out: [`model::Node`].
//! Invariant: every address of the status that is an IP address is there, internal ones first; names are not.
//! Never: resolves a host name.

use super::{
    InvalidField,
    field::{Meta, read},
};
use model::Node;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

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

pub(super) fn convert(meta: &Meta, object: &Value) -> Result<Node, InvalidField> {
    let status: Status = read("status", object)?;
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
    Ok(Node { name: meta.name.as_str().into(), addresses, labels: meta.labels() })
}
