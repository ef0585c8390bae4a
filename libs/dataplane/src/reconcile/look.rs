//! One look at what is in force: did other hands change it?
//! In: the `Desired` in force. Out: what was put back, what could not be, and the pass that changed interfaces needed.
//! Invariant: costs by what is served here, not by what the cluster has; the order of a pass is kept.
//! Never: commits, unless an interface changed; looks before a pass said what is wanted.

use super::tunnel::TUNNEL_HOOKS;
use super::{HOST_HOOKS, POD_HOOKS, Reconciler, is_guarded};
use crate::{
    drift::{DriftKind, Extent, Looked},
    host,
    links::Guards,
    network::{Network, Seen},
    programs::{Hook, in_full},
    tables::{Store, slice},
    uplink,
};
use calc::{EndpointSpec, Latest};
use model::{AttachmentId, IfaceName};
use netlink::{LOOPBACK, Link};
use std::collections::{BTreeMap, BTreeSet};

/// Pods whose settings one look reads: files, and so the dearest thing to look at.
const SETTINGS: usize = 32;

/// What a pass built on: of an interface its index, and whether a queueing discipline sits on it.
pub type Facts = BTreeMap<IfaceName, (u32, bool)>;

/// The facts of these interfaces.
pub fn facts<'a>(names: impl Iterator<Item = &'a IfaceName>, seen: &Seen) -> Facts {
    let fact =
        |name: &IfaceName| seen.links.get(name).map(|link| (name.clone(), (link.index.0, host::is_queued(link))));
    names.filter_map(fact).collect()
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// See [`crate::Dataplane::look`].
    pub fn look<'a>(&mut self, desired: impl Into<Latest<'a>>, extent: Extent) -> Looked {
        let (desired, mut looked) = (desired.into(), Looked::default());
        let seen = match self.network.list() {
            Ok(seen) => seen,
            Err(error) => {
                looked.failed("the host", "list what is there", in_full(&error));
                return looked;
            }
        };
        let is_moved = self.look_at_links(&seen, &mut looked) | self.look_at_tunnel(&seen, &mut looked);
        let mut is_unguarded = false;
        if extent == Extent::Everything {
            is_unguarded = self.look_at_guards(&seen, &mut looked);
            self.look_at_settings(&seen, &mut looked);
            self.look_at_ipip(&mut looked);
            self.look_at_tables(&mut looked);
        }
        if is_moved || is_unguarded {
            looked.applied = Some(self.apply(desired));
        } else {
            self.look_at_ways(&seen, &mut looked);
            self.look_at_node_routes(&seen, desired, &mut looked);
        }
        looked
    }

    /// Whether interfaces are others than those that the last pass built on.
    fn look_at_links(&self, seen: &Seen, looked: &mut Looked) -> bool {
        let now = facts(self.names_of_interest(), seen);
        for (name, (index, _)) in &now {
            match self.facts.get(name) {
                None => looked.repaired(DriftKind::Link, format!("{name} was gone and is there again, index {index}")),
                Some((before, _)) if before != index => {
                    looked
                        .repaired(DriftKind::Link, format!("{name} is another interface: index {before}, now {index}"));
                }
                Some(_) => {}
            }
        }
        now != self.facts
    }

    /// Whether a hook could not be guarded again: its endpoint is then to be let go.
    fn look_at_guards(&mut self, seen: &Seen, looked: &mut Looked) -> bool {
        let pods = self.wanted.values().filter_map(|endpoint| seen.links.get(&endpoint.interface));
        let mut hooks: Vec<(Hook, &Link)> = pods.flat_map(|link| POD_HOOKS.map(|hook| (hook, link))).collect();
        let uplink = self.uplink.as_ref().and_then(|name| seen.links.get(name));
        // Each before what takes its place after it.
        let of_ipip = self.uplink_of_ipip(seen);
        hooks.extend(of_ipip.map(|link| (Hook::FromIpip, link)));
        hooks.extend(self.own_links(seen).map(|link| (Hook::FromNode, link)));
        hooks.extend(uplink.map(|link| (Hook::ToUplink, link)));
        let own = self.hosts.keys().filter_map(|name| seen.links.get(name));
        hooks.extend(own.flat_map(|link| HOST_HOOKS.map(|hook| (hook, link))));
        hooks.extend(self.tunnel_link(seen).into_iter().flat_map(|link| TUNNEL_HOOKS.map(|hook| (hook, link))));
        let of_hosts: BTreeSet<_> = hooks.iter().map(|(_, link)| link.index).collect();
        let leaving = self.leaving(seen).filter(|link| !of_hosts.contains(&link.index));
        hooks.extend(leaving.map(|link| (Hook::ToHostEndpoint, link)));
        hooks.extend(uplink.map(|link| (Hook::FromUplink, link)));
        hooks.extend(of_ipip.map(|link| (Hook::ToIpip, link)));
        // One that was never guarded is for a pass.
        hooks.retain(|(hook, link)| self.guards.is_attached(*hook, link.index.0));
        let mut is_unguarded = false;
        for (hook, link) in hooks {
            let about = format!("{} on {}", hook.program(), link.name);
            match self.guards.mend(hook, link.index.0) {
                Ok(None) => {}
                Ok(Some(found)) => looked.repaired(DriftKind::Program, format!("{about}: {found}")),
                Err(error) => {
                    looked.failed(&link.name, format!("guard it again ({about})"), in_full(&error));
                    is_unguarded |= !self.guards.is_attached(hook, link.index.0);
                }
            }
        }
        match self.guards.mend_pins() {
            Ok(pinned) => {
                for map in pinned {
                    looked.repaired(DriftKind::Pin, format!("the pin of the map {map} was removed"));
                }
            }
            Err(error) => looked.failed("the pins", "pin the maps again", error),
        }
        is_unguarded
    }

    /// Settings of the uplink, of loopback and of the next few pods.
    fn look_at_settings(&mut self, seen: &Seen, looked: &mut Looked) {
        let uplink = self.uplink.iter().filter(|name| seen.links.contains_key(name));
        let loopback = seen.links.values().filter(|link| link.index == LOOPBACK && self.asks_by_packet);
        let loopback = loopback.map(|link| (&link.name, uplink::LOOPBACK));
        for interface in uplink.map(|name| (name, uplink::UPLINK)).chain(loopback) {
            let off = uplink::off(&self.network, interface);
            if let Some(found) = found_off(interface.0, off, looked) {
                match uplink::prepare(&mut self.network, interface, &self.state_dir) {
                    Ok(()) => found.into_iter().for_each(|text| looked.repaired(DriftKind::Setting, text)),
                    Err(reason) => looked.failed(interface.0, "set its sysctls again", reason),
                }
            }
        }
        for (id, endpoint) in slice(&self.wanted, &mut self.settings_seen, SETTINGS) {
            let Some(link) = seen.links.get(&endpoint.interface).filter(|link| self.prepared.contains(&link.index.0))
            else {
                continue;
            };
            let off = host::off(&self.network, link);
            if let Some(found) = found_off(id, off, looked) {
                match host::prepare(&mut self.network, link) {
                    Ok(()) => found.into_iter().for_each(|text| looked.repaired(DriftKind::Setting, text)),
                    Err(error) => looked.failed.push((id.to_string(), error)),
                }
            }
        }
    }

    fn look_at_tables(&mut self, looked: &mut Looked) {
        match self.tables.audit() {
            Ok(repairs) => repairs.into_iter().for_each(|text| looked.repaired(DriftKind::Table, text)),
            Err(error) => looked.failed("the tables", "hold them against what is in force", error),
        }
    }

    /// The link up, and the ways to each endpoint that is served.
    fn look_at_ways(&mut self, seen: &Seen, looked: &mut Looked) {
        for (id, endpoint) in &self.wanted {
            let Some(link) = seen.links.get(&endpoint.interface) else { continue };
            if !is_guarded(&self.guards, link) || !self.serves(id, link.index) {
                continue;
            }
            let missing = host::missing(seen, link, endpoint);
            if missing.is_empty() {
                continue;
            }
            match host::connect(&mut self.network, seen, link, endpoint) {
                Ok(()) => {
                    missing.into_iter().for_each(|(kind, text)| looked.repaired(kind, text));
                    self.in_force.insert(id.clone());
                }
                Err(error) => {
                    looked.failed.push((id.to_string(), error));
                    self.in_force.remove(id);
                }
            }
        }
    }

    /// Of what the last pass saw.
    pub(super) fn uplink_index(&self) -> Option<u32> {
        self.facts.get(self.uplink.as_ref()?).map(|(index, _)| *index)
    }

    pub(super) fn names_of_interest(&self) -> impl Iterator<Item = &IfaceName> {
        let pods = self.wanted.values().map(|endpoint: &EndpointSpec| &endpoint.interface);
        pods.chain(self.hosts.keys()).chain(self.uplink.as_ref()).chain(self.tunnel_name())
    }
}

/// What is not as it should be; `None`: all is, or it cannot be read.
fn found_off(
    item: impl std::fmt::Display,
    off: Result<Vec<String>, String>,
    looked: &mut Looked,
) -> Option<Vec<String>> {
    match off {
        Ok(off) => Some(off).filter(|off| !off.is_empty()),
        Err(reason) => {
            looked.failed(item, "read its sysctls", reason);
            None
        }
    }
}

/// Where the walk over the pods' settings has come to.
pub type SettingsSeen = Option<AttachmentId>;
