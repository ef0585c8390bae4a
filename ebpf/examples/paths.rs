//! The ways of typical packets through the stages, to be counted: `paths` lists them, `paths NAME TIMES` walks one.
//! In: the node in memory. Out: lines `NAME lookups N writes N array_reads N`.
//! Invariant: every walk of a way does the same; the stages stand apart from the tables, so that a profiler tells them.
//! Never: measures time.

use abi::address::ClassEntry;
use abi::fragment::{FragmentKey, FragmentPorts};
use abi::service::{BACKEND_CHOSEN, BACKEND_LISTED};
use abi::{
    Address, Affinity, AffinityKey, Announcing, Backend, Balancer, ConntrackEntry, DropReason, Endpoint, FlowKey,
    Frontend, Masquerade, Member, RowKey, RowRef, ServiceKey, SetEntry, Span, Ticket, TunnelEnd, Word,
};
use ebpf::entry::Flow;
use ebpf::fake::{Bytes, Node, SOME, UPLINK, mac, tcp, udp};
use ebpf::recent::Note;
use ebpf::tables::{Announcements, Arrival, Inserted, Replaced, Services, Tables};
use ebpf::walk::{Hook, State, Verdict, walk};
use std::cell::Cell;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// The tables, each question counted. Out of line, so that their instructions are not the stages'.
struct Counting<'a> {
    node: &'a Node,
    lookups: Cell<u64>,
    writes: Cell<u64>,
    array_reads: Cell<u64>,
}

macro_rules! counted {
    ($($counter:ident: $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[inline(never)]
        fn $name(&self, $($argument: $type),*) -> $result {
            self.$counter.set(self.$counter.get() + 1);
            self.node.$name($($argument),*)
        })*
    };
}

impl Services for Counting<'_> {
    counted! {
        lookups: service(key: &ServiceKey) -> Option<u32>;
        array_reads: frontend(slot: u32) -> Option<&Frontend>;
        array_reads: balancer(id: u32) -> Option<&Balancer>;
        array_reads: member(index: u32) -> Option<Member>;
        array_reads: backend(slot: u32) -> Option<&Backend>;
        lookups: affinity(key: &AffinityKey) -> Option<Affinity>;
        writes: insert_affinity(key: &AffinityKey, kept: &Affinity) -> ();
        writes: count_opened(frontend: u32, backend: u32) -> ();
        writes: count_refused(frontend: u32) -> ();
        array_reads: own_address(v6: bool) -> Option<&Address>;
        array_reads: masquerade(v6: bool) -> Option<&Masquerade>;
        lookups: tunnel_behind(address: &Address) -> Option<&TunnelEnd>;
    }
    #[inline(never)]
    fn random(&self) -> u32 {
        self.node.random()
    }
}

impl Announcements for Counting<'_> {
    counted! {
        array_reads: announcing() -> Option<&Announcing>;
        lookups: announced(address: &Address) -> Option<u32>;
        array_reads: now_ns() -> u64;
    }
}

