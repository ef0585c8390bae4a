//! What an agent holds of a record, and of the object itself: the same, whatever stands in the object.
//! In: an object of each kind with everything that is read of it, and what becomes of it when parts go, or are something else.
//! Out: what conversions, notes and a Service's own status say.
//! Invariant: the changes are the same in every run.
//! Never: an object without a name, which no API server has.

use super::*;
use crate::{
    catalog::Reading,
    cluster::{
        MANAGER,
        gather::SERVICES,
        kinds::{self, Calico},
        noted::Notes,
    },
    convert::convert,
    given,
};
use model::NodeName;
use std::path::Path;

/// A generator of numbers, as good as it has to be.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).expect("less than a limit")
    }
}

fn metadata(more: &Value) -> Value {
    let mut metadata = json!({
        "name": "web", "namespace": "shop", "uid": "1-2", "resourceVersion": "77", "generation": 3,
        "labels": { "app": "web", "tier": "front" }, "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": { "note": "x", "projectcalico.org/IPv4Address": "192.0.2.1/24" },
        "deletionTimestamp": "2026-01-02T00:00:00Z", "ownerReferences": [{ "name": "o" }], "finalizers": ["f"],
        "managedFields": [{ "manager": "kubelet", "time": "2026-01-01T00:00:00Z" }],
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        metadata[field] = value.clone();
    }
    metadata
}

/// What is special about an object of a kind: in its metadata, and beside that.
type Special = (Value, Value);

fn of_workloads(name: &str) -> Option<Special> {
    Some(match name {
        "pods" => (
            json!({ "annotations": {
                POD_IP: "10.65.0.2/32", POD_IPS: "10.65.0.2/32,fd00::2/128", AWS_POD_IPS: "", "chatter": "now",
                FLOATING_IPS: "[\"192.0.2.7\"]", ADDRESSES: "[\"10.65.0.2\"]", FAMILIES: "[\"IPv4\"]",
                MAC: "0a:58:0a:00:00:01", POOLS[0]: "[\"a\"]", POOLS[1]: "[\"b\"]", ADDRESSES_OF_NO_POOL: "[\"x\"]",
                STICKY[0]: "true", STICKY[1]: "1h",
            }, "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "uid": "u" }] }),
            json!({
                "spec": {
                    "nodeName": "node1", "serviceAccountName": "robot", "hostNetwork": true,
                    "containers": [{ "ports": [{ "name": "http", "containerPort": 8080, "protocol": "UDP" }] }, {}],
                    "initContainers": [{ "restartPolicy": "Always", "ports": [{ "name": "side", "containerPort": 81 }] }],
                },
                "status": { "phase": "Failed", "podIP": "10.65.0.2", "podIPs": [{ "ip": "10.65.0.2" }, { "ip": "fd00::2" }] },
            }),
        ),
        "namespaces" => (
            json!({ "namespace": null, "name": "x", "annotations": { POOLS[0]: "[\"a\"]", STICKY[0]: "true", "chatter": "now" } }),
            json!({}),
        ),
        "nodes" => (
            json!({ "namespace": null, "name": "node1" }),
            json!({ "spec": { "podCIDR": "10.0.0.0/24" }, "status": {
                "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }, { "type": "Hostname", "address": "node1" }],
                "conditions": [
                    { "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" },
                    { "type": NETWORK_UNAVAILABLE, "status": "False", "reason": "x", "lastHeartbeatTime": "2026-01-01T00:00:00Z" },
                ],
                "images": [{ "names": ["a"] }], "nodeInfo": { "bootID": "b-1", "machineID": "m" },
            } }),
        ),
        _ => return None,
    })
}

fn of_services(name: &str) -> Option<Special> {
    Some(match name {
        SERVICES => (
            json!({ "managedFields": [{ "manager": MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {
                "f:status": { "f:loadBalancer": { "f:ingress": {} } }, "f:spec": {},
            } }] }),
            json!({
                "spec": {
                    "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "selector": { "app": "web" },
                    "ports": [{ "name": "web", "port": 443, "targetPort": 80, "protocol": "TCP" }],
                    "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
                },
                "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] }, "conditions": [
                    { "type": "tortie.net/AddressesGiven", "status": "False", "message": "a\nb" },
                ] },
            }),
        ),
        "endpointslices.discovery.k8s.io" => (
            json!({ "labels": { "kubernetes.io/service-name": "web" }, "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": "x" } }),
            json!({
                "addressType": "IPv4", "ports": [{ "name": "web", "port": 80, "protocol": "TCP" }],
                "endpoints": [{
                    "addresses": ["10.65.0.2"], "conditions": { "ready": true, "serving": true, "terminating": false },
                    "nodeName": "node1", "hints": { "forZones": [{ "name": "z" }], "forNodes": [{ "name": "node1" }] },
                    "targetRef": { "kind": "Pod", "name": "web", "uid": "3" }, "zone": "z",
                }],
            }),
        ),
        _ => return None,
    })
}

