//! Which addresses of load balancers this node would answer for at its uplink.
//! In: what is desired of services, the pools, the uplink's networks. Out: each address that nodes of this network may hold, and
//! whether this one may.
//! Invariant: only an address of a pool for load balancers: one that somebody else gave a service is his to announce.
//! Never: decides which of the nodes that may does.

use calc::Live;
use model::Cidr;
use service::Kind;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// As cloud controllers read it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Networks of pools for load balancers.
pub fn pools(world: &Live) -> Vec<Cidr> {
    world.pools().filter(|pool| pool.uses.load_balancer && !pool.disabled).map(|pool| pool.cidr).collect()
}

/// The addresses.
pub fn addresses(world: &mut Live, uplink: &BTreeSet<Cidr>) -> BTreeMap<IpAddr, bool> {
    let pools = pools(world);
    if pools.is_empty() {
        return BTreeMap::new();
    }
    let own = world.nodes().find(|node| node.name == *world.node());
    let excluded = own.is_some_and(|node| node.labels.get(EXCLUDED).is_some());
    let of_network = |address: IpAddr| {
        pools.iter().any(|net| net.contains(address)) && uplink.iter().any(|net| net.contains(address))
    };
    let mut wanted: BTreeMap<IpAddr, bool> = BTreeMap::new();
    let services = world.desired().into_iter().flat_map(|desired| &desired.services);
    for (frontend, balance) in services.filter(|(_, balance)| balance.kind == Kind::LoadBalancer) {
        if !of_network(frontend.address) {
            continue;
        }
        // Who keeps clients' addresses must have a backend here; for the others any node does.
        let has_backend = balance.outside.as_ref().is_some_and(|outside| !outside.chosen.is_empty());
        *wanted.entry(frontend.address).or_default() |= !excluded && (!balance.keeps_source || has_backend);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Created, EndpointSlice, EndpointSliceId, IpPool, Node, PoolUses, Protocol, Resource, Service, ServiceId,
        ServiceKind, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy, Update,
    };

    fn service(name: &str, address: &str, external: TrafficPolicy) -> Resource {
        let port = ServicePort { name: "web".into(), protocol: Protocol::TCP, port: 80, node_port: None };
        let service = Service {
            id: ServiceId { namespace: "shop".into(), name: name.into() },
            created: Created::UNKNOWN,
            kind: ServiceKind::LoadBalancer,
            cluster_ips: vec![[10, 96, 0, address.len().try_into().unwrap_or(1)].into()],
            external_ips: vec![],
            load_balancer: vec![address.parse().expect("an address")],
            request: None,
            source_ranges: vec![],
            ports: [port].into(),
            affinity_s: None,
            internal: TrafficPolicy::Cluster,
            external,
            distribution: None,
            health_check_port: None,
            unproxied: false,
        };
        Resource::Service(service.into())
    }

    fn slice(service: &str, node: &str) -> Resource {
        let endpoint = SliceEndpoint { node: Some(node.into()), ..SliceEndpoint::ready_at([10, 65, 0, 2].into()) };
        let slice = EndpointSlice {
            id: EndpointSliceId { namespace: "shop".into(), name: format!("{service}-1") },
            service: Some(ServiceId { namespace: "shop".into(), name: service.into() }),
            endpoints: [endpoint].into(),
            ports: [SlicePort { name: "web".into(), protocol: Protocol::TCP, port: 8080 }].into(),
            unproxied: false,
        };
        Resource::EndpointSlice(slice.into())
    }

    fn wanted(more: Vec<Resource>) -> Vec<String> {
        let mut world = Live::new("n1".into(), false);
        let pool = |name: &str, cidr: &str, load_balancer: bool| {
            let uses = PoolUses { workload: !load_balancer, load_balancer };
            Resource::IpPool(IpPool { uses, ..IpPool::of_pods(name, cidr.parse().expect("a network"), 28) })
        };
        let told = vec![
            pool("lb", "192.0.2.0/25", true),
            pool("far", "203.0.113.0/24", true),
            pool("pods", "192.0.2.128/25", false),
            service("any", "192.0.2.7", TrafficPolicy::Cluster),
            service("here", "192.0.2.18", TrafficPolicy::Local),
            service("elsewhere", "192.0.2.119", TrafficPolicy::Local),
            service("pods", "192.0.2.200", TrafficPolicy::Cluster),
            service("far", "203.0.113.9", TrafficPolicy::Cluster),
            slice("here", "n1"),
            slice("elsewhere", "n2"),
        ];
        for resource in told.into_iter().chain(more) {
            world.apply(Update::Set(resource));
        }
        world.apply(Update::InSync);
        let uplink = ["192.0.2.0/24".parse().expect("a network")].into();
        addresses(&mut world, &uplink).into_iter().map(|(address, wanted)| format!("{address} {wanted}")).collect()
    }

    #[test]
    fn an_address_is_wanted_where_its_network_its_pool_and_a_backend_are() {
        assert_eq!(wanted(vec![]), ["192.0.2.7 true", "192.0.2.18 true", "192.0.2.119 false"]);
    }

    #[test]
    fn a_node_that_is_excluded_wants_none() {
        let labels = [(EXCLUDED.to_owned(), String::new())].into();
        let node = Resource::Node(Node { name: "n1".into(), addresses: vec![], labels });
        assert_eq!(wanted(vec![node]), ["192.0.2.7 false", "192.0.2.18 false", "192.0.2.119 false"]);
    }
}
