//! Lead: the entry by which a client's packets to a service find their flow.
//! In: a flow that was opened, or is kept for good. Out: what leads to it, beside it; whether that is over.
//! Invariant: it lives as long as the flow that it leads to, and has a ticket and a place on an account as that has.
//! Never: a flow itself: no packet passes by it alone.

use abi::conntrack::{
    CT_HIGH_OPENED, CT_HOST_OPENED, LEAD_MASKED, NAT_LEADS, NAT_MASQUERADED, NAT_RETURNS, NAT_TRANSLATED,
};
use abi::endpoint::{SLOT_HOST, SLOT_NONE};
use abi::{Address, Affinity, ConntrackEntry, DropReason, FlowKey, Timeout};

use crate::conntrack::{self, Socket, Tracked, key_between};
use crate::entry::Flow;
use crate::parse::protocol;
use crate::promote::promote;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Remembers, beside the flow that was just opened, what leads to it.
    #[inline(always)]
    pub(crate) fn lead(&self, state: &mut State, slots: (u32, u32)) -> Result<(), DropReason> {
        if state.translation.end != Translated::Destination {
            return Ok(());
        }
        let client = state.client();
        let State { packet, translation, key, entry, .. } = state;
        // Who is sent to itself and has one port at both ends finds the flow by what it sends: there is one key for both.
        let is_one = translation.is_hairpin
            && packet.source_port == packet.destination_port
            && packet.source_port == translation.port;
        if is_one {
            self.tables.count_opened(translation.at, translation.backend);
            return Ok(());
        }
        let from_low = key_between(client, (translation.frontend, translation.port), packet.protocol, key);
        *entry = ConntrackEntry::default();
        (entry.low_slot, entry.high_slot) = if from_low { slots } else { (slots.1, slots.0) };
        entry.flags = if from_low { 0 } else { CT_HIGH_OPENED };
        if slots.0 == SLOT_HOST || slots == (SLOT_NONE, SLOT_NONE) {
            entry.flags |= CT_HOST_OPENED;
        }
        if packet.is_icmp() {
            [entry.icmp_type, entry.icmp_code] = packet.detail.to_be_bytes();
        }
        entry.nat_kind = NAT_LEADS;
        (entry.nat, entry.nat_port) = (packet.destination, packet.destination_port.to_ne_bytes());
        (entry.egress_hit, entry.stamp) = (translation.backend, translation.stamp);
        entry.ingress_hit = translation.at;
        // Before a port is found: without one nothing goes on.
        entry.packets = if translation.is_masked { LEAD_MASKED } else { 0 };
        entry.timeout = Timeout::Follows as u8;
        entry.seen_s = self.tables.now_s();
        if !self.tables.insert_new_flow(key, entry) {
            return Err(DropReason::ConntrackFull);
        }
        if let Some(former) = self.tables.flow(key) {
            former.forget();
        }
        self.tables.count_opened(translation.at, translation.backend);
        if translation.client.of != 0 {
            let kept = Affinity { backend: translation.backend, stamp: translation.stamp, seen_s: self.tables.now_s() };
            self.tables.insert_affinity(&translation.client, &kept);
        }
        Ok(())
    }

    /// What leads to a flow is kept for good with it.
    #[inline(always)]
    pub(crate) fn keep_lead(&self, state: &mut State, tracked: &Tracked<'_>) -> Result<(), DropReason> {
        let half_open = tracked.half_open && tracked.flow.timeout.get() != Timeout::Gone as u8;
        if T::DRY || !state.translation.is_half_open || half_open {
            return Ok(());
        }
        let client = state.client();
        let State { packet, translation, key, .. } = state;
        let from_low = key_between(client, (translation.frontend, translation.port), packet.protocol, key);
        match self.tables.new_flow(&state.key) {
            Some(flow) if flow.nat_kind.get() == NAT_LEADS => {
                let lead = Tracked { flow, from_low, now_s: tracked.now_s, half_open: true };
                promote(self.tables, state, &lead, self.tables.flow(&state.key))
            }
            _ => Ok(()),
        }
    }
}

/// Whether an entry is as good as absent: one that leads is when the flow that it leads to is.
#[inline(always)]
pub fn is_over<T: Tables>(tables: &T, key: &FlowKey, flow: &Flow, now_s: u32) -> bool {
    if conntrack::expired(tables, flow, now_s) {
        return true;
    }
    match flow.nat_kind.get() {
        NAT_LEADS => !leads(tables, key, flow, now_s),
        NAT_RETURNS => !returns(tables, key, flow, now_s),
        _ => false,
    }
}

/// Whether there is a flow where an entry leads to.
#[inline(always)]
fn leads<T: Tables>(tables: &T, key: &FlowKey, flow: &Flow, now_s: u32) -> bool {
    let (low, high) = ((key.low, u16::from_ne_bytes(key.low_port)), (key.high, u16::from_ne_bytes(key.high_port)));
    let (client, frontend) = if flow.flags.get() & CT_HIGH_OPENED == 0 { (low, high) } else { (high, low) };
    let mut there = FlowKey { zone: key.zone, ..FlowKey::default() };
    let backend = flow.other_side();
    // One that is sent to itself comes as from the frontend.
    let is_hairpin = client.0 == backend.0 && flow.packets.get() == 0 && !flow.is_nodes();
    let seen = (if is_hairpin { frontend.0 } else { client.0 }, client.1);
    key_between(seen, backend, key.protocol, &mut there);
    let is_it = |flow: &Flow| flow.is_translated_from(frontend) && !conntrack::expired(tables, flow, now_s);
    tables.flow(&there).is_some_and(is_it) || tables.new_flow(&there).is_some_and(is_it)
}

/// Whether there is a flow of which this entry takes the answers.
#[inline(always)]
fn returns<T: Tables>(tables: &T, key: &FlowKey, flow: &Flow, now_s: u32) -> bool {
    let (low, high) = ((key.low, u16::from_ne_bytes(key.low_port)), (key.high, u16::from_ne_bytes(key.high_port)));
    let (own, backend) = if flow.flags.get() & CT_HIGH_OPENED == 0 { (low, high) } else { (high, low) };
    let mut there = FlowKey { zone: key.zone, ..FlowKey::default() };
    let client = flow.other_side();
    // An identifier is at both ends, and the client's is another.
    let is_icmp = matches!(key.protocol, protocol::ICMP | protocol::ICMPV6);
    key_between(client, (backend.0, if is_icmp { client.1 } else { backend.1 }), key.protocol, &mut there);
    let is_it = |flow: &Flow| {
        let is_masked = flow.nat_kind.get() == NAT_TRANSLATED
            || (flow.nat_kind.get() == NAT_MASQUERADED && flow.other_side() == own);
        is_masked && !conntrack::expired(tables, flow, now_s)
    };
    tables.flow(&there).is_some_and(is_it) || tables.new_flow(&there).is_some_and(is_it)
}

impl Flow {
    /// The address and port on the other side of the translation.
    #[inline(always)]
    pub fn other_side(&self) -> Socket {
        (Address(self.nat.get()), u16::from_ne_bytes(self.nat_port.get()))
    }

    /// Whether it came through this frontend.
    #[inline(always)]
    pub fn is_translated_from(&self, frontend: Socket) -> bool {
        self.nat_kind.get() == NAT_TRANSLATED && self.other_side() == frontend
    }
}
