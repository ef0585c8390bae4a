//! The program `bird`.
//! In: where it is. Out: its version, its word on a configuration, a process.
//! Invariant: it goes into the background by itself: no child of the agent's is left to wait for.
//! Never: a version that reads configurations of another language.

use super::files::Files;
use bgp::answer;
use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Where Debian has it, which is not on everybody's search path.
const PLACES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];
/// The language of its configurations that is written here.
const MAJOR: u32 = 2;

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{program} cannot be started: {source}; install BIRD 2, or name it by the setting bird", program = .0.display(), source = .1)]
    Absent(PathBuf, io::Error),
    #[error("{} is of version {}: BIRD 2 is needed", .0.display(), .1)]
    Version(PathBuf, String),
    #[error("{} says no version of BIRD; name BIRD 2 by the setting bird", .0.display())]
    Unknown(PathBuf),
    #[error("refuses its configuration, and keeps the former: {0}")]
    Refused(String),
    #[error("cannot be started: {0}")]
    Start(String),
    #[error("process {0} runs with our socket and does not answer there")]
    Silent(u32),
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    #[error("does not answer: {0}")]
    Answer(io::Error),
    #[error("{0}")]
    Rests(String),
}

#[derive(Clone, Debug)]
pub struct Program(PathBuf);

impl Program {
    /// A name without a folder is looked for where it may be, too.
    pub fn find(given: &Path) -> Self {
        let elsewhere = || PLACES.iter().map(|place| Path::new(place).join(given)).find(|path| path.is_file());
        let is_found = given.components().count() > 1
            || std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(given).is_file()));
        Self(if is_found { None } else { elsewhere() }.unwrap_or_else(|| given.to_owned()))
    }

    pub fn version(&self) -> Result<String, Trouble> {
        let output = self.run(&["--version"].map(Path::new))?;
        let said = [output.stdout, output.stderr].concat();
        let Some(version) = answer::version(&String::from_utf8_lossy(&said)) else {
            return Err(Trouble::Unknown(self.0.clone()));
        };
        self.suits(version)
    }

    /// The version, if it is one that is spoken with here.
    pub fn suits(&self, version: String) -> Result<String, Trouble> {
        if answer::major(&version) == Some(MAJOR) {
            return Ok(version);
        }
        Err(Trouble::Version(self.0.clone(), version))
    }

    /// Whether it would take a configuration.
    pub fn check(&self, files: &Files) -> Result<(), Trouble> {
        let output = self.run(&["-p".as_ref(), "-c".as_ref(), files.next.as_path()])?;
        if output.status.success() { Ok(()) } else { Err(Trouble::Refused(said(&output))) }
    }

    /// Starts it; `again`: its routes may be in the kernel, and stay until its peers have said theirs.
    pub fn start(&self, files: &Files, again: bool) -> Result<(), Trouble> {
        let mut arguments: Vec<&Path> = vec!["-c".as_ref(), &files.configuration, "-s".as_ref(), &files.socket];
        arguments.extend(["-P".as_ref(), files.pid.as_path()]);
        arguments.extend(again.then_some(Path::new("-R")));
        let output = self.run(&arguments)?;
        if output.status.success() { Ok(()) } else { Err(Trouble::Start(said(&output))) }
    }

    fn run(&self, arguments: &[&Path]) -> Result<Output, Trouble> {
        let mut command = Command::new(&self.0);
        command.args(arguments).stdin(Stdio::null()).current_dir("/");
        command.output().map_err(|error| Trouble::Absent(self.0.clone(), error))
    }
}

/// What it says, in one line. It names places in its configuration, and nothing that stands there.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}
