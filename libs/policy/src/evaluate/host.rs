//! The reference evaluator at a host endpoint: what Calico says of an interface of a node's own.
//! In: a host endpoint, one of its layers, a direction, and a flow. Out: what the layer says of it, or that it is not asked.
//! Invariant: as in the rest of the evaluator, addresses are looked at one by one, the own one as well as the peer's.
//! Never: decides which layers a packet meets, and in which order; that is the way of a packet.

use super::{Decider, Effect, Judgement, Packet, Subject, View, contains, note};
use crate::{DEFAULT_ALLOW, Flow, HostLayer, Verdict};
use model::{
    Direction, EffectiveLabels, Failsafe, HostEndpoint, HostInterface, Layer, NamespaceName, Policy, Rule, Truth,
};

/// Where a flow is asked about.
#[derive(Clone, Copy, Debug)]
pub struct AtHost<'a> {
    /// The host endpoint.
    pub host: &'a HostEndpoint,
    /// Which of its policies.
    pub layer: HostLayer,
    /// Ingress: what comes in by the interface. Egress: what leaves by it.
    pub direction: Direction,
}

/// What a layer of a host endpoint says of a flow. `None`: it asks nothing in this direction.
#[must_use]
pub fn evaluate_at(view: &View, at: AtHost<'_>, flow: &Flow) -> Option<Judgement> {
    view.is_asked(at).then(|| view.judge_at(at, &view.seen_at(flow, at)))
}

impl AtHost<'_> {
    /// A policy is for one layer, or for the node's own flows and, if it says so, for forwarded ones (HEP-4, HEP-5).
    pub(super) fn asks(self, policy: &Policy) -> bool {
        match self.layer {
            HostLayer::Untracked => policy.layer == Layer::Untracked,
            HostLayer::PreDnat => policy.layer == Layer::PreDnat,
            HostLayer::Forward => policy.layer == Layer::Ordinary { on_forward: true },
            HostLayer::Local => matches!(policy.layer, Layer::Ordinary { .. }),
        }
    }

    /// In the first two layers no tier has an end: the others are still to be asked (HEP-8, HEP-9).
    pub(super) fn has_an_end(self) -> bool {
        matches!(self.layer, HostLayer::Forward | HostLayer::Local)
    }
}

