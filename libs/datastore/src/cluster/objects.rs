//! Objects that agents share, on the API server: Calico's own, where Calico keeps them; leases in a namespace of their own; and what
//! is told of load balancers, at the Services; of pods, in `annotate`.
//! In: objects with the resource version each was read at. Out: as written, or a typed conflict.
//! Invariant: a write names the version it was decided on; of what is in an object beside its spec nothing is changed.
//! Never: retries; writes what is there already.

use super::{
    MANAGER, affinity,
    connection::{Connection, Unanswered, Write},
    heard::{self, Only},
    kinds::{self, Calico, is_absent},
    pages::Lack,
    patching, pods, posting,
    secrets::Secrets,
    status::Asking,
};
use crate::{
    Metadata, NodeInterfaces, Object, ObjectError, Shared, StatusRequest,
    calendar::rfc3339,
    census::Survey,
    given,
    hosts::Wanted,
    interfaces,
    known::Heard,
    lease,
    settings::{Change, Setting},
    shared::{Described, Passwords},
    vtep,
};
use ipam::audit::Census;
use kube::{
    Api, Error,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    core::{DynamicObject, ObjectMeta, TypeMeta, discovery::ApiResource},
};
use model::{
    Attachment, NodeAddresses, NodeName, NodeVteps, PodId, SecretKey, ServiceAddresses, ServiceId, WorkloadAddress,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

/// Where agents keep their leases and find passwords, whatever namespace they run in: two that looked in two would both be first.
pub(super) const NAMESPACE: &str = "tortie-system";

/// The shared objects of a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterObjects {
    connection: Connection,
    /// Begun when leases are first asked for.
    leases: Arc<OnceLock<Heard>>,
    /// Begun when it is first asked what is asked of a node.
    asking: Arc<Asking>,
    /// Begun when passwords are asked.
    secrets: Arc<Secrets>,
}

impl ClusterObjects {
    /// Of this cluster.
    #[must_use]
    pub fn of(connection: Connection) -> Self {
        Self { connection, leases: Arc::default(), asking: Arc::default(), secrets: Arc::default() }
    }

    pub(super) fn api(&self, kind: &str) -> Result<(Api<DynamicObject>, ApiResource), ObjectError> {
        if kind == lease::KIND {
            return Ok(self.leases());
        }
        let calico = match self.connection.calico() {
            Some(known) => known,
            None => {
                let found = self.connection.ask(kinds::calico(&self.connection.client));
                let found = found.map_err(|unanswered| self.error((kind, ""), unanswered))?;
                self.connection.calico_is(found);
                found
            }
        };
        let resource = kinds::shared(calico, kind);
        Ok((Api::all_with(self.connection.client.clone(), &resource), resource))
    }

