//! The cast of the upstream suite: namespaces x, y, z with pods a, b, c, each serving 80 and 81 over TCP, UDP and SCTP.
//! In: policies as a test writes them. Out: who may talk to whom.
//! Invariant: every question is asked of the evaluator and of the rows, in both families, and all agree.
//! Never: converts manifests; drafts say what converters make of them.

use crate::{Endpoint, Flow, Outcome, Verdict, View, compiled::Compiled, evaluate};
use model::{
    Action, Cidr, EntityMatch, Labels, Layer, NamedPort, Order, PodId, Policy, PolicyId, PolicyKind, PolicyTypes,
    PortMatch, PortRange, Protocol, Rule, Selector, TierName,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: Protocol = Protocol::TCP;
pub const UDP: Protocol = Protocol::UDP;
pub const SCTP: Protocol = Protocol::SCTP;
pub const HOST: &str = "192.168.7.1";
pub const STRANGER: &str = "203.0.113.7";
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

pub struct Cast(pub View);

impl Cast {
    pub fn new(policies: impl IntoIterator<Item = Draft>) -> Self {
        let namespaces = NAMESPACES.map(|name| (name.into(), labels(&[("ns", name), (NAMESPACE_NAME, name)])));
        let pods = NAMESPACES.into_iter().flat_map(|namespace| PODS.map(|pod| actor(namespace, pod)));
        let policies = policies.into_iter().map(|draft| draft.0).collect();
        let host = vec![cidr("192.168.7.1/32"), cidr("fd07::1/128")];
        Self(View { namespaces: namespaces.into(), endpoints: pods.collect(), policies, host, ..View::default() })
    }

    pub fn pod(&mut self, name: &str) -> &mut Endpoint {
        let named = |pod: &&mut Endpoint| pod.id.to_string() == name;
        self.0.endpoints.iter_mut().find(named).expect("because the test names a pod of the cast")
    }

    /// The answer for two addresses.
    pub fn outcome(&self, source: IpAddr, destination: IpAddr, protocol: Protocol, detail: u16) -> Outcome {
        let source_port = if protocol.has_ports() { 40_000 } else { 0 };
        self.outcome_of(&Flow { source, destination, protocol, detail, source_port })
    }

    /// The answer for a flow.
    pub fn outcome_of(&self, flow: &Flow) -> Outcome {
        let said = evaluate(&self.0, flow);
        assert_eq!(said, Compiled::of(&self.0).outcome(flow), "evaluator and rows differ on {flow:?}");
        said
    }

    /// `from` opening TCP 80 to `to`, as its first packet.
    pub fn flow(from: &str, to: &str) -> Flow {
        let pair = [0, 1].into_iter().find_map(|at| Some((ends(from)[at]?, ends(to)[at]?)));
        let (source, destination) = pair.expect("because both ends have a family in common");
        Flow { source, destination, protocol: TCP, detail: 80, source_port: 40_000 }
    }

    /// Whether `from` may send this to `to`: each `namespace/pod` or an address.
    pub fn lets(&self, from: &str, to: &str, protocol: Protocol, port: u16) -> bool {
        self.lets_from(from, 40_000, to, protocol, port)
    }

    /// The same, from this source port.
    pub fn lets_from(&self, from: &str, source_port: u16, to: &str, protocol: Protocol, detail: u16) -> bool {
        let both = |at: usize| Some((ends(from)[at]?, ends(to)[at]?));
        let asked = |(source, destination)| {
            self.outcome_of(&Flow { source, destination, protocol, detail, source_port }).verdict()
        };
        let verdicts: Vec<_> = [0, 1].into_iter().filter_map(both).map(asked).collect();
        assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]), "{from} to {to}: the families differ");
        verdicts[0] == Verdict::Allow
    }

    /// What decides at the receiver's end, for `from` opening TCP 80 to `to`.
    pub fn says(&self, from: &str, to: &str) -> String {
        let pair = [0, 1].into_iter().find_map(|at| Some((ends(from)[at]?, ends(to)[at]?)));
        let (from, to) = pair.expect("because both ends have a family in common");
        self.outcome(from, to, TCP, 80).ingress.expect("because the receiver is asked").to_string()
    }

    /// Who of all nine pods may open TCP 80 to `to`, as `"x/a x/b"`. A pod to itself is left out (NP-H2).
    pub fn reach(&self, to: &str) -> String {
        let names = everybody().filter(|from| from != to && self.lets(from, to, TCP, 80));
        names.collect::<Vec<_>>().join(" ")
    }

    /// Whom of all nine pods `from` may open TCP 80 to.
    pub fn reached_by(&self, from: &str) -> String {
        let names = everybody().filter(|to| to != from && self.lets(from, to, TCP, 80));
        names.collect::<Vec<_>>().join(" ")
    }
}

pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub fn everybody() -> impl Iterator<Item = String> {
    NAMESPACES.into_iter().flat_map(|namespace| PODS.map(|pod| format!("{namespace}/{pod}")))
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().expect("because the test writes a network")
}

