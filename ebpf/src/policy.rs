//! Policy: whose addresses are these, and do both ends' rules let the flow be opened?
//! In: the opener's and responder's addresses, protocol, detail and source port. Out: both ends, and the rules that decided.
//! Invariant: every index is checked against its table; an empty slot, row, span or set refuses.
//! Never: writes; reads the generation a second time.

use abi::endpoint::{ENDPOINT_READY, SLOT_FIRST, SLOT_NONE};
use abi::rules::{CLASS_NONE, ROW_SPANS_MAX, SEARCH_STEPS, SET_DEFAULT_ONLY, SET_DENY};
use abi::{Address, DropReason, RowKey, RowRef, Span, SpanKind};

use crate::tables::Tables;

/// What the tables say of one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Endpoint slot, `SLOT_HOST` or `SLOT_NONE`.
    pub slot: u32,
    /// Peer class.
    pub class: u32,
}

/// Whose rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyDirection {
    /// Those for what the endpoint receives.
    Ingress,
    /// Those for what the endpoint sends.
    Egress,
}

impl PolicyDirection {
    /// What a refusal in this direction is called.
    #[inline(always)]
    #[must_use]
    pub const fn refusal(self) -> DropReason {
        match self {
            Self::Ingress => DropReason::IngressPolicy,
            Self::Egress => DropReason::EgressPolicy,
        }
    }
}

/// Owner and class of an address: the exact table first, then the longest prefix, else nobody's.
#[inline(always)]
pub fn end_of<T: Tables>(tables: &T, generation: u64, address: &Address) -> Result<End, DropReason> {
    let slot = match tables.class_of_address(address) {
        Some(slot) => slot,
        None => match tables.class_of_net(address) {
            Some(slot) => slot,
            None => return Ok(End { slot: SLOT_NONE, class: CLASS_NONE }),
        },
    };
    let entry = tables.class(slot).ok_or(DropReason::TableCorrupt)?;
    Ok(End { slot: tables.word(&entry.endpoint).at(generation), class: tables.word(&entry.class).at(generation) })
}

/// Whether the pod in `slot` may send from an address of this class, though it is not its own. Its rule set allows a class whole, by one
/// span. In the programs apart, called with numbers.
#[inline(always)]
pub fn speaks_for<T: Tables>(tables: &T, slot: u32, class: u32, generation: u64) -> bool {
    let Some(endpoint) = tables.endpoint(slot) else {
        return false;
    };
    let set = tables.word(&endpoint.sources).at(generation);
    if set == SET_DENY || slot < SLOT_FIRST || endpoint.flags & ENDPOINT_READY == 0 {
        return false;
    }
    match row_of(tables, set, class) {
        Ok(row) if row.len == 1 => tables.span(row.offset).is_some_and(|span| span.allows()),
        _ => false,
    }
}

/// Whether a class is not outside, as the layer in `slot` has it; where that cannot be read, nothing is.
#[inline(always)]
pub fn is_inside<T: Tables>(tables: &T, slot: u32, class: u32, generation: u64) -> bool {
    let Some(layer) = tables.endpoint(slot) else {
        return true;
    };
    match row_of(tables, tables.word(&layer.egress).at(generation), class) {
        Ok(row) if row.len == 1 => tables.span(row.offset).is_none_or(|span| span.allows()),
        Ok(_) => false,
        Err(_) => true,
    }
}

/// What a rule set is asked about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Class of the other end.
    pub peer: u32,
    /// Class of the address at this end.
    pub own: u32,
    /// Protocol and detail: see `abi::rules::x_of`.
    pub x: u32,
    /// The opener's port.
    pub source_port: u32,
}

/// A judgement that a Log rule asks to have written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// Whose rules were asked.
    pub slot: u32,
    /// 1: for what that endpoint receives.
    pub is_ingress: u32,
    /// 1: the packet at hand is the responder's.
    pub is_reply: u32,
    /// Protocol and detail.
    pub x: u32,
    /// The opener's port.
    pub source_port: u32,
    /// What was decided.
    pub span: Span,
}

/// Judgements of one packet that can be written down: both ends', the node's own for each, and the one before all of them.
pub const LOGGED_MAX: usize = 5;

