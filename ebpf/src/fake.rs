//! A node in memory: the tables, and frames to send through the stages.
//! In: what a test says of pods, peers and rules. Out: verdicts and entries.
//! Invariant: behaves as the kernel's tables do: unknown keys miss, indexes past the end are absent.
//! Never: part of a program.

use std::boxed::Box;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use abi::address::ClassEntry;
use abi::endpoint::{ENDPOINT_READY, GATEWAY_MAC, SLOT_HOST};
use abi::fragment::{FragmentKey, FragmentPorts};
use abi::rules::{SpanKind, x_of};
use abi::{Address, ConntrackEntry, DropReason, Endpoint, FlowKey, NetKey, RowKey, RowRef, SetEntry, Span, Word};

use crate::conntrack::Flow;
use crate::tables::{Arrival, Frame, Tables};
use crate::walk::{Hook, State, Verdict, walk};

/// Rule set that allows everything.
pub const ALLOW: u32 = 1;
/// Rule set that allows TCP 80 and 81, UDP 53 and echo requests.
pub const SOME: u32 = 2;
/// The interface towards the network.
pub const UPLINK: u32 = 9;

/// The tables of one node, each as its map's keys and values; by default all are empty.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is the map of this name in `abi::maps`")]
pub struct Node {
    pub generation: Cell<u64>,
    pub endpoints: Vec<Endpoint>,
    pub interfaces: BTreeMap<u32, u32>,
    pub addresses: BTreeMap<Address, u32>,
    pub nets: Vec<(NetKey, u32)>,
    pub classes: Vec<ClassEntry>,
    pub sets: Vec<SetEntry>,
    pub rows: BTreeMap<RowKey, RowRef>,
    pub spans: Vec<Span>,
    pub fragments: RefCell<Vec<(FragmentKey, FragmentPorts)>>,
    /// Where on the shelf each flow stands.
    flows: RefCell<BTreeMap<FlowKey, usize>>,
    shelf: Shelf,
    /// Flows that fit.
    pub room: Cell<usize>,
    /// The clock.
    pub now_s: Cell<u32>,
    generation_reads: Cell<u32>,
}

/// Flows that stay where they are for as long as the node lives: a packet's stages hold on to them.
#[derive(Debug, Default)]
struct Shelf(OnceCell<Box<(Flow, Shelf)>>);

impl Shelf {
    fn put(&self, flow: Flow) -> usize {
        let (mut end, mut number) = (self, 0);
        while let Some(taken) = end.0.get() {
            (end, number) = (&taken.1, number + 1);
        }
        end.0.get_or_init(|| Box::new((flow, Self::default())));
        number
    }

    fn at(&self, number: usize) -> Option<&Flow> {
        let mut place = self.0.get()?;
        for _ in 0..number {
            place = place.1.0.get()?;
        }
        Some(&place.0)
    }
}

/// A twin: reads the same node, writes nothing.
#[derive(Debug)]
pub struct Twin<'a>(pub &'a Node);

/// The address .`last` of the pods' network.
#[must_use]
pub fn v4(last: u8) -> Address {
    Address::from_v4([10, 65, 0, last])
}

/// The MAC of the pod in `slot`.
#[must_use]
pub fn mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, slot as u8]
}

