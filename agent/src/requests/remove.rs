//! Abort, DEL and GC: attachments are taken away and their addresses released.
//! In: identities, whether known or not. Out: done, also for what was never there.
//! Invariant: an address is released only after its endpoint has left the kernel; the record goes last.
//! Never: touches another network's attachments, or a new container's interface.

use super::{TRY_AGAIN, Waiting, done, fault};
use crate::{allocate::AllocateError, journal::JournalError, kernel::Kernel, owner::Agent};
use cni::protocol::Reply;
use datastore::ObjectError;
use model::{Attachment, AttachmentId, PodId};
use std::{collections::BTreeSet, panic, sync::mpsc::SyncSender, thread};

/// Addresses or records that could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The addresses.
    #[error(transparent)]
    Addresses(#[from] AllocateError),
    /// What other nodes are told.
    #[error("what other nodes know of the pod: {0}")]
    Published(#[from] ObjectError),
    /// The veth pair.
    #[error(transparent)]
    Link(#[from] netlink::Error),
    /// The record.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Takes the attachments out of the World.
pub fn start<K: Kernel>(agent: &mut Agent<K>, ids: Vec<AttachmentId>, reply: SyncSender<Reply>) -> Waiting {
    for id in &ids {
        // One that is out of the World already may still be in force, if the apply before failed.
        agent.changed |= agent.world.detach(id).is_some() || agent.kernel.in_force(id);
    }
    Waiting::Remove { ids, reply: Some(reply) }
}

/// Every attachment of `network` that is not among `keep`.
pub fn gc<K: Kernel>(
    agent: &mut Agent<K>,
    network: &str,
    keep: &[(String, String)],
    reply: SyncSender<Reply>,
) -> Waiting {
    let valid = |id: &AttachmentId| keep.iter().any(|(c, i)| *c == id.container && *i == id.interface);
    let known = agent.journal.all().map(|attachment| &attachment.id);
    let stale: Vec<_> = known.filter(|id| id.network == network && !valid(id)).cloned().collect();
    start(agent, stale, reply)
}

/// After the apply: what has left the kernel is released, by one write of the blocks for all who wait. Where that fails each
/// is tried, and told, by itself.
pub fn finish_all<K: Kernel>(agent: &mut Agent<K>, all: &[Vec<AttachmentId>]) -> Vec<Reply> {
    let is_free = |ids: &Vec<AttachmentId>| !ids.iter().any(|id| agent.kernel.in_force(id));
    let free: Vec<bool> = all.iter().map(is_free).collect();
    let together: Vec<_> = all.iter().zip(&free).filter(|(_, free)| **free).flat_map(|(ids, _)| ids).cloned().collect();
    let released = release(agent, &together).is_ok();
    let by_itself = |(ids, free): (&Vec<_>, &bool)| if released && *free { done() } else { finish(agent, ids) };
    all.iter().zip(&free).map(by_itself).collect()
}

fn finish<K: Kernel>(agent: &mut Agent<K>, ids: &[AttachmentId]) -> Reply {
    if let Some(id) = ids.iter().find(|id| agent.kernel.in_force(id)) {
        let why = agent.outcome.failed.first().map_or_else(String::new, |(item, error)| format!(": {item}: {error}"));
        return Err(fault(TRY_AGAIN, format!("{id} is still in force{why}; its addresses are kept; try again")));
    }
    release(agent, ids).map_err(|error| fault(TRY_AGAIN, error))?;
    done()
}

/// Deletes the links, releases the addresses and tells the other nodes, then forgets: whatever is interrupted is found and
/// done again, and no address is free while a pod may still use it.
pub fn release<K: Kernel>(agent: &mut Agent<K>, ids: &[AttachmentId]) -> Result<(), ReleaseError> {
    let known: Vec<_> = ids.iter().filter_map(|id| agent.journal.get(id).cloned()).collect();
    agent.publisher.forget(ids);
    for attachment in &known {
        agent.kernel.unwire(attachment)?;
    }
    let pods: Vec<_> = known.iter().map(|attachment| attachment.pod.clone()).collect();
    let addresses: Vec<_> = known.iter().flat_map(|attachment| attachment.addresses.iter().copied()).collect();
    let unspoken = unspoken_for(agent, ids, &pods);
    let Agent { allocator, node, .. } = agent;
    // A server answers both at once.
    let (released, told) = thread::scope(|scope| {
        let told = scope.spawn(|| allocator.objects().withdraw(&unspoken, &node.name));
        let released = allocator.release(ids, &pods, &addresses);
        (released, told.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    });
    let released = released?;
    told?;
    for Attachment { id, pod, .. } in &known {
        agent.journal.forget(id)?;
        tracing::info!(%pod, %id, "removed");
    }
    agent.abandoned.retain(|id, _| !ids.contains(id));
    tracing::debug!(?released, "addresses released");
    Ok(())
}

/// Those of which nobody here speaks any more. Of the others a new container, or another interface, does.
fn unspoken_for<K: Kernel>(agent: &mut Agent<K>, gone: &[AttachmentId], pods: &[PodId]) -> Vec<PodId> {
    let mut left: BTreeSet<_> = pods.iter().cloned().collect();
    let gone: BTreeSet<_> = gone.iter().collect();
    let stays = |known: &&Attachment| left.contains(&known.pod) && !gone.contains(&known.id);
    let others: Vec<_> = agent.journal.all().filter(stays).map(|known| (known.id.clone(), known.pod.clone())).collect();
    for (id, pod) in others {
        left.remove(&pod);
        agent.publish(&id);
    }
    left.into_iter().collect()
}
