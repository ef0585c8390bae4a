//! The packet's way: per hook, the order of the stages.
//! In: a frame, what the hook says of it, and the tables. Out: a verdict, or the reason of a drop; beside it [`State`].
//! Invariant: the generation is read once, first; nothing passes that neither an entry nor both ends' rules let pass.
//! Never: rewrites or sends a packet; that is for whoever reads the verdict.

use abi::endpoint::{SLOT_HOST, SLOT_NONE};
use abi::{ConntrackEntry, DropReason, FlowKey, FragmentKey, Ticket, handover};

use crate::announced;
use crate::antispoof::{self, endpoint_of};
use crate::icmp_error::Head;
use crate::known::Sight;
use crate::neighbour::{self, Asker};
use crate::parse::{self, ETHERTYPE_ARP, Ether, Packet};
use crate::policy::{LOGGED_ROOM, Logged};
use crate::tables::{Arrival, Frame, Tables};
use crate::translation::{Translated, Translation};

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a pod's host interface.
    FromWorkload,
    /// Egress of a pod's host interface.
    ToWorkload,
    /// Ingress of the uplink.
    FromUplink,
    /// Ingress of a host endpoint's interface, before all else there.
    FromHostEndpoint,
    /// Egress of a host endpoint's interface, after what follows.
    ToHostEndpoint,
    /// Egress of the uplink, before its gate, while processes of the node's own stand behind services (`hosted`).
    ToUplink,
    /// Egress of the uplink and of loopback, before all else there, on a node whose sockets are asked nothing (`own`).
    FromNode,
}

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the local endpoint in this slot.
    ToEndpoint(u32),
    /// On to the host's stack.
    ToHost,
    /// To a socket of this node's own, by loopback: where it comes in from, the stack takes any source.
    ToSocket,
    /// Out by the routing table.
    ByRoute,
    /// Answer this ARP request.
    AnswerArp,
    /// Answer this neighbour solicitation.
    AnswerSolicitation,
    /// Past a host endpoint's rules, or on its way out in a service's name.
    Through,
    /// None of our business.
    Untouched,
}

/// Words of a question to the routing table (`bpf_fib_lookup`).
pub const ROUTE_WORDS: usize = 8;

/// What was learned about a packet on its way. The programs keep it outside their stack of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The generation by which it is judged.
    pub generation: u64,
    /// Ethernet header.
    pub ether: Ether,
    /// IP headers.
    pub packet: Packet,
    /// What a service makes of it. `packet` has the backend, wherever the frontend stood.
    pub translation: Translation,
    /// Key of its flow, written before it is looked up.
    pub key: FlowKey,
    /// The entry of a flow it opens, or has kept for good.
    pub entry: ConntrackEntry,
    /// That entry's ticket.
    pub ticket: Ticket,
    /// What it shares with the other fragments of its packet.
    pub fragment: FragmentKey,
    /// The packet an ICMP error quotes.
    pub quoted: Packet,
    /// It is of an allowed flow of the error's receiver.
    pub related: bool,
    /// The headers of an ICMP error that this node makes of it.
    pub head: Head,
    /// Room for what the routing table is asked and answers.
    pub route: [u64; ROUTE_WORDS],
    /// The endpoint on whose account a drop is counted.
    pub slot: u32,
    /// The deciding rule at the opener, if it was asked.
    pub egress_hit: Option<u32>,
    /// The deciding rule at the responder, if it was asked.
    pub ingress_hit: Option<u32>,
    /// Judgements to be written down, once all are made.
    pub logged: [Logged; LOGGED_ROOM],
    /// How many. Who writes them down begins anew.
    pub log_count: u32,
    /// An entry decided.
    pub tracked: bool,
    /// Its flow goes through the host's stack, in both directions.
    pub via_host: bool,
}

impl State {
    /// What every packet starts from. The rest is blanked by the few stages that use it: blanking all of it costs an
    /// established packet as much as its whole way.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.packet.forget();
        self.slot = SLOT_NONE;
        self.egress_hit = None;
        self.ingress_hit = None;
        self.tracked = false;
        self.related = false;
        self.via_host = false;
        self.translation.end = Translated::Nothing;
        self.translation.is_masked = false;
        // The zone of the flows that are looked up, until a host endpoint says another.
        self.key.zone = [0; 3];
    }

    /// Has a judgement written down in the end: a call on the way would have the verifier look at the rest twice.
    #[inline(always)]
    pub(crate) fn note(&mut self, logged: Logged) {
        let at = self.log_count % LOGGED_ROOM as u32;
        self.logged[at as usize] = logged;
        self.log_count = at + 1;
    }
}

