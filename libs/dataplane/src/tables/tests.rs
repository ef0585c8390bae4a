//! The promise of the tables, held at every crash point: one revision before the generation's store, the next after.
//! In: random sequences of small Desireds. Out: what packets are told, against what the Desired says.
//! Invariant: the expectation is worked out from the Desired alone, without tables.
//! Never: a time, a thread or a kernel.

use super::{
    CommitError, Guarded, Tables, Write,
    fake::{At, FakeStore, Layer, OWN, PORT, Probe},
    image::Image,
    order, prefix,
    step::Step,
    write::{Snapshot, Store},
};
use abi::endpoint::{SLOT_HOST, SLOT_NONE};
use abi::{ClassEntry, Endpoint, RowKey, RowRef, Span, Word};
use calc::{
    Desired, HostEndpointSpec, Judges, NodeSpec,
    desired::{AddressSpec, EndpointSpec, Owner},
};
use model::{
    AttachmentId, Cidr, Direction, IfaceName, Mac, PodId, PolicyId, PolicyKind, PortRange, Protocol, Selector, TierEnd,
    TierName,
};
use policy::{
    Answer, Class, Decider, Hit, PacketTest, PeerTest, PolicyRules, RuleSet, SetAction, SetPort, SetRule, TierRules,
    Verdict,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

mod followed;
mod hosts;
mod late;

const ADDRESSES: [&str; 5] = ["10.65.0.2", "10.65.0.3", "10.65.1.4", "fd00::2", "192.0.2.1"];
const NETS: [&str; 6] = ["10.65.0.0/16", "10.65.0.0/24", "10.65.0.3/32", "::/0", "0.0.0.0/0", "fd00::/64"];
const STRANGERS: [&str; 3] = ["10.65.0.99", "198.51.100.7", "fd00::99"];

fn address(text: &str) -> IpAddr {
    text.parse().expect("a valid address")
}

pub(super) fn attachment(number: u8) -> AttachmentId {
    AttachmentId { network: "tortie".into(), container: format!("c{number}"), interface: "eth0".into() }
}

fn selector(number: u8) -> Arc<Selector> {
    Arc::new(Selector::Equals("app".into(), number.to_string()))
}

/// A rule for one port, asking for a selector, a network, or nothing; for a source port, or where the own address lies.
pub(super) fn rule(peer: u8, port: u16, action: SetAction) -> SetRule {
    asking(peer, 0, port, action)
}

fn asking(peer: u8, asks: u8, port: u16, action: SetAction) -> SetRule {
    let peer = match peer {
        0 | 1 => PeerTest { selector: Some(selector(peer)), ..PeerTest::default() },
        2 | 3 => PeerTest {
            nets: Some(vec![NETS[usize::from(peer - 2)].parse().expect("a network")]),
            ..PeerTest::default()
        },
        _ => PeerTest::default(),
    };
    let net = |number: u8| Some(vec![NETS[usize::from(number)].parse().expect("a network")]);
    let own = if asks & 4 != 0 { PeerTest { nets: net(asks & 3), ..PeerTest::default() } } else { PeerTest::default() };
    let single = |port| Some(vec![SetPort::Range(PortRange::single(port))]);
    let source_ports = if asks & 8 != 0 { single(68 + u16::from(asks & 1)) } else { None };
    let packet =
        PacketTest { protocol: Some(Protocol::TCP), ports: single(port), source_ports, ..PacketTest::default() };
    SetRule { packet, peer, own, ..SetRule::new(port, action) }
}

pub(super) fn rule_set(direction: Direction, rules: Option<Vec<SetRule>>) -> Arc<RuleSet> {
    let id = PolicyId { name: "p".into(), namespace: "default".into(), kind: PolicyKind::KubernetesNetworkPolicy };
    let tier = |rules| TierRules {
        name: TierName::DEFAULT.into(),
        end: TierEnd::Deny,
        policies: vec![PolicyRules { id, rules }],
    };
    Arc::new(RuleSet { tiers: rules.map(tier).into_iter().collect(), ..RuleSet::new(direction) })
}

fn rules() -> impl Strategy<Value = Option<Vec<SetRule>>> {
    let actions = prop::sample::select(vec![SetAction::Allow, SetAction::Deny, SetAction::Log]);
    let asks = prop_oneof![2 => Just(0u8), 1 => 0u8..16];
    let one =
        (0u8..5, asks, 80u16..83, actions).prop_map(|(peer, asks, port, action)| asking(peer, asks, port, action));
    prop::option::of(prop::collection::vec(one, 0..3))
}

/// Rules for one direction; `None`: no policy applies.
pub(super) type Rules = Option<Vec<SetRule>>;

/// Which networks there are, which selectors each address has, who is there, and their rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Sketch {
    pub(super) nets: u8,
    pub(super) addresses: [Option<u8>; 5],
    pub(super) endpoints: [Option<(Rules, Rules)>; 3],
    /// A host endpoint's rules for what comes in, layer by layer, and what the one of all interfaces asks of pods: before
    /// translation and on forward.
    pub(super) host: Option<[Rules; 4]>,
    pub(super) node: [Rules; 2],
    pub(super) refuses: bool,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let endpoint = || prop::option::weighted(0.8, (rules(), rules()));
    let host = prop::option::weighted(0.6, [rules(), rules(), rules(), rules()]);
    let endpoints = [endpoint(), endpoint(), endpoint()];
    let addresses = prop::array::uniform5(prop::option::of(0u8..4));
    let node = ([rules(), rules()], any::<bool>());
    (0u8..64, addresses, endpoints, host, node).prop_map(|(nets, addresses, endpoints, host, (node, refuses))| Sketch {
        nets,
        addresses,
        endpoints,
        host,
        node,
        refuses,
    })
}

