//! The face of the crate: the reconciler over the real kernel, and what is asked of it.
//! In: `Options` once, then `Desired` after `Desired`. Out: `Applied`, answers and reports.
//! Invariant: `apply` may be called with any Desired at any time; the same one twice changes nothing.
//! Never: sweeps anything before the first `apply`.

use crate::{
    ApplyError, Attach, Cgroup, CleanupError, DriftKind, Extent, Laps, Looked, OpenError, Platform, Question,
    ReportError, ServiceCounts, Standing, TrackedFlow, TwinAnswer, TwinError, cgroup, clsact, counts, ends,
    gauges::Gauges,
    growth, host,
    links::{Guards as _, Links},
    masquerade,
    network::{KernelNetwork, Network},
    passage, pins,
    policy_log::PolicyLog,
    programs::{self, Globals, Hook, Programs, in_full},
    reconcile::{Reconciler, ipip, tunnel},
    report::{Reporter, Wanted},
    sockets::Sockets,
    staged::{self, Tried},
    tables::{KernelStore, Sizes, StoreError, Tables},
    tracked, uplink,
    usage::{Filled, Usage, filled, usages},
};
use abi::{Timeouts, maps};
use calc::Latest;
use model::{AttachmentId, IfaceName, ServicePortId};
use service::Frontend;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Unless it is set, an endpoint may own one of so many parts of `CONNTRACK`.
const QUOTA_SHARE: u32 = 8;

/// What a dataplane is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where maps and links are pinned; mounted as a bpffs if it is none.
    pub bpffs: PathBuf,
    /// The compiled kernel programs (an ELF object).
    pub object: Vec<u8>,
    /// Map sizes that differ from the defaults, by map name.
    pub entries: BTreeMap<String, u32>,
    /// The interface towards the network; `None`: pods are reached from this host only.
    pub uplink: Option<IfaceName>,
    /// Where the sysctls to give back are remembered.
    pub state_dir: PathBuf,
    /// How programs are put on interfaces.
    pub attach: Attach,
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// Flows that one endpoint may own; `None`: an eighth of the table.
    pub flow_quota: Option<u32>,
    /// Lines that Log rules may write on each processor in a second; 0: none.
    pub log_rate: u32,
    /// The cgroup whose processes' sockets reach services.
    pub cgroup: Cgroup,
}

/// What became of a revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commit {
    /// Nothing had to change.
    #[default]
    Unchanged,
    /// It is in force.
    InForce,
    /// It does not fit: the previous one is in force.
    Refused,
    /// The kernel refused a write or a look: the previous one is in force.
    Failed,
}

/// What an `apply` came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The generation in force.
    pub generation: u64,
    /// What became of the revision that was wanted.
    pub commit: Commit,
    /// Endpoints that are completely in force.
    pub ok: usize,
    /// Items that are not as wanted, by name, and why. They are tried again by the next `apply`.
    pub failed: Vec<(String, ApplyError)>,
    /// Something that all pods share is among them: the tables, the uplink, the look at the host.
    pub limited: bool,
    /// It was refused for want of room for services alone.
    pub services_full: bool,
}

/// The node's dataplane.
pub struct Dataplane {
    uplink: Option<IfaceName>,
    platform: Platform,
    node: Reconciler<KernelNetwork, Links, KernelStore>,
    gauges: Gauges,
    policy_log: PolicyLog,
    sockets: Sockets,
}

