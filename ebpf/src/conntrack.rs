//! Conntrack: does this packet belong to a flow that policy let in, and is that judgement still in force?
//! In: a parsed packet and the flow tables. Out: the flow and the packet's direction in it, or nothing.
//! Invariant: an entry without `CT_REFUSED` is of a flow that both ends' policy allowed at its stamp.
//! Never: opens a pod's TCP flow for anything but a SYN without ACK; reads a rule; removes an entry.

use abi::conntrack::{CT_HIGH_OPENED, CT_HOST_OPENED, CT_REFUSED, CT_RESET, STATE_MIDWAY, STATE_NEW, is_closed};
use abi::endpoint::SLOT_NONE;
use abi::rules::x_of;
use abi::timeout::is_over;
use abi::{Address, ConntrackEntry, FlowKey, Timeout};

pub use crate::currency::{Currency, currency_between, uplink_of};
use crate::entry::Flow;
use crate::parse::{Packet, protocol};
use crate::tables::Tables;

/// Who opened a flow towards whom, and what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// Sender of the first packet.
    pub opener: &'a Address,
    /// Its receiver.
    pub responder: &'a Address,
    /// What spans are searched by.
    pub x: u32,
    /// Its source port, in network order.
    pub source_port: u16,
    /// The packet at hand is the responder's.
    pub is_reply: bool,
}

impl<'a> Opening<'a> {
    /// The opening that this packet would be.
    #[inline(always)]
    #[must_use]
    pub const fn of(packet: &'a Packet) -> Self {
        Self {
            opener: &packet.source,
            responder: &packet.destination,
            x: x_of(packet.protocol, packet.detail),
            source_port: packet.source_port,
            is_reply: false,
        }
    }
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
    /// The entry lies in `NEWFLOW`.
    pub half_open: bool,
}

/// What the tables hold for a packet's key.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The entry of the flow that the packet belongs to. What goes with it is written also where there is none: of what a
    /// variant leaves open, the compiler makes whatever a register holds, and the verifier refuses to see a pointer cut.
    pub(crate) flow: Option<&'a Flow>,
    pub(crate) from_low: bool,
    pub(crate) now_s: u32,
    pub(crate) half_open: bool,
    /// The entry of `CONNTRACK`, whatever it says.
    pub place: Option<&'a Flow>,
}

impl<'a> Found<'a> {
    /// The flow that the packet belongs to.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::manual_map, reason = "where this is asked twice, the compiler makes a call of a closure")]
    pub fn tracked(&self) -> Option<Tracked<'a>> {
        let (from_low, now_s, half_open) = (self.from_low, self.now_s, self.half_open);
        match self.flow {
            Some(flow) => Some(Tracked { flow, from_low, now_s, half_open }),
            None => None,
        }
    }

    /// Slot of the packet's receiver, as the flow's entry has it.
    #[inline(always)]
    #[must_use]
    pub fn receiver(&self) -> u32 {
        match self.flow {
            Some(flow) if self.from_low => flow.high_slot.get(),
            Some(flow) => flow.low_slot.get(),
            None => SLOT_NONE,
        }
    }

    /// The same place, and no flow.
    #[inline(always)]
    #[must_use]
    pub fn without_flow(self) -> Self {
        Self { flow: None, ..self }
    }
}

/// An address with its port, in network order.
pub type Socket = (Address, u16);

/// Writes the key of a packet's flow, in the zone that stands there; whether the low end sent this packet.
#[inline(always)]
pub fn key(packet: &Packet, key: &mut FlowKey) -> bool {
    let source = (packet.source, packet.source_port);
    key_between(source, (packet.destination, packet.destination_port), packet.protocol, key)
}

/// Writes the key of the flow between two sockets, in the zone that stands there; whether the first is the low end.
#[inline(always)]
pub fn key_between(source: Socket, destination: Socket, protocol: u8, key: &mut FlowKey) -> bool {
    let from_low = is_low(source, destination);
    let (source, destination) = ((source.0, source.1.to_ne_bytes()), (destination.0, destination.1.to_ne_bytes()));
    if from_low {
        ((key.low, key.low_port), (key.high, key.high_port)) = (source, destination);
    } else {
        ((key.low, key.low_port), (key.high, key.high_port)) = (destination, source);
    }
    key.protocol = protocol;
    from_low
}

