//! `tortie-bench`: what the packet's way and a pod's start cost, as ratios to the bare kernel.
//! In: the built programs. Out: a table, or JSON, of medians with their spread.
//! Invariant: every ratio compares two figures of the same round; rounds of all setups are interleaved in one run.
//! Never: judges; a figure is no test.

mod cni;
mod crowd;
mod figures;
mod rules;
mod setups;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use figures::Figures;
use setups::{Bare, Redirected, Routed, Setup, Tortie};
use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};
use tests::{
    Binaries,
    traffic::{self, Row},
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
    /// CNI ADD, alone and in crowds.
    Cni(cni::Cni),
}

#[derive(Debug, Args)]
struct Local {
    /// Rounds; each measures every row of every setup once.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Milliseconds a figure.
    #[arg(long, default_value_t = 500)]
    window: u64,
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
        Bench::Cni(cni) => {
            let bare = arguments.bare.as_ref().context("--bare: which program wires without an agent?")?;
            cni::run(cni, binaries(&arguments)?, bare)
        }
    }
}

fn run_local(arguments: &Arguments, local: &Local) -> Result<()> {
    let mut setups: Vec<Box<dyn Setup>> =
        vec![Box::new(Bare::create()?), Box::new(Redirected::create()?), Box::new(Routed::create()?)];
    if !local.without_agent {
        setups.push(Box::new(Tortie::create(binaries(arguments)?)?));
    }
    let figures = run(&setups, local)?;
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

/// All rounds. Each starts with another setup, so that none is always the first on a warm machine.
fn run(setups: &[Box<dyn Setup>], local: &Local) -> Result<Figures> {
    let window = Duration::from_millis(local.window);
    let mut figures = Figures::new(setups.iter().map(|setup| setup.name()).collect());
    for round in 0..local.rounds {
        progress(&format!("round {} of {}", round + 1, local.rounds));
        for row in Row::ALL {
            for place in 0..setups.len() {
                let index = (place + round as usize) % setups.len();
                figures.record(row, index, traffic::measure(setups[index].way(), row, window)?);
            }
        }
    }
    progress("");
    Ok(figures)
}

/// One line, written over the last one; only for somebody who watches.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}
