//! Every table too small by one, in a row of its own: refused by name, untouched, and served as soon as less is asked for.
//! In: a small Desired and a large one for each map. Out: what the commit says, and what packets are told.
//! Invariant: the size that a row is refused at is one below the size at which it fits.
//! Never: a number that was worked out by hand; what is needed is read from a commit that had room.

use super::super::{
    CommitError, Refusal, Tables,
    fake::{At, FakeStore},
    tests::{Sketch, assert_speaks, attachment, guarded, hits, rule},
};
use abi::maps::{self, MAPS, MapSpec, Sizing};
use calc::{
    Desired,
    desired::{AddressSpec, Owner},
};
use model::Selector;
use policy::{Class, PeerTest, SetAction, SetRule};
use std::sync::Arc;

/// One endpoint that serves port 80 to one selector.
fn small() -> Sketch {
    Sketch {
        nets: 0,
        addresses: [Some(1), None, None, None, None],
        endpoints: [Some((Some(vec![rule(0, 80, SetAction::Allow)]), None)), None, None],
        ..Sketch::default()
    }
}

/// What asks for more of a map.
fn large(map: &MapSpec) -> Sketch {
    let rules = |ports: std::ops::Range<u16>| Some(ports.map(|port| rule(0, port, SetAction::Allow)).collect());
    match map.name {
        "ADDRESSES" | "CLASSES" => Sketch { addresses: [Some(1), Some(1), Some(0), Some(1), None], ..small() },
        "NETS" => Sketch {
            nets: 0b11,
            endpoints: [
                Some((Some(vec![rule(2, 80, SetAction::Allow), rule(3, 80, SetAction::Allow)]), None)),
                None,
                None,
            ],
            ..small()
        },
        "SETS" | "ENDPOINTS" | "INTERFACES" => Sketch {
            endpoints: [small().endpoints[0].clone(), Some((rules(80..82), None)), Some((rules(81..83), None))],
            ..small()
        },
        "ROWS" => Sketch {
            addresses: [Some(1), Some(2), Some(3), None, None],
            endpoints: [
                Some((Some(vec![rule(0, 80, SetAction::Allow), rule(1, 81, SetAction::Allow)]), None)),
                None,
                None,
            ],
            ..small()
        },
        "SPANS" | "HITS" => Sketch { endpoints: [Some((rules(80..83), None)), None, None], ..small() },
        other => panic!("no row for {other}"),
    }
}

/// Maps whose entries are made by commits; the others are the programs' own.
fn committed() -> impl Iterator<Item = &'static MapSpec> {
    let programs_own =
        [maps::CONNTRACK.name, maps::NEWFLOW.name, maps::FRAGMENTS.name, maps::AFFINITY.name, maps::SOCKETS.name];
    // Held by `services::tests`.
    let of_services =
        [&maps::SERVICES, &maps::FRONTENDS, &maps::BALANCERS, &maps::MEMBERS, &maps::BACKENDS].map(|map| map.name);
    let own = |map: &&MapSpec| matches!(map.sizing, Sizing::Setting | Sizing::CoversEndpoints);
    // Written before the routes that lead there, by no commit.
    let is_of_tunnels = |map: &&MapSpec| map.name == maps::TUNNELS.name;
    let others = move |map: &&MapSpec| {
        !programs_own.contains(&map.name) && !of_services.contains(&map.name) && !is_of_tunnels(map)
    };
    MAPS.iter().filter(own).filter(others)
}

