//! The catalog: what every file of the datastore says, and what has been said of it to the reader.
//! In: files' texts, one at a time. Out: the changes since the last time, and all problems.
//! Invariant: an object that is there but cannot be read keeps its last good revision; an object in two files counts
//! from the file whose name sorts first.
//! Never: does I/O; says a change twice.

use crate::{
    Batch, Problem,
    convert::{Converted, convert},
    document::{Document, documents},
    last_good,
};
use model::{Resource, ResourceKey, Update};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// All files.
#[derive(Debug, Default)]
pub struct Catalog {
    files: BTreeMap<PathBuf, File>,
    published: BTreeMap<ResourceKey, Resource>,
    /// What was in force when the agent last ran, until the first changes are asked for.
    restored: BTreeMap<ResourceKey, Resource>,
}

/// What one file says.
#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ResourceKey, Held>,
    /// Objects that are, or may be, in the file and cannot be read now.
    refused: BTreeSet<ResourceKey>,
    complaints: Vec<Complaint>,
}

#[derive(Debug)]
struct Held {
    line: u64,
    resource: Resource,
    /// The document as JSON, of what policies are made of: to be written down, so that it outlives this process.
    document: Option<String>,
}

/// A problem whose consequence depends on what was published before.
#[derive(Debug)]
struct Complaint {
    line: Option<u64>,
    object: Option<String>,
    message: String,
    consequence: Consequence,
}

#[derive(Debug)]
enum Consequence {
    /// This object keeps its last good revision, or is absent.
    Object(ResourceKey),
    /// What the file said before holds on.
    File,
    /// Said in the message.
    Told,
}

impl Catalog {
    /// Policies as they were in force when the agent last ran. Those that turn out to be there but cannot be read come
    /// into force again with the first changes; the others are forgotten then.
    pub(crate) fn restore(&mut self, policies: BTreeMap<ResourceKey, Resource>) {
        self.restored = policies;
    }

    /// `file` gave this object when the agent last ran: what cannot be named in it may be this one.
    pub(crate) fn expect(&mut self, file: &Path, key: &ResourceKey) {
        self.files.entry(file.to_owned()).or_default().refused.insert(key.clone());
    }

    /// Takes in what `file` says now; `Err`: it cannot be read at all.
    pub fn read(&mut self, file: &Path, text: Result<&str, String>) {
        let before = self.files.remove(file).unwrap_or_default();
        let mut now = File::default();
        match text {
            Ok(text) => documents(text).into_iter().for_each(|document| now.document(document)),
            Err(message) => now.complain(None, None, message, Consequence::File),
        }
        now.keep_what_may_be_hidden(before);
        self.files.insert(file.to_owned(), now);
    }

    /// The file is gone.
    pub(crate) fn remove(&mut self, file: &Path) {
        self.files.remove(file);
    }

    /// What has changed since the last call: first what is there, then what is gone.
    #[must_use]
    pub fn changes(&mut self) -> Batch {
        let mut winners: BTreeMap<&ResourceKey, &Resource> = BTreeMap::new();
        for (key, held) in self.files.values().flat_map(|file| &file.objects) {
            winners.entry(key).or_insert(&held.resource);
        }
        let refused: BTreeSet<&ResourceKey> = self.files.values().flat_map(|file| &file.refused).collect();
        let restored = std::mem::take(&mut self.restored);
        for (key, resource) in restored.iter().filter(|(key, _)| refused.contains(key)) {
            winners.entry(key).or_insert(resource);
        }
        let is_gone = |key: &&ResourceKey| !winners.contains_key(key) && !refused.contains(key);
        let gone: Vec<ResourceKey> = self.published.keys().filter(is_gone).cloned().collect();
        let is_new = |(key, resource): &(&ResourceKey, &Resource)| self.published.get(key) != Some(resource);
        let set: Vec<Resource> = winners.into_iter().filter(is_new).map(|(_, resource)| resource.clone()).collect();
        for resource in &set {
            self.published.insert(resource.key(), resource.clone());
        }
        for key in &gone {
            self.published.remove(key);
        }
        set.into_iter().map(Update::Set).chain(gone.into_iter().map(Update::Gone)).collect()
    }

