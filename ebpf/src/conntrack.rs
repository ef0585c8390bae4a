//! Conntrack: does this packet belong to a flow that policy let in, and is that judgement still in force?
//! In: a parsed packet and the flow table. Out: the flow and the packet's direction in it, or nothing.
//! Invariant: an entry without `CT_REFUSED` is of a flow that both ends' policy allowed at its stamp.
//! Never: opens a TCP flow for anything but a SYN without ACK; reads a rule.

use core::cell::Cell;

use abi::conntrack::{
    CT_HIGH_FIN, CT_HIGH_OPENED, CT_HOST_OPENED, CT_LOW_FIN, CT_REFUSED, STATE_CLOSED, STATE_ESTABLISHED, STATE_NEW,
};
use abi::endpoint::{ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_READY, SLOT_FIRST};
use abi::rules::x_of;
use abi::{Address, ConntrackEntry, FlowKey};

use crate::parse::{Packet, protocol, tcp};
use crate::tables::Tables;

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
    nat: Cell<[u64; 2]>,
    nat_port: Cell<[u8; 2]>,
    spare: Cell<[u8; 6]>,
}

const _: () = assert!(size_of::<Flow>() == size_of::<ConntrackEntry>());
const _: () = assert!(core::mem::offset_of!(Flow, flags) == core::mem::offset_of!(ConntrackEntry, flags));
const _: () = assert!(core::mem::offset_of!(Flow, seen_s) == core::mem::offset_of!(ConntrackEntry, seen_s));

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
            spare: Cell::new(entry.spare),
        }
    }
}

/// Who opened a flow towards whom, and what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// Sender of the first packet.
    pub opener: &'a Address,
    /// Its receiver.
    pub responder: &'a Address,
    /// What spans are searched by.
    pub x: u32,
}

impl<'a> Opening<'a> {
    /// The opening that this packet would be.
    #[inline(always)]
    #[must_use]
    pub const fn of(packet: &'a Packet) -> Self {
        Self { opener: &packet.source, responder: &packet.destination, x: x_of(packet.protocol, packet.detail) }
    }
}

/// Whether the judgement an entry carries is still in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Currency {
    /// No end's policy has moved on since.
    Current,
    /// It has, but the ends that moved keep their established flows.
    Kept,
    /// It has: judge again.
    Outdated,
}

/// A packet's flow.
#[derive(Clone, Copy, Debug)]
pub struct Tracked<'a> {
    /// The entry.
    pub flow: &'a Flow,
    /// The low end sent this packet.
    pub from_low: bool,
    /// When it was found: asking the clock once is enough.
    pub now_s: u32,
}

/// Writes the key of a packet's flow; whether the low end sent this packet.
#[inline(always)]
pub fn key(packet: &Packet, key: &mut FlowKey) -> bool {
    let from_low = source_is_low(packet);
    let source = (packet.source, packet.source_port.to_ne_bytes());
    let destination = (packet.destination, packet.destination_port.to_ne_bytes());
    if from_low {
        ((key.low, key.low_port), (key.high, key.high_port)) = (source, destination);
    } else {
        ((key.low, key.low_port), (key.high, key.high_port)) = (destination, source);
    }
    key.protocol = packet.protocol;
    from_low
}

#[inline(always)]
fn source_is_low(packet: &Packet) -> bool {
    let (Address([s0, s1]), Address([d0, d1])) = (packet.source, packet.destination);
    if s0 != d0 {
        return s0 < d0;
    }
    if s1 != d1 {
        return s1 < d1;
    }
    u16::from_be(packet.source_port) <= u16::from_be(packet.destination_port)
}

