//! Gate: what a host endpoint's rules say of what passes its interface, in either direction.
//! In: a packet at an interface of the node's own. Out: past the gate, none of its business, or the reason of a drop.
//! Invariant: a gate's flows lie in a zone of its own; each names the slot of the layer that let it in, and nobody at the far end.
//! Never: sends or changes a packet; asks a rule about ARP, neighbour discovery, or what is not IP.

use abi::conntrack::zone_of;
use abi::endpoint::{ENDPOINT_HOST, ENDPOINT_READY, SLOT_FIRST, SLOT_HOST, SLOT_NONE};
use abi::{DropReason, Endpoint, handover};

use crate::antispoof::{is_group, is_link_local};
use crate::conntrack::{self, Currency, Opening, Tracked};
use crate::flow::{NO_ENTRY, Terms};
use crate::judge::{Asked, is_next};
use crate::parse::{self, ETHERTYPE_V4, ETHERTYPE_V6, protocol, tcp};
use crate::policy::PolicyDirection::{self, Egress, Ingress};
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};
use crate::{ahead::is_ahead, fragment, icmp, neighbour};

/// A host endpoint at whose interface a packet is.
#[derive(Clone, Copy)]
pub(crate) struct Gate<'a> {
    /// Slot of its local layer, which names its zone and has its account.
    pub(crate) slot: u32,
    own: &'a Endpoint,
}

