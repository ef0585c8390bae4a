//! What each kernel's verifier walked, against the ceilings in `ebpf/budget.toml`.
//! In: the tests' lines `verified PROGRAM COUNT`. Out: a table; whether every count is within its ceiling.
//! Invariant: a program or a kernel without a ceiling fails, as one above it does.
//! Never: touches a section of the file that is not `[verified."SERIES"]`.

use super::Request;
use crate::{
    ceilings::{self, Counts, against},
    paths::Paths,
};
use anyhow::{Context as _, Result};
use std::fs;

/// Compares a kernel's counts, or writes them down. Nothing was counted where only some tests were asked for.
pub fn settle(paths: &Paths, series: &str, lines: &[String], request: &Request) -> Result<bool> {
    let counts = counted(lines);
    if counts.is_empty() {
        if request.what.is_empty() {
            println!("        {series}: no test says what the verifier counted");
        }
        return Ok(!request.what.is_empty());
    }
    let file = paths.root.join("ebpf/budget.toml");
    let mut text = fs::read_to_string(&file).unwrap_or_default();
    if request.write {
        text = ceilings::with_section(&text, &header(series), &with_room(&counts));
        fs::write(&file, &text).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    let ceilings = ceilings::section(&text, &header(series));
    let mut held = true;
    for (program, count) in &counts {
        let stands = against(*count, ceilings.get(program));
        held &= stands.is_ok();
        let (Ok(word) | Err(word)) = stands;
        println!("        {series}: {program}: {count} instructions verified, {word}");
    }
    if !held {
        println!("        ceilings stand in ebpf/budget.toml; `cargo xtask vm {series} --write` sets them anew");
    }
    Ok(held)
}

fn counted(lines: &[String]) -> Counts {
    let count = |line: &String| {
        let mut words = line.strip_prefix("verified ")?.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    lines.iter().filter_map(count).collect()
}

fn header(series: &str) -> String {
    format!("[verified.\"{series}\"]")
}

/// A fifth above what was counted, in whole thousands, so that a small change need not touch them.
fn with_room(counts: &Counts) -> Counts {
    counts.iter().map(|(program, count)| (program.clone(), (count + count / 5).next_multiple_of(1000))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(program, count)| ((*program).to_owned(), *count)).collect()
    }

    #[test]
    fn a_ceiling_leaves_a_fifth_in_whole_thousands() {
        assert_eq!(with_room(&counts(&[("a", 2000), ("c", 10)])), counts(&[("a", 3000), ("c", 1000)]));
    }

    #[test]
    fn the_tests_lines_are_counted() {
        let lines: Vec<String> = ["verified from_uplink 32859", "verified", "x verified a 1"].map(str::to_owned).into();
        assert_eq!(counted(&lines), counts(&[("from_uplink", 32859)]));
    }
}
