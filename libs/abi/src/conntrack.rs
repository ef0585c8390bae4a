//! Connection tracking: one entry per flow, whichever way a packet of it goes; half-open ones in a table of their own.
//! In: addresses, ports and protocol of a packet. Out: the entry that carries the verdict and its stamp.
//! Invariant: an entry that is not refused exists only for a flow whose first packet both ends' policy allowed.
//! Never: learns a TCP flow from anything but a SYN without ACK, except at a host endpoint, which may be younger than the flow.

use crate::address::Address;
use crate::endpoint::{SLOT_FIRST, SLOT_HOST, SLOT_NONE};
use crate::timeout::{Timeouts, is_over};

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
    /// Whose flow it is: the low 24 bits of a host endpoint's slot, little-endian, or zero for the pods'.
    pub zone: [u8; 3],
}

/// Seen: only the opener. Lives in `NEWFLOW`.
pub const STATE_NEW: u8 = 0;
/// The other end has answered, and the opener not yet again. Lives in `NEWFLOW`.
pub const STATE_ANSWERED: u8 = 1;
/// Both ends talk. Lives in `CONNTRACK`, as do the states after it unless they came before the opener's second word.
pub const STATE_ESTABLISHED: u8 = 2;
/// TCP: FIN seen both ways.
pub const STATE_CLOSED: u8 = 3;
/// TCP: FIN seen both ways, and another segment after them. Most often that is the last acknowledgement: numbers are not looked at.
pub const STATE_TIME_WAIT: u8 = 5;
/// Whether both ends have said that they are done.
#[inline(always)]
#[must_use]
pub const fn is_closed(state: u8) -> bool {
    matches!(state, STATE_CLOSED | STATE_TIME_WAIT)
}
/// Seen: only the opener, in the midst of a TCP connection that a host endpoint has not seen begin. Lives in `NEWFLOW`.
pub const STATE_MIDWAY: u8 = 4;
/// The high end sent the first packet.
pub const CT_HIGH_OPENED: u8 = 1 << 0;
/// Tombstone: refused when judged again; drops both directions until a new SYN is judged or it expires.
pub const CT_REFUSED: u8 = 1 << 1;
/// FIN seen from the low end.
pub const CT_LOW_FIN: u8 = 1 << 2;
/// FIN seen from the high end.
pub const CT_HIGH_FIN: u8 = 1 << 3;
/// Both directions go through the host's stack: a foreign service proxy translates there.
pub const CT_VIA_HOST: u8 = 1 << 4;
/// This node itself opened the flow: it is let in whatever policy says.
pub const CT_HOST_OPENED: u8 = 1 << 5;
/// RST seen from the low end.
pub const CT_LOW_RST: u8 = 1 << 6;
/// RST seen from the high end.
pub const CT_HIGH_RST: u8 = 1 << 7;
/// RST seen: the flow is over, unless its sender goes on. Then it was none of its own (a forged one), and is forgotten.
pub const CT_RESET: u8 = CT_LOW_RST | CT_HIGH_RST;

/// In `nat_kind`: the flow's packets go as they are.
pub const NAT_NONE: u8 = 0;
/// The entry leads to another: what its opener sends goes to `nat`, and the flow is tracked between those ends. It lives as long
/// as the other does, and is no flow itself. `egress_hit` is the slot of the backend, `ingress_hit` that of the frontend, `stamp` the
/// generation that chose it. `packets` is the port, as in a packet, by which this node stands for the client, with [`LEAD_MASKED`];
/// 0: it does not.
pub const NAT_LEADS: u8 = 1;
/// In `packets` of an entry that leads: this node stands for the client, by a port that may not be known yet.
pub const LEAD_MASKED: u32 = 1 << 16;
/// The opener sent it to `nat`, and hears its answers from there.
pub const NAT_TRANSLATED: u8 = 2;
/// The entry is for what comes back to a port of this node's that stands for a client outside, or for a pod there: its destination is
/// `nat`, and the flow is tracked between that and its source. It lives as long as that flow, and is no flow itself.
pub const NAT_RETURNS: u8 = 3;
/// A foreign service proxy translates what its opener sends, in the host's stack. Where that comes out it is another flow, by
/// which it is judged; this one is what the opener sees.
pub const NAT_BY_HOST: u8 = 4;
/// A host endpoint's: what its opener sends is translated behind the gate, by the uplink's program, and judged there. It speaks for
/// nothing else, and names the local slot for its account and its revision alone.
pub const NAT_AHEAD: u8 = 5;

