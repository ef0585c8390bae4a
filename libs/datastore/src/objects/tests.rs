//! Shared objects under contention, damage and misuse.
//! In: a temporary directory. Out: what is stored, and who was told of a conflict.
//! Invariant: of two writers that read the same version exactly one wins.
//! Never: another directory.

use super::*;
use model::{PodId, WorkloadAddress};
use serde_json::json;
use std::error::Error;

type Outcome = Result<(), Box<dyn Error>>;

fn block(name: &str, spec: Value) -> Object {
    Object {
        api_version: "crd.projectcalico.org/v1".into(),
        kind: "IPAMBlock".into(),
        metadata: Metadata { name: name.into(), resource_version: None },
        spec,
    }
}

#[test]
fn what_is_written_is_read_again_with_its_version() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let spec = json!({"cidr": "10.0.0.0/26", "allocations": [null, 0], "handle": "1", "deleted": false});
    let written = objects.write(&block("10-0-0-0-26", spec.clone()))?;
    assert_eq!(objects.get("IPAMBlock", "10-0-0-0-26")?, Some(written.clone()));
    assert_eq!(objects.list("IPAMBlock")?, std::slice::from_ref(&written));
    assert_eq!(written.spec, spec);
    assert_eq!(objects.list("IPAMHandle")?, []);
    Ok(())
}

#[test]
fn a_write_over_a_version_that_has_moved_on_is_a_conflict() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let first = objects.write(&block("a", json!({"n": 1})))?;
    let second = objects.write(&Object { spec: json!({"n": 2}), ..first.clone() })?;
    assert_ne!(first.metadata, second.metadata);
    let conflict = |answer: Result<_, ObjectError>| matches!(answer, Err(ObjectError::Conflict { .. }));
    assert!(conflict(objects.write(&Object { spec: json!({"n": 3}), ..first.clone() }).map(drop)), "stale");
    assert!(conflict(objects.write(&block("a", json!({}))).map(drop)), "exists already");
    assert!(conflict(objects.delete("IPAMBlock", "a", first.metadata.resource_version.as_deref()).map(drop)), "stale");
    assert_eq!(objects.get("IPAMBlock", "a")?, Some(second.clone()));
    assert!(objects.delete("IPAMBlock", "a", second.metadata.resource_version.as_deref())?);
    assert!(conflict(objects.write(&second).map(drop)), "gone meanwhile");
    assert!(!objects.delete("IPAMBlock", "a", None)?);
    Ok(())
}

#[test]
fn an_object_made_anew_never_has_a_version_that_its_forerunner_had() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let first = objects.write(&block("a", json!({})))?;
    objects.delete("IPAMBlock", "a", None)?;
    assert_ne!(objects.write(&block("a", json!({})))?.metadata, first.metadata);
    Ok(())
}

#[test]
fn counters_raised_by_many_writers_at_once_lose_no_step() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    objects.write(&block("a", json!(0)))?;
    let raise = |objects: Objects| -> Result<(), ObjectError> {
        for _ in 0..20 {
            loop {
                let mut object = objects.get("IPAMBlock", "a")?.expect("it is never deleted");
                object.spec = json!(object.spec.as_u64().unwrap_or(0) + 1);
                match objects.write(&object) {
                    Err(ObjectError::Conflict { .. }) => {}
                    answer => break answer.map(drop)?,
                }
            }
        }
        Ok(())
    };
    let writers: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn({
                let objects = objects.clone();
                move || raise(objects)
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("no writer panics")?;
    }
    assert_eq!(objects.get("IPAMBlock", "a")?.map(|object| object.spec), Some(json!(80)));
    Ok(())
}

#[test]
fn a_corrupt_object_is_an_error_that_names_its_file_and_never_an_absence() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    objects.write(&block("a", json!({})))?;
    for damage in ["", "spec: [", "just text", "\0\0\0"] {
        fs::write(dir.path().join(".tortie/IPAMBlock/a.yaml"), damage)?;
        let error = objects.get("IPAMBlock", "a").expect_err("damaged").to_string();
        assert!(error.contains("IPAMBlock/a.yaml"), "{error}");
        assert!(objects.list("IPAMBlock").is_err());
        assert!(objects.write(&block("a", json!({}))).is_err());
    }
    Ok(())
}

#[test]
fn an_empty_file_is_none_where_its_loss_harms_nobody_and_damage_elsewhere() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let of = |kind: &str| Object { kind: kind.to_owned(), ..block("a", json!({})) };
    for (kind, is_none) in [("IPAMHandle", true), ("WorkloadAddress", true), ("BlockAffinity", false)] {
        objects.write(&of(kind))?;
        fs::write(dir.path().join(format!(".tortie/{kind}/a.yaml")), "")?;
        assert_eq!(objects.get(kind, "a").is_ok_and(|found| found.is_none()), is_none, "{kind}");
        assert_eq!(objects.write(&of(kind)).is_ok(), is_none, "{kind}");
    }
    Ok(())
}

