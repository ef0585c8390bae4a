//! The content of a rule set: what the compiler works on, and what makes two of them equal.
//! In: ordered tiers of policies with what the endpoint itself resolves already resolved. Out: values with a total order.
//! Invariant: equal content, equal id; a row is a function of one rule set and the peer's class; where rules tell own addresses
//! apart it names a further rule set, which is a function of the own address' class.
//! Never: names an endpoint or an address.

use model::{
    Cidr, Direction, Family, IcmpMatch, PolicyId, PortName, PortRange, Protocol, Selector, ServiceId, TierEnd,
    TierName, Truth,
};
use std::sync::Arc;

/// What a rule of a set does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetAction {
    /// Let through.
    Allow,
    /// Refuse.
    Deny,
    /// Leave the tier.
    Pass,
    /// Have whatever is decided later written down (CAL-8).
    Log,
}

impl SetAction {
    /// What is left of it where it is not certain that the rule matches: an allow or a log is nothing then, a pass a refusal.
    /// `None`: nothing happens.
    #[must_use]
    pub fn given(self, matches: Truth) -> Option<Self> {
        match (matches, self) {
            (Truth::No, _) | (Truth::Unknown, Self::Allow | Self::Log) => None,
            (Truth::Unknown, Self::Deny | Self::Pass) => Some(Self::Deny),
            (Truth::Yes, action) => Some(action),
        }
    }
}

/// Ports of a rule in a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetPort {
    /// By number, in every protocol the rule speaks of.
    Range(PortRange),
    /// A name that its owner resolved: the endpoint itself, as a rule is built, or one peer, as a row is compiled.
    Resolved(Protocol, u16),
    /// By the peer's own name for it.
    PeerNamed(PortName),
    /// By the name that whoever has the own address has for it: at a host endpoint, where that may be anybody.
    OwnNamed(PortName),
    /// A name of an endpoint that nobody has described.
    Unknown,
}

/// What a rule asks of protocol, port and ICMP message.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketTest {
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any but this.
    pub not_protocol: Option<Protocol>,
    /// Only these messages.
    pub icmp: Option<IcmpMatch>,
    /// Any but these.
    pub not_icmp: Option<IcmpMatch>,
    /// Only to these ports. `Some` of an empty list (a name nobody here has) matches nothing.
    pub ports: Option<Vec<SetPort>>,
    /// To none of these ports.
    pub not_ports: Vec<SetPort>,
    /// Egress: only the ports at which the peer serves this service.
    pub service: Option<Arc<ServiceId>>,
    /// Only from these ports.
    pub source_ports: Option<Vec<SetPort>>,
    /// From none of these ports.
    pub not_source_ports: Vec<SetPort>,
}

impl PacketTest {
    /// The ports it names, at either end.
    pub fn all_ports(&self) -> impl Iterator<Item = &SetPort> {
        let some = self.ports.iter().chain(&self.source_ports).flatten();
        some.chain(&self.not_ports).chain(&self.not_source_ports)
    }
}

/// One end, asked of a [`crate::Class`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerTest {
    /// It is of this family, and so is the packet.
    pub family: Option<Family>,
    /// This selector finds it.
    pub selector: Option<Arc<Selector>>,
    /// This selector does not.
    pub not_selector: Option<Arc<Selector>>,
    /// This selector of nodes finds it.
    pub nodes: Option<Arc<Selector>>,
    /// One of these networks has it. `Some` of an empty list: none has.
    pub nets: Option<Vec<Cidr>>,
    /// None of these networks has it.
    pub not_nets: Vec<Cidr>,
    /// It is an endpoint of this service.
    pub service: Option<Arc<ServiceId>>,
}

/// One rule of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetRule {
    /// Index in the object's list, for people.
    pub place: u16,
    /// What it does.
    pub action: SetAction,
    /// What it asks of the packet.
    pub packet: PacketTest,
    /// What it asks of the other end.
    pub peer: PeerTest,
    /// What it asks of the own end that one answer for all of the endpoint's addresses does not say: nothing, unless the
    /// endpoint has several of one family, or any at all as a host endpoint. The family is asked of the peer.
    pub own: PeerTest,
}

impl SetRule {
    /// A rule for everything.
    #[must_use]
    pub fn new(place: u16, action: SetAction) -> Self {
        Self { place, action, packet: PacketTest::default(), peer: PeerTest::default(), own: PeerTest::default() }
    }

    /// Whether it asks which own address is meant.
    #[must_use]
    pub fn asks_own(&self) -> bool {
        self.own != PeerTest::default() || self.packet.all_ports().any(|port| matches!(port, SetPort::OwnNamed(_)))
    }

