//! Budget: how many ICMP errors this node still sends about the packets of an endpoint.
//! In: an endpoint's slot, and whether the packet came from outside. Out: whether one more may be sent; it is counted.
//! Invariant: each endpoint has an account for each side, so that nobody speaks on another's.
//! Never: decides what a budget is (`icmp_error` does).

use core::ptr;

use abi::maps;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use ebpf::icmp_error::spend;

#[map]
static ICMP_BUDGETS: Array<u64> = Array::with_max_entries(maps::ICMP_BUDGETS.default_entries, 0);

/// Whether one more ICMP error may be sent about a packet of the endpoint in `slot`. Processors that ask at the same
/// moment may each be given the same token.
#[inline(always)]
pub fn may_spend(slot: u32, by_uplink: bool) -> bool {
    let account = slot.wrapping_mul(2).wrapping_add(u32::from(by_uplink));
    let Some(budget) = ICMP_BUDGETS.get_ptr_mut(account) else {
        return false;
    };
    // SAFETY: the helper takes nothing; an array lookup gives an aligned u64, read and written whole.
    unsafe {
        match spend(ptr::read_volatile(budget), bpf_ktime_get_coarse_ns()) {
            Some(until) => ptr::write_volatile(budget, until),
            None => return false,
        }
    }
    true
}
