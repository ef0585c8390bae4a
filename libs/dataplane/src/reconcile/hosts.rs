//! The node's own interfaces that have a host endpoint: guarded before they are judged, let go after they were opened.
//! In: host endpoints as wanted, and what is attached. Out: programs in the hooks of exactly their interfaces.
//! Invariant: a program is taken away only where the tables name no host endpoint, and no packet is under way that they did.
//! Never: sets an interface of the node up or down; opens one that cannot be guarded again.

use super::{Pass, Reconciler, TABLES};
use crate::{
    ApplyError, Commit, host,
    links::Guards,
    network::{Network, Seen},
    programs::{Hook, in_full},
    tables::{Store, StoreError},
};
use abi::endpoint::ENDPOINT_HOST;
use calc::HostEndpointSpec;
use netlink::{LOOPBACK, Link};
use std::collections::BTreeSet;

/// The hooks of a host endpoint's interface.
pub const HOST_HOOKS: [Hook; 2] = [Hook::FromHostEndpoint, Hook::ToHostEndpoint];

/// Whether a program at this hook goes while its interface stays.
pub fn may_be_released(hook: Hook) -> bool {
    let of_ipip = matches!(hook, Hook::FromIpip | Hook::ToIpip);
    let of_tunnel = matches!(hook, Hook::FromTunnel | Hook::ToTunnel);
    HOST_HOOKS.contains(&hook) || matches!(hook, Hook::ToUplink | Hook::FromNode) || of_tunnel || of_ipip
}

/// What a host endpoint is called where something is wrong with it.
pub fn item(spec: &HostEndpointSpec) -> String {
    format!("host endpoint {} on {}", spec.name, spec.interface)
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Before the commit: until then the programs find no host endpoint, and let everything pass.
    pub(super) fn guard_hosts(&mut self, pass: &mut Pass) {
        for spec in self.hosts.values() {
            // One that is not there is refused by the commit.
            let Some(link) = pass.seen.links.get(&spec.interface) else { continue };
            if let Err(error) = HOST_HOOKS.into_iter().try_for_each(|hook| self.guards.attach(hook, link.index.0)) {
                let step = format!("guard {}", link.name);
                pass.failed.push((item(spec), ApplyError { step, reason: in_full(&error) }));
            }
        }
    }

    /// Where a foreign proxy translates: every way off the node, before anything is left to the stack. `false`: one is open, so
    /// that the revision stays what it was.
    pub(super) fn guard_leaving(&mut self, pass: &mut Pass) -> bool {
        let links: Vec<_> = self.leaving(&pass.seen).map(|link| (link.index.0, link.name.clone())).collect();
        for (index, name) in links {
            if let Err(error) = self.guards.attach(Hook::ToHostEndpoint, index) {
                pass.commit = Commit::Failed;
                pass.fail(TABLES.into(), &format!("judge what leaves by {name}"), &error);
                return false;
            }
        }
        true
    }

    /// The interfaces by which the stack may send what a pod sent to a service.
    pub(super) fn leaving<'s>(&self, seen: &'s Seen) -> impl Iterator<Item = &'s Link> + use<'s, N, G, S> {
        let is_own = |link: &&Link| link.index != LOOPBACK && !host::is_pods(link);
        seen.links.values().filter(is_own).take(if self.translates { usize::MAX } else { 0 })
    }

    /// Interfaces that can be judged: guarded in both directions, or judged already. One that is half guarded is not opened
    /// for that.
    pub(super) fn judgeable(&self, seen: &Seen) -> BTreeSet<u32> {
        let judged = self.judged();
        let indexes = self.hosts.keys().filter_map(|name| Some(seen.links.get(name)?.index.0));
        indexes.filter(|index| judged.contains(index) || self.is_gated(*index)).collect()
    }

    fn is_gated(&self, ifindex: u32) -> bool {
        HOST_HOOKS.iter().all(|hook| self.guards.is_attached(*hook, ifindex))
    }

    /// Interfaces that the tables name a host endpoint for.
    pub(super) fn judged(&self) -> BTreeSet<u32> {
        let image = self.tables.image();
        let is_hosts = |slot: &u32| image.endpoints.get(slot).is_some_and(|entry| entry.flags & ENDPOINT_HOST != 0);
        image.interfaces.iter().filter(|(_, slot)| is_hosts(slot)).map(|(index, _)| *index).collect()
    }

    /// Those that are guarded and judged.
    pub(super) fn note_hosts(&mut self, seen: &Seen) {
        let served = &self.tables.names().hosts;
        let in_force = self.hosts.keys().filter(|name| {
            let link = seen.links.get(name).filter(|_| served.contains_key(name));
            link.is_some_and(|link| self.is_gated(link.index.0))
        });
        self.hosts_in_force = in_force.cloned().collect();
    }

    /// See [`crate::Dataplane::sweep`].
    ///
    /// # Errors
    /// A table does not take a write.
    pub fn sweep(&mut self) -> Result<bool, StoreError> {
        let is_left = self.tables.sweep()?;
        if !is_left {
            self.release_hosts();
        }
        Ok(is_left)
    }

    /// As [`Self::sweep`], to its end.
    ///
    /// # Errors
    /// A table does not take a write.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        self.tables.settle()?;
        self.release_hosts();
        Ok(())
    }

    /// Takes programs from interfaces that have no host endpoint any more, that no answer leaves by, and where nothing is wrapped. What cannot be taken is tried again by the next
    /// sweep; it lets everything pass meanwhile.
    fn release_hosts(&mut self) {
        if !self.has_passed {
            return;
        }
        let wanted = self.hosts.keys().filter_map(|name| self.facts.get(name)).map(|(index, _)| *index);
        let kept: BTreeSet<u32> = wanted.chain(self.judged()).collect();
        for (index, hook) in self.guards.held() {
            let is_needed = match hook {
                Hook::ToUplink => self.may_answer(index),
                Hook::FromNode => self.may_lead(index),
                Hook::FromIpip | Hook::ToIpip => self.wraps_at(index),
                // They go with their device.
                Hook::FromTunnel | Hook::ToTunnel => true,
                hook => (self.translates && hook == Hook::ToHostEndpoint) || kept.contains(&index),
            };
            if !is_needed
                && may_be_released(hook)
                && let Err(error) = self.guards.detach(hook, index)
            {
                tracing::warn!(%error, "a program of the node's own interface stays, and lets everything pass");
            }
        }
    }
}
