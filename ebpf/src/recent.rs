//! Recent flows: a packet of a flow that this processor met in the same second needs no look-up in a hash.
//! In: a whole packet of TCP or UDP. Out: the note of its flow; from the flow's entry, a note for the packets that follow.
//! Invariant: a note repeats what an entry in force said, and no longer than its second; slots and stamp are checked anew, and of
//! a flow through a service its backend too, and that its client has opened no other flow since.
//! Never: is made of a flow that is half-open, closed or refused; serves a SYN, a FIN or a RST.

use core::cell::Cell;

use abi::conntrack::STATE_ESTABLISHED;
use abi::endpoint::SLOT_FIRST;
use abi::{Address, FlowKey};

use crate::conntrack::{Tracked, key_between};
use crate::entry::Flow;
use crate::parse::{Fragment, Packet, protocol, tcp};
use crate::tables::Tables;
use crate::translation::{Translated, Translation};
use crate::walk::State;

/// Notes of one processor. A flow has one place by its addresses and ports; each direction is a flow of its own here.
pub const NOTES: u32 = 256;

/// Numbers of the flows that clients have opened, by slot; clients that share one only lose notes by it.
pub const OPENINGS: u32 = 1024;

/// Packets below which a flow is not noted.
pub(crate) const SHORT: u32 = 16;

/// What was noted of one direction of a flow. All zero: nothing, for no packet has these addresses.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Note {
    source: Cell<[u64; 2]>,
    destination: Cell<[u64; 2]>,
    bytes: Cell<u64>,
    ports: Cell<u32>,
    protocol: Cell<u32>,
    stamp: Cell<u32>,
    source_slot: Cell<u32>,
    destination_slot: Cell<u32>,
    second: Cell<u32>,
    packets: Cell<u32>,
    /// Which end a service translates: 0 none, 1 the destination, 2 the source.
    end: Cell<u32>,
    /// What comes to stand there, and its port.
    other: Cell<[u64; 2]>,
    other_port: Cell<u32>,
    /// The backend that it is, and the generation that chose it.
    backend: Cell<u32>,
    chosen: Cell<u32>,
    /// Flows that its client had opened.
    openings: Cell<u32>,
}

const DESTINATION: u32 = 1;
const SOURCE: u32 = 2;

/// A packet that goes by a note, if there is one: it changes nothing of its flow but the counters.
#[inline(always)]
const fn is_plain(packet: &Packet) -> bool {
    let plain = match packet.protocol {
        protocol::TCP => packet.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0,
        protocol::UDP => true,
        _ => false,
    };
    plain && matches!(packet.fragment, Fragment::Whole)
}

#[inline(always)]
const fn ports(packet: &Packet) -> u32 {
    (packet.source_port as u32) << 16 | packet.destination_port as u32
}

/// The place of a packet's flow among the notes.
#[inline(always)]
const fn place(packet: &Packet) -> u32 {
    place_of(packet.source.0, packet.destination.0, ports(packet))
}

#[inline(always)]
const fn place_of(source: [u64; 2], destination: [u64; 2], ports: u32) -> u32 {
    let mixed = source[0] ^ source[1] ^ destination[0].rotate_left(21) ^ destination[1].rotate_left(9);
    let mixed = (mixed ^ ports as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u32 & (NOTES - 1)
}

/// The place of a plain packet's flow.
#[inline(always)]
pub fn note<'a, T: Tables>(tables: &'a T, packet: &Packet) -> Option<&'a Note> {
    if T::DRY || !is_plain(packet) { None } else { tables.note(place(packet)) }
}

impl Note {
    /// Whether this packet's flow was noted here in this second.
    #[inline(always)]
    pub fn is_of(&self, packet: &Packet, now_s: u32) -> bool {
        let ends = (packet.source, packet.destination, ports(packet));
        self.is_about(ends, packet.protocol) && self.second.get() == now_s
    }

