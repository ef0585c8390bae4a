//! The reference evaluator: what Calico and Kubernetes say that policies mean, said as slowly and plainly as possible.
//! In: everything known of the endpoints, the policies as written, and one flow. Out: both ends' judgements.
//! Invariant: reads policies, labels and addresses only; the specification that compiler and kernel are held against.
//! Never: uses rule sets, classes, rows or anything of the compiler.

mod host;

pub use host::{AtHost, evaluate_at};

use crate::{Decider, Failsafes, Verdict};
use model::{
    Action, Cidr, Direction, EffectiveLabels, EndpointSlice, EntityMatch, Family, HostEndpoint, IcmpMatch, Labels,
    NamedPort, NamespaceName, NetworkSet, Node, Order, Parent, PodId, Policy, PortMatch, Profile, Protocol, Rule,
    Selector, ServiceId, Tier, TierEnd, TierName, Truth,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A pod as a policy sees it. Host-network and finished pods are not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod.
    pub id: PodId,
    /// Its labels.
    pub labels: Labels,
    /// The name of its service account; `None`: nobody has said.
    pub service_account: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports. `None`: nobody has described it.
    pub ports: Option<Vec<NamedPort>>,
    /// The profiles that it names, in order; `None`: its namespace's, implied unless an object gives it, and its account's.
    pub profiles: Option<Vec<String>>,
}

/// All that policies can refer to.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Namespaces and their labels.
    pub namespaces: BTreeMap<NamespaceName, Labels>,
    /// Service accounts and their labels.
    pub accounts: BTreeMap<(NamespaceName, String), Labels>,
    /// Nodes, their addresses and their labels.
    pub nodes: Vec<Node>,
    /// Pods with addresses.
    pub endpoints: Vec<Endpoint>,
    /// Network sets.
    pub network_sets: Vec<NetworkSet>,
    /// Host endpoints of any node.
    pub host_endpoints: Vec<HostEndpoint>,
    /// Endpoints of services.
    pub slices: Vec<EndpointSlice>,
    /// Tiers that objects describe, in any order.
    pub tiers: Vec<Tier>,
    /// Policies, in any order.
    pub policies: Vec<Policy>,
    /// Profiles that objects describe.
    pub profiles: Vec<Profile>,
    /// Ports that no policy of a host endpoint closes.
    pub failsafes: Failsafes,
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
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
}

/// One end's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Yes or no.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
    /// The Log rules that matched before, in order, each named as if it had decided.
    pub logs: Vec<Decider>,
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
    let from_this_node = view.host.iter().any(|net| net.contains(flow.source));
    let asked = |direction| view.seen(flow, direction).map(|packet| view.judge(&packet));

    let egress = asked(Direction::Egress);
    let refused = egress.as_ref().is_some_and(|judgement| judgement.verdict == Verdict::Deny);
    let ingress = if refused || from_this_node { None } else { asked(Direction::Ingress) };
    Outcome { egress, ingress }
}

/// A flow as one of its ends sees it.
pub(crate) struct Packet<'a> {
    pub(crate) flow: &'a Flow,
    /// Whose names source ports have, in both directions.
    source: Names<'a>,
    /// Whose names destination ports have, in both directions (NP-19).
    destination: Names<'a>,
    /// Who is judged.
    pub(crate) subject: Subject<'a>,
    pub(crate) direction: Direction,
}

/// Whose policies are asked.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    Pod(&'a Endpoint),
    Host(AtHost<'a>),
}

impl Subject<'_> {
    /// A staged policy is never asked (CAL-13), nor are workloads by what is for host endpoints alone (HEP-8, HEP-9).
    fn asks(self, policy: &Policy) -> bool {
        policy.stage.is_none()
            && match self {
                Self::Pod(_) => policy.judges_workloads(),
                Self::Host(at) => at.asks(policy),
            }
    }

    fn has_an_end(self) -> bool {
        match self {
            Self::Pod(_) => true,
            Self::Host(at) => at.has_an_end(),
        }
    }
}

/// Who has names for the ports at an address.
struct Names<'a> {
    pod: Option<&'a Endpoint>,
    /// Where it is no pod, the host endpoints that expect its address (CAL-25).
    hosts: Vec<&'a HostEndpoint>,
}

/// What a rule does with a packet.
enum Effect {
    /// Nothing; the next rule is asked.
    Next,
    /// The next rule is asked; what is decided in the end is written down.
    Log,
    /// The next tier is asked.
    Pass,
    Decide(Verdict),
}

