//! Audit: what of the ledger somebody has, and what nobody has any more.
//! In: the ledger, and what the cluster knows of pods and nodes. Out: a verdict on each address that is given out.
//! Invariant: an address is leaked only where all that stands beside it is understood, and every witness was asked in vain.
//! Never: takes an address that is no pod's and no tunnel's for leaked, nor one that the node which asks still serves.

mod plan;
#[cfg(test)]
mod prop;
pub mod report;
#[cfg(test)]
mod tests;

pub use plan::{Graces, Idle, Plan, Release, Suspicions};

use crate::{
    AllocationAttribute, Block, Ledger,
    block::{ATTACHMENT, Opaque, nth_address},
    hold::{HELD_FOR, STICKY_FOR, held_until},
    migrate::HANDLES,
};
use model::{NodeName, PodId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// What Calico and this project store beside a pod's address. More says that there is more to know than this code does.
const KNOWN: [&str; 8] = ["pod", "namespace", "node", "timestamp", "type", ATTACHMENT, STICKY_FOR, HELD_FOR];
/// Types of addresses that nodes have for their tunnels (libcalico-go/lib/ipam/ipam_types.go).
const TUNNELS: [&str; 4] =
    ["ipipTunnelAddress", "vxlanTunnelAddress", "vxlanV6TunnelAddress", "wireguardTunnelAddress"];
/// A container's id has at least so many digits; an interface's name has no such length.
const CONTAINER_ID: usize = 32;

/// A pod as one witness knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Living {
    /// Where it is, if that is known.
    pub node: Option<NodeName>,
    /// What it says that it has; empty: it has said nothing yet.
    pub addresses: Vec<IpAddr>,
    /// They are its node's own, or it is over: no block has to give them.
    pub is_apart: bool,
}

/// What is known of nodes and pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Whose word this is. Where it does not know itself, it knows of no node that it is gone.
    pub here: Option<NodeName>,
    /// Nodes that are there.
    pub nodes: BTreeSet<NodeName>,
    /// Pods, each as every witness knows it.
    pub pods: BTreeMap<PodId, Vec<Living>>,
    /// Owners of what this node serves, in lower case.
    pub held: BTreeSet<String>,
}

impl Census {
    /// One more witness of a pod.
    pub fn saw(&mut self, pod: PodId, living: Living) {
        self.pods.entry(pod).or_default().push(living);
    }

    /// The same with what was asked anew of these nodes, and of some pods: of others it says nothing any more.
    #[must_use]
    pub fn renewed(&self, asked: &BTreeSet<NodeName>, answer: Self) -> Self {
        let mut nodes: BTreeSet<_> = self.nodes.difference(asked).cloned().collect();
        nodes.extend(answer.nodes);
        Self { here: self.here.clone(), nodes, pods: answer.pods, held: self.held.clone() }
    }

    /// Whether a node is known to be away.
    #[must_use]
    pub fn is_gone(&self, node: &NodeName) -> bool {
        self.here.as_ref().is_some_and(|here| self.nodes.contains(here)) && !self.nodes.contains(node)
    }

    /// What is to be thought of an address that is given out.
    #[must_use]
    pub fn judge(&self, holding: &Holding<'_>) -> Verdict {
        let Some(owner) = holding.attribute.owner() else { return Verdict::Unknown };
        if self.held.contains(&owner.to_lowercase()) {
            return Verdict::InUse;
        }
        // It is somebody's who is to come again; when that is over is another's to say.
        if held_until(holding.attribute).is_some() {
            return Verdict::InUse;
        }
        let is_known = |key: &String| KNOWN.contains(&&**key);
        let is_nothing = |value: &Opaque| match value {
            Opaque::Null => true,
            Opaque::Text(text) => text.is_empty(),
            Opaque::Map(map) => map.is_empty(),
        };
        let AllocationAttribute { secondary, other, .. } = holding.attribute;
        if !secondary.keys().all(is_known) || !other.values().all(is_nothing) {
            return Verdict::Unknown;
        }
        if let Some(kind) = holding.said("type") {
            return match holding.node() {
                Some(node) if TUNNELS.contains(&kind) && self.is_gone(&node) => Verdict::Leaked(Why::NodeGone),
                Some(node) if TUNNELS.contains(&kind) && self.nodes.contains(&node) => Verdict::InUse,
                _ => Verdict::Unknown,
            };
        }
        let Some(pod) = holding.pod() else { return Verdict::Unknown };
        let mut why = Why::PodGone;
        for living in self.pods.get(&pod).into_iter().flatten() {
            match holding.is_not_of(living) {
                Some(reason) => why = reason,
                None => return Verdict::InUse,
            }
        }
        Verdict::Leaked(why)
    }
}