impl Tables for Counting<'_> {
    const DRY: bool = false;
    counted! {
        array_reads: generation() -> u64;
        lookups: slot_of_interface(ifindex: u32) -> Option<u32>;
        array_reads: endpoint(slot: u32) -> Option<&Endpoint>;
        lookups: class_of_address(address: &Address) -> Option<u32>;
        lookups: class_of_net(address: &Address) -> Option<u32>;
        array_reads: class(slot: u32) -> Option<&ClassEntry>;
        array_reads: set(id: u32) -> Option<&SetEntry>;
        lookups: row(key: &RowKey) -> Option<RowRef>;
        array_reads: span(index: u32) -> Option<Span>;
        lookups: flow(key: &FlowKey) -> Option<&Flow>;
        lookups: new_flow(key: &FlowKey) -> Option<&Flow>;
        array_reads: note(place: u32) -> Option<&Note>;
        array_reads: openings(slot: u32) -> u32;
        array_reads: count_opening(slot: u32) -> ();
        writes: insert_new_flow(key: &FlowKey, entry: &ConntrackEntry) -> bool;
        writes: insert_new_flow_at(key: &FlowKey, entry: &ConntrackEntry, is_first: bool) -> bool;
        writes: insert_flow(key: &FlowKey, entry: &ConntrackEntry) -> Inserted;
        writes: replace_flow(key: &FlowKey, entry: &ConntrackEntry) -> Replaced;
        writes: remove_flow(key: &FlowKey) -> bool;
        writes: push_ticket(ticket: &Ticket) -> bool;
        array_reads: flows_of(account: u32) -> i64;
        array_reads: count_flow(account: u32, by: i64) -> i64;
        array_reads: flow_quota() -> u32;
        array_reads: lifetime_s(timeout: u8) -> i32;
        array_reads: now_s() -> u32;
        lookups: fragment(key: &FragmentKey) -> Option<FragmentPorts>;
        writes: insert_fragment(key: &FragmentKey, ports: &FragmentPorts) -> ();
        array_reads: count_hit(hit: u32) -> ();
    }
    #[inline(never)]
    fn claim(&self, flow: &Flow) -> u32 {
        self.node.claim(flow)
    }
    #[inline(never)]
    fn serial(&self) -> u32 {
        self.node.serial()
    }
}

/// One packet through one hook; every instruction of it and of what it calls is a stage's, but for the tables'.
#[inline(never)]
fn stages(hook: Hook, tables: &Counting<'_>, frame: &[u8], arrival: &Arrival) -> Result<Verdict, DropReason> {
    let mut state = State::default();
    walk(hook, tables, &Bytes(frame), arrival, &mut state)
}

/// A way: what came before, and the packet that is counted.
struct Way {
    name: &'static str,
    hook: Hook,
    /// Interface, and the one the packet came in by.
    interfaces: [u32; 2],
    before: Vec<(Hook, [u32; 2], Vec<u8>)>,
    /// The packet; every walk has another source port where flows are new.
    frame: fn(u16) -> Vec<u8>,
    wanted: Result<Verdict, DropReason>,
    /// A second passes before each walk, so that no note of the flow serves.
    apart: bool,
    /// The node has a service.
    served: bool,
}

/// A segment from a pod (slot, last byte of its address) to another, with ports and flags.
type Segment = fn((u32, u8), u8, (u16, u16), u8) -> Vec<u8>;

/// More packets than a flow needs to be noted.
const MANY: usize = 40;

