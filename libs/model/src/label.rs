//! Labels: what selectors are matched against.
//! In: key and value strings. Out: an ordered map.
//! Invariant: ordered by key, so equal label sets are equal values.
//! Never: inherits; the caller joins what a selector may see.

/// Labels of one object.
pub type Labels = std::collections::BTreeMap<String, String>;
