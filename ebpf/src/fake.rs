//! A node in memory: the tables, and frames to send through the stages.
//! In: what a test says of pods, peers and rules. Out: verdicts and entries.
//! Invariant: behaves as the kernel's tables do: unknown keys miss, indexes past the end are absent.
//! Never: part of a program.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use abi::address::ClassEntry;
use abi::endpoint::{ENDPOINT_READY, SLOT_HOST};
use abi::fragment::{FragmentKey, FragmentPorts};
use abi::rules::{SpanKind, x_of};
use abi::{
    Address, Affinity, AffinityKey, Backend, Balancer, ConntrackEntry, DropReason, Endpoint, FlowKey, Frontend,
    Masquerade, Member, NetKey, RowKey, RowRef, ServiceKey, SetEntry, Span, Ticket, TunnelEnd, Word, handover,
};

use crate::entry::Flow;
pub use crate::made::{Bytes, icmp, ipv4, mac, tcp, udp};
use crate::recent::{NOTES, Note};
use crate::shelf::FlowTables;
use crate::tables::{Arrival, Inserted, Replaced, Tables};
use crate::walk::{Hook, State, Verdict, leave, walk};

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
    pub services: BTreeMap<ServiceKey, u32>,
    pub frontends: Vec<Frontend>,
    pub balancers: Vec<Balancer>,
    pub members: Vec<Member>,
    pub backends: Vec<Backend>,
    pub affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    pub counted: RefCell<crate::fake_services::Counted>,
    pub announced: crate::fake_services::Announced,
    pub sockets: RefCell<crate::fake_services::Peers>,
    pub fragments: RefCell<Vec<(FragmentKey, FragmentPorts)>>,
    pub tracked: FlowTables,
    pub notes: Vec<Note>,
    /// Flows that each endpoint has opened.
    pub openings: RefCell<BTreeMap<u32, u32>>,
    /// The clock.
    pub now_s: Cell<u32>,
    generation_reads: Cell<u32>,
    pub source: Option<Address>,
    pub masquerade: Option<Masquerade>,
    /// Of the nodes that tunnels lead to, by each one's own address.
    pub tunnels: BTreeMap<Address, TunnelEnd>,
    pub chance: Cell<u32>,
}

/// A twin: reads the same node, writes nothing.
#[derive(Debug)]
pub struct Twin<'a>(pub &'a Node);

/// The address .`last` of the pods' network.
#[must_use]
pub fn v4(last: u8) -> Address {
    Address::from_v4([10, 65, 0, last])
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
            notes: (0..NOTES).map(|_| Note::default()).collect(),
            openings: RefCell::default(),
            endpoints: vec![Endpoint::default(); 2],
            classes: vec![ClassEntry::default()],
            frontends: vec![Frontend::default()],
            sets: vec![SetEntry::default(), set(0, 1), set(1, 7)],
            spans,
            tracked: FlowTables::with_room(100),
            source: Some(v4(1)),
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
                layers: abi::Layers::default(),
                spare: [0; 4],
                sources: Word::settled(0),
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
        self.run_from(hook, &Arrival { ifindex, ingress_ifindex, ..Arrival::default() }, frame)
    }

    /// The same, with all that a hook says of it.
    ///
    /// # Panics
    /// A stage read the generation twice.
    pub fn run_from(&self, hook: Hook, arrival: &Arrival, frame: &[u8]) -> (Result<Verdict, DropReason>, State) {
        // What another packet left there.
        let mut state = State { key: FlowKey { zone: [7; 3], ..FlowKey::default() }, ..State::default() };
        state.forget();
        let mut arrival = *arrival;
        if hook == Hook::ToHostEndpoint {
            if let Err(reason) = leave(self, &Bytes(frame), &arrival, &mut state) {
                return (Err(reason), state);
            }
            arrival.handed = handover::to_cb(state.generation);
            state.forget();
        }
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
    fn note(&self, place: u32) -> Option<&Note> {
        self.notes.get(place as usize)
    }
    fn openings(&self, slot: u32) -> u32 {
        self.openings.borrow().get(&slot).copied().unwrap_or_default()
    }
    fn count_opening(&self, slot: u32) {
        *self.openings.borrow_mut().entry(slot).or_default() += 1;
    }
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.tracked.flow(key)
    }
    fn new_flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.tracked.new_flow(key)
    }
    fn insert_new_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> bool {
        self.tracked.insert_new(key, entry)
    }
    fn insert_new_flow_at(&self, key: &FlowKey, entry: &ConntrackEntry, is_first: bool) -> bool {
        !(is_first && self.tracked.new_flow(key).is_some()) && self.tracked.insert_new(key, entry)
    }
    fn insert_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> Inserted {
        self.tracked.insert(key, entry)
    }
    fn replace_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> Replaced {
        self.tracked.replace(key, entry)
    }
    fn claim(&self, flow: &Flow) -> u32 {
        flow.serial.replace(0)
    }
    fn remove_flow(&self, key: &FlowKey) -> bool {
        self.tracked.remove(key)
    }
    fn push_ticket(&self, ticket: &Ticket) -> bool {
        self.tracked.push(ticket)
    }
    fn serial(&self) -> u32 {
        self.tracked.next_serial()
    }
    fn flows_of(&self, account: u32) -> i64 {
        self.tracked.count(account, 0)
    }
    fn count_flow(&self, account: u32, by: i64) -> i64 {
        self.tracked.count(account, by)
    }
    fn flow_quota(&self) -> u32 {
        self.tracked.quota.get()
    }
    fn lifetime_s(&self, timeout: u8) -> i32 {
        self.tracked.timeouts.seconds(timeout)
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
