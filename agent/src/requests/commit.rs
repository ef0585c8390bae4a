//! Commit: the pod is wired; its programs and policy come into force.
//! In: an attachment that was prepared, and the real MAC. Out: done, once it is true in the kernel and on disk.
//! Invariant: what does not come into force is taken back, and stays prepared until it is aborted.
//! Never: answers before the endpoint is in force.

use super::{INVALID_CONFIG, TRY_AGAIN, Waiting, answer, delegated, done, fault, floating};
use crate::{kernel::Kernel, owner::Agent};
use cni::protocol::{Fault, Reply};
use model::{Attachment, AttachmentId, Mac};
use std::{net::IpAddr, sync::mpsc::SyncSender};

/// What only the wiring knows.
pub struct Wired {
    /// MAC of the pod's side.
    pub mac: Mac,
    /// What another IPAM plugin gave.
    pub addresses: Vec<IpAddr>,
}

/// Makes the attachment part of the World.
pub fn start<K: Kernel>(
    agent: &mut Agent<K>,
    id: AttachmentId,
    wired: Wired,
    reply: SyncSender<Reply>,
) -> Option<Waiting> {
    let Some(prepared) = agent.journal.get(&id) else {
        let message =
            format!("{id} is not prepared (the agent was restarted, or the request was undone); run ADD again");
        answer(&reply, Err(fault(TRY_AGAIN, message)));
        return None;
    };
    let mut attachment = Attachment { mac: wired.mac, committed: true, ..prepared.clone() };
    if attachment.delegated {
        if let Some(text) = floating::unmet(&agent.world, &attachment.pod, &wired.addresses) {
            answer(&reply, Err(fault(INVALID_CONFIG, text)));
            return None;
        }
        if let Err(fault) = delegated::adopt(agent, &attachment, &wired.addresses) {
            answer(&reply, Err(fault));
            return None;
        }
        attachment.addresses = wired.addresses;
    }
    agent.world.attach(attachment);
    agent.changed = true;
    Some(Waiting::Commit { id, reply })
}

/// After the apply: what is in force is written down, all at once.
pub fn record<'a, K: Kernel>(agent: &mut Agent<K>, ids: impl Iterator<Item = &'a AttachmentId>) -> Result<(), Fault> {
    let in_force = ids.filter(|id| agent.kernel.in_force(id)).filter_map(|id| agent.world.attachment(id).cloned());
    let in_force: Vec<_> = in_force.collect();
    agent.journal.record_all(in_force).map_err(|error| fault(TRY_AGAIN, error))
}

/// Is it in force, and was it `recorded`?
pub fn finish<K: Kernel>(agent: &mut Agent<K>, id: &AttachmentId, recorded: Result<(), Fault>) -> Reply {
    let attached = agent.world.attachment(id).ok_or_else(|| {
        let message = format!("{id} was taken away while it was being committed");
        fault(TRY_AGAIN, message)
    });
    let in_force = attached
        .and_then(|attachment| if agent.kernel.in_force(id) { recorded } else { Err(not_in_force(agent, attachment)) });
    match in_force {
        Ok(()) => {
            tracing::info!(%id, "committed");
            agent.abandoned.remove(id);
            agent.publish(id);
            done()
        }
        Err(fault) => {
            take_back(agent, id);
            Err(fault)
        }
    }
}

/// As it was before: prepared only, or committed earlier.
fn take_back<K: Kernel>(agent: &mut Agent<K>, id: &AttachmentId) {
    match agent.journal.get(id).filter(|known| known.committed) {
        Some(known) => agent.world.attach(known.clone()),
        None => drop(agent.world.detach(id)),
    }
    agent.changed = true;
}

fn not_in_force<K: Kernel>(agent: &Agent<K>, attachment: &Attachment) -> Fault {
    let failed = agent.outcome.failed.iter().map(|(item, error)| format!("{item}: {error}"));
    let details: Vec<_> = failed.collect();
    let about = |text: &&String| {
        [attachment.host_interface.to_string(), attachment.id.to_string()].iter().any(|name| text.contains(name))
    };
    // A failure of the whole commit names no interface.
    let reason = details.iter().find(about).or(details.first()).map_or("no reason was given", String::as_str);
    let message = format!("pod {} is not in force: {reason}", attachment.pod);
    Fault { code: TRY_AGAIN, message, details: details.join("; ") }
}
