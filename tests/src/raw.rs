//! Packets below the sockets: ICMP echo, SCTP's first exchange, a TCP segment of nobody's, by raw socket.
//! In: an address, and a port where there are any. Out: whether the other end answered.
//! Invariant: every wait is bounded; an answer counts only if it carries what the question carried.
//! Never: needs SCTP in the kernel.

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto, recvfrom, sendto, socket,
    sockopt::{self, Timeout},
};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// IP protocol number of SCTP (RFC 9260).
const SCTP: u32 = 132;
const RST: u8 = 4;
const ACK: u8 = 16;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A raw socket of one protocol and family.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
    v4: bool,
}

impl RawSocket {
    fn open(v4: bool, protocol: Protocol) -> Result<Self> {
        let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = socket(family, SocketType::RAW, Some(protocol)).context("opening a raw socket")?;
        Ok(Self { fd, v4 })
    }

    /// Bounds every receive.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_timeout(&self, patience: Duration) -> Result<()> {
        sockopt::set_socket_timeout(&self.fd, Timeout::Recv, Some(patience)).context("bounding a raw socket's wait")
    }

    fn send(&self, to: IpAddr, payload: &[u8]) -> Result<()> {
        match sendto(&self.fd, payload, SendFlags::empty(), &SocketAddr::new(to, 0)) {
            // Dropped on its way out, which a raw socket is told: it meets the same silence as one that is dropped later.
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error).context("sending a raw packet"),
        }
    }

    /// The next packet's source and payload, without the IP header; `None` if none came in time.
    fn receive(&self) -> Option<(IpAddr, Vec<u8>)> {
        let mut buffer = [0; 2048];
        let (length, _, from) = recvfrom(&self.fd, &mut buffer[..], RecvFlags::empty()).ok()?;
        let packet = buffer.get(..length)?;
        let header = if self.v4 { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
        let from = SocketAddr::try_from(from?).ok()?;
        Some((from.ip(), packet.get(header..)?.to_vec()))
    }
}

/// One echo request from the current namespace; whether it was answered in time.
///
/// # Errors
/// The request cannot be sent.
pub fn ping(to: IpAddr, id: u16, patience: Duration) -> Result<bool> {
    let (v4, protocol) = (to.is_ipv4(), if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 });
    let (request, reply) = if v4 { (8, 0) } else { (128, 129) };
    let socket = RawSocket::open(v4, protocol)?;
    socket.send(to, &echo(request, id))?;
    let wanted = echo(reply, id);
    exchange(&socket, patience, |from, packet| {
        // Type, code, identifier and sequence; the checksum is the kernel's matter.
        from == to && packet.first() == wanted.first() && packet.get(4..8) == wanted.get(4..8)
    })
}

/// An echo message with its checksum (the kernel writes the one of ICMPv6 itself).
fn echo(kind: u8, id: u16) -> [u8; 8] {
    let [high, low] = id.to_be_bytes();
    let mut message = [kind, 0, 0, 0, high, low, 0, 1];
    let sum = internet_checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// A raw SCTP socket in the current namespace. While it is open, the kernel sends no "protocol unreachable".
///
/// # Errors
/// The process lacks the right.
pub fn sctp_socket(v4: bool) -> Result<RawSocket> {
    let number = NonZeroU32::new(SCTP).context("a protocol number is not zero")?;
    RawSocket::open(v4, Protocol::from_raw(number))
}

/// One INIT from the current namespace; whether an INIT ACK for it came back in time.
///
/// # Errors
/// It cannot be sent.
pub fn sctp_init(to: IpAddr, port: u16, source_port: u16, patience: Duration) -> Result<bool> {
    let socket = sctp_socket(to.is_ipv4())?;
    let tag = u32::from(source_port) << 16 | u32::from(port);
    socket.send(to, &init(INIT, source_port, port, 0, tag))?;
    exchange(&socket, patience, |from, packet| {
        from == to
            && packet.get(..2) == Some(&port.to_be_bytes()[..])
            && packet.get(2..4) == Some(&source_port.to_be_bytes()[..])
            && packet.get(4..8) == Some(&tag.to_be_bytes()[..])
            && packet.get(12) == Some(&INIT_ACK)
            && checksum_holds(packet)
    })
}

/// One TCP segment of no connection from `from`, an address of the current namespace; whether a reset came back in time.
///
/// # Errors
/// It cannot be sent.
pub fn stray_segment(from: IpAddr, to: IpAddr, port: u16, patience: Duration) -> Result<bool> {
    const SOURCE_PORT: u16 = 4321;
    let socket = RawSocket::open(to.is_ipv4(), ipproto::TCP)?;
    socket.send(to, &ack(from, to, SOURCE_PORT, port))?;
    exchange(&socket, patience, |sender, packet| {
        sender == to
            && packet.get(..2) == Some(&port.to_be_bytes()[..])
            && packet.get(2..4) == Some(&SOURCE_PORT.to_be_bytes()[..])
            && packet.get(13).is_some_and(|flags| flags & RST != 0)
    })
}

/// A header with nothing but ACK set, checksum included (RFC 9293 §3.1).
fn ack(from: IpAddr, to: IpAddr, source: u16, destination: u16) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (from_port, to_port) = (source.to_be_bytes(), destination.to_be_bytes());
    let header = [&from_port[..], &to_port, &[0, 0, 0, 7], &[0, 0, 0, 9], &[0x50, ACK, 0x20, 0, 0, 0, 0, 0]].concat();
    // Its length and the protocol belong to what is summed.
    let pseudo = [octets(from), octets(to), vec![0, 20, 0, 6], header.clone()].concat();
    let mut header = header;
    header[16..18].copy_from_slice(&internet_checksum(&pseudo).to_be_bytes());
    header
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

/// Waits for one packet; if it is an INIT for `port`, answers it as an SCTP endpoint would.
pub fn answer_init(socket: &RawSocket, port: u16) {
    let Some((from, packet)) = socket.receive() else { return };
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let (Some(source), Some(destination)) = (word(0), word(2)) else { return };
    let tag = packet.get(16..20).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    if let Some(tag) = tag.filter(|_| destination == port && packet.get(12) == Some(&INIT) && checksum_holds(&packet)) {
        // A peer that has gone is no fault of the server.
        let _ = socket.send(from, &init(INIT_ACK, port, source, tag, !tag));
    }
}

/// Receives until `wanted` says yes or time is up.
fn exchange(socket: &RawSocket, patience: Duration, wanted: impl Fn(IpAddr, &[u8]) -> bool) -> Result<bool> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_timeout(left)?;
        if socket.receive().is_some_and(|(from, packet)| wanted(from, &packet)) {
            return Ok(true);
        }
    }
}

/// A packet with one INIT or INIT ACK chunk (RFC 9260 §3.3.2), checksum included.
fn init(kind: u8, source: u16, destination: u16, tag: u32, initiate_tag: u32) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([kind, 0, 0, 20]);
    packet.extend(initiate_tag.to_be_bytes());
    packet.extend(65_536u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1u32.to_be_bytes());
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn checksum_holds(packet: &[u8]) -> bool {
    let Some(carried) = packet.get(8..12).map(<[u8]>::to_vec) else { return false };
    let mut blank = packet.to_vec();
    blank[8..12].fill(0);
    carried == crc32c(&blank).to_le_bytes()
}

/// CRC32c, bit by bit (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_torn_init_is_seen() {
        let mut packet = init(INIT, 4000, 80, 0, 7);
        assert!(checksum_holds(&packet));
        packet[17] ^= 1;
        assert!(!checksum_holds(&packet));
    }
}
