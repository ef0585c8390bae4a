//! Every reason to drop a packet has a row in a packet table.
//! In: the reasons' declaration and the packet tests. Out: each reason that no row names.
//! Invariant: holds from the day on which the packet tests name the first reason.
//! Never: asks how many rows a reason has.

use super::{Source, Violation};

const DECLARED: &str = "libs/abi/src/verdict.rs";
const ROWS: &str = "tests/packet/";

/// Checks that each declared reason is named by a packet test.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let rows: Vec<&Source> =
        sources.iter().filter(|source| source.path.starts_with(ROWS) && source.is_rust()).collect();
    let Some(declaration) = sources.iter().find(|source| source.path == DECLARED) else { return Vec::new() };
    if !rows.iter().any(|source| names(&source.text, "DropReason")) {
        return Vec::new();
    }
    let missing = reasons(&declaration.text).filter(|(_, name)| !rows.iter().any(|source| names(&source.text, name)));
    missing
        .map(|(line, name)| {
            declaration.violation(line, format!("no file in {ROWS} names {name}: add a row that sees it"))
        })
        .collect()
}

/// The declared reasons with their lines: `Name = 1, "text";`.
fn reasons(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| {
        let (name, rest) = line.trim().split_once(" = ")?;
        let (number, quoted) = rest.split_once(", \"")?;
        (number.parse::<u32>().is_ok() && quoted.ends_with("\";")).then_some((at + 1, name))
    })
}

/// Whether `text` has `name` as a whole word.
fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASONS: &str = "reasons! {\n    /// A.\n    Spoofed = 5, \"spoofed\";\n    NoFlow = 9, \"no-flow\";\n}\n";

    fn missing(rows: &str) -> Vec<usize> {
        let sources = [Source::new(DECLARED, REASONS), Source::new("tests/packet/spoof.rs", rows)];
        check(&sources).into_iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_reason_without_a_row_is_found_at_its_declaration() {
        assert_eq!(missing("expect(drop(DropReason::Spoofed))"), [4]);
    }

    #[test]
    fn a_longer_name_is_not_the_reason() {
        assert_eq!(missing("DropReason::SpoofedToo DropReason::NoFlow"), [3]);
    }

    #[test]
    fn the_rule_sleeps_until_rows_name_reasons() {
        assert_eq!(missing("fn main() {}"), [0; 0]);
    }
}
