//! `bench rules`: does a packet care how many rules there are? And what does the agent make of them?
//! In: the built programs. Out: the rows of `bench local` with 12,500 rules against one rule, how long each change took to
//! come into force, and the memory it left.
//! Invariant: the rule that lets the client in is the last of all; every other rule names somebody else.
//! Never: judges.

use crate::{
    figures::Spread,
    manifests::{self, WALL, somebody},
    memory::Memory,
    progress,
    rounds::Rounds,
    setups::{Setup, Tortie},
};
use ::tests::{Binaries, traffic::Row};
use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const POLICIES: usize = 125;
const RULES: usize = 100;

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
    let figures =
        rules.rounds.run(&Row::ALL, &scales.iter().map(|scale| &scale.tortie as &dyn Setup).collect::<Vec<_>>())?;
    if rules.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "traffic": figures, "changes": costs }))?);
        return Ok(());
    }
    println!("{figures}");
    println!("A new policy, from its manifest's rename to the first connection let in; and what the agent holds then:");
    for cost in &costs {
        println!("{:24}  {:>24} ms   {}", cost.setup, cost.in_force_ms.with_digits(1), cost.memory);
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

    /// The policies of the server.
    fn policies(self) -> String {
        let (policies, rules) = if matches!(self, Self::One | Self::Again) { (1, 1) } else { (POLICIES, RULES) };
        let networks = matches!(self, Self::Networks);
        manifests::list(manifests::server(policies, rules, if networks { network } else { somebody }))
    }
}

/// The peer of a rule that lets somebody else in, by address.
fn network(number: usize) -> Value {
    json!({ "ipBlock": { "cidr": format!("172.{}.{}.{}/32", 16 + (number >> 16), number >> 8 & 255, number & 255) } })
}

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
    memory: Memory,
}

impl Scale {
    /// Opens and closes the server some times, and leaves it open.
    fn costs(&self, changes: u32) -> Result<Cost> {
        let policies = self.kind.policies();
        let mut times = Vec::new();
        for _ in 0..changes {
            times.push(self.opened(&policies)?.as_secs_f64() * 1e3);
            self.tortie.cluster.remove("rules")?;
            self.tortie.door().until_connects(false, Instant::now())?;
        }
        self.opened(&policies)?;
        let agent = self.tortie.node.agent.pid().context("the agent has ended")?;
        Ok(Cost { setup: self.kind.name(), in_force_ms: Spread::of(times), memory: Memory::of(agent)? })
    }

    fn opened(&self, policies: &str) -> Result<Duration> {
        self.tortie.cluster.manifest("rules", policies)?;
        // The file is whole and in place: the clock starts.
        self.tortie.door().until_connects(true, Instant::now())
    }
}
