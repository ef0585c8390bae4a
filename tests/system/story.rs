//! A story: one node, some pods, and policies that come and go.
//! In: names of pods. Out: a cluster in which a test writes policies and expects tables.
//! Invariant: what a failed test leaves in the log is shown with the failure.
//! Never: waits for a policy by time; a table that comes true is the sign.

use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, thread};
use tests::{Cluster, Node, NodeSpec, Outcome, Pod, PodSpec, Probe, Table, expect::Actor, server::Listen, wait};

/// One node and its pods. Fields are dropped in order: a pod's DEL needs the agent.
pub struct Story {
    pub pods: BTreeMap<String, Pod>,
    pub node: Node,
    pub cluster: Cluster,
}

/// Runs a test on a node with these pods, all labelled `pod: NAME`, in namespaces labelled `ns: NAME`.
pub fn story(pods: &[&str], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story_on(NodeSpec::new(1), pods, test)
}

/// The same, on a node of another make.
pub fn story_on(spec: NodeSpec, pods: &[&str], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    let mut story = Story::start(spec, pods)?;
    test(&mut story).with_context(|| story.log())
}

impl Story {
    fn start(spec: NodeSpec, pods: &[&str]) -> Result<Self> {
        super::need_root()?;
        let cluster = Cluster::create()?;
        let mut node = cluster.node(spec)?;
        for pod in pods {
            let namespace = pod.split('/').next().unwrap_or_default();
            cluster.namespace(namespace, &[("ns", namespace)])?;
        }
        node.start()?;
        let mut story = Self { pods: BTreeMap::new(), node, cluster };
        for pod in pods {
            story.add(&PodSpec::new(pod).listen(Listen::Sctp(80)).listen(Listen::Sctp(81)))?;
        }
        Ok(story)
    }

    /// One more pod.
    pub fn add(&mut self, spec: &PodSpec) -> Result<()> {
        self.pods.insert(spec.id(), self.node.pod(&self.cluster, spec)?);
        Ok(())
    }

    /// The pod of this name.
    pub fn pod(&self, id: &str) -> Result<&Pod> {
        self.pods.get(id).with_context(|| format!("no pod {id}"))
    }

    /// Writes a NetworkPolicy: `NAMESPACE/NAME` and its spec.
    pub fn policy(&self, id: &str, spec: &str) -> Result<()> {
        self.cluster.manifest(&file_of(id), &policy(id, spec))
    }

    /// Takes it away.
    pub fn drop_policy(&self, id: &str) -> Result<()> {
        self.cluster.remove(&file_of(id))
    }

    /// Waits until the pods, the node and the outside host (`node1`, `outside`) reach each other as the table says.
    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        Table::parse(table)?.expect(&self.actors(), what)
    }

    /// Looks once.
    pub fn expect_now(&self, what: Probe, table: &str) -> Result<()> {
        let wrong = Table::parse(table)?.differences(&self.actors(), what)?;
        anyhow::ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    }

    fn actors(&self) -> Vec<Actor<'_>> {
        self.pods.values().map(Pod::actor).chain([self.node.actor()]).collect()
    }

    /// One probe from one pod to another.
    pub fn probe(&self, from: &str, to: &str, what: Probe) -> Result<Outcome> {
        self.pod(from)?.probe(self.pod(to)?, what)
    }

    /// Waits until a probe has this outcome.
    pub fn wait_probe(&self, from: &str, to: &str, what: Probe, outcome: Outcome) -> Result<()> {
        let text = format!("{what} from {from} to {to} is {outcome}");
        wait::wait_until(&text, wait::PATIENCE, || Ok(self.probe(from, to, what)? == outcome))
    }

    /// What was dropped, and the end of the agent's log.
    pub fn log(&self) -> String {
        let drops = self.node.show("drops").map_or_else(|error| format!("{error:#}"), |drops| drops.to_string());
        format!("drops: {drops}\nthe agent's log ends so:\n{}\n", self.node.agent.log_tail())
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The text of a NetworkPolicy.
pub fn policy(id: &str, spec: &str) -> String {
    let (namespace, name) = id.split_once('/').unwrap_or(("default", id));
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{ namespace: '{namespace}', name: '{name}' }}\nspec: {spec}\n"
    )
}

/// The file that holds it.
pub fn file_of(id: &str) -> String {
    format!("policy-{}", id.replace('/', "-"))
}
