//! Asked: the parts of a packet's way that are asked apart, as numbers.
//! In: a packet, and what the part before it said. Out: a slot, what is known, nothing, or the reason of a drop, as a number.
//! Invariant: the parts in turn are `Walk::asked_about`, and say what it says.
//! Never: a stage of its own.

use abi::DropReason;
use abi::endpoint::{SLOT_FIRST, SLOT_NONE};

use crate::antispoof::endpoint_of;
use crate::flow::Sought;
use crate::fragment;
use crate::parse::Fragment;
use crate::policy::end_of;
use crate::tables::{Arrival, Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

/// What a part said: its kind, and below it a word.
const KIND: u32 = 32;
/// The reason of a drop.
const DROP: u64 = 0;
/// The slot that the packet goes to.
const GOES: u64 = 1;
/// The rules are to be asked; what is known.
const JUDGE: u64 = 2;
/// It is an error, of which is to be found out what it is about.
const COMPLAINS: u64 = 4;
/// It is none of ours.
const NOBODYS: u64 = 3;

/// Pieces, and the packet's flow.
#[inline(always)]
pub fn seeks<T: Tables, F: Frame>(part: Part<'_, T, F>, state: &mut State, is_new: bool) -> u64 {
    match part.walk().sought(state, is_new) {
        Ok(Some(Sought::Goes(slot))) => GOES << KIND | u64::from(slot),
        Ok(Some(Sought::Judge(known))) => JUDGE << KIND | u64::from(known),
        Ok(Some(Sought::Complains)) => COMPLAINS << KIND,
        Ok(None) => NOBODYS << KIND,
        Err(reason) => reason as u64,
    }
}

/// What an error is about.
#[inline(always)]
pub fn relates<T: Tables, F: Frame>(part: Part<'_, T, F>, state: &mut State, _: u32) -> u64 {
    part.walk().relate(state);
    JUDGE << KIND
}

/// The rules.
#[inline(always)]
pub fn judges<T: Tables, F: Frame>(part: Part<'_, T, F>, state: &mut State, known: u32) -> u64 {
    match part.walk().judge_flow(state, known) {
        Ok(Some(slot)) => GOES << KIND | u64::from(slot),
        Ok(None) => NOBODYS << KIND,
        Err(reason) => reason as u64,
    }
}

/// What few need that may pass.
#[inline(always)]
pub fn completes<T: Tables, F: Frame>(part: Part<'_, T, F>, state: &mut State, slot: u32) -> u64 {
    // Also read where only pieces are remembered: an argument that nobody reads is passed by nobody, and the verifier misses it.
    let slot = part.frame.unknown(slot);
    match part.walk().complete(state, slot) {
        Ok(()) => GOES << KIND | u64::from(slot),
        Err(reason) => reason as u64,
    }
}

/// Whether it is an error.
#[inline(always)]
#[must_use]
pub const fn complains(said: u64) -> bool {
    said >> KIND == COMPLAINS
}

/// What is known, if the rules are to be asked.
#[inline(always)]
#[must_use]
pub const fn to_judge(said: u64) -> Option<u32> {
    if said >> KIND == JUDGE { Some(said as u32) } else { None }
}

/// The slot that the packet goes to, if it goes on.
#[inline(always)]
#[must_use]
pub const fn goes_to(said: u64) -> Option<u32> {
    if said >> KIND == GOES { Some(said as u32) } else { None }
}

/// What was said in the end.
///
/// # Errors
/// The packet goes no further.
#[inline(always)]
pub const fn said(said: u64) -> Result<Option<u32>, DropReason> {
    match said >> KIND {
        GOES => Ok(Some(said as u32)),
        NOBODYS => Ok(None),
        DROP => match DropReason::from_number(said as u32) {
            Some(reason) => Err(reason),
            None => Err(DropReason::TableCorrupt),
        },
        _ => Err(DropReason::TableCorrupt),
    }
}

/// Where a packet is, and what may be asked there.
#[derive(Debug)]
pub struct Part<'a, T, F> {
    /// Where.
    pub hook: Hook,
    /// The tables.
    pub tables: &'a T,
    /// Its bytes.
    pub frame: &'a F,
    /// What else is said of it.
    pub arrival: &'a Arrival,
}

