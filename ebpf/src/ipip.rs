//! IPIP: the outer header of a packet on its way to another node, and which wrapped packets are taken.
//! In: headers of 20 bytes, this node's address, and what lies behind which node. Out: another header, or why the packet goes no further.
//! Invariant: what is taken is whole, comes from a node, and bears no source that lies behind another.
//! Never: an outer header that a router may cut: who takes packets here takes no pieces.

use abi::tunnel::{FROM_IPIP, IPIP, TO_IPIP, TunnelEnd};
use abi::{Address, DropReason};

use crate::tunnel::is_from_node;

/// Length of an IPv4 header without options.
pub const HEADER: usize = 20;
/// Such a header.
pub type Header = [u8; HEADER];

const PROTOCOL: usize = 9;
const ICMP: u8 = 1;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const DONT_FRAGMENT: u8 = 0x40;
/// "More fragments", and where this one lies.
const FRAGMENT: u16 = 0x3fff;
/// Bits of congestion notification, and what they say.
const ECN: u8 = 3;
const CONGESTED: u8 = 3;
const CAPABLE: u8 = 2;

/// An address that a header bears.
#[inline(always)]
#[must_use]
pub const fn source(header: &Header) -> Address {
    Address::from_v4([header[12], header[13], header[14], header[15]])
}

/// Likewise.
#[inline(always)]
#[must_use]
pub const fn destination(header: &Header) -> Address {
    Address::from_v4([header[16], header[17], header[18], header[19]])
}

/// The node for which a packet is wrapped, if it is; `found`: behind which its destination lies.
#[inline(always)]
#[must_use]
pub fn wrapped_for(found: Option<&TunnelEnd>) -> Option<&TunnelEnd> {
    match found {
        Some(end) if end.ways & TO_IPIP != 0 => Some(end),
        _ => None,
    }
}

