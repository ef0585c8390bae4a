//! Every chore of the project, one command each: `cargo xtask NAME`.
//! In: the command line. Out: named steps on standard output, exit code 0 only if all went well.
//! Invariant: a chore can be repeated; the second time it finds its work done.
//! Never: depends on a crate of this project, so that it builds before them.

mod bird;
mod budget;
mod build;
mod ceilings;
mod conformance;
mod crds;
mod ebpf;
mod fuzz;
mod golang;
mod image;
mod launch;
mod paths;
mod setup;
mod sources;
mod step;
mod test;
mod tidy;
mod vm;

use clap::{Parser, Subcommand};
use std::{ffi::OsString, process::ExitCode};

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    /// Show everything the steps write.
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what building and testing need; a second run finds nothing to do.
    Setup,
    /// Build the kernel programs into the target folder's bpf/tortie.o.
    BuildEbpf {
        /// With log records on the packet's way (debug only).
        #[arg(long)]
        log: bool,
    },
    /// Build everything that the demo and the tests use.
    Build,
    /// Build, then run the demo (root).
    Demo {
        /// Passed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the packet tests, or agents and pods, on other kernels, in emulated machines (root).
    Vm {
        /// Kernel series [default: 6.1 6.12].
        kernels: Vec<String>,
        /// Agents and pods instead of packets: the tests of devices that this machine's kernel may lack, and the system tests
        /// that are named.
        #[arg(long, conflicts_with = "write")]
        nodes: bool,
        /// Write what the verifiers counted into ebpf/budget.toml, as the new ceilings.
        #[arg(long)]
        write: bool,
        /// Passed on to the test binary: names of tests.
        #[arg(last = true)]
        what: Vec<String>,
    },
    /// Count what typical packets cost, against the ceilings in ebpf/budget.toml.
    Budget {
        /// Write the counts down as the new ceilings, and how long the live program takes (root).
        #[arg(long)]
        write: bool,
    },
    /// Run tests; "packet", "system", "vm" and "soak" need root.
    Test {
        /// What the tests may need.
        #[arg(default_value = "all")]
        level: test::Level,
    },
    /// Run one fuzz target of tests/fuzz under libFuzzer; "program" runs packets through the kernel (root).
    Fuzz {
        /// Which.
        target: String,
        /// For so long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// By count instead: the same run every time.
        #[arg(long, conflicts_with = "seconds")]
        runs: Option<u64>,
        /// Put what it finds into the committed corpus.
        #[arg(long)]
        keep: bool,
    },
    /// Build, then run the benches (root).
    Bench {
        /// Passed on to the benches.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check the house rules.
    Tidy,
    /// Write docs/conformance.md: which known behaviours which tests hold.
    Conformance,
    /// Write deploy/crds, the definitions of Calico's kinds, from the types by which they are read, and deploy/tortie.yaml.
    Crds,
    /// Build the container image, an OCI layout in one file, for `ctr image import`, `podman load` or `skopeo copy`.
    Image,
    /// What a change must pass: setup, then every test.
    Ci,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.chore, cli.verbose) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore, verbose: bool) -> anyhow::Result<ExitCode> {
    let paths = paths::Paths::find()?;
    let console = step::Console::new(verbose, paths.target.join("logs"));
    match chore {
        Chore::Setup => setup::setup(&paths, &console)?,
        Chore::BuildEbpf { log } => println!("{}", ebpf::build(&paths, &console, log)?.display()),
        Chore::Build => build::print(&paths, &build::build(&paths, &console)?),
        Chore::Demo { args } => launch::demo(&paths, &console, &args)?,
        Chore::Budget { write } => return Ok(within(budget::budget(&paths, &console, write)?)),
        Chore::Test { level } => return Ok(test::test(&paths, &console, level)),
        Chore::Vm { kernels: series, nodes, write, what } => {
            let suite = if nodes { vm::Suite::Nodes } else { vm::Suite::Packets };
            return Ok(test::vm(&paths, &console, &vm::Request { series, suite, what, write }));
        }
        Chore::Fuzz { target, seconds, runs, keep } => {
            let effort = runs.map_or(fuzz::Effort::Seconds(seconds), fuzz::Effort::Runs);
            fuzz::fuzz(&paths, &console, &target, effort, keep)?;
        }
        // So that `cargo xtask bench local --json` is JSON only.
        Chore::Bench { args } => launch::bench(&paths, &console.aside(), &args)?,
        Chore::Tidy => console.inline("house rules", || tidy::tidy(&paths))?,
        Chore::Conformance => conformance::write(&paths, &console)?,
        Chore::Crds => crds::write(&paths, &console)?,
        Chore::Image => println!("{}", image::build(&paths, &console)?.display()),
        Chore::Ci => {
            setup::setup(&paths, &console)?;
            return Ok(test::test(&paths, &console, test::Level::All));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn within(held: bool) -> ExitCode {
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
