//! The maps of announced addresses, and [`Announcements`] over them.
//! In: addresses. Out: how, until when and as whom this node answers for them.
//! Invariant: as of `maps.rs`.
//! Never: writes.

use abi::{Address, Announcing, maps};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use ebpf::tables::Announcements;

use crate::maps::Kernel;

#[map]
static ANNOUNCING: Array<Announcing> = Array::with_max_entries(maps::ANNOUNCING.default_entries, 0);
#[map]
static ANNOUNCED: HashMap<Address, u32> = HashMap::with_max_entries(maps::ANNOUNCED.default_entries, 0);

impl<const DRY: bool> Announcements for Kernel<DRY> {
    #[inline(always)]
    fn announcing(&self) -> Option<&Announcing> {
        ANNOUNCING.get(0)
    }

    #[inline(always)]
    fn announced(&self, address: &Address) -> Option<u32> {
        // SAFETY: an aligned word, which is written in one piece.
        unsafe { ANNOUNCED.get(address) }.copied()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and has no effect.
        unsafe { bpf_ktime_get_ns() }
    }
}
