//! A Kubernetes API server as a datastore: every kind that means something here listed, then watched.
//! In: a kubeconfig, or the service account of the pod that the agent runs in. Out: batches of updates.
//! Invariant: the first batch is everything that there is and ends with `InSync`; a server that is slow, absent or forbids
//! takes nothing away.
//! Never: writes.

mod gather;
mod kinds;
mod watched;

use crate::{
    Problem,
    standing::{Standing, Told},
    watch::{BATCHES_MAX, Updates},
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use gather::{Gather, Said};
use kinds::Calico;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        PoisonError,
        mpsc::{self, SyncSender},
    },
    thread,
};
use tokio::{runtime, sync::oneshot};

/// Events that may come into force together: enough that a churn is one commit, and few enough that nobody waits for it.
const EVENTS_AT_ONCE: usize = 4096;

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
    #[error("no kubeconfig is named and this does not run in a pod with a service account: {0}; name one by --kubeconfig")]
    NotInCluster(String),
    /// The folder of last good policies: see [`crate::OpenError::LastGood`].
    #[error(
        "{path}: last good policies cannot be kept here: {reason}; it must be a directory that this agent may write"
    )]
    LastGood {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A thread or a client could not be made.
    #[error("the API server cannot be asked: {0}")]
    Client(String),
}

/// A watched cluster. Dropping it ends the watch.
#[derive(Debug)]
pub struct Cluster {
    told: Told,
    _stop: oneshot::Sender<()>,
}

impl Cluster {
    /// Watches the cluster that `kubeconfig` names, else the one whose pod this is. Returns at once: the first batch comes when
    /// the server has listed everything, however long that takes. In `last_good`, a folder of its own, the policies in force
    /// outlive the process.
    ///
    /// # Errors
    /// There is no such cluster by its configuration, or the folder cannot be used.
    pub fn open(kubeconfig: Option<&Path>, last_good: Option<&Path>) -> Result<(Self, Updates), ConnectError> {
        let failed = |error: io::Error| ConnectError::Client(error.to_string());
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let config = runtime.block_on(config(kubeconfig))?;
        let told = Told::default();
        let mut standing = Standing::new(PathBuf::new(), Told::clone(&told));
        if let Some(path) = last_good {
            let reason = |error: io::Error| ConnectError::LastGood { path: path.to_owned(), reason: error.to_string() };
            standing.remember(path).map_err(reason)?;
        }
        let (stop, stopped) = oneshot::channel();
        let (send, updates) = mpsc::sync_channel(BATCHES_MAX);
        // What the client spawns belongs to the runtime: it is made there.
        let run = move || runtime.block_on(run(config, standing, send, stopped));
        thread::Builder::new().name("datastore".into()).spawn(run).map_err(failed)?;
        Ok((Self { told, _stop: stop }, updates))
    }

    /// All that is wrong with the objects and with the watch itself now.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

async fn run(config: Config, standing: Standing, send: SyncSender<crate::Batch>, stopped: oneshot::Receiver<()>) {
    let server = config.cluster_url.to_string();
    let client = match Client::try_from(config) {
        Ok(client) => client,
        Err(error) => return tracing::error!(server, "the API server cannot be asked: {error}"),
    };
    let followed = async {
        let calico = Calico::of(&client, &server).await;
        let kinds = kinds::watched(calico);
        let gather = Gather::new(standing, &kinds, server);
        let watches = kinds.into_iter().enumerate().map(|(number, kind)| {
            watched::watched(client.clone(), kind).map(move |said| (number, said)).boxed()
        });
        follow(gather, stream::select_all(watches), &send).await;
    };
    tokio::select! {
        _ = stopped => {}
        () = followed => {}
    }
}

/// Until the receiver is dropped.
async fn follow(mut gather: Gather, mut events: impl Stream<Item = (usize, Said)> + Unpin, send: &SyncSender<crate::Batch>) {
    loop {
        // While nothing has come, the last good policies are written down, one by one.
        let first = match events.next().now_or_never() {
            Some(first) => first,
            None if gather.keep_one() => continue,
            None => events.next().await,
        };
        let Some((kind, said)) = first else { return };
        gather.hear(kind, said);
        for _ in 1..EVENTS_AT_ONCE {
            let Some(Some((kind, said))) = events.next().now_or_never() else { break };
            gather.hear(kind, said);
        }
        let batch = gather.batch();
        if !batch.is_empty() && send.send(batch).is_err() {
            return;
        }
    }
}
