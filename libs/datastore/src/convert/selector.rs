//! Label selectors of Kubernetes.
//! In: `matchLabels` and `matchExpressions`. Out: [`Selector`].
//! Invariant: an empty selector is everything; every requirement given must hold.
//! Never: leaves out a requirement it does not understand.

use super::field::InvalidField;
use model::Selector;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<BTreeSet<String>>,
}

impl LabelSelector {
    pub(super) fn everything() -> Self {
        Self { match_labels: None, match_expressions: None }
    }

    /// The selector that stands at `path`.
    pub(super) fn selector(&self, path: &str) -> Result<Selector, InvalidField> {
        let mut parts = Vec::new();
        for (key, value) in self.match_labels.iter().flatten() {
            require_key(key, || format!("{path}.matchLabels"))?;
            parts.push(Selector::Equals(key.clone(), value.clone()));
        }
        for (index, requirement) in self.match_expressions.iter().flatten().enumerate() {
            parts.push(requirement.selector(&format!("{path}.matchExpressions[{index}]"))?);
        }
        Ok(Selector::all_of(parts))
    }
}

impl Requirement {
    fn selector(&self, path: &str) -> Result<Selector, InvalidField> {
        require_key(&self.key, || format!("{path}.key"))?;
        let values = self.values.clone().unwrap_or_default();
        let key = self.key.clone();
        let wrong_values = |rule| Err(InvalidField::new(&format!("{path}.values"), rule));
        match self.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => wrong_values("must not be empty for In and NotIn"),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                wrong_values("must be empty for Exists and DoesNotExist")
            }
            "In" => Ok(Selector::In(key, values)),
            "NotIn" => Ok(Selector::NotIn(key, values)),
            "Exists" => Ok(Selector::Has(key)),
            "DoesNotExist" => Ok(Selector::has_not(key)),
            other => {
                let reason = format!("{other:?} is not one of In, NotIn, Exists, DoesNotExist");
                Err(InvalidField::new(&format!("{path}.operator"), reason))
            }
        }
    }
}

/// `[prefix/]name`, as the API server asks of label keys.
fn require_key(key: &str, path: impl FnOnce() -> String) -> Result<(), InvalidField> {
    let (prefix, name) = key.split_once('/').unwrap_or(("dns.name", key));
    let inner = |c: char| c.is_ascii_alphanumeric();
    let valid = |part: &str, longest| {
        let ends = part.starts_with(inner) && part.ends_with(inner);
        ends && part.len() <= longest && part.chars().all(|c| inner(c) || "-_.".contains(c))
    };
    if valid(prefix, 253) && valid(name, 63) {
        return Ok(());
    }
    Err(InvalidField::new(&path(), format!("{key:?} is not a label key such as app or example.com/app")))
}
