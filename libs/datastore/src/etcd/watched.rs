//! What etcd says of the keys that begin alike: one list at one revision, then every change from the next revision on.
//! In: a connection, and what the keys begin with. Out: what it says, without an end.
//! Invariant: after every trouble it goes on behind what was heard last, or, where etcd does not have that, or not so, with a list; a
//! list is of one revision, however many pages it has.
//! Never: ends before nobody listens; asks faster than the pauses grow.

use super::{
    connection::EtcdConnection,
    error::{Unanswered, in_full},
    message::{DELETED, Event, Header, KeyValue, RangeRequest, WatchCreate, WatchResponse, end_of},
    pages::Pages,
};
use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};
use tokio::{sync::mpsc::Sender, time};

/// So long one page may take.
const PAGE_PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// What etcd says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A list begins: the first, or one after a watch that was lost.
    Listing,
    /// A key has this value now.
    Is(String, Vec<u8>, Revisions),
    /// It is gone, since this revision.
    Gone(String, i64),
    /// The list is over.
    Listed,
    /// After a break changes go on where they were.
    Again,
    /// It could not be asked; `None`: it can.
    Trouble(Option<String>),
}

/// Of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revisions {
    /// At which it was made.
    pub made: i64,
    /// At which it got its value.
    pub at: i64,
}

impl Revisions {
    fn of(kv: &KeyValue) -> Self {
        Self { made: kv.create_revision, at: kv.mod_revision }
    }
}

/// How far it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    /// Whose revisions these are.
    cluster: u64,
    /// The next one.
    next: i64,
    /// What was written last of what was heard; `None`: nothing was.
    last: Option<Mark>,
}

/// A write, by which a store is known again: one that was restored from a backup has written something else at its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    key: Vec<u8>,
    at: i64,
    /// What was written, in short; `None`: the key went.
    value: Option<u64>,
}

impl Mark {
    fn of(kv: &KeyValue, is_gone: bool) -> Self {
        Self { key: kv.key.clone(), at: kv.mod_revision, value: (!is_gone).then(|| digest(&kv.value)) }
    }

    /// Whether it was written so, by the key as it was then, and just before.
    fn stands(&self, then: Option<&KeyValue>, before: Option<&KeyValue>) -> bool {
        match (then, self.value) {
            (Some(kv), Some(value)) => kv.mod_revision == self.at && digest(&kv.value) == value,
            (None, None) => before.is_some(),
            _ => false,
        }
    }
}

