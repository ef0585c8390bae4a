//! ICMP errors of this node's own: about which packets it may complain, how much it quotes, and the bytes of the complaint.
//! In: a packet that goes no further, why, and the quoted bytes' sum. Out: the headers before the quote, checksums right.
//! Invariant: nobody is told about an error, a group, a later fragment, or at an address that is not one host's (RFC 1122).
//! Never: reads a table; sends.

use abi::endpoint::GATEWAY_MAC;
use abi::{Address, DropReason};

use crate::parse::{Fragment, Packet, protocol};

/// Headers before the quoted packet: Ethernet, IPv4, ICMP.
pub const HEAD_V4: usize = 14 + 20 + 8;
/// Headers before the quoted packet: Ethernet, IPv6, ICMPv6.
pub const HEAD_V6: usize = 14 + 40 + 8;
/// An IPv4 error is at most this long (RFC 1812 §4.3.2.3).
const LENGTH_MAX_V4: u32 = 576;
/// An IPv6 error is at most this long (RFC 4443 §2.4), and no link carries less (RFC 8200 §5).
const LENGTH_MAX_V6: u32 = 1280;
/// TTL or hop limit of an error.
const TTL: u8 = 64;
/// Precedence of an IPv4 error: internetwork control (RFC 1812 §4.3.2.5).
const TOS: u8 = 0xc0;

/// Why a packet goes no further, and its sender may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its TTL or hop limit is spent.
    Expired,
    /// It is longer than this MTU of the way ahead.
    TooBig(u32),
    /// The routing table says unreachable.
    Unreachable,
    /// The routing table says prohibited.
    Prohibited,
    /// Nobody is at this port.
    NobodyThere,
}

impl Fault {
    /// What its drop is counted as.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Expired => DropReason::Expired,
            Self::TooBig(_) => DropReason::TooBig,
            Self::Unreachable | Self::Prohibited => DropReason::Unroutable,
            Self::NobodyThere => DropReason::NoBackend,
        }
    }

    /// The first eight bytes of the message, its checksum still zero (RFC 792, RFC 1191, RFC 1812 §5.2.7.1, RFC 4443).
    #[inline(always)]
    const fn message(self, v6: bool) -> [u8; 8] {
        let (kind, code, word) = match (self, v6) {
            (Self::Expired, false) => (11, 0, 0),
            (Self::Expired, true) => (3, 0, 0),
            (Self::TooBig(mtu), false) => (3, 4, if mtu > 0xffff { 0xffff } else { mtu }),
            (Self::TooBig(mtu), true) => (2, 0, if mtu < LENGTH_MAX_V6 { LENGTH_MAX_V6 } else { mtu }),
            (Self::Unreachable, false) => (3, 1, 0),
            (Self::Unreachable, true) => (1, 0, 0),
            (Self::Prohibited, false) => (3, 13, 0),
            (Self::Prohibited, true) => (1, 1, 0),
            (Self::NobodyThere, false) => (3, 3, 0),
            (Self::NobodyThere, true) => (1, 4, 0),
        };
        let [a, b, c, d] = word.to_be_bytes();
        [kind, code, 0, 0, a, b, c, d]
    }
}

/// Whether anybody may be told about this packet (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 e).
#[inline(always)]
#[must_use]
pub fn may_complain(packet: &Packet) -> bool {
    let question = if packet.v6 {
        packet.icmp_type() >= 128 && packet.icmp_type() != 137
    } else {
        matches!(packet.icmp_type(), 0 | 8 | 13..=18)
    };
    let error = packet.is_icmp() && !question;
    !error && !matches!(packet.fragment, Fragment::Later) && is_one_host(packet)
}

/// Whether the sender's address is one host's, which can be answered.
#[inline(always)]
fn is_one_host(packet: &Packet) -> bool {
    let source = packet.source.0;
    if packet.v6 {
        let [first, ..] = source[0].to_ne_bytes();
        let nobody = source[0] == 0 && u64::from_be(source[1]) <= 1;
        first != 0xff && !nobody
    } else {
        let [_, _, _, _, first, ..] = source[1].to_ne_bytes();
        !matches!(first, 0 | 127 | 224..=255)
    }
}

