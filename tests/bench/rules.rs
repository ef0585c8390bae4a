//! `bench rules`: does a packet care how many rules there are? And what does the agent make of them?
//! In: the built programs. Out: the rows of `bench local` with 12,500 rules against one rule, how long each change took to
//! come into force, and the memory it left.
//! Invariant: the rule that lets the client in is the last of all; every other rule names somebody else.
//! Never: judges.

use crate::{
    figures::{Figures, Spread},
    progress,
    setups::Setup,
};
use ::tests::{
    Binaries, Cluster, Node, NodeSpec, Pod, PodSpec,
    netns::STEM,
    traffic::{PORT, Row, Way, measure},
};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process, thread,
    time::{Duration, Instant},
};

const POLICIES: usize = 125;
const RULES: usize = 100;
/// Between two looks whether the client is let in.
const LOOK: Duration = Duration::from_millis(1);
/// A change that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct Rules {
    /// Rounds; each measures every row of every setup once.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Milliseconds a figure.
    #[arg(long, default_value_t = 500)]
    window: u64,
    /// How often each change is made.
    #[arg(long, default_value_t = 5)]
    changes: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(rules: &Rules, binaries: &Binaries) -> Result<()> {
    let mut scales = Vec::new();
    for kind in [Kind::One, Kind::Selectors, Kind::Networks] {
        progress(kind.name());
        scales.push(Scale::create(kind, binaries.clone())?);
    }
    let mut costs = Vec::new();
    for scale in &scales {
        progress(&format!("{}: changes", scale.name()));
        costs.push(scale.costs(rules.changes)?);
    }
    let window = Duration::from_millis(rules.window);
    let mut figures = Figures::new(scales.iter().map(Setup::name).collect());
    for round in 0..rules.rounds {
        progress(&format!("round {} of {}", round + 1, rules.rounds));
        for row in Row::ALL {
            for place in 0..scales.len() {
                let index = (place + round as usize) % scales.len();
                figures.record(row, index, measure(scales[index].way(), row, window)?);
            }
        }
    }
    progress("");
    if rules.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "traffic": figures, "changes": costs }))?);
        return Ok(());
    }
    println!("{figures}");
    println!("A new policy, from its manifest's rename to the first connection let in; and what the agent holds then:");
    for cost in &costs {
        println!(
            "{:24}  {:>24} ms   own memory {:.1} MB   tables {:.1} MB, of which entries in use {:.1} MB",
            cost.setup,
            cost.in_force_ms.with_digits(1),
            cost.own_mb,
            cost.tables_mb,
            cost.touched_mb
        );
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    One,
    Selectors,
    Networks,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::One => "1 rule",
            Self::Selectors => "12,500 by selector",
            Self::Networks => "12,500 by network",
        }
    }

    /// The policies of the server, as manifests.
    fn policies(self) -> Vec<Value> {
        let client = json!({ "podSelector": { "matchLabels": { "pod": "client" } } });
        let (policies, rules) = if matches!(self, Self::One) { (1, 1) } else { (POLICIES, RULES) };
        let peer = |number: usize| match self {
            _ if number + 1 == policies * rules => client.clone(),
            Self::One | Self::Selectors => {
                json!({ "podSelector": { "matchLabels": { "peer": format!("p{number}") } } })
            }
            Self::Networks => {
                json!({ "ipBlock": { "cidr": format!("172.{}.{}.{}/32", 16 + (number >> 16), number >> 8 & 255, number & 255) } })
            }
        };
        let ports = json!([{ "protocol": "TCP", "port": PORT }, { "protocol": "UDP", "port": PORT }]);
        let policy = |policy: usize| {
            let rule = |rule: usize| json!({ "from": [peer(policy * rules + rule)], "ports": ports });
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": { "namespace": "bench", "name": format!("server-{policy:03}") },
                "spec": {
                    "podSelector": { "matchLabels": { "pod": "server" } },
                    "ingress": (0..rules).map(rule).collect::<Vec<_>>(),
                },
            })
        };
        (0..policies).map(policy).collect()
    }
}

