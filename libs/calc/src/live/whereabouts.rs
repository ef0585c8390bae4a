//! Whereabouts: who has an address, answered without joining the whole cluster.
//! In: an address, or a pod. Out: the pod that has it, or the addresses that the pod has.
//! Invariant: what [`crate::World`] would answer, whether or not Desired was brought up to date since something was told.
//! Never: looks at a pod that neither claims the address nor was told of.

use super::Live;
use crate::workload::workload;
use model::PodId;
use std::net::IpAddr;

impl Live {
    /// The pod that has this address, if one has.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<PodId> {
        let Self { world, claims, dirty, .. } = self;
        let claim = |id: &PodId| {
            let claimant = workload(world, id)?;
            let endpoint = claimant.addresses.get(&address)?;
            Some((endpoint.is_none(), claimant.id.clone()))
        };
        let candidates = claims.claimants(address).chain(&dirty.pods).filter(|_| !world.host.contains(&address));
        candidates.filter_map(claim).min().map(|(_, pod)| pod)
    }

    /// The addresses of a pod anywhere: see [`crate::World::addresses_of`].
    #[must_use]
    pub fn addresses_of(&self, id: &PodId) -> Option<Vec<IpAddr>> {
        let Some(claimant) = workload(&self.world, id) else { return self.world.addresses_of_the_host(id) };
        let is_its_own = |address: &IpAddr| self.pod_at(*address).as_ref() == Some(id);
        Some(claimant.addresses.into_keys().filter(is_its_own).collect())
    }
}
