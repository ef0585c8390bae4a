//! What etcd says of the keys that begin alike: one list at one revision, then every change from the next revision on.
//! In: a connection, and what the keys begin with. Out: what it says, without an end.
//! Invariant: after every trouble it goes on at the revision that was not heard yet, or, where etcd does not have that any more, with a
//! list; a list is of one revision, however many pages it has.
//! Never: ends before nobody listens; asks faster than the pauses grow.

use super::{
    connection::EtcdConnection,
    error::{Unanswered, in_full},
    message::{DELETED, Event, Header, KeyValue, RangeRequest, WatchCreate, WatchResponse, end_of},
    pages::Pages,
};
use std::{convert::Infallible, time::Duration};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    /// Whose revisions these are.
    cluster: u64,
    /// The next one.
    next: i64,
}

/// Why something is over.
#[derive(Debug)]
enum Over {
    /// Nobody listens.
    Deaf,
    /// It is to be tried again; with what is wrong, for people.
    Lost(String),
    /// What was not heard yet is not kept any more: a list is needed.
    Compacted,
}

impl From<Unanswered> for Over {
    fn from(unanswered: Unanswered) -> Self {
        Self::Lost(unanswered.to_string())
    }
}

/// Of keys that begin so. Until nobody listens.
pub(crate) async fn run(connection: &EtcdConnection, prefix: &str, send: &Sender<Said>) {
    let mut heard = None;
    let mut pause = PAUSES[0];
    loop {
        let before = heard;
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
    let known = match *heard {
        Some(known) => match goes_on(connection, prefix, known).await {
            Ok(goes_on) => goes_on.then_some(known),
            // A watch from a revision that is not this etcd's would hear nothing.
            Err(unanswered) => return unanswered.into(),
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

/// Whether etcd is the one that was heard: one that was restored from a backup counts its revisions anew, and a watch would wait for
/// those that were.
async fn goes_on(connection: &EtcdConnection, prefix: &str, heard: Heard) -> Result<bool, Unanswered> {
    let question = RangeRequest { key: prefix.into(), count_only: true, ..RangeRequest::default() };
    let header = connection.range(&question).await?.header.unwrap_or_default();
    Ok(header.cluster_id == heard.cluster && header.revision + 1 >= heard.next)
}

async fn say(send: &Sender<Said>, said: Said) -> Result<(), Over> {
    send.send(said).await.map_err(|_| Over::Deaf)
}

async fn list(connection: &EtcdConnection, prefix: &str, send: &Sender<Said>) -> Result<Heard, Over> {
    let mut pages = Pages::of(prefix);
    say(send, Said::Listing).await?;
    while let Some(page) = pages.next(connection, PAGE_PATIENCE).await? {
        say(send, Said::Trouble(None)).await?;
        for kv in page {
            let revisions = Revisions::of(&kv);
            say(send, Said::Is(text(kv.key), kv.value, revisions)).await?;
        }
    }
    say(send, Said::Listed).await?;
    let Header { cluster_id, revision } = pages.header;
    Ok(Heard { cluster: cluster_id, next: revision + 1 })
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
        start_revision: heard.next,
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
                say(send, Said::Trouble(None)).await?;
                if std::mem::take(&mut is_again) {
                    say(send, Said::Again).await?;
                }
                heard.next = next(heard.next, &answer);
                for event in answer.events {
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
    fn what_is_not_kept_any_more_needs_a_list_and_what_ends_otherwise_does_not() {
        let compacted = WatchResponse { canceled: true, compact_revision: 40, ..answer(&[]) };
        assert!(matches!(over(&compacted), Some(Over::Compacted)));
        let lost = WatchResponse { canceled: true, cancel_reason: "no leader".into(), ..answer(&[]) };
        assert!(matches!(over(&lost), Some(Over::Lost(why)) if why.contains("no leader")));
        assert!(over(&answer(&[3])).is_none());
    }
}
