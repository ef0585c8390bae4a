//! Objects that agents share, in etcd: Calico's own where Calico keeps them; and what is told of pods, as their endpoints.
//! In: objects with the revision each was read at. Out: as written, or a typed conflict.
//! Invariant: a write names the revisions it was decided on, and is done as a whole or not at all.
//! Never: retries what agents share; writes what is there already.

use super::{
    connection::{EtcdConnection, Write},
    error::Unanswered,
    heard,
    layout::RESOURCES,
    message::{Compare, Delete, EQUAL, KeyValue, MOD, Put, RangeRequest, Step, TxnRequest},
    pages::Pages,
    pods, records,
};
use crate::{
    ClusterObjects, Connection, NodeInterfaces, Object, ObjectError, Shared, StatusRequest,
    census::Survey,
    cluster, given,
    hosts::Wanted,
    interfaces,
    known::Heard,
    lease, node_addresses,
    settings::{Change, Setting},
    shared::{Described, Passwords},
    vtep,
};
use ipam::audit::Census;
use model::{
    Attachment, Cidr, IpamConfig, NodeAddresses, NodeName, NodeVteps, Pod, PodId, SecretKey, ServiceAddresses,
    ServiceId, WorkloadAddress,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// So long one page of a list may take.
const PAGE_PATIENCE: Duration = Duration::from_secs(3);
/// Objects that are written as a whole; etcd takes 128 steps by default.
pub(super) const STEPS_MAX: usize = 64;
/// Tries, where somebody else writes the same endpoint.
pub(super) const ATTEMPTS: u32 = 8;

/// The shared objects of an etcd. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EtcdObjects {
    connection: EtcdConnection,
    /// Who knows the pods and the services.
    cluster: Option<Connection>,
    served: Option<ClusterObjects>,
    /// Begun when leases are first asked for.
    leases: Arc<OnceLock<Heard>>,
    /// Begun when it is first asked what is asked of a node.
    asking: Arc<OnceLock<Heard>>,
}

impl EtcdObjects {
    /// Of this etcd; the cluster is asked what its pods are.
    #[must_use]
    pub fn of(connection: EtcdConnection, cluster: Option<Connection>) -> Self {
        let served = cluster.clone().map(ClusterObjects::of);
        Self { connection, cluster, served, leases: Arc::default(), asking: Arc::default() }
    }

    pub(super) fn cluster(&self) -> Option<&Connection> {
        self.cluster.as_ref()
    }

    pub(super) fn connection(&self) -> &EtcdConnection {
        &self.connection
    }

    pub(super) fn asking(&self) -> &OnceLock<Heard> {
        &self.asking
    }

    pub(super) fn error(&self, (kind, name): (&str, &str), reason: impl ToString) -> ObjectError {
        let server = self.connection.name().to_owned();
        ObjectError::Server { server, kind: kind.to_owned(), name: name.to_owned(), reason: reason.to_string() }
    }

    /// Nothing of Calico's is written while it is locked.
    pub(super) fn begin(&self, write: Write, what: (&str, &str)) -> Result<(), ObjectError> {
        if self.connection.is_paused() && ![Write::Lease, Write::Service].contains(&write) {
            let reason =
                "ClusterInformation does not say that datastoreReady is true: nothing is written until it does";
            return Err(self.error(what, reason));
        }
        self.connection.count(write);
        Ok(())
    }

    pub(super) fn one(&self, what: (&str, &str), key: &str) -> Result<Option<KeyValue>, ObjectError> {
        let question = RangeRequest { key: key.into(), ..RangeRequest::default() };
        let answer = self.connection.ask(self.connection.range(&question));
        Ok(answer.map_err(|unanswered| self.error(what, unanswered))?.kvs.pop())
    }

    pub(super) fn all(&self, what: (&str, &str), prefix: &str) -> Result<Vec<KeyValue>, ObjectError> {
        let listed = self.connection.ask(async {
            let (mut pages, mut all) = (Pages::of(prefix), Vec::new());
            while let Some(page) = pages.next(&self.connection, PAGE_PATIENCE).await? {
                all.extend(page);
            }
            Ok::<_, Unanswered>(all)
        });
        listed.map_err(|unanswered| self.error(what, unanswered))
    }

    fn read(&self, kind: &str, kv: &KeyValue) -> Result<Option<Object>, ObjectError> {
        let key = String::from_utf8_lossy(&kv.key);
        let damaged = |reason| self.error((kind, ""), format!("under {key} stands what cannot be read: {reason}"));
        records::read(kind, &key, &kv.value, kv.mod_revision).map_err(damaged)
    }

