//! Host endpoints: a node's own interfaces, as subjects and peers of policies.
//! In: HostEndpoint objects (api/pkg/apis/projectcalico/v3/hostendpoint.go). Out: which interface is meant, and its labels.
//! Invariant: it names an interface, or addresses by which one is found, or both.
//! Never: looks at the interfaces that are there.

use crate::{IfaceName, Labels, NamedPort, NodeName};
use std::net::IpAddr;

/// Which interfaces are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostInterface {
    /// All of the node (`*`), and what its pods send and receive as far as policies apply on forward (HEP-5).
    Any,
    /// The one of this name.
    Named(IfaceName),
}

/// A host endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: NodeName,
    /// Its interface; `None`: the one that has an expected address.
    pub interface: Option<HostInterface>,
    /// Addresses by which it is known as a peer, and found where it names no interface.
    pub expected_ips: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Its profiles, in order.
    pub profiles: Vec<String>,
    /// Its named ports (CAL-25).
    pub ports: Vec<NamedPort>,
}
