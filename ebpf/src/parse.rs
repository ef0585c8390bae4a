//! Parse: the headers of a frame, read once into one value.
//! In: the bytes of a frame. Out: [`Ether`], then [`Packet`], or why it cannot be read.
//! Invariant: every length that a header states is inside what holds it; a later fragment never yields ports.
//! Never: reads a table; treats a header it did not reach as if it were there.

use abi::{Address, DropReason};

use crate::tables::Frame;

/// EtherType of IPv4.
pub const ETHERTYPE_V4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_V6: u16 = 0x86dd;
/// Length of an Ethernet header, where every L3 header begins.
pub const L3: u32 = 14;

/// IP protocol numbers that have ports or a meaning of their own here.
pub mod protocol {
    #![expect(missing_docs, reason = "the names are IANA's")]
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
}

/// TCP flags.
pub mod tcp {
    #![expect(missing_docs, reason = "the names are RFC 9293's")]
    pub const FIN: u8 = 1 << 0;
    pub const SYN: u8 = 1 << 1;
    pub const RST: u8 = 1 << 2;
    pub const ACK: u8 = 1 << 4;
}

const EXTENSION_HEADERS_MAX: u32 = 8;
const TCP_HEADER: u32 = 20;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ether {
    /// Receiver.
    pub destination: [u8; 6],
    /// Sender.
    pub source: [u8; 6],
    /// What follows.
    pub ethertype: u16,
}

/// Which part of an IP packet this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// The beginning, with the ports; more follows.
    First,
    /// No beginning, no ports.
    Later,
}

/// An IP packet's headers, IPv4 and IPv6 alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Fragment identification, as on the wire.
    pub fragment_id: [u8; 4],
    /// Offset of the transport header from the frame's start.
    pub l4: u32,
    /// Length of the IP packet.
    pub length: u32,
    /// What spans are searched by: destination port, or ICMP type and code; host order.
    pub detail: u16,
    /// Source port, or ICMP identifier: the two bytes as they lie in the packet, as one value (written and read whole:
    /// a read that spans two fresh writes stalls).
    pub source_port: u16,
    /// Destination port, or ICMP identifier, likewise.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// IPv6.
    pub v6: bool,
    /// Which part of the packet.
    pub fragment: Fragment,
    /// Where a later fragment begins, or a first one ends; units of 8 bytes. Of a whole packet: nothing.
    pub fragment_at: u16,
}

impl Packet {
    /// Blanks what parsing may leave unwritten.
    #[inline(always)]
    pub const fn forget(&mut self) {
        self.fragment_id = [0; 4];
        self.detail = 0;
        self.source_port = 0;
        self.destination_port = 0;
        self.tcp_flags = 0;
        self.v6 = false;
        self.fragment = Fragment::Whole;
    }

    /// ICMP or ICMPv6, in its own family.
    #[inline(always)]
    #[must_use]
    pub const fn is_icmp(&self) -> bool {
        self.protocol == if self.v6 { protocol::ICMPV6 } else { protocol::ICMP }
    }

    /// Type of an ICMP message.
    #[inline(always)]
    #[must_use]
    pub const fn icmp_type(&self) -> u8 {
        (self.detail >> 8) as u8
    }

    /// A TCP segment that opens a flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn(&self) -> bool {
        self.protocol == protocol::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
    }
}

/// Whether destination ports are part of this protocol.
#[inline(always)]
#[must_use]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE)
}

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet<F: Frame>(frame: &F) -> Result<Ether, DropReason> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = frame.load::<14>(0).ok_or(DropReason::Malformed)?;
    Ok(Ether { destination: [a, b, c, d, e, f], source: [g, h, i, j, k, l], ethertype: u16::from_be_bytes([m, n]) })
}

/// Reads the IP and transport headers of a frame of this EtherType into a blank packet.
#[inline(always)]
pub fn packet<F: Frame>(frame: &F, ethertype: u16, packet: &mut Packet) -> Result<(), DropReason> {
    match ethertype {
        ETHERTYPE_V4 => ipv4(frame, packet)?,
        ETHERTYPE_V6 => ipv6(frame, packet)?,
        _ => return Err(DropReason::NotIp),
    }
    if packet.fragment == Fragment::Later {
        return Ok(());
    }
    transport(frame, packet)
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    let header = frame.load::<20>(L3).ok_or(DropReason::Malformed)?;
    let header_len = u32::from(header[0] & 0x0f) * 4;
    let length = stated_length(frame, u32::from(u16::from_be_bytes([header[2], header[3]])), 0);
    if header[0] >> 4 != 4 || header_len < 20 || length < header_len || L3 + length > frame.len() {
        return Err(DropReason::Malformed);
    }
    if header_len > 20 {
        frame.check_options(header_len)?;
    }
    let offset = u16::from_be_bytes([header[6] & 0x1f, header[7]]);
    fragment_part(packet, (offset, header[6] & 0x20 != 0, header[9]), length - header_len)?;
    packet.source = Address::from_v4([header[12], header[13], header[14], header[15]]);
    packet.destination = Address::from_v4([header[16], header[17], header[18], header[19]]);
    packet.fragment_id = [header[4], header[5], 0, 0];
    packet.l4 = L3 + header_len;
    packet.length = length;
    packet.protocol = header[9];
    packet.ttl = header[8];
    packet.tos = header[1];
    Ok(())
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    let header = frame.load::<8>(L3).ok_or(DropReason::Malformed)?;
    let source = frame.load::<16>(L3 + 8).ok_or(DropReason::Malformed)?;
    let destination = frame.load::<16>(L3 + 24).ok_or(DropReason::Malformed)?;
    let length = stated_length(frame, u32::from(u16::from_be_bytes([header[4], header[5]])), 40);
    if header[0] >> 4 != 6 || L3 + length > frame.len() {
        return Err(DropReason::Malformed);
    }
    packet.source = Address::from_bytes(source);
    packet.destination = Address::from_bytes(destination);
    packet.l4 = L3 + 40;
    packet.length = length;
    packet.protocol = header[6];
    packet.ttl = header[7];
    packet.tos = header[0] << 4 | header[1] >> 4;
    packet.v6 = true;
    extension_headers(frame, packet)
}

