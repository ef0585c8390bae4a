//! Masquerade: as whom this node stands for its pods outside of all pools.
//! In: 0 (IPv4) or 1 (IPv6). Out: address, ports, uplink.
//! Invariant: an all-zero entry stands for nobody.
//! Never: says whose flows those are; that is in the node's and the pods' slots.

use crate::Address;

/// The ports that stand for pods where nothing else is set, as Calico's `bpfPSNATPorts`: below those that sockets get where they
/// ask for none (`ip_local_port_range`), and below node ports.
pub const PORTS_FIRST: u32 = 20_000;
/// How many.
pub const PORTS: u32 = 10_000;

/// As whom this node stands for its pods.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// An address of this node's.
    pub address: Address,
    /// The first port, or ICMP identifier.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// The interface at which answers are heard: the uplink.
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Masquerade>() == 32);
