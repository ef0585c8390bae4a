//! Tracked flows with their facts named: what questions about policy are asked of.
//! In: entries of conntrack, and what their numbers mean. Out: one [`TrackedFlow`] each, said from its opener's end.
//! Invariant: facts are those of the flow's first packet, which judged it.
//! Never: flows of a host endpoint's own zone: they are tracked beside the pods'.

use crate::{
    report::{ip_of, state_of},
    tables::names::Names,
};
use abi::{
    ConntrackEntry, FlowKey,
    conntrack::{CT_HIGH_OPENED, CT_HOST_OPENED, CT_REFUSED, NAT_LEADS},
};
use model::Protocol;
use policy::{Decider, Flow, Hit};
use std::{collections::BTreeMap, net::IpAddr};

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedFlow {
    /// Its first packet.
    pub flow: Flow,
    /// Source port; for ICMP echo the identifier.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// What people call its state.
    pub state: &'static str,
    /// It was refused, and what it sends is dropped.
    pub is_refused: bool,
    /// This node itself opened it: it is let in whatever policy says.
    pub is_hosts_own: bool,
    /// The generation by which it was judged last; its low 32 bits.
    pub generation: u32,
    /// Which rules judged it, the sender's end first; `None`: not judged there, or the rule is no longer known.
    pub by: [Option<Decider>; 2],
}

impl TrackedFlow {
    /// Who talks to whom.
    #[must_use]
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        (self.flow.source, self.flow.destination)
    }
}

/// Those of pods.
pub(crate) fn flows(entries: &[(FlowKey, ConntrackEntry)], names: &Names) -> Vec<TrackedFlow> {
    let hits: BTreeMap<u32, &Hit> = names.hits.iter().map(|(hit, id)| (*id, &**hit)).collect();
    // What only leads to a flow is none.
    let of_pods = entries.iter().filter(|(key, entry)| key.zone == [0; 3] && entry.nat_kind != NAT_LEADS);
    of_pods.map(|(key, entry)| flow(key, entry, &hits)).collect()
}

fn flow(key: &FlowKey, entry: &ConntrackEntry, hits: &BTreeMap<u32, &Hit>) -> TrackedFlow {
    let (low, high) = ((key.low, key.low_port), (key.high, key.high_port));
    let (source, destination) = if entry.flags & CT_HIGH_OPENED != 0 { (high, low) } else { (low, high) };
    let protocol = Protocol(key.protocol);
    let detail = match protocol {
        Protocol::ICMP | Protocol::ICMPV6 => u16::from_be_bytes([entry.icmp_type, entry.icmp_code]),
        protocol if protocol.has_ports() => u16::from_be_bytes(destination.1),
        _ => 0,
    };
    let by = |hit: u32| hits.get(&hit).map(|hit| hit.decider.clone());
    let port = u16::from_be_bytes(source.1);
    let (from, to) = (ip_of(source.0), ip_of(destination.0));
    let source_port = if protocol.has_ports() { port } else { 0 };
    TrackedFlow {
        flow: Flow { source: from, destination: to, protocol, detail, source_port },
        source_port: port,
        destination_port: u16::from_be_bytes(destination.1),
        state: state_of(entry),
        is_refused: entry.flags & CT_REFUSED != 0,
        is_hosts_own: entry.flags & CT_HOST_OPENED != 0,
        generation: entry.stamp,
        by: [by(entry.egress_hit), by(entry.ingress_hit)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Address;

    fn address(last: u8) -> Address {
        Address::from_bytes(std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets())
    }

    #[test]
    fn a_flow_is_said_from_its_openers_end_and_a_gates_flows_are_left_out() {
        let key = FlowKey {
            low: address(1),
            high: address(2),
            low_port: 80u16.to_be_bytes(),
            high_port: 4711u16.to_be_bytes(),
            protocol: 6,
            zone: [0; 3],
        };
        let entry = ConntrackEntry { flags: CT_HIGH_OPENED | CT_REFUSED, stamp: 7, ..ConntrackEntry::default() };
        let gates = (FlowKey { zone: [3, 0, 0], ..key }, entry);
        let leads = (FlowKey { low: address(0), ..key }, ConntrackEntry { nat_kind: NAT_LEADS, ..entry });
        let [found] = &flows(&[(key, entry), gates, leads], &Names::default())[..] else { panic!("one is of pods") };
        assert_eq!((found.source_port, found.destination_port, found.flow.detail), (4711, 80, 80));
        assert_eq!(found.flow.source, IpAddr::from([10, 0, 0, 2]));
        assert!(found.is_refused && found.generation == 7);
    }
}
