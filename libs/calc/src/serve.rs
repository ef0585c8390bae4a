//! Services of the World: what each is worked out from, and whose a frontend is that several want.
//! In: [`World`]. Out: every frontend with what stands behind it; what the writers of services should know.
//! Invariant: of those that want one frontend a host port has it, then the service that names its address, then the older, then
//! the smaller name; the order of telling leaves no trace.
//! Never: which backends a service has (`service`).

use crate::{Neighbour, World, host_ports};
use model::{Created, EndpointSlice, NodeName, Service, ServiceId};
use service::{About, Balance, Frontend, HealthCheck, Here, Kind, Remark, Served, serve};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

const ZONE: &str = "topology.kubernetes.io/zone";

/// What services are worked out from beside themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) zone: Option<String>,
    /// This node's addresses at which node ports are served.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// All of them, where a foreign proxy translates.
    pub(crate) by_host: Option<BTreeSet<IpAddr>>,
}

impl Place {
    pub(crate) fn of(world: &World) -> Self {
        let zone = world.nodes.get(&world.node).and_then(|node| node.labels.get(ZONE)).map(str::to_owned);
        let by_host = (world.proxy == Neighbour::Serves).then(|| world.host.clone());
        Self { zone, addresses: world.node_port_addresses(), by_host }
    }

    pub(crate) fn serve(&self, node: &NodeName, service: &Service, slices: &[&EndpointSlice]) -> Served {
        let Self { zone, addresses, by_host } = self;
        serve(service, slices, &Here { node, zone: zone.as_deref(), addresses, by_host: by_host.as_ref() })
    }
}

/// Who of several that want one frontend comes first.
pub(crate) fn rank(service: &Service, kind: Kind) -> (bool, Created, &ServiceId) {
    (kind == Kind::NodePort, service.created, &service.id)
}

/// Every frontend. A host port comes before all services: whoever made the pod named this node's port.
pub(crate) fn services(world: &World) -> BTreeMap<Frontend, Arc<Balance>> {
    let mut first = BTreeMap::new();
    for (service, served) in all(world) {
        for (frontend, balance) in served.frontends {
            let claim = (rank(service, balance.kind), balance);
            let held = first.entry(frontend).or_insert_with(|| claim.clone());
            if claim.0 < held.0 {
                *held = claim;
            }
        }
    }
    let of_services = first.into_iter().map(|(frontend, (_, balance))| (frontend, Arc::new(balance)));
    of_services.chain(host_ports::frontends(world)).collect()
}

fn all(world: &World) -> impl Iterator<Item = (&Service, Served)> {
    let mut slices: BTreeMap<&ServiceId, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in world.slices.values() {
        if let Some(service) = &slice.service {
            slices.entry(service).or_default().push(slice);
        }
    }
    let place = Place::of(world);
    let served = world.services.values().filter(|service| !world.is_put_off(&service.id));
    served.map(move |service| {
        let own = slices.get(&service.id).map_or(&[][..], |list| list);
        (&**service, place.serve(&world.node, service, own))
    })
}

pub(crate) fn taken(frontend: &Frontend, holder: &Balance) -> Remark {
    let who = &holder.of.service;
    let text = match holder.kind {
        Kind::HostPort => format!("{frontend} is a host port of the pod {who}, which comes first"),
        _ => format!("{frontend} is taken by {who}, which comes first: by naming the address, by age, or by name"),
    };
    Remark::new(About::Taken, text)
}

impl World {
    /// What the writers of services should know, worked out from the beginning; [`crate::Live`] keeps it.
    #[must_use]
    pub fn service_remarks(&self) -> BTreeMap<ServiceId, Vec<Remark>> {
        let held = services(self);
        let mut remarks = BTreeMap::new();
        for (service, mut served) in all(self) {
            let lost = served.frontends.iter().filter_map(|(frontend, _)| {
                let holder = held.get(frontend)?;
                (!holder.is_of(&service.id)).then_some((*frontend, holder))
            });
            let lost: BTreeMap<_, _> = lost.collect();
            served.remarks.extend(lost.into_iter().map(|(frontend, holder)| taken(&frontend, holder)));
            if !served.remarks.is_empty() {
                remarks.insert(service.id.clone(), served.remarks);
            }
        }
        if let Some((id, said)) = self.lifeline_remark() {
            remarks.entry(id.clone()).or_default().push(said);
        }
        remarks
    }

    /// What load balancers are told, worked out from the beginning; [`crate::Live`] keeps it.
    #[must_use]
    pub fn health_checks(&self) -> BTreeMap<ServiceId, HealthCheck> {
        all(self).filter_map(|(service, served)| Some((service.id.clone(), served.health?))).collect()
    }

    /// Endpoints of served services that are in no IP pool, and of no node or pod. They may be meant, and get packets all
    /// the same. Empty where there are no pools to compare with.
    #[must_use]
    pub fn stray_endpoints(&self) -> BTreeMap<ServiceId, BTreeSet<IpAddr>> {
        if self.pools.is_empty() {
            return BTreeMap::new();
        }
        let nodes: BTreeSet<_> = self.nodes.values().flat_map(|node| &node.addresses).chain(&self.host).collect();
        let is_known =
            |address: &IpAddr| nodes.contains(address) || self.pools.values().any(|pool| pool.cidr.contains(*address));
        let mut strays: BTreeMap<ServiceId, BTreeSet<IpAddr>> = BTreeMap::new();
        for slice in self.slices.values().filter(|slice| !slice.unproxied) {
            let Some(service) = slice.service.as_ref().filter(|id| self.services.contains_key(id)) else { continue };
            let strange = slice.endpoints.iter().map(|endpoint| endpoint.address).filter(|address| !is_known(address));
            for address in strange {
                strays.entry(service.clone()).or_default().insert(address);
            }
        }
        if !strays.is_empty() {
            let pods = self.pods_by_address();
            strays.values_mut().for_each(|strays| strays.retain(|address| !pods.contains_key(address)));
            strays.retain(|_, strays| !strays.is_empty());
        }
        strays
    }
}
