//! Tunnels between nodes by VXLAN: behind which node an address lies.
//! In: nothing. Out: the values of `TUNNELS` and `TUNNEL_LOCAL`, and the numbers of the wire format.
//! Invariant: a node's own address lies behind that node.
//! Never: says which packets go by a tunnel; the routing table does.

use crate::Address;

/// The network that all of a cluster's tunnels are (VXLANVNI of Felix).
pub const VNI: u32 = 4096;
/// Their UDP port (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

/// A node behind which a network lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelEnd {
    /// The node's address, which the outer header bears.
    pub remote: Address,
    /// The MAC of its tunnel device; zero: from there packets come, and none go there by a tunnel.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<TunnelEnd>() == 24);
