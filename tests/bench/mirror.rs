//! `bench mirror`: what a thousand watchers cost an API server, and what they cost an etcd that mirrors it.
//! In: the built programs. Out: bytes to a node for each change, and processor time of all that serve, by three ways.
//! Invariant: one cluster, one kind of change and one rate for all ways; what serves runs as it is shipped, but for TLS on the way to the
//! mirror's etcd, which this bench leaves out.
//! Never: judges; counts the watchers' own time.

mod ways;

use crate::{idle, progress, served};
use ::tests::{Binaries, Cluster, Etcd, Node, NodeSpec, cluster::NATIVE, fabric, netns::STEM, process::started, wait};
use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::{
    fmt, fs, process,
    process::Child,
    thread,
    time::{Duration, Instant},
};
use ways::{Watchers, Way};

#[derive(Debug, Args)]
pub struct Mirror {
    /// Nodes that watch.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Pods that come in a second, and as many that go.
    #[arg(long, default_value_t = 2)]
    rate: u32,
    /// For so many seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Everything as small as it goes.
    #[arg(long)]
    quick: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    watchers: usize,
    /// Of one agent at the API server: without a mirror, and with one.
    agent_watches: [f64; 2],
    ways: Vec<Cost>,
}

/// Of one way.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    way: Way,
    /// To one node while nothing happens, by the second.
    idle_bytes: f64,
    /// To one node, for a pod that comes and goes.
    bytes: f64,
    /// Of one processor, in hundredths: API server and its etcd; mirror; its etcd and proxy.
    processor: [f64; 3],
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [direct, mirrored] = self.agent_watches;
        writeln!(f, "watches of one agent at the API server: {direct:.0}, with a mirror {mirrored:.0}")?;
        writeln!(f, "{} watchers:                 bytes to a node            processor, %", self.watchers)?;
        writeln!(
            f,
            "{:20} {:>10} {:>16} {:>12} {:>8} {:>8}",
            "", "idle, 1 s", "pod that comes", "API server", "mirror", "etcd"
        )?;
        for Cost { way, idle_bytes, bytes, processor: [server, mirror, etcd] } in &self.ways {
            writeln!(f, "{way:20} {idle_bytes:>10.0} {bytes:>16.0} {server:>12.1} {mirror:>8.1} {etcd:>8.1}")?;
        }
        Ok(())
    }
}