    #[inline(always)]
    fn is_about(&self, (source, destination, ports): (Address, Address, u32), protocol: u8) -> bool {
        self.ports.get() == ports
            && self.source.get() == source.0
            && self.destination.get() == destination.0
            && self.protocol.get() == u32::from(protocol)
    }

    /// Slots of the packet's sender and receiver.
    #[inline(always)]
    pub fn slots(&self) -> (u32, u32) {
        (self.source_slot.get(), self.destination_slot.get())
    }

    /// Generation of the judgement.
    #[inline(always)]
    pub fn stamp(&self) -> u32 {
        self.stamp.get()
    }

    /// Whether the client of a flow through a service has opened another since: it may be by these very ports, to another backend.
    #[inline(always)]
    pub fn is_outlived<T: Tables>(&self, tables: &T) -> bool {
        let client = match self.end.get() {
            DESTINATION => self.source_slot.get(),
            SOURCE => self.destination_slot.get(),
            _ => return false,
        };
        tables.openings(client) != self.openings.get()
    }

    /// The backend that the service's packets go to, and the generation that chose it; `None`: it is no packet to a service.
    #[inline(always)]
    pub fn backend(&self) -> Option<(u32, u32)> {
        if self.end.get() == DESTINATION { Some((self.backend.get(), self.chosen.get())) } else { None }
    }

    /// Sees the packet as the stages saw those before it.
    #[inline(always)]
    pub fn translates(&self, state: &mut State) {
        let other = (Address(self.other.get()), self.other_port.get() as u16);
        match self.end.get() {
            DESTINATION => {
                (state.translation.frontend, state.translation.port) =
                    (state.packet.destination, state.packet.destination_port);
                // Its client is a pod, and not the backend.
                state.see_backend(other, true);
            }
            SOURCE => {
                (state.translation.end, state.translation.is_hairpin) = (Translated::Source, false);
                (state.translation.frontend, state.translation.port) = other;
            }
            _ => {}
        }
    }

    /// Counts a packet; the flow's entry learns of it when the second has passed.
    #[inline(always)]
    pub fn count(&self, packet: &Packet) {
        self.bytes.set(self.bytes.get().wrapping_add(u64::from(packet.length)));
        self.packets.set(self.packets.get().wrapping_add(1));
    }

