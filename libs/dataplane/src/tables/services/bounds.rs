//! Source ranges as the tables have them: the addresses from which on clients are let in, or are not any more.
//! In: networks, in any order, one within another too. Out: bounds in order, and their words.
//! Invariant: ranges that let the same clients in have the same bounds.
//! Never: none, where nobody is let in.

use crate::tables::prefix;
use abi::service::BOUND_WORDS;
use model::Cidr;

/// Where ranges that hold no address that a packet has begin.
const NOBODY: u128 = u128::MAX;

/// The bounds of all that is in any of these networks.
pub fn bounds(ranges: &[Cidr]) -> Vec<u128> {
    let mut spans: Vec<(u128, u128)> = ranges
        .iter()
        .filter_map(prefix::net_key)
        .map(|net| {
            let first = u128::from_be_bytes(net.address);
            (first, first | u128::MAX.checked_shr(net.prefix_len).unwrap_or(0))
        })
        .collect();
    spans.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in spans {
        match merged.last_mut().filter(|before| first <= before.1.saturating_add(1)) {
            Some(before) => before.1 = before.1.max(last),
            None => merged.push((first, last)),
        }
    }
    if merged.is_empty() {
        return vec![NOBODY];
    }
    merged.into_iter().flat_map(|(first, last)| [Some(first), last.checked_add(1)]).flatten().collect()
}

/// A bound, as it lies among members.
pub fn words(bound: &u128) -> [u32; BOUND_WORDS as usize] {
    [96, 64, 32, 0].map(|shift| u32::try_from(bound >> shift & u128::from(u32::MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn of(address: &str) -> u128 {
        let key = prefix::address_key(address.parse().expect("an address")).expect("plain");
        u128::from_be_bytes(key.to_bytes())
    }

    #[test]
    fn networks_that_touch_or_lie_within_another_are_one() {
        let bounds = |texts: &[&str]| super::bounds(&nets(texts));
        assert_eq!(bounds(&["10.0.0.0/8"]), [of("10.0.0.0"), of("11.0.0.0")]);
        assert_eq!(bounds(&["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8"]), bounds(&["10.0.0.0/8"]));
        assert_eq!(bounds(&["10.128.0.0/9", "10.0.0.0/9"]), bounds(&["10.0.0.0/8"]));
        assert_eq!(bounds(&["10.0.0.2/32", "10.0.0.4/32"]), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"].map(of));
        assert_eq!(bounds(&["::/0"]), [0], "to the end");
        assert_eq!(bounds(&["0.0.0.0/0"]), [of("0.0.0.0"), of("255.255.255.255") + 1]);
        assert_eq!(bounds(&["::ffff:10.0.0.0/104"]), [NOBODY], "which no packet has");
        assert_eq!(bounds(&[]), [NOBODY]);
    }

    proptest! {
        #[test]
        fn a_client_is_within_where_a_network_has_it(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 1..12),
            clients in prop::collection::vec(any::<u32>(), 1..30),
        ) {
            let nets: Vec<Cidr> = nets.iter().filter_map(|(address, length)| {
                let address = std::net::Ipv4Addr::from(address & u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0));
                format!("{address}/{length}").parse().ok()
            }).collect();
            let bounds = bounds(&nets);
            prop_assert!(bounds.is_sorted_by(|a, b| a < b));
            let edges = nets.iter().map(|net| match net.network() {
                std::net::IpAddr::V4(v4) => u32::from(v4),
                std::net::IpAddr::V6(_) => 0,
            });
            let edges: Vec<u32> = edges.flat_map(|edge| [edge.wrapping_sub(1), edge]).collect();
            for client in clients.into_iter().chain(edges).map(std::net::Ipv4Addr::from) {
                let before = bounds.iter().filter(|bound| **bound <= of(&client.to_string())).count();
                prop_assert_eq!(before % 2 == 1, nets.iter().any(|net| net.contains(client.into())), "{}", client);
            }
        }
    }
}