impl Node {
    /// A node with the address .1, and pods .2 and .3 in slots 2 and 3 behind interfaces 2 and 3.
    #[must_use]
    pub fn new() -> Self {
        let span = |protocol, detail, kind, hit| Span::new(x_of(protocol, detail), kind, hit);
        let (allow, deny) = (SpanKind::Allow, SpanKind::Deny);
        let spans = vec![
            span(0, 0, allow, 1),
            span(0, 0, deny, 2),
            span(1, 8 << 8, allow, 3),
            span(1, (8 << 8) + 1, deny, 2),
            span(6, 80, allow, 4),
            span(6, 82, deny, 2),
            span(17, 53, allow, 5),
            span(17, 54, deny, 2),
        ];
        let set = |offset, len| SetEntry { row: RowRef { offset, len }, flags: 0, pad: 0 };
        let mut node = Self {
            generation: Cell::new(5),
            now_s: Cell::new(1000),
            endpoints: vec![Endpoint::default(); 2],
            classes: vec![ClassEntry::default()],
            sets: vec![SetEntry::default(), set(0, 1), set(1, 7)],
            spans,
            room: Cell::new(100),
            ..Self::default()
        };
        node.owns(v4(1), SLOT_HOST);
        for slot in [2, 3] {
            node.endpoints.push(Endpoint {
                egress: Word::settled(ALLOW),
                ingress: Word::settled(ALLOW),
                ifindex: slot,
                rev: 1,
                mtu: 1500,
                flags: ENDPOINT_READY,
                mac: mac(slot),
                spare: [0; 28],
            });
            node.interfaces.insert(slot, slot);
            node.owns(v4(slot as u8), slot);
        }
        node
    }

    /// Says whose an address is; its class is its slot.
    pub fn owns(&mut self, address: Address, slot: u32) {
        self.classes.push(ClassEntry { class: Word::settled(slot), endpoint: Word::settled(slot) });
        self.addresses.insert(address, self.classes.len() as u32 - 1);
    }

    /// Gives an endpoint another ingress rule set, in force from the next generation.
    pub fn change_ingress(&mut self, slot: u32, set: u32) {
        self.generation.set(self.generation.get() + 1);
        self.endpoints[slot as usize].ingress = Word::settled(set);
        self.endpoints[slot as usize].rev = self.generation.get() as u32;
    }

    /// Sends a frame through a hook.
    ///
    /// # Panics
    /// A stage read the generation twice.
    pub fn run(
        &self,
        hook: Hook,
        ifindex: u32,
        ingress_ifindex: u32,
        frame: &[u8],
    ) -> (Result<Verdict, DropReason>, State) {
        let mut state = State::default();
        let arrival = Arrival { ifindex, ingress_ifindex, vlan: false };
        self.generation_reads.set(0);
        let verdict = walk(hook, self, &Bytes(frame), &arrival, &mut state);
        assert_eq!(self.generation_reads.get(), 1, "a packet reads the generation once");
        (verdict, state)
    }

    /// What becomes of a frame of the pod in `slot`.
    pub fn pod_sends(&self, slot: u32, frame: &[u8]) -> Result<Verdict, DropReason> {
        self.run(Hook::FromWorkload, slot, slot, frame).0
    }

    /// What becomes of a frame from outside.
    pub fn arrives(&self, frame: &[u8]) -> Result<Verdict, DropReason> {
        self.run(Hook::FromUplink, UPLINK, UPLINK, frame).0
    }

    /// What becomes of a frame of the host for the pod in `slot`.
    pub fn host_sends(&self, slot: u32, frame: &[u8]) -> Result<Verdict, DropReason> {
        self.run(Hook::ToWorkload, slot, 0, frame).0
    }

    /// The only flow there is.
    ///
    /// # Panics
    /// There is none, or more than one.
    pub fn flow_now(&self) -> &Flow {
        let flows = self.flows();
        assert_eq!(flows.len(), 1);
        flows[0].1
    }

    /// All flows, by key.
    pub fn flows(&self) -> Vec<(FlowKey, &Flow)> {
        let flows = self.flows.borrow();
        flows.iter().filter_map(|(key, place)| Some((*key, self.shelf.at(*place)?))).collect()
    }
}

/// A frame in memory.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Frame for Bytes<'_> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.get(at as usize..)?.first_chunk().copied()
    }
}

