//! The watch on a real directory.
//! In: saves, renames, links and removals. Out: the batches they cause.
//! Invariant: every wait is for something that must come; silence is shown by what comes next.
//! Never: a sleep; a file outside its temporary directory.

use super::*;
use crate::Objects;
use model::{PodId, Resource, WorkloadAddress};
use std::{error::Error, io::Write, time::Duration};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

/// So long that only a hang is caught by it.
const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    dir: TempDir,
    store: FileStore,
    updates: Updates,
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn scene(files: &[(&str, &str)]) -> Result<(Scene, Vec<String>), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    for (name, text) in files {
        fs::write(dir.path().join(name), text)?;
    }
    let (store, updates) = FileStore::open(dir.path(), None)?;
    let mut scene = Scene { dir, store, updates };
    let first = scene.next()?;
    Ok((scene, first))
}

impl Scene {
    fn next(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let say = |update| match update {
            Update::Set(resource) => format!("set {}", Resource::key(&resource)),
            Update::Gone(key) => format!("gone {key}"),
            Update::InSync | Update::Anew { .. } => "in sync".to_owned(),
        };
        Ok(self.updates.recv_timeout(PATIENCE)?.into_iter().map(say).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn the_first_batch_is_everything_and_ends_in_sync() -> Outcome {
    let files = [("b.yaml", namespace("b")), ("a.yml", namespace("a")), ("c.json", "{\n\t\"kind\": \"List\"}".into())];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (scene, first) = scene(&files)?;
    assert_eq!(first, ["set Namespace a", "set Namespace b", "in sync"]);
    assert_eq!(scene.store.problems(), []);
    Ok(())
}

#[test]
fn an_empty_directory_is_in_sync_and_a_missing_one_an_error_that_names_it() -> Outcome {
    assert_eq!(scene(&[])?.1, ["in sync"]);
    let error = FileStore::open(Path::new("/nonexistent/manifests"), None).expect_err("it does not exist").to_string();
    assert!(error.starts_with("/nonexistent/manifests: "), "{error}");
    Ok(())
}

#[test]
fn a_save_a_rename_over_a_link_and_a_removal_take_effect() -> Outcome {
    let (mut scene, _) = scene(&[])?;
    fs::write(scene.path("a.yaml"), namespace("a"))?;
    assert_eq!(scene.next()?, ["set Namespace a"]);
    fs::write(scene.path(".a.new"), namespace("b"))?;
    fs::rename(scene.path(".a.new"), scene.path("a.yaml"))?;
    assert_eq!(scene.next()?, ["set Namespace b", "gone Namespace a"]);
    fs::write(scene.path("elsewhere"), namespace("c"))?;
    std::os::unix::fs::symlink(scene.path("elsewhere"), scene.path("c.yaml"))?;
    assert_eq!(scene.next()?, ["set Namespace c"]);
    fs::remove_file(scene.path("a.yaml"))?;
    assert_eq!(scene.next()?, ["gone Namespace b"]);
    Ok(())
}

#[test]
fn a_renamed_manifest_is_never_gone_in_between() -> Outcome {
    let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
    for round in 0..50 {
        let (from, to) = if round % 2 == 0 { ("a.yaml", "z.yaml") } else { ("z.yaml", "a.yaml") };
        fs::rename(scene.path(from), scene.path(to))?;
    }
    fs::write(scene.path("end.yaml"), namespace("end"))?;
    assert_eq!(scene.next()?, ["set Namespace end"]);
    Ok(())
}

/// A reader that has read `a.yaml`, without the thread that drives it.
fn reader(dir: &Path) -> Result<Reader, Box<dyn Error>> {
    reader_telling(dir, Told::default())
}

fn reader_telling(dir: &Path, told: Told) -> Result<Reader, Box<dyn Error>> {
    let dirs = ["", ".tortie/A", ".tortie/B", ".tortie/C", ".tortie/D", ".tortie/E"].map(|part| dir.join(part));
    dirs.iter().try_for_each(fs::create_dir_all)?;
    fs::write(dir.join("a.yaml"), namespace("a"))?;
    let mut reader = Reader::new(dirs, told);
    assert_eq!(reader.first()?.len(), 2);
    Ok(reader)
}

fn read_paths(reader: &Reader, touched: Touched) -> io::Result<Vec<PathBuf>> {
    Ok(reader.look(touched)?.readings.into_keys().collect())
}

fn touched(path: PathBuf) -> Touched {
    Touched { left: [path].into(), ..Touched::default() }
}

#[test]
fn the_old_name_of_a_renamed_file_is_never_taken_in_without_the_new_one() -> Outcome {
    let dir = tempfile::tempdir()?;
    let reader = reader(dir.path())?;
    let [a, z] = ["a.yaml", "z.yaml"].map(|name| dir.path().join(name));
    fs::rename(&a, &z)?;
    assert_eq!(read_paths(&reader, touched(a.clone()))?, [a, z]);
    Ok(())
}

#[test]
fn a_directory_that_is_gone_takes_nothing_away_and_is_reported() -> Outcome {
    let dir = tempfile::tempdir()?;
    let inside = dir.path().join("manifests");
    fs::create_dir(&inside)?;
    let told = Told::default();
    let mut reader = reader_telling(&inside, Told::clone(&told))?;
    fs::rename(&inside, dir.path().join("moved"))?;
    let error = reader.look(touched(inside.join("a.yaml"))).expect_err("there is nothing to list");
    reader.cannot_list(&error);
    assert_eq!(reader.changes(), []);
    let problems = told.lock().expect("nobody panicked with it").clone();
    assert!(problems.len() == 1 && problems[0].file == inside, "{problems:?}");
    Ok(())
}

#[test]
fn dropped_events_make_everything_be_read_again() -> Outcome {
    let dir = tempfile::tempdir()?;
    let reader = reader(dir.path())?;
    let [a, z] = ["a.yaml", "z.yaml"].map(|name| dir.path().join(name));
    fs::remove_file(&a)?;
    fs::write(&z, namespace("z"))?;
    assert_eq!(read_paths(&reader, Touched { all: true, ..Touched::default() })?, [a, z]);
    Ok(())
}

#[test]
fn a_file_counts_when_its_writer_closes_it() -> Outcome {
    let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
    let mut open = fs::File::create(scene.path("a.yaml"))?;
    open.write_all(b"apiVersion: v1\nkind: Namespace\n")?;
    open.sync_all()?;
    fs::write(scene.path("b.yaml"), namespace("b"))?;
    assert_eq!(scene.next()?, ["set Namespace b"], "the half-written file takes nothing away");
    open.write_all(b"metadata: {name: a, labels: {x: z}}\n")?;
    drop(open);
    assert_eq!(scene.next()?, ["set Namespace a"]);
    Ok(())
}

#[test]
fn a_broken_save_is_reported_and_changes_nothing() -> Outcome {
    let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
    fs::write(scene.path("a.yaml"), "kind: [\n")?;
    fs::write(scene.path("b.yaml"), namespace("b"))?;
    assert_eq!(scene.next()?, ["set Namespace b"]);
    let problems = scene.store.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].file.ends_with("a.yaml") && problems[0].line.is_some(), "{problems:?}");
    Ok(())
}

#[test]
fn what_is_no_readable_file_is_reported_and_blocks_nothing() -> Outcome {
    let (mut scene, _) = scene(&[])?;
    fs::create_dir(scene.path("dir.yaml"))?;
    fs::write(scene.path("latin.yaml"), b"kind: \xff\n")?;
    fs::write(scene.path("~a.txt"), "kind: [")?;
    fs::write(scene.path(".hidden.yaml"), "kind: [")?;
    fs::write(scene.path("a.yaml"), namespace("a"))?;
    assert_eq!(scene.next()?, ["set Namespace a"]);
    let problems = scene.store.problems();
    assert!(problems.len() == 1 && problems[0].file.ends_with("latin.yaml"), "{problems:?}");
    Ok(())
}

impl Scene {
    /// The batches until this namespace, which nothing else gives, is told: all that happened before it is in them.
    fn told_until(&mut self, end: &str) -> Result<Vec<String>, Box<dyn Error>> {
        fs::write(self.path("end.yaml"), namespace(end))?;
        let (mut told, end) = (Vec::new(), format!("set Namespace {end}"));
        while !told.contains(&end) {
            told.extend(self.next()?);
        }
        told.retain(|update| *update != end);
        Ok(told)
    }

