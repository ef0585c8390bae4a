//! Block affinities and handles: the two objects Calico keeps beside its blocks, in Calico's data shape.
//! In: a node, a block's network, an attachment. Out: objects and the names they are stored under.
//! Invariant: name and content agree; the same pair always gives the same name.
//! Never: says which address belongs to whom; blocks do.

use model::{AttachmentId, Cidr, FIRST_INTERFACE, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
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
/// So long the name of an object may be (a DNS subdomain, RFC 1123).
const NAME_MAX: usize = 253;
/// Bytes of a digest that stands for a name: nobody finds another name of the same in his lifetime.
const DIGEST: usize = 20;

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
    handle_of(NODES, &node.0)
}

/// A handle of `name`, as an object may be called: what is no such name or too long is there as its digest.
pub(crate) fn handle_of(kind: &str, name: &str) -> String {
    if kind.len() + name.len() <= NAME_MAX && name.split('.').all(is_label) {
        return format!("{kind}{name}");
    }
    let digest = Sha256::digest(name);
    digest.iter().take(DIGEST).fold(kind.to_owned(), |handle, byte| format!("{handle}{byte:02x}"))
}

/// Whether it may stand between dots in the name of an object, in lower case.
fn is_label(label: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric();
    let bytes = label.as_bytes();
    bytes.iter().all(|byte| is_letter(*byte) || *byte == b'-')
        && bytes.first().zip(bytes.last()).is_some_and(|(first, last)| is_letter(*first) && is_letter(*last))
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
    fn a_handle_has_a_name_that_an_object_may_have_whatever_it_is_of() {
        assert_eq!(node_handle(&"n1.example".into()), "tortie-node-n1.example");
        let long = "a".repeat(NAME_MAX);
        let names: Vec<_> = ["n_1", "n..1", "-n", "n ", "", &long].map(|name| handle_of(NODES, name)).into();
        let is_name = |name: &String| name.len() <= NAME_MAX && name.split('.').all(is_label);
        assert!(names.iter().all(is_name), "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len(), "each its own");
        assert_eq!(handle_of("x", &long[1..]), format!("x{}", &long[1..]), "as long as it may be");
    }

    #[test]
    fn ipam_6_names_are_calicos() {
        let cidr: Cidr = "10.65.3.0/26".parse().expect("a valid network");
        assert_eq!(cidr_name(cidr), "10-65-3-0-26");
        assert_eq!(cidr_name("fd00:65::40/122".parse().expect("a valid network")), "fd00-65--40-122");
        assert_eq!(BlockAffinity::new(&"n1".into(), cidr, AffinityState::Pending).name(), "n1-10-65-3-0-26");
    }
}
