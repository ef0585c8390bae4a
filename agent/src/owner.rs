//! The owner: the one thread that holds World, dataplane, addresses and journal.
//! In: batches of events. Out: answers, each given when it is true.
//! Invariant: a batch is taken in whole, then resolved and applied once, then answered, then swept after.
//! Never: applies anything before the datastore has said everything it has.

use crate::{
    allocate::{Allocator, Rules},
    announce::Announcer,
    assign::{Assigner, Changed},
    bird::{self, Speaker},
    boot,
    chores::Chorer,
    detect::Detector,
    drift::Repairs,
    felix::Logging,
    health_ports::{HealthPorts, Said},
    journal::Journal,
    kernel::Kernel,
    metrics::{Metrics, NodeState},
    node_status::Answerer,
    observe::Host,
    proxy::Proxy,
    publish::Publisher,
    reclaim::Claims,
    remarks::Met,
    report, requests,
    setback::{Back, Setbacks},
    tunnel::Tunneller,
    wanted::{self, Balancers},
};
use calc::{Live, World};
use cni::protocol::{Operation, Reply};
use dataplane::{Applied, Commit, Extent, Laps, Platform};
use datastore::{Batch, Teller};
use model::{
    Attachment, AttachmentId, Cidr, Family, IfaceName, NodeName, Resource, ResourceKey, Update, WorkloadAddress,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// So long no pod comes or goes before programs are moved to TCX: each move holds the kernel's lock of all interfaces for a
/// grace, and an ADD would wait for it.
const QUIET: Duration = Duration::from_secs(1);
/// Between two such moves.
const UPGRADE: Duration = Duration::from_millis(50);

/// Objects that are put off together and that the log names.
const LOGGED: usize = 16;

/// Something the owner hears.
pub enum Event {
    /// The datastore says.
    Updates(Batch),
    /// The host's addresses and interfaces are these now.
    Host(Host),
    /// Something of the host's network changed that pods depend on: look soon.
    Look,
    /// Who translates services is another now.
    Proxy(Proxy),
    /// Somebody asks on the socket.
    Ask(Box<Ask>),
    /// Who asked for a prepare with this deadline did not take the answer: it died.
    Gone(AttachmentId, Instant),
    /// An input that cannot be done without has ended.
    Broken(String),
    /// End, leaving the kernel as it is.
    Stop,
}

/// A request with its way back.
pub struct Ask {
    /// What is asked.
    pub operation: Operation,
    /// When the asker stops waiting.
    pub deadline: Instant,
    /// Where the answer goes; an asker that is gone loses nothing but the answer.
    pub reply: SyncSender<Reply>,
}

impl Ask {
    /// Whether a pod comes or goes.
    fn moves_pods(&self) -> bool {
        !matches!(self.operation, Operation::Query(_) | Operation::Status { .. } | Operation::Check { .. })
    }
}

/// No IPv6 goes over less (RFC 8200).
const IPV6_MTU_MIN: u32 = 1280;

/// What is not of the cluster but of this node.
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// MTU for pods whose network names none.
    pub mtu: u32,
    /// The kernel it runs on.
    pub platform: Platform,
    /// What is wrong with manifests at this moment.
    pub problems: Box<dyn Fn() -> Vec<String> + Send>,
    /// Records of attachments that could not be read.
    pub damaged: Vec<String>,
    /// Where what happens is counted.
    pub metrics: Metrics,
    /// Who translates services.
    pub proxy: Proxy,
}

/// Whether the machine was started anew since the last agent ran, and where that is written down.
#[derive(Debug, Default)]
pub struct Reboot {
    /// It was.
    pub happened: bool,
    /// The directory of this agent's state; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
}

/// What the last apply came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The generation in force.
    pub generation: u64,
    /// Endpoints in force.
    pub endpoints: usize,
    /// Items that are not as wanted, and why.
    pub failed: Vec<(String, String)>,
    /// What became of the revision that is wanted.
    pub commit: Commit,
}

