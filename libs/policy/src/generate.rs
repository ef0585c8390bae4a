//! Random worlds for differential tests: small enough that rules, pods and flows meet often.
//! In: a seed. Out: a [`Case`], the same one for the same seed.
//! Invariant: every value is one that converters can make, and each shape of rule comes up often.
//! Never: judges, or knows how rules are compiled.

use crate::{Endpoint, Flow, View};
use model::{
    Action, Cidr, Direction, Labels, NamedPort, NamespaceMatch, NamespaceName, Order, PeerMatch, PeerSelector, PodId,
    Policy, PolicyId, PolicyKind, PolicyTypes, PortMatch, PortRange, Protocol, Rule, Selector,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const LABEL_KEYS: [&str; 2] = ["app", "tier"];
const LABEL_VALUES: [&str; 3] = ["a", "b", "c"];
const PORT_NAMES: [&str; 3] = ["web", "db", "dns"];
const PORTS: [u16; 8] = [0, 53, 79, 80, 81, 84, 85, u16::MAX];
const UDPLITE: Protocol = Protocol(136);
const ESP: Protocol = Protocol(50);
const IGMP: Protocol = Protocol(2);
const FLOWS: usize = 40;

/// A world and flows through it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The world.
    pub view: View,
    /// First packets, each of one family; pods, this node and strangers on either end.
    pub flows: Vec<Flow>,
}

impl Case {
    /// The case of this seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let endpoints: Vec<_> = (0..2 + dice.below(5)).map(|number| dice.endpoint(number as u8)).collect();
        let policies = (0..dice.below(6)).map(|number| dice.policy(number)).collect();
        let host = vec![Cidr::host(HOST_V4.into()), Cidr::host(HOST_V6.into())];
        let view = View { namespaces: dice.namespaces(), endpoints, policies, host };
        let flows = (0..FLOWS).map(|_| dice.flow(&view)).collect();
        Self { view, flows }
    }
}

const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);

fn pod_v4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 65, 0, 2 + number).into()
}

fn pod_v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2 + u16::from(number)).into()
}

/// Addresses of no pod: one inside the pods' networks, two outside.
fn strangers(v4: bool) -> [IpAddr; 3] {
    if v4 {
        [[10, 65, 0, 14], [10, 65, 1, 9], [203, 0, 113, 7]].map(|bytes| Ipv4Addr::from(bytes).into())
    } else {
        let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into();
        [pod_v6(12), Ipv6Addr::new(0xfd65, 1, 0, 0, 0, 0, 0, 9).into(), far]
    }
}

/// A random source: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// The cluster.
impl Dice {
    /// One of them is now and then not known yet.
    fn namespaces(&mut self) -> BTreeMap<NamespaceName, Labels> {
        let unknown = self.below(4 * NAMESPACES.len());
        let known = NAMESPACES.iter().enumerate().filter(|(number, _)| *number != unknown);
        known.map(|(_, name)| (NamespaceName::from(*name), self.namespace_labels(name))).collect()
    }

    fn namespace_labels(&mut self, name: &str) -> Labels {
        let mut labels = self.labels();
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
        labels
    }

    fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        for key in LABEL_KEYS {
            if !self.once_in(3) {
                labels.insert(key.into(), self.pick(&LABEL_VALUES).into());
            }
        }
        labels
    }

    fn endpoint(&mut self, number: u8) -> Endpoint {
        let addresses = match self.below(4) {
            0 => vec![pod_v4(number)],
            _ => vec![pod_v4(number), pod_v6(number)],
        };
        let ports = (0..self.below(4)).map(|_| self.named_port()).collect();
        let id = PodId::new(self.pick(&NAMESPACES), &format!("p{number}"));
        Endpoint { id, labels: self.labels(), addresses, ports }
    }

    fn named_port(&mut self) -> NamedPort {
        let name = self.pick(&PORT_NAMES).into();
        NamedPort { name, protocol: self.pick(&Protocol::WITH_PORTS), port: self.pick(&PORTS) }
    }
}

/// Policies.
impl Dice {
    fn policy(&mut self, number: usize) -> Policy {
        let types = self.pick(&[(true, false), (false, true), (true, true)]);
        let namespace: NamespaceName = self.pick(&NAMESPACES).into();
        let kind = PolicyKind::KubernetesNetworkPolicy;
        Policy {
            id: PolicyId { name: format!("policy-{number}"), namespace: namespace.clone(), kind },
            order: self.pick(&[Order::KUBERNETES, Order::KUBERNETES, Order::At(7), Order::Unset]),
            subject: PeerSelector { namespaces: NamespaceMatch::Named(namespace.clone()), pods: self.selector() },
            types: PolicyTypes { ingress: types.0, egress: types.1 },
            ingress: self.rules(&namespace),
            egress: self.rules(&namespace),
        }
    }

