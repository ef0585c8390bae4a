//! Matching: what a selector says of labels.
//! In: a selector, and a view of labels that may not know them all. Out: yes, no, or not known.
//! Invariant: with every label known the answer is; with fewer known it never turns from yes to no or back.
//! Never: allocates.

use super::{Label, LabelView, Selector, Truth};

impl Selector {
    /// Whether the labels of `view` match.
    pub fn matches(&self, view: &(impl LabelView + ?Sized)) -> Truth {
        let present = |key: &str, test: &dyn Fn(&str) -> bool| match view.label(key) {
            Label::Is(value) => test(value).into(),
            Label::Absent => Truth::No,
            Label::Unknown => Truth::Unknown,
        };
        match self {
            Self::All => Truth::Yes,
            Self::Global => present(crate::label::NAMESPACE, &|_| true).negated(),
            Self::Has(key) => present(key, &|_| true),
            Self::Equals(key, wanted) => present(key, &|value| value == wanted),
            Self::NotEquals(key, wanted) => present(key, &|value| value == wanted).negated(),
            Self::In(key, wanted) => present(key, &|value| wanted.contains(value)),
            Self::NotIn(key, wanted) => present(key, &|value| wanted.contains(value)).negated(),
            Self::Contains(key, part) => present(key, &|value| value.contains(part)),
            Self::StartsWith(key, part) => present(key, &|value| value.starts_with(part)),
            Self::EndsWith(key, part) => present(key, &|value| value.ends_with(part)),
            Self::Not(inner) => inner.matches(view).negated(),
            Self::And(parts) => Truth::all(parts.iter().map(|part| part.matches(view))),
            Self::Or(parts) => Truth::any(parts.iter().map(|part| part.matches(view))),
        }
    }
}
