//! What people write of how addresses are given out, in etcd: where Calico keeps it.
//! In: objects with the revision each was read at, and what becomes of them. Out: one transaction.
//! Invariant: of a value nothing is changed but its spec; how nodes take blocks keeps fields that mean nothing here.
//! Never: writes a Node.

use super::{
    layout::RESOURCES,
    objects::{EtcdObjects, STEPS_MAX, put, remove, unchanged},
    records,
};
use crate::{
    ClusterObjects, Metadata, Object, ObjectError, Shared,
    fresh::uuid,
    settings::{Change, Setting},
};
use model::IpamConfig;
use serde_json::{Map, Value, json};

/// Where it is spelled otherwise than in manifests: there, and in etcd.
const SPELLED: [(&str, &str); 2] =
    [("strictAffinity", "strict_affinity"), ("autoAllocateBlocks", "auto_allocate_blocks")];

impl EtcdObjects {
    pub(super) fn settings_of(&self, kind: Setting) -> Result<Vec<Object>, ObjectError> {
        let what = (kind.name(), "");
        let kvs = match kind {
            Setting::Node => {
                return self.cluster().map_or(Ok(Vec::new()), |own| ClusterObjects::of(own.clone()).settings(kind));
            }
            Setting::Config => self.one(what, records::CONFIG)?.into_iter().collect(),
            Setting::Pool | Setting::Reservation => self.all(what, &place(kind))?,
        };
        let read = |kv: &super::message::KeyValue| {
            let key = String::from_utf8_lossy(&kv.key);
            let value: Value =
                serde_json::from_slice(&kv.value).map_err(|error| self.error(what, format!("{key}: {error}")))?;
            let name = key.strip_prefix(&place(kind)).unwrap_or(IpamConfig::NAME).to_owned();
            let spec = if kind == Setting::Config { spelled_out(&value) } else { value["spec"].clone() };
            let metadata = Metadata { name, resource_version: Some(kv.mod_revision.to_string()) };
            Ok(Object { api_version: API_VERSION.to_owned(), kind: kind.name().to_owned(), metadata, spec })
        };
        kvs.iter().map(read).collect()
    }

    pub(super) fn set_all(&self, changes: &[Change]) -> Result<(), ObjectError> {
        for together in changes.chunks(STEPS_MAX) {
            let mut steps = Vec::new();
            for change in together {
                let what = (change.kind.name(), &*change.name);
                let name = crate::objects::checked(&change.name)?;
                let key = match change.kind {
                    Setting::Config => records::CONFIG.to_owned(),
                    Setting::Node => return Err(self.error(what, "no Node is written")),
                    kind => place(kind) + name,
                };
                let version = change.before.as_ref().and_then(|before| before.metadata.resource_version.as_deref());
                let at = version.and_then(|version| version.parse().ok()).unwrap_or_default();
                let Some(spec) = &change.spec else {
                    steps.push((unchanged(&key, at), remove(&key)));
                    continue;
                };
                let before = self.one(what, &key)?.map(|kv| kv.value).unwrap_or_default();
                let value = self.value(change, spec, &before);
                steps.push((unchanged(&key, at), put(&key, value.to_string().into_bytes())));
            }
            let Some(first) = together.first() else { return Ok(()) };
            if self.transact((first.kind.name(), &first.name), steps)?.is_none() {
                return Err(first.conflict("another"));
            }
        }
        Ok(())
    }

    fn value(&self, change: &Change, spec: &Value, before: &[u8]) -> Value {
        let mut value: Value = serde_json::from_slice(before).unwrap_or_default();
        if change.kind == Setting::Config {
            return spelled_short(spec);
        }
        if value.is_null() {
            // Calico's own reader wants both of what it makes itself.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let metadata = json!({
                "name": change.name, "uid": uuid().ok(),
                "creationTimestamp": crate::calendar::rfc3339(now),
            });
            value = json!({ "kind": change.kind.name(), "apiVersion": API_VERSION, "metadata": metadata });
        }
        value["spec"] = spec.clone();
        value
    }
}

const API_VERSION: &str = "projectcalico.org/v3";

fn place(kind: Setting) -> String {
    format!("{RESOURCES}{}s/", kind.name().to_lowercase())
}

/// As manifests spell it. What is off Calico leaves out.
pub(super) fn spelled_out(value: &Value) -> Value {
    let mut spec = value.as_object().cloned().unwrap_or_default();
    for (long, short) in SPELLED {
        let is_on = spec.remove(short).is_some_and(|value| value == true);
        spec.insert(long.to_owned(), is_on.into());
    }
    Value::Object(spec)
}

fn spelled_short(spec: &Value) -> Value {
    let mut value: Map<_, _> = spec.as_object().cloned().unwrap_or_default();
    for (long, short) in SPELLED {
        if let Some(given) = value.remove(long).filter(|given| given == true) {
            value.insert(short.to_owned(), given);
        }
    }
    Value::Object(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_nodes_take_blocks_is_spelled_as_calico_spells_it_there_and_keeps_what_means_nothing_here() {
        let stored = json!({ "auto_allocate_blocks": true, "maxBlocksPerHost": 3, "ipCooldownSeconds": 7 });
        let spec = spelled_out(&stored);
        assert_eq!(
            spec,
            json!({ "strictAffinity": false, "autoAllocateBlocks": true, "maxBlocksPerHost": 3, "ipCooldownSeconds": 7 })
        );
        assert_eq!(spelled_short(&spec), stored);
        let config = records::config(stored.to_string().as_bytes()).expect("it can be read");
        assert_eq!((config.auto_allocate_blocks, config.max_blocks, config.cooldown), (true, Some(3), 7));
    }
}
