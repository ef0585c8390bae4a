//! What is asked of a node's BGP, and its answer, on the API server.
//! In: the objects that name the node, by a watch. Out: their status.
//! Invariant: the watch hears of this node's objects alone, where the server can choose them; where it cannot, others are forgotten as
//! they come.
//! Never: takes an object that was made anew under its name for the one that asked.

use super::{
    MANAGER,
    connection::{Unanswered, Write},
    heard::{self, Only},
    kinds::Calico,
    objects::ClusterObjects,
};
use crate::{
    Metadata, Object, ObjectError, StatusRequest,
    calendar::rfc3339,
    known::{Heard, Trouble},
    node_status::KIND,
};
use kube::{
    Error,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use model::NodeName;
use serde_json::{Value, json};
use std::{
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// The watch, and in which of Calico's groups.
#[derive(Debug, Default)]
pub(super) struct Asking(Mutex<Option<(Option<Calico>, Heard)>>);

impl ClusterObjects {
    /// Empty, before they are listed: whoever asks looks again.
    pub(super) fn status_requests_of(&self, node: &NodeName) -> Result<Vec<StatusRequest>, ObjectError> {
        let (api, _) = self.api(KIND)?;
        let calico = self.connection().calico();
        let mut asking = self.asking().0.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.as_ref().is_none_or(|(group, _)| *group != calico) {
            let only = Only::IfServed(format!("spec.node={node}"));
            *asking = Some((calico, heard::begin(self.connection(), api, only, shortened)));
        }
        let Some((_, heard)) = asking.as_ref() else { return Ok(Vec::new()) };
        // A cluster may lack the kind.
        if let Some(Trouble { message, .. }) = heard.trouble().filter(|trouble| !trouble.is_absent) {
            return Err(self.failed((KIND, ""), message));
        }
        let all = heard.all().unwrap_or_default();
        Ok(all.iter().filter_map(|object| StatusRequest::of(node, &object.spec)).collect())
    }

    /// One that is gone, or another by now, needs nothing. Its status is for its node alone to say: what Calico's agent has said there
    /// before is taken from it.
    pub(super) fn answer_status_of(&self, request: &StatusRequest, status: &Value) -> Result<(), ObjectError> {
        let (api, resource) = self.api(KIND)?;
        let name = &*request.name;
        let mut applied = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": name, "uid": request.uid }, "status": status,
        });
        applied["status"]["lastUpdated"] =
            rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()).into();
        self.begin(Write::Status, (KIND, name))?;
        let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&applied));
        match self.connection().ask(api.patch_status(name, &parameters, &patch)) {
            Ok(_) => Ok(()),
            Err(Unanswered::Refused(Error::Api(status))) if [404, 409].contains(&status.code) => Ok(()),
            Err(unanswered) => Err(self.failed((KIND, name), unanswered.to_string())),
        }
    }
}

/// Without its status, which may be long.
fn shortened(found: DynamicObject) -> Object {
    let DynamicObject { metadata, mut data, .. } = found;
    let (name, resource_version) = (metadata.name.clone().unwrap_or_default(), metadata.resource_version.clone());
    let kept = json!({
        "metadata": { "name": name, "uid": metadata.uid, "generation": metadata.generation },
        "spec": data.get_mut("spec").map(Value::take),
    });
    let metadata = Metadata { name, resource_version };
    Object { api_version: String::new(), kind: KIND.to_owned(), metadata, spec: kept }
}
