//! Frames made for the node in memory.
//! In: slots, last parts of addresses, ports. Out: bytes from the Ethernet header on, without checksums.
//! Invariant: the same call makes the same bytes.
//! Never: part of a program.

use std::vec::Vec;

use abi::endpoint::GATEWAY_MAC;

use crate::tables::Frame;

/// A frame in memory.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Frame for Bytes<'_> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.get(at as usize..)?.first_chunk().copied()
    }
}

/// The MAC of the pod in `slot`.
#[must_use]
pub fn mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, slot as u8]
}

/// An Ethernet and IPv4 header before `payload`. Slot 0 stands for what is outside.
pub fn ipv4(from: (u32, u8), to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(GATEWAY_MAC);
    frame.extend(mac(from.0));
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 7, 0, 0, 64, protocol, 0, 0, 10, 65, 0, from.1, 10, 65, 0, to]);
    frame.extend(payload);
    frame
}

/// A TCP segment.
pub fn tcp(from: (u32, u8), to: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    ipv4(from, to, 6, &payload)
}

/// A UDP datagram without data.
pub fn udp(from: (u32, u8), to: u8, ports: (u16, u16)) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend([0, 8, 0, 0]);
    ipv4(from, to, 17, &payload)
}

/// An ICMP message with an identifier.
pub fn icmp(from: (u32, u8), to: u8, icmp_type: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    ipv4(from, to, 1, &[icmp_type, 0, 0, 0, high, low, 0, 0])
}
