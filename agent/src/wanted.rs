//! Which addresses this node would answer for at its uplink: those of load balancers, and those of its pods.
//! In: what is desired, the pools, the uplink's networks. Out: each address of a load balancer that nodes of this network may
//! hold, and whether this one may; the addresses of its own pods, where they are asked for.
//! Invariant: only an address of a pool: one that somebody else gave is his to announce.
//! Never: decides which of the nodes that may holds an address of a load balancer.

use calc::{Latest, Live};
use model::{Cidr, Wrapping};
use service::{Balance, Frontend, Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// As cloud controllers read it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What there is to announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses of load balancers, and whether this node may have each.
    pub leased: BTreeMap<IpAddr, bool>,
    /// Addresses of pods of this node, and those that float to them.
    pub pods: BTreeSet<IpAddr>,
    /// How often those of pods are said unasked; `None`: only when they come.
    pub refresh: Option<Duration>,
}

/// Where load balancers are reached, and whether this node may answer there, kept as what is desired changes.
#[derive(Debug, Default)]
pub struct Balancers {
    /// Of which Desired; `None`: of none yet.
    number: Option<u64>,
    at: BTreeMap<Frontend, bool>,
}

impl Balancers {
    fn follow(&mut self, latest: Latest<'_>) {
        // Who keeps clients' addresses must have a backend here; for the others any node does.
        let may = |balance: &Balance| {
            (balance.kind == Kind::LoadBalancer).then_some(!balance.keeps_source || balance.has_outside)
        };
        if let Some(touched) = latest.since(self.number) {
            for frontend in &touched.services {
                match latest.services.get(frontend).and_then(|balance| may(balance)) {
                    Some(may) => drop(self.at.insert(*frontend, may)),
                    None => drop(self.at.remove(frontend)),
                }
            }
        } else {
            let all = latest.services.iter().filter_map(|(frontend, balance)| Some((*frontend, may(balance)?)));
            self.at = all.collect();
        }
        self.number = latest.number();
    }
}

/// All of it.
pub fn all(world: &mut Live, uplink: &BTreeSet<Cidr>, balancers: &mut Balancers) -> Wanted {
    let leased = addresses(world, uplink, balancers);
    let Some(every) = world.answers_for_pods() else { return Wanted { leased, ..Wanted::default() } };
    let (pods, refresh) = (pods(world, uplink), Some(every).filter(|every| !every.is_zero()));
    Wanted { leased, pods, refresh }
}

/// Those of pods that a neighbour at the uplink takes for one of its own link, as Calico tells them: of a pool whose packets go
/// between nodes as they are.
fn pods(world: &mut Live, uplink: &BTreeSet<Cidr>) -> BTreeSet<IpAddr> {
    let pools: Vec<_> = world.pools().filter(|pool| pool.wrapping == Wrapping::Never).map(|pool| pool.cidr).collect();
    let is_asked_for = |address: &IpAddr| {
        pools.iter().any(|net| net.contains(*address)) && uplink.iter().any(|net| net.contains(*address))
    };
    let endpoints = world.desired().into_iter().flat_map(|desired| desired.endpoints.values());
    endpoints
        .flat_map(|endpoint| endpoint.addresses.iter().chain(&endpoint.floating))
        .copied()
        .filter(is_asked_for)
        .collect()
}

/// Networks of pools for load balancers.
pub fn pools(world: &Live) -> Vec<Cidr> {
    world.pools().filter(|pool| pool.uses.load_balancer && !pool.disabled).map(|pool| pool.cidr).collect()
}