/// The live entry of a packet's flow. A SYN on a closed or refused flow finds none: it is to be judged anew.
/// An ICMP message of another type than the opener's or its answer is no part of the flow either.
#[inline(always)]
pub fn find<'a, T: Tables>(tables: &'a T, key: &FlowKey, packet: &Packet, from_low: bool) -> Option<Tracked<'a>> {
    // Asked before the look-up: where there is no flow, the compiler would else store a clock that was never read, which
    // the verifier refuses.
    let now_s = tables.now_s();
    let tracked = Tracked { flow: tables.flow(key)?, from_low, now_s };
    let over = tracked.flow.flags.get() & CT_REFUSED != 0 || tracked.flow.state.get() == STATE_CLOSED;
    let absent = expired(tracked.flow, packet.protocol, tracked.now_s)
        || (over && packet.is_syn())
        || (packet.is_icmp() && !tracked.icmp_belongs(packet));
    if absent { None } else { Some(tracked) }
}

/// Whether an entry is as good as absent: `ConntrackEntry::expired` over the entry in its place.
#[inline(always)]
pub fn expired(flow: &Flow, protocol: u8, now_s: u32) -> bool {
    let entry = ConntrackEntry {
        state: flow.state.get(),
        flags: flow.flags.get(),
        seen_s: flow.seen_s.get(),
        ..ConntrackEntry::default()
    };
    entry.expired(protocol, now_s)
}

impl Tracked<'_> {
    /// Slots of the packet's sender and receiver.
    #[inline(always)]
    #[must_use]
    pub fn slots(&self) -> (u32, u32) {
        let (low, high) = (self.flow.low_slot.get(), self.flow.high_slot.get());
        if self.from_low { (low, high) } else { (high, low) }
    }

    /// Slots of the opener and the responder.
    #[inline(always)]
    #[must_use]
    pub fn opening_slots(&self) -> (u32, u32) {
        let (source, destination) = self.slots();
        if self.from_opener() { (source, destination) } else { (destination, source) }
    }

    /// The end that opened the flow sent this packet.
    #[inline(always)]
    #[must_use]
    pub fn from_opener(&self) -> bool {
        self.from_low == (self.flow.flags.get() & CT_HIGH_OPENED == 0)
    }

    /// The flow was refused after it had been allowed.
    #[inline(always)]
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.flow.flags.get() & CT_REFUSED != 0
    }

    /// This node itself opened the flow.
    #[inline(always)]
    #[must_use]
    pub fn is_host_opened(&self) -> bool {
        self.flow.flags.get() & CT_HOST_OPENED != 0
    }

    /// How the flow was opened, whichever way this packet goes.
    #[inline(always)]
    #[must_use]
    pub fn opening<'p>(&self, packet: &'p Packet) -> Opening<'p> {
        let mut opening = Opening::of(packet);
        if packet.is_icmp() {
            let detail = u16::from_be_bytes([self.flow.icmp_type.get(), self.flow.icmp_code.get()]);
            opening.x = x_of(packet.protocol, detail);
        }
        if self.from_opener() {
            return opening;
        }
        if crate::parse::has_ports(packet.protocol) {
            opening.x = x_of(packet.protocol, u16::from_be(packet.source_port));
        }
        Opening { opener: opening.responder, responder: opening.opener, x: opening.x }
    }

    /// Whether the judgement is still in force at both ends.
    #[inline(always)]
    pub fn currency<T: Tables>(&self, tables: &T) -> Currency {
        let low = currency_at(tables, self.flow.low_slot.get(), self.flow.stamp.get());
        let high = currency_at(tables, self.flow.high_slot.get(), self.flow.stamp.get());
        match (low, high) {
            (Currency::Current, Currency::Current) => Currency::Current,
            (Currency::Outdated, _) | (_, Currency::Outdated) => Currency::Outdated,
            _ => Currency::Kept,
        }
    }

    /// An ICMP message continues a flow if it has the opener's type, or the other end answers with that type's reply.
    #[inline(always)]
    fn icmp_belongs(&self, packet: &Packet) -> bool {
        let opened = self.flow.icmp_type.get();
        if self.from_opener() {
            return packet.icmp_type() == opened;
        }
        let reply = match (packet.v6, opened) {
            (false, 8) => 0,
            (false, 13 | 15 | 17) => opened + 1,
            (true, 128) => 129,
            _ => return false,
        };
        packet.icmp_type() == reply
    }

    /// Writes what this packet says about the flow: counters, time, state.
    #[inline(always)]
    pub fn touch<T: Tables>(&self, packet: &Packet) {
        if T::DRY {
            return;
        }
        let flow = self.flow;
        let now_s = self.now_s;
        if flow.seen_s.get() != now_s {
            flow.seen_s.set(now_s);
        }
        flow.bytes.set(flow.bytes.get().wrapping_add(u64::from(packet.length)));
        flow.packets.set(flow.packets.get().wrapping_add(1));
        if flow.state.get() == STATE_NEW && !self.from_opener() {
            flow.state.set(STATE_ESTABLISHED);
        }
        if packet.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
            self.close(packet.tcp_flags);
        }
    }

    #[inline(always)]
    fn close(&self, tcp_flags: u8) {
        let mut flags = self.flow.flags.get();
        if tcp_flags & tcp::FIN != 0 {
            flags |= if self.from_low { CT_LOW_FIN } else { CT_HIGH_FIN };
            self.flow.flags.set(flags);
        }
        let both = CT_LOW_FIN | CT_HIGH_FIN;
        if tcp_flags & tcp::RST != 0 || flags & both == both {
            self.flow.state.set(STATE_CLOSED);
        }
    }

    /// Judged again and allowed.
    #[inline(always)]
    pub fn restamp<T: Tables>(&self, generation: u64) {
        if !T::DRY {
            self.flow.flags.set(self.flow.flags.get() & !CT_REFUSED);
            self.flow.stamp.set(generation as u32);
        }
    }

    /// Judged again and refused: the entry stays as a tombstone.
    #[inline(always)]
    pub fn refuse<T: Tables>(&self, generation: u64) {
        if !T::DRY {
            self.flow.flags.set(self.flow.flags.get() | CT_REFUSED);
            self.flow.stamp.set(generation as u32);
            self.flow.seen_s.set(self.now_s);
        }
    }
}

