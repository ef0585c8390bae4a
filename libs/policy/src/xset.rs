//! Sets of `x`: which protocols and ports a rule speaks of.
//! In: ranges of `x` (see `abi::rules::x_of`). Out: their unions, intersections and differences.
//! Invariant: ranges are sorted, none is empty, and none touches the next.
//! Never: knows what an `x` means.

use abi::rules::X_END;
use std::ops::Range;

/// A set of `x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XSet(Vec<Range<u32>>);

impl XSet {
    pub(crate) fn everything() -> Self {
        Self(std::iter::once(0..X_END).collect())
    }

    pub(crate) fn of(ranges: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u32>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.0.iter().cloned()
    }

    pub(crate) fn within(&self, other: &Self) -> Self {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(one), Some(two)) = (mine.peek(), theirs.peek()) {
            both.push(one.start.max(two.start)..one.end.min(two.end));
            if one.end < two.end {
                mine.next()
            } else {
                theirs.next()
            };
        }
        Self::of(both)
    }

    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut gaps = Vec::with_capacity(other.0.len() + 1);
        let mut start = 0;
        for range in &other.0 {
            gaps.push(start..range.start);
            start = range.end;
        }
        gaps.push(start..X_END);
        self.within(&Self::of(gaps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sets() -> impl Strategy<Value = XSet> {
        let range = (0u32..40, 0u32..12).prop_map(|(start, length)| start..start + length);
        prop::collection::vec(range, 0..6).prop_map(XSet::of)
    }

    fn holds(set: &XSet, x: u32) -> bool {
        set.ranges().any(|range| range.contains(&x))
    }

    proptest! {
        #[test]
        fn intersection_and_difference_hold_what_their_names_say(one in sets(), two in sets()) {
            let (within, without) = (one.within(&two), one.without(&two));
            for x in 0..64 {
                prop_assert_eq!(holds(&within, x), holds(&one, x) && holds(&two, x));
                prop_assert_eq!(holds(&without, x), holds(&one, x) && !holds(&two, x));
            }
            for set in [within, without] {
                prop_assert!(set.0.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(set.0.iter().all(|range| !range.is_empty()));
            }
        }
    }

    #[test]
    fn without_nothing_everything_is_left_and_without_everything_nothing() {
        let (everything, nothing) = (XSet::everything(), XSet::of([]));
        assert_eq!(everything.without(&nothing), everything);
        assert_eq!(everything.without(&everything), nothing);
    }
}
