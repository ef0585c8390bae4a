//! Leases in a directory: two agents, and processes that are killed while they write.
//! In: a temporary directory. Out: who holds what.
//! Invariant: whatever is killed leaves an object that can be read, and no lock.
//! Never: another directory; waits for time to pass: clocks are arguments.

use super::*;
use crate::Objects;
use serde_json::json;
use std::{cell::Cell, error::Error, path::Path, process, sync::Arc};

type Outcome = Result<(), Box<dyn Error>>;

/// Names the directory to a process that only writes until it is killed.
const WRITER: &str = "TORTIE_TEST_WRITER";

fn open(dir: &Path, node: &str) -> Leases {
    Leases::open(Arc::new(Objects::open(dir).expect("a store")), node, Timing::FAST)
}

fn wanted(names: &[(&str, bool)]) -> BTreeMap<String, bool> {
    names.iter().map(|(name, wanted)| ((*name).to_owned(), *wanted)).collect()
}

#[test]
fn one_heartbeat_carries_all_that_a_node_holds_and_its_silence_gives_it_away() -> Outcome {
    let dir = tempfile::tempdir()?;
    let at = Cell::new(0);
    let now = || Duration::from_millis(at.get());
    let (mut one, mut two) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let all = wanted(&[("a", true), ("b", true)]);
    one.beat(now)?;
    one.look(&all, now)?;
    assert!(one.holds("a", now()) && one.holds("b", now()));
    let written = Objects::open(dir.path())?.get(KIND, "a")?;
    for _ in 0..30 {
        at.set(at.get() + 150);
        for leases in [&mut one, &mut two] {
            leases.beat(now)?;
            leases.look(&all, now)?;
        }
        assert!(one.holds("a", now()) && !two.holds("a", now()));
        assert_eq!(two.holders()["a"].node, "n1");
    }
    assert_eq!(Objects::open(dir.path())?.get(KIND, "a")?, written, "a lease is written when it changes hands");
    // The first falls silent.
    for _ in 0..10 {
        at.set(at.get() + 150);
        two.beat(now)?;
        two.look(&all, now)?;
        assert!(!two.holds("a", now()) || !one.believes(now()));
    }
    assert!(two.holds("a", now()) && two.holds("b", now()));
    // It comes back, and knows that it lost them.
    one.beat(now)?;
    assert!(!one.holds("a", now()));
    one.look(&all, now)?;
    assert_eq!((one.holders()["a"].node.as_str(), one.holds("a", now())), ("n2", false));
    Ok(())
}

#[test]
fn what_is_given_back_or_named_no_more_is_anothers_at_its_next_look() -> Outcome {
    let dir = tempfile::tempdir()?;
    let now = || Duration::from_millis(1);
    let (mut one, mut two) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    one.beat(now)?;
    two.beat(now)?;
    one.look(&wanted(&[("a", true), ("b", true)]), now)?;
    one.look(&wanted(&[("a", false)]), now)?;
    assert!(one.holders().is_empty() && !one.holds("a", now()));
    assert!(Objects::open(dir.path())?.get(KIND, "b")?.is_none(), "nobody names it");
    two.look(&wanted(&[("a", true)]), now)?;
    assert!(two.holds("a", now()));
    // An agent that starts again finds what its node held, and takes it back or away.
    let mut again = open(dir.path(), "n2");
    again.beat(now)?;
    assert!(!again.holds("a", now()), "not by what a former life held");
    again.look(&wanted(&[("a", true)]), now)?;
    assert!(again.holds("a", now()));
    open(dir.path(), "n2").look(&wanted(&[]), now)?;
    assert!(Objects::open(dir.path())?.get(KIND, "a")?.is_none());
    Ok(())
}

#[test]
fn who_holds_nothing_and_may_take_nothing_has_no_heartbeat_to_write() -> Outcome {
    let dir = tempfile::tempdir()?;
    let at = Cell::new(0);
    let now = || Duration::from_millis(at.get());
    let (mut one, mut two) = (open(dir.path(), "n1"), open(dir.path(), "n2"));
    let all = wanted(&[("a", true)]);
    assert!(!one.is_due(now()), "nothing was looked at");
    one.look(&all, now)?;
    assert!(one.is_due(now()), "it is there to be taken");
    one.beat(now)?;
    one.look(&all, now)?;
    two.look(&all, now)?;
    assert!(!two.is_due(now()) && !one.is_due(now()), "one has written just now");
    at.set(150);
    assert!(one.is_due(now()) && !two.is_due(now()));
    one.beat(now)?;
    one.look(&wanted(&[("a", false)]), now)?;
    at.set(300);
    assert!(!one.is_due(now()), "it is given back");
    Ok(())
}

