//! Watches one kind, whatever becomes of the server meanwhile.
//! In: a client and a kind. Out: what the server says of it, without an end.
//! Invariant: after every trouble the watch goes on where it was, or begins with a list.
//! Never: ends; asks faster than the pauses grow.

use super::{
    gather::{SERVICES, Said},
    kinds::{Watched, is_absent},
    object::{Kind, Object, Pod, Signed, Whole},
};
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use kube::{
    Api, Client, Error,
    core::Status,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde_json::Value;

type Events<K> = BoxStream<'static, Result<Event<Object<K>>, watcher::Error>>;

/// One kind's watch.
struct Watch<K: Kind> {
    api: Api<Object<K>>,
    kind: Watched,
    /// Lists come as events of a watch; servers that do not know that are asked for pages.
    is_streaming: bool,
    events: Events<K>,
}

/// What the server says of a kind.
pub(super) fn watched(client: Client, kind: Watched) -> BoxStream<'static, Said> {
    of_kind(client, kind, true)
}

/// The same, by a list that is as new as anything that anybody has heard: one that comes as events may be of a server that is late.
pub(super) fn anew(client: Client, kind: Watched) -> BoxStream<'static, Said> {
    of_kind(client, kind, false)
}

fn of_kind(client: Client, kind: Watched, is_streaming: bool) -> BoxStream<'static, Said> {
    match &*kind.name() {
        "pods" => of::<Pod>(client, kind, is_streaming).boxed(),
        SERVICES => of::<Signed>(client, kind, is_streaming).boxed(),
        _ => of::<Whole>(client, kind, is_streaming).boxed(),
    }
}

fn of<K: Kind>(client: Client, kind: Watched, is_streaming: bool) -> impl Stream<Item = Said> {
    let api = Api::<Object<K>>::all_with(client, &kind.resource);
    let events = events(api.clone(), is_streaming);
    let watch = Watch { api, kind, is_streaming, events };
    stream::unfold(watch, async |mut watch| Some((watch.next().await, watch)))
}

fn events<K: Kind>(api: Api<Object<K>>, is_streaming: bool) -> Events<K> {
    let config = watcher::Config::default();
    let config = if is_streaming { config.streaming_lists() } else { config };
    watcher(api, config).default_backoff().boxed()
}

impl<K: Kind> Watch<K> {
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

    /// As a manifest says it: items of a list come without their kind.
    fn manifest(&self, object: Object<K>) -> Value {
        let (resource, mut manifest) = (&self.kind.resource, object.manifest);
        if let Value::Object(fields) = &mut manifest {
            fields.insert("apiVersion".to_owned(), resource.api_version.clone().into());
            fields.insert("kind".to_owned(), resource.kind.clone().into());
        }
        manifest
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
