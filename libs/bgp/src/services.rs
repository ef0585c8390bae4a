//! Services: which of their addresses this node tells.
//! In: services and who stands behind them, networks of BGPConfiguration. Out: networks and addresses.
//! Invariant: a node tells an address by itself only where it answers for it (confd/pkg/backends/calico/routes.go).
//! Never: tells one that is in none of the networks that were given for its sort.

use crate::facts::Facts;
use model::{BgpConfiguration, Cidr, EndpointSlice, Family, Service, ServiceKind, TrafficPolicy};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// A node of this label tells nothing of services.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Whether services and slices are asked at all.
#[must_use]
pub fn needs_slices(cluster: Option<&BgpConfiguration>) -> bool {
    cluster.is_some_and(|cluster| !cluster.cluster_ips.is_empty() || !balanced(cluster).is_empty())
}

fn balanced(cluster: &BgpConfiguration) -> Vec<Cidr> {
    cluster.external_ips.iter().chain(&cluster.load_balancer_ips).copied().collect()
}

/// All networks that were given, whoever tells them: they never lead to another node from here.
pub(crate) fn all(facts: &Facts, is_v4: bool) -> Vec<Cidr> {
    let given = facts.cluster().map(|cluster| {
        let mut all = balanced(cluster);
        all.extend(&cluster.cluster_ips);
        all
    });
    let mut given = given.unwrap_or_default();
    given.retain(|net| net.is_v4() == is_v4);
    given.sort();
    given.dedup();
    given
}

/// Networks that reflectors hand on: of further and of balancers' addresses.
pub(crate) fn reflected(facts: &Facts, is_v4: bool) -> Vec<Cidr> {
    let own = facts.own().filter(|own| own.bgp.cluster_id.is_some());
    let mut given = own.and_then(|_| facts.cluster()).map(balanced).unwrap_or_default();
    given.retain(|net| net.is_v4() == is_v4);
    given
}

/// What this node tells.
pub(crate) fn told(facts: &Facts) -> BTreeSet<Cidr> {
    let Some(cluster) = facts.cluster() else { return BTreeSet::new() };
    if facts.own().is_none_or(|own| own.labels.get(EXCLUDED).is_some()) {
        return BTreeSet::new();
    }
    let mut told: BTreeSet<Cidr> = cluster.cluster_ips.iter().chain(&cluster.external_ips).copied().collect();
    if cluster.aggregates != Some(false) {
        told.extend(&cluster.load_balancer_ips);
    }
    // One that is an address alone is told by who answers for it.
    told.retain(|net| *net != Cidr::host(net.network()));
    for service in &facts.services {
        told.extend(of_service(facts, cluster, service).map(Cidr::host));
    }
    told
}

fn of_service<'a>(
    facts: &'a Facts,
    cluster: &'a BgpConfiguration,
    service: &'a Arc<Service>,
) -> impl Iterator<Item = IpAddr> + 'a {
    let within = |nets: &[Cidr], address: IpAddr| nets.iter().any(|net| net.contains(address));
    let clusters = service.cluster_ips.iter().filter(move |_| !cluster.cluster_ips.is_empty());
    let clusters = clusters.filter(move |address| within(&cluster.cluster_ips, **address));
    let external = service.external_ips.iter().filter(move |address| within(&cluster.external_ips, **address));
    let balancer = service.load_balancer.iter().filter(move |address| within(&cluster.load_balancer_ips, **address));
    let is_one = is_told_by_itself(facts, cluster, service);
    clusters.chain(external).chain(balancer).copied().filter(move |_| is_one)
}

fn is_told_by_itself(facts: &Facts, cluster: &BgpConfiguration, service: &Service) -> bool {
    let is_served = matches!(service.kind, ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer);
    if !is_served || service.cluster_ips.is_empty() {
        return false;
    }
    let is_local = service.external == TrafficPolicy::Local;
    let single =
        |nets: &[Cidr], addresses: &[IpAddr]| addresses.iter().any(|address| nets.contains(&Cidr::host(*address)));
    let is_single = service.kind == ServiceKind::LoadBalancer
        && single(&cluster.load_balancer_ips, &service.load_balancer)
        || single(&cluster.external_ips, &service.external_ips);
    if !is_local && is_single {
        return true;
    }
    if !is_local && cluster.aggregates != Some(false) {
        return false;
    }
    facts
        .slices
        .iter()
        .filter(|slice| slice.service.as_ref() == Some(&service.id))
        .any(|slice| stands(slice, service, is_local.then_some(&*facts.node)))
}

/// Whether somebody that is ready stands there, of a family of the service; on this node, if one is said.
fn stands(slice: &EndpointSlice, service: &Service, node: Option<&str>) -> bool {
    let is_of = |address: IpAddr| service.cluster_ips.iter().any(|own| Family::of(*own) == Family::of(address));
    slice.endpoints.iter().any(|end| {
        let is_here = node.is_none_or(|node| end.node.as_ref().is_some_and(|at| &*at.0 == node));
        end.ready && is_of(end.address) && is_here
    })
}
