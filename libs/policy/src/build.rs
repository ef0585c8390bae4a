//! Builds a rule set: everything that the endpoint itself answers is answered here.
//! In: the policies that apply to one endpoint, as written, and what is known of it. Out: its [`RuleSet`].
//! Invariant: a rule whose own end cannot match is left out, one whose own end always matches asks nothing of it.
//! Never: asks about a peer.

use crate::{
    Applying, PacketTest, PeerTest, PodFacts, PolicyRules, ProfileRules, Profiles, RuleSet, Selectors, SetAction,
    SetPort, SetRule, Surroundings, TierRules,
};
use model::{Action, Cidr, Direction, EntityMatch, Family, Policy, PortMatch, Profile, Rule, Selector, Truth};
use std::{net::IpAddr, sync::Arc};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Which addresses are an endpoint's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnAddresses {
    /// These: what they all answer alike is answered when the set is built.
    Known(Vec<IpAddr>),
    /// Any: a host endpoint's, through whose interface others' packets go as well.
    Any,
}

/// The endpoint that a rule set judges.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Labels and ports.
    pub pod: PodFacts<'a>,
    /// Its addresses.
    pub addresses: OwnAddresses,
    /// Its profiles that objects describe, from the namespace's on. None where the namespace's is the implied one: that one
    /// decides everything.
    pub profiles: Vec<&'a Profile>,
}

impl<'a> Subject<'a> {
    /// Its profiles, where `given` finds those that objects describe.
    #[must_use]
    pub fn profiles_of(
        namespace: &model::NamespaceName,
        account: Option<&str>,
        given: impl Fn(&str) -> Option<&'a Profile>,
    ) -> Vec<&'a Profile> {
        let Some(first) = given(&Profile::of_namespace(namespace)) else { return Vec::new() };
        let second = account.and_then(|account| given(&Profile::of_account(namespace, account)));
        [first].into_iter().chain(second).collect()
    }
}

impl RuleSet {
    /// The rules of `applying` in this direction for one endpoint.
    #[must_use]
    pub fn build(
        applying: &[Applying<'_>],
        direction: Direction,
        subject: &Subject<'_>,
        around: &Surroundings<'_>,
        selectors: &mut Selectors,
    ) -> Self {
        let mut builder = Builder { direction, subject, around, selectors, asks: Policy::judges_workloads };
        let tiers = applying.iter().map(|applying| builder.tier(applying));
        let tiers = tiers.filter(|tier| !tier.policies.is_empty()).collect();
        Self { tiers, profiles: builder.profiles(), ..Self::new(direction) }
    }
}

pub(crate) struct Builder<'a> {
    pub(crate) direction: Direction,
    pub(crate) subject: &'a Subject<'a>,
    pub(crate) around: &'a Surroundings<'a>,
    pub(crate) selectors: &'a mut Selectors,
    /// The policies that are asked here.
    pub(crate) asks: fn(&Policy) -> bool,
}

