//! The node's own sockets that talk with a service: which backend each was given, and in whose name that one answers.
//! In: a socket's cookie and the other end. Out: the end that stands for it.
//! Invariant: a cookie is one socket's alone as long as the node runs.
//! Never: a socket of another network namespace.

use crate::address::Address;

/// Name of the programs' global that holds the cookie of the only network namespace whose sockets they touch; 0: of none.
pub const NETNS_COOKIE_GLOBAL: &str = "NETNS_COOKIE";

/// In [`SocketKey::side`]: the end is a frontend, and what stands for it the backend that datagrams go to.
pub const SIDE_FRONTEND: u8 = 1;
/// The end is a backend, and what stands for it the frontend that the socket's owner knows.
pub const SIDE_BACKEND: u8 = 2;

/// A socket and one of its other ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    /// The socket.
    pub cookie: u64,
    /// The end's address.
    pub address: Address,
    /// Its port, network order.
    pub port: [u8; 2],
    /// `SIDE_*`.
    pub side: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// What stands for that end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketPeer {
    /// Its address.
    pub address: Address,
    /// Slot of the backend, which is one of the two.
    pub backend: u32,
    /// Generation (low 32 bits) that chose it.
    pub stamp: u32,
    /// Port, network order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<SocketKey>() == 32);
const _: () = assert!(size_of::<SocketPeer>() == 32);
