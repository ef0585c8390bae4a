//! A Kubernetes API server as a datastore: every kind that means something here listed, then watched.
//! In: a kubeconfig, or the service account of the pod that the agent runs in. Out: batches of updates.
//! Invariant: the first batch is everything that there is and ends with `InSync`; a server that is slow, absent or forbids
//! takes nothing away.
//! Never: writes but in `objects`, what agents share and what is told of Services, in `annotate`, of pods, in `status`, of a node's BGP, and
//! in `tell`, what is told of objects and of this node.

mod affinity;
mod annotate;
mod census;
mod connection;
mod defaults;
mod gather;
mod heard;
mod hosts;
mod kinds;
mod listed;
mod mirror;
mod noted;
mod object;
mod objects;
mod pages;
mod pods;
mod secrets;
mod services;
mod status;
mod tell;
mod watched;

pub use connection::{ConnectError, Connection};
pub use gather::Machine;
pub(crate) use gather::Said;
pub(crate) use listed::Known;
pub use mirror::{Mirror, MirrorStanding, MirrorTold};
pub use objects::ClusterObjects;
pub(crate) use pods::{namespaces, pod_cidrs, pods, with_stem};
pub(crate) use services::{Watches, hear as hear_services, unheard as unheard_services};
pub use tell::{Remark, Report, Teller};

use crate::{
    Batch, EtcdConnection, OpenError, Problem,
    standing::{Standing, Told},
    watch::{BATCHES_MAX, Updates},
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream, stream::BoxStream};
use gather::Gather;
use kinds::{Calico, Watched};
use kube::{
    Client,
    api::{PatchParams, PostParams},
    core::Status,
};
use noted::Notes;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Who writes, as the server's `managedFields` say.
const MANAGER: &str = "tortie";

/// What is made in our name.
fn posting() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// What is changed in our name.
fn patching() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// Events that may come into force together: enough that a churn is one commit, and few enough that nobody waits for it.
const EVENTS_AT_ONCE: usize = 4096;

/// A server that does not answer is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A Node that is another machine may be late: a kubelet says soon after a start which one it is.
const ANOTHER_MAX: Duration = Duration::from_secs(20);
/// Between two looks whether it is.
const ANOTHER_LOOK: Duration = Duration::from_secs(1);

/// A watched cluster. Dropping it ends the watch.
#[derive(Debug)]
pub struct Cluster {
    told: Told,
    refused: Arc<OnceLock<String>>,
    teller: Teller,
    _stop: oneshot::Sender<()>,
}

impl Cluster {
    /// Watches this cluster for a node. Returns at once: the first batch comes when the server has listed everything, however long
    /// that takes; where the cluster's Node of this name stays another machine, the updates end before it, and
    /// [`Cluster::refused`] says so. In `last_good`, a folder of its own, the policies in force outlive the process. Where there is a
    /// `mirror` all is heard there, as long as it lives.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        connection: &Connection,
        machine: &Machine,
        mirror: Option<&EtcdConnection>,
        last_good: Option<&Path>,
    ) -> Result<(Self, Updates), ConnectError> {
        let told = Told::default();
        let mut standing = Standing::new(PathBuf::new(), Told::clone(&told));
        if let Some(path) = last_good {
            let failed = |error: io::Error| OpenError::LastGood { path: path.to_owned(), reason: error.to_string() };
            standing.remember(path).map_err(|error| ConnectError::LastGood(failed(error)))?;
        }
        let (stop, stopped) = oneshot::channel();
        let (send, updates) = mpsc::sync_channel(BATCHES_MAX);
        let teller = Teller::new();
        let refused = Arc::<OnceLock<String>>::default();
        let part = Part {
            connection: connection.clone(),
            mirror: mirror.cloned(),
            machine: machine.clone(),
            teller: teller.clone(),
            refused: Arc::clone(&refused),
        };
        let run = move || part.connection.runtime.block_on(run(&part, standing, send, stopped));
        let spawned = thread::Builder::new().name("datastore".into()).spawn(run);
        spawned.map_err(|error| ConnectError::Client(error.to_string()))?;
        Ok((Self { told, refused, teller, _stop: stop }, updates))
    }

    /// Who tells the cluster what this node's agent reports.
    #[must_use]
    pub fn teller(&self) -> Teller {
        self.teller.clone()
    }

    /// Why there will be no updates, if there will be none.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.refused.get().cloned()
    }

    /// All that is wrong with the objects and with the watch itself now.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One node's part in a cluster.
struct Part {
    connection: Connection,
    mirror: Option<EtcdConnection>,
    machine: Machine,
    teller: Teller,
    refused: Arc<OnceLock<String>>,
}

async fn run(part: &Part, standing: Standing, send: SyncSender<Batch>, stopped: oneshot::Receiver<()>) {
    let mut machine = part.machine.clone();
    let followed = async {
        let mut standing = standing;
        while let Some(kept) = followed(part, &mut machine, standing, &send).await {
            standing = kept;
        }
    };
    tokio::select! {
        _ = stopped => {}
        () = followed => {}
    }
}

