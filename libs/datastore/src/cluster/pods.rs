//! What a cluster says of some pods, asked when they are about to be wired.
//! In: their names. Out: each as the code that reads manifests reads it, or why not.
//! Invariant: all are asked for at once, and waited for together.
//! Never: takes a pod that is not known for one without labels.

use super::{connection::Connection, kinds};
use crate::{
    ObjectError,
    convert::{Converted, convert},
};
use futures::future::join_all;
use kube::{Api, Error, core::DynamicObject};
use model::{Pod, PodId, Resource};
use serde_json::json;
use std::sync::Arc;

/// In the order given.
pub(crate) fn pods(connection: &Connection, ids: &[PodId]) -> Vec<Result<Arc<Pod>, ObjectError>> {
    let get = async |id: &PodId| {
        let api: Api<DynamicObject> = Api::namespaced_with(connection.client.clone(), &id.namespace.0, &kinds::pods());
        api.get(&id.name).await
    };
    let asked = connection.ask(async { Ok::<_, Error>(join_all(ids.iter().map(get)).await) });
    let failed = |id: &PodId, reason: String| ObjectError::Server {
        server: connection.server.to_string(),
        kind: "Pod".to_owned(),
        name: id.to_string(),
        reason,
    };
    match asked {
        Ok(answers) => {
            let read = |(id, answer): (&PodId, Result<DynamicObject, Error>)| match answer {
                Ok(found) => read(&found).map_err(|reason| failed(id, reason)),
                Err(error) => Err(failed(id, super::in_full(&error))),
            };
            ids.iter().zip(answers).map(read).collect()
        }
        Err(unanswered) => {
            let reason = unanswered.to_string();
            ids.iter().map(|id| Err(failed(id, reason.clone()))).collect()
        }
    }
}

pub(super) fn read(found: &DynamicObject) -> Result<Arc<Pod>, String> {
    let mut object = found.data.clone();
    object["apiVersion"] = "v1".into();
    object["kind"] = "Pod".into();
    object["metadata"] = json!(found.metadata);
    match convert(&object) {
        Converted::Known { resource: Resource::Pod(pod), .. } => Ok(pod),
        Converted::Refused { error, .. } | Converted::Nameless { error } => Err(error.to_string()),
        Converted::Known { .. } | Converted::NotEnforced { .. } | Converted::Foreign { .. } => {
            Err("it is no pod".to_owned())
        }
    }
}
