//! Claims: which pods say that an address is theirs, and who has it.
//! In: a pod's addresses, whenever they change. Out: the holder of an address.
//! Invariant: of several claimants a local endpoint has it, then the smaller pod; the order of telling leaves no trace.
//! Never: knows the host's own addresses, which win over every claim.

use model::{AttachmentId, Cidr, PodId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A pod's addresses, each with the local endpoint that has it.
pub(super) type Addresses = BTreeMap<IpAddr, Option<AttachmentId>>;

/// An address, and the local endpoint that has it.
type Claim = (IpAddr, Option<Box<AttachmentId>>);

/// Lists, not trees, inside: nearly every one of tens of thousands has one entry, and a tree takes room for eleven.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// In order, local endpoints first.
    by_address: BTreeMap<IpAddr, Vec<(bool, PodId)>>,
    by_pod: BTreeMap<PodId, Box<[Claim]>>,
}

impl Claims {
    /// Takes in all the addresses of a pod. Gives those whose claims are not what they were.
    pub(super) fn put(&mut self, pod: &PodId, addresses: Addresses) -> BTreeSet<IpAddr> {
        let before: Addresses = self.of_pod(pod).map(|(address, endpoint)| (address, endpoint.cloned())).collect();
        let same = |address: &&IpAddr| before.get(*address) == addresses.get(*address);
        let touched: BTreeSet<_> = before.keys().chain(addresses.keys()).filter(|at| !same(at)).copied().collect();
        for address in &touched {
            let claims = self.by_address.entry(*address).or_default();
            claims.retain(|(_, claimant)| claimant != pod);
            if let Some(endpoint) = addresses.get(address) {
                claims.reserve_exact(1);
                claims.push((endpoint.is_none(), pod.clone()));
                claims.sort();
            }
            if claims.is_empty() {
                self.by_address.remove(address);
            }
        }
        if addresses.is_empty() {
            self.by_pod.remove(pod);
        } else {
            let list = addresses.into_iter().map(|(address, endpoint)| (address, endpoint.map(Box::new)));
            self.by_pod.insert(pod.clone(), list.collect());
        }
        touched
    }

    fn of_pod(&self, pod: &PodId) -> impl Iterator<Item = (IpAddr, Option<&AttachmentId>)> {
        let list = self.by_pod.get(pod).into_iter().flatten();
        list.map(|(address, endpoint)| (*address, endpoint.as_deref()))
    }

    /// Who has an address, and the local endpoint if it is one's.
    pub(super) fn holder(&self, address: IpAddr) -> Option<(&PodId, Option<&AttachmentId>)> {
        let (_, pod) = self.by_address.get(&address)?.first()?;
        let (_, endpoint) = self.of_pod(pod).find(|(own, _)| *own == address)?;
        Some((pod, endpoint))
    }

    /// Everybody who says that an address is his.
    pub(super) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &PodId> {
        self.by_address.get(&address).into_iter().flatten().map(|(_, pod)| pod)
    }

    /// The addresses a pod says are its own.
    pub(super) fn of(&self, pod: &PodId) -> impl Iterator<Item = IpAddr> {
        self.of_pod(pod).map(|(address, _)| address)
    }

    /// All claimed addresses.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// Claimed addresses of a network.
    pub(super) fn within(&self, net: &Cidr) -> impl Iterator<Item = IpAddr> {
        self.by_address.range(net.network()..=net.last()).map(|(address, _)| *address)
    }
}
