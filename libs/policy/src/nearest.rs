//! The nearest allow: which rule comes closest to letting a refused flow in, and what it asks for that the flow lacks.
//! In: a [`View`], a flow, and the end that refused it. Out: the policies that isolate that end, and a few rules with what they lack.
//! Invariant: whether a test fails is the evaluator's word; a rule none of whose tests fails is never named.
//! Never: looks at more than [`RULES_MAX`] rules, or names more than [`NAMED_MAX`].

use crate::{AtHost, Decider, Flow, View, evaluate::Packet};
use model::{
    Action, Cidr, Direction, EntityMatch, Family, Label, LabelView as _, PolicyId, PortMatch, Profile, Rule, Selector,
    TierName,
    label::{ACCOUNT_PREFIX, KUBERNETES_NAME, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT},
};
use serde::Serialize;
use std::net::IpAddr;

/// Rules that are looked at.
const RULES_MAX: usize = 8192;
/// Rules that are named.
const NAMED_MAX: usize = 3;
/// Networks or ports of one test that are written out.
const WRITTEN_MAX: usize = 6;

/// Why an end refuses what no rule of it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Isolation {
    /// `ingress` or `egress`.
    pub direction: String,
    /// The policies that isolate the pod in this direction: those of the tier that refuses what none of them matches.
    pub by: Vec<String>,
    /// The rules that come closest to letting it in, the nearest first. None: no rule of them allows anything.
    pub nearest: Vec<Near>,
}

/// A rule that would let it in, but for what it lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Near {
    /// The policy or profile.
    pub policy: String,
    /// The rule's index in its list.
    pub rule: u16,
    /// What it asks for in vain.
    pub lacks: Vec<Lack>,
}

/// A test that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// What is asked of: `protocol`, `port`, `source port`, `ICMP message`, `family`, `label`, `namespace`, `service account`, `network`,
    /// `node`, `service`, or `reading`.
    pub of: &'static str,
    /// One sentence.
    pub text: String,
}

/// Why `decider` refused the flow at this end. `None`: not because no rule matched.
#[must_use]
pub fn isolation(view: &View, flow: &Flow, decider: &Decider) -> Option<Isolation> {
    let packet = view.seen(flow, decider.direction())?;
    let named = view.profiles_of(&packet).unwrap_or_default();
    isolation_of(view, &packet, decider, &given(view, &named))
}

/// The same, of a layer of a host endpoint. Where no policy applies and no profile allows it, nobody is named: that is what a
/// host endpoint does by itself (HEP-1).
#[must_use]
pub fn isolation_at(view: &View, at: AtHost<'_>, flow: &Flow, decider: &Decider) -> Option<Isolation> {
    isolation_of(view, &view.seen_at(flow, at), decider, &given(view, &at.host.profiles))
}

/// Those of these profiles that objects give.
fn given<'a>(view: &'a View, named: &[String]) -> Vec<&'a Profile> {
    named.iter().filter_map(|name| view.profiles.iter().find(|profile| profile.name == *name)).collect()
}

fn isolation_of(view: &View, packet: &Packet<'_>, decider: &Decider, profiles: &[&Profile]) -> Option<Isolation> {
    let direction = decider.direction();
    let (by, rules) = match decider {
        Decider::EndOfTier { tier, policies, .. } => {
            (policies.iter().map(ToString::to_string).collect(), of_tier(view, packet, tier))
        }
        Decider::NoProfile(_) => (
            profiles.iter().map(|profile| format!("Profile {}", profile.name)).collect(),
            of_profiles(profiles, direction),
        ),
        _ => return None,
    };
    let allowing = rules.into_iter().filter(|(_, rule)| rule.action == Action::Allow).take(RULES_MAX);
    let mut found: Vec<Near> = allowing.filter_map(|(policy, rule)| near(view, packet, policy, rule)).collect();
    // The order they are asked in decides between equals.
    found.sort_by_key(|near| near.lacks.len());
    found.truncate(NAMED_MAX);
    Some(Isolation { direction: direction.to_string(), by, nearest: found })
}

/// Rules in the order they are asked, each with what names its object.
type Named<'a> = Vec<(String, &'a Rule)>;

