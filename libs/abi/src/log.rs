//! What rules with action Log have written down: one record for each judgement that met one, within a rate.
//! In: a judgement. Out: six words in a ring, in the order they were written by each processor.
//! Invariant: a flood costs a look at an account, and no record; what is left out is counted.
//! Never: pinned; a record is read by the agent whose programs wrote it, or by nobody.

use crate::address::Address;
use crate::rules::{Span, SpanKind};

/// Name of the ring.
pub const LOG_MAP: &str = "LOG";
/// Bytes of the ring: 4096 records.
pub const LOG_BYTES: u32 = 4096 * 64;
/// Name of the per-CPU array with one [`LogAccount`].
pub const LOG_ACCOUNT_MAP: &str = "LOG_ACCOUNT";
/// Name of the programs' global: nanoseconds between records of one processor at the full rate; 0: nothing is written.
pub const LOG_INTERVAL_GLOBAL: &str = "LOG_INTERVAL_NS";
/// That, unless it is set: 100 records a second.
pub const LOG_INTERVAL_NS: u64 = 10_000_000;
/// Records that one processor may write at once before the rate counts.
pub const LOG_BURST: u64 = 100;

/// What one processor has written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogAccount {
    /// When all that was written is paid for.
    pub paid_until_ns: u64,
    /// Records that were left out, ever.
    pub left_out: u64,
}

/// The account's time after one more record at `now_ns`, or `None` if it is spent.
#[inline(always)]
#[must_use]
pub const fn spend(paid_until_ns: u64, now_ns: u64, interval_ns: u64) -> Option<u64> {
    if interval_ns == 0 {
        return None;
    }
    let from = if paid_until_ns > now_ns { paid_until_ns } else { now_ns };
    let until = from.wrapping_add(interval_ns);
    if until.wrapping_sub(now_ns) > LOG_BURST * interval_ns { None } else { Some(until) }
}

/// A judgement that met a Log rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Who opens the flow.
    pub source: Address,
    /// To whom.
    pub destination: Address,
    /// Whose rules were asked: an endpoint's slot.
    pub slot: u32,
    /// For what the endpoint receives; else for what it sends.
    pub is_ingress: bool,
    /// See [`crate::rules::x_of`].
    pub x: u32,
    /// The opener's port.
    pub source_port: u16,
    /// What was decided, and its hit id.
    pub span: Span,
}

impl LogRecord {
    /// As it lies in the ring.
    #[inline(always)]
    #[must_use]
    pub const fn to_words(&self) -> [u64; 6] {
        let (Address(source), Address(destination)) = (self.source, self.destination);
        let whose = (self.slot as u64) << 32 | self.span.hit as u64;
        let kind = self.span.kind().bits() as u64;
        let what = (self.x as u64) << 32 | (self.source_port as u64) << 16 | kind << 8 | self.is_ingress as u64;
        [source[0], source[1], destination[0], destination[1], whose, what]
    }

    /// Reads it.
    #[must_use]
    pub const fn from_words(words: [u64; 6]) -> Self {
        let [s0, s1, d0, d1, whose, what] = words;
        let kind = match (what >> 8) as u8 {
            1 => SpanKind::Allow,
            2 => SpanKind::Next,
            _ => SpanKind::Deny,
        };
        Self {
            source: Address([s0, s1]),
            destination: Address([d0, d1]),
            slot: (whose >> 32) as u32,
            is_ingress: what & 1 != 0,
            x: (what >> 32) as u32,
            source_port: (what >> 16) as u16,
            span: Span::new(0, kind, whose as u32),
        }
    }
}

const _: () = assert!(size_of::<LogAccount>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_ring() {
        let record = LogRecord {
            source: Address::from_v4([10, 0, 0, 1]),
            destination: Address::from_v4([10, 0, 0, 2]),
            slot: 7,
            is_ingress: true,
            x: crate::rules::x_of(132, u16::MAX),
            source_port: 65_534,
            span: Span::new(0, SpanKind::Allow, u32::MAX),
        };
        assert_eq!(LogRecord::from_words(record.to_words()), record);
        let other = LogRecord { is_ingress: false, span: Span::new(0, SpanKind::Deny, 1), source_port: 0, ..record };
        assert_eq!(LogRecord::from_words(other.to_words()), other);
    }

    #[test]
    fn a_burst_is_written_and_then_the_rate_counts() {
        let mut until = 0;
        let mut written = |now| spend(until, now, 1000).inspect(|spent| until = *spent).is_some();
        assert_eq!((0..2 * LOG_BURST).filter(|_| written(5_000_000)).count() as u64, LOG_BURST);
        assert!(!written(5_000_999) && written(5_001_000) && !written(5_001_000));
        assert_eq!(
            (0..2 * LOG_BURST).filter(|_| written(9_000_000)).count() as u64,
            LOG_BURST,
            "rested, it has all again"
        );
        assert_eq!(spend(0, 1, 0), None, "a rate of nothing");
    }
}
