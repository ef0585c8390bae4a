//! The compiled answer without a kernel: a view's rule sets and classes, and a flow judged by their rows.
//! In: a [`View`] and flows. Out: the same [`Outcome`] that the evaluator gives, read from rows.
//! Invariant: walks as a program does: pod by address, class by address, span by `x`.
//! Never: reads a policy when it judges; only what is left of it in a rule set.

use crate::{Active, Class, Endpoint, Flow, Judgement, Outcome, PodFacts, RuleSet, Selectors, Verdict, View, row};
use abi::rules::x_of;
use model::{Cidr, Direction, Policy};
use std::net::IpAddr;

/// What a node that had all pods of the view would hold.
#[derive(Debug)]
pub struct Compiled<'a> {
    view: &'a View,
    /// Ingress and egress rule sets, by place in `view.endpoints`.
    pub sets: Vec<(RuleSet, RuleSet)>,
    /// What the rule sets ask of peers.
    pub active: Active,
}

impl<'a> Compiled<'a> {
    /// Builds every rule set of the view.
    #[must_use]
    pub fn of(view: &'a View) -> Self {
        let mut policies: Vec<_> = view.policies.iter().collect();
        policies.sort_by_key(|policy| (policy.order, &policy.id));
        let mut selectors = Selectors::default();
        let mut set = |endpoint: &Endpoint, direction| {
            let facts = facts(view, endpoint);
            let subject = |policy: &&Policy| {
                let Policy { subject, .. } = policy;
                subject.matches(facts.namespace, facts.namespace_labels, facts.labels)
            };
            let applies = |policy: &&Policy| policy.applies(direction) && subject(policy);
            let applying: Vec<_> = policies.iter().copied().filter(applies).collect();
            RuleSet::build(&applying, direction, &endpoint.ports, &mut selectors)
        };
        let both = |endpoint| (set(endpoint, Direction::Ingress), set(endpoint, Direction::Egress));
        let sets: Vec<_> = view.endpoints.iter().map(both).collect();
        let active = Active::of(sets.iter().flat_map(|(ingress, egress)| [ingress, egress]));
        Self { view, sets, active }
    }

    /// The class of an address.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> Class {
        let pod = self.endpoint(address).map(|at| facts(self.view, &self.view.endpoints[at]));
        Class::of(&self.active, &Cidr::host(address), pod.as_ref())
    }

    /// Judges a flow by rows.
    #[must_use]
    pub fn outcome(&self, flow: &Flow) -> Outcome {
        let egress = self.endpoint(flow.source).map(|at| self.judge(&self.sets[at].1, flow.destination, flow));
        let refused = egress.as_ref().is_some_and(|egress| egress.verdict == Verdict::Deny);
        let let_in = self.view.host.iter().any(|net| net.contains(flow.source));
        let receiver = self.endpoint(flow.destination).filter(|_| !refused && !let_in);
        let ingress = receiver.map(|at| self.judge(&self.sets[at].0, flow.source, flow));
        Outcome { egress, ingress }
    }

    fn endpoint(&self, address: IpAddr) -> Option<usize> {
        self.view.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address))
    }

    fn judge(&self, set: &RuleSet, peer: IpAddr, flow: &Flow) -> Judgement {
        let row = row(set, &self.class(peer));
        let span = row.at(x_of(flow.protocol.0, flow.detail)).expect("because a row's first span starts at 0");
        Judgement { verdict: span.verdict, decider: span.decider.clone() }
    }
}

fn facts<'a>(view: &'a View, endpoint: &'a Endpoint) -> PodFacts<'a> {
    PodFacts {
        namespace: &endpoint.id.namespace,
        namespace_labels: view.namespaces.get(&endpoint.id.namespace),
        labels: &endpoint.labels,
        ports: &endpoint.ports,
    }
}
