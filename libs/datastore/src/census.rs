//! Who lives: what a datastore says now of nodes and pods, for those who take back what nobody has.
//! In: objects, or the names of some. Out: a [`Census`].
//! Invariant: what cannot be read is an error, and no absence; every witness of a pod counts.
//! Never: answers from what was heard earlier.

use crate::{
    Metadata, Object, ObjectError, Objects, Problem,
    convert::{Converted, convert, duration, is_calicos},
    document::documents,
    snapshot,
};
use ipam::audit::{Census, Living};
use model::{IpPool, NodeName, Pod, PodId, Resource, WorkloadAddress};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

/// How Calico's controllers are set up.
pub const CONTROLLERS: &str = "KubeControllersConfiguration";
/// Which cluster this is, and whether Calico's objects are locked.
pub const INFORMATION: &str = "ClusterInformation";
/// The name of the one object of such kinds.
pub(crate) const DEFAULT: &str = "default";
/// Kinds that say who lives.
const WITNESSES: [&str; 3] = ["Pod ", "Node ", "WorkloadAddress "];

/// Who lives, and the pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Who lives.
    pub census: Census,
    /// Pools, by name.
    pub pools: BTreeMap<String, IpPool>,
}

impl Survey {
    pub(crate) fn hear(&mut self, resource: &Resource) {
        match resource {
            Resource::IpPool(pool) => drop(self.pools.insert(pool.name.clone(), pool.clone())),
            other => hear(&mut self.census, other),
        }
    }
}

/// Takes in what an object says of who lives.
pub fn hear(census: &mut Census, resource: &Resource) {
    match resource {
        Resource::Node(node) => drop(census.nodes.insert(node.name.clone())),
        Resource::Pod(pod) => hear_pod(census, pod),
        Resource::WorkloadAddress(told) => hear_told(census, told),
        _ => {}
    }
}

/// Takes in a pod.
pub fn hear_pod(census: &mut Census, pod: &Pod) {
    let (node, addresses) = (pod.node.clone(), pod.addresses.to_vec());
    census.saw(pod.id.clone(), Living { node, addresses, is_apart: pod.host_network || pod.finished });
}

/// Takes in what an agent tells of a pod it attached.
pub fn hear_told(census: &mut Census, told: &WorkloadAddress) {
    let (node, addresses) = (Some(told.node.clone()), told.addresses.clone());
    let living = Living { node, addresses, is_apart: false };
    census.saw(told.pod.clone(), living);
}

/// How long an address whose pod is gone is watched before it is taken back, by the spec of the controllers' settings; zero: it never
/// is. `None`: nothing is said.
///
/// # Errors
/// What is said is no duration.
pub fn leak_grace(spec: &Value) -> Result<Option<Duration>, String> {
    match spec.pointer("/controllers/node/leakGracePeriod") {
        None | Some(Value::Null) => Ok(None),
        Some(given) => {
            let read = duration("spec.controllers.node.leakGracePeriod", given);
            read.map(Some).map_err(|error| format!("{CONTROLLERS} {DEFAULT}: {error}"))
        }
    }
}

/// An object that is read whole, or not at all.
pub(crate) fn resource(object: &Value) -> Result<Resource, String> {
    match convert(object) {
        Converted::Known { resource, unreadable } => match unreadable.first() {
            Some(part) => Err(part.to_string()),
            None => Ok(resource),
        },
        Converted::Refused { error, .. } | Converted::Nameless { error } => Err(error.to_string()),
        Converted::NotEnforced { reason, .. } => Err(reason.to_string()),
        Converted::Foreign { kind } => Err(format!("{kind} is not read here")),
    }
}

/// What a directory says of these.
pub(crate) fn of_directory(
    dir: &Path,
    nodes: &BTreeSet<NodeName>,
    pods: &BTreeSet<PodId>,
) -> Result<Census, ObjectError> {
    let mut census = survey_of(dir)?.census;
    census.nodes.retain(|node| nodes.contains(node));
    census.pods.retain(|pod, _| pods.contains(pod));
    Ok(census)
}

/// What a directory says of all.
pub(crate) fn survey_of(dir: &Path) -> Result<Survey, ObjectError> {
    let failed = |path: &Path, reason: String| ObjectError::Corrupt { path: path.to_owned(), reason };
    let (resources, problems) = snapshot::directory(dir).map_err(|error| failed(dir, error.to_string()))?;
    if let Some(problem) = problems.iter().find(|problem| may_hide(problem)) {
        return Err(failed(&problem.file, problem.message.clone()));
    }
    let mut survey = Survey::default();
    resources.iter().for_each(|resource| survey.hear(resource));
    Ok(survey)
}

