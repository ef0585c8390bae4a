//! About: an ICMP error about a packet that went through a service reads as one about the packet that its receiver sent.
//! In: an error, and the flow of the packet it quotes. Out: whether it belongs to that flow; beside it [`Translation`].
//! Invariant: a client hears of the frontend alone, a backend of itself alone; policy sees the backend, as of any packet.
//! Never: believes an error about a frontend from anybody but its client; translates a piece of an error.

use abi::conntrack::{CT_VIA_HOST, NAT_LEADS, NAT_MASQUERADED, NAT_RETURNS, NAT_TRANSLATED};

use crate::conntrack::{self, Socket, key_between};
use crate::entry::Flow;
use crate::icmp;
use crate::parse::Fragment;
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// What an error is about.
    #[inline(always)]
    pub(crate) fn relate(&self, state: &mut State) {
        (state.translation.is_silent, state.translation.is_hairpin) = (false, false);
        state.related = self.is_related(state);
    }

    /// Whether it is about an allowed flow of its receiver.
    #[inline(always)]
    pub(crate) fn is_related(&self, state: &mut State) -> bool {
        let from_end = self.hook == Hook::FromWorkload;
        let Some((flow, from_opener)) = icmp::flow_of(self.tables, self.frame, state, from_end) else {
            return false;
        };
        if self.hook == Hook::FromNode && !flow.is_nodes() {
            return false;
        }
        state.via_host = flow.flags.get() & CT_VIA_HOST != 0;
        let (kind, other) = (flow.nat_kind.get(), flow.other_side());
        match (kind, from_opener) {
            (NAT_LEADS, true) => self.is_translated_already(state, other),
            // Of a piece nothing is changed.
            (NAT_TRANSLATED, true) | (NAT_LEADS | NAT_RETURNS | NAT_MASQUERADED, _)
                if state.packet.fragment != Fragment::Whole =>
            {
                false
            }
            (NAT_TRANSLATED, true) => self.is_about_a_question(state, other, flow),
            (NAT_LEADS, false) => self.is_about_an_answer(state, other, flow),
            (NAT_MASQUERADED, _) => self.is_about_masqueraded(state, flow, from_opener),
            (NAT_RETURNS, _) => from_opener && self.is_about_a_masked_question(state, other),
            _ => true,
        }
    }

    /// About what a client sent to a service: it quotes the backend, and is to quote the frontend. The backend itself complains in
    /// the frontend's name. One that is its own backend complains to the frontend, as whose it was seen.
    #[inline(always)]
    fn is_about_a_question(&self, state: &mut State, frontend: Socket, flow: &Flow) -> bool {
        let is_hairpin = frontend.0 == state.quoted.source && !flow.is_nodes();
        (state.translation.frontend, state.translation.port) = frontend;
        self.translates(state, Translated::QuotedDestination, is_hairpin)
    }

    /// About what a client outside sent, which went on as this node's: it quotes the port that stands for the client, and goes
    /// there, quoting the client and the frontend.
    #[inline(always)]
    fn is_about_a_masked_question(&self, state: &mut State, client: Socket) -> bool {
        let State { packet, quoted, key, .. } = state;
        let port = if quoted.is_icmp() { client.1 } else { quoted.destination_port };
        key_between(client, (quoted.destination, port), quoted.protocol, key);
        match conntrack::allowed(self.tables, key) {
            Some(flow) if flow.nat_kind.get() == NAT_MASQUERADED => return self.is_about_pods(state, client, flow),
            Some(flow) if flow.nat_kind.get() == NAT_TRANSLATED && self.hook == Hook::FromUplink => {
                (state.translation.frontend, state.translation.port) = flow.other_side();
            }
            _ => return false,
        }
        packet.destination = client.0;
        (state.translation.is_masked, state.translation.mask_port) = (true, client.1);
        self.translates(state, Translated::QuotedDestination, false)
    }

    /// About an answer, by the client that heard it from a service: it quotes the frontend, and is to quote the backend. That knows
    /// a client outside, where it is elsewhere, by a port of this node's; 0: by its own.
    #[inline(always)]
    fn is_about_an_answer(&self, state: &mut State, backend: Socket, lead: &Flow) -> bool {
        let (State { quoted, .. }, mask_port) = (&mut *state, lead.packets.get() as u16);
        let (frontend, client) = ((quoted.source, quoted.source_port), (quoted.destination, quoted.destination_port));
        let is_hairpin = backend.0 == client.0 && !lead.is_nodes();
        // From outside it is about what went to a client there.
        let may_be = match self.hook {
            Hook::FromWorkload | Hook::FromUplink | Hook::FromNode => true,
            // By a route to the pod itself comes only what is sent to an address that floats to it.
            Hook::ToWorkload => self.floats(&frontend.0),
            _ => false,
        };
        let seen = if is_hairpin { frontend.0 } else { client.0 };
        if !may_be || !self.is_led(state, (seen, client.1), frontend, backend) {
            return false;
        }
        (state.translation.frontend, state.translation.port) = (frontend.0, backend.1);
        if mask_port != 0 {
            let own = match self.tables.masquerade(state.packet.v6) {
                Some(of_pods) if self.hook == Hook::FromWorkload => Some(&of_pods.address),
                _ => self.tables.own_address(state.packet.v6),
            };
            let Some(own) = own else {
                return false;
            };
            (state.translation.is_masked, state.translation.mask, state.translation.mask_port) =
                (true, *own, mask_port);
        }
        if !is_hairpin {
            state.packet.destination = backend.0;
        }
        self.translates(state, Translated::QuotedSource, is_hairpin)
    }

    /// About what a client sent, by somebody whose word was translated at another hook of this node, and came through its stack.
    #[inline(always)]
    fn is_translated_already(&self, state: &mut State, backend: Socket) -> bool {
        let State { quoted, .. } = state;
        let (client, frontend) = ((quoted.source, quoted.source_port), (quoted.destination, quoted.destination_port));
        let seen = if client.0 == backend.0 { frontend.0 } else { client.0 };
        self.hook == Hook::ToWorkload && self.is_led(state, (seen, client.1), frontend, backend)
    }

    /// Whether the flow of a client, as its backend sees him, is there, and allowed.
    #[inline(always)]
    fn is_led(&self, state: &mut State, seen: Socket, frontend: Socket, backend: Socket) -> bool {
        key_between(seen, backend, state.quoted.protocol, &mut state.key);
        match conntrack::allowed(self.tables, &state.key) {
            Some(flow) => flow.is_translated_from(frontend),
            None => false,
        }
    }

    #[inline(always)]
    fn translates(&self, state: &mut State, end: Translated, is_hairpin: bool) -> bool {
        let State { packet, translation, .. } = state;
        if is_hairpin && self.hook != Hook::FromWorkload {
            return false;
        }
        (translation.end, translation.is_hairpin) = (end, is_hairpin);
        if is_hairpin {
            (packet.source, packet.destination) = (packet.destination, packet.source);
        }
        true
    }
}