/// Tiers, policies, rules and profiles, in the order they are asked.
impl View {
    /// A tier is asked only if a policy of it applies to the subject in this direction (CAL-2). After the last one the
    /// profiles are (CAL-3, CAL-4).
    fn judge(&self, packet: &Packet) -> Judgement {
        let tiers = self.tiers_of(packet);
        let mut logs = Vec::new();
        let decided = tiers.iter().find_map(|(tier, policies)| self.ask_tier(tier, policies, packet, &mut logs));
        let (verdict, decider) = decided.unwrap_or_else(|| self.ask_profiles(packet, tiers.is_empty(), &mut logs));
        Judgement { verdict, decider, logs }
    }

    /// A flow as its end that is judged in this direction sees it, if that end is a pod.
    pub(crate) fn seen<'a>(&'a self, flow: &'a Flow, direction: Direction) -> Option<Packet<'a>> {
        let (source, destination) = (self.names_at(flow.source), self.names_at(flow.destination));
        let pod = if direction == Direction::Egress { source.pod } else { destination.pod };
        Some(Packet { flow, source, destination, subject: Subject::Pod(pod?), direction })
    }

    /// `None`: the tier passes the packet on.
    fn ask_tier(
        &self,
        tier: &Tier,
        policies: &[&Policy],
        packet: &Packet,
        logs: &mut Vec<Decider>,
    ) -> Option<(Verdict, Decider)> {
        let direction = packet.direction;
        for policy in policies {
            for rule in policy.rules(direction) {
                let (tier, policy_id, place) = (tier.name.clone(), policy.id.clone(), rule.place);
                let decider = Decider::Rule { tier, policy: policy_id, direction, place };
                match self.effect(rule, self.selects(policy, packet.subject), packet) {
                    Effect::Next => {}
                    Effect::Log => note(logs, decider),
                    Effect::Pass => return None,
                    Effect::Decide(verdict) => return Some((verdict, decider)),
                }
            }
        }
        let policies = policies.iter().map(|policy| policy.id.clone()).collect();
        let decider = Decider::EndOfTier { tier: tier.name.clone(), direction, policies };
        (tier.end == TierEnd::Deny && packet.subject.has_an_end()).then_some((Verdict::Deny, decider))
    }

    /// `certainly`: whether the policy applies to the subject at all. What is not known counts against the traffic: an
    /// allow needs certainty, a refusal does not, and a pass that may or may not hold refuses (CNP-10).
    fn effect(&self, rule: &Rule, certainly: Truth, packet: &Packet) -> Effect {
        let matches = self.rule_matches(rule, packet).min(certainly);
        match rule.action {
            Action::Allow if matches.surely() => Effect::Decide(Verdict::Allow),
            Action::Deny if matches.possibly() => Effect::Decide(Verdict::Deny),
            Action::Pass if matches.surely() => Effect::Pass,
            Action::Pass if matches.possibly() => Effect::Decide(Verdict::Deny),
            // A log entry decides nothing (CAL-8).
            Action::Log if matches.surely() => Effect::Log,
            Action::Allow | Action::Deny | Action::Pass | Action::Log => Effect::Next,
        }
    }

    /// One that is not there denies what comes to it.
    fn ask_profiles(&self, packet: &Packet, no_policy: bool, logs: &mut Vec<Decider>) -> (Verdict, Decider) {
        let direction = packet.direction;
        let names = self.profiles_of(packet);
        let is_open = |name: &String| self.profile(name).is_none() && self.lets_through(name);
        if names.as_ref().is_none_or(|names| names.first().is_some_and(is_open)) {
            let decider = if no_policy { Decider::NoPolicy(direction) } else { Decider::AllPassed(direction) };
            return (Verdict::Allow, decider);
        }
        for name in names.unwrap_or_default() {
            let Some(rules) = self.rules_of(&name, direction) else { break };
            for rule in rules {
                let decider = Decider::Profile { profile: name.clone(), direction, place: rule.place };
                match self.effect(&rule, Truth::Yes, packet) {
                    Effect::Next => {}
                    Effect::Log => note(logs, decider),
                    // There is no further tier (felix/bpf/polprog, writeProfile).
                    Effect::Pass => return (Verdict::Deny, decider),
                    Effect::Decide(verdict) => return (verdict, decider),
                }
            }
        }
        (Verdict::Deny, Decider::NoProfile(direction))
    }

    /// The subject's profiles, in order: those that it names, or its namespace's and its account's that objects describe. `None`: its
    /// namespace's is implied.
    pub(crate) fn profiles_of(&self, packet: &Packet) -> Option<Vec<String>> {
        let Subject::Pod(Endpoint { id, service_account, profiles, .. }) = packet.subject else { return None };
        if profiles.is_some() {
            return profiles.clone();
        }
        let first = self.profile(&Profile::of_namespace(&id.namespace))?;
        let second = service_account.as_ref().and_then(|name| self.profile(&Profile::of_account(&id.namespace, name)));
        Some([first].into_iter().chain(second).map(|profile| profile.name.clone()).collect())
    }

    fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }

    /// The tiers that have policies for the subject in this direction, in order, each with those policies in order.
    pub(crate) fn tiers_of(&self, packet: &Packet) -> Vec<(Tier, Vec<&Policy>)> {
        let mut tiers: BTreeMap<(bool, Order, TierName), (Tier, Vec<&Policy>)> = BTreeMap::new();
        for policy in &self.policies {
            if packet.subject.asks(policy)
                && policy.applies(packet.direction)
                && self.selects(policy, packet.subject).possibly()
            {
                let (is_unknown, tier) = self.tier(&policy.tier);
                let place = (is_unknown, tier.order, tier.name.clone());
                tiers.entry(place).or_insert((tier, Vec::new())).1.push(policy);
            }
        }
        let mut tiers: Vec<_> = tiers.into_values().collect();
        for (_, policies) in &mut tiers {
            policies.sort_by_cached_key(|policy| (policy.order, policy.id.enforced()));
        }
        tiers
    }

    /// A tier that nobody made comes after all others and ends in deny (felix/calc/policy_sorter.go).
    fn tier(&self, name: &TierName) -> (bool, Tier) {
        let described = self.tiers.iter().find(|tier| tier.name == *name).cloned();
        let known = described.or_else(|| Tier::built_in().into_iter().find(|tier| tier.name == *name));
        match known {
            Some(tier) => (false, tier),
            None => (true, Tier { name: name.clone(), order: Order::Unset, end: TierEnd::Deny }),
        }
    }
}

/// Who is meant.
impl View {
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&address))
    }

    fn names_at(&self, address: IpAddr) -> Names<'_> {
        Names { pod: self.pod_at(address), hosts: self.hosts_at(address).collect() }
    }

    fn hosts_at(&self, address: IpAddr) -> impl Iterator<Item = &HostEndpoint> {
        self.host_endpoints.iter().filter(move |host| host.expected_ips.contains(&address))
    }

    fn selects(&self, policy: &Policy, subject: Subject) -> Truth {
        policy.subject.matches(&match subject {
            Subject::Pod(pod) => self.labels_of(pod),
            Subject::Host(at) => EffectiveLabels::host_endpoint(&at.host.labels),
        })
    }

    pub(crate) fn labels_of<'a>(&'a self, pod: &'a Endpoint) -> EffectiveLabels<'a> {
        let namespace = &pod.id.namespace;
        let account = pod.service_account.as_ref().map_or(Parent::Unknown, |name| Parent::Named {
            name,
            labels: self.accounts.get(&(namespace.clone(), name.clone())),
        });
        let own = || {
            let account = pod.service_account.as_ref().map(|name| Profile::of_account(namespace, name));
            [Profile::of_namespace(namespace)].into_iter().chain(account).collect()
        };
        let names = pod.profiles.clone().unwrap_or_else(own);
        EffectiveLabels::pod(&pod.labels, namespace, self.namespaces.get(namespace), account)
            .with_applied(names.iter().filter_map(|name| Some(&self.profile(name)?.labels)))
    }

    fn labels_of_set<'a>(&'a self, set: &'a NetworkSet) -> EffectiveLabels<'a> {
        match &set.id.namespace {
            Some(name) => EffectiveLabels::network_set(&set.labels, name, self.namespaces.get(name)),
            None => EffectiveLabels::global_network_set(&set.labels),
        }
    }

    /// Whether a pod that matches has the address, a network set that matches contains it, or a host endpoint that matches
    /// expects it: no other address of its interface counts.
    fn selected(&self, selector: &Selector, address: IpAddr) -> Truth {
        let pod = self.pod_at(address).map(|pod| selector.matches(&self.labels_of(pod)));
        let sets = self.network_sets.iter().filter(|set| contains(&set.nets, address));
        let sets = sets.map(|set| selector.matches(&self.labels_of_set(set)));
        let hosts = self.hosts_at(address).map(|host| selector.matches(&EffectiveLabels::host_endpoint(&host.labels)));
        Truth::any(pod.into_iter().chain(sets).chain(hosts))
    }

    fn is_node(&self, selector: &Selector, address: IpAddr) -> Truth {
        let nodes = self.nodes.iter().filter(|node| node.addresses.contains(&address));
        Truth::any(nodes.map(|node| selector.matches(&node.labels)))
    }
}

