//! Ahead: what a service leads on is judged behind the gate, where it is known to whom.
//! In: a packet at the uplink's gate that no flow of its layer speaks for. Out: whether the uplink's program translates it.
//! Invariant: what opens a flow goes to a frontend for who is outside; what goes on in one is led there by an entry of the pods' zone.
//! Never: asks of a packet of an established flow that no service leads; lets pass what is not translated then (`walk`).

use abi::DropReason;
use abi::conntrack::{NAT_AHEAD, NAT_LEADS, zone_of};
use abi::service::BALANCER_BY_HOST;

use crate::conntrack::{self, Tracked, may_open, uplink_of};
use crate::gate::Gate;
use crate::icmp;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Whether a service leads the packet on, or brings it back. `tracked`: what the gate has for its ends.
    #[inline(always)]
    pub(crate) fn is_led_on(
        &self,
        state: &mut State,
        gate: Gate<'_>,
        tracked: Option<&Tracked<'_>>,
    ) -> Result<bool, DropReason> {
        let inbound = self.hook == Hook::FromHostEndpoint;
        let is_known = match tracked {
            Some(tracked) => is_ahead(tracked),
            None => false,
        };
        // An answer of the node's own is none of a backend's.
        let crosses = inbound || (is_known && self.arrival.ingress_ifindex != 0);
        if !crosses || icmp::is_error(&state.packet) || uplink_of(self.tables) != gate.slot {
            return Ok(false);
        }
        let opens = inbound && may_open(&state.packet);
        let is_it = ((is_known || !opens) && self.has_lead(state, gate)) || (opens && self.is_to_frontend(state)?);
        if is_it {
            (state.translation.end, state.translation.is_hairpin) = (Translated::Ahead, false);
        }
        Ok(is_it)
    }

    /// Whether the flow of these ends leads to a backend: that entry has the same key, in the pods' zone.
    #[inline(always)]
    fn has_lead(&self, state: &mut State, gate: Gate<'_>) -> bool {
        state.key.zone = [0; 3];
        let leads = match conntrack::allowed(self.tables, &state.key) {
            Some(flow) => flow.nat_kind.get() == NAT_LEADS,
            None => false,
        };
        state.key.zone = zone_of(gate.slot);
        leads
    }

    #[inline(always)]
    fn is_to_frontend(&self, state: &mut State) -> Result<bool, DropReason> {
        (state.translation.frontend, state.translation.port) =
            (state.packet.destination, state.packet.destination_port);
        Ok(self.balancer(state)?.is_some_and(|balancer| balancer.flags & BALANCER_BY_HOST == 0))
    }
}

/// Whether a gate's entry is of what is judged behind it.
#[inline(always)]
pub(crate) fn is_ahead(tracked: &Tracked<'_>) -> bool {
    tracked.flow.nat_kind.get() == NAT_AHEAD
}
