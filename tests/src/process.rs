//! Other people's programs beside a test: started with a log of their own.
//! In: a command, a file. Out: a process, and the end of what it wrote.
//! Invariant: it dies with the thread that started it, and hears no interrupt of the terminal.
//! Never: ends one that nobody asks it to end.

use crate::wait;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Lines of a log that an error shows.
const TAIL: usize = 30;

/// Starts it; what it says is added to the log.
///
/// # Errors
/// It cannot be started.
pub fn started(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log).context("opening a log")?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let die_together = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
    // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(die_together) };
    let program = command.get_program().display().to_string();
    command.spawn().with_context(|| format!("starting {program}"))
}

/// Asks it to end, and kills it if it does not.
pub fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Already ended is ended.
    let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    if wait::wait_until("it ends", wait::PATIENCE, || Ok(child.try_wait()?.is_some())).is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The end of a log.
#[must_use]
pub fn log_tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// A kubeconfig for one cluster and one user.
#[must_use]
pub fn kubeconfig(cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    })
}
