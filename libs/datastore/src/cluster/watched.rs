//! Watches one kind, whatever becomes of the server meanwhile.
//! In: a client and a kind. Out: what the server says of it, without an end.
//! Invariant: after every trouble the watch goes on where it was, or begins with a list.
//! Never: ends; asks faster than the pauses grow.

use super::{
    gather::Said,
    kinds::{Watched, is_absent},
};
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use kube::{
    Api, Client, Error,
    core::{DynamicObject, Status, TypeMeta},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde_json::Value;

type Events = BoxStream<'static, Result<Event<DynamicObject>, watcher::Error>>;

/// One kind's watch.
struct Watch {
    api: Api<DynamicObject>,
    kind: Watched,
    /// Lists come as events of a watch; servers that do not know that are asked for pages.
    is_streaming: bool,
    events: Events,
}

/// What the server says of a kind.
pub(super) fn watched(client: Client, kind: Watched) -> impl Stream<Item = Said> {
    let api = Api::all_with(client, &kind.resource);
    let events = events(api.clone(), true);
    let watch = Watch { api, kind, is_streaming: true, events };
    stream::unfold(watch, async |mut watch| Some((watch.next().await, watch)))
}

fn events(api: Api<DynamicObject>, is_streaming: bool) -> Events {
    let config = watcher::Config::default();
    let config = if is_streaming { config.streaming_lists() } else { config };
    watcher(api, config).default_backoff().boxed()
}

impl Watch {
    async fn next(&mut self) -> Said {
        loop {
            match self.events.next().await {
                Some(Ok(Event::Init)) => return Said::Listing,
                Some(Ok(Event::Apply(object) | Event::InitApply(object))) => {
                    return Said::Object(self.manifest(object));
                }
                Some(Ok(Event::Delete(object))) => return Said::Gone(self.manifest(object)),
                Some(Ok(Event::InitDone)) => return Said::Listed,
                Some(Err(error)) if self.is_streaming && is_unknown(&error) => self.begin_anew(false),
                Some(Err(error)) if self.kind.is_optional && refusal(&error).is_some_and(is_absent) => {
                    return Said::Absent;
                }
                Some(Err(error)) => return Said::Trouble(super::in_full(&error)),
                None => self.begin_anew(self.is_streaming),
            }
        }
    }

    fn begin_anew(&mut self, is_streaming: bool) {
        self.is_streaming = is_streaming;
        self.events = events(self.api.clone(), is_streaming);
    }

    /// As a manifest says it: items of a list come without their kind, and nobody here asks who wrote which field.
    fn manifest(&self, mut object: DynamicObject) -> Value {
        let resource = &self.kind.resource;
        object.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
        object.metadata.managed_fields = None;
        serde_json::to_value(object).expect("what came as JSON is JSON")
    }
}

fn refusal(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(Error::Api(status))
        | watcher::Error::WatchStartFailed(Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// The server does not know lists that come as events: it calls what asks for them invalid.
fn is_unknown(error: &watcher::Error) -> bool {
    refusal(error).is_some_and(|status| matches!(status.code, 400 | 422))
}
