//! The programs on other kernels than this machine's: packet tests inside Debian's cloud kernels, under QEMU.
//! In: kernel series such as 6.1. Out: the tests' own lines, and what each kernel's verifier counted.
//! Invariant: nothing is installed and nothing of the host is seen inside; a machine that hangs ends after a bound.
//! Never: passes because a kernel could not be had, booted or heard.

mod budget;
mod cpio;
mod initrd;
mod kernel;

use crate::{
    paths::Paths,
    setup::is_root,
    step::{Console, Done},
};
use anyhow::{Context as _, Result, ensure};
use initrd::Initrd;
use kernel::Kernel;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The series that are tried unless others are named: the floor, and the next that Debian supports.
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// How long a machine may run, seconds. The emulator is about fifteen times slower than the machine it runs on.
const BOUND_S: u32 = 1800;
/// Memory of a machine, MB.
const MEMORY_MB: u32 = 1024;
/// What is repeated by the ten thousand on a real machine is shown by the hundred here: generated flows, mutated frames,
/// killed commits.
const FEWER: &str = "TORTIE_FLOWS=300 TORTIE_FRAMES=2000 TORTIE_KILLED_COMMITS=40";

/// What a run came to.
pub struct Outcome {
    /// The tests' lines, for whoever counts them.
    pub lines: Vec<String>,
    /// All of it went well.
    pub ok: bool,
}

/// What to run, and what to do with the counts.
#[derive(Default)]
pub struct Request {
    /// Kernel series; none: the usual ones.
    pub series: Vec<String>,
    /// Arguments for the test binary: names of tests.
    pub what: Vec<String>,
    /// Write the verifier's counts down as the new budget.
    pub write: bool,
}

/// What lies between the programs and the kernel: who verifies, attaches, keeps, and moves packets. What a packet is judged to be is the
/// stages' own, and the same on every kernel.
const AT_THE_KERNEL: [&str; 8] =
    ["verified", "attaching", "kept", "wire::", "receiving", "forwarding", "growing", "summed"];

/// What a change must pass: everything on the floor, and on the kernel after it what could differ there.
pub fn of_a_change() -> [Request; 2] {
    let [floor, next] = SERIES.map(|series| vec![series.to_owned()]);
    let what = AT_THE_KERNEL.map(str::to_owned).to_vec();
    [Request { series: floor, ..Request::default() }, Request { series: next, what, ..Request::default() }]
}

/// Runs the packet tests on each kernel.
pub fn run(paths: &Paths, console: &Console, request: &Request) -> Result<Outcome> {
    ensure!(is_root(), "the kernel's packages are unpacked with their owners and devices are made: run it as root");
    let series: Vec<&str> =
        if request.series.is_empty() { SERIES.to_vec() } else { request.series.iter().map(String::as_str).collect() };
    let binary = test_binary(paths, console)?;
    let mut outcome = Outcome { lines: Vec::new(), ok: true };
    for series in series {
        let kernel = kernel::find(paths, console, series)?;
        let done = boot(paths, console, &kernel, &binary, &request.what)?;
        let held = done.ok && budget::settle(paths, series, &done.lines, request)?;
        outcome.ok &= held;
        outcome.lines.extend(done.lines);
    }
    Ok(outcome)
}

/// The packet tests, built for this machine.
fn test_binary(paths: &Paths, console: &Console) -> Result<PathBuf> {
    let args =
        ["test", "--package", "tests", "--test", "packet", "--no-run", "--message-format", "json-render-diagnostics"];
    let lines = console.run("packet tests: build", &mut paths.cargo(&args))?;
    let path = lines.iter().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "packet" && message["executable"].is_string();
        is_it.then(|| PathBuf::from(message["executable"].as_str().unwrap_or_default()))
    });
    path.context("cargo does not say where it left the packet tests")
}

/// Boots one kernel, runs the tests in it, and waits for its end.
fn boot(paths: &Paths, console: &Console, kernel: &Kernel, binary: &Path, what: &[String]) -> Result<Done> {
    let initrd = initrd::path(paths, kernel);
    let made = Initrd::default().of(paths, kernel, binary, what)?;
    fs::write(&initrd, made).with_context(|| format!("{}: cannot be written", initrd.display()))?;
    let name = format!("packet tests on {}", kernel.release);
    let run = |name: &str, processors, well: fn(&[String]) -> bool| {
        console.judged(name, &mut machine(paths, kernel, &initrd, processors), |_, lines| well(lines))
    };
    let done = run(&name, 2, |lines| initrd::passed(lines) || is_torn(lines)).and_then(|done| match done {
        done if !is_torn(&done.lines) => Ok(done),
        _ => run(&format!("{name}, again, on one processor: the emulator tore the kernel's code"), 1, initrd::passed),
    });
    fs::remove_file(&initrd).with_context(|| format!("{}: cannot be removed", initrd.display()))?;
    done
}

/// Whether the machine ended because one of its processors ran into an instruction that the other was replacing: the kernel puts a
/// breakpoint there meanwhile, and takes it away only when no processor is at it. The emulator keeps translated code for longer.
fn is_torn(lines: &[String]) -> bool {
    !initrd::passed(lines) && lines.iter().any(|line| line.contains("Oops: int3"))
}

fn machine(paths: &Paths, kernel: &Kernel, initrd: &Path, processors: u32) -> Command {
    let mut command = paths.command("timeout");
    command.args(["--kill-after=5", &BOUND_S.to_string(), "qemu-system-x86_64"]);
    // Emulated whole: hardware virtualisation is not to be had everywhere, and hangs on some machines that offer it.
    command.args(["-accel", "tcg,thread=multi", "-smp", &processors.to_string(), "-m", &MEMORY_MB.to_string()]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    command.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr mitigations=off"]);
    command
}

#[cfg(test)]
mod tests {
    use super::is_torn;

    #[test]
    fn only_a_machine_that_ran_into_code_in_replacement_is_run_again_and_no_other_that_failed() {
        let of = |lines: &[&str]| is_torn(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        assert!(of(&["test a ... ok", "[   57.369756] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI"]));
        assert!(!of(&["test a ... FAILED", "tortie-vm: exit 101"]));
        assert!(!of(&["[   57.369756] Oops: 0002 [#1] PREEMPT SMP NOPTI"]), "any other fault is ours to find");
        assert!(!of(&["Oops: int3", "tortie-vm: exit 0"]), "it went well");
    }
}
