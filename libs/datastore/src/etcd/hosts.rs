//! Host endpoints of nodes, in etcd.
//! In: whether they are wanted. Out: those that are there are what they are to be.
//! Invariant: each write names the revision it was decided on; a Node that cannot be read ends it, for its own would be removed.
//! Never: touches what others made.

use super::{
    connection::Write,
    layout::RESOURCES,
    message::KeyValue,
    objects::{EtcdObjects, put, remove, unchanged},
};
use crate::{
    ObjectError,
    calendar::rfc3339,
    fresh::uuid,
    hosts::{Host, KIND, Node, Step, Wanted, steps, strings},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

impl EtcdObjects {
    pub(super) fn keep_hosts_of_nodes(&self, wanted: &Wanted) -> Result<Vec<String>, ObjectError> {
        let place = format!("{RESOURCES}hostendpoints/");
        let (mut there, mut stored) = (BTreeMap::new(), BTreeMap::new());
        for kv in self.all((KIND, ""), &place)? {
            let Some(name) = name(&kv, &place) else { continue };
            // One that cannot be read is nobody's, and stays.
            let object = serde_json::from_slice(&kv.value).unwrap_or_default();
            there.insert(name.clone(), host(&object));
            stored.insert(name, (object, kv.mod_revision));
        }
        let mut all = BTreeMap::new();
        if !wanted.is_none() {
            all.extend(self.nodes_of_calico()?.iter().flat_map(|node| wanted.of_node(node)));
        }
        let mut done = Vec::new();
        for step in steps(&there, &all) {
            let ((name, what), key) = (step.said(), |name: &str| format!("{place}{name}"));
            self.begin(Write::HostEndpoint, (KIND, name))?;
            let (before, at) = stored.get(name).cloned().unwrap_or_default();
            let change = match &step {
                Step::Make(_, host) | Step::Change(_, host) => {
                    put(&key(name), written(name, before, host).to_string().into_bytes())
                }
                Step::Remove(_) => remove(&key(name)),
            };
            // Otherwise somebody was faster.
            if self.transact((KIND, name), vec![(unchanged(&key(name), at), change)])?.is_some() {
                done.push(what);
            }
        }
        Ok(done)
    }

    fn nodes_of_calico(&self) -> Result<Vec<Node>, ObjectError> {
        let place = format!("{RESOURCES}nodes/");
        let all = self.all(("Node", ""), &place)?;
        let read = |kv: &KeyValue| {
            let name = name(kv, &place)?;
            let node: Result<Value, _> = serde_json::from_slice(&kv.value);
            Some(node.map(|node| Node::of_calico(&name, &node)).map_err(|error| self.error(("Node", &name), error)))
        };
        all.iter().filter_map(read).collect()
    }
}

/// An object is named by its key, whatever it says itself.
fn name(kv: &KeyValue, place: &str) -> Option<String> {
    String::from_utf8_lossy(&kv.key).strip_prefix(place).map(str::to_owned)
}

fn host(object: &Value) -> Host {
    let part = |field: &str| strings(object["metadata"].get(field));
    Host { labels: part("labels"), annotations: part("annotations"), spec: object["spec"].clone() }
}

/// Over what was there. Calico's own reader wants what it makes up itself: a UID and a time.
fn written(name: &str, before: Value, host: &Host) -> Value {
    let mut object = before;
    if object["metadata"]["uid"].is_null() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        object = json!({ "metadata": { "name": name, "uid": uuid().ok(), "creationTimestamp": rfc3339(now) } });
    }
    object["kind"] = KIND.into();
    object["apiVersion"] = "projectcalico.org/v3".into();
    object["metadata"]["labels"] = json!(host.labels);
    if host.annotations.is_empty() {
        object["metadata"].as_object_mut().map(|metadata| metadata.remove("annotations"));
    } else {
        object["metadata"]["annotations"] = json!(host.annotations);
    }
    object["spec"] = host.spec.clone();
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_keeps_who_it_is() {
        let wanted = Wanted::of(&json!({ "controllers": { "node": { "hostEndpoint": { "autoCreate": "Enabled" } } } }));
        let wanted = wanted.expect("understood").expect("said");
        let node = |role: &str| {
            let node = json!({ "metadata": { "labels": { "role": role } }, "spec": { "addresses":
                [{ "address": "192.0.2.1", "type": "InternalIP" }] } });
            wanted.of_node(&Node::of_calico("n1", &node)).remove(0)
        };
        let (name, made) = node("edge");
        let first = written(&name, Value::Null, &made);
        assert_eq!((host(&first), &first["metadata"]["name"]), (made.clone(), &json!("n1-auto-hep")));
        assert!(first["metadata"]["uid"].is_string() && first["metadata"]["annotations"].is_null(), "{first}");
        let (_, other) = node("db");
        let second = written(&name, first.clone(), &other);
        assert_eq!((host(&second), &second["metadata"]["uid"]), (other, &first["metadata"]["uid"]));
    }
}
