//! What the demo stands on: one node, five pods, a directory of manifests.
//! In: the built programs. Out: a [`Stage`].
//! Invariant: pods are dropped before their node, and the node before the cluster.
//! Never: decides what is shown.

use crate::keep;
use anyhow::{Context as _, Result};
use std::process;
use tests::{Binaries, Cluster, Node, NodeSpec, Pod, PodSpec, netns::STEM, server::Listen};

/// Where the database listens.
pub const DATABASE: u16 = 5432;
/// Where the web server listens.
pub const WEB: u16 = 80;

/// Everything. Dropped in this order.
pub struct Stage {
    pub pods: Vec<Pod>,
    pub node: Node,
    pub cluster: Cluster,
}

/// Name of each pod and what it serves.
pub const CAST: &[(&str, &[u16])] = &[
    ("shop/client", &[]),
    ("shop/web", &[WEB]),
    ("shop/spare", &[WEB]),
    ("shop/db", &[DATABASE]),
    ("other/stranger", &[]),
];

impl Stage {
    /// A cluster and a node without an agent yet. What is to be kept has a name of its own, for there is one of it.
    pub fn create(binaries: Binaries, kept: bool) -> Result<Self> {
        let stem = if kept { keep::STEM.to_owned() } else { format!("{STEM}{}-demo", process::id()) };
        let cluster = Cluster::with_stem(&stem, binaries)
            .with_context(|| if kept { "is one kept already? `--remove` removes it" } else { "making the stage" })?;
        for namespace in ["shop", "other"] {
            cluster.namespace(namespace, &[])?;
        }
        let mut spec = NodeSpec::new(1);
        spec.name = "node".to_owned();
        spec.full_tables = true;
        let mut node = cluster.node(spec)?;
        if kept {
            node.agent.outlive();
        }
        Ok(Self { pods: Vec::new(), node, cluster })
    }

    /// One more pod of the cast, through the CNI binary.
    pub fn enter(&mut self, id: &str, ports: &[u16]) -> Result<&Pod> {
        let spec = ports.iter().fold(PodSpec::new(id).silent(), |spec, port| spec.listen(Listen::Tcp(*port)));
        self.pods.push(self.node.pod(&self.cluster, &spec)?);
        self.pod(id)
    }

    /// A pod by name.
    pub fn pod(&self, id: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.id() == id).with_context(|| format!("no pod {id}"))
    }
}
