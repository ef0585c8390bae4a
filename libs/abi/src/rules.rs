//! Compiled policy: rule sets, their rows per peer class, and the sorted spans a row points at.
//! In: rule set, peer class, and `x = protocol:8 | port or ICMP type and code:16`. Out: one [`Span`].
//! Invariant: spans of a row are sorted by `start`, the first starts at 0, and each reaches to the next one's start.
//! Never: edits what is in use; a change writes fresh rows and spans, and one word puts them in force.

/// The class of an address that no active selector and no active CIDR matches.
pub const CLASS_NONE: u32 = 0;
/// Rule set 0: has no spans and therefore denies everything. Zeroed memory fails closed.
pub const SET_DENY: u32 = 0;
/// The rule set that allows everything, by no rule. It stands in no table and is never handed out.
pub const SET_OPEN: u32 = crate::word::ID_MAX;
/// The verdict came from no rule (no policy applies, or the set has no row).
pub const HIT_NONE: u32 = 0;
/// Most spans a row may have; a binary search over it takes at most [`SEARCH_STEPS`].
pub const ROW_SPANS_MAX: u32 = 1 << 17;
/// Steps that find any span of a row of [`ROW_SPANS_MAX`].
pub const SEARCH_STEPS: u32 = 18;
/// One past the largest `x`.
pub const X_END: u32 = 1 << 24;

/// Where spans lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowRef {
    /// Index of the first span.
    pub offset: u32,
    /// Number of spans; 0 denies everything.
    pub len: u32,
}

/// A rule set: its default row, for every class that has no row of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetEntry {
    /// The default row.
    pub row: RowRef,
    /// `SET_*`.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// The set's content names no peer at all: no class can have a row, so the row lookup is left out.
pub const SET_DEFAULT_ONLY: u32 = 1 << 0;
/// Rows of the set may have spans of kind [`SpanKind::Cell`]. For the agent; programs see it by the span.
pub const SET_ASKS_OWN: u32 = 1 << 1;

/// Key of a row of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Rule set id.
    pub set: u32,
    /// Peer class id.
    pub class: u32,
}

/// What a span says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    /// Refuse. Also the reading of every kind a program does not know.
    Deny,
    /// Let through.
    Allow,
    /// No rule decides, and the set has no end: whatever comes after it is asked.
    Next,
    /// Decided by the source port: `hit` is the index of a nested list's head.
    Ports,
    /// Decided by the class of the endpoint's own address: `hit` is the id of a nested set.
    Cell,
    /// Head of a nested list, whose `hit` spans follow it, searched by source port. No search ends here.
    Head,
}

impl SpanKind {
    /// The number in a span's bits 4..8.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Deny => 0,
            Self::Allow => 1,
            Self::Next => 2,
            Self::Ports => 3,
            Self::Cell => 4,
            Self::Head => 5,
        }
    }

    /// Whether `hit` is a hit id, and no index, set or number.
    #[must_use]
    pub const fn decides(self) -> bool {
        matches!(self, Self::Deny | Self::Allow | Self::Next)
    }
}

/// Bit 3: a rule asks for a line about what the span decides.
const LOG: u32 = 1 << 3;

/// `start:24 | kind:4 | log:1 | staged:3`, then the hit id. Ends where the next span starts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// `start` in the high 24 bits, then kind, log and staged.
    pub bits: u32,
    /// Counter and explanation: which rule decided.
    pub hit: u32,
}

impl Span {
    /// A span from `start` (below [`X_END`]).
    #[must_use]
    pub const fn new(start: u32, kind: SpanKind, hit: u32) -> Self {
        Self { bits: start << 8 | kind.bits() << 4, hit }
    }

    /// The same, with a line about what it decides.
    #[must_use]
    pub const fn logged(self) -> Self {
        Self { bits: self.bits | LOG, hit: self.hit }
    }

    /// Whether what it decides is logged.
    #[inline(always)]
    #[must_use]
    pub const fn logs(self) -> bool {
        self.bits & LOG != 0
    }

    /// What it says; a number that no kind has refuses.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> SpanKind {
        match (self.bits >> 4) & 0xf {
            1 => SpanKind::Allow,
            2 => SpanKind::Next,
            3 => SpanKind::Ports,
            4 => SpanKind::Cell,
            5 => SpanKind::Head,
            _ => SpanKind::Deny,
        }
    }

    /// First `x` the span covers.
    #[inline(always)]
    #[must_use]
    pub const fn start(self) -> u32 {
        self.bits >> 8
    }

    /// Whether the span leaves the decision to what it refers to.
    #[inline(always)]
    #[must_use]
    pub const fn refers(self) -> bool {
        (self.bits >> 4) & 0xf >= SpanKind::Ports.bits()
    }

    /// Whether the span lets a packet through; everything that is not a plain Allow refuses.
    #[inline(always)]
    #[must_use]
    pub const fn allows(self) -> bool {
        (self.bits >> 4) & 0xf == SpanKind::Allow.bits()
    }
}

/// The number a span list is searched by. `detail` is the destination port, or ICMP `type << 8 | code`, else 0.
#[inline(always)]
#[must_use]
pub const fn x_of(protocol: u8, detail: u16) -> u32 {
    (protocol as u32) << 16 | detail as u32
}

const _: () = assert!(size_of::<RowRef>() == 8);
const _: () = assert!(size_of::<SetEntry>() == 16);
const _: () = assert!(size_of::<RowKey>() == 8);
const _: () = assert!(size_of::<Span>() == 8);
