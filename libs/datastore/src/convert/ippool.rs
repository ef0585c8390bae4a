//! IPPool.
//! In: Calico's IPPool (api/pkg/apis/projectcalico/v3/ippool.go), in either API group. Out: [`model::IpPool`].
//! Invariant: block sizes within Calico's bounds, and no block wider than its pool.
//! Never: changes a network that has host bits; it is refused, since its writer meant something else.

use super::{
    InvalidField,
    field::{Meta, read},
};
use model::{Cidr, IpPool};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cidr: String,
    block_size: Option<u8>,
    disabled: Option<bool>,
}

pub(super) fn convert(meta: &Meta, object: &Value) -> Result<IpPool, InvalidField> {
    let spec: Spec = read("spec", object)?;
    let cidr: Cidr = spec.cidr.parse().map_err(|error| InvalidField::new("spec.cidr", error))?;
    let written = spec.cidr.split('/').next().unwrap_or_default();
    if written.parse::<IpAddr>() != Ok(cidr.network()) {
        let reason = format!("{:?} has host bits; the network is {cidr}", spec.cidr);
        return Err(InvalidField::new("spec.cidr", reason));
    }
    let (default, bounds) = if cidr.is_v4() { (26, 20..=32) } else { (122, 116..=128) };
    let block_size = spec.block_size.unwrap_or(default);
    if !bounds.contains(&block_size) {
        let reason = format!("{block_size} is not within {} to {}", bounds.start(), bounds.end());
        return Err(InvalidField::new("spec.blockSize", reason));
    }
    if block_size < cidr.prefix_len() {
        return Err(InvalidField::new("spec.blockSize", format!("a /{block_size} block does not fit into {cidr}")));
    }
    Ok(IpPool { name: meta.name.clone(), cidr, block_size, disabled: spec.disabled.unwrap_or(false) })
}
