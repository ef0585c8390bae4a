//! Tunnel ends of nodes: by what a node is known within VXLAN and IPIP.
//! In: what a node, or Calico, says of it. Out: its tunnel address of each family, with the MAC that inner frames bear.
//! Invariant: an end has an address of its own family.
//! Never: knows by which address of the node the tunnel is reached.

use crate::{Mac, NodeName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Where inner frames for a node go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vtep {
    /// Its address on the tunnel device, of a pool.
    pub address: IpAddr,
    /// The device's MAC.
    pub mac: Mac,
}

/// Those of one node, at most one a family within VXLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vteps {
    /// For IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Vtep>,
    /// For IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Vtep>,
    /// Its address within IPIP, which is of IPv4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip: Option<Ipv4Addr>,
}

impl Vteps {
    /// That of the family of this address.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<Vtep> {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// Both of VXLAN.
    pub fn all(&self) -> impl Iterator<Item = Vtep> + use<> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// What an agent tells the other nodes of its own, where the datastore has no Node of its own for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVteps {
    /// Whose.
    pub node: NodeName,
    /// They.
    #[serde(flatten)]
    pub vteps: Vteps,
}
