//! What people write of how addresses are given out (pools, reservations, how nodes take blocks), read and changed for a command that
//! somebody gave.
//! In: objects as they stand there, and what is to become of some. Out: manifests, changed where they stand.
//! Invariant: only what is still as it was read is changed; a file is whole at every moment, and its other documents are as they were.
//! Never: changes a Node, or an object in a list or in JSON: its writer has to.

use crate::{Metadata, Object, ObjectError, Objects, convert::setting, document, durable, watch::is_manifest, yaml};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Who changes manifests excludes others that do.
const LOCK: &str = ".lock-of-manifests";

/// A kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// IPPool.
    Pool,
    /// IPReservation.
    Reservation,
    /// How nodes take blocks.
    Config,
    /// A node, for its podCIDRs.
    Node,
}

impl Setting {
    /// As manifests name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pool => "IPPool",
            Self::Reservation => "IPReservation",
            Self::Config => "IPAMConfiguration",
            Self::Node => "Node",
        }
    }
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its kind.
    pub kind: Setting,
    /// Its name.
    pub name: String,
    /// As it was read; `None`: there was none.
    pub before: Option<Object>,
    /// What it says from now on; `None`: it goes.
    pub spec: Option<Value>,
}

impl Change {
    /// One that is new.
    #[must_use]
    pub fn new(kind: Setting, name: &str, spec: Value) -> Self {
        Self { kind, name: name.to_owned(), before: None, spec: Some(spec) }
    }

    /// One that says something else from now on.
    #[must_use]
    pub fn of(kind: Setting, before: &Object, spec: Option<Value>) -> Self {
        Self { kind, name: before.metadata.name.clone(), before: Some(before.clone()), spec }
    }

    pub(crate) fn conflict(&self, found: &str) -> ObjectError {
        let before = self.before.as_ref().map(|before| before.metadata.resource_version.clone().unwrap_or_default());
        ObjectError::Conflict {
            kind: self.kind.name().to_owned(),
            name: self.name.clone(),
            wanted: before.unwrap_or_else(|| "none".to_owned()),
            found: found.to_owned(),
        }
    }
}

/// An object, and where it stands.
struct Placed {
    file: PathBuf,
    line: u64,
    /// It is all that its document holds.
    is_alone: bool,
    value: Value,
}

pub(crate) fn of_directory(dir: &Path, kind: Setting) -> Result<Vec<Object>, ObjectError> {
    Ok(placed(dir, kind)?.into_iter().map(|placed| object(kind, &placed.value)).collect())
}

fn object(kind: Setting, value: &Value) -> Object {
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let api_version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    let metadata = Metadata { name, resource_version: None };
    Object { api_version, kind: kind.name().to_owned(), metadata, spec: value["spec"].clone() }
}

