//! A watch of the API server into which others look.
//! In: where the objects are. Out: what they were heard to be ([`Known`]).
//! Invariant: it goes on after every trouble, by a list.
//! Never: is asked for what must be true now.

use super::connection::Connection;
use crate::{
    Object,
    known::{Heard, Known},
};
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

pub(super) fn begin(
    connection: &Connection,
    api: Api<DynamicObject>,
    read: impl Fn(DynamicObject) -> Object + Send + Sync + 'static,
) -> Heard {
    Heard::begin(&connection.runtime, |known| follow(api, read, known))
}

async fn follow(
    api: Api<DynamicObject>,
    read: impl Fn(DynamicObject) -> Object + Send + Sync + 'static,
    known: Arc<Known>,
) {
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => known.listing(),
            Ok(Event::InitApply(object)) => known.listed_one(read(object)),
            Ok(Event::InitDone) => known.listed(),
            Ok(Event::Apply(object)) => known.heard(read(object)),
            Ok(Event::Delete(object)) => known.gone(&read(object)),
            Err(error) => tracing::debug!("a watch: {}", super::in_full(&error)),
        }
    }
}