/// Length of an IP packet by its header; a GSO packet above 64 KiB states 0 and is as long as its frame.
#[inline(always)]
fn stated_length<F: Frame>(frame: &F, stated: u32, beside: u32) -> u32 {
    if stated == 0 && frame.len() - L3 > 0xffff { frame.len() - L3 } else { stated + beside }
}

/// Notes which part a fragment offset and "more fragments" name, of `length` bytes. A TCP segment cut inside its header
/// is torn (RFC 3128).
#[inline(always)]
fn fragment_part(packet: &mut Packet, (offset, more, next): (u16, bool, u8), length: u32) -> Result<(), DropReason> {
    match (offset, more) {
        (0, false) => packet.fragment = Fragment::Whole,
        (0, true) => (packet.fragment, packet.fragment_at) = (Fragment::First, length.div_ceil(8) as u16),
        (1, _) if next == protocol::TCP => return Err(DropReason::Malformed),
        _ => (packet.fragment, packet.fragment_at) = (Fragment::Later, offset),
    }
    Ok(())
}

/// Walks the extension headers of RFC 8200 and stops at the transport, at a later fragment, or at what is opaque (ESP).
#[inline(always)]
fn extension_headers<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !matches!(packet.protocol, 0 | 43 | 44 | 51 | 60) {
            return Ok(());
        }
        let header = frame.load_at::<8>(packet.l4).ok_or(DropReason::Malformed)?;
        let length = match packet.protocol {
            44 => 8,
            51 => (u32::from(header[1]) + 2) * 4,
            43 if header[2] == 0 => return Err(DropReason::RoutingHeader),
            _ => (u32::from(header[1]) + 1) * 8,
        };
        if packet.protocol == 44 {
            // A fragment's fragment: no stack makes one, and the inner header would hide what the outer one says.
            if packet.fragment != Fragment::Whole {
                return Err(DropReason::Malformed);
            }
            let offset = u16::from_be_bytes([header[2], header[3]]) >> 3;
            let fragmented = (L3 + packet.length).checked_sub(packet.l4 + 8).ok_or(DropReason::Malformed)?;
            fragment_part(packet, (offset, header[3] & 1 != 0, header[0]), fragmented)?;
            packet.fragment_id = [header[4], header[5], header[6], header[7]];
        }
        packet.l4 += length;
        packet.protocol = header[0];
        if packet.l4 > L3 + packet.length {
            return Err(DropReason::Malformed);
        }
        if packet.fragment == Fragment::Later {
            return Ok(());
        }
    }
    Err(DropReason::Malformed)
}

/// Ports, ICMP type and identifier, TCP flags. A first fragment has to hold them whole.
#[inline(always)]
fn transport<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    let room = L3 + packet.length - packet.l4;
    let needed = match packet.protocol {
        protocol::TCP => TCP_HEADER,
        protocol::SCTP => 12,
        protocol::UDP | protocol::UDPLITE => 8,
        _ if packet.is_icmp() => 8,
        _ => return Ok(()),
    };
    if room < needed {
        return Err(DropReason::Malformed);
    }
    let head = frame.load_at::<8>(packet.l4).ok_or(DropReason::Malformed)?;
    if packet.is_icmp() {
        icmp_header(packet, head);
        return Ok(());
    }
    packet.source_port = u16::from_ne_bytes([head[0], head[1]]);
    packet.destination_port = u16::from_ne_bytes([head[2], head[3]]);
    packet.detail = u16::from_be_bytes([head[2], head[3]]);
    match packet.protocol {
        protocol::TCP => tcp_header(frame, packet, room),
        protocol::UDP => udp_length(packet, u32::from(u16::from_be_bytes([head[4], head[5]])), room),
        _ => Ok(()),
    }
}

#[inline(always)]
fn icmp_header(packet: &mut Packet, head: [u8; 8]) {
    packet.detail = u16::from_be_bytes([head[0], head[1]]);
    if is_query(packet.v6, head[0]) {
        packet.source_port = u16::from_ne_bytes([head[4], head[5]]);
        packet.destination_port = packet.source_port;
    }
}