/// Places for them: a power of two, so that an index is cut to it by its bits.
pub const LOGGED_ROOM: usize = LOGGED_MAX.next_power_of_two();

/// The span that decides at the endpoint in `slot`: a plain one, which allows, denies, or leaves it to what comes after.
#[inline(always)]
pub fn deciding_span<T: Tables>(
    tables: &T,
    generation: u64,
    (slot, direction): (u32, PolicyDirection),
    asked: &Question,
) -> Result<Span, DropReason> {
    let endpoint = tables.endpoint(slot).ok_or(DropReason::TableCorrupt)?;
    if endpoint.flags & ENDPOINT_READY == 0 || slot < SLOT_FIRST {
        return Err(DropReason::NoEndpoint);
    }
    let word = match direction {
        PolicyDirection::Ingress => &endpoint.ingress,
        PolicyDirection::Egress => &endpoint.egress,
    };
    let row = row_of(tables, tables.word(word).at(generation), asked.peer)?;
    let span = search(tables, row, asked.x)?;
    if !span.refers() {
        return Ok(span);
    }
    let found =
        tables.referred(u64::from(span.bits) << 32 | u64::from(span.hit), asked.own, asked.x, asked.source_port);
    let span = Span { bits: (found >> 32) as u32, hit: found as u32 };
    if span.refers() { Err(DropReason::TableCorrupt) } else { Ok(span) }
}

/// A span, as both its words, to the plain one that it refers to; to itself, if that cannot be found. In the programs apart,
/// called with numbers: it takes no registers and no stack from those whose spans are plain.
#[inline(always)]
pub fn referred<T: Tables>(tables: &T, span: u64, own: u32, x: u32, source_port: u32) -> u64 {
    let mut found = Span { bits: (span >> 32) as u32, hit: span as u32 };
    if found.kind() == SpanKind::Cell {
        match row_of(tables, found.hit, own).and_then(|row| search(tables, row, x)) {
            Ok(within) if within.kind() != SpanKind::Cell => found = within,
            _ => return span,
        }
    }
    if found.kind() == SpanKind::Ports {
        match list_at(tables, found.hit).and_then(|list| search(tables, list, source_port)) {
            Ok(within) => found = within,
            Err(_) => return span,
        }
    }
    u64::from(found.bits) << 32 | u64::from(found.hit)
}

/// The list by source port whose head lies there.
#[inline(always)]
fn list_at<T: Tables>(tables: &T, at: u32) -> Result<RowRef, DropReason> {
    match tables.span(at) {
        Some(head) if head.kind() == SpanKind::Head => Ok(RowRef { offset: at.wrapping_add(1), len: head.hit }),
        _ => Err(DropReason::TableCorrupt),
    }
}

#[inline(always)]
fn row_of<T: Tables>(tables: &T, set: u32, class: u32) -> Result<RowRef, DropReason> {
    let entry = tables.set(set).ok_or(DropReason::TableCorrupt)?;
    if entry.flags & SET_DEFAULT_ONLY != 0 {
        return Ok(entry.row);
    }
    Ok(tables.row(&RowKey { set, class }).unwrap_or(entry.row))
}

/// The last span that starts at or before `x`. An empty row is a refusal by no rule.
#[inline(always)]
fn search<T: Tables>(tables: &T, row: RowRef, x: u32) -> Result<Span, DropReason> {
    if row.len == 0 {
        return Ok(Span::default());
    }
    if row.len > ROW_SPANS_MAX {
        return Err(DropReason::TableCorrupt);
    }
    let mut first = row.offset;
    let mut left = row.len;
    for _ in 0..SEARCH_STEPS {
        if left <= 1 {
            break;
        }
        let half = left / 2;
        let middle = tables.span(first.wrapping_add(half)).ok_or(DropReason::TableCorrupt)?;
        // All ones where it starts at or before `x`: a branch here the verifier would follow up both ways, step after step.
        let at_or_before = (u64::from(middle.start()).wrapping_sub(u64::from(x) + 1) >> 63).wrapping_neg() as u32;
        first = first.wrapping_add(half & at_or_before);
        left -= half;
    }
    tables.span(first).ok_or(DropReason::TableCorrupt)
}
