//! The selector: which labels match.
//! In: Calico's grammar (libcalico-go/lib/selector), or parts put together by a converter. Out: what it says of labels,
//! and its text.
//! Invariant: prints in Calico's canonical form, one text per expression, and reads back as itself; but for a value with both
//! kinds of quotes, which no text can say and no label has.
//! Never: takes what is not known for absent; see [`Truth`].

mod cursor;
mod matching;
mod parse;
mod print;
mod rewrite;
mod truth;
mod view;

pub use parse::InvalidSelector;
pub use truth::Truth;
pub use view::{EffectiveLabels, Incomplete, Label, LabelView, Parent};

use std::collections::BTreeSet;

/// A selector expression. `!=` and `not in` are true where the label is absent, as in Calico and Kubernetes (SEL-2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `all()`
    All,
    /// `global()`: what is in no namespace.
    Global,
    /// `k == "v"`
    Equals(String, String),
    /// `k != "v"`
    NotEquals(String, String),
    /// `k in {"a", "b"}`
    In(String, BTreeSet<String>),
    /// `k not in {"a", "b"}`
    NotIn(String, BTreeSet<String>),
    /// `k contains "v"`
    Contains(String, String),
    /// `k starts with "v"`
    StartsWith(String, String),
    /// `k ends with "v"`
    EndsWith(String, String),
    /// `has(k)`
    Has(String),
    /// `!a`, where `a` is no negation; made by [`Selector::negated`].
    #[non_exhaustive]
    Not(Box<Selector>),
    /// `(a && b)`, at least two parts; made by [`Selector::all_of`].
    #[non_exhaustive]
    And(Vec<Selector>),
    /// `(a || b)`, at least two parts; made by [`Selector::any_of`].
    #[non_exhaustive]
    Or(Vec<Selector>),
}

impl Selector {
    /// Longest label that a selector may name.
    pub const LABEL_MAX: usize = 512;
    /// Longest selector that an object may give, in characters (CAL-10).
    pub const LENGTH_MAX: usize = 1024;

    /// `!has(key)`
    #[must_use]
    pub fn has_not(key: String) -> Self {
        Self::Has(key).negated()
    }

    /// What `self` does not match. Two negations are none.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// The conjunction of `parts`: `All` for none, the part itself for one.
    #[must_use]
    pub fn all_of(mut parts: Vec<Selector>) -> Self {
        match parts.len() {
            0 => Self::All,
            1 => parts.remove(0),
            _ => Self::And(parts),
        }
    }

    /// The disjunction of `parts`: what matches nothing for none, the part itself for one.
    #[must_use]
    pub fn any_of(mut parts: Vec<Selector>) -> Self {
        match parts.len() {
            0 => Self::All.negated(),
            1 => parts.remove(0),
            _ => Self::Or(parts),
        }
    }
}

#[cfg(test)]
mod prop;
#[cfg(test)]
mod tests;