fn of_tier<'a>(view: &'a View, packet: &Packet<'_>, name: &TierName) -> Named<'a> {
    let tiers = view.tiers_of(packet);
    let policies = tiers.into_iter().filter(|(tier, _)| tier.name == *name).flat_map(|(_, policies)| policies);
    let rules = policies.flat_map(|policy| {
        let id: &PolicyId = &policy.id;
        policy.rules(packet.direction).iter().map(move |rule| (id.to_string(), rule))
    });
    rules.collect()
}

fn of_profiles<'a>(profiles: &[&'a Profile], direction: Direction) -> Named<'a> {
    let rules = profiles.iter().flat_map(|profile| {
        let name = format!("Profile {}", profile.name);
        profile.rules(direction).iter().map(move |rule| (name.clone(), rule))
    });
    rules.collect()
}

fn near(view: &View, packet: &Packet<'_>, policy: String, rule: &Rule) -> Option<Near> {
    let lacks: Vec<_> = match &rule.unreadable {
        Some(why) => vec![Lack { of: "reading", text: format!("cannot be read: {why}") }],
        None => tests(rule).iter().flat_map(|test| test.lacks(view, packet)).collect(),
    };
    (!lacks.is_empty()).then_some(Near { policy, rule: rule.place, lacks })
}

/// One test of a rule, as a rule that asks nothing else.
struct Test {
    alone: Rule,
    what: What,
}

enum What {
    Family(Family),
    Protocol(String),
    Icmp(String),
    Service(String),
    /// Of an end: who sends, or who receives.
    Of(Direction, Asked),
}

enum Asked {
    Selector(Selector),
    Node(Selector),
    Nets(Box<[Cidr]>),
    NotNets(Box<[Cidr]>),
    Ports(Box<[PortMatch]>),
    NotPorts(Box<[PortMatch]>),
}

/// Every test of a rule apart: all of them hold where the rule matches.
fn tests(rule: &Rule) -> Vec<Test> {
    let Rule {
        place,
        action,
        family,
        protocol,
        not_protocol,
        icmp,
        not_icmp,
        source,
        destination,
        service,
        annotations: _,
        unreadable: _,
    } = rule;
    let bare = || Rule::new(*place, *action);
    let mut tests = Vec::new();
    let mut add = |alone: Rule, what: What| tests.push(Test { alone, what });
    if let Some(family) = *family {
        add(Rule { family: Some(family), ..bare() }, What::Family(family));
    }
    if let Some(protocol) = *protocol {
        add(Rule { protocol: Some(protocol), ..bare() }, What::Protocol(protocol.to_string()));
    }
    if let Some(protocol) = *not_protocol {
        add(Rule { not_protocol: Some(protocol), ..bare() }, What::Protocol(format!("any protocol but {protocol}")));
    }
    if let Some(icmp) = *icmp {
        add(Rule { icmp: Some(icmp), ..bare() }, What::Icmp(message(icmp)));
    }
    if let Some(icmp) = *not_icmp {
        add(Rule { not_icmp: Some(icmp), ..bare() }, What::Icmp(format!("anything but {}", message(icmp))));
    }
    if let Some(service) = service {
        add(Rule { service: Some(service.clone()), ..bare() }, What::Service(service.to_string()));
    }
    for (end, alone, asked) in
        entity(Direction::Egress, source).into_iter().chain(entity(Direction::Ingress, destination))
    {
        let alone = match end {
            Direction::Egress => Rule { source: alone, ..bare() },
            Direction::Ingress => Rule { destination: alone, ..bare() },
        };
        add(alone, What::Of(end, asked));
    }
    tests
}

fn message(icmp: model::IcmpMatch) -> String {
    icmp.code.map_or(format!("ICMP type {}", icmp.kind), |code| format!("ICMP type {} code {code}", icmp.kind))
}

