//! Hosted: a backend that is a process of this node's own, asked from outside by a service's address.
//! In: a flow from outside to an address of the node's; what the node sends by its uplink. Out: whether it goes to the stack as the
//! backend's; whether it is an answer, which leaves as the frontend's.
//! Invariant: an answer is known by its flow alone, and follows the rules of the uplink's host endpoint as the question does.
//! Never: chooses a backend; looks at what this node only forwards.

use abi::DropReason;
use abi::conntrack::{CT_HIGH_OPENED, NAT_LEADS, NAT_TRANSLATED};
use abi::endpoint::{SLOT_HOST, SLOT_NONE};

use crate::conntrack::{self, Currency, Tracked, uplink_of};
use crate::judge::Asked;
use crate::parse::{self, Fragment};
use crate::policy::{End, PolicyDirection::Ingress};
use crate::tables::{Frame, Tables};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, Walk};
use crate::{fragment, icmp};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// What leaves by the uplink: an answer in a service's name, or none of ours.
    #[inline(always)]
    pub(crate) fn sent_by_node(&self, state: &mut State) -> Result<Verdict, DropReason> {
        if self.arrival.ingress_ifindex != 0 || self.arrival.vlan || !self.can_read(state) {
            return Ok(Verdict::Untouched);
        }
        let verdict = self.answered_by_node(state)?;
        if state.packet.fragment == Fragment::First {
            self.remember_first(state);
        }
        Ok(verdict)
    }

    #[inline(always)]
    fn answered_by_node(&self, state: &mut State) -> Result<Verdict, DropReason> {
        if icmp::is_error(&state.packet) {
            let is_about_service = self.is_related(state) && state.translation.end == Translated::QuotedDestination;
            return Ok(if is_about_service { Verdict::Through } else { Verdict::Untouched });
        }
        let from_low = conntrack::key(&state.packet, &mut state.key);
        let found = conntrack::find(self.tables, &state.key, &state.packet, from_low);
        let Some(tracked) = found.tracked() else {
            return Ok(Verdict::Untouched);
        };
        if !is_answer(&tracked) {
            return Ok(Verdict::Untouched);
        }
        state.slot = SLOT_HOST;
        self.gives_back(state, &tracked);
        match self.by_entry(state, &tracked)? {
            Currency::Outdated => {
                let asked = self.asked(state, &tracked.opening(&state.packet))?;
                let judgement = self.judge(state, &asked.between((SLOT_NONE, SLOT_HOST), true));
                self.conclude(state, from_low, judgement)?;
            }
            Currency::Current | Currency::Kept => self.go_on(state, &tracked, found.place)?,
        }
        Ok(Verdict::Through)
    }

    /// Where the address stays, later pieces need nothing, and who sees the packet next remembers it under the same. Only what was
    /// remembered of a former packet under that number must not stay.
    #[inline(always)]
    fn remember_first(&self, state: &mut State) {
        let State { packet, translation, fragment, .. } = state;
        let is_other = translation.end == Translated::Source && translation.frontend != packet.source;
        if is_other || fragment::is_known(self.tables, packet, fragment) {
            fragment::remember(self.tables, packet, fragment);
        }
    }

    /// What cannot be read is no answer: nobody is kept from anything here.
    #[inline(always)]
    fn can_read(&self, state: &mut State) -> bool {
        self.reads(state) && fragment::resolve(self.tables, &mut state.packet, &mut state.fragment).is_ok()
    }

    /// Whether the node's own packet can be read, as far as its first fragment has ports.
    #[inline(always)]
    pub(crate) fn reads(&self, state: &mut State) -> bool {
        let Ok(ether) = parse::ethernet(self.frame) else {
            return false;
        };
        state.ether = ether;
        parse::packet(self.frame, ether.ethertype, &mut state.packet).is_ok()
    }

    /// Whether a process of the node's answers in a service's name, at a gate that has not seen the question as one to the node: it
    /// was judged where it became one.
    #[inline(always)]
    pub(crate) fn answers_in_service(&self, state: &mut State) -> bool {
        if self.hook != Hook::ToHostEndpoint || self.arrival.ingress_ifindex != 0 {
            return false;
        }
        let zone = state.key.zone;
        state.key.zone = [0; 3];
        let from_low = conntrack::key(&state.packet, &mut state.key);
        let leads = match conntrack::allowed(self.tables, &state.key) {
            Some(flow) => {
                let own = if from_low { flow.low_slot.get() } else { flow.high_slot.get() };
                let is_back = from_low == (flow.flags.get() & CT_HIGH_OPENED != 0);
                own == SLOT_HOST && is_back && flow.nat_kind.get() == NAT_LEADS
            }
            None => false,
        };
        state.key.zone = zone;
        leads
    }

    /// What the uplink's host endpoint says of what is opened to the node itself, about the backend.
    #[inline(always)]
    pub(crate) fn asked_of_node(&self, state: &mut State, asked: &Asked) -> Result<(), DropReason> {
        let slot = self.frame.unknown(uplink_of(self.tables));
        let Some(span) = self.ask_layer(state, (slot, Ingress), asked)? else {
            return Ok(());
        };
        state.ingress_hit = Some(span.hit);
        if span.allows() {
            return Ok(());
        }
        state.slot = slot;
        Err(DropReason::HostEndpoint)
    }
}

/// Whether the node sends it to a client outside who asked by a service's address.
#[inline(always)]
fn is_answer(tracked: &Tracked<'_>) -> bool {
    tracked.flow.nat_kind.get() == NAT_TRANSLATED && !tracked.from_opener() && tracked.slots() == (SLOT_HOST, SLOT_NONE)
}

/// Whether a packet from outside goes to a process of this node's that stands behind a service; an error, to one that answered, or
/// that asked another.
#[inline(always)]
pub(crate) fn is_hosted(state: &State, receiver: End) -> bool {
    use Translated::{Destination, QuotedDestination, QuotedSource};
    matches!(state.translation.end, Destination | QuotedSource | QuotedDestination) && receiver.slot == SLOT_HOST
}
