//! Everything that the demo, the benches and the system tests run.
//! In: the tree. Out: [`Programs`], where they are.
//! Invariant: the kernel programs come first, because the agent embeds them.
//! Never: installs anything.

use crate::{ebpf, paths::Paths, step::Console};
use anyhow::Result;
use std::path::PathBuf;

const MUSL: &str = "x86_64-unknown-linux-musl";

/// The programs as they were built.
pub struct Programs {
    /// The agent, `tortie`.
    pub agent: PathBuf,
    /// The CNI binary, `tortie-cni`: static.
    pub cni: PathBuf,
    /// `tortie-demo`.
    pub demo: PathBuf,
    /// `tortie-bench`.
    pub bench: PathBuf,
}

impl Programs {
    /// Where the builds leave them.
    pub fn of(paths: &Paths) -> Self {
        let debug = paths.target.join("debug");
        Self {
            agent: debug.join("tortie"),
            cni: paths.target.join(MUSL).join("cni/tortie-cni"),
            demo: debug.join("tortie-demo"),
            bench: debug.join("tortie-bench"),
        }
    }
}

/// Builds all of it.
pub fn build(paths: &Paths, console: &Console) -> Result<Programs> {
    ebpf::build(paths, console, false)?;
    for (name, args) in steps() {
        console.run(name, &mut paths.cargo(args))?;
    }
    Ok(Programs::of(paths))
}

/// The builds for the host, by name.
pub fn steps() -> [(&'static str, &'static [&'static str]); 3] {
    [
        ("build the agent", &["build", "--package", "agent"]),
        (
            "build the CNI binary",
            &["build", "--package", "cni", "--bin", "tortie-cni", "--target", MUSL, "--profile", "cni"],
        ),
        ("build demo and bench", &["build", "--package", "tests", "--bins"]),
    ]
}

/// Says where the programs are.
pub fn print(paths: &Paths, programs: &Programs) {
    println!("        kernel programs  {}", paths.object().display());
    println!("        agent            {}", programs.agent.display());
    println!("        CNI binary       {}", programs.cni.display());
    println!("        demo             {}", programs.demo.display());
    println!("        bench            {}", programs.bench.display());
}
