//! Masquerade in the kernel: as whom this node stands for its pods, and which of their packets go on so.
//! In: the map of `abi::maps`, and the route that a packet takes. Out: whether what stands for its pod is written.
//! Invariant: nothing leaves by the uplink with a pod's address where this node stands for the pod.
//! Never: chooses a port; the stages do.

use abi::endpoint::SLOT_FIRST;
use abi::{DropReason, Masquerade, maps};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use ebpf::forward::Hop;
use ebpf::translation::Translated;
use ebpf::walk::State;

use crate::send::{self, Route};

#[map]
static MASQUERADE: Array<Masquerade> = Array::with_max_entries(maps::MASQUERADE.default_entries, 0);

/// As whom this node stands for its pods.
#[inline(always)]
pub fn masquerade<'a>(v6: bool) -> Option<&'a Masquerade> {
    MASQUERADE.get(u32::from(v6))
}

/// A pod's packet that goes on as this node's does so by the uplink, where its answers are heard. By another interface, and to an
/// address of this node that the tables do not know yet, it goes as it is. The stack would not take it in this node's name.
#[inline(always)]
pub fn unmask_elsewhere(state: &mut State, route: Route) -> Result<(), DropReason> {
    if !is_masked(state) {
        return Ok(());
    }
    let at_uplink = match masquerade(state.packet.v6) {
        Some(own) => send::leaves_by(state) == own.ifindex,
        None => return Err(DropReason::ForwardFailed),
    };
    if route.is_here() || (!at_uplink && route.hop != Hop::Stack) {
        match state.translation.end {
            Translated::Destination => state.translation.is_masked = false,
            _ => state.translation.end = Translated::Nothing,
        }
        return Ok(());
    }
    if route.hop == Hop::Stack { Err(DropReason::Unroutable) } else { Ok(()) }
}

/// Whether a packet is a pod's that goes on as this node's.
#[inline(always)]
pub fn is_masked(state: &State) -> bool {
    let is_led = state.translation.end == Translated::Destination && state.translation.is_masked;
    // On a pod's account: a client outside whom this node stands for is none.
    matches!(state.translation.end, Translated::Masked | Translated::QuotedMasked)
        || (is_led && state.slot >= SLOT_FIRST)
}
