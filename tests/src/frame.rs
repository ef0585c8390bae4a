//! Ethernet frames by packet socket: ARP and neighbour discovery asked by hand.
//! In: a namespace and an interface. Out: frames sent as they are, frames received as they were.
//! Invariant: every wait is bounded.
//! Never: goes through the namespace's own neighbour table.

use crate::NetNs;
use anyhow::{Context as _, Result, ensure};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

/// How long silence must last to count as no answer.
const SILENCE: Duration = Duration::from_millis(400);
const ETH_ARP: [u8; 2] = [0x08, 0x06];
const ETH_IPV6: [u8; 2] = [0x86, 0xdd];
const BROADCAST: [u8; 6] = [0xff; 6];
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ICMPV6: u8 = 58;

/// A MAC address.
pub type Mac = [u8; 6];

/// A packet socket on one interface.
#[derive(Debug)]
pub struct FrameSocket {
    fd: OwnedFd,
    /// MAC of the interface.
    pub mac: Mac,
}

impl FrameSocket {
    /// On `interface` of `namespace`.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn open(namespace: &NetNs, interface: &str) -> Result<Self> {
        let links = namespace.ip_json(&format!("link show dev {interface}"))?;
        let index = links[0]["ifindex"].as_i64().context("no index")?;
        let mac = parse_mac(links[0]["address"].as_str().unwrap_or_default())?;
        let fd = namespace.inside(|| packet_socket(i32::try_from(index)?))?;
        Ok(Self { fd, mac })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        rustix::io::write(&self.fd, frame).context("sending a frame")?;
        Ok(())
    }

    /// The first frame to come that `wanted` makes something of; `None` after a silence.
    fn receive<T>(&self, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + SILENCE;
        let mut buffer = [0; 2048];
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            rustix::net::sockopt::set_socket_timeout(&self.fd, rustix::net::sockopt::Timeout::Recv, Some(left)).ok()?;
            let Ok(length) = rustix::io::read(&self.fd, &mut buffer) else { continue };
            if let Some(found) = wanted(&buffer[..length]) {
                return Some(found);
            }
        }
        None
    }

    /// Asks who has `target`; the MAC of whoever answers.
    ///
    /// # Errors
    /// The request cannot be sent.
    pub fn arp(&self, sender: Ipv4Addr, target: Ipv4Addr) -> Result<Option<Mac>> {
        let mut frame = [&BROADCAST[..], &self.mac, &ETH_ARP, &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
        frame.extend(self.mac);
        frame.extend(sender.octets());
        frame.extend([0; 6]);
        frame.extend(target.octets());
        self.send(&frame)?;
        let target = target.octets();
        Ok(self.receive(|frame| {
            let reply = frame.get(12..14) == Some(&ETH_ARP[..]) && frame.get(20..22) == Some(&[0, 2][..]);
            (reply && frame.get(28..32) == Some(&target[..])).then(|| frame.get(22..28)?.try_into().ok()).flatten()
        }))
    }

    /// Asks who has `target`, by solicited-node multicast; the MAC of whoever answers.
    ///
    /// # Errors
    /// The request cannot be sent.
    pub fn solicit(&self, sender: Ipv6Addr, target: Ipv6Addr) -> Result<Option<Mac>> {
        self.send(&solicitation(self.mac, sender, target))?;
        let target = target.octets();
        Ok(self.receive(|frame| {
            let advertisement = frame.get(12..14) == Some(&ETH_IPV6[..])
                && frame.get(20) == Some(&ICMPV6)
                && frame.get(54) == Some(&NEIGHBOUR_ADVERTISEMENT)
                && frame.get(21) == Some(&255);
            // The target link-layer option follows the target's address.
            let option = frame.get(78..80) == Some(&[2, 1][..]);
            (advertisement && option && frame.get(62..78) == Some(&target[..]) && checksum_holds(frame))
                .then(|| frame.get(80..86)?.try_into().ok())
                .flatten()
        }))
    }
}

/// A neighbour solicitation; from `::` it is an address probe (RFC 4862 §5.4.2), without the source's MAC.
fn solicitation(mac: Mac, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c));
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !sender.is_unspecified() {
        message.extend([1, 1]);
        message.extend(mac);
    }
    let sum = checksum(sender, group, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let mut frame =
        [&[0x33, 0x33, 0xff, a, b, c][..], &mac, &ETH_IPV6, &[0x60, 0, 0, 0, 0, length, ICMPV6, 255]].concat();
    frame.extend(sender.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// Internet checksum of an ICMPv6 message with its pseudo-header (RFC 8200 §8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, 0, 0, length, 0, 0, 0, ICMPV6], message].concat();
    let words = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

fn checksum_holds(frame: &[u8]) -> bool {
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    let length = frame.get(18..20).map_or(0, |bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]));
    let (Some(source), Some(destination), Some(message)) = (address(22), address(38), frame.get(54..54 + length))
    else {
        return false;
    };
    checksum(source, destination, message) == 0
}

/// Reads `aa:bb:cc:dd:ee:ff`.
///
/// # Errors
/// It is not a MAC address.
pub fn parse_mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    Mac::try_from(bytes).map_err(|_| anyhow::anyhow!("{text:?} is not a MAC address"))
}

/// A packet socket for every protocol, bound to one interface of the current namespace.
fn packet_socket(index: i32) -> Result<OwnedFd> {
    let all = u16::try_from(libc::ETH_P_ALL).context("a protocol number is 16 bits")?.to_be();
    // SAFETY: a system call without pointers.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
    ensure!(raw >= 0, "opening a packet socket: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).context("an address family is 16 bits")?;
    address.sll_protocol = all;
    address.sll_ifindex = index;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).context("an address is short")?;
    // SAFETY: `address` lives over the call and is `length` bytes long.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "binding a packet socket: {}", io::Error::last_os_error());
    Ok(fd)
}
