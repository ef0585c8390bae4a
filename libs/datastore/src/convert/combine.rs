//! Rules as Kubernetes writes them: a list of peers, and a list of protocols with ports.
//! In: both lists, as they were read. Out: a rule for each pair.
//! Invariant: a port is the destination's, in both directions.
//! Never: leaves out a pair.

use model::{Direction, EntityMatch, PortMatch, Protocol, Rule};

/// What a packet is for.
pub(super) struct Service {
    /// `None`: any protocol.
    pub(super) protocol: Option<Protocol>,
    /// `None`: any port, or none.
    pub(super) ports: Option<Box<[PortMatch]>>,
}

impl Service {
    /// Everything.
    pub(super) const ANY: Self = Self { protocol: None, ports: None };

    /// Whether only a pod can say which port is meant.
    pub(super) fn asks_name(&self) -> bool {
        self.ports.iter().flatten().any(|port| matches!(port, PortMatch::Named(_)))
    }
}

/// One rule for each peer and service, in everything else as `bare`.
pub(super) fn combine(bare: &Rule, direction: Direction, peers: &[EntityMatch], services: &[Service]) -> Vec<Rule> {
    let one = |peer: &EntityMatch, service: &Service| {
        let ports = service.ports.clone();
        let (source, destination) = match direction {
            Direction::Ingress => (peer.clone(), EntityMatch { ports, ..EntityMatch::default() }),
            Direction::Egress => (EntityMatch::default(), EntityMatch { ports, ..peer.clone() }),
        };
        Rule { protocol: service.protocol, source, destination, ..bare.clone() }
    };
    peers.iter().flat_map(|peer| services.iter().map(move |service| one(peer, service))).collect()
}
