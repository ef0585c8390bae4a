//! Mask: a backend on another node sees a client outside as this node, so that its answers come back here; who is outside of all
//! pools sees a pod so (`masquerade`).
//! In: a flow whose client this node stands for. Out: the port that does, and the entry that answers find.
//! Invariant: at one backend a port stands for one client at a time; none at which a socket of the host's would hear that backend.
//! Never: for who is on this node; a flow itself: no packet passes by its entry alone.

use abi::conntrack::{
    CT_HIGH_OPENED, CT_HOST_OPENED, CT_RESET, LEAD_MASKED, NAT_MASQUERADED, NAT_RETURNS, NAT_TRANSLATED,
    STATE_TIME_WAIT,
};
use abi::endpoint::SLOT_NONE;
use abi::masquerade::{OTHERS, Ports, TCP};
use abi::timeout::is_over;
use abi::{ConntrackEntry, DropReason, Timeout};

use crate::conntrack::{Found, Socket, Tracked, expired, key_between};
use crate::entry::Flow;
use crate::parse::{Packet, protocol};
use crate::policy::End;
use crate::promote::promote;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

/// Ports that are tried for a flow.
const TRIES: u32 = 16;
/// Tries after which a port is taken from a flow that is over, as nf_nat does (`nf_nat_used_tuple_harder`): its ends may still hold
/// the addresses for a while, so one that nobody had is better.
const TRIES_OF_FREE: u32 = 4;

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// An answer to a client outside: the client's, as far as the other stages see.
    #[inline(always)]
    pub(crate) fn unmask(&self, state: &mut State, client: Socket) {
        let State { packet, translation, .. } = state;
        translation.is_masked = true;
        (translation.mask, translation.mask_port) = (packet.destination, packet.destination_port);
        packet.destination = client.0;
        packet.come_to(client.1);
    }

    /// What came back for a client belongs to his flow, or is what it was: to this node.
    #[inline(always)]
    pub(crate) fn is_back<'f>(&self, state: &mut State, found: Found<'f>) -> Found<'f> {
        let translation = &state.translation;
        let is_it = match found.tracked() {
            Some(tracked) => match tracked.flow.nat_kind.get() {
                NAT_TRANSLATED => true,
                NAT_MASQUERADED => tracked.flow.other_side() == (translation.mask, translation.mask_port),
                _ => false,
            },
            None => false,
        };
        if is_it {
            return found;
        }
        state.packet.destination = state.translation.mask;
        state.packet.come_to(state.translation.mask_port);
        state.translation.is_masked = false;
        found.without_flow()
    }

    /// A packet that may pass goes on to a backend elsewhere: by the port that stands for its client, of which what leads there
    /// knows, and by which answers find it. Last of all: here the verifier has forgotten most.
    #[inline(always)]
    pub(crate) fn mask(&self, state: &mut State) -> Result<(), DropReason> {
        match (self.hook, state.translation.end) {
            (Hook::FromWorkload, Translated::Masked) => {}
            (Hook::FromWorkload, Translated::Destination) if state.translation.is_masked => {}
            (Hook::FromUplink, Translated::Destination) => {
                state.translation.is_masked = true;
                state.translation.mask = *self.tables.own_address(state.packet.v6).ok_or(DropReason::ForwardFailed)?;
            }
            _ => return Ok(()),
        }
        if T::DRY || (state.translation.mask_port != 0 && !state.translation.is_half_open) {
            return Ok(());
        }
        self.find_mask(state)?;
        self.tell_mask(state)
    }

    #[inline(always)]
    fn find_mask(&self, state: &mut State) -> Result<(), DropReason> {
        let (tcp, others) = match self.tables.masquerade(state.packet.v6) {
            Some(of_pods) if self.hook == Hook::FromWorkload => (of_pods.tcp, of_pods.others),
            _ => (TCP, OTHERS),
        };
        let ports = if state.packet.protocol == protocol::TCP { tcp } else { others };
        for attempt in 0..TRIES {
            let port = match (attempt, state.translation.mask_port) {
                (0, 0) => own_of(ports, state.packet.source_port),
                (0, known) => known,
                _ => any_of(ports, self.tables.random()),
            };
            // How it was found and what is there, the verifier need not remember for the next try.
            state.translation.mask_port = self.frame.unknown(port.into()) as u16;
            if self.forgotten(self.stands_for_client(state, attempt >= TRIES_OF_FREE)) {
                return Ok(());
            }
        }
        Err(DropReason::NatCollision)
    }

    /// Writes the port down where the client's next packet looks; where that was just kept for good, what comes back is, too.
    #[inline(always)]
    fn tell_mask(&self, state: &mut State) -> Result<(), DropReason> {
        let State { packet, translation, key, .. } = state;
        let client = (packet.source, packet.source_port);
        let is_pods = translation.end == Translated::Masked;
        let asked = if is_pods {
            (packet.destination, packet.destination_port)
        } else {
            (translation.frontend, translation.port)
        };
        key_between(client, asked, packet.protocol, key);
        if let Some(lead) = self.tables.new_flow(key)
            && lead.timeout.get() != Timeout::Gone as u8
        {
            if is_pods {
                lead.nat_port.set(translation.mask_port.to_ne_bytes());
            } else {
                lead.packets.set(LEAD_MASKED | u32::from(translation.mask_port));
            }
            return Ok(());
        }
        let (own, backend) = ((translation.mask, translation.mask_port), answerer(packet, translation.mask_port));
        let from_low = self.forgotten(key_between(own, backend, packet.protocol, key));
        match self.tables.new_flow(&state.key) {
            Some(flow) if flow.timeout.get() != Timeout::Gone as u8 => {
                let returns = Tracked { flow, from_low, now_s: self.tables.now_s(), half_open: true };
                promote(self.tables, state, &returns, self.tables.flow(&state.key))
            }
            _ => Ok(()),
        }
    }

    /// Whether the port stands for this packet's client at its backend, from now on if it is nobody's; or, if need be, of a flow
    /// that is over.
    #[inline(always)]
    fn stands_for_client(&self, state: &mut State, is_needed: bool) -> bool {
        let own = (state.translation.mask, state.translation.mask_port);
        let (now_s, client) = (self.tables.now_s(), (state.packet.source, state.packet.source_port));
        let mut from_low = self.key_of_mask(state);
        let mut kept = self.frame.unknown(self.held(self.tables.flow(&state.key), client, now_s));
        let new = self.frame.unknown(self.held(self.tables.new_flow(&state.key), client, now_s));
        if kept == MINE || new == MINE {
            return true;
        }
        if kept == TAKEN && is_needed && state.packet.protocol == protocol::TCP && self.gives_up(state, now_s) {
            kept = OVER;
            from_low = self.key_of_mask(state);
        }
        let State { packet, key, entry, slot, .. } = state;
        if kept == TAKEN || new == TAKEN || self.frame.has_socket(packet, own) {
            return false;
        }
        // Of two that find it over, one has it.
        if new == OVER && self.tables.new_flow(key).is_some_and(|place| self.tables.claim(place) == 0) {
            return false;
        }
        *entry = ConntrackEntry::default();
        entry.flags = if from_low { 0 } else { CT_HIGH_OPENED };
        // On the account of the pod that it stands for, or of the node: nobody's who is outside.
        match self.hook {
            Hook::FromWorkload if from_low => entry.low_slot = *slot,
            Hook::FromWorkload => entry.high_slot = *slot,
            _ => entry.flags |= CT_HOST_OPENED,
        }
        if packet.is_icmp() {
            [entry.icmp_type, entry.icmp_code] = packet.detail.to_be_bytes();
        }
        (entry.nat, entry.nat_port, entry.nat_kind) = (client.0, client.1.to_ne_bytes(), NAT_RETURNS);
        entry.timeout = Timeout::at_opening(packet.protocol) as u8;
        (entry.seen_s, entry.serial) = (now_s, CLAIMABLE);
        if !self.tables.insert_new_flow_at(key, entry, new == FREE) {
            return false;
        }
        if let Some(former) = self.tables.flow(key) {
            former.forget();
        }
        true
    }

    /// Writes the key by which what comes back to the port is found; whether this node is the low end.
    #[inline(always)]
    fn key_of_mask(&self, state: &mut State) -> bool {
        let State { packet, translation, key, .. } = state;
        let own = (translation.mask, translation.mask_port);
        self.forgotten(key_between(own, answerer(packet, own.1), packet.protocol, key))
    }

    /// Whether the TCP flow for which a kept port stands is over, and is forgotten from now on: both ends have closed it, or one has
    /// reset it and was not heard since, so that it was no forged RST. Leaves that flow's key.
    #[inline(always)]
    fn gives_up(&self, state: &mut State, now_s: u32) -> bool {
        let State { packet, key, .. } = state;
        let client = match self.tables.flow(key) {
            Some(returns) if returns.nat_kind.get() == NAT_RETURNS => returns.other_side(),
            _ => return false,
        };
        key_between(client, (packet.destination, packet.destination_port), packet.protocol, key);
        let is_opened_again = match self.tables.new_flow(key) {
            Some(new) => !expired(self.tables, new, now_s),
            None => false,
        };
        let Some(flow) = self.tables.flow(key) else {
            return false;
        };
        let is_reset = flow.flags.get() & CT_RESET != 0 && is_over(flow.seen_s.get(), RESET_STANDS_S, now_s);
        if is_opened_again || !(is_reset || flow.state.get() == STATE_TIME_WAIT) {
            return false;
        }
        flow.forget();
        true
    }

    /// Whose a port is by one table's entry. One that is half-open is held for as long as its client goes on.
    #[inline(always)]
    fn held(&self, flow: Option<&Flow>, client: Socket, now_s: u32) -> u32 {
        let Some(flow) = flow else {
            return FREE;
        };
        if expired(self.tables, flow, now_s) {
            return OVER;
        }
        let nat = flow.nat.get();
        let differs = (nat[0] ^ client.0.0[0]) | (nat[1] ^ client.0.0[1]);
        let port = u16::from_ne_bytes(flow.nat_port.get()) ^ client.1;
        if (differs | u64::from(port) | u64::from(flow.nat_kind.get() ^ NAT_RETURNS)) != 0 {
            return TAKEN;
        }
        flow.seen_s.set(now_s);
        MINE
    }
}