/// What serves. Dropped in this order.
struct Place {
    agent: Node,
    /// Where the watchers are.
    watching: Node,
    mirror: Running,
    proxy: Running,
    etcd: Etcd,
    cluster: Cluster,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it.
pub fn run(mirror: &Mirror, binaries: &Binaries) -> Result<()> {
    let (watchers, rate, seconds) =
        if mirror.quick { (5, 2, 3) } else { (mirror.watchers, mirror.rate, mirror.seconds) };
    let mut place = Place::create(binaries)?;
    let agent_watches = [place.watches_of_agent(false)?, place.watches_of_agent(true)?];
    let ways = Way::ALL.into_iter().map(|way| place.cost(way, watchers, (rate, seconds))).collect::<Result<_>>()?;
    let report = Report { watchers, agent_watches, ways };
    progress("");
    if mirror.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl Place {
    fn create(binaries: &Binaries) -> Result<Self> {
        let cluster = Cluster::with_stem(&format!("{STEM}{}-mirror", process::id()), binaries.clone())?.serve()?;
        cluster.define(NATIVE, &::tests::cluster::pools(26, 122))?;
        cluster.namespace("bench", &[])?;
        let kubeconfig = cluster.grant_mirrors()?;
        let address = fabric::OUTSIDE_V4.parse().context("the outside host's address")?;
        let etcd = Etcd::start(cluster.outside(), address, &cluster.directory().join("mirror-etcd"), (1, false))?;
        let log = |name: &str| cluster.directory().join(format!("{name}.log"));
        let mut command = cluster.outside().command(&cluster.binaries().agent)?;
        command.args(["mirror", "--node", "m1", "--health-address", "off", "--kubeconfig"]).arg(&kubeconfig);
        command.args(etcd.reached("--etcd-endpoints"));
        let mirror = Running(started(command, &log("mirror"))?);
        let proxy = Running(started(etcd.proxy(cluster.outside())?, &log("proxy"))?);
        let agent = cluster.node(NodeSpec::new(1))?;
        let watching = cluster.node(NodeSpec::new(2))?;
        let place = Self { agent, watching, mirror, proxy, etcd, cluster };
        wait::wait_until("all is mirrored", 3 * wait::PATIENCE, || {
            let state = place.etcd.all(place.cluster.outside(), "/tortie/mirror/v1/state")?;
            Ok(state.first().is_some_and(|(_, state)| state["isBehind"] == false))
        })?;
        Ok(place)
    }

    /// Watches at the API server that an agent adds to those that are there.
    fn watches_of_agent(&mut self, is_mirrored: bool) -> Result<f64> {
        progress("the watches of an agent");
        let plain = self.agent.agent.arguments().to_vec();
        let more = if is_mirrored { self.etcd.reached("--mirror") } else { Vec::new() };
        self.agent.agent.set_arguments(plain.iter().cloned().chain(more).collect());
        let without = self.settled_watches()?;
        self.agent.agent.start()?;
        self.agent.wait_ready()?;
        let with = self.settled_watches()?;
        self.agent.agent.stop()?;
        self.agent.agent.set_arguments(plain);
        Ok(with - without)
    }

    /// The watches at the API server, once their number stays: what lists anew ends one and begins another, and the API server
    /// itself watches what was defined.
    fn settled_watches(&self) -> Result<f64> {
        let mut last = Vec::new();
        wait::wait_until("the number of watches stays", 5 * wait::PATIENCE, || {
            last.push(self.watches()?);
            Ok(last.len() >= 8 && last[last.len() - 8..].iter().all(|count| Some(count) == last.last()))
        })?;
        last.pop().context("nothing was counted")
    }

    fn watches(&self) -> Result<f64> {
        let text = self.cluster.kubectl(&["get", "--raw", "/metrics"], "")?;
        let is_it =
            |line: &&str| line.starts_with("apiserver_longrunning_requests{") && line.contains("verb=\"WATCH\"");
        Ok(text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn cost(&self, way: Way, count: usize, (rate, seconds): (u32, u32)) -> Result<Cost> {
        let kubeconfig = self.cluster.administrator().context("there is no API server")?;
        let watchers = Watchers::start(self.watching.namespace(), way, count, &kubeconfig)?;
        wait::wait_until("all watch", 10 * wait::PATIENCE, || {
            progress(&format!("{way}: {} of {count} watch", watchers.begun()));
            watchers.check()?;
            Ok(watchers.begun() == count)
        })?;
        progress(&format!("{way}: nothing happens"));
        thread::sleep(Duration::from_secs(2));
        let idle = Duration::from_secs(seconds.min(10).into());
        let before = self.received()?;
        thread::sleep(idle);
        let each = count as f64;
        let idle_bytes = (self.received()? - before) / each / idle.as_secs_f64();
        progress(&format!("{way}: pods come and go"));
        let client = served::Client::open(self.cluster.outside(), &kubeconfig)?;
        let pods = |second: u32| -> Vec<Value> {
            (0..rate as usize)
                .map(|number| served::pod_of_bench(60_000 + second as usize * rate as usize + number))
                .collect()
        };
        let (before, spent, begun) = (self.received()?, self.spent()?, Instant::now());
        for second in 0..seconds {
            client.create(pods(second))?;
            client.delete(pods(second))?;
            let next = begun + Duration::from_secs(1) * (second + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let took = begun.elapsed().as_secs_f64();
        let (received, now) = (self.received()? - before, self.spent()?);
        watchers.check()?;
        let processor = [0, 1, 2].map(|part| 100.0 * (now[part] - spent[part]) / took);
        let bytes = (received - idle_bytes * each * took) / each / f64::from(rate * seconds);
        Ok(Cost { way, idle_bytes, bytes, processor })
    }

    /// Seconds of the processor: API server and its etcd; mirror; its etcd and proxy.
    fn spent(&self) -> Result<[f64; 3]> {
        let sum = |pids: &[u32]| pids.iter().map(|pid| Ok(idle::times(*pid)?.iter().sum::<f64>())).sum::<Result<f64>>();
        let served = self.cluster.control_plane_pids();
        let etcd: Vec<_> = self.etcd.pids().chain([self.proxy.0.id()]).collect();
        Ok([sum(&served)?, sum(&[self.mirror.0.id()])?, sum(&etcd)?])
    }

    /// Bytes that came to the watchers.
    fn received(&self) -> Result<f64> {
        let text =
            self.watching.namespace().inside(|| fs::read_to_string("/proc/thread-self/net/dev").context("counting"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no uplink")?;
        line.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).context("no count of bytes")
    }
}
