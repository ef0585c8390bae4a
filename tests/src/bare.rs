//! Two namespaces and a veth pair: the most a pod network can be, and what others are measured against.
//! In: a stem for their names. Out: both ends, up, with an address of each family.
//! Invariant: nothing but the kernel's own veth is between them.
//! Never: routes, filters or tunes.

use crate::{NetNs, traffic::Way};
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses of the left end.
pub const LEFT: (Ipv4Addr, Ipv6Addr) = end(1);
/// Addresses of the right end.
pub const RIGHT: (Ipv4Addr, Ipv6Addr) = end(2);

const fn end(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 97, 0, number), Ipv6Addr::new(0xfd00, 0x97, 0, 0, 0, 0, 0, number as u16))
}

/// The pair.
#[derive(Debug)]
pub struct BarePair {
    /// One end; its interface is `eth0`.
    pub left: NetNs,
    /// The other end; its interface is `eth0`.
    pub right: NetNs,
}

impl BarePair {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel refuses a namespace or the pair.
    pub fn create(stem: &str) -> Result<Self> {
        let (left, right) = (NetNs::create(stem, "left")?, NetNs::create(stem, "right")?);
        left.ip(&[&format!("link add eth0 type veth peer name eth0 netns {}", right.name())])?;
        for (side, (v4, v6)) in [(&left, LEFT), (&right, RIGHT)] {
            side.sysctl("ipv6/conf/eth0/accept_dad", "0")?;
            side.ip(&[
                &format!("address add {v4}/24 dev eth0"),
                &format!("address add {v6}/64 dev eth0 nodad"),
                "link set eth0 up",
            ])?;
        }
        left.wait_link("eth0")?;
        right.wait_link("eth0")?;
        Ok(Self { left, right })
    }

    /// From the left end to the right one, over IPv4.
    #[must_use]
    pub fn way(&self) -> Way<'_> {
        Way::direct(&self.left, &self.right, RIGHT.0.into())
    }
}
