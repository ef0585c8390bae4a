//! Forward: what a packet that may pass still needs before it goes on.
//! In: TTL, checksum, length, and what the routing table answered. Out: the values to write, and which way to send.
//! Invariant: a packet leaves with a smaller TTL, or its sender is told why it does not.
//! Never: judges a packet; writes it.

use abi::DropReason;

use crate::icmp_error::Fault;
use crate::parse::Packet;

/// What is to be done about a packet that is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// It is dropped, and nobody is told; the word is the reason.
    Drop,
    /// Its sender is told that its hops are spent.
    Expired,
    /// That it is too big; the word is the MTU.
    TooBig,
    /// That there is no way.
    Unreachable,
    /// That the way is closed.
    Prohibited,
    /// That rules refuse it; the word is the reason.
    Refused,
}

/// Why a packet is not forwarded. Two numbers, each always written: of what a variant leaves open, the compiler makes
/// whatever a register holds, a pointer too, and the verifier refuses to see that shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What is to be done.
    pub kind: Kind,
    /// What it says, as its kind has it.
    pub word: u32,
}

impl Stop {
    /// Its hops are spent.
    pub const EXPIRED: Self = Self { kind: Kind::Expired, word: 0 };

    /// It is longer than this.
    #[inline(always)]
    #[must_use]
    pub const fn too_big(mtu: u32) -> Self {
        Self { kind: Kind::TooBig, word: mtu }
    }

    /// What its drop is counted as.
    #[inline(always)]
    #[must_use]
    pub fn reason(self) -> DropReason {
        match self.kind {
            Kind::Drop | Kind::Refused => DropReason::from_number(self.word).unwrap_or(DropReason::TableCorrupt),
            Kind::Expired => Fault::Expired.reason(),
            Kind::TooBig => Fault::TooBig(0).reason(),
            Kind::Unreachable | Kind::Prohibited => Fault::Prohibited.reason(),
        }
    }
}

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self { kind: Kind::Drop, word: reason as u32 }
    }
}

/// Whether rules refused a packet for the reason of this number, as opposed to what it is or claims to be.
#[inline(always)]
#[must_use]
pub const fn is_by_rules(reason: u32) -> bool {
    const RULES: u32 = 1 << DropReason::EgressPolicy as u32
        | 1 << DropReason::IngressPolicy as u32
        | 1 << DropReason::FlowRefused as u32
        | 1 << DropReason::HostEndpoint as u32
        | 1 << DropReason::EndpointToHost as u32;
    RULES >> (reason & 31) & 1 != 0
}

/// Whether the sender hears, whatever the node says about refusals, that nobody is there.
#[inline(always)]
#[must_use]
pub const fn is_by_service(reason: u32) -> bool {
    const SERVICES: u32 = 1 << DropReason::NoBackend as u32 | 1 << DropReason::BackendGone as u32;
    SERVICES >> (reason & 31) & 1 != 0
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
/// where the packet is too big for it. A refused destination comes before a spent TTL, as in the kernel. `is_own`: the node itself sent
/// it, and is its first hop.
#[inline(always)]
pub const fn hop_of(answer: i64, (packet, is_own): (&Packet, bool), mtu: u32) -> Result<Hop, Stop> {
    match answer {
        1 => Err(Stop { kind: Kind::Drop, word: DropReason::Unroutable as u32 }),
        2 => Err(Stop { kind: Kind::Unreachable, word: 0 }),
        3 => Err(Stop { kind: Kind::Prohibited, word: 0 }),
        0 | 7 | 8 if !is_own && !may_age(packet) => Err(Stop::EXPIRED),
        0 => Ok(Hop::Known),
        7 => Ok(Hop::Unresolved),
        8 => Err(Stop::too_big(mtu)),
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
