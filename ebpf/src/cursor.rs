//! Cursor: the timer that goes over the tracked flows and takes away those that are over, whoever lives or dies meanwhile.
//! In: one run of [`arm`], again after each start of the agent. Out: ticks, for as long as the map of the timer is pinned.
//! Invariant: a tick does a bounded number of looks, and starts the next tick.
//! Never: runs twice at a time; decides about a flow (`expiry` does).

use core::ffi::c_void;

use abi::conntrack::QUOTA_ALL;
use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start};
use aya_ebpf::macros::btf_map;
use ebpf::expiry::{self, LOOKS_MAX, Round};
use ebpf::tables::Tables;

use crate::maps::{Kernel, next_ticket, wind_clock};

const CLOCK_MONOTONIC: u64 = 1;
const NS_PER_MS: u64 = 1_000_000;

/// The value of `EXPIRY`. The kernel finds the timer in it by the name of its type.
#[repr(C)]
pub struct Expiry {
    timer: bpf_timer,
}

#[btf_map]
static EXPIRY: Array<Expiry, 1> = Array::new();

/// Starts the timer, or gives the one that runs this program's callback; whether it runs.
#[inline(always)]
pub fn arm() -> bool {
    let Some(expiry) = EXPIRY.get_ptr_mut(0) else {
        return false;
    };
    wind_clock();
    // SAFETY: the timer is the kernel's own to change, in the value that its map holds; the callback has the signature
    // that the kernel calls.
    unsafe {
        let timer = &raw mut (*expiry).timer;
        // Made already is made.
        let _made = bpf_timer_init(timer, (&raw const EXPIRY).cast_mut().cast(), CLOCK_MONOTONIC);
        bpf_timer_set_callback(timer, tick as *mut c_void) == 0 && bpf_timer_start(timer, NS_PER_MS, 0) == 0
    }
}

/// One tick.
extern "C" fn tick(_map: *mut c_void, _index: *mut u32, expiry: *mut Expiry) -> i64 {
    let (tick_ms, left) = expiry::pace(Kernel::<false>.flows_of(QUOTA_ALL));
    let mut round = Round { now_s: wind_clock(), left, dead: 0 };
    // SAFETY: the callback has the signature that the kernel calls, and `round` outlives the helper. The timer: as in `arm`.
    unsafe {
        bpf_loop(LOOKS_MAX as u32, look as *mut c_void, (&raw mut round).cast(), 0);
        bpf_timer_start(&raw mut (*expiry).timer, round.next_tick_ms(tick_ms) * NS_PER_MS, 0);
    }
    0
}

/// One look. A loop of the kernel's own is verified once, not by its turns.
extern "C" fn look(_number: u32, round: *mut Round) -> i64 {
    const STOP: i64 = 1;
    // SAFETY: what `tick` handed in.
    let round = unsafe { &mut *round };
    match next_ticket() {
        Some(ticket) if round.look(&Kernel::<false>, &ticket) => 0,
        _ => STOP,
    }
}