fn of_kubernetes(name: &str) -> Option<Special> {
    Some(match name {
        "networkpolicies.networking.k8s.io" => (
            json!({}),
            json!({ "spec": {
                "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
                "ingress": [{ "from": [{ "namespaceSelector": {} }], "ports": [{ "port": 80, "protocol": "TCP" }] }],
            } }),
        ),
        "clusternetworkpolicies.policy.networking.k8s.io" => (
            json!({ "namespace": null }),
            json!({ "spec": {
                "tier": "Admin", "priority": 10, "subject": { "namespaces": {} },
                "ingress": [{ "name": "r", "action": "Deny", "from": [{ "namespaces": {} }] }],
            }, "status": { "conditions": [{ "type": "Accepted", "status": "False", "observedGeneration": 2, "message": "m" }] } }),
        ),
        "namespaces" | "serviceaccounts" => (
            json!({ "namespace": if name == "namespaces" { Value::Null } else { "shop".into() } }),
            json!({ "secrets": [{ "name": "s" }], "status": { "phase": "Active" } }),
        ),
        _ => return None,
    })
}

fn of_calico(name: &str) -> Special {
    let rules = json!([{ "action": "Deny", "protocol": "TCP", "source": { "selector": "app == 'x'" }, "destination": { "ports": [80] } }]);
    let is_namespaced = name.starts_with("networkp")
        || name.starts_with("stagedn")
        || name.starts_with("stagedk")
        || name.starts_with("networks");
    let namespace = if is_namespaced { "shop".into() } else { Value::Null };
    (
        json!({ "namespace": namespace, "annotations": { "projectcalico.org/metadata": "{\"labels\": {\"a\": \"b\"}}" } }),
        json!({ "spec": {
                    "selector": "app == 'web'", "types": ["Ingress"], "ingress": rules, "order": 10, "nets": ["10.0.0.0/8"],
                    "node": "node1", "expectedIPs": ["192.0.2.1"], "cidr": "10.65.0.0/16", "blockSize": 26, "disabled": true,
                    "defaultAction": "Pass", "tier": "default", "podSelector": {}, "stagedAction": "Set",
                }, "status": { "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "t" }, { "type": "Allocatable", "status": "True" }] } }),
    )
}

/// An object of a kind, as its watch says it.
fn object(kind: &Watched) -> Value {
    let name = kind.name();
    let special = of_workloads(&name).or_else(|| of_services(&name)).or_else(|| of_kubernetes(&name));
    let (more, rest) = special.unwrap_or_else(|| of_calico(&name));
    let mut object = json!({
        "apiVersion": kind.resource.api_version, "kind": kind.resource.kind, "metadata": metadata(&more),
    });
    for (field, value) in rest.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

/// Takes away, empties or replaces a part of it somewhere.
fn change(value: &mut Value, numbers: &mut Numbers, depth: usize) {
    let goes_on = depth < 2 || numbers.below(4) > 0;
    match value {
        Value::Object(fields) if !fields.is_empty() && goes_on => {
            let place = numbers.below(fields.len());
            let field = fields.keys().nth(place).cloned().expect("as many fields");
            // Such an object is named, and of its kind, and an API server takes no annotation that is not text.
            if ["apiVersion", "kind", "name", "namespace", "annotations"].contains(&&*field) && depth < 2 {
                return;
            }
            if depth > 0 && field != "metadata" && numbers.below(4) == 0 {
                fields.remove(&field);
            } else {
                change(&mut fields[&field], numbers, depth + 1);
            }
        }
        Value::Array(items) if !items.is_empty() && goes_on => {
            let place = numbers.below(items.len());
            if numbers.below(4) == 0 {
                drop(items.remove(place))
            } else {
                change(&mut items[place], numbers, depth + 1)
            }
        }
        _ if depth < 2 => {}
        value => {
            let odd =
                [json!(null), json!(""), json!(-1), json!({}), json!([]), json!("odd"), json!(true), json!(["x"])];
            *value = odd[numbers.below(odd.len())].clone();
        }
    }
}

/// All that an agent takes from an object.
fn meaning((number, kind): (usize, &Watched), object: &Value) -> String {
    let mut object = object.clone();
    let given = (kind.name() == SERVICES).then(|| given::taken_out(&mut object, MANAGER)).flatten();
    let (notes, place) = (Notes::default(), Path::new("place"));
    let mut catalog = crate::Catalog::default();
    catalog.take_in(place, Reading::of_object(&object).and(given.as_ref()));
    notes.take((number, kind), place, &object, catalog.trouble_of(place));
    if kind.resource.kind == "Node" {
        notes.take_node(&NodeName::from("node1"), place, &object);
    }
    let ready = object.pointer("/spec/datastoreReady");
    format!("{:?}\n{given:?}\n{:?}\n{ready:?}", convert(&object), notes.look())
}

fn through(kinds: &[Watched], kind: &Watched, object: &Value) -> (usize, Value) {
    let key = key(kind, object).expect("a name");
    super::object(kinds, &key, Some(&value(kind, object))).expect("a kind").expect("JSON")
}

#[test]
fn an_agent_holds_of_a_record_what_it_would_hold_of_the_object_itself() {
    let mut numbers = Numbers(0x5eed);
    for calico in [Calico::Stored, Calico::Native] {
        let kinds = kinds::watched(calico);
        for (number, kind) in kinds.iter().enumerate() {
            for round in 0..150 {
                let mut object = object(kind);
                for _ in 0..round.min(3) {
                    change(&mut object, &mut numbers, 0);
                }
                let (of, read) = through(&kinds, kind, &object);
                let about = (number, kind);
                assert_eq!((of, meaning(about, &read)), (number, meaning(about, &object)), "{object}");
                assert_eq!(value(kind, &read), value(kind, &object), "a record of a record is itself");
            }
        }
    }
}

#[test]
fn what_nobody_reads_changes_no_record() {
    for kind in kinds::watched(Calico::Native) {
        let object = object(&kind);
        let mut later = object.clone();
        later["metadata"]["resourceVersion"] = "78".into();
        later["metadata"]["managedFields"][0]["time"] = "2026-01-01T00:00:01Z".into();
        if kind.name() == "nodes" {
            later["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:01Z".into();
            later["status"]["images"] = json!([]);
        }
        if kind.name() == "pods" {
            later["metadata"]["annotations"]["chatter"] = "later".into();
        }
        assert_eq!(value(&kind, &object), value(&kind, &later), "{}", kind.name());
    }
}

#[test]
fn a_key_says_which_object_a_record_is_of_and_what_is_gone_has_a_name() {
    let kinds = kinds::watched(Calico::Native);
    for kind in &kinds {
        let object = object(kind);
        let key = key(kind, &object).expect("a name");
        let (number, gone) = super::object(&kinds, &key, None).expect("a kind").expect("no JSON");
        assert_eq!((kinds[number].name(), &gone["metadata"]["name"]), (kind.name(), &object["metadata"]["name"]));
        assert_eq!(gone["metadata"].get("namespace").unwrap_or(&Value::Null), &object["metadata"]["namespace"]);
    }
    assert!(super::object(&kinds, &format!("{RECORDS}others/x"), None).is_none());
}
