//! A pod's attachment to this node's network: what the CNI binary wired.
//! In: what the runtime asked for and the agent assigned. Out: the facts the dataplane needs of a local endpoint.
//! Invariant: one attachment per (network, container, interface); its host interface name follows from the pod's name and
//! the interface's.
//! Never: outlives its DEL.

use crate::{HostPort, IfaceName, Labels, Mac, PodId};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// What runtimes call a pod's first interface; Calico knows no other.
pub const FIRST_INTERFACE: &str = "eth0";

/// What makes requests of the runtime idempotent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The network's name in the CNI configuration.
    pub network: String,
    /// The runtime's container id.
    pub container: String,
    /// The interface's name in the pod.
    pub interface: String,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container, self.interface)
    }
}

/// One attached interface of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its identity.
    pub id: AttachmentId,
    /// The pod.
    pub pod: PodId,
    /// The host side of the veth pair.
    pub host_interface: IfaceName,
    /// MAC of the pod's side.
    pub mac: Mac,
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Labels for a pod that no manifest describes (`args.cni.labels`).
    pub labels: Labels,
    /// The addresses are another IPAM plugin's; they come with the commit.
    #[serde(default)]
    pub delegated: bool,
    /// Ports of this node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Addresses may float to it, as the configuration of its network says.
    #[serde(default, skip_serializing_if = "is_false")]
    pub floating_ips: bool,
    /// Its addresses are those that its manifest names, whether a pool has them or not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub named: bool,
    /// The pod side is wired and the endpoint is to be served. Before that only its addresses are kept.
    pub committed: bool,
}

/// For a switch that says nothing while it is off.
fn is_false(switch: &bool) -> bool {
    !switch
}
