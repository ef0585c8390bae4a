//! Restrictions: what labels must say for a selector to match at all (SEL-8).
//! In: a selector. Out: for some keys, that they are there, and with which values.
//! Invariant: labels that break a restriction certainly do not match; labels that keep all of them may still not.
//! Never: a key whose absence could match.

use super::{Label, Selector};
use std::collections::{BTreeMap, BTreeSet};

/// What a label must be that a selector cannot match without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction<'a> {
    /// There.
    Present,
    /// There, with one of these values; with none of them, nothing matches.
    OneOf(BTreeSet<&'a str>),
}

/// Restrictions by key.
pub type Restrictions<'a> = BTreeMap<&'a str, Restriction<'a>>;

impl<'a> Restriction<'a> {
    /// Whether it may hold of a label.
    #[must_use]
    pub fn may_hold(&self, label: Label<'_>) -> bool {
        match (self, label) {
            (_, Label::Unknown) => true,
            (_, Label::Absent) => false,
            (Self::Present, Label::Is(_)) => true,
            (Self::OneOf(values), Label::Is(value)) => values.contains(value),
        }
    }

    /// Both hold.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Present, other) => other,
            (own, Self::Present) => own,
            (Self::OneOf(own), Self::OneOf(other)) => Self::OneOf(own.intersection(&other).copied().collect()),
        }
    }

    /// Either holds.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::OneOf(own), Self::OneOf(other)) => Self::OneOf(own.union(&other).copied().collect()),
            _ => Self::Present,
        }
    }
}

impl Selector {
    /// What it cannot match without, as far as its form shows.
    #[must_use]
    pub fn restrictions(&self) -> Restrictions<'_> {
        match self {
            Self::Equals(key, value) => one_of(key, [value]),
            Self::In(key, values) => one_of(key, values),
            Self::Has(key) | Self::Contains(key, _) | Self::StartsWith(key, _) | Self::EndsWith(key, _) => {
                BTreeMap::from([(key.as_str(), Restriction::Present)])
            }
            Self::Not(inner) => match &**inner {
                Self::NotEquals(key, value) => one_of(key, [value]),
                Self::NotIn(key, values) => one_of(key, values),
                _ => BTreeMap::new(),
            },
            Self::And(parts) => parts.iter().map(Self::restrictions).fold(BTreeMap::new(), all_of),
            Self::Or(parts) => {
                let mut parts = parts.iter().map(Self::restrictions);
                let first = parts.next().unwrap_or_default();
                parts.fold(first, any_of)
            }
            Self::All | Self::Global | Self::NotEquals(..) | Self::NotIn(..) => BTreeMap::new(),
        }
    }
}

fn one_of<'a>(key: &'a str, values: impl IntoIterator<Item = &'a String>) -> Restrictions<'a> {
    BTreeMap::from([(key, Restriction::OneOf(values.into_iter().map(String::as_str).collect()))])
}

fn all_of<'a>(mut whole: Restrictions<'a>, part: Restrictions<'a>) -> Restrictions<'a> {
    for (key, restriction) in part {
        let both = match whole.remove(key) {
            Some(known) => known.and(restriction),
            None => restriction,
        };
        whole.insert(key, both);
    }
    whole
}

/// A key that one part does not ask for restricts nothing.
fn any_of<'a>(whole: Restrictions<'a>, mut part: Restrictions<'a>) -> Restrictions<'a> {
    let either = |(key, known): (&'a str, Restriction<'a>)| Some((key, known.or(part.remove(key)?)));
    whole.into_iter().filter_map(either).collect()
}
