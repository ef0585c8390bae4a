//! Two nodes in subnets of their own, with a router between them that knows no pod.
//! In: the pools of the cluster. Out: pods on both nodes, and who of them reaches whom.
//! Invariant: packets between pods of the two subnets find no way but what the pools ask for.
//! Never: a route to a pod by hand.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use tests::{Cluster, Node, NodeSpec, Pod, PodSpec, Probe, Table, fabric, server::Listen, subnets};

/// The nodes, and x/a and y/a on the first, x/b and y/b on the second.
pub struct Routed {
    pub pods: BTreeMap<String, Pod>,
    pub nodes: [Node; 2],
    pub cluster: Cluster,
}

/// A Node with these addresses and annotations.
pub fn describe(cluster: &Cluster, name: &str, addresses: &[String], annotations: &str) -> Result<()> {
    let addresses: String =
        addresses.iter().map(|address| format!("{{ type: InternalIP, address: '{address}' }}, ")).collect();
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, annotations: {{ {annotations} }} }}\nstatus: {{ addresses: [{addresses}] }}\n"
    );
    cluster.manifest(&format!("node-{name}"), &text)
}

/// Runs a test where these pools are.
pub fn routed(pools: &str, specs: [NodeSpec; 2], test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.manifest("pools", pools)?;
    subnets::make_router(&cluster)?;
    for namespace in ["x", "y"] {
        cluster.namespace(namespace, &[("ns", namespace)])?;
    }
    let [first, second] = specs;
    let mut nodes = [cluster.node(first)?, cluster.node(second)?];
    subnets::stay(nodes[0].namespace())?;
    subnets::move_away(nodes[1].namespace(), 2)?;
    for (node, addresses) in nodes.iter_mut().zip([fabric::addresses(1), subnets::far(2)]) {
        describe(&cluster, node.name(), &addresses, "")?;
        node.start()?;
    }
    let mut routed = Routed { pods: BTreeMap::new(), nodes, cluster };
    for (id, number) in [("x/a", 1), ("y/a", 1), ("x/b", 2), ("y/b", 2)] {
        let node = &routed.nodes[number - 1];
        let pod = node.pod(&routed.cluster, &PodSpec::new(id).listen(Listen::Sctp(80)))?;
        routed.pods.insert(id.to_owned(), pod);
    }
    let result = test(&mut routed);
    let logs =
        routed.nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail())).collect::<String>();
    result.context(logs)
}

impl Routed {
    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        let actors: Vec<_> = self.pods.values().map(Pod::actor).collect();
        Table::parse(table)?.expect(&actors, what)
    }

    pub fn reach_each_other(&self) -> Result<()> {
        crate::nodes::reach_each_other(|what, table| self.expect(what, table))
    }
}
