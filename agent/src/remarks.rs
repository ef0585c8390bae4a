//! What the writers of services should know, all of it: what manifests say, and what this node meets.
//! In: the World, listeners of this node, ports for health checks. Out: remarks by service; a line in the log for each new one.
//! Invariant: a remark goes when its reason does, at the latest with the next tick.
//! Never: changes what is served.

use crate::{
    kernel::Kernel,
    listeners::{self, Listener},
    metrics::ServicesState,
    owner::Agent,
};
use calc::{Desired, World};
use model::{Protocol, ServiceId, ServicePortId};
use service::{About, Kind, Remark};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tracing::warn;

/// New remarks that are logged at one tick; `show services` has all.
const LOGGED: usize = 16;

/// What this node met.
#[derive(Debug, Default)]
pub struct Met {
    node_ports: BTreeMap<ServiceId, Vec<Remark>>,
    /// Sockets at node ports, and whose they are.
    listeners: BTreeMap<Listener, String>,
    /// Endpoints in no known network, as of so many updates.
    strays: Option<(u64, usize)>,
    logged: BTreeSet<(ServiceId, String)>,
    /// Services that metrics tell apart.
    labelled: BTreeSet<ServiceId>,
}

impl Met {
    /// Looks who listens at node ports that services have.
    fn look(&mut self, desired: &Desired) {
        let mut wanted: BTreeMap<(Protocol, u16), Vec<(IpAddr, &ServiceId)>> = BTreeMap::new();
        for (frontend, balance) in desired.services.iter().filter(|(_, balance)| balance.kind == Kind::NodePort) {
            let port = (frontend.protocol, frontend.port);
            wanted.entry(port).or_default().push((frontend.address, &balance.of.service));
        }
        self.node_ports.clear();
        let found = listeners::at(&wanted.keys().copied().collect());
        let all: BTreeSet<Listener> = found.values().flatten().copied().collect();
        if !all.iter().eq(self.listeners.keys()) {
            let named = listeners::processes(&all);
            let name = |listener: &Listener| named.get(listener).map_or("a process", String::as_str).to_owned();
            self.listeners = all.iter().map(|listener| (*listener, name(listener))).collect();
        }
        for (port, listener) in found.iter().flat_map(|(port, all)| all.iter().map(move |each| (port, each))) {
            let meant = wanted.get(port).into_iter().flatten().filter(|(address, _)| listener.hears(*address));
            let services: BTreeSet<&ServiceId> = meant.map(|(_, service)| *service).collect();
            let who = self.listeners.get(listener).map_or("a process", String::as_str);
            let text = format!(
                "node port {}/{}: {who} listens at {} of this node; the service comes first",
                port.1, port.0, listener.at
            );
            for service in services {
                self.node_ports.entry(service.clone()).or_default().push(Remark::new(About::NodePort, text.as_str()));
            }
        }
    }

    /// Says what is new in the log.
    fn log(&mut self, remarks: &BTreeMap<ServiceId, Vec<Remark>>) {
        let said =
            remarks.iter().flat_map(|(id, said)| said.iter().map(move |remark| (id.clone(), remark.text.clone())));
        let now: BTreeSet<_> = said.collect();
        let fresh: Vec<_> = now.difference(&self.logged).collect();
        for (service, text) in fresh.iter().take(LOGGED) {
            warn!(%service, "{text}");
        }
        if fresh.len() > LOGGED {
            warn!("and {} more remarks on services; `tortie show services` has them", fresh.len() - LOGGED);
        }
        self.logged = now;
    }
}

impl<K: Kernel> Agent<K> {
    /// Looks at what may be odd about services, and at what was counted of them.
    pub(crate) fn look_at_services(&mut self) -> ServicesState {
        if let Some(desired) = self.world.desired() {
            self.met.look(desired);
        }
        let remarks = self.service_remarks();
        self.met.log(&remarks);
        let mut counted: BTreeMap<About, usize> = BTreeMap::new();
        for remark in remarks.values().flatten() {
            *counted.entry(remark.about).or_default() += 1;
        }
        let strays = self.met.strays.filter(|(heard, _)| *heard == self.heard).map(|(_, strays)| strays);
        let strays = strays.unwrap_or_else(|| World::stray_endpoints(&self.world).len());
        self.met.strays = Some((self.heard, strays));
        counted.insert(About::Strays, strays);
        let frontends = self.world.desired().map_or(0, |desired| desired.services.len());
        self.label();
        let flows = self.met.labelled.iter().map(|id| self.flows_of(id)).collect();
        let services = self.world.status().services;
        let unlabelled = services.saturating_sub(self.met.labelled.len());
        let by_host = self.node.proxy.is_by_host();
        ServicesState { by_host, services, frontends, remarks: counted, flows, unlabelled }
    }

    /// A service that is told apart stays so for as long as it is there.
    fn label(&mut self) {
        let Self { world, met, service_metrics, .. } = self;
        met.labelled.retain(|id| world.service(id).is_some());
        for service in world.services() {
            if met.labelled.len() >= *service_metrics {
                break;
            }
            met.labelled.insert(service.id.clone());
        }
    }

    /// Flows that were opened to a service, and packets that found no backend.
    fn flows_of(&self, id: &ServiceId) -> (ServiceId, u64, u64) {
        let ports = self.world.service(id).into_iter().flat_map(|service| &service.ports);
        let (mut opened, mut refused) = (0, 0);
        for port in ports {
            let counts = self.kernel.counts_of(&ServicePortId { service: id.clone(), port: port.name.clone() });
            for (own_opened, own_refused) in counts.frontends.values() {
                (opened, refused) = (opened + own_opened, refused + own_refused);
            }
        }
        (id.clone(), opened, refused)
    }

    /// What the writers of services should know.
    pub(crate) fn service_remarks(&self) -> BTreeMap<ServiceId, Vec<Remark>> {
        let known = self.world.service_remarks().into_iter();
        let mut remarks: BTreeMap<ServiceId, Vec<Remark>> = known.map(|(id, said)| (id.clone(), said)).collect();
        for (id, said) in &self.met.node_ports {
            remarks.entry(id.clone()).or_default().extend(said.iter().cloned());
        }
        for (id, said) in self.world.balancer_remarks() {
            remarks.entry(id.clone()).or_default().push(Remark::new(About::Address, said.as_str()));
        }
        for service in self.world.unaddressed() {
            if let Some(unread) = service.request.as_ref().and_then(|request| request.unread.as_ref()) {
                let text = format!("is given no address until this can be read: {unread}");
                remarks.entry(service.id.clone()).or_default().push(Remark::new(About::Address, text));
            }
        }
        let put_off: BTreeMap<_, _> = self.setbacks.services().collect();
        for (id, reason) in put_off {
            let what = if self.world.is_put_off(id) { "is not served" } else { "its newest revision is put off" };
            let text = format!("{what} for want of room: {reason}");
            remarks.entry(id.clone()).or_default().push(Remark::new(About::Room, text));
        }
        for (id, why) in self.health_ports.failed() {
            let text = format!("healthCheckNodePort cannot be served: {why}; it is tried again");
            remarks.entry(id.clone()).or_default().push(Remark::new(About::HealthPort, text));
        }
        remarks
    }
}
