//! Chores over a directory, look by look.
//! In: manifests, addresses that were given out, and what the owner would say. Out: what is left.
//! Invariant: the time is the test's own; nothing waits.
//! Never: asks the audit what is alive.

use super::*;
use crate::allocate::Wish;
use datastore::Objects;
use ipam::audit::Living;
use model::{AttachmentId, IpPool, PodId};
use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

const CONTROLLERS: &str = "apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {name: default}\n\
    spec: {controllers: {node: {leakGracePeriod: 30s}}}\n";

struct Scene {
    dir: tempfile::TempDir,
    worker: Worker,
    census: Census,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn allocator(dir: &Path, node: &str) -> Allocator {
    let mut allocator = Allocator::new(Arc::new(Objects::open(dir).expect("a store")), node.into());
    let pool = IpPool::of_pods("p", "10.65.0.0/24".parse().expect("a network"), 29);
    allocator.rules.pools = [("p".to_owned(), pool)].into();
    allocator
}

fn id(name: &str) -> AttachmentId {
    let container = format!("{:064x}", name.bytes().map(u64::from).sum::<u64>());
    AttachmentId { network: "net".into(), container: container.as_str().into(), interface: "eth0".into() }
}

impl Scene {
    /// Nodes n1, which does the chores, and n2.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("controllers.yaml"), CONTROLLERS).expect("written");
        let worker =
            Worker::new(Arc::new(Objects::open(dir.path()).expect("a store")), "n1".into(), Metrics::default());
        let census = Census { here: Some("n1".into()), ..Census::default() };
        let mut scene = Self { dir, worker, census };
        scene.node("n1", true);
        scene.node("n2", true);
        scene
    }

    fn node(&mut self, name: &str, there: bool) {
        let file = self.dir.path().join(format!("node-{name}.yaml"));
        if there {
            self.census.nodes.insert(name.into());
            fs::write(file, format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}")).expect("written");
        } else {
            self.census.nodes.remove(&NodeName::from(name));
            fs::remove_file(file).expect("removed");
        }
    }

    /// A pod comes with an address.
    fn pod(&mut self, node: &str, name: &str) -> Vec<IpAddr> {
        let wish = Wish::any(id(name), PodId::new("x", name));
        let given = allocator(self.dir.path(), node).assign(&[wish], |_| {}).remove(0).expect("an address");
        let living = Living { node: Some(node.into()), addresses: given.clone(), is_apart: false };
        self.census.saw(PodId::new("x", name), living);
        self.say(node, name, given[0]);
        given
    }

    fn say(&self, node: &str, name: &str, address: IpAddr) {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x}}, spec: {{nodeName: {node}}}, \
             status: {{podIP: {address}}}}}"
        );
        fs::write(self.dir.path().join(format!("pod-{name}.yaml")), pod).expect("written");
    }

    /// The pod goes, and nobody gives its address back.
    fn vanish(&mut self, name: &str) {
        self.census.pods.remove(&PodId::new("x", name));
        let _heard_only = fs::remove_file(self.dir.path().join(format!("pod-{name}.yaml")));
    }

    fn answer(&self, has_rival: bool) -> Answer {
        let rules = allocator(self.dir.path(), "n1").rules;
        Answer { census: self.census.clone(), has_rival, rules, namespaces: ["x".into()].into() }
    }

    fn look(&mut self, at: u64) -> Duration {
        self.worker.turn(&self.answer(false), seconds(at)).expect("a look")
    }

    fn held(&self) -> BTreeMap<String, usize> {
        let ledger = self.worker.allocator.ledger(false).expect("readable");
        let all = ledger.blocks.values().map(|kept| &kept.value);
        let holding =
            |block: &ipam::Block| (block.affinity.clone().unwrap_or_default(), ipam::audit::holdings(block).count());
        all.map(holding).collect()
    }

    fn claims(&self) -> usize {
        self.worker.allocator.ledger(false).expect("readable").affinities.len()
    }
}

