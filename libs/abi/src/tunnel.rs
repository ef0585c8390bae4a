//! Tunnels between nodes, by VXLAN and by IPIP: behind which node an address lies.
//! In: nothing. Out: the values of `TUNNELS` and `TUNNEL_LOCAL`, and the numbers of the wire formats.
//! Invariant: a node's own address lies behind that node.
//! Never: says which packets go by a tunnel device; the routing table does.

use crate::Address;

/// The network that all of a cluster's tunnels are, where nothing else is said (VXLANVNI of Felix).
pub const VNI: u32 = 4096;
/// Their UDP port likewise (VXLANPort; RFC 7348).
pub const VXLAN_PORT: u16 = 4789;
/// The protocol of an IPv4 packet within another (RFC 2003).
pub const IPIP: u8 = 4;

/// The node sends packets by VXLAN.
pub const FROM_VXLAN: u8 = 1;
/// It sends packets by IPIP.
pub const FROM_IPIP: u8 = 2;
/// Packets go there by IPIP.
pub const TO_IPIP: u8 = 4;

/// Whoever lies in the network, and in no smaller one that is known, sends packets these ways (externalNodesList of Felix).
pub const ANYONE: u8 = 8;

/// A node behind which a network lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelEnd {
    /// The node's address, which the outer header bears; zero: the network lies behind nobody.
    pub remote: Address,
    /// The MAC of its tunnel device; zero: none go there by VXLAN.
    pub mac: [u8; 6],
    /// [`FROM_VXLAN`], [`FROM_IPIP`], [`TO_IPIP`], [`ANYONE`].
    pub ways: u8,
    /// Zero.
    pub pad: u8,
}

/// How this node sends wrapped packets of a family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelLocal {
    /// From where; zero: from where the route says.
    pub address: Address,
    /// In which network of VXLAN; it takes packets of no other. Zero: [`VNI`].
    pub vni: u32,
    /// Zero.
    pub pad: u32,
}

impl TunnelLocal {
    /// The network of VXLAN.
    #[must_use]
    pub const fn network(&self) -> u32 {
        if self.vni == 0 { VNI } else { self.vni }
    }
}

const _: () = assert!(size_of::<TunnelEnd>() == 24 && size_of::<TunnelLocal>() == 24);
