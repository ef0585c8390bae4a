//! A story on a real API server: one node, some pods, and policies that come and go.
//! In: names of pods. Out: a cluster in which a test applies policies and expects tables.
//! Invariant: what a failed test leaves in the logs is shown with the failure.
//! Never: waits for a policy by time.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use tests::{Cluster, Node, NodeSpec, Pod, PodSpec, Probe, Table, expect::Actor};

pub use tests::cluster::{NATIVE, STORED};

/// One node and its pods. Fields are dropped in order: a pod's DEL needs the agent.
pub struct Story {
    pub pods: BTreeMap<String, Pod>,
    pub node: Node,
    pub cluster: Cluster,
}

/// Runs a test on a node with these pods, all labelled `pod: NAME`, in namespaces labelled `ns: NAME`.
pub fn story(pods: &[&str], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story_in(NATIVE, pods, test)
}

/// The same, where Calico's objects are in this group.
pub fn story_in(group: (&str, &str), pods: &[&str], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    let cluster = Cluster::served(group)?;
    let node = cluster.node(NodeSpec::new(1))?;
    let mut story = Story { pods: BTreeMap::new(), node, cluster };
    let done = story.start(pods).and_then(|()| test(&mut story));
    done.with_context(|| format!("the agent's log ends so:\n{}\n", story.node.agent.log_tail()))
}

impl Story {
    fn start(&mut self, pods: &[&str]) -> Result<()> {
        for pod in pods {
            let namespace = pod.split('/').next().unwrap_or_default();
            self.cluster.namespace(namespace, &[("ns", namespace)])?;
        }
        self.node.start()?;
        pods.iter().try_for_each(|pod| self.add(pod))
    }

    /// One more pod.
    pub fn add(&mut self, id: &str) -> Result<()> {
        let spec = PodSpec::new(id);
        self.pods.insert(spec.id(), self.node.pod(&self.cluster, &spec)?);
        Ok(())
    }

    /// The pod of this name.
    pub fn pod(&self, id: &str) -> Result<&Pod> {
        self.pods.get(id).with_context(|| format!("no pod {id}"))
    }

    /// Waits until the pods and the node reach each other as the table says.
    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        let actors: Vec<Actor<'_>> = self.pods.values().map(Pod::actor).chain([self.node.actor()]).collect();
        Table::parse(table)?.expect(&actors, what)
    }

    /// Applies a NetworkPolicy: `NAMESPACE/NAME` and its spec.
    pub fn policy(&self, id: &str, spec: &str) -> Result<()> {
        let (namespace, name) = id.split_once('/').context("NAMESPACE/NAME")?;
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{ namespace: '{namespace}', name: '{name}' }}\nspec: {spec}\n"
        );
        self.cluster.manifest(&format!("policy-{namespace}-{name}"), &text)
    }

    /// Deletes it.
    pub fn drop_policy(&self, id: &str) -> Result<()> {
        self.cluster.remove(&format!("policy-{}", id.replace('/', "-")))
    }
}
