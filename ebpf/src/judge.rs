//! Judge: what the rules say of an opening: the sender's, the node's, the receiver's.
//! In: who opens a flow, to whom, and what is asked for. Out: nothing, or whose refusal.
//! Invariant: every rule set is asked at the packet's generation; a set that cannot be read refuses.
//! Never: about this node's own packets to its pods; reads or writes an entry.

use abi::endpoint::{NODE_REFUSES_WORKLOADS, SLOT_FIRST, SLOT_HOST, SLOT_NONE};
use abi::rules::{SET_OPEN, x_of};
use abi::{Address, DropReason, Endpoint, Span, SpanKind};

use crate::conntrack::Opening;
use crate::parse::has_ports;
use crate::policy::{End, Logged, PolicyDirection, Question, deciding_span, end_of};
use crate::tables::{Frame, Tables};
use crate::translation::{Translated, Translation};
use crate::walk::{Hook, State, Walk};

/// What the rules are asked.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Who opens the flow.
    pub(crate) opener: End,
    /// Who is to answer.
    pub(crate) responder: End,
    /// What spans are searched by.
    pub(crate) x: u32,
    /// The opener's port.
    source_port: u32,
    /// The packet at hand is the responder's.
    is_reply: bool,
    /// A service led it to its responder.
    is_led: bool,
}

