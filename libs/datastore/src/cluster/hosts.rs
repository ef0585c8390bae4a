//! Host endpoints of nodes, on the API server.
//! In: whether they are wanted. Out: those that are there are what they are to be.
//! Invariant: each write names the version it was decided on; nodes are listed anew, all of one revision.
//! Never: touches what others made.

use super::{
    connection::{Unanswered, Write},
    kinds::{self, Calico},
    objects::ClusterObjects,
    pages::Lack,
    patching, posting,
};
use crate::{
    ObjectError,
    hosts::{Host, KIND, Node, Step, Wanted, steps, strings},
};
use kube::{
    Error,
    api::{DeleteParams, Patch, Preconditions},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where Calico's own API server keeps what else is said of an object.
const METADATA: &str = "projectcalico.org/metadata";

impl ClusterObjects {
    pub(super) fn keep_hosts_of_nodes(&self, wanted: &Wanted) -> Result<Vec<String>, ObjectError> {
        let (api, resource) = self.api(KIND)?;
        let is_stored = self.connection().calico() == Some(Calico::Stored);
        let (mut there, mut versions) = (BTreeMap::new(), BTreeMap::new());
        self.each(&resource, Lack::Fails, |object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            versions.insert(name.clone(), object["metadata"]["resourceVersion"].as_str().map(str::to_owned));
            there.insert(name, host(&object));
            Ok(())
        })?;
        let mut all = BTreeMap::new();
        if !wanted.is_none() {
            self.each(&kinds::nodes(), Lack::Fails, |node| {
                all.extend(Node::of_kubernetes(&node).iter().flat_map(|node| wanted.of_node(node)));
                Ok(())
            })?;
        }
        let (mut done, mut failed) = (Vec::new(), None);
        for step in steps(&there, &all) {
            let (name, what) = step.said();
            self.begin(Write::HostEndpoint, (KIND, name))?;
            let version = versions.get(name).cloned().flatten();
            let asked = match &step {
                Step::Make(_, host) => {
                    self.ask_for(name, api.create(&posting(), &made(&resource, name, host, is_stored)))
                }
                Step::Change(_, host) => {
                    let parameters = patching();
                    self.ask_for(name, api.patch(name, &parameters, &changed(version, host, is_stored)))
                }
                Step::Remove(_) => {
                    let preconditions = Some(Preconditions { resource_version: version, uid: None });
                    self.ask_for(name, api.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }))
                }
            };
            // One that is refused keeps nobody else's from being as it is to be.
            match asked {
                Ok(true) => done.push(what.clone()),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(done), Err)
    }

    /// False: somebody was faster.
    fn ask_for<T>(&self, name: &str, asked: impl Future<Output = Result<T, Error>>) -> Result<bool, ObjectError> {
        match self.connection().ask(asked) {
            Ok(_) => Ok(true),
            Err(Unanswered::Refused(Error::Api(status))) if [404, 409].contains(&status.code) => Ok(false),
            Err(unanswered) => Err(self.failed((KIND, name), unanswered.to_string())),
        }
    }
}

/// As Calico sees it: of what its API server keeps, labels and annotations are those that it wrote beside, too.
fn host(object: &Value) -> Host {
    let beside = object["metadata"]["annotations"][METADATA].as_str();
    let beside = beside.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
    let both = |field: &str| {
        let mut all = strings(object["metadata"].get(field));
        all.extend(strings(beside.get(field)));
        all
    };
    let (labels, mut annotations) = (both("labels"), both("annotations"));
    annotations.remove(METADATA);
    Host { labels, annotations, spec: object["spec"].clone() }
}

fn beside(host: &Host) -> String {
    json!({ "labels": host.labels, "annotations": host.annotations }).to_string()
}

fn made(resource: &ApiResource, name: &str, host: &Host, is_stored: bool) -> DynamicObject {
    let mut object = DynamicObject::new(name, resource).data(json!({ "spec": host.spec }));
    if is_stored {
        object.metadata.annotations = Some([(METADATA.to_owned(), beside(host))].into());
    } else {
        object.metadata.labels = Some(host.labels.clone());
        object.metadata.annotations = Some(host.annotations.clone());
    }
    object
}

fn changed(version: Option<String>, host: &Host, is_stored: bool) -> Patch<()> {
    let (labels, annotations) = if is_stored {
        (json!({}), json!({ METADATA: beside(host) }))
    } else {
        (json!(host.labels), json!(host.annotations))
    };
    let steps = json!([
        { "op": "replace", "path": "/metadata/resourceVersion", "value": version.unwrap_or_default() },
        { "op": "add", "path": "/metadata/labels", "value": labels },
        { "op": "add", "path": "/metadata/annotations", "value": annotations },
        { "op": "replace", "path": "/spec", "value": host.spec },
    ]);
    Patch::Json(serde_json::from_value(steps).expect("four operations are a patch"))
}
