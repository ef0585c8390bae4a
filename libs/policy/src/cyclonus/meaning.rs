//! What Kubernetes says that policies mean, once more: a second evaluator, of policies as written.
//! In: a cluster and a flow. Out: whether it passes.
//! Invariant: shares nothing with the evaluator or the compiler: no selector, no rule, no tier of `model`.
//! Never: any other kind of policy; a flow that does not run between two pods.

use super::{
    Action, Cluster, Decide, Name, NetworkPolicy, Number, Peer, Port, Wanted,
    cluster::{Given, address, ports},
};
use crate::Flow;
use model::Direction;
use std::net::IpAddr;

/// A pod and its labels.
type Pod<'a> = ((Name, Name), &'a Given);

impl Cluster {
    /// Both ends must let it pass, each by its own policies.
    #[must_use]
    pub fn lets(&self, flow: &Flow) -> bool {
        let (from, to) = (self.pod_at(flow.source), self.pod_at(flow.destination));
        self.end_lets(Direction::Egress, from, to, flow) && self.end_lets(Direction::Ingress, to, from, flow)
    }

    /// The admin tier first, then NetworkPolicies if one isolates the pod, else the baseline, else all is open.
    fn end_lets(&self, direction: Direction, own: Pod<'_>, other: Pod<'_>, flow: &Flow) -> bool {
        let isolating: Vec<_> = self.policies.values().filter(|policy| self.isolates(policy, direction, own)).collect();
        let by_policies = || isolating.iter().any(|policy| self.allows(policy, direction, other, flow));
        match self.tier(true, direction, own, other, flow) {
            Some(lets) => lets,
            None if !isolating.is_empty() => by_policies(),
            None => self.tier(false, direction, own, other, flow).unwrap_or(true),
        }
    }

    fn isolates(&self, policy: &NetworkPolicy, direction: Direction, ((namespace, _), labels): Pod<'_>) -> bool {
        rules(policy, direction).is_some() && policy.namespace == namespace && policy.pods.matches(labels)
    }

    fn allows(&self, policy: &NetworkPolicy, direction: Direction, other: Pod<'_>, flow: &Flow) -> bool {
        rules(policy, direction).into_iter().flatten().any(|rule| {
            let whom =
                rule.peers.is_empty() || rule.peers.iter().any(|peer| self.is(peer, policy.namespace, other, flow));
            whom && (rule.ports.is_empty()
                || rule.ports.iter().any(|port| port.is_of(flow, flow.protocol == model::Protocol::TCP)))
        })
    }

    /// `None`: no rule decides, or one passes.
    fn tier(&self, admin: bool, direction: Direction, own: Pod<'_>, other: Pod<'_>, flow: &Flow) -> Option<bool> {
        let mut policies: Vec<_> = self.cluster_policies.iter().filter(|policy| policy.is_admin == admin).collect();
        policies.sort_by_key(|policy| policy.priority);
        let selected = policies.into_iter().filter(|policy| {
            let (namespaces, pods) = &policy.subject;
            namespaces.matches(&self.namespaces[own.0.0]) && pods.matches(own.1)
        });
        let rules = selected.flat_map(|policy| match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        });
        let matching = |rule: &&Decide| {
            let whom = rule.peers.iter().any(|peer| self.is(peer, "", other, flow));
            whom && (rule.ports.is_empty() || rule.ports.iter().any(|port| port.is_of(flow, true)))
        };
        match rules.into_iter().find(matching)?.action {
            Action::Accept => Some(true),
            Action::Deny => Some(false),
            Action::Pass => None,
        }
    }

    /// Without a selector of namespaces it is the policy's own.
    fn is(&self, peer: &Peer, namespace: Name, ((of, name), labels): Pod<'_>, flow: &Flow) -> bool {
        match peer {
            Peer::Pods { pods, namespaces } => {
                let in_namespace = match namespaces {
                    Some(wanted) => wanted.matches(&self.namespaces[of]),
                    None => of == namespace,
                };
                in_namespace && pods.as_ref().is_none_or(|wanted| wanted.matches(labels))
            }
            Peer::Block { net, except } => {
                let address = address(of, name, flow.source.is_ipv4());
                net.contains(address) && !except.iter().any(|hole| hole.contains(address))
            }
        }
    }

    fn pod_at(&self, wanted: IpAddr) -> Pod<'_> {
        let mut pods = self.pods.iter().map(|(id, labels)| (*id, labels));
        let at = |((namespace, name), _): &Pod<'_>| address(namespace, name, wanted.is_ipv4()) == wanted;
        pods.find(at).expect("because flows run between pods of the cluster")
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&Vec<super::Allow>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

impl Wanted {
    fn matches(&self, labels: &Given) -> bool {
        let equal = self.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal
            && self
                .expressions
                .iter()
                .all(|(key, is_in, values)| labels.get(key).is_some_and(|has| values.contains(has)) == *is_in)
    }
}

impl Port {
    /// Which protocol one without any is of differs by kind.
    fn is_of(&self, flow: &Flow, unsaid: bool) -> bool {
        let is_named = |name: Name| {
            ports().any(|own| *own.name.0 == *name && own.protocol == flow.protocol && own.port == flow.detail)
        };
        let number = match self.number {
            None => true,
            Some(Number::Range(first, last)) => (first..=last).contains(&flow.detail),
            Some(Number::Named(name)) => is_named(name),
        };
        self.protocol.map_or(unsaid, |protocol| protocol == flow.protocol) && number
    }
}
