//! Ends: whether a known flow is still between those who opened it.
//! In: a flow's entry, and who has its addresses now. Out: yes, no, or that it is over.
//! Invariant: an address that has moved on is served by nobody's former flow.
//! Never: opens a flow.

use abi::DropReason;

use crate::conntrack::Tracked;
use crate::tables::Tables;

/// Whether there is an entry, and its ends are still who they were. The opener may open the flow anew; the other end may not.
#[inline(always)]
pub fn same_ends<T: Tables>(known: Option<Tracked<'_>>, slots: (u32, u32)) -> Result<bool, DropReason> {
    let Some(tracked) = known else {
        return Ok(false);
    };
    if tracked.opening_slots() == slots {
        return Ok(true);
    }
    if tracked.from_opener() {
        return Ok(false);
    }
    if !T::DRY {
        tracked.flow.forget();
    }
    Err(DropReason::NoFlow)
}