#[test]
fn ipam_23_an_address_whose_pod_is_gone_is_taken_back_after_the_grace_that_the_cluster_says() {
    let mut scene = Scene::new();
    scene.pod("n2", "stays");
    scene.pod("n2", "goes");
    scene.vanish("goes");
    let next = scene.look(100);
    assert!(next <= seconds(110), "a third of the grace: {next:?}");
    scene.look(129);
    assert_eq!(scene.held(), [("host:n2".to_owned(), 2)].into());
    scene.look(130);
    assert_eq!(scene.held(), [("host:n2".to_owned(), 1)].into());
    assert_eq!(scene.worker.allocator.ledger(true).expect("readable").handles.len(), 1);
}

#[test]
fn what_the_datastore_says_when_it_is_asked_once_more_counts_before_what_was_heard() {
    let mut scene = Scene::new();
    let given = scene.pod("n2", "late");
    scene.census.pods.clear();
    for at in [0, 30, 60, 90] {
        scene.look(at);
    }
    assert_eq!(scene.held(), [("host:n2".to_owned(), 1)].into(), "its manifest is there, though nobody heard of it");
    fs::write(scene.dir.path().join("pod-late.yaml"), "kind: [").expect("written");
    assert!(scene.worker.turn(&scene.answer(false), seconds(120)).is_err(), "nobody knows what stood there");
    assert_eq!(scene.held(), [("host:n2".to_owned(), 1)].into());
    scene.say("n2", "late", given[0]);
    scene.look(121);
    assert_eq!(scene.held(), [("host:n2".to_owned(), 1)].into());
}

#[test]
fn what_this_node_serves_stays_whatever_became_of_its_pod() {
    let mut scene = Scene::new();
    scene.pod("n1", "own");
    let ledger = scene.worker.allocator.ledger(true).expect("readable");
    scene.census.held = ipam::audit::by_owner(&ledger).keys().map(|owner| owner.to_lowercase()).collect();
    scene.vanish("own");
    for at in [0, 30, 60] {
        scene.look(at);
    }
    assert_eq!(scene.held(), [("host:n1".to_owned(), 1)].into());
}

#[test]
fn of_a_node_that_is_gone_all_goes_and_nothing_of_one_that_is_there() {
    let mut scene = Scene::new();
    scene.pod("n1", "own");
    scene.pod("n2", "a");
    scene.pod("n2", "b");
    scene.look(0);
    scene.node("n2", false);
    scene.vanish("a");
    for at in [1, 31, 32, 62, 93] {
        scene.look(at);
    }
    assert_eq!(scene.held().get("host:n2"), Some(&1), "a pod of it is still there");
    scene.vanish("b");
    let mut at = 100;
    while scene.held().len() > 1 {
        assert!(at < 200, "it ends: {:?}", scene.held());
        scene.look(at);
        at += 1;
    }
    assert_eq!((scene.held(), scene.claims()), ([("host:n1".to_owned(), 1)].into(), 1));
    assert_eq!(scene.worker.allocator.ledger(true).expect("readable").handles.len(), 1);
    // It comes back, and begins anew.
    scene.node("n2", true);
    scene.pod("n2", "c");
    scene.look(at + 100);
    assert_eq!(scene.held().get("host:n2"), Some(&1));
}

#[test]
fn ipam_22_a_node_that_goes_and_had_nothing_is_no_error_and_neither_is_one_whose_all_went_before() {
    let mut scene = Scene::new();
    scene.pod("n1", "own");
    scene.pod("n2", "a");
    scene.node("n3", true);
    scene.look(0);
    for gone in ["n2", "n3"] {
        scene.node(gone, false);
    }
    // Somebody else takes back what n2 had, between two looks.
    scene.vanish("a");
    scene.look(1);
    let allocator = allocator(scene.dir.path(), "n2");
    allocator.release(&[id("a")], &[], &[]).expect("its address");
    for at in [32, 63, 94, 125] {
        scene.look(at);
    }
    assert_eq!(scene.held(), [("host:n1".to_owned(), 1)].into());
    for handle in ["n2", "n3", "never"].map(|node| ipam::node_handle(&node.into())) {
        assert_eq!(allocator.take_back_all(&[handle]).expect("nothing is no error"), [] as [IpAddr; 0]);
    }
    assert!(!allocator.drop_claim("n3-10-65-0-8-29", Some("1")).expect("nor is no claim"));
}

