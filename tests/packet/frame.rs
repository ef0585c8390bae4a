//! Frames: what a packet looks like on the wire, built field by field so that it can also be built wrong.
//! In: actors, family, ports, flags. Out: bytes from the Ethernet header on, checksums right unless spoilt.
//! Invariant: the same call builds the same bytes.
//! Never: reads the code under test.

use crate::cast::{Actor, Family};
use std::net::{IpAddr, Ipv6Addr};

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x01;
pub const RST: u8 = 0x04;
pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];

/// A packet from one actor to another.
#[derive(Clone, Debug)]
pub struct Frame {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub protocol: u8,
    pub payload: Vec<u8>,
    pub fragment: Option<Fragment>,
    pub options: Vec<u8>,
}

/// Where a fragment lies: offset in 8-byte units.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub offset: u16,
    pub more: bool,
    pub id: u16,
}

impl Actor {
    /// An IP packet to `to` with this payload, sent to the gateway as every pod does.
    pub fn ip(self, family: Family, to: Actor, protocol: u8, payload: Vec<u8>) -> Frame {
        Frame {
            destination_mac: GATEWAY_MAC,
            source_mac: self.mac.0,
            source: self.address(family),
            destination: to.address(family),
            ttl: 64,
            protocol,
            payload,
            fragment: None,
            options: Vec::new(),
        }
    }

    pub fn tcp(self, family: Family, to: Actor, ports: (u16, u16), flags: u8) -> Frame {
        let mut segment = Vec::with_capacity(20);
        segment.extend(ports.0.to_be_bytes());
        segment.extend(ports.1.to_be_bytes());
        segment.extend([0; 8]);
        segment.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        self.ip(family, to, 6, segment)
    }

    pub fn udp(self, family: Family, to: Actor, ports: (u16, u16), data: &[u8]) -> Frame {
        let mut datagram = Vec::with_capacity(8 + data.len());
        datagram.extend(ports.0.to_be_bytes());
        datagram.extend(ports.1.to_be_bytes());
        datagram.extend(u16::try_from(8 + data.len()).expect("a test's datagram is short").to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(data);
        self.ip(family, to, 17, datagram)
    }

    pub fn sctp_init(self, family: Family, to: Actor, ports: (u16, u16)) -> Frame {
        self.sctp(family, to, ports, &[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1])
    }

    /// An SCTP packet with these chunks.
    pub fn sctp(self, family: Family, to: Actor, ports: (u16, u16), chunks: &[u8]) -> Frame {
        let mut packet = Vec::with_capacity(12 + chunks.len());
        packet.extend(ports.0.to_be_bytes());
        packet.extend(ports.1.to_be_bytes());
        packet.extend([0; 8]);
        packet.extend(chunks);
        self.ip(family, to, 132, packet)
    }

    pub fn ping(self, family: Family, to: Actor, id: u16) -> Frame {
        self.echo(family, to, id, if family == Family::V4 { 8 } else { 128 })
    }

    pub fn pong(self, family: Family, to: Actor, id: u16) -> Frame {
        self.echo(family, to, id, if family == Family::V4 { 0 } else { 129 })
    }

    fn echo(self, family: Family, to: Actor, id: u16, kind: u8) -> Frame {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(id.to_be_bytes());
        message.extend([0, 1, b'm', b'e', b'o', b'w']);
        self.icmp(family, to, message)
    }

    /// An ICMP message of the family; bytes 2 and 3 become its checksum.
    pub fn icmp(self, family: Family, to: Actor, message: Vec<u8>) -> Frame {
        self.ip(family, to, if family == Family::V4 { 1 } else { 58 }, message)
    }

    /// "Destination unreachable" (port) about `inner`, as its receiver or a router on the way says it.
    pub fn unreachable(self, family: Family, to: Actor, inner: &Frame) -> Frame {
        let mut message = if family == Family::V4 { vec![3, 3, 0, 0] } else { vec![1, 4, 0, 0] };
        message.extend([0; 4]);
        message.extend(&inner.bytes()[14..]);
        self.icmp(family, to, message)
    }
}

impl Frame {
    pub fn with_source(mut self, source: &str) -> Self {
        self.source = source.parse().expect("a test's address is valid");
        self
    }

    pub fn with_destination(mut self, destination: &str) -> Self {
        self.destination = destination.parse().expect("a test's address is valid");
        self
    }

    pub fn with_source_mac(mut self, mac: [u8; 6]) -> Self {
        self.source_mac = mac;
        self
    }