    /// Packets that went by the note and their flow's entry has not learnt of.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> u32 {
        self.packets.get()
    }

    /// Counts in a flow's entry what went by the note.
    #[inline(always)]
    fn pay(&self, flow: &Flow) {
        flow.bytes.set(flow.bytes.get().wrapping_add(self.bytes.get()));
        flow.packets.set(flow.packets.get().wrapping_add(self.packets.get()));
    }

    /// Where it lies.
    #[inline(always)]
    pub fn place(&self) -> u32 {
        place_of(self.source.get(), self.destination.get(), self.ports.get())
    }

    /// The same for the flow that leaves this place.
    #[inline(always)]
    pub fn pay_former<T: Tables>(&self, tables: &T, scratch: &mut FlowKey) {
        let ports = self.ports.get();
        let source = (Address(self.source.get()), (ports >> 16) as u16);
        let destination = if self.end.get() == DESTINATION {
            (Address(self.other.get()), self.other_port.get() as u16)
        } else {
            (Address(self.destination.get()), ports as u16)
        };
        key_between(source, destination, self.protocol.get() as u8, scratch);
        if let Some(flow) = tables.flow(scratch) {
            self.pay(flow);
        }
    }

    /// Says the same as an entry in force, for the rest of this second. A short flow is not worth it, and one that another
    /// flow uses in this second stays. Through a service those of local clients are noted; of one that is sent to itself both
    /// ends are others, and it is not; nor is one that goes through the host's stack.
    #[inline(always)]
    pub fn take<T: Tables>(&self, tables: &T, state: &mut State, tracked: &Tracked<'_>) {
        let (flow, slots) = (tracked.flow, tracked.slots());
        let client = if state.translation.end == Translated::Destination { slots.0 } else { slots.1 };
        let is_translated = state.translation.end != Translated::Nothing;
        let is_masked =
            state.translation.is_masked || matches!(state.translation.end, Translated::Masked | Translated::Unmasked);
        if is_translated && (state.translation.is_hairpin || client < SLOT_FIRST || is_masked) {
            return;
        }
        // Not asked by the caller: the verifier would lose sight of the note.
        if state.via_host || flow.state.get() != STATE_ESTABLISHED || tracked.half_open || flow.packets.get() < SHORT {
            return;
        }
        let State { packet, translation, key, .. } = state;
        let (destination, destination_port) = match translation.end {
            Translated::Destination => (translation.frontend, translation.port),
            _ => (packet.destination, packet.destination_port),
        };
        let ports = u32::from(packet.source_port) << 16 | u32::from(destination_port);
        if self.is_about((packet.source, destination, ports), packet.protocol) {
            self.pay(flow);
        } else if self.second.get() == tracked.now_s {
            return;
        } else if self.packets.get() != 0 {
            tables.pay_former(self, key);
        }
        self.source.set(packet.source.0);
        self.destination.set(destination.0);
        self.ports.set(ports);
        self.protocol.set(u32::from(packet.protocol));
        self.stamp.set(flow.stamp.get());
        self.source_slot.set(slots.0);
        self.destination_slot.set(slots.1);
        self.second.set(tracked.now_s);
        self.bytes.set(0);
        self.packets.set(0);
        self.openings.set(tables.openings(client));
        self.remember(packet, translation);
    }

    /// What the service makes of the packet.
    #[inline(always)]
    fn remember(&self, packet: &Packet, translation: &Translation) {
        let (end, (other, port)) = match translation.end {
            Translated::Destination => (DESTINATION, (packet.destination, packet.destination_port)),
            Translated::Source => (SOURCE, (translation.frontend, translation.port)),
            _ => (0, (Address([0; 2]), 0)),
        };
        self.end.set(end);
        self.other.set(other.0);
        self.other_port.set(u32::from(port));
        self.backend.set(translation.backend);
        self.chosen.set(translation.stamp);
    }
}

#[cfg(test)]
mod tests {
    use abi::DropReason::{self, *};
    use abi::endpoint::ENDPOINT_KEEP_ESTABLISHED;
    use std::vec::Vec;

    use super::{NOTES, SHORT};
    use crate::fake::{Bytes, Node, SOME, Twin, tcp, udp, v4};
    use crate::shelf::FlowTables;
    use crate::tables::Arrival;
    use crate::walk::{Hook, State, Verdict, walk};

    const A: (u32, u8) = (2, 2);
    const B: (u32, u8) = (3, 3);
    const OUTSIDE: (u32, u8) = (0, 200);
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    /// Where the low halves of an IPv4 frame's addresses lie, and its source port.
    const SOURCE: usize = 28;
    const DESTINATION: usize = 32;
    const PORTS: usize = 34;
    const TO_A: Result<Verdict, DropReason> = Ok(Verdict::ToEndpoint(2));
    const TO_B: Result<Verdict, DropReason> = Ok(Verdict::ToEndpoint(3));

    fn a_says(node: &Node, flags: u8) -> Result<Verdict, DropReason> {
        node.pod_sends(2, &tcp(A, 3, (4000, 80), flags))
    }

    fn b_says(node: &Node, flags: u8) -> Result<Verdict, DropReason> {
        node.pod_sends(3, &tcp(B, 2, (80, 4000), flags))
    }

    /// A connection long enough that both directions are noted.
    fn noted() -> Node {
        let node = Node::new();
        assert_eq!(a_says(&node, SYN), TO_B);
        assert_eq!(b_says(&node, SYN | ACK), TO_A);
        for _ in 0..=SHORT {
            assert_eq!(a_says(&node, ACK), TO_B);
            assert_eq!(b_says(&node, ACK), TO_A);
        }
        assert_eq!(notes(&node), 2);
        node
    }

