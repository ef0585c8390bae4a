//! The test levels: what runs in each, and how many tests passed and failed.
//! In: a level. Out: steps, and as the very last line "N passed, N failed".
//! Invariant: a step that fails without naming a failed test counts as one; a level that may not run has failed.
//! Never: stops at the first failure.

use crate::{
    bird, budget,
    build::{self, Programs},
    ebpf, fuzz, golang, image,
    paths::Paths,
    setup::is_root,
    step::Console,
    tidy, vm,
};
use anyhow::{Result, ensure};
use clap::ValueEnum;
use std::{
    env,
    process::{Child, Command, ExitCode, Stdio},
};

/// What a test needs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Nothing: the crates' own tests, formatting, lints, the house rules.
    Unit,
    /// A C++ compiler: the fuzz targets, a fixed number of inputs each.
    Fuzz,
    /// Root: the kernel programs, packet by packet.
    Packet,
    /// Root: agents, CNI binary and pods in namespaces.
    System,
    /// Root: agents and pods beside a real API server.
    Apiserver,
    /// Root: the kernel programs, agents and pods on older kernels, in emulated machines.
    Vm,
    /// Unit, fuzz, packet, system, apiserver and vm.
    All,
    /// Root, and an hour at most: the storms at length (kills, flips of policies), which no other level runs so long.
    Soak,
}

/// How long the storms are in a soak.
const SOAK: [(&str, &str); 3] = [("TORTIE_KILLS", "100"), ("TORTIE_FLIPS", "2000"), ("TORTIE_KILLED_COMMITS", "2000")];

/// Tests counted so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// One run of one or more levels.
struct Run<'a> {
    paths: &'a Paths,
    console: &'a Console,
    tally: Tally,
    /// The image, being built beside other tests.
    image: Option<Child>,
}

/// Runs a level, and prints the sum as the last line.
pub fn test(paths: &Paths, console: &Console, level: Level) -> ExitCode {
    let mut run = Run { paths, console, tally: Tally::default(), image: None };
    let wants = |one| level == one || level == Level::All;
    // The agent embeds the object, so even its own tests need it.
    run.work(|paths, console| ebpf::build(paths, console, false));
    if wants(Level::Unit) {
        run.unit();
    }
    if wants(Level::Fuzz) {
        run.fuzz();
    }
    if wants(Level::Packet) {
        run.packet();
    }
    if level == Level::All && is_root() {
        run.image = begin_image(paths);
    }
    if wants(Level::System) {
        run.system();
    }
    if wants(Level::Apiserver) {
        run.apiserver();
    }
    if wants(Level::Vm) {
        vm::of_a_change().iter().for_each(|request| run.other_kernels(request));
    }
    if level == Level::Soak {
        run.soak();
    }
    run.sum()
}

/// Runs tests on other kernels, and prints the sum as the last line.
pub fn vm(paths: &Paths, console: &Console, request: &vm::Request) -> ExitCode {
    let mut run = Run { paths, console, tally: Tally::default(), image: None };
    run.work(|paths, console| ebpf::build(paths, console, false));
    run.other_kernels(request);
    run.sum()
}

