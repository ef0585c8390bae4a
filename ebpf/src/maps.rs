//! The maps, and [`Tables`] over them.
//! In: keys. Out: values as they lie in the kernel's memory.
//! Invariant: names are those of `abi::maps`; sizes are the defaults there, which the loader may override.
//! Never: reads a generation or a word in two steps; writes anything in a dry run.

use core::ptr;

use abi::address::ClassEntry;
use abi::conntrack::seconds_of;
use abi::fragment::{FragmentKey, FragmentPorts};
use abi::verdict::DROP_REASONS;
use abi::{Address, ConntrackEntry, Endpoint, FlowKey, RowKey, RowRef, SetEntry, Span, Ticket, Timeouts, maps};
use aya_ebpf::bindings::{BPF_EXIST, BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue};
use ebpf::entry::Flow;
use ebpf::recent::{self, Note};
use ebpf::tables::{Inserted, Replaced, Tables};
use ebpf::walk::State;

use crate::{apart, atomic, log};

#[map]
static GENERATION: Array<u64> = Array::with_max_entries(maps::GENERATION.default_entries, BPF_F_MMAPABLE);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(maps::ENDPOINTS.default_entries, BPF_F_MMAPABLE);
#[map]
static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(maps::INTERFACES.default_entries, 0);
#[map]
static ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(maps::ADDRESSES.default_entries, 0);
#[map]
static NETS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(maps::NETS.default_entries, 0);
#[map]
static CLASSES: Array<ClassEntry> = Array::with_max_entries(maps::CLASSES.default_entries, BPF_F_MMAPABLE);
#[map]
static SETS: Array<SetEntry> = Array::with_max_entries(maps::SETS.default_entries, 0);
#[map]
static ROWS: HashMap<RowKey, RowRef> = HashMap::with_max_entries(maps::ROWS.default_entries, 0);
#[map]
static SPANS: Array<Span> = Array::with_max_entries(maps::SPANS.default_entries, BPF_F_MMAPABLE);
#[map]
static CONNTRACK: HashMap<FlowKey, ConntrackEntry> = HashMap::with_max_entries(maps::CONNTRACK.default_entries, 0);
#[map]
static NEWFLOW: LruHashMap<FlowKey, ConntrackEntry> = LruHashMap::with_max_entries(maps::NEWFLOW.default_entries, 0);
#[map]
static CTQ: Queue<Ticket> = Queue::with_max_entries(maps::CTQ.default_entries, 0);
#[map]
static QUOTA: Array<u64> = Array::with_max_entries(maps::QUOTA.default_entries, BPF_F_MMAPABLE);
#[map]
static CLOCK: Array<u32> = Array::with_max_entries(maps::CLOCK.default_entries, BPF_F_MMAPABLE);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(maps::FRAGMENTS.default_entries, 0);
#[map]
static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(maps::HITS.default_entries, 0);
#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(maps::DROPS.default_entries, 0);
#[map]
static SOURCES: Array<Address> = Array::with_max_entries(maps::SOURCES.default_entries, 0);

/// How long flows live. Read by `read_volatile` only: the loader may put other numbers there.
#[unsafe(no_mangle)]
static TIMEOUTS: Timeouts = Timeouts::DEFAULT;
/// Flows an endpoint may own; read likewise.
#[unsafe(no_mangle)]
static FLOW_QUOTA: u32 = maps::CONNTRACK.default_entries / 8;

/// Notes of recent flows, as private as the state.
#[map]
static NOTES: PerCpuArray<[u64; size_of::<Note>() / 8]> = PerCpuArray::with_max_entries(recent::NOTES, 0);

/// Flows that endpoints have opened, by slot: how notes learn that their client has gone on.
#[map]
static OPENINGS: Array<u32> = Array::with_max_entries(recent::OPENINGS, 0);

/// Errors of the kernel's tables.
const ENOENT: i32 = -2;
const EEXIST: i32 = -17;

/// Writes the time down, and says it.
#[inline(always)]
pub fn wind_clock() -> u32 {
    // SAFETY: the helper takes nothing and has no effect.
    let now_s = seconds_of(unsafe { bpf_ktime_get_coarse_ns() });
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: an aligned u32 in an array that lives as long as the program runs; it is stored whole.
        unsafe { ptr::write_volatile(clock, now_s) };
    }
    now_s
}

