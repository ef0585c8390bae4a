//! Words that do not belong into any file of the tree.
//! In: one file. Out: each line with such a word.
//! Invariant: this file spells each of them in halves, so that it need not be an exception.
//! Never: looks into Cargo.lock, where cargo writes where every crate came from.

use super::{Source, Violation};

/// Hosts that cargo, apt and container tools find by themselves.
const HOSTS: [&str; 9] = [
    concat!("crates", ".io"),
    concat!("static.rust", "-lang.org"),
    concat!("deb.", "debian.org"),
    concat!("security.", "debian.org"),
    concat!("docker", ".io"),
    concat!("quay", ".io"),
    concat!("ghcr", ".io"),
    concat!("proxy.", "golang.org"),
    concat!("registry.", "k8s.io"),
];

/// Places of one machine.
const PLACES: [&str; 2] = [concat!("/work", "/main"), concat!("/work", "/shared")];

const OPEN: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// Checks every line of a file.
pub fn check(source: &Source) -> Vec<Violation> {
    if source.path == "Cargo.lock" {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate();
    lines.filter_map(|(at, line)| Some(source.violation(at + 1, wrong(source, line)?))).collect()
}

fn wrong(source: &Source, line: &str) -> Option<String> {
    if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
        return Some(format!("names the host {host}: tools know their registries, and mirrors differ"));
    }
    if let Some(place) = PLACES.iter().find(|place| line.contains(**place)) {
        return Some(format!("{place} is a place of one machine"));
    }
    if let Some(word) = OPEN.iter().find(|word| is_open(line, word)) {
        return Some(format!("{word} without an issue: write `{word}(#number)`, or do it now"));
    }
    let silenced = source.is_rust() && !line.contains('"') && line.contains(concat!("#[al", "low("));
    silenced.then(|| "use `#[expect(lint, reason = \"...\")]`: it says why, and when it is no longer needed".to_owned())
}

/// The word alone, with no issue number after it.
fn is_open(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + word.len()..];
        let inside_a_name = |c: char| c.is_alphanumeric() || c == '_';
        !before.is_some_and(inside_a_name) && !after.starts_with(inside_a_name) && !after.starts_with("(#")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, line: &str) -> bool {
        !check(&Source::new(path, line)).is_empty()
    }

    #[test]
    fn an_open_end_names_its_issue() {
        let word = OPEN[0];
        assert!(refused("a.rs", &format!("// {word}: later")));
        assert!(refused("README.md", word));
        assert!(!refused("a.rs", &format!("// {word}(#12): later")));
        assert!(!refused("a.rs", &format!("const {word}_LIST: u8 = 1;")));
    }

    #[test]
    fn registries_are_not_named_but_in_the_lock_file() {
        let line = format!("source = \"{}\"", HOSTS[0]);
        assert!(refused("deny.toml", &line));
        assert!(!refused("Cargo.lock", &line));
    }

    #[test]
    fn places_of_one_machine_are_refused() {
        assert!(refused("README.md", PLACES[0]));
    }

    #[test]
    fn a_silenced_lint_says_why() {
        assert!(refused("a.rs", concat!("#[al", "low(dead_code)]")));
        assert!(!refused("a.rs", "#[expect(dead_code, reason = \"because\")]"));
    }
}
