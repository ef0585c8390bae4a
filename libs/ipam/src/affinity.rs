//! Block affinities and handles: the two objects Calico keeps beside its blocks, in Calico's data shape.
//! In: a node, a block's network, an attachment. Out: objects and the names they are stored under.
//! Invariant: name and content agree; the same pair always gives the same name.
//! Never: says which address belongs to whom; blocks do.

use model::{AttachmentId, Cidr, FIRST_INTERFACE, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// The node wants the block; another may still be faster.
    Pending,
    /// The block exists and is the node's.
    Confirmed,
    /// The node is giving the block up.
    PendingDeletion,
}

/// `spec` of a `crd.projectcalico.org/v1` BlockAffinity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockAffinity {
    /// How far the claim has come.
    pub state: AffinityState,
    /// Whose claim.
    #[schemars(with = "String")]
    pub node: NodeName,
    /// `host`; absent in old objects means the same.
    #[serde(default = "host_type", rename = "type")]
    pub affinity_type: String,
    /// The block's network.
    #[schemars(with = "String")]
    pub cidr: Cidr,
    /// Calico writes this flag as a string, and in `projectcalico.org/v3` as what it is.
    #[serde(default = "not_deleted", deserialize_with = "flag")]
    pub deleted: String,
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bare(bool),
        Text(String),
    }
    Ok(match Flag::deserialize(deserializer)? {
        Flag::Bare(is_deleted) => is_deleted.to_string(),
        Flag::Text(text) => text,
    })
}

fn host_type() -> String {
    "host".to_owned()
}

fn not_deleted() -> String {
    "false".to_owned()
}

impl BlockAffinity {
    /// The claim of `node` on the block `cidr`.
    #[must_use]
    pub fn new(node: &NodeName, cidr: Cidr, state: AffinityState) -> Self {
        Self { state, node: node.clone(), affinity_type: host_type(), cidr, deleted: not_deleted() }
    }

    /// Its object name, as in Calico (libcalico-go/lib/backend/k8s/resources/affinityblock.go).
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.node, cidr_name(self.cidr))
    }
}

/// `spec` of a `crd.projectcalico.org/v1` IPAMHandle: how many addresses of which block are counted under one name: a
/// container's (Calico, older versions), a service's, or all that a node's agent gives to attachments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IpamHandle {
    /// Its name.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// Block -> number of addresses.
    #[schemars(with = "BTreeMap<String, u32>")]
    pub block: BTreeMap<Cidr, u32>,
    /// Given up, waiting to be removed.
    #[serde(default)]
    pub deleted: bool,
}

/// What stands before a node's name in its handle: no handle of Calico's begins so (`k8s-pod-network.…`, `…-tunnel-addr-…`, `lb-…`).
const NODES: &str = "tortie-node-";

/// Who owns an attachment's addresses: for a container's first interface as Calico's plugin names its handle, for others with the
/// interface's name behind. It stands beside the addresses under [`crate::block::ATTACHMENT`]; older versions had a handle of this name.
#[must_use]
pub fn owner_of(id: &AttachmentId) -> String {
    let container = format!("{}.{}", id.network, id.container);
    if id.interface == FIRST_INTERFACE { container } else { format!("{container}.{}", id.interface) }
}

/// The one handle of all addresses that a node's agent gives to attachments.
#[must_use]
pub fn node_handle(node: &NodeName) -> String {
    format!("{NODES}{node}")
}

/// Whether a handle is a node's: many owners share it.
#[must_use]
pub fn is_node_handle(handle: &str) -> bool {
    handle.starts_with(NODES)
}

/// A network as part of an object name (libcalico-go/lib/names/cidr.go).
#[must_use]
pub fn cidr_name(cidr: Cidr) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_of_a_container_owns_what_it_has_and_the_first_ones_name_is_calicos_handle() {
        let of = |interface: &str| {
            owner_of(&AttachmentId { network: "net".into(), container: "c1".into(), interface: interface.into() })
        };
        assert_eq!([of("eth0"), of("net1")], ["net.c1", "net.c1.net1"]);
    }

    #[test]
    fn ipam_6_names_are_calicos() {
        let cidr: Cidr = "10.65.3.0/26".parse().expect("a valid network");
        assert_eq!(cidr_name(cidr), "10-65-3-0-26");
        assert_eq!(cidr_name("fd00:65::40/122".parse().expect("a valid network")), "fd00-65--40-122");
        assert_eq!(BlockAffinity::new(&"n1".into(), cidr, AffinityState::Pending).name(), "n1-10-65-3-0-26");
    }
}
