//! The tables in memory as a dry run has them.
//! In: the node's tables. Out: what they say; a panic where a dry run writes.
//! Invariant: reads are the node's own.
//! Never: part of a program.

use abi::address::ClassEntry;
use abi::fragment::{FragmentKey, FragmentPorts};
use abi::{Address, ConntrackEntry, Endpoint, FlowKey, RowKey, RowRef, SetEntry, Span, Ticket};

use crate::entry::Flow;
use crate::fake::Twin;
use crate::recent::Note;
use crate::tables::{Inserted, Replaced, Tables};

macro_rules! reads {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result { self.0.$name($($argument),*) })*
    };
}

impl Tables for Twin<'_> {
    const DRY: bool = true;
    reads! {
        generation() -> u64;
        now_s() -> u32;
        slot_of_interface(ifindex: u32) -> Option<u32>;
        endpoint(slot: u32) -> Option<&Endpoint>;
        class_of_address(address: &Address) -> Option<u32>;
        class_of_net(address: &Address) -> Option<u32>;
        class(slot: u32) -> Option<&ClassEntry>;
        set(id: u32) -> Option<&SetEntry>;
        row(key: &RowKey) -> Option<RowRef>;
        span(index: u32) -> Option<Span>;
        note(place: u32) -> Option<&Note>;
        openings(slot: u32) -> u32;
        flow(key: &FlowKey) -> Option<&Flow>;
        new_flow(key: &FlowKey) -> Option<&Flow>;
        flows_of(account: u32) -> i64;
        flow_quota() -> u32;
        lifetime_s(timeout: u8) -> i32;
        fragment(key: &FragmentKey) -> Option<FragmentPorts>;
    }
    fn count_opening(&self, _: u32) {
        panic!("a dry run counted a flow")
    }
    fn insert_new_flow(&self, _: &FlowKey, _: &ConntrackEntry) -> bool {
        panic!("a dry run opened a flow")
    }
    fn insert_new_flow_at(&self, _: &FlowKey, _: &ConntrackEntry, _: bool) -> bool {
        panic!("a dry run opened a flow")
    }
    fn insert_flow(&self, _: &FlowKey, _: &ConntrackEntry) -> Inserted {
        panic!("a dry run kept a flow")
    }
    fn replace_flow(&self, _: &FlowKey, _: &ConntrackEntry) -> Replaced {
        panic!("a dry run replaced a flow")
    }
    fn claim(&self, _: &Flow) -> u32 {
        panic!("a dry run claimed a flow")
    }
    fn remove_flow(&self, _: &FlowKey) -> bool {
        panic!("a dry run removed a flow")
    }
    fn push_ticket(&self, _: &Ticket) -> bool {
        panic!("a dry run queued a flow")
    }
    fn serial(&self) -> u32 {
        panic!("a dry run took a number")
    }
    fn count_flow(&self, _: u32, _: i64) -> i64 {
        panic!("a dry run counted a flow")
    }
    fn insert_fragment(&self, _: &FragmentKey, _: &FragmentPorts) {
        panic!("a dry run remembered a fragment")
    }
    fn count_hit(&self, _: u32) {
        panic!("a dry run counted")
    }
}
