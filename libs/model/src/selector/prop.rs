//! Properties of every selector.
//! In: random selectors, and labels of which some are not known. Out: nothing, or the smallest selector that breaks one.
//! Invariant: the naive reading knows only sets of labels, each of them whole.
//! Never: generates what no text could say: a value has at most one kind of quote.

use super::*;
use crate::Labels;
use proptest::{collection, option, prelude::*, sample};
use std::collections::BTreeMap;

const KEYS: [&str; 3] = ["a", "b", "projectcalico.org/namespace"];
const VALUES: [&str; 4] = ["", "x", "xy", "yx"];

fn key() -> impl Strategy<Value = String> {
    sample::select(&KEYS[..]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![4 => sample::select(&VALUES[..]).prop_map(str::to_owned), 1 => "[ -!#-~é\n]{0,3}", 1 => "[ -&(-~]{0,3}"]
}

fn values() -> impl Strategy<Value = BTreeSet<String>> {
    collection::btree_set(value(), 0..4)
}

fn leaf() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just(Selector::All),
        Just(Selector::Global),
        key().prop_map(Selector::Has),
        (key(), value()).prop_map(|(key, value)| Selector::Equals(key, value)),
        (key(), value()).prop_map(|(key, value)| Selector::NotEquals(key, value)),
        (key(), values()).prop_map(|(key, values)| Selector::In(key, values)),
        (key(), values()).prop_map(|(key, values)| Selector::NotIn(key, values)),
        (key(), value()).prop_map(|(key, value)| Selector::Contains(key, value)),
        (key(), value()).prop_map(|(key, value)| Selector::StartsWith(key, value)),
        (key(), value()).prop_map(|(key, value)| Selector::EndsWith(key, value)),
    ]
}

pub(super) fn selectors() -> impl Strategy<Value = Selector> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        let parts = || collection::vec(inner.clone(), 0..4);
        prop_oneof![
            inner.clone().prop_map(Selector::negated),
            parts().prop_map(Selector::all_of),
            parts().prop_map(Selector::any_of),
        ]
    })
}

/// For each key a value, that it is absent, or that nobody knows.
#[derive(Clone, Debug)]
struct Partly(BTreeMap<&'static str, Option<Option<&'static str>>>);

impl LabelView for Partly {
    fn label(&self, key: &str) -> Label<'_> {
        match self.0.get(key) {
            None | Some(Some(None)) => Label::Absent,
            Some(Some(Some(value))) => Label::Is(value),
            Some(None) => Label::Unknown,
        }
    }
}

impl Partly {
    /// All that the labels may turn out to be, out of few values.
    fn completions(&self) -> Vec<Labels> {
        let mut found = vec![Labels::new()];
        for (key, known) in &self.0 {
            let any = VALUES.map(Some).into_iter().chain([None]).collect();
            let options: Vec<_> = known.map_or(any, |known| vec![known]);
            let with = |labels: &Labels, value: &Option<&str>| labels.with(value.map(|value| (*key, value)));
            found = found.iter().flat_map(|labels| options.iter().map(move |value| with(labels, value))).collect();
        }
        found
    }
}

fn views() -> impl Strategy<Value = Partly> {
    let known = option::weighted(0.7, option::of(sample::select(&VALUES[..])));
    collection::vec(known, KEYS.len()).prop_map(|known| Partly(KEYS.into_iter().zip(known).collect()))
}

/// What Calico's documentation says, of labels that are all known.
fn naive(selector: &Selector, labels: &Labels) -> bool {
    let value = |key: &String| labels.get(key);
    match selector {
        Selector::All => true,
        Selector::Global => labels.get(crate::label::NAMESPACE).is_none(),
        Selector::Has(key) => value(key).is_some(),
        Selector::Equals(key, wanted) => value(key) == Some(wanted),
        Selector::NotEquals(key, wanted) => value(key) != Some(wanted),
        Selector::In(key, wanted) => wanted.iter().any(|wanted| value(key) == Some(wanted)),
        Selector::NotIn(key, wanted) => wanted.iter().all(|wanted| value(key) != Some(wanted)),
        Selector::Contains(key, part) => value(key).is_some_and(|value| value.contains(part)),
        Selector::StartsWith(key, part) => value(key).is_some_and(|value| value.strip_prefix(part.as_str()).is_some()),
        Selector::EndsWith(key, part) => value(key).is_some_and(|value| value.strip_suffix(part.as_str()).is_some()),
        Selector::Not(inner) => !naive(inner, labels),
        Selector::And(parts) => !parts.iter().any(|part| !naive(part, labels)),
        Selector::Or(parts) => parts.iter().any(|part| naive(part, labels)),
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same_selector(selector in selectors()) {
        let text = selector.to_string();
        prop_assert_eq!(text.parse::<Selector>(), Ok(selector), "{}", text);
    }

    #[test]
    fn a_match_is_what_the_naive_reading_says(selector in selectors(), view in views()) {
        let answers: BTreeSet<bool> = view.completions().iter().map(|labels| naive(&selector, labels)).collect();
        match selector.matches(&view) {
            Truth::Yes => prop_assert_eq!(answers, [true].into()),
            Truth::No => prop_assert_eq!(answers, [false].into()),
            Truth::Unknown => prop_assert!(view.0.values().any(Option::is_none), "all was known"),
        }
    }

    #[test]
    fn any_text_is_read_or_refused_at_one_of_its_characters(text in "[ab =!&|(){}\"',hasinot\té]{0,24}") {
        match text.parse::<Selector>() {
            Ok(selector) => prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.position), "{}", error),
        }
    }

    #[test]
    fn said_of_namespaces_a_selector_sees_them_as_it_saw_their_labels(selector in selectors(), view in views()) {
        prop_assume!(!selector.says_global());
        prop_assert_eq!(selector.of_namespaces().matches(&Inherited(&view)), selector.matches(&view));
    }
}

/// Labels of a namespace, seen by what is in it.
struct Inherited<'a>(&'a Partly);

impl LabelView for Inherited<'_> {
    fn label(&self, key: &str) -> Label<'_> {
        let own = if key == crate::label::NAMESPACE { Label::Is("shop") } else { Label::Absent };
        key.strip_prefix(crate::label::NAMESPACE_PREFIX).map_or(own, |key| self.0.label(key))
    }
}
