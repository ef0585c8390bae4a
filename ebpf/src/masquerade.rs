//! Masquerade: outside of all pools a pod is seen as this node, where its pool says so (`natOutgoing`).
//! In: a flow that a pod opens, its entry, an error about it. Out: as whom the packet goes on; the port is [`crate::mask`]'s.
//! Invariant: decided once, when a flow is opened, by one generation; pools that change leave its packets as they were.
//! Never: for a pod that sends by an address that is not its own; a look-up for a packet whose flow is known.

use abi::conntrack::{NAT_MASQUERADED, NAT_RETURNS};
use abi::endpoint::{
    ENDPOINT_MASQUERADED_V4, ENDPOINT_MASQUERADED_V6, NODE_MASQUERADES, SLOT_FIRST, SLOT_HOST, SLOT_NONE,
};
use abi::{Address, DropReason, Timeout};

use crate::conntrack::{self, Socket, Tracked, key_between};
use crate::entry::Flow;
use crate::icmp;
use crate::parse::{Packet, has_ports};
use crate::policy::{End, is_inside};
use crate::promote::promote;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Decides as whom a pod's first packet goes on. What cannot be told apart by a port when it comes back does not leave.
    #[inline(always)]
    pub(crate) fn masquerades(&self, state: &mut State, opener: End, responder: End) -> Result<(), DropReason> {
        let is_led = state.translation.end == Translated::Destination && !state.translation.is_hairpin;
        if self.hook != Hook::FromWorkload || !(is_led || state.translation.end == Translated::Nothing) {
            return Ok(());
        }
        // What led to the flow before says nothing of this one.
        state.translation.is_masked = false;
        if (opener.slot ^ state.slot) | responder.slot != SLOT_NONE
            || !self.is_outside(state, responder.class)
            || !self.has_uplink(state)
        {
            return Ok(());
        }
        if icmp::is_error(&state.packet) {
            return Err(DropReason::IcmpUnrelated);
        }
        if !is_numbered(&state.packet) {
            return Err(DropReason::ForwardFailed);
        }
        let own = self.tables.masquerade(state.packet.v6).ok_or(DropReason::ForwardFailed)?;
        if own.address == Address::default() {
            return Err(DropReason::ForwardFailed);
        }
        let translation = &mut state.translation;
        (translation.mask, translation.mask_port) = (own.address, 0);
        if is_led {
            translation.is_masked = true;
        } else {
            (translation.end, translation.is_half_open) = (Translated::Masked, true);
        }
        Ok(())
    }

    /// Whether what a pod of a masqueraded pool sends to this class leaves all pools.
    #[inline(always)]
    fn is_outside(&self, state: &State, class: u32) -> bool {
        let (Some(node), Some(pod)) = (self.tables.endpoint(SLOT_HOST), self.tables.endpoint(state.slot)) else {
            return false;
        };
        let flag = if state.packet.v6 { ENDPOINT_MASQUERADED_V6 } else { ENDPOINT_MASQUERADED_V4 };
        pod.flags & flag != 0
            && self.tables.word(&node.ingress).at(state.generation) & NODE_MASQUERADES != 0
            && !is_inside(self.tables, node.layers.untracked, self.frame.unknown(class), state.generation)
    }

    /// Without an uplink nobody would hear what comes back.
    #[inline(always)]
    fn has_uplink(&self, state: &State) -> bool {
        self.tables.masquerade(state.packet.v6).is_some_and(|own| own.ifindex != 0)
    }

    /// A packet of a flow that its entry says is masqueraded, in either direction.
    #[inline(always)]
    pub(crate) fn goes_masked(&self, state: &mut State, tracked: &Tracked<'_>) {
        if tracked.flow.nat_kind.get() != NAT_MASQUERADED {
            return;
        }
        let translation = &mut state.translation;
        if !tracked.from_opener() {
            if translation.is_masked {
                (translation.end, translation.is_masked) = (Translated::Unmasked, false);
            }
        } else if self.hook == Hook::FromWorkload {
            translation.end = Translated::Masked;
            translation.is_half_open = tracked.half_open;
            (translation.mask, translation.mask_port) = tracked.flow.other_side();
        }
    }

    /// Whether a masqueraded flow's packet is the pod's, and the port that stands for it is kept for good.
    #[inline(always)]
    pub(crate) fn goes_out_masked(&self, tracked: &Tracked<'_>) -> bool {
        let is_kept = !tracked.half_open && tracked.flow.nat_port.get() != [0; 2];
        self.hook == Hook::FromWorkload && tracked.from_opener() && is_kept
    }

    /// What answers to a masqueraded flow find is kept for good with it, whichever end's packet that was.
    #[inline(always)]
    pub(crate) fn keep_return(&self, state: &mut State, tracked: &Tracked<'_>) -> Result<(), DropReason> {
        let half_open = tracked.half_open && tracked.flow.timeout.get() != Timeout::Gone as u8;
        if T::DRY || !state.translation.is_half_open || half_open {
            return Ok(());
        }
        let State { packet, translation, key, .. } = state;
        let (source_port, own) = (packet.source_port, (translation.mask, translation.mask_port));
        let there = (packet.source, if packet.is_icmp() { own.1 } else { source_port });
        let from_low = self.forgotten(key_between(there, own, packet.protocol, key));
        match self.tables.new_flow(&state.key) {
            Some(flow) if flow.nat_kind.get() == NAT_RETURNS => {
                let returns = Tracked { flow, from_low, now_s: tracked.now_s, half_open: true };
                promote(self.tables, state, &returns, self.tables.flow(&state.key))
            }
            _ => Ok(()),
        }
    }

    /// About what a pod heard, by that pod: it goes on as this node's, and quotes it. About what it sent, by its own address: only
    /// what the stack carried for it was met so.
    #[inline(always)]
    pub(crate) fn is_about_masqueraded(&self, state: &mut State, flow: &Flow, from_opener: bool) -> bool {
        if self.hook != Hook::FromWorkload || from_opener {
            return self.hook == Hook::ToWorkload && from_opener;
        }
        state.translation.end = Translated::QuotedMasked;
        (state.translation.mask, state.translation.mask_port) = flow.other_side();
        true
    }

    /// About what a pod sent as this node: it goes to the pod, and quotes it. `pod` is whom the quoted port stands for.
    #[inline(always)]
    pub(crate) fn is_about_pods(&self, state: &mut State, pod: Socket, flow: &Flow) -> bool {
        let State { packet, quoted, translation, .. } = state;
        let own = (quoted.source, quoted.source_port);
        if self.hook != Hook::FromUplink || flow.nat_kind.get() != NAT_MASQUERADED || flow.other_side() != own {
            return false;
        }
        packet.destination = pod.0;
        (translation.end, translation.mask_port) = (Translated::QuotedUnmasked, pod.1);
        true
    }

    /// Whether a gate sees a flow that a pod opened, and that was judged where it did.
    #[inline(always)]
    pub(crate) fn is_judged_before(&self, state: &mut State) -> bool {
        let zone = state.key.zone;
        state.key.zone = [0; 3];
        let is_pods = match conntrack::allowed(self.tables, &state.key) {
            Some(flow) => flow.nat_kind.get() == NAT_RETURNS && flow.owner() >= SLOT_FIRST,
            None => false,
        };
        state.key.zone = zone;
        is_pods
    }
}

/// Whether what answers a packet tells by a port, or an echo by its identifier, whom it is for.
#[inline(always)]
const fn is_numbered(packet: &Packet) -> bool {
    has_ports(packet.protocol)
        || (packet.is_icmp() && matches!((packet.v6, packet.icmp_type()), (false, 8 | 13 | 15 | 17) | (true, 128)))
}