fn nets_over(nets: &[Cidr], covers: impl Fn(&Cidr) -> bool) -> std::collections::BTreeSet<Cidr> {
    nets.iter().filter(|net| covers(net)).copied().collect()
}

impl Sketch {
    pub(super) fn desired(&self) -> Desired {
        let nets: Vec<Cidr> = (0..6)
            .filter(|bit| self.nets & 1 << bit != 0)
            .map(|bit: usize| NETS[bit].parse().expect("a network"))
            .collect();
        let class = |selectors: u8, nets| {
            let selectors = (0..2).filter(|bit| selectors & 1 << bit != 0).map(selector).collect();
            Arc::new(Class { selectors, nets, ..Class::default() })
        };
        let mut desired = Desired {
            nets: nets.iter().map(|net| (*net, class(0, nets_over(&nets, |wide| wide.covers(net))))).collect(),
            ..Desired::default()
        };
        for (number, text) in (0u8..).zip(ADDRESSES) {
            let ip = address(text);
            if let Some(selectors) = self.addresses[usize::from(number)] {
                let class = class(selectors, nets_over(&nets, |net| net.contains(ip)));
                let owner = match number {
                    0..=2 if self.endpoints[usize::from(number)].is_some() => Owner::Endpoint(attachment(number)),
                    4.. => Owner::Host,
                    _ => Owner::Elsewhere,
                };
                desired.addresses.insert(ip, AddressSpec { class, owner });
            }
        }
        for (number, endpoint) in (0u8..).zip(&self.endpoints) {
            if let Some((ingress, egress)) = endpoint {
                desired.endpoints.insert(attachment(number), spec(number, ingress.clone(), egress.clone()));
            }
        }
        if let Some(layers) = self.host.clone() {
            let spec = host(0, layers);
            desired.host_endpoints.insert(spec.interface.clone(), spec);
        }
        let [pre_dnat, forward] = self.node.clone().map(judges);
        desired.node =
            NodeSpec { pre_dnat, forward, rejects: false, refuses_workloads: self.refuses, ..NodeSpec::default() };
        desired
    }
}

fn spec(number: u8, ingress: Option<Vec<SetRule>>, egress: Option<Vec<SetRule>>) -> EndpointSpec {
    EndpointSpec {
        masqueraded: [false; 2],
        pod: PodId::new("default", &number.to_string()),
        interface: IfaceName(format!("cali{number}")),
        mac: Mac([2, 0, 0, 0, 0, number]),
        mtu: 1500,
        addresses: vec![address(ADDRESSES[usize::from(number)])],
        floating: Vec::new(),
        // A set of its own, that comes and goes as the others do.
        sources: ingress
            .clone()
            .filter(|rules| number.is_multiple_of(2) && rules.len() < 10)
            .map(|rules| rule_set(Direction::Egress, Some(rules))),
        ingress: rule_set(Direction::Ingress, ingress),
        egress: rule_set(Direction::Egress, egress),
        keep_established: false,
    }
}

