//! The cast: named actors with an address a family, so that a row reads as a sentence.
//! In: a name. Out: its addresses, MAC and labels.
//! Invariant: every actor has both families; rows run unchanged for each.
//! Never: an actor without a role.

use model::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which family a table runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// One end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: &'static str,
    pub mac: Mac,
    number: u8,
    outside: bool,
}

impl Actor {
    /// A pod of the pool 10.65.0.0/16, fd00:65::/64.
    pub const fn pod(name: &'static str, number: u8) -> Self {
        Self { name, mac: Mac([0x0a, 0x58, 10, 65, 0, number]), number, outside: false }
    }

    /// Somebody in 192.0.2.0/24, 2001:db8::/64.
    pub const fn outside(name: &'static str, number: u8) -> Self {
        Self { name, mac: Mac([0x02, 0, 192, 0, 2, number]), number, outside: true }
    }

    /// Its address.
    pub fn address(self, family: Family) -> IpAddr {
        let last = self.number;
        match (family, self.outside) {
            (Family::V4, false) => Ipv4Addr::new(10, 65, 0, last).into(),
            (Family::V4, true) => Ipv4Addr::new(192, 0, 2, last).into(),
            (Family::V6, false) => Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, last.into()).into(),
            (Family::V6, true) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    /// Both addresses.
    pub fn addresses(self) -> Vec<IpAddr> {
        Family::BOTH.map(|family| self.address(family)).to_vec()
    }
}

/// `app=client`.
pub const CLIENT: Actor = Actor::pod("client", 2);
/// `app=db`, port name `sql` is 5432/TCP.
pub const DB: Actor = Actor::pod("db", 3);
/// `app=other`.
pub const OTHER: Actor = Actor::pod("other", 4);
/// A pod that gets the address that `db` had, with a MAC of its own.
pub const HEIR: Actor = Actor { name: "heir", mac: Mac([0x0a, 0x58, 10, 65, 1, 3]), number: DB.number, outside: false };
/// A pod of another node, `app=client`.
pub const REMOTE: Actor = Actor::pod("remote", 130);
/// This node's own address on the uplink.
pub const NODE: Actor = Actor::outside("node", 1);
/// The next hop and everybody behind it.
pub const OUTSIDE: Actor = Actor::outside("outside", 9);
