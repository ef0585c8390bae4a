//! BGP: what Calico's objects say of it, as far as it is served here.
//! In: BGPConfiguration, BGPPeer, BGPFilter, and what a node says of itself. Out: values.
//! Invariant: a part that could not be read is `None` or closed; who reads it has been told.
//! Never: decides who speaks with whom (`bgp`).

use crate::{Cidr, Selector};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

/// The number of an autonomous system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsNumber(pub u32);

impl AsNumber {
    /// What nodes have of which nobody says another.
    pub const DEFAULT: Self = Self(64512);
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AsNumber {
    type Err = &'static str;

    /// As one number, or as two of 16 bits with a dot between (RFC 5396).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = match text.split_once('.') {
            None => text.parse().ok(),
            Some((high, low)) => {
                let halves = high.parse::<u16>().ok().zip(low.parse::<u16>().ok());
                halves.map(|(high, low)| u32::from(high) << 16 | u32::from(low))
            }
        };
        number.map(Self).ok_or("an AS number such as 64512 or 1.10")
    }
}

/// A community, standard (two numbers of 16 bits) or large (three of 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Community {
    /// `aa:nn`.
    Standard(u16, u16),
    /// `aa:nn:mm`.
    Large(u32, u32, u32),
}

impl FromStr for Community {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let found = match parts[..] {
            [a, b] => a.parse().ok().zip(b.parse().ok()).map(|(a, b)| Self::Standard(a, b)),
            [a, b, c] => {
                let first = a.parse().ok().zip(b.parse().ok());
                first.zip(c.parse().ok()).map(|((a, b), c)| Self::Large(a, b, c))
            }
            _ => None,
        };
        found.ok_or("a community such as 64512:100 or 64512:100:7")
    }
}

/// Where a password is: a key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// A password of a session: it is not said where values are shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Without the end of a line, which files and Secrets often have. `None`: there is nothing else.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Some(text.trim_end_matches(['\n', '\r'])).filter(|text| !text.is_empty()).map(|text| Self(text.to_owned()))
    }

    /// The text itself.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeBgp {
    /// Its AS; `None`: the cluster's.
    pub as_number: Option<AsNumber>,
    /// It reflects routes, for this cluster of reflectors.
    pub cluster_id: Option<Ipv4Addr>,
}

/// BGPConfiguration (api/pkg/apis/projectcalico/v3/bgpconfig.go).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// `default`, or `node.NAME` for one node.
    pub name: String,
    /// All nodes speak with all others; `None`: they do.
    pub mesh: Option<bool>,
    /// The AS of nodes that do not say theirs.
    pub as_number: Option<AsNumber>,
    /// The port at which nodes are spoken to.
    pub listen_port: Option<u16>,
    /// Nodes are spoken to at their own address alone.
    pub binds: bool,
    /// Where the password of the mesh is.
    pub mesh_password: Option<SecretKey>,
    /// Seconds that a node of the mesh may take to start anew.
    pub mesh_restart: Option<u32>,
    /// How much is logged, as Calico writes it.
    pub log: Option<BgpLog>,
    /// Interfaces whose networks are not looked at, as patterns.
    pub ignored_interfaces: Vec<String>,
    /// Networks of services' own addresses, which all nodes tell.
    pub cluster_ips: Vec<Cidr>,
    /// Networks of further addresses, likewise.
    pub external_ips: Vec<Cidr>,
    /// Networks of load balancers' addresses, likewise.
    pub load_balancer_ips: Vec<Cidr>,
    /// Of load balancers the networks are told and not each address; `None`: so it is.
    pub aggregates: Option<bool>,
    /// Which communities go with what is told of which network.
    pub advertisements: Vec<(Cidr, Vec<Community>)>,
    /// Routes to pools without encapsulation are written to the kernel; `None`: they are.
    pub programs_unwrapped: Option<bool>,
}

impl BgpConfiguration {
    /// The one of the whole cluster.
    pub const DEFAULT: &str = "default";
}

/// How much a speaker writes of what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BgpLog {
    /// Troubles alone.
    Quiet,
    /// States of sessions.
    States,
    /// Everything.
    All,
}

