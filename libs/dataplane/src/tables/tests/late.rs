//! The promise of the tables where graces come late: a packet may still read what a commit before has left.
//! In: sequences of small Desireds, over tables whose graces end when the test says so. Out: what packets under way are told.
//! Invariant: each packet is judged by the one revision it read first, and nothing is left behind at the end.
//! Never: a time, a thread or a kernel.

use super::*;

/// What every packet of a revision may ask.
fn probes() -> Vec<Probe> {
    let keys = ADDRESSES.iter().chain(&STRANGERS).map(|text| prefix::address_key(address(text)).expect("plain"));
    let keys: Vec<_> = keys.collect();
    let xs = [0, abi::rules::x_of(6, 80), abi::rules::x_of(6, 81)];
    let ask = |key: &abi::Address| {
        let key = *key;
        questions(&xs).map(move |(at, direction, x)| (at, direction, key, x)).collect::<Vec<_>>()
    };
    keys.iter().flat_map(ask).collect()
}

/// Tables whose graces are not over by themselves.
pub(super) fn slow_tables() -> Tables<FakeStore> {
    Tables::adopt(FakeStore::slow(probes())).expect("empty tables")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// The fake asks packets of every revision under way after every write.
    #[test]
    fn however_late_graces_come_each_packet_is_judged_by_its_own_revision_and_nothing_is_left_behind(
        steps in prop::collection::vec((sketch(), 0u8..32, 0usize..4), 2..12)
    ) {
        let mut tables = slow_tables();
        let mut last = steps[0].0.clone();
        for (next, kept, graces) in &steps {
            // Where everything moves, every commit waits: parts of the one before stay.
            let keep = |bit: u8| kept & bit != 0;
            last = Sketch {
                nets: if keep(1) { last.nets } else { next.nets },
                addresses: if keep(2) { last.addresses } else { next.addresses },
                endpoints: if keep(4) { last.endpoints.clone() } else { next.endpoints.clone() },
                host: if keep(8) { last.host.clone() } else { next.host.clone() },
                node: if keep(16) { last.node.clone() } else { next.node.clone() },
                refuses: if keep(16) { last.refuses } else { next.refuses },
            };
            let step = last.desired();
            tables.commit(&step, &guarded).expect("it fits");
            assert_speaks(&tables.store, &step, &hits(&tables.names), "in force");
            tables.store.pass(*graces);
            tables.sweep().expect("a sweep");
            assert_speaks(&tables.store, &step, &hits(&tables.names), "swept");
        }
        tables.settle().expect("a sweep");
        assert_eq!(tables.audit(), Ok(vec![]), "no damage is seen where none was done");
        assert_nothing_left(&tables);
    }
}

/// Two commits upon a first one while all packets are under way; the fake asks them after every write.
fn overlapping([first, second, third]: [Sketch; 3]) {
    let mut tables = slow_tables();
    tables.commit(&first.desired(), &guarded).expect("it fits");
    tables.settle().expect("a sweep");
    let waits = tables.store.waits;
    for step in [second, third] {
        tables.commit(&step.desired(), &guarded).expect("it fits");
        assert_eq!(tables.store.waits, waits, "nothing here has to wait: {step:?}");
    }
    tables.store.pass(1);
    tables.sweep().expect("a sweep");
    tables.settle().expect("a sweep");
    assert_nothing_left(&tables);
}

#[test]
fn numbers_of_what_went_are_not_given_to_what_comes_while_packets_may_read_them() {
    let to_first = || Some(vec![rule(0, 80, SetAction::Allow)]);
    let sketch = |peers: [Option<u8>; 2], rules: [Rules; 2]| {
        let [one, other] = rules;
        let endpoint = |rules: Rules| rules.map(|rules| (Some(rules.clone()), Some(rules)));
        Sketch {
            nets: 0,
            addresses: [None, peers[0], None, peers[1], None],
            endpoints: [endpoint(one), None, endpoint(other)],
            ..Sketch::default()
        }
    };
    let alone = |peers| sketch(peers, [to_first(), None]);
    // A class slot: one address goes, another comes.
    overlapping([alone([None, Some(1)]), alone([None, None]), alone([Some(0), None])]);
    // A class: an address takes another, which a third follows.
    overlapping([alone([None, Some(1)]), alone([None, Some(2)]), alone([Some(3), Some(2)])]);
    // A rule set: an endpoint takes another, and a second endpoint comes.
    let second = || Some(vec![rule(4, 81, SetAction::Deny)]);
    let third = || Some(vec![rule(1, 82, SetAction::Allow)]);
    overlapping([
        sketch([None, None], [to_first(), None]),
        sketch([None, None], [second(), None]),
        sketch([None, None], [second(), third()]),
    ]);
    // A word that was settled from the start, and changed by the next commit: the first one's sweep leaves it alone.
    overlapping([alone([None, None]), alone([None, Some(0)]), alone([None, Some(1)])]);
}

#[test]
fn a_pod_that_went_is_not_brought_back_by_what_an_earlier_commit_left() {
    let mut sketch = Sketch { endpoints: [Some((None, None)), None, None], ..Sketch::default() };
    sketch.addresses[4] = Some(0);
    let mut tables = slow_tables();
    tables.commit(&sketch.desired(), &guarded).expect("it fits");
    tables.settle().expect("a sweep");
    // Stamps the pod, and changes no word of it.
    sketch.addresses[4] = None;
    tables.commit(&sketch.desired(), &guarded).expect("it fits");
    tables.commit(&Desired::default(), &guarded).expect("it fits");
    // The fake asks after every write of either sweep.
    tables.store.pass(1);
    tables.sweep().expect("a sweep");
    tables.settle().expect("a sweep");
    assert_nothing_left(&tables);
}

#[test]
fn a_pod_that_comes_does_not_wait_for_the_graces_of_the_one_before_and_a_word_that_changes_twice_does() {
    let rules = || Some(vec![rule(0, 80, SetAction::Allow)]);
    let mut sketch = Sketch::default();
    let mut tables = slow_tables();
    for pod in 0..3 {
        (sketch.addresses[pod], sketch.endpoints[pod]) = (Some(1), Some((rules(), rules())));
        tables.commit(&sketch.desired(), &guarded).expect("it fits");
        assert_eq!(tables.store.waits, 0, "pod {pod}");
    }
    sketch.endpoints[0] = Some((rules(), None));
    tables.commit(&sketch.desired(), &guarded).expect("it fits");
    assert!(tables.store.waits > 0, "its words came into force just now");
    tables.settle().expect("a sweep");
    assert_nothing_left(&tables);
}
