//! What stands in the way of blocks.
//! In: what a plan found. Out: a line for people, with what to do.
//! Invariant: each names the node, pod, pool or block that it is about.
//! Never: is left out for another one.

use crate::InvalidBlock;
use model::{Cidr, NodeName, PodId};
use std::net::IpAddr;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says in its text what its parts are")]
pub enum Problem {
    #[error(
        "no Node has spec.podCIDRs: there is nothing to take blocks from; give nodes podCIDRs, or make IPPools by hand"
    )]
    NoPodCidr,
    #[error("podCIDR {cidr} of node {node} and {other} of node {other_node} overlap: correct one of the Nodes")]
    Overlap { cidr: Cidr, node: NodeName, other: Cidr, other_node: NodeName },
    #[error("podCIDR {cidr} of node {node} is smaller than a block (/{block_size}): give --block-size {}, or larger", cidr.prefix_len())]
    Multiple { node: NodeName, cidr: Cidr, block_size: u8 },
    #[error("pod {pod} has {address}, which lies in no node's podCIDR: delete the pod, or correct its Node")]
    Outside { address: IpAddr, pod: PodId },
    #[error("{address} is of two pods, {other} and {pod}: delete one of them")]
    Twice { address: IpAddr, pod: PodId, other: PodId },
    #[error(
        "IPPool {pool} ({network}) and {cidr} overlap, and the pool does not hold it as one for pods: remove or change the pool"
    )]
    Pool { pool: String, network: Cidr, cidr: Cidr },
    #[error("--pool {network} and --pool {other} overlap: name each network once")]
    PoolTwice { network: Cidr, other: Cidr },
    #[error("--pool {network} holds no node's podCIDR: leave it out, or correct it")]
    Unused { network: Cidr },
    #[error("IPPool {pool} gives addresses already, and might give one that a pod has: set disabled: true in it first")]
    Gives { pool: String },
    #[error("IPAMBlock {other} and the block {cidr} that is wanted overlap, and differ in size: give --block-size {}", other.prefix_len())]
    Size { cidr: Cidr, other: Cidr },
    #[error(
        "IPAMBlock {cidr} is of {owner}, and lies in a podCIDR of node {node}: delete the pods that have addresses of it, and wait until it is given up"
    )]
    Owned { cidr: Cidr, owner: String, node: NodeName },
    #[error("pod {pod} has {address}, and by its block {holder} has it: delete one of them")]
    Taken { address: IpAddr, pod: PodId, holder: String },
    #[error(transparent)]
    Invalid(#[from] InvalidBlock),
}
