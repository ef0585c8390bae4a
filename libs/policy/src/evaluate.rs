//! The reference evaluator: what Kubernetes says a NetworkPolicy means, said as slowly and plainly as possible.
//! In: everything known of the endpoints, the policies as written, and one flow. Out: both ends' judgements.
//! Invariant: reads policies, labels and addresses only; the specification that compiler and kernel are held against.
//! Never: uses rule sets, classes, rows or anything of the compiler.

use crate::{Decider, Verdict};
use model::{
    Action, Cidr, Direction, Labels, NamedPort, NamespaceName, PeerMatch, PeerSelector, PodId, Policy, PortMatch,
    Protocol, Rule,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A pod as a policy sees it. Host-network and finished pods are not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod.
    pub id: PodId,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// All that policies can refer to.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Namespaces and their labels.
    pub namespaces: BTreeMap<NamespaceName, Labels>,
    /// Pods with addresses.
    pub endpoints: Vec<Endpoint>,
    /// Policies, in any order.
    pub policies: Vec<Policy>,
    /// Addresses of this node: traffic from them to a local pod is always let in (NP-52).
    pub host: Vec<Cidr>,
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port; for ICMP `type << 8 | code`; 0 for protocols without ports.
    pub detail: u16,
}

/// One end's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Yes or no.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
}

/// Both ends' answers; `None` where that end is no pod, or is let in as this node's own traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The source pod's egress policy.
    pub egress: Option<Judgement>,
    /// The destination pod's ingress policy; not asked where egress refuses.
    pub ingress: Option<Judgement>,
}

impl Outcome {
    /// The flow passes only where nobody refuses it (NP-28).
    pub fn verdict(&self) -> Verdict {
        let refused = [&self.egress, &self.ingress].into_iter().flatten().any(|end| end.verdict == Verdict::Deny);
        if refused { Verdict::Deny } else { Verdict::Allow }
    }
}

/// Judges a flow.
#[must_use]
pub fn evaluate(view: &View, flow: &Flow) -> Outcome {
    let source = view.pod_at(flow.source);
    let destination = view.pod_at(flow.destination);
    let from_this_node = view.host.iter().any(|net| net.contains(flow.source));

    let egress = source.map(|subject| {
        let peer = Peer { address: flow.destination, pod: destination };
        view.judge(subject, Direction::Egress, &Packet { flow, peer, destination })
    });
    let refused = egress.as_ref().is_some_and(|judgement| judgement.verdict == Verdict::Deny);
    let ingress = destination.filter(|_| !refused && !from_this_node).map(|subject| {
        let peer = Peer { address: flow.source, pod: source };
        view.judge(subject, Direction::Ingress, &Packet { flow, peer, destination })
    });
    Outcome { egress, ingress }
}

/// A flow as one of its ends sees it.
struct Packet<'a> {
    flow: &'a Flow,
    /// The end that the rules of the subject speak of.
    peer: Peer<'a>,
    /// The pod whose ports are meant: port names are those of the destination in both directions (NP-19).
    destination: Option<&'a Endpoint>,
}

struct Peer<'a> {
    address: IpAddr,
    pod: Option<&'a Endpoint>,
}

impl View {
    fn pod_at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&address))
    }

    /// A pod that no policy selects is not isolated. One that is selected may do only what a rule allows.
    fn judge(&self, subject: &Endpoint, direction: Direction, packet: &Packet) -> Judgement {
        let policies = self.policies_of(subject, direction);
        if policies.is_empty() {
            return Judgement { verdict: Verdict::Allow, decider: Decider::NoPolicy(direction) };
        }
        for policy in &policies {
            for rule in policy.rules(direction) {
                if self.rule_matches(rule, packet) {
                    let decider = Decider::Rule { policy: policy.id.clone(), direction, place: rule.place };
                    return Judgement { verdict: rule.action.into(), decider };
                }
            }
        }
        let policies = policies.iter().map(|policy| policy.id.clone()).collect();
        Judgement { verdict: Verdict::Deny, decider: Decider::Isolated { direction, policies } }
    }

    /// The policies that isolate the pod in this direction, in the order they are asked.
    fn policies_of(&self, subject: &Endpoint, direction: Direction) -> Vec<&Policy> {
        let isolates = |policy: &&Policy| policy.applies(direction) && self.selects(&policy.subject, subject);
        let mut policies: Vec<_> = self.policies.iter().filter(isolates).collect();
        policies.sort_by_key(|policy| (policy.order, &policy.id));
        policies
    }

    fn selects(&self, selector: &PeerSelector, pod: &Endpoint) -> bool {
        selector.matches(&pod.id.namespace, self.namespaces.get(&pod.id.namespace), &pod.labels)
    }

    /// Protocol, ports and peer are joined by AND; what a rule could not say is read against the traffic.
    fn rule_matches(&self, rule: &Rule, packet: &Packet) -> bool {
        if rule.unreadable.is_some() {
            return rule.action == Action::Deny;
        }
        rule.protocol.is_none_or(|protocol| protocol == packet.flow.protocol)
            && ports_match(&rule.ports, packet)
            && self.peer_matches(&rule.peer, &packet.peer)
    }

    /// A pod peer must match the selector, an address the networks; an exception only takes out of this peer (NP-36).
    fn peer_matches(&self, wanted: &PeerMatch, peer: &Peer) -> bool {
        let among = |nets: &[Cidr]| nets.iter().any(|net| net.contains(peer.address));
        wanted.selector.as_ref().is_none_or(|selector| peer.pod.is_some_and(|pod| self.selects(selector, pod)))
            && (wanted.nets.is_empty() || among(&wanted.nets))
            && !among(&wanted.not_nets)
    }
}

/// No ports: every packet. Else the entries are joined by OR, and a packet without ports matches none (NP-63).
fn ports_match(ports: &[PortMatch], packet: &Packet) -> bool {
    ports.is_empty() || (packet.flow.protocol.has_ports() && ports.iter().any(|port| port_matches(port, packet)))
}

/// A name means the ports that the destination calls so with the packet's protocol (NP-67, NP-68).
fn port_matches(port: &PortMatch, packet: &Packet) -> bool {
    let Flow { protocol, detail, .. } = *packet.flow;
    match port {
        PortMatch::Range(range) => (range.first()..=range.last()).contains(&detail),
        PortMatch::Named(name) => packet.destination.is_some_and(|pod| {
            pod.ports.iter().any(|own| own.name == *name && own.protocol == protocol && own.port == detail)
        }),
    }
}