impl Dataplane {
    /// Loads the programs, adopts what is pinned, guards the uplink. Call it in the node's network namespace: the
    /// calling thread's namespace is the one that is served.
    ///
    /// # Errors
    /// The kernel refuses the programs, or what is pinned is of another layout.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options { bpffs, object, entries, uplink, state_dir, attach, timeouts, flow_quota, log_rate, cgroup } =
            options;
        let mut laps = Laps::start();
        let platform = Platform::probe(attach)?;
        let sizes = Sizes::asked(&entries)?;
        fs::create_dir_all(&state_dir).map_err(|source| OpenError::StateDir { path: state_dir.clone(), source })?;
        pins::prepare(&bpffs).map_err(|source| OpenError::Bpffs { path: bpffs.clone(), source })?;
        let flow_quota = flow_quota.unwrap_or((sizes.of(&maps::CONNTRACK) / QUOTA_SHARE).max(1));
        let log_interval_ns = 1_000_000_000u64.checked_div(log_rate.into()).unwrap_or(0);
        let netns_cookie = cgroup::netns_cookie().unwrap_or_default();
        let globals = Globals { timeouts, flow_quota, log_interval_ns, netns_cookie };
        let (mut programs, growth) = Programs::open(&bpffs, &object, &sizes, &globals)?;
        laps.lap("maps");
        let of_pods = [Hook::FromWorkload, Hook::ToWorkload];
        programs.start(&of_pods.into_iter().chain(uplink.as_ref().map(|_| Hook::FromUplink)).collect::<Vec<_>>())?;
        laps.lap("verify");
        // From here on nothing expires in a table that is to grow: what is carried over keeps its ticket.
        programs.start_cursor()?;
        let policy_log = programs.policy_log()?;
        growth.carry()?;
        let adopt = |error: StoreError| OpenError::Adopt { reason: error.to_string() };
        let store = KernelStore::open(&pins::maps_dir(&bpffs), timeouts).map_err(adopt)?;
        let tables = Tables::adopt(store).map_err(adopt)?;
        laps.lap("adopt");
        let network = KernelNetwork::open().map_err(|error| OpenError::Netlink { reason: error.to_string() })?;
        let sockets = Sockets::start(&programs, &bpffs, &cgroup, netns_cookie);
        let links = Links::new(programs, &bpffs, platform.attached_by);
        let links = links.map_err(|error| OpenError::Netlink { reason: error.to_string() })?;
        let mut node = Reconciler::new(network, links, tables, uplink.clone(), state_dir);
        (node.asks_by_packet, node.keeps_asked) = (sockets.leads_packets(), sockets.are_new());
        let everywhere = node.start()?;
        growth::finish(&pins::maps_dir(&bpffs), everywhere)?;
        if let Err(error) = node.guards.programs().forget_others() {
            tracing::warn!(%error, "pins of former programs are left; the next start tries again");
        }
        let gauges = Gauges::open(&bpffs).map_err(adopt)?;
        laps.lap("guard");
        tracing::debug!(target: "laps", %laps, "open");
        Ok(Self { uplink, platform, node, gauges, policy_log, sockets })
    }

    /// Every program, by its name in the object.
    pub fn programs() -> impl Iterator<Item = &'static str> {
        programs::names()
    }

    /// Has a program loaded before somebody needs it, to know whether this kernel takes it. Of itself the agent loads what
    /// guards pods and the uplink at its start, what guards host endpoints with the first of these, twins when one is asked.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(&self, program: &str) -> Result<(), OpenError> {
        self.node.guards.programs().load(program)
    }

    /// The kernel as it was found at start, and what follows from it.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Makes the kernel so, in four steps: programs on interfaces, the tables by one commit, links up and ways to the
    /// endpoints, then away with what is no longer wanted. What fails is named and tried again by the next `apply`; its
    /// siblings go on. Where the commit fails the previous revision stays in force, and nothing is taken away: endpoints
    /// it knows are still in force by it, new ones are not ([`Self::in_force`]). Of one that follows what is in force the
    /// tables are compared where it says that something is new.
    pub fn apply<'a>(&mut self, desired: impl Into<Latest<'a>>) -> Applied {
        self.node.apply(desired)
    }

    /// Writes the lines that Log rules ask for. A look does it as well.
    pub fn write_log(&mut self) {
        self.policy_log.write(&self.node.tables, &self.node.wanted);
    }

    /// Whether other hands changed what the last `apply` made, and puts it back: programs in their hooks, links, routes,
    /// neighbours, settings, tables. Cheap enough for twice a second; the large tables and the settings of many pods it
    /// takes in slices, one a look. Give it what the last `apply` was given.
    pub fn look<'a>(&mut self, desired: impl Into<Latest<'a>>, extent: Extent) -> Looked {
        self.write_log();
        let mut looked = self.node.look(desired, extent);
        if extent == Extent::Everything {
            match self.sockets.mend() {
                Ok(mended) => mended.iter().for_each(|(hook, found)| {
                    looked.repaired(DriftKind::Program, format!("{} of sockets: {found}", hook.program()));
                }),
                Err(reason) => looked.failed("sockets", "attach their programs to the cgroup", reason),
            }
        }
        looked
    }

    /// The node's own sockets, in words: at which cgroup they reach services, or how else and why; or why they do not.
    #[must_use]
    pub fn sockets(&self) -> String {
        match self.sockets.leads_packets() && !self.node.leads_own() {
            true => "do not reach services yet: their packets are to be led there one by one, by lo and the uplink"
                .to_owned(),
            false => self.sockets.to_string(),
        }
    }

    /// Whether what processes of this node answer leaves by the uplink in a service's name, where it was asked by that.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.node.guards.held().into_iter().any(|(_, hook)| hook == Hook::ToUplink)
    }

    /// What `apply` left for after its answer: takes away what no packet can see any more, without waiting for those that
    /// may. Whether something is left, for which to ask again in some milliseconds. The next `apply` waits only for what it
    /// has to touch.
    pub fn sweep(&mut self) -> bool {
        let left = self.node.sweep();
        self.end_sockets();
        left.unwrap_or_else(|error| {
            tracing::warn!(%error, "previous revisions are not swept yet; the next change tries again");
            false
        })
    }

    /// As [`Self::sweep`], to its end.
    pub fn settle(&mut self) {
        if let Err(error) = self.node.settle() {
            tracing::warn!(%error, "previous revisions are not swept yet; the next change tries again");
        }
        self.end_sockets();
    }

    /// Ends the node's own sockets that were sent to backends which are gone: their processes would wait for nobody.
    fn end_sockets(&mut self) {
        let ended = self.node.tables.take_ended();
        if !self.sockets.is_attached() {
            return;
        }
        match ends::end(self.node.tables.store(), &ended, self.node.tables.image().generation) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "sockets of this node were ended, for their backend is gone"),
            Err(error) => tracing::warn!(error, "sockets of this node whose backend is gone stay as they are"),
        }
    }

    /// Moves one program to its final way of attachment: from a filter, which no ADD had to wait for, to a link. `false`:
    /// all are there. The kernel changes no other interface for about ten milliseconds meanwhile.
    pub fn upgrade(&mut self) -> bool {
        self.node.guards.upgrade().unwrap_or_else(|error| {
            // A pod may have gone in between. Guarded it stays.
            tracing::debug!(%error, "a program stays attached by clsact");
            true
        })
    }

    /// Whether this endpoint's programs are attached, a policy of its own is in force and its host side is complete.
    #[must_use]
    pub fn in_force(&self, id: &AttachmentId) -> bool {
        self.node.in_force.contains(id)
    }

    /// Asks the kernel's dry twins, those of the gates on the packet's way too.
    ///
    /// # Errors
    /// The endpoint is not in force, or the kernel cannot run a twin.
    pub fn explain(&self, question: &Question) -> Result<TwinAnswer, TwinError> {
        passage::explain(&self.node, self.uplink.as_ref(), question)
    }

    /// The rows of a table for people and scripts: an array of flat objects. Tables: `endpoints`, `hostendpoints`, `policies`, `staged`, `classes`,
    /// `rulesets`, `conntrack`, `drops`, `capacity`.
    ///
    /// # Errors
    /// No such table, or a map that cannot be read.
    pub fn report(&self, table: &str) -> Result<serde_json::Value, ReportError> {
        let Reconciler { tables, wanted: endpoints, in_force, hosts, hosts_in_force, wanted_of_node: node, .. } =
            &self.node;
        let wanted = Wanted { endpoints, in_force, hosts, hosts_in_force, node };
        Reporter::new(tables, wanted, &self.gauges).rows(table)
    }

    /// How full every map is.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn usages(&self) -> Result<Vec<Usage>, StoreError> {
        usages(&self.filled(), &self.gauges)
    }

    /// How much of the maps commits have filled.
    #[must_use]
    pub fn filled(&self) -> Vec<Filled> {
        filled(&self.node.tables)
    }

    /// Tracked flows of pods and of host endpoints, refused ones included.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn tracked(&self) -> Result<Vec<TrackedFlow>, StoreError> {
        let tables = &self.node.tables;
        Ok(tracked::flows(&tables.store().conntrack.flows()?, tables.names(), &tables.image().endpoints))
    }

    /// As whom this node stands for its pods outside of all pools; `None`: as nobody, their flows of that family are refused.
    #[must_use]
    pub fn standing(&self, v4: bool) -> Option<Standing> {
        let [of_v4, of_v6] = self.node.stands()?;
        masquerade::standing(if v4 { of_v4 } else { of_v6 })
    }

    /// What was counted of a service port.
    #[must_use]
    pub fn counts_of(&self, port: &ServicePortId) -> ServiceCounts {
        counts::of(&self.node.tables, port)
    }

    /// Whether the kernel's tables lead a frontend where it should lead. What cannot be read does not.
    #[must_use]
    pub fn leads(&self, frontend: &Frontend) -> bool {
        self.node.tables.leads(frontend).unwrap_or(false)
    }

    /// Whether a revision in force has this service port, an earlier agent's among them.
    #[must_use]
    pub fn serves(&self, port: &ServicePortId) -> bool {
        !self.node.tables.slots_of(port).frontends.is_empty()
    }

    /// Whether the tables of services have room for these beside those in force. Writes nothing.
    #[must_use]
    pub fn has_room_for_services(&self, desired: Latest<'_>) -> bool {
        self.node.tables.has_room_for_services(desired)
    }

    /// What staged policies would have made of new flows.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn tried(&self) -> Result<Tried, StoreError> {
        let tables = &self.node.tables;
        staged::sum(tables.names(), &|hit| tables.store().hit_count(hit))
    }

    /// Spans whose rules share one counter, because `HITS` was full when they were compiled.
    #[must_use]
    pub fn uncounted(&self) -> usize {
        self.node.tables.uncounted()
    }
}

