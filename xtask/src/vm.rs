//! Tortie on other kernels than this machine's: packet tests, or agents and pods, inside Debian's cloud kernels, under QEMU.
//! In: kernel series such as 6.1. Out: the tests' own lines, and what each kernel's verifier counted.
//! Invariant: nothing is installed and nothing of the host is seen inside; a machine that hangs ends after a bound.
//! Never: passes because a kernel could not be had, booted or heard.

mod budget;
mod cpio;
mod guest;
mod initrd;
mod kernel;

use crate::{
    paths::Paths,
    setup::is_root,
    step::{Console, Done},
};
use anyhow::{Context as _, Result, ensure};
use guest::Guest;
pub use guest::Suite;
use initrd::Initrd;
use kernel::Kernel;
use std::{fs, path::Path, process::Command};

/// The series that are tried unless others are named: the floor, and the next that Debian supports.
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// How long a machine may run, seconds. The emulator is about fifteen times slower than the machine it runs on.
const BOUND_S: u32 = 1800;
/// Memory of a machine, MB.
const MEMORY_MB: u32 = 2048;

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
    /// Which tests.
    pub suite: Suite,
    /// Arguments for the test binary: names of tests.
    pub what: Vec<String>,
    /// Write the verifier's counts down as the new budget.
    pub write: bool,
}

/// What lies between the programs and the kernel: who verifies, attaches, keeps, and moves packets. What a packet is judged to be is the
/// stages' own, and the same on every kernel.
const AT_THE_KERNEL: [&str; 8] =
    ["verified", "attaching", "kept", "wire::", "receiving", "forwarding", "growing", "summed"];

/// What a change must pass: all packets on the floor, on the kernel after it those that could differ there, and agents and pods.
pub fn of_a_change() -> [Request; 3] {
    let of = |series: &str, suite, what: &[&str]| Request {
        series: vec![series.to_owned()],
        suite,
        what: what.iter().map(|name| (*name).to_owned()).collect(),
        write: false,
    };
    let [floor, next] = SERIES;
    [of(floor, Suite::Packets, &[]), of(next, Suite::Packets, &AT_THE_KERNEL), of(next, Suite::Nodes, &[])]
}

/// Runs the tests on each kernel.
pub fn run(paths: &Paths, console: &Console, request: &Request) -> Result<Outcome> {
    ensure!(is_root(), "the kernel's packages are unpacked with their owners and devices are made: run it as root");
    let series: Vec<&str> =
        if request.series.is_empty() { SERIES.to_vec() } else { request.series.iter().map(String::as_str).collect() };
    let guest = Guest::of(paths, console, request)?;
    let mut outcome = Outcome { lines: Vec::new(), ok: true };
    for series in series {
        let kernel = kernel::find(paths, console, series)?;
        let done = boot(paths, console, &kernel, &guest)?;
        let held = done.ok && (request.suite == Suite::Nodes || budget::settle(paths, series, &done.lines, request)?);
        outcome.ok &= held;
        outcome.lines.extend(done.lines);
    }
    Ok(outcome)
}

/// Boots one kernel, runs the tests in it, and waits for its end.
fn boot(paths: &Paths, console: &Console, kernel: &Kernel, guest: &Guest) -> Result<Done> {
    let initrd = initrd::path(paths, kernel);
    let made = Initrd::default().of(paths, kernel, guest)?;
    fs::write(&initrd, made).with_context(|| format!("{}: cannot be written", initrd.display()))?;
    let name = format!("{} on {}", guest.name, kernel.release);
    let run = |name: &str, processors, well: fn(&[String]) -> bool| {
        console.judged(name, &mut machine(paths, kernel, &initrd, processors), |_, lines| well(lines))
    };
    let done =
        run(&name, guest.processors, |lines| initrd::passed(lines) || is_torn(lines)).and_then(|done| match done {
            done if !is_torn(&done.lines) => Ok(done),
            _ => {
                run(&format!("{name}, again, on one processor: the emulator tore the kernel's code"), 1, initrd::passed)
            }
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
