//! What the watches of a cluster say, in the orders in which servers say it.
//! In: lists, objects, ends and trouble. Out: batches.
//! Invariant: nothing comes before everything was listed, and nothing goes that was not said to be gone.
//! Never: a server.

use super::super::kinds;
use super::*;
use crate::standing::Told;
use model::Resource;
use serde_json::json;

struct Scene {
    notes: Arc<Notes>,
    gather: Gather,
    names: Vec<String>,
    told: Told,
}

fn scene() -> Scene {
    let kinds = kinds::watched(Calico::Stored);
    let told = Told::default();
    let (standing, notes) = (Standing::new(PathBuf::new(), Told::clone(&told)), Arc::<Notes>::default());
    let machine = Machine { node: "n1".into(), boot: Some("7-7".into()) };
    let gather = Gather::new(standing, &kinds, "https://server/".into(), (machine, Arc::clone(&notes)));
    Scene { notes, gather, names: kinds.iter().map(Watched::name).collect(), told }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A policy that selects every pod of its namespace.
fn policy(name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": "shop"});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

impl Scene {
    fn says(&mut self, kind: &str, said: Said) {
        let number = self.names.iter().position(|name| name == kind).unwrap_or(usize::MAX);
        self.gather.hear(number, said);
    }

    fn lists(&mut self, kind: &str, objects: Vec<Value>) {
        self.says(kind, Said::Listing);
        objects.into_iter().for_each(|object| self.says(kind, Said::Object(object)));
        self.says(kind, Said::Listed);
    }

    fn lists_all_but(&mut self, kind: &str) {
        for name in self.names.clone().iter().filter(|name| *name != kind) {
            self.lists(name, Vec::new());
        }
    }

    fn batch(&mut self) -> Vec<String> {
        let say = |update| match update {
            Update::Set(resource) => format!("set {}", Resource::key(&resource)),
            Update::Gone(key) => format!("gone {key}"),
            Update::InSync | Update::Anew { .. } => "in sync".to_owned(),
        };
        self.gather.batch().into_iter().map(say).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.told.lock().expect("nobody panicked with it").iter().map(ToString::to_string).collect()
    }
}

const NAMESPACES: &str = "namespaces";
const POOLS: &str = "ippools.crd.projectcalico.org";
const POLICIES: &str = "networkpolicies.networking.k8s.io";

#[test]
fn nothing_is_said_before_every_kind_is_listed() {
    let mut scene = scene();
    scene.lists_all_but(NAMESPACES);
    scene.says(NAMESPACES, Said::Listing);
    scene.says(NAMESPACES, Said::Object(namespace("shop")));
    assert_eq!(scene.batch(), Vec::<String>::new(), "half a list");
    scene.says(NAMESPACES, Said::Listed);
    assert_eq!(scene.batch(), ["set Namespace shop", "in sync"]);
    scene.says(NAMESPACES, Said::Object(namespace("farm")));
    assert_eq!(scene.batch(), ["set Namespace farm"]);
}

#[test]
fn a_kind_that_the_cluster_does_without_is_listed_and_one_that_is_forbidden_is_not() {
    let mut scene = scene();
    let optional = "tiers.crd.projectcalico.org";
    scene.lists_all_but(optional);
    scene.says(optional, Said::Trouble("tiers is forbidden".into()));
    assert_eq!(scene.batch(), Vec::<String>::new());
    assert_eq!(
        scene.problems(),
        ["tiers.crd.projectcalico.org: https://server/: tiers is forbidden; all stays as it was"]
    );
    scene.says(optional, Said::Absent);
    assert_eq!(scene.batch(), ["in sync"]);
    assert_eq!(scene.problems(), Vec::<String>::new());
}

#[test]
fn what_a_later_list_lacks_is_gone_when_the_list_is_over_and_not_before() {
    let mut scene = scene();
    scene.lists_all_but(NAMESPACES);
    scene.lists(NAMESPACES, vec![namespace("farm"), namespace("shop")]);
    assert_eq!(scene.batch(), ["set Namespace farm", "set Namespace shop", "in sync"]);
    scene.says(NAMESPACES, Said::Trouble("410: too old".into()));
    assert_eq!(scene.batch(), Vec::<String>::new(), "trouble takes nothing away");
    scene.says(NAMESPACES, Said::Listing);
    scene.says(NAMESPACES, Said::Object(namespace("shop")));
    assert_eq!(scene.batch(), Vec::<String>::new());
    scene.says(NAMESPACES, Said::Trouble("the connection is gone".into()));
    scene.says(NAMESPACES, Said::Listing);
    scene.says(NAMESPACES, Said::Object(namespace("mill")));
    scene.says(NAMESPACES, Said::Object(namespace("farm")));
    assert_eq!(scene.batch(), ["set Namespace mill"], "the list that was broken off counts for nothing");
    scene.says(NAMESPACES, Said::Listed);
    assert_eq!(scene.batch(), ["gone Namespace shop"]);
}

#[test]
fn an_object_that_cannot_be_read_any_more_keeps_its_last_good_revision_until_it_is_gone() {
    let mut scene = scene();
    scene.lists_all_but(POLICIES);
    scene.lists(POLICIES, vec![policy("shut", json!({"podSelector": {}}))]);
    assert_eq!(scene.batch(), ["set NetworkPolicy shop/shut", "in sync"]);
    let broken = policy("shut", json!({"podSelector": 7}));
    scene.says(POLICIES, Said::Object(broken.clone()));
    assert_eq!(scene.batch(), Vec::<String>::new());
    let problems = scene.problems();
    assert!(problems.len() == 1 && problems[0].contains("shop/shut"), "{problems:?}");
    scene.says(POLICIES, Said::Gone(broken));
    assert_eq!(scene.batch(), ["gone NetworkPolicy shop/shut"]);
    assert_eq!(scene.problems(), Vec::<String>::new());
}

#[test]
fn a_policy_that_the_first_list_cannot_read_is_in_force_as_it_was_before_the_agent_started() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let remembering = |scene: &mut Scene| {
        scene.gather.standing.remember(folder.path()).expect("the folder is there");
        scene.lists_all_but(POLICIES);
    };
    let mut before = scene();
    remembering(&mut before);
    before.lists(POLICIES, vec![policy("shut", json!({"podSelector": {}}))]);
    assert_eq!(before.batch().len(), 2);
    while before.gather.keep_one() {}
    for (now, expected) in
        [(vec![policy("shut", json!({"podSelector": 7}))], "set NetworkPolicy shop/shut"), (vec![], "in sync")]
    {
        let mut after = scene();
        remembering(&mut after);
        after.lists(POLICIES, now);
        assert_eq!(after.batch()[0], expected);
    }
}

#[test]
fn nothing_is_passed_on_while_calicos_objects_are_locked() {
    let mut scene = scene();
    let lock = |ready: Value| {
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "ClusterInformation", "metadata": {"name": "default"},
               "spec": {"datastoreReady": ready}})
    };
    const LOCK: &str = "clusterinformations.crd.projectcalico.org";
    scene.lists(LOCK, vec![lock(false.into())]);
    scene.lists_all_but(LOCK);
    assert!(scene.gather.is_locked() && scene.batch().is_empty());
    assert!(scene.told.lock().unwrap().iter().any(|problem| problem.message.contains("datastoreReady")));
    scene.says(LOCK, Said::Object(lock(true.into())));
    assert_eq!(scene.batch(), ["in sync"]);
    scene.says(LOCK, Said::Object(lock(false.into())));
    scene.says("namespaces", Said::Object(namespace("shop")));
    assert!(scene.batch().is_empty());
    // A list has begun: it may have the lock, so nothing is unlocked before it is over.
    scene.says(LOCK, Said::Listing);
    scene.says(NAMESPACES, Said::Object(namespace("mill")));
    assert!(scene.gather.is_locked() && scene.batch().is_empty(), "half a list");
    scene.says(LOCK, Said::Object(lock(false.into())));
    scene.says(LOCK, Said::Listed);
    assert!(scene.gather.is_locked() && scene.batch().is_empty(), "the list has it");
    // One that was broken off counts for nothing; a list that does not have it any more, and one that says nothing of it, unlock.
    scene.says(LOCK, Said::Listing);
    scene.says(LOCK, Said::Trouble("the connection is gone".into()));
    assert!(scene.gather.is_locked() && scene.batch().is_empty());
    scene.lists(LOCK, vec![]);
    assert_eq!(scene.batch(), ["set Namespace mill", "set Namespace shop"]);
    scene.says(LOCK, Said::Object(lock(Value::Null)));
    assert!(!scene.gather.is_locked());
}