/// Rules for what comes in; `None`: open.
fn judges(rules: Rules) -> Judges {
    Judges { ingress: rules.map(|rules| rule_set(Direction::Ingress, Some(rules))), egress: None }
}

fn host(number: u8, [local, untracked, pre_dnat, forward]: [Rules; 4]) -> HostEndpointSpec {
    HostEndpointSpec {
        name: format!("host{number}"),
        interface: IfaceName(format!("eth{number}")),
        untracked: judges(untracked),
        pre_dnat: judges(pre_dnat),
        forward: judges(forward),
        local: judges(local),
        keep_established: false,
    }
}

pub(super) fn guarded(name: &IfaceName) -> Option<Guarded> {
    Some(Guarded { ifindex: ifindex(name)?, is_queued: false, is_uplink: name.0 == "eth0" })
}

fn ifindex(name: &IfaceName) -> Option<u32> {
    let number = |prefix: &str| name.0.strip_prefix(prefix).and_then(|number| number.parse::<u32>().ok());
    number("cali").map(|number| 100 + number).or_else(|| number("eth").map(|number| 200 + number))
}

/// The set that is asked there; without one, whether everything passes or nothing.
fn set_at(desired: &Desired, at: At, direction: Direction) -> Result<Arc<RuleSet>, bool> {
    let one = |judges: &Judges| {
        let set = if direction == Direction::Ingress { &judges.ingress } else { &judges.egress };
        set.clone().ok_or(true)
    };
    match at {
        At::Pod(index) => {
            let spec = desired.endpoints.values().find(|spec| ifindex(&spec.interface) == Some(index));
            let set = |spec: &EndpointSpec| match direction {
                Direction::Ingress => Arc::clone(&spec.ingress),
                Direction::Egress => Arc::clone(&spec.egress),
            };
            spec.map(set).ok_or(false)
        }
        At::Host(index, layer) => {
            let found = desired.host_endpoints.values().find(|spec| ifindex(&spec.interface) == Some(index));
            let spec = found.ok_or(true)?;
            one(match layer {
                Layer::Local => &spec.local,
                Layer::Untracked => &spec.untracked,
                Layer::PreDnat => &spec.pre_dnat,
                Layer::Forward => &spec.forward,
            })
        }
        At::Node(Layer::PreDnat) => one(&desired.node.pre_dnat),
        At::Node(Layer::Forward) => one(&desired.node.forward),
        At::Node(Layer::Local | Layer::Untracked) => Err(true),
        At::ToNode => Err(!desired.node.refuses_workloads),
        // Held by `services::tests`.
        At::Service(_) => Err(false),
    }
}

/// What the Desired itself says: the specification.
fn expected(desired: &Desired, at: At, direction: Direction, peer: IpAddr, x: u32) -> (bool, Option<Decider>) {
    let set = match set_at(desired, at, direction) {
        Ok(set) => set,
        Err(passes) => return (passes, None),
    };
    let class_of = |address: IpAddr| {
        let longest = || {
            let over = desired.nets.iter().filter(|(net, _)| net.contains(address));
            over.max_by_key(|(net, _)| net.prefix_len()).map(|(_, class)| (**class).clone()).unwrap_or_default()
        };
        desired.addresses.get(&address).map_or_else(longest, |spec| (*spec.class).clone())
    };
    let hit = decision(&set, &class_of(peer), &class_of(prefix::address_of(OWN)), x);
    (hit.verdict == Verdict::Allow, Some(hit.decider))
}

/// What a set's rows say.
fn decision(set: &RuleSet, peer: &Class, own: &Class, x: u32) -> Hit {
    let row = policy::row(set, peer);
    match row.at(x).expect("a row covers every x").answer.clone() {
        Answer::Decided(hit) => hit,
        Answer::Ports(ports) => ports.iter().rfind(|port| port.start <= PORT).expect("all").hit.clone(),
        Answer::Cell(rest) => decision(&rest, own, own, x),
    }
}

