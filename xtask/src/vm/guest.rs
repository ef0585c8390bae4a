//! What a machine is to run: packet tests, or agents and pods; with the programs, tools and modules that they need.
//! In: what was asked for. Out: programs that are built, and the lines of a script.
//! Invariant: agents are those that are shipped: what is not optimised takes an emulator minutes.
//! Never: anything that a machine without a network would miss.

use super::Request;
use crate::{build, paths::Paths, step::Console};
use anyhow::{Context as _, Result};
use std::path::PathBuf;

/// What is repeated by the ten thousand on a real machine is shown by the hundred here: generated flows, mutated frames,
/// killed commits.
const FEWER: &str = "TORTIE_FLOWS=300 TORTIE_FRAMES=2000 TORTIE_KILLED_COMMITS=40";
/// So many times longer than on a real machine agents may take: verifying all programs takes an emulator ten seconds.
const SLOW: &str = "TORTIE_SLOW=5";
/// Files of the tree that packet tests read where they were built.
const FILES: [&str; 2] = ["tests/fuzz/corpus/parse.txt", "tests/fuzz/regressions/parse.txt"];
/// The packet tests that run before all others.
const FIRST: &str = "verified::";

/// Which tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Suite {
    /// The kernel programs, packet by packet.
    #[default]
    Packets,
    /// Agents and pods: the tests with devices that this machine's kernel may lack, and the system tests that are named.
    Nodes,
}

/// What goes into a machine.
pub struct Guest {
    /// Of the tests, for whoever waits.
    pub name: &'static str,
    /// By their names inside, with the libraries that they are linked with.
    pub programs: Vec<(&'static str, PathBuf)>,
    /// Of the machine. Agents and pods have the kernel replace instructions often, at which the emulator tears it (`vm::is_torn`)
    /// where there are two.
    pub processors: u32,
    /// Programs of this machine's that the tests run.
    pub tools: &'static [&'static str],
    /// Other files, and where they lie inside.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// What the tests need of the kernel that Debian builds as a module, in the order in which they are loaded.
    pub modules: &'static [&'static str],
    /// The lines of the script, of which the last ends as the tests do.
    pub run: String,
}

impl Guest {
    /// Builds what is to be inside.
    pub fn of(paths: &Paths, console: &Console, request: &Request) -> Result<Self> {
        match request.suite {
            Suite::Packets => packets(paths, console, &request.what),
            Suite::Nodes => nodes(paths, console, &request.what),
        }
    }
}

fn packets(paths: &Paths, console: &Console, what: &[String]) -> Result<Guest> {
    let mut files = vec![(paths.object(), PathBuf::from("/target/bpf/tortie.o"))];
    files.extend(FILES.map(|file| (paths.root.join(file), paths.root.join(file))));
    Ok(Guest {
        name: "packet tests",
        programs: vec![("packet", test_binary(paths, console, "packet")?)],
        processors: 2,
        tools: &["bpftool", "ip", "tc"],
        files,
        modules: &["veth", "sch_ingress", "cls_bpf"],
        run: format!("export {FEWER}\n{}", packet_tests(what)),
    })
}

fn nodes(paths: &Paths, console: &Console, what: &[String]) -> Result<Guest> {
    let (agent, cni) = build::shipped(paths, console)?;
    let devices = test_binary(paths, console, "devices")?;
    let system = test_binary(paths, console, "system")?;
    Ok(Guest {
        name: "tests of nodes",
        programs: vec![("devices", devices), ("system", system), ("tortie", agent), ("tortie-cni", cni)],
        processors: 1,
        tools: &["bpftool", "bridge", "ip", "nft", "ss", "tc"],
        files: Vec::new(),
        modules: &["veth", "bridge", "sch_ingress", "cls_bpf", "vxlan", "ipip", "8021q", "bonding", "nf_tables"],
        run: format!("export {SLOW} TORTIE_AGENT=/bin/tortie TORTIE_CNI=/bin/tortie-cni\n{}", node_tests(what)),
    })
}

/// One of the test binaries, built for this machine.
fn test_binary(paths: &Paths, console: &Console, name: &str) -> Result<PathBuf> {
    let args =
        ["test", "--package", "tests", "--test", name, "--no-run", "--message-format", "json-render-diagnostics"];
    let lines = console.run(&format!("{name} tests: build"), &mut paths.cargo(&args))?;
    let path = lines.iter().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name && message["executable"].is_string();
        is_it.then(|| PathBuf::from(message["executable"].as_str().unwrap_or_default()))
    });
    path.with_context(|| format!("cargo does not say where it left the {name} tests"))
}

/// The tests asked for, or all: first whether the verifier takes the programs. If not, every other test would ask it again.
fn packet_tests(what: &[String]) -> String {
    match what {
        [] => format!("packet --show-output {FIRST} && packet --show-output --skip {FIRST}"),
        _ => format!("packet --show-output {}", quoted(what)),
    }
}

/// Those with devices, all or the named ones, and of the system tests the named ones.
fn node_tests(what: &[String]) -> String {
    match what {
        [] => "devices --show-output".to_owned(),
        _ => format!("devices --show-output {0} && system --show-output {0}", quoted(what)),
    }
}

fn quoted(what: &[String]) -> String {
    let words: Vec<String> = what.iter().map(|word| format!("'{}'", word.replace('\'', ""))).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_is_asked_once_before_all_that_needs_its_consent() {
        assert_eq!(packet_tests(&[]), "packet --show-output verified:: && packet --show-output --skip verified::");
        assert_eq!(packet_tests(&["wire".to_owned(), "a'b".to_owned()]), "packet --show-output 'wire' 'ab'");
    }

    #[test]
    fn of_the_system_tests_only_those_run_that_are_named() {
        assert_eq!(node_tests(&[]), "devices --show-output");
        assert_eq!(node_tests(&["tunl0".to_owned()]), "devices --show-output 'tunl0' && system --show-output 'tunl0'");
    }
}
