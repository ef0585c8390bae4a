//! What is asked of the ledger, and why it may say no.
//! In: who asks, for whom, and what exactly. Out: a wish as a value; a refusal that says what to do.
//! Invariant: a refusal names the pool, address or block that it is about.
//! Never: decides.

use crate::{InvalidBlock, affinity::node_handle, block::ATTACHMENT, hold::Sticky};
use model::{Cidr, Family, Labels, NodeName, PodId};
use std::{collections::BTreeMap, net::IpAddr};

/// A wish: one address of every family that has a pool for it, or was asked for by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The node that asks.
    pub node: NodeName,
    /// Its labels, which pools select nodes by.
    pub node_labels: Labels,
    /// Those of the pod's namespace, which pools select namespaces by.
    pub namespace_labels: Labels,
    /// The owner.
    pub owner: String,
    /// What is stored beside the addresses.
    pub secondary: BTreeMap<String, String>,
    /// Whose addresses outlive it, if they do.
    pub sticky: Option<Sticky>,
    /// It is for the node's tunnel, and counted under this handle.
    pub tunnel: Option<String>,
    /// Exactly these, at most one a family.
    pub wanted: Vec<IpAddr>,
    /// Of these pools alone, by name or network, the first that has an address.
    pub pools: BTreeMap<Family, Vec<String>>,
    /// Addresses of these families, each; empty: of those that have a pool.
    pub families: Vec<Family>,
    /// First sequence number of a block that has to be made: the caller's clock, so that no block repeats an old one's.
    pub sequence: u64,
    /// The time as Kubernetes writes it: what a block is claimed at. Empty: not said.
    pub now: String,
    /// An empty block of another node that was claimed at this time or before may be taken from it.
    pub reclaimable: String,
}

impl Request {
    /// Under which handle what it gets is counted.
    pub(crate) fn handle(&self) -> String {
        let own = || self.tunnel.clone().unwrap_or_else(|| node_handle(&self.node));
        self.sticky.as_ref().map_or_else(own, Sticky::handle)
    }

    /// What is stored beside the addresses, and whose they are.
    pub(crate) fn beside(&self) -> BTreeMap<String, String> {
        let mut beside = self.secondary.clone();
        // Of a tunnel, the handle says whose it is.
        if self.tunnel.is_none() {
            beside.insert(ATTACHMENT.to_owned(), self.owner.clone());
        }
        beside.extend(self.sticky.iter().flat_map(Sticky::beside));
        beside
    }
}

/// Why no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// No pool.
    #[error("no enabled IPPool: put an IPPool manifest into the datastore")]
    NoPool,
    /// Pools, but none for this pod.
    #[error(
        "no IPPool gives {family} addresses to this pod: look at disabled, allowedUses, assignmentMode, nodeSelector and \
         namespaceSelector of the pools, or ask for one by name"
    )]
    NoPoolForPod {
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// A pool was asked for that cannot be had.
    #[error("IPPool {pool} was asked for, and {reason}")]
    BadPool {
        /// As it was written.
        pool: String,
        /// Why not.
        reason: &'static str,
    },
    /// None is left.
    #[error("no address is left in IPPool {pools} for node {node}: {why}: add a pool, or remove pods")]
    Full {
        /// The pools.
        pools: String,
        /// The node.
        node: NodeName,
        /// What stands in the way.
        why: String,
    },
    /// An address was asked for that no pool has.
    #[error("address {address} was asked for and lies in no enabled IPPool: ask for another, or add a pool")]
    NotInPool {
        /// Which.
        address: IpAddr,
    },
    /// An address was asked for that somebody has.
    #[error("address {address} is taken: see who holds it in IPAMBlock {block}, or ask for another")]
    Taken {
        /// Which.
        address: IpAddr,
        /// Where it is held.
        block: Cidr,
    },
    /// An address was asked for that was given back a moment ago.
    #[error(
        "address {address} of IPAMBlock {block} was given back at {since} and is given again {seconds} s later (ipCooldownSeconds of \
         IPAMConfiguration): try again then, or ask for another"
    )]
    Cooling {
        /// Which.
        address: IpAddr,
        /// Where.
        block: Cidr,
        /// When it was given back.
        since: String,
        /// How long it cools down.
        seconds: u32,
    },
    /// The pod's addresses are held for its name, and one of its sandboxes still has one.
    #[error(
        "pod {pod} keeps its address {address}, and an earlier sandbox of it ({owner}) still has it: it is given once that is gone"
    )]
    Alive {
        /// Whose.
        pod: PodId,
        /// Which.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// An address was asked for of a block that this node may not give out of.
    #[error("address {address} is of IPAMBlock {block}, from which this node gives nothing: {why}")]
    NotHere {
        /// Which.
        address: IpAddr,
        /// Whose block it is of.
        block: Cidr,
        /// Why.
        why: &'static str,
    },
    /// No pool gives addresses to load balancers.
    #[error(
        "no enabled IPPool gives addresses of this family to load balancers: add one with allowedUses: [LoadBalancer]"
    )]
    NoBalancerPool,
    /// None is left for a load balancer.
    #[error("IPPool {pool} has no address left for load balancers: add a pool, or remove services")]
    BalancerPoolFull {
        /// The pool.
        pool: String,
    },
    /// A pool was named that there is not.
    #[error("there is no enabled IPPool {pool} with allowedUses: [LoadBalancer]")]
    UnknownPool {
        /// As it was written.
        pool: String,
    },
    /// The node's block is damaged.
    #[error(transparent)]
    Invalid(#[from] InvalidBlock),
}