/// Where a packet belongs.
#[derive(Clone, Copy)]
struct Place {
    /// Slot of the layer that judges it.
    layer: u32,
    /// Nobody is asked about it: the layer has no rules, in no direction.
    open: bool,
}

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// A packet on its way through a host endpoint's interface. `false`: none of its business.
    #[inline(always)]
    pub(crate) fn through_gate(&self, state: &mut State) -> Result<bool, DropReason> {
        let Some(gate) = self.gate() else {
            return Ok(false);
        };
        state.slot = gate.slot;
        if !self.is_ip(state)? {
            return Ok(false);
        }
        parse::packet(self.frame, state.ether.ethertype, &mut state.packet)?;
        if self.is_between_nodes(state)? {
            return Ok(false);
        }
        let forwarded = self.is_forwarded(state)?;
        if !forwarded && (neighbour::is_discovery(&state.packet) || neighbour::is_listener(&state.packet)) {
            return Ok(false);
        }
        if self.is_answer(state) {
            return Ok(false);
        }
        let place = self.place(state, gate, forwarded)?;
        let untracked = !self.is_open(state, (gate.own.layers.untracked, self.side()))?;
        if place.open && !untracked {
            return Ok(false);
        }
        fragment::resolve(self.tables, &mut state.packet, &mut state.fragment)?;
        if !(untracked && self.passes_untracked(state, gate)?) && !place.open {
            // Which layer it is, the verifier need not know in all that follows.
            self.passes_tracked(state, gate, self.frame.unknown(place.layer))?;
        }
        fragment::remember(self.tables, &state.packet, &mut state.fragment);
        Ok(true)
    }

    /// The host endpoint of this interface. Where none is ready, the interface has no gate.
    #[inline(always)]
    pub(crate) fn gate(&self) -> Option<Gate<'_>> {
        const WANTED: u16 = ENDPOINT_READY | ENDPOINT_HOST;
        let slot = self.tables.slot_of_interface(self.arrival.ifindex)?;
        let own = self.tables.endpoint(slot)?;
        let is_it = own.flags & WANTED == WANTED && own.ifindex == self.arrival.ifindex && slot >= SLOT_FIRST;
        if is_it { Some(Gate { slot, own }) } else { None }
    }

    /// Whose rules are asked about a packet that opens a flow here.
    #[inline(always)]
    fn side(&self) -> PolicyDirection {
        if self.hook == Hook::FromHostEndpoint { Ingress } else { Egress }
    }

    /// Whether the frame carries IP for this interface. A tagged frame is a VLAN interface's, unless the tag is a priority
    /// alone: that one the stack takes here, with a second tag under it too.
    #[inline(always)]
    pub(crate) fn is_ip(&self, state: &mut State) -> Result<bool, DropReason> {
        let inbound = self.hook == Hook::FromHostEndpoint;
        if (self.arrival.vlan && !self.arrival.untagged) || (inbound && self.arrival.overheard) {
            return Ok(false);
        }
        state.ether = parse::ethernet(self.frame)?;
        let is_ip = |ethertype| matches!(ethertype, ETHERTYPE_V4 | ETHERTYPE_V6);
        match state.ether.ethertype {
            ethertype if is_ip(ethertype) => Ok(true),
            0x8100 | 0x88a8 if inbound => Err(DropReason::Vlan),
            // An interface without Ethernet: where its headers begin, this program does not know.
            _ if is_ip(self.arrival.ethertype) => Err(DropReason::Malformed),
            _ => Ok(false),
        }
    }

    /// Whether the node forwards the packet, rather than takes it in or makes it itself.
    #[inline(always)]
    fn is_forwarded(&self, state: &State) -> Result<bool, DropReason> {
        if self.hook == Hook::ToHostEndpoint {
            return Ok(self.arrival.ingress_ifindex != 0);
        }
        let packet = &state.packet;
        if self.arrival.foreign || is_group(packet) || is_link_local(packet.v6, packet.destination) {
            return Ok(false);
        }
        Ok(self.end_of(state, &state.packet.destination)?.slot != SLOT_HOST)
    }

    /// Whether a packet is what a program says of one that was refused here: back out by the interface it came in by, where
    /// its gate has judged whatever it was before; or to the node itself. Nobody who can make one so gains more than a RST.
    #[inline(always)]
    fn is_answer(&self, state: &State) -> bool {
        let packet = &state.packet;
        let says_no = icmp::is_error(packet) || (packet.protocol == protocol::TCP && packet.tcp_flags & tcp::RST != 0);
        let arrival = self.arrival;
        let ours = match self.hook {
            Hook::ToHostEndpoint => arrival.ingress_ifindex == arrival.ifindex,
            _ => arrival.handed[0] == handover::ANSWER && !arrival.foreign,
        };
        says_no && ours
    }

    /// The layer a packet belongs to. One that the node forwards under an address of its own, which somebody put there in
    /// the place of a pod's, is remembered also where nobody is asked: what answers it comes to the node.
    #[inline(always)]
    fn place(&self, state: &State, gate: Gate<'_>, forwarded: bool) -> Result<Place, DropReason> {
        let layers = &gate.own.layers;
        let layer = if forwarded { layers.forward } else { gate.slot };
        let mut open = self.is_open(state, (layers.pre_dnat, Ingress))?
            && self.is_open(state, (layer, Ingress))?
            && self.is_open(state, (layer, Egress))?;
        if open && forwarded && self.hook == Hook::ToHostEndpoint {
            open = self.end_of(state, &state.packet.source)?.slot != SLOT_HOST;
        }
        Ok(Place { layer, open })
    }

    /// The layer without tracking, asked of each packet. `true`: nothing else is asked.
    #[inline(always)]
    fn passes_untracked(&self, state: &mut State, gate: Gate<'_>) -> Result<bool, DropReason> {
        let asked = self.asked(state, &Opening::of(&state.packet))?;
        let Some(span) = self.ask_layer(state, (gate.own.layers.untracked, self.side()), &asked)? else {
            return Ok(false);
        };
        if is_next(span) {
            return Ok(false);
        }
        self.decided(state, self.side(), span.hit);
        if span.allows() { Ok(true) } else { Err(DropReason::HostEndpoint) }
    }

    /// The packet's flow decides, or the layers that track do.
    #[inline(always)]
    fn passes_tracked(&self, state: &mut State, gate: Gate<'_>, layer: u32) -> Result<(), DropReason> {
        state.key.zone = zone_of(gate.slot);
        let from_low = conntrack::key(&state.packet, &mut state.key);
        let found = conntrack::find(self.tables, &state.key, &state.packet, from_low);
        let is_own = match found.tracked() {
            Some(tracked) => !is_ahead(&tracked) && self.speaks_here(&tracked, gate, layer),
            None => false,
        };
        let is_led = !is_own && self.is_led_on(state, gate, found.tracked().as_ref())?;
        let layer = if is_led { gate.slot } else { layer };
        let is_known = match found.tracked() {
            Some(tracked) if is_led => is_ahead(&tracked) && self.speaks_here(&tracked, gate, layer),
            _ => is_own,
        };
        let known = if is_known { found.tracked() } else { None };
        let mut kept = false;
        if let Some(tracked) = known {
            match self.by_entry(state, &tracked)? {
                Currency::Current => {
                    // One that finds no room stays half-open: a node that is flooded must not lock out who would help it.
                    if self.go_on(state, &tracked, found.place).is_err() {
                        state.slot = gate.slot;
                    }
                    return Ok(());
                }
                currency => kept = currency == Currency::Kept,
            }
        }
        let inbound = self.hook == Hook::FromHostEndpoint;
        let slots = if inbound { (SLOT_NONE, layer) } else { (layer, SLOT_NONE) };
        let (opening, (opener, responder), inwards) = match known {
            Some(tracked) => {
                (tracked.opening(&state.packet), tracked.opening_slots(), inbound == tracked.from_opener())
            }
            None => (Opening::of(&state.packet), slots, inbound),
        };
        let asked = self.asked(state, &opening)?;
        // A pod that leaves as this node was judged as what it is.
        let is_judged = self.is_judged_before(state);
        let terms = match known {
            Some(_) => Terms { judged: !kept && !is_judged, entry: NO_ENTRY },
            None => match self.terms_at_gate(state)? {
                terms if self.arrival.ingress_ifindex != 0 && !inbound => {
                    Terms { judged: terms.judged && !is_judged, ..terms }
                }
                terms => terms,
            },
        };
        let (again, stale) = (self.forgotten(known.is_some()), self.forgotten(found.place.is_some()));
        let (from_low, entry) = (self.forgotten(from_low), self.frame.unknown(terms.entry));
        let (opener, responder) = (self.frame.unknown(opener), self.frame.unknown(responder));
        // Not told by the slots: a gate without a forward layer names nobody at either end of what it forwards.
        let judge = match (self.forgotten(inwards), state.translation.end) {
            // Behind the gate it is asked who is to answer.
            (true, Translated::Ahead) => (SLOT_NONE, Ingress),
            (true, _) => (responder, Ingress),
            (false, _) => (opener, Egress),
        };
        let judgement =
            if self.forgotten(terms.judged) { self.judge_at_gate(state, gate, judge, &asked) } else { Ok(()) };
        if again {
            return self.conclude(state, from_low, judgement);
        }
        self.open(state, from_low, entry, judgement, (slots, stale))
    }

    /// Whether an entry speaks for this packet: its far end is beyond the interface. The opener's packets belong to the layer
    /// that let the flow in; those that answer may have had an address of the node's put in the place of another.
    #[inline(always)]
    fn speaks_here(&self, tracked: &Tracked<'_>, gate: Gate<'_>, layer: u32) -> bool {
        let (source, destination) = tracked.slots();
        let inbound = self.hook == Hook::FromHostEndpoint;
        let (far, near) = if inbound { (source, destination) } else { (destination, source) };
        let answers = !tracked.from_opener() && (near == gate.slot || near == gate.own.layers.forward);
        far == SLOT_NONE && (near == layer || answers)
    }

    /// On what terms a packet may open a flow. Where a gate is younger than a connection, that begins in its midst.
    #[inline(always)]
    fn terms_at_gate(&self, state: &mut State) -> Result<Terms, DropReason> {
        if self.answers_in_service(state) {
            return Ok(Terms { judged: false, entry: NO_ENTRY });
        }
        if icmp::is_error(&state.packet) {
            let related = icmp::flow_of(self.tables, self.frame, state, false).is_some();
            return Ok(Terms { judged: !related, entry: NO_ENTRY });
        }
        if state.packet.protocol == protocol::TCP && state.packet.tcp_flags & tcp::RST != 0 {
            return Err(DropReason::NoFlow);
        }
        Ok(Terms { judged: true, entry: 0 })
    }

    /// The rules of the side from which a flow was opened, in the layer it belongs to.
    #[inline(always)]
    fn judge_at_gate(
        &self,
        state: &mut State,
        gate: Gate<'_>,
        (layer, side): (u32, PolicyDirection),
        asked: &Asked,
    ) -> Result<(), DropReason> {
        if side == Ingress {
            self.before_translation(state, gate.own.layers.pre_dnat, asked)?;
        }
        let Some(span) = self.ask_layer(state, (layer, side), asked)? else {
            return Ok(());
        };
        self.decided(state, side, span.hit);
        if span.allows() { Ok(()) } else { Err(DropReason::HostEndpoint) }
    }

    /// Notes which rule decided.
    #[inline(always)]
    fn decided(&self, state: &mut State, side: PolicyDirection, hit: u32) {
        match side {
            Ingress => state.ingress_hit = Some(hit),
            Egress => state.egress_hit = Some(hit),
        }
    }
}
