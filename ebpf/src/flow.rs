//! Flow: a packet's flow decides, or both ends' rules do, and what they decided is remembered.
//! In: a packet with its ports, at one hook. Out: the slot it goes to, or the reason of a drop.
//! Invariant: an entry is made only after anti-spoof and both ends' rules; a stale one never lets a packet pass.
//! Never: asks the rules about this node's own packets to its pods.

use abi::conntrack::{CT_HOST_OPENED, CT_RESET, CT_VIA_HOST, NAT_TRANSLATED, STATE_ANSWERED, owner_of};
use abi::endpoint::{SLOT_FIRST, SLOT_HOST, SLOT_NONE};
use abi::{ConntrackEntry, DropReason, rules::HIT_NONE};

use crate::antispoof::{check_destination, check_macs, check_source, endpoint_of, is_tunnel, is_tunnelled};
use crate::conntrack::{self, Currency, Found, Opening, Tracked};
use crate::ends::same_ends;
use crate::entry::Flow;
use crate::hosted::is_hosted;
use crate::icmp;
use crate::mask::is_elsewhere;
use crate::parse::protocol;
use crate::policy::End;
use crate::promote::{has_room, has_room_for_others, promote};
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

/// How a flow without an entry in force is to be treated.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// Ask both ends' rules.
    pub(crate) judged: bool,
    /// Remember it, with these `CT_*` flags; [`NO_ENTRY`]: do not. One number, so that it can be forgotten what it is.
    pub(crate) entry: u32,
}

/// What became of the search for a packet's flow.
#[derive(Clone, Copy)]
pub enum Sought {
    /// One in force lets it pass, to this slot.
    Goes(u32),
    /// The rules are to be asked, with what is known: [`KNOWN`], [`KEPT`], [`STALE`].
    Judge(u32),
    /// It is an error; the rules are to be asked, once it is known what about.
    Complains,
}

/// An entry of its flow speaks for the packet; it is not in force.
const KNOWN: u32 = 1;
/// But its ends keep what is established.
const KEPT: u32 = 2;
/// `CONNTRACK` has an entry of its key.
const STALE: u32 = 4;

