//! Services, kept as they and their slices change.
//! In: a service that may be another, and its slices. Out: its frontends in Desired.
//! Invariant: equal to working out every service; a change costs what its service has, and who wants the same frontends.
//! Never: looks at a service that no change concerns; replaces what is equal, so that who compares sees by the pointer what is new.

use super::latest::Followed;
use crate::{
    Desired, World,
    serve::{Place, rank, taken},
};
use model::{EndpointSlice, Service, ServiceId};
use service::{Backends, Balance, Frontend, HealthCheck, Remark, Served};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    place: Place,
    /// Those that are reached somewhere, or have a remark.
    own: BTreeMap<ServiceId, Own>,
    /// What load balancers are told of those that have one which asks.
    health: BTreeMap<ServiceId, HealthCheck>,
    /// Frontends that several services want.
    contested: BTreeMap<Frontend, BTreeSet<ServiceId>>,
}

/// What a service would have if there were no other.
#[derive(Clone, Debug, Default)]
struct Own {
    /// In order.
    frontends: Box<[(Frontend, Arc<Balance>)]>,
    remarks: Vec<Remark>,
}

impl Own {
    /// `before` gives what is still so.
    fn new(served: Served, before: &Self) -> Self {
        let shared = |fresh: &mut Arc<Backends>| {
            let known = before.frontends.iter().flat_map(|(_, balance)| balance.backends());
            if let Some(known) = known.into_iter().find(|known| *known == fresh) {
                *fresh = Arc::clone(known);
            }
        };
        let mut frontends: Vec<_> = served
            .frontends
            .into_iter()
            .map(|(frontend, mut balance)| {
                shared(&mut balance.inside);
                balance.outside.iter_mut().for_each(shared);
                let known = before.at(&frontend).filter(|known| ***known == balance);
                (frontend, known.map_or_else(|| Arc::new(balance), Arc::clone))
            })
            .collect();
        frontends.sort_by_key(|(frontend, _)| *frontend);
        Self { frontends: frontends.into(), remarks: served.remarks }
    }

    fn at(&self, frontend: &Frontend) -> Option<&Arc<Balance>> {
        let place = self.frontends.binary_search_by_key(frontend, |(own, _)| *own).ok()?;
        self.frontends.get(place).map(|(_, balance)| balance)
    }
}

impl Services {
    /// This node's zone or addresses may be others. Gives the services that this concerns.
    pub(super) fn moved(&mut self, world: &World) -> Vec<ServiceId> {
        let before = mem::replace(&mut self.place, Place::of(world));
        let has_moved = before.zone != self.place.zone || before.by_host != self.place.by_host;
        let at_others = before.addresses != self.place.addresses;
        let has_node_ports = |service: &Service| service.ports.iter().any(|port| port.node_port.is_some());
        let concerned = world.services.values().filter(|service| has_moved || at_others && has_node_ports(service));
        concerned.map(|service| service.id.clone()).collect()
    }

    /// Takes in a service, or that there is none of this name.
    pub(super) fn put(&mut self, world: &World, id: &ServiceId, slices: &[&EndpointSlice], desired: &mut Followed) {
        let before = self.own.remove(id).unwrap_or_default();
        let served = world.services.get(id).map(|service| self.place.serve(&world.node, service, slices));
        let mut served = served.unwrap_or_default();
        self.health.remove(id);
        self.health.extend(served.health.take().map(|health| (id.clone(), health)));
        let now = Own::new(served, &before);
        let same = |frontend: &Frontend| match (before.at(frontend), now.at(frontend)) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => false,
        };
        let all = before.frontends.iter().chain(&now.frontends).map(|(frontend, _)| *frontend);
        // Of a contested one the winner may be another though it is itself the same: the service may be made anew.
        let touched: BTreeSet<_> =
            all.filter(|frontend| !same(frontend) || self.contested.contains_key(frontend)).collect();
        if !now.frontends.is_empty() || !now.remarks.is_empty() {
            self.own.insert(id.clone(), now);
        }
        for frontend in touched {
            self.settle(world, id, frontend, desired);
        }
    }

    /// What `id` wants of this frontend may be something else.
    fn settle(&mut self, world: &World, id: &ServiceId, frontend: Frontend, desired: &mut Followed) {
        let wants = self.own.get(id).is_some_and(|own| own.at(&frontend).is_some());
        let mut claimants = self.contested.remove(&frontend).unwrap_or_else(|| {
            desired.services.get(&frontend).map(|balance| balance.of.service.clone()).into_iter().collect()
        });
        if wants {
            claimants.insert(id.clone());
        } else {
            claimants.remove(id);
        }
        let claims = claimants.iter().filter_map(|claimant| {
            let balance = self.own.get(claimant)?.at(&frontend)?;
            Some((rank(world.services.get(claimant)?, balance.kind), balance))
        });
        let first = claims.min_by_key(|(rank, _)| *rank).map(|(_, balance)| Arc::clone(balance));
        desired.put_service(frontend, first);
        if claimants.len() > 1 {
            self.contested.insert(frontend, claimants);
        }
    }

    /// What load balancers are told.
    pub(super) fn health_checks(&self) -> &BTreeMap<ServiceId, HealthCheck> {
        &self.health
    }

    /// What the writers of services should know.
    pub(super) fn remarks(&self, desired: &Desired) -> BTreeMap<&ServiceId, Vec<Remark>> {
        let said = self.own.iter().filter(|(_, own)| !own.remarks.is_empty());
        let mut remarks: BTreeMap<_, _> = said.map(|(id, own)| (id, own.remarks.clone())).collect();
        for (frontend, claimants) in &self.contested {
            let Some(holder) = desired.services.get(frontend).map(|balance| &balance.of.service) else { continue };
            for loser in claimants.iter().filter(|claimant| *claimant != holder) {
                remarks.entry(loser).or_default().push(taken(frontend, holder));
            }
        }
        remarks
    }
}