/// Hit ids of every revision so far to their meaning.
pub(super) type Hits = BTreeMap<u32, Decider>;

pub(super) fn hits(names: &super::Names) -> Hits {
    names.hits.iter().map(|(hit, id)| (*id, hit.decider.clone())).collect()
}

/// Asks everything of the store, and holds it against the Desired.
pub(super) fn assert_speaks(store: &FakeStore, desired: &Desired, hits: &Hits, when: &str) {
    let xs = [0, abi::rules::x_of(6, 80), abi::rules::x_of(6, 81), abi::rules::x_of(6, 82), abi::rules::x_of(17, 80)];
    for text in ADDRESSES.iter().chain(&STRANGERS) {
        let peer = address(text);
        let key = prefix::address_key(peer).expect("not a mapped address");
        assert_eq!(store.resolve(key).1, owner(store, desired, peer), "{when}: owner of {text}");
        for (at, direction, x) in questions(&xs) {
            let (allowed, hit) = store.judge(at, direction, key, x);
            let wanted = expected(desired, at, direction, peer, x);
            assert_eq!((allowed, hits.get(&hit).cloned()), wanted, "{when}: {at:?} {direction} {text} {x:#x}");
        }
    }
}

/// What the node asks of every pod.
const OF_NODE: [At; 3] = [At::Node(Layer::PreDnat), At::Node(Layer::Forward), At::ToNode];

fn questions(xs: &[u32]) -> impl Iterator<Item = (At, Direction, u32)> + '_ {
    let of_pods = (100..103).map(At::Pod).flat_map(|at| [Direction::Ingress, Direction::Egress].map(|way| (at, way)));
    let of_host = Layer::ALL.map(|layer| At::Host(200, layer)).into_iter().chain(OF_NODE);
    let all = of_pods.chain(of_host.map(|at| (at, Direction::Ingress)));
    all.flat_map(move |(at, direction)| xs.iter().map(move |x| (at, direction, *x)))
}

fn owner(store: &FakeStore, desired: &Desired, address: IpAddr) -> u32 {
    match desired.addresses.get(&address).map(|spec| &spec.owner) {
        Some(Owner::Host) => SLOT_HOST,
        Some(Owner::Endpoint(id)) => {
            let ifindex = desired.endpoints.get(id).and_then(|spec| ifindex(&spec.interface));
            ifindex.and_then(|index| store.held.interfaces.get(&index)).copied().unwrap_or(SLOT_NONE)
        }
        _ => SLOT_NONE,
    }
}

/// Every commit of the sequence, broken off after every write.
fn every_crash_point(steps: &[Desired]) {
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    let mut before = Desired::default();
    for next in steps {
        tables.settle().expect("a sweep");
        let old_hits = hits(&tables.names);
        let plan = tables.plan(next.into(), &guarded).expect("it fits");
        let step = Step { old: &tables.image, change: &plan.change };
        let mut all = order::put_in_force(step, &plan.fresh_hits);
        let in_force = all.len();
        let gone = plan.change.endpoints.gone(&tables.image.endpoints).map(|(slot, _)| *slot);
        let flows = Write::FlushFlows(gone.filter(|slot| *slot != SLOT_HOST).collect());
        let (sweep, clear) = (order::sweep(step), order::clear(step));
        all.extend([vec![Write::Grace], sweep, vec![Write::Grace], clear, vec![flows]].concat());
        let mut names = tables.names.clone();
        plan.names.clone().apply(&mut names);
        let new_hits = hits(&names);
        for cut in 0..=all.len() {
            let mut store = tables.store.clone();
            for write in &all[..cut] {
                store.write(write).expect("the fake takes it");
            }
            let (speaks, meaning) = if cut < in_force { (&before, &old_hits) } else { (next, &new_hits) };
            assert_speaks(&store, speaks, meaning, &format!("after {cut} of {} writes ({in_force})", all.len()));
            restarts(store, speaks, meaning, next);
        }
        tables.commit(next, &guarded).expect("it fits");
        assert_speaks(&tables.store, next, &hits(&tables.names), "in force");
        before = next.clone();
    }
}

