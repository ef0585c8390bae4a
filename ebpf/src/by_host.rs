//! By the host: flows through services that a foreign proxy translates, in the host's stack.
//! In: what a pod's program left to the stack, where it comes out. Out: judged there, on the backend that the proxy chose.
//! Invariant: what a pod sent leaves the stack by an entry that both ends' rules made, or it is judged here and now.
//! Never: believes that a packet was judged because its mark says nothing.

use abi::conntrack::CT_VIA_HOST;
use abi::endpoint::{ENDPOINT_HOST, NODE_BESIDE, NODE_TRANSLATES, SLOT_FIRST, SLOT_HOST};
use abi::{DropReason, handover};

use crate::conntrack::Tracked;
use crate::fragment;
use crate::judge::Asked;
use crate::parse;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// What a pod sent, at an interface of the node's own that it leaves by.
    #[inline(always)]
    pub(crate) fn leaves_stack(&self, state: &mut State) -> Result<(), DropReason> {
        let is_unjudged = self.is_unjudged();
        if !is_unjudged && (self.arrival.ingress_ifindex == 0 || !self.stack_translates(state)?) {
            return Ok(());
        }
        let read = match self.is_ip(state) {
            Ok(true) => parse::packet(self.frame, state.ether.ethertype, &mut state.packet),
            Ok(false) => Err(DropReason::Malformed),
            Err(reason) => Err(reason),
        };
        if !is_unjudged && read.is_err() {
            return Ok(());
        }
        read?;
        let sender = self.end_of(state, &state.packet.source)?.slot;
        if sender < SLOT_FIRST {
            // Masqueraded: whose it was, nobody can tell any more. What answers in a service's name was judged.
            return if is_unjudged { Err(DropReason::SourceIsLocal) } else { Ok(()) };
        }
        state.slot = sender;
        fragment::resolve(self.tables, &mut state.packet, &mut state.fragment)?;
        self.frame.ask(self, state, false)?;
        Ok(())
    }

    /// The sender's rules were not asked about this packet yet.
    #[inline(always)]
    pub(crate) fn is_unjudged(&self) -> bool {
        matches!(self.hook, Hook::ToWorkload | Hook::ToHostEndpoint) && self.arrival.mark & handover::UNJUDGED != 0
    }

    /// Whether a packet with the node's address is a pod's, masqueraded on its way through the stack: whose it was, nobody can
    /// tell any more.
    #[inline(always)]
    pub(crate) fn is_masqueraded(&self, state: &State) -> Result<bool, DropReason> {
        let by = self.arrival.ingress_ifindex;
        Ok(self.is_unjudged() || (by != 0 && self.stack_translates(state)? && self.is_pods(by)))
    }

    #[inline(always)]
    fn is_pods(&self, ifindex: u32) -> bool {
        let slot = self.tables.slot_of_interface(ifindex);
        let own = slot.and_then(|slot| self.tables.endpoint(slot));
        own.is_some_and(|own| own.flags & ENDPOINT_HOST == 0)
    }

    /// A foreign proxy translates on this node.
    #[inline(always)]
    fn stack_translates(&self, state: &State) -> Result<bool, DropReason> {
        Ok(node_says(self.tables, state.generation)? & NODE_TRANSLATES != 0)
    }

    /// Whether a segment from outside that nobody knows is left to the stack: a foreign proxy's rules are there, and may carry
    /// its connection.
    #[inline(always)]
    pub(crate) fn is_strangers(&self, state: &State) -> Result<bool, DropReason> {
        Ok(node_says(self.tables, state.generation)? & NODE_BESIDE != 0)
    }

    /// By which way a flow goes that is opened here.
    #[inline(always)]
    pub(crate) fn way(&self, state: &State) -> Result<u32, DropReason> {
        let via_host = match self.hook {
            Hook::FromWorkload => state.translation.end == Translated::ByHost,
            Hook::ToWorkload => {
                self.is_unjudged() || (self.arrival.ingress_ifindex != 0 && self.stack_translates(state)?)
            }
            Hook::ToHostEndpoint => true,
            Hook::FromUplink | Hook::FromHostEndpoint | Hook::ToUplink | Hook::FromNode => false,
        };
        Ok(if via_host { CT_VIA_HOST.into() } else { 0 })
    }

    /// A pod that a proxy sends to itself comes masqueraded, by its own interface; it is judged as what it is.
    #[inline(always)]
    pub(crate) fn as_sent_to_itself(&self, mut asked: Asked, known: Option<Tracked<'_>>) -> Asked {
        let arrival = self.arrival;
        let is_known = match known {
            Some(tracked) => {
                let (opener, responder) = tracked.opening_slots();
                tracked.flow.flags.get() & CT_VIA_HOST != 0 && opener == responder
            }
            None => self.hook == Hook::ToWorkload && self.is_unjudged() && arrival.ifindex == arrival.ingress_ifindex,
        };
        if is_known && asked.opener.slot == SLOT_HOST {
            asked.opener = asked.responder;
        }
        asked
    }
}

/// `NODE_*`.
#[inline(always)]
pub(crate) fn node_says<T: Tables>(tables: &T, generation: u64) -> Result<u32, DropReason> {
    let node = tables.endpoint(SLOT_HOST).ok_or(DropReason::TableCorrupt)?;
    Ok(tables.word(&node.ingress).at(generation))
}
