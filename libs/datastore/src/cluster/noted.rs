//! What the watches note of objects beside what they mean: whose they are, what is written on them, what is wrong with them.
//! In: objects as the API server has them. Out: what those need who write back.
//! Invariant: of an object on which nothing may be written, and with which nothing is wrong, nothing is kept.
//! Never: writes.

use super::kinds::Watched;
use crate::catalog::Trouble;
use model::NodeName;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// The type of a Node's condition that keeps pods away from it.
pub(super) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
/// A Node's addresses among nodes, as Calico's node writes them.
pub(super) const NODE_V4: &str = "projectcalico.org/IPv4Address";
pub(super) const NODE_V6: &str = "projectcalico.org/IPv6Address";

/// Noted by who hears, looked at by who writes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    noted: Mutex<Noted>,
    /// Rings when there is something new.
    pub(super) bell: Notify,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Everything was listed once.
    pub(super) is_in_sync: bool,
    /// By where they lie.
    pub(super) objects: BTreeMap<PathBuf, About>,
    /// Where of these something is otherwise than when it was looked at last.
    pub(super) changed: BTreeSet<PathBuf>,
    /// This node's own object.
    pub(super) node: Option<OwnNode>,
    /// Which start of which machine that is, as its kubelet says (`status.nodeInfo.bootID`).
    pub(super) boot: Option<String>,
    /// Where all nodes lie.
    pub(super) nodes: BTreeSet<PathBuf>,
}

/// One object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    /// The number of its kind among those that are watched.
    pub(super) kind: usize,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Somebody deletes it.
    pub(super) is_going: bool,
    /// `spec.disabled`.
    pub(super) is_disabled: bool,
    pub(super) trouble: Trouble,
    /// What is wrong with it: of the object alone, not of what was in force before.
    pub(super) wrong: Vec<String>,
    /// The condition that tells how it is, as it is written there now.
    pub(super) condition: Option<Condition>,
}

/// A condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) status: bool,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) since: String,
    /// `observedGeneration`: of which generation of the object this was said; 0: nobody says.
    pub(super) generation: i64,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnNode {
    /// [`NODE_V4`] and [`NODE_V6`], as far as it has them.
    pub(super) annotations: BTreeMap<String, String>,
    /// Whether pods are kept away; `None`: nobody has said.
    pub(super) is_unavailable: Option<bool>,
}

/// The type of the condition that tells how objects of a kind are; `None`: they have none.
pub(super) fn condition_of(kind: &str) -> Option<&'static str> {
    match kind {
        // As Calico's controllers write them.
        "Tier" => Some("Ready"),
        "IPPool" => Some("Allocatable"),
        // The API has conditions and names none; the word is the Gateway API's.
        "ClusterNetworkPolicy" => Some("Accepted"),
        _ => None,
    }
}

impl Notes {
    pub(super) fn look(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object is so now, and this is wrong with it.
    pub(super) fn take(
        &self,
        (number, kind): (usize, &Watched),
        place: &Path,
        object: &Value,
        (trouble, wrong): (Trouble, Vec<String>),
    ) {
        let condition = condition_of(&kind.resource.kind);
        if condition.is_none() && trouble == Trouble::None {
            return self.gone(place);
        }
        let about = About { kind: number, trouble, wrong, ..about(object, condition) };
        let mut noted = self.look();
        if noted.objects.get(place) != Some(&about) {
            noted.changed.insert(place.to_owned());
            noted.objects.insert(place.to_owned(), about);
        }
    }

    pub(super) fn gone(&self, place: &Path) {
        let mut noted = self.look();
        if noted.objects.remove(place).is_some() {
            noted.changed.insert(place.to_owned());
        }
    }

    /// There is no such Node any more.
    pub(super) fn node_gone(&self, place: &Path) {
        self.look().nodes.remove(place);
    }

    /// A Node is there; what it says, if it is this one.
    pub(super) fn take_node(&self, node: &NodeName, place: &Path, object: &Value) {
        if !self.look().nodes.contains(place) {
            self.look().nodes.insert(place.to_owned());
        }
        if object.pointer("/metadata/name").and_then(Value::as_str) == Some(&*node.0) {
            let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten();
            let ours = annotations.filter(|(key, _)| [NODE_V4, NODE_V6].contains(&key.as_str()));
            let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
            let annotations = ours.filter_map(text).collect();
            let status = condition_in(object, NETWORK_UNAVAILABLE).map(|condition| condition.status);
            let boot = object.pointer("/status/nodeInfo/bootID").and_then(Value::as_str);
            let mut noted = self.look();
            noted.boot = boot.filter(|boot| !boot.is_empty()).map(str::to_owned);
            noted.node = Some(OwnNode { annotations, is_unavailable: status });
        }
    }
}

fn about(object: &Value, condition: Option<&str>) -> About {
    let text = |field: &str| object.pointer(field).and_then(Value::as_str).map(str::to_owned);
    About {
        kind: 0,
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name").unwrap_or_default(),
        uid: text("/metadata/uid").unwrap_or_default(),
        generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
        is_going: object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()),
        is_disabled: object.pointer("/spec/disabled").and_then(Value::as_bool).unwrap_or_default(),
        trouble: Trouble::None,
        wrong: Vec::new(),
        condition: condition.and_then(|kind| condition_in(object, kind)),
    }
}

fn condition_in(object: &Value, kind: &str) -> Option<Condition> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some(Condition {
        status: found["status"] == "True",
        reason: text("reason"),
        message: text("message"),
        since: text("lastTransitionTime"),
        generation: found["observedGeneration"].as_i64().unwrap_or_default(),
    })
}
