//! Forward: what a packet that may pass still needs before it goes on.
//! In: TTL, checksum, length, and what the routing table answered. Out: the values to write, and which way to send.
//! Invariant: a packet leaves with a smaller TTL, or its sender is told why it does not.
//! Never: judges a packet; writes it.

use abi::DropReason;

use crate::icmp_error::Fault;
use crate::parse::Packet;

/// Why a packet is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is dropped, and nobody is told.
    Drop(DropReason),
    /// Its sender is to be told.
    Fault(Fault),
}

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// How a packet leaves by the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// With the MACs that the lookup gave.
    Known,
    /// By a neighbour that has yet to be resolved.
    Unresolved,
    /// By the host's stack: it delivers here, or says that there is no way.
    Stack,
}

/// What the routing table's answer means (`BPF_FIB_LKUP_RET_*`, include/uapi/linux/bpf.h); `mtu` is the way's own
/// where the packet is too big for it. A refused destination comes before a spent TTL, as in the kernel.
#[inline(always)]
pub const fn hop_of(answer: i64, packet: &Packet, mtu: u32) -> Result<Hop, Stop> {
    match answer {
        1 => Err(Stop::Drop(DropReason::Unroutable)),
        2 => Err(Stop::Fault(Fault::Unreachable)),
        3 => Err(Stop::Fault(Fault::Prohibited)),
        0 | 7 | 8 if !may_age(packet) => Err(Stop::Fault(Fault::Expired)),
        0 => Ok(Hop::Known),
        7 => Ok(Hop::Unresolved),
        8 => Err(Stop::Fault(Fault::TooBig(mtu))),
        _ => Ok(Hop::Stack),
    }
}

/// Whether a packet may be forwarded once more.
#[inline(always)]
#[must_use]
pub const fn may_age(packet: &Packet) -> bool {
    packet.ttl > 1
}

/// The IPv4 header checksum after the TTL went down by one (RFC 1141).
#[inline(always)]
#[must_use]
pub const fn aged_checksum(checksum: [u8; 2]) -> [u8; 2] {
    let sum = u16::from_be_bytes(checksum) as u32 + 0x0100;
    (((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::aged_checksum;

    /// The one's complement sum of an IPv4 header's words as far as they vary here.
    fn sum(ttl: u8, checksum: [u8; 2], rest: u16) -> u16 {
        let sum = (u32::from(ttl) << 8 | 6) + u32::from(u16::from_be_bytes(checksum)) + u32::from(rest);
        let folded = (sum & 0xffff) + (sum >> 16);
        ((folded & 0xffff) + (folded >> 16)) as u16
    }

    #[test]
    fn pkt_34_a_right_checksum_stays_right_as_the_ttl_falls() {
        for ttl in 2..=u8::MAX {
            for rest in 0..=u16::MAX {
                let checksum = (!sum(ttl, [0; 2], rest)).to_be_bytes();
                assert_eq!(sum(ttl - 1, aged_checksum(checksum), rest), 0xffff, "TTL {ttl}, other words {rest:#x}");
            }
        }
    }
}
