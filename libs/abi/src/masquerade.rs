//! Masquerade: as whom this node stands for its pods outside of all pools.
//! In: 0 (IPv4) or 1 (IPv6). Out: address, ports, uplink.
//! Invariant: an all-zero entry stands for nobody.
//! Never: says whose flows those are; that is in the node's and the pods' slots.

use crate::Address;

/// Ports of a node's, one after the other, or identifiers of ICMP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// How many there are.
    pub count: u16,
}

/// TCP's where nothing else is set: below those that sockets get where they ask for none (`ip_local_port_range`), and below node
/// ports. No fewer than a pod has to ask from, 32768 to 60999, so that each of them has one of its own: a server that has closed
/// a connection takes a new one from its port only by a later timestamp, and a pod's kernel gives such a one to the same port
/// alone. An odd number: of a wider range Linux asks from every second port.
pub const TCP: Ports = Ports { first: 1025, count: 28_975 };
/// Of all others, as Calico's `bpfPSNATPorts`: below them are ports that some networks refuse to UDP, for what lies there is abused.
pub const OTHERS: Ports = Ports { first: 20_000, count: 10_000 };

/// As whom this node stands for its pods.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// An address of this node's.
    pub address: Address,
    /// By which ports, of TCP.
    pub tcp: Ports,
    /// By which, of the rest.
    pub others: Ports,
    /// The interface at which answers are heard: the uplink.
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Masquerade>() == 32);
