//! What is asked of a node's BGP, and its answer, in etcd.
//! In: the objects that name the node, by a watch. Out: their status.
//! Invariant: a status is written over the very object that was read; of that nothing else is changed.
//! Never: takes an object that was made anew under its name for the one that asked.

use super::{
    connection::Write,
    heard::{self, Of},
    layout::RESOURCES,
    objects::{ATTEMPTS, EtcdObjects, put, unchanged},
};
use crate::{
    Metadata, Object, ObjectError, StatusRequest,
    calendar::rfc3339,
    known::Trouble,
    node_status::{KIND, PLURAL},
};
use model::NodeName;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

impl EtcdObjects {
    /// Empty, before they are listed: whoever asks looks again.
    pub(super) fn status_requests_of(&self, node: &NodeName) -> Result<Vec<StatusRequest>, ObjectError> {
        let prefix = place();
        let heard = self.asking().get_or_init(|| heard::begin(self.connection(), Of { prefix, read }));
        if let Some(Trouble { message, .. }) = heard.trouble() {
            return Err(self.error((KIND, ""), message));
        }
        let all = heard.all().unwrap_or_default();
        Ok(all.iter().filter_map(|object| StatusRequest::of(node, &object.spec)).collect())
    }

    /// One that is gone, or another by now, needs nothing.
    pub(super) fn answer_status_of(&self, request: &StatusRequest, status: &Value) -> Result<(), ObjectError> {
        let what = (KIND, &*request.name);
        let key = place() + crate::objects::checked(&request.name)?;
        for _ in 0..ATTEMPTS {
            let Some(found) = self.one(what, &key)? else { return Ok(()) };
            let Ok(object) = serde_json::from_slice::<Value>(&found.value) else { return Ok(()) };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let Some(answered) = answered(object, request, status, &rfc3339(now)) else { return Ok(()) };
            self.begin(Write::Status, what)?;
            let step = (unchanged(&key, found.mod_revision), put(&key, answered.to_string().into_bytes()));
            if self.transact(what, vec![step])?.is_some() {
                return Ok(());
            }
        }
        Err(self.error(what, "others kept writing it at the same time"))
    }
}

fn place() -> String {
    format!("{RESOURCES}{PLURAL}/")
}

/// `None`: it is not the one that asked.
fn answered(mut object: Value, request: &StatusRequest, status: &Value, now: &str) -> Option<Value> {
    if object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default() != request.uid {
        return None;
    }
    object["status"] = status.clone();
    object["status"]["lastUpdated"] = now.into();
    Some(object)
}

/// Named by its key, and without its status, which may be long.
fn read(key: &str, value: &[u8], revision: i64) -> Option<Object> {
    let name = key.strip_prefix(&place())?.to_owned();
    let mut object: Value = serde_json::from_slice(value).ok()?;
    let uid = object.pointer("/metadata/uid").cloned();
    let kept = json!({ "metadata": { "name": name, "uid": uid }, "spec": object.get_mut("spec").map(Value::take) });
    let metadata = Metadata { name, resource_version: Some(revision.to_string()) };
    Some(Object { api_version: String::new(), kind: KIND.to_owned(), metadata, spec: kept })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_by_its_key_and_answered_as_long_as_it_is_the_one_that_asked() {
        let object = json!({ "metadata": { "name": "other", "uid": "u" },
            "spec": { "node": "n1", "classes": ["BGP"], "updatePeriodSeconds": 10 }, "status": { "bgp": {} } });
        let key = "/calico/resources/v3/projectcalico.org/caliconodestatuses/mine";
        let heard = read(key, object.to_string().as_bytes(), 7).expect("it can be read");
        let request = StatusRequest::of(&"n1".into(), &heard.spec).expect("it asks this node");
        assert_eq!((&*request.name, &*request.uid, request.asked.is_ok()), ("mine", "u", true));
        assert!(heard.spec["status"].is_null(), "{heard:?}");
        let status = json!({ "agent": { "state": "Ready" } });
        let said = answered(object.clone(), &request, &status, "now").expect("it is the same");
        assert_eq!(said["status"], json!({ "agent": { "state": "Ready" }, "lastUpdated": "now" }));
        assert_eq!((&said["spec"], &said["metadata"]), (&object["spec"], &object["metadata"]));
        let mut anew = object;
        anew["metadata"]["uid"] = "v".into();
        assert_eq!(answered(anew, &request, &status, "now"), None);
        assert!(read(key, b"no JSON", 7).is_none());
    }
}