/// A flow that is not remembered.
pub(crate) const NO_ENTRY: u32 = 1 << 8;

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// The packet's flow, which lets it pass if it is in force. `is_new`: the packet's key has no entry.
    #[inline(always)]
    pub(crate) fn seek(&self, state: &mut State, is_new: bool) -> Result<Sought, DropReason> {
        if icmp::is_error(&state.packet) {
            return Ok(Sought::Complains);
        }
        let note = self.note(state);
        let found = self.track(state, is_new)?;
        let stale = if found.place.is_some() { STALE } else { 0 };
        let Some(tracked) = found.tracked() else {
            return Ok(Sought::Judge(stale));
        };
        if !self.is_at_its_place(&tracked, state) {
            return Ok(Sought::Judge(stale));
        }
        let (source, destination) = tracked.slots();
        let by_sender = matches!(self.hook, Hook::FromWorkload | Hook::ToHostEndpoint | Hook::FromNode);
        state.slot = if by_sender { source } else { destination };
        state.via_host = tracked.flow.flags.get() & CT_VIA_HOST != 0;
        self.gives_back(state, &tracked);
        self.goes_masked(state, &tracked);
        match self.by_entry(state, &tracked)? {
            Currency::Current => {}
            Currency::Kept => return Ok(Sought::Judge(stale | KNOWN | KEPT)),
            Currency::Outdated => return Ok(Sought::Judge(stale | KNOWN)),
        }
        // What only leaves here was counted where it came in; what the node sends to a pod here, is where that takes it.
        let is_met_again = self.hook == Hook::FromNode && destination >= SLOT_FIRST;
        if (self.hook != Hook::ToHostEndpoint || state.via_host) && !is_met_again {
            self.go_on(state, &tracked, found.place)?;
        }
        if state.translation.end == Translated::Destination {
            self.keep_lead(state, &tracked)?;
        }
        if state.translation.end == Translated::Unmasked {
            self.keep_return(state, &tracked)?;
        }
        if let Some(note) = note {
            note.take(self.tables, state, &tracked);
        }
        Ok(Sought::Goes(tracked.slots().1))
    }

    /// The same by both ends' rules. `known`: what was found of its flow, whose key stands in the state.
    #[inline(always)]
    pub(crate) fn judge_flow(&self, state: &mut State, known: u32) -> Result<Option<u32>, DropReason> {
        let (kept, stale) = (known & KEPT != 0, known & STALE != 0);
        let from_low = conntrack::key(&state.packet, &mut state.key);
        let mut found = Found::nothing(self.tables.now_s(), from_low);
        if known & KNOWN != 0 {
            found = conntrack::find(self.tables, &state.key, &state.packet, from_low);
        }
        let is_known = match found.tracked() {
            Some(tracked) => self.is_at_its_place(&tracked, state),
            None => false,
        };
        let known = if is_known { found.tracked() } else { None };
        let is_led = match known {
            Some(tracked) => tracked.flow.nat_kind.get() == NAT_TRANSLATED,
            None => false,
        };
        let opening = known.map_or(Opening::of(&state.packet), |tracked| tracked.opening(&state.packet));
        let asked = self.as_sent_to_itself(self.asked(state, &opening)?, known);
        let (mut opener, responder) = (self.speaker(state, asked.opener, known), asked.responder);
        let is_same = same_ends::<T>(known, (opener.slot, responder.slot))?;
        let terms = match found.tracked() {
            // What the node opened itself nobody judges; what it opened for a client, whom it stands for, is his.
            Some(tracked) if is_same => {
                let is_nodes = tracked.is_host_opened() && opener.slot == SLOT_HOST;
                Terms { judged: !kept && !is_nodes, entry: NO_ENTRY }
            }
            _ => match self.terms(state, opener, responder)? {
                Some(terms) => {
                    // Whose address it is or not: this pod sent it, and may.
                    if self.hook == Hook::FromWorkload {
                        opener.slot = state.slot;
                    }
                    terms
                }
                None => return Ok(None),
            },
        };
        let (again, from_low) = (self.forgotten(is_same), self.forgotten(from_low));
        let entry = self.frame.unknown(terms.entry);
        let receiver = self.frame.unknown(if is_same { found.receiver() } else { responder.slot });
        let slots = (self.frame.unknown(opener.slot), self.frame.unknown(responder.slot));
        let is_led = is_led || state.translation.end == Translated::Destination;
        if entry != NO_ENTRY || icmp::is_error(&state.packet) && !state.related {
            self.masquerades(state, asked.opener, asked.responder)?;
        }
        let asked = asked.between(slots, self.forgotten(is_led));
        let mut judgement = if self.forgotten(terms.judged) { self.judge(state, &asked) } else { Ok(()) };
        if again {
            // The port of tunnels may have become that of a pod's own flow, which its rules say nothing of.
            if slots.0 >= SLOT_FIRST && is_tunnel(self.tables, asked.x, state.generation)? {
                judgement = Err(DropReason::Encapsulated);
            }
            self.conclude(state, from_low, judgement)?;
            return Ok(Some(receiver));
        }
        self.open(state, from_low, entry, judgement, (slots, stale))?;
        state.via_host |= entry & u32::from(CT_VIA_HOST) != 0;
        Ok(Some(receiver))
    }

    /// A truth of which the verifier knows nothing any more. With all that was found out before the rules are asked, they
    /// would be walked once for each table in which the flow's entry may lie, and each way it may go; so that is forgotten,
    /// and an entry that was judged again is looked up once more.
    #[inline(always)]
    pub(crate) fn forgotten(&self, truth: bool) -> bool {
        self.frame.unknown(u32::from(truth)) != 0
    }

    /// The packet of a flow that is in force.
    #[inline(always)]
    pub(crate) fn go_on(
        &self,
        state: &mut State,
        tracked: &Tracked<'_>,
        place: Option<&Flow>,
    ) -> Result<(), DropReason> {
        let due = tracked.is_due(&state.packet);
        tracked.touch::<T>(&state.packet);
        // A RST before, or the second FIN in this packet, ends it first.
        let over = tracked.flow.flags.get() & CT_RESET != 0 || tracked.flow.state.get() != STATE_ANSWERED;
        if due && !over { promote(self.tables, state, tracked, place) } else { Ok(()) }
    }

    /// What a flow's entry says: `Current` lets the packet pass, anything else sends it to the rules.
    #[inline(always)]
    pub(crate) fn by_entry(&self, state: &mut State, tracked: &Tracked<'_>) -> Result<Currency, DropReason> {
        let currency = tracked.currency(self.tables, state.packet.protocol);
        let over = state.packet.protocol == protocol::TCP || currency == Currency::Current;
        state.tracked = currency == Currency::Current || (tracked.is_refused() && over);
        if tracked.is_refused() && over {
            return Err(DropReason::FlowRefused);
        }
        // A refused flow is not kept: it was never established under the policy in force.
        if currency == Currency::Kept && tracked.is_refused() { Ok(Currency::Outdated) } else { Ok(currency) }
    }

    /// May these addresses be here, and on what terms may the packet open a flow? `None`: it is none of ours.
    #[inline(always)]
    fn terms(&self, state: &mut State, opener: End, responder: End) -> Result<Option<Terms>, DropReason> {
        let own = match self.hook {
            Hook::FromWorkload => self.check_pod(state, opener)?,
            Hook::ToWorkload => self.check_receiver(state, opener, responder)?,
            Hook::FromHostEndpoint | Hook::ToUplink => return Ok(None),
            // An error is about a service only where it is related.
            Hook::FromNode if state.translation.end == Translated::Nothing => return Ok(None),
            Hook::FromNode => true,
            Hook::ToHostEndpoint => {
                state.slot = opener.slot;
                if !self.lives_at(opener.slot, self.arrival.ingress_ifindex) {
                    return Err(DropReason::SourceIsLocal);
                }
                false
            }
            Hook::FromUplink
                if responder.slot < SLOT_FIRST && !is_elsewhere(state, responder) && !is_hosted(state, responder) =>
            {
                return Ok(None);
            }
            Hook::FromUplink => {
                state.slot = responder.slot;
                if opener.slot != SLOT_NONE {
                    return Err(DropReason::SourceIsLocal);
                }
                false
            }
        };
        if icmp::is_error(&state.packet) {
            return Ok(Some(Terms { judged: !own && !state.related, entry: NO_ENTRY }));
        }
        match (own, conntrack::may_open(&state.packet)) {
            (true, true) => Ok(Some(Terms { judged: false, entry: CT_HOST_OPENED.into() })),
            (true, false) => Ok(Some(Terms { judged: false, entry: NO_ENTRY })),
            // No end of it is here; only the uplink's own rules are asked.
            (false, true) if self.hook == Hook::FromUplink && is_elsewhere(state, responder) => {
                Ok(Some(Terms { judged: true, entry: CT_HOST_OPENED.into() }))
            }
            (false, true) => Ok(Some(Terms { judged: true, entry: self.way(state)? })),
            (false, false) => Err(DropReason::NoFlow),
        }
    }

    /// A pod sends as itself, to somewhere it may, and no tunnel.
    #[inline(always)]
    pub(crate) fn check_pod(&self, state: &mut State, opener: End) -> Result<bool, DropReason> {
        let (slot, endpoint) = endpoint_of(self.tables, self.arrival.ifindex)?;
        state.slot = slot;
        check_macs(endpoint, &state.ether)?;
        check_source(self.tables, slot, opener, &state.packet, state.generation)?;
        check_destination(&state.packet)?;
        if is_tunnelled(self.tables, &state.packet, state.generation)? {
            Err(DropReason::Encapsulated)
        } else {
            Ok(false)
        }
    }

    /// The packet is for this interface's pod, and a local pod's source comes from that pod. Whether it is the host's.
    #[inline(always)]
    fn check_receiver(&self, state: &mut State, opener: End, responder: End) -> Result<bool, DropReason> {
        let (slot, _) = endpoint_of(self.tables, self.arrival.ifindex)?;
        state.slot = slot;
        if responder.slot != slot {
            return Err(DropReason::NoEndpoint);
        }
        if opener.slot >= SLOT_FIRST && !self.lives_at(opener.slot, self.arrival.ingress_ifindex) {
            return Err(DropReason::SourceIsLocal);
        }
        if opener.slot == SLOT_HOST && self.is_masqueraded(state)? {
            return Err(DropReason::SourceIsLocal);
        }
        Ok(opener.slot == SLOT_HOST && self.arrival.ingress_ifindex == 0)
    }

    /// What a new judgement makes of a flow's entry.
    #[inline(always)]
    pub(crate) fn conclude(
        &self,
        state: &State,
        from_low: bool,
        judgement: Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        if judgement == Err(DropReason::TableCorrupt) {
            return judgement;
        }
        let found = conntrack::find(self.tables, &state.key, &state.packet, from_low);
        if let Some(tracked) = found.tracked().filter(|_| judgement.is_ok()) {
            tracked.restamp::<T>(state.packet.protocol, state.generation);
            tracked.touch::<T>(&state.packet);
        } else if let Some(tracked) = found.tracked() {
            tracked.refuse::<T>(state.generation);
        }
        judgement.map_err(|_| DropReason::FlowRefused)
    }

    /// What a judgement makes of a packet without an entry. `slots` are its sender's and receiver's; `stale`: `CONNTRACK` holds
    /// an entry of its key that speaks for it no more.
    #[inline(always)]
    pub(crate) fn open(
        &self,
        state: &mut State,
        from_low: bool,
        entry: u32,
        judgement: Result<(), DropReason>,
        (slots, stale): ((u32, u32), bool),
    ) -> Result<(), DropReason> {
        if let Err(reason) = judgement {
            return Err(if icmp::is_error(&state.packet) { DropReason::IcmpUnrelated } else { reason });
        }
        if entry == NO_ENTRY {
            return Ok(());
        }
        if !matches!(self.hook, Hook::FromHostEndpoint | Hook::ToHostEndpoint) {
            self.lets_in_again(state)?;
        }
        let flags = entry as u8;
        // Better no connection than one that stalls after its handshake.
        let owner = owner_of(slots.0, slots.1, flags);
        if self.hook == Hook::FromUplink && owner == SLOT_HOST && !has_room_for_others(self.tables) {
            state.slot = owner;
            return Err(DropReason::FlowQuota);
        }
        let own_quota = !matches!(self.hook, Hook::FromHostEndpoint | Hook::ToHostEndpoint);
        if own_quota && state.packet.protocol == protocol::TCP && !has_room(self.tables, owner, &state.key) {
            state.slot = owner;
            return Err(DropReason::FlowQuota);
        }
        if T::DRY {
            return Ok(());
        }
        let opened = &mut state.entry;
        *opened = ConntrackEntry::default();
        conntrack::opened(&state.packet, from_low, slots, opened);
        opened.flags |= flags;
        opened.stamp = state.generation as u32;
        opened.seen_s = self.tables.now_s();
        state.translation.tell(opened);
        opened.egress_hit = state.egress_hit.unwrap_or(HIT_NONE);
        opened.ingress_hit = state.ingress_hit.unwrap_or(HIT_NONE);
        if !self.tables.insert_new_flow(&state.key, opened) {
            return Err(DropReason::ConntrackFull);
        }
        if stale && let Some(place) = self.tables.flow(&state.key) {
            // The flow before on this key is over for good: its tombstone must not answer for the new one.
            place.forget();
        }
        if slots.0 >= SLOT_FIRST {
            self.tables.count_opening(slots.0);
        }
        self.lead(state, slots)
    }
}
