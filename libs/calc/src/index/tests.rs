//! The label index against asking every selector about every item, over histories.
//! In: items and selectors that come, change and go. Out: equal answers; costs as counts.
//! Invariant: the changes that are told, added up, are the answers.
//! Never: measures time.

use super::*;
use model::{Label, Labels};
use proptest::{collection::vec, prelude::*};

/// Labels, and whether all are told: of others only one with the key `a` may be there.
#[derive(Clone, Debug)]
struct Thing {
    labels: Labels,
    complete: bool,
}

impl LabelView for Thing {
    fn label(&self, key: &str) -> Label<'_> {
        match self.labels.get(key) {
            Some(value) => Label::Is(value),
            None if self.complete || key != "a" => Label::Absent,
            None => Label::Unknown,
        }
    }
}

impl Labelled for Thing {
    fn each_label(&self, each: &mut dyn FnMut(&str, &str)) {
        self.labels.iter().for_each(|(key, value)| each(key, value));
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}

#[derive(Clone, Debug)]
enum Step {
    PutItem(u8, Thing),
    RemoveItem(u8),
    PutSelector(u8, Arc<Selector>),
    RemoveSelector(u8),
}

fn text(letters: &'static str) -> impl Strategy<Value = String> {
    (0..letters.len()).prop_map(|at| letters[at..=at].to_owned())
}

fn thing() -> impl Strategy<Value = Thing> {
    let labels = proptest::collection::btree_map(text("abc"), text("xyz"), 0..4);
    let thing = |(labels, complete)| Thing { labels: BTreeMap::into_iter(labels).collect(), complete };
    (labels, prop::bool::weighted(0.9)).prop_map(thing)
}

fn selector() -> impl Strategy<Value = Selector> {
    let (key, value) = (|| text("abc"), || text("xyz"));
    let leaf = prop_oneof![
        Just(Selector::All),
        (key(), value()).prop_map(|(k, v)| Selector::Equals(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::NotEquals(k, v)),
        (key(), vec(value(), 0..3)).prop_map(|(k, v)| Selector::In(k, v.into_iter().collect())),
        (key(), vec(value(), 0..3)).prop_map(|(k, v)| Selector::NotIn(k, v.into_iter().collect())),
        (key(), value()).prop_map(|(k, v)| Selector::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::EndsWith(k, v)),
        key().prop_map(Selector::Has),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(Selector::negated),
            vec(inner.clone(), 0..3).prop_map(Selector::all_of),
            vec(inner, 0..3).prop_map(Selector::any_of),
        ]
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8, thing()).prop_map(|(id, thing)| Step::PutItem(id, thing)),
        1 => (0..6u8).prop_map(Step::RemoveItem),
        3 => (0..6u8, selector()).prop_map(|(id, selector)| Step::PutSelector(id, Arc::new(selector))),
        1 => (0..6u8).prop_map(Step::RemoveSelector),
    ]
}

/// The index beside plain lists of what it was told, and its own changes added up.
struct Watched {
    index: LabelIndex<u8, u8>,
    items: BTreeMap<u8, Thing>,
    selectors: BTreeMap<u8, Arc<Selector>>,
    told: BTreeMap<(u8, u8), Truth>,
}

impl Default for Watched {
    fn default() -> Self {
        let index = LabelIndex { may_be_untold: |key| key == "a", ..LabelIndex::default() };
        Self { index, items: BTreeMap::new(), selectors: BTreeMap::new(), told: BTreeMap::new() }
    }
}

impl Watched {
    fn take(&mut self, step: Step) {
        let changes = match step {
            Step::PutItem(id, thing) => {
                let changes = self.index.put_item(&id, &thing);
                self.items.insert(id, thing);
                changes
            }
            Step::RemoveItem(id) => {
                self.items.remove(&id);
                self.index.remove_item(&id)
            }
            Step::PutSelector(id, selector) => {
                let changes = self.index.put_selector(&id, &selector, |item| self.items[item].clone());
                self.selectors.insert(id, selector);
                changes
            }
            Step::RemoveSelector(id) => {
                self.selectors.remove(&id);
                self.index.remove_selector(&id)
            }
        };
        for Change { item, selector, truth } in changes {
            let was = self.told.insert((item, selector), truth).unwrap_or(Truth::No);
            assert_ne!(was, truth, "a change that is none: {item} {selector}");
        }
        self.told.retain(|_, truth| truth.possibly());
    }

