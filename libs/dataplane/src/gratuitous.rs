//! Says at the uplink's link, unasked, who answers for an address now: gratuitous ARP and unsolicited advertisements.
//! In: addresses. Out: frames; and the groups in which their solicitations come are heard while the caller lives.
//! Invariant: a frame names the uplink's MAC, in its header and in what it says.
//! Never: repeats by itself, waits.

use libc::{c_int, sockaddr_ll};
use model::{Ifindex, Mac};
use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// It takes the place of what is known (RFC 4861 §4.4).
const OVERRIDE: u8 = 0x20;

/// A raw socket at one interface.
#[derive(Debug)]
pub struct Caller {
    socket: OwnedFd,
    interface: Ifindex,
    mac: Mac,
}

impl Caller {
    /// At this interface of the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(interface: Ifindex, mac: Mac) -> io::Result<Self> {
        // Of no protocol: it hears nothing.
        // SAFETY: takes integers, gives a descriptor or -1.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that nobody else owns.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, interface, mac })
    }

    /// Where and as whom it calls.
    #[must_use]
    pub fn place(&self) -> (Ifindex, Mac) {
        (self.interface, self.mac)
    }

    /// Says who has the address.
    ///
    /// # Errors
    /// The kernel does not send.
    pub fn call(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.send(BROADCAST, libc::ETH_P_ARP, &gratuitous(address, self.mac)),
            IpAddr::V6(address) => self.send(ALL_NODES_MAC, libc::ETH_P_IPV6, &unsolicited(address, self.mac)),
        }
    }

    /// Solicitations for this address are heard, or no more. IPv4 asks everybody.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hear(&self, address: IpAddr, heard: bool) -> io::Result<()> {
        let IpAddr::V6(address) = address else { return Ok(()) };
        let [.., a, b, c] = address.octets();
        let mut group = libc::packet_mreq {
            mr_ifindex: c_int::try_from(self.interface.0).map_err(io::Error::other)?,
            mr_type: c_short_of(libc::PACKET_MR_MULTICAST),
            mr_alen: 6,
            mr_address: [0; 8],
        };
        group.mr_address[..6].copy_from_slice(&[0x33, 0x33, 0xff, a, b, c]);
        let option = if heard { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        let size = socklen::<libc::packet_mreq>();
        // SAFETY: a structure for this option, of the size given, which outlives the call.
        let result = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const group).cast(), size)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn send(&self, to: [u8; 6], ethertype: c_int, content: &[u8]) -> io::Result<()> {
        let ethertype = u16::try_from(ethertype).map_err(io::Error::other)?;
        let frame = [&to[..], &self.mac.0, &ethertype.to_be_bytes(), content].concat();
        // SAFETY: integers and bytes; zero is valid.
        let mut place: sockaddr_ll = unsafe { mem::zeroed() };
        place.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        place.sll_ifindex = c_int::try_from(self.interface.0).map_err(io::Error::other)?;
        place.sll_protocol = ethertype.to_be();
        let size = socklen::<sockaddr_ll>();
        // SAFETY: frame and address outlive the call and are of the lengths given.
        let sent = unsafe {
            let (bytes, address) = (frame.as_ptr().cast(), (&raw const place).cast());
            libc::sendto(self.socket.as_raw_fd(), bytes, frame.len(), libc::MSG_DONTWAIT, address, size)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn c_short_of(number: c_int) -> libc::c_ushort {
    libc::c_ushort::try_from(number).unwrap_or_default()
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

/// A request of which sender and target are one (RFC 5944 §4.6).
fn gratuitous(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac.0, &address.octets(), &BROADCAST, &address.octets()].concat()
}

/// An advertisement that nobody asked for, from the address itself, to all nodes (RFC 4861 §7.2.6).
fn unsolicited(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = [&[ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &address.octets(), &[2, 1], &mac.0].concat();
    let length = u8::try_from(message.len()).unwrap_or_default();
    let pseudo = [&address.octets()[..], &ALL_NODES.octets(), &[0, length, 0, ICMPV6]].concat();
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum);
    let head = [0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    [&head[..], &address.octets(), &ALL_NODES.octets(), &message].concat()
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum = bytes.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_has_a_correct_checksum_and_names_the_address_twice() {
        let address: Ipv6Addr = "2001:db8::80".parse().expect("an address");
        let packet = unsolicited(address, Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!(packet.len(), 40 + 32);
        assert_eq!((&packet[8..24], &packet[48..64]), (&address.octets()[..], &address.octets()[..]));
        let summed = [&packet[8..40], &[0, 32, 0, 58], &packet[40..]].concat();
        assert_eq!(checksum(&summed), [0, 0]);
        // A neighbour believes none that a router could have sent on, and one that knows us already only what overrides.
        assert_eq!((packet[7], packet[40], packet[44]), (255, 136, 0x20));
        assert_eq!(&packet[64..], [2, 1, 2, 0, 0, 0, 0, 9], "its own link-layer address: the target's, not a source's");
    }

    #[test]
    fn a_gratuitous_request_asks_for_the_address_that_it_comes_from() {
        let arp = gratuitous([192, 0, 2, 80].into(), Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!((arp.len(), &arp[..8]), (28, &[0, 1, 8, 0, 6, 4, 0, 1][..]));
        assert_eq!((&arp[8..14], &arp[18..24]), (&[2, 0, 0, 0, 0, 9][..], &[0xff; 6][..]));
        assert_eq!((&arp[14..18], &arp[24..28]), (&[192, 0, 2, 80][..], &[192, 0, 2, 80][..]));
    }
}