#[test]
fn a_node_that_is_there_when_it_is_asked_for_once_more_loses_nothing() {
    let mut scene = Scene::new();
    scene.pod("n2", "a");
    scene.vanish("a");
    scene.census.nodes.remove(&NodeName::from("n2"));
    for at in [0, 5, 29] {
        scene.look(at);
    }
    // Now it would be taken back, were the node away.
    for at in [31, 32, 33, 34] {
        scene.look(at);
    }
    assert!(scene.held().contains_key("host:n2"), "its manifest is there: {:?}", scene.held());
}

#[test]
fn an_empty_block_of_a_node_that_is_there_when_it_is_asked_for_once_more_stays_and_so_does_one_that_was_used_since() {
    let mut scene = Scene::new();
    scene.pod("n2", "a");
    scene.vanish("a");
    allocator(scene.dir.path(), "n2").release(&[id("a")], &[], &[]).expect("released");
    let empty = [("host:n2".to_owned(), 0)].into();
    assert_eq!(scene.held(), empty);
    scene.census.nodes.remove(&NodeName::from("n2"));
    for at in [0, 31, 62, 93, 124] {
        scene.look(at);
    }
    assert_eq!(scene.held(), empty, "its manifest is there");
    let allocator = &scene.worker.allocator;
    let ledger = allocator.ledger(false).expect("readable");
    let (cidr, sequence) =
        ledger.blocks.iter().map(|(cidr, kept)| (*cidr, kept.value.sequence_number)).next().expect("it");
    let idle = |sequence| Idle { cidr, sequence, node: Some("n2".into()) };
    assert!(!allocator.give_up(&ledger, &idle(sequence - 1)).expect("asked"), "it was written since it was seen");
    assert!(allocator.give_up(&ledger, &idle(sequence)).expect("asked"));
}

#[test]
fn a_block_that_was_written_meanwhile_is_not_given_up_and_its_claim_is_as_it_was() {
    let mut scene = Scene::new();
    scene.pod("n2", "a");
    let allocator = &scene.worker.allocator;
    let mut before = allocator.ledger(false).expect("readable");
    let cidr = *before.blocks.keys().next().expect("a block");
    let idle = |sequence| Idle { cidr, sequence, node: Some("n2".into()) };
    let written = before.blocks[&cidr].value.sequence_number;
    assert!(!allocator.give_up(&before, &idle(written)).expect("asked"), "it is not empty");
    // As it was read while it was empty.
    let block = before.blocks.get_mut(&cidr).expect("it");
    block.value = ipam::Block::new(cidr, &"n2".into(), 1);
    block.revision = Some("7".into());
    assert!(!allocator.give_up(&before, &idle(7)).expect("asked"), "it was written since");
    assert!(!allocator.give_up(&before, &idle(1)).expect("asked"), "it is another revision by now");
    let after = allocator.ledger(false).expect("readable");
    assert_eq!(after.blocks.len(), 1);
    let states: Vec<_> = after.affinities.values().map(|kept| kept.value.state).collect();
    assert_eq!(states, [ipam::AffinityState::Confirmed]);
}

#[test]
fn beside_calicos_own_controllers_nothing_is_done() {
    let mut scene = Scene::new();
    scene.pod("n2", "goes");
    scene.vanish("goes");
    for _ in 0..3 {
        scene.worker.look(&scene.answer(true));
        scene.worker.begun -= seconds(100);
    }
    assert_eq!(scene.held(), [("host:n2".to_owned(), 1)].into());
    for _ in 0..3 {
        scene.worker.look(&scene.answer(false));
        scene.worker.begun -= seconds(100);
    }
    assert_eq!(scene.held(), [("host:n2".to_owned(), 0)].into());
}