#[test]
fn nobody_writes_while_another_holds_the_lock() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let held = fs::File::create(dir.path().join(".tortie/.lock"))?;
    held.lock()?;
    let (begun, begin) = std::sync::mpsc::channel();
    let writer = std::thread::spawn({
        let objects = objects.clone();
        move || {
            begun.send(()).expect("the test waits");
            objects.write(&block("a", json!({})))
        }
    });
    begin.recv()?;
    // However long it takes: it is not there while the lock is held.
    for _ in 0..100 {
        assert_eq!(objects.get("IPAMBlock", "a")?, None);
        std::thread::yield_now();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    drop(held);
    assert!(writer.join().expect("no panic").is_ok());
    Ok(())
}

#[test]
fn a_temporary_file_left_by_a_killed_writer_is_no_object() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let written = objects.write(&block("a", json!({})))?;
    fs::write(dir.path().join(".tortie/IPAMBlock/.a.tmp"), "half")?;
    assert_eq!(objects.list("IPAMBlock")?, std::slice::from_ref(&written));
    objects.write(&Object { spec: json!({"n": 1}), ..written })?;
    Ok(())
}

#[test]
fn a_name_cannot_leave_its_directory() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    for name in ["", "..", "../a", "a/b", ".a", "a\nb"] {
        assert!(matches!(objects.get("IPAMBlock", name), Err(ObjectError::InvalidName(_))), "{name:?}");
        assert!(matches!(objects.get(name, "a"), Err(ObjectError::InvalidName(_))), "{name:?}");
    }
    Ok(())
}

#[test]
fn a_pods_addresses_are_spoken_for_by_the_node_that_wrote_last() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let address = |node: &str| WorkloadAddress {
        pod: PodId::new("shop", "web.0"),
        node: node.into(),
        addresses: vec!["10.0.0.1".parse().expect("an address")],
        labels: [("app".to_owned(), "web".to_owned())].into(),
    };
    objects.publish(&address("n1"))?;
    let first = objects.get("WorkloadAddress", "shop.web.0")?;
    objects.publish(&address("n1"))?;
    assert_eq!(objects.get("WorkloadAddress", "shop.web.0")?, first, "nothing new, nothing written");
    objects.publish(&address("n2"))?;
    objects.withdraw(&address("n1").pod, &"n1".into())?;
    assert!(objects.get("WorkloadAddress", "shop.web.0")?.is_some());
    objects.withdraw(&address("n1").pod, &"n2".into())?;
    assert_eq!(objects.get("WorkloadAddress", "shop.web.0")?, None);
    Ok(())
}

#[test]
fn what_another_process_wrote_counts_over_what_is_remembered() -> Outcome {
    let dir = tempfile::tempdir()?;
    // Two that share no memory.
    let (ours, theirs) = (Objects::open(dir.path())?, Objects::open(dir.path())?);
    let first = ours.write(&block("a", json!({"n": 1})))?;
    let second = theirs.write(&Object { spec: json!({"n": 2}), ..first.clone() })?;
    assert!(matches!(ours.write(&first), Err(ObjectError::Conflict { .. })), "they were first");
    assert_eq!(ours.get("IPAMBlock", "a")?, Some(second.clone()));
    assert_eq!(ours.list("IPAMBlock")?, std::slice::from_ref(&second));
    theirs.delete("IPAMBlock", "a", None)?;
    assert_eq!((ours.get("IPAMBlock", "a")?, ours.list("IPAMBlock")?), (None, Vec::new()));
    Ok(())
}

#[test]
fn of_several_none_is_written_if_somebody_was_first_with_one() -> Outcome {
    let dir = tempfile::tempdir()?;
    let objects = Objects::open(dir.path())?;
    let first = objects.write(&block("b", json!({"n": 1})))?;
    for late in [block("b", json!({"n": 2})), block("a", json!({"n": 2}))] {
        // The second time round "a" comes twice.
        let all = [block("a", json!({})), late];
        assert!(matches!(objects.write_all(&all), Err(ObjectError::Conflict { .. })));
        assert_eq!(objects.list("IPAMBlock")?, std::slice::from_ref(&first));
    }
    let all = objects.write_all(&[block("a", json!({})), Object { spec: json!({"n": 2}), ..first }])?;
    assert_eq!(objects.list("IPAMBlock")?, all);
    Ok(())
}
