//! The node that scripts are played on: two pods, their rules, and the host, as tables in memory.
//! In: steps. Out: the stages' verdict on each, with what they left behind.
//! Invariant: addresses and MACs are those of the packet tests' cast, so that one corpus serves both.
//! Never: changes a table behind a packet's back; changes come between packets.

use crate::script::{Before, From, Place, Step};
use abi::endpoint::{ENDPOINT_READY, SLOT_HOST};
use abi::{Address, DropReason};
use ebpf::fake::{ALLOW, Node, SOME, Twin, UPLINK};
use ebpf::tables::{Arrival, Frame};
use ebpf::walk::{Hook, State, Verdict, walk};
use std::cell::Cell;

/// Slots, and interfaces, of the pods.
pub const SLOTS: [u32; 2] = [2, 3];

/// The pods' MACs.
pub const MACS: [[u8; 6]; 2] = [[0x0a, 0x58, 10, 65, 0, 2], [0x0a, 0x58, 10, 65, 0, 3]];

/// Addresses of pods (by their last byte) and of what is outside.
pub fn addresses(outside: bool, last: u8) -> [Address; 2] {
    let (v4, v6) =
        if outside { ([192, 0, 2, last], [0x20, 0x01, 0x0d, 0xb8]) } else { ([10, 65, 0, last], [0xfd, 0, 0, 0x65]) };
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&v6);
    bytes[15] = last;
    [Address::from_v4(v4), Address::from_bytes(bytes)]
}

/// The node before a script. The first pod may send what it likes and receives it too; the second receives by rules.
pub fn node() -> Node {
    let mut node = Node::new();
    for (slot, mac) in SLOTS.into_iter().zip(MACS) {
        node.endpoints[slot as usize].mac = mac;
        node.owns(addresses(false, slot as u8)[1], slot);
    }
    for address in addresses(true, 1) {
        node.owns(address, SLOT_HOST);
    }
    node.change_ingress(SLOTS[1], SOME);
    node
}

/// Does what happens before a step.
pub fn prepare(node: &mut Node, before: Before) {
    let second = &mut node.endpoints[SLOTS[1] as usize];
    match before {
        Before::Nothing => {}
        Before::Pause => node.now_s.set(node.now_s.get() + 30),
        Before::Readiness => second.flags ^= ENDPOINT_READY,
        Before::NewRules => {
            let other = if second.ingress.new() == SOME { ALLOW } else { SOME };
            node.change_ingress(SLOTS[1], other);
        }
    }
}

/// The hook, and what the context says at it.
pub fn arrival(step: &Step<'_>) -> (Hook, Arrival) {
    let (hook, ifindex, ingress_ifindex) = match step.place {
        Place::Pod(pod) => (Hook::FromWorkload, SLOTS[pod], SLOTS[pod]),
        Place::Uplink => (Hook::FromUplink, UPLINK, UPLINK),
        Place::ToPod(pod, from) => {
            let by = match from {
                From::Host => 0,
                From::Uplink => UPLINK,
                From::Pod(sender) => SLOTS[sender],
            };
            (Hook::ToWorkload, SLOTS[pod], by)
        }
    };
    (hook, Arrival { ifindex, ingress_ifindex, vlan: step.vlan, foreign: false, ..Arrival::default() })
}

/// What became of a frame.
#[derive(Debug)]
pub struct Walked {
    /// The verdict.
    pub verdict: Result<Verdict, DropReason>,
    /// What was learned on the way.
    pub state: State,
    /// One past the last byte that was read.
    pub read_to: u32,
}

/// Sends a frame through the stages, first as a twin, which has to say the same and write nothing.
pub fn play(node: &Node, step: &Step<'_>) -> Walked {
    let (hook, arrival) = arrival(step);
    let mut dry = State::default();
    let foreseen = walk(hook, &Twin(node), &Watched::new(step.frame), &arrival, &mut dry);
    let mut state = State::default();
    let frame = Watched::new(step.frame);
    let verdict = walk(hook, node, &frame, &arrival, &mut state);
    let told = |state: &State| (state.slot, state.egress_hit, state.ingress_hit, state.tracked);
    // A twin opens no flow, so it does not see that one more has no room.
    if verdict != Err(DropReason::ConntrackFull) {
        assert_eq!((foreseen, told(&dry)), (verdict, told(&state)), "the twin says otherwise than the live walk");
    }
    Walked { verdict, state, read_to: frame.read_to.get() }
}

/// A frame that remembers how far it was read.
pub struct Watched<'a> {
    bytes: &'a [u8],
    /// One past the last byte that was read.
    pub read_to: Cell<u32>,
}

impl<'a> Watched<'a> {
    /// Nothing read yet.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, read_to: Cell::new(0) }
    }
}

impl Frame for Watched<'_> {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let found = *self.bytes.get(at as usize..)?.first_chunk()?;
        self.read_to.set(self.read_to.get().max(at + N as u32));
        Some(found)
    }
}
