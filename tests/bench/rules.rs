//! `bench rules`: does a packet care how many rules there are? And what does the agent make of them?
//! In: the built programs. Out: the rows of `bench local` with 12,500 rules against one rule, how long each change took to
//! come into force, and the memory it left.
//! Invariant: the rule that lets the client in is the last of all; every other rule names somebody else.
//! Never: judges.

use crate::{
    figures::Spread,
    progress,
    rounds::Rounds,
    setups::{Setup, Tortie},
};
use ::tests::{Binaries, traffic::PORT};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
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
    #[command(flatten)]
    rounds: Rounds,
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
    for kind in Kind::ALL {
        progress(kind.name());
        scales.push(Scale { kind, tortie: Tortie::create(kind.name(), kind.stem(), WALL, binaries.clone())? });
    }
    let mut costs = Vec::new();
    let changes = if rules.rounds.quick { 1 } else { rules.changes };
    for scale in &scales {
        progress(&format!("{}: changes", scale.kind.name()));
        costs.push(scale.costs(changes)?);
    }
    let figures = rules.rounds.run(&scales.iter().map(|scale| &scale.tortie as &dyn Setup).collect::<Vec<_>>())?;
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
    /// Once more, so that a run tells its own noise.
    Again,
    Selectors,
    Networks,
}

impl Kind {
    const ALL: [Self; 4] = [Self::One, Self::Again, Self::Selectors, Self::Networks];

    fn name(self) -> &'static str {
        match self {
            Self::One => "1 rule",
            Self::Again => "1 rule, once more",
            Self::Selectors => "12,500 by selector",
            Self::Networks => "12,500 by network",
        }
    }

    fn stem(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Again => "again",
            Self::Selectors => "selectors",
            Self::Networks => "networks",
        }
    }

    /// The policies of the server, as manifests.
    fn policies(self) -> Vec<Value> {
        let client = json!({ "podSelector": { "matchLabels": { "pod": "client" } } });
        let (policies, rules) = if matches!(self, Self::One | Self::Again) { (1, 1) } else { (POLICIES, RULES) };
        let peer = |number: usize| match self {
            _ if number + 1 == policies * rules => client.clone(),
            Self::One | Self::Again | Self::Selectors => {
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
spec: { podSelector: { matchLabels: { pod: server } }, policyTypes: [Ingress] }
";

struct Scale {
    kind: Kind,
    tortie: Tortie,
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
    /// Opens and closes the server some times, and leaves it open.
    fn costs(&self, changes: u32) -> Result<Cost> {
        let policies = self.kind.policies().iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        let mut times = Vec::new();
        for _ in 0..changes {
            times.push(self.opened(&policies)?.as_secs_f64() * 1e3);
            self.tortie.cluster.remove("rules")?;
            self.until(false, Instant::now())?;
        }
        self.opened(&policies)?;
        let agent = self.tortie.node.agent.pid().context("the agent has ended")?;
        Ok(Cost {
            setup: self.kind.name(),
            in_force_ms: Spread::of(times),
            own_mb: status(agent, "RssAnon")? / 1024.0,
            tables_mb: tables(agent)? / f64::from(1 << 20),
            touched_mb: (status(agent, "RssShmem")? + status(agent, "RssFile")?) / 1024.0,
        })
    }

    fn opened(&self, policies: &str) -> Result<Duration> {
        self.tortie.cluster.manifest("rules", policies)?;
        // The file is whole and in place: the clock starts.
        self.until(true, Instant::now())
    }

    /// Until connections are let in, or no longer.
    fn until(&self, open: bool, begun: Instant) -> Result<Duration> {
        let to = SocketAddr::new(self.tortie.server.address(), PORT);
        let listener = self.tortie.server.namespace().inside(|| TcpListener::bind(to).context("listening"))?;
        self.tortie.client.namespace().inside(|| {
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
pub fn status(pid: u32, what: &str) -> Result<f64> {
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
