//! Entry: what is remembered of a flow, where it lies in the table.
//! In: a place in `CONNTRACK` or `NEWFLOW`. Out: its fields, each read and written alone.
//! Invariant: an entry's slots and opener never change, so its owner does not either; one claim has one winner.
//! Never: removed by a packet, which only makes it as good as absent; its ticket would point nowhere.

use core::cell::Cell;

use abi::conntrack::owner_of;
use abi::{Address, ConntrackEntry, Timeout};

/// A [`ConntrackEntry`] in its place in the table, where packets on other processors change it too.
#[repr(C)]
#[derive(Debug)]
#[expect(missing_docs, reason = "field by field as in ConntrackEntry")]
pub struct Flow {
    pub bytes: Cell<u64>,
    pub stamp: Cell<u32>,
    pub low_slot: Cell<u32>,
    pub high_slot: Cell<u32>,
    pub egress_hit: Cell<u32>,
    pub ingress_hit: Cell<u32>,
    pub seen_s: Cell<u32>,
    pub packets: Cell<u32>,
    pub state: Cell<u8>,
    pub flags: Cell<u8>,
    pub icmp_type: Cell<u8>,
    pub icmp_code: Cell<u8>,
    pub nat: Cell<[u64; 2]>,
    pub nat_port: Cell<[u8; 2]>,
    pub timeout: Cell<u8>,
    pub nat_kind: Cell<u8>,
    pub serial: Cell<u32>,
}

const _: () = assert!(size_of::<Flow>() == size_of::<ConntrackEntry>());
const _: () = assert!(core::mem::offset_of!(Flow, flags) == core::mem::offset_of!(ConntrackEntry, flags));
const _: () = assert!(core::mem::offset_of!(Flow, seen_s) == core::mem::offset_of!(ConntrackEntry, seen_s));
const _: () = assert!(core::mem::offset_of!(Flow, serial) == core::mem::offset_of!(ConntrackEntry, serial));

#[cfg(any(test, feature = "fake"))]
impl Flow {
    /// The entry in a place of its own.
    pub fn of(entry: &ConntrackEntry) -> Self {
        Self {
            bytes: Cell::new(entry.bytes),
            stamp: Cell::new(entry.stamp),
            low_slot: Cell::new(entry.low_slot),
            high_slot: Cell::new(entry.high_slot),
            egress_hit: Cell::new(entry.egress_hit),
            ingress_hit: Cell::new(entry.ingress_hit),
            seen_s: Cell::new(entry.seen_s),
            packets: Cell::new(entry.packets),
            state: Cell::new(entry.state),
            flags: Cell::new(entry.flags),
            icmp_type: Cell::new(entry.icmp_type),
            icmp_code: Cell::new(entry.icmp_code),
            nat: Cell::new(entry.nat.0),
            nat_port: Cell::new(entry.nat_port),
            timeout: Cell::new(entry.timeout),
            nat_kind: Cell::new(entry.nat_kind),
            serial: Cell::new(entry.serial),
        }
    }
}

impl Flow {
    /// From now on nobody takes it for a flow. What removes it is the cursor.
    #[inline(always)]
    pub fn forget(&self) {
        self.timeout.set(Timeout::Gone as u8);
    }

    /// The slot on whose quota it is. It never changes in an entry's life.
    #[inline(always)]
    pub fn owner(&self) -> u32 {
        owner_of(self.low_slot.get(), self.high_slot.get(), self.flags.get())
    }

    /// What it says, in a place of the caller's.
    #[inline(always)]
    pub fn copy_to(&self, entry: &mut ConntrackEntry) {
        entry.bytes = self.bytes.get();
        entry.stamp = self.stamp.get();
        entry.low_slot = self.low_slot.get();
        entry.high_slot = self.high_slot.get();
        entry.egress_hit = self.egress_hit.get();
        entry.ingress_hit = self.ingress_hit.get();
        entry.seen_s = self.seen_s.get();
        entry.packets = self.packets.get();
        entry.state = self.state.get();
        entry.flags = self.flags.get();
        entry.icmp_type = self.icmp_type.get();
        entry.icmp_code = self.icmp_code.get();
        entry.nat = Address(self.nat.get());
        entry.nat_port = self.nat_port.get();
        entry.timeout = self.timeout.get();
        entry.nat_kind = self.nat_kind.get();
        entry.serial = 0;
    }
}
