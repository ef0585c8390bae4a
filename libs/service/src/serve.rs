//! A service's frontends, each with what stands behind it.
//! In: a service, its slices, this node. Out: frontends in kube-proxy's order of precedence, and what its writer should know.
//! Invariant: a frontend comes once; one that takes packets from outside has an answer for them and for those of pods.
//! Never: asks what other services want (`calc` settles that).

use crate::{
    About, Backend, Backends, Balance, Frontend, HealthCheck, Here, Kind, Remark, choose::choose, health::health,
    listed::listed,
};
use model::{Cidr, EndpointSlice, Family, Service, ServiceKind, ServicePort, ServicePortId, TrafficPolicy};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// What becomes of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Where it is reached: of two frontends alike the first counts.
    pub frontends: Vec<(Frontend, Balance)>,
    /// What its writer should know.
    pub remarks: Vec<Remark>,
    /// What its load balancer is told.
    pub health: Option<HealthCheck>,
}

/// Works out a service. `slices`: those that are of it, in any order.
#[must_use]
pub fn serve(service: &Service, slices: &[&EndpointSlice], here: &Here<'_>) -> Served {
    let has_frontends = !matches!(service.kind, ServiceKind::Headless | ServiceKind::ExternalName);
    if service.unproxied || !has_frontends {
        return Served::default();
    }
    let slices: Vec<_> = slices.iter().copied().filter(|slice| !slice.unproxied).collect();
    let families: BTreeSet<Family> = service.cluster_ips.iter().copied().map(Family::of).collect();
    let health = health(service, &slices, here);
    let mut served = Served { remarks: remarks(service, &slices, &families), health, ..Served::default() };
    let mut known = BTreeSet::new();
    for family in families {
        for port in &service.ports {
            let port = Port::new(service, port, &slices, family, here);
            let frontends = port.frontends(here).into_iter().filter(|(frontend, _)| known.insert(*frontend));
            served.frontends.extend(frontends);
        }
    }
    served
}

/// A port of a service in one family.
struct Port<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
    /// By the policy for clients inside.
    internal: Arc<Backends>,
    /// Of the whole cluster: what pods get at an address that is for clients outside, whatever the policies say.
    cluster: Arc<Backends>,
    /// By the policy for clients outside.
    external: Arc<Backends>,
    /// Whether a foreign proxy serves those outside, and pods at a cluster IP.
    foreign: (bool, bool),
}

impl<'a> Port<'a> {
    fn new(
        service: &'a Service,
        port: &'a ServicePort,
        slices: &[&EndpointSlice],
        family: Family,
        here: &Here<'_>,
    ) -> Self {
        let listed = listed(slices, port, family, here);
        let all: Arc<[Backend]> = listed.iter().map(|each| each.backend).collect();
        let by = |policy| Arc::new(choose(policy, &listed, &all, here));
        let cluster = by(TrafficPolicy::Cluster);
        let local = [service.internal, service.external].contains(&TrafficPolicy::Local);
        let local = if local { by(TrafficPolicy::Local) } else { Arc::clone(&cluster) };
        let of = |policy| Arc::clone(if policy == TrafficPolicy::Local { &local } else { &cluster });
        let (internal, external) = (of(service.internal), of(service.external));
        // What the stack would hide from policy is not left to it: who is sent to the node itself leaves by no interface.
        let is_own = |backend: &Backend| here.by_host.is_some_and(|own| own.contains(&backend.address));
        let foreign = (here.by_host.is_some(), here.by_host.is_some() && !all.iter().any(is_own));
        Self { service, port, family, internal, cluster, external, foreign }
    }

    fn frontends(&self, here: &Here<'_>) -> Vec<(Frontend, Balance)> {
        let Service { cluster_ips, external_ips, load_balancer, .. } = self.service;
        let written =
            [(Kind::ClusterIp, cluster_ips), (Kind::ExternalIp, external_ips), (Kind::LoadBalancer, load_balancer)];
        let mut frontends = Vec::new();
        for (kind, addresses) in written {
            frontends.extend(self.at(kind, addresses, self.port.port));
        }
        if let Some(port) = self.port.node_port {
            frontends.extend(self.at(Kind::NodePort, here.addresses, port));
        }
        frontends
    }

