//! The content of a rule set: what the compiler works on, and what makes two of them equal.
//! In: ordered policies with what the endpoint itself resolves (its named ports) already resolved.
//! Out: values with a total order; equal content, equal id.
//! Invariant: a row is a function of one rule set and one class, and of nothing else.
//! Never: names an endpoint or an address.

use crate::Selectors;
use model::{
    Action, Cidr, Direction, NamedPort, PeerMatch, PeerSelector, Policy, PolicyId, PortMatch, PortName, PortRange,
    Protocol, Rule,
};
use std::{fmt, sync::Arc};

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Refuse.
    Deny,
}

impl From<Action> for Verdict {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Destination ports of a rule in a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetPort {
    /// By number, or an ingress name that the endpoint itself resolved.
    Range(PortRange),
    /// Egress: by the peer's own name for it.
    PeerNamed(PortName),
}

/// The other end, asked of a [`Class`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerTest {
    /// The class must have this selector.
    pub selector: Option<Arc<PeerSelector>>,
    /// The class must have one of these networks; empty: any.
    pub nets: Vec<Cidr>,
    /// The class must have none of these networks.
    pub not_nets: Vec<Cidr>,
}

/// One rule of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetRule {
    /// Index in the object's list, for people.
    pub place: u16,
    /// What it does.
    pub action: Action,
    /// Only this protocol; `None`: any.
    pub protocol: Option<Protocol>,
    /// `None`: any port. `Some` of an empty list (a name nobody here has) matches nothing.
    pub ports: Option<Vec<SetPort>>,
    /// The other end.
    pub peer: PeerTest,
    /// Read restrictively: an allow matches nothing, a deny everything.
    pub unreadable: bool,
}

/// One policy's rules for one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRules {
    /// The policy.
    pub id: PolicyId,
    /// Its rules, in order.
    pub rules: Vec<SetRule>,
}

/// The policies that apply to an endpoint in one direction, in order. No policy: everything is allowed
/// (the `kns.` profile of Kubernetes namespaces); at least one, and no rule matches: refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleSet {
    /// Which direction; part of the content, because explanations name it.
    pub direction: Direction,
    /// In evaluation order.
    pub policies: Vec<PolicyRules>,
}

impl RuleSet {
    /// The rules of `policies` (all that apply to the endpoint in this direction, in order) for one endpoint, whose own
    /// named ports answer ingress port names.
    #[must_use]
    pub fn build(
        policies: &[&Policy],
        direction: Direction,
        endpoint_ports: &[NamedPort],
        selectors: &mut Selectors,
    ) -> Self {
        let mut resolver = Resolver { direction, endpoint_ports, selectors };
        let policies = policies.iter().map(|policy| resolver.policy(policy)).collect();
        Self { direction, policies }
    }

    /// Whether any rule asks anything of the peer: if none does, no class can have a row of its own.
    #[must_use]
    pub fn asks_peer(&self) -> bool {
        self.rules().any(|rule| rule.peer != PeerTest::default()) || self.peer_port_names().next().is_some()
    }

    /// Selectors that a class must know.
    pub fn selectors(&self) -> impl Iterator<Item = &Arc<PeerSelector>> {
        self.rules().filter_map(|rule| rule.peer.selector.as_ref())
    }

    /// Networks that a class must know, those of exceptions included.
    pub fn nets(&self) -> impl Iterator<Item = &Cidr> {
        self.rules().flat_map(|rule| rule.peer.nets.iter().chain(&rule.peer.not_nets))
    }

    /// Port names that a class must know.
    pub fn peer_port_names(&self) -> impl Iterator<Item = &PortName> {
        self.rules().flat_map(|rule| rule.ports.iter().flatten()).filter_map(|port| match port {
            SetPort::PeerNamed(name) => Some(name),
            SetPort::Range(_) => None,
        })
    }

    fn rules(&self) -> impl Iterator<Item = &SetRule> {
        self.policies.iter().flat_map(|policy| &policy.rules)
    }
}

/// What turns rules as written into rules of a set.
struct Resolver<'a> {
    direction: Direction,
    endpoint_ports: &'a [NamedPort],
    selectors: &'a mut Selectors,
}

impl Resolver<'_> {
    fn policy(&mut self, policy: &Policy) -> PolicyRules {
        let rules = policy.rules(self.direction).iter().flat_map(|rule| self.rule(rule)).collect();
        PolicyRules { id: policy.id.clone(), rules }
    }

    /// Usually one rule. One for each protocol with ports where ports are given and no protocol, because a name
    /// may stand for another number in each.
    fn rule(&mut self, rule: &Rule) -> Vec<SetRule> {
        let bare = SetRule {
            place: rule.place,
            action: rule.action,
            protocol: None,
            ports: None,
            peer: PeerTest::default(),
            unreadable: rule.unreadable.is_some(),
        };
        if bare.unreadable {
            return vec![bare];
        }
        let whole = SetRule { protocol: rule.protocol, peer: self.peer(&rule.peer), ..bare };
        if rule.ports.is_empty() {
            return vec![whole];
        }
        let of_protocol = |protocol| {
            let ports = Some(self.ports(&rule.ports, protocol));
            SetRule { protocol: Some(protocol), ports, ..whole.clone() }
        };
        rule.protocol
            .map_or(Protocol::WITH_PORTS.to_vec(), |protocol| vec![protocol])
            .into_iter()
            .map(of_protocol)
            .collect()
    }

    fn peer(&mut self, peer: &PeerMatch) -> PeerTest {
        PeerTest {
            selector: peer.selector.as_ref().map(|selector| self.selectors.intern(selector)),
            nets: peer.nets.clone(),
            not_nets: peer.not_nets.clone(),
        }
    }

    fn ports(&self, ports: &[PortMatch], protocol: Protocol) -> Vec<SetPort> {
        ports.iter().flat_map(|port| self.port(port, protocol)).collect()
    }

    fn port(&self, port: &PortMatch, protocol: Protocol) -> Vec<SetPort> {
        match (port, self.direction) {
            (PortMatch::Range(range), _) => vec![SetPort::Range(*range)],
            (PortMatch::Named(name), Direction::Egress) => vec![SetPort::PeerNamed(name.clone())],
            (PortMatch::Named(name), Direction::Ingress) => self
                .endpoint_ports
                .iter()
                .filter(|own| own.name == *name && own.protocol == protocol)
                .map(|own| SetPort::Range(PortRange::single(own.port)))
                .collect(),
        }
    }
}

/// What decided a verdict: the content behind a hit id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// No policy applies in this direction.
    NoPolicy(Direction),
    /// This rule of this policy.
    Rule {
        /// The policy.
        policy: PolicyId,
        /// Which of its lists.
        direction: Direction,
        /// Index in that list.
        place: u16,
    },
    /// These policies apply and no rule of them matched.
    Isolated {
        /// The direction.
        direction: Direction,
        /// The policies, in order.
        policies: Arc<[PolicyId]>,
    },
}

impl Decider {
    /// The direction that was judged.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::NoPolicy(direction) | Self::Rule { direction, .. } | Self::Isolated { direction, .. } => *direction,
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy(direction) => write!(f, "no {direction} policy applies"),
            Self::Rule { policy, direction, place } => write!(f, "{policy} {direction} rule {place}"),
            Self::Isolated { direction, policies } => {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                write!(f, "no {direction} rule of {} matches", names.join(", "))
            }
        }
    }
}