impl<'a, T: Tables, F: Frame> Part<'a, T, F> {
    #[inline(always)]
    const fn walk(self) -> Walk<'a, T, F> {
        let Self { hook, tables, frame, arrival } = self;
        Walk { tables, frame, arrival, hook }
    }
}

/// Whether [`Walk::complete`] has anything to do for a packet to this slot.
#[inline(always)]
#[must_use]
pub fn is_completed(hook: Hook, state: &State, slot: u32) -> bool {
    let is_sent_on = slot == SLOT_NONE && state.translation.end == Translated::Destination;
    let waits = state.translation.mask_port == 0 || state.translation.is_half_open;
    let is_masked = state.translation.end == Translated::Masked || (is_sent_on && state.translation.is_masked);
    (hook == Hook::FromUplink && is_sent_on)
        || (hook == Hook::FromWorkload && is_masked && waits)
        || state.packet.fragment == Fragment::First
}

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// What is asked of a packet that no entry in force lets pass at once: the slot that it goes to; `None`: it is none of ours.
    ///
    /// # Errors
    /// It goes no further.
    #[inline(always)]
    pub fn asked_about(&self, state: &mut State, is_new: bool) -> Result<Option<u32>, DropReason> {
        let slot = match self.sought(state, is_new)? {
            Some(Sought::Goes(slot)) => slot,
            Some(sought) => {
                let known = match sought {
                    Sought::Judge(known) => known,
                    _ => {
                        self.relate(state);
                        0
                    }
                };
                match self.judge_flow(state, known)? {
                    Some(slot) => slot,
                    None => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        if is_completed(self.hook, state, slot) {
            self.complete(state, slot)?;
        }
        Ok(Some(slot))
    }

    /// Pieces, and the flow.
    #[inline(always)]
    pub(crate) fn sought(&self, state: &mut State, is_new: bool) -> Result<Option<Sought>, DropReason> {
        match fragment::resolve(self.tables, &mut state.packet, &mut state.fragment) {
            Ok(()) => match self.seek(state, is_new)? {
                // What the node sends to nobody's service.
                Sought::Judge(_) if self.hook == Hook::FromNode && state.translation.end == Translated::Nothing => {
                    Ok(None)
                }
                sought => Ok(Some(sought)),
            },
            Err(reason) if self.is_orphan(state)? => Err(reason),
            Err(_) => Ok(None),
        }
    }

    /// What a few packets that may pass still need: a port that stands for their client, or to be remembered as the first
    /// piece.
    #[inline(always)]
    pub(crate) fn complete(&self, state: &mut State, slot: u32) -> Result<(), DropReason> {
        if slot == SLOT_NONE {
            self.mask(state)?;
        }
        if state.packet.fragment == Fragment::First {
            // The later ones come as their sender wrote them, too.
            state.swap_ends();
            fragment::remember(self.tables, &state.packet, &mut state.fragment);
            state.swap_ends();
        }
        Ok(())
    }

    /// Whether a fragment without its first is ours to drop: only where the packet is ours.
    #[inline(always)]
    fn is_orphan(&self, state: &mut State) -> Result<bool, DropReason> {
        if self.hook == Hook::FromNode {
            return Ok(false);
        }
        if self.hook != Hook::FromUplink {
            state.slot = endpoint_of(self.tables, self.arrival.ifindex)?.0;
            return Ok(true);
        }
        let owner = end_of(self.tables, state.generation, &state.packet.destination)?.slot;
        if owner >= SLOT_FIRST {
            state.slot = owner;
        }
        Ok(owner >= SLOT_FIRST)
    }
}
