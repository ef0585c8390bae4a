//! Names and labels of stored objects, which Calico's client keeps in an annotation.
//! In: the metadata of an object of `crd.projectcalico.org/v1`. Out: the name and labels that its user gave.
//! Invariant: as libcalico-go/lib/backend/k8s/resources/resources.go puts them back.
//! Never: a name that could not be an object's.

use super::super::field::{InvalidField, Meta, is_object_name};
use model::{
    Labels, TierName,
    label::{ACCOUNT_PREFIX, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT},
};
use serde::Deserialize;
use serde_json::Value;

const ANNOTATION: &str = "projectcalico.org/metadata";
const PATH: &str = "metadata.annotations[projectcalico.org/metadata]";

#[derive(Deserialize)]
struct Kept {
    name: Option<String>,
    labels: Option<Labels>,
}

/// Says of labels that Calico gives by itself that they are not seen where somebody else has written them.
pub(super) fn complain_of_reserved(labels: &Labels, unreadable: &mut Vec<InvalidField>) {
    let reserved = |key: &&str| {
        [NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT].contains(key)
            || [NAMESPACE_PREFIX, ACCOUNT_PREFIX].iter().any(|prefix| key.starts_with(prefix))
    };
    for key in labels.iter().map(|(key, _)| key).filter(reserved) {
        let reason = "is a label that Calico gives by itself; choose another";
        unreadable.push(InvalidField::new(&format!("metadata.labels[{key}]"), reason));
    }
}

/// Puts them back. Policies alone may be stored under another name: older versions put their tier in front (CAL-15).
pub(in super::super) fn restore(meta: &mut Meta, object: &Value, is_policy: bool) -> Result<(), InvalidField> {
    let Some(text) = meta.annotation(ANNOTATION) else { return Ok(()) };
    let kept: Kept = serde_json::from_str(text).map_err(|error| InvalidField::new(PATH, error))?;
    meta.add_labels(&kept.labels.unwrap_or_default());
    if !is_policy {
        return Ok(());
    }
    let tier = object.pointer("/spec/tier").and_then(Value::as_str).unwrap_or_default();
    let stripped = || meta.name.strip_prefix("default.").filter(|_| ["", TierName::DEFAULT].contains(&tier));
    let name = match kept.name.as_deref() {
        None | Some("") => stripped().unwrap_or(&meta.name).to_owned(),
        Some(name) if is_object_name(name) => name.to_owned(),
        Some(name) => return Err(InvalidField::new(PATH, format!("{name:?} is not the name of an object"))),
    };
    meta.name = name;
    Ok(())
}
