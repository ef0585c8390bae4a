//! `tortie-demo`: one node or two, real pods, joined and policed by eBPF, in front of your eyes.
//! In: the built programs. Out: a story on standard output; exit 0 if all of it came true.
//! Invariant: whatever was made is removed again, also on failure and on an interrupt, unless `--keep` asks for it.
//! Never: touches an interface, a rule or a file that it did not make.

mod keep;
mod nodes;
mod service;
mod stage;
mod story;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use stage::Stage;
use std::{path::PathBuf, process::ExitCode, sync::atomic::Ordering};
use tests::{Binaries, wait::INTERRUPTED};

/// Shows Tortie at work: on one node with five pods, or on two.
#[derive(Debug, Parser)]
#[command(name = "tortie-demo")]
struct Arguments {
    /// The agent.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The CNI binary.
    #[arg(long)]
    cni: Option<PathBuf>,
    /// How many nodes: what happens on one, or between two.
    #[arg(long, value_name = "1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nodes: u8,
    /// Leave everything up to play with, and say how: of one node.
    #[arg(long, conflicts_with_all = ["remove", "nodes"])]
    keep: bool,
    /// Remove what `--keep` left.
    #[arg(long)]
    remove: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A pod's servers, as a process of their own.
    #[command(hide = true)]
    Serve {
        /// What they greet with.
        name: String,
        /// TCP ports.
        ports: Vec<u16>,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if INTERRUPTED.load(Ordering::Relaxed) => {
            eprintln!("\nInterrupted; everything is removed again.");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Command::Serve { name, ports }) = &arguments.command {
        return keep::serve(name, ports);
    }
    ensure!(rustix::process::getuid().is_root(), "the demo makes network namespaces: run it as root");
    if arguments.remove {
        return keep::remove();
    }
    on_interrupt()?;
    let binaries = match (&arguments.agent, &arguments.cni) {
        (Some(agent), Some(cni)) => Binaries::at(agent.clone(), cni.clone())?,
        _ => Binaries::find()?,
    };
    if arguments.nodes == 2 {
        return nodes::tell(binaries);
    }
    let mut stage = Stage::create(binaries, arguments.keep)?;
    story::tell(&mut stage).with_context(|| format!("the agent's log ends so:\n{}\n", stage.node.agent.log_tail()))?;
    if arguments.keep { keep::leave(stage) } else { story::close(stage) }
}

/// Interrupts end every wait; what was made is then removed on the way out.
fn on_interrupt() -> Result<()> {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is safe at any point of the program.
        let former = unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
        ensure!(former != libc::SIG_ERR, "catching signal {signal}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
