//! Currency: is the judgement that a flow's entry carries still in force?
//! In: an entry's slots and stamp, and the revisions of the endpoints in those slots. Out: whether it is, or is kept all the same.
//! Invariant: a judgement is in force only if no end's policy has moved on since, and each end is ready.
//! Never: reads a rule; writes.

use abi::endpoint::{ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_READY, SLOT_FIRST, SLOT_HOST, SLOT_NONE};

use crate::conntrack::Tracked;
use crate::parse::protocol;
use crate::tables::Tables;

/// Whether the judgement an entry carries is still in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Currency {
    /// No end's policy has moved on since.
    Current,
    /// It has, but the ends that moved keep their established flows.
    Kept,
    /// It has: judge again.
    Outdated,
}

impl Tracked<'_> {
    /// Whether the judgement is still in force at both ends.
    #[inline(always)]
    pub fn currency<T: Tables>(&self, tables: &T, l4: u8) -> Currency {
        let ends = match (self.flow.low_slot.get(), self.flow.high_slot.get()) {
            // Of a client outside, and of who serves him elsewhere or is this node: only the uplink's own host endpoint was asked. Of
            // what the node itself opened to one of those nobody was, and nobody is when it is judged again.
            (low, high) if low < SLOT_FIRST && high < SLOT_FIRST => (uplink_of(tables), SLOT_NONE),
            ends => ends,
        };
        match currency_between(tables, ends, self.flow.stamp.get()) {
            // Kept are established flows: a SYN that nobody answered yet is none (PKT-74).
            Currency::Kept if self.half_open && l4 == protocol::TCP => Currency::Outdated,
            currency => currency,
        }
    }
}

/// Slot of the uplink's own host endpoint, if it has one.
#[inline(always)]
pub fn uplink_of<T: Tables>(tables: &T) -> u32 {
    match tables.endpoint(SLOT_HOST) {
        Some(node) => node.layers.uplink,
        None => SLOT_NONE,
    }
}

/// Whether a judgement with this stamp is still in force at both ends.
#[inline(always)]
pub fn currency_between<T: Tables>(tables: &T, slots: (u32, u32), stamp: u32) -> Currency {
    match (currency_at(tables, slots.0, stamp), currency_at(tables, slots.1, stamp)) {
        (Currency::Current, Currency::Current) => Currency::Current,
        (Currency::Outdated, _) | (_, Currency::Outdated) => Currency::Outdated,
        _ => Currency::Kept,
    }
}

#[inline(always)]
fn currency_at<T: Tables>(tables: &T, slot: u32, stamp: u32) -> Currency {
    if slot < SLOT_FIRST {
        return Currency::Current;
    }
    let Some(endpoint) = tables.endpoint(slot) else {
        return Currency::Outdated;
    };
    if endpoint.flags & ENDPOINT_READY == 0 {
        return Currency::Outdated;
    }
    // Serial arithmetic (RFC 1982): generations wrap, stamps never lag by half the circle.
    if (stamp.wrapping_sub(endpoint.rev) as i32) >= 0 {
        Currency::Current
    } else if endpoint.flags & ENDPOINT_KEEP_ESTABLISHED != 0 {
        Currency::Kept
    } else {
        Currency::Outdated
    }
}