/// BGPPeer (api/pkg/apis/projectcalico/v3/bgppeer.go).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its name.
    pub name: String,
    /// Which nodes have it.
    pub nodes: PeerNodes,
    /// With whom they speak.
    pub with: PeerWith,
    /// This node's AS towards it, if it is another than its own.
    pub local_as: Option<AsNumber>,
    /// Where the password is.
    pub password: Option<SecretKey>,
    /// The session leaves by whatever address the kernel chooses, not by the node's.
    pub any_source: bool,
    /// What becomes of next hops.
    pub next_hop: NextHop,
    /// Seconds that the peer may take to start anew.
    pub restart: Option<u32>,
    /// Seconds between signs of life.
    pub keepalive: Option<u32>,
    /// So often this node's own AS may be in what the peer tells.
    pub allowed_local_as: u32,
    /// The peer is so many hops away, and nobody farther is heard.
    pub ttl_security: Option<u8>,
    /// By which neighbour the peer is reached.
    pub reachable_by: Option<IpAddr>,
    /// What is asked of routes, in this order.
    pub filters: Vec<String>,
    /// Nodes that others select speak back without an object of their own.
    pub reverses: bool,
}

/// Which nodes have a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerNodes {
    /// All of them.
    All,
    /// The one of this name.
    Named(String),
    /// Those with these labels.
    Selected(Selector),
}

/// With whom they speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerWith {
    /// An address, a port if it is said, and its AS.
    Address(IpAddr, Option<u16>, AsNumber),
    /// Nodes with these labels.
    Nodes(Selector),
    /// Pods on the same node: not served.
    Workloads,
}

/// What becomes of next hops in what is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// As BGP has it.
    #[default]
    Auto,
    /// This node.
    Own,
    /// As it was heard.
    Keep,
    /// As it was heard, towards other ASs alone (`keepOriginalNextHop`).
    KeepOutside,
}

/// BGPFilter (api/pkg/apis/projectcalico/v3/bgpfilter.go). Rules are asked in order; what none decides goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpFilter {
    /// Its name.
    pub name: String,
    /// Of what is heard, IPv4.
    pub import_v4: Vec<BgpRule>,
    /// IPv6.
    pub import_v6: Vec<BgpRule>,
    /// Of what is told, IPv4.
    pub export_v4: Vec<BgpRule>,
    /// IPv6.
    pub export_v6: Vec<BgpRule>,
}

/// A rule: all that it asks must be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpRule {
    /// The route's network, compared with this one.
    pub net: Option<NetMatch>,
    /// It was learned from a peer.
    pub is_learned: bool,
    /// It leaves by an interface of this name, as a pattern.
    pub interface: Option<String>,
    /// The peer is of the same AS, or is not.
    pub is_internal: Option<bool>,
    /// It bears this.
    pub community: Option<Community>,
    /// Its path begins so.
    pub path: Vec<AsNumber>,
    /// It has this priority.
    pub priority: Option<u32>,
    /// It goes through; else it is refused.
    pub accepts: bool,
    /// What is done to it before.
    pub operations: Vec<BgpOperation>,
}

/// How networks are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetMatch {
    /// With this one.
    pub net: Cidr,
    /// By being in it; else by being it.
    pub within: bool,
    /// And it must not be so.
    pub negated: bool,
    /// Shortest and longest prefix, where they are said.
    pub lengths: Option<(u8, u8)>,
}

/// What is done to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpOperation {
    /// It bears this, too.
    Add(Community),
    /// Its path begins with these.
    Prepend(Vec<AsNumber>),
    /// It has this priority.
    Priority(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_systems_and_communities_are_read_as_they_are_written() {
        assert_eq!(
            ["64512", "1.10"].map(|text| text.parse::<AsNumber>().map(|number| number.0)),
            [Ok(64512), Ok(65546)]
        );
        assert!(["", "a", "1.65536", "4294967296"].iter().all(|text| text.parse::<AsNumber>().is_err()));
        assert_eq!("64512:7".parse(), Ok(Community::Standard(64512, 7)));
        assert_eq!("1:2:70000".parse(), Ok(Community::Large(1, 2, 70000)));
        assert!(["1", "65536:1", "1:2:3:4", "a:b"].iter().all(|text| text.parse::<Community>().is_err()));
    }
}