fn actor(namespace: &str, pod: &str) -> Endpoint {
    let port = |protocol: Protocol, port: u16| {
        let name = format!("serve-{port}-{}", protocol.to_string().to_lowercase());
        NamedPort { name: name.as_str().into(), protocol, port }
    };
    let ports = [TCP, UDP, SCTP].into_iter().flat_map(|protocol| [port(protocol, 80), port(protocol, 81)]);
    Endpoint {
        id: PodId::new(namespace, pod),
        labels: labels(&[("pod", pod)]),
        service_account: Some("default".into()),
        addresses: vec![v4(namespace, pod).into(), v6(namespace, pod).into()],
        ports: Some(ports.collect()),
        profiles: None,
    }
}

fn place(names: [&str; 3], name: &str) -> u8 {
    1 + names.iter().position(|known| *known == name).expect("because the test names one of the cast") as u8
}

fn v4(namespace: &str, pod: &str) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, place(NAMESPACES, namespace), place(PODS, pod))
}

fn v6(namespace: &str, pod: &str) -> Ipv6Addr {
    let [_, _, third, fourth] = v4(namespace, pod).octets();
    Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, third.into(), fourth.into())
}

fn ends(name: &str) -> [Option<IpAddr>; 2] {
    match name.split_once('/') {
        Some((namespace, pod)) => [Some(v4(namespace, pod).into()), Some(v6(namespace, pod).into())],
        None => match name.parse().expect("because the test writes an address") {
            address @ IpAddr::V4(_) => [Some(address), None],
            address @ IpAddr::V6(_) => [None, Some(address)],
        },
    }
}

/// The pod's network of one address, in its own family.
pub fn block(name: &str) -> [Cidr; 2] {
    ends(name).map(|address| Cidr::host(address.expect("because pods have both families")))
}

/// A policy being written.
#[derive(Clone)]
pub struct Draft(pub Policy);

/// A policy for all pods of the namespace; isolates nothing yet.
pub fn policy(namespace: &str, name: &str) -> Draft {
    let id = PolicyId { name: name.into(), namespace: namespace.into(), kind: PolicyKind::KubernetesNetworkPolicy };
    let types = PolicyTypes { ingress: false, egress: false };
    Draft(Policy {
        subject: pods_of(Selector::in_namespace(&id.namespace), Selector::All).into(),
        id,
        tier: TierName::DEFAULT.into(),
        order: Order::KUBERNETES,
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        types,
        ingress: [].into(),
        egress: [].into(),
    })
}

/// A Calico policy for all pods, in a tier; asked in no direction yet.
pub fn global(tier: &str, name: &str) -> Draft {
    let id = PolicyId { name: name.into(), namespace: "".into(), kind: PolicyKind::GlobalNetworkPolicy };
    let types = PolicyTypes { ingress: false, egress: false };
    let (order, tier) = (Order::Unset, tier.into());
    Draft(Policy {
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        subject: Selector::pods().into(),
        id,
        tier,
        order,
        types,
        ingress: [].into(),
        egress: [].into(),
    })
}

/// Calico's grammar.
pub fn written(selector: &str) -> Selector {
    selector.parse().expect("because the test writes a selector")
}

/// A rule of Calico's for everything; tests narrow it with `..`.
pub fn does(action: Action) -> Rule {
    Rule::new(0, action)
}

/// One end of a rule: what this selector finds.
pub fn end(selector: &str) -> EntityMatch {
    EntityMatch { selector: Some(written(selector).into()), ..EntityMatch::default() }
}

/// One end of a rule: these networks.
pub fn end_nets(nets: &[&str], not_nets: &[&str]) -> EntityMatch {
    let all = |nets: &[&str]| nets.iter().map(|net| cidr(net)).collect::<Box<[_]>>();
    let given = Some(all(nets)).filter(|nets| !nets.is_empty());
    EntityMatch { nets: given, not_nets: all(not_nets), ..EntityMatch::default() }
}

/// The other end of a rule: these ports.
pub fn end_ports(ports: &[(u16, u16)], not_ports: &[(u16, u16)]) -> EntityMatch {
    let range = |(first, last): &(u16, u16)| PortRange::new(*first, *last).expect("because the test writes a range");
    let all = |ports: &[(u16, u16)]| ports.iter().map(|port| PortMatch::Range(range(port))).collect::<Box<[_]>>();
    let given = Some(all(ports)).filter(|ports| !ports.is_empty());
    EntityMatch { ports: given, not_ports: all(not_ports), ..EntityMatch::default() }
}

/// Numbered by their places.
fn placed<const N: usize>(rules: [Rule; N]) -> Box<[Rule]> {
    rules.into_iter().enumerate().map(|(place, rule)| Rule { place: place as u16, ..rule }).collect()
}

impl Draft {
    pub fn at(mut self, order: f64) -> Self {
        self.0.order = Order::At(order);
        self
    }

    pub fn selecting(mut self, selector: &str) -> Self {
        self.0.subject = written(selector).into();
        self
    }

