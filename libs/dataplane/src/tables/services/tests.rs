//! The promise of the services' tables: each packet is sent where the one revision that it read first says, whenever it comes.
//! In: sequences of small sets of services, over the strict stand-in. Out: where packets are sent, which flows live on.
//! Invariant: what is expected is said from the Desired alone.
//! Never: a time, a thread or a kernel.

use super::{
    super::{
        CommitError, Tables,
        fake::{At, FakeStore, Probe},
        prefix,
        write::Write,
    },
    ServiceWrite,
    bounds::{bounds, words},
    plan::number,
};
use abi::{Address, ServiceKey, service::BALANCER_BY_HOST};
use calc::Desired;
use model::{Direction, NamespaceName, Protocol, ServiceId, ServicePortId};
use proptest::prelude::*;
use service::{Backend, Backends, Balance, Frontend, Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Frontends, by the last byte of their address.
const FRONTENDS: [u8; 4] = [1, 2, 3, 4];
/// The one that floats to a pod.
const FLOATING: u8 = 4;
const PORT: u16 = 80;
const RANGES: [&str; 2] = ["192.0.2.0/24", "198.51.100.7/32"];

/// A service: which backends are chosen, which are listed beside, whether clients keep to theirs, and which of those chosen are
/// for who is outside.
type Service = (u8, u8, bool, Option<u8>);
/// Two services, and of which each frontend is.
#[derive(Clone, Debug, Default)]
struct Sketch {
    services: [Service; 2],
    frontends: [Option<bool>; 4],
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let service = (0u8..8, 0u8..8, any::<bool>(), prop::option::of(0u8..8));
    (prop::array::uniform2(service), prop::array::uniform4(prop::option::of(any::<bool>())))
        .prop_map(|(services, frontends)| Sketch { services, frontends })
}

fn port_id(second: bool) -> ServicePortId {
    let service = ServiceId { namespace: NamespaceName::from("default"), name: format!("s{}", u8::from(second)) };
    ServicePortId { service, port: "web".into() }
}

fn backends(mask: u8) -> Vec<Backend> {
    (0..8)
        .filter(|bit| mask >> bit & 1 != 0)
        .map(|bit| Backend { address: [10, 65, 0, bit].into(), port: 8080 })
        .collect()
}

impl Sketch {
    fn desired(&self) -> Desired {
        let balance = self.services.map(|(chosen, beside, keeps, local)| {
            let side = |mask: u8| {
                let listed = backends(chosen | beside).into();
                Arc::new(Backends { chosen: backends(chosen & mask).into(), listed, elsewhere: false })
            };
            (side(u8::MAX), keeps, local.map(side))
        });
        let of = |(last, second): (u8, bool)| {
            if last == FLOATING {
                let (of, pod) = (port_id(second), [10, 65, 0, u8::from(second)].into());
                let of = ServicePortId { port: address(last).to_string(), ..of };
                return (frontend(last), Arc::new(Balance::of_floating_ip(of, pod)));
            }
            let (inside, keeps, outside) = &balance[usize::from(second)];
            let balance = Balance {
                of: port_id(second),
                kind: if outside.is_some() { Kind::LoadBalancer } else { Kind::ClusterIp },
                inside: Arc::clone(inside),
                outside: outside.clone(),
                keeps_source: false,
                has_outside: false,
                affinity_s: keeps.then_some(60),
                // Who keeps clients to backends has source ranges, too.
                sources: (*keeps && outside.is_some())
                    .then(|| RANGES.map(|net| net.parse().expect("a network")).into()),
                by_host: false,
            };
            (frontend(last), Arc::new(balance))
        };
        let there = FRONTENDS.into_iter().zip(self.frontends).filter_map(|(last, second)| Some((last, second?)));
        Desired { services: there.map(of).collect(), ..Desired::default() }
    }
}

fn address(last: u8) -> IpAddr {
    [10, 96, 0, last].into()
}

fn frontend(last: u8) -> Frontend {
    if last == FLOATING {
        return Frontend::floating(address(last));
    }
    Frontend { address: address(last), protocol: Protocol::TCP, port: PORT }
}

fn key(last: u8) -> ServiceKey {
    let address = prefix::address_key(address(last)).expect("plain");
    if last == FLOATING {
        return ServiceKey::floating(address);
    }
    ServiceKey { address, port: PORT.to_be_bytes(), protocol: 6, pad: [0; 5] }
}

fn place(backend: &Backend) -> (Address, [u8; 2]) {
    (prefix::address_key(backend.address).expect("plain"), backend.port.to_be_bytes())
}

/// Where each frontend leads is what the Desired itself says.
fn assert_leads(tables: &Tables<FakeStore>, desired: &Desired, when: &str) {
    for last in FRONTENDS {
        let balance = desired.services.get(&frontend(last));
        let inside = balance.map(|balance| &balance.inside);
        let outside = balance.and_then(|balance| balance.outside.as_ref());
        for (direction, backends) in [(Direction::Egress, inside), (Direction::Ingress, outside)] {
            let expected = balance.zip(backends).map(|(balance, backends)| {
                let chosen: BTreeSet<_> = backends.chosen.iter().map(place).collect();
                let sources = balance.sources.as_ref().filter(|_| !chosen.is_empty());
                let bounds = sources.map_or_else(Vec::new, |sources| bounds(sources));
                let words = bounds.iter().flat_map(words).collect();
                (number(&balance.of), balance.affinity_s.unwrap_or(0), chosen, words)
            });
            let found = tables.store().services.route(tables.image().generation, direction, &key(last));
            assert_eq!(found, expected, "frontend {last} {direction:?} {when}");
        }
    }
}

/// A backend of a service port.
type Place = (u64, (Address, [u8; 2]));

/// Flows: to whom, slot and stamp, and whether the service has listed that backend ever since.
#[derive(Default)]
struct Flows(Vec<(Place, u32, u32, bool)>);

impl Flows {
    fn listed(desired: &Desired) -> BTreeSet<Place> {
        let of = |balance: &Arc<Balance>| {
            let of = number(&balance.of);
            balance.inside.listed.iter().map(move |backend| (of, place(backend))).collect::<Vec<_>>()
        };
        desired.services.values().flat_map(of).collect()
    }

    /// A revision came into force: flows to what is not listed are over, and one begins to each backend there is.
    fn go_on(&mut self, tables: &Tables<FakeStore>, desired: &Desired) {
        let listed = Self::listed(desired);
        let generation = tables.image().generation;
        let stamp = u32::try_from(generation).expect("few");
        for (what, slot, since, lives) in &mut self.0 {
            *lives &= listed.contains(what);
            let stands = tables.store().services.stands(*slot, *since, generation);
            assert_eq!(stands, *lives, "a flow of generation {since} to slot {slot}, by {generation}");
        }
        for (slot, backend) in &tables.store().services.held.backends {
            if backend.standing.at(generation) != 0 {
                self.0.push(((backend.of, (backend.address, backend.port)), *slot, stamp, true));
            }
        }
    }
}

fn probes() -> Vec<Probe> {
    let ask = |last| {
        [Direction::Egress, Direction::Ingress].map(|direction| (At::Service(PORT), direction, key(last).address, 0))
    };
    FRONTENDS.into_iter().flat_map(ask).collect()
}

fn slow_tables() -> Tables<FakeStore> {
    Tables::adopt(FakeStore::slow(probes())).expect("empty tables")
}

fn commit(tables: &mut Tables<FakeStore>, desired: &Desired) -> bool {
    tables.commit(desired, &|_| None).expect("it fits").changed
}

/// Nothing is left of any service.
fn assert_nothing_left(tables: &mut Tables<FakeStore>) {
    commit(tables, &Desired::default());
    tables.settle().expect("a sweep");
    let rig = &tables.store().services;
    assert!(rig.held.keys.is_empty());
    // What a crash left in a slot that no key names, nobody looks at before it is written anew.
    assert!(rig.held.frontends.get(&0).is_none_or(|words| *words == abi::Frontend::default()));
    assert!(rig.held.backends.values().all(|backend| backend.standing == abi::Word::default()));
    assert_eq!((&tables.services.numbers, &tables.services.image), (&Default::default(), &Default::default()));
    assert_eq!(tables.audit(), Ok(vec![]), "no damage is seen where none was done");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// The fake asks packets of every revision under way after every write.
    #[test]
    fn however_late_graces_come_each_packet_is_sent_where_its_own_revision_says_and_flows_live_as_long_as_they_are_listed(
        steps in prop::collection::vec((sketch(), 0u8..4, 0usize..4, any::<bool>()), 2..14)
    ) {
        let (mut tables, mut flows) = (slow_tables(), Flows::default());
        let mut last = Sketch::default();
        for (next, kept, graces, restarts) in &steps {
            last = Sketch {
                services: if kept & 1 != 0 { last.services } else { next.services },
                frontends: if kept & 2 != 0 { last.frontends } else { next.frontends },
            };
            let desired = last.desired();
            commit(&mut tables, &desired);
            assert_leads(&tables, &desired, "in force");
            flows.go_on(&tables, &desired);
            tables.store.pass(*graces);
            tables.sweep().expect("a sweep");
            assert_leads(&tables, &desired, "swept");
            if *restarts {
                // The next agent knows the services again: nothing is written, and no flow is cut.
                tables = Tables::adopt(tables.store.clone()).expect("whole tables");
                assert_leads(&tables, &desired, "adopted");
                prop_assert!(!commit(&mut tables, &desired), "nothing to say");
                flows.go_on(&tables, &desired);
            }
        }
        assert_nothing_left(&mut tables);
    }

    #[test]
    fn at_every_crash_point_packets_are_sent_by_one_revision_and_the_next_commit_leads_to_the_wanted_one(
        first in sketch(), second in sketch(), point in 0usize..40
    ) {
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        tables.store.probes = probes();
        let (first, second) = (first.desired(), second.desired());
        let mut flows = Flows::default();
        commit(&mut tables, &first);
        flows.go_on(&tables, &first);
        tables.store.fail_at = Some(tables.store.writes + point);
        let crashed = tables.commit(&second, &|_| None).and_then(|_| Ok(tables.settle()?)).is_err();
        tables.store.fail_at = None;
        let mut next = Tables::adopt(tables.store.clone()).expect("whole tables");
        if crashed {
            let is_first = next.image().generation == u64::from(!first.services.is_empty());
            assert_leads(&next, if is_first { &first } else { &second }, "after the crash");
        }
        commit(&mut next, &second);
        assert_leads(&next, &second, "in force");
        flows.go_on(&next, &second);
        assert_nothing_left(&mut next);
    }
}

fn one(chosen: u8) -> Sketch {
    Sketch {
        services: [(chosen, 0, false, None), (3, 0, false, None)],
        frontends: [Some(false), Some(true), None, None],
    }
}

#[test]
fn a_service_that_changes_is_all_that_is_written_and_what_did_not_waits_for_nobody() {
    let mut tables = slow_tables();
    commit(&mut tables, &one(1).desired());
    tables.settle().expect("a sweep");
    let (before, waits) = (tables.store.writes, tables.store.waits);
    commit(&mut tables, &one(3).desired());
    // A backend and its counter, a list, its balancer, the frontend's words, the generation.
    assert_eq!(tables.store.writes - before, 6);
    let mut other = one(3);
    other.services[1] = (1, 0, false, None);
    commit(&mut tables, &other.desired());
    assert_eq!(tables.store.waits, waits, "another service's words");
    commit(&mut tables, &one(3).desired());
    assert!(tables.store.waits > waits, "the same words once more");
    assert_nothing_left(&mut tables);
}

#[test]
fn a_service_that_is_left_to_a_foreign_proxy_and_comes_back_keeps_its_backends() {
    let mut tables = slow_tables();
    let (ours, mut theirs) = (one(3).desired(), one(3).desired());
    for balance in theirs.services.values_mut() {
        *balance = Arc::new(Balance { by_host: true, ..Balance::clone(balance) });
    }
    commit(&mut tables, &ours);
    let (mut flows, standing) = (Flows::default(), tables.services.image.backends.clone());
    flows.go_on(&tables, &ours);
    for (desired, by_host) in [(&theirs, BALANCER_BY_HOST), (&ours, 0), (&theirs, BALANCER_BY_HOST)] {
        assert!(commit(&mut tables, desired));
        flows.go_on(&tables, desired);
        assert_leads(&tables, desired, "in force");
        let held = &tables.services.image;
        assert!(held.frontends.values().all(|words| held.lists[&words.inside].entry.flags == by_host));
        assert_eq!(held.backends, standing);
    }
    tables = Tables::adopt(tables.store.clone()).expect("whole tables");
    assert!(!commit(&mut tables, &theirs), "the next agent finds it so");
    assert_nothing_left(&mut tables);
}

#[test]
fn what_does_not_fit_is_named_and_the_previous_revision_stays() {
    for (map, size) in [("SERVICES", 2), ("FRONTENDS", 3), ("BALANCERS", 3), ("MEMBERS", 3), ("BACKENDS", 4)] {
        let mut tables = Tables::adopt(FakeStore::with_sizes(&[(map, size)])).expect("empty tables");
        let before = one(1).desired();
        commit(&mut tables, &before);
        tables.settle().expect("a sweep");
        let mut more = one(7);
        more.frontends[2] = Some(false);
        match tables.commit(&more.desired(), &|_| None) {
            Err(CommitError::Services(full)) => assert_eq!((full.map, full.size), (map, size)),
            other => panic!("{map}: {other:?}"),
        }
        assert!(!tables.has_room_for_services((&more.desired()).into()), "{map}");
        assert!(tables.has_room_for_services((&before).into()), "{map}");
        assert_eq!(tables.slots_of(&port_id(false)).frontends.len(), 1);
        assert_leads(&tables, &before, map);
        commit(&mut tables, &before);
        assert_nothing_left(&mut tables);
    }
}

#[test]
fn a_slot_counts_from_nothing_for_its_next_owner_and_goes_on_for_the_same_after_a_restart() {
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    commit(&mut tables, &one(1).desired());
    let slots = tables.services.slots(&port_id(false));
    let ([(_, at)], [(_, first)]) = (&slots.frontends[..], &slots.backends[..]) else { panic!("{slots:?}") };
    tables.store.services.counts = [[(*at, 7)].into(), [(*first, 5)].into()];
    let mut tables = Tables::adopt(tables.store.clone()).expect("whole tables");
    commit(&mut tables, &one(3).desired());
    assert_eq!(tables.store.services.counts, [[(*at, 7)].into(), [(*first, 5)].into()], "they are still there");
    commit(&mut tables, &one(2).desired());
    assert_eq!(tables.store.services.counts[1], [(*first, 5)].into(), "packets under way may count there");
    tables.settle().expect("a sweep");
    let mut moved = one(6);
    moved.frontends = [None, Some(true), Some(false), None];
    commit(&mut tables, &moved.desired());
    let now = tables.services.slots(&port_id(false));
    assert!(now.backends.iter().any(|(backend, slot)| slot == first && *backend == backends(4)[0]), "{now:?}");
    assert_eq!(tables.store.services.counts[1], BTreeMap::new());
    tables.settle().expect("a sweep");
    commit(&mut tables, &one(6).desired());
    assert_eq!(tables.services.slots(&port_id(false)).frontends[0].1, *at);
    assert_eq!(tables.store.services.counts[0], BTreeMap::new());
}

#[test]
fn damage_in_the_tables_of_services_is_found_and_put_back() {
    let desired = one(3).desired();
    let damages = |tables: &mut Tables<FakeStore>| -> Vec<ServiceWrite> {
        let held = tables.store.services.held.clone();
        let slot = held.keys[&key(1)];
        vec![
            ServiceWrite::DeleteKey(key(1)),
            ServiceWrite::Key(key(2), slot),
            ServiceWrite::Key(key(9), slot),
            ServiceWrite::Frontend(slot, abi::Frontend::default()),
            ServiceWrite::Frontend(0, abi::Frontend::default()),
            ServiceWrite::Balancer(1, abi::Balancer::default()),
            ServiceWrite::Members(0, [9, 9].into()),
            ServiceWrite::Backend(1, abi::Backend::default()),
        ]
    };
    let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
    commit(&mut tables, &desired);
    tables.settle().expect("a sweep");
    for damage in damages(&mut tables) {
        tables.settle().expect("a sweep");
        let whole = tables.store.services.clone();
        tables.store.services.mend(&damage);
        let found = tables.audit().expect("a look");
        assert!(!found.is_empty(), "{damage:?} is not seen");
        assert_eq!(
            tables.store.services.route(tables.image().generation, Direction::Egress, &key(1)),
            whole.route(tables.image().generation, Direction::Egress, &key(1)),
            "{damage:?}"
        );
        assert_leads(&tables, &desired, "put back");
        assert_eq!(tables.audit(), Ok(vec![]));
        assert!(found.iter().all(|text| !text.is_empty()), "{found:?} {:?}", Write::Services(damage));
    }
}

#[test]
fn two_service_ports_have_two_numbers_and_the_same_in_every_agent() {
    let numbers: BTreeMap<u64, bool> = [false, true].map(|second| (number(&port_id(second)), second)).into();
    assert_eq!(numbers.len(), 2);
    assert_eq!(number(&port_id(false)), 0x6dc7_e56f_41fe_70a8, "pinned: flows outlive an upgrade by it");
}
