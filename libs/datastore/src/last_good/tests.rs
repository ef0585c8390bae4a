//! What stays in force over a restart of the agent.
//! In: manifests good, broken and gone between two runs, and a folder that somebody has damaged. Out: each run's first
//! batch and problems.
//! Invariant: a run ends only when all that it keeps is written, so no wait is needed.
//! Never: a sleep; a file outside its temporary directory.

use crate::{FileStore, OpenError};
use model::{Policy, Resource, Update};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

/// So long that only a hang is caught by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A datastore and a folder, over many runs of an agent.
struct Node {
    root: TempDir,
}

/// What one run said.
#[derive(Debug)]
struct Run {
    policies: Vec<Policy>,
    /// Everything else but namespaces.
    others: Vec<Resource>,
    problems: Vec<String>,
}

impl Node {
    fn new() -> Result<Self, Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        fs::create_dir(root.path().join("manifests"))?;
        Ok(Self { root })
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.root.path().join("manifests").join(name)
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("last-good")
    }

    /// Starts the agent, does something, and ends it.
    fn run_while(&self, meanwhile: impl FnOnce() -> std::io::Result<()>) -> Result<Run, Box<dyn Error>> {
        let (store, updates) = FileStore::open(&self.manifest(""), Some(&self.folder()))?;
        let mut batch = updates.recv_timeout(PATIENCE)?;
        assert_eq!(batch.pop(), Some(Update::InSync));
        meanwhile()?;
        fs::write(self.manifest("end.yaml"), "{apiVersion: v1, kind: Namespace, metadata: {name: end}}")?;
        while !updates.recv_timeout(PATIENCE)?.iter().any(is_end) {}
        fs::remove_file(self.manifest("end.yaml"))?;
        let problems = store.problems().iter().map(ToString::to_string).collect();
        drop(store);
        while updates.recv_timeout(PATIENCE).is_ok() {}
        let mut run = Run { policies: Vec::new(), others: Vec::new(), problems };
        for update in batch {
            match update {
                Update::Set(Resource::Policy(policy)) => run.policies.push(Arc::unwrap_or_clone(policy)),
                Update::Set(Resource::Namespace(_)) => {}
                Update::Set(other) => run.others.push(other),
                Update::Gone(_) | Update::InSync | Update::Anew { .. } => {}
            }
        }
        Ok(run)
    }

    fn run(&self) -> Result<Run, Box<dyn Error>> {
        self.run_while(|| Ok(()))
    }

    fn records(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let mut names = Vec::new();
        for folder in fs::read_dir(self.folder())? {
            for record in fs::read_dir(folder?.path())? {
                names.push(record?.path().strip_prefix(self.folder())?.display().to_string());
            }
        }
        names.sort();
        Ok(names)
    }
}

fn is_end(update: &Update) -> bool {
    matches!(update, Update::Set(Resource::Namespace(namespace)) if *namespace.name.0 == *"end")
}

fn policy(name: &str, spec: &str) -> String {
    format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}\n")
}

const EGRESS: &str = "{policyTypes: [Egress]}";
const UNREADABLE: &str = "{policyTypes: [Sideways]}";

#[test]
fn a_policy_broken_while_the_agent_was_away_stays_in_force_and_says_so() -> Outcome {
    let node = Node::new()?;
    fs::write(node.manifest("a.yaml"), policy("p", EGRESS))?;
    let good = node.run()?.policies;
    assert_eq!(good.len(), 1);
    fs::write(node.manifest("a.yaml"), policy("p", UNREADABLE))?;
    // The second of these runs has never seen the good manifest, nor has the one before it.
    for _ in 0..2 {
        let run = node.run()?;
        assert_eq!(run.policies, good);
        assert!(run.problems.len() == 1 && run.problems[0].contains("a.yaml:1: NetworkPolicy default/p: "), "{run:?}");
        assert!(run.problems[0].ends_with("its last good revision stays in force"), "{run:?}");
    }
    Ok(())
}

/// What policies are made of, good or with a field that nobody knows.
fn ingredients(field: &str) -> String {
    let object = |kind: &str, spec: &str| {
        let head = format!("apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: x, namespace: shop}}");
        format!("---\n{{{head}, spec: {{{spec}{field}}}}}\n")
    };
    ["Tier", "Profile"].map(|kind| object(kind, "")).concat()
        + &["NetworkSet", "GlobalNetworkSet"].map(|kind| object(kind, "nets: [10.0.0.0/8], ")).concat()
}

#[test]
fn what_policies_are_made_of_outlives_a_broken_manifest_too() -> Outcome {
    let node = Node::new()?;
    fs::write(node.manifest("a.yaml"), ingredients(""))?;
    let good = node.run()?.others;
    assert_eq!(good.len(), 4);
    assert_eq!(node.records()?, ["GlobalNetworkSet./x", "NetworkSet.shop/x", "Profile./x", "Tier./x"]);
    fs::write(node.manifest("a.yaml"), ingredients("unheard: 1"))?;
    for _ in 0..2 {
        let run = node.run()?;
        assert_eq!(run.others, good);
        assert!(
            run.problems.iter().all(|problem| problem.ends_with("its last good revision stays in force")),
            "{run:?}"
        );
    }
    Ok(())
}

