//! As whom this node stands for its pods outside of all pools, one a family.
//! In: what FelixConfiguration says, the node's own addresses, its uplink. Out: entries of MASQUERADE.
//! Invariant: without an uplink nobody; a family without an address has ports and no address: its pods' flows are refused.
//! Never: asks the kernel.

use crate::{report::ip_of, sources::Sources, tables::prefix};
use abi::{
    Masquerade,
    masquerade::{OTHERS, Ports, TCP},
};
use calc::Masquerading;
use std::net::IpAddr;

/// As whom, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node's address.
    pub address: IpAddr,
    /// The first and the last port, of TCP.
    pub tcp: (u16, u16),
    /// Of all others; of ICMP the identifiers.
    pub others: (u16, u16),
}

/// What an entry says; `None`: as nobody.
pub fn standing(entry: &Masquerade) -> Option<Standing> {
    let range = |ports: Ports| (ports.first, ports.first.saturating_add(ports.count.saturating_sub(1)));
    let is_somebody = entry.ifindex != 0 && entry.address != abi::Address::default();
    let standing = || Standing { address: ip_of(entry.address), tcp: range(entry.tcp), others: range(entry.others) };
    is_somebody.then(standing)
}

/// IPv4, then IPv6.
pub fn stands(said: Option<&Masquerading>, own: Sources, uplink: Option<u32>) -> [Masquerade; 2] {
    let (Some(said), Some(ifindex)) = (said, uplink) else { return [Masquerade::default(); 2] };
    let (tcp, others) = said.ports.map_or((TCP, OTHERS), |(first, last)| {
        let ports = Ports { first, count: last.saturating_sub(first).saturating_add(1) };
        (ports, ports)
    });
    let [v4, v6] = own;
    [said.address.map(IpAddr::V4).or(v4), v6].map(|address| {
        let address = address.and_then(prefix::address_key).unwrap_or_default();
        Masquerade { address, tcp, others, ifindex, pad: 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::RuleSet;
    use std::sync::Arc;

    fn said() -> Masquerading {
        Masquerading { inside: Arc::new(RuleSet::of_networks(&[])), address: None, ports: None }
    }

    const OWN: Sources = [Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))), None];

    #[test]
    fn ipam_26_a_node_stands_for_its_pods_by_its_own_address_unless_another_is_set_and_by_the_ports_that_are() {
        let [v4, v6] = stands(Some(&said()), OWN, Some(7));
        let is_at = |own: Masquerade| (own.tcp, own.others, own.ifindex);
        assert_eq!((v4.address, is_at(v4)), (abi::Address::from_v4([192, 0, 2, 1]), (TCP, OTHERS, 7)));
        assert_eq!((v6.address, is_at(v6)), (abi::Address::default(), (TCP, OTHERS, 7)));
        let (address, ports) = (Some([198, 51, 100, 9].into()), Some((1024, 65_535)));
        let [v4, _] = stands(Some(&Masquerading { address, ports, ..said() }), OWN, Some(7));
        let all = Ports { first: 1024, count: 64_512 };
        assert_eq!((v4.address, is_at(v4)), (abi::Address::from_v4([198, 51, 100, 9]), (all, all, 7)));
        let all = (1024, 65_535);
        assert_eq!(standing(&v4), Some(Standing { address: [198, 51, 100, 9].into(), tcp: all, others: all }));
        assert_eq!(standing(&v6), None, "it has no address of that family");
    }

    #[test]
    fn each_port_that_a_pod_asks_from_has_one_of_its_own_also_where_every_second_of_all_is_asked_from() {
        let distinct = |ports: &mut dyn Iterator<Item = u16>| {
            ports.map(|port| port % TCP.count).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(distinct(&mut (32_768..61_000)), 28_232);
        assert_eq!(distinct(&mut (1024..65_535).step_by(2)), usize::from(TCP.count));
    }

    #[test]
    fn nobody_is_stood_for_without_an_uplink_or_a_pool_that_asks() {
        assert_eq!(stands(None, OWN, Some(7)), [Masquerade::default(); 2]);
        assert_eq!(stands(Some(&said()), OWN, None), [Masquerade::default(); 2]);
    }
}