    fn at<'b>(
        &'b self,
        kind: Kind,
        addresses: impl IntoIterator<Item = &'b IpAddr>,
        port: u16,
    ) -> impl Iterator<Item = (Frontend, Balance)> {
        let balance = self.balance(kind);
        let own = addresses.into_iter().filter(|address| Family::of(**address) == self.family);
        own.map(move |address| (Frontend { address: *address, protocol: self.port.protocol, port }, balance.clone()))
    }

    fn balance(&self, kind: Kind) -> Balance {
        let Service { id, affinity_s, external, .. } = self.service;
        let is_internal = kind == Kind::ClusterIp;
        Balance {
            of: ServicePortId { service: id.clone(), port: self.port.name.clone() },
            kind,
            inside: Arc::clone(if is_internal { &self.internal } else { &self.cluster }),
            outside: (!is_internal && !self.foreign.0).then(|| Arc::clone(&self.external)),
            keeps_source: !is_internal && *external == TrafficPolicy::Local,
            has_outside: !is_internal && !self.external.chosen.is_empty(),
            affinity_s: *affinity_s,
            sources: (kind == Kind::LoadBalancer).then(|| source_ranges(self.service, self.family)).flatten(),
            by_host: is_internal && self.foreign.1,
        }
    }
}

/// Those of the address's family; where there is none of it, everybody may ask (pkg/proxy/serviceport.go).
fn source_ranges(service: &Service, family: Family) -> Option<Arc<[Cidr]>> {
    let own: Arc<[Cidr]> = service.source_ranges.iter().filter(|range| range.family() == family).copied().collect();
    (!own.is_empty()).then_some(own)
}

fn remarks(service: &Service, slices: &[&EndpointSlice], families: &BTreeSet<Family>) -> Vec<Remark> {
    if families.is_empty() {
        return vec![Remark::new(
            About::ClusterIp,
            "has no cluster IP, and nobody gives it one here; it is not served",
        )];
    }
    let mut remarks = Vec::new();
    if service.ports.is_empty() {
        remarks.push(Remark::new(About::Ports, "has no ports; it is not served"));
    }
    for address in service.external_ips.iter().chain(&service.load_balancer) {
        if !families.contains(&Family::of(*address)) {
            let text = format!("has no cluster IP of the family of {address}, where it is not served therefore");
            remarks.push(Remark::new(About::Family, text));
        }
    }
    for address in service.load_balancer.iter().filter(|_| !service.source_ranges.is_empty()) {
        if source_ranges(service, Family::of(*address)).is_none() {
            let text = format!(
                "loadBalancerSourceRanges has no network of the family of {address}, which everybody may ask therefore"
            );
            remarks.push(Remark::new(About::SourceRanges, text));
        }
    }
    let unmatched = service.ports.iter().filter_map(|port| unmatched(port, slices));
    remarks.extend(unmatched.map(|text| Remark::new(About::PortName, text)));
    remarks
}

/// A port that none of the slices' ports stands behind, though there are some.
fn unmatched(port: &ServicePort, slices: &[&EndpointSlice]) -> Option<String> {
    let said =
        |name: &str, protocol| if name.is_empty() { format!("{protocol}") } else { format!("{name}/{protocol}") };
    let others: BTreeSet<_> = slices
        .iter()
        .filter(|slice| !slice.endpoints.is_empty())
        .flat_map(|slice| slice.ports.iter().map(|port| (&*port.name, port.protocol)))
        .collect();
    if others.is_empty() || others.contains(&(port.name.as_str(), port.protocol)) {
        return None;
    }
    let others: Vec<_> = others.into_iter().map(|(name, protocol)| said(name, protocol)).collect();
    let own = said(&port.name, port.protocol);
    Some(format!(
        "no slice has a port {own}, which it needs behind port {}; they have {}",
        port.port,
        others.join(", ")
    ))
}

#[cfg(test)]
mod tests;