/// A pod's, which outside of all pools is this node's: `nat` is the address and port that stand for it there.
pub const NAT_MASQUERADED: u8 = 6;

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
    /// Address on the other side of the translation; zero while there is none.
    pub nat: Address,
    /// The port there, network order.
    pub nat_port: [u8; 2],
    /// [`crate::Timeout`]: how long it lives without a packet.
    pub timeout: u8,
    /// `NAT_*`.
    pub nat_kind: u8,
    /// Number of its [`Ticket`]; 0 while one packet, or the cursor, has claimed it. In `NEWFLOW` 0, but of a [`NAT_RETURNS`], whose
    /// place may be claimed too.
    pub serial: u32,
}

/// An entry of `CONNTRACK` waiting to be looked at: each has exactly one, from its insertion to its removal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Whose.
    pub key: FlowKey,
    /// `ConntrackEntry::serial` of the entry it was written for: the agent may have removed that one meanwhile.
    pub serial: u32,
    /// Zero.
    pub pad: u32,
}

/// The zone of the flows that a host endpoint tracks, by the slot of its `local` layer.
#[inline(always)]
#[must_use]
pub const fn zone_of(slot: u32) -> [u8; 3] {
    let [a, b, c, _] = slot.to_le_bytes();
    [a, b, c]
}

/// Index of `QUOTA` under which all entries of `CONNTRACK` are counted: no endpoint has slot 0.
pub const QUOTA_ALL: u32 = SLOT_NONE;

/// The slot on whose quota a flow is: its opener's, or the responder's where the opener is not here. What this node opened
/// itself is on the node's, which has no limit: a pod that has used up its quota must not fail its probes for that.
#[inline(always)]
#[must_use]
pub const fn owner_of(low_slot: u32, high_slot: u32, flags: u8) -> u32 {
    if flags & CT_HOST_OPENED != 0 {
        return SLOT_HOST;
    }
    let (opener, responder) = if flags & CT_HIGH_OPENED == 0 { (low_slot, high_slot) } else { (high_slot, low_slot) };
    if opener >= SLOT_FIRST { opener } else { responder }
}

/// Seconds of a monotonic clock's nanoseconds, by multiplication: a division on every packet costs a tenth of its way.
/// Long by one in ten million, which is no matter as long as both sides count so.
#[inline(always)]
#[must_use]
pub const fn seconds_of(nanoseconds: u64) -> u32 {
    (((nanoseconds >> 20) * 1_125_900) >> 30) as u32
}

impl ConntrackEntry {
    /// Whether the entry is as good as absent at `now_s`.
    #[must_use]
    pub const fn expired(&self, timeouts: &Timeouts, now_s: u32) -> bool {
        is_over(self.seen_s, timeouts.seconds(self.timeout), now_s)
    }

    /// The slot on whose quota it is.
    #[must_use]
    #[inline(always)]
    pub const fn owner(&self) -> u32 {
        owner_of(self.low_slot, self.high_slot, self.flags)
    }
}

const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<ConntrackEntry>() == 64);
const _: () = assert!(size_of::<Ticket>() == 48);

#[cfg(test)]
mod tests {
    use super::{CT_HIGH_OPENED, CT_HOST_OPENED, owner_of, seconds_of};

    #[test]
    fn a_flow_is_on_its_openers_quota_or_on_the_responders_or_on_the_nodes() {
        assert_eq!(owner_of(2, 3, 0), 2);
        assert_eq!(owner_of(2, 3, CT_HIGH_OPENED), 3);
        assert_eq!(owner_of(0, 3, 0), 3, "opened from outside");
        assert_eq!(owner_of(3, 0, CT_HIGH_OPENED), 3, "opened from outside");
        assert_eq!(owner_of(1, 3, CT_HOST_OPENED), 1, "a probe of the node's own");
        assert_eq!(owner_of(1, 3, 0), 3, "forwarded with the node's address");
    }

    #[test]
    fn seconds_are_seconds_for_a_century() {
        for (days, slack) in [(0, 0), (1, 1), (365, 4), (36_500, 400)] {
            let truth: u64 = days * 86_400 + 7;
            let found = u64::from(seconds_of(truth * 1_000_000_000));
            assert!(found.abs_diff(truth) <= slack + 1, "{found} for {truth}");
        }
    }
}
