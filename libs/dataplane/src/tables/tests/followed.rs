//! A plan that looks at what is said to be new, against one that looks at everything; the books against the image.
//! In: random histories in which little changes at a time, interfaces that come and go, graces that come late. Out: equal plans.
//! Invariant: the specification is the plan that follows nothing, and the books begun anew from the image.
//! Never: keeps something back that is new.

use super::{
    super::{
        Lookup,
        ledger::Ledger,
        numbers::{Numbers, Room},
        plan,
        uses::Uses,
    },
    *,
};
use calc::{Latest, Touched};

/// What of one sketch goes over into the next.
fn step() -> impl Strategy<Value = (u8, Sketch)> {
    (0u8..12, sketch())
}

fn changed(before: &Sketch, (what, other): &(u8, Sketch)) -> Sketch {
    let mut next = before.clone();
    match usize::from(*what) {
        0 => next.nets = other.nets,
        1 => next.nets ^= 1 << (other.nets % 6),
        at @ 2..7 => next.addresses[at - 2] = other.addresses[at - 2],
        at @ 7..10 => next.endpoints[at - 7].clone_from(&other.endpoints[at - 7]),
        10 => (next.host, next.node, next.refuses) = (other.host.clone(), other.node.clone(), other.refuses),
        _ => next = other.clone(),
    }
    next
}

/// What differs, and nothing else.
pub(super) fn touched(before: &Desired, after: &Desired) -> Touched {
    let addresses = before.addresses.keys().chain(after.addresses.keys());
    let nets = before.nets.keys().chain(after.nets.keys());
    Touched {
        addresses: addresses.filter(|key| before.addresses.get(key) != after.addresses.get(key)).copied().collect(),
        nets: nets.filter(|key| before.nets.get(key) != after.nets.get(key)).copied().collect(),
        ..Touched::default()
    }
}

/// The plan that follows and the one that looks at everything.
fn assert_same_plan(tables: &Tables<FakeStore>, latest: Latest<'_>, desired: &Desired, lookup: Lookup<'_>) {
    let Tables { image, names, ledger, .. } = tables;
    let (retired, sizes) = (&tables.sweeps.retired(), &tables.store.sizes());
    let ground = plan::Ground { image, names, ledger, retired, sizes };
    let whole = plan::plan(ground, desired.into(), tables.holds, lookup).expect("it fits");
    let found = plan::plan(ground, latest, tables.holds, lookup).expect("it fits");
    assert_eq!(found.change, whole.change);
    assert_eq!(found.names, whole.names);
    assert_eq!((found.entries.uses, found.entries.numbers), (whole.entries.uses, whole.entries.numbers));
    assert_eq!((found.gone, found.fresh_hits), (whole.gone, whole.fresh_hits));
    assert_eq!((found.refused, found.refused_hosts), (whole.refused, whole.refused_hosts));
}

/// What is kept beside the image is what it says.
fn assert_books(tables: &Tables<FakeStore>) {
    let Tables { image, names, ledger, .. } = tables;
    assert_eq!(ledger.uses, Uses::of(image));
    let (mut wanted, retired) = (Numbers::of(image), tables.sweeps.retired());
    wanted.sets.extend(retired.sets);
    wanted.classes.extend(retired.classes);
    wanted.class_slots.extend(retired.class_slots);
    wanted.slots.extend(retired.slots);
    wanted.hits.extend(retired.hits);
    let found = &ledger.numbers;
    assert_eq!((&found.sets, &found.classes, &found.class_slots), (&wanted.sets, &wanted.classes, &wanted.class_slots));
    assert_eq!((&found.slots, &found.hits), (&wanted.slots, &wanted.hits));
    let taken = image.spans.keys().chain(&retired.spans).copied();
    assert_eq!(found.room, Room::without(taken));
    let anew = Ledger::of(image, names);
    assert_eq!((&ledger.places, &ledger.hits), (&anew.places, &anew.hits));
    for (set, id) in &names.sets {
        assert_eq!(ledger.sets.get(*id), Some(set));
        assert!(ledger.met.values().filter(|(met, _)| met == set).all(|(_, met)| met == id));
        names.classes.keys().for_each(|class| assert_eq!(ledger.sets.met(&**class), anew.sets.met(&**class)));
        assert_eq!(ledger.classes.met(&**set), anew.classes.met(&**set));
    }
    assert!(ledger.met.values().all(|(set, id)| names.sets.get(set) == Some(id)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_of_what_is_new_is_the_plan_of_everything(
        first in sketch(), steps in prop::collection::vec((step(), 0u8..8, 0u8..4), 1..24)
    ) {
        let mut tables = Tables::adopt(FakeStore::slow(Vec::new())).expect("empty tables");
        let (mut sketch, mut before) = (first, Desired::default());
        for (number, (step, unguarded, graces)) in (1..).zip(steps) {
            sketch = changed(&sketch, &step);
            let desired = sketch.desired();
            let touched = touched(&before, &desired);
            let latest = Latest::numbered(&desired, number, &touched);
            // An interface that is not guarded now and then, whatever is new.
            let lookup = |name: &IfaceName| guarded(name).filter(|found| found.ifindex != 98 + u32::from(unguarded));
            assert_same_plan(&tables, latest, &desired, &lookup);
            tables.commit(latest, &lookup).expect("it fits");
            assert_books(&tables);
            if unguarded < 2 {
                assert_speaks(&tables.store, &desired, &hits(&tables.names), "in force");
            }
            tables.store.pass(graces.into());
            tables.sweep().expect("a sweep");
            assert_books(&tables);
            before = desired;
        }
    }

    #[test]
    fn after_one_that_was_missed_or_a_write_that_failed_everything_is_looked_at(
        sketches in prop::collection::vec((step(), 0u8..4, 0usize..40), 2..16)
    ) {
        let mut tables = Tables::adopt(FakeStore::default()).expect("empty tables");
        let (mut sketch, mut before) = (Sketch::default(), Desired::default());
        for (number, (step, what, at)) in (1..).zip(sketches) {
            sketch = changed(&sketch, &step);
            let desired = sketch.desired();
            let touched = touched(&before, &desired);
            before = desired.clone();
            let latest = Latest::numbered(&desired, number, &touched);
            tables.store.fail_at = (what == 1).then_some(tables.store.writes + at);
            if what == 0 || tables.commit(latest, &guarded).is_err() {
                continue;
            }
            tables.store.fail_at = None;
            assert_speaks(&tables.store, &desired, &hits(&tables.names), "in force");
            if tables.settle().is_ok() {
                assert_books(&tables);
            }
        }
    }
}
