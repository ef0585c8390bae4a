//! Service: a packet to an address that stands for others gets the backend of its flow, and its answers get the address back.
//! In: a packet of a pod or from outside, its flow's entries, and the services. Out: the flow between the client and the backend; beside it
//! [`Translation`], by which the packet is rewritten once it may pass.
//! Invariant: what is judged, tracked and forwarded is the backend; a backend is chosen once for a flow, at one generation.
//! Never: rewrites a packet; chooses for a packet that cannot open a flow; answers who is not who he says.

use abi::conntrack::{LEAD_MASKED, NAT_BY_HOST, NAT_LEADS, NAT_MASQUERADED, NAT_NONE, NAT_RETURNS, NAT_TRANSLATED};
use abi::endpoint::{SLOT_FIRST, SLOT_HOST, SLOT_NONE};
use abi::service::{BACKEND_CHOSEN, BALANCER_BY_HOST, BALANCER_HASHED, BALANCER_SILENT};
use abi::{Address, AffinityKey, Balancer, DropReason};

use crate::antispoof::{check_destination, endpoint_of};
use crate::choice;
use crate::conntrack::{self, Found, Tracked, may_open};
use crate::parse::{protocol, tcp};
use crate::ranges;
use crate::sockets::this_node;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

/// Looks for a flow: at the packet's own ends, at a backend, and at another where somebody else's flow is there.
const LOOKS: u32 = 3;
/// Seconds in which a note of a flow may be met after its last packet that met the entry.
const NOTED_S: i32 = 1;
/// Seconds of silence after which a flow of datagrams need not know any more which proxy translated it: the kernel keeps
/// one that nobody answered for 30 (nf_conntrack_udp_timeout).
const TRANSLATED_S: i32 = 20;