    /// The key of the object of this name.
    fn key(&self, kind: &str, name: &str) -> Result<Option<String>, ObjectError> {
        if kind != records::AFFINITY {
            let key = records::key_of_name(kind, name).ok_or_else(|| ObjectError::InvalidName(name.to_owned()))?;
            return Ok(Some(key));
        }
        // Where the node's name ends and the block's begins its name does not say.
        for kv in self.all((kind, name), &records::prefix(kind))? {
            if self.read(kind, &kv)?.is_some_and(|object| object.metadata.name == name) {
                return Ok(Some(String::from_utf8_lossy(&kv.key).into_owned()));
            }
        }
        Ok(None)
    }

    /// Steps that are done only if every key is as it was when this was decided. `None`: one is not.
    pub(super) fn transact(&self, what: (&str, &str), steps: Vec<(Compare, Step)>) -> Result<Option<i64>, ObjectError> {
        let (compare, success) = steps.into_iter().unzip();
        let question = TxnRequest { compare, success };
        let answer = self.connection.ask(self.connection.transact(&question));
        let answer = answer.map_err(|unanswered| self.error(what, unanswered))?;
        Ok(answer.succeeded.then(|| answer.header.unwrap_or_default().revision))
    }

    /// What was asked or written is known at once.
    fn heed(&self, now: &Object) {
        if let Some(heard) = self.leases.get().filter(|_| now.kind == lease::KIND) {
            heard.put(now.clone());
        }
    }

    /// As a whole or not at all.
    fn write_together(&self, objects: &[Object]) -> Result<Vec<Object>, ObjectError> {
        let (mut steps, mut keys) = (Vec::with_capacity(objects.len()), BTreeSet::new());
        for object in objects {
            let what = (&*object.kind, &*object.metadata.name);
            let (key, value) = records::written(object).map_err(|reason| self.error(what, reason))?;
            // One that comes twice was not read at the revision that the first gives it.
            if !keys.insert(key.clone()) {
                return Err(conflict(object));
            }
            self.begin(write_of(&object.kind), what)?;
            steps.push((unchanged(&key, revision(object)), put(&key, value.to_string().into_bytes())));
        }
        let Some(first) = objects.first() else { return Ok(Vec::new()) };
        let done = self.transact((&first.kind, &first.metadata.name), steps)?;
        let revision = done.ok_or_else(|| conflict(first))?.to_string();
        let mut written = objects.to_vec();
        written.iter_mut().for_each(|object| object.metadata.resource_version = Some(revision.clone()));
        written.iter().for_each(|object| self.heed(object));
        Ok(written)
    }

    fn withdraw_one(&self, pod: &PodId, node: &NodeName) -> Result<(), ObjectError> {
        let name = pod.to_string();
        let what = (pods::KIND, &*name);
        for kv in self.all(what, &pods::prefix(pod, node))? {
            if !pods::is_of(&kv.value, pod, node) {
                continue;
            }
            self.begin(Write::Pod, what)?;
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let step = (unchanged(&key, kv.mod_revision), remove(&key));
            if self.transact(what, vec![step])?.is_none() {
                return Err(self.error(what, "somebody else has written it meanwhile"));
            }
        }
        Ok(())
    }

    fn publish_one(&self, address: &WorkloadAddress, attachment: &Attachment) -> Result<(), ObjectError> {
        let name = address.pod.to_string();
        let what = (pods::KIND, &*name);
        let key = pods::key(address, attachment);
        for _ in 0..ATTEMPTS {
            let found = self.one(what, &key)?;
            let before = found.as_ref().map(|kv| &*kv.value);
            if let Some(kv) = found.as_ref().filter(|_| !pods::is_of_container(before, attachment)) {
                // Removed and made anew: of two endpoints of a pod the one that was made last counts, and etcd knows which.
                self.begin(Write::Pod, what)?;
                self.transact(what, vec![(unchanged(&key, kv.mod_revision), remove(&key))])?;
                continue;
            }
            let Some(mut now) = pods::endpoint(before, address, attachment) else { return Ok(()) };
            if let Some(cluster) = self.cluster.as_ref().filter(|_| !pods::is_of_container(before, attachment)) {
                let (pod, stem) = cluster::with_stem(cluster, &address.pod)?;
                pods::describe(&mut now, &pod, stem.as_deref());
            }
            self.begin(Write::Pod, what)?;
            let at = found.as_ref().map_or(0, |kv| kv.mod_revision);
            if self.transact(what, vec![(unchanged(&key, at), put(&key, now.to_string().into_bytes()))])?.is_some() {
                return Ok(());
            }
        }
        Err(self.error(what, "others kept writing it at the same time"))
    }
}

