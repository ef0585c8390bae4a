//! Own: what a process of this node's opens to a service, packet by packet, where nobody asks when its socket calls.
//! In: what the node sends by its uplink and by loopback, and what answers it there and at pods. Out: the flow between the node and the
//! backend, with entries as a pod's flow has.
//! Invariant: the node opens it, so nobody is asked; whoever answers is heard in the service's name, by loopback alone; in that of a
//! floating address, by the pod's interface.
//! Never: looks at what this node only forwards; keeps the node from anybody who is no service's.

use abi::conntrack::{CT_HIGH_OPENED, NAT_TRANSLATED};
use abi::endpoint::{NODE_TRANSLATES, SLOT_HOST};
use abi::{DropReason, ServiceKey};

use crate::by_host::node_says;
use crate::conntrack::Tracked;
use crate::entry::Flow;
use crate::tables::{Frame, Tables};
use crate::translation::{Translated, Translation};
use crate::walk::{Hook, State, Verdict, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// What leaves by the uplink or by loopback.
    #[inline(always)]
    pub(crate) fn opened_by_node(&self, state: &mut State) -> Result<Verdict, DropReason> {
        if self.arrival.ingress_ifindex != 0 || self.arrival.vlan || !self.reads(state) {
            return Ok(Verdict::Untouched);
        }
        state.slot = SLOT_HOST;
        self.judged(state)
    }

    /// Whether a packet asks for a service as whoever sends here: the node itself by one of its addresses, while no other proxy translates.
    #[inline(always)]
    pub(crate) fn may_ask_as_node(&self, state: &State) -> Result<bool, DropReason> {
        if self.hook != Hook::FromNode {
            return Ok(true);
        }
        Ok(self.end_of(state, &state.packet.source)?.slot == SLOT_HOST
            && node_says(self.tables, state.generation)? & NODE_TRANSLATES == 0)
    }

    /// Whether a flow's packet is one that this node sends to a service, or its own process' answer to one.
    #[inline(always)]
    pub(crate) fn is_nodes_own(&self, tracked: &Tracked<'_>, state: &State) -> bool {
        let (source, _) = tracked.slots();
        source == SLOT_HOST && (state.translation.end == Translated::Destination || answers_node(tracked))
    }

    /// Whether a packet for this node goes to a socket that knows its sender, or whoever it complains about, by a service's name, of
    /// which the stack would not believe it where it comes in. That of a floating address it believes: the way there is the pod's.
    #[inline(always)]
    pub(crate) fn is_to_socket(&self, state: &mut State) -> bool {
        let Translation { end, frontend, key, .. } = &mut state.translation;
        let is_in_service = matches!(end, Translated::Source | Translated::QuotedDestination);
        match self.hook {
            Hook::FromNode => true,
            Hook::FromUplink => is_in_service,
            Hook::FromWorkload if is_in_service => {
                *key = ServiceKey::floating(*frontend);
                self.tables.service(key).is_none()
            }
            _ => false,
        }
    }
}

/// Whether a packet answers what this node opened to a service.
#[inline(always)]
pub(crate) fn answers_node(tracked: &Tracked<'_>) -> bool {
    tracked.flow.nat_kind.get() == NAT_TRANSLATED && !tracked.from_opener() && tracked.flow.is_nodes()
}

impl Flow {
    /// Whether this node opened it: to a service it is always itself, also where it is its own backend, or has the frontend.
    #[inline(always)]
    pub(crate) fn is_nodes(&self) -> bool {
        let opener = if self.flags.get() & CT_HIGH_OPENED == 0 { &self.low_slot } else { &self.high_slot };
        opener.get() == SLOT_HOST
    }
}
