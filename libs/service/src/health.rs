//! Health of a service on this node, as its load balancer asks for it (`healthCheckNodePort`).
//! In: a service, its slices, this node. Out: the port, and how many addresses here are ready, in each family.
//! Invariant: an address counts once, whatever it serves; one that is about to go does not count, though packets may still go there.
//! Never: a service that does not keep to its node.

use crate::{Here, listed::listed};
use model::{EndpointSlice, Family, Service, ServiceKind, TrafficPolicy};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What a load balancer is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// Where it asks.
    pub port: u16,
    /// Ready endpoints of this node, for each family of the service.
    pub local: BTreeMap<Family, usize>,
}

/// `None`: nobody asks.
pub(crate) fn health(service: &Service, slices: &[&EndpointSlice], here: &Here<'_>) -> Option<HealthCheck> {
    let keeps_to_nodes = service.kind == ServiceKind::LoadBalancer && service.external == TrafficPolicy::Local;
    let port = service.health_check_port.filter(|_| keeps_to_nodes)?;
    let ready = |family: Family| {
        let of_port = |port| listed(slices, port, family, here).into_iter();
        let here = service.ports.iter().flat_map(of_port).filter(|each| each.is_here && each.is_ready());
        here.map(|each| each.backend.address).collect::<BTreeSet<IpAddr>>().len()
    };
    let families: BTreeSet<Family> = service.cluster_ips.iter().copied().map(Family::of).collect();
    Some(HealthCheck { port, local: families.into_iter().map(|family| (family, ready(family))).collect() })
}
