//! Host endpoints of this node, as rule sets judge them.
//! In: policies, host endpoints and interfaces that changed. Out: what each host endpoint that governs anything asks.
//! Invariant: a host endpoint is built anew only if something it reads has changed.
//! Never: an index: a node has few host endpoints, and a policy that changes is held against each of them.

use super::judges::Judges;
use crate::{World, host, host::Layers};
use model::{HostEndpoint, Policy, PolicyId};
use policy::Failsafes;
use std::collections::{BTreeMap, BTreeSet};

/// One that governs an interface, or is asked of pods' flows.
#[derive(Clone, Debug)]
struct Judged {
    /// The policies that select it.
    selecting: BTreeSet<PolicyId>,
    /// `None`: to be built anew.
    layers: Option<Layers>,
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
        for (name, judged) in &mut self.judged {
            let host = world.host_endpoints.get(name);
            let selected = judged.selecting.remove(id);
            let selects = policy.zip(host).is_some_and(|(policy, host)| selects(policy, host));
            if selects {
                judged.selecting.insert(id.clone());
            }
            // A staged one may end, or take the place of, one that selects it.
            let spoken_of = id.kind.is_staged() && judged.selecting.contains(&id.enforced());
            if selected || selects || spoken_of {
                judged.layers = None;
                self.is_stale = true;
            }
        }
    }

    /// All that are judged read something that has changed.
    pub(super) fn forget_all(&mut self) {
        self.judged.values_mut().for_each(|judged| judged.layers = None);
        self.is_stale = true;
    }

    /// All of this node, by name.
    pub(super) fn own<'a>(&self, world: &'a World) -> Vec<&'a HostEndpoint> {
        self.own.iter().filter_map(|name| world.host_endpoints.get(name)).collect()
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
        let asked =
            || world.policies().filter(|policy| selects(policy, host)).map(|policy| policy.id.clone()).collect();
        let judged = self.judged.entry(host.name.clone());
        let judged = judged.or_insert_with(|| Judged { selecting: asked(), layers: None });
        let mut build = || {
            let selecting: Vec<_> = judged.selecting.iter().filter_map(|id| world.policy(id)).collect();
            judges.build_host(world, &selecting, host, &host::subject(world, host, failsafes))
        };
        judged.layers.get_or_insert_with(&mut build).clone()
    }

    /// Forgets what those ask that are not among `used`.
    pub(super) fn retain(&mut self, used: &BTreeSet<&String>) {
        self.judged.retain(|name, _| used.contains(name));
    }
}

fn selects(policy: &Policy, host: &HostEndpoint) -> bool {
    policy.subject.matches(&host::labels(host)).possibly()
}
