//! Random flows through a random world.
//! In: the world. Out: first packets between its pods, this node and strangers.
//! Invariant: a flow is one that a packet can have; ports are often those that a rule or a pod names, or their neighbours.
//! Never: a flow of two families.

use super::{Dice, ESP, HOST_V4, HOST_V6, IGMP, PORTS, UDPLITE, strangers};
use crate::{Flow, View};
use model::{Direction, PortMatch, Protocol, Rule};
use std::net::IpAddr;

impl Dice {
    pub(super) fn flow(&mut self, view: &View) -> Flow {
        let v4 = !self.once_in(3);
        let protocol = self.protocol(v4);
        let (source, destination) = (self.end(view, v4), self.end(view, v4));
        let detail = self.detail(view, protocol, if v4 { Protocol::ICMP } else { Protocol::ICMPV6 });
        let source_port = if protocol.has_ports() { self.port_near(view) } else { 0 };
        Flow { source, destination, protocol, detail, source_port }
    }

    fn end(&mut self, view: &View, v4: bool) -> IpAddr {
        let addresses = view.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let pods: Vec<_> = addresses.copied().filter(|address| address.is_ipv4() == v4).collect();
        match self.below(8) {
            0 if v4 => HOST_V4.into(),
            0 => HOST_V6.into(),
            1 | 2 => self.pick(&strangers(v4)),
            _ if pods.is_empty() => self.pick(&strangers(v4)),
            _ => self.pick(&pods),
        }
    }

    fn protocol(&mut self, v4: bool) -> Protocol {
        let icmp = if v4 { Protocol::ICMP } else { Protocol::ICMPV6 };
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        self.pick(&[tcp, tcp, tcp, udp, udp, Protocol::SCTP, UDPLITE, icmp, icmp, ESP, IGMP, Protocol::ICMP])
    }

    /// The other family's ICMP is a protocol without details, as programs see it.
    fn detail(&mut self, view: &View, protocol: Protocol, icmp: Protocol) -> u16 {
        if protocol == icmp {
            return self.pick(&[0, 0x0301, 0x0800, 0x8000, 0x8001]);
        }
        if protocol.has_ports() { self.port_near(view) } else { 0 }
    }

    /// Often a port that a policy or a pod of the view names, or its neighbour.
    fn port_near(&mut self, view: &View) -> u16 {
        let named =
            view.endpoints.iter().filter_map(|endpoint| endpoint.ports.as_ref()).flatten().map(|port| port.port);
        let ports: Vec<_> = written_ports(view).into_iter().chain(named).chain(PORTS).collect();
        let port = self.pick(&ports);
        self.pick(&[port, port, port.wrapping_add(1), port.wrapping_sub(1)])
    }
}

fn written_ports(view: &View) -> Vec<u16> {
    let directions = [Direction::Ingress, Direction::Egress];
    let rules = view.policies.iter().flat_map(|policy| directions.into_iter().flat_map(|to| policy.rules(to)));
    let ends = |port: &PortMatch| match port {
        PortMatch::Range(range) => vec![range.first(), range.last()],
        PortMatch::Named(_) => Vec::new(),
    };
    rules.flat_map(ports_of).flat_map(ends).collect()
}

fn ports_of(rule: &Rule) -> impl Iterator<Item = &PortMatch> {
    [&rule.source, &rule.destination].into_iter().flat_map(|end| end.ports.iter().flatten().chain(&end.not_ports))
}
