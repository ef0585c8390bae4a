//! Addresses that another IPAM plugin gave: is each one that this node can serve, and nobody else's?
//! In: an attachment that is about to be committed, and its addresses. Out: recorded and marked as its own, or why not.
//! Invariant: what is refused changes nothing; what is taken is on disk before it is in force.
//! Never: gives an address out or back; that plugin does.

use super::{INVALID_CONFIG, TRY_AGAIN, fault};
use crate::{allocate::Wish, kernel::Kernel, owner::Agent};
use cni::{
    protocol::Fault,
    result::{GATEWAY_V4, GATEWAY_V6},
};
use model::Attachment;
use std::{collections::BTreeSet, net::IpAddr};

/// Whoever configures a network takes no more of the node's tables by one pod.
const MOST: usize = 16;

/// Takes `addresses` as those of `attachment`.
pub fn adopt<K: Kernel>(agent: &mut Agent<K>, attachment: &Attachment, addresses: &[IpAddr]) -> Result<(), Fault> {
    acceptable(agent, attachment, addresses, ("the IPAM plugin gave", "correct its ranges"))?;
    let (id, pod) = (attachment.id.clone(), attachment.pod.clone());
    agent
        .allocator
        .claim(&Wish { wanted: addresses.to_vec(), ..Wish::any(id, pod) })
        .map_err(|error| fault(TRY_AGAIN, error))?;
    let known = agent.journal.get(&attachment.id).is_some_and(|known| known.committed);
    let record = Attachment { addresses: addresses.to_vec(), committed: known, ..attachment.clone() };
    agent.journal.record(record).map_err(|error| fault(TRY_AGAIN, error))
}

/// May the attachment have these addresses? `told`: who says so, and what to do about one that another has.
pub fn acceptable<K: Kernel>(
    agent: &Agent<K>,
    attachment: &Attachment,
    addresses: &[IpAddr],
    (who, what): (&str, &str),
) -> Result<(), Fault> {
    usable(addresses).map_err(|reason| fault(INVALID_CONFIG, format!("{who} {reason}")))?;
    for address in addresses {
        if let Some(holder) = holder(agent, attachment, *address) {
            return Err(fault(TRY_AGAIN, format!("{who} {address}, which {holder} has: {what}")));
        }
    }
    Ok(())
}

/// An endpoint has some, each once.
fn usable(addresses: &[IpAddr]) -> Result<(), String> {
    if addresses.is_empty() {
        return Err("no address".to_owned());
    }
    if addresses.len() > MOST {
        return Err(format!("{} addresses; a pod has at most {MOST} here", addresses.len()));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = addresses.iter().find(|address| !seen.insert(**address)) {
        return Err(format!("{twice} twice"));
    }
    match addresses.iter().find(|address| !is_a_pods(**address)) {
        Some(address) => Err(format!("{address}, which no pod can have")),
        None => Ok(()),
    }
}

fn is_a_pods(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    let gateway = address == GATEWAY_V4 || address == GATEWAY_V6;
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local || gateway)
}

/// Who else has this address, as far as this node knows.
fn holder<K: Kernel>(agent: &Agent<K>, attachment: &Attachment, address: IpAddr) -> Option<String> {
    if agent.world.host_addresses().contains(&address) {
        return Some("this node".to_owned());
    }
    let local = agent.journal.all().find(|known| known.id != attachment.id && known.addresses.contains(&address));
    let pod = match local {
        Some(known) => known.pod.clone(),
        // Its own address as its manifest or an earlier sandbox has it is no other's.
        None => agent.world.pod_at(address).filter(|pod| *pod != attachment.pod)?,
    };
    Some(format!("pod {pod}"))
}
