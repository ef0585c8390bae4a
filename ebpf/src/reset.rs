//! Reset: the RST by which this node refuses a TCP segment, in its receiver's name (RFC 9293 §3.10.7.1).
//! In: a refused segment. Out: whether its sender may be told so, and the headers of what tells it, checksums right.
//! Invariant: a RST acknowledges what was sent or continues what was acknowledged, so that its receiver believes it.
//! Never: an answer to a RST, to a piece of a packet, or to what was sent to a group; sends.

use abi::Address;

use crate::antispoof::is_group;
use crate::icmp_error::{Head, checksum, halves, may_complain, word};
use crate::parse::{Ether, Fragment, L3, Packet, protocol, tcp};
use crate::tables::Frame;

/// A frame with a RST: Ethernet, IPv4, TCP.
pub const RESET_V4: usize = 14 + 20 + 20;
/// A frame with a RST: Ethernet, IPv6, TCP.
pub const RESET_V6: usize = 14 + 40 + 20;
/// TTL or hop limit of a RST.
const TTL: u8 = 64;

/// Whether the sender of a refused packet may be told.
#[inline(always)]
#[must_use]
pub fn may_refuse(ether: &Ether, packet: &Packet) -> bool {
    let whole = matches!(packet.fragment, Fragment::Whole);
    let to_one = ether.destination[0] & 1 == 0 && !is_group(packet);
    let reset = packet.protocol == protocol::TCP && packet.tcp_flags & tcp::RST != 0;
    whole && to_one && !reset && may_complain(packet)
}

/// What a RST says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reset {
    sequence: u32,
    acknowledged: u32,
    flags: u8,
}

/// The RST that answers a segment.
#[inline(always)]
pub fn answer_to<F: Frame>(frame: &F, packet: &Packet) -> Option<Reset> {
    let head = frame.load_at::<14>(packet.l4)?;
    if packet.tcp_flags & tcp::ACK != 0 {
        let sequence = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        return Some(Reset { sequence, acknowledged: 0, flags: tcp::RST });
    }
    let header_len = u32::from(head[12] >> 4) * 4;
    let data = (L3 + packet.length).wrapping_sub(packet.l4 + header_len);
    let marks = u32::from(packet.tcp_flags & tcp::SYN != 0) + u32::from(packet.tcp_flags & tcp::FIN != 0);
    let from = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    Some(Reset { sequence: 0, acknowledged: from.wrapping_add(data).wrapping_add(marks), flags: tcp::RST | tcp::ACK })
}

/// Writes Ethernet, IPv4 and TCP headers of a RST, back to whoever sent the packet.
#[inline(always)]
pub fn reset_v4(reset: Reset, ether: &Ether, packet: &Packet, head: &mut Head) {
    ethernet(head, ether, [8, 0]);
    let ([s, d], [from, to]) = ports_and_addresses(packet);
    let [_, _, _, _, s0, s1, s2, s3] = from.0[1].to_ne_bytes();
    let [_, _, _, _, d0, d1, d2, d3] = to.0[1].to_ne_bytes();
    head[2] = word([0x45, 0, 0, 40, 0, 0, 0x40, 0]);
    let hop = |[c0, c1]: [u8; 2]| word([TTL, protocol::TCP, c0, c1, s0, s1, s2, s3]);
    let destination = halves(word([d0, d1, d2, d3, 0, 0, 0, 0]));
    head[3] = hop(checksum(halves(head[2]) + halves(hop([0; 2])) + destination));
    head[4] = word([d0, d1, d2, d3, s[0], s[1], d[0], d[1]]);
    let (sequence, acknowledged) = (reset.sequence.to_be_bytes(), reset.acknowledged.to_be_bytes());
    head[5] = joined(sequence, acknowledged);
    let last = |[c0, c1]: [u8; 2]| word([0x50, reset.flags, 0, 0, c0, c1, 0, 0]);
    let pseudo = halves(word([0, protocol::TCP, 0, 20, s0, s1, s2, s3]));
    head[6] = last(checksum(pseudo + halves(head[4]) + halves(head[5]) + halves(last([0; 2]))));
}

/// Writes Ethernet, IPv6 and TCP headers of a RST, back to whoever sent the packet.
#[inline(always)]
pub fn reset_v6(reset: Reset, ether: &Ether, packet: &Packet, head: &mut Head) {
    ethernet(head, ether, [0x86, 0xdd]);
    let ([s, d], [from, to]) = ports_and_addresses(packet);
    head[2] = word([0x60, 0, 0, 0, 0, 20, protocol::TCP, TTL]);
    [head[3], head[4]] = from.0;
    [head[5], head[6]] = to.0;
    let (sequence, [a, b, c, e]) = (reset.sequence.to_be_bytes(), reset.acknowledged.to_be_bytes());
    head[7] = joined([s[0], s[1], d[0], d[1]], sequence);
    head[8] = word([a, b, c, e, 0x50, reset.flags, 0, 0]);
    let addresses = halves(head[3]) + halves(head[4]) + halves(head[5]) + halves(head[6]);
    let pseudo = halves(word([0, 20, 0, protocol::TCP, 0, 0, 0, 0]));
    let [c0, c1] = checksum(pseudo + addresses + halves(head[7]) + halves(head[8]));
    head[9] = word([c0, c1, 0, 0, 0, 0, 0, 0]);
}