/// How many bytes of a packet of this length are quoted.
#[inline(always)]
#[must_use]
pub const fn quoted(v6: bool, length: u32) -> u32 {
    let room = if v6 { LENGTH_MAX_V6 - 48 } else { LENGTH_MAX_V4 - 28 };
    if length < room { length } else { room }
}

/// Room for the headers of either family, or for a neighbour advertisement, as words, so that they are written and summed
/// by words. The frame begins at [`HEAD_AT`]: what follows the Ethernet header then lies aligned. The programs keep it
/// outside their stack.
pub type Head = [u64; 11];
/// Bytes before the frame.
pub const HEAD_AT: usize = 2;

/// Whom an error goes to, and from whom.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// This node's address of the packet's family.
    pub source: &'a Address,
    /// The packet's sender.
    pub destination: &'a Address,
    /// Its MAC.
    pub mac: &'a [u8; 6],
    /// Bytes quoted.
    pub quoted: u32,
    /// Their sum: of 16-bit words as they lie in memory, not yet folded.
    pub sum: u64,
}

/// Writes Ethernet, IPv4 and ICMP headers of an error.
#[inline(always)]
pub fn head_v4(fault: Fault, letter: &Letter<'_>, head: &mut Head) {
    let [_, _, length, last] = (28 + letter.quoted).to_be_bytes();
    let [kind, code, _, _, w0, w1, w2, w3] = fault.message(false);
    let ([_, _, _, _, s0, s1, s2, s3], [_, _, _, _, d0, d1, d2, d3]) =
        (letter.source.0[1].to_ne_bytes(), letter.destination.0[1].to_ne_bytes());
    ethernet(head, letter.mac, &GATEWAY_MAC, [8, 0]);
    head[2] = word([0x45, TOS, length, last, 0, 0, 0x40, 0]);
    let hop = |[c0, c1]: [u8; 2]| word([TTL, protocol::ICMP, c0, c1, s0, s1, s2, s3]);
    head[3] = hop(checksum(halves(head[2]) + halves(hop([0; 2])) + halves(word([d0, d1, d2, d3, 0, 0, 0, 0]))));
    head[5] = word([w0, w1, w2, w3, 0, 0, 0, 0]);
    let [c0, c1] = checksum(letter.sum + halves(word([kind, code, 0, 0, 0, 0, 0, 0])) + halves(head[5]));
    head[4] = word([d0, d1, d2, d3, kind, code, c0, c1]);
}

/// Writes Ethernet, IPv6 and ICMPv6 headers of an error.
#[inline(always)]
pub fn head_v6(fault: Fault, letter: &Letter<'_>, head: &mut Head) {
    let [_, _, length, last] = (8 + letter.quoted).to_be_bytes();
    let [kind, code, _, _, w0, w1, w2, w3] = fault.message(true);
    ethernet(head, letter.mac, &GATEWAY_MAC, [0x86, 0xdd]);
    head[2] = word([0x60, 0, 0, 0, length, last, protocol::ICMPV6, TTL]);
    [head[3], head[4]] = letter.source.0;
    [head[5], head[6]] = letter.destination.0;
    let pseudo = halves(word([length, last, 0, protocol::ICMPV6, 0, 0, 0, 0]));
    let addresses = halves(head[3]) + halves(head[4]) + halves(head[5]) + halves(head[6]);
    let message = |[c0, c1]: [u8; 2]| word([kind, code, c0, c1, w0, w1, w2, w3]);
    head[7] = message(checksum(letter.sum + pseudo + addresses + halves(message([0; 2]))));
}

/// Writes an Ethernet header.
#[inline(always)]
pub(crate) fn ethernet(head: &mut Head, to: &[u8; 6], from: &[u8; 6], [e0, e1]: [u8; 2]) {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (*to, *from);
    head[0] = word([0, 0, a, b, c, d, e, f]);
    head[1] = word([g, h, i, j, k, l, e0, e1]);
}

/// Eight bytes as they lie in memory.
#[inline(always)]
pub(crate) const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes)
}

