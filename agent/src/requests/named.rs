//! Addresses that a pod names by `cni.projectcalico.org/ipAddrsNoIpam`: it has exactly these, whether a pool has them or not.
//! In: a prepare, and what its pod asks. Out: recorded and marked as its own, or why not.
//! Invariant: as Calico's plugin, only where the network's configuration allows it; of what a pool has nobody else gets it.
//! Never: an address that this node, another endpoint or a known pod has.

use super::{TRY_AGAIN, delegated, fault, prepare::attachment};
use crate::{allocate::Wish, kernel::Kernel, owner::Agent};
use cni::protocol::{Fault, Prepare};
use model::{Attachment, PodAsks};
use std::net::IpAddr;

/// Whether the pod has the addresses that it names. What the runtime asks for by number comes first.
pub fn are_had(prepare: &Prepare, asks: &PodAsks) -> bool {
    !asks.named.is_empty() && prepare.ips.is_empty()
}

/// Why it cannot be prepared.
pub fn refused(prepare: &Prepare, asks: &PodAsks) -> Option<String> {
    if asks.named.is_empty() {
        return None;
    }
    let annotation = "the annotation cni.projectcalico.org/ipAddrsNoIpam";
    if prepare.delegated {
        return Some(format!("{annotation} asks for addresses, which are another IPAM plugin's to give here"));
    }
    (!prepare.ip_addrs_no_ipam).then(|| {
        format!(
            "requested feature is not enabled: ip_addrs_no_ipam; the pod has {annotation}: say \"feature_control\": \
             {{\"ip_addrs_no_ipam\": true}} in the CNI configuration, or take it away"
        )
    })
}

/// Takes them as those of the pod. What fails is undone by the asker's `release`.
pub fn take<K: Kernel>(agent: &mut Agent<K>, prepare: &Prepare, named: &[IpAddr]) -> Result<Vec<IpAddr>, Fault> {
    let record = Attachment { named: true, ..attachment(prepare, named, agent.pod_mtu()) };
    delegated::acceptable(agent, &record, named, ("the pod names", "name another"))?;
    // A crash between the two leaves a record, by which the address is given back.
    agent.journal.record(record).map_err(|error| fault(TRY_AGAIN, error))?;
    let wish = Wish { wanted: named.to_vec(), ..Wish::any(prepare.id.clone(), prepare.pod.clone()) };
    agent.allocator.claim(&wish).map_err(|error| fault(TRY_AGAIN, error))?;
    Ok(named.to_vec())
}
