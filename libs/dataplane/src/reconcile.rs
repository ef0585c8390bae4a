//! One pass from what is there to what is wanted: guard, commit, connect, sweep.
//! In: a `Desired`; the network, the guards and the tables it acts on. Out: what is in force, and what failed.
//! Invariant: an interface is guarded before its policy is in force, and in force before it is set up and reached.
//! Never: stops for one bad item; takes a way away while the tables still lead there; touches what is not ours.

use crate::{
    Applied, ApplyError, Commit, Laps, OpenError, host,
    links::Guards,
    masquerade,
    network::{Network, Seen},
    programs::{Hook, in_full},
    sources::{self, Sources},
    tables::{CommitError, Guarded, Store, Tables, Write, prefix},
    uplink,
};
use abi::Masquerade;
use answers::Answers;
use calc::{EndpointSpec, HostEndpointSpec, Latest, NodeSpec, Owner};
use hosts::HOST_HOOKS;
use ipip::Ipip;
use look::{Facts, SettingsSeen};
use model::{AttachmentId, IfaceName, Ifindex};
use netlink::Link;
use node_routes::NodeRoutes;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};
use tunnel::Tunnel;

mod answers;
mod hosts;
pub(crate) mod ipip;
mod look;
pub(crate) mod node_routes;
mod own;
pub(crate) mod tunnel;

/// The hooks of a pod's interface.
const POD_HOOKS: [Hook; 2] = [Hook::FromWorkload, Hook::ToWorkload];

/// Items that all pods share.
const HOST: &str = "the host";
const TABLES: &str = "the tables";

/// What one node's passes act on, and what they remember.
#[derive(Debug)]
pub struct Reconciler<N, G, S> {
    pub network: N,
    pub guards: G,
    pub tables: Tables<S>,
    /// Endpoints as wanted.
    pub wanted: BTreeMap<AttachmentId, EndpointSpec>,
    /// Endpoints that are guarded, judged and reached.
    pub in_force: BTreeSet<AttachmentId>,
    /// Host endpoints as wanted, and those that are guarded and judged.
    pub hosts: BTreeMap<IfaceName, HostEndpointSpec>,
    pub hosts_in_force: BTreeSet<IfaceName>,
    /// What holds for the node as a whole, as wanted.
    pub wanted_of_node: NodeSpec,
    /// The node's own packets are led to services one by one, for nobody asks when its sockets call.
    pub asks_by_packet: bool,
    /// They were by a former agent, and are not any more: what they opened goes on.
    pub keeps_asked: bool,
    /// A foreign proxy translates, or did, or its rules are there: what it has opened still goes through the stack.
    translates: bool,
    /// A pass said what is wanted.
    has_passed: bool,
    uplink: Option<IfaceName>,
    state_dir: PathBuf,
    /// Interfaces whose settings were made: a pass does not look at them again, a look does.
    prepared: BTreeSet<u32>,
    /// What the last pass built on.
    facts: Facts,
    settings_seen: SettingsSeen,
    /// The host's addresses, as they were last desired.
    own: Own,
    node_routes: NodeRoutes,
    tunnel: Tunnel,
    ipip: Ipip,
    /// Services behind which they stand.
    answers: Answers,
    /// Those among which the sources of ICMP errors were chosen.
    speaks: Option<BTreeSet<IpAddr>>,
    /// What was chosen.
    spoken: Sources,
    /// As whom this node stands for its pods, as it was written last.
    stands: Option<[Masquerade; 2]>,
}

/// The host's addresses, followed from one Desired to the next.
#[derive(Debug, Default)]
struct Own {
    addresses: BTreeSet<IpAddr>,
    number: Option<u64>,
}

impl Own {
    fn hear(&mut self, latest: Latest<'_>) {
        let is_own = |address: &IpAddr| latest.addresses.get(address).is_some_and(|spec| spec.owner == Owner::Host);
        match latest.since(self.number) {
            Some(touched) => {
                self.addresses.retain(|address| !touched.addresses.contains(address));
                self.addresses.extend(touched.addresses.iter().filter(|address| is_own(address)));
            }
            None => self.addresses = latest.addresses.keys().filter(|address| is_own(address)).copied().collect(),
        }
        self.number = latest.number();
    }
}

/// What a pass saw, and what went wrong so far.
struct Pass {
    seen: Arc<Seen>,
    commit: Commit,
    services_full: bool,
    failed: Vec<(String, ApplyError)>,
}