fn ways() -> Vec<Way> {
    let (sends, first, second) = (Hook::FromWorkload, [2, 2], [3, 3]);
    let handshake = |frame: Segment| {
        vec![
            (sends, first, frame((2, 2), 3, (4000, 80), SYN)),
            (sends, second, frame((3, 3), 2, (80, 4000), SYN | ACK)),
            (sends, first, frame((2, 2), 3, (4000, 80), ACK)),
        ]
    };
    let way = |name, frame, before, wanted| Way {
        name,
        hook: sends,
        interfaces: first,
        before,
        frame,
        wanted,
        apart: true,
        served: false,
    };
    let to_second = Ok(Verdict::ToEndpoint(3));
    // The answer to an answer makes it a flow.
    let asked = vec![
        (sends, first, udp((2, 2), 3, (4000, 53))),
        (sends, second, udp((3, 3), 2, (53, 4000))),
        (sends, first, udp((2, 2), 3, (4000, 53))),
    ];
    let uplink = [UPLINK, UPLINK];
    let opened = vec![
        (Hook::FromUplink, uplink, tcp((0, 77), 3, (4000, 80), SYN)),
        (sends, second, tcp((3, 3), 77, (80, 4000), SYN | ACK)),
        (Hook::FromUplink, uplink, tcp((0, 77), 3, (4000, 80), ACK)),
    ];
    let by_host = vec![
        (Hook::ToWorkload, [3, 0], tcp((1, 1), 3, (4000, 80), SYN)),
        (sends, second, tcp((3, 3), 1, (80, 4000), SYN | ACK)),
        (Hook::ToWorkload, [3, 0], tcp((1, 1), 3, (4000, 80), ACK)),
    ];
    let mut ways = vec![
        way("established-tcp-v4", |_| tcp((2, 2), 3, (4000, 80), ACK), handshake(tcp), to_second),
        way("established-tcp-v6", |_| tcp_v6(2, 3, (4000, 80), ACK), handshake(v6_of), to_second),
        way("established-udp-v4", |_| udp((2, 2), 3, (4000, 53)), asked, to_second),
        Way {
            before: [handshake(tcp), vec![(sends, first, tcp((2, 2), 3, (4000, 80), ACK)); MANY]].concat(),
            apart: false,
            ..way("recent-tcp-v4", |_| tcp((2, 2), 3, (4000, 80), ACK), Vec::new(), to_second)
        },
        Way {
            before: vec![(sends, first, udp((2, 2), 3, (4000, 53))), (sends, second, udp((3, 3), 2, (53, 4000)))]
                .into_iter()
                .chain(vec![(sends, first, udp((2, 2), 3, (4000, 53))); MANY])
                .collect(),
            apart: false,
            ..way("recent-udp-v4", |_| udp((2, 2), 3, (4000, 53)), Vec::new(), to_second)
        },
        way("new-tcp-v4", |port| tcp((2, 2), 3, (port, 80), SYN), Vec::new(), to_second),
        way("refused-tcp-v4", |port| tcp((2, 2), 3, (port, 99), SYN), Vec::new(), Err(DropReason::IngressPolicy)),
        way("arp-request", |_| arp(2), Vec::new(), Ok(Verdict::AnswerArp)),
        Way {
            hook: Hook::FromUplink,
            interfaces: uplink,
            ..way("from-uplink-established-tcp-v4", |_| tcp((0, 77), 3, (4000, 80), ACK), opened, to_second)
        },
        Way {
            hook: Hook::ToWorkload,
            interfaces: [3, 0],
            ..way("to-workload-established-tcp-v4", |_| tcp((1, 1), 3, (4000, 80), ACK), by_host, to_second)
        },
    ];
    ways.extend(ways_through_service());
    ways.extend(ways_of_nobodys());
    ways
}

/// A segment of a connection to the service, and one back.
fn ways_through_service() -> [Way; 2] {
    let (sends, first, second) = (Hook::FromWorkload, [2, 2], [3, 3]);
    let before = vec![
        (sends, first, tcp((2, 2), VIP, (4000, 443), SYN)),
        (sends, second, tcp((3, 3), 2, (80, 4000), SYN | ACK)),
        (sends, first, tcp((2, 2), VIP, (4000, 443), ACK)),
    ];
    let to_service = Way {
        name: "service-tcp-v4",
        hook: sends,
        interfaces: first,
        before: before.clone(),
        frame: |_| tcp((2, 2), VIP, (4000, 443), ACK),
        wanted: Ok(Verdict::ToEndpoint(3)),
        apart: true,
        served: true,
    };
    let back = Way {
        name: "service-answer-tcp-v4",
        interfaces: second,
        before,
        frame: |_| tcp((3, 3), 2, (80, 4000), ACK),
        wanted: Ok(Verdict::ToEndpoint(2)),
        ..to_service
    };
    [to_service, back]
}

/// What the node itself sends by its uplink, and is no answer of a service's; nor, where its packets are led, a question to one.
fn ways_of_nobodys() -> [Way; 2] {
    let no_answer = Way {
        name: "to-uplink-no-answer-tcp-v4",
        hook: Hook::ToUplink,
        interfaces: [UPLINK, 0],
        before: Vec::new(),
        frame: |_| tcp((9, 1), 77, (80, 4000), ACK),
        wanted: Ok(Verdict::Untouched),
        apart: true,
        served: false,
    };
    let (name, hook, before) = ("from-node-no-service-tcp-v4", Hook::FromNode, Vec::new());
    let no_question = Way { name, hook, before, served: true, ..no_answer };
    [no_answer, no_question]
}