#[inline(always)]
fn currency_at<T: Tables>(tables: &T, slot: u32, stamp: u32) -> Currency {
    if slot < SLOT_FIRST {
        return Currency::Current;
    }
    let Some(endpoint) = tables.endpoint(slot) else {
        return Currency::Outdated;
    };
    if endpoint.flags & ENDPOINT_READY == 0 {
        return Currency::Outdated;
    }
    // Serial arithmetic (RFC 1982): generations wrap, stamps never lag by half the circle.
    if (stamp.wrapping_sub(endpoint.rev) as i32) >= 0 {
        Currency::Current
    } else if endpoint.flags & ENDPOINT_KEEP_ESTABLISHED != 0 {
        Currency::Kept
    } else {
        Currency::Outdated
    }
}

/// Fills the entry of a flow that this packet opens. `slots` are its sender's and receiver's.
#[inline(always)]
pub fn opened(packet: &Packet, from_low: bool, slots: (u32, u32), entry: &mut ConntrackEntry) {
    (entry.low_slot, entry.high_slot) = if from_low { slots } else { (slots.1, slots.0) };
    if packet.is_icmp() {
        [entry.icmp_type, entry.icmp_code] = packet.detail.to_be_bytes();
    }
    entry.bytes = u64::from(packet.length);
    entry.packets = 1;
    entry.state = STATE_NEW;
    entry.flags = if from_low { 0 } else { CT_HIGH_OPENED };
}

/// Whether this packet may open a flow: of TCP, only a SYN without ACK.
#[inline(always)]
#[must_use]
pub const fn may_open(packet: &Packet) -> bool {
    packet.protocol != protocol::TCP || packet.is_syn()
}
