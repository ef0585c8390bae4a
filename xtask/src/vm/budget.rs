//! What each kernel's verifier walked, against the ceilings in `ebpf/budget.toml`.
//! In: the tests' lines `verified PROGRAM COUNT`. Out: a table; whether every count is within its ceiling.
//! Invariant: a program or a kernel without a ceiling fails, as one above it does.
//! Never: touches a section of the file that is not `[verified."SERIES"]`.

use super::Request;
use crate::paths::Paths;
use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, fs};

/// By program.
type Counts = BTreeMap<String, u32>;

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
    let text = fs::read_to_string(&file).unwrap_or_default();
    if request.write {
        let text = with_section(&text, series, &counts);
        fs::write(&file, text).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    let text = if request.write { fs::read_to_string(&file)? } else { text };
    let ceilings = section(&text, series);
    let mut held = true;
    for (program, count) in &counts {
        let word = match ceilings.get(program) {
            Some(ceiling) if count <= ceiling => format!("of {ceiling}"),
            Some(ceiling) => format!("ABOVE ITS CEILING {ceiling}"),
            None => "WITHOUT A CEILING".to_owned(),
        };
        held &= word.starts_with("of");
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

/// The ceilings of a kernel.
fn section(text: &str, series: &str) -> Counts {
    let header = header(series);
    let lines = text.lines().skip_while(|line| line.trim() != header).skip(1);
    let own = lines.take_while(|line| !line.starts_with('['));
    let ceiling = |line: &str| {
        let (program, count) = line.split_once('=')?;
        Some((program.trim().to_owned(), count.trim().parse().ok()?))
    };
    own.filter_map(ceiling).collect()
}

/// The text with a kernel's ceilings set a fifth above what it counted, so that a small change need not touch them.
fn with_section(text: &str, series: &str, counts: &Counts) -> String {
    let header = header(series);
    let ceiling = |count: &u32| (count + count / 5).next_multiple_of(1000);
    let rows = counts.iter().map(|(program, count)| format!("{program} = {}\n", ceiling(count)));
    let fresh = format!("{header}\n{}", rows.collect::<String>());
    let Some(start) = text.find(&header) else {
        return if text.is_empty() { fresh } else { format!("{}\n\n{fresh}", text.trim_end()) };
    };
    let after = text[start + 1..].find("\n[").map(|at| start + 1 + at);
    let rest = after.map(|at| format!("\n{}", text[at..].trim_start_matches('\n'))).unwrap_or_default();
    format!("{}{fresh}{}", &text[..start], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# why\n[paths.a]\nx = 1\n\n[verified.\"6.1\"]\na = 1000\nb = 2000\n\n[verified.\"6.12\"]\na = 5\n";

    fn counts(pairs: &[(&str, u32)]) -> Counts {
        pairs.iter().map(|(program, count)| ((*program).to_owned(), *count)).collect()
    }

    #[test]
    fn a_kernels_own_section_is_read() {
        assert_eq!(section(TEXT, "6.1"), counts(&[("a", 1000), ("b", 2000)]));
        assert_eq!(section(TEXT, "6.12"), counts(&[("a", 5)]));
        assert_eq!(section(TEXT, "6.6"), Counts::new());
    }

    #[test]
    fn only_a_kernels_own_section_is_written() {
        let text = with_section(TEXT, "6.1", &counts(&[("a", 2000), ("c", 10)]));
        assert_eq!(
            text,
            "# why\n[paths.a]\nx = 1\n\n[verified.\"6.1\"]\na = 3000\nc = 1000\n\n[verified.\"6.12\"]\na = 5\n"
        );
        let text = with_section(TEXT, "6.6", &counts(&[("a", 1)]));
        assert_eq!(text, format!("{TEXT}\n[verified.\"6.6\"]\na = 1000\n"));
        let text = with_section(TEXT, "6.12", &counts(&[("a", 2000)]));
        assert_eq!(text, TEXT.replace("a = 5", "a = 3000"));
    }

    #[test]
    fn the_tests_lines_are_counted() {
        let lines: Vec<String> = ["verified from_uplink 32859", "verified", "x verified a 1"].map(str::to_owned).into();
        assert_eq!(counted(&lines), counts(&[("from_uplink", 32859)]));
    }
}
