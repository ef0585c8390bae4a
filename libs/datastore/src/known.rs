//! Objects of one kind as they were heard last: what a watch has told, for others to look into, whatever keeps the objects.
//! In: what a list and a watch say, and what was written here. Out: each object as the store last said it, which may be late.
//! Invariant: before the first list is over nothing is known, not even that something is not there; what is newer stays, and what
//! the watch has seen go does not come back by an older answer.
//! Never: is asked for what must be true now.

use crate::Object;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{runtime::Runtime, task::JoinHandle};

/// A watch, and what it has told; it ends with the value.
#[derive(Debug)]
pub(crate) struct Heard {
    known: Arc<Known>,
    task: JoinHandle<()>,
}

impl Heard {
    /// `watch` tells what it hears, and does not end.
    pub(crate) fn begin<F>(runtime: &Runtime, watch: impl FnOnce(Arc<Known>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let known = Arc::<Known>::default();
        let task = runtime.spawn(watch(Arc::clone(&known)));
        Self { known, task }
    }

    /// `None`: nobody knows yet.
    pub(crate) fn get(&self, name: &str) -> Option<Option<Arc<Object>>> {
        self.known.get(name)
    }

    /// All of them; `None`: nobody knows yet.
    pub(crate) fn all(&self) -> Option<Vec<Arc<Object>>> {
        self.known.look().all.as_ref().map(|all| all.values().cloned().collect())
    }

    /// What keeps the watch from hearing anything.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.known.look().trouble.clone()
    }

    /// It was written so here, of which the watch has not told yet.
    pub(crate) fn put(&self, object: Object) {
        self.known.put(object);
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why nothing is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The store has no such kind.
    pub(crate) is_absent: bool,
    /// Whoever asks lacks the right.
    pub(crate) is_refused: bool,
    /// In its own words.
    pub(crate) message: String,
}

/// What a watch has told.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Objects>);

#[derive(Debug, Default)]
struct Objects {
    /// By name; `None`: no list was over yet.
    all: Option<BTreeMap<String, Arc<Object>>>,
    /// While a list goes on.
    listing: BTreeMap<String, Arc<Object>>,
    /// The newest version of which the watch has told: what is older and not known is gone.
    heard: u64,
    trouble: Option<Trouble>,
}

impl Known {
    /// `None`: nobody knows yet.
    pub(crate) fn get(&self, name: &str) -> Option<Option<Arc<Object>>> {
        self.look().all.as_ref().map(|all| all.get(name).cloned())
    }

    fn look(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was heard is of no worth any more: nobody knows anything before the next list is over.
    pub(crate) fn forget(&self) {
        *self.look() = Objects::default();
    }

    /// Nothing is heard any more.
    pub(crate) fn has_trouble(&self, trouble: Trouble) {
        self.look().trouble = Some(trouble);
    }

    /// Something is heard.
    pub(crate) fn is_well(&self) {
        self.look().trouble = None;
    }

    /// A list begins.
    pub(crate) fn listing(&self) {
        self.look().listing.clear();
    }

    /// It is in the list.
    pub(crate) fn listed_one(&self, object: Object) {
        self.look().listing.insert(object.metadata.name.clone(), object.into());
    }

    /// What the list lacks is gone, or the watch is about to tell of it. What was written here since it was made stays.
    pub(crate) fn listed(&self) {
        let objects = &mut *self.look();
        let before = objects.all.take().unwrap_or_default();
        let mut all = std::mem::take(&mut objects.listing);
        objects.heard = all.values().map(|object| version(object)).max().unwrap_or_default().max(objects.heard);
        for (name, object) in &mut all {
            if let Some(newer) = before.get(name).filter(|known| version(known) > version(object)) {
                *object = Arc::clone(newer);
            }
        }
        objects.all = Some(all);
    }

    /// The watch says it.
    pub(crate) fn heard(&self, object: Object) {
        let objects = &mut *self.look();
        objects.heard = objects.heard.max(version(&object));
        objects.put(object);
    }

    /// An answer of the server says it, which may have been under way for long.
    pub(crate) fn put(&self, object: Object) {
        let objects = &mut *self.look();
        let is_known = objects.all.as_ref().is_some_and(|all| all.contains_key(&object.metadata.name));
        if is_known || version(&object) > objects.heard {
            objects.put(object);
        }
    }

    /// It went with this version.
    pub(crate) fn gone(&self, last: &Object) {
        let objects = &mut *self.look();
        objects.heard = objects.heard.max(version(last));
        if let Some(all) = &mut objects.all {
            all.remove(&last.metadata.name);
        }
    }
}

impl Objects {
    fn put(&mut self, object: Object) {
        let Some(all) = &mut self.all else { return };
        let name = object.metadata.name.clone();
        if all.get(&name).is_none_or(|known| version(known) <= version(&object)) {
            all.insert(name, object.into());
        }
    }
}

/// Versions of one kind are compared as numbers (Kubernetes, KEP-5504; those of etcd are its revisions).
fn version(object: &Object) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metadata;

    fn object(name: &str, version: &str) -> Object {
        Object {
            api_version: "v1".into(),
            kind: "Lease".into(),
            metadata: Metadata { name: name.into(), resource_version: Some(version.into()) },
            spec: serde_json::Value::Null,
        }
    }

    fn versions(known: &Known) -> Option<Vec<u64>> {
        known.look().all.as_ref().map(|all| all.values().map(|object| version(object)).collect())
    }

    #[test]
    fn nothing_is_known_before_the_first_list_is_over_and_a_list_takes_away_what_it_lacks() {
        let known = Known::default();
        known.put(object("a", "7"));
        known.listing();
        known.listed_one(object("b", "8"));
        assert_eq!(versions(&known), None);
        known.listed();
        assert_eq!(versions(&known), Some(vec![8]));
        known.listing();
        known.listed();
        assert_eq!(versions(&known), Some(vec![]));
    }

    #[test]
    fn what_was_written_here_is_not_overtaken_by_what_was_said_before() {
        let known = Known::default();
        known.listed();
        known.put(object("a", "10"));
        known.heard(object("a", "9"));
        assert_eq!(versions(&known), Some(vec![10]));
        known.heard(object("a", "11"));
        known.gone(&object("b", "12"));
        assert_eq!(versions(&known), Some(vec![11]));
        // A list that was made before a write here has the object as it was.
        known.listing();
        known.listed_one(object("a", "11"));
        known.put(object("a", "13"));
        known.listed();
        assert_eq!(versions(&known), Some(vec![13]));
        known.gone(&object("a", "14"));
        assert_eq!(versions(&known), Some(vec![]));
    }

    #[test]
    fn what_the_watch_has_seen_go_does_not_come_back_by_an_answer_that_was_under_way() {
        let known = Known::default();
        known.listed();
        known.heard(object("a", "10"));
        known.gone(&object("a", "12"));
        known.put(object("a", "10"));
        assert_eq!(versions(&known), Some(vec![]));
        known.put(object("a", "13"));
        assert_eq!(versions(&known), Some(vec![13]), "it was made anew");
    }
}
