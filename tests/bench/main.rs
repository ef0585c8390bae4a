//! `tortie-bench`: what the packet's way and a pod's start cost, as ratios to the bare kernel.
//! In: the built programs. Out: a table, or JSON, of medians with their spread.
//! Invariant: every ratio compares two figures of the same round; rounds of all setups are interleaved in one run.
//! Never: judges; a figure is no test.

mod cni;
mod crowd;
mod door;
mod figures;
mod idle;
mod manifests;
mod memory;
mod mirror;
mod nodes;
mod policy;
mod rounds;
mod routes;
mod rules;
mod served;
mod services;
mod setups;
mod spent;

use ::tests::{Binaries, traffic::Row};
use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use rounds::Rounds;
use setups::{Bare, Redirected, Routed, SERVER, Setup, Tortie};
use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

/// Measures Tortie against what the bare kernel does.
#[derive(Debug, Parser)]
struct Arguments {
    /// The agent.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The CNI binary.
    #[arg(long)]
    cni: Option<PathBuf>,
    /// The bare wiring.
    #[arg(long)]
    bare: Option<PathBuf>,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Two policed pods on one node.
    Local(Local),
    /// Two policed pods, with one rule and with 12,500.
    Rules(rules::Rules),
    /// What policies cost: a connection, a change, a start, memory; on a node and in a cluster of many.
    Policy(policy::Policy),
    /// What packets to other nodes cost, and to who is outside.
    Nodes(nodes::Nodes),
    /// What other nodes cost: a start, a change of one of them, memory; with ten and with a thousand.
    Routes(routes::Routes),
    /// What services cost: a packet, a change, a start, memory; with one and with thousands.
    Services(services::Services),
    /// What an agent costs on a real API server, and how soon a policy that it took is in force.
    Served(served::Served),
    /// What a thousand watchers cost, directly and by a mirror.
    Mirror(mirror::Mirror),
    /// CNI ADD, alone and in crowds.
    Cni(cni::Cni),
    /// An agent while nothing happens, with no pods, few and many.
    Idle(idle::Idle),
}

#[derive(Debug, Args)]
struct Local {
    #[command(flatten)]
    rounds: Rounds,
    /// Only what needs no agent.
    #[arg(long)]
    without_agent: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.bench {
        Bench::Local(local) => run_local(&arguments, local),
        Bench::Rules(rules) => rules::run(rules, &binaries(&arguments)?),
        Bench::Policy(policy) => policy::run(policy, &binaries(&arguments)?),
        Bench::Nodes(nodes) => nodes::run(nodes, &binaries(&arguments)?),
        Bench::Routes(routes) => routes::run(routes, &binaries(&arguments)?),
        Bench::Services(services) => services::run(services, &binaries(&arguments)?),
        Bench::Served(served) => served::run(served, &binaries(&arguments)?),
        Bench::Mirror(mirror) => mirror::run(mirror, &binaries(&arguments)?),
        Bench::Cni(cni) => cni::run(cni, binaries(&arguments)?, bare(&arguments)?),
        Bench::Idle(idle) => idle::run(idle, binaries(&arguments)?, bare(&arguments)?),
    }
}

fn run_local(arguments: &Arguments, local: &Local) -> Result<()> {
    let mut setups: Vec<Box<dyn Setup>> =
        vec![Box::new(Bare::create()?), Box::new(Redirected::create()?), Box::new(Routed::create()?)];
    if !local.without_agent {
        let tortie = Tortie::create("Tortie, a policy at each end", "tortie", SERVER, binaries(arguments)?)?;
        setups.push(Box::new(tortie));
    }
    let figures = local.rounds.run(&Row::ALL, &setups.iter().map(Box::as_ref).collect::<Vec<_>>())?;
    if local.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{figures}");
    }
    Ok(())
}

fn binaries(arguments: &Arguments) -> Result<Binaries> {
    match (&arguments.agent, &arguments.cni) {
        (Some(agent), Some(cni)) => Binaries::at(agent.clone(), cni.clone()),
        _ => Binaries::find(),
    }
}

fn bare(arguments: &Arguments) -> Result<&Path> {
    arguments.bare.as_deref().context("--bare: which program wires without an agent?")
}

/// One line, written over the last one; only for somebody who watches.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}
