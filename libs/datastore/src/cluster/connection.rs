//! The way to an API server: who it is, and the thread that speaks with it.
//! In: a kubeconfig, or the service account of the pod that the agent runs in. Out: a client, for all who ask the server.
//! Invariant: whoever asks waits no longer than [`PATIENCE`]; a thread that asks waits not at all while the server is known to be silent.
//! What is written is counted, by what it is.
//! Never: asks by itself.

use super::kinds::Calico;
use kube::{
    Client, Config, Error,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::{self, Runtime},
    time,
};

/// So long the server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long a server that did not answer is not asked again by threads that wait.
const SILENCE: Duration = Duration::from_secs(2);

/// Why a cluster cannot be a datastore.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file that says where it is.
    #[error("{path}: not a usable kubeconfig: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no such file, and this is no pod.
    #[error("no kubeconfig is named, and this is no pod with a service account ({0}); name one by --kubeconfig")]
    NotInCluster(String),
    /// The folder of last good policies.
    #[error(transparent)]
    LastGood(crate::OpenError),
    /// A thread or a client could not be made.
    #[error("the API server cannot be asked: {0}")]
    Client(String),
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The server refuses, or cannot be reached.
    Refused(Error),
    /// It says nothing.
    Silent,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => f.write_str(&super::in_full(error)),
            Self::Silent => f.write_str("it does not answer"),
        }
    }
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Blocks, affinities, handles.
    Addresses,
    /// How an object is.
    Condition,
    /// What calicoctl asks every cluster for.
    Default,
    /// Remarks.
    Event,
    /// A node's host endpoint.
    HostEndpoint,
    /// Who does what only one may do.
    Lease,
    /// This node's own object.
    Node,
    /// A pod's addresses.
    Pod,
    /// A load balancer's addresses.
    Service,
    /// How a node's BGP is.
    Status,
}

impl Write {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Addresses, "addresses"),
        (Self::Condition, "condition"),
        (Self::Default, "default"),
        (Self::Event, "event"),
        (Self::HostEndpoint, "hostendpoint"),
        (Self::Lease, "lease"),
        (Self::Node, "node"),
        (Self::Pod, "pod"),
        (Self::Service, "service"),
        (Self::Status, "status"),
    ];
}

/// A server that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    pub(super) server: Arc<str>,
    pub(super) runtime: Arc<Runtime>,
    silent_until: Arc<Mutex<Option<Instant>>>,
    writes: Arc<[AtomicU64; Write::ALL.len()]>,
    is_paused: Arc<AtomicBool>,
    calico: Arc<Mutex<Option<Calico>>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.server)
    }
}

impl Connection {
    /// To the cluster that `kubeconfig` names, else to the one whose pod this is. Whether the server answers shows later.
    ///
    /// # Errors
    /// There is no such cluster by its configuration.
    pub fn open(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        let failed = |error: String| ConnectError::Client(error);
        // One thread does the input and output for all who ask; those wait in their own.
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("api").enable_all().build();
        let runtime = Arc::new(runtime.map_err(|error| failed(error.to_string()))?);
        let config = runtime.block_on(config(kubeconfig))?;
        let server = config.cluster_url.to_string().into();
        // What the client spawns belongs to the runtime.
        let client = runtime.block_on(async { Client::try_from(config) }).map_err(|error| failed(error.to_string()))?;
        let (silent_until, writes, is_paused, calico) = Default::default();
        Ok(Self { client, server, runtime, silent_until, writes, is_paused, calico })
    }

    /// Writes that the server was asked for, by what is written.
    pub fn writes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Write::ALL.iter().zip(&*self.writes).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
    }

    /// Where it is.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn count(&self, write: Write) {
        let place = Write::ALL.iter().position(|(own, _)| *own == write);
        if let Some(count) = place.and_then(|place| self.writes.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where Calico's objects are, once the server has said so.
    pub(super) fn calico(&self) -> Option<Calico> {
        *self.calico.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn calico_is(&self, calico: Calico) {
        *self.calico.lock().unwrap_or_else(PoisonError::into_inner) = Some(calico);
    }

    /// Whether Calico's objects are locked: nothing of them may be written, and what they say does not count.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    pub(crate) fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Writes, and waits for the answer as a task does; `None`: there was none. Neither heeds nor says that the server is silent: a
    /// write that hangs, in an admission webhook perhaps, must not keep addresses from pods.
    pub(super) async fn write<T>(
        &self,
        write: Write,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Option<Error>> {
        self.count(write);
        self.answer(question).await
    }

    /// Asks, likewise.
    pub(super) async fn answer<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Result<T, Option<Error>> {
        time::timeout(PATIENCE, question).await.map_or(Err(None), |answer| answer.map_err(Some))
    }

    /// Asks, and waits for the answer. To be called by threads that are not the runtime's.
    pub(crate) fn ask<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Result<T, Unanswered> {
        let silent_until = *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        if silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(Unanswered::Silent);
        }
        match self.runtime.block_on(async { time::timeout(PATIENCE, question).await }) {
            Ok(answer) => answer.map_err(Unanswered::Refused),
            Err(_) => {
                *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + SILENCE);
                Err(Unanswered::Silent)
            }
        }
    }
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let Some(path) = kubeconfig else {
        return Config::incluster().map_err(|error| ConnectError::NotInCluster(error.to_string()));
    };
    let failed = |reason: String| ConnectError::Kubeconfig { path: path.to_owned(), reason };
    let read = Kubeconfig::read_from(path).map_err(|error| failed(error.to_string()))?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| failed(error.to_string()))
}
