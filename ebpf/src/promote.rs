//! Promotion: a half-open flow becomes one that is kept for good, on its owner's quota.
//! In: a flow of `NEWFLOW` of which both ends were heard. Out: its entry in `CONNTRACK`, or why there is no room.
//! Invariant: an entry of `CONNTRACK` is counted once on its owner's account and once among all, and has one ticket.
//! Never: takes the place of an entry that still speaks; leaves behind an entry that nothing would ever remove.

use abi::conntrack::{NAT_LEADS, NAT_RETURNS, QUOTA_ALL, STATE_ESTABLISHED};
use abi::endpoint::SLOT_HOST;
use abi::{DropReason, FlowKey, Ticket, Timeout};

use crate::conntrack::{Tracked, expired};
use crate::entry::Flow;
use crate::tables::{Inserted, Replaced, Tables};
use crate::walk::State;

/// So many endpoints' quotas is a host endpoint's.
const GATE_QUOTAS: i64 = 4;

/// Keeps a half-open flow. `place`: what `CONNTRACK` holds for its key.
#[inline(always)]
pub fn promote<T: Tables>(
    tables: &T,
    state: &mut State,
    tracked: &Tracked<'_>,
    place: Option<&Flow>,
) -> Result<(), DropReason> {
    let owner = tracked.flow.owner();
    if T::DRY {
        // What a live packet would be refused for, as far as a look can tell.
        let counts = place.is_none_or(|old| expired(tables, old, tracked.now_s) && old.owner() != owner);
        return if counts && !has_room(tables, owner, &state.key) {
            refuse(state, owner, DropReason::FlowQuota)
        } else {
            Ok(())
        };
    }
    tracked.flow.copy_to(&mut state.entry);
    state.entry.state = STATE_ESTABLISHED;
    if matches!(state.entry.nat_kind, NAT_LEADS | NAT_RETURNS) {
        state.entry.timeout = Timeout::Follows as u8;
    } else {
        state.entry.timeout = Timeout::established(state.packet.protocol) as u8;
    }
    let kept = match place {
        None => insert(tables, state, owner),
        // What still speaks for other packets of this key (an ICMP identifier that both ends use) keeps its place.
        Some(old) if !expired(tables, old, tracked.now_s) => Ok(false),
        Some(old) => replace(tables, state, owner, old),
    };
    match kept {
        Ok(true) => tracked.flow.forget(),
        // Somebody else is at this entry; the flow's next packet tries again.
        Ok(false) => {}
        Err(reason) => return refuse(state, owner, reason),
    }
    Ok(())
}

/// A refusal on the owner's account.
#[inline(always)]
fn refuse(state: &mut State, owner: u32, reason: DropReason) -> Result<(), DropReason> {
    state.slot = owner;
    Err(reason)
}

#[inline(always)]
fn insert<T: Tables>(tables: &T, state: &mut State, owner: u32) -> Result<bool, DropReason> {
    account(tables, owner, &state.key)?;
    let serial = tables.serial();
    state.entry.serial = serial;
    match tables.insert_flow(&state.key, &state.entry) {
        Inserted::New => {}
        // A packet on another processor was faster.
        Inserted::Known => {
            tables.count_flow(owner, -1);
            return Ok(true);
        }
        Inserted::Full => {
            tables.count_flow(owner, -1);
            return Err(DropReason::ConntrackFull);
        }
    }
    tables.count_flow(QUOTA_ALL, 1);
    state.ticket = Ticket { key: state.key, serial, pad: 0 };
    if tables.push_ticket(&state.ticket) {
        return Ok(true);
    }
    if tables.remove_flow(&state.key) {
        tables.count_flow(owner, -1);
        tables.count_flow(QUOTA_ALL, -1);
    }
    Err(DropReason::ConntrackFull)
}

/// The place of a flow that is over goes to the new one, and its ticket with it.
#[inline(always)]
fn replace<T: Tables>(tables: &T, state: &mut State, owner: u32, old: &Flow) -> Result<bool, DropReason> {
    let former = old.owner();
    if owner != former {
        account(tables, owner, &state.key)?;
    }
    let serial = tables.claim(old);
    state.entry.serial = serial;
    let replaced = if serial == 0 { Replaced::Gone } else { tables.replace_flow(&state.key, &state.entry) };
    if replaced == Replaced::Busy {
        old.serial.set(serial);
    }
    if owner != former {
        tables.count_flow(if replaced == Replaced::Done { former } else { owner }, -1);
    }
    Ok(replaced == Replaced::Done)
}

/// Puts one more flow on an account.
#[inline(always)]
fn account<T: Tables>(tables: &T, owner: u32, key: &FlowKey) -> Result<(), DropReason> {
    let before = tables.count_flow(owner, 1);
    if owner != SLOT_HOST && before >= quota(tables, key) {
        tables.count_flow(owner, -1);
        return Err(DropReason::FlowQuota);
    }
    Ok(())
}

/// Whether an account has room for one more flow.
#[inline(always)]
pub fn has_room<T: Tables>(tables: &T, owner: u32, key: &FlowKey) -> bool {
    owner == SLOT_HOST || tables.flows_of(owner) < quota(tables, key)
}

/// Whether the node's account has room for one more flow of others', which it only sends on: its own always find some.
#[inline(always)]
pub fn has_room_for_others<T: Tables>(tables: &T) -> bool {
    tables.flows_of(SLOT_HOST) < i64::from(tables.flow_quota()) * GATE_QUOTAS
}

/// Flows an account may have. A host endpoint's carries what all pods and the node itself exchange with others.
#[inline(always)]
fn quota<T: Tables>(tables: &T, key: &FlowKey) -> i64 {
    let each = i64::from(tables.flow_quota());
    if key.zone == [0; 3] { each } else { each * GATE_QUOTAS }
}
