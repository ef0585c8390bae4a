//! IP pools: where pod addresses come from.
//! In: an IPPool object. Out: its network and block size.
//! Invariant: the block size lies within the family's bounds and is not wider than the pool.
//! Never: knows which addresses are taken; blocks do (`ipam`).

use crate::Cidr;
use serde::{Deserialize, Serialize};

/// An IP pool (Calico api/pkg/apis/projectcalico/v3/ippool.go).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IpPool {
    /// Its name.
    pub name: String,
    /// Its network.
    pub cidr: Cidr,
    /// Prefix length of its blocks: 20 to 32 for IPv4 (26 by default), 116 to 128 for IPv6 (122 by default).
    pub block_size: u8,
    /// No new addresses from it.
    pub disabled: bool,
    /// What its addresses are for.
    pub uses: PoolUses,
    /// Its addresses are given to those alone who ask for one of them by name (`assignmentMode: Manual`).
    pub manual: bool,
    /// Packets to its addresses are wrapped on their way between nodes (`ipipMode`, `vxlanMode`).
    pub encapsulated: bool,
}

/// What addresses of a pool are for (`allowedUses`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolUses {
    /// Pods.
    pub workload: bool,
    /// Services of type LoadBalancer.
    pub load_balancer: bool,
}

impl IpPool {
    /// One for pods.
    #[must_use]
    pub fn of_pods(name: &str, cidr: Cidr, block_size: u8) -> Self {
        let uses = PoolUses { workload: true, load_balancer: false };
        Self { name: name.to_owned(), cidr, block_size, disabled: false, uses, manual: false, encapsulated: false }
    }
}