/// Everything a stage may look at.
#[derive(Debug)]
pub struct Walk<'a, T, F> {
    pub(crate) tables: &'a T,
    pub(crate) frame: &'a F,
    pub(crate) arrival: &'a Arrival,
    /// Where the packet is.
    pub hook: Hook,
}

/// What a pod sent, where it leaves the host's stack by an interface of the node's own: before that one's gate is asked, and
/// apart from it. What is judged is judged by `state.generation`, which is then the gate's too.
#[inline(always)]
pub fn leave<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    arrival: &Arrival,
    state: &mut State,
) -> Result<(), DropReason> {
    state.generation = handover::from_cb(arrival.handed, tables.generation());
    Walk { tables, frame, arrival, hook: Hook::ToHostEndpoint }.leaves_stack(state)
}

/// The way of one packet through one hook.
#[inline(always)]
pub fn walk<T: Tables, F: Frame>(
    hook: Hook,
    tables: &T,
    frame: &F,
    arrival: &Arrival,
    state: &mut State,
) -> Result<Verdict, DropReason> {
    let present = tables.generation();
    state.generation = match hook {
        Hook::FromUplink | Hook::ToHostEndpoint => handover::from_cb(arrival.handed, present),
        _ => present,
    };
    let walk = Walk { tables, frame, arrival, hook };
    match hook {
        Hook::FromWorkload => walk.sent_by_workload(state),
        Hook::ToWorkload => walk.bound_for_workload(state),
        Hook::FromUplink => walk.arrived_by_uplink(state),
        Hook::ToUplink => walk.sent_by_node(state),
        Hook::FromNode => walk.opened_by_node(state),
        Hook::FromHostEndpoint | Hook::ToHostEndpoint => {
            walk.through_gate(state).map(|judged| if judged { Verdict::Through } else { Verdict::Untouched })
        }
    }
}

impl<'a, T: Tables, F: Frame> Walk<'a, T, F> {
    #[inline(always)]
    fn sent_by_workload(&self, state: &mut State) -> Result<Verdict, DropReason> {
        state.ether = parse::ethernet(self.frame)?;
        if self.arrival.vlan || matches!(state.ether.ethertype, 0x8100 | 0x88a8) {
            return self.refuse_here(state, DropReason::Vlan);
        }
        if state.ether.ethertype == ETHERTYPE_ARP {
            let asker = self.asker(state)?;
            neighbour::check_arp(self.tables, self.frame, &state.ether, asker)?;
            return Ok(Verdict::AnswerArp);
        }
        if let Err(reason) = parse::packet(self.frame, state.ether.ethertype, &mut state.packet) {
            return self.refuse_here(state, reason);
        }
        if neighbour::is_discovery(&state.packet) {
            let asker = self.asker(state)?;
            neighbour::check_discovery(self.tables, self.frame, (&state.ether, &state.packet), asker)?;
            return Ok(Verdict::AnswerSolicitation);
        }
        if antispoof::is_group(&state.packet) {
            return self.refuse_here(state, DropReason::Multicast);
        }
        self.judged(state)
    }

    #[inline(always)]
    fn bound_for_workload(&self, state: &mut State) -> Result<Verdict, DropReason> {
        state.ether = parse::ethernet(self.frame)?;
        if self.arrival.vlan {
            return self.refuse_here(state, DropReason::Vlan);
        }
        if state.ether.ethertype == ETHERTYPE_ARP {
            return self.own_neighbour(state, DropReason::NeighbourUnanswered);
        }
        if let Err(reason) = parse::packet(self.frame, state.ether.ethertype, &mut state.packet) {
            return self.refuse_here(state, reason);
        }
        if neighbour::is_neighbour(&state.packet) {
            return self.own_neighbour(state, DropReason::NeighbourUnanswered);
        }
        if neighbour::is_listener(&state.packet) {
            return self.own_neighbour(state, DropReason::Multicast);
        }
        if antispoof::is_group(&state.packet) {
            return self.refuse_here(state, DropReason::Multicast);
        }
        self.judged(state)
    }