impl View {
    /// A flow as a host endpoint sees it.
    pub(crate) fn seen_at<'a>(&'a self, flow: &'a Flow, at: AtHost<'a>) -> Packet<'a> {
        let (source, destination) = (self.names_at(flow.source), self.names_at(flow.destination));
        Packet { flow, source, destination, subject: Subject::Host(at), direction: at.direction }
    }

    /// Without a policy, the node's own flows alone are asked about (HEP-1, HEP-5). Untracked policies are for named
    /// interfaces; one of them in either direction makes the layer. Before NAT only what comes in is asked about.
    fn is_asked(&self, at: AtHost<'_>) -> bool {
        let labels = EffectiveLabels::host_endpoint(&at.host.labels);
        let selects = |policy: &&Policy| policy.stage.is_none() && policy.subject.matches(&labels).possibly();
        let mut asked = self.policies.iter().filter(selects).filter(|policy| at.asks(policy));
        match at.layer {
            HostLayer::Local => true,
            HostLayer::Untracked => at.host.interface != Some(HostInterface::Any) && asked.next().is_some(),
            HostLayer::PreDnat if at.direction == Direction::Egress => false,
            HostLayer::PreDnat | HostLayer::Forward => asked.any(|policy| policy.applies(at.direction)),
        }
    }

    /// Failsafe ports first, then the tiers, then the host endpoint's own profiles.
    fn judge_at(&self, at: AtHost<'_>, packet: &Packet<'_>) -> Judgement {
        if let Some(failsafe) = self.failsafe(at, packet.flow) {
            let Failsafe { protocol, port, .. } = *failsafe;
            let decider = Decider::Failsafe { direction: at.direction, protocol, port };
            // Where no tier has an end, an open port is a matter of the layers that follow.
            let verdict = if at.has_an_end() { Verdict::Allow } else { Verdict::Next };
            return Judgement { verdict, decider, logs: Vec::new() };
        }
        let mut logs = Vec::new();
        let tiers = self.tiers_of(packet);
        let decided = tiers.iter().find_map(|(tier, policies)| self.ask_tier(tier, policies, packet, &mut logs));
        let (verdict, decider) = decided.unwrap_or_else(|| match at.layer {
            HostLayer::Untracked | HostLayer::PreDnat => (Verdict::Next, Decider::NoRule(at.direction)),
            HostLayer::Forward => (Verdict::Allow, Decider::Forwarded(at.direction)),
            HostLayer::Local => self.ask_own_profiles(at, packet, &mut logs),
        });
        Judgement { verdict, decider, logs }
    }

    /// A port at the far end of what opens here, or, without connection tracking, at the near end of what was opened there:
    /// its answers must pass too (HEP-7, HEP-8).
    fn failsafe(&self, at: AtHost<'_>, flow: &Flow) -> Option<&Failsafe> {
        let (there, back, peer) = match at.direction {
            Direction::Ingress => (&self.failsafes.inbound, &self.failsafes.outbound, flow.source),
            Direction::Egress => (&self.failsafes.outbound, &self.failsafes.inbound, flow.destination),
        };
        let open = |failsafe: &&Failsafe, port: u16| {
            let Failsafe { protocol, port: wanted, net } = **failsafe;
            protocol == flow.protocol && wanted == port && net.is_none_or(|net| contains(&[net], peer))
        };
        let to = || there.iter().find(|failsafe| open(failsafe, flow.detail));
        let from = || back.iter().find(|failsafe| open(failsafe, flow.source_port));
        match at.layer {
            HostLayer::Forward => None,
            HostLayer::Untracked => to().or_else(from),
            HostLayer::PreDnat | HostLayer::Local => to(),
        }
    }

    /// In the order of the list. One that is not there denies what comes to it (calico.md §5.7).
    fn ask_own_profiles(&self, at: AtHost<'_>, packet: &Packet<'_>, logs: &mut Vec<Decider>) -> (Verdict, Decider) {
        let direction = at.direction;
        for name in &at.host.profiles {
            let Some(rules) = self.rules_of(name, direction) else { break };
            for rule in rules {
                let decider = Decider::Profile { profile: name.clone(), direction, place: rule.place };
                match self.effect(&rule, Truth::Yes, packet) {
                    Effect::Next => {}
                    Effect::Log => note(logs, decider),
                    Effect::Pass => return (Verdict::Deny, decider),
                    Effect::Decide(verdict) => return (verdict, decider),
                }
            }
        }
        (Verdict::Deny, Decider::NoProfile(direction))
    }

    /// Calico makes a profile for each namespace that lets everything through, one without rules for each account, and one
    /// that lets everything through for whoever names it (HEP-13).
    pub(super) fn rules_of(&self, name: &str, direction: Direction) -> Option<Vec<Rule>> {
        if let Some(profile) = self.profile(name) {
            return Some(profile.rules(direction).to_vec());
        }
        if self.lets_through(name) {
            return Some(vec![Rule::new(0, model::Action::Allow)]);
        }
        let (namespace, account) = name.strip_prefix("ksa.")?.split_once('.')?;
        self.accounts.contains_key(&(namespace.into(), account.to_owned())).then(Vec::new)
    }

    /// Whether a profile is there by itself, where no object gives it, and lets everything through.
    pub(super) fn lets_through(&self, name: &str) -> bool {
        let has_namespace = |name: &str| self.namespaces.contains_key(&NamespaceName::from(name));
        name == DEFAULT_ALLOW || name.strip_prefix("kns.").is_some_and(has_namespace)
    }
}
