//! Host endpoints of this node, as rule sets judge them.
//! In: policies, host endpoints and interfaces that changed. Out: what each host endpoint that governs anything asks.
//! Invariant: a host endpoint is built anew only if something it reads has changed.
//! Never: an index: a node has few host endpoints, and a policy that changes is held against each of them.

use super::judges::Judges;
use crate::{World, host, host::Layers};
use model::{HostEndpoint, Policy, PolicyId};
use policy::{Failsafes, Rulebook};
use std::collections::{BTreeMap, BTreeSet};

/// One that governs an interface, or is asked of pods' flows.
#[derive(Clone, Debug)]
struct Judged {
    /// The policies that select it.
    selecting: BTreeSet<PolicyId>,
    layers: Layers,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    /// All of this node.
    own: BTreeSet<String>,
    judged: BTreeMap<String, Judged>,
    /// Something has changed that they read.
    is_stale: bool,
}

impl Hosts {
    /// Takes in a host endpoint, or that there is none of this name.
    pub(super) fn put(&mut self, world: &World, name: &str) {
        let is_own = world.host_endpoints.get(name).is_some_and(|host| host.node == world.node);
        let was_own = self.own.remove(name);
        if is_own {
            self.own.insert(name.to_owned());
        }
        if is_own || was_own {
            self.judged.remove(name);
            self.is_stale = true;
        }
    }

    /// Takes in a policy, or that there is none of this name.
    pub(super) fn put_policy(&mut self, world: &World, id: &PolicyId) {
        let policy = world.policy(id);
        let selects = |name: &String| {
            let host = world.host_endpoints.get(name);
            policy.zip(host).is_some_and(|(policy, host)| selects(policy, host))
        };
        let before = self.judged.len();
        self.judged.retain(|name, judged| !judged.selecting.contains(id) && !selects(name));
        self.is_stale |= self.judged.len() < before;
    }

    /// All that are judged read something that has changed.
    pub(super) fn forget_all(&mut self) {
        self.judged.clear();
        self.is_stale = true;
    }

    /// Interfaces are there, or have addresses, that were not before.
    pub(super) fn interfaces_changed(&mut self) {
        self.is_stale = true;
    }

    /// Whether anything is to be built since it was last asked.
    pub(super) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.is_stale)
    }

    /// What `host` asks.
    pub(super) fn layers(
        &mut self,
        world: &World,
        host: &HostEndpoint,
        failsafes: &Failsafes,
        judges: &mut Judges,
    ) -> Layers {
        if let Some(judged) = self.judged.get(&host.name) {
            return judged.layers.clone();
        }
        let selecting: Vec<_> = world.policies().filter(|policy| selects(policy, host)).collect();
        let book = Rulebook::of(world.tiers.values(), selecting.iter().copied());
        let layers = judges.build_host(&book, host, &host::subject(world, host, failsafes));
        let selecting = selecting.into_iter().map(|policy| policy.id.clone()).collect();
        self.judged.insert(host.name.clone(), Judged { selecting, layers: layers.clone() });
        layers
    }

    /// Forgets what those ask that are not among `used`.
    pub(super) fn retain(&mut self, used: &BTreeSet<&String>) {
        self.judged.retain(|name, _| used.contains(name));
    }
}

fn selects(policy: &Policy, host: &HostEndpoint) -> bool {
    policy.subject.matches(&host::labels(host)).possibly()
}