    /// As this cluster names the kind.
    fn name_of(&self, kind: Setting) -> Result<&'static str, ObjectError> {
        let is_stored = kind == Setting::Config && self.api("IPPool")?.1.group == "crd.projectcalico.org";
        Ok(if is_stored { "IPAMConfig" } else { kind.name() })
    }

    fn leases(&self) -> (Api<DynamicObject>, ApiResource) {
        let resource = kinds::leases();
        (Api::namespaced_with(self.connection.client.clone(), NAMESPACE, &resource), resource)
    }

    /// Before a write of an object that agents share is asked for.
    fn begin_write(&self, (kind, name): (&str, &str)) -> Result<(), ObjectError> {
        self.begin(if kind == lease::KIND { Write::Lease } else { Write::Addresses }, (kind, name))
    }

    /// Addresses are neither given nor taken back while Calico's objects are locked.
    pub(super) fn begin(&self, write: Write, (kind, name): (&str, &str)) -> Result<(), ObjectError> {
        if self.connection.is_paused() && write != Write::Lease {
            let reason =
                "datastoreReady of ClusterInformation is false: nothing is written until it is true".to_owned();
            let server = self.connection.server.to_string();
            return Err(ObjectError::Server { server, kind: kind.to_owned(), name: name.to_owned(), reason });
        }
        self.connection.count(write);
        Ok(())
    }

    /// What was asked or written is known at once.
    fn heed(&self, now: Object) -> Object {
        if let Some(heard) = self.leases.get().filter(|_| now.kind == lease::KIND) {
            heard.put(now.clone());
        }
        now
    }

    /// `None`: there is no such object.
    fn ask<T>(
        &self,
        (kind, name): (&str, &str),
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, ObjectError> {
        match self.connection.ask(question) {
            Ok(answer) => Ok(Some(answer)),
            Err(Unanswered::Refused(Error::Api(status))) if is_absent(&status) => Ok(None),
            Err(unanswered) => Err(self.error((kind, name), unanswered)),
        }
    }

    pub(super) fn asking(&self) -> &Asking {
        &self.asking
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn error(&self, what: (&str, &str), unanswered: Unanswered) -> ObjectError {
        self.failed(what, unanswered.to_string())
    }

    pub(super) fn failed(&self, (kind, name): (&str, &str), reason: String) -> ObjectError {
        let server = self.connection.server.to_string();
        ObjectError::Server { server, kind: kind.to_owned(), name: name.to_owned(), reason }
    }
}

impl Shared for ClusterObjects {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError> {
        let (api, resource) = self.api(kind)?;
        Ok(self.ask((kind, name), api.get(name))?.map(|found| self.heed(read(&resource, found))))
    }

    /// Leases are watched once one is asked for: every node looks at them several times a second.
    fn known(&self, kind: &str, name: &str) -> Result<Option<Arc<Object>>, ObjectError> {
        if kind != lease::KIND {
            return Ok(self.get(kind, name)?.map(Arc::new));
        }
        let (api, resource) = self.leases();
        let heard = self
            .leases
            .get_or_init(|| heard::begin(&self.connection, api, Only::All, move |object| read(&resource, object)));
        match heard.get(name) {
            Some(known) => Ok(known),
            None => Ok(self.get(kind, name)?.map(Arc::new)),
        }
    }

    fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError> {
        let (api, resource) = self.api(kind)?;
        let found = self.ask((kind, ""), api.list(&ListParams::default()))?;
        let found = found.ok_or_else(|| ObjectError::Server {
            server: self.connection.server.to_string(),
            kind: kind.to_owned(),
            name: String::new(),
            reason: "it has no such kind; apply the CRDs".to_owned(),
        })?;
        Ok(found.items.into_iter().map(|item| read(&resource, item)).collect())
    }

    fn create(&self, object: &Object) -> Result<Object, ObjectError> {
        let (kind, name) = (&*object.kind, &*object.metadata.name);
        let (api, resource) = self.api(kind)?;
        let fresh = written(self.connection.calico(), &resource, object);
        self.begin_write((kind, name))?;
        let parameters = posting();
        match self.connection.ask(api.create(&parameters, &fresh)) {
            Ok(now) => Ok(self.heed(read(&resource, now))),
            Err(Unanswered::Refused(Error::Api(status))) if is_conflict(status.code) => {
                Err(conflict(kind, name, "none", "one"))
            }
            Err(unanswered) => Err(self.error((kind, name), unanswered)),
        }
    }

    fn update(&self, object: &Object) -> Result<Object, ObjectError> {
        let (kind, name) = (&*object.kind, &*object.metadata.name);
        let wanted = object.metadata.resource_version.as_deref().unwrap_or_default();
        let (api, resource) = self.api(kind)?;
        // The server compares the version; what the object has beside its spec stays.
        let change = json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": wanted},
            {"op": "replace", "path": "/spec", "value": spec_of(self.connection.calico(), object)},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(change).expect("two operations are a patch"));
        self.begin_write((kind, name))?;
        let parameters = patching();
        match self.connection.ask(api.patch(name, &parameters, &patch)) {
            Ok(now) => Ok(self.heed(read(&resource, now))),
            Err(Unanswered::Refused(Error::Api(status))) if is_absent(&status) => {
                Err(conflict(kind, name, wanted, "none"))
            }
            Err(Unanswered::Refused(Error::Api(status))) if is_conflict(status.code) => {
                Err(conflict(kind, name, wanted, "another"))
            }
            Err(unanswered) => Err(self.error((kind, name), unanswered)),
        }
    }

    fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError> {
        let resource_version = version.map(str::to_owned);
        let preconditions = version.map(|_| Preconditions { resource_version, uid: None });
        let ((api, _), parameters) = (self.api(kind)?, DeleteParams { preconditions, ..DeleteParams::default() });
        self.begin_write((kind, name))?;
        match self.connection.ask(api.delete(name, &parameters)) {
            Ok(_) => Ok(true),
            Err(Unanswered::Refused(Error::Api(status))) if is_absent(&status) => Ok(false),
            Err(Unanswered::Refused(Error::Api(status))) if is_conflict(status.code) => {
                Err(conflict(kind, name, version.unwrap_or_default(), "another"))
            }
            Err(unanswered) => Err(self.error((kind, name), unanswered)),
        }
    }

    /// At the pods themselves, as Calico's plugin does: others know a pod's addresses before its kubelet has told them.
    fn publish(&self, pods: &[(WorkloadAddress, Attachment)]) -> Result<(), ObjectError> {
        let told: Vec<_> = pods.iter().map(|(told, _)| (&told.pod, &told.node, &*told.addresses)).collect();
        self.annotate_all(&told)
    }

    /// Watched pods may be heard late, or be the former of their name: what one asks of its addresses counts once, when it is attached.
    /// Of one that the server does not have nobody asks anything.
    fn described(&self, pods: &[(PodId, bool)]) -> Vec<Result<Described, ObjectError>> {
        let unheard: Vec<_> = pods.iter().filter(|(_, is_heard)| !is_heard).map(|(id, _)| id.clone()).collect();
        let mut asked = pods::known(&self.connection, &unheard).into_iter();
        let of = |(_, is_heard): &(PodId, bool)| {
            let pod = if *is_heard { None } else { asked.next().transpose()?.flatten() };
            let asks = pod.map(|pod| pod.asks.as_deref().cloned().unwrap_or_default());
            Ok(Described { labels: None, asks })
        };
        pods.iter().map(of).collect()
    }

    fn withdraw(&self, pods: &[PodId], node: &NodeName) -> Result<(), ObjectError> {
        self.annotate_all(&pods.iter().map(|pod| (pod, node, [].as_slice())).collect::<Vec<_>>())
    }

    /// At the Node itself, where Calico's agents look for it.
    fn tell_vteps(&self, own: &NodeVteps) -> Result<(), ObjectError> {
        let of_ipip = (vtep::IPIP_ANNOTATION, own.vteps.ipip.map(|address| address.to_string()));
        let annotations = vtep::told(&own.vteps, vtep::ANNOTATIONS).into_iter().chain([of_ipip]);
        self.annotate_node(&own.node, &annotations.collect::<Vec<_>>())
    }

    /// Likewise.
    fn tell_interfaces(&self, own: &NodeInterfaces) -> Result<(), ObjectError> {
        self.annotate_node(&own.node, &[(interfaces::ANNOTATION, Some(own.told().to_string()))])
    }

    /// The annotations of this node's Node are the teller's to write, with the condition that it serves pods ([`super::Report`]).
    fn tell_addresses(&self, _own: &NodeAddresses) -> Result<(), ObjectError> {
        Ok(())
    }

    /// As the Service's own status. What another manager has written there is not taken from him.
    fn give(&self, given: &ServiceAddresses) -> Result<(), ObjectError> {
        let now = rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        self.apply_status(&given.service, &given::applied(given, &now))
    }

    fn take_back(&self, service: &ServiceId) -> Result<(), ObjectError> {
        self.apply_status(service, &json!({}))
    }

    fn census(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        self.census_of(nodes, pods)
    }

    fn default_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        self.one_of(kind)
    }

    fn settings(&self, kind: Setting) -> Result<Vec<Object>, ObjectError> {
        if kind == Setting::Node {
            let (nodes, mut all) = (kinds::nodes(), Vec::new());
            self.each(&nodes, Lack::Fails, |mut node| {
                let text = |field: &str| node["metadata"][field].as_str().unwrap_or_default().to_owned();
                let metadata = Metadata { name: text("name"), resource_version: Some(text("resourceVersion")) };
                let (api_version, kind) = (nodes.api_version.clone(), nodes.kind.clone());
                all.push(Object { api_version, kind, metadata, spec: node["spec"].take() });
                Ok(())
            })?;
            return Ok(all);
        }
        let (api, resource) = self.api(self.name_of(kind)?)?;
        let found = self.ask((&resource.kind, ""), api.list(&ListParams::default()))?;
        let items = found.map(|found| found.items).unwrap_or_default();
        Ok(items.into_iter().map(|item| read(&resource, item)).collect())
    }

    fn set(&self, changes: &[Change]) -> Result<(), ObjectError> {
        for Change { kind, name, before, spec } in changes {
            let kind = self.name_of(*kind)?;
            let version = before.as_ref().and_then(|before| before.metadata.resource_version.clone());
            let object = |spec: &Value| Object {
                api_version: String::new(),
                kind: kind.to_owned(),
                metadata: Metadata { name: name.clone(), resource_version: version.clone() },
                spec: spec.clone(),
            };
            match spec {
                Some(spec) if before.is_some() => drop(self.update(&object(spec))?),
                Some(spec) => drop(self.create(&object(spec))?),
                None => drop(self.delete(kind, name, version.as_deref())?),
            }
        }
        Ok(())
    }

    fn survey(&self) -> Result<Survey, ObjectError> {
        self.everybody()
    }

    fn keep_hosts(&self, wanted: &Wanted) -> Result<Vec<String>, ObjectError> {
        self.keep_hosts_of_nodes(wanted)
    }

    fn status_requests(&self, node: &NodeName) -> Result<Option<Vec<StatusRequest>>, ObjectError> {
        self.status_requests_of(node).map(Some)
    }

    fn answer_status(&self, request: &StatusRequest, status: &Value) -> Result<(), ObjectError> {
        self.answer_status_of(request, status)
    }

    fn passwords(&self, asked: &BTreeSet<SecretKey>) -> Option<Passwords> {
        Some(self.passwords_of(asked))
    }

    fn make_defaults(&self) -> Result<Vec<&'static str>, ObjectError> {
        self.make_what_lacks()
    }

    fn is_locked(&self) -> bool {
        self.connection.is_paused()
    }
}

