//! The selector index: which of many selectors labels can match, without asking each.
//! In: selectors, each with what it stands for, and views of labels. Out: those that match, or may.
//! Invariant: the same answer as asking every selector; what it costs grows with what comes near, not with what is there.
//! Never: misses a match for a label that is not known.

use model::{Label, LabelView, Restriction, Restrictions, Selector, Truth};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
};

/// Selectors by a label that each cannot match without (as felix/labelindex does).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorIndex<S, T> {
    /// In their order, each with what it stands for.
    entries: Vec<(S, T)>,
    /// By key; in them numbers of entries.
    by_label: BTreeMap<String, ByLabel>,
    /// Those that no label rules out.
    always: Vec<usize>,
}

impl<S, T> Default for SelectorIndex<S, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), by_label: BTreeMap::new(), always: Vec::new() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ByLabel {
    /// Whatever its value.
    present: Vec<usize>,
    by_value: BTreeMap<String, Vec<usize>>,
}

impl<S: Borrow<Selector>, T> SelectorIndex<S, T> {
    /// Of these selectors. Matches come in their order.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = (S, T)>) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let mut index = Self::default();
        let crowds = Crowds::of(entries.iter().map(|(selector, _)| selector.borrow()));
        for (number, (selector, _)) in entries.iter().enumerate() {
            index.place(number, &selector.borrow().restrictions(), &crowds);
        }
        index.entries = entries;
        index
    }

    fn place(&mut self, number: usize, restrictions: &Restrictions<'_>, crowds: &Crowds<'_>) {
        let Some((key, restriction)) = crowds.least(restrictions) else { return self.always.push(number) };
        let by_label = self.by_label.entry(key.to_owned()).or_default();
        match restriction {
            Restriction::OneOf(values) if !values.is_empty() => {
                for value in values {
                    by_label.by_value.entry((*value).to_owned()).or_default().push(number);
                }
            }
            // No value at all will do, which only a value that is known can show.
            Restriction::Present | Restriction::OneOf(_) => by_label.present.push(number),
        }
    }

    /// What matches these labels, or may once more is known.
    pub fn matching(&self, labels: &impl LabelView) -> impl Iterator<Item = (&S, &T, Truth)> {
        let near = self.near(labels).into_iter().map(|number| &self.entries[number]);
        let asked = near.map(|(selector, what)| (selector, what, selector.borrow().matches(labels)));
        asked.filter(|(_, _, found)| found.possibly())
    }

    /// Those that their label does not rule out.
    fn near(&self, labels: &impl LabelView) -> BTreeSet<usize> {
        let mut near: BTreeSet<usize> = self.always.iter().copied().collect();
        for (key, by_label) in &self.by_label {
            match labels.label(key) {
                Label::Absent => {}
                Label::Is(value) => {
                    near.extend(&by_label.present);
                    near.extend(by_label.by_value.get(value).into_iter().flatten());
                }
                Label::Unknown => {
                    near.extend(&by_label.present);
                    near.extend(by_label.by_value.values().flatten());
                }
            }
        }
        near
    }
}

/// How many selectors ask for the same: the fewer, the more a label tells. Every pod has the orchestrator's label.
struct Crowds<'a> {
    keys: BTreeMap<&'a str, usize>,
    values: BTreeMap<(&'a str, &'a str), usize>,
}

impl<'a> Crowds<'a> {
    fn of(selectors: impl Iterator<Item = &'a Selector>) -> Self {
        let mut crowds = Self { keys: BTreeMap::new(), values: BTreeMap::new() };
        for selector in selectors {
            for (key, restriction) in selector.restrictions() {
                *crowds.keys.entry(key).or_default() += 1;
                if let Restriction::OneOf(values) = restriction {
                    for value in values {
                        *crowds.values.entry((key, value)).or_default() += 1;
                    }
                }
            }
        }
        crowds
    }

    /// The restriction that the fewest others share; of those alike, the first key.
    fn least<'r>(&self, restrictions: &'r Restrictions<'_>) -> Option<(&'r str, &'r Restriction<'r>)> {
        let crowd = |key: &str, restriction: &Restriction<'_>| match restriction {
            Restriction::Present => self.keys.get(key).copied().unwrap_or_default(),
            Restriction::OneOf(values) => {
                values.iter().map(|value| self.values.get(&(key, *value)).copied().unwrap_or_default()).sum()
            }
        };
        restrictions.iter().map(|(key, restriction)| (*key, restriction)).min_by_key(|(key, one)| crowd(key, one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Incomplete, Labels};
    use proptest::{collection, prelude::*, sample};

    const PARTS: [&str; 12] = [
        "a == 'x'",
        "a == 'y'",
        "b == 'x'",
        "a in {'x', 'z'}",
        "b not in {'x'}",
        "has(c)",
        "!has(a)",
        "a != 'x'",
        "c starts with 'x'",
        "b ends with 'y'",
        "all()",
        "!a != 'z'",
    ];

    fn selectors() -> impl Strategy<Value = Vec<Selector>> {
        let part = sample::select(&PARTS[..]).prop_map(str::to_owned);
        let joined = (collection::vec(part, 1..4), any::<bool>());
        let text = joined.prop_map(|(parts, all)| parts.join(if all { " && " } else { " || " }));
        collection::vec(text.prop_map(|text| text.parse().expect("parts are selectors")), 0..40)
    }

    fn labels() -> impl Strategy<Value = Labels> {
        let pair = (sample::select(&["a", "b", "c"][..]), sample::select(&["x", "y", "z"][..]));
        collection::vec(pair, 0..4)
            .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn naive(selectors: &[Selector], labels: &impl LabelView) -> Vec<(usize, Truth)> {
        let asked = selectors.iter().enumerate().map(|(number, selector)| (number, selector.matches(labels)));
        asked.filter(|(_, found)| found.possibly()).collect()
    }

    proptest! {
        #[test]
        fn sel_8_the_index_answers_as_asking_every_selector_does(selectors in selectors(), labels in labels()) {
            let index = SelectorIndex::of(selectors.iter().zip(0..));
            let found: Vec<_> = index.matching(&labels).map(|(_, number, found)| (*number, found)).collect();
            prop_assert_eq!(found, naive(&selectors, &labels));
            let partly = Incomplete(&labels);
            let found: Vec<_> = index.matching(&partly).map(|(_, number, found)| (*number, found)).collect();
            prop_assert_eq!(found, naive(&selectors, &partly));
        }
    }

    #[test]
    fn what_everybody_asks_for_rules_nobody_out() {
        let text = |number: usize| format!("projectcalico.org/orchestrator == 'k8s' && app == 'a{number}'");
        let selectors: Vec<Selector> = (0..100).map(|number| text(number).parse().expect("a selector")).collect();
        let index = SelectorIndex::of(selectors.iter().zip(0..));
        let labels = Labels::from([
            ("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned()),
            ("app".to_owned(), "a7".to_owned()),
        ]);
        assert_eq!(index.near(&labels), BTreeSet::from([7]));
    }
}