/// The service's address; behind it is the second pod.
const VIP: u8 = 99;

fn serve(node: &mut Node) {
    let (address, port) = (ebpf::fake::v4(VIP), 443u16.to_be_bytes());
    node.frontends[0].inside = Word::settled(1);
    node.frontends.push(Frontend { inside: Word::settled(1), ..Frontend::default() });
    node.services.insert(ServiceKey { address, port, protocol: 6, pad: [0; 5] }, 1);
    node.members = vec![Member { backend: 1, pad: 0 }];
    node.balancers = vec![Balancer::default(), Balancer { of: 7, len: 1, ..Balancer::default() }];
    let standing = Word::settled(BACKEND_LISTED | BACKEND_CHOSEN);
    let (address, port) = (ebpf::fake::v4(3), 80u16.to_be_bytes());
    node.backends = vec![Backend::default(), Backend { standing, address, of: 7, born: 1, port, pad: [0; 2] }];
}

fn node() -> Node {
    let mut node = Node::new();
    for slot in [2, 3] {
        node.owns(v6(slot as u8), slot);
    }
    node.change_ingress(3, SOME);
    for room in [&node.tracked.room, &node.tracked.new_room, &node.tracked.queue_room] {
        room.set(1 << 20);
    }
    node.tracked.quota.set(1 << 20);
    node
}

fn v6(last: u8) -> Address {
    Address::from_bytes([0xfd, 0, 0, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

fn v6_of(from: (u32, u8), to: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp_v6(from.1, to, ports, flags)
}

fn tcp_v6(from: u8, to: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let v4 = tcp((u32::from(from), from), to, ports, flags);
    let segment = &v4[34..];
    let mut frame = v4[..12].to_vec();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, segment.len() as u8, 6, 64]);
    frame.extend(v6(from).to_bytes());
    frame.extend(v6(to).to_bytes());
    frame.extend(segment);
    frame
}

/// Who has the gateway's address?
fn arp(from: u8) -> Vec<u8> {
    let mut frame = [0xff; 6].to_vec();
    frame.extend(mac(u32::from(from)));
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac(u32::from(from)));
    frame.extend([10, 65, 0, from]);
    frame.extend([0; 6]);
    frame.extend([169, 254, 1, 1]);
    frame
}

/// Walks a way; lookups, writes and array reads of all walks.
fn run(way: &Way, times: u16) -> [u64; 3] {
    let mut node = node();
    if way.served {
        serve(&mut node);
    }
    for (hook, [ifindex, ingress], frame) in &way.before {
        let (verdict, _) = node.run(*hook, *ifindex, *ingress, frame);
        assert!(verdict.is_ok(), "{}: before: {verdict:?}", way.name);
    }
    let zero = || Cell::new(0);
    let tables = Counting { node: &node, lookups: zero(), writes: zero(), array_reads: zero() };
    let [ifindex, ingress_ifindex] = way.interfaces;
    for number in 0..times {
        node.now_s.set(node.now_s.get() + u32::from(way.apart));
        let frame = (way.frame)(10_000 + number);
        let verdict = stages(way.hook, &tables, &frame, &Arrival { ifindex, ingress_ifindex, ..Arrival::default() });
        assert_eq!(verdict, way.wanted, "{}", way.name);
    }
    [&tables.lookups, &tables.writes, &tables.array_reads].map(Cell::get)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let times = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    for way in ways().iter().filter(|way| arguments.first().is_none_or(|name| name == way.name)) {
        let [lookups, writes, array_reads] = run(way, times);
        println!("{} lookups {lookups} writes {writes} array_reads {array_reads}", way.name);
    }
}
