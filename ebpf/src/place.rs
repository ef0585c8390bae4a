//! Place: does a packet come by the interface where its ends live?
//! In: the slots that a flow's entry or note names, and the interfaces at hand. Out: whether it speaks for this packet.
//! Invariant: a slot that is not ready lives nowhere.
//! Never: reads a rule; writes.

use abi::endpoint::{ENDPOINT_READY, SLOT_FIRST, SLOT_HOST, SLOT_NONE};

use crate::antispoof::check_macs;
use crate::conntrack::Tracked;
use crate::own::answers_node;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Whether a packet between these slots comes in where its sender lives.
    #[inline(always)]
    pub(crate) fn comes_from(&self, source: u32, destination: u32, state: &State) -> bool {
        if self.hook == Hook::FromUplink {
            return source == SLOT_NONE && destination >= SLOT_FIRST;
        }
        let own = self.tables.endpoint(source).is_some_and(|own| check_macs(own, &state.ether).is_ok());
        own && self.lives_at(source, self.arrival.ifindex)
    }

    /// Whether a flow's packet comes by the interface where that end lives. If not, the entry says nothing about it,
    /// and the packet is judged as if there were none.
    #[inline(always)]
    pub(crate) fn is_at_its_place(&self, tracked: &Tracked<'_>, state: &State) -> bool {
        let (source, destination) = tracked.slots();
        let (on, by) = (self.arrival.ifindex, self.arrival.ingress_ifindex);
        match self.hook {
            Hook::FromUplink if destination < SLOT_FIRST => {
                let is_led = state.translation.is_masked || state.translation.end == Translated::Destination;
                (is_led || answers_node(tracked)) && source == SLOT_NONE
            }
            Hook::FromNode => self.is_nodes_own(tracked, state),
            Hook::FromWorkload | Hook::FromUplink => self.comes_from(source, destination, state),
            // A host endpoint's flows live elsewhere (`gate`); here are those of pods. The node's own answers: `hosted`.
            Hook::FromHostEndpoint | Hook::ToUplink => false,
            Hook::ToHostEndpoint => destination == SLOT_NONE && self.lives_at(source, by),
            Hook::ToWorkload => {
                let honest = match source {
                    SLOT_NONE => true,
                    SLOT_HOST => by == 0 || !tracked.is_host_opened(),
                    slot => self.lives_at(slot, by),
                };
                honest && self.lives_at(destination, on)
            }
        }
    }

    #[inline(always)]
    pub(crate) fn lives_at(&self, slot: u32, ifindex: u32) -> bool {
        let lives = |ready: u16, at: u32| ready & ENDPOINT_READY != 0 && at == ifindex;
        slot >= SLOT_FIRST && self.tables.endpoint(slot).is_some_and(|end| lives(end.flags, end.ifindex))
    }
}