/// A new agent on what was left: the same revision until its first commit, the wanted one after, nothing left behind.
fn restarts(store: FakeStore, speaks: &Desired, meaning: &Hits, next: &Desired) {
    let mut tables = Tables::adopt(store).expect("tables that can be read");
    assert_speaks(&tables.store, speaks, meaning, "adopted");
    tables.commit(next, &guarded).expect("it fits");
    assert_speaks(&tables.store, next, &hits(&tables.names), "after the restart");
    tables.settle().expect("a sweep");
    assert_speaks(&tables.store, next, &hits(&tables.names), "after the restart's sweep");
    assert_eq!(tables.audit(), Ok(vec![]), "nobody else touched them");
    assert_nothing_left(&tables);
}

fn assert_nothing_left(tables: &Tables<FakeStore>) {
    let (held, _) = super::image::adopt(tables.store.read().expect("readable"), 1024);
    let image = Image { spans: tables.image.spans.clone(), ..held.clone() };
    assert_eq!(image, tables.image, "what the tables hold is what is known of them");
    assert_eq!(held.spans, tables.image.spans, "the spans too");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn at_every_crash_point_packets_are_judged_by_one_revision_and_a_restart_reaches_the_next(
        steps in prop::collection::vec(sketch(), 1..4)
    ) {
        every_crash_point(&steps.iter().map(Sketch::desired).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn long_sequences_end_as_wanted_and_leave_nothing_behind(steps in prop::collection::vec(sketch(), 1..12)) {
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        for step in steps.iter().map(Sketch::desired) {
            tables.commit(&step, &guarded).expect("it fits");
            assert_speaks(&tables.store, &step, &hits(&tables.names), "in force");
        }
        tables.settle().expect("a sweep");
        assert_eq!(tables.audit(), Ok(vec![]), "no damage is seen where none was done");
        assert_nothing_left(&tables);
    }

    #[test]
    fn damage_of_any_kind_is_found_and_put_back_and_flows_are_judged_again(
        steps in prop::collection::vec(sketch(), 1..4), damages in prop::collection::vec((0u8..12, 0usize..64), 1..4)
    ) {
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        for step in steps.iter().map(Sketch::desired) {
            tables.commit(&step, &guarded).expect("it fits");
        }
        tables.settle().expect("a sweep");
        let (before, generation) = (tables.image.clone(), tables.image.generation);
        let held = (in_force(&tables.store), tables.store.spans.clone());
        damages.iter().for_each(|(kind, place)| damage(&mut tables.store, *kind, *place));
        // One hand may have undone what another did.
        let is_harmed = held != (in_force(&tables.store), tables.store.spans.clone());
        let found = tables.audit().expect("the fake can be read");
        assert_eq!(found.is_empty(), !is_harmed, "{damages:?}: {found:?}");
        tables.settle().expect("a sweep");
        let desired = steps.last().map(Sketch::desired).unwrap_or_default();
        assert_speaks(&tables.store, &desired, &hits(&tables.names), "mended");
        assert_eq!(tables.audit(), Ok(vec![]), "all at once");
        if is_harmed {
            assert!(tables.image.endpoints.values().all(|entry| u64::from(entry.rev) == generation + 1));
            assert_eq!(tables.store.held.generation, generation + 1);
            assert_eq!((&before.rows, &before.addresses), (&tables.image.rows, &tables.image.addresses));
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_previous_revision_and_the_next_commit_mends(
        first in sketch(), second in sketch(), at in 0usize..60
    ) {
        let (first, second) = (first.desired(), second.desired());
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        tables.commit(&first, &guarded).expect("it fits");
        tables.settle().expect("a sweep");
        let old_hits = hits(&tables.names);
        tables.store.fail_at = Some(tables.store.writes + at);
        if tables.commit(&second, &guarded).is_err() {
            assert_speaks(&tables.store, &first, &old_hits, "after a failed write");
        }
        tables.store.fail_at = None;
        tables.commit(&second, &guarded).expect("the next commit reads the tables again");
        assert_speaks(&tables.store, &second, &hits(&tables.names), "mended");
    }

    #[test]
    fn an_endpoint_that_is_not_stamped_answers_every_flow_as_before(
        first in sketch(), second in sketch(), same_rules in prop::bool::weighted(0.8)
    ) {
        // With rules that stay, what can change an answer is the class of a peer.
        let endpoints = if same_rules { first.endpoints.clone() } else { second.endpoints.clone() };
        let host = if same_rules { first.host.clone() } else { second.host.clone() };
        let (node, refuses) = (first.node.clone(), first.refuses);
        let second = if same_rules { Sketch { endpoints, host, node, refuses, ..second } } else { second };
        let (first, second) = (first.desired(), second.desired());
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        tables.commit(&first, &guarded).expect("it fits");
        let generation = tables.commit(&second, &guarded).expect("it fits").generation;
        for number in (0..3).filter(|number| both_have(&first, &second, *number)) {
            let slot = tables.names.endpoints[&attachment(number)];
            if u64::from(tables.image.endpoints[&slot].rev) < generation {
                let [before, forward, to_node] = OF_NODE;
                let own = At::Pod(100 + u32::from(number));
                let of_uplink = At::Host(ifindex(&IfaceName("eth0".into())).expect("its index"), Layer::Forward);
                assert_unmoved(&first, &second, &[own, before, forward, to_node, of_uplink]);
            }
        }
        for name in first.host_endpoints.keys().filter(|name| second.host_endpoints.contains_key(name)) {
            let (slot, index) = (tables.names.hosts[name], ifindex(name).expect("its index"));
            let layers = tables.image.endpoints[&slot].layers;
            for slot in [slot, layers.forward].into_iter().filter(|slot| *slot != SLOT_NONE) {
                if u64::from(tables.image.endpoints[&slot].rev) < generation {
                    assert_unmoved(&first, &second, &Layer::ALL.map(|layer| At::Host(index, layer)));
                }
            }
        }
    }
}

/// Changes one thing of a kind, if there is one that matters.
fn damage(store: &mut FakeStore, kind: u8, place: usize) {
    let (number, nobodys) = (u32::try_from(place).unwrap_or(0), Word::settled(77));
    let held = &mut store.held;
    match kind {
        0 => held.generation += 3,
        1 => {
            let served = held.endpoints.values_mut().filter(|entry| entry.ifindex != 0);
            served.skip(place % 3).take(1).for_each(|entry| *entry = Endpoint::default());
        }
        // A slot of nobody's, taken.
        11 => {
            let (slot, taken) = (2 + number % 62, Endpoint { ifindex: 900, egress: nobodys, ..Endpoint::default() });
            let entry = held.endpoints.entry(slot).or_default();
            *entry = if entry.ifindex == 0 { taken } else { *entry };
        }
        2 => remove_one(&mut held.interfaces, place),
        3 => remove_one(&mut held.addresses, place),
        4 => remove_one(&mut held.nets, place),
        5 => remove_one(&mut held.rows, place),
        6 => drop(held.rows.insert(RowKey { set: 900, class: number }, RowRef { offset: 0, len: 1 })),
        7 => held.sets.values_mut().skip(place % 4).take(1).for_each(|entry| entry.row.offset += 77),
        8 => {
            let index = number % 16;
            if store.is_referred(index) {
                store.spans.insert(index, Span { bits: 0, hit: 9999 });
            }
        }
        9 => {
            let named: Vec<_> = held.addresses.values().chain(held.nets.values()).skip(place % 4).take(1).collect();
            for slot in named {
                held.classes.insert(*slot, ClassEntry { class: nobodys, endpoint: nobodys });
            }
        }
        _ => drop(held.interfaces.insert(4000 + number, 2)),
    }
}

/// What the tables hold: a slot that was emptied is as one that was never taken.
fn in_force(store: &FakeStore) -> Snapshot {
    let mut held = store.held.clone();
    held.endpoints.retain(|_, entry| *entry != Endpoint::default());
    held
}

fn remove_one<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, place: usize) {
    let key = map.keys().nth(place % map.len().max(1)).copied();
    key.and_then(|key| map.remove(&key));
}

fn both_have(first: &Desired, second: &Desired, number: u8) -> bool {
    first.endpoints.contains_key(&attachment(number)) && second.endpoints.contains_key(&attachment(number))
}

/// Every question that a packet may be asked here has the same answer.
fn assert_unmoved(first: &Desired, second: &Desired, asked: &[At]) {
    for peer in ADDRESSES.iter().chain(&STRANGERS).map(|text| address(text)) {
        let xs = [0, abi::rules::x_of(6, 80), abi::rules::x_of(6, 81)];
        for (at, direction, x) in questions(&xs).filter(|(at, ..)| asked.contains(at)) {
            let ask = |desired| expected(desired, at, direction, peer, x);
            assert_eq!(ask(first), ask(second), "{at:?} {direction} {peer} {x:#x}");
        }
    }
}

fn one_endpoint(rules: Vec<SetRule>) -> Desired {
    let sketch = Sketch {
        nets: 0,
        addresses: [Some(1), None, None, None, None],
        endpoints: [Some((Some(rules), None)), None, None],
        ..Sketch::default()
    };
    sketch.desired()
}

#[test]
fn the_same_desired_twice_writes_nothing() {
    let desired = one_endpoint(vec![rule(0, 80, SetAction::Allow)]);
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    tables.commit(&desired, &guarded).expect("it fits");
    tables.settle().expect("a sweep");
    let writes = tables.store.writes;
    let again = tables.commit(&desired, &guarded).expect("it fits");
    assert!(!again.changed);
    assert_eq!(tables.store.writes, writes);
}

#[test]
fn what_does_not_fit_names_the_map_and_leaves_the_tables_untouched() {
    let small = one_endpoint(vec![]);
    let mut tables = Tables::adopt(FakeStore::with_sizes(&[("SPANS", 4)])).expect("empty tables");
    tables.commit(&small, &guarded).expect("it fits");
    tables.settle().expect("a sweep");
    let (held, writes) = (tables.store.held.clone(), tables.store.writes);
    let large = one_endpoint((80..83).map(|port| rule(0, port, SetAction::Allow)).collect());
    let error = tables.commit(&large, &guarded).expect_err("six spans do not fit into four");
    assert!(matches!(&error, CommitError::Full(full) if full.map == "SPANS" && full.needed > 4), "{error}");
    assert_eq!((held, writes), (tables.store.held.clone(), tables.store.writes));
}

#[test]
fn an_endpoint_without_a_guarded_interface_is_left_out_and_named() {
    let desired = one_endpoint(vec![]);
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    let committed = tables.commit(&desired, &|_| None).expect("the rest fits");
    assert_eq!(committed.refused.len(), 1);
    assert!(tables.store.held.interfaces.is_empty());
}

#[test]
fn the_element_of_an_interface_that_was_nobodys_is_given_out_when_no_packet_can_look_at_it() {
    let mut store = FakeStore::default();
    // What a foreign hand left: the first insertion gets its element.
    store.held.interfaces.insert(77, 9);
    let mut tables = Tables::adopt(store).expect("tables that can be read");
    assert!(tables.store.held.interfaces.is_empty());
    tables.commit(&one_endpoint(vec![]), &guarded).expect("it fits");
    assert_eq!(tables.store.held.interfaces.len(), 1);
}

#[test]
fn a_policy_change_elsewhere_does_not_stamp_an_endpoint() {
    let mut desired = one_endpoint(vec![rule(0, 80, SetAction::Allow)]);
    desired.endpoints.insert(attachment(1), spec(1, Some(vec![]), None));
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    tables.commit(&desired, &guarded).expect("it fits");
    desired.endpoints.insert(attachment(1), spec(1, Some(vec![rule(4, 81, SetAction::Allow)]), None));
    tables.commit(&desired, &guarded).expect("it fits");
    let rev = |number| tables.image.endpoints[&tables.names.endpoints[&attachment(number)]].rev;
    assert_eq!([rev(0), rev(1)], [1, 2]);
}

/// Pod 1 has the address that every packet has at its end ([`OWN`]); its rule asks whether that lies in a network.
#[test]
fn an_endpoint_is_stamped_when_its_own_address_comes_under_another_of_its_rules() {
    let mut tables = Tables::adopt(FakeStore::default()).expect("an empty store");
    let sketch = |nets| Sketch {
        nets,
        addresses: [None, Some(0), None, None, None],
        endpoints: [None, Some((Some(vec![asking(4, 4 | 1, 80, SetAction::Allow)]), None)), None],
        ..Sketch::default()
    };
    for (nets, rev) in [(0, 1), (0b10, 2), (0b11, 2)] {
        tables.commit(&sketch(nets).desired(), &guarded).expect("it fits");
        assert_eq!(tables.image.endpoints[&tables.names.endpoints[&attachment(1)]].rev, rev, "nets {nets:b}");
    }
}

#[test]
fn an_endpoint_is_stamped_when_a_peer_comes_under_another_of_its_rules() {
    let by_selector = Some(vec![rule(0, 80, SetAction::Allow)]);
    let by_network = Some(vec![rule(2, 80, SetAction::Allow)]);
    for (rules, nets, selectors) in [(by_selector, [0, 0], [Some(0), Some(1)]), (by_network, [0, 1], [None, None])] {
        let sketch = |step: usize| Sketch {
            nets: nets[step],
            addresses: [Some(0), None, None, selectors[step], None],
            endpoints: [Some((rules.clone(), None)), None, None],
            ..Sketch::default()
        };
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        tables.commit(&sketch(0).desired(), &guarded).expect("it fits");
        tables.commit(&sketch(1).desired(), &guarded).expect("it fits");
        assert_eq!(tables.image.endpoints[&tables.names.endpoints[&attachment(0)]].rev, 2, "nets {nets:?}");
    }
}

#[test]
fn a_freed_slot_waits_for_its_flows_to_be_flushed() {
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    tables.store.slow = true;
    tables.commit(&one_endpoint(vec![]), &guarded).expect("it fits");
    let slot = tables.names.endpoints[&attachment(0)];
    tables.settle().expect("a sweep");
    tables.commit(&Desired::default(), &guarded).expect("it fits");
    for graces in 0..2 {
        assert!(!planned(&tables).contains_key(&slot), "after {graces} graces");
        tables.store.pass(1);
        assert_eq!(tables.sweep(), Ok(graces < 1));
    }
    assert!(planned(&tables).contains_key(&slot), "flushed and free");
}

/// Endpoints of the next revision, if there is to be one without rules.
fn planned(tables: &Tables<FakeStore>) -> BTreeMap<u32, Endpoint> {
    let (mut image, next) = (tables.image.clone(), one_endpoint(vec![]));
    tables.plan((&next).into(), &guarded).expect("it fits").change.apply(&mut image);
    image.endpoints
}

/// Whether endpoint 0's egress rules and endpoint 1's ingress rules both let TCP 80 pass between them.
fn passes(store: &FakeStore) -> bool {
    let key = |number: usize| prefix::address_key(address(ADDRESSES[number])).expect("a plain address");
    let x = abi::rules::x_of(6, 80);
    store.judge(At::Pod(100), Direction::Egress, key(1), x).0
        && store.judge(At::Pod(101), Direction::Ingress, key(0), x).0
}

#[test]
fn the_order_of_writes_is_what_keeps_a_packet_in_one_revision() {
    let allow = || Some(vec![rule(4, 80, SetAction::Allow)]);
    let sketch = |ingress, egress| Sketch {
        nets: 0,
        addresses: [Some(0), Some(0), None, None, None],
        endpoints: [Some((None, egress)), Some((ingress, None)), None],
        ..Sketch::default()
    };
    // In either revision one of the two ends refuses.
    let (one, other) = (sketch(Some(vec![]), allow()).desired(), sketch(allow(), Some(vec![])).desired());
    let mut mixed = 0;
    for (from, to) in [(&one, &other), (&other, &one)] {
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        tables.commit(from, &guarded).expect("it fits");
        tables.settle().expect("a sweep");
        let plan = tables.plan(to.into(), &guarded).expect("it fits");
        let writes = order::put_in_force(Step { old: &tables.image, change: &plan.change }, &plan.fresh_hits);
        let seen_passing = |writes: &[Write]| {
            let mut store = tables.store.clone();
            writes.iter().filter(|write| store.write(write).is_ok() && passes(&store)).count()
        };
        assert_eq!(seen_passing(&writes), 0, "no packet between two writes passes");
        let mut hasty = writes.clone();
        let last = hasty.pop().expect("the generation");
        assert!(matches!(last, Write::Generation(_)));
        hasty.insert(0, last);
        mixed += seen_passing(&hasty);
    }
    assert!(mixed > 0, "the generation stored first lets a packet pass between the two endpoints' words");
}