/// ICMP types that carry an identifier.
#[inline(always)]
const fn is_query(v6: bool, icmp_type: u8) -> bool {
    if v6 { matches!(icmp_type, 128 | 129) } else { matches!(icmp_type, 0 | 8 | 13..=18) }
}

#[inline(always)]
fn tcp_header<F: Frame>(frame: &F, packet: &mut Packet, room: u32) -> Result<(), DropReason> {
    let [data_offset, flags] = frame.load_at::<2>(packet.l4 + 12).ok_or(DropReason::Malformed)?;
    let header_len = u32::from(data_offset >> 4) * 4;
    if header_len < TCP_HEADER || (header_len > room && packet.fragment == Fragment::Whole) {
        return Err(DropReason::Malformed);
    }
    packet.tcp_flags = flags;
    Ok(())
}

/// A whole datagram may be shorter than its packet, never longer; 0 is a jumbogram's (RFC 2675).
#[inline(always)]
fn udp_length(packet: &Packet, stated: u32, room: u32) -> Result<(), DropReason> {
    let torn = stated < 8 || stated > room;
    let jumbo = stated == 0 && room > 0xffff;
    if packet.fragment == Fragment::Whole && torn && !jumbo { Err(DropReason::Malformed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Bytes;

    /// An IPv6 frame whose fixed header names `next`.
    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((rest.len() as u16).to_be_bytes());
        frame.extend([next, 64]);
        frame.extend([0xfd; 32]);
        frame.extend(rest);
        frame
    }

    fn read(next: u8, rest: &[u8]) -> Result<Packet, DropReason> {
        let mut read = Packet::default();
        packet(&Bytes(&v6(next, rest)), ETHERTYPE_V6, &mut read).map(|()| read)
    }

    const UDP: [u8; 8] = [0, 7, 0, 53, 0, 8, 0, 0];

    #[test]
    fn pkt_43_a_chain_of_extension_headers_leads_to_the_transport() {
        let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
        let options = [51, 0, 1, 4, 0, 0, 0, 0];
        let authentication = [17, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9];
        let read = read(0, &[&hop_by_hop[..], &options, &authentication, &UDP].concat()).expect("a whole datagram");
        assert_eq!((read.protocol, read.l4, read.detail), (17, 14 + 40 + 32, 53));
    }

    #[test]
    fn pkt_43_44_too_many_or_torn_extension_headers_are_malformed() {
        let option = [60, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(read(60, &[option; 9].concat()), Err(DropReason::Malformed));
        assert_eq!(read(60, &option[..7]), Err(DropReason::Malformed));
        assert_eq!(read(60, &[60, 9, 1, 4, 0, 0, 0, 0]), Err(DropReason::Malformed));
    }

    #[test]
    fn pkt_45_a_routing_header_of_type_0_is_refused_and_others_are_passed_over() {
        assert_eq!(read(43, &[&[17, 0, 0, 0, 0, 0, 0, 0], &UDP[..]].concat()), Err(DropReason::RoutingHeader));
        assert_eq!(read(43, &[&[17, 0, 4, 0, 0, 0, 0, 0], &UDP[..]].concat()).map(|p| p.detail), Ok(53));
    }

    #[test]
    fn pkt_23_an_atomic_fragment_is_whole_a_first_has_ports_a_later_has_none() {
        let part = |offset: u8, more: u8| read(44, &[&[17, 0, 0, offset << 3 | more, 1, 2, 3, 4], &UDP[..]].concat());
        let [atomic, first, later] = [part(0, 0), part(0, 1), part(1, 0)].map(|part| part.expect("well formed"));
        assert_eq!((atomic.fragment, atomic.detail), (Fragment::Whole, 53));
        assert_eq!((first.fragment, first.detail), (Fragment::First, 53));
        assert_eq!((later.fragment, later.detail, later.fragment_id), (Fragment::Later, 0, [1, 2, 3, 4]));
    }

    #[test]
    fn pkt_44_a_fragment_of_a_fragment_is_malformed() {
        let (outer, atomic) = ([44, 0, 0, 1, 1, 2, 3, 4], [17, 0, 0, 0, 5, 6, 7, 8]);
        assert_eq!(read(44, &[&outer, &atomic, &UDP[..]].concat()), Err(DropReason::Malformed));
    }

    #[test]
    fn pkt_46_a_protocol_without_ports_has_none() {
        let read = read(253, &[1, 2, 3, 4]).expect("nothing to be torn");
        assert_eq!((read.source_port, read.destination_port, read.detail), (0, 0, 0));
    }

    #[test]
    fn pkt_40_ipv4_options_are_skipped() {
        let mut frame = crate::fake::ipv4((2, 2), 3, 17, &[&[1; 4], &UDP[..]].concat());
        frame[14] = 0x46;
        let mut read = Packet::default();
        assert_eq!(packet(&Bytes(&frame), ETHERTYPE_V4, &mut read), Ok(()));
        assert_eq!(read.detail, 53);
    }
}
