//! Tier.
//! In: Calico's Tier (api/pkg/apis/projectcalico/v3/tier.go). Out: [`model::Tier`].
//! Invariant: the tiers that Calico makes by itself keep their order and their end.
//! Never: a tier whose end was not understood: it would be a guess whether it refuses.

use super::{
    super::field::{InvalidField, Meta, read},
    policy::order,
};
use model::{Tier, TierEnd, TierName};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Where a tier stands among others, and how it ends.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// Tiers are asked in rising order; one without comes after all others.
    order: Option<f64>,
    /// What becomes of a packet that the tier's policies select and leave undecided: Deny, the default, or Pass, to the next tier.
    #[schemars(extend("enum" = ["Deny", "Pass"]))]
    default_action: Option<String>,
}

pub(in super::super) fn convert(meta: &Meta, object: &Value) -> Result<Tier, InvalidField> {
    let name = name("metadata.name", &meta.name)?;
    let spec: Spec = read("spec", object)?;
    let built_in = Tier::built_in().into_iter().find(|tier| tier.name == name);
    let tier = Tier {
        order: match (spec.order, &built_in) {
            (None, Some(tier)) => tier.order,
            (written, _) => order(written)?,
        },
        end: match spec.default_action.as_deref() {
            None => built_in.as_ref().map_or(TierEnd::Deny, |tier| tier.end),
            Some("Deny") => TierEnd::Deny,
            Some("Pass") => TierEnd::Pass,
            Some(other) => {
                return Err(InvalidField::new("spec.defaultAction", format!("{other:?} is neither Deny nor Pass")));
            }
        },
        name,
    };
    match built_in {
        Some(built_in) if built_in.order != tier.order => {
            let reason = format!("{} is not {}, which this tier always has", tier.order, built_in.order);
            Err(InvalidField::new("spec.order", reason))
        }
        Some(built_in) if built_in.end != tier.end => {
            let reason = format!("{:?} is not {:?}, which this tier always has", tier.end, built_in.end);
            Err(InvalidField::new("spec.defaultAction", reason))
        }
        _ => Ok(tier),
    }
}

/// The name of a tier has no dots: in older versions it stood in front of the names of policies.
pub(super) fn name(path: &str, text: &str) -> Result<TierName, InvalidField> {
    if super::super::field::is_label_name(text) {
        return Ok(TierName(text.into()));
    }
    let reason = format!("{text:?} is not the name of a tier: lower-case letters, digits and '-', at most 63");
    Err(InvalidField::new(path, reason))
}
