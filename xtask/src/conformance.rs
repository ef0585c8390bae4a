//! `docs/conformance.md`: which behaviours, that other projects' tests check too, are held by which of our tests.
//! In: the sources. Out: the page; each test whose id does not exist; whether the committed page is this one.
//! Invariant: the page is a pure function of the tests' names, in an order that no change elsewhere moves.
//! Never: says that a test passes; it only says that it is there.

mod ids;

use crate::{
    paths::Paths,
    sources::{self, Source, Violation},
    step::Console,
};
use anyhow::{Context as _, Result};
use ids::{FAMILIES, Id};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

const PAGE: &str = "docs/conformance.md";
const REMEDY: &str = "run `cargo xtask conformance` and commit the page";
const HEAD: &str = "\
# Conformance

Written by `cargo xtask conformance` from the names of the tests; `cargo xtask tidy` refuses another text.

An id names one behaviour that can be checked from outside, out of a catalogue of behaviours that other projects'
tests and specifications ask for. A test that checks one carries the id in its name (`np_9_..` holds NP-9,
`pkt_20_to_pkt_22_..` holds PKT-20, PKT-21 and PKT-22), or a row of the packet tables begins with it; what follows in
the name says what the behaviour is. `git grep -n NAME` finds it. Held means that such a test is there, not that every
corner of the behaviour is covered. What has no line here has no test of that name.

Levels: unit needs nothing but the crate (the tests of `cni` and `netlink` also namespaces), packet runs the kernel
programs packet by packet, system runs agents, the CNI binary and pods.
";

/// What a run of the tests would show of one behaviour: level and names.
type Held<'a> = BTreeMap<Id, BTreeMap<Level, BTreeSet<&'a str>>>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Unit,
    Packet,
    System,
}

impl Level {
    fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("tests/packet/") => Self::Packet,
            _ if path.starts_with("tests/system/") => Self::System,
            _ => Self::Unit,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Packet => "packet",
            Self::System => "system",
        }
    }
}

/// A name that carries ids, and where it stands.
struct Named<'a> {
    source: &'a Source,
    line: usize,
    name: &'a str,
    ids: Vec<Id>,
}

/// Writes the page, if it is not there already.
pub fn write(paths: &Paths, console: &Console) -> Result<()> {
    console.inline(PAGE, || {
        let file = paths.root.join(PAGE);
        let text = page(&sources::read(paths)?);
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&file, text).with_context(|| format!("{}: cannot be written", file.display()))
    })
}

/// Refuses ids that do not exist, and a page that is not what [`write`] would write.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for named in sources.iter().flat_map(names) {
        for id in named.ids.iter().filter(|id| !id.is_known()) {
            violations.push(named.source.violation(named.line, format!("{id} is no known behaviour: {}", named.name)));
        }
    }
    let committed = sources.iter().find(|source| source.path == PAGE);
    if committed.map(|source| source.text.as_str()) != Some(&page(sources)) {
        let reason = format!("not what the names of the tests say: {REMEDY}");
        violations.push(Violation { path: PAGE.to_owned(), line: 1, reason });
    }
    violations
}

fn page(sources: &[Source]) -> String {
    let mut held = Held::new();
    for named in sources.iter().flat_map(names) {
        for id in named.ids {
            held.entry(id).or_default().entry(Level::of(&named.source.path)).or_default().insert(named.name);
        }
    }
    let mut page = HEAD.to_owned();
    page.push_str("\n| ids | about | asked for by | held |\n|---|---|---|---|\n");
    for (at, family) in FAMILIES.iter().enumerate() {
        let all: u32 = family.known.iter().map(|(first, last)| last - first + 1).sum();
        let count = held.keys().filter(|id| id.family == at).count();
        let line = writeln!(page, "| {} | {} | {} | {count} of {all} |", family.prefix, family.subject, family.source);
        line.expect("because a String takes every line");
    }
    for at in 0..FAMILIES.len() {
        section(&mut page, at, &held);
    }
    page
}