/// What a rule asks.
impl View {
    /// All tests are joined by AND (CAL-11). What a rule could not say is not known.
    pub(crate) fn rule_matches(&self, rule: &Rule, packet: &Packet) -> Truth {
        if rule.unreadable.is_some() {
            return Truth::Unknown;
        }
        let flow = packet.flow;
        let (source, destination) = (&rule.source, &rule.destination);
        let of_packet = rule.family.is_none_or(|family| family == Family::of(packet.flow.source))
            && rule.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && rule.not_protocol.is_none_or(|protocol| protocol != flow.protocol)
            && rule.icmp.is_none_or(|icmp| icmp_matches(icmp, flow))
            && rule.not_icmp.is_none_or(|icmp| !icmp_matches(icmp, flow));
        let (to, from) = (packet.ports_to(), packet.ports_from());
        let parts = [
            of_packet.into(),
            rule.service.as_ref().is_none_or(|service| self.serves(service, packet)).into(),
            destination.ports.as_ref().map_or(Truth::Yes, |ports| port_among(ports, to)),
            port_among(&destination.not_ports, to).negated(),
            source.ports.as_ref().map_or(Truth::Yes, |ports| port_among(ports, from)),
            port_among(&source.not_ports, from).negated(),
            self.entity_matches(source, flow.source),
            self.entity_matches(destination, flow.destination),
        ];
        Truth::all(parts.into_iter())
    }

    /// Whoever sends may be any endpoint of the service; what is sent must be for one of its ports too (CAL-36).
    fn serves(&self, service: &ServiceId, packet: &Packet) -> bool {
        let Flow { source, destination, protocol, detail, .. } = packet.flow;
        let mut slices = self.slices.iter().filter(|slice| slice.service.as_ref() == Some(service));
        let has = |slice: &EndpointSlice, end: &IpAddr| slice.addresses().any(|address| address == *end);
        match packet.direction {
            Direction::Ingress => slices.any(|slice| has(slice, source)),
            Direction::Egress => {
                let at = (*protocol, *detail);
                slices.any(|slice| has(slice, destination) && slice.numbers().any(|port| port == at))
            }
        }
    }

    /// Excepted networks only take out of this end, and only in the families they name (NP-36, CAL-27).
    fn entity_matches(&self, wanted: &EntityMatch, address: IpAddr) -> Truth {
        let of_family = |net: &Cidr| net.is_v4() == address.is_ipv4();
        let nets = wanted.nets.as_ref().is_none_or(|nets| contains(nets, address));
        let excepted = wanted.not_nets.is_empty() || wanted.not_nets.iter().any(of_family);
        let parts = [
            (nets && excepted && !contains(&wanted.not_nets, address)).into(),
            wanted.selector.as_ref().map_or(Truth::Yes, |selector| self.selected(selector, address)),
            wanted.not_selector.as_ref().map_or(Truth::Yes, |selector| self.selected(selector, address).negated()),
            wanted.nodes.as_ref().map_or(Truth::Yes, |selector| self.is_node(selector, address)),
        ];
        Truth::all(parts.into_iter())
    }
}

fn contains(nets: &[Cidr], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(address))
}

fn icmp_matches(wanted: IcmpMatch, flow: &Flow) -> bool {
    let [kind, code] = flow.detail.to_be_bytes();
    let is_icmp = flow.protocol == Protocol::ICMP || flow.protocol == Protocol::ICMPV6;
    is_icmp && wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code)
}

/// A port, whose name for it counts, and the protocol.
type Port<'a> = (Protocol, u16, &'a Names<'a>);

impl Packet<'_> {
    fn ports_to(&self) -> Port<'_> {
        (self.flow.protocol, self.flow.detail, &self.destination)
    }

    fn ports_from(&self) -> Port<'_> {
        (self.flow.protocol, self.flow.source_port, &self.source)
    }
}

/// The entries are joined by OR, and a packet without ports is in none (NP-63).
fn port_among(ports: &[PortMatch], port: Port<'_>) -> Truth {
    if !port.0.has_ports() {
        return Truth::No;
    }
    Truth::any(ports.iter().map(|wanted| port_matches(wanted, port)))
}

/// A name means the ports that their owner calls so with the packet's protocol (NP-67, NP-68). Of a pod that nobody has
/// described it may mean any.
fn port_matches(wanted: &PortMatch, (protocol, number, owner): Port<'_>) -> Truth {
    let name = match wanted {
        PortMatch::Range(range) => return (range.first()..=range.last()).contains(&number).into(),
        PortMatch::Named(name) => name,
    };
    let is_it = |own: &NamedPort| own.name == *name && own.protocol == protocol && own.port == number;
    match owner.pod {
        None => owner.hosts.iter().flat_map(|host| &host.ports).any(is_it).into(),
        Some(pod) => pod.ports.as_ref().map_or(Truth::Unknown, |ports| ports.iter().any(is_it).into()),
    }
}

/// Several rules that stand at one place of a policy's list are one to its author.
fn note(logs: &mut Vec<Decider>, log: Decider) {
    if !logs.contains(&log) {
        logs.push(log);
    }
}
