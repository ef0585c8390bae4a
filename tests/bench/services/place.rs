//! A place: a node with a client, some servers, and services; behind the first of them stand the servers.
//! In: how many services, and backends of each. Out: ways to the servers, by their own addresses and by the service's.
//! Invariant: every object is a file of its own, as an API server holds it; both ends of every way are policed.
//! Never: has a backend of another service answer.

use crate::{
    manifests::{self, ASKED, OTHERS, UNASKED, endpoint_slice, service, service_address},
    progress,
    setups::{Setup, started},
};
use ::tests::{
    Binaries, Cluster, NetNs, Node, NodeSpec, Pod, PodSpec,
    netns::STEM,
    traffic::{PORT, Way},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process, thread,
    time::{Duration, Instant},
};

/// Between two looks whether connections go through.
const LOOK: Duration = Duration::from_millis(1);
/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Both ends' policies, as in `bench local`.
const POLICIES: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: client }
spec:
  podSelector: { matchLabels: { role: client } }
  policyTypes: [Egress]
  egress:
  - to: [{ podSelector: { matchLabels: { role: server } } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: server }
spec:
  podSelector: { matchLabels: { role: server } }
  ingress:
  - from: [{ podSelector: { matchLabels: { role: client } } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
";

/// It stands.
pub struct Place {
    /// Services.
    pub count: usize,
    backends: usize,
    // Dropped in this order: the pods' DEL needs the agent.
    /// Asks the service alone.
    pub client: Pod,
    /// Asks the servers alone: a pod that asks both by one port is refused the second for a while.
    direct: Pod,
    pub servers: Vec<Pod>,
    pub node: Node,
    pub cluster: Cluster,
}

impl Place {
    /// `stem` tells its namespaces from those of others in this run.
    pub fn create(stem: &str, count: usize, backends: usize, laps: bool, binaries: &Binaries) -> Result<Self> {
        let cluster = Cluster::with_stem(&format!("{STEM}{}-{stem}", process::id()), binaries.clone())?;
        cluster.namespace("bench", &[])?;
        cluster.manifest("policies", POLICIES)?;
        cluster.manifest("pool-of-others", OTHERS)?;
        progress(&format!("{stem}: {count} services"));
        for number in 0..count {
            let protocols = if number == 0 { ASKED } else { UNASKED };
            cluster.manifest(&format!("service-{number}"), &service(number, protocols).to_string())?;
            let slice = endpoint_slice(number, protocols, &others(number, backends));
            cluster.manifest(&format!("slice-{number}"), &slice.to_string())?;
        }
        // One client opens more flows here than one may keep of a table that others share.
        let spec = NodeSpec::new(1).cgroup(None).argument("--flow-quota").argument("500000");
        let node = started(&cluster, spec, laps.then_some(stem))?;
        let pod = |name: String, role| {
            let spec = PodSpec::new(&format!("bench/{name}")).silent().label("role", role);
            node.pod(&cluster, &spec)
        };
        let client = pod("client".to_owned(), "client")?;
        let direct = pod("direct".to_owned(), "client")?;
        let servers = (0..backends).map(|number| pod(format!("server{number}"), "server")).collect::<Result<_>>()?;
        let place = Self { count, backends, client, direct, servers, node, cluster };
        place.stand_behind(&place.addresses())?;
        place.until_served(Instant::now())?;
        Ok(place)
    }

    /// In words.
    pub fn name(&self) -> String {
        format!("{} services, {} backends each", self.count, self.backends)
    }

    /// Its agent's process.
    pub fn agent(&self) -> Result<u32> {
        self.node.agent.pid().context("the agent has ended")
    }

    /// The servers' addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.servers.iter().map(Pod::address).collect()
    }

    /// Writes who stands behind the service that is asked.
    pub fn stand_behind(&self, addresses: &[IpAddr]) -> Result<()> {
        self.cluster.manifest("slice-0", &endpoint_slice(0, ASKED, addresses).to_string())
    }

    /// All services and slices, as one file has them.
    pub fn all(&self) -> String {
        all(self.count, self.backends, &self.addresses(), &[0])
    }

    /// Takes all services and slices away.
    pub fn withdraw(&self) -> Result<()> {
        for number in 0..self.count {
            self.cluster.remove(&format!("service-{number}"))?;
            self.cluster.remove(&format!("slice-{number}"))?;
        }
        Ok(())
    }

    /// Waits until a connection goes through the service.
    pub fn until_served(&self, begun: Instant) -> Result<Duration> {
        until(&self.way(Side::Service), true, begun)
    }

    /// Waits until none does.
    pub fn until_not_served(&self) -> Result<()> {
        until(&self.way(Side::Service), false, Instant::now()).map(drop)
    }

    fn way(&self, side: Side) -> Way<'_> {
        let servers: Vec<_> = self.servers.iter().map(|server| (server.namespace(), server.address())).collect();
        let (client, to) = match side {
            Side::Backends => (self.direct.namespace(), self.addresses()),
            Side::Service => (self.client.namespace(), vec![service_address(0)]),
            Side::NodeToBackends => (self.node.namespace(), self.addresses()),
            Side::NodeToService => (self.node.namespace(), vec![service_address(0)]),
        };
        Way { client, servers, to }
    }
}

/// Waits until connections go through, or do so no longer.
pub fn until(way: &Way<'_>, served: bool, begun: Instant) -> Result<Duration> {
    let listen = |(server, address): &(&NetNs, IpAddr)| {
        server.inside(|| TcpListener::bind(SocketAddr::new(*address, PORT)).context("listening"))
    };
    let listeners: Vec<_> = way.servers.iter().map(listen).collect::<Result<_>>()?;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    let to = SocketAddr::new(way.to[0], PORT);
    way.client.inside(|| {
        loop {
            let came = TcpStream::connect_timeout(&to, Duration::from_millis(4)).is_ok();
            if came == served {
                return Ok(begun.elapsed());
            }
            // So that no queue fills.
            listeners.iter().for_each(|listener| drop(listener.accept()));
            ensure!(begun.elapsed() < PATIENCE, "not so after {PATIENCE:?}");
            thread::sleep(LOOK);
        }
    })
}

/// So many services and their slices, with these addresses behind those that may be asked.
pub fn all(count: usize, backends: usize, own: &[IpAddr], asked: &[usize]) -> String {
    manifests::list((0..count).flat_map(|number| {
        let is_asked = asked.contains(&number);
        let (protocols, behind) = if is_asked { (ASKED, own.to_vec()) } else { (UNASKED, others(number, backends)) };
        [service(number, protocols), endpoint_slice(number, protocols, &behind)]
    }))
}

/// Addresses at which nobody is.
fn others(service: usize, backends: usize) -> Vec<IpAddr> {
    let one = |number: usize| -> IpAddr {
        let [_, high, middle, low] = u32::try_from(number).unwrap_or_default().to_be_bytes();
        [10, 128 + high, middle, low].into()
    };
    (service * backends..(service + 1) * backends).map(one).collect()
}

/// Whom the client asks.
#[derive(Clone, Copy)]
pub enum Side {
    /// The servers by their own addresses, in turn.
    Backends,
    /// The service.
    Service,
    /// The servers, asked by the node itself.
    NodeToBackends,
    /// The service, asked by the node itself.
    NodeToService,
}

/// A place as a setup.
pub struct Asked<'a> {
    pub name: &'static str,
    pub side: Side,
    pub place: &'a Place,
}

impl Setup for Asked<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn way(&self) -> Way<'_> {
        self.place.way(self.side)
    }
}
