//! What spans refer to: lists by source port, which lie among the spans, and sets that ask of the own class.
//! In: spans of rows. Out: the lists and sets they name.
//! Invariant: a list begins with its head, and lies nowhere but in a range of its own; a set that is named names no other.
//! Never: writes.

use super::step::Step;
use abi::{
    RowKey, RowRef, Span, SpanKind,
    rules::{ROW_SPANS_MAX, SET_ASKS_OWN},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A list by source port, with its head.
pub fn list(spans: Vec<Span>) -> Arc<[Span]> {
    let len = u32::try_from(spans.len()).unwrap_or(ROW_SPANS_MAX);
    [Span::new(0, SpanKind::Head, len)].into_iter().chain(spans).collect()
}

/// Where the lists lie that these spans name.
pub fn lists(spans: &[Span]) -> impl Iterator<Item = u32> + '_ {
    spans.iter().filter(|span| span.kind() == SpanKind::Ports).map(|span| span.hit)
}

/// The sets that these spans name.
pub fn sets(spans: &[Span]) -> impl Iterator<Item = u32> + '_ {
    spans.iter().filter(|span| span.kind() == SpanKind::Cell).map(|span| span.hit)
}

/// The range of a list whose head is this span.
pub fn range_of(offset: u32, head: Span) -> RowRef {
    let len = if head.kind() == SpanKind::Head { head.hit.saturating_add(1) } else { 1 };
    RowRef { offset, len }
}

/// The list that lies there.
pub fn list_at(contents: &BTreeMap<RowRef, Arc<[Span]>>, offset: u32) -> Option<(RowRef, &Arc<[Span]>)> {
    let (place, spans) = contents.range(RowRef { offset, len: 0 }..).next()?;
    (place.offset == offset).then_some((*place, spans))
}

/// The sets by which an endpoint is judged next: these, and those that their rows name.
pub fn with_named(step: Step<'_>, sets: [u32; 3]) -> BTreeSet<u32> {
    let asking = sets.iter().filter(|set| step.set(**set).is_some_and(|entry| entry.flags & SET_ASKS_OWN != 0));
    let named = asking.flat_map(|set| {
        let all = RowKey { set: *set, class: 0 }..=RowKey { set: *set, class: u32::MAX };
        let rows = step.change.rows.within(&step.old.rows, all).map(|(_, row)| *row);
        let rows = rows.chain(step.set(*set).map(|entry| entry.row));
        rows.filter_map(|row| step.spans(&row)).flat_map(|spans| self::sets(spans))
    });
    named.chain(sets).collect()
}