    /// The port that a failsafe keeps open.
    #[must_use]
    pub(crate) fn failsafe_port(&self) -> (Protocol, u16) {
        let port = self.packet.all_ports().find_map(|port| match port {
            SetPort::Range(range) => Some(range.first()),
            _ => None,
        });
        (self.packet.protocol.unwrap_or(Protocol::TCP), port.unwrap_or_default())
    }
}

/// One policy's rules for one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRules {
    /// The policy.
    pub id: PolicyId,
    /// Its rules, in order.
    pub rules: Vec<SetRule>,
}

/// One tier's policies for one direction. At least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierRules {
    /// The tier.
    pub name: TierName,
    /// What its end does.
    pub end: TierEnd,
    /// Its policies that apply, in order.
    pub policies: Vec<PolicyRules>,
}

/// A profile's rules for one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileRules {
    /// The profile.
    pub name: String,
    /// Its rules, in order.
    pub rules: Vec<SetRule>,
}

/// What is asked after the last tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profiles {
    /// The one that every namespace implies: everything is allowed.
    Implied,
    /// These; where none of their rules matches, everything is refused.
    Given(Vec<ProfileRules>),
    /// None, and everything passes: what a host endpoint forwards.
    Open,
    /// None is asked: what no rule decides is for whatever comes after the set (untracked and preDNAT policies).
    Unasked,
}

/// All that is asked of an endpoint in one direction, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleSet {
    /// Which direction; part of the content, because explanations name it.
    pub direction: Direction,
    /// Before the first tier: ports that no policy closes. What they match is let through or, where no profile is asked, is
    /// none of this set's business.
    pub failsafes: Vec<SetRule>,
    /// In evaluation order; those without a policy for this endpoint are left out.
    pub tiers: Vec<TierRules>,
    /// After the last tier.
    pub profiles: Profiles,
    /// What would be in force if every staged policy were, where that is something else.
    pub preview: Option<Arc<RuleSet>>,
}

impl RuleSet {
    /// A set of no rules, that allows everything.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self { direction, failsafes: Vec::new(), tiers: Vec::new(), profiles: Profiles::Implied, preview: None }
    }

    /// Its policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyRules> {
        self.tiers.iter().flat_map(|tier| &tier.policies)
    }

    /// Whether any rule asks anything of the peer: if none does, no class can have a row of its own.
    #[must_use]
    pub fn asks_peer(&self) -> bool {
        let by_name = |port: &SetPort| matches!(port, SetPort::PeerNamed(_));
        self.rules().any(|rule| rule.peer != PeerTest::default()) || self.ports().any(by_name)
    }

    /// Whether any rule asks which of the endpoint's own addresses is meant.
    #[must_use]
    pub fn asks_own(&self) -> bool {
        self.rules().any(SetRule::asks_own)
    }

    /// Selectors of endpoints and network sets that a class must know.
    pub fn selectors(&self) -> impl Iterator<Item = &Arc<Selector>> {
        self.ends().flat_map(|end| end.selector.iter().chain(&end.not_selector))
    }

    /// Selectors of nodes that a class must know.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Selector>> {
        self.ends().filter_map(|end| end.nodes.as_ref())
    }

    /// Services that a class must know.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceId>> {
        self.ends().filter_map(|end| end.service.as_ref())
    }

    /// Networks that a class must know: those of exceptions included, and all of a family where a rule tells them apart.
    pub fn nets(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.ends().flat_map(|end| {
            let named = end.nets.iter().flatten().chain(&end.not_nets).copied();
            named.chain(end.family.map(Cidr::all))
        })
    }

    /// Port names that a class must know.
    pub fn peer_port_names(&self) -> impl Iterator<Item = &PortName> {
        self.ports().filter_map(|port| match port {
            SetPort::PeerNamed(name) | SetPort::OwnNamed(name) => Some(name),
            SetPort::Range(_) | SetPort::Resolved(..) | SetPort::Unknown => None,
        })
    }

    fn ports(&self) -> impl Iterator<Item = &SetPort> {
        self.rules().flat_map(|rule| rule.packet.all_ports())
    }

    /// Both ends of every rule.
    fn ends(&self) -> impl Iterator<Item = &PeerTest> {
        self.rules().flat_map(|rule| [&rule.peer, &rule.own])
    }

    /// Those of the preview too: what they ask of peers, classes must know.
    fn rules(&self) -> impl Iterator<Item = &SetRule> {
        self.own_rules().chain(self.preview.iter().flat_map(|preview| preview.own_rules()))
    }

    fn own_rules(&self) -> impl Iterator<Item = &SetRule> {
        let of_profiles = match &self.profiles {
            Profiles::Implied | Profiles::Open | Profiles::Unasked => &[][..],
            Profiles::Given(profiles) => profiles,
        };
        let of_policies = self.policies().flat_map(|policy| &policy.rules);
        self.failsafes.iter().chain(of_policies).chain(of_profiles.iter().flat_map(|profile| &profile.rules))
    }
}
