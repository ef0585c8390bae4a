//! Floods: flow after flow from one end, made by hand, alone or with an accomplice who answers.
//! In: two ends on the same node, or one outside; a kind of flood. Out: frames, until stopped.
//! Invariant: every flow has a tuple of its own until all of them are used up; checksums are right, so that stacks answer.
//! Never: as fast as it can: a flood that fills the machine's queues would show nothing about tables.

use crate::{
    NetNs,
    frame::{FrameSocket, Mac},
};
use anyhow::Result;
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Flows sent in a row, and the pause after them.
const BURST: u64 = 16;
const PAUSE: Duration = Duration::from_millis(1);

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What is sent for each flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// A SYN to this port; the other end's own stack says what it says.
    Syns(u16),
    /// A whole handshake with this port, the other end's part by the accomplice.
    Handshakes(u16),
    /// A datagram, each to another port.
    Datagrams,
    /// A datagram, the accomplice's answer, and one more.
    Talks,
    /// An echo request, which the other end's stack answers.
    Pings,
    /// The same and one more with the same identifier.
    PingTalks,
}

/// One end: where its frames go out, and what they carry.
#[derive(Debug)]
pub struct End {
    socket: FrameSocket,
    to: Mac,
    address: Ipv4Addr,
    /// Another sender's address each time.
    forges: bool,
}

impl End {
    /// A pod's.
    ///
    /// # Errors
    /// It has no `eth0`.
    pub fn pod(namespace: &NetNs, address: Ipv4Addr) -> Result<Self> {
        Ok(Self { socket: FrameSocket::open(namespace, "eth0")?, to: [0xee; 6], address, forges: false })
    }

    /// One outside the cluster, whose frames go to a node's MAC with forged senders.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn outside(namespace: &NetNs, interface: &str, node: Mac) -> Result<Self> {
        let address = Ipv4Addr::new(198, 18, 0, 0);
        Ok(Self { socket: FrameSocket::open(namespace, interface)?, to: node, address, forges: true })
    }

    /// One of the two parts of a datagram of 16 bytes, each its packet's identification; which says whether it is the first.
    ///
    /// # Errors
    /// The frame cannot be sent.
    pub fn piece(&self, to: SocketAddrV4, id: u8, is_first: bool) -> Result<()> {
        let head = [40000_u16.to_be_bytes(), to.port().to_be_bytes(), 24_u16.to_be_bytes(), [0; 2]].concat();
        let payload = if is_first { [&head[..], &[id; 8]].concat() } else { vec![id; 8] };
        let place = if is_first { [0x20, 0] } else { [0, 2] };
        self.send_ip(ip_part(self.address, *to.ip(), UDP, (id, place), &payload))
    }

    fn source(&self, number: u64) -> Ipv4Addr {
        if self.forges { Ipv4Addr::from(u32::from(self.address) + (number % 60_000) as u32) } else { self.address }
    }

    fn send(&self, number: u64, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Result<()> {
        self.send_ip(ip(self.source(number), destination, protocol, payload))
    }

    fn send_ip(&self, packet: Vec<u8>) -> Result<()> {
        let ethernet = [&self.to[..], &self.socket.mac, &[8, 0]].concat();
        self.socket.send(&[ethernet, packet].concat())
    }
}

/// A flood under way.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    flows: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Running {
    /// Flows sent so far.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Ends it; how many flows there were.
    ///
    /// # Errors
    /// A frame could not be sent.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(self.flows.load(Ordering::Relaxed))
    }
}

/// Begins one, from the one end to the other.
#[must_use]
pub fn begin(flood: Flood, from: End, to: End) -> Running {
    let (stop, flows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (until, count) = (Arc::clone(&stop), Arc::clone(&flows));
    let thread = thread::spawn(move || {
        for number in 0.. {
            if until.load(Ordering::Relaxed) {
                break;
            }
            one_flow(flood, number, &from, &to)?;
            count.fetch_add(1, Ordering::Relaxed);
            if number % BURST == 0 {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    });
    Running { stop, flows, thread }
}

fn one_flow(flood: Flood, number: u64, from: &End, to: &End) -> Result<()> {
    let own = 1024 + (number % 60_000) as u16;
    let (here, there) = (from.source(number), to.address);
    let asks = |protocol, payload: &[u8]| from.send(number, there, protocol, payload);
    let answers = |protocol, payload: &[u8]| to.send(number, here, protocol, payload);
    match flood {
        Flood::Syns(port) => asks(TCP, &segment(here, there, (own, port), SYN)),
        Flood::Handshakes(port) => {
            asks(TCP, &segment(here, there, (own, port), SYN))?;
            answers(TCP, &segment(there, here, (port, own), SYN | ACK))?;
            asks(TCP, &segment(here, there, (own, port), ACK))
        }
        Flood::Datagrams => asks(UDP, &datagram((9, own))),
        Flood::Talks => {
            asks(UDP, &datagram((own, 9)))?;
            answers(UDP, &datagram((9, own)))?;
            asks(UDP, &datagram((own, 9)))
        }
        Flood::Pings => asks(ICMP, &echo(own)),
        Flood::PingTalks => asks(ICMP, &echo(own)).and_then(|()| asks(ICMP, &echo(own))),
    }
}

fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ip_part(source, destination, protocol, (0, [0; 2]), payload)
}

/// One with this identification, flags and offset.
fn ip_part(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    (id, place): (u8, [u8; 2]),
    payload: &[u8],
) -> Vec<u8> {
    let [length_high, length_low] = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, length_high, length_low, 0, id, place[0], place[1], 64, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn segment(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, TCP, 0, 20]].concat();
    let sum = checksum(&[pseudo, segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Without a checksum, which UDP over IPv4 may do.
fn datagram(ports: (u16, u16)) -> Vec<u8> {
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    datagram.extend([0, 8, 0, 0]);
    datagram
}

fn echo(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![8, 0, 0, 0, high, low, 0, 1];
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Internet checksum of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_made_sums_to_nothing() {
        let (here, there) = (Ipv4Addr::new(10, 65, 0, 2), Ipv4Addr::new(10, 65, 0, 3));
        assert_eq!(checksum(&ip(here, there, UDP, &datagram((1, 2)))[..20]), 0);
        assert_eq!(checksum(&echo(7)), 0);
        let pseudo = [&here.octets()[..], &there.octets(), &[0, TCP, 0, 20]].concat();
        assert_eq!(checksum(&[pseudo, segment(here, there, (1, 2), SYN)].concat()), 0);
    }
}
