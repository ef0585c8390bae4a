//! Endpoints of one pod: each of its interfaces may have one.
//! In: what several places say of one pod. Out: the pod, with the addresses of all its interfaces.
//! Invariant: what is said of another container, or of one on another node, is another pod of that name.
//! Never: labels, ports or accounts of any but the one that counts.

use super::Held;
use model::{Pod, Resource};
use std::sync::Arc;

/// Whether both are said of one container of a pod.
pub(super) fn are_of_one_pod(counts: &Held, other: &Held) -> bool {
    match (&*counts.resource, &*other.resource) {
        (Resource::Pod(counts), Resource::Pod(other)) => are_of_one(counts, other),
        _ => false,
    }
}

fn are_of_one(counts: &Pod, other: &Pod) -> bool {
    counts.container.is_some() && (&counts.node, &counts.container) == (&other.node, &other.container)
}

/// The pod with all its addresses, in the order of its endpoints; `None`: the one that counts says all.
pub(super) fn joined<'a>(counts: &Held, all: impl Iterator<Item = &'a Held>) -> Option<Arc<Pod>> {
    let Resource::Pod(pod) = &*counts.resource else { return None };
    let mut addresses = Vec::new();
    for held in all {
        let Resource::Pod(other) = &*held.resource else { continue };
        if Arc::ptr_eq(other, pod) || are_of_one(pod, other) {
            let fresh: Vec<_> = other.addresses.iter().filter(|address| !addresses.contains(*address)).collect();
            addresses.extend(fresh.into_iter().copied());
        }
    }
    (addresses.len() > pod.addresses.len()).then(|| Pod { addresses: addresses.into(), ..(**pod).clone() }.into())
}