impl Pass {
    fn fail(&mut self, item: String, step: &str, error: &dyn std::error::Error) {
        self.failed.push((item, ApplyError { step: step.to_owned(), reason: in_full(error) }));
    }
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Over tables that were adopted.
    pub fn new(network: N, guards: G, tables: Tables<S>, uplink: Option<IfaceName>, state_dir: PathBuf) -> Self {
        Self {
            network,
            guards,
            tables,
            wanted: BTreeMap::new(),
            in_force: BTreeSet::new(),
            hosts: BTreeMap::new(),
            hosts_in_force: BTreeSet::new(),
            wanted_of_node: NodeSpec::default(),
            asks_by_packet: false,
            keeps_asked: false,
            translates: false,
            has_passed: false,
            uplink,
            state_dir,
            prepared: BTreeSet::new(),
            facts: Facts::new(),
            settings_seen: None,
            own: Own::default(),
            node_routes: NodeRoutes::default(),
            tunnel: Tunnel::default(),
            ipip: Ipip::default(),
            answers: Answers::default(),
            speaks: None,
            spoken: Sources::default(),
            stands: None,
        }
    }

    /// The uplink, and every interface that the tables adopted or a former agent guarded: from now on the present programs
    /// run there. Whether they run everywhere.
    pub fn start(&mut self) -> Result<bool, OpenError> {
        let mut everywhere = true;
        let seen = self.network.list().map_err(|error| OpenError::Netlink { reason: error.to_string() })?;
        for link in seen.links.values() {
            for hook in self.adopted_hooks(link.index.0) {
                // What was attached before goes on working; the first `apply` tries again and reports.
                if let Err(error) = self.guards.attach(hook, link.index.0) {
                    everywhere = false;
                    tracing::warn!(interface = %link.name, %error, "the former programs stay attached");
                }
            }
        }
        let Some(interface) = self.uplink.clone() else { return Ok(everywhere) };
        let guarded = self.guard_uplink(&interface, &seen);
        guarded.map(|()| everywhere).map_err(|reason| OpenError::Uplink { interface, reason })
    }

    /// The hooks of an interface that former programs guard.
    fn adopted_hooks(&self, ifindex: u32) -> BTreeSet<Hook> {
        let held =
            self.guards.held().into_iter().filter(|(index, hook)| *index == ifindex && hosts::may_be_released(*hook));
        let of_host = if self.judged().contains(&ifindex) { &HOST_HOOKS[..] } else { &[] };
        let is_pods = of_host.is_empty() && self.tables.image().interfaces.contains_key(&ifindex);
        let of_pod = if is_pods { &POD_HOOKS[..] } else { &[] };
        held.map(|(_, hook)| hook).chain(of_host.iter().chain(of_pod).copied()).collect()
    }

