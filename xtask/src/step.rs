//! A step: one command, named before it runs, its result and seconds after.
//! In: a name and a command. Out: lines on standard output, or aside, on standard error; the command's output where
//! someone needs it.
//! Invariant: a failed step shows the tail of its log and where the whole log is.
//! Never: decides whether the next step runs.

use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// Lines of a failed step's log that are shown.
const TAIL: usize = 60;
/// Columns of a step's last line shown on a terminal while it runs.
const COLUMNS: usize = 100;

/// Where steps report.
pub struct Console {
    verbose: bool,
    terminal: bool,
    /// On standard error: standard output belongs to what the chore is asked for.
    aside: bool,
    /// Steps that went well are not named.
    quiet: bool,
    logs: PathBuf,
}

/// How a step ended.
pub struct Done {
    /// It exited with 0.
    pub ok: bool,
    /// Everything it wrote, by line.
    pub lines: Vec<String>,
}

impl Console {
    /// Reports to standard output; `verbose` shows all that the commands write; whole logs of failures go to `logs`.
    pub fn new(verbose: bool, logs: PathBuf) -> Self {
        Self { verbose, terminal: io::stdout().is_terminal(), aside: false, quiet: false, logs }
    }

    /// Reports to standard error instead.
    pub fn aside(self) -> Self {
        Self { terminal: io::stderr().is_terminal(), aside: true, ..self }
    }

    /// Names only steps that fail, unless everything is to be shown: for many small ones within one.
    pub fn quiet(&self) -> Self {
        Self { verbose: self.verbose, terminal: self.terminal, aside: self.aside, quiet: true, logs: self.logs.clone() }
    }

    /// Only what went wrong is to be shown.
    pub fn is_quiet(&self) -> bool {
        self.quiet && !self.verbose
    }

    /// Runs `command` as a step, and fails where it does.
    pub fn run(&self, name: &str, command: &mut Command) -> Result<Vec<String>> {
        let done = self.attempt(name, command)?;
        if !done.ok {
            bail!("{name}: failed (its output is above)");
        }
        Ok(done.lines)
    }

    /// Runs `command` as a step. An `Err` says that it could not be started.
    pub fn attempt(&self, name: &str, command: &mut Command) -> Result<Done> {
        self.judged(name, command, |status, _| status.success())
    }

    /// The same, where more than the exit code says whether it went well.
    pub fn judged(
        &self,
        name: &str,
        command: &mut Command,
        well: impl Fn(ExitStatus, &[String]) -> bool,
    ) -> Result<Done> {
        self.begin(name);
        let start = Instant::now();
        let (status, lines) = self.follow(command).with_context(|| format!("{name}: cannot be run"))?;
        let ok = well(status, &lines);
        self.end(name, ok, start.elapsed());
        if !ok {
            self.show_failure(name, &lines)?;
        }
        Ok(Done { ok, lines })
    }

