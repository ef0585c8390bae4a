//! BIRD beside a test: routers of plain BIRD, and the end of those that agents have started.
//! In: a configuration; a node's state. Out: a router that runs until it is dropped; what it knows.
//! Invariant: no BIRD of a test outlives it, also when it fails: an agent's goes with its node, by the process it has noted.
//! Never: ends one that does not run with the socket it was asked about.

use crate::{NetNs, binaries, process};
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Child,
};

/// A router.
#[derive(Debug)]
pub struct Router {
    child: Child,
    socket: PathBuf,
}

impl Router {
    /// Starts it in a namespace, with its files in a folder.
    ///
    /// # Errors
    /// BIRD is not there.
    pub fn start(namespace: &NetNs, folder: &Path, configuration: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let [file, socket, pid] = ["bird.conf", "bird.ctl", "bird.pid"].map(|name| folder.join(name));
        fs::write(&file, configuration)?;
        let mut command = namespace.command(&binaries::bird()?)?;
        command.arg("-f").arg("-c").arg(file).arg("-s").arg(&socket).arg("-P").arg(pid);
        Ok(Self { child: process::started(command, &folder.join("router.log"))?, socket })
    }

    /// What it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn ask(&self, command: &str) -> Result<String> {
        ask(&self.socket, command)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

/// Asks a BIRD at its socket.
///
/// # Errors
/// It does not answer.
pub fn ask(socket: &Path, command: &str) -> Result<String> {
    let stream = UnixStream::connect(socket).with_context(|| format!("BIRD at {}", socket.display()))?;
    let mut reader = BufReader::new(stream);
    let mut answer = |asked: &str| -> Result<String> {
        if !asked.is_empty() {
            writeln!(reader.get_mut(), "{asked}")?;
        }
        let mut all = String::new();
        loop {
            let mut line = String::new();
            anyhow::ensure!(reader.read_line(&mut line)? > 0, "BIRD's answer has no end: {all}");
            all.push_str(&line);
            let mut letters = line.chars();
            if letters.by_ref().take(4).all(|letter| letter.is_ascii_digit()) && letters.next() == Some(' ') {
                return Ok(all);
            }
        }
    };
    answer("")?;
    answer(command)
}

/// The process of the BIRD that the agent of this state has started, if it runs.
#[must_use]
pub fn of_agent(state_dir: &Path) -> Option<u32> {
    let folder = state_dir.join("bird");
    let pid: u32 = fs::read_to_string(folder.join("bird.pid")).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let socket = folder.join("bird.ctl");
    let socket = socket.as_os_str().as_encoded_bytes();
    command.split(|byte| *byte == 0).any(|argument| argument == socket).then_some(pid)
}

/// Kills it, if it runs.
pub fn kill_of_agent(state_dir: &Path) {
    let pid = of_agent(state_dir).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    // Already ended is ended.
    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
}
