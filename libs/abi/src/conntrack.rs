//! Connection tracking: one entry per flow, whichever way a packet of it goes.
//! In: addresses, ports and protocol of a packet. Out: the entry that carries the verdict and its stamp.
//! Invariant: an entry that is not refused exists only for a flow whose first packet both ends' policy allowed.
//! Never: learns a TCP flow from anything but a SYN without ACK.

use crate::address::Address;

/// A flow, with the smaller (address, port) first, so that both directions have one key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Address of the end that compares lower.
    pub low: Address,
    /// Address of the other end.
    pub high: Address,
    /// Port of the low end in network order; for ICMP echo the identifier, at both ends; else 0.
    pub low_port: [u8; 2],
    /// Port of the high end in network order.
    pub high_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Seen: only the first direction.
pub const STATE_NEW: u8 = 0;
/// Seen: both directions.
pub const STATE_ESTABLISHED: u8 = 1;
/// TCP: FIN seen both ways, or a RST.
pub const STATE_CLOSED: u8 = 2;

/// The high end sent the first packet.
pub const CT_HIGH_OPENED: u8 = 1 << 0;
/// Tombstone: refused when judged again; drops both directions until a new SYN is judged or it expires.
pub const CT_REFUSED: u8 = 1 << 1;
/// FIN seen from the low end.
pub const CT_LOW_FIN: u8 = 1 << 2;
/// FIN seen from the high end.
pub const CT_HIGH_FIN: u8 = 1 << 3;
/// Both directions go through the host's stack (a foreign service proxy translates there).
pub const CT_VIA_HOST: u8 = 1 << 4;
/// This node itself opened the flow: it is let in whatever policy says.
pub const CT_HOST_OPENED: u8 = 1 << 5;

/// What is remembered of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// Bytes of IP packets, both directions.
    pub bytes: u64,
    /// Generation (low 32 bits) of the last judgement.
    pub stamp: u32,
    /// Endpoint slot of the low end.
    pub low_slot: u32,
    /// Endpoint slot of the high end.
    pub high_slot: u32,
    /// Hit id of the egress judgement at the opening end.
    pub egress_hit: u32,
    /// Hit id of the ingress judgement at the other end.
    pub ingress_hit: u32,
    /// When the flow last moved: [`seconds_of`] CLOCK_MONOTONIC.
    pub seen_s: u32,
    /// Packets, both directions.
    pub packets: u32,
    /// `STATE_*`.
    pub state: u8,
    /// `CT_*`.
    pub flags: u8,
    /// ICMP type of the first packet.
    pub icmp_type: u8,
    /// ICMP code of the first packet.
    pub icmp_code: u8,
    /// Address before translation; zero while there is none.
    pub nat: Address,
    /// Port before translation, network order.
    pub nat_port: [u8; 2],
    /// Zero; room for the quota's owner where it is not the opening end.
    pub spare: [u8; 6],
}

/// Seconds of a monotonic clock's nanoseconds, by multiplication: a division on every packet costs a tenth of its way.
/// Long by one in ten million, which is no matter as long as both sides count so.
#[inline(always)]
#[must_use]
pub const fn seconds_of(nanoseconds: u64) -> u32 {
    (((nanoseconds >> 20) * 1_125_900) >> 30) as u32
}

/// Idle seconds after which an entry is as good as absent; Calico's defaults (felix/bpf/conntrack/timeouts/timeouts.go).
pub mod timeout {
    /// TCP, first direction only.
    pub const TCP_NEW_S: u32 = 20;
    /// TCP, both directions seen.
    pub const TCP_ESTABLISHED_S: u32 = 3600;
    /// TCP after FINs or RST.
    pub const TCP_CLOSED_S: u32 = 30;
    /// UDP.
    pub const UDP_S: u32 = 60;
    /// ICMP and ICMPv6.
    pub const ICMP_S: u32 = 5;
    /// Every other protocol.
    pub const GENERIC_S: u32 = 600;
    /// A refused flow, from when it was refused.
    pub const REFUSED_S: u32 = 60;
}

impl ConntrackEntry {
    /// Idle seconds this entry lives, by protocol and state.
    #[inline(always)]
    #[must_use]
    pub const fn lifetime_s(&self, protocol: u8) -> u32 {
        if self.flags & CT_REFUSED != 0 {
            return timeout::REFUSED_S;
        }
        match (protocol, self.state) {
            (6, STATE_NEW) => timeout::TCP_NEW_S,
            (6, STATE_ESTABLISHED) => timeout::TCP_ESTABLISHED_S,
            (6, _) => timeout::TCP_CLOSED_S,
            (17, _) => timeout::UDP_S,
            (1 | 58, _) => timeout::ICMP_S,
            _ => timeout::GENERIC_S,
        }
    }

    /// Whether the entry is as good as absent at `now_s`.
    #[inline(always)]
    #[must_use]
    pub const fn expired(&self, protocol: u8, now_s: u32) -> bool {
        now_s.wrapping_sub(self.seen_s) > self.lifetime_s(protocol) && now_s.wrapping_sub(self.seen_s) < 1 << 31
    }
}

const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<ConntrackEntry>() == 64);

#[cfg(test)]
mod tests {
    use super::seconds_of;

    #[test]
    fn seconds_are_seconds_for_a_century() {
        for (days, slack) in [(0, 0), (1, 1), (365, 4), (36_500, 400)] {
            let truth: u64 = days * 86_400 + 7;
            let found = u64::from(seconds_of(truth * 1_000_000_000));
            assert!(found.abs_diff(truth) <= slack + 1, "{found} for {truth}");
        }
    }
}
