//! What differs between two ordered maps, by walking both once, side by side.
//! In: what was and what is. Out: keys that came, that went, and those whose value is another.
//! Invariant: in the order of the keys.
//! Never: looks a key up.

use std::{cmp::Ordering, collections::BTreeMap};

/// One key that differs: what was and what is.
pub type Change<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// Every key that differs.
pub fn changes<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = Change<'a, K, V>> + Clone {
    pairs(old, new).filter(|(_, was, is)| was != is)
}

/// Keys that came.
pub fn added<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> + Clone {
    pairs(old, new).filter_map(|(key, was, is)| is.filter(|_| was.is_none()).map(|is| (key, is)))
}

/// Keys that went.
pub fn gone<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> + Clone {
    added(new, old)
}

/// Keys of both, whose value is another.
pub fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V, &'a V)> + Clone {
    pairs(old, new).filter_map(|(key, was, is)| Some((key, was?, is?))).filter(|(_, was, is)| was != is)
}

/// Every key of either.
fn pairs<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = Change<'a, K, V>> + Clone {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let side = match (old.peek(), new.peek()) {
            (Some((was, _)), Some((is, _))) => was.cmp(is),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let was = if side.is_le() { old.next() } else { None };
        let is = if side.is_ge() { new.next() } else { None };
        let key = was.or(is).map(|(key, _)| key)?;
        Some((key, was.map(|(_, value)| value), is.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_and_changed_is_told_in_order() {
        let old = BTreeMap::from([(1, "a"), (2, "b"), (4, "d")]);
        let new = BTreeMap::from([(0, "n"), (2, "b"), (4, "x"), (9, "n")]);
        assert_eq!(added(&old, &new).collect::<Vec<_>>(), [(&0, &"n"), (&9, &"n")]);
        assert_eq!(gone(&old, &new).collect::<Vec<_>>(), [(&1, &"a")]);
        assert_eq!(changed(&old, &new).collect::<Vec<_>>(), [(&4, &"d", &"x")]);
        assert_eq!(changes(&old, &new).map(|(key, ..)| *key).collect::<Vec<_>>(), [0, 1, 4, 9]);
    }
}