/// Of the answer: its source and destination, ports and addresses.
#[inline(always)]
fn ports_and_addresses(packet: &Packet) -> ([[u8; 2]; 2], [Address; 2]) {
    let ports = [packet.destination_port.to_ne_bytes(), packet.source_port.to_ne_bytes()];
    (ports, [packet.destination, packet.source])
}

#[inline(always)]
const fn joined([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> u64 {
    word([a, b, c, d, e, f, g, h])
}

/// An Ethernet header back to where the frame came from.
#[inline(always)]
fn ethernet(head: &mut Head, ether: &Ether, [e0, e1]: [u8; 2]) {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (ether.source, ether.destination);
    head[0] = word([0, 0, a, b, c, d, e, f]);
    head[1] = word([g, h, i, j, k, l, e0, e1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Bytes, ipv4, mac, tcp as segment, udp};
    use crate::icmp_error::HEAD_AT;
    use crate::parse::{ETHERTYPE_V4, ethernet as read_ethernet, packet as read_packet};

    fn read(frame: &[u8]) -> (Ether, Packet) {
        let mut packet = Packet::default();
        read_packet(&Bytes(frame), ETHERTYPE_V4, &mut packet).expect("a whole packet");
        (read_ethernet(&Bytes(frame)).expect("a whole header"), packet)
    }

    fn words(bytes: &[u8]) -> u64 {
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum()
    }

    /// Segments with these flags, of sequence 0x01020304, acknowledging 0x0a0b0c0d, with three bytes of data.
    fn sent(flags: u8) -> Vec<u8> {
        let mut frame = segment((2, 2), 3, (4000, 80), flags);
        frame[38..46].copy_from_slice(&[1, 2, 3, 4, 10, 11, 12, 13]);
        frame.extend([7; 3]);
        frame[17] += 3;
        frame
    }

    fn answered(flags: u8, v6: bool) -> Vec<u8> {
        let frame = sent(flags);
        let (ether, mut packet) = read(&frame);
        let reset = answer_to(&Bytes(&frame), &packet).expect("a whole segment");
        // What another packet left in the room is no part of this one.
        let mut head = [u64::MAX; 11];
        if v6 {
            let address = |last| Address::from_bytes([0xfd, 0, 0, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            (packet.source, packet.destination, packet.v6) = (address(2), address(3), true);
            reset_v6(reset, &ether, &packet, &mut head);
        } else {
            reset_v4(reset, &ether, &packet, &mut head);
        }
        let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes[HEAD_AT..][..if v6 { RESET_V6 } else { RESET_V4 }].to_vec()
    }

    #[test]
    fn a_rst_goes_back_with_the_numbers_its_receiver_believes_and_right_checksums() {
        for v6 in [false, true] {
            // A SYN counts one, and so does a FIN; what has an acknowledgement is answered by its number.
            for (flags, numbers, said) in [
                (2, [0, 0, 0, 0, 1, 2, 3, 8], 0x14),
                (3, [0, 0, 0, 0, 1, 2, 3, 9], 0x14),
                (0, [0, 0, 0, 0, 1, 2, 3, 7], 0x14),
                (16, [10, 11, 12, 13, 0, 0, 0, 0], 4),
                (18, [10, 11, 12, 13, 0, 0, 0, 0], 4),
            ] {
                let reset = answered(flags, v6);
                let at = if v6 { 54 } else { 34 };
                assert_eq!(reset[..12], [mac(2), abi::endpoint::GATEWAY_MAC].concat());
                assert_eq!(reset[at..at + 4], [80u16.to_be_bytes(), 4000u16.to_be_bytes()].concat());
                assert_eq!(reset[at + 4..at + 12], numbers, "flags {flags}");
                assert_eq!((reset[at + 12], reset[at + 13], &reset[at + 14..at + 16]), (0x50, said, &[0, 0][..]));
                let addresses = if v6 { &reset[22..54] } else { &reset[26..34] };
                assert_eq!((words(addresses) + 6 + 20 + words(&reset[at..])) % 0xffff, 0, "flags {flags}, {v6}");
                if v6 {
                    assert_eq!(reset[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
                    assert_eq!((reset[37], reset[53]), (3, 2));
                } else {
                    assert_eq!(words(&reset[14..34]) % 0xffff, 0);
                    assert_eq!(reset[12..18], [8, 0, 0x45, 0, 0, 40]);
                    assert_eq!(reset[26..34], [10, 65, 0, 3, 10, 65, 0, 2]);
                }
            }
        }
    }

    #[test]
    fn pkt_38_nobody_is_told_of_a_refused_rst_error_piece_or_what_went_to_a_group() {
        let may = |frame: &[u8]| {
            let (ether, packet) = read(frame);
            may_refuse(&ether, &packet)
        };
        assert!(may(&sent(2)) && may(&sent(16)) && may(&udp((2, 2), 3, (1, 2))));
        assert!(!may(&sent(4)) && !may(&sent(20)), "a RST");
        assert!(!may(&ipv4((2, 2), 3, 1, &[3, 3, 0, 0, 0, 0, 0, 0])), "an ICMP error");
        let mut frame = udp((2, 2), 3, (1, 2));
        frame[20] = 0x20;
        assert!(!may(&frame), "a first piece");
        let mut frame = udp((2, 2), 3, (1, 2));
        frame[0] = 0xff;
        assert!(!may(&frame), "a frame to all");
        let mut frame = udp((2, 2), 3, (1, 2));
        frame[30] = 224;
        assert!(!may(&frame), "a group");
        let mut frame = udp((2, 2), 3, (1, 2));
        frame[26] = 127;
        assert!(!may(&frame), "from nobody");
    }
}
