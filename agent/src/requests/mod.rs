//! What is asked on the socket: begun before a batch is applied, finished after.
//! In: [`Ask`]s. Out: replies; a reply that depends on the kernel waits for the apply.
//! Invariant: every ask gets exactly one reply.
//! Never: serves a pod before the datastore has said everything it has.

mod commit;
mod delegated;
mod floating;
mod named;
mod ports;
mod prepare;
mod query;
mod remove;
#[cfg(test)]
mod tests;

use crate::{
    kernel::Kernel,
    owner::{Agent, Ask},
    trial::Gathered,
};
use cni::protocol::{Answer, Fault, Operation, Query, Reply};
use model::{AttachmentId, PodAsks};
use std::{sync::mpsc::SyncSender, thread, time::Instant};

pub use prepare::abandon;
pub use remove::release;

/// CNI: try again later.
const TRY_AGAIN: u32 = 11;
/// CNI: the network configuration is not valid.
const INVALID_CONFIG: u32 = 7;
/// CNI: ADD cannot be served now.
const NOT_AVAILABLE: u32 = 50;
/// CNI: and the pods that are there may have limited connectivity.
const LIMITED: u32 = 51;
/// Ours: what is asked about is not as it should be.
const NOT_AS_IT_SHOULD_BE: u32 = 100;

/// A reply that waits for the apply.
pub enum Waiting {
    /// Is the endpoint in force?
    Commit {
        /// Which.
        id: AttachmentId,
        /// To whom.
        reply: SyncSender<Reply>,
    },
    /// Are the endpoints gone?
    Remove {
        /// Which.
        ids: Vec<AttachmentId>,
        /// To whom; nobody where a new container took the old one's place.
        reply: Option<SyncSender<Reply>>,
    },
}

/// Begins every request of a batch; what comes back is finished after the apply.
pub fn start<K: Kernel>(agent: &mut Agent<K>, asks: Vec<Ask>) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    let mut prepares = Vec::new();
    for Ask { operation, deadline, reply } in asks {
        if let Some(fault) = refusal(agent, &operation, deadline) {
            answer(&reply, Err(fault));
            continue;
        }
        match operation {
            Operation::Query(Query::Test { files, delete }) => match query::test(agent, &files, delete) {
                Ok(gathered) => work_out(gathered, reply),
                Err(fault) => answer(&reply, Err(fault)),
            },
            Operation::Query(question) => answer(&reply, query::query(agent, &question)),
            Operation::Status { delegated, pod_cidrs, .. } => {
                answer(&reply, query::status(agent, delegated, &pod_cidrs));
            }
            Operation::Check { id, host_ports } => answer(&reply, query::check(agent, &id, &host_ports)),
            Operation::Prepare(prepare) => {
                prepares.push(prepare::Ask { prepare, asks: PodAsks::default(), deadline, reply })
            }
            Operation::Commit { id, mac, addresses } => {
                waiting.extend(commit::start(agent, id, commit::Wired { mac, addresses }, reply));
            }
            Operation::Abort { id } | Operation::Del { id } => waiting.push(remove::start(agent, vec![id], reply)),
            Operation::Gc { network, keep } => {
                // What was prepared before it is not overlooked, though prepares are served together.
                waiting.extend(prepare::all(agent, std::mem::take(&mut prepares)));
                waiting.push(remove::gc(agent, &network, &keep, reply));
            }
        }
    }
    waiting.extend(prepare::all(agent, prepares));
    waiting
}

/// A test may compare for seconds: nobody's ADD waits for that.
fn work_out(gathered: Gathered, reply: SyncSender<Reply>) {
    let run = move || answer(&reply, Ok(Answer::Report { report: gathered.report() }));
    if let Err(error) = thread::Builder::new().name("trial".into()).spawn(run) {
        tracing::warn!("no thread to work out a policy test: {error}");
    }
}

/// Gives the replies that waited for the apply.
pub fn finish<K: Kernel>(agent: &mut Agent<K>, waiting: Vec<Waiting>) {
    let committed = waiting.iter().filter_map(|waiting| match waiting {
        Waiting::Commit { id, .. } => Some(id),
        Waiting::Remove { .. } => None,
    });
    let recorded = commit::record(agent, committed);
    let (mut removed, mut askers) = (Vec::new(), Vec::new());
    for waiting in waiting {
        match waiting {
            Waiting::Commit { id, reply } => answer(&reply, commit::finish(agent, &id, recorded.clone())),
            Waiting::Remove { ids, reply } => {
                removed.push(ids);
                askers.push(reply);
            }
        }
    }
    if removed.is_empty() {
        return;
    }
    for (asker, done) in askers.iter().zip(remove::finish_all(agent, &removed)) {
        match asker {
            Some(asker) => answer(asker, done),
            None => drop(done.inspect_err(|fault| tracing::warn!("{fault}"))),
        }
    }
}

/// Why a request is not begun at all.
fn refusal<K: Kernel>(agent: &Agent<K>, operation: &Operation, deadline: Instant) -> Option<Fault> {
    let reads = matches!(operation, Operation::Query(_) | Operation::Status { .. });
    let makes = matches!(operation, Operation::Prepare(_) | Operation::Commit { .. });
    if !reads && agent.world.in_sync().is_none() {
        return Some(fault(TRY_AGAIN, "the agent is still reading the datastore; try again"));
    }
    let waits = matches!(operation, Operation::Prepare(_)).then(|| agent.claims.reason_to_wait()).flatten();
    if let Some(reason) = waits {
        return Some(fault(TRY_AGAIN, reason));
    }
    // Whoever stopped waiting will abort: what is not begun needs no undoing.
    if makes && Instant::now() >= deadline {
        return Some(fault(TRY_AGAIN, "the agent was too busy to answer in time; try again"));
    }
    None
}

fn answer(reply: &SyncSender<Reply>, answer: Reply) {
    if reply.try_send(answer).is_err() {
        tracing::debug!("an asker did not wait for its answer");
    }
}

fn done() -> Reply {
    Ok(Answer::Done)
}

fn fault(code: u32, message: impl ToString) -> Fault {
    Fault { code, message: message.to_string(), details: String::new() }
}