fn entity(end: Direction, wanted: &EntityMatch) -> Vec<(Direction, EntityMatch, Asked)> {
    let EntityMatch { selector, not_selector, nodes, nets, not_nets, ports, not_ports } = wanted;
    let bare = EntityMatch::default;
    let mut tests = Vec::new();
    if let Some(selector) = selector {
        tests.push((
            EntityMatch { selector: Some(selector.clone()), ..bare() },
            Asked::Selector(Selector::clone(selector)),
        ));
    }
    if let Some(not) = not_selector {
        let negated = Asked::Selector(Selector::clone(not).negated());
        tests.push((EntityMatch { not_selector: Some(not.clone()), ..bare() }, negated));
    }
    if let Some(nodes) = nodes {
        tests.push((EntityMatch { nodes: Some(nodes.clone()), ..bare() }, Asked::Node(Selector::clone(nodes))));
    }
    if let Some(nets) = nets {
        tests.push((EntityMatch { nets: Some(nets.clone()), ..bare() }, Asked::Nets(nets.clone())));
    }
    if !not_nets.is_empty() {
        tests.push((EntityMatch { not_nets: not_nets.clone(), ..bare() }, Asked::NotNets(not_nets.clone())));
    }
    if let Some(ports) = ports {
        tests.push((EntityMatch { ports: Some(ports.clone()), ..bare() }, Asked::Ports(ports.clone())));
    }
    if !not_ports.is_empty() {
        tests.push((EntityMatch { not_ports: not_ports.clone(), ..bare() }, Asked::NotPorts(not_ports.clone())));
    }
    tests.into_iter().map(|(alone, asked)| (end, alone, asked)).collect()
}

/// What a selector joins by AND, each part apart.
fn parts(selector: &Selector) -> Vec<Selector> {
    match selector {
        Selector::And { 0: parts, .. } => parts.iter().flat_map(self::parts).collect(),
        other => vec![other.clone()],
    }
}

impl Test {
    /// None: it holds.
    fn lacks(&self, view: &View, packet: &Packet<'_>) -> Vec<Lack> {
        if view.rule_matches(&self.alone, packet).surely() {
            return Vec::new();
        }
        let flow = packet.flow;
        let (of, text) = match &self.what {
            What::Family(family) => ("family", format!("asks for {family:?}")),
            What::Protocol(wanted) => ("protocol", format!("asks for {wanted}, this is {}", flow.protocol)),
            What::Icmp(wanted) => ("ICMP message", format!("asks for {wanted}")),
            What::Service(service) => {
                let whose = if packet.direction == Direction::Ingress { "sender" } else { "receiver and its port" };
                ("service", format!("asks for a {whose} of service {service}"))
            }
            What::Of(end, Asked::Selector(selector)) => return self.not_selected(view, packet, *end, selector),
            What::Of(end, asked) => asked.lack(view, packet, *end),
        };
        vec![Lack { of, text }]
    }

    /// The parts of a selector that fail by themselves; all of it where each finds somebody, and no one finds all.
    fn not_selected(&self, view: &View, packet: &Packet<'_>, end: Direction, selector: &Selector) -> Vec<Lack> {
        let alone = |part: &Selector| {
            let wanted = || EntityMatch { selector: Some(part.clone().into()), ..EntityMatch::default() };
            let bare = Rule::new(self.alone.place, self.alone.action);
            match end {
                Direction::Egress => Rule { source: wanted(), ..bare },
                Direction::Ingress => Rule { destination: wanted(), ..bare },
            }
        };
        let failing = parts(selector).into_iter().filter(|part| !view.rule_matches(&alone(part), packet).surely());
        let mut failing: Vec<Selector> = failing.collect();
        if failing.is_empty() {
            failing.push(selector.clone());
        }
        let lack = |part: Selector| {
            let (of, text) = Asked::Selector(part).lack(view, packet, end);
            Lack { of, text }
        };
        failing.into_iter().map(lack).collect()
    }
}

impl Asked {
    fn lack(&self, view: &View, packet: &Packet<'_>, end: Direction) -> (&'static str, String) {
        let (who, address) = match end {
            Direction::Egress => ("sender", packet.flow.source),
            Direction::Ingress => ("receiver", packet.flow.destination),
        };
        let name = view.pod_at(address).map_or_else(|| address.to_string(), |pod| pod.id.to_string());
        match self {
            Self::Selector(selector) => selected(view, selector, who, &name, address),
            Self::Node(selector) => ("node", format!("asks for a {who} that is a node with {selector}")),
            Self::Nets(nets) => ("network", format!("asks for a {who} in {}; {address} is not", written(nets))),
            Self::NotNets(nets) => ("network", format!("leaves out a {who} in {}", written(nets))),
            Self::Ports(ports) => self.port(end, &format!("asks for {}", said(ports)), packet),
            Self::NotPorts(ports) => self.port(end, &format!("leaves out {}", said(ports)), packet),
        }
    }