#[test]
fn a_node_that_could_not_write_for_long_takes_back_what_nobody_else_took() -> Outcome {
    let dir = tempfile::tempdir()?;
    let at = Cell::new(0);
    let now = || Duration::from_millis(at.get());
    let mut one = open(dir.path(), "n1");
    let all = wanted(&[("a", true)]);
    one.beat(now)?;
    one.look(&all, now)?;
    at.set(5000);
    one.look(&all, now)?;
    assert!(!one.holds("a", now()) && one.is_due(now()));
    one.beat(now)?;
    one.look(&all, now)?;
    assert!(one.holds("a", now()));
    Ok(())
}

#[test]
fn of_many_each_has_its_turn_to_take_what_is_vacant() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut turns = BTreeSet::new();
    for number in 0..20 {
        let objects = Arc::new(Objects::open(dir.path())?);
        let mut leases = Leases::open(objects, &format!("n{number}"), Timing::SPARING);
        leases.look(&wanted(&[("a", true)]), || Duration::ZERO)?;
        let due = (0..=200).find(|at| leases.is_due(Duration::from_millis(*at)));
        turns.extend(due);
    }
    assert!(turns.len() > 10, "{turns:?}");
    Ok(())
}

#[test]
fn the_object_is_in_the_shape_of_kubernetes() -> Outcome {
    let dir = tempfile::tempdir()?;
    let now = || Duration::from_millis(1);
    let mut one = open(dir.path(), "n1");
    one.beat(now)?;
    one.look(&wanted(&[(&of_address("2001:db8::7".parse()?), true)]), now)?;
    let object = Objects::open(dir.path())?.get(KIND, "address-2001-db8-0-0-0-0-0-7")?.expect("held");
    assert_eq!(object.api_version, "coordination.k8s.io/v1");
    let spec = object.spec.as_object().expect("a map");
    assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&json!("n1_1"), &json!(1)));
    assert_eq!((&spec["leaseDurationSeconds"], &spec["leaseDurationMilliseconds"]), (&json!(2), &json!(1100)));
    assert_eq!(spec["renewTime"].as_str().map(str::len), Some("2026-11-26T05:54:25.000001Z".len()));
    Ok(())
}

/// In the process that this is for, writes until it is killed; elsewhere nothing.
#[test]
fn a_writer_for_the_test_below() {
    let Ok(dir) = std::env::var(WRITER) else { return };
    let objects = Objects::open(Path::new(&dir)).expect("a store");
    for number in 0_u64.. {
        for (kind, name) in [(KIND, "node.x"), (KIND, "x"), ("IPAMBlock", "x")] {
            let metadata = Metadata { name: name.into(), resource_version: None };
            let spec = json!({ "by": process::id(), "text": "x".repeat(20_000), "number": number });
            let mut object = Object { api_version: "v1".into(), kind: kind.into(), metadata, spec };
            object.metadata.resource_version =
                objects.get(kind, name).expect("readable").and_then(|found| found.metadata.resource_version);
            match objects.write(&object) {
                Ok(_) | Err(ObjectError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn processes_that_are_killed_while_they_write_leave_whole_objects_and_no_lock() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let start = || {
        let mut command = process::Command::new(std::env::current_exe()?);
        command.args(["--exact", "lease::tests::a_writer_for_the_test_below"]).env(WRITER, dir.path());
        command.stdout(process::Stdio::null()).stderr(process::Stdio::null()).spawn()
    };
    let mut writers = [start()?, start()?];
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        // Killed wherever it is, once it has written.
        let at = round % 2;
        let by = u64::from(writers[at].id());
        loop {
            let found = [(KIND, "node.x"), (KIND, "x"), ("IPAMBlock", "x")].map(|(kind, name)| objects.get(kind, name));
            let mut whole = true;
            for object in found {
                let Some(object) = object? else { continue };
                whole &= object.spec["text"].as_str().map(str::len) == Some(20_000);
                seen.extend(object.spec["by"].as_u64());
            }
            assert!(whole, "a torn object");
            if seen.contains(&by) {
                break;
            }
            assert!(writers[at].try_wait()?.is_none(), "the writer ended by itself");
        }
        writers[at].kill()?;
        writers[at].wait()?;
        writers[at] = start()?;
    }
    for mut writer in writers {
        writer.kill()?;
        writer.wait()?;
    }
    // Nobody holds a lock any more.
    for (kind, name) in [(KIND, "x"), ("IPAMBlock", "x")] {
        objects.delete(kind, name, None)?;
    }
    Ok(())
}