    /// See [`crate::Dataplane::apply`].
    pub fn apply<'a>(&mut self, desired: impl Into<Latest<'a>>) -> Applied {
        let (desired, mut laps) = (desired.into(), Laps::start());
        self.wanted = desired.endpoints.clone();
        self.hosts = desired.host_endpoints.clone();
        self.wanted_of_node = desired.node.clone();
        self.translates |= desired.node.translates || desired.node.beside;
        self.has_passed = true;
        self.in_force.retain(|id| desired.endpoints.contains_key(id) || self.tables.names().endpoints.contains_key(id));
        let mut pass = match self.network.list() {
            Ok(seen) => Pass { seen, commit: Commit::default(), services_full: false, failed: Vec::new() },
            Err(error) => {
                let error = ApplyError { step: "list what is there".into(), reason: in_full(&error) };
                return self.applied(Commit::Failed, vec![(HOST.into(), error)]);
            }
        };
        laps.lap("list");
        self.facts = look::facts(self.names_of_interest(), &pass.seen);
        self.guard(&mut pass);
        self.guard_own(&mut pass);
        self.guard_answers(&mut pass, desired);
        self.guard_ipip(&mut pass, desired);
        self.guard_tunnel(&mut pass, desired);
        self.facts = look::facts(self.names_of_interest(), &pass.seen);
        laps.lap("guard");
        self.speak(&mut pass, desired);
        self.stand_for_pods(&mut pass);
        let is_committed = self.guard_leaving(&mut pass) && self.commit(&mut pass, desired);
        laps.lap("commit");
        self.connect(&mut pass);
        self.note_hosts(&pass.seen);
        self.route_nodes(&pass, desired);
        self.forget_tunnels(&mut pass);
        laps.lap("connect");
        if is_committed {
            self.sweep_ways(&mut pass);
        }
        self.sweep_pins(&mut pass);
        laps.lap("sweep");
        tracing::debug!(target: "laps", %laps, "pass");
        Applied { services_full: pass.services_full, ..self.applied(pass.commit, pass.failed) }
    }

    fn applied(&self, commit: Commit, failed: Vec<(String, ApplyError)>) -> Applied {
        let shared = |item: &str| item == HOST || item == TABLES || self.uplink.as_ref().is_some_and(|up| up.0 == item);
        let limited = failed.iter().any(|(item, _)| shared(item));
        let (generation, ok) = (self.tables.image().generation, self.in_force.len());
        Applied { generation, commit, ok, failed, limited, services_full: false }
    }

    /// Programs first: nothing is in force on an interface that is not guarded.
    fn guard(&mut self, pass: &mut Pass) {
        let present = pass.seen.indexes();
        self.guards.forget_others(&present);
        self.prepared.retain(|index| present.contains(index));
        if let Some(name) = self.uplink.clone()
            && let Err(reason) = self.guard_uplink(&name, &pass.seen)
        {
            let error = ApplyError { step: format!("guard the uplink {name}"), reason };
            pass.failed.push((name.to_string(), error));
        }
        self.guard_hosts(pass);
        for (id, endpoint) in &self.wanted {
            // One that is not there is refused by the commit.
            let Some(link) = pass.seen.links.get(&endpoint.interface) else { continue };
            if !self.prepared.contains(&link.index.0) {
                match host::prepare(&mut self.network, link) {
                    Ok(()) => drop(self.prepared.insert(link.index.0)),
                    Err(error) => pass.failed.push((id.to_string(), error)),
                }
            }
            if let Err(error) = POD_HOOKS.into_iter().try_for_each(|hook| self.guards.attach(hook, link.index.0)) {
                let step = format!("guard {}", link.name);
                pass.failed.push((id.to_string(), ApplyError { step, reason: in_full(&error) }));
            }
        }
    }

    fn guard_uplink(&mut self, name: &IfaceName, seen: &Seen) -> Result<(), String> {
        let link = seen.links.get(name).ok_or("there is no such interface; give the node's own with --uplink")?;
        uplink::prepare(&mut self.network, (name, uplink::UPLINK), &self.state_dir)?;
        self.guards.attach(Hook::FromUplink, link.index.0).map_err(|error| in_full(&error))
    }

    /// Whether the tables hold what is wanted. If not, they hold the previous revision, its ways with it.
    fn commit(&mut self, pass: &mut Pass, desired: Latest<'_>) -> bool {
        let judgeable = self.judgeable(&pass.seen);
        let guarded = |name: &IfaceName| {
            let link = pass.seen.links.get(name)?;
            let is_guarded = match self.hosts.contains_key(name) {
                true => judgeable.contains(&link.index.0),
                false => is_guarded(&self.guards, link),
            };
            let is_uplink = self.uplink.as_ref() == Some(name);
            is_guarded.then(|| Guarded { ifindex: link.index.0, is_queued: host::is_queued(link), is_uplink })
        };
        match self.tables.commit(desired, &guarded) {
            Ok(committed) => {
                pass.commit = if committed.changed { Commit::InForce } else { Commit::Unchanged };
                let told: BTreeSet<_> = pass.failed.iter().map(|(item, _)| item.clone()).collect();
                for (id, refusal) in committed.refused.iter().filter(|(id, _)| !told.contains(&id.to_string())) {
                    pass.fail(id.to_string(), "serve the endpoint", refusal);
                }
                for (name, refusal) in &committed.refused_hosts {
                    let item = self.hosts.get(name).map(hosts::item).unwrap_or_default();
                    if !told.contains(&item) {
                        pass.fail(item, "put its rules in force", refusal);
                    }
                }
                true
            }
            Err(error) => {
                pass.commit = if matches!(error, CommitError::Store(_)) { Commit::Failed } else { Commit::Refused };
                pass.services_full = matches!(error, CommitError::Services(_));
                pass.fail(TABLES.into(), "put the new revision in force", &error);
                false
            }
        }
    }

    /// The ways to each endpoint, once its policy is in force. One that nobody wants is in force as long as the tables
    /// hold it: after a failed commit its addresses are not free yet.
    fn connect(&mut self, pass: &mut Pass) {
        let held = self.tables.names().endpoints.keys();
        self.in_force = held.filter(|id| !self.wanted.contains_key(id)).cloned().collect();
        for (id, endpoint) in &self.wanted {
            let Some(link) = pass.seen.links.get(&endpoint.interface) else { continue };
            if !is_guarded(&self.guards, link) || !self.serves(id, link.index) {
                continue;
            }
            match host::connect(&mut self.network, &pass.seen, link, endpoint) {
                Ok(()) => drop(self.in_force.insert(id.clone())),
                Err(error) => pass.failed.push((id.to_string(), error)),
            }
        }
    }

    fn serves(&self, id: &AttachmentId, index: Ifindex) -> bool {
        let slot = self.tables.names().endpoints.get(id);
        slot.and_then(|slot| self.tables.image().endpoints.get(slot)).is_some_and(|entry| entry.ifindex == index.0)
    }

    /// Where this node's ICMP errors come from. The uplink is asked when the host's addresses have changed.
    fn speak(&mut self, pass: &mut Pass, desired: Latest<'_>) {
        self.own.hear(desired);
        let own = &self.own.addresses;
        if self.speaks.as_ref() == Some(own) {
            return;
        }
        let uplink = self.uplink.as_ref().and_then(|name| pass.seen.links.get(name));
        let on_uplink = match uplink.map(|link| self.network.addresses(link.index)).transpose() {
            Ok(listed) => listed.unwrap_or_default(),
            Err(error) => return pass.fail("ICMP errors".into(), "list the uplink's addresses", &error),
        };
        let chosen = sources::choose(own, &on_uplink);
        for (family, source) in (0..).zip(chosen) {
            let address = source.and_then(prefix::address_key).unwrap_or_default();
            if let Err(error) = self.tables.store_mut().write(&Write::Source(family, address)) {
                return pass.fail("ICMP errors".into(), "set the address they come from", &error);
            }
        }
        (self.speaks, self.spoken) = (Some(own.clone()), chosen);
    }

    /// As whom this node stands for its pods, IPv4 and IPv6, if that was written.
    pub fn stands(&self) -> Option<&[Masquerade; 2]> {
        self.stands.as_ref()
    }

    /// Written before what asks for it is in force, and whenever the uplink is another.
    fn stand_for_pods(&mut self, pass: &mut Pass) {
        let uplink = self.uplink.as_ref().and_then(|name| pass.seen.links.get(name)).map(|link| link.index.0);
        let stands = masquerade::stands(self.wanted_of_node.masquerading.as_ref(), self.spoken, uplink);
        if self.stands == Some(stands) {
            return;
        }
        for (family, own) in (0..).zip(stands) {
            if let Err(error) = self.tables.store_mut().write(&Write::Masquerade(family, own)) {
                return pass.fail("NAT of what leaves".into(), "set as whom this node stands for its pods", &error);
            }
        }
        self.stands = Some(stands);
    }

    /// Takes away the ways to endpoints that are no longer wanted: the tables have forgotten them.
    fn sweep_ways(&mut self, pass: &mut Pass) {
        let mut ways: BTreeSet<(Ifindex, IpAddr)> = BTreeSet::new();
        for endpoint in self.wanted.values() {
            if let Some(link) = pass.seen.links.get(&endpoint.interface) {
                ways.extend(host::reached(endpoint).map(|address| (link.index, address)));
            }
        }
        pass.failed.extend(host::sweep(&mut self.network, &pass.seen, &ways, &host::pods(&pass.seen)));
    }

    /// Programs stay on an interface as long as it is there: one that is nobody's lets nothing through.
    fn sweep_pins(&mut self, pass: &mut Pass) {
        for (pin, error) in self.guards.sweep(&pass.seen.indexes()).err().unwrap_or_default() {
            pass.fail(pin.display().to_string(), "remove the pin of an interface that is gone", &error);
        }
    }
}

/// Both programs of a pod's interface are attached.
fn is_guarded(guards: &impl Guards, link: &Link) -> bool {
    POD_HOOKS.iter().all(|hook| guards.is_attached(*hook, link.index.0))
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
