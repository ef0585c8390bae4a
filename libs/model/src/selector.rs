//! The selector: which labels match.
//! In: an expression made by a converter. Out: yes or no for a set of labels, and the expression's text.
//! Invariant: prints in Calico's grammar (libcalico-go/lib/selector), one text per expression.
//! Never: an empty expression; `All` says "everything".

use crate::Labels;
use std::{collections::BTreeSet, fmt};

/// A selector expression. `!=` and `not in` are true where the label is absent, as in Calico and Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `all()`
    All,
    /// `k == "v"`
    Equals(String, String),
    /// `k in {"a", "b"}`
    In(String, BTreeSet<String>),
    /// `k not in {"a", "b"}`
    NotIn(String, BTreeSet<String>),
    /// `has(k)`
    Has(String),
    /// `!has(k)`
    HasNot(String),
    /// `a && b`; at least two parts.
    And(Vec<Selector>),
}

impl Selector {
    /// The conjunction of `parts`: `All` for none, the part itself for one.
    #[must_use]
    pub fn all_of(mut parts: Vec<Selector>) -> Self {
        match parts.len() {
            0 => Self::All,
            1 => parts.remove(0),
            _ => Self::And(parts),
        }
    }

    /// Whether `labels` match.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Equals(key, value) => labels.get(key) == Some(value),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Has(key) => labels.contains_key(key),
            Self::HasNot(key) => !labels.contains_key(key),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
        }
    }

    /// Whether labels match of which only `known` are told, whatever the others are.
    #[must_use]
    pub fn matches_surely(&self, known: &Labels) -> bool {
        match self {
            Self::HasNot(_) => false,
            Self::NotIn(key, _) => known.contains_key(key) && self.matches(known),
            Self::And(parts) => parts.iter().all(|part| part.matches_surely(known)),
            Self::All | Self::Equals(..) | Self::In(..) | Self::Has(_) => self.matches(known),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set =
            |values: &BTreeSet<String>| values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
        match self {
            Self::All => f.write_str("all()"),
            Self::Equals(key, value) => write!(f, "{key} == {value:?}"),
            Self::In(key, values) => write!(f, "{key} in {{{}}}", set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {{{}}}", set(values)),
            Self::Has(key) => write!(f, "has({key})"),
            Self::HasNot(key) => write!(f, "!has({key})"),
            Self::And(parts) => {
                let texts: Vec<_> = parts.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(" && "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn np_70_not_in_and_does_not_exist_match_an_absent_key() {
        let not_in = Selector::NotIn("app".into(), ["db".to_owned()].into());
        assert!(not_in.matches(&labels(&[])));
        assert!(!not_in.matches(&labels(&[("app", "db")])));
        assert!(Selector::HasNot("app".into()).matches(&labels(&[("tier", "x")])));
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_absent() {
        let known = labels(&[("kubernetes.io/metadata.name", "x")]);
        let key = || "kubernetes.io/metadata.name".to_owned();
        assert!(Selector::All.matches_surely(&known));
        assert!(Selector::Equals(key(), "x".into()).matches_surely(&known));
        assert!(Selector::NotIn(key(), ["y".to_owned()].into()).matches_surely(&known));
        assert!(!Selector::NotIn("app".into(), ["y".to_owned()].into()).matches_surely(&known));
        assert!(!Selector::HasNot("app".into()).matches_surely(&known));
    }

    #[test]
    fn a_selector_prints_in_calicos_grammar() {
        let selector = Selector::all_of(vec![Selector::Equals("app".into(), "web".into()), Selector::Has("x".into())]);
        assert_eq!(selector.to_string(), "app == \"web\" && has(x)");
    }
}
