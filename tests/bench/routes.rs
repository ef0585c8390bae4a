//! `bench routes`: what other nodes cost an agent: a start, a change of one of them, memory.
//! In: the built programs, how many nodes there are and how many blocks each has. Out: seconds from the agent's start to the last
//! route, milliseconds from one node's change to its last route, megabytes.
//! Invariant: the clock ends when the kernel has told of the last route; nothing of an earlier agent is in the kernel at a start.
//! Never: judges.

use crate::{
    figures::{Spread, Waits},
    memory::Memory,
    progress,
    setups::started,
};
use ::tests::{Binaries, Cluster, Node, NodeSpec, netns::STEM, wait::PATIENCE};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{self, Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub struct Routes {
    /// How many nodes there are, case by case.
    #[arg(long, default_values_t = [10, 1000], value_delimiter = ',')]
    nodes: Vec<u32>,
    /// Blocks of each.
    #[arg(long, default_value_t = 16)]
    blocks: u32,
    /// How often an agent is started.
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// How often a node changes.
    #[arg(long, default_value_t = 50)]
    changes: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// In the kernel's word of a route to another node that an agent has made (`host::NODE_ROUTE_PROTOCOL`).
const OURS: &str = " proto 85 ";
/// A network of nobody.
const MARK: &str = "203.0.113.84";
/// A pool of 16,384 blocks of 64 addresses.
const POOL: &str = "apiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: { name: many }\n\
                    spec: { cidr: 10.64.0.0/12, blockSize: 26 }\n";
const FIRST: u32 = 0x0a40_0000;
/// The segment of all nodes: 10.128.0.0/12. The one that is measured has its first address.
const SEGMENT: u32 = 0x0a80_0000;

/// What came out of one number of nodes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    nodes: u32,
    routes: u32,
    /// From the agent's start to the last route, seconds.
    start: Spread,
    /// From the rename of one node's manifest, with another address, to the last of its routes.
    moved: Waits,
    /// From the rename of the manifest of a block that a node has claimed to its route.
    claimed: Waits,
    memory: Memory,
}

/// Runs it.
pub fn run(routes: &Routes, binaries: &Binaries) -> Result<()> {
    let cases = routes.nodes.iter().map(|nodes| Place::create(*nodes, routes.blocks, binaries)?.measure(routes));
    let reports = cases.collect::<Result<Vec<_>>>()?;
    progress("");
    if routes.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    println!("Routes to other nodes, from manifests of Nodes and BlockAffinities.\n");
    println!("milliseconds from a change to its last route:");
    println!("{:<44}  {}", "", Waits::head());
    for Report { nodes, routes, start, moved, claimed, memory } in &reports {
        let place = format!("{nodes} nodes, {routes} routes");
        println!("{:<44}  {moved}", format!("{place}: another address"));
        println!("{:<44}  {claimed}", format!("{place}: one block more"));
        println!("{:<44}  {} s from the agent's start to the last route", "", start.with_digits(2));
        println!("{:<44}  {memory}", "");
    }
    Ok(())
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(SEGMENT + number).into()
}

fn block(number: u32) -> String {
    format!("{}/26", Ipv4Addr::from(FIRST + number * 64))
}

fn node_manifest(number: u32, address: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: node{number} }}\n\
         status: {{ addresses: [{{ type: InternalIP, address: {address} }}] }}\n"
    )
}

fn claim(node: u32, block: &str) -> String {
    let name = block.replace(['.', '/'], "-");
    format!(
        "---\napiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {{ name: node{node}-{name} }}\n\
         spec: {{ cidr: {block}, node: node{node}, state: confirmed, type: host, deleted: 'false' }}\n"
    )
}

/// A node that runs an agent, and others that are there by their manifests alone.
struct Place {
    nodes: u32,
    blocks: u32,
    told: Told,
    node: Node,
    cluster: Cluster,
}

impl Place {
    fn create(nodes: u32, blocks: u32, binaries: &Binaries) -> Result<Self> {
        progress(&format!("{nodes} nodes"));
        let cluster = Cluster::with_stem(&format!("{STEM}{}-routes{nodes}", process::id()), binaries.clone())?;
        cluster.manifest("pool", POOL)?;
        cluster.manifest("node1", &node_manifest(1, address(1)))?;
        for number in 2..nodes + 2 {
            let mut claims = String::new();
            for place in 0..blocks {
                write!(claims, "{}", claim(number, &block((number - 2) * blocks + place)))?;
            }
            cluster.manifest(&format!("claims{number}"), &claims)?;
            cluster.manifest(&format!("node{number}"), &node_manifest(number, address(number)))?;
        }
        let node = started(&cluster, NodeSpec::new(1), None)?;
        node.namespace().ip(&[&format!("address add {}/12 dev eth0", address(1))])?;
        Ok(Self { nodes, blocks, told: Told::begin(&node)?, node, cluster })
    }

