//! Chores that one agent does for all: takes back addresses whose pods are gone, and what belonged to nodes that are gone. What
//! calico-kube-controllers does where it runs.
//! In: that a node came or went, and, when it is asked for, who lives. Out: blocks, claims, handles and leases that nobody has are gone.
//! Invariant: nothing is done while Calico's objects are locked, nor beside Calico's own controllers; what is taken back was looked at
//! twice, a grace apart, and then asked for once more; but a hold, which says itself until when it is one.
//! Never: makes the owner wait; looks through the cluster because of a pod's event, nor, because of nodes', more than once a second.

mod lead;
mod leases;

use crate::{
    allocate::{AllocateError, Allocator, Rules, Taken},
    mailbox::{Mailbox, put},
    metrics::Metrics,
};
use anyhow::Result;
use calc::World;
use clap::ValueEnum;
use datastore::{Store, census, hosts::Wanted};
use ipam::{
    Ledger,
    audit::{Census, Graces, Idle, Plan, Suspicions},
    owner_of,
};
use lead::Lead;
use leases::Stale;
use model::{Attachment, NamespaceName, NodeName, PodId, Resource, ResourceKey, Update};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Unless KubeControllersConfiguration says otherwise, as Calico's (kube-controllers/pkg/config).
const LEAK: Duration = Duration::from_secs(15 * 60);
/// So long a node must have been away, or the former where that is shorter.
const NODE: Duration = Duration::from_secs(60);
/// Between two looks, where nothing is suspected.
const LATE: Duration = Duration::from_secs(300);
/// Between two looks at least.
const SOON: Duration = Duration::from_secs(1);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(10);
/// Owners whose addresses are taken back together.
const AT_ONCE: usize = 64;
/// What Calico's own controllers are labelled with.
const RIVAL: (&str, &str) = ("k8s-app", "calico-kube-controllers");

/// Who does them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Chores {
    /// One of the agents, where no pod of calico-kube-controllers is in the cluster.
    #[default]
    Auto,
    /// One of the agents.
    On,
    /// Somebody else, or nobody.
    Off,
}

/// Who lives, as the owner knows it.
#[derive(Debug)]
struct Answer {
    census: Census,
    /// Calico's own controllers run.
    has_rival: bool,
    /// How addresses are given out, and given again; of which pools they are held.
    rules: Rules,
    namespaces: BTreeSet<NamespaceName>,
}

#[derive(Debug, Default)]
struct Told {
    /// The datastore has said everything, and this node is there.
    is_wanted: bool,
    /// Nodes came or went.
    is_news: bool,
    nodes: usize,
    /// The worker waits for an answer.
    is_asked: bool,
    answer: Option<Answer>,
}

/// The way to the thread that does them.
#[derive(Clone, Debug)]
pub struct Chorer {
    shared: Arc<Mailbox<Told>>,
    who: Chores,
}

impl Chorer {
    /// Over the objects that agents share.
    pub fn start(objects: Store, node: NodeName, who: Chores, metrics: Metrics) -> Result<Self> {
        let shared = Arc::<Mailbox<Told>>::default();
        let theirs = Arc::clone(&shared);
        let mut worker = Worker::new(objects, node, metrics);
        thread::Builder::new().name("chores".into()).spawn(move || worker.run(&theirs))?;
        Ok(Self { shared, who })
    }

    /// Of every change of the datastore.
    pub fn note(&self, update: &Update) {
        if matches!(update, Update::Set(Resource::Node(_)) | Update::Gone(ResourceKey::Node(_))) {
            self.shared.look().value.is_news = true;
        }
    }

