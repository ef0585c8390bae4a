//! The content of a rule set and of a peer class: what the compiler works on, and what makes two of them equal.
//! In: ordered policies with what the endpoint itself resolves (its named ports) already resolved.
//! Out: values with a total order; equal content, equal id.
//! Invariant: a row is a function of one rule set and one class, and of nothing else.
//! Never: names an endpoint or an address.

use model::{Action, Cidr, Direction, NamedPort, PeerSelector, PolicyId, PortName, PortRange, Protocol};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Refuse.
    Deny,
}

/// Everything about a peer address that any rule of this node can ask. Two addresses with equal facts are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Active selectors that match it.
    pub selectors: BTreeSet<Arc<PeerSelector>>,
    /// Active networks that contain it.
    pub nets: BTreeSet<Cidr>,
    /// Its named ports, of those names that an active egress rule uses.
    pub ports: BTreeSet<NamedPort>,
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
    /// Whether any rule asks anything of the peer: if none does, no class can have a row of its own.
    #[must_use]
    pub fn asks_peer(&self) -> bool {
        self.policies.iter().flat_map(|policy| &policy.rules).any(|rule| {
            rule.peer != PeerTest::default()
                || rule.ports.iter().flatten().any(|port| matches!(port, SetPort::PeerNamed(_)))
        })
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