impl Run<'_> {
    fn sum(&self) -> ExitCode {
        println!("{} passed, {} failed", self.tally.passed, self.tally.failed);
        if self.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn unit(&mut self) {
        let Self { paths, console, .. } = *self;
        self.single(console.inline("house rules", || tidy::tidy(paths)));
        self.checked("formatting", &["fmt", "--all", "--check", "--", "--color", "never"]);
        let lints = ["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"];
        self.checked("lints", &lints);
        self.counted("unit tests", paths.cargo(&["test", "--no-fail-fast"]));
        self.counted("unit tests of the stages", paths.cargo(&["test", "--package", "ebpf", "--lib"]));
    }

    fn fuzz(&mut self) {
        self.work(fuzz::build);
        for (target, runs) in fuzz::TARGETS {
            let result = fuzz::test(self.paths, self.console, target, runs);
            match &result {
                Ok(done) => println!("        {done}"),
                Err(error) => println!("        {error:#}"),
            }
            self.single(result);
        }
    }

    fn packet(&mut self) {
        let Self { paths, console, .. } = *self;
        let held = || budget::budget(paths, &console.quiet(), false).and_then(ensure_within);
        self.single(console.inline("budget of the packets' ways", held));
        if self.may("packet tests") {
            self.counted("packet tests", self.kernel_tests("packet"));
        }
    }

    fn soak(&mut self) {
        if !self.may("soak") {
            return;
        }
        self.build();
        for (binary, filter) in [("packet", "storms::"), ("system", "restart_storm::")] {
            let mut tests = self.kernel_tests(binary);
            tests.arg(filter).envs(SOAK);
            self.counted(&format!("{binary} storms"), tests);
        }
    }

    fn build(&mut self) {
        for (name, args) in build::steps() {
            let paths = self.paths;
            self.work(|_, console| console.run(name, &mut paths.cargo(args)));
        }
    }

    fn system(&mut self) {
        if !self.may("system tests") {
            return;
        }
        self.build();
        self.work(golang::cnitool);
        self.work(golang::kube_proxy);
        self.work(bird::bird);
        let mut tests = self.kernel_tests("system");
        // They wait for agents and for silence more than they compute.
        tests.arg("--test-threads").arg((2 * cores()).to_string());
        self.counted("system tests", tests);
    }

    fn apiserver(&mut self) {
        if !self.may("tests on an API server") {
            return;
        }
        self.build();
        self.work(golang::control_plane);
        self.work(golang::whole_node);
        if let Some(mut begun) = self.image.take() {
            // What went wrong is told where it is built for good.
            let _ = begun.wait();
        }
        self.work(image::build);
        let mut tests = self.kernel_tests("apiserver");
        // Each has a control plane of its own, which takes most of a processor while it starts, and little afterwards.
        tests.arg("--test-threads").arg((cores() + 1).to_string());
        self.counted("tests on an API server", tests);
    }

    fn other_kernels(&mut self, request: &vm::Request) {
        if !self.may("tests on other kernels") {
            return;
        }
        let (ok, lines) = match vm::run(self.paths, self.console, request) {
            Ok(outcome) => (outcome.ok, outcome.lines),
            Err(error) => {
                println!("        {error:#}");
                (false, Vec::new())
            }
        };
        self.add(ok, &lines);
    }

    fn kernel_tests(&self, binary: &str) -> Command {
        let programs = Programs::of(self.paths);
        let mut command = self.paths.cargo(&["test", "--package", "tests", "--test", binary, "--", "--show-output"]);
        command.env("TORTIE_AGENT", programs.agent).env("TORTIE_CNI", programs.cni);
        command.env("TORTIE_CNITOOL", golang::cnitool_path(self.paths));
        command.env("TORTIE_KUBERNETES", golang::kubernetes_dir(self.paths));
        command.env("TORTIE_IMAGE", image::path(self.paths));
        command.envs(bird::path(self.paths).map(|path| ("TORTIE_BIRD", path)));
        command
    }

    /// Without root a level fails: a skipped test would look like one that passed.
    fn may(&mut self, level: &str) -> bool {
        if !is_root() {
            println!("  FAIL  {level}: they load kernel programs and make namespaces; run them as root");
            self.tally.failed += 1;
        }
        is_root()
    }

    /// A step that counts as one test.
    fn checked(&mut self, name: &str, args: &[&str]) {
        let result = self.console.run(name, &mut self.paths.cargo(args));
        self.single(result);
    }

    fn single<T>(&mut self, result: Result<T>) {
        match result {
            Ok(_) => self.tally.passed += 1,
            Err(_) => self.tally.failed += 1,
        }
    }

    /// A step that is no test, but without which tests cannot be right.
    fn work<T>(&mut self, step: impl FnOnce(&Paths, &Console) -> Result<T>) {
        if let Err(error) = step(self.paths, self.console) {
            println!("        {error:#}");
            self.tally.failed += 1;
        }
    }

    /// A step that runs tests and says how many.
    fn counted(&mut self, name: &str, mut command: Command) {
        let (ok, lines) = match self.console.attempt(name, &mut command) {
            Ok(done) => (done.ok, done.lines),
            Err(error) => (false, vec![format!("{error:#}")]),
        };
        self.add(ok, &lines);
    }

    /// Counts what test binaries said. A step that failed without naming a failed test counts as one.
    fn add(&mut self, ok: bool, lines: &[String]) {
        let mut tally = count(lines);
        if !ok && tally.failed == 0 {
            tally.failed = 1;
        }
        // A random test is worth repeating only with its seed.
        for seed in lines.iter().filter(|line| line.starts_with("seed ")) {
            println!("        {seed}");
        }
        println!("        {} passed, {} failed", tally.passed, tally.failed);
        self.tally.passed += tally.passed;
        self.tally.failed += tally.failed;
    }
}

/// The agent as it is shipped takes one processor minutes, and the system tests wait more than they compute: one beside the other.
fn begin_image(paths: &Paths) -> Option<Child> {
    let mut build = paths.command("nice");
    build.args(["-n", "19"]).arg(env::current_exe().ok()?).arg("image");
    build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn ensure_within(held: bool) -> Result<()> {
    ensure!(held, "a packet's way costs more than ebpf/budget.toml allows");
    Ok(())
}

/// Sums the result lines of test binaries.
fn count(lines: &[String]) -> Tally {
    let mut tally = Tally::default();
    for line in lines {
        let Some((_, counts)) = line.trim_end().strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            continue;
        };
        for part in counts.split("; ") {
            match part.split_once(' ').and_then(|(number, what)| Some((number.parse::<u64>().ok()?, what))) {
                Some((number, "passed")) => tally.passed += number,
                Some((number, "failed")) => tally.failed += number,
                _ => {}
            }
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn result_lines_of_several_binaries_are_summed() {
        let output = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 4 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(count(&lines(output)), Tally { passed: 7, failed: 2 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(
            count(&lines("test a::b ... ok\nmy test result: ok. 3 passed\n3 passed; 1 failed")),
            Tally::default()
        );
    }
}
