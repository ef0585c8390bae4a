//! `bench idle`: what an agent costs while nothing happens on its node, by how many pods it serves.
//! In: the built programs. Out: processor time of the agent's process, as a share of one core.
//! Invariant: the same node for every number of pods, which only grows; no pod sends anything of its own accord but ARP and ND.
//! Never: judges.

use crate::{
    crowd::{Crowd, Side},
    memory::Memory,
    progress,
};
use ::tests::Binaries;
use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub struct Idle {
    /// How many pods, in rising order.
    #[arg(long, default_values_t = [0, 50, 200], value_delimiter = ',')]
    pods: Vec<usize>,
    /// Seconds that each number is watched.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What came after the last ADD is over then.
const REST: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    pods: usize,
    /// Of one core, in percent.
    user: f64,
    system: f64,
    own_mb: f64,
}

/// Runs it.
pub fn run(idle: &Idle, binaries: Binaries, bare: &Path) -> Result<()> {
    let most = idle.pods.iter().copied().max().unwrap_or(0);
    progress(&format!("{most} pods"));
    let crowd = Crowd::create(binaries, bare, most, false)?;
    let (mut costs, mut wired) = (Vec::new(), 0);
    for pods in &idle.pods {
        while wired < *pods {
            progress(&format!("pod {} of {pods}", wired + 1));
            crowd.one(Side::Tortie, wired)?;
            wired += 1;
        }
        progress(&format!("{wired} pods, {} s", idle.seconds));
        thread::sleep(REST);
        let agent = crowd.agent()?;
        let (before, begun) = (times(agent)?, Instant::now());
        thread::sleep(Duration::from_secs(idle.seconds));
        let (after, took) = (times(agent)?, begun.elapsed().as_secs_f64());
        let [user, system] = [0, 1].map(|which| (after[which] - before[which]) / took * 100.0);
        costs.push(Cost { pods: wired, user, system, own_mb: Memory::of(agent)?.own });
    }
    progress("");
    if idle.json {
        println!("{}", serde_json::to_string_pretty(&costs)?);
        return Ok(());
    }
    println!("An agent while nothing happens: processor time as a share of one core.\n");
    for Cost { pods, user, system, own_mb } in &costs {
        let sum = user + system;
        println!("{pods:>5} pods  {sum:>6.2} %  ({user:.2} user, {system:.2} system)  own memory {own_mb:.1} MB");
    }
    Ok(())
}

/// Seconds of a process so far, all its threads: user, system.
pub fn times(pid: u32) -> Result<[f64; 2]> {
    // Ticks of `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux that Tortie runs on.
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading the agent's times")?;
    // The name before may hold anything but the last parenthesis.
    let (_, rest) = text.rsplit_once(") ").context("a line of /proc without a name")?;
    let mut words = rest.split_whitespace().skip(11);
    let mut next = || words.next().and_then(|word| word.parse::<f64>().ok()).map(|ticks| ticks / TICKS);
    Ok([next().context("no user time")?, next().context("no system time")?])
}