impl EtcdObjects {
    /// Makes the spec of Calico's Node another; writes nothing where it is so already.
    fn change_node(
        &self,
        node: &NodeName,
        change: impl Fn(&mut serde_json::Map<String, Value>),
    ) -> Result<(), ObjectError> {
        let name = node.to_string();
        let what = ("Node", &*name);
        let key = format!("{RESOURCES}nodes/{name}");
        for _ in 0..ATTEMPTS {
            let found = self.one(what, &key)?.ok_or_else(|| self.error(what, "Calico has no such Node"))?;
            let unreadable = |error: serde_json::Error| self.error(what, format!("{key} cannot be read: {error}"));
            let mut node: Value = serde_json::from_slice(&found.value).map_err(unreadable)?;
            let before = node.clone();
            let spec = node.as_object_mut().map(|node| node.entry("spec").or_insert_with(|| json!({})));
            let Some(spec) = spec.and_then(Value::as_object_mut) else {
                return Err(self.error(what, format!("{key} cannot be read: its spec is no object")));
            };
            change(spec);
            if node == before {
                return Ok(());
            }
            self.begin(Write::Node, what)?;
            let step = (unchanged(&key, found.mod_revision), put(&key, node.to_string().into_bytes()));
            if self.transact(what, vec![step])?.is_some() {
                return Ok(());
            }
        }
        Err(self.error(what, "others kept writing it at the same time"))
    }
}

impl Shared for EtcdObjects {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError> {
        let Some(key) = self.key(kind, name)? else { return Ok(None) };
        let found = match self.one((kind, name), &key)? {
            Some(kv) => self.read(kind, &kv)?,
            None => None,
        };
        found.iter().for_each(|object| self.heed(object));
        Ok(found)
    }

    /// Leases are watched once one is asked for: every node looks at them several times a second.
    fn known(&self, kind: &str, name: &str) -> Result<Option<Arc<Object>>, ObjectError> {
        if kind == lease::KIND {
            let heard = self.leases.get_or_init(|| heard::begin(&self.connection, heard::Of::leases()));
            if let Some(known) = heard.get(name) {
                return Ok(known);
            }
        }
        Ok(self.get(kind, name)?.map(Arc::new))
    }

    fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError> {
        let all = self.all((kind, ""), &records::prefix(kind))?;
        all.iter().filter_map(|kv| self.read(kind, kv).transpose()).collect()
    }

    fn create(&self, object: &Object) -> Result<Object, ObjectError> {
        let mut fresh = object.clone();
        fresh.metadata.resource_version = None;
        self.write_together(std::slice::from_ref(&fresh)).map(|mut written| written.remove(0))
    }

    fn update(&self, object: &Object) -> Result<Object, ObjectError> {
        if revision(object) == 0 {
            return Err(conflict(object));
        }
        self.write_together(std::slice::from_ref(object)).map(|mut written| written.remove(0))
    }

    /// All or none, up to as many as etcd takes at once.
    fn write_all(&self, objects: &[Object]) -> Result<Vec<Object>, ObjectError> {
        let mut written = Vec::with_capacity(objects.len());
        for together in objects.chunks(STEPS_MAX) {
            written.extend(self.write_together(together)?);
        }
        Ok(written)
    }

    fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError> {
        let what = (kind, name);
        let Some(key) = self.key(kind, name)? else { return Ok(false) };
        let Some(found) = self.one(what, &key)? else { return Ok(false) };
        let is_it = version.is_none_or(|version| *version == found.mod_revision.to_string());
        self.begin(write_of(kind), what)?;
        let step = (unchanged(&key, found.mod_revision), remove(&key));
        if is_it && self.transact(what, vec![step])?.is_some() {
            return Ok(true);
        }
        let (kind, name, found) = (kind.to_owned(), name.to_owned(), "another".to_owned());
        Err(ObjectError::Conflict { kind, name, wanted: version.unwrap_or_default().to_owned(), found })
    }

    /// As Calico's plugin does: by the pod's endpoint.
    fn publish(&self, pods: &[(WorkloadAddress, Attachment)]) -> Result<(), ObjectError> {
        pods.iter().try_for_each(|(address, attachment)| self.publish_one(address, attachment))
    }

    /// As Calico's plugin does before it wires a pod.
    fn described(&self, pods: &[(PodId, bool)]) -> Vec<Result<Described, ObjectError>> {
        let Some(cluster) = &self.cluster else { return pods.iter().map(|_| Ok(Described::default())).collect() };
        let ids: Vec<_> = pods.iter().map(|(id, _)| id.clone()).collect();
        let namespaces = cluster::namespaces(cluster, &ids.iter().map(|id| id.namespace.clone()).collect());
        let described = |pod: Result<Arc<Pod>, ObjectError>| {
            let pod = pod?;
            let of_namespace = match namespaces.get(&pod.id.namespace) {
                Some(Err(reason)) => return Err(self.error(("Namespace", &pod.id.namespace.0), reason)),
                Some(Ok(asks)) => asks.as_deref(),
                None => None,
            };
            let asks = pod.asks.as_deref().cloned().unwrap_or_default().or(of_namespace);
            Ok(Described { labels: Some(pod.labels.clone()), asks: Some(asks) })
        };
        cluster::pods(cluster, &ids).into_iter().map(described).collect()
    }

