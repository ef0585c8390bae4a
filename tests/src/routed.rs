//! Two nodes with pods on both, and a way between them that knows no pod.
//! In: the pools of the cluster, and where the nodes stand. Out: pods on both nodes, and who of them reaches whom.
//! Invariant: packets between pods of two subnets find no way but what the pools ask for.
//! Never: a route to a pod by hand.

use crate::{Cluster, Node, NodeSpec, Pod, PodSpec, Probe, Table, fabric, netns::need_root, server::Listen, subnets};
use anyhow::{Context as _, Result};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

/// The nodes, and x/a and y/a on the first, x/b and y/b on the second.
#[derive(Debug)]
pub struct Routed {
    /// By their ids.
    pub pods: BTreeMap<String, Pod>,
    /// Both, running.
    pub nodes: [Node; 2],
    /// Theirs.
    pub cluster: Cluster,
}

/// A Node with these addresses and annotations.
///
/// # Errors
/// It cannot be written.
pub fn describe(cluster: &Cluster, name: &str, addresses: &[String], annotations: &str) -> Result<()> {
    let addresses: String =
        addresses.iter().map(|address| format!("{{ type: InternalIP, address: '{address}' }}, ")).collect();
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, annotations: {{ {annotations} }} }}\nstatus: {{ addresses: [{addresses}] }}\n"
    );
    cluster.manifest(&format!("node-{name}"), &text)
}

/// A block that this node has.
///
/// # Errors
/// The claim cannot be written.
pub fn claim(cluster: &Cluster, node: &str, block: &str) -> Result<()> {
    let name: String = block.chars().map(|letter| if letter.is_ascii_digit() { letter } else { '-' }).collect();
    let text = format!(
        "apiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {{ name: {node}-{name} }}\n\
         spec: {{ cidr: {block}, node: {node}, state: confirmed, type: host, deleted: 'false' }}\n"
    );
    cluster.manifest(&format!("claim-{node}"), &text)
}

/// One pool, of IPv4, whose packets go to other nodes by IPIP in this mode.
#[must_use]
pub fn ipip_pool(mode: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: pool-v4 }}\n\
         spec: {{ cidr: 10.65.0.0/16, blockSize: 26, ipipMode: {mode} }}\n"
    )
}

/// Runs a test where these pools are, with a router between the nodes.
///
/// # Errors
/// Something does not stand, or the test fails.
pub fn routed(pools: &str, specs: [NodeSpec; 2], test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    need_root()?;
    let cluster = Cluster::create()?;
    cluster.manifest("pools", pools)?;
    subnets::make_router(&cluster)?;
    let [first, second] = specs;
    let nodes = [cluster.node(first)?, cluster.node(second)?];
    subnets::stay(nodes[0].namespace())?;
    subnets::move_away(nodes[1].namespace(), 2)?;
    Routed::start(cluster, nodes, [fabric::addresses(1), subnets::far(2)])?.test(test)
}

/// All pods of two nodes, by whatever way is between these.
///
/// # Errors
/// Somebody reaches somebody not.
pub fn reach_each_other(expect: impl Fn(Probe, &str) -> Result<()>) -> Result<()> {
    for what in [Probe::Tcp(80), Probe::Udp(80), Probe::Ping] {
        expect(
            what,
            "    x/a y/a x/b y/b
             x/a  -   .   .   .
             y/a  .   -   .   .
             x/b  .   .   -   .
             y/b  .   .   .   -",
        )?;
    }
    Ok(())
}

impl Routed {
    /// Starts agents and pods where the nodes stand already, by these addresses.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start(cluster: Cluster, mut nodes: [Node; 2], addresses: [[String; 2]; 2]) -> Result<Self> {
        for namespace in ["x", "y"] {
            cluster.namespace(namespace, &[("ns", namespace)])?;
        }
        for (node, addresses) in nodes.iter_mut().zip(addresses) {
            describe(&cluster, node.name(), &addresses, "")?;
            node.start()?;
        }
        let mut routed = Self { pods: BTreeMap::new(), nodes, cluster };
        for (id, number) in [("x/a", 1), ("y/a", 1), ("x/b", 2), ("y/b", 2)] {
            let node = &routed.nodes[number - 1];
            let pod = node.pod(&routed.cluster, &PodSpec::new(id).listen(Listen::Sctp(80)))?;
            routed.pods.insert(id.to_owned(), pod);
        }
        Ok(routed)
    }

    /// Runs a test; where it fails, its nodes' logs say more.
    ///
    /// # Errors
    /// The test's.
    pub fn test(mut self, test: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = test(&mut self);
        let tail = |node: &Node| format!("{}:\n{}\n", node.name(), node.agent.log_tail());
        result.with_context(|| self.nodes.iter().map(tail).collect::<String>())
    }

    /// Expects of all pods what a table says.
    ///
    /// # Errors
    /// It never comes about.
    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        let actors: Vec<_> = self.pods.values().map(Pod::actor).collect();
        Table::parse(table)?.expect(&actors, what)
    }

    /// Expects that all pods reach all others.
    ///
    /// # Errors
    /// Somebody reaches somebody not.
    pub fn reach_each_other(&self) -> Result<()> {
        reach_each_other(|what, table| self.expect(what, table))
    }

    /// A pod's address, IPv4.
    ///
    /// # Errors
    /// Its first address is one of IPv6.
    pub fn address(&self, pod: &str) -> Result<Ipv4Addr> {
        match self.pods[pod].address() {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(address) => anyhow::bail!("{address}: IPv4 first"),
        }
    }

    /// The block of that.
    ///
    /// # Errors
    /// Its first address is one of IPv6.
    pub fn block(&self, pod: &str) -> Result<String> {
        let address = u32::from(self.address(pod)?);
        Ok(format!("{}/26", Ipv4Addr::from(address >> 6 << 6)))
    }
}