    fn rules(&mut self, namespace: &NamespaceName) -> Vec<Rule> {
        (0..self.below(5)).map(|place| self.rule(place as u16, namespace)).collect()
    }

    fn rule(&mut self, place: u16, namespace: &NamespaceName) -> Rule {
        let mut rule = Rule {
            place,
            action: if self.once_in(6) { Action::Deny } else { Action::Allow },
            protocol: None,
            ports: Vec::new(),
            peer: self.peer(namespace),
            unreadable: self.once_in(15).then(|| "a part of another world".into()),
        };
        match self.below(8) {
            0 | 1 => {}
            2 => rule.protocol = Some(self.pick(&[Protocol::ICMP, Protocol::ICMPV6, ESP, IGMP])),
            3 => rule.protocol = Some(self.pick(&Protocol::WITH_PORTS)),
            4 => rule.ports = self.ports(),
            _ => (rule.protocol, rule.ports) = (Some(self.pick(&Protocol::WITH_PORTS)), self.ports()),
        }
        rule
    }

    fn ports(&mut self) -> Vec<PortMatch> {
        (0..1 + self.below(3)).map(|_| self.port()).collect()
    }

    fn port(&mut self) -> PortMatch {
        if self.once_in(2) {
            return PortMatch::Named(self.pick(&PORT_NAMES).into());
        }
        let (one, other) = (self.pick(&PORTS), self.pick(&PORTS));
        let range = PortRange::new(one.min(other), one.max(other)).unwrap_or(PortRange::single(one));
        PortMatch::Range(if self.once_in(2) { PortRange::single(one) } else { range })
    }

    fn peer(&mut self, namespace: &NamespaceName) -> PeerMatch {
        match self.below(8) {
            0 => PeerMatch::default(),
            1..4 => PeerMatch { selector: Some(self.peer_selector(namespace)), ..PeerMatch::default() },
            4..7 => self.ip_block(),
            _ => PeerMatch { selector: Some(self.peer_selector(namespace)), ..self.ip_block() },
        }
    }

    fn peer_selector(&mut self, namespace: &NamespaceName) -> PeerSelector {
        let named = NamespaceMatch::Named(namespace.clone());
        let namespaces = if self.once_in(2) { named } else { NamespaceMatch::Labelled(self.selector()) };
        PeerSelector { namespaces, pods: self.selector() }
    }

    fn selector(&mut self) -> Selector {
        Selector::all_of((0..self.below(3)).map(|_| self.requirement()).collect())
    }

    fn requirement(&mut self) -> Selector {
        let key = self.pick(&["app", "tier", "kubernetes.io/metadata.name"]).to_owned();
        let (first, second) = (self.label_value(), self.label_value());
        match self.below(5) {
            0 => Selector::Equals(key, first),
            1 => Selector::In(key, [first, second].into()),
            2 => Selector::NotIn(key, [first, second].into()),
            3 => Selector::Has(key),
            _ => Selector::has_not(key),
        }
    }

    fn label_value(&mut self) -> String {
        self.pick(&["a", "b", "c", "x", "y"]).to_owned()
    }

    /// Exceptions often hit pods, and networks of both families may stand in one peer.
    fn ip_block(&mut self) -> PeerMatch {
        let nets = (0..1 + self.below(2)).map(|_| self.net()).collect();
        let not_nets = (0..self.below(3)).map(|_| self.net()).collect();
        PeerMatch { selector: None, nets, not_nets }
    }

    fn net(&mut self) -> Cidr {
        let v4 = self.once_in(2);
        let number = self.below(6) as u8;
        let address = match self.below(3) {
            0 => self.pick(&strangers(v4)),
            _ if v4 => pod_v4(number),
            _ => pod_v6(number),
        };
        let length = if v4 { self.pick(&[0, 8, 24, 30, 32, 32]) } else { self.pick(&[0, 16, 64, 126, 128, 128]) };
        Cidr::new(address, length).unwrap_or(Cidr::host(address))
    }
}

/// Flows.
impl Dice {
    fn flow(&mut self, view: &View) -> Flow {
        let v4 = !self.once_in(3);
        let protocol = self.protocol(v4);
        let (source, destination) = (self.end(view, v4), self.end(view, v4));
        Flow { source, destination, protocol, detail: self.detail(view, protocol) }
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

    /// Often a port that a policy or a pod of the view names, or its neighbour.
    fn detail(&mut self, view: &View, protocol: Protocol) -> u16 {
        if protocol == Protocol::ICMP || protocol == Protocol::ICMPV6 {
            return self.pick(&[0, 0x0301, 0x0800, 0x8000, 0x8001]);
        }
        if !protocol.has_ports() {
            return 0;
        }
        let named = view.endpoints.iter().flat_map(|endpoint| &endpoint.ports).map(|port| port.port);
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
    rules.flat_map(|rule| &rule.ports).flat_map(ends).collect()
}
