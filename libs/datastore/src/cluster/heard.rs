//! A watch of the API server into which others look.
//! In: where the objects are. Out: what they were heard to be ([`Known`]).
//! Invariant: it goes on after every trouble, by a list.
//! Never: is asked for what must be true now.

use super::connection::Connection;
use crate::{
    Object,
    known::{Heard, Known, Trouble},
};
use futures::StreamExt as _;
use kube::{
    Api, Error,
    core::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use std::sync::Arc;

/// A field by which the server cannot choose.
const BAD_REQUEST: u16 = 400;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

/// Which of a kind's objects.
#[derive(Clone, Debug)]
pub(super) enum Only {
    /// All of them.
    All,
    /// Those of which a field is so.
    Field(String),
    /// Likewise, where the server can choose them by it; else all.
    IfServed(String),
}

impl Only {
    fn config(&self) -> watcher::Config {
        match self {
            Self::All => watcher::Config::default(),
            Self::Field(field) | Self::IfServed(field) => watcher::Config::default().fields(field),
        }
    }
}

pub(super) fn begin(
    connection: &Connection,
    api: Api<DynamicObject>,
    only: Only,
    read: impl Fn(DynamicObject) -> Object + Send + Sync + 'static,
) -> Heard {
    Heard::begin(&connection.runtime, |known| follow((api, only), read, known))
}

async fn follow(
    (api, mut only): (Api<DynamicObject>, Only),
    read: impl Fn(DynamicObject) -> Object + Send + Sync + 'static,
    known: Arc<Known>,
) {
    let events_of = |only: &Only| watcher(api.clone(), only.config()).default_backoff().boxed();
    let mut events = events_of(&only);
    while let Some(event) = events.next().await {
        if event.is_ok() {
            known.is_well();
        }
        match event {
            Ok(Event::Init) => known.listing(),
            Ok(Event::InitApply(object)) => known.listed_one(read(object)),
            Ok(Event::InitDone) => known.listed(),
            Ok(Event::Apply(object)) => known.heard(read(object)),
            Ok(Event::Delete(object)) => known.gone(&read(object)),
            Err(error) if matches!(only, Only::IfServed(_)) && code(&error) == Some(BAD_REQUEST) => {
                only = Only::All;
                events = events_of(&only);
            }
            Err(error) => {
                let message = super::in_full(&error);
                tracing::debug!("a watch: {message}");
                let code = code(&error);
                let (is_absent, is_refused) = (code == Some(NOT_FOUND), code == Some(FORBIDDEN));
                known.has_trouble(Trouble { is_absent, is_refused, message });
            }
        }
    }
}

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(Error::Api(status))
        | watcher::Error::WatchStartFailed(Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}
