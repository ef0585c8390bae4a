//! Profile.
//! In: Calico's Profile (api/pkg/apis/projectcalico/v3/profile.go). Out: [`model::Profile`].
//! Invariant: its rules are read as those of a GlobalNetworkPolicy are.
//! Never: the profile that a namespace or service account implies; that is theirs to say.

use super::{
    super::field::{InvalidField, Meta, read, spec},
    limit, rule,
};
use model::{Direction, Labels, Profile};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    ingress: Option<Vec<Value>>,
    egress: Option<Vec<Value>>,
    labels_to_apply: Option<Labels>,
}

pub(in super::super) fn convert(
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<Profile, InvalidField> {
    limit::check(spec(object)?)?;
    let spec: Spec = read("spec", object)?;
    let mut rules = |direction, written: Option<Vec<Value>>| {
        rule::rules(direction, written.as_deref().unwrap_or_default(), None, unreadable)
    };
    let ingress = rules(Direction::Ingress, spec.ingress);
    let egress = rules(Direction::Egress, spec.egress);
    Ok(Profile { name: meta.name.clone(), labels: spec.labels_to_apply.unwrap_or_default(), ingress, egress })
}
