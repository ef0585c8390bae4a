//! Host ports: ports of this node that lead to one pod of it (`hostPort` of a container, the `portMappings` capability of CNI).
//! In: what the runtime asks for. Out: which of the node's addresses are meant, and whether two want the same.
//! Invariant: what is read is what was written; ports are not 0.
//! Never: which addresses the node has.

use crate::{Family, Protocol};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The node's address (`hostIP`). `None`: all of them; an unspecified one: all of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The node's port (`hostPort`).
    pub port: u16,
    /// The pod's (`containerPort`).
    pub target: u16,
}

impl HostPort {
    /// Whether it is at an address, if the node has that.
    #[must_use]
    pub fn is_at(&self, address: IpAddr) -> bool {
        self.address.is_none_or(|own| own == address || own.is_unspecified() && Family::of(own) == Family::of(address))
    }

    /// Whether some packet would be for both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let is_at = |one: &Self, other: &Self| other.address.is_none_or(|address| one.is_at(address));
        (self.protocol, self.port) == (other.protocol, other.port) && (is_at(self, other) || is_at(other, self))
    }
}

/// `8080/TCP`, `192.0.2.1:8080/TCP`, `[::]:8080/TCP`.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}/{}", std::net::SocketAddr::new(address, self.port), self.protocol),
            None => write!(f, "{}/{}", self.port, self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> HostPort {
        let address = (!address.is_empty()).then(|| address.parse().expect("an address"));
        HostPort { address, protocol: Protocol::TCP, port: 8080, target: 80 }
    }

    #[test]
    fn two_meet_where_some_packet_is_for_both() {
        for (one, other, meet) in [
            ("", "", true),
            ("", "192.0.2.1", true),
            ("", "::", true),
            ("0.0.0.0", "192.0.2.1", true),
            ("0.0.0.0", "0.0.0.0", true),
            ("0.0.0.0", "::", false),
            ("0.0.0.0", "2001:db8::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!((at(one).meets(&at(other)), at(other).meets(&at(one))), (meet, meet), "{one:?} and {other:?}");
        }
        assert!(!at("").meets(&HostPort { port: 8081, ..at("") }));
        assert!(!at("").meets(&HostPort { protocol: Protocol::UDP, ..at("") }));
        assert!(at("").meets(&HostPort { target: 81, ..at("") }), "wherever they lead");
    }

    #[test]
    fn it_is_written_with_its_address_where_it_has_one() {
        assert_eq!(
            ["", "192.0.2.1", "::"].map(|address| at(address).to_string()),
            ["8080/TCP", "192.0.2.1:8080/TCP", "[::]:8080/TCP"]
        );
    }
}