fn tables(sizes: &[(&'static str, u32)]) -> Tables<FakeStore> {
    Tables::adopt(FakeStore::with_sizes(sizes)).expect("empty tables")
}

fn tables_of_default_size() -> Tables<FakeStore> {
    tables(&[])
}

fn in_force(tables: &mut Tables<FakeStore>, desired: &Desired) {
    tables.commit(desired, &guarded).expect("it fits");
    tables.settle().expect("a sweep");
}

/// Entries that the step to the large Desired needs, found by making it where there is room.
fn needed(map: &MapSpec) -> u32 {
    let mut roomy = tables(&[]);
    in_force(&mut roomy, &small().desired());
    let before = roomy.peak(map);
    in_force(&mut roomy, &large(map).desired());
    assert!(roomy.peak(map) > before, "the row for {} asks for no more of it", map.name);
    u32::try_from(roomy.peak(map)).expect("a small number")
}

#[test]
fn a_table_too_small_by_one_is_refused_by_name_leaves_what_is_in_force_and_recovers() {
    for map in committed().filter(|map| !["ENDPOINTS", "INTERFACES", "HITS"].contains(&map.name)) {
        let (small, large, needed) = (small().desired(), large(map).desired(), needed(map));
        let mut exact = tables(&[(map.name, needed)]);
        in_force(&mut exact, &small);
        in_force(&mut exact, &large);

        let mut tables = tables(&[(map.name, needed - 1)]);
        in_force(&mut tables, &small);
        let (held, writes) = (tables.store().held.clone(), tables.store().writes);
        let error = tables.commit(&large, &guarded).expect_err("one entry is missing");
        let CommitError::Full(full) = &error else { panic!("{}: {error}", map.name) };
        assert_eq!((full.map, full.needed, full.size), (map.name, needed.into(), needed - 1));
        let remedy = format!("set mapEntries {} to {needed} or more", map.name);
        for part in [map.name, &needed.to_string(), &remedy, "NetworkPolicy default/p", "previous revision stays"] {
            assert!(error.to_string().contains(part), "{part} is missing in: {error}");
        }
        assert_eq!(
            (&held, writes),
            (&tables.store().held, tables.store().writes),
            "{}: something was written",
            map.name
        );
        assert_speaks(tables.store(), &small, &hits(tables.names()), map.name);

        let mut fewer = small.clone();
        fewer.endpoints.clear();
        in_force(&mut tables, &fewer);
        in_force(&mut tables, &small);
        assert_speaks(tables.store(), &small, &hits(tables.names()), "after it was refused");
        in_force(&mut exact, &small);
        assert_eq!(exact.peak(map), u64::from(needed), "{}: the most that was ever needed", map.name);
    }
}

#[test]
fn an_endpoint_for_which_there_is_no_room_is_left_out_by_name_and_served_when_another_goes() {
    for map in [maps::ENDPOINTS, maps::INTERFACES] {
        let (large, needed) = (large(&map).desired(), needed(&map));
        let mut tables = tables(&[(map.name, needed - 1)]);
        in_force(&mut tables, &small().desired());
        let committed = tables.commit(&large, &guarded).expect("the others are served");
        let [(left_out, Refusal::Full { map: named, size })] = committed.refused.as_slice() else {
            panic!("{}: {:?}", map.name, committed.refused)
        };
        assert_eq!((*named, *size), (map.name, needed - 1));
        let mut served = large.clone();
        served.endpoints.remove(left_out);
        assert_eq!(tables.names().endpoints.keys().collect::<Vec<_>>(), served.endpoints.keys().collect::<Vec<_>>());

        let mut without_the_first = large.clone();
        without_the_first.endpoints.remove(&attachment(0));
        in_force(&mut tables, &Desired { endpoints: [].into(), ..large.clone() });
        let committed = tables.commit(&without_the_first, &guarded).expect("it fits");
        assert!(committed.refused.is_empty(), "{:?}", committed.refused);
        tables.settle().expect("a sweep");
    }
}

#[test]
fn rules_past_the_end_of_the_counters_are_judged_all_the_same_and_counted_apart_when_there_is_room() {
    let (small, large) = (small().desired(), large(&maps::HITS).desired());
    let mut tables = tables(&[(maps::HITS.name, needed(&maps::HITS) - 1)]);
    in_force(&mut tables, &small);
    in_force(&mut tables, &large);
    let counted = tables.names().hits.len();
    assert!(tables.uncounted() > 0 && counted > 0);
    let mut roomy = tables_of_default_size();
    in_force(&mut roomy, &large);
    assert_eq!(roomy.uncounted(), 0);
    for x in [abi::rules::x_of(6, 80), abi::rules::x_of(6, 82), abi::rules::x_of(17, 80)] {
        let ask = |tables: &Tables<FakeStore>| {
            let peer = super::super::prefix::address_key("10.65.0.2".parse().expect("an address")).expect("not mapped");
            tables.store().judge(At::Pod(100), model::Direction::Ingress, peer, x).0
        };
        assert_eq!(ask(&tables), ask(&roomy), "{x:#x}");
    }
    in_force(&mut tables, &Desired::default());
    in_force(&mut tables, &small);
    assert_eq!(tables.uncounted(), 0);
}

/// Rules of one port each, for peers with one label each; and peers of which each has a random half of the labels: spans by
/// the product of both.
fn exploding(rules: u16, peers: u16) -> Desired {
    let has = |peer: u16, rule: u32| (u32::from(peer) * 7919 + rule * 104_729).wrapping_mul(2_654_435_761) >> 31 == 0;
    let selectors: Vec<_> = (0..rules).map(|number| Arc::new(Selector::Has(format!("label-{number}")))).collect();
    let one = |(port, selector): (u16, &Arc<Selector>)| {
        let rule = rule(0, port, SetAction::Allow);
        SetRule { peer: PeerTest { selector: Some(Arc::clone(selector)), ..PeerTest::default() }, ..rule }
    };
    // Every second port, so that no two stretches touch.
    let rules: Vec<_> = (1..).step_by(2).zip(&selectors).map(one).collect();
    let sketch = Sketch { endpoints: [Some((Some(rules), None)), None, None], ..small() };
    let mut desired = sketch.desired();
    for number in 0..peers {
        let half =
            (0..).zip(&selectors).filter(|(rule, _)| has(number, *rule)).map(|(_, selector)| Arc::clone(selector));
        let class = Arc::new(Class { selectors: half.collect(), ..Class::default() });
        let [high, low] = number.to_be_bytes();
        desired.addresses.insert([10, 99, high, low].into(), AddressSpec { class, owner: Owner::Elsewhere });
    }
    desired
}

#[test]
fn a_set_that_explodes_is_given_up_before_it_is_worked_out_and_what_is_in_force_stays() {
    let size = 10_000;
    let mut tables = tables(&[(maps::SPANS.name, size)]);
    in_force(&mut tables, &small().desired());
    let (held, writes) = (tables.store().held.clone(), tables.store().writes);
    let (rules, peers) = (1000, 1000);
    let error = tables.commit(&exploding(rules, peers), &guarded).expect_err("a million spans");
    let CommitError::Full(full) = &error else { panic!("{error}") };
    assert_eq!((full.map, full.all_counted), (maps::SPANS.name, false));
    // Twice what fits, and one row more: a twentieth of the whole.
    assert!(full.needed <= u64::from(2 * size) + 2 * u64::from(rules), "{error}");
    for part in ["or more are needed", "NetworkPolicy default/p", "previous revision stays", "mapEntries SPANS"] {
        assert!(error.to_string().contains(part), "{part} is missing in: {error}");
    }
    assert_eq!((&held, writes), (&tables.store().held, tables.store().writes), "something was written");
    assert_speaks(tables.store(), &small().desired(), &hits(tables.names()), "after it was given up");
    // As many rules for fewer peers fit.
    in_force(&mut tables, &exploding(rules, 5));
    in_force(&mut tables, &small().desired());
}
