//! Ports of a fragmented packet, remembered from its first fragment for as long as a receiver waits for the rest.
//! In: addresses, protocol and identification. Out: the ports, with which a later fragment is judged as its first was.
//! Invariant: an entry exists only after the first fragment was let through.
//! Never: guesses ports; a later fragment without an entry is dropped and counted.

use crate::address::Address;

/// Which packet a fragment belongs to (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification: 16 bits in IPv4, 32 in IPv6, as on the wire.
    pub id: [u8; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// The first fragment's ports, network order; for ICMP echo the identifier twice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// What the spans are searched by: destination port, or ICMP type and code; host order.
    pub detail: u16,
    /// Where the first fragment ends, in units of 8 bytes: no later one may begin before. [`END_NEVER`]: none may at all.
    pub end: u16,
    /// When it was seen: seconds of the coarse monotonic clock.
    pub seen_s: u32,
}

/// The end of a first fragment whose packet is lost, because fragments of it lay over each other (RFC 5722).
pub const END_NEVER: u16 = u16::MAX;
/// Seconds a receiver waits for the rest of a packet, IPv4 (Linux's `ipfrag_time`).
pub const LIFE_V4_S: u32 = 30;
/// The same, IPv6 (RFC 8200 §4.5).
pub const LIFE_V6_S: u32 = 60;

const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<FragmentPorts>() == 12);
