//! NetworkSet and GlobalNetworkSet.
//! In: Calico's sets (api/pkg/apis/projectcalico/v3). Out: [`model::NetworkSet`].
//! Invariant: every member was read: of a set that is denied, one that was left out would be let in.
//! Never: a set that says in which namespace it is.

use super::{
    super::field::{InvalidField, Meta, read},
    entity::net,
    metadata::complain_of_reserved,
};
use crate::crds::shapes;
use model::{NetworkSet, NetworkSetId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// More than any cluster can hold in one object: etcd takes 1.5 MiB, and a member is 12 bytes at least (`"1.1.1.1/8",`).
const NETS_MAX: usize = 131_072;

/// Networks that rules select by the set's labels.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// The networks.
    #[schemars(with = "Option<Vec<shapes::Net>>", length(max = NETS_MAX))]
    nets: Option<Vec<String>>,
}

pub(in super::super) fn convert(
    id: NetworkSetId,
    meta: &Meta,
    object: &Value,
    unreadable: &mut Vec<InvalidField>,
) -> Result<NetworkSet, InvalidField> {
    let spec: Spec = read("spec", object)?;
    let written = spec.nets.unwrap_or_default();
    if written.len() > NETS_MAX {
        let reason = format!("{} are more than {NETS_MAX} members; divide them between several sets", written.len());
        return Err(InvalidField::new("spec.nets", reason));
    }
    let mut nets = BTreeSet::new();
    for (index, text) in written.iter().enumerate() {
        nets.insert(net(&format!("spec.nets[{index}]"), text)?);
    }
    let labels = meta.labels();
    complain_of_reserved(&labels, unreadable);
    Ok(NetworkSet { id, labels, nets: nets.into_iter().collect() })
}
