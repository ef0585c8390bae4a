//! The address from which this node's ICMP errors come, one a family.
//! In: the host's own addresses, and those of its uplink in the kernel's order. Out: one of them, or none.
//! Invariant: only an address that is the host's own; the uplink's first, which the stack would choose too, before others.
//! Never: asks the kernel; a link-local address.

use std::{collections::BTreeSet, net::IpAddr};

/// IPv4, then IPv6.
pub type Sources = [Option<IpAddr>; 2];

/// Chooses.
pub fn choose(host: &BTreeSet<IpAddr>, on_uplink: &[IpAddr]) -> Sources {
    [true, false].map(|v4| {
        let mut preferred = on_uplink.iter().filter(|address| host.contains(address)).chain(host);
        preferred.find(|address| address.is_ipv4() == v4).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn the_uplinks_first_address_speaks_for_the_node() {
        let host = addresses(&["172.17.0.1", "192.0.2.1", "192.0.2.7", "2001:db8::1"]).into_iter().collect();
        let on_uplink = addresses(&["192.0.2.7", "192.0.2.1"]);
        assert_eq!(choose(&host, &on_uplink), ["192.0.2.7", "2001:db8::1"].map(|text| text.parse().ok()));
    }

    #[test]
    fn an_address_that_is_not_known_for_the_hosts_own_does_not_speak() {
        let host = addresses(&["172.17.0.1"]).into_iter().collect();
        assert_eq!(choose(&host, &addresses(&["192.0.2.7", "fe80::1"])), ["172.17.0.1".parse().ok(), None]);
        assert_eq!(choose(&BTreeSet::new(), &addresses(&["192.0.2.7"])), [None, None]);
    }
}