/// The ticket at the queue's head.
#[inline(always)]
pub fn next_ticket() -> Option<Ticket> {
    CTQ.pop().ok().flatten()
}

/// The address from which this node complains, if there is one of that family.
#[inline(always)]
pub fn source<'a>(v6: bool) -> Option<&'a Address> {
    SOURCES.get(u32::from(v6)).filter(|address| **address != Address::default())
}

/// The kernel's tables. A dry one reads the same and writes nothing.
pub struct Kernel<const DRY: bool>;

/// Counts a drop for a [`abi::DropReason`], on the account of the endpoint in `slot`.
#[inline(always)]
pub fn count_drop(slot: u32, reason: u32) {
    let account = slot.wrapping_mul(DROP_REASONS).wrapping_add(reason);
    add_one(DROPS.get_ptr_mut(account));
}

#[inline(always)]
fn add_one(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: a lookup in a per-CPU array gives an aligned u64 of this processor, on which the program stays.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

impl<const DRY: bool> Tables for Kernel<DRY> {
    const DRY: bool = DRY;

    #[inline(always)]
    fn generation(&self) -> u64 {
        // SAFETY: an array lookup gives an aligned u64 for as long as the program runs; the agent stores it whole.
        GENERATION.get_ptr(0).map_or(0, |word| unsafe { ptr::read_volatile(word) })
    }

    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: an array lookup gives an aligned u32 for as long as the program runs; the cursor stores it whole.
        CLOCK.get_ptr(0).map_or(0, |clock| unsafe { ptr::read_volatile(clock) })
    }

    #[inline(always)]
    fn slot_of_interface(&self, ifindex: u32) -> Option<u32> {
        // SAFETY: the value is one aligned u32, read at once.
        unsafe { INTERFACES.get(&ifindex) }.copied()
    }

    #[inline(always)]
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(slot)
    }

    #[inline(always)]
    fn class_of_address(&self, address: &Address) -> Option<u32> {
        // SAFETY: the value is one aligned u32, read at once; a slot stays its address's until a grace has passed.
        unsafe { ADDRESSES.get(address) }.copied()
    }

    #[inline(always)]
    fn class_of_net(&self, address: &Address) -> Option<u32> {
        NETS.get(&Key::new(128, *address)).copied()
    }

    #[inline(always)]
    fn class(&self, slot: u32) -> Option<&ClassEntry> {
        CLASSES.get(slot)
    }

    #[inline(always)]
    fn set(&self, id: u32) -> Option<&SetEntry> {
        SETS.get(id)
    }

    #[inline(always)]
    fn row(&self, key: &RowKey) -> Option<RowRef> {
        // SAFETY: a row in use is never written; it is removed only after a grace.
        unsafe { ROWS.get(key) }.copied()
    }

    #[inline(always)]
    fn span(&self, index: u32) -> Option<Span> {
        SPANS.get(index).copied()
    }

    #[inline(always)]
    fn note(&self, place: u32) -> Option<&Note> {
        // SAFETY: aligned memory of this processor, on which the program stays; zero or left by another run.
        NOTES.get_ptr(place).map(|note| unsafe { &*note.cast::<Note>() })
    }

    #[inline(always)]
    fn pay_former(&self, note: &Note, _: &mut FlowKey) {
        apart::pay_apart(note.place());
    }

    #[inline(always)]
    fn openings(&self, slot: u32) -> u32 {
        // SAFETY: four aligned bytes, which any processor may write at once.
        OPENINGS.get_ptr(slot & (recent::OPENINGS - 1)).map_or(0, |count| unsafe { count.read_volatile() })
    }

    #[inline(always)]
    fn count_opening(&self, slot: u32) {
        if let Some(count) = OPENINGS.get_ptr_mut(slot & (recent::OPENINGS - 1)) {
            // SAFETY: as above; one that is lost beside another still leaves a number that no note has.
            unsafe { count.write_volatile(count.read_volatile().wrapping_add(1)) };
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        // SAFETY: `Flow` has the layout of the map's value (asserted beside it) and accepts any bytes; its cells
        // allow the writes of other processors, each of one field.
        CONNTRACK.get_ptr(key).map(|entry| unsafe { &*entry.cast::<Flow>() })
    }

    #[inline(always)]
    fn new_flow(&self, key: &FlowKey) -> Option<&Flow> {
        // SAFETY: as in `flow`.
        NEWFLOW.get_ptr(key).map(|entry| unsafe { &*entry.cast::<Flow>() })
    }

    #[inline(always)]
    fn insert_new_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> bool {
        !DRY && NEWFLOW.insert(key, entry, 0).is_ok()
    }

    #[inline(always)]
    fn insert_new_flow_at(&self, key: &FlowKey, entry: &ConntrackEntry, is_first: bool) -> bool {
        let flags = if is_first { BPF_NOEXIST.into() } else { 0 };
        !DRY && NEWFLOW.insert(key, entry, flags).is_ok()
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> Inserted {
        if DRY {
            return Inserted::Full;
        }
        match CONNTRACK.insert(key, entry, BPF_NOEXIST.into()) {
            Ok(()) => Inserted::New,
            Err(EEXIST) => Inserted::Known,
            Err(_) => Inserted::Full,
        }
    }

    #[inline(always)]
    fn replace_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> Replaced {
        if DRY {
            return Replaced::Gone;
        }
        match CONNTRACK.insert(key, entry, BPF_EXIST.into()) {
            Ok(()) => Replaced::Done,
            Err(ENOENT) => Replaced::Gone,
            Err(_) => Replaced::Busy,
        }
    }

    #[inline(always)]
    fn claim(&self, flow: &Flow) -> u32 {
        if DRY {
            return 0;
        }
        // SAFETY: an aligned word of a map's value.
        unsafe { atomic::exchange(flow.serial.as_ptr(), 0) }
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) -> bool {
        !DRY && CONNTRACK.remove(key).is_ok()
    }

    #[inline(always)]
    fn push_ticket(&self, ticket: &Ticket) -> bool {
        !DRY && CTQ.push(ticket, 0).is_ok()
    }

    #[inline(always)]
    fn serial(&self) -> u32 {
        // SAFETY: the helper takes nothing and has no effect but on its own state.
        unsafe { bpf_get_prandom_u32() | 1 }
    }

    #[inline(always)]
    fn flows_of(&self, account: u32) -> i64 {
        self.count_flow(account, 0)
    }

    #[inline(always)]
    fn count_flow(&self, account: u32, by: i64) -> i64 {
        let Some(count) = QUOTA.get_ptr_mut(account) else {
            return 0;
        };
        // SAFETY: an array lookup gives an aligned u64 for as long as the program runs; everybody uses it whole.
        unsafe { (if DRY || by == 0 { ptr::read_volatile(count) } else { atomic::add(count, by as u64) }) as i64 }
    }

    #[inline(always)]
    fn flow_quota(&self) -> u32 {
        // SAFETY: a static of this program, aligned.
        unsafe { ptr::read_volatile(&raw const FLOW_QUOTA) }
    }

    #[inline(always)]
    fn lifetime_s(&self, timeout: u8) -> i32 {
        // SAFETY: the index is below 16, the length of the static.
        unsafe { ptr::read_volatile((&raw const TIMEOUTS).cast::<i32>().add(usize::from(timeout & 15))) }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: three aligned words of 4 bytes; an element used anew carries another packet's ports, and those ports'
        // flow then has to exist between these two addresses.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        if !DRY {
            // Without room the later fragments are dropped and counted.
            let _full = FRAGMENTS.insert(key, ports, 0);
        }
    }

    #[inline(always)]
    fn referred(&self, span: u64, own: u32, x: u32, source_port: u32) -> u64 {
        apart::referred_apart(span, own, x, source_port)
    }

    #[inline(always)]
    fn speaks_for(&self, slot: u32, class: u32, generation: u64) -> bool {
        apart::speaks_apart(slot, class, generation) != 0
    }

    #[inline(always)]
    fn count_hit(&self, hit: u32) {
        if !DRY {
            // Rules past the table's end share hit 0.
            add_one(HITS.get_ptr_mut(hit).or_else(|| HITS.get_ptr_mut(0)));
        }
    }

    #[inline(always)]
    fn write_log(&self, state: &mut State) {
        if !DRY {
            log::write(state);
        }
    }
}
