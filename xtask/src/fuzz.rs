//! Fuzzing: the targets of `tests/fuzz` under libFuzzer, with coverage.
//! In: a target, and how long. Out: what libFuzzer says of its run; an input that breaks a promise, as a line to keep.
//! Invariant: a run by count is the same every time: same seed, same corpus, no clock.
//! Never: changes the committed corpus unless asked to keep what it found.

use crate::{ebpf, paths::Paths, step::Console};
use anyhow::{Context as _, Result, bail};
use std::{fs, path::PathBuf, process::Command};

/// Each target, and the inputs it gets in a test run: some seconds' worth.
pub const TARGETS: [(&str, u64); 6] = [
    ("manifest", 10_000),
    ("parse", 300_000),
    ("protocol", 100_000),
    ("selector", 200_000),
    ("state", 25_000),
    ("stdin", 100_000),
];

/// A profile of its own, so that the libraries' checks are in and the code is fast.
const PROFILE: &str = "fuzz";

/// How long.
#[derive(Clone, Copy)]
pub enum Effort {
    /// So many inputs.
    Runs(u64),
    /// So many seconds.
    Seconds(u64),
}

/// The packets of the target `parse` through the real programs: a packet test, since that needs root and a kernel.
pub const PROGRAM: &str = "program";

/// Runs one target for as long as asked; with `keep`, what it found goes into the committed corpus.
pub fn fuzz(paths: &Paths, console: &Console, target: &str, effort: Effort, keep: bool) -> Result<()> {
    if target == PROGRAM {
        return program(paths, console, effort);
    }
    if !TARGETS.iter().any(|(known, _)| *known == target) {
        let known = TARGETS.map(|(name, _)| name).join(", ");
        bail!("no fuzz target {target}; there are {known}, {PROGRAM}");
    }
    build(paths, console)?;
    let folders = Folders::of(paths, target);
    println!("        {}", run(paths, console, target, effort, &folders)?);
    if keep { merge(paths, console, target, &folders) } else { Ok(()) }
}

fn program(paths: &Paths, console: &Console, effort: Effort) -> Result<()> {
    ebpf::build(paths, console, false)?;
    let mut command =
        paths.cargo(&["test", "--package", "tests", "--test", "packet", "--", "mutants", "--show-output"]);
    if let Effort::Seconds(seconds) = effort {
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
        command.env("TORTIE_FUZZ_SECONDS", seconds.to_string()).env("TORTIE_SEED", seed.to_string());
    }
    let lines = console.run("fuzz program", &mut command)?;
    lines
        .iter()
        .filter(|line| line.starts_with("seed ") || line.contains(" frames; "))
        .for_each(|line| println!("        {line}"));
    Ok(())
}

/// Builds the targets, instrumented.
pub fn build(paths: &Paths, console: &Console) -> Result<()> {
    console.run("fuzz targets", &mut cargo(paths))?;
    console.run("fuzz corpus", &mut paths.cargo(&["build", "--package", "fuzz", "--bin", "tortie-corpus"]))?;
    Ok(())
}

/// Runs a target by count, as a test; says how far it came.
pub fn test(paths: &Paths, console: &Console, target: &str, runs: u64) -> Result<String> {
    let folders = Folders::of(paths, target);
    // What earlier runs found would make this run another than everybody's.
    clear(&folders.found)?;
    run(paths, console, target, Effort::Runs(runs), &folders)
}

/// Where a target works.
struct Folders {
    /// The committed corpus and regressions, unpacked.
    known: PathBuf,
    /// New inputs of interest.
    found: PathBuf,
    /// Inputs that break a promise.
    broken: PathBuf,
}

impl Folders {
    fn of(paths: &Paths, target: &str) -> Self {
        let own = paths.target.join("fuzz").join(target);
        Self { known: own.join("known"), found: own.join("found"), broken: own.join("broken") }
    }
}

fn clear(folder: &PathBuf) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("{}: cannot be emptied", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))
}

/// Only what is built for the target is instrumented: not the build scripts, not the macros.
fn machine() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn engine(paths: &Paths, target: &str) -> Command {
    let folder = paths.target.join("fuzz/build").join(machine()).join(PROFILE);
    let mut command = paths.command(&folder.join("tortie-fuzz").to_string_lossy());
    command.env("TORTIE_FUZZ_TARGET", target).env("RUST_BACKTRACE", "0").args(["-seed=1", "-rss_limit_mb=1024"]);
    command
}

fn corpus(paths: &Paths, args: &[&str]) -> Command {
    let mut command = paths.command(&paths.target.join("debug/tortie-corpus").to_string_lossy());
    command.args(args);
    command
}

fn cargo(paths: &Paths) -> Command {
    // What `cargo fuzz` sets (cargo-fuzz, src/project.rs), but for the sanitizers, which the pinned compiler lacks.
    let flags = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
    ];
    let mut command = paths.cargo(&["build", "--package", "fuzz", "--bin", "tortie-fuzz", "--features", "engine"]);
    command
        .args(["--profile", PROFILE, "--target", &machine(), "--target-dir"])
        .arg(paths.target.join("fuzz/build"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS");
    command
}

fn run(paths: &Paths, console: &Console, target: &str, effort: Effort, folders: &Folders) -> Result<String> {
    clear(&folders.known)?;
    clear(&folders.broken)?;
    fs::create_dir_all(&folders.found).with_context(|| format!("{}: cannot be made", folders.found.display()))?;
    console.run(&format!("fuzz {target}: corpus"), corpus(paths, &["unpack", target]).arg(&folders.known))?;
    let mut command = engine(paths, target);
    match effort {
        Effort::Runs(runs) => command.arg(format!("-runs={runs}")),
        Effort::Seconds(seconds) => command.arg(format!("-max_total_time={seconds}")),
    };
    command.arg(format!("-artifact_prefix={}/", folders.broken.display())).arg(&folders.found).arg(&folders.known);
    let done = console.attempt(&format!("fuzz {target}"), &mut command)?;
    if !done.ok {
        return Err(broken(paths, target, folders)?);
    }
    let last =
        done.lines.iter().rev().find(|line| line.contains("DONE")).context("libFuzzer did not say that it was done")?;
    Ok(last.trim_start_matches('#').to_owned())
}

/// Says what to do about the inputs that broke something.
fn broken(paths: &Paths, target: &str, folders: &Folders) -> Result<anyhow::Error> {
    let mut lines = String::new();
    for entry in fs::read_dir(&folders.broken)? {
        let output = corpus(paths, &["line"]).arg(entry?.path()).output()?;
        lines.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(anyhow::anyhow!(
        "fuzz {target}: fix it, and add to tests/fuzz/regressions/{target}.txt, under a remark:\n{lines}"
    ))
}

/// The smallest corpus that reaches every place that was reached, how often ever, becomes the committed one.
fn merge(paths: &Paths, console: &Console, target: &str, folders: &Folders) -> Result<()> {
    let merged = paths.target.join("fuzz").join(target).join("merged");
    clear(&merged)?;
    let mut command = engine(paths, target);
    command.args(["-set_cover_merge=1", "-use_counters=0"]).arg(&merged).arg(&folders.known);
    console.run(&format!("fuzz {target}: merge"), command.arg(&folders.found))?;
    console.run(&format!("fuzz {target}: pack"), corpus(paths, &["pack", target]).arg(&merged))?;
    Ok(())
}