/// The server is closed until the measured policies open it.
const WALL: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: wall }
spec: { podSelector: {}, policyTypes: [Ingress] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: client }
spec:
  podSelector: { matchLabels: { pod: client } }
  policyTypes: [Egress]
  egress:
  - to: [{ podSelector: { matchLabels: { pod: server } } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
";

struct Scale {
    kind: Kind,
    // Dropped in this order: the pods' DEL needs the agent.
    client: Pod,
    server: Pod,
    node: Node,
    cluster: Cluster,
}

impl Setup for Scale {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn way(&self) -> Way<'_> {
        Way { client: self.client.namespace(), server: self.server.namespace(), address: self.server.address() }
    }
}

/// What a change costs, and what it leaves.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    setup: &'static str,
    in_force_ms: Spread,
    own_mb: f64,
    tables_mb: f64,
    touched_mb: f64,
}

impl Scale {
    fn create(kind: Kind, binaries: Binaries) -> Result<Self> {
        let short = kind.name().rsplit(' ').next().unwrap_or_default();
        let cluster = Cluster::with_stem(&format!("{STEM}{}-{short}", process::id()), binaries)?;
        cluster.namespace("bench", &[])?;
        cluster.manifest("wall", WALL)?;
        let mut spec = NodeSpec::new(1);
        spec.full_tables = true;
        let mut node = cluster.node(spec)?;
        node.start()?;
        let client = node.pod(&cluster, &PodSpec::new("bench/client").silent())?;
        let server = node.pod(&cluster, &PodSpec::new("bench/server").silent())?;
        Ok(Self { kind, client, server, node, cluster })
    }

    /// Opens and closes the server some times, and leaves it open.
    fn costs(&self, changes: u32) -> Result<Cost> {
        let policies = self.kind.policies().iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        let mut times = Vec::new();
        for _ in 0..changes {
            times.push(self.opened(&policies)?.as_secs_f64() * 1e3);
            self.cluster.remove("rules")?;
            self.until(false, Instant::now())?;
        }
        self.opened(&policies)?;
        let agent = self.node.agent.pid().context("the agent has ended")?;
        Ok(Cost {
            setup: self.kind.name(),
            in_force_ms: Spread::of(times),
            own_mb: status(agent, "RssAnon")? / 1024.0,
            tables_mb: tables(agent)? / f64::from(1 << 20),
            touched_mb: (status(agent, "RssShmem")? + status(agent, "RssFile")?) / 1024.0,
        })
    }

    fn opened(&self, policies: &str) -> Result<Duration> {
        self.cluster.manifest("rules", policies)?;
        // The file is whole and in place: the clock starts.
        self.until(true, Instant::now())
    }

    /// Until connections are let in, or no longer.
    fn until(&self, open: bool, begun: Instant) -> Result<Duration> {
        let to = SocketAddr::new(self.server.address(), PORT);
        let listener = self.server.namespace().inside(|| TcpListener::bind(to).context("listening"))?;
        self.client.namespace().inside(|| {
            loop {
                let came = TcpStream::connect_timeout(&to, Duration::from_millis(4)).is_ok();
                if came {
                    drop(listener.accept());
                }
                if came == open {
                    return Ok(begun.elapsed());
                }
                ensure!(begun.elapsed() < PATIENCE, "{}: not in force after {PATIENCE:?}", self.kind.name());
                thread::sleep(LOOK);
            }
        })
    }
}

/// Kilobytes of a process, as /proc says.
fn status(pid: u32, what: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading the agent's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {what} in /proc/{pid}/status"))
}

/// Bytes of all tables that a process holds, each counted once.
fn tables(pid: u32) -> Result<f64> {
    let mut maps: BTreeMap<String, f64> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("listing the agent's descriptors")? {
        // One that was closed meanwhile is no table.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:").and_then(|bytes| bytes.parse().ok())) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}
