//! The house rules that a machine can check, with the reason for each.
//! In: every file git knows or would add, and `cargo metadata`. Out: file, line and reason of each violation.
//! Invariant: a rule is a pure function of text, so that each has a test that sees it catch something.
//! Never: changes a file.

mod drops;
mod layout;
mod purity;
mod walls;
mod words;

use crate::paths::Paths;
use anyhow::{Context as _, Result, bail, ensure};
use std::{fmt, fs};

/// Bytes a committed file may have.
const LARGE: u64 = 500_000;

/// A file as the rules see it.
pub struct Source {
    /// Its path in the tree.
    path: String,
    text: String,
}

/// One line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    path: String,
    line: usize,
    reason: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.reason)
    }
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `line` counts from 1.
    fn violation(&self, line: usize, reason: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, reason: reason.into() }
    }

    /// Lines with their numbers, up to the file's test module.
    fn lines_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_test_module = |at: usize| {
            lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.trim_start().starts_with("mod "))
        };
        let end = (0..lines.len()).find(|at| is_test_module(*at)).unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(at, line)| (at + 1, line))
    }
}

/// Checks every rule; prints each violation, and fails if there is one.
pub fn tidy(paths: &Paths) -> Result<()> {
    let mut violations = Vec::new();
    let sources = read_sources(paths, &mut violations)?;
    for source in &sources {
        violations.extend(layout::check(source));
        violations.extend(purity::check(source));
        violations.extend(words::check(source));
    }
    violations.extend(drops::check(&sources));
    violations.extend(walls::check(&metadata(paths)?)?);
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations of the house rules", violations.len());
    }
    Ok(())
}

fn read_sources(paths: &Paths, violations: &mut Vec<Violation>) -> Result<Vec<Source>> {
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
        let Some(meta) = fs::symlink_metadata(&file).ok().filter(fs::Metadata::is_file) else { continue };
        let bytes = fs::read(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
        let source = Source { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() };
        if meta.len() > LARGE {
            violations.push(source.violation(1, "larger than 500 kB: a clone carries it for ever"));
        }
        sources.push(source);
    }
    Ok(sources)
}

fn metadata(paths: &Paths) -> Result<serde_json::Value> {
    let output = paths
        .cargo(&["metadata", "--format-version", "1"])
        .output()
        .context("cargo metadata cannot be run: dependency walls are read from it")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata: not JSON")
}

#[cfg(test)]
impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}
