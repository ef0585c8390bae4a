//! Reading fields: from JSON to small serde types, with the path of what is wrong.
//! In: an object and where in it to look. Out: a typed part, or [`InvalidField`].
//! Invariant: an error's path is written as a user would: `spec.ingress[0].from[1].ipBlock.cidr`.
//! Never: a default for something that was given and could not be read.

use model::{Action, Labels, NamespaceName, PolicyTypes};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;

/// A field that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub(crate) struct InvalidField {
    /// Where.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) reason: String,
}

impl InvalidField {
    pub(crate) fn new(path: &str, reason: impl ToString) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }

    /// With what holds meanwhile.
    pub(crate) fn so(mut self, consequence: &str) -> Self {
        self.reason = format!("{}; {consequence}", self.reason);
        self
    }

    /// As [`Self::so`], for a rule that was to do this.
    pub(super) fn so_the_rule(self, action: Action) -> Self {
        self.so(match action {
            Action::Allow => "the rule matches nothing",
            Action::Deny | Action::Pass => "the rule refuses everything",
            Action::Log => "the rule does nothing",
        })
    }
}

/// Reads the top-level field `field` of an object; absent is as good as empty.
pub(crate) fn read<T: DeserializeOwned>(field: &str, object: &Value) -> Result<T, InvalidField> {
    let empty = Value::Object(serde_json::Map::new());
    let value = object.get(field).filter(|value| !value.is_null()).unwrap_or(&empty);
    read_at(field, value)
}

/// Reads a value that stands at `path`.
pub(super) fn read_at<T: DeserializeOwned>(path: &str, value: &Value) -> Result<T, InvalidField> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = error.path().to_string();
        let whole = match inner.as_str() {
            "." => path.to_owned(),
            inner if inner.starts_with('[') => format!("{path}{inner}"),
            inner => format!("{path}.{inner}"),
        };
        InvalidField::new(&whole, error.into_inner())
    })
}

/// The `spec` of an object that must have one.
pub(super) fn spec(object: &Value) -> Result<&Value, InvalidField> {
    object.get("spec").filter(|spec| !spec.is_null()).ok_or_else(|| InvalidField::new("spec", "is required"))
}

/// The types of a policy that says them, at `path`.
pub(super) fn policy_types(path: &str, written: &[String]) -> Result<PolicyTypes, InvalidField> {
    let mut types = PolicyTypes { ingress: false, egress: false };
    for (index, text) in written.iter().enumerate() {
        match text.as_str() {
            "Ingress" => types.ingress = true,
            "Egress" => types.egress = true,
            other => {
                let reason = format!("{other:?} is neither Ingress nor Egress");
                return Err(InvalidField::new(&format!("{path}[{index}]"), reason));
            }
        }
    }
    Ok(types)
}

/// `metadata`, as far as it means something here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) name: String,
    namespace: Option<String>,
    labels: Option<Labels>,
    annotations: Option<BTreeMap<String, String>>,
    pub(super) deletion_timestamp: Option<String>,
    /// As it stands there: who writes nonsense in it owns nothing.
    #[serde(default)]
    owner_references: Value,
}

impl Meta {
    pub(super) fn read(object: &Value) -> Result<Self, InvalidField> {
        let meta: Self = read("metadata", object)?;
        if !is_object_name(&meta.name) {
            let reason = format!("{:?} must be lower-case letters, digits, '-' and '.', at most 253", meta.name);
            return Err(InvalidField::new("metadata.name", reason));
        }
        let namespace = &meta.namespace().0;
        if !is_label_name(namespace) {
            let reason = format!("{namespace:?} must be lower-case letters, digits and '-', at most 63");
            return Err(InvalidField::new("metadata.namespace", reason));
        }
        Ok(meta)
    }

    /// Whether an object of this kind owns it.
    pub(super) fn is_owned_by(&self, kind: &str) -> bool {
        self.owner_references.as_array().into_iter().flatten().any(|owner| owner["kind"] == kind)
    }

    /// As kubectl does without a context: `default`.
    pub(super) fn namespace(&self) -> NamespaceName {
        let given = self.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        given.unwrap_or("default").into()
    }

    pub(super) fn labels(&self) -> Labels {
        self.labels.clone().unwrap_or_default()
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key)
    }

    /// Of two with one key the added one counts.
    pub(super) fn add_labels(&mut self, labels: &Labels) {
        self.labels = Some(self.labels().with(labels.iter()));
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// RFC 1123 subdomain, as the API server asks of names.
pub(crate) fn is_object_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = name.starts_with(inner) && name.ends_with(inner);
    ends && name.len() <= 253 && name.chars().all(|c| inner(c) || c == '-' || c == '.')
}

/// RFC 1123 label: a subdomain without dots.
pub(super) fn is_label_name(name: &str) -> bool {
    is_object_name(name) && !name.contains('.') && name.len() <= 63
}