    fn measure(mut self, routes: &Routes) -> Result<Report> {
        let all: BTreeSet<_> = (0..self.nodes * self.blocks).map(block).collect();
        let mut start = Vec::new();
        for time in 0..routes.starts {
            progress(&format!("{} nodes: start {} of {}", self.nodes, time + 1, routes.starts));
            self.node.agent.stop()?;
            let output = self.node.cleanup()?;
            ensure!(output.status.success(), "tortie cleanup: {}", String::from_utf8_lossy(&output.stderr));
            self.told.anew();
            let begun = Instant::now();
            self.node.agent.start()?;
            start.push(self.told.wait(all.clone(), None, begun)?.as_secs_f64());
            self.node.wait_ready()?;
        }
        let (mut moved, mut claimed) = (Vec::new(), Vec::new());
        for time in 0..routes.changes {
            progress(&format!("{} nodes: change {} of {}", self.nodes, time + 1, routes.changes));
            moved.push(self.move_a_node(time)?);
            claimed.push(self.claim_a_block()?);
        }
        let memory = Memory::of(self.node.agent.pid().unwrap_or_default())?;
        let (start, moved, claimed) = (Spread::of(start), Waits::of(&moved), Waits::of(&claimed));
        Ok(Report { nodes: self.nodes, routes: self.nodes * self.blocks, start, moved, claimed, memory })
    }

    /// One in the middle of all, to an address of the segment that none had.
    fn move_a_node(&self, time: u32) -> Result<Duration> {
        let (number, to) = (self.nodes / 2 + 2, address(0x8000 + time));
        let own = (0..self.blocks).map(|place| block((number - 2) * self.blocks + place)).collect();
        self.told.anew();
        self.cluster.manifest(&format!("node{number}"), &node_manifest(number, to))?;
        self.told.wait(own, Some(to), Instant::now())
    }

    fn claim_a_block(&self) -> Result<Duration> {
        let (number, block) = (self.nodes + 1, block(self.nodes * self.blocks));
        self.told.anew();
        self.cluster.manifest("more", &claim(number, &block))?;
        let took = self.told.wait([block.clone()].into(), None, Instant::now())?;
        self.cluster.remove("more")?;
        self.told.wait_gone(&block)?;
        Ok(took)
    }
}

/// What the kernel tells of routes, line by line, as long as it lives.
struct Told {
    monitor: Child,
    lines: Receiver<String>,
}

impl Told {
    /// Begins to listen in the namespace of a node.
    fn begin(node: &Node) -> Result<Self> {
        let mut command = node.namespace().command(Path::new("ip"))?;
        let mut monitor =
            command.args(["-4", "monitor", "route"]).stdout(Stdio::piped()).spawn().context("ip monitor")?;
        let output = BufReader::new(monitor.stdout.take().context("a piped output")?);
        let (said, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let told = Self { monitor, lines };
        let begun = Instant::now();
        // It says nothing of when it listens.
        while !told.lines.try_iter().any(|line| line.contains(MARK)) {
            ensure!(begun.elapsed() < PATIENCE, "ip monitor says nothing");
            node.namespace().ip(&[&format!("route replace {MARK} dev eth0"), &format!("route delete {MARK}")])?;
        }
        Ok(told)
    }

    /// Forgets what was told so far.
    fn anew(&self) {
        self.lines.try_iter().for_each(drop);
    }

    /// How long since `begun` until each of these networks was said to have a route of the agent's, by `gateway` if that is given.
    fn wait(&self, mut open: BTreeSet<String>, gateway: Option<IpAddr>, begun: Instant) -> Result<Duration> {
        let is_meant = |line: &str| gateway.is_none_or(|gateway| line.contains(&format!(" via {gateway} ")));
        while let Some(first) = open.first() {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let line = self.lines.recv_timeout(left);
            let line = line.with_context(|| format!("{} routes are missing, {first} first", open.len()))?;
            if line.contains(OURS) && is_meant(&line) {
                open.remove(line.split(' ').next().unwrap_or_default());
            }
        }
        Ok(begun.elapsed())
    }

    fn wait_gone(&self, network: &str) -> Result<()> {
        let is_it = |line: &str| line.strip_prefix("Deleted ").is_some_and(|line| line.starts_with(network));
        while !is_it(&self.lines.recv_timeout(PATIENCE).with_context(|| format!("the route to {network} stays"))?) {}
        Ok(())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.monitor.kill().and_then(|()| self.monitor.wait());
    }
}
