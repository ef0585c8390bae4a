//! Reading: what a file's text says by itself, whatever was said before.
//! In: a text. Out: objects, objects that could not be read, and complaints.
//! Invariant: of two objects of one name the first counts; nothing is left out without a complaint.
//! Never: knows another file.

use super::{Alike, Complaint, Consequence, File, Held};
use crate::{
    convert::{Converted, convert},
    document::{Document, documents},
    last_good,
};
use model::ResourceKey;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A file while it is read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    objects: BTreeMap<ResourceKey, Held>,
    refused: BTreeSet<ResourceKey>,
    complaints: Vec<Complaint>,
}

impl Reading {
    /// What a text says by itself; `Err`: it cannot be read at all.
    pub(crate) fn of(text: Result<&str, String>) -> Self {
        let mut reading = Self::default();
        match text {
            Ok(text) => documents(text).into_iter().for_each(|document| reading.document(document)),
            Err(message) => reading.complain(None, None, message, Consequence::File),
        }
        reading
    }

    /// The same of one object that stands in no file.
    pub(crate) fn of_object(object: &Value) -> Self {
        let mut reading = Self::default();
        reading.object(None, object);
        reading
    }

    /// With what stands beside it.
    pub(crate) fn and(mut self, beside: Option<&Value>) -> Self {
        if let Some(object) = beside {
            self.object(None, object);
        }
        self
    }

    /// With what an object implies. While that cannot be read, what it implied holds on, and nothing new does.
    pub(crate) fn implying(mut self, implied: &Value) -> Self {
        if self.refused.is_empty() {
            return self.and(Some(implied));
        }
        if let Converted::Known { resource, .. } = convert(implied) {
            self.refused.insert(resource.key());
        }
        self
    }

    /// Of a datastore that counts its revisions: it was made at this one.
    pub(crate) fn made_at(mut self, revision: i64) -> Self {
        self.objects.values_mut().for_each(|held| held.made = revision);
        self
    }

    fn document(&mut self, document: Document) {
        match document.content {
            Ok(objects) => objects.iter().for_each(|object| self.object(Some(document.line), object)),
            Err(error) => self.complain(Some(error.line), error.object, error.message, Consequence::File),
        }
    }

    fn object(&mut self, line: Option<u64>, object: &Value) {
        match convert(object) {
            Converted::Known { resource, unreadable } => {
                let name = resource.key().to_string();
                for part in unreadable {
                    self.complain(line, Some(name.clone()), part.to_string(), Consequence::Told);
                }
                let document = last_good::folder(&resource.key()).is_some().then(|| object.to_string().into());
                self.hold(Held { line, made: 0, resource: Arc::new(resource), document });
            }
            Converted::Refused { key, error } => {
                self.complain(line, Some(key.to_string()), error.to_string(), Consequence::Object(key.clone()));
                self.refused.insert(key);
            }
            Converted::Nameless { error } => {
                self.complain(line, label(object), error.to_string(), Consequence::File);
            }
            Converted::NotEnforced { object, reason } => {
                self.complain(line, Some(object), format!("{reason}; it has no effect"), Consequence::Told);
            }
            Converted::Foreign { kind } => tracing::debug!(kind, line, "object of a kind that means nothing here"),
        }
    }

    fn hold(&mut self, held: Held) {
        let key = held.resource.key();
        if let Some(Held { line, .. }) = self.objects.get(&key) {
            let line = line.unwrap_or_default();
            let message = format!("already given in line {line}, which counts; remove one of them");
            self.complain(held.line, Some(key.to_string()), message, Consequence::Told);
        } else {
            self.objects.insert(key, held);
        }
    }

    fn complain(&mut self, line: Option<u64>, object: Option<String>, message: String, consequence: Consequence) {
        self.complaints.push(Complaint { line, object, message, consequence });
    }

    /// What the file says. A document that cannot be named may be any object that the file held before. What is as it
    /// was is not held anew; what is new shares what it says with all that say the same.
    pub(super) fn end(mut self, before: &File, alike: &mut Alike) -> File {
        let hides = |complaint: &Complaint| matches!(complaint.consequence, Consequence::File);
        if self.complaints.iter().any(hides) {
            let held = before.objects.iter().map(|held| held.resource.key()).chain(before.refused.iter().cloned());
            self.refused.extend(held.filter(|key| !self.objects.contains_key(key)));
        }
        for now in self.objects.values_mut() {
            match before.held(&now.resource.key()).filter(|held| held.resource == now.resource) {
                Some(held) => now.resource = Arc::clone(&held.resource),
                None => alike.share(&mut now.resource),
            }
        }
        let Self { objects, refused, complaints } = self;
        File { objects: objects.into_values().collect(), refused, complaints }
    }
}

/// What an object calls itself, where it has no key.
fn label(object: &Value) -> Option<String> {
    let kind = object.get("kind").and_then(Value::as_str)?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
    Some(format!("{kind} {name}"))
}