/// Whether somebody may live of whom a file speaks that has this problem. What is no YAML may be of any kind, whatever its lines look
/// like.
fn may_hide(problem: &Problem) -> bool {
    let is_witness = |object: &str| WITNESSES.iter().any(|kind| object.starts_with(kind));
    let is_yaml = || {
        let text = fs::read_to_string(&problem.file).unwrap_or_default();
        !text.is_empty() && documents(&text).iter().all(|document| document.content.is_ok())
    };
    problem.object.as_deref().is_none_or(is_witness) || !is_yaml()
}

/// The one object of a kind in a directory.
pub(crate) fn default_of(dir: &Path, kind: &str) -> Result<Option<Object>, ObjectError> {
    let failed = |path: &Path, source| ObjectError::Io { path: path.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(|source| failed(dir, source))? {
        let path = entry.map_err(|source| failed(dir, source))?.path();
        if !crate::watch::is_manifest(&path) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if !text.contains(kind) {
            continue;
        }
        let values = documents(&text).into_iter().filter_map(|document| document.content.ok()).flatten();
        let is_it = |value: &Value| {
            is_calicos(value, kind) && value.pointer("/metadata/name").is_some_and(|name| name == DEFAULT)
        };
        if let Some(mut found) = values.into_iter().find(is_it) {
            return Ok(Some(object(kind, None, found["spec"].take())));
        }
    }
    Ok(None)
}

pub(crate) fn object(kind: &str, resource_version: Option<String>, spec: Value) -> Object {
    Object {
        api_version: "projectcalico.org/v3".to_owned(),
        kind: kind.to_owned(),
        metadata: Metadata { name: DEFAULT.to_owned(), resource_version },
        spec,
    }
}

impl Objects {
    pub(crate) fn manifests(&self) -> &Path {
        self.root().parent().unwrap_or(self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shared as _;

    #[test]
    fn a_pod_lives_by_its_manifest_or_by_the_word_of_the_agent_that_attached_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects = Objects::open(dir.path()).expect("a store");
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {nodeName: n1}, status: {podIP: 10.65.0.1}}";
        let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
        fs::write(dir.path().join("a.yaml"), format!("{pod}\n---\n{node}\n")).expect("written");
        let b = PodId::new("x", "b");
        let addresses = vec![[10, 65, 0, 2].into()];
        let told = WorkloadAddress { pod: b.clone(), node: "n2".into(), addresses, labels: Default::default() };
        objects.publish_all(&[told]).expect("published");
        let asked = [PodId::new("x", "a"), b.clone(), PodId::new("x", "c")].into();
        let nodes = ["n1".into(), "n2".into()].into();
        let census = objects.census(&nodes, &asked).expect("it can be read");
        assert_eq!(census.nodes, ["n1".into()].into());
        assert_eq!(census.pods.keys().map(|pod| &*pod.name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(census.pods[&b][0].addresses, [std::net::IpAddr::from([10, 65, 0, 2])]);
    }

    #[test]
    fn what_cannot_be_read_may_hide_a_pod_and_is_no_absence() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects = Objects::open(dir.path()).expect("a store");
        let policy =
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: 7}}";
        fs::write(dir.path().join("p.yaml"), policy).expect("written");
        assert!(objects.census(&[].into(), &[].into()).is_ok(), "a policy hides no pod");
        for text in ["kind: [", "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: here}}"] {
            fs::write(dir.path().join("a.yaml"), text).expect("written");
            assert!(objects.census(&[].into(), &[].into()).is_err(), "{text}");
        }
    }

    #[test]
    fn how_controllers_are_set_up_is_read_where_it_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects = Objects::open(dir.path()).expect("a store");
        assert_eq!(objects.default_of(CONTROLLERS).expect("readable"), None);
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: KubeControllersConfiguration}\n---\n\
            apiVersion: others.example/v1\nkind: KubeControllersConfiguration\nmetadata: {name: default}\nspec: {}\n---\n\
            apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {name: default}\nspec: {controllers: {node: {leakGracePeriod: 3s}}}\n";
        fs::write(dir.path().join("k.yaml"), text).expect("written");
        let found = objects.default_of(CONTROLLERS).expect("readable").expect("it is there");
        assert_eq!(leak_grace(&found.spec), Ok(Some(Duration::from_secs(3))));
        assert!(leak_grace(&serde_json::json!({"controllers": {"node": {"leakGracePeriod": 3}}})).is_err());
    }
}
