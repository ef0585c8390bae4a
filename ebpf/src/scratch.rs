//! Scratch: the memory in which a packet's state lies, for a stack has too little room.
//! In: nothing. Out: this processor's own state.
//! Invariant: one packet at a time; a dry run's never meets a live one's.
//! Never: is read by another processor.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use ebpf::walk::State;

/// Where a packet's [`State`] lies while the program runs: one per processor, read by nobody else.
/// The hooks run with bottom halves off, so no second packet comes between on the same processor.
#[map]
static SCRATCH: PerCpuArray<State> = PerCpuArray::with_max_entries(1, 0);

/// The same of a dry run, which has bottom halves on before Linux 6.11 (`bpf_test_run`): packets come between.
#[map]
static DRY_SCRATCH: PerCpuArray<State> = PerCpuArray::with_max_entries(1, 0);

/// A state that has forgotten the packet before.
#[inline(always)]
pub fn blank_state<'a, const DRY: bool>() -> Option<&'a mut State> {
    let state = known_state::<DRY>()?;
    state.forget();
    Some(state)
}

/// The state of the packet that this run is about, live or dry.
#[inline(always)]
pub fn known_state<'a, const DRY: bool>() -> Option<&'a mut State> {
    let state = if DRY { DRY_SCRATCH.get_ptr_mut(0)? } else { SCRATCH.get_ptr_mut(0)? };
    // SAFETY: aligned memory of this processor, zero or left by another run, which nothing else uses meanwhile.
    Some(unsafe { &mut *state })
}

/// The state of the packet that this live run is about, for what runs apart.
#[inline(always)]
pub fn state<'a>() -> Option<&'a mut State> {
    // SAFETY: as in `blank_state`; whoever called has no more use for it.
    SCRATCH.get_ptr_mut(0).map(|state| unsafe { &mut *state })
}