impl Tables for Node {
    const DRY: bool = false;
    fn generation(&self) -> u64 {
        self.generation_reads.set(self.generation_reads.get() + 1);
        self.generation.get()
    }
    fn now_s(&self) -> u32 {
        self.now_s.get()
    }
    fn slot_of_interface(&self, ifindex: u32) -> Option<u32> {
        self.interfaces.get(&ifindex).copied()
    }
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.endpoints.get(slot as usize)
    }
    fn class_of_address(&self, address: &Address) -> Option<u32> {
        self.addresses.get(address).copied()
    }
    fn class_of_net(&self, address: &Address) -> Option<u32> {
        let bits = u128::from_be_bytes(address.to_bytes());
        let covers = |net: &NetKey| (bits ^ u128::from_be_bytes(net.address)).leading_zeros() >= net.prefix_len;
        let over = self.nets.iter().filter(|(net, _)| covers(net));
        over.max_by_key(|(net, _)| net.prefix_len).map(|(_, class)| *class)
    }
    fn class(&self, slot: u32) -> Option<&ClassEntry> {
        self.classes.get(slot as usize)
    }
    fn set(&self, id: u32) -> Option<&SetEntry> {
        self.sets.get(id as usize)
    }
    fn row(&self, key: &RowKey) -> Option<RowRef> {
        self.rows.get(key).copied()
    }
    fn span(&self, index: u32) -> Option<Span> {
        self.spans.get(index as usize).copied()
    }
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.shelf.at(*self.flows.borrow().get(key)?)
    }
    fn insert_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> bool {
        let mut flows = self.flows.borrow_mut();
        let fits = flows.len() < self.room.get() || flows.contains_key(key);
        if fits {
            flows.insert(*key, self.shelf.put(Flow::of(entry)));
        }
        fits
    }
    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().iter().find(|(known, _)| known == key).map(|(_, ports)| *ports)
    }
    fn insert_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        let mut fragments = self.fragments.borrow_mut();
        fragments.retain(|(known, _)| known != key);
        fragments.push((*key, *ports));
    }
    fn count_hit(&self, _: u32) {}
}

macro_rules! reads {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result { self.0.$name($($argument),*) })*
    };
}

impl Tables for Twin<'_> {
    const DRY: bool = true;
    reads! {
        generation() -> u64;
        now_s() -> u32;
        slot_of_interface(ifindex: u32) -> Option<u32>;
        endpoint(slot: u32) -> Option<&Endpoint>;
        class_of_address(address: &Address) -> Option<u32>;
        class_of_net(address: &Address) -> Option<u32>;
        class(slot: u32) -> Option<&ClassEntry>;
        set(id: u32) -> Option<&SetEntry>;
        row(key: &RowKey) -> Option<RowRef>;
        span(index: u32) -> Option<Span>;
        flow(key: &FlowKey) -> Option<&Flow>;
        fragment(key: &FragmentKey) -> Option<FragmentPorts>;
    }
    fn insert_flow(&self, _: &FlowKey, _: &ConntrackEntry) -> bool {
        panic!("a dry run opened a flow")
    }
    fn remove_flow(&self, _: &FlowKey) {
        panic!("a dry run removed a flow")
    }
    fn insert_fragment(&self, _: &FragmentKey, _: &FragmentPorts) {
        panic!("a dry run remembered a fragment")
    }
    fn count_hit(&self, _: u32) {
        panic!("a dry run counted")
    }
}

/// An Ethernet and IPv4 header before `payload`. Slot 0 stands for what is outside.
pub fn ipv4(from: (u32, u8), to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(GATEWAY_MAC);
    frame.extend(mac(from.0));
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 7, 0, 0, 64, protocol, 0, 0, 10, 65, 0, from.1, 10, 65, 0, to]);
    frame.extend(payload);
    frame
}

/// A TCP segment.
pub fn tcp(from: (u32, u8), to: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    ipv4(from, to, 6, &payload)
}

/// A UDP datagram without data.
pub fn udp(from: (u32, u8), to: u8, ports: (u16, u16)) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend([0, 8, 0, 0]);
    ipv4(from, to, 17, &payload)
}

/// An ICMP message with an identifier.
pub fn icmp(from: (u32, u8), to: u8, icmp_type: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    ipv4(from, to, 1, &[icmp_type, 0, 0, 0, high, low, 0, 0])
}
