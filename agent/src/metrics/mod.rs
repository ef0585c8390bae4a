//! Metrics over HTTP: what the agent did, and how full the kernel's tables are.
//! In: what the owner and the socket tell, and the maps themselves. Out: `/metrics`, for Prometheus.
//! Invariant: a scrape never waits for the owner; drops are the kernel's own count and survive the agent.
//! Never: a label whose values the cluster's size decides; services have one up to a limit.

mod families;
mod mirror;
mod process;
mod text;

use crate::{
    bird::Seen,
    http::{self, Page},
    kernel::Fullness,
};
use cni::protocol::Reply;
use dataplane::{Commit, DriftKind, Gauges, Tried};
use model::ServiceId;
use service::About;
use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};
use text::{Durations, Text};

/// Where metrics are asked.
const PATH: &str = "/metrics";

pub use mirror::serve_mirror;

/// Answers at `address` from now on with what `told` writes; says where, for port 0.
fn serve(address: SocketAddr, told: impl Fn(Text) -> String + Send + 'static) -> io::Result<SocketAddr> {
    http::serve("metrics", address, move |request| {
        if request.path != PATH {
            return Page::line("404 Not Found", "there is /metrics");
        }
        let open = request.says("accept", "application/openmetrics-text");
        Page { status: "200 OK", kind: Text::content_type(open), text: told(Text::new(open)) }
    })
}

/// What the agent counted and last said of itself.
#[derive(Clone, Debug)]
struct Told {
    started: SystemTime,
    node: NodeState,
    fullness: Fullness,
    /// The generation at which the maps were so full.
    fullness_of: Option<u64>,
    commits: BTreeMap<&'static str, u64>,
    commit_times: Durations,
    refused: u64,
    repaired: BTreeMap<DriftKind, u64>,
    /// Whether this node does the chores; `None`: it never will.
    does_chores: Option<bool>,
    taken_back: BTreeMap<&'static str, u64>,
    requests: BTreeMap<(&'static str, u32), u64>,
    request_times: BTreeMap<&'static str, Durations>,
}

/// The node as its owner last saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// The datastore was read and resolved.
    pub ready: bool,
    /// In force.
    pub generation: u64,
    /// Endpoints in force.
    pub endpoints: usize,
    /// Items that are not as wanted.
    pub not_in_force: usize,
    /// What is wrong with manifests.
    pub problems: usize,
    /// Records of attachments that cannot be read.
    pub damaged: usize,
    /// The revision that is wanted does not fit.
    pub refused: bool,
    /// What staged policies would have made of new flows.
    pub tried: Tried,
    /// Its services.
    pub services: ServicesState,
    /// BIRD, where it speaks for the node.
    pub speaker: Option<Seen>,
}

/// Services as their owner last saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesState {
    /// A kube-proxy translates.
    pub by_host: bool,
    /// How many there are.
    pub services: usize,
    /// Where they are reached.
    pub frontends: usize,
    /// What is odd, by what it is about.
    pub remarks: BTreeMap<About, usize>,
    /// Flows opened and packets refused, of those that are told apart.
    pub flows: Vec<(ServiceId, u64, u64)>,
    /// How many are not.
    pub unlabelled: usize,
}

/// Where everybody tells what happened; clones share it.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Told>>, Writes);

/// Counts what the datastore was asked to write.
#[derive(Clone, Default)]
struct Writes(Arc<OnceLock<Counts>>);

/// Counts, by what is counted.
pub type Counts = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writes")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let told = Told {
            started: SystemTime::now(),
            node: NodeState::default(),
            fullness: Fullness::default(),
            fullness_of: None,
            commits: BTreeMap::new(),
            commit_times: Durations::default(),
            refused: 0,
            repaired: BTreeMap::new(),
            does_chores: None,
            taken_back: BTreeMap::new(),
            requests: BTreeMap::new(),
            request_times: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(told)), Writes::default())
    }
}

impl Metrics {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who counts writes to the datastore.
    pub fn writes_are(&self, counts: Counts) {
        let _already = self.1.0.set(counts);
    }

    /// A revision was wanted; `is_new`: it was not tried before.
    pub fn committed(&self, commit: Commit, took: Duration, is_new: bool) {
        let mut told = self.told();
        let result = match commit {
            Commit::Unchanged => return,
            Commit::InForce => "in-force",
            Commit::Refused => "refused",
            Commit::Failed => "failed",
        };
        *told.commits.entry(result).or_default() += 1;
        if commit == Commit::InForce {
            told.commit_times.add(took.as_secs_f64());
        }
        told.refused += u64::from(commit == Commit::Refused && is_new);
    }

    /// Something that other hands had changed was put back.
    pub fn repaired(&self, kind: DriftKind) {
        *self.told().repaired.entry(kind).or_default() += 1;
    }

    /// This node does the chores of the cluster, or does not.
    pub fn does_chores(&self, does: bool) {
        self.told().does_chores = Some(does);
    }

    /// So much of what nobody has was taken back.
    pub fn took_back(&self, what: &'static str, count: usize) {
        *self.told().taken_back.entry(what).or_default() += count as u64;
    }

    /// How much of it that is.
    #[cfg(test)]
    pub fn taken_back(&self, what: &str) -> u64 {
        self.told().taken_back.get(what).copied().unwrap_or_default()
    }

    /// A request on the socket was answered.
    pub fn answered(&self, operation: &'static str, reply: &Reply, took: Duration) {
        let code = reply.as_ref().err().map_or(0, |fault| fault.code);
        let mut told = self.told();
        *told.requests.entry((operation, code)).or_default() += 1;
        told.request_times.entry(operation).or_default().add(took.as_secs_f64());
    }

    /// The node is so now, and the maps that commits fill are so full, if that is another than was told last.
    pub fn is_now(&self, node: NodeState, fullness: Option<Fullness>) {
        let mut told = self.told();
        if let Some(fullness) = fullness {
            (told.fullness_of, told.fullness) = (Some(node.generation), fullness);
        }
        told.node = node;
    }

    /// Whether what was told last of the maps is of another generation.
    pub fn has_moved_on(&self, generation: u64) -> bool {
        self.told().fullness_of != Some(generation)
    }

    /// Answers at `address` from now on, with these handles of the kernel's maps; says where, for port 0.
    pub fn serve(&self, address: SocketAddr, gauges: Gauges) -> io::Result<SocketAddr> {
        let metrics = self.clone();
        serve(address, move |text| metrics.text(text, &gauges))
    }

    fn text(&self, mut text: Text, gauges: &Gauges) -> String {
        // The maps are read while nobody has to wait for the lock.
        let told = self.told().clone();
        families::of_maps(&mut text, gauges, &told.fullness.maps);
        families::of_agent(&mut text, &told);
        families::of_services(&mut text, &told.node.services);
        told.node.speaker.iter().for_each(|seen| families::of_bgp(&mut text, seen));
        families::of_datastore(&mut text, &self.1.0.get().map(|counts| counts()).unwrap_or_default());
        process::write(&mut text, told.started);
        text.end()
    }
}