impl ClusterObjects {
    /// Makes these annotations of a Node so; writes nothing where they are.
    fn annotate_node(&self, node: &NodeName, annotations: &[(&str, Option<String>)]) -> Result<(), ObjectError> {
        let (resource, name) = (kinds::nodes(), node.to_string());
        let api: Api<DynamicObject> = Api::all_with(self.connection.client.clone(), &resource);
        let what = (&*resource.kind, &*name);
        let found = self.ask(what, api.get(&name))?;
        let found = found.ok_or_else(|| self.failed(what, "there is no such Node".to_owned()))?;
        let says = |key: &str| found.metadata.annotations.as_ref().and_then(|all| all.get(key));
        if annotations.iter().all(|(key, value)| says(key) == value.as_ref()) {
            return Ok(());
        }
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        // With the UID: a Node of the same name that was made meanwhile is another machine's, perhaps.
        let change = json!({"metadata": {"uid": found.metadata.uid, "annotations": annotations}});
        self.connection.count(Write::Node);
        let patched = self.connection.ask(api.patch_status(&name, &patching(), &Patch::Merge(&change)));
        patched.map(drop).map_err(|unanswered| self.error(what, unanswered))
    }

    /// One that is gone needs nothing.
    fn apply_status(&self, service: &ServiceId, status: &Value) -> Result<(), ObjectError> {
        let resource = kinds::services();
        let (namespace, name) = (service.namespace.to_string(), &service.name);
        let api: Api<DynamicObject> = Api::namespaced_with(self.connection.client.clone(), &namespace, &resource);
        let applied = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "namespace": namespace, "name": name }, "status": status,
        });
        let (parameters, patch) = (PatchParams::apply(MANAGER), Patch::Apply(&applied));
        self.begin(Write::Service, ("Service", &service.to_string()))?;
        self.ask(("Service", &service.to_string()), api.patch_status(name, &parameters, &patch)).map(drop)
    }
}