#[test]
fn what_may_be_written_on_and_what_is_wrong_is_noted_and_nothing_else() {
    let mut scene = scene();
    let tier = |action: &str| {
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "Tier", "metadata": {"name": "t", "uid": "7", "generation": 3},
               "spec": {"order": 1.0, "defaultAction": action}})
    };
    scene.lists_all_but("pods");
    scene.says("tiers.crd.projectcalico.org", Said::Object(tier("Deny")));
    scene.says("namespaces", Said::Object(namespace("shop")));
    scene.says("networkpolicies.networking.k8s.io", Said::Object(policy("odd", json!({"podSelector": 7}))));
    let noted = |scene: &Scene| {
        let noted = scene.notes.look();
        noted.objects.values().map(|about| format!("{} {:?}", about.name, about.trouble)).collect::<Vec<_>>()
    };
    assert_eq!(noted(&scene), ["odd Refused", "t None"]);
    scene.says("tiers.crd.projectcalico.org", Said::Object(tier("Perhaps")));
    scene.says("networkpolicies.networking.k8s.io", Said::Object(policy("odd", json!({"podSelector": {}}))));
    assert_eq!(noted(&scene), ["t Refused"]);
    scene.says("tiers.crd.projectcalico.org", Said::Gone(tier("Perhaps")));
    assert_eq!(noted(&scene), [""; 0]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
                      "status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}});
    scene.says("nodes", Said::Object(node));
    assert_eq!(scene.notes.look().node.as_ref().and_then(|node| node.is_unavailable), Some(true));
}