    /// Runs `work` as a step of this process.
    pub fn inline<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.begin(name);
        let start = Instant::now();
        let result = work();
        self.end(name, result.is_ok(), start.elapsed());
        result
    }

    /// A step that found nothing to do.
    pub fn nothing_to_do(&self, name: &str) {
        self.say(&format!("  ok    {name}"));
    }

    fn begin(&self, name: &str) {
        if !self.is_quiet() {
            self.say(&format!("  ...   {name}"));
        }
    }

    fn end(&self, name: &str, ok: bool, took: Duration) {
        let word = if ok { "ok  " } else { "FAIL" };
        self.wipe();
        if !self.is_quiet() || !ok {
            self.say(&format!("  {word}  {name} ({:.1} s)", took.as_secs_f64()));
        }
    }

    fn follow(&self, command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
        let (reader, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child =
            command.spawn().with_context(|| format!("{}: cannot be started", command.get_program().display()))?;
        // The command holds the pipe's write ends until they are replaced: with them open the reader would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for line in io::BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut lines = Vec::new();
        let mut status = None;
        // A grandchild that outlives the command may keep the pipe open: once the command is gone, silence ends the step.
        while self.take_line(&receive, &mut lines, status.is_none()) {
            status = status.or(child.try_wait()?);
        }
        Ok((status.map_or_else(|| child.wait(), Ok)?, lines))
    }

    /// Takes one line if there is one. False: nothing more will come, or nothing came although the command had ended.
    fn take_line(&self, from: &Receiver<String>, lines: &mut Vec<String>, running: bool) -> bool {
        match from.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                self.show_line(&line);
                lines.push(line);
                true
            }
            Err(RecvTimeoutError::Timeout) => running,
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    fn show_line(&self, line: &str) {
        if self.verbose {
            self.say(line);
        } else if self.terminal {
            let text: String = line.chars().filter(|c| !c.is_control()).take(COLUMNS).collect();
            self.write(&format!("\r\x1b[K        {text}"));
        }
    }

    fn say(&self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    fn write(&self, text: &str) {
        if self.aside {
            eprint!("{text}");
        } else {
            print!("{text}");
            // A progress line that cannot be shown is no reason to stop.
            let _ = io::stdout().flush();
        }
    }

    fn wipe(&self) {
        if self.terminal && !self.verbose {
            self.write("\r\x1b[K");
        }
    }

    fn show_failure(&self, name: &str, lines: &[String]) -> Result<()> {
        if !self.verbose {
            for line in excerpt(lines) {
                self.say(&format!("        {line}"));
            }
        }
        let file = self.logs.join(format!("{}.log", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
        fs::create_dir_all(&self.logs).with_context(|| format!("{}: cannot be created", self.logs.display()))?;
        fs::write(&file, lines.join("\n")).with_context(|| format!("{}: cannot be written", file.display()))?;
        self.say(&format!("        whole log: {}", file.display()));
        Ok(())
    }
}

/// What someone needs of a failed step's output: the reports of failed tests if there are any, else the end.
fn excerpt(lines: &[String]) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in lines {
        let ends = line.starts_with("test result: FAILED");
        inside |= line == "failures:" || ends;
        if inside {
            kept.push(line.as_str());
        }
        inside &= !ends;
    }
    if kept.is_empty() {
        kept = lines.iter().map(String::as_str).filter(|line| !is_progress(line)).collect();
        kept.drain(..kept.len().saturating_sub(TAIL));
    }
    kept
}

/// What cargo says while all is well.
fn is_progress(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    line.starts_with(' ')
        && ["Compiling", "Checking", "Downloading", "Downloaded", "Blocking", "Running", "Locking"].contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, name: &str) -> (Done, PathBuf) {
        let logs = std::env::temp_dir().join(format!("xtask-step-{}", std::process::id()));
        let done = Console::new(false, logs.clone()).attempt(name, Command::new("sh").args(["-c", script]));
        (done.expect("sh can be started"), logs)
    }

    #[test]
    fn both_streams_of_a_command_are_kept() {
        let (done, _) = run("echo out; echo err >&2", "both streams");
        assert!(done.ok);
        assert_eq!(done.lines, ["out", "err"]);
    }

    #[test]
    fn a_failed_command_leaves_its_whole_log() {
        let (done, logs) = run("seq 1 200; exit 3", "long and failed");
        assert!(!done.ok);
        let log = fs::read_to_string(logs.join("long-and-failed.log")).expect("the log was written");
        assert_eq!(log.lines().count(), 200);
        fs::remove_dir_all(logs).expect("the logs can be removed");
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_does_not_hold_up_the_step() {
        let (done, _) = run("sleep 100 >&1 & echo pid $!", "grandchild");
        assert!(done.ok);
        let pid = done.lines[0].strip_prefix("pid ").expect("the first line names the grandchild");
        assert!(Command::new("kill").arg(pid).status().expect("kill can be started").success());
    }

    #[test]
    fn the_reports_of_failed_tests_are_what_is_shown() {
        let output = "Compiling\ntest a ... FAILED\nfailures:\n---- a\ntest result: FAILED. 0 passed\nRunning b\nok";
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        assert_eq!(excerpt(&lines), ["failures:", "---- a", "test result: FAILED. 0 passed"]);
    }

    #[test]
    fn what_was_compiled_before_an_error_is_not_shown() {
        let lines: Vec<String> = ["   Compiling a v1.0", "error: no", "  --> Checking.rs:1"].map(str::to_owned).into();
        assert_eq!(excerpt(&lines), ["error: no", "  --> Checking.rs:1"]);
    }

    #[test]
    fn without_failed_tests_the_end_is_shown() {
        let lines: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(excerpt(&lines).first(), Some(&"40"));
        assert_eq!(excerpt(&lines).len(), TAIL);
    }
}
