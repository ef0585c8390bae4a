//! Everything that the demo, the benches and the system tests run.
//! In: the tree. Out: [`Programs`], where they are.
//! Invariant: the kernel programs come first, because the agent embeds them; benches run what users would run.
//! Never: installs anything.

use crate::{ebpf, paths::Paths, step::Console};
use anyhow::Result;
use std::path::PathBuf;

const MUSL: &str = "x86_64-unknown-linux-musl";
const CNI_BINARY: (&str, &[&str]) = (
    "build the CNI binary",
    &["build", "--package", "cni", "--bin", "tortie-cni", "--target", MUSL, "--profile", "cni"],
);

/// The programs as they were built.
pub struct Programs {
    /// The agent, `tortie`.
    pub agent: PathBuf,
    /// The CNI binary, `tortie-cni`: static.
    pub cni: PathBuf,
    /// `tortie-demo`.
    pub demo: PathBuf,
}

/// What is measured, and by what: all of it as users get it.
pub struct Measured {
    /// The agent, as the image has it: static.
    pub agent: PathBuf,
    /// The CNI binary: static.
    pub cni: PathBuf,
    /// What wires a pod and does nothing else: static, as the CNI binary.
    pub bare: PathBuf,
    /// `tortie-bench`, optimised.
    pub bench: PathBuf,
}

impl Measured {
    /// Where the builds leave them.
    pub fn of(paths: &Paths) -> Self {
        let (release, cni) = (paths.target.join("release"), paths.target.join(MUSL).join("cni"));
        Self {
            agent: paths.target.join(MUSL).join("release/tortie"),
            cni: cni.join("tortie-cni"),
            bare: cni.join("examples/wire"),
            bench: release.join("tortie-bench"),
        }
    }
}

/// Builds what is measured.
pub fn measured(paths: &Paths, console: &Console) -> Result<Measured> {
    ebpf::build(paths, console, false)?;
    agent(paths, console)?;
    for (name, args) in [
        CNI_BINARY,
        (
            "build the bare wiring",
            &["build", "--package", "netlink", "--example", "wire", "--target", MUSL, "--profile", "cni"],
        ),
        ("build the benches, optimised", &["build", "--package", "tests", "--bin", "tortie-bench", "--release"]),
    ] {
        console.run(name, &mut paths.cargo(args))?;
    }
    Ok(Measured::of(paths))
}

/// The agent as it is shipped: optimised, static, without the names of its functions, which are a tenth of it.
fn agent(paths: &Paths, console: &Console) -> Result<()> {
    let stripped = ["--", "-C", "strip=symbols"];
    let build = ["rustc", "--package", "agent", "--bin", "tortie", "--release", "--target", MUSL];
    let mut build = paths.cargo(&[&build[..], &stripped].concat());
    // What is C in it asks little of a C library, and that is in both.
    build.env("CC_x86_64_unknown_linux_musl", "gcc");
    console.run("build the agent, optimised and static", &mut build)?;
    Ok(())
}

/// Builds what is shipped: the agent and the CNI binary, static both. Says where they are.
pub fn shipped(paths: &Paths, console: &Console) -> Result<(PathBuf, PathBuf)> {
    agent(paths, console)?;
    console.run(CNI_BINARY.0, &mut paths.cargo(CNI_BINARY.1))?;
    let built = paths.target.join(MUSL);
    Ok((built.join("release/tortie"), built.join("cni/tortie-cni")))
}

impl Programs {
    /// Where the builds leave them.
    pub fn of(paths: &Paths) -> Self {
        let debug = paths.target.join("debug");
        Self {
            agent: debug.join("tortie"),
            cni: paths.target.join(MUSL).join("cni/tortie-cni"),
            demo: debug.join("tortie-demo"),
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
        CNI_BINARY,
        ("build the demo", &["build", "--package", "tests", "--bin", "tortie-demo"]),
    ]
}

/// Says where the programs are.
pub fn print(paths: &Paths, programs: &Programs) {
    println!("        kernel programs  {}", paths.object().display());
    println!("        agent            {}", programs.agent.display());
    println!("        CNI binary       {}", programs.cni.display());
    println!("        demo             {}", programs.demo.display());
}