fn placed(dir: &Path, kind: Setting) -> Result<Vec<Placed>, ObjectError> {
    let mut found = Vec::new();
    let failed = |path: &Path, source| ObjectError::Io { path: path.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(|source| failed(dir, source))?;
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    files.iter_mut().for_each(|files| files.sort());
    for file in files.map_err(|source| failed(dir, source))?.into_iter().filter(|file| is_manifest(file)) {
        let text = fs::read_to_string(&file).map_err(|source| failed(&file, source))?;
        let is_yaml = !text.trim_start().starts_with(['{', '[']);
        for document in document::documents(&text) {
            let values = document.content.map_err(|unreadable| unreadable_at(&file, &unreadable))?;
            let is_alone = is_yaml && !document.is_list;
            let own = values.into_iter().filter(|value| setting(value) == Some(kind));
            let line = document.line;
            found.extend(own.map(|value| Placed { file: file.clone(), line, is_alone, value }));
        }
    }
    Ok(found)
}

/// Whatever it seems to be, it may be what is asked for.
fn unreadable_at(file: &Path, found: &document::Unreadable) -> ObjectError {
    let reason = format!("line {}: {}; mend it first", found.line, found.message);
    ObjectError::Corrupt { path: file.to_owned(), reason }
}

/// In a directory.
pub(crate) fn set(objects: &Objects, changes: &[Change]) -> Result<(), ObjectError> {
    let dir = objects.manifests();
    let _lock = objects.lock(LOCK)?;
    // What stands at a line of a file from now on; what is new stands beside what it comes with.
    let mut edits: BTreeMap<PathBuf, BTreeMap<u64, Vec<Value>>> = BTreeMap::new();
    let mut fresh = Vec::new();
    for change in changes {
        let there = placed(dir, change.kind)?;
        let mut own =
            there.into_iter().filter(|placed| object(change.kind, &placed.value).metadata.name == change.name);
        match (own.next(), &change.before) {
            (None, None) => fresh.push(change),
            (None, Some(_)) => return Err(change.conflict("none")),
            (Some(_), None) => return Err(change.conflict("one")),
            (Some(found), Some(before)) => {
                if object(change.kind, &found.value).spec != before.spec {
                    return Err(change.conflict("another"));
                }
                if !found.is_alone || own.next().is_some() {
                    let reason = format!(
                        "{} {} stands in a list, in JSON, or twice: change it by hand",
                        change.kind.name(),
                        change.name
                    );
                    return Err(ObjectError::Corrupt { path: found.file, reason });
                }
                let mut value = found.value;
                let now = change.spec.as_ref().map(|spec| {
                    value["spec"] = spec.clone();
                    value
                });
                edits.entry(found.file).or_default().entry(found.line).or_default().extend(now);
            }
        }
    }
    for change in fresh {
        let Some(spec) = &change.spec else { continue };
        let metadata = json!({ "name": change.name });
        let value = json!({ "apiVersion": "projectcalico.org/v3", "kind": change.kind.name(), "metadata": metadata, "spec": spec });
        let name = format!("{}-{}.yaml", change.kind.name().to_lowercase(), crate::objects::checked(&change.name)?);
        let beside = edits.values_mut().next().and_then(|lines| lines.values_mut().next());
        match beside {
            Some(beside) => beside.push(value),
            None => drop(edits.insert(dir.join(name), [(0, vec![value])].into())),
        }
    }
    let mut files = Vec::new();
    for (path, lines) in edits {
        let text = read(&path)?;
        let text = edited(&text, &lines).map_err(|reason| ObjectError::Corrupt { path: path.clone(), reason })?;
        files.push(durable::File { path, text: text.into_bytes(), lasts: true });
    }
    durable::replace_all(&files).map_err(|(path, source)| ObjectError::Io { path, source })
}

fn read(path: &Path) -> Result<String, ObjectError> {
    match fs::read_to_string(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|source| ObjectError::Io { path: path.to_owned(), source }),
    }
}