fn section(page: &mut String, family: usize, held: &Held) {
    let mut own = held.iter().filter(|(id, _)| id.family == family).peekable();
    if own.peek().is_none() {
        return;
    }
    page.push_str(&format!("\n## {}\n\n| id | level | tests |\n|---|---|---|\n", FAMILIES[family].prefix));
    for (id, levels) in own {
        for (level, names) in levels {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            page.push_str(&format!("| {id} | {} | {} |\n", level.word(), names.join(", ")));
        }
    }
}

/// The tests and rows of a file that carry ids.
fn names(source: &Source) -> Vec<Named<'_>> {
    if !source.is_rust() {
        return Vec::new();
    }
    let rows = Level::of(&source.path) == Level::Packet;
    let mut found = Vec::new();
    let mut is_test = false;
    for (at, line) in source.text.lines().enumerate() {
        let code = line.trim();
        let function = code.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
        if let Some((name, _)) = function.filter(|_| is_test) {
            found.push(Named { source, line: at + 1, name, ids: ids::in_name(name) });
        }
        let between = code.is_empty() || code.starts_with("#[") || code.starts_with("//");
        is_test = code == "#[test]" || is_test && between;
        if rows && !code.starts_with("//") {
            found.extend(row_names(line).map(|(name, id)| Named { source, line: at + 1, name, ids: vec![id] }));
        }
    }
    found.retain(|named| !named.ids.is_empty());
    found
}

/// String literals of a line that begin with an id; one that is an id only is explained by its test's name.
fn row_names(line: &str) -> impl Iterator<Item = (&str, Id)> {
    let literals = line.split('"').skip(1).step_by(2).filter(|text| text.contains(' '));
    literals.filter_map(|text| Some((text, ids::of_row(text)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(path: &str, names: &[&str]) -> Source {
        let text = names.iter().map(|name| format!("#[test]\nfn {name}() {{}}\n")).collect::<String>();
        Source::new(path, &text)
    }

    fn lines(sources: &[Source], id: &str) -> Vec<String> {
        page(sources).lines().filter(|line| line.starts_with(&format!("| {id} |"))).map(str::to_owned).collect()
    }

    #[test]
    fn a_behaviour_lists_its_tests_by_level() {
        let sources = [
            test("tests/system/ports.rs", &["np_9_from_outside"]),
            test("libs/policy/src/tests.rs", &["np_9_b", "np_9_a"]),
        ];
        assert_eq!(
            lines(&sources, "NP-9"),
            ["| NP-9 | unit | `np_9_a`, `np_9_b` |", "| NP-9 | system | `np_9_from_outside` |"]
        );
        assert!(lines(&sources, "NP")[0].ends_with("| 1 of 69 |"));
    }

    #[test]
    fn rows_of_the_packet_tables_count() {
        let rows = "row(\"PKT-37 a pong passes\", x),\n// \"PKT-38 no row\"\n";
        assert_eq!(
            lines(&[Source::new("tests/packet/flows.rs", rows)], "PKT-37"),
            ["| PKT-37 | packet | `PKT-37 a pong passes` |"]
        );
        assert!(lines(&[Source::new("tests/packet/flows.rs", rows)], "PKT-38").is_empty());
        assert!(lines(&[Source::new("libs/abi/src/lib.rs", rows)], "PKT-37").is_empty());
    }

    #[test]
    fn a_function_that_is_no_test_holds_nothing() {
        let text = "fn np_9_maker() {}\n#[test]\n#[should_panic]\nfn np_8_a() {}\nfn np_7_after() {}\n";
        let sources = [Source::new("a.rs", text)];
        assert_eq!(
            (lines(&sources, "NP-9").len(), lines(&sources, "NP-8").len(), lines(&sources, "NP-7").len()),
            (0, 1, 0)
        );
    }

    #[test]
    fn an_old_page_and_an_unknown_id_are_refused() {
        let mut sources = vec![test("a.rs", &["np_9_a"])];
        assert_eq!(check(&sources).len(), 1);
        sources.push(Source::new(PAGE, &page(&sources)));
        assert_eq!(check(&sources), []);
        sources.push(test("b.rs", &["np_8_a"]));
        assert_eq!(check(&sources).len(), 1);
        sources.push(test("c.rs", &["np_47_a"]));
        assert!(check(&sources)[0].reason.contains("NP-47"));
    }
}