impl Asked {
    /// The same between the endpoints in these slots, through a service or not.
    #[inline(always)]
    pub(crate) const fn between(self, (opener, responder): (u32, u32), is_led: bool) -> Self {
        Self {
            is_led,
            opener: End { slot: opener, ..self.opener },
            responder: End { slot: responder, ..self.responder },
            ..self
        }
    }
}

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// What the rules are asked about an opening.
    #[inline(always)]
    pub(crate) fn asked(&self, state: &State, opening: &Opening<'_>) -> Result<Asked, DropReason> {
        let opener = self.end_of(state, opening.opener)?;
        let responder = self.end_of(state, opening.responder)?;
        // A pod that a service sends to itself is seen as the service, and judged as what it is.
        let opener = if state.translation.sends_back() { responder } else { opener };
        let source_port = self.frame.unknown(u16::from_be(opening.source_port).into());
        Ok(Asked {
            opener,
            responder,
            x: self.frame.unknown(opening.x),
            source_port,
            is_reply: opening.is_reply,
            is_led: false,
        })
    }

    /// Owner and class of an address, of which the verifier forgets how they were found.
    #[inline(always)]
    pub(crate) fn end_of(&self, state: &State, address: &Address) -> Result<End, DropReason> {
        let end = end_of(self.tables, state.generation, address)?;
        Ok(End { slot: self.frame.unknown(end.slot), class: self.frame.unknown(end.class) })
    }

    /// Egress rules of the opener, then ingress rules of the responder, each where it is a local pod. Before and in between
    /// the node's own: what pods send at all, what they send to it, and what it forwards for them.
    #[inline(always)]
    pub(crate) fn judge(&self, state: &mut State, asked: &Asked) -> Result<(), DropReason> {
        let judgement = self.by_rules(state, asked);
        self.tables.write_log(state);
        judgement
    }

    #[inline(always)]
    fn by_rules(&self, state: &mut State, asked: &Asked) -> Result<(), DropReason> {
        let (opener, responder) = (asked.opener.slot, asked.responder.slot);
        if responder == SLOT_HOST && matches!(self.hook, Hook::FromUplink | Hook::ToUplink) {
            return self.asked_of_node(state, asked);
        }
        let node = self.tables.endpoint(SLOT_HOST).ok_or(DropReason::TableCorrupt)?;
        if asked.is_led && opener == SLOT_NONE {
            self.asks_uplink(state, node, (PolicyDirection::Ingress, asked))?;
        }
        if opener >= SLOT_FIRST {
            if node.layers.pre_dnat != SLOT_NONE && !self.is_unjudged() {
                let asked = self.asked_as_sent(state, asked)?;
                self.before_translation(state, node.layers.pre_dnat, &asked)?;
            }
            if state.translation.end == Translated::ByHost {
                return Ok(());
            }
            let span = self.ask(state, (opener, PolicyDirection::Egress), asked)?;
            state.egress_hit = Some(span.hit);
            if !span.allows() {
                return Err(PolicyDirection::Egress.refusal());
            }
            if responder == SLOT_HOST {
                let refuses = self.tables.word(&node.ingress).at(state.generation) & NODE_REFUSES_WORKLOADS != 0;
                return if refuses { Err(DropReason::EndpointToHost) } else { Ok(()) };
            }
            self.forwarded(state, (node.layers.forward, PolicyDirection::Ingress), asked)?;
            let is_one = matches!(state.translation.end, Translated::Masked | Translated::Unmasked);
            if is_one || state.translation.is_masked {
                self.asks_uplink(state, node, (PolicyDirection::Egress, asked))?;
            }
        }
        if responder >= SLOT_FIRST {
            self.forwarded(state, (node.layers.forward, PolicyDirection::Egress), asked)?;
            let span = self.ask(state, (responder, PolicyDirection::Ingress), asked)?;
            state.ingress_hit = Some(span.hit);
            if !span.allows() {
                state.slot = responder;
                return Err(PolicyDirection::Ingress.refusal());
            }
        }
        Ok(())
    }

    /// The same as the opener asked it: of a service, where it went through one.
    #[inline(always)]
    fn asked_as_sent(&self, state: &State, asked: &Asked) -> Result<Asked, DropReason> {
        let Translation { end, frontend, port, .. } = &state.translation;
        if matches!(end, Translated::Nothing | Translated::ByHost | Translated::Masked | Translated::Unmasked) {
            return Ok(*asked);
        }
        let End { class, .. } = self.end_of(state, frontend)?;
        let protocol = state.packet.protocol;
        let x = if has_ports(protocol) { x_of(protocol, u16::from_be(*port)) } else { asked.x };
        let x = self.frame.unknown(x);
        Ok(Asked { responder: End { class, ..asked.responder }, x, ..*asked })
    }

    /// What a host endpoint's layer before translation says of an opening: a deny refuses, an allow skips nothing that is
    /// asked later.
    #[inline(always)]
    pub(crate) fn before_translation(&self, state: &mut State, layer: u32, asked: &Asked) -> Result<(), DropReason> {
        match self.ask_layer(state, (layer, PolicyDirection::Ingress), asked)? {
            Some(span) if !span.allows() && !is_next(span) => {
                state.ingress_hit = Some(span.hit);
                Err(DropReason::HostEndpoint)
            }
            _ => Ok(()),
        }
    }

    /// Who comes through a service from outside, and who leaves as this node: the gate does not know to whom, or who, and leaves it to
    /// us what the uplink's own host endpoint says of what is forwarded.
    #[inline(always)]
    fn asks_uplink(
        &self,
        state: &mut State,
        node: &Endpoint,
        (side, asked): (PolicyDirection, &Asked),
    ) -> Result<(), DropReason> {
        if node.layers.uplink == SLOT_NONE {
            return Ok(());
        }
        let own = self.tables.endpoint(node.layers.uplink).ok_or(DropReason::TableCorrupt)?;
        self.forwarded(state, (own.layers.forward, side), asked)
    }

    /// What a host endpoint's layer says of a packet that this node sends on.
    #[inline(always)]
    fn forwarded(&self, state: &mut State, whom: (u32, PolicyDirection), asked: &Asked) -> Result<(), DropReason> {
        match self.ask_layer(state, whom, asked)? {
            Some(span) if !span.allows() => {
                state.ingress_hit = Some(span.hit);
                Err(DropReason::HostEndpoint)
            }
            _ => Ok(()),
        }
    }

    /// What a host endpoint's layer says of an opening, if it has rules for that direction.
    #[inline(always)]
    pub(crate) fn ask_layer(
        &self,
        state: &mut State,
        whom: (u32, PolicyDirection),
        asked: &Asked,
    ) -> Result<Option<Span>, DropReason> {
        if self.is_open(state, whom)? { Ok(None) } else { self.ask(state, whom, asked).map(Some) }
    }

    /// Whether a host endpoint's layer has no rules for a direction.
    #[inline(always)]
    pub(crate) fn is_open(&self, state: &State, (slot, direction): (u32, PolicyDirection)) -> Result<bool, DropReason> {
        if slot == SLOT_NONE {
            return Ok(true);
        }
        let endpoint = self.tables.endpoint(slot).ok_or(DropReason::TableCorrupt)?;
        let word = match direction {
            PolicyDirection::Ingress => &endpoint.ingress,
            PolicyDirection::Egress => &endpoint.egress,
        };
        Ok(self.tables.word(word).at(state.generation) == SET_OPEN)
    }

    /// What the rules in a slot say of an opening: for what comes in, the opener is their peer, else the responder.
    #[inline(always)]
    fn ask(&self, state: &mut State, whom: (u32, PolicyDirection), asked: &Asked) -> Result<Span, DropReason> {
        let (opener, responder) = (asked.opener.class, asked.responder.class);
        let (own, peer) = if whom.1 == PolicyDirection::Ingress { (responder, opener) } else { (opener, responder) };
        let question = Question { peer, own, x: asked.x, source_port: asked.source_port };
        let span = deciding_span(self.tables, state.generation, whom, &question)?;
        if !T::DRY {
            self.tables.count_hit(span.hit);
            // The verifier need not remember which it was.
            if (Span { bits: self.frame.unknown(span.bits), ..span }).logs() {
                let Asked { x, source_port, is_reply, .. } = *asked;
                let is_ingress = u32::from(whom.1 == PolicyDirection::Ingress);
                state.note(Logged { slot: whom.0, is_ingress, is_reply: is_reply.into(), x, source_port, span });
            }
        }
        Ok(span)
    }
}

/// No rule decided, and whatever comes next is asked.
#[inline(always)]
pub(crate) const fn is_next(span: Span) -> bool {
    matches!(span.kind(), SpanKind::Next)
}
