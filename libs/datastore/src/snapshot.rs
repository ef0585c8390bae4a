//! Manifests read once: a directory as it stands, or a file that somebody asks about before it is applied.
//! In: a directory, or a file's text. Out: objects, and what is wrong.
//! Invariant: a directory is read as a first start of the agent reads it; a file that is asked about is read whole or not.
//! Never: writes or watches.

use crate::{
    Catalog, Problem,
    convert::{Converted, convert},
    document::documents,
    given, node_addresses,
    objects::SHARED,
    parallel, vtep,
    watch::{FILES_AT_ONCE, is_manifest, listed, said, text_of},
    workload,
};
use model::{Resource, ResourceKey, Update};
use serde_json::Value;
use std::{collections::BTreeSet, io, path::Path};

/// Kinds of shared objects that every agent hears of, as it does of manifests.
pub(crate) const WATCHED: [&str; 5] = [workload::KIND, given::KIND, vtep::KIND, node_addresses::KIND, "BlockAffinity"];

/// The objects of a directory, and what is wrong with its manifests.
///
/// # Errors
/// The directory cannot be listed.
pub fn directory(dir: &Path) -> io::Result<(Vec<Resource>, Vec<Problem>)> {
    let mut catalog = Catalog::default();
    let shared = WATCHED.map(|kind| dir.join(SHARED).join(kind)).into_iter();
    let dirs: Vec<_> = [dir.to_owned()].into_iter().chain(shared.filter(|shared| shared.is_dir())).collect();
    let paths: Vec<_> = listed(&dirs)?.into_keys().filter(|path| is_manifest(path)).collect();
    for paths in paths.chunks(FILES_AT_ONCE) {
        let said = parallel::computed(paths, |path| said(&text_of(path)));
        let there = paths.iter().zip(said).filter_map(|(path, said)| Some((path, said?)));
        there.for_each(|(path, said)| catalog.take_in(path, said));
    }
    let objects = catalog.changes().into_iter().filter_map(|update| match update {
        Update::Set(resource) => Some(resource),
        Update::Gone(_) | Update::InSync | Update::Anew { .. } => None,
    });
    Ok((objects.collect(), catalog.problems()))
}

/// The objects of a file that mean something here.
///
/// # Errors
/// The first thing wrong with it: a part that cannot be read would hold its place in a restrictive reading once it is
/// applied, and an answer about that would be an answer about something else.
pub fn file(name: &Path, text: &str) -> Result<Vec<Resource>, Problem> {
    let problem = |line, object, message| Problem { file: name.to_owned(), line: Some(line), object, message };
    let (mut objects, mut known) = (Vec::new(), BTreeSet::new());
    for document in documents(text) {
        let line = document.line;
        let values = document.content.map_err(|error| problem(error.line, error.object, error.message))?;
        for value in &values {
            let Some(object) = object(value).map_err(|(object, message)| problem(line, object, message))? else {
                continue;
            };
            if !known.insert(object.key()) {
                return Err(problem(line, Some(object.key().to_string()), "stands in this file twice".to_owned()));
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

/// `None`: it is not for this project.
fn object(value: &Value) -> Result<Option<Resource>, (Option<String>, String)> {
    let of = |key: &ResourceKey, what: String| Err((Some(key.to_string()), what));
    match convert(value) {
        Converted::Known { resource, unreadable } => match unreadable.first() {
            Some(part) => of(&resource.key(), part.to_string()),
            None => Ok(Some(resource)),
        },
        Converted::Refused { key, error } => of(&key, error.to_string()),
        Converted::Nameless { error } => Err((None, error.to_string())),
        Converted::NotEnforced { object, reason } => Err((Some(object), format!("{reason}; it would have no effect"))),
        Converted::Foreign { .. } => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str =
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}}}\n";

    fn wrong(text: &str) -> String {
        file(Path::new("f.yaml"), text).expect_err("there is something wrong").to_string()
    }

    #[test]
    fn a_file_that_is_asked_about_is_read_whole_or_not_at_all() {
        let text = format!("{POLICY}---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: s}}}}\n");
        assert_eq!(file(Path::new("f.yaml"), &text).expect("it can be read").len(), 1);
        for (text, said) in [
            (format!("{POLICY}---\nkind: [\n"), "f.yaml:3"),
            (format!("{POLICY}---\n{POLICY}"), "stands in this file twice"),
            (POLICY.replace("podSelector: {}", "podSelektor: {}"), "NetworkPolicy default/p: spec"),
            (POLICY.replace("podSelector: {}", "podSelector: {}, ingress: [{from: [{x: 1}]}]"), "spec.ingress[0]"),
            ("{apiVersion: v1}".to_owned(), "kind"),
        ] {
            assert!(wrong(&text).contains(said), "{said} is missing in {}", wrong(&text));
        }
    }

    #[test]
    fn a_directory_is_read_with_its_problems_and_nothing_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("a.yaml"), POLICY).expect("written");
        std::fs::write(dir.path().join("b.yaml"), "kind: [").expect("written");
        std::fs::write(dir.path().join("notes.txt"), POLICY.replace("name: p", "name: q")).expect("written");
        let (objects, problems) = directory(dir.path()).expect("listed");
        assert_eq!((objects.len(), problems.len()), (1, 1), "{objects:?} {problems:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 3);
    }
}
