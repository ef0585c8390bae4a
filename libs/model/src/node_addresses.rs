//! Addresses by which a node is reached by others, as its agent, or Calico's, has found them.
//! In: what stands at a node, or what its agent tells. Out: at most one address a family, with the length of its network.
//! Invariant: an address stands under its own family, and no network is longer than an address.
//! Never: knows how they were found.

use crate::{Cidr, Family, Node, NodeName};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// An address with the length of its network: `192.0.2.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefixed {
    address: IpAddr,
    prefix_len: u8,
}

/// What is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address such as 192.0.2.1/24 or 2001:db8::1/64")]
pub struct InvalidPrefixed {
    text: String,
}

impl Prefixed {
    /// `None`: there is no such network.
    #[must_use]
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        Cidr::new(address, prefix_len).ok().map(|_| Self { address, prefix_len })
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }
}

impl fmt::Display for Prefixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Without a length the network is the address alone, as Calico has it.
impl FromStr for Prefixed {
    type Err = InvalidPrefixed;

    fn from_str(text: &str) -> Result<Self, InvalidPrefixed> {
        let invalid = || InvalidPrefixed { text: text.to_owned() };
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(whole), str::parse).map_err(|_| invalid())?;
        Self::new(address, length).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Prefixed {
    type Error = InvalidPrefixed;

    fn try_from(text: String) -> Result<Self, InvalidPrefixed> {
        text.parse()
    }
}

impl From<Prefixed> for String {
    fn from(address: Prefixed) -> Self {
        address.to_string()
    }
}

/// Those of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ToldAddresses {
    /// Of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Prefixed>,
    /// Of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Prefixed>,
}

impl ToldAddresses {
    /// Both.
    pub fn all(&self) -> impl Iterator<Item = Prefixed> + use<> {
        self.v4.into_iter().chain(self.v6)
    }

    /// That of a family.
    #[must_use]
    pub const fn of(&self, family: Family) -> Option<Prefixed> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Its place.
    pub const fn of_mut(&mut self, family: Family) -> &mut Option<Prefixed> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Whether each stands under its family.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.v4.is_none_or(|v4| v4.address.is_ipv4()) && self.v6.is_none_or(|v6| v6.address.is_ipv6())
    }
}

/// What an agent tells the other nodes of its own, where the datastore has no Node of its own for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    /// Whose.
    pub node: NodeName,
    /// They.
    #[serde(flatten)]
    pub told: ToldAddresses,
}

impl Node {
    /// The addresses by which it may be reached: what was found for that first, then its others; each once.
    pub fn reached_at(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        let told = self.told.all().map(Prefixed::address);
        let is_told = |address: &&IpAddr| self.told.all().all(|told| told.address != **address);
        told.chain(self.addresses.iter().filter(is_told).copied())
    }

    /// The same node, of which its agent tells this: it counts before what stands at the node, and is the node's own address.
    #[must_use]
    pub fn told(mut self, told: ToldAddresses) -> Self {
        for family in [Family::V4, Family::V6] {
            let place = self.told.of_mut(family);
            *place = told.of(family).or(*place);
        }
        for address in self.told.all().map(Prefixed::address) {
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Labels, Vteps};

    fn at(text: &str) -> Prefixed {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_keeps_its_own_bits_and_the_length_of_its_network() {
        for text in ["192.0.2.77/24", "2001:db8::7/64", "192.0.2.1/32"] {
            assert_eq!(at(text).to_string(), text);
        }
        assert_eq!(at("192.0.2.1").to_string(), "192.0.2.1/32", "without a length");
        for text in ["", "here", "192.0.2.1/33", "192.0.2.1/", "2001:db8::1/129", "192.0.2.1/24/24"] {
            let error = text.parse::<Prefixed>().expect_err(text).to_string();
            assert!(error.contains("192.0.2.1/24"), "{error}");
        }
    }

    #[test]
    fn what_is_told_comes_before_the_nodes_own_and_counts_as_one_of_them() {
        let addresses = ["198.51.100.1", "192.0.2.1"].map(|text| text.parse().expect("an address")).into();
        let (labels, pod_cidrs, vteps) = (Labels::default(), Vec::new(), Vteps::default());
        let node = Node {
            name: "n1".into(),
            addresses,
            labels,
            pod_cidrs,
            vteps,
            told: ToldAddresses::default(),
            bgp: Default::default(),
        };
        let ways = |node: &Node| node.reached_at().map(|address| address.to_string()).collect::<Vec<_>>();
        assert_eq!(ways(&node), ["198.51.100.1", "192.0.2.1"]);
        let near = node.clone().told(ToldAddresses { v4: Some(at("192.0.2.1/24")), v6: None });
        assert_eq!(ways(&near), ["192.0.2.1", "198.51.100.1"]);
        assert_eq!(near.addresses, node.addresses, "it has it already");
        let other = near.told(ToldAddresses { v4: None, v6: Some(at("2001:db8::1/64")) });
        assert_eq!(ways(&other), ["192.0.2.1", "2001:db8::1", "198.51.100.1"]);
        assert_eq!(other.addresses.len(), 3, "rules know it, too");
    }
}