/// The agent of one node.
pub struct Agent<K> {
    pub(crate) node: Node,
    pub(crate) world: Live,
    pub(crate) kernel: K,
    pub(crate) allocator: Allocator,
    pub(crate) journal: Journal,
    pub(crate) outcome: Outcome,
    /// Since when something that all pods share is not as wanted.
    pub(crate) limited: Option<Instant>,
    pub(crate) repairs: Repairs,
    pub(crate) setbacks: Setbacks,
    /// The World has changed since it was last resolved.
    pub(crate) changed: bool,
    /// Prepared attachments, and when no commit can follow any more.
    pub(crate) abandoned: BTreeMap<AttachmentId, Instant>,
    pub(crate) reboot: Reboot,
    pub(crate) claims: Claims,
    /// What is desired was put in force once, or tried.
    applied: bool,
    /// Tells other nodes of attachments.
    pub(crate) publisher: Publisher,
    /// Attachments whose addresses they are to be told.
    unpublished: BTreeSet<AttachmentId>,
    to_publish: bool,
    /// Something that earlier commits replaced waits for packets under way.
    pub(crate) to_sweep: bool,
    /// What is odd about services on this node.
    pub(crate) met: Met,
    /// Where load balancers ask.
    pub(crate) health_ports: HealthPorts,
    /// Services that metrics tell apart at most.
    pub(crate) service_metrics: usize,
    /// Updates taken in.
    pub(crate) heard: u64,
    /// When to move a program to its final way of attachment, unless pods come or go before; `None`: all are there.
    pub(crate) to_upgrade: Option<Instant>,
    /// Where there is an uplink.
    pub(crate) announcer: Option<Announcer>,
    pub(crate) assigner: Option<Assigner>,
    /// Who does what one agent does for all, where one may.
    pub(crate) chorer: Option<Chorer>,
    /// Who claims and tells this node's end of its tunnels.
    pub(crate) tunneller: Option<Tunneller>,
    /// Who finds this node's addresses for the others.
    pub(crate) detector: Option<Detector>,
    /// Who keeps BIRD, where it speaks BGP for this node.
    pub(crate) speaker: Option<Speaker>,
    /// Who answers those who ask how its BGP is.
    pub(crate) answerer: Option<Answerer>,
    /// It may have to hear of something.
    bgp_news: bool,
    /// The MTU of pods is said, whatever is added to their packets.
    pub(crate) mtu_is_said: bool,
    /// What it has not been told of yet.
    asked: Changed,
    balancers: Balancers,
    /// Where a cluster is told of this node.
    pub(crate) teller: Option<Teller>,
    pub(crate) logging: Logging,
}

impl<K: Kernel> Agent<K> {
    /// An agent that has heard nothing yet. `interfaces`: the host's, to tell whose pods outlived the last agent.
    pub fn new(
        node: Node,
        world: Live,
        kernel: K,
        (allocator, publisher): (Allocator, Publisher),
        journal: Journal,
        interfaces: &BTreeSet<IfaceName>,
    ) -> Self {
        let mut agent = Self {
            node,
            world,
            kernel,
            allocator,
            journal,
            outcome: Outcome::default(),
            limited: None,
            repairs: Repairs::default(),
            setbacks: Setbacks::default(),
            changed: true,
            abandoned: BTreeMap::new(),
            reboot: Reboot::default(),
            claims: Claims::default(),
            applied: false,
            publisher,
            unpublished: BTreeSet::new(),
            to_publish: false,
            to_sweep: false,
            met: Met::default(),
            health_ports: HealthPorts::default(),
            service_metrics: 0,
            heard: 0,
            to_upgrade: None,
            announcer: None,
            assigner: None,
            chorer: None,
            tunneller: None,
            detector: None,
            speaker: None,
            answerer: None,
            bgp_news: false,
            mtu_is_said: false,
            asked: Changed::default(),
            balancers: Balancers::default(),
            teller: None,
            logging: Logging::default(),
        };
        agent.restore(interfaces);
        agent
    }

    fn restore(&mut self, interfaces: &BTreeSet<IfaceName>) {
        for attachment in self.journal.all() {
            if attachment.committed && interfaces.contains(&attachment.host_interface) {
                self.unpublished.insert(attachment.id.clone());
                self.world.attach(attachment.clone());
            }
        }
        info!(attachments = self.unpublished.len(), "restored");
    }