pub(super) fn is_conflict(code: u16) -> bool {
    code == 409
}

fn conflict(kind: &str, name: &str, wanted: &str, found: &str) -> ObjectError {
    ObjectError::Conflict { kind: kind.into(), name: name.into(), wanted: wanted.into(), found: found.into() }
}

fn read(resource: &ApiResource, mut found: DynamicObject) -> Object {
    Object {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
        metadata: Metadata {
            name: found.metadata.name.take().unwrap_or_default(),
            resource_version: found.metadata.resource_version.take(),
        },
        spec: found.data.get_mut("spec").map(Value::take).unwrap_or_default(),
    }
}

fn written(calico: Option<Calico>, resource: &ApiResource, object: &Object) -> DynamicObject {
    let ApiResource { api_version, kind, .. } = resource.clone();
    let labels = (kind == affinity::KIND).then(|| affinity::labels(&object.spec));
    DynamicObject {
        types: Some(TypeMeta { api_version, kind }),
        metadata: ObjectMeta { name: Some(object.metadata.name.clone()), labels, ..ObjectMeta::default() },
        data: json!({"spec": spec_of(calico, object)}),
    }
}

fn spec_of(calico: Option<Calico>, object: &Object) -> Value {
    match &*object.kind {
        affinity::KIND => affinity::written(calico, object.spec.clone()),
        _ => object.spec.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a server that does not listen.
    fn objects() -> ClusterObjects {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "none",
            "clusters": [{ "name": "none", "cluster": { "server": "http://127.0.0.1:1" } }],
            "contexts": [{ "name": "none", "context": { "cluster": "none", "user": "" } }],
        });
        std::fs::write(file.path(), text.to_string()).expect("it is written");
        ClusterObjects::of(Connection::open(Some(file.path())).expect("a kubeconfig"))
    }

    #[test]
    fn while_calicos_objects_are_locked_no_service_is_told_of_addresses_and_leases_are_kept() {
        let objects = objects();
        let service = ServiceId { namespace: "shop".into(), name: "web".into() };
        let given = ServiceAddresses { service: service.clone(), addresses: Vec::new(), remarks: Vec::new() };
        let asked = || objects.connection.writes().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        objects.connection.pause(true);
        for refused in [objects.give(&given), objects.take_back(&service)] {
            let said = refused.expect_err("they are locked").to_string();
            assert!(said.contains("Service shop/web") && said.contains("datastoreReady"), "{said}");
        }
        assert_eq!(asked(), []);
        objects.begin_write((lease::KIND, "x")).expect("a lease is not Calico's");
        objects.connection.pause(false);
        let said = objects.give(&given).expect_err("nobody listens").to_string();
        assert!(!said.contains("datastoreReady"), "{said}");
        assert_eq!(asked(), [("lease", 1), ("service", 1)]);
    }
}