    /// Now and then: who lives, where that is asked for. `served`: what this node serves, or is about to.
    pub fn follow<'a>(&self, world: &World, served: impl Iterator<Item = &'a Attachment>) {
        let is_wanted = world.in_sync().is_some() && world.own_node().is_some();
        let is_asked = self.shared.look().value.is_asked;
        let answer = (is_wanted && is_asked).then(|| self.answer(world, served));
        self.shared.tell(|told| {
            let is_other = put(&mut told.is_wanted, is_wanted) || told.is_news && is_wanted || answer.is_some();
            told.nodes = world.nodes().count();
            if let Some(answer) = answer {
                (told.answer, told.is_asked) = (Some(answer), false);
            }
            is_other
        });
    }

    fn answer<'a>(&self, world: &World, served: impl Iterator<Item = &'a Attachment>) -> Answer {
        let mut census = Census { here: Some(world.node().clone()), ..Census::default() };
        census.nodes = world.nodes().map(|node| node.name.clone()).collect();
        world.pods().for_each(|pod| census::hear_pod(&mut census, pod));
        world.published().for_each(|told| census::hear_told(&mut census, told));
        census.held = served.map(|attachment| owner_of(&attachment.id).to_lowercase()).collect();
        let is_rival =
            |pod: &model::Pod| pod.labels.get(RIVAL.0) == Some(RIVAL.1) && !pod.finished && pod.node.is_some();
        let has_rival = self.who == Chores::Auto && world.pods().any(is_rival);
        let namespaces = world.namespaces().map(|(name, _)| name.clone()).collect();
        Answer { census, has_rival, rules: Rules::of(world), namespaces }
    }
}

/// What is set up of Calico's controllers, as far as it means something here.
fn graces(spec: Option<&Value>) -> Result<Graces, String> {
    let leak = spec.map(census::leak_grace).transpose()?.flatten().unwrap_or(LEAK);
    // As Calico reads it: none is for ever.
    let leak = Some(leak).filter(|leak| !leak.is_zero());
    Ok(Graces { leak, node: leak.map_or(NODE, |leak| leak.min(NODE)) })
}

struct Worker {
    allocator: Allocator,
    lead: Lead,
    suspicions: Suspicions,
    stale: Stale,
    begun: Instant,
    /// When to look next.
    due: Duration,
    /// When to look at handles, too.
    handles_due: Duration,
    /// When to ask which host endpoints nodes are to have.
    hosts_due: Duration,
    /// When to look at what is held, where Calico's own controllers do the rest.
    holds_due: Duration,
    /// What was set up of Calico's controllers when that was asked last: graces are among it.
    set_up: Option<Value>,
    /// Which were wanted when all were looked at, and when that was.
    hosts_kept: Option<(Wanted, Duration)>,
    /// The cluster has what calicoctl asks for.
    has_defaults: bool,
    /// Calico's own controllers run, or nobody knows yet.
    has_rival: bool,
    metrics: Metrics,
    reported: Option<String>,
    /// Namespaces that were there at earlier looks: one of these that is not there now is gone.
    namespaces: BTreeSet<NamespaceName>,
}

