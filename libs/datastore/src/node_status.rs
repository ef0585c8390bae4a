//! CalicoNodeStatus: somebody asks a node how its BGP is.
//! In: objects as they stand in the datastore (api/pkg/apis/projectcalico/v3/nodestatus.go). Out: what is asked of one node.
//! Invariant: of an object that names another node nothing is said, whatever is wrong with it.
//! Never: answers.

use crate::convert::{InvalidField, read};
use model::{NodeName, StatusAsked};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The kind.
pub(crate) const KIND: &str = "CalicoNodeStatus";
/// Its objects, as keys and addresses name them.
pub(crate) const PLURAL: &str = "caliconodestatuses";
/// A day.
const PERIOD_MAX_S: u32 = 86_400;

/// How a node's BGP is.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    /// The node that answers.
    #[expect(dead_code, reason = "it is looked at before the rest is read")]
    node: String,
    /// Which parts of it: the daemon itself (Agent), its sessions (BGP), its routes (Routes).
    #[schemars(with = "Vec<Class>", extend("x-kubernetes-list-type" = "set"))]
    classes: Vec<String>,
    /// Seconds from one answer to the next, a day at most; 0: there is one answer, and another when the object changes.
    #[schemars(range(min = 0, max = 86400))]
    update_period_seconds: u32,
}

/// A class.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is only described")]
enum Class {
    Agent,
    #[schemars(rename = "BGP")]
    Bgp,
    Routes,
}

/// An object that asks a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest {
    /// Its name.
    pub name: String,
    /// Which of those that had this name.
    pub uid: String,
    /// Which of its specs.
    pub generation: i64,
    /// What it asks; or what of it cannot be read.
    pub asked: Result<StatusAsked, String>,
}

impl StatusRequest {
    /// `None`: it asks another node, or none.
    pub(crate) fn of(node: &NodeName, object: &Value) -> Option<Self> {
        let text = |place: &str| object.pointer(place).and_then(Value::as_str).unwrap_or_default();
        if text("/spec/node") != &*node.0 {
            return None;
        }
        let (name, uid) = (text("/metadata/name").to_owned(), text("/metadata/uid").to_owned());
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        let asked = asked(object).map_err(|error| format!("{KIND} {name}: {error}; it is not answered"));
        Some(Self { name, uid, generation, asked })
    }
}

fn asked(object: &Value) -> Result<StatusAsked, InvalidField> {
    let spec: Spec = read("spec", object)?;
    if spec.update_period_seconds > PERIOD_MAX_S {
        let reason = format!("{} is more than a day, {PERIOD_MAX_S}", spec.update_period_seconds);
        return Err(InvalidField::new("spec.updatePeriodSeconds", reason));
    }
    let class = |(number, text): (usize, &String)| {
        let refused =
            |expected| InvalidField::new(&format!("spec.classes[{number}]"), format!("{text:?} is not {expected}"));
        text.parse().map_err(refused)
    };
    let classes = spec.classes.iter().enumerate().map(class).collect::<Result<_, _>>()?;
    Ok(StatusAsked { classes, period_s: spec.update_period_seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::StatusClass;
    use serde_json::json;

    fn of(spec: Value) -> Option<StatusRequest> {
        let metadata = json!({ "name": "n1-all", "uid": "u", "generation": 3 });
        StatusRequest::of(&"n1".into(), &json!({ "metadata": metadata, "spec": spec }))
    }

    #[test]
    fn an_object_asks_the_node_that_it_names() {
        let spec = json!({ "node": "n1", "classes": ["Agent", "BGP", "BGP"], "updatePeriodSeconds": 10 });
        let found = of(spec).expect("it is this node");
        let classes = [StatusClass::Agent, StatusClass::Bgp].into();
        assert_eq!(found.asked, Ok(StatusAsked { classes, period_s: 10 }));
        assert_eq!((&*found.name, &*found.uid, found.generation), ("n1-all", "u", 3));
        assert_eq!(of(json!({ "node": "n2", "classes": ["what"] })), None);
        assert_eq!(of(json!({})), None);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_asks_nothing() {
        for (spec, said) in [
            (json!({ "node": "n1", "updatePeriodSeconds": 1 }), "spec: missing field `classes`"),
            (json!({ "node": "n1", "classes": ["BGP"] }), "spec: missing field `updatePeriodSeconds`"),
            (
                json!({ "node": "n1", "classes": ["Agent", "bgp"], "updatePeriodSeconds": 1 }),
                "spec.classes[1]: \"bgp\"",
            ),
            (json!({ "node": "n1", "classes": [], "updatePeriodSeconds": 86401 }), "spec.updatePeriodSeconds: 86401"),
            (json!({ "node": "n1", "classes": [], "updatePeriodSeconds": -1 }), "spec.updatePeriodSeconds: "),
        ] {
            let why = of(spec).expect("it is this node").asked.expect_err("it cannot be read");
            assert!(why.starts_with(&format!("CalicoNodeStatus n1-all: {said}")), "{why}");
        }
    }
}
