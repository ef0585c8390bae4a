//! IPPool.
//! In: Calico's IPPool (api/pkg/apis/projectcalico/v3/ippool.go), in either API group. Out: [`model::IpPool`].
//! Invariant: block sizes within Calico's bounds, and no block wider than its pool.
//! Never: changes a network that has host bits; it is refused, since its writer meant something else.

use super::{
    InvalidField,
    field::{Meta, read},
};
use crate::crds::{checks, shapes};
use model::{Cidr, IpPool, PoolUses, Selector, Wrapper, Wrapping};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// Addresses for pods or load balancers.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = checks::of(checks::POOL)))]
pub(crate) struct Spec {
    /// Their network.
    #[schemars(length(max = 48), extend("x-kubernetes-validations" = checks::of(checks::POOL_CIDR)))]
    cidr: String,
    /// Nodes take the addresses in blocks of this prefix length: 26 for IPv4 and 122 for IPv6, if nothing stands here.
    #[schemars(range(max = 128), extend("x-kubernetes-validations" = checks::of(checks::POOL_BLOCK_SIZE)))]
    block_size: Option<u8>,
    /// Nothing more is given out of it.
    disabled: Option<bool>,
    /// Workload, Tunnel, or LoadBalancer; Workload and Tunnel, if nothing stands here.
    #[schemars(with = "Option<Vec<shapes::Use>>", length(max = 10))]
    allowed_uses: Option<Vec<String>>,
    /// Automatic, or Manual: only those who ask for this pool by name get addresses of it.
    #[schemars(extend("enum" = ["Automatic", "Manual", ""]))]
    assignment_mode: Option<String>,
    /// Nodes that take blocks of it, by their labels; all, if nothing stands here.
    node_selector: Option<String>,
    /// Namespaces whose pods get addresses of it, by their labels; all, if nothing stands here.
    namespace_selector: Option<String>,
    /// Whether packets between nodes are wrapped in IPIP: Never, Always, CrossSubnet.
    #[schemars(extend("enum" = ["Never", "Always", "CrossSubnet", ""]))]
    ipip_mode: Option<String>,
    /// Whether packets between nodes are wrapped in VXLAN: Never, Always, CrossSubnet.
    #[schemars(extend("enum" = ["Never", "Always", "CrossSubnet", ""]))]
    vxlan_mode: Option<String>,
    /// Whether outside of all pools its pods are seen as the node they are on.
    nat_outgoing: Option<bool>,
    /// Whether its addresses are told to nobody by BGP.
    #[serde(rename = "disableBGPExport")]
    disable_bgp_export: Option<bool>,
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
    let (ipip, vxlan) = (wrapping(spec.ipip_mode.as_deref()), wrapping(spec.vxlan_mode.as_deref()));
    // Calico refuses a pool with both.
    let is_vxlan = ipip == Wrapping::Never && vxlan != Wrapping::Never;
    let (wrapping, wrapper) = (ipip.max(vxlan), if is_vxlan { Wrapper::Vxlan } else { Wrapper::Ipip });
    let nodes = selector("spec.nodeSelector", spec.node_selector.as_deref())?;
    let namespaces = selector("spec.namespaceSelector", spec.namespace_selector.as_deref())?;
    let (nat_outgoing, untold) = (spec.nat_outgoing.unwrap_or(false), spec.disable_bgp_export.unwrap_or(false));
    let name = meta.name.clone();
    let pool = IpPool {
        name,
        cidr,
        block_size,
        disabled,
        uses,
        manual,
        nodes,
        namespaces,
        wrapping,
        wrapper,
        nat_outgoing,
        untold,
    };
    Ok(pool)
}

/// Without a mode there is none; a mode that is not known is one.
fn wrapping(mode: Option<&str>) -> Wrapping {
    match mode {
        None | Some("" | "Never") => Wrapping::Never,
        Some("CrossSubnet") => Wrapping::CrossSubnet,
        Some(_) => Wrapping::Always,
    }
}

fn selector(path: &str, written: Option<&str>) -> Result<Selector, InvalidField> {
    written.unwrap_or_default().parse().map_err(|error| InvalidField::new(path, error))
}

/// What is not said is for pods and tunnels (IPAM-13).
fn uses(written: &[String]) -> Result<PoolUses, InvalidField> {
    let known = ["Workload", "Tunnel", "LoadBalancer"];
    if let Some((index, other)) = written.iter().enumerate().find(|(_, one)| !known.contains(&one.as_str())) {
        let reason = format!("{other:?} is not {}", known.join(", "));
        return Err(InvalidField::new(&format!("spec.allowedUses[{index}]"), reason));
    }
    let says = |what: &str| written.iter().any(|one| one == what);
    let uses = PoolUses {
        workload: written.is_empty() || says("Workload"),
        load_balancer: says("LoadBalancer"),
        tunnel: written.is_empty() || says("Tunnel"),
    };
    if uses.load_balancer && written.len() > 1 {
        let reason = "LoadBalancer is a use of its own: pods and services do not share a pool";
        return Err(InvalidField::new("spec.allowedUses", reason));
    }
    Ok(uses)
}
