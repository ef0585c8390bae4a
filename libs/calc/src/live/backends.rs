//! Backends: who stands behind the services that rules ask for.
//! In: slices as they change; services as rules begin and cease to ask for them. Out: what it says of an address.
//! Invariant: equal to asking every active service about every address; a change costs what its slices hold.
//! Never: holds ports; they are lent by the World.

use super::peers::place;
use crate::World;
use model::{Cidr, EndpointSlice, EndpointSliceId, ServiceId};
use policy::Class;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Backends {
    asked: BTreeSet<Arc<ServiceId>>,
    services: BTreeMap<EndpointSliceId, Vec<ServiceId>>,
    slices_of: BTreeMap<ServiceId, BTreeSet<EndpointSliceId>>,
    /// Addresses of the slices of services that are asked for, and the slices that each is in. Most are of none, and there are
    /// ten times as many as services.
    addresses: BTreeMap<EndpointSliceId, Vec<Cidr>>,
    slices_on: BTreeMap<Cidr, BTreeSet<EndpointSliceId>>,
}

impl Backends {
    /// Takes in a slice, or that there is none of this name. Gives the addresses it concerns.
    pub(super) fn put(&mut self, world: &World, id: &EndpointSliceId) -> BTreeSet<Cidr> {
        let service = world.slices.get(id).and_then(|slice| slice.service.clone());
        place(&mut self.services, &mut self.slices_of, id, service.into_iter().collect());
        self.index(world, id)
    }

    /// What is asked about a slice's addresses now. Gives those that were or are in it.
    fn index(&mut self, world: &World, id: &EndpointSliceId) -> BTreeSet<Cidr> {
        let is_asked =
            |slice: &&Arc<EndpointSlice>| slice.service.as_ref().is_some_and(|service| self.asked.contains(service));
        let slice = world.slices.get(id).filter(is_asked);
        let addresses = slice.into_iter().flat_map(|slice| slice.addresses()).map(Cidr::host).collect();
        place(&mut self.addresses, &mut self.slices_on, id, addresses)
    }

    /// The service that a slice is of, if it is of one.
    pub(super) fn service_of(&self, slice: &EndpointSliceId) -> Option<&ServiceId> {
        self.services.get(slice)?.first()
    }

    /// The slices of a service.
    pub(super) fn slices_of<'a>(&self, world: &'a World, service: &ServiceId) -> Vec<&'a EndpointSlice> {
        let slices = self.slices_of.get(service).into_iter().flatten();
        slices.filter_map(|id| world.slices.get(id).map(Arc::as_ref)).collect()
    }

    /// A rule asks for this service for the first time, or no rule does any more. Gives the addresses it concerns.
    pub(super) fn ask(&mut self, world: &World, service: &Arc<ServiceId>, asks: bool) -> BTreeSet<Cidr> {
        if asks {
            self.asked.insert(Arc::clone(service));
        } else {
            self.asked.remove(service);
        }
        let slices = self.slices_of.get(&**service).cloned().unwrap_or_default();
        slices.iter().flat_map(|slice| self.index(world, slice)).collect()
    }

    /// Adds what is to be said of an address.
    pub(super) fn note(&self, world: &World, address: &Cidr, class: &mut Class) {
        let slices = self.slices_on.get(address).into_iter().flatten();
        for slice in slices.filter_map(|id| world.slices.get(id)) {
            if let Some(service) = slice.service.as_ref().and_then(|service| self.asked.get(service)) {
                class.serve(service, slice.numbers());
            }
        }
    }
}
