//! Tracked flows with their facts named: what questions about policy are asked of.
//! In: entries of conntrack, and what their numbers mean. Out: one [`TrackedFlow`] each, said from its opener's end.
//! Invariant: facts are those of the flow's first packet, which judged it.
//! Never: a flow of a host endpoint that is no more.

use crate::{
    report::{frontend_of, ip_of, mask_of, state_of},
    tables::names::Names,
};
use abi::endpoint::{SLOT_HOST, SLOT_NONE};
use abi::{
    ConntrackEntry, Endpoint, FlowKey,
    conntrack::{
        CT_HIGH_OPENED, CT_HOST_OPENED, CT_REFUSED, CT_RESET, NAT_AHEAD, NAT_BY_HOST, NAT_LEADS, NAT_RETURNS,
        NAT_TRANSLATED, is_closed, zone_of,
    },
};
use model::{Direction, IfaceName, Protocol};
use policy::{Decider, Flow, Hit, HostLayer};
use service::Frontend;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// A host endpoint that tracks a flow beside the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its interface.
    pub interface: IfaceName,
    /// Which way the flow was opened.
    pub direction: Direction,
    /// The last of its layers that was asked; before translation, where a service leads the flow on.
    pub last: HostLayer,
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
    /// As whom it goes on outside of all pools.
    pub masked: Option<SocketAddr>,
    /// It came from outside through that service, by this interface, whose own host endpoint judged it too.
    pub uplink: Option<IfaceName>,
    /// What people call its state.
    pub state: &'static str,
    /// It was refused, and what it sends is dropped.
    pub is_refused: bool,
    /// Nothing is let pass by it any more, or only what ends it.
    pub is_over: bool,
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

/// Those of pods and of host endpoints that are there; `endpoints` are the slots of the revision in force.
pub(crate) fn flows(
    entries: &[(FlowKey, ConntrackEntry)],
    names: &Names,
    endpoints: &BTreeMap<u32, Endpoint>,
) -> Vec<TrackedFlow> {
    let hits: BTreeMap<u32, &Hit> = names.hits.iter().map(|(hit, id)| (*id, &**hit)).collect();
    let zones: BTreeMap<[u8; 3], (&IfaceName, u32)> =
        names.hosts.iter().map(|(name, slot)| (zone_of(*slot), (name, *slot))).collect();
    let own = endpoints.get(&SLOT_HOST).map(|node| node.layers.uplink);
    let uplink = names.hosts.iter().find(|(_, slot)| Some(**slot) == own).map(|(name, _)| name);
    let of = |(key, entry): &(FlowKey, ConntrackEntry)| {
        let gate = match key.zone {
            [0, 0, 0] => None,
            zone => Some(gate(zones.get(&zone)?, entry, endpoints)?),
        };
        let from_outside = gate.is_none() && is_from_outside(key, entry);
        Some(TrackedFlow { uplink: uplink.filter(|_| from_outside).cloned(), ..flow(key, entry, gate, &hits) })
    };
    // What only leads to a flow is none, and one that another proxy translates is judged as the flow it becomes.
    entries
        .iter()
        .filter(|(_, entry)| !matches!(entry.nat_kind, NAT_LEADS | NAT_RETURNS | NAT_BY_HOST))
        .filter_map(of)
        .collect()
}

/// Nobody here opened it.
fn is_from_outside(key: &FlowKey, entry: &ConntrackEntry) -> bool {
    let opener = if entry.flags & CT_HIGH_OPENED == 0 { entry.low_slot } else { entry.high_slot };
    key.zone == [0; 3] && entry.nat_kind == NAT_TRANSLATED && opener == SLOT_NONE
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
    let last = match near == *local {
        _ if entry.nat_kind == NAT_AHEAD => HostLayer::PreDnat,
        true => HostLayer::Local,
        false => HostLayer::Forward,
    };
    Some(Gate { interface: (*interface).clone(), direction, last })
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
        masked: mask_of(entry),
        uplink: None,
        state: state_of(entry),
        is_refused: entry.flags & CT_REFUSED != 0,
        is_over: entry.flags & (CT_REFUSED | CT_RESET) != 0 || is_closed(entry.state),
        is_hosts_own: entry.flags & CT_HOST_OPENED != 0,
        generation: entry.stamp,
        by: [by(entry.egress_hit), by(entry.ingress_hit)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Address;
    use abi::conntrack::{
        CT_LOW_RST, STATE_ANSWERED, STATE_CLOSED, STATE_ESTABLISHED, STATE_MIDWAY, STATE_NEW, STATE_TIME_WAIT,
    };

    fn address(last: u8) -> Address {
        Address::from_bytes(std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets())
    }

    #[test]
    fn a_flow_is_over_once_both_ends_have_closed_it_or_one_has_reset_it() {
        let is_over = |state, flags| {
            let entry = ConntrackEntry { state, flags, ..ConntrackEntry::default() };
            flows(&[(FlowKey::default(), entry)], &Names::default(), &BTreeMap::new())[0].is_over
        };
        let goes_on = [STATE_NEW, STATE_ANSWERED, STATE_ESTABLISHED, STATE_MIDWAY].map(|state| is_over(state, 0));
        assert_eq!(goes_on, [false; 4]);
        assert!(is_over(STATE_CLOSED, 0) && is_over(STATE_TIME_WAIT, 0) && is_over(STATE_ESTABLISHED, CT_LOW_RST));
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
        for (low_slot, high_slot, direction, last, nat_kind) in [
            (0, 3, Direction::Egress, HostLayer::Local, 0),
            (3, 0, Direction::Ingress, HostLayer::Local, 0),
            (0, 4, Direction::Egress, HostLayer::Forward, 0),
            (4, 0, Direction::Ingress, HostLayer::Forward, 0),
            (3, 0, Direction::Ingress, HostLayer::PreDnat, NAT_AHEAD),
        ] {
            let entry = ConntrackEntry { low_slot, high_slot, nat_kind, ..entry };
            let found = flows(&[at(3, entry)], &names, &endpoints);
            let gate = Gate { interface: IfaceName("eth0".into()), direction, last };
            assert_eq!(found[0].gate, Some(gate));
        }
        // Through a service from outside: the uplink's own host endpoint judged it, if there is one.
        let mut endpoints = endpoints;
        let led = ConntrackEntry { low_slot: 5, nat_kind: NAT_TRANSLATED, ..entry };
        let by = |entry, endpoints: &_| flows(&[(key, entry)], &names, endpoints)[0].uplink.clone();
        assert_eq!(by(led, &endpoints), None);
        let layers = abi::Layers { uplink: 3, ..abi::Layers::default() };
        endpoints.insert(SLOT_HOST, Endpoint { layers, ..Endpoint::default() });
        assert_eq!(by(led, &endpoints), Some(IfaceName("eth0".into())));
        assert_eq!(by(ConntrackEntry { high_slot: 5, ..led }, &endpoints), None, "a pod's");
        assert_eq!(by(ConntrackEntry { nat_kind: 0, ..led }, &endpoints), None, "through no service");
        assert_eq!(flows(&[at(3, ConntrackEntry { low_slot: 9, ..entry })], &names, &endpoints), []);
    }
}
