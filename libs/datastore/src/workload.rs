//! Workload addresses: what an agent tells the other nodes of the pods it attached.
//! In: a [`WorkloadAddress`]. Out: the shared object `WorkloadAddress NAMESPACE.POD`.
//! Invariant: the node that attached a pod last is the one that speaks for it.
//! Never: takes away what another node has written since.

use crate::{Metadata, Object, ObjectError, Objects};
use model::{NodeName, PodId, WorkloadAddress};
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) const KIND: &str = "WorkloadAddress";
pub(crate) const API_VERSION: &str = "tortie.net/v1";
const ATTEMPTS: u32 = 8;

impl Objects {
    /// Makes a pod's addresses known to all nodes. Writes nothing if they already are.
    ///
    /// # Errors
    /// The object could not be written, or others kept writing it at the same time.
    pub fn publish(&self, address: &WorkloadAddress) -> Result<(), ObjectError> {
        self.publish_all(std::slice::from_ref(address))
    }

    /// As [`Objects::publish`], for several pods at once.
    ///
    /// # Errors
    /// As [`Objects::publish`]; then none is known to be written.
    pub fn publish_all(&self, addresses: &[WorkloadAddress]) -> Result<(), ObjectError> {
        retry(|| {
            let mut fresh = Vec::new();
            // Of two for one pod the later counts.
            let by_pod: BTreeMap<&PodId, &WorkloadAddress> = addresses.iter().map(|own| (&own.pod, own)).collect();
            for address in by_pod.into_values() {
                let spec = serde_json::to_value(address).expect("a map of strings and lists is always JSON");
                let found = self.get(KIND, &object_name(&address.pod))?;
                if found.as_ref().is_none_or(|object| object.spec != spec) {
                    fresh.push(object(&address.pod, found, spec));
                }
            }
            if fresh.is_empty() { Ok(()) } else { self.write_all(&fresh).map(drop) }
        })
    }

    /// Takes back what `node` said of a pod. What another node has said since stays.
    ///
    /// # Errors
    /// The object could not be removed.
    pub fn withdraw(&self, pod: &PodId, node: &NodeName) -> Result<(), ObjectError> {
        retry(|| {
            let name = object_name(pod);
            let Some(found) = self.get(KIND, &name)? else { return Ok(()) };
            if found.spec.get("node").and_then(Value::as_str) != Some(&*node.0) {
                return Ok(());
            }
            self.delete(KIND, &name, found.metadata.resource_version.as_deref()).map(drop)
        })
    }
}

/// Namespace names have no dots, so the two parts can always be told apart.
pub(crate) fn object_name(pod: &PodId) -> String {
    format!("{}.{}", pod.namespace, pod.name)
}

fn object(pod: &PodId, found: Option<Object>, spec: Value) -> Object {
    let resource_version = found.map(|object| object.metadata.resource_version.unwrap_or_else(|| "0".to_owned()));
    Object {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: object_name(pod), resource_version },
        spec,
    }
}

fn retry(mut attempt: impl FnMut() -> Result<(), ObjectError>) -> Result<(), ObjectError> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(ObjectError::Conflict { .. }) => {}
            answer => return answer,
        }
    }
    attempt()
}