    pub fn into<const N: usize>(mut self, rules: [Rule; N]) -> Self {
        self.0.types.ingress = true;
        self.0.ingress = placed(rules);
        self
    }

    pub fn out<const N: usize>(mut self, rules: [Rule; N]) -> Self {
        self.0.types.egress = true;
        self.0.egress = placed(rules);
        self
    }

    pub fn of(mut self, pods: Selector) -> Self {
        self.0.subject = pods_of(Selector::in_namespace(&self.0.id.namespace), pods).into();
        self
    }

    pub fn ingress<const N: usize>(mut self, written: [Allow; N]) -> Self {
        self.0.types.ingress = true;
        self.0.ingress = rules(written, |peer, ports| (peer, EntityMatch { ports, ..EntityMatch::default() }));
        self
    }

    pub fn egress<const N: usize>(mut self, written: [Allow; N]) -> Self {
        self.0.types.egress = true;
        self.0.egress = rules(written, |peer, ports| (EntityMatch::default(), EntityMatch { ports, ..peer }));
        self
    }
}

/// A rule as Kubernetes writes it: lists of peers and ports.
#[derive(Clone, Default)]
pub struct Allow {
    peers: Vec<EntityMatch>,
    ports: Vec<(Protocol, Option<PortMatch>)>,
}

/// `{}`: everything.
pub fn all() -> Allow {
    Allow::default()
}

/// Only these peers, joined by OR.
pub fn peers<const N: usize>(peers: [EntityMatch; N]) -> Allow {
    Allow { peers: peers.into(), ports: vec![] }
}

impl Allow {
    pub fn port(self, protocol: Protocol, port: u16) -> Self {
        self.range(protocol, port, port)
    }

    pub fn range(mut self, protocol: Protocol, first: u16, last: u16) -> Self {
        let range = PortRange::new(first, last).expect("because the test writes a range");
        self.ports.push((protocol, Some(PortMatch::Range(range))));
        self
    }

    pub fn named(mut self, protocol: Protocol, name: &str) -> Self {
        self.ports.push((protocol, Some(PortMatch::Named(name.into()))));
        self
    }

    pub fn any_port(mut self, protocol: Protocol) -> Self {
        self.ports.push((protocol, None));
        self
    }
}

/// One rule for each peer and port entry, all of one place. `ends` puts a peer and ports where they belong.
fn rules<const N: usize>(
    written: [Allow; N],
    ends: impl Fn(EntityMatch, Option<Box<[PortMatch]>>) -> (EntityMatch, EntityMatch),
) -> Box<[Rule]> {
    let one = |place: usize, peer: &EntityMatch, port: Option<&(Protocol, Option<PortMatch>)>| {
        let ports = port.and_then(|(_, port)| port.clone()).map(|port| [port].into());
        let (source, destination) = ends(peer.clone(), ports);
        let protocol = port.map(|(protocol, _)| *protocol);
        Rule { protocol, source, destination, ..Rule::new(place as u16, Action::Allow) }
    };
    let mut rules = Vec::new();
    for (place, Allow { peers, ports }) in written.into_iter().enumerate() {
        for peer in if peers.is_empty() { vec![EntityMatch::default()] } else { peers } {
            match &ports[..] {
                [] => rules.push(one(place, &peer, None)),
                ports => rules.extend(ports.iter().map(|port| one(place, &peer, Some(port)))),
            }
        }
    }
    rules.into()
}

/// Pods of the policy's own namespace `own`.
pub fn pods(own: &str, pods: Selector) -> EntityMatch {
    selector(Selector::in_namespace(&own.into()), pods)
}

/// All pods of namespaces.
pub fn namespaces(namespaces: Selector) -> EntityMatch {
    selector(namespaces.of_namespaces(), Selector::All)
}

/// Pods of namespaces.
pub fn both(namespaces: Selector, pods: Selector) -> EntityMatch {
    selector(namespaces.of_namespaces(), pods)
}

fn selector(namespaces: Selector, pods: Selector) -> EntityMatch {
    EntityMatch { selector: Some(pods_of(namespaces, pods).into()), ..EntityMatch::default() }
}

fn pods_of(namespaces: Selector, pods: Selector) -> Selector {
    Selector::all_of(vec![Selector::pods(), namespaces, pods])
}

pub fn ip_block(nets: &[Cidr], not_nets: &[Cidr]) -> EntityMatch {
    EntityMatch { nets: Some(nets.into()), not_nets: not_nets.into(), ..EntityMatch::default() }
}

pub fn is(key: &str, value: &str) -> Selector {
    Selector::Equals(key.into(), value.into())
}

pub fn within(key: &str, values: &[&str]) -> Selector {
    Selector::In(key.into(), values.iter().map(|value| (*value).to_owned()).collect())
}

pub fn outside(key: &str, values: &[&str]) -> Selector {
    Selector::NotIn(key.into(), values.iter().map(|value| (*value).to_owned()).collect())
}