#[inline(always)]
fn is_low((Address([s0, s1]), source_port): Socket, (Address([d0, d1]), destination_port): Socket) -> bool {
    if s0 != d0 {
        return s0 < d0;
    }
    if s1 != d1 {
        return s1 < d1;
    }
    u16::from_be(source_port) <= u16::from_be(destination_port)
}

/// The live entry of a packet's flow: that of `CONNTRACK`, which a flow that is not half-open meets at the first look-up,
/// else that of `NEWFLOW`.
#[inline(always)]
pub fn find<'a, T: Tables>(tables: &'a T, key: &FlowKey, packet: &Packet, from_low: bool) -> Found<'a> {
    // Asked before the look-up: where there is no flow, the compiler would else store a clock that was never read, which
    // the verifier refuses.
    let now_s = tables.now_s();
    let place = tables.flow(key);
    let none = Found { flow: None, from_low, now_s, half_open: false, place };
    if let Some(flow) = place
        && (Tracked { flow, from_low, now_s, half_open: false }).speaks_for(tables, packet)
    {
        return Found { flow: Some(flow), ..none };
    }
    match tables.new_flow(key) {
        Some(flow) if (Tracked { flow, from_low, now_s, half_open: true }).speaks_for(tables, packet) => {
            Found { flow: Some(flow), half_open: true, ..none }
        }
        _ => none,
    }
}

/// Whether an entry is as good as absent: `ConntrackEntry::expired` over the entry in its place.
#[inline(always)]
pub fn expired<T: Tables>(tables: &T, flow: &Flow, now_s: u32) -> bool {
    is_over(flow.seen_s.get(), tables.lifetime_s(flow.timeout.get()), now_s)
}

/// The flow that the quoted packet of an error belongs to, if it is allowed.
#[inline(always)]
pub fn allowed<'a, T: Tables>(tables: &'a T, key: &FlowKey) -> Option<&'a Flow> {
    let now_s = tables.now_s();
    let flow = match tables.flow(key) {
        Some(flow) if flow.timeout.get() != Timeout::Gone as u8 => flow,
        _ => tables.new_flow(key)?,
    };
    if flow.flags.get() & CT_REFUSED == 0 && !expired(tables, flow, now_s) { Some(flow) } else { None }
}

impl Tracked<'_> {
    /// Whether the entry is there for this packet. A SYN on a flow that is over is to be judged anew, and an ICMP message of
    /// another type than the opener's or its answer is no part of the flow either.
    #[inline(always)]
    fn speaks_for<T: Tables>(&self, tables: &T, packet: &Packet) -> bool {
        !(expired(tables, self.flow, self.now_s)
            || (packet.is_syn() && self.is_over())
            || (packet.is_icmp() && !self.icmp_belongs(packet)))
    }

    #[inline(always)]
    fn is_over(&self) -> bool {
        self.flow.flags.get() & (CT_REFUSED | CT_RESET) != 0 || is_closed(self.flow.state.get())
    }

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

    /// Nobody has answered, and the opener tries once more.
    #[inline(always)]
    #[must_use]
    pub fn is_asked_again(&self, packet: &Packet) -> bool {
        self.half_open && self.flow.state.get() == STATE_NEW && self.from_opener() && may_open(packet)
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
        Opening {
            opener: opening.responder,
            responder: opening.opener,
            x: opening.x,
            source_port: packet.destination_port,
            is_reply: true,
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
    entry.state = if may_open(packet) { STATE_NEW } else { STATE_MIDWAY };
    entry.timeout = Timeout::at_opening(packet.protocol) as u8;
    entry.flags = if from_low { 0 } else { CT_HIGH_OPENED };
}

/// Whether this packet may open a flow: of TCP, only a SYN without ACK.
#[inline(always)]
#[must_use]
pub const fn may_open(packet: &Packet) -> bool {
    packet.protocol != protocol::TCP || packet.is_syn()
}