    fn problem(&self) -> String {
        self.store.problems().iter().map(|problem| format!("{}\n", problem.message)).collect()
    }
}

#[test]
fn what_an_editor_moves_away_to_save_it_stays_until_the_new_file_is_closed() -> Outcome {
    let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
    fs::rename(scene.path("a.yaml"), scene.path("a.yaml~"))?;
    assert_eq!(scene.told_until("one")?, [""; 0]);
    assert!(
        scene.problem().contains("a.yaml~; its objects stay in force until it is saved again"),
        "{:?}",
        scene.store
    );
    let mut new = fs::File::create(scene.path("a.yaml"))?;
    new.write_all(b"apiVersion: v1\nkind: Namespace\n")?;
    fs::remove_file(scene.path("a.yaml~"))?;
    assert_eq!(scene.told_until("two")?, ["gone Namespace one"], "the half-written file takes nothing away");
    new.write_all(b"metadata: {name: a, labels: {x: z}}\n")?;
    drop(new);
    assert_eq!(scene.next()?, ["set Namespace a"]);
    assert_eq!(scene.problem(), "");
    Ok(())
}

#[test]
fn whole_saves_by_moving_away_are_never_seen_as_a_removal() -> Outcome {
    let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
    for round in 0..50 {
        fs::rename(scene.path("a.yaml"), scene.path("a.yaml~"))?;
        let text = namespace("a").replace("name: a", &format!("name: a, labels: {{x: r{round}}}"));
        fs::write(scene.path("a.yaml"), text)?;
        fs::remove_file(scene.path("a.yaml~"))?;
        assert_eq!(scene.next()?, ["set Namespace a"], "round {round}");
    }
    Ok(())
}

#[test]
fn what_was_moved_away_is_gone_once_it_leaves_the_directory() -> Outcome {
    for leave in [|from: &Path, _: &Path| fs::remove_file(from), |from: &Path, to: &Path| fs::rename(from, to)] {
        let elsewhere = tempfile::tempdir()?;
        let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
        fs::rename(scene.path("a.yaml"), scene.path(".a.yaml.swp"))?;
        fs::rename(scene.path(".a.yaml.swp"), scene.path("a.off"))?;
        assert_eq!(scene.told_until("one")?, [""; 0]);
        leave(&scene.path("a.off"), &elsewhere.path().join("a.yaml"))?;
        assert_eq!(scene.next()?, ["gone Namespace a"]);
        assert_eq!(scene.problem(), "");
    }
    Ok(())
}

#[test]
fn what_was_moved_away_and_comes_back_under_another_name_was_never_gone() -> Outcome {
    let (mut scene, _) = scene(&[("a.yaml", &namespace("a"))])?;
    fs::rename(scene.path("a.yaml"), scene.path("a.off"))?;
    assert_eq!(scene.told_until("one")?, [""; 0]);
    fs::rename(scene.path("a.off"), scene.path("z.yaml"))?;
    assert_eq!(scene.told_until("two")?, ["gone Namespace one"]);
    assert_eq!(scene.problem(), "");
    fs::remove_file(scene.path("z.yaml"))?;
    assert_eq!(scene.next()?, ["gone Namespace a"]);
    Ok(())
}

#[test]
fn a_new_file_with_the_inode_of_a_removed_manifest_keeps_nothing_in_force() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut reader = reader(dir.path())?;
    let [a, notes] = ["a.yaml", "notes.txt"].map(|name| dir.path().join(name));
    fs::remove_file(&a)?;
    fs::write(&notes, "not a manifest")?;
    let born = Some(std::time::SystemTime::UNIX_EPOCH);
    reader.known.insert(a.clone(), Identity { inode: Identity::at(&notes)?.inode, born });
    let look = reader.look(touched(a))?;
    assert!(look.away.is_empty(), "{look:?}");
    assert_eq!(look.readings.len(), 1);
    Ok(())
}

