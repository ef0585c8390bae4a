//! IPPool.
//! In: Calico's IPPool (api/pkg/apis/projectcalico/v3/ippool.go), in either API group. Out: [`model::IpPool`].
//! Invariant: block sizes within Calico's bounds, and no block wider than its pool.
//! Never: changes a network that has host bits; it is refused, since its writer meant something else.

use super::{
    InvalidField,
    field::{Meta, read},
};
use model::{Cidr, IpPool, PoolUses};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cidr: String,
    block_size: Option<u8>,
    disabled: Option<bool>,
    allowed_uses: Option<Vec<String>>,
    assignment_mode: Option<String>,
    ipip_mode: Option<String>,
    vxlan_mode: Option<String>,
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
    let manual = match spec.assignment_mode.as_deref() {
        None | Some("" | "Automatic") => false,
        Some("Manual") => true,
        Some(other) => {
            let reason = format!("{other:?} is not Automatic or Manual");
            return Err(InvalidField::new("spec.assignmentMode", reason));
        }
    };
    let uses = uses(&spec.allowed_uses.unwrap_or_default())?;
    let disabled = spec.disabled.unwrap_or(false);
    // Without a mode there is none; a mode that is not known is one.
    let wraps = |mode: Option<&str>| !matches!(mode, None | Some("" | "Never"));
    let encapsulated = wraps(spec.ipip_mode.as_deref()) || wraps(spec.vxlan_mode.as_deref());
    Ok(IpPool { name: meta.name.clone(), cidr, block_size, disabled, uses, manual, encapsulated })
}

/// What is not said is for pods and tunnels (IPAM-13); tunnels have no addresses of pools here.
fn uses(written: &[String]) -> Result<PoolUses, InvalidField> {
    let known = ["Workload", "Tunnel", "LoadBalancer"];
    if let Some((index, other)) = written.iter().enumerate().find(|(_, one)| !known.contains(&one.as_str())) {
        let reason = format!("{other:?} is not {}", known.join(", "));
        return Err(InvalidField::new(&format!("spec.allowedUses[{index}]"), reason));
    }
    let says = |what: &str| written.iter().any(|one| one == what);
    let uses = PoolUses { workload: written.is_empty() || says("Workload"), load_balancer: says("LoadBalancer") };
    if uses.load_balancer && written.len() > 1 {
        let reason = "LoadBalancer is a use of its own: pods and services do not share a pool";
        return Err(InvalidField::new("spec.allowedUses", reason));
    }
    Ok(uses)
}
