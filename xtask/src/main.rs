//! Every chore of the project, one command each: `cargo xtask NAME`.
//! In: the command line. Out: named steps on standard output, exit code 0 only if all went well.
//! Invariant: a chore can be repeated; the second time it finds its work done.
//! Never: depends on a crate of this project, so that it builds before them.

mod ebpf;
mod paths;
mod step;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the kernel programs into the target folder's bpf/tortie.o.
    BuildEbpf {
        /// With log records on the packet's way (debug only).
        #[arg(long)]
        log: bool,
    },
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<()> {
    let paths = paths::Paths::find()?;
    let console = step::Console::new(false, paths.target.join("logs"));
    match chore {
        Chore::BuildEbpf { log } => println!("{}", ebpf::build(&paths, &console, log)?.display()),
    }
    Ok(())
}