/// Those of load balancers.
fn addresses(world: &mut Live, uplink: &BTreeSet<Cidr>, balancers: &mut Balancers) -> BTreeMap<IpAddr, bool> {
    let pools = pools(world);
    if pools.is_empty() {
        // What was kept is made anew once there are some.
        *balancers = Balancers::default();
        return BTreeMap::new();
    }
    if let Some(latest) = world.latest() {
        balancers.follow(latest);
    }
    let is_of_network = |address: IpAddr| {
        pools.iter().any(|net| net.contains(address)) && uplink.iter().any(|net| net.contains(address))
    };
    let excluded = world.own_node().is_some_and(|node| node.labels.get(EXCLUDED).is_some());
    let mut wanted: BTreeMap<IpAddr, bool> = BTreeMap::new();
    for (Frontend { address, .. }, may) in &balancers.at {
        if is_of_network(*address) {
            *wanted.entry(*address).or_default() |= *may && !excluded;
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        Attachment, AttachmentId, Created, EndpointSlice, EndpointSliceId, FelixConfiguration, FloatingIps, IfaceName,
        IpPool, Labels, Mac, Node, Pod, PodId, PoolUses, Protocol, Resource, Service, ServiceId, ServiceKind,
        ServicePort, SliceEndpoint, SlicePort, TrafficPolicy, Update,
    };

    fn service(name: &str, address: &str, external: TrafficPolicy) -> Resource {
        let port = ServicePort { name: "web".into(), protocol: Protocol::TCP, port: 80, node_port: None };
        let service = Service {
            cluster_ips: vec![[10, 96, 0, address.len().try_into().unwrap_or(1)].into()],
            load_balancer: vec![address.parse().expect("an address")],
            ports: [port].into(),
            external,
            ..Service::bare(ServiceId { namespace: "shop".into(), name: name.into() }, ServiceKind::LoadBalancer)
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
        let leased = anew(&mut world(more)).leased;
        leased.into_iter().map(|(address, wanted)| format!("{address} {wanted}")).collect()
    }

    fn anew(world: &mut Live) -> Wanted {
        all(world, &uplink(), &mut Balancers::default())
    }

    fn uplink() -> BTreeSet<Cidr> {
        ["192.0.2.0/24".parse().expect("a network")].into()
    }

    fn world(more: Vec<Resource>) -> Live {
        let mut world = Live::new("n1".into(), false);
        let pool = |name: &str, cidr: &str, load_balancer: bool| {
            let uses = PoolUses { workload: !load_balancer, load_balancer, tunnel: false };
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
        world
    }

    /// With a pod of this node at these addresses: those that it would answer for.
    fn of_pod(addresses: &[&str], more: Vec<Resource>) -> (Vec<String>, Option<u64>) {
        let mut world = world(more);
        world.attach(Attachment {
            id: AttachmentId { network: "net".into(), container: "c1".into(), interface: "eth0".into() },
            pod: PodId::new("x", "web"),
            host_interface: IfaceName("cali1".into()),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            mtu: 1500,
            labels: Labels::default(),
            delegated: false,
            host_ports: Vec::new(),
            floating_ips: true,
            named: false,
            committed: true,
        });
        let found = anew(&mut world);
        (found.pods.iter().map(ToString::to_string).collect(), found.refresh.map(|every| every.as_secs()))
    }

    fn felix(name: &str, on: Option<bool>, every: Option<u64>) -> Resource {
        Resource::FelixConfiguration(FelixConfiguration {
            name: name.into(),
            answers_for_pods: on,
            announces_every: every.map(Duration::from_secs),
            ..FelixConfiguration::default()
        })
    }

    #[test]
    fn pkt_9_a_pods_address_is_answered_for_where_it_is_asked_for_and_of_the_uplinks_network_and_a_plain_pool() {
        let asked = || felix("default", Some(true), None);
        let both = &["192.0.2.200", "10.65.0.9"];
        assert_eq!(of_pod(both, vec![]), (vec![], None), "nobody asks for it");
        assert_eq!(of_pod(both, vec![asked()]), (vec!["192.0.2.200".into()], Some(120)));
        let off = felix("node.n1", Some(false), None);
        assert_eq!(of_pod(both, vec![asked(), off]), (vec![], None));
        let rarely = felix("node.n1", None, Some(0));
        assert_eq!(of_pod(both, vec![asked(), rarely]), (vec!["192.0.2.200".into()], None));
        let wrapped = IpPool {
            wrapping: Wrapping::CrossSubnet,
            ..IpPool::of_pods("pods", "192.0.2.128/25".parse().unwrap(), 28)
        };
        assert_eq!(of_pod(both, vec![asked(), Resource::IpPool(wrapped)]).0, [""; 0], "Calico leaves these out");
        assert_eq!(of_pod(&["192.0.2.200"], vec![asked()]).0, ["192.0.2.200"]);
    }

    #[test]
    fn pkt_9_an_address_that_floats_to_a_pod_is_answered_for_by_the_same_rule() {
        let floating = |switches: Vec<Resource>| {
            let addresses = ["192.0.2.201", "203.0.113.7"].map(|text| text.parse().expect("an address")).into();
            let floating = FloatingIps { addresses, unread: None, created: Created::UNKNOWN };
            let bare = Pod::bare(PodId::new("x", "web"), Some("n1".into()));
            let pod = Pod { floating: Some(Box::new(floating)), ..bare };
            of_pod(&["10.65.0.9"], [switches, vec![Resource::Pod(pod.into())]].concat()).0
        };
        let both = |floats| FelixConfiguration {
            name: "default".into(),
            answers_for_pods: Some(true),
            floating_ips: Some(floats),
            ..FelixConfiguration::default()
        };
        assert_eq!(floating(vec![Resource::FelixConfiguration(both(true))]), ["192.0.2.201"]);
        assert_eq!(floating(vec![Resource::FelixConfiguration(both(false))]), [""; 0]);
    }

    #[test]
    fn an_address_is_wanted_where_its_network_its_pool_and_a_backend_are() {
        assert_eq!(wanted(vec![]), ["192.0.2.7 true", "192.0.2.18 true", "192.0.2.119 false"]);
    }

    #[test]
    fn who_serves_services_changes_nothing_about_who_announces_them() {
        let mut world = world(vec![]);
        let by_tortie = anew(&mut world).leased;
        world.set_proxy(calc::Neighbour::Serves);
        assert_eq!(anew(&mut world).leased, by_tortie);
    }

    #[test]
    fn a_node_that_is_excluded_wants_none() {
        let labels = [(EXCLUDED.to_owned(), String::new())].into();
        let node = Resource::Node(Node {
            name: "n1".into(),
            addresses: vec![],
            labels,
            pod_cidrs: vec![],
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        });
        assert_eq!(wanted(vec![node]), ["192.0.2.7 false", "192.0.2.18 false", "192.0.2.119 false"]);
    }

    #[test]
    fn what_is_kept_of_load_balancers_is_what_it_would_be_from_the_beginning_after_every_change() {
        let (mut world, mut kept) = (world(vec![]), Balancers::default());
        let gone = |name: &str| {
            Update::Gone(model::ResourceKey::Service(ServiceId { namespace: "shop".into(), name: name.into() }))
        };
        let changes = [
            Update::Set(slice("elsewhere", "n1")),
            Update::Set(service("any", "192.0.2.9", TrafficPolicy::Local)),
            gone("here"),
            Update::Set(service("new", "192.0.2.10", TrafficPolicy::Cluster)),
            gone("any"),
        ];
        let mut seen = BTreeSet::new();
        for (number, change) in changes.into_iter().enumerate() {
            let found = all(&mut world, &uplink(), &mut kept).leased;
            assert_eq!(found, anew(&mut world).leased, "before change {number}");
            seen.insert(format!("{found:?}"));
            world.apply(change);
            // One of them is not looked at: what follows it stands alone.
            if number == 2 {
                world.latest();
            }
        }
        let found = all(&mut world, &uplink(), &mut kept).leased;
        assert_eq!((&found, seen.insert(format!("{found:?}"))), (&anew(&mut world).leased, true));
        assert_eq!(seen.len(), 6, "every change shows");
    }
}
