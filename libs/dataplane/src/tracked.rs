//! Tracked flows with their facts named: what questions about policy are asked of.
//! In: entries of conntrack, and what their numbers mean. Out: one [`TrackedFlow`] each, said from its opener's end.
//! Invariant: facts are those of the flow's first packet, which judged it.
//! Never: a flow of a host endpoint that is no more.

use crate::{
    report::{frontend_of, ip_of, state_of},
    tables::names::Names,
};
use abi::{
    ConntrackEntry, Endpoint, FlowKey,
    conntrack::{CT_HIGH_OPENED, CT_HOST_OPENED, CT_REFUSED, NAT_BY_HOST, NAT_LEADS, NAT_RETURNS, zone_of},
};
use model::{Direction, IfaceName, Protocol};
use policy::{Decider, Flow, Hit};
use service::Frontend;
use std::{collections::BTreeMap, net::IpAddr};

/// A host endpoint that tracks a flow beside the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its interface.
    pub interface: IfaceName,
    /// Which way the flow was opened.
    pub direction: Direction,
    /// By its forward layer; else by its local one.
    pub is_forwarded: bool,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedFlow {
    /// Its first packet.
    pub flow: Flow,
    /// Where it is tracked; `None`: at a pod.
    pub gate: Option<Gate>,
    /// Source port; for ICMP echo the identifier.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The service through which it came: its destination is the backend.
    pub through: Option<Frontend>,
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
    /// Nothing is let pass by it any more, or only what ends it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_refused || matches!(self.state, "closed" | "reset")
    }

    /// Who talks to whom.
    #[must_use]
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        (self.flow.source, self.flow.destination)
    }
}

/// Those of pods and of host endpoints that are there; `endpoints` are the slots of the revision in force.
pub(crate) fn flows(
    entries: &[(FlowKey, ConntrackEntry)],
    names: &Names,
    endpoints: &BTreeMap<u32, Endpoint>,
) -> Vec<TrackedFlow> {
    let hits: BTreeMap<u32, &Hit> = names.hits.iter().map(|(hit, id)| (*id, &**hit)).collect();
    let zones: BTreeMap<[u8; 3], (&IfaceName, u32)> =
        names.hosts.iter().map(|(name, slot)| (zone_of(*slot), (name, *slot))).collect();
    let of = |(key, entry): &(FlowKey, ConntrackEntry)| {
        let gate = match key.zone {
            [0, 0, 0] => None,
            zone => Some(gate(zones.get(&zone)?, entry, endpoints)?),
        };
        Some(flow(key, entry, gate, &hits))
    };
    // What only leads to a flow is none, and one that another proxy translates is judged as the flow it becomes.
    entries
        .iter()
        .filter(|(_, entry)| !matches!(entry.nat_kind, NAT_LEADS | NAT_RETURNS | NAT_BY_HOST))
        .filter_map(of)
        .collect()
}

/// An entry of a gate names the layer's slot at the near end, and nobody at the far one.
fn gate(
    (interface, local): &(&IfaceName, u32),
    entry: &ConntrackEntry,
    endpoints: &BTreeMap<u32, Endpoint>,
) -> Option<Gate> {
    let forward = endpoints.get(local).map(|endpoint| endpoint.layers.forward).filter(|slot| *slot != 0);
    let is_near = |slot: u32| slot == *local || Some(slot) == forward;
    let (opener, responder) = match entry.flags & CT_HIGH_OPENED {
        0 => (entry.low_slot, entry.high_slot),
        _ => (entry.high_slot, entry.low_slot),
    };
    let (near, direction) = match (is_near(opener), is_near(responder)) {
        (true, _) => (opener, Direction::Egress),
        (false, true) => (responder, Direction::Ingress),
        (false, false) => return None,
    };
    Some(Gate { interface: (*interface).clone(), direction, is_forwarded: near != *local })
}

fn flow(key: &FlowKey, entry: &ConntrackEntry, gate: Option<Gate>, hits: &BTreeMap<u32, &Hit>) -> TrackedFlow {
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
        gate,
        source_port: port,
        destination_port: u16::from_be_bytes(destination.1),
        through: frontend_of(key, entry),
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
    fn a_flow_is_said_from_its_openers_end_and_a_gates_names_the_layer_and_the_way() {
        let key = FlowKey {
            low: address(1),
            high: address(2),
            low_port: 80u16.to_be_bytes(),
            high_port: 4711u16.to_be_bytes(),
            protocol: 6,
            zone: [0; 3],
        };
        let entry = ConntrackEntry { flags: CT_HIGH_OPENED | CT_REFUSED, stamp: 7, ..ConntrackEntry::default() };
        let at = |slot, entry| (FlowKey { zone: zone_of(slot), ..key }, entry);
        let gone = at(3, ConntrackEntry { high_slot: 3, ..entry });
        let leads = (FlowKey { low: address(0), ..key }, ConntrackEntry { nat_kind: NAT_LEADS, ..entry });
        let found = flows(&[(key, entry), gone, leads], &Names::default(), &BTreeMap::new());
        let [found] = &found[..] else { panic!("one is of pods, the others of nobody") };
        assert_eq!(found.gate, None);
        assert_eq!((found.source_port, found.destination_port, found.flow.detail), (4711, 80, 80));
        assert_eq!(found.flow.source, IpAddr::from([10, 0, 0, 2]));
        assert!(found.is_refused && found.generation == 7);
        let names = Names { hosts: [(IfaceName("eth0".into()), 3)].into(), ..Names::default() };
        let layers = abi::Layers { forward: 4, ..abi::Layers::default() };
        let endpoints = BTreeMap::from([(3, Endpoint { layers, ..Endpoint::default() })]);
        for (low_slot, high_slot, direction, is_forwarded) in [
            (0, 3, Direction::Egress, false),
            (3, 0, Direction::Ingress, false),
            (0, 4, Direction::Egress, true),
            (4, 0, Direction::Ingress, true),
        ] {
            let entry = ConntrackEntry { low_slot, high_slot, ..entry };
            let found = flows(&[at(3, entry)], &names, &endpoints);
            let gate = Gate { interface: IfaceName("eth0".into()), direction, is_forwarded };
            assert_eq!(found[0].gate, Some(gate));
        }
        assert_eq!(flows(&[at(3, ConntrackEntry { low_slot: 9, ..entry })], &names, &endpoints), []);
    }
}