impl<'a, T: Tables, F: Frame> Walk<'a, T, F> {
    /// The packet's flow. One through a service is that between client and backend. `is_new`: its key has no entry.
    #[inline(always)]
    pub(crate) fn track(&self, state: &mut State, is_new: bool) -> Result<Found<'a>, DropReason> {
        let from_low = conntrack::key(&state.packet, &mut state.key);
        let found = if is_new {
            Found::nothing(self.tables.now_s(), from_low)
        } else {
            conntrack::find(self.tables, &state.key, &state.packet, from_low)
        };
        match found.tracked() {
            Some(tracked) if tracked.flow.nat_kind.get() == NAT_NONE && !tracked.is_asked_again(&state.packet) => {
                Ok(found)
            }
            _ => self.track_on(state, found),
        }
    }

    #[inline(always)]
    fn track_on(&self, state: &mut State, mut found: Found<'a>) -> Result<Found<'a>, DropReason> {
        (state.translation.is_silent, state.translation.is_hairpin) = (false, false);
        for look in 0..LOOKS {
            let leads_on = if look == 0 {
                self.leads_from_sender(state, found.tracked().as_ref())
            } else {
                self.leads_from_backend(state, &found, look + 1 == LOOKS)
            };
            match leads_on {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => return Err(self.refused_at_service(state, reason)),
            }
            let from_low = conntrack::key(&state.packet, &mut state.key);
            found = conntrack::find(self.tables, &state.key, &state.packet, from_low);
        }
        if state.translation.is_masked && state.translation.end == Translated::Nothing {
            return Ok(self.is_back(state, found));
        }
        // What leads is no flow.
        match found.tracked() {
            Some(tracked) if matches!(tracked.flow.nat_kind.get(), NAT_LEADS | NAT_RETURNS) => Ok(found.without_flow()),
            _ => Ok(found),
        }
    }

    /// A refusal that may be told: only to the pod that sent the packet, or to who is not of this node.
    #[inline(always)]
    fn refused_at_service(&self, state: &mut State, reason: DropReason) -> DropReason {
        let opener = match self.end_of(state, &state.client().0) {
            Ok(opener) => opener,
            Err(other) => return other,
        };
        let checked = match self.hook {
            Hook::FromWorkload => self.check_pod(state, opener),
            Hook::FromUplink if opener.slot == SLOT_NONE => Ok(false),
            Hook::FromUplink => Err(DropReason::SourceIsLocal),
            Hook::FromNode => Ok(false),
            _ => return reason,
        };
        match checked {
            Ok(_) if reason == DropReason::NoBackend => {
                self.tables.count_refused(state.translation.at);
                reason
            }
            Ok(_) => reason,
            Err(other) => other,
        }
    }

    /// Whether another flow is meant than that of the packet's own ends.
    #[inline(always)]
    fn leads_from_sender(&self, state: &mut State, tracked: Option<&Tracked<'_>>) -> Result<bool, DropReason> {
        let Some(tracked) = tracked else {
            return self.enters(state);
        };
        let from_opener = tracked.from_opener();
        match (tracked.flow.nat_kind.get(), self.hook) {
            (NAT_LEADS, Hook::FromWorkload | Hook::FromUplink | Hook::FromNode | Hook::ToWorkload) if from_opener => {
                self.leads_to_backend(state, tracked)
            }
            (NAT_RETURNS, Hook::FromUplink) if !from_opener => {
                // Held as long as anybody speaks, also before it is kept for good.
                if !T::DRY && tracked.flow.seen_s.get() != tracked.now_s {
                    tracked.flow.seen_s.set(tracked.now_s);
                }
                self.unmask(state, tracked.flow.other_side());
                state.translation.is_half_open = tracked.half_open;
                Ok(true)
            }
            (NAT_LEADS, Hook::ToWorkload) if !from_opener => {
                state.translation.end = Translated::Before;
                state.translation.is_hairpin = false;
                (state.translation.frontend, state.translation.port) = (state.packet.source, state.packet.source_port);
                (state.packet.source, state.packet.source_port) = tracked.flow.other_side();
                Ok(true)
            }
            (NAT_TRANSLATED, Hook::FromUplink) if from_opener && tracked.slots().1 == SLOT_HOST => {
                state.slot = SLOT_HOST;
                Err(DropReason::NatCollision)
            }
            (kind, Hook::FromUplink)
                if (tracked.slots().1 >= SLOT_FIRST || tracked.flow.is_nodes())
                    && from_opener == (kind == NAT_TRANSLATED) =>
            {
                state.slot = tracked.slots().1;
                Err(if from_opener { DropReason::NatCollision } else { DropReason::NoFlow })
            }
            (NAT_TRANSLATED, Hook::FromWorkload) if from_opener => Err(DropReason::NatCollision),
            // What the node itself sends to an address that floats comes here as it was sent.
            (NAT_TRANSLATED, Hook::ToWorkload)
                if from_opener && tracked.is_host_opened() && self.floats(&tracked.flow.other_side().0) =>
            {
                state.slot = tracked.slots().1;
                Err(DropReason::NatCollision)
            }
            (NAT_BY_HOST, Hook::FromWorkload | Hook::ToWorkload) => self.goes_by_host(state, tracked),
            // Sent before the address was a service's, maybe; else it would stay as it is for as long as its sender tries.
            (NAT_NONE, _) | (NAT_MASQUERADED, Hook::FromWorkload) if tracked.is_asked_again(&state.packet) => {
                self.enters(state)
            }
            _ => Ok(false),
        }
    }

    /// A flow stays with the proxy that translated its first packet. Only datagrams, and after a silence, ask anew.
    #[inline(always)]
    fn goes_by_host(&self, state: &mut State, tracked: &Tracked<'_>) -> Result<bool, DropReason> {
        state.translation.end = Translated::ByHost;
        let idle_s = tracked.now_s.wrapping_sub(tracked.flow.seen_s.get()) as i32;
        let asks = self.hook == Hook::FromWorkload && tracked.from_opener() && state.packet.protocol == protocol::UDP;
        if asks && idle_s > TRANSLATED_S { self.enters(state) } else { Ok(false) }
    }

    /// To the backend that was chosen, if it is still there.
    #[inline(always)]
    fn leads_to_backend(&self, state: &mut State, tracked: &Tracked<'_>) -> Result<bool, DropReason> {
        let (slot, stamp) = (tracked.flow.egress_hit.get(), tracked.flow.stamp.get());
        let backend = self.tables.backend(slot).ok_or(DropReason::TableCorrupt)?;
        let standing = choice::standing(self.tables, backend, state.generation);
        if standing == 0 || !backend.was_there(stamp) {
            return self.enters(state);
        }
        let translation = &mut state.translation;
        (translation.frontend, translation.port) = (state.packet.destination, state.packet.destination_port);
        (translation.backend, translation.stamp) = (slot, stamp);
        translation.at = tracked.flow.ingress_hit.get();
        translation.is_chosen = standing & BACKEND_CHOSEN != 0;
        translation.is_half_open = tracked.half_open;
        translation.client.of = 0;
        let mask = tracked.flow.packets.get();
        state.translation.mask_port = mask as u16;
        if self.hook == Hook::FromWorkload && mask & LEAD_MASKED != 0 {
            let own = self.tables.masquerade(state.packet.v6).ok_or(DropReason::ForwardFailed)?;
            (state.translation.is_masked, state.translation.mask) = (true, own.address);
        }
        state.see_backend(tracked.flow.other_side(), self.hook == Hook::FromWorkload);
        Ok(true)
    }

    /// What stands at the backend: the flow that is meant, somebody else's, or none.
    #[inline(always)]
    fn leads_from_backend(&self, state: &mut State, found: &Found<'_>, is_last: bool) -> Result<bool, DropReason> {
        let translation = &state.translation;
        if translation.end == Translated::Nothing {
            // It came back for a client outside, whose flow this is, or none.
            return Ok(false);
        }
        let is_other = match found.tracked() {
            Some(tracked) => !tracked.flow.is_translated_from((translation.frontend, translation.port)),
            None if translation.end != Translated::Destination => return Ok(false),
            None if !may_open(&state.packet) => return stray(state),
            None => self.lingers(found),
        };
        if !is_other && (found.tracked().is_some() || translation.is_chosen) {
            return Ok(false);
        }
        if is_last || translation.end != Translated::Destination || !may_open(&state.packet) {
            return Err(DropReason::NatCollision);
        }
        match self.balancer(state)? {
            Some(balancer) => self.choose(state, balancer, true),
            None => Err(DropReason::NatCollision),
        }
    }

    /// Whether a flow of these ends that was no service's is over only now: packets of it may still go by a note.
    #[inline(always)]
    fn lingers(&self, found: &Found<'_>) -> bool {
        let Some(former) = found.place else {
            return false;
        };
        let idle_s = self.tables.now_s().wrapping_sub(former.seen_s.get()) as i32;
        former.nat_kind.get() == NAT_NONE && idle_s <= NOTED_S
    }

    /// A packet without a flow may be for a service, or for an address that floats to a pod.
    #[inline(always)]
    fn enters(&self, state: &mut State) -> Result<bool, DropReason> {
        if matches!(self.hook, Hook::FromHostEndpoint | Hook::ToHostEndpoint | Hook::ToUplink) {
            return Ok(false);
        }
        (state.translation.frontend, state.translation.port) =
            (state.packet.destination, state.packet.destination_port);
        let Some(balancer) = self.balancer(state)? else {
            return Ok(false);
        };
        // Where the node asks itself, nobody else does.
        if check_destination(&state.packet).is_err() || !self.may_ask_as_node(state)? {
            return Ok(false);
        }
        if balancer.flags & BALANCER_BY_HOST != 0 {
            state.translation.end = if may_open(&state.packet) { Translated::ByHost } else { state.translation.end };
            return Ok(false);
        }
        if may_open(&state.packet) {
            return self.choose(state, balancer, false);
        }
        if self.hook == Hook::ToWorkload {
            state.slot = endpoint_of(self.tables, self.arrival.ifindex)?.0;
        }
        // At an address of the node's a socket of its own may have sent from that port; else the stack refuses the segment. So it
        // does with what no other proxy's rules know.
        if self.hook != Hook::FromWorkload
            && !self.is_from_ahead()
            && (self.is_strangers(state)? || self.end_of(state, &state.packet.destination)?.slot == SLOT_HOST)
        {
            return Ok(false);
        }
        stray(state)
    }

    /// Chooses a backend: the client's own where the service keeps to one, else any. `again`: another than before.
    #[inline(always)]
    fn choose(&self, state: &mut State, balancer: &Balancer, again: bool) -> Result<bool, DropReason> {
        if balancer.len == 0 {
            state.translation.is_silent = balancer.flags & BALANCER_SILENT != 0;
            return Err(DropReason::NoBackend);
        }
        if again {
            state.packet.source = state.client().0;
        }
        let is_kept = balancer.affinity_s != 0;
        let client = if self.hook == Hook::FromNode { this_node(state.packet.source) } else { state.packet.source };
        state.translation.client = AffinityKey { client, of: if is_kept { balancer.of } else { 0 } };
        if !again {
            let client = state.packet.source;
            self.lets_in(state, balancer, &client)?;
        }
        let client = &state.translation.client;
        let kept = if is_kept && !again { choice::kept(self.tables, balancer, client, state.generation) } else { None };
        let slot = match kept {
            Some(slot) => slot,
            None if !again && balancer.flags & BALANCER_HASHED != 0 => {
                let port = if is_kept { 0 } else { state.packet.source_port };
                choice::member_by(self.tables, balancer, choice::hash(&state.packet, port), 0)?
            }
            None => choice::member(self.tables, balancer, if again { state.translation.backend } else { 0 })?,
        };
        let backend = choice::standing_at(self.tables, slot, state.generation)?;
        let translation = &mut state.translation;
        (translation.backend, translation.stamp) = (slot, state.generation as u32);
        (translation.is_chosen, translation.is_half_open, translation.mask_port) = (true, false, 0);
        translation.is_masked = false;
        let port = match u16::from_ne_bytes(backend.port) {
            0 => state.packet.destination_port,
            port => port,
        };
        state.see_backend((backend.address, port), self.hook == Hook::FromWorkload);
        Ok(true)
    }

    /// Who is in no source range hears nothing, as where the network drops what he sends.
    #[inline(always)]
    fn lets_in(&self, state: &mut State, balancer: &Balancer, client: &Address) -> Result<(), DropReason> {
        if ranges::lets_in(self.tables, balancer, client)? {
            return Ok(());
        }
        state.translation.is_silent = true;
        Err(DropReason::NoBackend)
    }

    /// A flow that is opened anew by what led to the last one of these ports: its client is asked about again, if another
    /// revision is in force than chose its backend.
    #[inline(always)]
    pub(crate) fn lets_in_again(&self, state: &mut State) -> Result<(), DropReason> {
        if state.translation.end != Translated::Destination || state.translation.stamp == state.generation as u32 {
            return Ok(());
        }
        match self.balancer(state)? {
            Some(balancer) => self.lets_in(state, balancer, &state.client().0),
            None => Ok(()),
        }
    }

    /// What comes from the backend of a flow through a service goes on as the frontend's.
    #[inline(always)]
    pub(crate) fn gives_back(&self, state: &mut State, tracked: &Tracked<'_>) {
        let is_answer = tracked.flow.nat_kind.get() == NAT_TRANSLATED && !tracked.from_opener();
        if is_answer && state.translation.end == Translated::Nothing {
            state.translation.end = Translated::Source;
            (state.translation.frontend, state.translation.port) = tracked.flow.other_side();
            // A client at the frontend's own address is no pod that is seen there.
            state.translation.is_hairpin =
                state.translation.frontend == state.packet.destination && !tracked.flow.is_nodes();
        }
    }
}

/// A segment of a connection that nobody knows: it ends, unless the segment says so itself.
#[inline(always)]
fn stray(state: &State) -> Result<bool, DropReason> {
    if state.packet.tcp_flags & tcp::RST != 0 { Ok(false) } else { Err(DropReason::BackendGone) }
}