/// The text with other documents where those stood that begin at these lines; those of line 0 come at the end.
fn edited(text: &str, lines: &BTreeMap<u64, Vec<Value>>) -> Result<String, String> {
    let printed = |values: &Vec<Value>| {
        let all = values.iter().map(yaml::print).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, String>(all.into_iter().map(|text| format!("{}\n", text.trim_end())).collect::<Vec<_>>())
    };
    let mut parts = Vec::new();
    for (place, part) in document::raw(text) {
        match lines.range(place).next() {
            Some((_, values)) => parts.extend(printed(values)?),
            None => parts.push(part),
        }
    }
    if let Some(values) = lines.get(&0) {
        parts.extend(printed(values)?);
    }
    // A file from which everything went is one without documents.
    Ok(if parts.is_empty() { "# nothing is left\n".to_owned() } else { parts.join("---\n") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shared as _;

    const TEXT: &str = "# of the whole\napiVersion: v1\nkind: Namespace\nmetadata: { name: a } # stays\n--- # the pool\n\
        apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: p, labels: { x: 'y' } }\nspec: { cidr: 10.65.0.0/16 }\n---\n\
        apiVersion: others.example/v1\nkind: IPPool\nmetadata: { name: b }\n--- {apiVersion: v1, kind: Namespace, metadata: {name: c}}\n";

    fn store() -> (tempfile::TempDir, Objects) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("all.yaml"), TEXT).expect("written");
        let objects = Objects::open(dir.path()).expect("a store");
        (dir, objects)
    }

    fn pools(objects: &Objects) -> Vec<(String, Value)> {
        let all = objects.settings(Setting::Pool).expect("they can be read");
        all.into_iter().map(|pool| (pool.metadata.name, pool.spec)).collect()
    }

    #[test]
    fn a_manifest_is_changed_where_it_stands_and_what_stands_beside_it_is_as_it_was() {
        let (dir, objects) = store();
        let before = objects.settings(Setting::Pool).expect("readable").remove(0);
        let spec = json!({ "cidr": "10.65.0.0/16", "disabled": true });
        objects.set(&[Change::of(Setting::Pool, &before, Some(spec.clone()))]).expect("written");
        assert_eq!(pools(&objects), [("p".to_owned(), spec)]);
        let text = fs::read_to_string(dir.path().join("all.yaml")).expect("readable");
        assert!(text.starts_with("# of the whole\n") && text.contains("{ name: a } # stays"), "{text}");
        assert!(
            text.contains("x: \"y\"")
                && text.ends_with("{ name: b }\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: c}}\n"),
            "{text}"
        );
        let stale = Change::of(Setting::Pool, &before, None);
        assert!(matches!(objects.set(&[stale]), Err(ObjectError::Conflict { .. })), "it is another by now");
    }

    #[test]
    fn what_comes_for_what_goes_comes_by_one_write_of_its_file() {
        let (dir, objects) = store();
        let before = objects.settings(Setting::Pool).expect("readable").remove(0);
        let half = |number: u8| json!({ "cidr": format!("10.65.{}.0/17", number * 128) });
        let changes = [
            Change::new(Setting::Pool, "p0", half(0)),
            Change::new(Setting::Pool, "p1", half(1)),
            Change::of(Setting::Pool, &before, None),
        ];
        objects.set(&changes).expect("written");
        assert_eq!(pools(&objects), [("p0".to_owned(), half(0)), ("p1".to_owned(), half(1))]);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "the file, and what agents share");
        assert!(objects.set(&changes[..1]).is_err(), "it is there");
        objects.set(&[Change::new(Setting::Reservation, "r", json!({ "reservedCIDRs": [] }))]).expect("written");
        assert!(dir.path().join("ipreservation-r.yaml").is_file());
        let last = objects.settings(Setting::Reservation).expect("readable").remove(0);
        objects.set(&[Change::of(Setting::Reservation, &last, None)]).expect("written");
        assert!(objects.settings(Setting::Reservation).expect("readable").is_empty());
    }

    #[test]
    fn what_stands_in_the_file_that_a_new_object_goes_to_stays() {
        let (dir, objects) = store();
        let path = dir.path().join("ipreservation-r.yaml");
        fs::write(&path, "apiVersion: v1\nkind: Namespace\nmetadata: { name: kept } # as it is\n").expect("written");
        objects.set(&[Change::new(Setting::Reservation, "r", json!({ "reservedCIDRs": [] }))]).expect("written");
        let text = fs::read_to_string(&path).expect("readable");
        assert!(
            text.starts_with("apiVersion: v1\nkind: Namespace\nmetadata: { name: kept } # as it is\n---\n"),
            "{text}"
        );
        assert_eq!(objects.settings(Setting::Reservation).expect("readable").len(), 1);
    }

    #[test]
    fn what_cannot_be_read_may_be_what_is_asked_for_and_is_no_absence() {
        let (dir, objects) = store();
        let text =
            "apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: { name: default }\nspec: { a: [ }\n";
        fs::write(dir.path().join("x.yaml"), text).expect("written");
        let said = objects.settings(Setting::Config).expect_err("it is there").to_string();
        assert!(said.contains("x.yaml") && said.contains("line 4"), "{said}");
        let new = Change::new(Setting::Config, "default", json!({ "strictAffinity": true }));
        assert!(objects.set(&[new]).is_err());
    }

    #[test]
    fn what_stands_in_a_list_or_in_json_is_left_to_its_writer() {
        let pool =
            json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "p" }, "spec": {} });
        let list = json!({ "kind": "List", "items": [pool] });
        let in_yaml = yaml::print(&list).expect("YAML");
        for text in [pool.to_string(), list.to_string(), in_yaml] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            fs::write(dir.path().join("p.yaml"), &text).expect("written");
            let objects = Objects::open(dir.path()).expect("a store");
            let before = objects.settings(Setting::Pool).expect("readable").remove(0);
            let said =
                objects.set(&[Change::of(Setting::Pool, &before, None)]).expect_err("it is not ours").to_string();
            assert!(said.contains("p.yaml") && said.contains("by hand"), "{said}");
            assert_eq!(fs::read_to_string(dir.path().join("p.yaml")).expect("readable"), text);
        }
    }
}
