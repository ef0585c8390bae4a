//! The files of the tree, and how a line of one is complained about.
//! In: every file git knows or would add. Out: their text; violations with file, line and reason.
//! Invariant: what git ignores is not seen.
//! Never: changes a file.

use crate::paths::Paths;
use anyhow::{Context as _, Result, ensure};
use std::{fmt, fs};

/// A file as the rules see it.
pub struct Source {
    /// Its path in the tree.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// One line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub path: String,
    pub line: usize,
    pub reason: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.reason)
    }
}

impl Source {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `line` counts from 1.
    pub fn violation(&self, line: usize, reason: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, reason: reason.into() }
    }

    /// Lines with their numbers, up to the file's test module.
    pub fn lines_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_test_module = |at: usize| {
            lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.trim_start().starts_with("mod "))
        };
        let end = (0..lines.len()).find(|at| is_test_module(*at)).unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(at, line)| (at + 1, line))
    }
}

/// Reads every file.
pub fn read(paths: &Paths) -> Result<Vec<Source>> {
    let mut list = paths.command("git");
    let output = list
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("git cannot be run: the rules are checked on the files it knows")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let mut sources = Vec::new();
    for path in String::from_utf8_lossy(&output.stdout).split_terminator('\0') {
        let file = paths.root.join(path);
        // Known to git and removed, or a link: nothing to read.
        if !fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
        sources.push(Source { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() });
    }
    Ok(sources)
}

#[cfg(test)]
impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}
