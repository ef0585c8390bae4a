//! Tunnel ends of nodes: by what a node is known within VXLAN.
//! In: what a node, or Calico, says of it. Out: its tunnel address of each family, with the MAC that inner frames bear.
//! Invariant: a MAC that nobody says is derived from the node's name as Calico derives it.
//! Never: knows by which address of the node the tunnel is reached.

use crate::{Mac, NodeName};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use std::net::IpAddr;

/// Where inner frames for a node go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vtep {
    /// Its address on the tunnel device, of a pool.
    pub address: IpAddr,
    /// The device's MAC.
    pub mac: Mac,
}

/// Those of one node, at most one a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vteps {
    /// For IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Vtep>,
    /// For IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Vtep>,
}

impl Vteps {
    /// That of the family of this address.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<Vtep> {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// Both.
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

/// The MAC of a node's tunnel device, where nobody says another (vtepMACForHost of felix/calc/vxlan_resolver.go): `f`, then the first
/// bytes of the name's SHA-1. For IPv6 Calico has a device of its own, and its name an ending.
#[must_use]
pub fn vtep_mac(node: &NodeName, is_v6: bool) -> Mac {
    let text = if is_v6 { format!("{node}-v6") } else { node.to_string() };
    let digest = Sha1::digest(text.as_bytes());
    let mut mac = [b'f'; 6];
    mac[1..].copy_from_slice(&digest[..5]);
    Mac(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_derived_from_the_name_as_calico_does() {
        // printf node1 | sha1sum; printf node1-v6 | sha1sum
        assert_eq!(vtep_mac(&"node1".into(), false).to_string(), "66:f9:37:c3:7e:94");
        assert_eq!(vtep_mac(&"node1".into(), true).to_string(), "66:0f:35:f2:60:df");
    }
}