/// What is to be thought of an address that is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody has it.
    InUse,
    /// Nobody can say.
    Unknown,
    /// Nobody has it.
    Leaked(Why),
}

/// Why nobody has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no such pod.
    PodGone,
    /// The pod is on another node, with other addresses.
    PodElsewhere,
    /// The pod has other addresses.
    PodHasOthers,
    /// It is of a node's tunnel, and there is no such node.
    NodeGone,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodGone => "there is no such pod",
            Self::PodElsewhere => "the pod is on another node now",
            Self::PodHasOthers => "the pod has other addresses now",
            Self::NodeGone => "there is no such node",
        })
    }
}

/// An address that is given out.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    /// It.
    pub address: IpAddr,
    /// When it was given out, as the block counts.
    pub sequence: u64,
    /// Where.
    pub block: &'a Block,
    /// To whom.
    pub attribute: &'a AllocationAttribute,
}

impl Holding<'_> {
    /// What stands beside it; nothing is as good as not there.
    #[must_use]
    pub fn said(&self, key: &str) -> Option<&str> {
        self.attribute.secondary.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The pod it was given to.
    #[must_use]
    pub fn pod(&self) -> Option<PodId> {
        Some(PodId::new(self.said("namespace")?, self.said("pod")?))
    }

    /// The node that asked for it, else the one whose block it lies in.
    #[must_use]
    pub fn node(&self) -> Option<NodeName> {
        self.said("node").map(NodeName::from).or_else(|| owner(self.block))
    }

    /// Whether another node than the block's has it.
    #[must_use]
    pub fn is_borrowed(&self) -> bool {
        self.node() != owner(self.block)
    }

    /// Why it is not this one's.
    fn is_not_of(&self, living: &Living) -> Option<Why> {
        if living.addresses.contains(&self.address) {
            return None;
        }
        match (&living.node, self.node()) {
            // One that was made anew there waits, it may be, for what is held for its name: it is not had here.
            (Some(node), Some(own)) if *node != own => Some(Why::PodElsewhere),
            // What has said nothing yet may be about to say this.
            _ if living.addresses.is_empty() => None,
            // What a further interface has no pod says.
            _ => self.is_of_first_interface().then_some(Why::PodHasOthers),
        }
    }

    fn is_of_first_interface(&self) -> bool {
        let owner = self.attribute.owner().unwrap_or_default();
        let last = owner.rsplit('.').next().unwrap_or_default();
        // One that was written down for a pod was its status's.
        owner.starts_with(HANDLES) || last.len() >= CONTAINER_ID && last.chars().all(|digit| digit.is_ascii_hexdigit())
    }
}

/// The node whose block it is.
#[must_use]
pub fn owner(block: &Block) -> Option<NodeName> {
    block.affinity.as_deref().and_then(|text| text.strip_prefix("host:")).map(NodeName::from)
}

/// Addresses of a block that are given out, without those that cool down. One that contradicts itself says nothing.
pub fn holdings(block: &Block) -> impl Iterator<Item = Holding<'_>> {
    let sound = if block.check().is_ok() { &*block.allocations } else { &[] };
    sound.iter().enumerate().filter_map(|(ordinal, index)| {
        let attribute = block.attributes.get((*index)?).filter(|attribute| attribute.released_at().is_none())?;
        let sequence = block.sequence_number_for_allocation.get(&ordinal.to_string()).copied().unwrap_or_default();
        Some(Holding { address: nth_address(block.cidr, ordinal as u128), sequence, block, attribute })
    })
}

/// All addresses that are given out, by their owners. Of a handle that is not shared all have one owner.
#[must_use]
pub fn by_owner(ledger: &Ledger) -> BTreeMap<&str, Vec<Holding<'_>>> {
    by(ledger, AllocationAttribute::owner)
}

/// All addresses that are given out, by the handles under which they are counted.
#[must_use]
pub fn by_handle(ledger: &Ledger) -> BTreeMap<&str, Vec<Holding<'_>>> {
    by(ledger, |attribute| attribute.handle_id.as_deref())
}

fn by(ledger: &Ledger, key: impl Fn(&AllocationAttribute) -> Option<&str>) -> BTreeMap<&str, Vec<Holding<'_>>> {
    let mut all: BTreeMap<&str, Vec<Holding<'_>>> = BTreeMap::new();
    for holding in ledger.blocks.values().flat_map(|kept| holdings(&kept.value)) {
        if let Some(key) = key(holding.attribute) {
            all.entry(key).or_default().push(holding);
        }
    }
    all
}

/// Whether nothing of it is given out.
pub(crate) fn is_empty(block: &Block) -> bool {
    block.check().is_ok() && block.is_empty()
}