    fn notes(node: &Node) -> usize {
        node.notes.iter().filter(|note| note.second.get() != 0).count()
    }

    /// What the flow's entry has counted; what goes by a note is not in it yet.
    fn counted(node: &Node) -> u32 {
        node.flow_now().packets.get()
    }

    #[test]
    fn a_noted_packet_asks_no_hash_and_its_entry_learns_of_it_in_the_next_second() {
        let node = noted();
        let before = counted(&node);
        for _ in 0..5 {
            assert_eq!(a_says(&node, ACK), TO_B);
        }
        assert_eq!(counted(&node), before);
        node.now_s.set(node.now_s.get() + 1);
        assert_eq!(a_says(&node, ACK), TO_B);
        assert!(counted(&node) >= before + 6);
        assert_eq!(node.flow_now().seen_s.get(), node.now_s.get());
    }

    #[test]
    fn every_packet_is_counted_once_however_it_went() {
        let node = Node::new();
        let mut sent = 2;
        assert_eq!(a_says(&node, SYN), TO_B);
        assert_eq!(b_says(&node, SYN | ACK), TO_A);
        for _ in 0..40 {
            for _ in 0..7 {
                assert_eq!((a_says(&node, ACK), b_says(&node, ACK)), (TO_B, TO_A));
                sent += 2;
            }
            node.now_s.set(node.now_s.get() + 1);
        }
        assert_eq!((a_says(&node, ACK), b_says(&node, ACK)), (TO_B, TO_A));
        let bytes = node.flow_now().bytes.get();
        assert_eq!((counted(&node), bytes % u64::from(sent + 2)), (sent + 2, 0), "all packets are of one size");
    }

    #[test]
    fn own_1_a_new_deny_counts_for_a_noted_flow_at_once() {
        for keep in [0, ENDPOINT_KEEP_ESTABLISHED] {
            let mut node = noted();
            node.endpoints[3].flags |= keep;
            node.change_ingress(3, 0);
            let expected = if keep == 0 { Err(FlowRefused) } else { TO_B };
            assert_eq!((a_says(&node, ACK), a_says(&node, ACK)), (expected, expected));
        }
    }

    #[test]
    fn spf_1_a_note_serves_its_own_sender_only() {
        let node = noted();
        assert_eq!(node.run(Hook::FromWorkload, 3, 3, &tcp(A, 3, (4000, 80), ACK)).0, Err(Spoofed));
        let mut forged = tcp(A, 3, (4000, 80), ACK);
        forged[11] ^= 1;
        assert_eq!(node.pod_sends(2, &forged), Err(Spoofed));
        let mut elsewhere = tcp(A, 3, (4000, 80), ACK);
        elsewhere[0] ^= 2;
        assert_eq!(node.pod_sends(2, &elsewhere), Err(WrongMac));
        assert_eq!(node.arrives(&tcp(A, 3, (4000, 80), ACK)), Err(SourceIsLocal));
    }

    #[test]
    fn spf_1_a_note_serves_none_of_the_flows_that_would_have_its_place() {
        let node = noted();
        for (at, expected) in [(SOURCE, Spoofed), (DESTINATION, NoFlow), (PORTS, NoFlow)] {
            for other in 1..=8 * NOTES as u16 {
                let mut frame = tcp(A, 3, (4000, 80), ACK);
                let word = u16::from_be_bytes([frame[at], frame[at + 1]]) ^ other;
                frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
                assert_eq!(node.pod_sends(2, &frame), Err(expected), "{other:#x} at byte {at}");
            }
        }
        assert_eq!(node.pod_sends(2, &udp(A, 3, (4000, 80))), TO_B);
        assert_eq!(node.flows().len(), 2, "a datagram with the ports of a connection is a flow of its own");
    }

    #[test]
    fn an_end_that_is_no_longer_ready_is_not_served_by_a_note() {
        for (slot, expected) in [(2, Err(NoEndpoint)), (3, Err(FlowRefused))] {
            let mut node = noted();
            node.endpoints[slot].flags = 0;
            assert_eq!(a_says(&node, ACK), expected);
        }
    }

