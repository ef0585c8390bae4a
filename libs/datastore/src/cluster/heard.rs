//! A watch of the API server into which others look.
//! In: where the objects are. Out: what they were heard to be ([`Known`]).
//! Invariant: it goes on after every trouble, by a list.
//! Never: is asked for what must be true now.

use super::connection::Connection;
use crate::{Object, known::Known};
use futures::StreamExt as _;
use kube::{
    Api,
    core::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use std::sync::Arc;
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
                    Ok(Event::Apply(object)) => theirs.heard(read(object)),
                    Ok(Event::Delete(object)) => theirs.gone(&read(object)),
                    Err(error) => tracing::debug!("a watch: {}", super::in_full(&error)),
                }
            }
        });
        Self { known, task }
    }

    /// `None`: nobody knows yet.
    pub(super) fn get(&self, name: &str) -> Option<Option<Arc<Object>>> {
        self.known.get(name)
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