/// Takes away everything an agent with this bpffs and state directory left in the calling thread's network namespace:
/// links, pins, routes, neighbours; gives sysctls back. Interfaces of pods that another network made are left as they are.
///
/// # Errors
/// Names what is left.
pub fn cleanup(bpffs: &Path, state_dir: &Path) -> Result<(), CleanupError> {
    let mut left = Vec::new();
    // While the pins are there: they say which clsact is ours, and which interfaces.
    let pinned = pins::links(&pins::links_dir(bpffs)).into_iter().filter_map(|(_, ifindex)| ifindex).collect();
    if let Err(error) = clsact::remove(&pins::links_dir(bpffs)) {
        left.push(in_full(error.as_ref()));
    }
    if let Err(error) = pins::remove(bpffs) {
        left.push(format!("pins below {}: {error}", bpffs.display()));
    }
    match KernelNetwork::open() {
        Ok(mut network) => left.extend(clear(&mut network, &pinned, state_dir)),
        Err(error) => left.push(in_full(&error)),
    }
    if left.is_empty() { Ok(()) } else { Err(CleanupError { left }) }
}

/// What is ours in the network, and the settings to give back. Says what is left.
fn clear(network: &mut impl Network, pinned: &BTreeSet<u32>, state_dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    match network.list() {
        Ok(seen) => {
            let failed = host::sweep(network, &seen, &BTreeSet::new(), &host::own_pods(&seen, pinned));
            let node_routes = seen.node_routes.iter().filter_map(|route| network.delete_route(route).err());
            left.extend(node_routes.map(|error| in_full(&error)).collect::<Vec<_>>());
            let device = tunnel::device(&seen).and_then(|index| network.delete_link(index).err());
            left.extend(device.map(|error| in_full(&error)));
            left.extend(ipip::clear(network));
            left.extend(failed.into_iter().map(|(item, error)| format!("{item}: {error}")));
        }
        Err(error) => left.push(in_full(&error)),
    }
    left.extend(
        uplink::give_back(network, state_dir)
            .err()
            .map(|error| format!("the sysctls of the uplink and loopback: {error}")),
    );
    left
}
