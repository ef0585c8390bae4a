//! Addresses and networks as the tables' keys, and longest-prefix lookup as the kernel does it.
//! In: addresses and networks of `model`. Out: 16-byte keys, and what covers them.
//! Invariant: IPv4 lives in `::ffff:0:0/96`, so no IPv6 network may reach an IPv4 address: see [`guard`].
//! Never: a key with host bits.

use abi::{Address, NetKey};
use model::Cidr;
use std::net::IpAddr;

/// The network all IPv4 addresses lie in.
pub const ALL_V4: NetKey = NetKey { prefix_len: 96, address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0] };

/// The key of an address; `None` for an IPv6 address written as a mapped IPv4 one, which no packet may carry.
#[must_use]
pub fn address_key(address: IpAddr) -> Option<Address> {
    match address {
        IpAddr::V4(v4) => Some(Address::from_v4(v4.octets())),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none().then(|| Address::from_bytes(v6.octets())),
    }
}

/// The address behind a key.
#[must_use]
pub fn address_of(key: Address) -> IpAddr {
    std::net::Ipv6Addr::from(key.to_bytes()).to_canonical()
}

/// A network as people write it.
#[must_use]
pub fn text(net: &NetKey) -> String {
    let address = address_of(Address::from_bytes(net.address));
    let bits = if address.is_ipv4() { net.prefix_len.saturating_sub(ALL_V4.prefix_len) } else { net.prefix_len };
    format!("{address}/{bits}")
}

/// The key of a network; `None` for an IPv6 network inside `::ffff:0:0/96`, which no packet can match.
#[must_use]
pub fn net_key(cidr: &Cidr) -> Option<NetKey> {
    let length = u32::from(cidr.prefix_len());
    match cidr.network() {
        IpAddr::V4(v4) => Some(NetKey { prefix_len: 96 + length, address: Address::from_v4(v4.octets()).to_bytes() }),
        IpAddr::V6(v6) => {
            let key = NetKey { prefix_len: length, address: v6.octets() };
            (!covers(&ALL_V4, &key)).then_some(key)
        }
    }
}

/// Whether a network over all of IPv4 space is needed, so that an IPv6 network such as `::/0` says nothing of IPv4.
#[must_use]
pub fn guard(is_there: impl Fn(&NetKey) -> bool) -> bool {
    (0..ALL_V4.prefix_len).any(|length| is_there(&cut(&ALL_V4, length)))
}

/// The network that holds only this address.
#[must_use]
pub fn host(address: Address) -> NetKey {
    NetKey { prefix_len: 128, address: address.to_bytes() }
}

/// What the longest network over `key` says, `key` itself included; `find` knows the networks.
#[must_use]
pub fn longest<V>(key: &NetKey, find: impl Fn(&NetKey) -> Option<V>) -> Option<V> {
    (0..=key.prefix_len).rev().find_map(|length| find(&cut(key, length)))
}

/// Whether every address of `inner` lies in `outer`.
fn covers(outer: &NetKey, inner: &NetKey) -> bool {
    outer.prefix_len <= inner.prefix_len && cut(inner, outer.prefix_len) == *outer
}

/// The network of `length` bits over `key`.
fn cut(key: &NetKey, length: u32) -> NetKey {
    let mask = if length == 0 { 0 } else { u128::MAX << (128 - length.min(128)) };
    NetKey { prefix_len: length, address: (u128::from_be_bytes(key.address) & mask).to_be_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn key(text: &str) -> NetKey {
        net_key(&text.parse().expect("a valid network")).expect("a network that packets can match")
    }

    #[test]
    fn the_longest_network_answers() {
        let nets: BTreeMap<_, _> = [(key("10.0.0.0/8"), "wide"), (key("10.1.0.0/16"), "narrow")].into();
        let found = |text: &str| longest(&key(text), |net| nets.get(net));
        assert_eq!(found("10.1.2.3/32"), Some(&"narrow"));
        assert_eq!(found("10.2.0.0/16"), Some(&"wide"));
        assert_eq!(found("11.0.0.0/8"), None);
    }

    #[test]
    fn an_ipv6_network_over_everything_calls_for_a_guard_over_ipv4() {
        assert!(guard(|net| *net == key("::/0")));
        assert!(!guard(|net| [key("0.0.0.0/0"), key("fd00::/8")].contains(net)));
    }

    #[test]
    fn a_mapped_address_written_as_ipv6_has_no_key() {
        assert_eq!(net_key(&"::ffff:10.0.0.0/104".parse().expect("a valid network")), None);
        assert_eq!(address_key("::ffff:10.0.0.1".parse().expect("a valid address")), None);
    }
}
