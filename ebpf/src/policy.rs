//! Policy: whose addresses are these, and do both ends' rules let the flow be opened?
//! In: the opener's and responder's addresses, protocol and detail. Out: both ends, and the rules that decided.
//! Invariant: every index is checked against its table; an empty slot, row, span or set refuses.
//! Never: writes; reads the generation a second time.

use abi::endpoint::{ENDPOINT_READY, SLOT_FIRST, SLOT_NONE};
use abi::rules::{CLASS_NONE, ROW_SPANS_MAX, SEARCH_STEPS, SET_DEFAULT_ONLY};
use abi::{Address, DropReason, RowKey, RowRef, Span};

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

/// The span that decides about `x` at the endpoint in `slot`, with a peer of this class.
#[inline(always)]
pub fn deciding_span<T: Tables>(
    tables: &T,
    generation: u64,
    (slot, direction): (u32, PolicyDirection),
    class: u32,
    x: u32,
) -> Result<Span, DropReason> {
    let endpoint = tables.endpoint(slot).ok_or(DropReason::TableCorrupt)?;
    if endpoint.flags & ENDPOINT_READY == 0 || slot < SLOT_FIRST {
        return Err(DropReason::NoEndpoint);
    }
    let word = match direction {
        PolicyDirection::Ingress => &endpoint.ingress,
        PolicyDirection::Egress => &endpoint.egress,
    };
    let row = row_of(tables, tables.word(word).at(generation), class)?;
    search(tables, row, x)
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
        if middle.start() <= x {
            first = first.wrapping_add(half);
        }
        left -= half;
    }
    tables.span(first).ok_or(DropReason::TableCorrupt)
}
