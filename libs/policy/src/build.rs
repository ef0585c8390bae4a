//! Builds a rule set: everything that the endpoint itself answers is answered here.
//! In: the policies that apply to one endpoint, as written, and what is known of it. Out: its [`RuleSet`].
//! Invariant: a rule whose own end cannot match is left out, one whose own end always matches asks nothing of it; only where
//! addresses of one family answer otherwise is the own end left to the row.
//! Never: asks about a peer.

use crate::{
    Applying, EndpointProfile, PacketTest, PeerTest, PodFacts, PolicyRules, Profiles, RuleSet, Selectors, SetAction,
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
    /// Its profiles, in order, up to the first that is not there: that one denies what comes to it. `None`: the first is there by
    /// itself and lets everything through.
    pub profiles: Option<Vec<EndpointProfile<'a>>>,
}

impl<'a> Subject<'a> {
    /// Those that it names, which `find` finds; where it names none those of its namespace and its account that objects describe, which
    /// `given` finds: its namespace's is implied otherwise.
    #[must_use]
    pub fn profiles_of(
        (namespace, account): (&model::NamespaceName, Option<&str>),
        named: Option<impl IntoIterator<Item = &'a str>>,
        given: impl Fn(&str) -> Option<&'a Profile>,
        find: impl Fn(&'a str) -> Option<EndpointProfile<'a>>,
    ) -> Option<Vec<EndpointProfile<'a>>> {
        let Some(named) = named else {
            let first = given(&Profile::of_namespace(namespace))?;
            let second = account.and_then(|account| given(&Profile::of_account(namespace, account)));
            return Some([first].into_iter().chain(second).map(EndpointProfile::Given).collect());
        };
        let known: Vec<_> = named.into_iter().map_while(find).collect();
        (!matches!(known.first(), Some(EndpointProfile::AllowsAll(_)))).then_some(known)
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

/// Whether rules say the same of every endpoint that has addresses of the same families: none asks anything of the own end.
#[must_use]
pub fn is_common<'r>(rules: impl IntoIterator<Item = &'r Rule>, direction: Direction) -> bool {
    let by_name = |port: &PortMatch| matches!(port, PortMatch::Named(_));
    rules.into_iter().all(|rule| {
        let (own, _) = ends(rule, direction);
        asks_nothing(own) && !own.ports.iter().flatten().chain(&own.not_ports).any(by_name)
    })
}

/// The endpoint's own end of a rule, and the peer's.
fn ends(rule: &Rule, direction: Direction) -> (&EntityMatch, &EntityMatch) {
    match direction {
        Direction::Ingress => (&rule.destination, &rule.source),
        Direction::Egress => (&rule.source, &rule.destination),
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
        let subject = self.subject;
        subject.profiles.as_ref().map_or(Profiles::Implied, |own| {
            Profiles::Given(own.iter().map(|profile| profile.rules_in(self)).collect())
        })
    }

    pub(crate) fn rules(&mut self, rules: &[Rule], applies: Truth) -> Vec<SetRule> {
        rules.iter().flat_map(|rule| self.rule(rule, applies)).collect()
    }

    /// Usually one rule; none where the own end cannot match; one for each family where it answers otherwise in each.
    fn rule(&mut self, rule: &Rule, applies: Truth) -> Vec<SetRule> {
        let action = action(rule.action);
        if rule.unreadable.is_some() {
            let left = action.given(Truth::Unknown.min(applies));
            return left.map(|action| SetRule::new(rule.place, action)).into_iter().collect();
        }
        let by_family = self.by_family(rule, |own| match own {
            Own::Alike(answer) => Some((action.given(answer.min(applies))?, false)),
            Own::Differs => Some((action.given(applies)?, true)),
        });
        let left = |builder: &mut Self, (action, asks_own): (SetAction, bool), family| {
            let (own, peer) = ends(rule, builder.direction);
            let own = if asks_own { builder.end(own) } else { PeerTest::default() };
            let service = rule.service.clone();
            let mut packet = builder.packet(rule);
            if builder.direction == Direction::Egress {
                packet.service.clone_from(&service);
            }
            let peer = PeerTest { family, service, ..builder.end(peer) };
            SetRule { packet, peer, own, ..SetRule::new(rule.place, action) }
        };
        match by_family[..] {
            [] => Vec::new(),
            // All its families alike: nothing is asked of the family.
            [(_, same), ref others @ ..] if others.iter().all(|(_, other)| *other == same) => {
                same.map(|same| left(self, same, None)).into_iter().collect()
            }
            _ => {
                let of_family = |(family, what): (Family, Option<_>)| Some(left(self, what?, Some(family)));
                by_family.into_iter().filter_map(of_family).collect()
            }
        }
    }

    /// What is left of a rule in each family that the endpoint has addresses of: what it does, and whether it asks which
    /// of them is meant.
    fn by_family(
        &self,
        rule: &Rule,
        left: impl Fn(Own) -> Option<(SetAction, bool)>,
    ) -> Vec<(Family, Option<(SetAction, bool)>)> {
        let (own, peer) = ends(rule, self.direction);
        let in_family = |family: Family| {
            let spoken_of = rule.family.is_none_or(|wanted| wanted == family)
                && names_family(&peer.not_nets, family)
                && names_family(&own.not_nets, family);
            let answer = self.own_end(own, family)?;
            Some((family, if spoken_of { left(answer) } else { None }))
        };
        FAMILIES.into_iter().filter_map(in_family).collect()
    }

    /// What the addresses of a family answer. `None`: the endpoint has none.
    fn own_end(&self, wanted: &EntityMatch, family: Family) -> Option<Own> {
        let own = match &self.subject.addresses {
            OwnAddresses::Known(own) => own.iter().filter(|own| Family::of(**own) == family),
            OwnAddresses::Any if asks_nothing(wanted) => return Some(Own::Alike(Truth::Yes)),
            OwnAddresses::Any => return Some(Own::Differs),
        };
        let answers = own.map(|own| Own::Alike(self.own_address(wanted, *own)));
        answers.reduce(|one, other| if one == other { one } else { Own::Differs })
    }

    fn own_address(&self, wanted: &EntityMatch, own: IpAddr) -> Truth {
        let among = |nets: &[Cidr]| nets.iter().any(|net| net.contains(own));
        let nets = wanted.nets.as_deref().is_none_or(among) && !among(&wanted.not_nets);
        let mut answer: Truth = nets.into();
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

    fn end(&mut self, wanted: &EntityMatch) -> PeerTest {
        let mut shared =
            |selector: &Option<Arc<Selector>>| selector.as_ref().map(|selector| self.selectors.adopt(selector));
        PeerTest {
            family: None,
            selector: shared(&wanted.selector),
            not_selector: shared(&wanted.not_selector),
            nodes: shared(&wanted.nodes),
            nets: wanted.nets.as_deref().map(<[_]>::to_vec),
            not_nets: wanted.not_nets.to_vec(),
            service: None,
        }
    }

    fn packet(&self, rule: &Rule) -> PacketTest {
        let ports = |ports: &[PortMatch], of: Direction| -> Vec<_> {
            ports.iter().flat_map(|port| self.port(port, of == self.direction)).collect()
        };
        // The destination is the own end of what comes in, the source of what goes out.
        let (to, from) = (Direction::Ingress, Direction::Egress);
        PacketTest {
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            ports: rule.destination.ports.as_deref().map(|wanted| ports(wanted, to)),
            not_ports: ports(&rule.destination.not_ports, to),
            source_ports: rule.source.ports.as_deref().map(|wanted| ports(wanted, from)),
            not_source_ports: ports(&rule.source.not_ports, from),
            service: None,
        }
    }

    fn port(&self, port: &PortMatch, is_own: bool) -> Vec<SetPort> {
        match port {
            PortMatch::Range(range) => vec![SetPort::Range(*range)],
            PortMatch::Named(name) if !is_own => vec![SetPort::PeerNamed(name.clone())],
            PortMatch::Named(name) if self.subject.addresses == OwnAddresses::Any => {
                vec![SetPort::OwnNamed(name.clone())]
            }
            PortMatch::Named(name) => {
                let Some(own) = self.subject.pod.ports else { return vec![SetPort::Unknown] };
                let own = own.iter().filter(|own| own.name == *name);
                own.map(|own| SetPort::Resolved(own.protocol, own.port)).collect()
            }
        }
    }
}

/// What an endpoint's addresses of one family answer to a test of the own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// All the same.
    Alike(Truth),
    /// It depends on the address.
    Differs,
}

/// Whether a test of excepted networks speaks of this family.
fn names_family(not_nets: &[Cidr], family: Family) -> bool {
    not_nets.is_empty() || not_nets.iter().any(|net| net.family() == family)
}

/// Whether every address matches.
fn asks_nothing(wanted: &EntityMatch) -> bool {
    let EntityMatch { selector, not_selector, nodes, nets, not_nets, .. } = wanted;
    selector.is_none() && not_selector.is_none() && nodes.is_none() && nets.is_none() && not_nets.is_empty()
}

fn action(action: Action) -> SetAction {
    match action {
        Action::Allow => SetAction::Allow,
        Action::Deny => SetAction::Deny,
        Action::Pass => SetAction::Pass,
        Action::Log => SetAction::Log,
    }
}