#[test]
fn what_is_held_for_a_pod_whose_node_went_is_free_once_its_pool_or_its_namespace_is_gone_and_beside_other_controllers_too()
 {
    for ends in [false, true] {
        let mut scene = Scene::new();
        let keeps = model::Keeps { asked: Some(true), ..model::Keeps::default() };
        let wish = Wish { keeps, ..Wish::any(id("web-0"), PodId::new("x", "web-0")) };
        allocator(scene.dir.path(), "n2").assign(&[wish], |_| {}).remove(0).expect("an address");
        for at in [0, 30, 60, 90] {
            scene.look(at);
        }
        let holds = |scene: &Scene| scene.worker.allocator.ledger(false).expect("readable").holds().count();
        assert_eq!((scene.held(), holds(&scene)), ([("host:n2".to_owned(), 1)].into(), 1), "it is no leak");
        scene.worker.look(&scene.answer(true));
        assert_eq!(holds(&scene), 1);
        let mut answer = scene.answer(true);
        if ends {
            answer.namespaces.clear();
        } else {
            answer.rules.pools.values_mut().for_each(|pool| pool.disabled = true);
        }
        scene.worker.look(&answer);
        assert_eq!(holds(&scene), 1, "all blocks were looked at a moment ago");
        scene.worker.begun -= LATE;
        scene.worker.look(&answer);
        assert_eq!(scene.held(), [("host:n2".to_owned(), 0)].into());
    }
}

#[test]
fn a_pod_that_is_made_anew_elsewhere_gets_what_its_dead_node_had_once_that_is_seen_to_be_gone() {
    let mut scene = Scene::new();
    let keeps = model::Keeps { asked: Some(true), ..model::Keeps::default() };
    let wish = |sandbox| Wish { keeps: keeps.clone(), ..Wish::any(id(sandbox), PodId::new("x", "web-0")) };
    let had = allocator(scene.dir.path(), "n2").assign(&[wish("first")], |_| {}).remove(0).expect("an address");
    scene.node("n2", false);
    // It waits for its address, and has none until it gets one.
    let again = Living { node: Some("n1".into()), ..Living::default() };
    scene.census.saw(PodId::new("x", "web-0"), again);
    let ask = || allocator(scene.dir.path(), "n1").assign(&[wish("second")], |_| {}).remove(0);
    assert!(ask().is_err_and(|error| error.to_string().contains("earlier sandbox")), "nobody knows yet");
    for at in [0, 30, 60, 90] {
        scene.worker.turn(&scene.answer(false), seconds(at)).expect("a look");
    }
    let counted = |scene: &Scene| ["address", "hold"].map(|what| scene.worker.metrics.taken_back(what));
    assert_eq!(counted(&scene), [0, 0], "it is held, and not taken back");
    assert_eq!(ask().expect("it is held for its name"), had);
    scene.pod("n2", "other");
    scene.vanish("other");
    for at in [120, 150, 180, 210] {
        scene.worker.turn(&scene.answer(false), seconds(at)).expect("a look");
    }
    assert_eq!(counted(&scene), [1, 0], "what nobody keeps is");
}

#[test]
fn the_graces_are_what_the_cluster_says_of_calicos_controllers() {
    let of = |text: &str| graces(Some(&serde_json::json!({"controllers": {"node": {"leakGracePeriod": text}}})));
    assert_eq!(graces(None), Ok(Graces { leak: Some(seconds(900)), node: seconds(60) }));
    assert_eq!(of("5s"), Ok(Graces { leak: Some(seconds(5)), node: seconds(5) }));
    assert_eq!(of("0s"), Ok(Graces { leak: None, node: seconds(60) }));
    assert!(of("soon").is_err_and(|error| error.contains("leakGracePeriod")));
}

#[test]
fn who_changes_the_graces_is_heard_before_the_next_look_was_due() {
    let mut scene = Scene::new();
    scene.worker.has_rival = false;
    scene.worker.keep_hosts(false, seconds(1));
    scene.worker.due = seconds(300);
    scene.worker.keep_hosts(false, seconds(20));
    assert_eq!(scene.worker.due, seconds(300), "it says what it said");
    let other = CONTROLLERS.replace("30s", "3s");
    fs::write(scene.dir.path().join("controllers.yaml"), other).expect("written");
    scene.worker.keep_hosts(false, seconds(40));
    assert_eq!(scene.worker.due, seconds(40));
}
