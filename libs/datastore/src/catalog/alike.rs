//! What objects say alike, once: the pods of a workload say the same of themselves, its policies ask for the same pods.
//! In: an object that was just read. Out: an equal one, whose names, labels and selectors are those of objects read before.
//! Invariant: what is shared is never changed; an object that changes is another object.
//! Never: keeps for long what no object says any more.

use model::{EntityMatch, Labels, NamespaceName, NodeName, Policy, Resource, Selector, Shared, SharedLabels, TierName};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Alike {
    names: Shared<str>,
    labels: SharedLabels,
    selectors: Shared<Selector>,
}

impl Alike {
    /// One that others hold already is left as it is.
    pub(super) fn share(&mut self, resource: &mut Arc<Resource>) {
        let Some(resource) = Arc::get_mut(resource) else { return };
        match resource {
            Resource::Pod(pod) => {
                let Some(pod) = Arc::get_mut(pod) else { return };
                self.namespace(&mut pod.id.namespace);
                pod.node.iter_mut().for_each(|node| self.node(node));
                pod.service_account.iter_mut().for_each(|account| self.name(account));
                self.labels(&mut pod.labels);
            }
            Resource::Policy(policy) => {
                if let Some(policy) = Arc::get_mut(policy) {
                    self.policy(policy);
                }
            }
            Resource::WorkloadAddress(address) => {
                self.namespace(&mut address.pod.namespace);
                self.node(&mut address.node);
                self.labels(&mut address.labels);
            }
            // There are few of them.
            _ => {}
        }
    }

    fn policy(&mut self, policy: &mut Policy) {
        self.namespace(&mut policy.id.namespace);
        let TierName(tier) = &mut policy.tier;
        self.name(tier);
        self.selector(&mut policy.subject);
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
            for EntityMatch { selector, not_selector, nodes, .. } in [&mut rule.source, &mut rule.destination] {
                [selector, not_selector, nodes].into_iter().flatten().for_each(|selector| self.selector(selector));
            }
        }
    }

    fn name(&mut self, name: &mut Arc<str>) {
        *name = self.names.adopt(name);
    }

    fn namespace(&mut self, NamespaceName(name): &mut NamespaceName) {
        self.name(name);
    }

    fn node(&mut self, NodeName(name): &mut NodeName) {
        self.name(name);
    }

    fn labels(&mut self, labels: &mut Labels) {
        *labels = labels.shared(&mut self.labels);
    }

    fn selector(&mut self, selector: &mut Arc<Selector>) {
        *selector = self.selectors.adopt(selector);
    }
}
