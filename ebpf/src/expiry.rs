//! Expiry: the cursor's look at one entry of `CONNTRACK`.
//! In: a ticket from the queue. Out: whether it goes back there; an entry that is over is removed.
//! Invariant: an entry leaves the table with its ticket and its place in its owner's account.
//! Never: removes an entry that a packet has claimed, or one that another ticket stands for.

use abi::Ticket;
use abi::conntrack::QUOTA_ALL;

use crate::lead::is_over;
use crate::tables::Tables;

/// Seconds in which the cursor goes once over all entries, as far as [`LOOKS_MAX`] lets it.
const ROUND_MS: u64 = 10_000;
/// Between two ticks while few flows are tracked, and while many are.
const SLOW_MS: u64 = 100;
const FAST_MS: u64 = 10;
/// More looks than this in a slow tick make the ticks fast.
const SLOW_LOOKS: u64 = 25;
/// Tickets a tick looks at.
pub const LOOKS_MAX: u64 = 256;

/// Until the next tick, and how many tickets this one puts back, with so many entries in the table.
#[inline(always)]
#[must_use]
pub const fn pace(tracked: i64) -> (u64, u32) {
    let tracked = if tracked < 0 { 0 } else { tracked as u64 };
    let slow = tracked * SLOW_MS / ROUND_MS;
    let (tick_ms, looks) = if slow > SLOW_LOOKS { (FAST_MS, tracked * FAST_MS / ROUND_MS) } else { (SLOW_MS, slow) };
    (
        tick_ms,
        if looks < 1 {
            1
        } else if looks > LOOKS_MAX {
            LOOKS_MAX as u32
        } else {
            looks as u32
        },
    )
}

/// One tick's looks.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// When it began.
    pub now_s: u32,
    /// Tickets that may still go back.
    pub left: u32,
    /// Tickets that did not. They cost the round nothing: flushed flows leave as many as there were of them.
    pub dead: u32,
}

impl Round {
    /// Looks at a ticket, and puts it back if its entry lives; whether to go on.
    #[inline(always)]
    pub fn look<T: Tables>(&mut self, tables: &T, ticket: &Ticket) -> bool {
        if visit(tables, ticket, self.now_s) {
            self.left = self.left.saturating_sub(1);
            if !tables.push_ticket(ticket) {
                abandon(tables, ticket, self.now_s);
            }
        } else {
            self.dead += 1;
        }
        self.left > 0
    }

    /// Until the next tick, where [`pace`] says `tick_ms`.
    #[inline(always)]
    #[must_use]
    pub const fn next_tick_ms(&self, tick_ms: u64) -> u64 {
        if self.dead as u64 > SLOW_LOOKS { FAST_MS } else { tick_ms }
    }
}

/// Looks at a ticket's entry. `true`: it goes back into the queue.
#[inline(always)]
pub fn visit<T: Tables>(tables: &T, ticket: &Ticket, now_s: u32) -> bool {
    let Some(flow) = tables.flow(&ticket.key) else {
        return false;
    };
    let serial = flow.serial.get();
    // 0: a packet puts another entry there at this moment, which takes the ticket over.
    if serial != ticket.serial && serial != 0 {
        return false;
    }
    if !is_over(tables, &ticket.key, flow, now_s) || tables.claim(flow) != ticket.serial {
        return true;
    }
    let owner = flow.owner();
    if tables.remove_flow(&ticket.key) {
        tables.count_flow(owner, -1);
        tables.count_flow(QUOTA_ALL, -1);
        return false;
    }
    // Still there: this processor holds a lock of the table, under the packet's feet. The next round removes it.
    match tables.flow(&ticket.key) {
        Some(flow) if flow.serial.get() == 0 => {
            flow.serial.set(ticket.serial);
            true
        }
        _ => false,
    }
}

/// A ticket for which there is no room in the queue: its entry goes, else nothing would ever remove it.
#[inline(always)]
pub fn abandon<T: Tables>(tables: &T, ticket: &Ticket, now_s: u32) {
    if let Some(flow) = tables.flow(&ticket.key).filter(|flow| flow.serial.get() == ticket.serial) {
        flow.forget();
        visit(tables, ticket, now_s);
    }
}