    fn port(&self, end: Direction, asks: &str, packet: &Packet<'_>) -> (&'static str, String) {
        let Flow { protocol, detail, .. } = packet.flow;
        match end {
            Direction::Egress => ("source port", format!("{asks} as source port")),
            Direction::Ingress if protocol.has_ports() => ("port", format!("{asks}, this is for {detail}")),
            Direction::Ingress => ("port", format!("{asks}, and {protocol} has no ports")),
        }
    }
}

fn written(nets: &[Cidr]) -> String {
    if nets.is_empty() { "no network at all".to_owned() } else { few(nets.iter().map(ToString::to_string).collect()) }
}

fn said(ports: &[PortMatch]) -> String {
    if ports.is_empty() {
        return "no port at all".to_owned();
    }
    let each = |port: &PortMatch| match port {
        PortMatch::Range(range) if range.first() == range.last() => range.first().to_string(),
        PortMatch::Range(range) => format!("{}-{}", range.first(), range.last()),
        PortMatch::Named(name) => format!("{name:?}", name = name.0),
    };
    format!("port {}", few(ports.iter().map(each).collect()))
}

fn few(mut items: Vec<String>) -> String {
    let more = items.len().saturating_sub(WRITTEN_MAX);
    items.truncate(WRITTEN_MAX);
    if more > 0 { format!("{} or {more} more", items.join(", ")) } else { items.join(", ") }
}

/// What it asks of, and what the endpoint has instead, where it asks for one label.
fn selected(view: &View, selector: &Selector, who: &str, name: &str, address: IpAddr) -> (&'static str, String) {
    let Some(pod) = view.pod_at(address) else {
        return ("label", format!("asks for a {who} with {selector}; {address} is no pod"));
    };
    let Some(key) = only_key(selector) else {
        return ("label", format!("asks for a {who} with {selector}; {name} is none"));
    };
    let labels = view.labels_of(pod);
    let has = match labels.label(key) {
        Label::Is(value) => format!("has {value:?}"),
        Label::Absent => "has none".to_owned(),
        Label::Unknown => "is not described".to_owned(),
    };
    let of = match key {
        ORCHESTRATOR => "label",
        NAMESPACE => "namespace",
        SERVICE_ACCOUNT => "service account",
        key if key.starts_with(NAMESPACE_PREFIX) => "namespace",
        key if key.starts_with(ACCOUNT_PREFIX) => "service account",
        _ => "label",
    };
    match (of, selector) {
        ("namespace", Selector::Equals(key, wanted)) if is_its_name(key) => {
            (of, format!("asks for a {who} in namespace {wanted}; {name} is in {}", pod.id.namespace))
        }
        _ => (of, format!("asks for a {who} with {selector}; {name} {has}")),
    }
}

fn is_its_name(key: &str) -> bool {
    key == NAMESPACE || key.strip_prefix(NAMESPACE_PREFIX) == Some(KUBERNETES_NAME)
}

/// The label that a selector is about, if it is one.
fn only_key(selector: &Selector) -> Option<&str> {
    match selector {
        Selector::Equals(key, _)
        | Selector::NotEquals(key, _)
        | Selector::In(key, _)
        | Selector::NotIn(key, _)
        | Selector::Contains(key, _)
        | Selector::StartsWith(key, _)
        | Selector::EndsWith(key, _)
        | Selector::Has(key) => Some(key),
        Selector::Not { 0: inner, .. } => only_key(inner),
        Selector::Global => Some(NAMESPACE),
        Selector::All | Selector::And { .. } | Selector::Or { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Case;

    #[test]
    fn a_rule_lacks_nothing_exactly_where_it_matches() {
        let mut asked = 0;
        for seed in 0..300 {
            let case = Case::from_seed(seed);
            for flow in &case.flows {
                for packet in
                    [Direction::Ingress, Direction::Egress].iter().filter_map(|end| case.view.seen(flow, *end))
                {
                    let policies = case.view.policies.iter().flat_map(|policy| policy.rules(packet.direction));
                    for rule in policies.filter(|rule| rule.unreadable.is_none()) {
                        let whole = case.view.rule_matches(rule, &packet).surely();
                        let lacks = tests(rule).iter().map(|test| test.lacks(&case.view, &packet).len()).sum::<usize>();
                        assert_eq!(whole, lacks == 0, "seed {seed}: {rule:?} {flow:?}");
                        asked += 1;
                    }
                }
            }
        }
        assert!(asked > 10_000, "{asked}");
    }
}
