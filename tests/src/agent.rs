//! The agent as a process on one node.
//! In: the program, its arguments and the node's namespace. Out: a process that can be stopped, killed and started again.
//! Invariant: it dies with the test that started it, unless it is kept; its log is one file over all its lives.
//! Never: signals a process that it did not start.

use crate::{NetNs, wait};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
};

/// Lines of the log that an error shows.
const TAIL: usize = 60;

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    namespace: Arc<NetNs>,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
    outlives: bool,
    kept: bool,
}

impl Agent {
    /// Not started yet.
    #[must_use]
    pub fn new(namespace: Arc<NetNs>, program: &Path, arguments: Vec<OsString>, log: PathBuf) -> Self {
        Self { namespace, program: program.to_owned(), arguments, log, child: None, outlives: false, kept: false }
    }

    /// Replaces its arguments from the next start on.
    pub fn set_arguments(&mut self, arguments: Vec<OsString>) {
        self.arguments = arguments;
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// It will not die with the thread that starts it.
    pub fn outlive(&mut self) {
        self.outlives = true;
    }

    /// Lets it live on when the value is dropped; it was told to [`Agent::outlive`] before it was started.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Starts it. Whether it is ready is another question.
    ///
    /// # Errors
    /// It runs already, or the program cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("the agent runs already");
        }
        let log = File::options().create(true).append(true).open(&self.log).context("opening the agent's log")?;
        let mut command = self.namespace.command(&self.program)?;
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().context("duplicating the log")?).stderr(log);
        // An interrupt on the terminal is for the test, which then stops the agent.
        command.process_group(0);
        if !self.outlives {
            let die_together = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
            // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor takes a lock.
            unsafe { command.pre_exec(die_together) };
        }
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.program.display()))?);
        Ok(())
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended by itself, if it did.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait().context("asking for the agent's end"),
            None => Ok(None),
        }
    }

    /// Asks it to end and waits for it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Kills it on the spot.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid is a positive number")?;
        if child.try_wait()?.is_none() {
            kill_process(pid, signal).context("signalling the agent")?;
        }
        wait::wait_until("the agent ends", wait::PATIENCE, || Ok(child.try_wait()?.is_some()))?;
        self.child = None;
        Ok(())
    }

    /// What it wrote, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(child) = &mut self.child {
            // Already ended is ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