impl Worker {
    fn new(objects: Store, node: NodeName, metrics: Metrics) -> Self {
        Self {
            lead: Lead::new(objects.clone(), node.clone()),
            allocator: Allocator::new(objects, node),
            suspicions: Suspicions::default(),
            stale: Stale::default(),
            begun: Instant::now(),
            due: Duration::ZERO,
            handles_due: Duration::ZERO,
            hosts_due: Duration::ZERO,
            holds_due: Duration::ZERO,
            set_up: None,
            hosts_kept: None,
            has_defaults: false,
            has_rival: true,
            metrics,
            reported: None,
            namespaces: BTreeSet::new(),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn run(&mut self, shared: &Mailbox<Told>) {
        let mut rest = None;
        loop {
            let (is_wanted, is_news, nodes, answer) = {
                let told = &mut shared.hear(rest).value;
                (told.is_wanted, std::mem::take(&mut told.is_news), told.nodes, told.answer.take())
            };
            if !is_wanted {
                self.metrics.does_chores(false);
                self.forget();
                rest = None;
                continue;
            }
            let now = self.now();
            if is_news {
                self.due = self.due.min(now);
            }
            let lead = self.lead.turn(now, nodes).map_err(|error| error.to_string());
            self.metrics.does_chores(matches!(lead, Ok(true)));
            let mut next = self.lead.due();
            match lead {
                Ok(true) => {
                    self.keep_hosts(is_news, now);
                    next = next.min(self.hosts_due.max(now));
                    if now >= self.due {
                        match &answer {
                            Some(answer) => self.look(answer),
                            None => shared.look().value.is_asked = true,
                        }
                    }
                    if self.due > now {
                        next = next.min(self.due);
                    }
                }
                Ok(false) => self.forget(),
                Err(error) => self.report(Some(error)),
            }
            rest = Some(next.saturating_sub(self.now()).max(SOON));
        }
    }

    fn forget(&mut self) {
        (self.suspicions, self.stale, self.due, self.hosts_kept, self.has_defaults) = Default::default();
    }

    fn report(&mut self, problem: Option<String>) {
        if let Some(problem) = problem.as_ref().filter(|problem| self.reported.as_ref() != Some(*problem)) {
            warn!("chores: {problem}");
        }
        self.reported = problem;
    }

    fn look(&mut self, answer: &Answer) {
        let now = self.now();
        self.has_rival = answer.has_rival;
        self.namespaces.extend(answer.namespaces.iter().cloned());
        let is_locked = self.allocator.objects().is_locked();
        if answer.has_rival && !is_locked && now >= self.holds_due {
            // Nobody else ends what is held.
            self.holds_due = now + LATE;
            self.allocator.rules.clone_from(&answer.rules);
            let ended = self.allocator.ledger(false).and_then(|ledger| self.end_holds(&ledger, answer));
            self.report(ended.err().map(|error| error.to_string()));
        }
        if answer.has_rival || is_locked {
            self.forget();
            self.due = now + LATE.min(AGAIN);
            return;
        }
        let done = self.turn(answer, now);
        self.due = match &done {
            Ok(next) => (*next).clamp(now + SOON, now + LATE),
            Err(_) => now + AGAIN,
        };
        self.report(done.err());
    }

    /// Nodes' host endpoints: which are wanted is asked often; they are looked at when that or nodes changed, and now and then.
    fn keep_hosts(&mut self, is_news: bool, now: Duration) {
        if self.has_rival || self.allocator.objects().is_locked() || now < self.hosts_due && !is_news {
            return;
        }
        self.hosts_due = now + AGAIN;
        let is_late = self.hosts_kept.as_ref().is_none_or(|(_, at)| now >= *at + LATE);
        if let Err(problem) = self.try_hosts(is_news || is_late, now) {
            self.report(Some(problem));
        }
    }

    fn try_hosts(&mut self, is_due: bool, now: Duration) -> Result<(), String> {
        let objects = self.allocator.objects().clone();
        let set_up = objects.default_of(census::CONTROLLERS).map_err(|error| error.to_string())?;
        let set_up = set_up.map(|object| object.spec);
        if put(&mut self.set_up, set_up.clone()) {
            // What is suspected may be over by now.
            self.due = self.due.min(now);
        }
        let wanted = set_up.as_ref().map(Wanted::of).transpose()?.flatten();
        let Some(wanted) = wanted else {
            self.hosts_kept = None;
            return Ok(());
        };
        if is_due || self.hosts_kept.as_ref().is_none_or(|(were_wanted, _)| *were_wanted != wanted) {
            for done in objects.keep_hosts(&wanted).map_err(|error| error.to_string())? {
                info!("{done}");
            }
            self.hosts_kept = Some((wanted, now));
        }
        Ok(())
    }

    /// One look at everything. When the next is due.
    fn turn(&mut self, answer: &Answer, now: Duration) -> Result<Duration, String> {
        let census = &answer.census;
        self.allocator.rules.clone_from(&answer.rules);
        let said = |error: AllocateError| error.to_string();
        let objects = self.allocator.objects().clone();
        if let Err(problem) = self.make_defaults(&objects) {
            // Who may not make them does the chores all the same.
            warn!("chores: {problem}");
        }
        let set_up = objects.default_of(census::CONTROLLERS).map_err(|error| error.to_string())?;
        let graces = graces(set_up.as_ref().map(|object| &object.spec))?;
        let every = graces.leak.map_or(LATE, |leak| (leak / 3).clamp(SOON, LATE));
        let with_handles = now >= self.handles_due;
        let ledger = self.allocator.ledger(with_handles).map_err(said)?;
        if with_handles {
            self.handles_due = now + every;
        }
        let plan = self.suspicions.look(&ledger, census, graces, now);
        let done = self.act(&plan, census).map_err(said)?;
        self.end_holds(&ledger, answer).map_err(said)?;
        if with_handles {
            self.stale.look(&objects, census, graces.node, now).map_err(|error| error.to_string())?;
        }
        // What was taken back may have been the last of a node; what could not be is no reason to hurry.
        let next = plan.next.filter(|_| plan.is_empty()).map_or(now + every.max(AGAIN), |next| next.min(now + every));
        Ok(if done > 0 { now } else { next })
    }

    /// Once for each time that this node takes the chores over.
    fn make_defaults(&mut self, objects: &Store) -> Result<(), String> {
        if !self.has_defaults {
            for kind in objects.make_defaults().map_err(|error| error.to_string())? {
                info!(kind, "default was made: the cluster had none");
            }
            self.has_defaults = true;
        }
        Ok(())
    }

    /// Ends what is held for too long, out of pools that give nothing more, or for names of namespaces that went.
    fn end_holds(&self, ledger: &Ledger, answer: &Answer) -> Result<(), AllocateError> {
        let is_there =
            |name: &PodId| answer.namespaces.contains(&name.namespace) || !self.namespaces.contains(&name.namespace);
        let over = ledger.holds_over(ledger.clock.at, is_there);
        let ended = self.allocator.end_holds(&over)?;
        if !ended.is_empty() {
            info!(addresses = ?ended, "what was held for pods that did not come again is free");
            self.metrics.took_back("hold", ended.len());
        }
        Ok(())
    }

    /// Does what is planned, as far as it still holds. How much that was.
    fn act(&self, plan: &Plan, census: &Census) -> Result<usize, AllocateError> {
        let mut done = 0;
        for releases in plan.releases.chunks(AT_ONCE) {
            let nodes = releases.iter().flat_map(|release| &release.nodes).cloned().collect();
            let pods = releases.iter().flat_map(|release| &release.pods).cloned().collect();
            let newer = census.renewed(&nodes, self.allocator.objects().census(&nodes, &pods)?);
            let Taken { freed, held } = self.allocator.take_back(releases, &newer)?;
            done += freed.len() + held.len();
            self.metrics.took_back("address", freed.len());
            if !held.is_empty() {
                info!(addresses = ?held, "are held for the names of pods that are gone");
            }
            if !freed.is_empty() {
                let owners: Vec<_> =
                    releases.iter().map(|release| format!("{} ({})", release.owner, release.why)).collect();
                info!(addresses = ?freed, owners = ?owners, "were taken back: nobody has them");
            }
        }
        Ok(done + self.give_up(plan, census)?)
    }

    fn give_up(&self, plan: &Plan, census: &Census) -> Result<usize, AllocateError> {
        let mut done = 0;
        for (handle, places) in &plan.miscounted {
            if self.allocator.mend(handle, places)? {
                done += 1;
                info!(handle, blocks = ?places, "counts again what blocks say");
            }
        }
        if plan.blocks.is_empty() && plan.claims.is_empty() && plan.handles.is_empty() {
            return Ok(done);
        }
        let of_blocks = plan.blocks.iter().filter_map(|idle| idle.node.clone());
        let asked: BTreeSet<NodeName> = of_blocks.chain(plan.claims.iter().map(|(_, node)| node.clone())).collect();
        let there = self.allocator.objects().census(&asked, &BTreeSet::new())?.nodes;
        let ledger = self.allocator.ledger(false)?;
        for idle in &plan.blocks {
            let Idle { cidr, node, .. } = idle;
            let is_due = node.as_ref().is_none_or(|node| !there.contains(node) && census.is_gone(node));
            if is_due && self.allocator.give_up(&ledger, idle)? {
                done += 1;
                self.metrics.took_back("block", 1);
                let why =
                    node.as_ref().map_or("it was empty for long".to_owned(), |node| format!("node {node} is gone"));
                info!(block = %cidr, why, "was given up");
            }
        }
        for (name, node) in plan.claims.iter().filter(|(_, node)| !there.contains(node)) {
            let revision = ledger.affinities.get(name).and_then(|kept| kept.revision.as_deref());
            if revision.is_some() && self.allocator.drop_claim(name, revision)? {
                done += 1;
                self.metrics.took_back("claim", 1);
                info!(claim = name, %node, "was removed: the node is gone");
            }
        }
        for (name, revision) in &plan.handles {
            if self.allocator.drop_handle(name, revision.as_deref())? {
                done += 1;
                self.metrics.took_back("handle", 1);
                info!(handle = name, "was removed: no block knows it");
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests;