/// The sum of a header's words, folded: 0xffff where its checksum is right.
#[inline(always)]
const fn sum(header: &Header) -> u16 {
    let mut sum = 0;
    let mut at = 0;
    while at < HEADER {
        sum += u16::from_be_bytes([header[at], header[at + 1]]) as u32;
        at += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A header with its checksum.
#[inline(always)]
const fn summed(mut header: Header) -> Header {
    header[10] = 0;
    header[11] = 0;
    let [high, low] = (!sum(&header)).to_be_bytes();
    header[10] = high;
    header[11] = low;
    header
}

/// The outer header, as Linux's tunl0 makes it, but for "do not fragment", which it always bears: hops and congestion are the inner
/// packet's, and nothing else of it is. `length`: of the inner packet; one that is yet to be segmented may have none that fits.
#[inline(always)]
#[must_use]
pub const fn outer(inner: &Header, length: u32, local: [u8; 4], remote: [u8; 4]) -> Header {
    let mut header = [0; HEADER];
    header[0] = 0x45;
    let ecn = inner[1] & ECN;
    header[1] = if ecn == CONGESTED { CAPABLE } else { ecn };
    let total = length + HEADER as u32;
    let [high, low] = (if total > u16::MAX as u32 { 0 } else { total as u16 }).to_be_bytes();
    header[2] = high;
    header[3] = low;
    header[6] = DONT_FRAGMENT;
    header[8] = inner[8];
    header[PROTOCOL] = IPIP;
    header[12] = local[0];
    header[13] = local[1];
    header[14] = local[2];
    header[15] = local[3];
    header[16] = remote[0];
    header[17] = remote[1];
    header[18] = remote[2];
    header[19] = remote[3];
    summed(header)
}

/// Whether a packet of this header is one of IPIP that ends here.
#[inline(always)]
#[must_use]
pub fn is_for_us(outer: &Header, local: &Address) -> bool {
    outer[0] >> 4 == 4 && outer[PROTOCOL] == IPIP && destination(outer) == *local
}

/// Whether a header is a whole packet's, without options, and as it was sent.
#[inline(always)]
const fn is_plain(header: &Header) -> bool {
    header[0] == 0x45 && u16::from_be_bytes([header[6], header[7]]) & FRAGMENT == 0 && sum(header) == 0xffff
}

/// Whether a packet to this node is taken; `behind`: behind which nodes the sender lies, and the source of what it sent.
///
/// # Errors
/// It is torn, or holds no IPv4; no node sent it, or not that behind which its source lies.
#[inline(always)]
pub fn taken(outer: &Header, inner: &Header, behind: [Option<&TunnelEnd>; 2]) -> Result<(), DropReason> {
    let [sender, owner] = behind;
    let is_taken = is_plain(outer)
        && inner[0] >> 4 == 4
        && is_from_node(FROM_IPIP, &source(outer), sender, owner)
        // The network has to say that it is congested to one who does not listen by dropping.
        && !(outer[1] & ECN == CONGESTED && inner[1] & ECN == 0);
    if is_taken { Ok(()) } else { Err(DropReason::Encapsulated) }
}

/// The inner header where routers between the nodes said that they are congested (RFC 6040).
#[inline(always)]
#[must_use]
pub const fn congested(outer: &Header, inner: &Header) -> Option<Header> {
    if outer[1] & ECN != CONGESTED || inner[1] & ECN == CONGESTED || sum(inner) != 0xffff || inner[0] != 0x45 {
        return None;
    }
    let mut header = *inner;
    header[1] |= CONGESTED;
    Some(summed(header))
}

/// What a router on the way says about a packet that this node wrapped: the headers of the error, of the outer and of the inner packet.
#[derive(Clone, Copy, Debug)]
pub struct Complaint<'a> {
    /// The error's own.
    pub error: &'a Header,
    /// ICMP's.
    pub icmp: &'a [u8; 8],
    /// Of what was sent.
    pub outer: &'a Header,
    /// Of what that wrapped.
    pub inner: &'a Header,
}

/// Length of both headers of an error.
pub const TOLD: usize = HEADER + 8;

/// Whether a header may be that of an error about what was wrapped here.
#[inline(always)]
#[must_use]
pub fn may_complain(header: &Header, local: &Address) -> bool {
    header[PROTOCOL] == ICMP && is_plain(header) && destination(header) == *local
}

/// The same error to whoever sent the inner packet, about that: both its headers. The sum of an outer header is nothing, so the rest
/// of the quote need not be read. `length`: of the error. `None`: it is about something else.
#[inline(always)]
#[must_use]
pub fn passed_on(told: &Complaint<'_>, local: &Address, behind: Option<&TunnelEnd>) -> Option<[u8; TOLD]> {
    let Complaint { error, icmp, outer, inner } = *told;
    let is_ours = is_plain(outer) && outer[PROTOCOL] == IPIP && source(outer) == *local && inner[0] >> 4 == 4;
    let is_sent = match behind {
        Some(end) => end.ways & TO_IPIP != 0 && end.remote == destination(outer),
        None => false,
    };
    let length = u32::from(u16::from_be_bytes([error[2], error[3]]));
    if !is_ours || !is_sent || length < 3 * HEADER as u32 + 16 || !matches!(icmp[0], UNREACHABLE | TIME_EXCEEDED) {
        return None;
    }
    let mut header = *error;
    let [high, low] = ((length - HEADER as u32) as u16).to_be_bytes();
    (header[2], header[3]) = (high, low);
    let mut at = 0;
    while at < 4 {
        header[16 + at] = inner[12 + at];
        at += 1;
    }
    let header = summed(header);
    let mut icmp = *icmp;
    if icmp[0] == UNREACHABLE && icmp[1] == FRAGMENTATION_NEEDED {
        let mtu = u16::from_be_bytes([icmp[6], icmp[7]]);
        let less = mtu.saturating_sub(HEADER as u16);
        // RFC 1624: what the one word changes, the checksum makes up for.
        let sum = u32::from(!u16::from_be_bytes([icmp[2], icmp[3]])) + u32::from(!mtu) + u32::from(less);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        (icmp[2], icmp[3]) = ((sum >> 8) as u8, sum as u8);
        (icmp[6], icmp[7]) = ((less >> 8) as u8, less as u8);
    }
    let mut both = [0; TOLD];
    let mut at = 0;
    while at < HEADER {
        both[at] = header[at];
        at += 1;
    }
    while at < TOLD {
        both[at] = icmp[at - HEADER];
        at += 1;
    }
    Some(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: [u8; 4] = [192, 0, 2, 1];
    const REMOTE: [u8; 4] = [198, 51, 100, 2];

    fn at(bytes: [u8; 4]) -> Address {
        Address::from_v4(bytes)
    }

    fn behind(remote: [u8; 4], ways: u8) -> TunnelEnd {
        TunnelEnd { remote: at(remote), ways, ..TunnelEnd::default() }
    }

    /// From a pod of the other node to one of ours, with 63 hops to go.
    fn inner(ecn: u8) -> Header {
        let mut header = [0x45, 0xb8 | ecn, 0, 60, 1, 2, 0, 0, 63, 6, 0, 0, 10, 65, 2, 7, 10, 65, 1, 7];
        header = summed(header);
        header
    }

    /// What the other node sends.
    fn sent(ecn: u8) -> Header {
        outer(&inner(ecn), 60, REMOTE, LOCAL)
    }

    #[test]
    fn agt_10_an_outer_header_is_that_of_linuxs_tunnel_and_may_not_be_cut() {
        let header = sent(2);
        assert_eq!(sum(&header), 0xffff);
        assert_eq!(
            (header[0], header[1], header[8], header[9]),
            (0x45, 2, 63, 4),
            "congestion and hops, and nothing else"
        );
        assert_eq!((u16::from_be_bytes([header[2], header[3]]), header[6]), (80, 0x40));
        assert_eq!((source(&header), destination(&header)), (at(REMOTE), at(LOCAL)));
        assert_eq!(sent(3)[1], 2, "one who is told of congestion says so within");
        let long = outer(&inner(0), 65_530, REMOTE, LOCAL);
        assert_eq!((long[2], long[3], sum(&long)), (0, 0, 0xffff), "its segments say their own");
    }

    #[test]
    fn agt_10_a_packet_is_taken_from_the_node_behind_which_its_source_lies() {
        let node = behind(REMOTE, FROM_IPIP);
        let (ours, others) = (behind(REMOTE, TO_IPIP), behind([198, 51, 100, 3], TO_IPIP));
        let take = |behind| taken(&sent(0), &inner(0), behind);
        assert_eq!(take([Some(&node), Some(&ours)]), Ok(()));
        assert_eq!(take([Some(&node), None]), Ok(()), "its claim may be heard later");
        for refused in [
            [None, Some(&ours)],
            [None, None],
            [Some(&node), Some(&others)],
            [Some(&ours), None],
            [Some(&behind(REMOTE, abi::tunnel::FROM_VXLAN)), None],
            [Some(&behind([198, 51, 100, 3], FROM_IPIP)), None],
        ] {
            assert_eq!(take(refused), Err(DropReason::Encapsulated), "{refused:?}");
        }
    }

    #[test]
    fn pieces_headers_with_options_and_torn_ones_are_not_taken() {
        let node = behind(REMOTE, FROM_IPIP);
        let take = |outer: &Header, inner: &Header| taken(outer, inner, [Some(&node), None]);
        let spoilt = |at: usize, value: u8| {
            summed({
                let mut header = sent(0);
                header[at] = value;
                header
            })
        };
        assert_eq!(take(&spoilt(6, 0), &inner(0)), Ok(()), "who may be cut and was not");
        for (at, value) in [(6, 0x20), (7, 1), (6, 0x01), (0, 0x46)] {
            assert!(take(&spoilt(at, value), &inner(0)).is_err(), "{at}");
        }
        let mut torn = sent(0);
        torn[8] -= 1;
        assert!(take(&torn, &inner(0)).is_err());
        let mut v6 = inner(0);
        v6[0] = 0x60;
        assert!(take(&sent(0), &v6).is_err());
    }

    #[test]
    fn congestion_between_the_nodes_is_told_to_who_listens_and_by_a_drop_to_who_does_not() {
        let node = behind(REMOTE, FROM_IPIP);
        let mut congested_outer = sent(2);
        congested_outer[1] = CONGESTED;
        let outer = summed(congested_outer);
        let heard = congested(&outer, &inner(2)).expect("told");
        assert_eq!((heard[1] & ECN, heard[1] & !ECN, sum(&heard)), (CONGESTED, 0xb8, 0xffff));
        assert_eq!(congested(&sent(2), &inner(2)), None);
        assert_eq!(taken(&outer, &inner(2), [Some(&node), None]), Ok(()));
        assert_eq!(taken(&outer, &inner(0), [Some(&node), None]), Err(DropReason::Encapsulated));
    }

    /// The checksum of an error as a whole, of which the quote after both headers sums to `rest`.
    fn icmp_sum(icmp: &[u8], quoted: &[&[u8]], rest: u16) -> u16 {
        let words = icmp.chunks(2).chain(quoted.iter().flat_map(|part| part.chunks(2)));
        let sum: u32 =
            words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>() + u32::from(rest);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    fn complaint(kind: u8, code: u8, mtu: u16) -> (Header, [u8; 8], Header, Header) {
        let sent_by_pod = summed([0x45, 0, 5, 220, 0, 9, 0x40, 0, 63, 6, 0, 0, 10, 65, 1, 7, 10, 65, 2, 7]);
        let outer = outer(&sent_by_pod, 1500, LOCAL, REMOTE);
        let error = summed([0x45, 0xc0, 0, 96, 7, 7, 0, 0, 60, 1, 0, 0, 203, 0, 113, 1, 192, 0, 2, 1]);
        let [high, low] = mtu.to_be_bytes();
        let mut icmp = [kind, code, 0, 0, 0, 0, high, low];
        let [high, low] = (!icmp_sum(&icmp, &[&outer, &sent_by_pod], 0x1234)).to_be_bytes();
        (icmp[2], icmp[3]) = (high, low);
        (error, icmp, outer, sent_by_pod)
    }

    #[test]
    fn pkt_61_what_a_router_says_of_a_wrapped_packet_is_passed_on_to_its_sender_with_the_mtu_that_is_left() {
        let node = behind(REMOTE, TO_IPIP);
        for (kind, code, mtu, left) in [(3, 4, 1400, 1380), (3, 1, 0, 0), (11, 0, 0, 0)] {
            let (error, icmp, outer, inner) = complaint(kind, code, mtu);
            let told = Complaint { error: &error, icmp: &icmp, outer: &outer, inner: &inner };
            assert!(may_complain(&error, &at(LOCAL)) && !may_complain(&error, &at(REMOTE)));
            let both = passed_on(&told, &at(LOCAL), Some(&node)).expect("passed on");
            let header: Header = both[..HEADER].try_into().expect("a header");
            assert_eq!((sum(&header), destination(&header)), (0xffff, at([10, 65, 1, 7])));
            assert_eq!((source(&header), u16::from_be_bytes([header[2], header[3]])), (at([203, 0, 113, 1]), 76));
            let icmp = &both[HEADER..];
            assert_eq!((icmp[0], icmp[1], u16::from_be_bytes([icmp[6], icmp[7]])), (kind, code, left));
            assert_eq!(icmp_sum(icmp, &[&inner], 0x1234), 0xffff, "without the outer header");
        }
    }

    #[test]
    fn what_is_said_of_a_packet_that_was_not_wrapped_here_for_that_node_is_the_hosts() {
        let (error, icmp, outer, inner) = complaint(3, 4, 1400);
        let told = Complaint { error: &error, icmp: &icmp, outer: &outer, inner: &inner };
        let node = behind(REMOTE, TO_IPIP);
        assert!(passed_on(&told, &at(LOCAL), None).is_none());
        assert!(passed_on(&told, &at(LOCAL), Some(&behind([198, 51, 100, 3], TO_IPIP))).is_none());
        assert!(passed_on(&told, &at([192, 0, 2, 9]), Some(&node)).is_none());
        let echo = [0; 8];
        assert!(passed_on(&Complaint { icmp: &echo, ..told }, &at(LOCAL), Some(&node)).is_none());
        let mut short = error;
        short[3] = 70;
        assert!(passed_on(&Complaint { error: &short, ..told }, &at(LOCAL), Some(&node)).is_none());
    }

    #[test]
    fn only_what_lies_behind_a_node_by_ipip_is_wrapped() {
        assert!(wrapped_for(Some(&behind(REMOTE, TO_IPIP))).is_some());
        assert!(wrapped_for(Some(&behind(REMOTE, FROM_IPIP | abi::tunnel::FROM_VXLAN))).is_none(), "the node itself");
        assert!(wrapped_for(None).is_none());
    }
}