    fn naive(&self) -> BTreeMap<(u8, u8), Truth> {
        let pairs = self.items.iter().flat_map(|(item, thing)| {
            self.selectors.iter().map(move |(id, selector)| ((*item, *id), selector.matches(thing)))
        });
        pairs.filter(|(_, truth)| truth.possibly()).collect()
    }

    fn by_item(&self) -> BTreeMap<(u8, u8), Truth> {
        let of = |item| self.index.matches_of(item).map(move |(selector, truth)| ((*item, *selector), truth));
        self.items.keys().flat_map(of).collect()
    }

    fn by_selector(&self) -> BTreeSet<(u8, u8)> {
        let of = |selector| self.index.matched_by(selector).map(move |item| (*item, *selector));
        self.selectors.keys().flat_map(of).collect()
    }
}

proptest! {
    #[test]
    fn sel_8_the_index_says_what_every_selector_says_of_every_item(steps in vec(step(), 1..60)) {
        let mut watched = Watched::default();
        for step in steps {
            watched.take(step);
            let wanted = watched.naive();
            prop_assert_eq!(&watched.told, &wanted, "told");
            prop_assert_eq!(&watched.by_item(), &wanted, "by item");
            prop_assert_eq!(watched.by_selector(), wanted.into_keys().collect::<BTreeSet<_>>(), "by selector");
        }
    }

    #[test]
    fn what_has_gone_takes_no_room(steps in vec(step(), 1..60)) {
        let mut watched = Watched::default();
        steps.into_iter().for_each(|step| watched.take(step));
        (0..6).for_each(|id| watched.take(Step::RemoveItem(id)));
        (0..6).for_each(|id| watched.take(Step::RemoveSelector(id)));
        prop_assert_eq!((watched.index.tags.len(), watched.index.unanchored.len()), (0, 0));
        prop_assert!(watched.index.incomplete.is_empty() && watched.index.doubtful.is_empty());
    }
}

/// A cluster of so many pods, in namespaces of a hundred, ten to a workload, and a selector for each workload.
fn cluster(pods: u32) -> (LabelIndex<u32, u32>, impl Fn(u32, u32) -> Thing) {
    let pod = |number: u32, of: u32| Thing {
        labels: [
            ("orchestrator", "k8s".to_owned()),
            ("namespace", format!("n{}", number / 100)),
            ("app", format!("a{of}")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        complete: true,
    };
    let mut index = LabelIndex::default();
    for number in 0..pods {
        index.put_item(&number, &pod(number, number / 10));
    }
    for workload in 0..pods / 10 {
        let parts = [
            Selector::Equals("orchestrator".into(), "k8s".into()),
            Selector::Equals("namespace".into(), format!("n{}", workload / 10)),
            Selector::Equals("app".into(), format!("a{workload}")),
        ];
        index.put_selector(&workload, &Arc::new(Selector::all_of(parts.into())), |number| pod(*number, number / 10));
    }
    (index, pod)
}

#[test]
fn a_change_costs_the_same_however_large_the_cluster_is() {
    let costs = [1_000, 20_000].map(|pods| {
        let (mut index, pod) = cluster(pods);
        let before = index.asked();
        let relabelled = index.put_item(&7, &pod(7, 3));
        let of_a_label = index.asked() - before;
        assert_eq!(relabelled.len(), 2, "it leaves one workload and joins another");
        let now = |number: &u32| pod(*number, if *number == 7 { 3 } else { number / 10 });
        let matched = index.put_selector(&u32::MAX, &Arc::new(Selector::Equals("app".into(), "a3".into())), now);
        assert_eq!(matched.len(), 11);
        (of_a_label, index.asked() - before - of_a_label)
    });
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[0], (2, 11));
}
