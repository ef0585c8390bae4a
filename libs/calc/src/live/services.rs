//! Services, kept as they and their slices change.
//! In: a service that may be another, and its slices; host ports, which come before them. Out: its frontends in Desired.
//! Invariant: equal to working out every service; a change costs what its service has, and who wants the same frontends.
//! Never: looks at a service that no change concerns; replaces what is equal, so that who compares sees by the pointer what is new.

use super::latest::Followed;
use crate::{
    Desired, World, host_ports,
    serve::{Place, rank, taken},
};
use model::{EndpointSlice, PodId, Service, ServiceId};
use service::{Backends, Balance, Frontend, HealthCheck, Kind, Remark, Served};
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
    /// Frontends that several services want, or one beside a host port.
    contested: BTreeMap<Frontend, BTreeSet<ServiceId>>,
    /// Host ports of this node's pods, which come before services.
    host_ports: BTreeMap<Frontend, Arc<Balance>>,
    /// Whose these are.
    hosted: BTreeSet<PodId>,
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
        let told = world.services.get(id).filter(|_| !world.is_put_off(id));
        let served = told.map(|service| self.place.serve(&world.node, service, slices));
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
            self.settle(world, Some(id), frontend, desired);
        }
    }

    /// Whether any of these pods has host ports, or had them.
    pub(super) fn host_any(&self, world: &World, pods: &BTreeSet<PodId>) -> bool {
        pods.iter().any(|id| self.hosted.contains(id) || world.asks_for_host_ports(id))
    }

    /// Host ports may be others: of some pod, or at other addresses.
    pub(super) fn put_host_ports(&mut self, world: &World, desired: &mut Followed) {
        let before = mem::replace(&mut self.host_ports, host_ports::frontends(world));
        self.hosted = host_ports::pods(world);
        for (frontend, balance) in &mut self.host_ports {
            if let Some(known) = before.get(frontend).filter(|known| *known == balance) {
                *balance = Arc::clone(known);
            }
        }
        let all: BTreeSet<Frontend> = before.keys().chain(self.host_ports.keys()).copied().collect();
        for frontend in all.into_iter().filter(|at| before.get(at) != self.host_ports.get(at)).collect::<Vec<_>>() {
            self.settle(world, None, frontend, desired);
        }
    }

    /// What this service wants of the frontend may be something else, or what a host port does.
    fn settle(&mut self, world: &World, id: Option<&ServiceId>, frontend: Frontend, desired: &mut Followed) {
        let mut claimants = self.contested.remove(&frontend).unwrap_or_else(|| {
            let holder = desired.services.get(&frontend).filter(|balance| balance.kind != Kind::HostPort);
            holder.map(|balance| balance.of.service.clone()).into_iter().collect()
        });
        if let Some(id) = id {
            if self.own.get(id).is_some_and(|own| own.at(&frontend).is_some()) {
                claimants.insert(id.clone());
            } else {
                claimants.remove(id);
            }
        }
        let claims = claimants.iter().filter_map(|claimant| {
            let balance = self.own.get(claimant)?.at(&frontend)?;
            Some((rank(world.services.get(claimant)?, balance.kind), balance))
        });
        let first = claims.min_by_key(|(rank, _)| *rank).map(|(_, balance)| balance);
        let hosted = self.host_ports.get(&frontend);
        desired.put_service(frontend, hosted.or(first).map(Arc::clone));
        if claimants.len() > usize::from(hosted.is_none()) {
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
            let Some(holder) = desired.services.get(frontend) else { continue };
            for loser in claimants.iter().filter(|claimant| !holder.is_of(claimant)) {
                remarks.entry(loser).or_default().push(taken(frontend, holder));
            }
        }
        remarks
    }
}
