//! Objects of one kind as they were heard last: a watch that others look into.
//! In: where they are, and what was written here. Out: each as the server last said it, which may be late.
//! Invariant: before the first list is over nothing is known, not even that something is not there; what is newer stays.
//! Never: is asked for what must be true now.

use super::connection::Connection;
use crate::Object;
use futures::StreamExt as _;
use kube::{
    Api,
    core::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::task::JoinHandle;

/// The watch; it ends with the value.
#[derive(Debug)]
pub(super) struct Heard {
    known: Arc<Known>,
    task: JoinHandle<()>,
}

impl Heard {
    pub(super) fn begin(
        connection: &Connection,
        api: Api<DynamicObject>,
        read: impl Fn(DynamicObject) -> Object + Send + Sync + 'static,
    ) -> Self {
        let known = Arc::<Known>::default();
        let theirs = Arc::clone(&known);
        let task = connection.runtime.spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => theirs.listing(),
                    Ok(Event::InitApply(object)) => theirs.listed_one(read(object)),
                    Ok(Event::InitDone) => theirs.listed(),
                    Ok(Event::Apply(object)) => theirs.put(read(object)),
                    Ok(Event::Delete(object)) => theirs.gone(&object.metadata.name.unwrap_or_default()),
                    Err(error) => tracing::debug!("a watch: {}", super::in_full(&error)),
                }
            }
        });
        Self { known, task }
    }

    /// `None`: nobody knows yet.
    pub(super) fn get(&self, name: &str) -> Option<Option<Object>> {
        self.known.all().as_ref().map(|known| known.get(name).cloned())
    }

    /// It was written so here, of which the watch has not told yet.
    pub(super) fn put(&self, object: Object) {
        self.known.put(object);
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// By name.
#[derive(Debug, Default)]
struct Known {
    all: Mutex<Option<BTreeMap<String, Object>>>,
    /// While a list goes on.
    listing: Mutex<BTreeMap<String, Object>>,
}

impl Known {
    fn all(&self) -> MutexGuard<'_, Option<BTreeMap<String, Object>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listing_now(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listing(&self) {
        self.listing_now().clear();
    }

    fn listed_one(&self, object: Object) {
        self.listing_now().insert(object.metadata.name.clone(), object);
    }

    fn listed(&self) {
        *self.all() = Some(std::mem::take(&mut *self.listing_now()));
    }

    fn put(&self, object: Object) {
        let Some(all) = &mut *self.all() else { return };
        let name = object.metadata.name.clone();
        if all.get(&name).is_none_or(|known| version(known) <= version(&object)) {
            all.insert(name, object);
        }
    }

    fn gone(&self, name: &str) {
        if let Some(all) = &mut *self.all() {
            all.remove(name);
        }
    }
}

/// Versions of one kind are compared as numbers (Kubernetes, KEP-5504).
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
        known.all().as_ref().map(|all| all.values().map(version).collect())
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
        known.put(object("a", "9"));
        assert_eq!(versions(&known), Some(vec![10]));
        known.put(object("a", "11"));
        known.gone("b");
        assert_eq!(versions(&known), Some(vec![11]));
        known.gone("a");
        assert_eq!(versions(&known), Some(vec![]));
    }
}
