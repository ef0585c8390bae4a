//! Where Calico keeps its resources in etcd (libcalico-go/lib/backend/model/resource.go).
//! In: keys and values. Out: what stands there, as the code that reads manifests reads it.
//! Invariant: a key and the object under it belong to each other: an object is named by its key, whatever it says itself.
//! Never: reads a kind that means nothing here.

use crate::{catalog::Reading, document::OBJECT_MAX};
use model::label;
use serde_json::{Map, Value, json};

/// Before the keys of all resources.
pub(super) const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
/// What says whether Calico's objects may be used at all.
pub(super) const INFORMATION: &str = "clusterinformations/default";

const API_VERSION: &str = "projectcalico.org/v3";
const WORKLOAD_ENDPOINT: &str = "WorkloadEndpoint";
const PROFILE: &str = "Profile";
/// Kinds that are read, by their names in keys.
const KINDS: [(&str, &str); 18] = [
    ("tiers", "Tier"),
    ("globalnetworkpolicies", "GlobalNetworkPolicy"),
    ("networkpolicies", "NetworkPolicy"),
    ("stagedglobalnetworkpolicies", "StagedGlobalNetworkPolicy"),
    ("stagednetworkpolicies", "StagedNetworkPolicy"),
    ("stagedkubernetesnetworkpolicies", "StagedKubernetesNetworkPolicy"),
    ("globalnetworksets", "GlobalNetworkSet"),
    ("networksets", "NetworkSet"),
    ("hostendpoints", "HostEndpoint"),
    ("felixconfigurations", "FelixConfiguration"),
    ("bgpconfigurations", "BGPConfiguration"),
    ("bgppeers", "BGPPeer"),
    ("bgpfilters", "BGPFilter"),
    ("ippools", "IPPool"),
    ("ipreservations", "IPReservation"),
    ("profiles", PROFILE),
    ("nodes", "Node"),
    ("workloadendpoints", WORKLOAD_ENDPOINT),
];

/// A resource's name among all: `networkpolicies/NAMESPACE/NAME`.
pub(super) fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(RESOURCES)
}

/// What ClusterInformation says.
#[derive(Debug)]
pub(super) struct Information {
    /// Calico's objects may be used.
    pub(super) is_ready: bool,
    /// Which cluster's they are.
    pub(super) cluster: Option<String>,
}

/// Reads it. What cannot be read says that nothing may be used.
pub(super) fn information(value: &[u8]) -> Information {
    let object: Value = serde_json::from_slice(value).unwrap_or_default();
    let spec = &object["spec"];
    Information {
        is_ready: spec["datastoreReady"] == true,
        cluster: spec["clusterGUID"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
    }
}

/// What stands under a key; `None`: nothing that means something here.
pub(super) fn reading(name: &str, value: &[u8]) -> Option<Reading> {
    let parts: Vec<&str> = name.split('/').collect();
    let (kind, namespace, name) = match parts[..] {
        [plural, name] => (kind_of(plural)?, None, name),
        [plural, namespace, name] => (kind_of(plural)?, Some(namespace), name),
        _ => return None,
    };
    if value.len() > OBJECT_MAX {
        let message = format!("{} bytes are more than an object's {OBJECT_MAX}; divide it", value.len());
        return Some(Reading::of(Err(message)));
    }
    let mut object: Value = match serde_json::from_slice(value) {
        Ok(object @ Value::Object(_)) => object,
        Ok(_) => return Some(Reading::of(Err("is no object".to_owned()))),
        Err(error) => return Some(Reading::of(Err(format!("is no JSON: {error}")))),
    };
    object["apiVersion"] = API_VERSION.into();
    object["kind"] = kind.into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["namespace"] = namespace.into();
    // An endpoint's own name is longer than a name may be where its pod's is long.
    let pod = (kind == WORKLOAD_ENDPOINT).then(|| object.pointer("/spec/pod")?.as_str()).flatten();
    object["metadata"]["name"] = pod.filter(|pod| !pod.is_empty()).unwrap_or(name).into();
    let implied = if kind == PROFILE { implied(name, &object) } else { None };
    Some(match &implied {
        Some(implied) if adds_nothing(&object) => Reading::of_object(implied),
        Some(implied) => Reading::of_object(&object).implying(implied),
        None => Reading::of_object(&object),
    })
}

fn kind_of(plural: &str) -> Option<&'static str> {
    KINDS.iter().find(|(known, _)| *known == plural).map(|(_, kind)| *kind)
}

/// The namespace or service account for which Calico's controllers have made a profile.
fn implied(name: &str, profile: &Value) -> Option<Value> {
    let labels = |prefix: &str| -> Map<String, Value> {
        let all = profile.pointer("/spec/labelsToApply").and_then(Value::as_object).into_iter().flatten();
        let own = all.filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        own.filter(|(key, _)| *key != label::NAME).map(|(key, value)| (key.to_owned(), value.clone())).collect()
    };
    if let Some(namespace) = name.strip_prefix("kns.") {
        let metadata = json!({ "name": namespace, "labels": labels(label::NAMESPACE_PREFIX) });
        return Some(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }));
    }
    let (namespace, account) = name.strip_prefix("ksa.")?.split_once('.')?;
    let metadata = json!({ "namespace": namespace, "name": account, "labels": labels(label::ACCOUNT_PREFIX) });
    Some(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }))
}

/// Whether a profile says no more than that its namespace or account is there: everything is let through, as it is without one.
fn adds_nothing(profile: &Value) -> bool {
    let spec = &profile["spec"];
    let is_allowed = |field: &str| match spec[field].as_array().map(Vec::as_slice) {
        None | Some([]) => spec[field].is_null() || spec[field].is_array(),
        Some([rule]) => is_allow(rule),
        Some(_) => false,
    };
    let is_of_account = profile["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("ksa."));
    let is_open = |field: &str| spec[field].as_array().is_some_and(|rules| !rules.is_empty());
    let lets_through = is_of_account || is_open("ingress") && is_open("egress");
    let known = ["ingress", "egress", "labelsToApply"];
    let mut fields = spec.as_object().into_iter().flatten();
    let mut labels = spec["labelsToApply"].as_object().into_iter().flatten();
    let is_inherited = |key: &str| key.starts_with(label::NAMESPACE_PREFIX) || key.starts_with(label::ACCOUNT_PREFIX);
    lets_through
        && is_allowed("ingress")
        && is_allowed("egress")
        && fields.all(|(field, _)| known.contains(&field.as_str()))
        && labels.all(|(key, _)| is_inherited(key))
}

/// `Allow`, and nothing else.
fn is_allow(rule: &Value) -> bool {
    let is_empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    let mut fields = rule.as_object().into_iter().flatten();
    rule["action"] == "Allow" && fields.all(|(field, value)| field == "action" || is_empty(value))
}

#[cfg(test)]
mod tests;