#[test]
fn nothing_comes_while_the_node_is_another_machine_and_one_of_which_nobody_says_it_is_this() {
    let node = |boot: &str| {
        let status = json!({ "nodeInfo": { "bootID": boot } });
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" }, "status": status })
    };
    let mut scene = scene();
    scene.lists_all_but(NODES);
    scene.lists(NODES, vec![node("8-8")]);
    assert!(scene.batch().is_empty());
    let said = scene.problems().join("\n");
    assert!(
        said.contains("nodes/n1") && said.contains("the Node n1 is another machine") && said.contains("--node"),
        "{said}"
    );
    // Its kubelet was late.
    scene.says(NODES, Said::Object(node("7-7")));
    assert!(scene.batch().contains(&"in sync".to_owned()));
    assert_eq!(scene.problems(), [""; 0]);
    // What works goes on, whoever takes the name then.
    scene.says(NODES, Said::Object(node("9-9")));
    scene.says("namespaces", Said::Object(namespace("shop")));
    assert_eq!(scene.batch(), ["set Namespace shop"]);
    for boot in ["", "7-7"] {
        let mut scene = self::scene();
        scene.lists_all_but(NODES);
        scene.lists(NODES, vec![node(boot)]);
        assert!(scene.batch().contains(&"in sync".to_owned()), "{boot:?}");
    }
}

#[test]
fn calicos_newer_group_is_taken_up_where_nothing_is_in_the_other_and_else_it_is_said_what_to_do() {
    let pool = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": { "name": "p" },
        "spec": { "cidr": "10.65.0.0/16" },
    });
    let mut scene = scene();
    scene.says("", Said::Native(true));
    assert!(!scene.gather.begins_anew(), "nobody knows yet what is in the other");
    assert_eq!(scene.problems(), [""; 0], "nor whether anything has to be moved");
    scene.lists_all_but("");
    assert!(scene.gather.begins_anew());
    scene.says(POOLS, Said::Object(pool.clone()));
    assert!(!scene.gather.begins_anew(), "it would be lost");
    let is_told = |scene: &Scene| {
        scene
            .problems()
            .iter()
            .any(|told| told.starts_with("projectcalico.org/v3: ") && told.contains("start the agent again"))
    };
    assert!(is_told(&scene));
    scene.says("", Said::Native(false));
    assert_eq!(scene.problems(), [""; 0], "the server cannot any more");
    scene.says(POOLS, Said::Gone(pool.clone()));
    assert!(!scene.gather.begins_anew(), "there is nothing to begin with");
    scene.says("", Said::Native(true));
    assert!(scene.gather.begins_anew());
    scene.says(POOLS, Said::Object(pool.clone()));
    assert!(is_told(&scene));
    scene.says(POOLS, Said::Listing);
    assert!(!is_told(&scene) && !scene.gather.begins_anew(), "while a list goes on nobody knows");
    scene.says(POOLS, Said::Listed);
    assert!(scene.gather.begins_anew());
}
