//! A list of keys in pages, all of one revision.
//! In: what the keys begin with. Out: page after page.
//! Invariant: a page that is too large is asked for again in smaller ones; no key comes twice, and none is left out.
//! Never: goes on at another revision.

use super::{
    connection::EtcdConnection,
    error::Unanswered,
    message::{Header, KeyValue, RangeRequest, end_of},
};
use std::time::Duration;

/// Keys of one page.
const PAGE: i64 = 500;

/// What is left of a list.
#[derive(Debug)]
pub(super) struct Pages {
    question: RangeRequest,
    is_over: bool,
    /// Of the list: which etcd, and which revision.
    pub(super) header: Header,
}

impl Pages {
    pub(super) fn of(prefix: &str) -> Self {
        let question =
            RangeRequest { key: prefix.into(), range_end: end_of(prefix), limit: PAGE, ..RangeRequest::default() };
        Self { question, is_over: false, header: Header::default() }
    }

    /// `None`: it is over.
    pub(super) async fn next(
        &mut self,
        connection: &EtcdConnection,
        patience: Duration,
    ) -> Result<Option<Vec<KeyValue>>, Unanswered> {
        if self.is_over {
            return Ok(None);
        }
        let page = loop {
            match connection.range_within(&self.question, patience).await {
                Err(unanswered) if unanswered.is_too_large() && self.question.limit > 1 => {
                    self.question.limit = (self.question.limit / 8).max(1);
                }
                answer => break answer?,
            }
        };
        if self.question.revision == 0 {
            self.header = page.header.unwrap_or_default();
            self.question.revision = self.header.revision;
        }
        match page.kvs.last() {
            Some(last) if page.more => self.question.key = last.key.iter().copied().chain([0]).collect(),
            _ => self.is_over = true,
        }
        Ok(Some(page.kvs))
    }
}
