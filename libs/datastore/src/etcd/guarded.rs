//! Keys that one writer keeps: every write is guarded by one of them, which says how far the writer is.
//! In: keys and values; the guard's revision as its writer knows it. Out: a list at one revision; the revision of a write.
//! Invariant: who was overtaken writes nothing: each write compares the guard's revision, and writes the guard with the rest.
//! Never: asks a write twice.

use super::{
    connection::EtcdConnection,
    error::Unanswered,
    message::{Compare, Delete, EQUAL, KeyValue, MOD, Put, RangeRequest, Step, TxnRequest, end_of},
    pages::Pages,
};
use std::time::Duration;

/// So long one page of a list may take.
const PAGE_PATIENCE: Duration = Duration::from_secs(30);

/// A key, what stands there, and since which revision.
pub(crate) type Found = (String, Vec<u8>, i64);

/// All keys that begin so.
pub(crate) async fn list(connection: &EtcdConnection, prefix: &str) -> Result<Vec<Found>, String> {
    let (mut pages, mut all) = (Pages::of(prefix), Vec::new());
    while let Some(page) = pages.next(connection, PAGE_PATIENCE).await.map_err(|why: Unanswered| why.to_string())? {
        let found = |KeyValue { key, mod_revision, value, .. }| {
            (String::from_utf8_lossy(&key).into_owned(), value, mod_revision)
        };
        all.extend(page.into_iter().map(found));
    }
    Ok(all)
}

/// How many keys begin so.
pub(crate) async fn count(connection: &EtcdConnection, prefix: &str) -> Result<u64, String> {
    let (key, range_end) = (prefix.into(), end_of(prefix));
    let question = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
    let answer = connection.range(&question).await.map_err(|why| why.to_string())?;
    Ok(answer.count.unsigned_abs())
}

/// Writes these (`None`: removes them) and then the guard, where that is of this revision still (0: it is not there). The revision
/// that it has then; `None`: somebody else has written it.
pub(crate) async fn write(
    connection: &EtcdConnection,
    (guard, revision): (&str, i64),
    steps: Vec<(String, Option<Vec<u8>>)>,
    value: Vec<u8>,
) -> Result<Option<i64>, String> {
    let step = |(key, value): (String, Option<Vec<u8>>)| {
        let key = key.into_bytes();
        match value {
            Some(value) => Step { put: Some(Put { key, value }), delete: None },
            None => Step { put: None, delete: Some(Delete { key }) },
        }
    };
    let steps = steps.into_iter().chain([(guard.to_owned(), Some(value))]).map(step).collect();
    let compare = vec![Compare { result: EQUAL, target: MOD, key: guard.into(), mod_revision: Some(revision) }];
    let answer = connection.transact(&TxnRequest { compare, success: steps }).await.map_err(|why| why.to_string())?;
    Ok(answer.succeeded.then(|| answer.header.unwrap_or_default().revision))
}
