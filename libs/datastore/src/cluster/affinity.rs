//! BlockAffinity as Calico's clients write it on an API server (libcalico-go/lib/backend/model/block_affinity.go, k8s/resources).
//! In: its spec as it is kept here, and the group. Out: the spec of that group, and the labels by which Calico finds a node's claims.
//! Invariant: `deleted` is a string in `crd.projectcalico.org/v1` and a boolean in `projectcalico.org/v3`; both are read.
//! Never: changes another field.

use super::kinds::Calico;
use data_encoding::BASE32_NOPAD;
use serde_json::Value;
use sha3::{Digest as _, Sha3_256};
use std::collections::BTreeMap;

pub(super) const KIND: &str = "BlockAffinity";

/// As that group has it.
pub(super) fn written(calico: Option<Calico>, mut spec: Value) -> Value {
    if calico == Some(Calico::Native) {
        let is_deleted = spec["deleted"] == "true";
        spec["deleted"] = is_deleted.into();
    }
    spec
}

/// By which Calico's clients list the claims of a node.
pub(super) fn labels(spec: &Value) -> BTreeMap<String, String> {
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let hash = BASE32_NOPAD.encode(&Sha3_256::digest(text("node")));
    let family = if text("cidr").contains(':') { "6" } else { "4" };
    let labels = [("hostname-hash", &*hash), ("affinity-type", text("type")), ("ip-version", family)];
    labels.map(|(key, value)| (format!("projectcalico.org/{key}"), value.to_owned())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deleted_is_a_boolean_in_the_newer_group_and_a_string_in_the_older() {
        let kept =
            json!({ "cidr": "10.65.0.0/26", "node": "n1", "state": "confirmed", "type": "host", "deleted": "false" });
        assert_eq!(written(Some(Calico::Stored), kept.clone()), kept);
        let newer = written(Some(Calico::Native), kept.clone());
        assert_eq!(newer["deleted"], false);
        let read = |spec: Value| serde_json::from_value::<ipam::BlockAffinity>(spec).expect("a claim");
        assert_eq!(read(newer), read(kept));
    }

    #[test]
    fn a_claim_has_the_labels_by_which_calico_lists_those_of_a_node() {
        let spec = json!({ "cidr": "fd00:65::/122", "node": "host-a", "type": "host" });
        let labels = labels(&spec);
        // Of python's hashlib and base64: sha3_256 in base32 without padding.
        let hash = HASH_OF_HOST_A;
        let expected = [("affinity-type", "host"), ("hostname-hash", hash), ("ip-version", "6")];
        assert_eq!(labels, expected.map(|(key, value)| (format!("projectcalico.org/{key}"), value.to_owned())).into());
    }

    const HASH_OF_HOST_A: &str = "BFCLEOKXKXJN3LUK3AL2TWDBTX3OWLM5ZSRM6I3Y5HSZA6Z2BHOA";
}