#[test]
fn a_policy_hidden_by_a_file_that_cannot_be_read_stays_in_force() -> Outcome {
    for broken in [&b"kind: [\n"[..], b"kind: \xff\n", b"{kind: NetworkPolicy, metadata: {name: p}}"] {
        let node = Node::new()?;
        fs::write(node.manifest("a.yaml"), policy("p", EGRESS))?;
        let good = node.run()?.policies;
        fs::write(node.manifest("a.yaml"), broken)?;
        let run = node.run()?;
        assert_eq!(run.policies, good);
        assert!(run.problems.len() == 1 && run.problems[0].contains("a.yaml"), "{run:?}");
    }
    Ok(())
}

#[test]
fn the_last_good_revision_is_the_last_one_whatever_was_broken_since() -> Outcome {
    let node = Node::new()?;
    fs::write(node.manifest("a.yaml"), policy("p", "{}"))?;
    node.run_while(|| {
        fs::write(node.manifest("a.yaml"), policy("p", EGRESS))?;
        fs::write(node.manifest("b.yaml"), policy("q", EGRESS))
    })?;
    let good = node.run_while(|| fs::write(node.manifest("a.yaml"), policy("p", UNREADABLE)))?.policies;
    assert_eq!(node.run()?.policies, good);
    fs::write(node.manifest("a.yaml"), policy("p", EGRESS))?;
    let run = node.run()?;
    assert_eq!((run.policies, run.problems), (good, Vec::new()));
    Ok(())
}

#[test]
fn a_policy_whose_file_is_gone_is_gone_whether_the_agent_saw_it_or_not() -> Outcome {
    let node = Node::new()?;
    fs::write(node.manifest("a.yaml"), policy("p", EGRESS) + "---\n" + &policy("q", EGRESS))?;
    fs::write(node.manifest("b.yaml"), policy("r", EGRESS))?;
    node.run()?;
    assert_eq!(node.records()?, ["NetworkPolicy.default/p", "NetworkPolicy.default/q", "NetworkPolicy.default/r"]);
    fs::remove_file(node.manifest("b.yaml"))?;
    let run = node.run_while(|| fs::write(node.manifest("a.yaml"), policy("q", EGRESS)))?;
    assert_eq!(run.policies.len(), 2);
    assert_eq!(node.records()?, ["NetworkPolicy.default/q"]);
    fs::write(node.manifest("b.yaml"), policy("r", UNREADABLE))?;
    let run = node.run()?;
    assert_eq!(run.policies.len(), 1);
    assert!(run.problems[0].ends_with("it counts as absent until it can be read"), "{run:?}");
    Ok(())
}

#[test]
fn a_policy_that_moved_to_another_file_is_looked_for_in_that_one() -> Outcome {
    let node = Node::new()?;
    fs::write(node.manifest("a.yaml"), policy("p", EGRESS))?;
    let good = node.run_while(|| fs::rename(node.manifest("a.yaml"), node.manifest("z.yaml")))?.policies;
    fs::write(node.manifest("a.yaml"), "kind: [\n")?;
    fs::remove_file(node.manifest("z.yaml"))?;
    fs::write(node.manifest("z.yaml"), "kind: [\n")?;
    fs::remove_file(node.manifest("a.yaml"))?;
    assert_eq!(node.run()?.policies, good);
    fs::rename(node.manifest("z.yaml"), node.manifest("a.yaml"))?;
    assert_eq!(node.run()?.policies, [], "its file is gone");
    Ok(())
}

#[test]
fn a_damaged_record_is_one_problem_that_names_it_and_the_others_count() -> Outcome {
    let damages: [fn(&Path) -> std::io::Result<()>; 3] = [
        |record| fs::write(record, "{\"file\": \"a.yaml\", \"obj"),
        |record| fs::write(record, b"\xff"),
        |record| fs::copy(record.with_file_name("q"), record).map(drop),
    ];
    for damage in damages {
        let node = Node::new()?;
        fs::write(node.manifest("a.yaml"), policy("p", EGRESS) + "---\n" + &policy("q", EGRESS))?;
        node.run()?;
        let record = node.folder().join("NetworkPolicy.default/p");
        damage(&record)?;
        fs::write(node.manifest("a.yaml"), "kind: [\n")?;
        let run = node.run()?;
        assert_eq!(run.policies.len(), 1, "{run:?}");
        let named: Vec<_> = run.problems.iter().filter(|problem| problem.contains("last-good")).collect();
        assert!(named.len() == 1 && named[0].starts_with(record.to_str().ok_or("not UTF-8")?), "{run:?}");
        fs::write(node.manifest("a.yaml"), policy("p", EGRESS))?;
        node.run()?;
        assert_eq!(node.run()?.problems, [""; 0], "a good manifest writes its record again");
    }
    Ok(())
}

#[test]
fn the_longest_names_are_kept_and_no_name_leads_out_of_the_folder() -> Outcome {
    let node = Node::new()?;
    let (name, namespace) = ("n".repeat(253), "s".repeat(63));
    let long = policy(&format!("{name}, namespace: {namespace}"), EGRESS);
    fs::write(node.manifest("a.yaml"), long + "---\n" + &policy("../../x", EGRESS))?;
    let run = node.run()?;
    assert_eq!(run.problems.len(), 1, "{run:?}");
    assert_eq!(node.records()?, [format!("NetworkPolicy.{namespace}/{name}")]);
    assert_eq!(fs::read_dir(node.root.path())?.count(), 2);
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_used_keeps_the_agent_from_starting() -> Outcome {
    let node = Node::new()?;
    fs::write(node.folder(), "a file")?;
    let error = FileStore::open(&node.manifest(""), Some(&node.folder())).expect_err("it is no directory");
    assert!(matches!(&error, OpenError::LastGood { path, .. } if *path == node.folder()), "{error}");
    Ok(())
}