    /// Calico's own Node does not say them; the cluster's does.
    fn pod_cidrs(&self, node: &NodeName) -> Result<Option<Vec<Cidr>>, ObjectError> {
        self.cluster.as_ref().map(|cluster| cluster::pod_cidrs(cluster, node)).transpose()
    }

    /// Calico keeps it beside its addresses, and not among what is watched.
    fn ipam_config(&self) -> Result<Option<IpamConfig>, ObjectError> {
        let what = ("IPAMConfig", IpamConfig::NAME);
        let Some(kv) = self.one(what, records::CONFIG)? else { return Ok(None) };
        records::config(&kv.value).map(Some).map_err(|reason| self.error(what, reason))
    }

    fn withdraw(&self, pods: &[PodId], node: &NodeName) -> Result<(), ObjectError> {
        pods.iter().try_for_each(|pod| self.withdraw_one(pod, node))
    }

    /// In Calico's Node, where Calico's agents look for it.
    fn tell_vteps(&self, own: &NodeVteps) -> Result<(), ObjectError> {
        self.change_node(&own.node, |spec| {
            for (field, value) in vtep::told(&own.vteps, vtep::FIELDS) {
                match value {
                    Some(value) => drop(spec.insert(field.to_owned(), value.into())),
                    None => drop(spec.remove(field)),
                }
            }
            tell_ipip(spec, own.vteps.ipip);
        })
    }

    /// Likewise.
    fn tell_addresses(&self, own: &NodeAddresses) -> Result<(), ObjectError> {
        self.change_node(&own.node, |spec| node_addresses::put(&own.told, spec))
    }

    /// Likewise.
    fn tell_interfaces(&self, own: &NodeInterfaces) -> Result<(), ObjectError> {
        self.change_node(&own.node, |spec| drop(spec.insert(interfaces::FIELD.to_owned(), own.told())))
    }

    /// As the status of the Service, where everybody reads it.
    fn give(&self, given: &ServiceAddresses) -> Result<(), ObjectError> {
        match &self.served {
            Some(served) => served.give(given),
            None => given::tell(self, given),
        }
    }

    fn take_back(&self, service: &ServiceId) -> Result<(), ObjectError> {
        match &self.served {
            Some(served) => served.take_back(service),
            None => given::take_back(self, service),
        }
    }

    fn census(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        self.census_of(nodes, pods)
    }

    fn default_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        self.one_of(kind)
    }

    fn settings(&self, kind: Setting) -> Result<Vec<Object>, ObjectError> {
        self.settings_of(kind)
    }

    fn set(&self, changes: &[Change]) -> Result<(), ObjectError> {
        self.set_all(changes)
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

    /// Calico's agent reads them from the API server, too.
    fn passwords(&self, asked: &BTreeSet<SecretKey>) -> Option<Passwords> {
        self.served.as_ref()?.passwords(asked)
    }

    fn is_locked(&self) -> bool {
        self.connection.is_paused()
    }
}

fn write_of(kind: &str) -> Write {
    match kind {
        lease::KIND => Write::Lease,
        kind if records::is_calicos(kind) => Write::Addresses,
        _ => Write::Service,
    }
}

/// 0: it must not be there.
fn revision(object: &Object) -> i64 {
    object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

pub(super) fn unchanged(key: &str, revision: i64) -> Compare {
    Compare { result: EQUAL, target: MOD, key: key.into(), mod_revision: Some(revision) }
}

pub(super) fn put(key: &str, value: Vec<u8>) -> Step {
    Step { put: Some(Put { key: key.into(), value }), delete: None }
}

pub(super) fn remove(key: &str) -> Step {
    Step { put: None, delete: Some(Delete { key: key.into() }) }
}

fn conflict(object: &Object) -> ObjectError {
    ObjectError::Conflict {
        kind: object.kind.clone(),
        name: object.metadata.name.clone(),
        wanted: object.metadata.resource_version.clone().unwrap_or_else(|| "none".to_owned()),
        found: "another".to_owned(),
    }
}

/// Beside what Calico's Node says of BGP.
fn tell_ipip(spec: &mut serde_json::Map<String, Value>, address: Option<Ipv4Addr>) {
    let [bgp, field] = vtep::IPIP_FIELD;
    match address {
        Some(address) => {
            if let Some(bgp) = spec.entry(bgp).or_insert_with(|| json!({})).as_object_mut() {
                bgp.insert(field.to_owned(), address.to_string().into());
            }
        }
        None => {
            if let Some(bgp) = spec.get_mut(bgp).and_then(Value::as_object_mut) {
                bgp.remove(field);
            }
        }
    }
}
