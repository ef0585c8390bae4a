//! The house rules that a machine can check, with the reason for each.
//! In: every file git knows or would add, and `cargo metadata`. Out: file, line and reason of each violation.
//! Invariant: a rule is a pure function of text, so that each has a test that sees it catch something.
//! Never: changes a file.

pub mod deploy;
mod drops;
mod layout;
mod purity;
mod walls;
mod words;

use crate::{
    conformance,
    paths::Paths,
    sources::{self, Source, Violation},
};
use anyhow::{Context as _, Result, bail, ensure};

/// Bytes a committed file may have.
const LARGE: usize = 500_000;

/// Checks every rule; prints each violation, and fails if there is one.
pub fn tidy(paths: &Paths) -> Result<()> {
    let mut violations = Vec::new();
    let sources = sources::read(paths)?;
    for source in &sources {
        violations.extend(large(source));
        violations.extend(layout::check(source));
        violations.extend(purity::check(source));
        violations.extend(words::check(source));
    }
    violations.extend(deploy::check(&sources));
    violations.extend(drops::check(&sources));
    violations.extend(conformance::check(&sources));
    violations.extend(walls::check(&metadata(paths)?)?);
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations of the house rules", violations.len());
    }
    Ok(())
}

fn large(source: &Source) -> Option<Violation> {
    let reason = "larger than 500 kB: a clone carries it for ever";
    (source.text.len() > LARGE).then(|| source.violation(1, reason))
}

fn metadata(paths: &Paths) -> Result<serde_json::Value> {
    let output = paths
        // As it is built: what a crate needs on other processors alone is not reached.
        .cargo(&["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .context("cargo metadata cannot be run: dependency walls are read from it")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata: not JSON")
}
