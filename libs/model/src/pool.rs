//! IP pools: where pod addresses come from.
//! In: an IPPool object. Out: its network and block size.
//! Invariant: the block size lies within the family's bounds and is not wider than the pool.
//! Never: knows which addresses are taken; blocks do (`ipam`).

use crate::{Cidr, NodeName, Selector};

/// An IP pool (Calico api/pkg/apis/projectcalico/v3/ippool.go).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Nodes that take blocks of it, but for who asks for the pool by name (`nodeSelector`).
    pub nodes: Selector,
    /// Namespaces whose pods get addresses of it, but for who asks for the pool by name (`namespaceSelector`).
    pub namespaces: Selector,
    /// Whether packets to its addresses are wrapped on their way between nodes (`ipipMode`, `vxlanMode`).
    pub wrapping: Wrapping,
    /// By what.
    pub wrapper: Wrapper,
    /// Outside of all pools its pods are the node they are on (`natOutgoing`).
    pub nat_outgoing: bool,
    /// Its addresses are told to nobody by BGP (`disableBGPExport`).
    pub untold: bool,
}

/// When packets between nodes are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrapping {
    /// Never.
    #[default]
    Never,
    /// To nodes of other networks than this one's.
    CrossSubnet,
    /// Always.
    Always,
}

/// By what packets are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrapper {
    /// IP in IP.
    #[default]
    Ipip,
    /// VXLAN.
    Vxlan,
}

/// A block that a node holds (Calico's BlockAffinity, confirmed): packets to its addresses go to that node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockClaim {
    /// The object's name.
    pub name: String,
    /// The block.
    pub cidr: Cidr,
    /// Whose.
    pub node: NodeName,
}

/// What addresses of a pool are for (`allowedUses`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolUses {
    /// Pods.
    pub workload: bool,
    /// Services of type LoadBalancer.
    pub load_balancer: bool,
    /// Nodes, for their tunnels.
    pub tunnel: bool,
}

impl IpPool {
    /// Whether packets to some of its addresses are wrapped by VXLAN.
    #[must_use]
    pub fn uses_vxlan(&self) -> bool {
        self.wrapping != Wrapping::Never && self.wrapper == Wrapper::Vxlan
    }

    /// Whether packets to some of its addresses are wrapped by IPIP, which wraps IPv4 alone.
    #[must_use]
    pub fn uses_ipip(&self) -> bool {
        self.wrapping != Wrapping::Never && self.wrapper == Wrapper::Ipip && self.cidr.is_v4()
    }

    /// One for pods.
    #[must_use]
    pub fn of_pods(name: &str, cidr: Cidr, block_size: u8) -> Self {
        let uses = PoolUses { workload: true, load_balancer: false, tunnel: true };
        Self {
            name: name.to_owned(),
            cidr,
            block_size,
            disabled: false,
            uses,
            manual: false,
            nodes: Selector::All,
            namespaces: Selector::All,
            wrapping: Wrapping::Never,
            wrapper: Wrapper::default(),
            nat_outgoing: false,
            untold: false,
        }
    }
}

/// Addresses that nobody gets who does not name them (Calico api/pkg/apis/projectcalico/v3/ipreservation.go).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpReservation {
    /// Its name.
    pub name: String,
    /// They.
    pub cidrs: Vec<Cidr>,
}

/// How nodes take blocks (Calico api/pkg/apis/projectcalico/v3/ipamconfig.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpamConfig {
    /// No node gives out addresses of another's blocks.
    pub strict_affinity: bool,
    /// Nodes take new blocks when theirs are full.
    pub auto_allocate_blocks: bool,
    /// Blocks of one family that one node may have; `None`: as many as Calico lets one have that nobody limits.
    pub max_blocks: Option<u32>,
    /// Seconds after which an address that was given back is given again.
    pub cooldown: u32,
}

impl IpamConfig {
    /// The name of the one that counts.
    pub const NAME: &str = "default";
}

impl Default for IpamConfig {
    fn default() -> Self {
        Self { strict_affinity: false, auto_allocate_blocks: true, max_blocks: None, cooldown: 0 }
    }
}
