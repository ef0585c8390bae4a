//! Routes between nodes, from the claims that agents write to a real API server.
//! In: two nodes of one network, a pod on each. Out: their routes, and pods that reach each other by these alone.
//! Invariant: it is the same in both groups of Calico's objects.
//! Never: makes a route by hand.

use crate::story::{NATIVE, STORED};
use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster, Node, NodeSpec, Pod, PodSpec, Probe, Table,
    wait::{self, PATIENCE},
};

#[test]
fn pods_of_nodes_whose_blocks_are_in_either_group_reach_each_other_until_a_node_is_deleted() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::served(group)?;
        cluster.namespace("x", &[])?;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for number in [1, 2] {
            let mut node = cluster.node(NodeSpec::new(number))?;
            node.start()?;
            pods.push(node.pod(&cluster, &PodSpec::new(&format!("x/p{number}")))?);
            nodes.push(node);
        }
        let tails =
            || nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail())).collect::<String>();
        reach_each_other(&cluster, &nodes, &pods).with_context(tails).with_context(|| format!("{group:?}"))?;
    }
    Ok(())
}

fn reach_each_other(cluster: &Cluster, nodes: &[Node], pods: &[Pod]) -> Result<()> {
    let actors: Vec<_> = pods.iter().map(Pod::actor).collect();
    for what in [Probe::Tcp(80), Probe::Ping] {
        Table::parse("x/p1 x/p2\n x/p1 - .\n x/p2 . -")?.expect(&actors, what)?;
    }
    for node in nodes {
        let (routes, shown) = (node.routes()?, node.show("status")?);
        // Of both families: its own block, and the other's.
        ensure!(routes.len() == 4, "{}: {routes:?}", node.name());
        ensure!(routes.values().filter(|via| *via == "blackhole").count() == 2, "{}: {routes:?}", node.name());
        ensure!(shown["problems"].as_array().is_none_or(Vec::is_empty), "{}: {shown}", node.name());
    }
    let leads = |node: &Node| Ok::<_, anyhow::Error>(node.routes()?.values().any(|via| via != "blackhole"));
    cluster.kubectl(&["delete", "node", nodes[1].name()], "")?;
    wait::wait_until("nothing leads to who is gone", PATIENCE, || Ok(!leads(&nodes[0])?))
}
