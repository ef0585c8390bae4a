//! Maglev: a table from a flow's hash to a backend, the same on every node that knows the same backends.
//! In: backends in order, and the table's size, a prime. Out: for each place the backend that stands there, by its number in the list.
//! Invariant: every backend has as many places as any other, or one more; a backend that goes leaves nearly all places of the
//! others as they are (Eisenbud et al., NSDI 2016, §3.4).
//! Never: chance, a clock, anything of this node: two nodes with the same list have the same table, whatever built them.

use crate::Backend;
use std::net::IpAddr;

/// Sizes of tables, all prime: the least that gives each backend 16 places, or the last.
const SIZES: [u32; 9] = [67, 131, 257, 521, 1031, 2053, 4099, 8209, 16_411];
const PLACES_EACH: usize = 16;

/// How many places a table of so many backends has.
#[must_use]
pub fn places(backends: usize) -> u32 {
    let wanted = backends.saturating_mul(PLACES_EACH);
    let last = SIZES[SIZES.len() - 1];
    SIZES.into_iter().find(|size| usize::try_from(*size).is_ok_and(|size| size >= wanted)).unwrap_or(last)
}

/// The table of these backends; empty: there are none.
#[must_use]
pub fn maglev(backends: &[Backend], places: u32) -> Vec<u32> {
    if backends.is_empty() {
        return Vec::new();
    }
    let mut preferences: Vec<_> = backends.iter().map(|backend| Preferences::of(backend, places)).collect();
    let mut table = vec![None; places as usize];
    let mut free = table.len();
    // They take turns, and each takes the first place of its liking that is still free.
    for turn in (0..preferences.len()).cycle() {
        if free == 0 {
            break;
        }
        let preferred = &mut preferences[turn];
        let place = std::iter::repeat_with(|| preferred.next()).find(|place| table[*place].is_none());
        if let Some(place) = place {
            table[place] = u32::try_from(turn).ok();
            free -= 1;
        }
    }
    table.into_iter().map(|backend| backend.unwrap_or_default()).collect()
}

/// All places in an order of a backend's own: its stride is no divisor of a prime.
#[derive(Debug)]
struct Preferences {
    next: u64,
    stride: u64,
    places: u64,
}

impl Preferences {
    fn of(backend: &Backend, places: u32) -> Self {
        let hash = hash(backend);
        let places = u64::from(places);
        Self { next: (hash >> 32) % places, stride: (hash & 0xffff_ffff) % (places - 1) + 1, places }
    }

    fn next(&mut self) -> usize {
        let place = self.next;
        self.next = (self.next + self.stride) % self.places;
        usize::try_from(place).unwrap_or_default()
    }
}

/// Fixed for good: another one would move flows between nodes while they are updated.
fn hash(backend: &Backend) -> u64 {
    let address = match backend.address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let halves = [(address >> 64) as u64, address as u64, u64::from(backend.port)];
    halves.into_iter().fold(0x7072_6974_6f72_7469, |hash, half| mixed(hash ^ half))
}

/// The finalizer of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn backends() -> impl Strategy<Value = Vec<Backend>> {
        let address = prop_oneof![
            any::<u32>().prop_map(|v4| IpAddr::V4(v4.into())),
            any::<u128>().prop_map(|v6| IpAddr::V6(v6.into()))
        ];
        let backend = (address, any::<u16>()).prop_map(|(address, port)| Backend { address, port });
        prop::collection::btree_set(backend, 1..40).prop_map(|set| set.into_iter().collect())
    }

    fn spread(backends: &[Backend]) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        maglev(backends, places(backends.len())).iter().for_each(|backend| *counts.entry(*backend).or_default() += 1);
        counts
    }

    proptest! {
        #[test]
        fn every_backend_has_as_many_places_as_any_other_or_one_more(backends in backends()) {
            let counts = spread(&backends);
            prop_assert_eq!(counts.len(), backends.len());
            let (least, most) = (counts.values().min(), counts.values().max());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
        }
    }

    /// Of the others' places one in twenty changes with the gone one's, at the mean; of a small table now and then four in ten, by
    /// how its backends' likings happen to meet.
    #[test]
    fn a_backend_that_goes_leaves_nearly_all_places_of_the_others() {
        let (mut moved_of_all, mut kept_of_all, mut worst) = (0, 0, 0.0_f64);
        for set in 0..4000_u64 {
            let count = 2 + set % 38;
            let backend = |number| Backend { address: IpAddr::V4((mixed(set << 8 | number) as u32).into()), port: 80 };
            let backends: Vec<_> = (0..count).map(backend).collect();
            let (gone, size) = ((mixed(set) % count) as usize, places(backends.len()));
            let mut left = backends.clone();
            left.remove(gone);
            // A table of another size is another table: then more of them move.
            let (before, now) = (maglev(&backends, size), maglev(&left, size));
            let others = || before.iter().zip(&now).filter(|(before, _)| **before as usize != gone);
            let moved = others().filter(|(before, now)| backends[**before as usize] != left[**now as usize]).count();
            moved_of_all += moved;
            kept_of_all += others().count();
            worst = worst.max(moved as f64 / others().count() as f64);
        }
        let mean = moved_of_all as f64 / kept_of_all as f64;
        assert!(mean < 0.06 && worst < 0.5, "at the mean {mean}, at most {worst}");
    }

    #[test]
    fn a_table_has_places_for_its_backends_up_to_a_bound() {
        assert_eq!([0, 1, 4, 5, 8, 9, 10, 100, 10_000].map(places), [67, 67, 67, 131, 131, 257, 257, 2053, 16_411]);
        let is_prime = |size: u32| (2..size).take_while(|by| by * by <= size).all(|by| !size.is_multiple_of(by));
        assert!(SIZES.into_iter().all(is_prime));
    }

    /// Nodes of other versions have the same table.
    #[test]
    fn a_table_is_the_same_for_good() {
        let backends = [2, 3, 4].map(|last| Backend { address: [10, 65, 0, last].into(), port: 8080 });
        assert_eq!(maglev(&backends, 13), [1, 0, 1, 1, 0, 0, 0, 0, 2, 2, 1, 2, 2]);
        assert_eq!(maglev(&backends[..0], 13), [0; 0]);
    }
}
