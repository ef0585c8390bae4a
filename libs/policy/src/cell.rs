//! What is left of a rule set once the peer is known: a set that asks of the own address alone.
//! In: a rule set's rules that a class can meet, and the class. Out: the set that a row's `Cell` spans name.
//! Invariant: it answers an own class as the whole set answers both classes; equal remains are equal sets.
//! Never: asks the peer anything more.

use crate::{
    Class, PacketTest, PolicyRules, ProfileRules, Profiles, RuleSet, SetPort, SetRule, TierRules,
    compile::{end_matches, numbers},
};
use model::Protocol;

/// The set that is left. `rules` finds those of a tier, and after the last tier those of the profiles, each with its
/// policy's or profile's place.
pub(crate) fn remainder<'a, I>(set: &RuleSet, class: &Class, rules: impl Fn(usize) -> I) -> RuleSet
where
    I: Iterator<Item = (usize, &'a SetRule)>,
{
    let left = |at: usize, lists: usize| {
        let mut left = vec![Vec::new(); lists];
        for (list, rule) in rules(at) {
            left[list].extend(of_rule(rule, class));
        }
        left
    };
    let tier = |(at, tier): (usize, &TierRules)| {
        let rules = tier.policies.iter().zip(left(at, tier.policies.len()));
        let policies = rules.map(|(policy, rules)| PolicyRules { id: policy.id.clone(), rules });
        TierRules { name: tier.name.clone(), end: tier.end, policies: policies.collect() }
    };
    let profiles = match &set.profiles {
        Profiles::Given(profiles) => {
            let rules = profiles.iter().zip(left(set.tiers.len(), profiles.len()));
            let profiles = rules.map(|(profile, rules)| ProfileRules { name: profile.name.clone(), rules });
            Profiles::Given(profiles.collect())
        }
        other @ (Profiles::Implied | Profiles::Open | Profiles::Unasked) => other.clone(),
    };
    let failsafes = set.failsafes.iter().filter_map(|rule| of_rule(rule, class)).collect();
    RuleSet {
        failsafes,
        tiers: set.tiers.iter().enumerate().map(tier).collect(),
        profiles,
        ..RuleSet::new(set.direction)
    }
}

fn of_rule(rule: &SetRule, class: &Class) -> Option<SetRule> {
    let action = rule.action.given(end_matches(&rule.peer, class))?;
    let ports = |ports: &[SetPort]| ports.iter().flat_map(|port| resolved(port, class)).collect::<Vec<_>>();
    let test = &rule.packet;
    let packet = PacketTest {
        protocol: test.protocol,
        not_protocol: test.not_protocol,
        icmp: test.icmp,
        not_icmp: test.not_icmp,
        ports: served(test, class).or_else(|| test.ports.as_deref().map(ports)),
        not_ports: ports(&test.not_ports),
        service: None,
        source_ports: test.source_ports.as_deref().map(ports),
        not_source_ports: ports(&test.not_source_ports),
    };
    Some(SetRule { packet, peer: rule.own.clone(), ..SetRule::new(rule.place, action) })
}

/// The ports at which the peer serves what the rule asks for, if it asks for a service.
fn served(test: &PacketTest, class: &Class) -> Option<Vec<SetPort>> {
    let service = test.service.as_ref()?;
    let among = |protocol: Protocol, port: u16| {
        let mut wanted = test.ports.as_ref()?.iter().flat_map(|wanted| numbers(wanted, protocol, class));
        Some(wanted.any(|numbers| numbers.contains(&port.into())))
    };
    let ports = class.services.get(service).into_iter().flatten();
    let ports = ports.filter(|(protocol, port)| among(*protocol, *port).unwrap_or(true));
    Some(ports.map(|(protocol, port)| SetPort::Resolved(*protocol, *port)).collect())
}

fn resolved(port: &SetPort, class: &Class) -> Vec<SetPort> {
    match port {
        SetPort::PeerNamed(_) if class.unknown_ports => vec![SetPort::Unknown],
        SetPort::PeerNamed(name) => {
            let named = class.ports.iter().filter(|port| port.name == *name);
            named.map(|port| SetPort::Resolved(port.protocol, port.port)).collect()
        }
        // The own end is this set's peer.
        SetPort::OwnNamed(name) => vec![SetPort::PeerNamed(name.clone())],
        SetPort::Range(_) | SetPort::Resolved(..) | SetPort::Unknown => vec![port.clone()],
    }
}