#[test]
fn what_another_agent_publishes_arrives() -> Outcome {
    let (mut scene, _) = scene(&[])?;
    let objects = Objects::open(scene.dir.path())?;
    let address = WorkloadAddress {
        pod: PodId::new("shop", "web"),
        node: "n2".into(),
        addresses: vec!["10.0.0.1".parse()?],
        labels: model::Labels::new(),
    };
    objects.publish(&address)?;
    assert_eq!(scene.next()?, ["set WorkloadAddress shop/web"]);
    objects.withdraw(&address.pod, &address.node)?;
    assert_eq!(scene.next()?, ["gone WorkloadAddress shop/web"]);
    Ok(())
}

#[test]
fn dropping_the_store_closes_the_channel() -> Outcome {
    let (scene, _) = scene(&[])?;
    drop(scene.store);
    assert_eq!(scene.updates.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    Ok(())
}

#[test]
fn looking_at_the_directory_does_not_wake_the_reader_and_an_editors_old_file_that_goes_does() {
    use notify::event::{AccessKind, AccessMode, EventKind, RemoveKind};
    let mut touched = Touched::default();
    let mut wakes = |kind, path: &str| touched.add(Ok(notify::Event::new(kind).add_path(path.into())));
    assert!(!wakes(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/manifests"));
    assert!(!wakes(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/manifests/a.yaml"));
    assert!(!wakes(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/manifests/a.yaml"));
    assert!(wakes(EventKind::Remove(RemoveKind::File), "/manifests/a.yaml~"));
    assert!(wakes(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/manifests/a.yaml"));
}