/// Until nobody hears any more (`None`), or Calico's objects are somewhere else.
async fn followed(
    part: &Part,
    machine: &mut Machine,
    mut standing: Standing,
    send: &SyncSender<Batch>,
) -> Option<Standing> {
    let Part { connection, mirror, teller, refused, .. } = part;
    let calico = found_calico((connection, mirror.as_ref()), &mut standing).await;
    connection.calico_is(calico);
    let kinds = kinds::watched(calico);
    let notes = Arc::<Notes>::default();
    let own = (machine.clone(), Arc::clone(&notes));
    let gather = Gather::new(standing, &kinds, connection.server.to_string(), own);
    let node = machine.node.clone();
    let writer = tell::Writer::new(connection.clone(), (kinds.clone(), calico), node, Arc::clone(&notes));
    let client = connection.client.clone();
    let events = match mirror.clone() {
        Some(etcd) => {
            let node = machine.node.0.to_string();
            let reader = mirror::Reader { etcd, client, kinds, calico, node };
            mirror::heard(reader, &connection.runtime).boxed()
        }
        None => stream::select_all(watches(&client, kinds, calico, watched::watched)).boxed(),
    };
    let heard = follow(gather, events, send, (connection, &notes));
    // Who writes waits for answers; who hears must not.
    let kept = tokio::select! {
        kept = heard => kept,
        () = writer.run(teller.reports()) => None,
        why = another(&notes, machine) => {
            let _first = refused.set(why);
            None
        }
    };
    // It was this one when all came into force.
    machine.boot.take_if(|_| notes.look().is_in_sync);
    kept
}

/// All kinds, by their numbers; and whether Calico's objects are somewhere else.
fn watches(
    client: &Client,
    kinds: Vec<Watched>,
    calico: Calico,
    watch: impl Fn(Client, Watched) -> BoxStream<'static, Said>,
) -> Vec<BoxStream<'static, (usize, Said)>> {
    let numbered = kinds.into_iter().enumerate();
    let all = numbered.map(|(number, kind)| watch(client.clone(), kind).map(move |said| (number, said)).boxed());
    let native = (calico == Calico::Stored)
        .then(|| kinds::native(client.clone()).map(|native| (usize::MAX, Said::Native(native))).boxed());
    all.chain(native).collect()
}

/// Until it is sure that the Node of this name is another machine.
async fn another(notes: &Notes, machine: &Machine) -> String {
    let mut since: Option<Instant> = None;
    loop {
        tokio::time::sleep(ANOTHER_LOOK).await;
        if notes.look().is_in_sync {
            std::future::pending::<()>().await;
        }
        let why = machine.another(notes);
        let first = *since.get_or_insert_with(Instant::now);
        match why {
            Some(why) if first.elapsed() >= ANOTHER_MAX => return why,
            Some(_) => {}
            None => since = None,
        }
    }
}

/// Which of Calico's groups the cluster has; the server is asked until it says so, where the mirror does not.
async fn found_calico((connection, mirror): (&Connection, Option<&EtcdConnection>), standing: &mut Standing) -> Calico {
    if let Some(etcd) = mirror
        && let Some(calico) = mirror::calico(etcd).await
    {
        return calico;
    }
    loop {
        match kinds::calico(&connection.client).await {
            Ok(found) => {
                standing.tell_beside(Vec::new());
                return found;
            }
            Err(error) => {
                let message = format!("does not say what it keeps: {}; it is asked again and again", in_full(&error));
                let file = PathBuf::from(&*connection.server);
                standing.tell_beside(vec![Problem { file, line: None, object: None, message }]);
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What the server itself says, else an error with its causes.
fn in_full(error: &(dyn Error + 'static)) -> String {
    let (mut said, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        if let Some(status) =
            error.downcast_ref::<Status>().or(error.downcast_ref::<Box<Status>>().map(|status| &**status))
        {
            return status.message.clone();
        }
        let text = error.to_string();
        // Some say their cause themselves.
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}

/// Until the receiver is dropped, or all is to be heard anew by what stands.
async fn follow(
    mut gather: Gather,
    mut events: impl Stream<Item = (usize, Said)> + Unpin,
    send: &SyncSender<Batch>,
    (connection, notes): (&Connection, &Notes),
) -> Option<Standing> {
    loop {
        // While nothing has come, the last good policies are written down, one by one.
        let first = match events.next().now_or_never() {
            Some(first) => first,
            None if gather.keep_one() => {
                // Who writes is not kept from it.
                tokio::task::yield_now().await;
                continue;
            }
            None => events.next().await,
        };
        let (kind, said) = first?;
        gather.hear(kind, said);
        for _ in 1..EVENTS_AT_ONCE {
            let Some(Some((kind, said))) = events.next().now_or_never() else { break };
            gather.hear(kind, said);
        }
        if gather.begins_anew() {
            tracing::info!("Calico's objects are the cluster's own now: all is heard anew");
            return Some(gather.into_standing());
        }
        connection.pause(gather.is_locked());
        let batch = gather.batch();
        notes.bell.notify_one();
        if !batch.is_empty() && send.send(batch).is_err() {
            return None;
        }
    }
}