impl Builder<'_> {
    pub(crate) fn tier(&mut self, applying: &Applying<'_>) -> TierRules {
        let asked = |policy: &Policy| policy.applies(self.direction) && (self.asks)(policy);
        let policies = applying.policies.iter().filter(|(policy, _)| asked(policy));
        let policies = policies.collect::<Vec<_>>().into_iter().map(|(policy, applies)| self.policy(policy, *applies));
        TierRules { name: applying.tier.name.clone(), end: applying.tier.end, policies: policies.collect() }
    }

    fn policy(&mut self, policy: &Policy, applies: Truth) -> PolicyRules {
        PolicyRules { id: policy.id.clone(), rules: self.rules(policy.rules(self.direction), applies) }
    }

    fn profiles(&mut self) -> Profiles {
        let given = &self.subject.profiles;
        if given.is_empty() {
            return Profiles::Implied;
        }
        let rules = given.iter().map(|profile| {
            let rules = self.rules(profile.rules(self.direction), Truth::Yes);
            ProfileRules { name: profile.name.clone(), rules }
        });
        Profiles::Given(rules.collect())
    }

    pub(crate) fn rules(&mut self, rules: &[Rule], applies: Truth) -> Vec<SetRule> {
        rules.iter().flat_map(|rule| self.rule(rule, applies)).collect()
    }

    /// Usually one rule; none where the own end cannot match; one for each family where it answers otherwise in each.
    fn rule(&mut self, rule: &Rule, applies: Truth) -> Vec<SetRule> {
        let Some(action) = action(rule.action) else { return Vec::new() };
        if rule.unreadable.is_some() {
            let bare = |action| SetRule::new(rule.place, action);
            return action.given(Truth::Unknown.min(applies)).map(bare).into_iter().collect();
        }
        let applies = if rule.asks_source_ports() { applies.min(Truth::Unknown) } else { applies };
        let is_any = self.subject.addresses == OwnAddresses::Any;
        // Of a host endpoint, what the own end answers is left to the row.
        let by_family = self.by_family(rule, |own| action.given(if is_any { applies } else { own.min(applies) }));
        let (wanted, peer) = self.ends(rule);
        let own = if is_any { self.end(wanted) } else { PeerTest::default() };
        let (mut packet, mut peer) = (self.packet(rule), self.end(peer));
        peer.service = rule.service.clone().map(Arc::new);
        if self.direction == Direction::Egress {
            packet.service.clone_from(&peer.service);
        }
        let mut whole = SetRule { packet, peer, own, ..SetRule::new(rule.place, action) };
        match by_family[..] {
            [] => Vec::new(),
            // All its families alike: nothing is asked of the family.
            [(_, same), ref others @ ..] if others.iter().all(|(_, other)| *other == same) => {
                let alike = |action| {
                    whole.action = action;
                    whole
                };
                same.map(alike).into_iter().collect()
            }
            _ => {
                let of_family = |(family, action): (Family, Option<SetAction>)| {
                    let peer = PeerTest { family: Some(family), ..whole.peer.clone() };
                    Some(SetRule { action: action?, peer, ..whole.clone() })
                };
                by_family.into_iter().filter_map(of_family).collect()
            }
        }
    }

    /// What is left of a rule in each family that the endpoint has addresses of.
    fn by_family(&self, rule: &Rule, left: impl Fn(Truth) -> Option<SetAction>) -> Vec<(Family, Option<SetAction>)> {
        let (own, peer) = self.ends(rule);
        let in_family = |family: Family| {
            let has = |net: &Cidr| net.family() == family;
            let speaks = |not_nets: &[Cidr]| not_nets.is_empty() || not_nets.iter().any(has);
            let spoken_of =
                rule.family.is_none_or(|wanted| wanted == family) && speaks(&peer.not_nets) && speaks(&own.not_nets);
            let answer = self.own_end(own, family)?;
            Some((family, if spoken_of { left(answer) } else { None }))
        };
        FAMILIES.into_iter().filter_map(in_family).collect()
    }

    /// The endpoint is one for all its addresses: where a rule tells those of one family apart, the answer is not known,
    /// because spans that ask for the own address are not built yet. `None`: it has no address of this family.
    fn own_end(&self, wanted: &EntityMatch, family: Family) -> Option<Truth> {
        let own = match &self.subject.addresses {
            OwnAddresses::Known(own) => own.iter().filter(|own| Family::of(**own) == family),
            OwnAddresses::Any => return Some(Truth::Unknown),
        };
        own.map(|own| self.own_address(wanted, *own)).reduce(
            |one, other| {
                if one == other { one } else { Truth::Unknown }
            },
        )
    }

    fn own_address(&self, wanted: &EntityMatch, own: IpAddr) -> Truth {
        let among = |nets: &[Cidr]| nets.iter().any(|net| net.contains(own));
        let of_family = |net: &Cidr| net.is_v4() == own.is_ipv4();
        let mut answer: Truth = wanted.nets.as_deref().is_none_or(among).into();
        if !wanted.not_nets.is_empty() {
            answer = answer.min((wanted.not_nets.iter().any(of_family) && !among(&wanted.not_nets)).into());
        }
        let found =
            |selector: &Selector| selector.matches(&self.subject.pod.labels).max(self.around.in_set(selector, own));
        if let Some(selector) = &wanted.selector {
            answer = answer.min(found(selector));
        }
        if let Some(selector) = &wanted.not_selector {
            answer = answer.min(found(selector).negated());
        }
        if let Some(selector) = &wanted.nodes {
            answer = answer.min(self.around.is_node(selector, own));
        }
        answer
    }

    /// The endpoint's own end of a rule, and the peer's.
    fn ends<'r>(&self, rule: &'r Rule) -> (&'r EntityMatch, &'r EntityMatch) {
        match self.direction {
            Direction::Ingress => (&rule.destination, &rule.source),
            Direction::Egress => (&rule.source, &rule.destination),
        }
    }

    fn end(&mut self, wanted: &EntityMatch) -> PeerTest {
        let mut intern =
            |selector: &Option<Selector>| selector.as_ref().map(|selector| self.selectors.intern(selector));
        PeerTest {
            family: None,
            selector: intern(&wanted.selector),
            not_selector: intern(&wanted.not_selector),
            nodes: intern(&wanted.nodes),
            nets: wanted.nets.clone(),
            not_nets: wanted.not_nets.clone(),
            service: None,
        }
    }

    fn packet(&self, rule: &Rule) -> PacketTest {
        let ports = |ports: &[PortMatch]| ports.iter().flat_map(|port| self.port(port)).collect::<Vec<_>>();
        PacketTest {
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            ports: rule.destination.ports.as_deref().map(ports),
            not_ports: ports(&rule.destination.not_ports),
            service: None,
        }
    }

    fn port(&self, port: &PortMatch) -> Vec<SetPort> {
        match (port, self.direction) {
            (PortMatch::Range(range), _) => vec![SetPort::Range(*range)],
            (PortMatch::Named(name), Direction::Egress) => vec![SetPort::PeerNamed(name.clone())],
            (PortMatch::Named(name), Direction::Ingress) if self.subject.addresses == OwnAddresses::Any => {
                vec![SetPort::OwnNamed(name.clone())]
            }
            (PortMatch::Named(name), Direction::Ingress) => {
                let Some(own) = self.subject.pod.ports else { return vec![SetPort::Unknown] };
                let own = own.iter().filter(|own| own.name == *name);
                own.map(|own| SetPort::Own(own.protocol, own.port)).collect()
            }
        }
    }
}

fn action(action: Action) -> Option<SetAction> {
    match action {
        Action::Allow => Some(SetAction::Allow),
        Action::Deny => Some(SetAction::Deny),
        Action::Pass => Some(SetAction::Pass),
        Action::Log => None,
    }
}
