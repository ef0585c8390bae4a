//! Compiles a rule set, as seen by one peer class, into a row of spans.
//! In: a [`RuleSet`] and a [`Class`]. Out: a [`Row`]: who decides, for every `x` of protocol and port.
//! Invariant: spans are sorted, the first starts at 0, neighbours differ.
//! Never: looks at an address or at another rule set.

use crate::{Class, Decider, RuleSet, Verdict};

/// From `start` (see `abi::rules::x_of`) to the next span's start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowSpan {
    /// First `x`.
    pub start: u32,
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
}

/// The whole answer of a rule set to one class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub Vec<RowSpan>);

/// The row of `set` for peers of `class`. The set's default row is the one for `Class::default()`.
#[must_use]
pub fn row(set: &RuleSet, class: &Class) -> Row {
    let _ = (set, class);
    todo!()
}