/// Sum of a word's halves. The sum of 16-bit words does not depend on their byte order but for its own (RFC 1071).
#[inline(always)]
pub(crate) const fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// The Internet checksum of a sum, as it lies in memory (RFC 1071).
#[inline(always)]
pub(crate) const fn checksum(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

/// How many errors may leave at once on one account before the rate counts.
const BURST: u64 = 50;
/// Time between errors at the full rate: 100 a second.
const INTERVAL_NS: u64 = 10_000_000;

/// What an account holds after one more error at `now_ns`, or `None` if it is spent. It holds the time at which all
/// that was sent is paid for: a bucket of [`BURST`] tokens, of which one comes back every [`INTERVAL_NS`].
#[inline(always)]
#[must_use]
pub const fn spend(paid_until_ns: u64, now_ns: u64) -> Option<u64> {
    let from = if paid_until_ns > now_ns { paid_until_ns } else { now_ns };
    let until = from + INTERVAL_NS;
    if until - now_ns > BURST * INTERVAL_NS { None } else { Some(until) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Bytes, ipv4, mac, udp};
    use crate::parse::{ETHERTYPE_V4, packet};

    fn words(bytes: &[u8]) -> u64 {
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
    }

    fn head(fault: Fault, v6: bool, quote: &[u8]) -> Vec<u8> {
        let address = |last: u8| {
            if v6 {
                Address::from_bytes([0xfd, 0, 0, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
            } else {
                Address::from_v4([10, 65, 0, last])
            }
        };
        let (source, destination, mac) = (&address(1), &address(2), &mac(2));
        let pairs = quote.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        let sum = pairs.map(u64::from).sum();
        let letter = Letter { source, destination, mac, quoted: quote.len() as u32, sum };
        // What another packet left in the room is no part of this one.
        let mut head = [u64::MAX; 11];
        if v6 {
            head_v6(fault, &letter, &mut head)
        } else {
            head_v4(fault, &letter, &mut head)
        }
        let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes[HEAD_AT..][..if v6 { HEAD_V6 } else { HEAD_V4 }].to_vec()
    }

    const FAULTS: [Fault; 7] = [
        Fault::Expired,
        Fault::TooBig(1400),
        Fault::TooBig(70_000),
        Fault::TooBig(1000),
        Fault::Unreachable,
        Fault::Prohibited,
        Fault::NobodyThere,
    ];

    #[test]
    fn pkt_32_pkt_34_an_ipv4_error_has_right_lengths_and_checksums_for_every_quote() {
        let heads = [
            [11, 0, 0, 0],
            [3, 4, 5, 120],
            [3, 4, 255, 255],
            [3, 4, 3, 232],
            [3, 1, 0, 0],
            [3, 13, 0, 0],
            [3, 3, 0, 0],
        ];
        for (fault, [kind, code, high, low]) in FAULTS.into_iter().zip(heads) {
            for length in [28, 29, 31, 548] {
                let quote: Vec<u8> = (0..length).map(|at| (at * 7 + 250) as u8).collect();
                let head = head(fault, false, &quote);
                assert_eq!(head[..14], [&mac(2)[..], &GATEWAY_MAC, &[8, 0]].concat());
                assert_eq!(words(&head[14..34]) % 0xffff, 0, "IPv4 header");
                assert_eq!((words(&head[34..]) + words(&quote)) % 0xffff, 0, "{fault:?} with {length} bytes");
                assert_eq!(u16::from_be_bytes([head[16], head[17]]), 28 + length as u16);
                assert_eq!(
                    (head[15], head[20], head[22], head[23]),
                    (0xc0, 0x40, 64, 1),
                    "class, whole, TTL, protocol"
                );
                assert_eq!(head[26..34], [10, 65, 0, 1, 10, 65, 0, 2]);
                assert_eq!((head[34], head[35], head[40], head[41]), (kind, code, high, low));
            }
        }
    }

    #[test]
    fn pkt_33_pkt_34_an_ipv6_error_has_right_lengths_and_checksums_for_every_quote() {
        let heads =
            [[3, 0, 0, 0], [2, 0, 5, 120], [2, 0, 17, 112], [2, 0, 5, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 4, 0, 0]];
        for (fault, [kind, code, high, low]) in FAULTS.into_iter().zip(heads) {
            for length in [48, 49, 51, 1232] {
                let quote: Vec<u8> = (0..length).map(|at| (at * 5 + 251) as u8).collect();
                let head = head(fault, true, &quote);
                let message = words(&head[22..]) + words(&quote) + 8 + length + 58;
                assert_eq!(message % 0xffff, 0, "{fault:?} with {length} bytes");
                assert_eq!(u64::from(u16::from_be_bytes([head[18], head[19]])), 8 + length);
                assert_eq!((head[54], head[55], head[60], head[61]), (kind, code, high, low));
                assert_eq!((head[20], head[21], head[37], head[53]), (58, 64, 1, 2));
            }
        }
    }

    #[test]
    fn pkt_32_pkt_33_as_much_is_quoted_as_fits_the_smallest_mtu() {
        assert_eq!([28, 548, 549, 9000].map(|length| quoted(false, length)), [28, 548, 548, 548]);
        assert_eq!([48, 1232, 1233, 9000].map(|length| quoted(true, length)), [48, 1232, 1232, 1232]);
    }

    fn read(frame: &[u8]) -> Packet {
        let mut read = Packet::default();
        packet(&Bytes(frame), ETHERTYPE_V4, &mut read).expect("a whole packet");
        read
    }

    #[test]
    fn pkt_38_nobody_is_told_about_errors_groups_and_later_fragments() {
        let icmp = |kind: u8| read(&ipv4((2, 2), 3, 1, &[kind, 0, 0, 0, 0, 0, 0, 0]));
        for (kind, expected) in [(8, true), (0, true), (13, true), (3, false), (11, false), (5, false), (99, false)] {
            assert_eq!(may_complain(&icmp(kind)), expected, "ICMP type {kind}");
        }
        let mut plain = read(&udp((2, 2), 3, (1, 2)));
        assert!(may_complain(&plain));
        plain.fragment = Fragment::First;
        assert!(may_complain(&plain));
        plain.fragment = Fragment::Later;
        assert!(!may_complain(&plain));
        plain.fragment = Fragment::Whole;
        for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(!may_complain(&Packet { source: Address::from_v4(source), ..plain }), "{source:?}");
        }
    }

    #[test]
    fn pkt_38_icmpv6_informs_about_questions_only() {
        let message = |kind: u8, source: [u8; 16]| Packet {
            source: Address::from_bytes(source),
            protocol: 58,
            detail: u16::from(kind) << 8,
            v6: true,
            ..Packet::default()
        };
        let somebody = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        for (kind, expected) in
            [(128, true), (129, true), (143, true), (137, false), (1, false), (3, false), (127, false)]
        {
            assert_eq!(may_complain(&message(kind, somebody)), expected, "ICMPv6 type {kind}");
        }
        let mut nobody = [0; 16];
        assert!(!may_complain(&message(128, nobody)), "unspecified");
        nobody[15] = 1;
        assert!(!may_complain(&message(128, nobody)), "loopback");
        nobody[15] = 2;
        assert!(may_complain(&message(128, nobody)));
        nobody[0] = 0xff;
        assert!(!may_complain(&message(128, nobody)), "a group");
    }

    #[test]
    fn pkt_38_an_account_gives_a_burst_and_then_a_rate() {
        let mut account = 0;
        let mut sent = |now: u64| match spend(account, now) {
            Some(next) => {
                account = next;
                1
            }
            None => 0,
        };
        let start = 1_000 * INTERVAL_NS;
        assert_eq!((0..1000).map(|_| sent(start)).sum::<u64>(), BURST);
        let second = 100 * INTERVAL_NS;
        let over = (1..=1000).map(|step| sent(start + step * second / 1000)).sum::<u64>();
        assert_eq!(over, 100, "in the second after the burst");
        assert_eq!((0..1000).map(|_| sent(start + 1000 * second)).sum::<u64>(), BURST, "after a rest");
    }
}