fn digest(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Heard {
    /// Where a watch goes on: whatever it says of revisions before the next one was not heard, and is of another history.
    fn from(&self) -> i64 {
        self.last.as_ref().map_or(self.next, |last| self.next.min(last.at + 1))
    }

    /// Whether an event is of another history than was heard.
    fn contradicts(&self, event: &Event) -> bool {
        event.kv.as_ref().is_some_and(|kv| kv.mod_revision < self.next)
    }
}

/// Why something is over.
#[derive(Debug)]
enum Over {
    /// Nobody listens.
    Deaf,
    /// It is to be tried again; with what is wrong, for people.
    Lost(String),
    /// What was not heard yet is not kept any more, or is not what follows: a list is needed.
    Compacted,
}

impl From<Unanswered> for Over {
    fn from(unanswered: Unanswered) -> Self {
        Self::Lost(unanswered.to_string())
    }
}

/// Of keys that begin so. Until nobody listens.
pub(crate) async fn run(connection: &EtcdConnection, prefix: &str, send: &Sender<Said>) {
    let mut heard: Option<Heard> = None;
    let mut pause = PAUSES[0];
    loop {
        let before = heard.clone();
        match round(connection, prefix, send, &mut heard).await {
            Over::Deaf => return,
            Over::Compacted => heard = None,
            Over::Lost(why) => {
                if send.send(Said::Trouble(Some(why))).await.is_err() {
                    return;
                }
            }
        }
        pause = if heard == before { (2 * pause).min(PAUSES[1]) } else { PAUSES[0] };
        time::sleep(pause).await;
    }
}

/// A list, where one is needed, and a watch.
async fn round(connection: &EtcdConnection, prefix: &str, send: &Sender<Said>, heard: &mut Option<Heard>) -> Over {
    let known = match heard.take() {
        Some(known) => match goes_on(connection, prefix, &known).await {
            Ok(goes_on) => goes_on.then_some(known),
            // A watch from a revision that is not this etcd's would hear nothing.
            Err(unanswered) => {
                *heard = Some(known);
                return unanswered.into();
            }
        },
        None => None,
    };
    let is_again = known.is_some();
    let at = match known {
        Some(known) => known,
        None => match list(connection, prefix, send).await {
            Ok(listed) => listed,
            Err(over) => return over,
        },
    };
    let Err(over) = watch((connection, prefix), send, heard.insert(at), is_again).await;
    over
}

/// Whether etcd is the one that was heard, and has written then what was heard. One that was restored from a backup counts its revisions
/// on from there: a watch would wait for those that were, or, once it has come as far, leave out what it has written before.
async fn goes_on(connection: &EtcdConnection, prefix: &str, heard: &Heard) -> Result<bool, Unanswered> {
    let question = RangeRequest { key: prefix.into(), count_only: true, ..RangeRequest::default() };
    let header = connection.range(&question).await?.header.unwrap_or_default();
    let Some(last) = &heard.last else { return Ok(false) };
    if header.cluster_id != heard.cluster || header.revision + 1 < heard.next {
        return Ok(false);
    }
    let then = was(connection, last, last.at).await;
    // Of a value that stands nobody asks what was before.
    let before = if last.value.is_none() { was(connection, last, last.at - 1).await } else { Ok(None) };
    match (then, before) {
        (Ok(then), Ok(before)) => Ok(last.stands(then.as_ref(), before.as_ref())),
        (Err(unanswered), _) | (_, Err(unanswered)) if unanswered.is_compacted() => Ok(false),
        (Err(unanswered), _) | (_, Err(unanswered)) => Err(unanswered),
    }
}

/// The key as it was at a revision.
async fn was(connection: &EtcdConnection, mark: &Mark, revision: i64) -> Result<Option<KeyValue>, Unanswered> {
    let question = RangeRequest { key: mark.key.clone(), revision, ..RangeRequest::default() };
    Ok(connection.range(&question).await?.kvs.pop())
}

async fn say(send: &Sender<Said>, said: Said) -> Result<(), Over> {
    send.send(said).await.map_err(|_| Over::Deaf)
}

async fn list(connection: &EtcdConnection, prefix: &str, send: &Sender<Said>) -> Result<Heard, Over> {
    let (mut pages, mut last) = (Pages::of(prefix), None::<Mark>);
    say(send, Said::Listing).await?;
    while let Some(page) = pages.next(connection, PAGE_PATIENCE).await? {
        say(send, Said::Trouble(None)).await?;
        for kv in page {
            let revisions = Revisions::of(&kv);
            if last.as_ref().is_none_or(|last| last.at < revisions.at) {
                last = Some(Mark::of(&kv, false));
            }
            say(send, Said::Is(text(kv.key), kv.value, revisions)).await?;
        }
    }
    say(send, Said::Listed).await?;
    let Header { cluster_id, revision } = pages.header;
    Ok(Heard { cluster: cluster_id, next: revision + 1, last })
}

/// Until it is over.
async fn watch(
    (connection, prefix): (&EtcdConnection, &str),
    send: &Sender<Said>,
    heard: &mut Heard,
    mut is_again: bool,
) -> Result<Infallible, Over> {
    let create = WatchCreate {
        key: prefix.into(),
        range_end: end_of(prefix),
        start_revision: if is_again { heard.from() } else { heard.next },
        progress_notify: true,
        fragment: true,
    };
    let (mut answers, member) = connection.watch(create).await?;
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                if let Some(over) = over(&answer) {
                    connection.leave(member);
                    return Err(over);
                }
                if answer.events.iter().any(|event| heard.contradicts(event)) {
                    connection.leave(member);
                    return Err(Over::Compacted);
                }
                say(send, Said::Trouble(None)).await?;
                if std::mem::take(&mut is_again) {
                    say(send, Said::Again).await?;
                }
                heard.next = next(heard.next, &answer);
                for event in answer.events {
                    heard.last = event.kv.as_ref().map(|kv| Mark::of(kv, event.kind == DELETED)).or(heard.last.take());
                    if let Some(said) = read(event) {
                        say(send, said).await?;
                    }
                }
            }
            Ok(None) => {
                connection.leave(member);
                return Err(Over::Lost("it has ended the watch".to_owned()));
            }
            Err(status) => {
                connection.leave(member);
                return Err(Over::Lost(in_full(&status)));
            }
        }
    }
}

