//! What a cluster says of some pods, asked when they are about to be wired.
//! In: their names. Out: each as the code that reads manifests reads it, or why not.
//! Invariant: all are asked for at once, and waited for together.
//! Never: takes a pod that is not known for one without labels.

use super::{connection::Connection, kinds, pages::typed};
use crate::{
    ObjectError,
    convert::{Converted, convert},
};
use futures::future::join_all;
use kube::{Api, Error, core::DynamicObject};
use model::{Cidr, NamespaceName, NodeName, Pod, PodAsks, PodId, Resource};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// In the order given. One that there is not is an error.
pub(crate) fn pods(connection: &Connection, ids: &[PodId]) -> Vec<Result<Arc<Pod>, ObjectError>> {
    let found = known(connection, ids).into_iter().zip(ids);
    found.map(|(pod, id)| pod?.ok_or_else(|| failed(connection, id, "there is no such pod".to_owned()))).collect()
}

/// A pod, and what its name was generated of (`generateName`), where it was.
pub(crate) fn with_stem(connection: &Connection, id: &PodId) -> Result<(Arc<Pod>, Option<String>), ObjectError> {
    let found = found(connection, std::slice::from_ref(id)).pop().transpose()?.flatten();
    let found = found.ok_or_else(|| failed(connection, id, "there is no such pod".to_owned()))?;
    let stem = found.metadata.generate_name.clone().filter(|stem| !stem.is_empty());
    Ok((read(found).map_err(|reason| failed(connection, id, reason))?, stem))
}

/// In the order given. `None`: there is none of that name.
pub(crate) fn known(connection: &Connection, ids: &[PodId]) -> Vec<Result<Option<Arc<Pod>>, ObjectError>> {
    let read = |(id, found): (&PodId, Result<Option<DynamicObject>, ObjectError>)| {
        found?.map(read).transpose().map_err(|reason| failed(connection, id, reason))
    };
    ids.iter().zip(found(connection, ids)).map(read).collect()
}

fn found(connection: &Connection, ids: &[PodId]) -> Vec<Result<Option<DynamicObject>, ObjectError>> {
    if ids.is_empty() {
        return Vec::new();
    }
    let get = async |id: &PodId| {
        let api: Api<DynamicObject> = Api::namespaced_with(connection.client.clone(), &id.namespace.0, &kinds::pods());
        api.get_opt(&id.name).await
    };
    let asked = connection.ask(async { Ok::<_, Error>(join_all(ids.iter().map(get)).await) });
    match asked {
        Ok(answers) => {
            let read = |(id, answer): (&PodId, Result<_, Error>)| {
                answer.map_err(|error| failed(connection, id, super::in_full(&error)))
            };
            ids.iter().zip(answers).map(read).collect()
        }
        Err(unanswered) => {
            let reason = unanswered.to_string();
            ids.iter().map(|id| Err(failed(connection, id, reason.clone()))).collect()
        }
    }
}

/// What namespaces ask for their pods; nothing of one that there is not. One that cannot be asked is its own pods' trouble.
pub(crate) fn namespaces(
    connection: &Connection,
    names: &BTreeSet<NamespaceName>,
) -> BTreeMap<NamespaceName, Result<Option<Box<PodAsks>>, String>> {
    let api: Api<DynamicObject> = Api::all_with(connection.client.clone(), &kinds::namespaces());
    let asked = names.iter().map(|name| api.get_opt(&name.0));
    let answers = match connection.ask(async { Ok::<_, Error>(join_all(asked).await) }) {
        Ok(answers) => answers.into_iter().map(|answer| answer.map_err(|error| super::in_full(&error))).collect(),
        Err(unanswered) => vec![Err(unanswered.to_string()); names.len()],
    };
    let read = |found: DynamicObject| match convert(&typed(&kinds::namespaces(), found)) {
        Converted::Known { resource: Resource::Namespace(namespace), .. } => Ok(namespace.asks),
        Converted::Refused { error, .. } | Converted::Nameless { error } => Err(error.to_string()),
        _ => Err("it is no namespace".to_owned()),
    };
    let asks = |answer: Result<Option<DynamicObject>, String>| Ok(answer?.map(read).transpose()?.flatten());
    names.iter().cloned().zip(answers.into_iter().map(asks)).collect()
}

/// The networks of a node for its own pods; none of a node that there is not.
pub(crate) fn pod_cidrs(connection: &Connection, node: &NodeName) -> Result<Vec<Cidr>, ObjectError> {
    let api: Api<DynamicObject> = Api::all_with(connection.client.clone(), &kinds::nodes());
    let failed = |reason: String| {
        let server = connection.server.to_string();
        ObjectError::Server { server, kind: "Node".to_owned(), name: node.to_string(), reason }
    };
    let found = connection.ask(api.get_opt(&node.0)).map_err(|unanswered| failed(unanswered.to_string()))?;
    let Some(found) = found else { return Ok(Vec::new()) };
    match convert(&typed(&kinds::nodes(), found)) {
        Converted::Known { resource: Resource::Node(node), .. } => Ok(node.pod_cidrs),
        Converted::Refused { error, .. } | Converted::Nameless { error } => Err(failed(error.to_string())),
        _ => Err(failed("it is no node".to_owned())),
    }
}

fn failed(connection: &Connection, id: &PodId, reason: String) -> ObjectError {
    let server = connection.server.to_string();
    ObjectError::Server { server, kind: "Pod".to_owned(), name: id.to_string(), reason }
}

pub(super) fn read(found: DynamicObject) -> Result<Arc<Pod>, String> {
    match convert(&typed(&kinds::pods(), found)) {
        Converted::Known { resource: Resource::Pod(pod), .. } => Ok(pod),
        Converted::Refused { error, .. } | Converted::Nameless { error } => Err(error.to_string()),
        Converted::Known { .. } | Converted::NotEnforced { .. } | Converted::Foreign { .. } => {
            Err("it is no pod".to_owned())
        }
    }
}