    /// What is not for a local pod, was not sent to this interface, or cannot be read, is for the host: a torn packet
    /// that it forwards is judged at the pod's own hook.
    #[inline(always)]
    fn arrived_by_uplink(&self, state: &mut State) -> Result<Verdict, DropReason> {
        let read = parse::ethernet(self.frame).and_then(|ether| {
            state.ether = ether;
            parse::packet(self.frame, ether.ethertype, &mut state.packet)
        });
        if (state.ether.ethertype == ETHERTYPE_ARP || neighbour::is_neighbour(&state.packet))
            && let Some(verdict) = self.answered_here(state)
        {
            return Ok(verdict);
        }
        if read.is_err() || self.arrival.vlan || self.arrival.foreign || antispoof::is_group(&state.packet) {
            return Ok(Verdict::Untouched);
        }
        self.judged(state)
    }

    /// Whether the gate left it to us to judge a packet, for a service leads it on.
    #[inline(always)]
    pub(crate) fn is_from_ahead(&self) -> bool {
        self.hook == Hook::FromUplink && self.arrival.handed[0] == handover::AHEAD
    }

    /// Who asks the uplink's link for an address that this node announces.
    #[inline(always)]
    fn answered_here(&self, state: &State) -> Option<Verdict> {
        if !announced::is_announcing(self.tables, self.arrival) {
            return None;
        }
        if state.ether.ethertype == ETHERTYPE_ARP {
            return announced::is_asked_by_arp(self.tables, self.frame, state).then_some(Verdict::AnswerArp);
        }
        announced::is_solicited(self.tables, self.frame, state).then_some(Verdict::AnswerSolicitation)
    }

    /// A drop before any endpoint was needed, on the account of the interface's own; nobody's comes first.
    #[inline(always)]
    fn refuse_here(&self, state: &mut State, reason: DropReason) -> Result<Verdict, DropReason> {
        state.slot = endpoint_of(self.tables, self.arrival.ifindex)?.0;
        Err(reason)
    }

    #[inline(always)]
    fn asker(&self, state: &mut State) -> Result<Asker<'a>, DropReason> {
        let (slot, endpoint) = endpoint_of(self.tables, self.arrival.ifindex)?;
        state.slot = slot;
        Ok(Asker { slot, endpoint, generation: state.generation })
    }

    /// The host asks or answers its pod; what came from elsewhere has no neighbours here.
    #[inline(always)]
    fn own_neighbour(&self, state: &mut State, reason: DropReason) -> Result<Verdict, DropReason> {
        state.slot = endpoint_of(self.tables, self.arrival.ifindex)?.0;
        if self.arrival.ingress_ifindex == 0 { Ok(Verdict::ToHost) } else { Err(reason) }
    }

    /// Fragments, flow, policy: the part that all hooks share.
    #[inline(always)]
    pub(crate) fn judged(&self, state: &mut State) -> Result<Verdict, DropReason> {
        let slot = match self.at_first_sight(state) {
            Sight::Passes(slot) => Some(slot),
            Sight::Asks(is_new) => self.frame.ask(self, state, is_new)?,
        };
        // No other rules let it in.
        if self.is_from_ahead() && (slot.is_none() || state.translation.end != Translated::Destination) {
            return Err(DropReason::HostEndpoint);
        }
        match slot {
            // How it was found, the verifier need not know in all that follows.
            Some(slot) => Ok(self.verdict(state, self.frame.unknown(slot))),
            None => Ok(Verdict::Untouched),
        }
    }

    #[inline(always)]
    fn verdict(&self, state: &mut State, slot: u32) -> Verdict {
        match (slot, self.hook) {
            (_, Hook::FromWorkload) if state.via_host => Verdict::ToHost,
            (_, Hook::FromUplink) if state.via_host => Verdict::Untouched,
            (SLOT_NONE, _) => Verdict::ByRoute,
            (SLOT_HOST, _) if self.is_to_socket(state) => Verdict::ToSocket,
            (SLOT_HOST, _) => Verdict::ToHost,
            (slot, _) => Verdict::ToEndpoint(slot),
        }
    }
}