/// In `serial` of what comes back, in NEWFLOW: whoever finds it over may claim its place.
const CLAIMABLE: u32 = 1;
/// After so many seconds of silence a RST was its sender's.
const RESET_STANDS_S: i32 = 1;

/// Whose a port is: nobody's, nobody's any more, somebody's, this client's.
const FREE: u32 = 0;
const OVER: u32 = 1;
const TAKEN: u32 = 2;
const MINE: u32 = 3;

/// The port of a client's port. Always the same, so that what a server remembers of it is the same client's.
#[inline(always)]
fn own_of(ports: Ports, client: u16) -> u16 {
    ports.first.wrapping_add(u16::from_be(client).checked_rem(ports.count).unwrap_or_default()).to_be()
}

/// One of them by a random number.
#[inline(always)]
const fn any_of(ports: Ports, number: u32) -> u16 {
    ports.first.wrapping_add(((number as u64 * ports.count as u64) >> 32) as u16).to_be()
}

/// Who answers to a port that stands for the client: of ICMP an identifier, which both ends have.
#[inline(always)]
const fn answerer(packet: &Packet, own: u16) -> Socket {
    (packet.destination, if packet.is_icmp() { own } else { packet.destination_port })
}

/// Whether a packet from outside goes on to another node: to a backend there, or, an error about what passed between the two, to
/// either end.
#[inline(always)]
pub fn is_elsewhere(state: &State, receiver: End) -> bool {
    let is_on_its_way = match state.translation.end {
        Translated::Destination => true,
        Translated::QuotedDestination | Translated::QuotedSource => state.translation.is_masked,
        _ => false,
    };
    is_on_its_way && receiver.slot == SLOT_NONE
}