    #[test]
    fn own_4_an_address_that_has_moved_on_is_not_served_by_a_note() {
        let mut node = noted();
        node.owns(v4(3), 0);
        node.generation.set(node.generation.get() + 1);
        (node.endpoints[2].rev, node.endpoints[3].rev) = (6, 6);
        assert_eq!(a_says(&node, ACK), Err(NoFlow));
        assert_eq!(b_says(&node, ACK), Err(NoFlow));
    }

    #[test]
    fn pkt_71_72_76_what_opens_or_ends_a_flow_meets_its_entry() {
        for flags in [SYN, FIN | ACK, RST] {
            let node = noted();
            let before = counted(&node);
            let _verdict = a_says(&node, flags);
            assert_ne!(counted(&node), before, "flags {flags}");
        }
    }

    #[test]
    fn half_open_and_short_flows_are_not_noted() {
        let node = Node::new();
        for _ in 0..=2 * SHORT {
            assert_eq!(node.pod_sends(2, &udp(A, 3, (9999, 53))), TO_B);
        }
        assert_eq!(a_says(&node, SYN), TO_B);
        assert_eq!(b_says(&node, SYN | ACK), TO_A);
        assert_eq!(a_says(&node, ACK), TO_B);
        assert_eq!(notes(&node), 0);
    }

    #[test]
    fn flows_that_share_a_place_are_served_one_by_its_note_and_one_by_its_entry() {
        let mut node = Node::new();
        node.tracked = FlowTables::with_room(20 * NOTES as usize);
        let ask = |port| node.pod_sends(2, &udp(A, 3, (port, 53)));
        let answer = |port| node.pod_sends(3, &udp(B, 2, (53, port)));
        let ports: Vec<u16> = (1..=2 * NOTES as u16).collect();
        for _ in 0..=SHORT {
            for port in &ports {
                assert_eq!((ask(*port), answer(*port)), (TO_B, TO_A));
            }
        }
        for _ in 0..2 {
            node.now_s.set(node.now_s.get() + 1);
            for port in ports.iter().rev() {
                assert_eq!((ask(*port), answer(*port)), (TO_B, TO_A));
            }
        }
        node.now_s.set(node.now_s.get() + 1);
        for port in &ports {
            assert_eq!((ask(*port), answer(*port)), (TO_B, TO_A));
        }
        let noted: u32 = node.notes.iter().map(|note| note.packets.get()).sum();
        let counted: u32 = node.flows().iter().map(|(_, flow)| flow.packets.get()).sum();
        assert_eq!(counted + noted, 2 * 2 * u32::from(NOTES as u16) * (SHORT + 4));
    }

    #[test]
    fn a_dry_run_neither_makes_nor_counts_by_a_note() {
        let node = noted();
        let (frame, arrival) =
            (tcp(A, 3, (4000, 80), ACK), Arrival { ifindex: 2, ingress_ifindex: 2, ..Arrival::default() });
        let state = |node: &Node| -> Vec<_> { node.notes.iter().map(|note| note.packets.get()).collect() };
        let before = state(&node);
        assert_eq!(walk(Hook::FromWorkload, &Twin(&node), &Bytes(&frame), &arrival, &mut State::default()), TO_B);
        assert_eq!(state(&node), before);
    }

    #[test]
    fn from_outside_a_note_serves_what_the_uplink_brings() {
        let mut node = Node::new();
        node.change_ingress(2, SOME);
        let asks = || node.arrives(&udp(OUTSIDE, 2, (9999, 53)));
        for _ in 0..=SHORT {
            assert_eq!(asks(), TO_A);
            assert_eq!(node.pod_sends(2, &udp(A, 200, (53, 9999))), Ok(Verdict::ByRoute));
        }
        assert_eq!(notes(&node), 2);
        assert_eq!(asks(), TO_A);
    }
}
