//! etcd as a datastore, in Calico's layout: resources, and nodes' claims on blocks, each listed at one revision, then watched.
//! In: endpoints; an API server beside it, for services. Out: batches of updates.
//! Invariant: the first batch is everything that there is and ends with `InSync`; an etcd that is slow, absent or empty takes nothing
//! away.
//! Never: writes but in `objects`, what agents share, a pod's endpoint and this node, in `hosts`, nodes' host endpoints, and in `status`, of
//! a node's BGP.

mod census;
mod connection;
mod error;
mod gather;
pub(crate) mod guarded;
mod heard;
mod hosts;
mod layout;
mod message;
mod objects;
mod pages;
mod pods;
mod records;
mod services;
mod settings;
mod status;
mod watched;
mod whose;

pub use connection::{EtcdConnection, EtcdSettings};
pub use error::EtcdError;
pub use objects::EtcdObjects;
#[cfg(test)]
pub(crate) use watched::Revisions;
pub(crate) use watched::{Said, run as watched};
pub use whose::forget_cluster;

use crate::{
    Batch, Connection, OpenError, Problem, cluster,
    standing::{Standing, Told},
    watch::{BATCHES_MAX, Updates},
};
use gather::{Gather, Part};
use services::Services;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        PoisonError,
        mpsc::{self, SyncSender},
    },
    thread,
};
use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel, error::TryRecvError},
        oneshot,
    },
    time::{Instant, timeout_at},
};
use whose::Whose;

/// What may come into force together: enough that a churn is one commit, and few enough that nobody waits for it.
const SAID_AT_ONCE: usize = 4096;
/// What may wait to be gathered, each as large as an object may be; the rest waits at etcd.
const SAID_WAITING: usize = 256;

/// A watched etcd. Dropping it ends the watch.
#[derive(Debug)]
pub struct Etcd {
    told: Told,
    _stop: oneshot::Sender<()>,
}

impl Etcd {
    /// Watches it. Returns at once: the first batch comes when everything was listed, however long that takes. In `last_good`, a
    /// folder of its own, the policies in force outlive the process. Services are heard of the `cluster`.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        connection: &EtcdConnection,
        cluster: Option<&Connection>,
        last_good: Option<&Path>,
    ) -> Result<(Self, Updates), EtcdError> {
        let told = Told::default();
        let mut standing = Standing::new(PathBuf::new(), Told::clone(&told));
        let mut whose = Whose::default();
        if let Some(path) = last_good {
            let failed = |error: io::Error| OpenError::LastGood { path: path.to_owned(), reason: error.to_string() };
            standing.remember(path).map_err(|error| EtcdError::LastGood(failed(error)))?;
            whose = Whose::remembered(path).map_err(|error| EtcdError::LastGood(failed(error)))?;
        }
        let (stop, stopped) = oneshot::channel();
        let (send, updates) = mpsc::sync_channel(BATCHES_MAX);
        let (connection, cluster) = (connection.clone(), cluster.cloned());
        let services = Services::at(cluster.as_ref().map(Connection::server));
        let gather = Gather::new(standing, connection.name().to_owned(), whose, services);
        let run = move || connection.runtime().block_on(run((&connection, cluster.as_ref()), gather, send, stopped));
        let spawned = thread::Builder::new().name("datastore".into()).spawn(run);
        spawned.map_err(|error| EtcdError::Client(error.to_string()))?;
        Ok((Self { told, _stop: stop }, updates))
    }

    /// All that is wrong with the objects and with the watch itself now.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who says something.
enum Heard {
    Etcd(Part, Said),
    Services(usize, cluster::Said),
}

type Connections<'a> = (&'a EtcdConnection, Option<&'a Connection>);

async fn run(connections: Connections<'_>, gather: Gather, send: SyncSender<Batch>, stopped: oneshot::Receiver<()>) {
    let (etcd, cluster) = connections;
    let (say, heard) = channel(SAID_WAITING);
    let _watches = cluster.map(|cluster| Services::watch(cluster, say.clone(), Heard::Services));
    tokio::select! {
        _ = stopped => {}
        () = hear(etcd, Part::Resources, &say) => {}
        () = hear(etcd, Part::Claims, &say) => {}
        () = follow(connections, gather, heard, &send) => {}
    }
}

/// Watches one part. Until nobody listens.
async fn hear(connection: &EtcdConnection, part: Part, say: &Sender<Heard>) {
    let (own, mut heard) = channel(1);
    let pass_on = async {
        while let Some(said) = heard.recv().await {
            if say.send(Heard::Etcd(part, said)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = watched::run(connection, part.prefix(), &own) => {}
        () = pass_on => {}
    }
}

impl Gather {
    fn take_in(&mut self, heard: Heard) {
        match heard {
            Heard::Etcd(part, said) => self.hear(part, said),
            Heard::Services(kind, said) => self.hear_of_services(kind, said),
        }
    }
}

/// Until the receiver is dropped.
async fn follow(
    (etcd, cluster): Connections<'_>,
    mut gather: Gather,
    mut heard: Receiver<Heard>,
    send: &SyncSender<Batch>,
) {
    let mut late: Option<Instant> = None;
    loop {
        // While nothing has come, the last good policies are written down, one by one.
        match heard.try_recv() {
            Ok(said) => gather.take_in(said),
            Err(TryRecvError::Empty) if gather.keep_one() => {
                tokio::task::yield_now().await;
                continue;
            }
            Err(_) if gather.awaits_services() => {
                let at = *late.get_or_insert_with(|| Instant::now() + services::PATIENCE);
                match timeout_at(at, heard.recv()).await {
                    Ok(Some(said)) => gather.take_in(said),
                    Ok(None) => return,
                    Err(_) => gather.leave_services(),
                }
            }
            Err(_) => match heard.recv().await {
                Some(said) => gather.take_in(said),
                None => return,
            },
        }
        for _ in 1..SAID_AT_ONCE {
            let Ok(said) = heard.try_recv() else { break };
            gather.take_in(said);
        }
        etcd.pause(gather.is_locked());
        if let Some(cluster) = cluster {
            cluster.pause(gather.is_locked());
        }
        let batch = gather.batch();
        if !batch.is_empty() && send.send(batch).is_err() {
            return;
        }
    }
}
