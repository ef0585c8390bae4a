//! Pure crates decide over values: no file, no socket, no clock, no thread, nothing whose order is chance.
//! In: one file of a pure crate. Out: each line that reaches outside.
//! Invariant: a crate's name here and in the dependency walls is the same.
//! Never: looks at tests, which may read their tables from files.

use super::{Source, Violation};

/// The crates where correctness lives.
pub const PURE: [&str; 7] = ["abi", "model", "policy", "service", "ipam", "bgp", "calc"];

/// What a pure crate does not say, and why.
const OUTSIDE: [(&str, &str); 13] = [
    ("std::fs", "files are read by datastore and agent"),
    ("fs::", "files are read by datastore and agent"),
    ("TcpStream", "sockets belong to agent and cni"),
    ("TcpListener", "sockets belong to agent and cni"),
    ("UdpSocket", "sockets belong to agent and cni"),
    ("UnixStream", "sockets belong to agent and cni"),
    ("Instant::now", "time is an input: the caller passes it"),
    ("SystemTime::now", "time is an input: the caller passes it"),
    ("std::env", "settings are an input: the agent reads them"),
    ("thread::spawn", "the agent alone decides what runs beside what"),
    ("process::Command", "the agent alone starts programs"),
    ("HashMap", "its order is chance; use BTreeMap"),
    ("HashSet", "its order is chance; use BTreeSet"),
];

/// Checks a source file of a pure crate.
pub fn check(source: &Source) -> Vec<Violation> {
    let pure = PURE.iter().any(|name| source.path.starts_with(&format!("libs/{name}/src/")));
    if !pure || !source.is_rust() {
        return Vec::new();
    }
    let code = source.lines_without_tests().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.filter_map(|(number, line)| {
        let (word, reason) = OUTSIDE.iter().find(|(word, _)| says(line, word))?;
        Some(source.violation(number, format!("`{word}` in a pure crate: {reason}")))
    })
    .collect()
}

/// Whether `line` has `word`, not as the end of a longer name.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text)).into_iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_pure_crate_reads_no_file_no_clock_no_socket() {
        let text = "use std::fs;\nlet now = std::time::Instant::now();\nlet s = TcpStream::connect(a);\nlet x = 1;\n";
        assert_eq!(lines("libs/policy/src/compile.rs", text), [1, 2, 3]);
    }

    #[test]
    fn grouped_imports_do_not_hide_a_file_access() {
        assert_eq!(lines("libs/calc/src/world.rs", "use std::{fmt, fs::File};\n"), [1]);
    }

    #[test]
    fn chance_order_is_refused() {
        assert_eq!(lines("libs/ipam/src/block.rs", "use std::collections::HashMap;\n"), [1]);
    }

    #[test]
    fn other_crates_may() {
        assert_eq!(lines("libs/datastore/src/watch.rs", "use std::fs;\n"), [0; 0]);
    }

    #[test]
    fn comments_tests_and_longer_names_are_not_meant() {
        let text = "/// Unlike a HashMap.\nlet x = MyHashMap::new();\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n";
        assert_eq!(lines("libs/model/src/net.rs", text), [0; 0]);
    }
}
