//! The anchor of a selector: tags of which an item must carry one for the selector to match it.
//! In: a selector, and how many items carry which tag. Out: the anchor that fewest items carry.
//! Invariant: an item that is known to have none of an anchor's tags does not match, whatever else is not known of it.
//! Never: decides a match; it only says who is worth asking (SEL-8).

use super::tags::Tag;
use model::Selector;

/// Whom a selector may match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// Anything.
    Anywhere,
    /// What carries at least one of these.
    At(Vec<Tag>),
}

impl Anchor {
    /// `carriers` says how many items carry a tag.
    pub(super) fn of(selector: &Selector, carriers: &impl Fn(&Tag) -> usize) -> Self {
        let of = |part| Self::of(part, carriers);
        let label = |key: &String, value: &String| Tag::Label(key.as_str().into(), value.as_str().into());
        match selector {
            Selector::Equals(key, value) => Self::At(vec![label(key, value)]),
            // Of no value at all: what is not known of the key is in doubt all the same.
            Selector::In(key, values) if values.is_empty() => Self::At(vec![Tag::Key(key.as_str().into())]),
            Selector::In(key, values) => Self::At(values.iter().map(|value| label(key, value)).collect()),
            Selector::Has(key)
            | Selector::Contains(key, _)
            | Selector::StartsWith(key, _)
            | Selector::EndsWith(key, _) => Self::At(vec![Tag::Key(key.as_str().into())]),
            Selector::And { 0: parts, .. } => {
                parts.iter().map(of).min_by_key(|anchor| anchor.weight(carriers)).unwrap_or(Self::Anywhere)
            }
            Selector::Or { 0: parts, .. } => parts.iter().map(of).fold(Self::At(Vec::new()), Self::or),
            Selector::All | Selector::Global | Selector::NotEquals(..) | Selector::NotIn(..) | Selector::Not { .. } => {
                Self::Anywhere
            }
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(tags), Self::At(others)) => Self::At([tags, others].concat()),
            _ => Self::Anywhere,
        }
    }

    /// How many would have to be asked; of equals, what names values: of a key that nobody carries yet all values come.
    fn weight(&self, carriers: &impl Fn(&Tag) -> usize) -> (usize, usize) {
        match self {
            Self::Anywhere => (usize::MAX, 0),
            Self::At(tags) => {
                let keys = tags.iter().filter(|tag| matches!(tag, Tag::Key(_))).count();
                (tags.iter().map(carriers).sum(), keys)
            }
        }
    }
}