    /// Takes in a batch and answers what can be answered.
    pub fn take(&mut self, events: Vec<Event>) {
        let mut laps = Laps::start();
        let (mut asks, mut gone) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Updates(batch) => self.learn(batch),
                Event::Host(Host { addresses, interfaces, nets, mtus }) => {
                    self.follow_mtu(&mtus);
                    self.world.set_host_networks(nets);
                    self.world.set_host_addresses(addresses);
                    self.world.set_host_interfaces(interfaces);
                    (self.changed, self.bgp_news) = (true, true);
                }
                Event::Proxy(proxy) => self.leave_services_to(proxy),
                Event::Ask(ask) => asks.push(*ask),
                Event::Gone(id, deadline) => gone.push((id, deadline)),
                Event::Look | Event::Broken(_) | Event::Stop => {}
            }
        }
        laps.lap("learn");
        if self.to_upgrade.is_some() && asks.iter().any(Ask::moves_pods) {
            self.to_upgrade = Some(Instant::now() + QUIET);
        }
        let (asked, waiting) = (asks.len(), requests::start(self, asks));
        laps.lap("begin");
        for (id, deadline) in gone {
            requests::abandon(self, &id, deadline);
        }
        let waited = waiting.len();
        let news = self.changed;
        self.apply_changes();
        self.tell_balancers();
        laps.lap("apply");
        requests::finish(self, waiting);
        // A commit that did not come into force was taken back.
        self.apply_changes();
        laps.lap("finish");
        self.sweep();
        laps.lap("after");
        if std::mem::take(&mut self.to_publish) {
            self.publish_all();
        }
        if news {
            self.announce();
            self.report();
        }
        if std::mem::take(&mut self.bgp_news)
            && let Some(speaker) = &self.speaker
        {
            speaker.follow(&self.world);
        }
        self.logging.want(self.world.log_level());
        laps.lap("publish");
        tracing::debug!(target: "laps", asked, waited, %laps, "batch");
    }

    /// Says which addresses this node would answer for. Before it knows, what the last agent left goes on.
    fn announce(&mut self) {
        let Some(announcer) = self.announcer.as_ref().filter(|_| self.world.in_sync().is_some()) else { return };
        if let Some(assigner) = &self.assigner {
            assigner.follow(&self.world, std::mem::take(&mut self.asked));
            if assigner.has_work() {
                announcer.wake();
            }
        }
        let uplink = self.world.host_networks(&announcer.uplink).cloned().unwrap_or_default();
        announcer.want(wanted::all(&mut self.world, &uplink, &mut self.balancers));
    }

    /// Pods that come from now on have what the uplink takes.
    fn follow_mtu(&mut self, mtus: &BTreeMap<IfaceName, u32>) {
        let uplink = self.announcer.as_ref().map(|announcer| &announcer.uplink).filter(|_| !self.mtu_is_said);
        if let Some(mtu) = uplink.and_then(|name| mtus.get(name)).filter(|mtu| **mtu != self.node.mtu) {
            info!(before = self.node.mtu, mtu, "the uplink has another MTU");
            self.node.mtu = *mtu;
        }
    }

    fn leave_services_to(&mut self, proxy: Proxy) {
        info!(by = proxy.by(), reason = proxy.reason, "services");
        self.world.set_proxy(proxy.neighbour);
        self.node.proxy = proxy;
        self.changed = true;
    }

    /// Puts back what other hands changed of what is in force; before anything is, there is nothing to look at.
    pub fn look(&mut self, extent: Extent) {
        let Some(desired) = self.world.latest().filter(|_| self.applied) else { return };
        let begun = Instant::now();
        let mut looked = self.kernel.look(desired, extent);
        self.repairs.hear(&looked, extent);
        looked.repaired.iter().for_each(|drift| self.node.metrics.repaired(drift.kind));
        if !looked.repaired.is_empty() {
            self.to_upgrade.get_or_insert_with(|| Instant::now() + QUIET);
        }
        if let Some(applied) = looked.applied.take() {
            self.heed(applied, begun.elapsed());
        }
        self.sweep();
    }

    /// Takes away what earlier commits replaced, as far as no packet can see it any more.
    pub fn sweep(&mut self) {
        self.to_sweep = self.kernel.sweep();
    }

    /// Moves one program to its final way of attachment, and says when the next is due.
    pub fn upgrade(&mut self) {
        self.to_upgrade = self.kernel.upgrade().then(|| Instant::now() + UPGRADE);
    }

    /// What is done now and then: what failed is tried again.
    pub fn tick(&mut self) {
        self.changed |= !self.applied || !self.outcome.failed.is_empty();
        self.apply_changes();
        self.try_again();
        self.sweep();
        self.undo_abandoned();
        self.claim_what_is_due();
        self.publisher.again();
        self.publish_all();
        self.tell_balancers();
        self.tell_metrics();
        self.report();
        if let Some(chorer) = &self.chorer {
            chorer.follow(&self.world, self.journal.all());
        }
        self.follow_tunnel();
    }

    fn follow_tunnel(&self) {
        if let Some(detector) = &self.detector {
            detector.follow(&self.world);
        }
        if let Some(tunneller) = &self.tunneller {
            tunneller.follow(&self.world);
        }
    }

    /// The MTU of pods that are attached from now on, whose network names none: what is left once a tunnel has added its headers.
    pub(crate) fn pod_mtu(&self) -> u32 {
        let passes = if self.mtu_is_said { self.node.mtu } else { self.world.tunnelled_mtu(self.node.mtu) };
        passes.max(IPV6_MTU_MIN).min(self.node.mtu)
    }

    /// Says what a cluster should know of this node.
    fn report(&self) {
        if let Some(teller) = &self.teller {
            teller.tell(report::of(self));
        }
    }

    /// The networks of the uplink.
    pub(crate) fn uplink_nets(&self) -> impl Iterator<Item = &Cidr> {
        let uplink = self.announcer.as_ref().map(|announcer| &announcer.uplink);
        uplink.and_then(|name| self.world.host_networks(name)).into_iter().flatten()
    }

    /// What load balancers of services hear of this node; where a kube-proxy serves, they hear it from that.
    fn tell_balancers(&mut self) {
        let none = BTreeMap::new();
        let checks = if self.node.proxy.is_by_host() { &none } else { self.world.health_checks() };
        let addresses = if checks.is_empty() { BTreeSet::new() } else { self.world.node_port_addresses() };
        let mut wanted = Vec::new();
        for (id, check) in checks {
            for (family, local) in &check.local {
                let every = [match family {
                    Family::V4 => IpAddr::from([0; 4]),
                    Family::V6 => IpAddr::from([0u16; 8]),
                }];
                let own = addresses.iter().copied().filter(|address| Family::of(*address) == *family);
                let at: Vec<IpAddr> =
                    if self.world.has_node_ports_everywhere(*family) { every.into() } else { own.collect() };
                let said = Said { service: id.clone(), local: *local };
                wanted.extend(at.into_iter().map(|at| (SocketAddr::new(at, check.port), said.clone())));
            }
        }
        self.health_ports.want(wanted);
    }

    /// What is wrong with manifests, and what their writers should know of those that are not.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = (self.node.problems)();
        problems.extend(self.world.remarks().cloned());
        problems.extend(self.world.host_remarks());
        problems.extend(self.world.profile_remarks());
        problems.extend(self.world.node_port_remark());
        problems.extend(self.world.floating_remarks().iter().cloned());
        problems.extend(self.world.refused_sources());
        problems.extend(self.world.route_remarks());
        problems.extend(self.world.doubled_addresses());
        problems.extend(self.world.pod_cidr_remarks());
        problems.extend(self.detector.iter().flat_map(Detector::problems));
        let of_services = self.service_remarks().into_iter();
        problems.extend(
            of_services.flat_map(|(id, said)| said.into_iter().map(move |said| format!("Service {id}: {said}"))),
        );
        problems.extend(self.speaker.iter().flat_map(bird::problems));
        problems.extend(self.answerer.iter().flat_map(Answerer::problems));
        problems.extend(self.claims.lost().cloned());
        problems.extend(self.announcer.iter().filter_map(Announcer::problem));
        if self.announcer.is_none() && self.world.answers_for_pods().is_some() {
            problems.push("localSubnetL2Reachability: this node has no uplink to answer at".to_owned());
        }
        if self.world.sets_staged_aside() {
            problems.push("staged policies are not tried: the tables have no room for them".to_owned());
        }
        problems
    }

    /// The node as it is now. The maps are looked through only when a commit has changed them.
    fn tell_metrics(&mut self) {
        let services = self.look_at_services();
        let Outcome { generation, endpoints, failed, commit } = &self.outcome;
        let fullness = self.node.metrics.has_moved_on(*generation).then(|| self.kernel.filled());
        let node = NodeState {
            ready: self.ready(),
            generation: *generation,
            endpoints: *endpoints,
            not_in_force: failed.len() + self.repairs.failed().len() + self.setbacks.held().len(),
            problems: self.problems().len(),
            damaged: self.node.damaged.len(),
            refused: *commit == Commit::Refused || self.setbacks.held().len() > 0,
            tried: self.kernel.tried(),
            services,
            speaker: self.speaker.as_ref().map(Speaker::seen),
        };
        self.node.metrics.is_now(node, fullness);
    }

    /// Whether the node does what the cluster wants: the datastore was read and resolved.
    pub fn ready(&self) -> bool {
        self.world.in_sync().is_some() && self.applied
    }

    fn learn(&mut self, batch: Batch) {
        let was_in_sync = self.world.in_sync().is_some();
        let listed = |update: &Update| if let Update::Anew { listed } = update { Some(*listed) } else { None };
        let anew = batch.iter().filter_map(listed).max();
        batch.into_iter().for_each(|update| self.hear(update));
        self.allocator.rules = Rules::of(&self.world);
        if !was_in_sync && self.world.in_sync().is_some() {
            info!("the datastore has said everything it has");
            self.undo_leftovers();
            self.claim_all(None);
            self.publish_all();
        } else if anew.is_some() && was_in_sync {
            self.claim_all(anew);
            self.publish_all();
        }
    }

    /// The other nodes may not know any more what they were told of this one.
    pub(crate) fn publish_again(&mut self) {
        let own = self.world.attachments().filter(|known| known.committed).map(|known| known.id.clone());
        self.unpublished.extend(own.collect::<Vec<_>>());
        self.to_publish = true;
    }

    fn hear(&mut self, update: Update) {
        self.heard += 1;
        let is_of_policy = matches!(update, Update::Set(Resource::Policy(_)) | Update::Gone(ResourceKey::Policy(_)));
        self.setbacks.note(&self.world, &update);
        if let Update::Set(Resource::Service(service)) = &update {
            self.changed |= self.world.set_served(&service.id, true);
        } else if let Update::Gone(ResourceKey::Service(id)) = &update {
            self.world.set_served(id, true);
        }
        self.changed |= self.admit(update);
        self.changed |= is_of_policy && self.world.try_staged(true);
    }

    /// Of every change of the datastore, and back.
    fn admit(&mut self, update: Update) -> bool {
        if self.assigner.is_some() {
            self.asked.note(&self.world, &update);
        }
        if let Some(chorer) = &self.chorer {
            chorer.note(&update);
        }
        self.bgp_news |= self.speaker.is_some() && bird::concerns(&self.world, &update);
        self.world.apply(update)
    }

    /// What was put off for want of room, until the first that still has none.
    fn try_again(&mut self) {
        self.setbacks.tick();
        let mut services_max = 1;
        loop {
            let due = self.setbacks.due(services_max);
            if due.is_empty() {
                break;
            }
            due.into_iter().for_each(|update| self.hear(update));
            let held = self.setbacks.held().len();
            self.apply_changes();
            if self.setbacks.held().len() > held {
                break;
            }
            // Thousands may have waited for one to go.
            services_max *= 2;
        }
    }

    /// What the last agent prepared and never committed, and pods whose interface did not outlive it (a reboot).
    fn undo_leftovers(&mut self) {
        let attached = |id: &AttachmentId| self.world.attachment(id).is_some();
        let left = self.journal.all().filter(|known| !attached(&known.id)).map(|known| known.id.clone());
        self.undo(left.collect());
        self.undo_unrecorded();
    }

    /// A machine that crashes may forget what it recorded last, of pods that went with it. Their block was on the disk
    /// before they were told their address. Until that is done the start is not written down, so that a later one tries again.
    fn undo_unrecorded(&mut self) {
        if self.reboot.happened {
            if !self.node.damaged.is_empty() {
                // A record that cannot be read may be of one of them.
                return warn!("addresses of pods that went with the machine stay taken until no record is damaged");
            }
            let known = self.journal.all().map(|known| ipam::owner_of(&known.id).to_lowercase()).collect();
            match self.allocator.release_strangers(&known) {
                Ok(released) if released.is_empty() => {}
                Ok(released) => info!(?released, "addresses of pods that went with the machine are free again"),
                Err(error) => return warn!("addresses of pods that went with the machine are not free yet: {error}"),
            }
        }
        let remembered = self.reboot.state_dir.as_deref().map(boot::remember).transpose();
        if let Err(error) = remembered {
            warn!("this start of the machine cannot be written down: {error}");
        }
    }

    /// What was prepared for somebody who never came back.
    fn undo_abandoned(&mut self) {
        let now = Instant::now();
        let left = self.abandoned.iter().filter(|(_, end)| **end <= now).map(|(id, _)| id.clone());
        self.undo(left.collect());
    }

    fn undo(&mut self, left: Vec<AttachmentId>) {
        for id in left {
            match requests::release(self, std::slice::from_ref(&id)) {
                Ok(()) => info!(%id, "undone: its pod is gone or was never finished"),
                Err(error) => warn!(%id, "cannot be undone yet: {error}"),
            }
        }
    }

    fn apply_changes(&mut self) {
        if !self.changed {
            return;
        }
        self.follow_tunnel();
        let begun = Instant::now();
        let Some(desired) = self.world.latest() else { return };
        self.changed = false;
        let mut applied = self.kernel.apply(desired);
        // What is only tried must not keep out what is meant.
        let may_be_staged = applied.commit == Commit::Refused && !applied.services_full;
        if may_be_staged && self.world.has_staged() && self.world.try_staged(false) {
            warn!("staged policies are not tried: there is no room for them beside what is enforced");
            if let Some(desired) = self.world.latest() {
                applied = self.kernel.apply(desired);
            }
        }
        match applied.commit {
            Commit::InForce | Commit::Unchanged => self.setbacks.in_force(),
            Commit::Refused => applied = self.set_back(applied, begun),
            Commit::Failed => {}
        }
        self.applied = true;
        // Interfaces may have come.
        self.to_upgrade.get_or_insert_with(|| Instant::now() + QUIET);
        self.heed(applied, begun.elapsed());
    }

    /// The newest objects are put off where they do not fit, so that everything else goes on.
    fn set_back(&mut self, refused: Applied, begun: Instant) -> Applied {
        let reasons: Vec<_> = refused.failed.iter().map(|(_, error)| error.to_string()).collect();
        let is_new = !self.setbacks.is_trying();
        let reason = reasons.join("; ");
        let mut back = self.setbacks.refused(&self.world, &reason);
        if back.is_empty() && refused.services_full {
            back = self.serve_fewer(&reason);
        }
        if back.is_empty() {
            return refused;
        }
        if is_new {
            back.iter()
                .take(LOGGED)
                .for_each(|back| warn!(object = %back.key(), "its newest revision is put off: {reason}"));
            if let Some(more @ 1..) = back.len().checked_sub(LOGGED) {
                warn!("and {more} more objects are put off");
            }
        }
        self.node.metrics.committed(Commit::Refused, begun.elapsed(), is_new);
        for each in back {
            match each {
                Back::To(before) => self.admit(Update::Set(before)),
                Back::Gone(key) => self.admit(Update::Gone(key)),
                Back::Unserved(id) => self.world.set_served(&id, false),
            };
        }
        let Some(desired) = self.world.latest() else { return refused };
        let applied = self.kernel.apply(desired);
        if matches!(applied.commit, Commit::InForce | Commit::Unchanged) {
            self.setbacks.in_force();
        }
        applied
    }

    fn heed(&mut self, applied: Applied, took: Duration) {
        let commit = applied.commit;
        self.limited = applied.limited.then(|| self.limited.unwrap_or_else(Instant::now));
        let failed = applied.failed.iter().map(|(item, error)| (item.clone(), error.to_string()));
        let failed = failed.collect();
        let outcome = Outcome { generation: applied.generation, endpoints: applied.ok, failed, commit };
        self.report_change(&outcome);
        self.node.metrics.committed(commit, took, outcome.failed != self.outcome.failed);
        self.outcome = outcome;
    }

    fn report_change(&self, now: &Outcome) {
        for failure in now.failed.iter().filter(|failure| !self.outcome.failed.contains(failure)) {
            warn!(item = failure.0, "not in force: {}", failure.1);
        }
        if now.generation != self.outcome.generation {
            info!(generation = now.generation, endpoints = now.endpoints, "in force");
        }
    }

    /// Remembers that the other nodes are to be told of an attachment. Its runtime need not wait for that.
    pub(crate) fn publish(&mut self, id: &AttachmentId) {
        self.unpublished.insert(id.clone());
        self.to_publish = true;
    }

    /// Has the other nodes be told, once this one knows what there is.
    fn publish_all(&mut self) {
        if self.world.in_sync().is_none() {
            return;
        }
        let attachments = std::mem::take(&mut self.unpublished).into_iter();
        let attachments = attachments.filter_map(|id| self.world.attachment(&id));
        let told = attachments.map(|own| (workload_address(&self.world, own, &self.node.name), own.clone()));
        self.publisher.tell(told);
    }
}

/// A pod is told of as a whole, with the addresses of all its interfaces.
fn workload_address(world: &World, attachment: &Attachment, node: &NodeName) -> WorkloadAddress {
    let own = world.attachments().filter(|other| other.committed && other.pod == attachment.pod);
    WorkloadAddress {
        pod: attachment.pod.clone(),
        node: node.clone(),
        addresses: own.flat_map(|own| own.addresses.iter().copied()).collect(),
        labels: attachment.labels.clone(),
    }
}