    pub fn with_destination_mac(mut self, mac: [u8; 6]) -> Self {
        self.destination_mac = mac;
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// IPv4 options (a multiple of 4 bytes).
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Only bytes `offset * 8 ..` of the payload, `len` of them at most.
    pub fn fragment(mut self, offset: u16, len: usize, more: bool) -> Self {
        let whole = self.clone().sealed().payload;
        let start = usize::from(offset) * 8;
        self.payload = whole[start..(start + len).min(whole.len())].to_vec();
        self.fragment = Some(Fragment { offset, more, id: 77 });
        self
    }

    /// A piece of the packet with this identification.
    pub fn identified(mut self, id: u16) -> Self {
        self.fragment.as_mut().expect("only pieces are identified").id = id;
        self
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let frame = if self.fragment.is_some() { self.clone() } else { self.clone().sealed() };
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(frame.destination_mac);
        bytes.extend(frame.source_mac);
        match (frame.source, frame.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x08, 0x00]);
                bytes.extend(frame.v4_header(source.octets(), destination.octets()));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x86, 0xdd]);
                bytes.extend(frame.v6_header(source.octets(), destination.octets()));
            }
            mixed => panic!("a packet of two families: {mixed:?}"),
        }
        bytes.extend(&frame.payload);
        bytes
    }

    /// The bytes, cut after `len` of them.
    pub fn cut(&self, len: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(len);
        bytes
    }

    fn v4_header(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let words = u8::try_from(5 + self.options.len() / 4).expect("options fit the header");
        let total = u16::try_from(usize::from(words) * 4 + self.payload.len()).expect("a test's packet is short");
        let (id, flags) = match self.fragment {
            None => (0, 0x4000),
            Some(part) => (part.id, u16::from(part.more) << 13 | part.offset),
        };
        let mut header = vec![0x40 | words, 0];
        header.extend(total.to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        let sum = fold(sum_of(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn v6_header(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let extra = if self.fragment.is_some() { 8 } else { 0 };
        let length = u16::try_from(extra + self.payload.len()).expect("a test's packet is short");
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([if self.fragment.is_some() { 44 } else { self.protocol }, self.ttl]);
        header.extend(source);
        header.extend(destination);
        if let Some(part) = self.fragment {
            header.extend([self.protocol, 0]);
            header.extend((part.offset << 3 | u16::from(part.more)).to_be_bytes());
            header.extend([0, 0]);
            header.extend(part.id.to_be_bytes());
        }
        header
    }

    /// With the transport checksum filled in.
    pub fn sealed(mut self) -> Self {
        if self.protocol == 132 && self.payload.len() >= 12 {
            self.payload[8..12].fill(0);
            let sum = crc32c(&self.payload);
            self.payload[8..12].copy_from_slice(&sum.to_le_bytes());
            return self;
        }
        let at = match self.protocol {
            6 if self.payload.len() >= 20 => 16,
            17 | 136 if self.payload.len() >= 8 => 6,
            1 | 58 if self.payload.len() >= 8 => 2,
            _ => return self,
        };
        self.payload[at..at + 2].fill(0);
        let pseudo = if self.protocol == 1 { 0 } else { self.pseudo_sum() };
        let sum = fold(pseudo + sum_of(&self.payload));
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    fn pseudo_sum(&self) -> u32 {
        let addresses = match (self.source, self.destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => [s.octets().to_vec(), d.octets().to_vec()].concat(),
            (IpAddr::V6(s), IpAddr::V6(d)) => [s.octets().to_vec(), d.octets().to_vec()].concat(),
            mixed => panic!("a packet of two families: {mixed:?}"),
        };
        let length = u32::try_from(self.payload.len()).expect("a test's packet is short");
        sum_of(&addresses) + u32::from(self.protocol) + length
    }
}

/// An ARP packet of `actor`.
pub fn arp(actor: Actor, operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(actor.mac.0);
    bytes.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend(actor.mac.0);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes.resize(60, 0);
    bytes
}

/// A neighbour solicitation (RFC 4861 §4.3), with or without the source link-layer address option.
pub fn solicitation(actor: Actor, source: [u8; 16], target: [u8; 16], option: bool) -> Frame {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    if option {
        message.extend([1, 1]);
        message.extend(actor.mac.0);
    }
    let mut destination = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    destination[13..].copy_from_slice(&target[13..]);
    Frame {
        destination_mac: [0x33, 0x33, 0xff, target[13], target[14], target[15]],
        source_mac: actor.mac.0,
        source: IpAddr::from(source),
        destination: IpAddr::from(destination),
        ttl: 255,
        protocol: 58,
        payload: message,
        fragment: None,
        options: Vec::new(),
    }
}

/// A multicast listener report (RFC 3810) as every IPv6 stack sends it, without its hop-by-hop option.
pub fn listener_report(actor: Actor) -> Frame {
    Frame {
        destination_mac: [0x33, 0x33, 0, 0, 0, 0x16],
        source_mac: actor.mac.0,
        source: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16).into(),
        ttl: 1,
        protocol: 58,
        payload: vec![143, 0, 0, 0, 0, 0, 0, 0],
        fragment: None,
        options: Vec::new(),
    }
}

/// Ones' complement sum of big-endian words, not folded.
pub fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// CRC32c, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 };
        }
    }
    !sum
}

/// The Internet checksum of a sum.
pub fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
