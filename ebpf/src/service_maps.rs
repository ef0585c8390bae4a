//! The maps of services, and [`Services`] over them.
//! In: keys. Out: values as they lie in the kernel's memory.
//! Invariant: names are those of `abi::maps`; sizes are the defaults there, which the loader may override.
//! Never: reads a word in two steps; writes anything in a dry run.

use core::ptr;

use abi::{
    Address, Affinity, AffinityKey, Backend, Balancer, Frontend, FrontendCounts, Masquerade, Member, ServiceKey,
    TunnelEnd, Word, maps,
};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use ebpf::ranges;
use ebpf::tables::Services;

use crate::atomic;
use crate::maps::{Kernel, source};
use crate::masquerade_maps::masquerade;
use crate::tunnelled;

#[map]
static SERVICES: HashMap<ServiceKey, u32> = HashMap::with_max_entries(maps::SERVICES.default_entries, 0);
#[map]
static FRONTENDS: Array<Frontend> = Array::with_max_entries(maps::FRONTENDS.default_entries, BPF_F_MMAPABLE);
#[map]
static BALANCERS: Array<Balancer> = Array::with_max_entries(maps::BALANCERS.default_entries, BPF_F_MMAPABLE);
#[map]
static MEMBERS: Array<Member> = Array::with_max_entries(maps::MEMBERS.default_entries, BPF_F_MMAPABLE);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(maps::BACKENDS.default_entries, BPF_F_MMAPABLE);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(maps::AFFINITY.default_entries, 0);
#[map]
static FRONTEND_COUNTS: Array<FrontendCounts> =
    Array::with_max_entries(maps::FRONTEND_COUNTS.default_entries, BPF_F_MMAPABLE);
#[map]
static BACKEND_COUNTS: Array<u64> = Array::with_max_entries(maps::BACKEND_COUNTS.default_entries, BPF_F_MMAPABLE);

/// Counts in a word that all processors share: per processor it would be a hundred megabytes on a large machine, for what
/// costs a new flow two instructions.
#[inline(always)]
fn add_one(word: *mut u64) {
    // SAFETY: an aligned word of an array's value, which everybody uses whole.
    unsafe { atomic::add(word, 1) };
}

/// A program within the program; it reads alone, so that dry ones may call it too.
#[inline(never)]
#[unsafe(no_mangle)]
fn ranges_apart(place: u64, high: u64, low: u64) -> u32 {
    ranges::before(&Kernel::<true>, place, high, low)
}

impl<const DRY: bool> Services for Kernel<DRY> {
    #[inline(always)]
    fn bounds_before(&self, place: u64, high: u64, low: u64) -> u32 {
        ranges_apart(place, high, low)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        // SAFETY: the value is one aligned u32, read at once; a slot stays its key's until a grace has passed.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn frontend(&self, slot: u32) -> Option<&Frontend> {
        FRONTENDS.get(slot)
    }

    #[inline(always)]
    fn balancer(&self, id: u32) -> Option<&Balancer> {
        BALANCERS.get(id)
    }

    #[inline(always)]
    fn member(&self, index: u32) -> Option<Member> {
        MEMBERS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<&Backend> {
        BACKENDS.get(slot)
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: three aligned words of 4 bytes; whichever they are, the backend has to stand and to be of this service.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_affinity(&self, key: &AffinityKey, kept: &Affinity) {
        if !DRY {
            // Without room the client may be sent elsewhere the next time.
            let _full = AFFINITY.insert(key, kept, 0);
        }
    }

    #[inline(always)]
    fn count_opened(&self, frontend: u32, backend: u32) {
        if DRY {
            return;
        }
        if let Some(counts) = FRONTEND_COUNTS.get_ptr_mut(frontend) {
            // SAFETY: a look-up gives a whole value.
            add_one(unsafe { &raw mut (*counts).opened });
        }
        if let Some(opened) = BACKEND_COUNTS.get_ptr_mut(backend) {
            add_one(opened);
        }
    }

    #[inline(always)]
    fn count_refused(&self, frontend: u32) {
        if !DRY && let Some(counts) = FRONTEND_COUNTS.get_ptr_mut(frontend) {
            // SAFETY: a look-up gives a whole value.
            add_one(unsafe { &raw mut (*counts).refused });
        }
    }

    #[inline(always)]
    fn own_address(&self, v6: bool) -> Option<&Address> {
        source(v6)
    }

    #[inline(always)]
    fn masquerade(&self, v6: bool) -> Option<&Masquerade> {
        masquerade(v6)
    }

    #[inline(always)]
    fn tunnel_behind(&self, address: &Address) -> Option<&TunnelEnd> {
        tunnelled::behind(*address)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and has no effect but on its own state.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn word(&self, word: &Word) -> Word {
        // SAFETY: a reference into a map's value, aligned to 8; the agent stores words whole.
        unsafe { ptr::read_volatile(word) }
    }
}