    /// Policies that can be read now: each one's file and document.
    pub(crate) fn policies(&self) -> BTreeMap<&ResourceKey, (&Path, &str)> {
        let mut policies = BTreeMap::new();
        for (path, file) in &self.files {
            for (key, held) in &file.objects {
                if let Some(document) = &held.document {
                    policies.entry(key).or_insert((path.as_path(), document.as_str()));
                }
            }
        }
        policies
    }

    /// Whether it was said to the reader, and not taken back.
    pub(crate) fn is_in_force(&self, key: &ResourceKey) -> bool {
        self.published.contains_key(key)
    }

    /// All that is wrong now, by file and line.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.duplicates();
        for (path, file) in &self.files {
            problems.extend(file.complaints.iter().map(|complaint| self.problem(path, complaint)));
        }
        problems.sort();
        problems
    }

    fn problem(&self, file: &Path, complaint: &Complaint) -> Problem {
        let consequence = match &complaint.consequence {
            Consequence::Object(key) if self.published.contains_key(key) => "; its last good revision stays in force",
            Consequence::Object(_) => "; it counts as absent until it can be read",
            Consequence::File => "; objects that this file gave before stay in force",
            Consequence::Told => "",
        };
        Problem {
            file: file.to_owned(),
            line: complaint.line,
            object: complaint.object.clone(),
            message: format!("{}{consequence}", complaint.message),
        }
    }

    fn duplicates(&self) -> Vec<Problem> {
        let mut first: BTreeMap<&ResourceKey, &Path> = BTreeMap::new();
        let mut problems = Vec::new();
        for (path, file) in &self.files {
            for (key, held) in &file.objects {
                let winner = *first.entry(key).or_insert(path);
                if winner != path {
                    problems.push(Problem {
                        file: path.clone(),
                        line: Some(held.line),
                        object: Some(key.to_string()),
                        message: format!("also in {}, which counts; remove one of them", winner.display()),
                    });
                }
            }
        }
        problems
    }
}

impl File {
    fn document(&mut self, document: Document) {
        match document.content {
            Ok(objects) => objects.iter().for_each(|object| self.object(document.line, object)),
            Err(error) => self.complain(Some(error.line), error.object, error.message, Consequence::File),
        }
    }

    fn object(&mut self, line: u64, object: &Value) {
        match convert(object) {
            Converted::Known { resource, unreadable } => {
                let name = resource.key().to_string();
                for part in unreadable {
                    self.complain(Some(line), Some(name.clone()), part.to_string(), Consequence::Told);
                }
                let document = last_good::folder(&resource.key()).is_some().then(|| object.to_string());
                self.hold(Held { line, resource, document });
            }
            Converted::Refused { key, error } => {
                self.complain(Some(line), Some(key.to_string()), error.to_string(), Consequence::Object(key.clone()));
                self.refused.insert(key);
            }
            Converted::Nameless { error } => {
                self.complain(Some(line), label(object), error.to_string(), Consequence::File);
            }
            Converted::NotEnforced { object, reason } => {
                self.complain(Some(line), Some(object), format!("{reason}; it has no effect"), Consequence::Told);
            }
            Converted::Foreign { kind } => tracing::debug!(kind, line, "object of a kind that means nothing here"),
        }
    }

    fn hold(&mut self, held: Held) {
        let key = held.resource.key();
        if let Some(Held { line, .. }) = self.objects.get(&key) {
            let message = format!("already given in line {line}, which counts; remove one of them");
            self.complain(Some(held.line), Some(key.to_string()), message, Consequence::Told);
        } else {
            self.objects.insert(key, held);
        }
    }

    fn complain(&mut self, line: Option<u64>, object: Option<String>, message: String, consequence: Consequence) {
        self.complaints.push(Complaint { line, object, message, consequence });
    }

    /// A document that cannot be named may be any object that the file held before.
    fn keep_what_may_be_hidden(&mut self, before: Self) {
        let hides = |complaint: &Complaint| matches!(complaint.consequence, Consequence::File);
        if self.complaints.iter().any(hides) {
            let held = before.objects.into_keys().chain(before.refused);
            self.refused.extend(held.filter(|key| !self.objects.contains_key(key)));
        }
    }
}

/// What an object calls itself, where it has no key.
fn label(object: &Value) -> Option<String> {
    let kind = object.get("kind").and_then(Value::as_str)?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
    Some(format!("{kind} {name}"))
}

#[cfg(test)]
mod tests;