fn over(answer: &WatchResponse) -> Option<Over> {
    if answer.compact_revision > 0 {
        return Some(Over::Compacted);
    }
    answer.canceled.then(|| Over::Lost(format!("it has ended the watch: {}", answer.cancel_reason)))
}

/// Where the watch goes on after this answer. Of a revision of which more follows all is heard again.
fn next(before: i64, answer: &WatchResponse) -> i64 {
    let last = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    match last {
        Some(last) if answer.fragment => last,
        Some(last) => last + 1,
        // It says how far it is. When it is made it says how far etcd is, which is not the same.
        None if !answer.created => before.max(answer.header.unwrap_or_default().revision + 1),
        None => before,
    }
}

fn read(event: Event) -> Option<Said> {
    let kv = event.kv?;
    let revisions = Revisions::of(&kv);
    let key = text(kv.key);
    Some(if event.kind == DELETED { Said::Gone(key, revisions.at) } else { Said::Is(key, kv.value, revisions) })
}

fn text(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(revisions: &[i64]) -> WatchResponse {
        let event =
            |revision: &i64| Event { kind: 0, kv: Some(KeyValue { mod_revision: *revision, ..KeyValue::default() }) };
        let header = Some(Header { cluster_id: 1, revision: 90 });
        WatchResponse { header, events: revisions.iter().map(event).collect(), ..WatchResponse::default() }
    }

    #[test]
    fn a_watch_goes_on_behind_what_was_heard_whole() {
        assert_eq!(next(5, &answer(&[5, 7])), 8, "etcd itself is further, but not what it has said");
        assert_eq!(next(5, &WatchResponse { fragment: true, ..answer(&[5, 7]) }), 7, "more of 7 follows");
        assert_eq!(next(5, &WatchResponse { created: true, ..answer(&[]) }), 5);
        assert_eq!(next(5, &answer(&[])), 91, "nothing has changed up to 90");
        assert_eq!(next(95, &answer(&[])), 95);
    }

    #[test]
    fn a_store_is_known_again_by_what_it_wrote_last_and_a_watch_goes_on_behind_that() {
        let kv = |at: i64, value: &str| KeyValue {
            key: b"k".to_vec(),
            create_revision: 1,
            mod_revision: at,
            value: value.into(),
        };
        let put = Mark::of(&kv(7, "a"), false);
        assert!(put.stands(Some(&kv(7, "a")), None));
        for other in [None, Some(kv(6, "a")), Some(kv(7, "b"))] {
            assert!(!put.stands(other.as_ref(), Some(&kv(3, "a"))), "{other:?}");
        }
        let gone = Mark::of(&kv(7, ""), true);
        assert!(gone.stands(None, Some(&kv(3, "a"))));
        assert!(!gone.stands(None, None), "it went before, or was never there");
        assert!(!gone.stands(Some(&kv(3, "a")), Some(&kv(3, "a"))), "it has come back");
        let heard = Heard { cluster: 1, next: 91, last: Some(put) };
        assert_eq!(heard.from(), 8, "that nothing was written between is to be said again");
        assert_eq!(Heard { next: 7, ..heard.clone() }.from(), 7, "more of it follows");
        let event = |at| Event { kind: 0, kv: Some(kv(at, "x")) };
        assert!(heard.contradicts(&event(40)) && !heard.contradicts(&event(91)));
    }

    #[test]
    fn what_is_not_kept_any_more_needs_a_list_and_what_ends_otherwise_does_not() {
        let compacted = WatchResponse { canceled: true, compact_revision: 40, ..answer(&[]) };
        assert!(matches!(over(&compacted), Some(Over::Compacted)));
        let lost = WatchResponse { canceled: true, cancel_reason: "no leader".into(), ..answer(&[]) };
        assert!(matches!(over(&lost), Some(Over::Lost(why)) if why.contains("no leader")));
        assert!(over(&answer(&[3])).is_none());
    }
}
