//! The setups: a bare veth pair, the kernel's routing, and two policed pods of Tortie.
//! In: nothing, or the built programs. Out: a way between two namespaces.
//! Invariant: each stands over the whole run, so that rounds can be interleaved.
//! Never: tunes one of them: same kernel, same devices, same MTU.

use crate::door::Door;
use anyhow::{Context as _, Result};
use std::{os::fd::OwnedFd, process};
use tests::{
    BarePair, Binaries, Cluster, NetNs, Node, NodeSpec, Pod, PodSpec, netns::STEM, tcx::redirect, traffic::Way,
};

/// Two ends, joined somehow.
pub trait Setup {
    /// Its name in the table.
    fn name(&self) -> &'static str;
    /// From where to where.
    fn way(&self) -> Way<'_>;
}

/// The most a pod network can be.
pub struct Bare(BarePair);

impl Bare {
    pub fn create() -> Result<Self> {
        BarePair::create(&format!("{STEM}{}-bare", process::id())).map(Self)
    }
}

impl Setup for Bare {
    fn name(&self) -> &'static str {
        "bare veth pair"
    }

    fn way(&self) -> Way<'_> {
        self.0.way()
    }
}

/// Wires a pod to its node as Calico does it, without any program: it has 10.98.0.`number`.
pub fn wire(node: &NetNs, pod: &NetNs, number: u8) -> Result<()> {
    node.ip(&[
        &format!("link add pod{number} type veth peer name eth0 netns {}", pod.name()),
        &format!("link set pod{number} address ee:ee:ee:ee:ee:ee up"),
        &format!("route add 10.98.0.{number}/32 dev pod{number}"),
    ])?;
    pod.ip(&[
        &format!("address add 10.98.0.{number}/32 dev eth0"),
        "link set eth0 up",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1",
        "neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0",
    ])?;
    node.wait_link(&format!("pod{number}"))
}

/// Two pods on a node.
struct Pods {
    client: NetNs,
    server: NetNs,
    node: NetNs,
}

impl Pods {
    fn create(stem: &str) -> Result<Self> {
        let [node, client, server] = ["node", "client", "server"].map(|role| NetNs::create(stem, role));
        let (node, client, server) = (node?, client?, server?);
        for (number, pod) in [(1, &client), (2, &server)] {
            wire(&node, pod, number)?;
        }
        Ok(Self { client, server, node })
    }

    fn way(&self) -> Way<'_> {
        Way::direct(&self.client, &self.server, [10, 98, 0, 2].into())
    }

    fn index(&self, interface: &str) -> Result<u32> {
        let links = self.node.ip_json(&format!("link show {interface}"))?;
        let index = links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        index.with_context(|| format!("{interface} has no index"))
    }
}

/// Pods forwarded by the kernel, without any rule.
pub struct Routed(Pods);

impl Routed {
    pub fn create() -> Result<Self> {
        let pods = Pods::create(&format!("{STEM}{}-routed", process::id()))?;
        pods.node.sysctl("ipv4/ip_forward", "1")?;
        Ok(Self(pods))
    }
}

impl Setup for Routed {
    fn name(&self) -> &'static str {
        "kernel routing, no rules"
    }

    fn way(&self) -> Way<'_> {
        self.0.way()
    }
}

/// Pods whose packets a program redirects and never looks at: what no policy can be quicker than.
pub struct Redirected {
    pods: Pods,
    _links: [OwnedFd; 2],
}

impl Redirected {
    pub fn create() -> Result<Self> {
        let pods = Pods::create(&format!("{STEM}{}-redirect", process::id()))?;
        let (client, server) = (pods.index("pod1")?, pods.index("pod2")?);
        let links = pods.node.inside(|| Ok([redirect(client, server)?, redirect(server, client)?]))?;
        Ok(Self { pods, _links: links })
    }
}

impl Setup for Redirected {
    fn name(&self) -> &'static str {
        "bare redirect, no policy"
    }

    fn way(&self) -> Way<'_> {
        self.pods.way()
    }
}

/// The client's egress: by peer and port.
pub const CLIENT: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: client }
spec:
  podSelector: { matchLabels: { pod: client } }
  policyTypes: [Egress]
  egress:
  - to: [{ podSelector: { matchLabels: { pod: server } } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
";

/// The server's ingress, in the same way.
pub const SERVER: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: server }
spec:
  podSelector: { matchLabels: { pod: server } }
  ingress:
  - from: [{ podSelector: { matchLabels: { pod: client } } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
";

/// Two pods on one node of Tortie, both ends policed.
pub struct Tortie {
    name: &'static str,
    // Dropped in this order: the pods' DEL needs the agent.
    pub client: Pod,
    pub server: Pod,
    pub node: Node,
    pub cluster: Cluster,
}

/// A node with tables of full size, and its agent. `laps`: whose; its steps are left in its log, and it is said where that is.
pub fn started(cluster: &Cluster, mut spec: NodeSpec, laps: Option<&str>) -> Result<Node> {
    spec.full_tables = true;
    if laps.is_some() {
        spec = spec.argument("--log").argument("laps=debug,info");
    }
    let mut node = cluster.node(spec)?;
    node.start()?;
    if let Some(whose) = laps {
        eprintln!("{whose}: {}", node.log_path().display());
    }
    Ok(node)
}

impl Tortie {
    /// `stem` tells its namespaces from those of others in this run; `policy` is the server's.
    pub fn create(name: &'static str, stem: &str, policy: &str, binaries: Binaries) -> Result<Self> {
        let cluster = Cluster::with_stem(&format!("{STEM}{}-{stem}", process::id()), binaries)?;
        cluster.namespace("bench", &[])?;
        cluster.manifest("client", CLIENT)?;
        cluster.manifest("server", policy)?;
        let node = started(&cluster, NodeSpec::new(1), None)?;
        let client = node.pod(&cluster, &PodSpec::new("bench/client").silent())?;
        let server = node.pod(&cluster, &PodSpec::new("bench/server").silent())?;
        Ok(Self { name, client, server, node, cluster })
    }

    /// From the client to the server.
    pub fn door(&self) -> Door<'_> {
        let (from, to) = (self.client.namespace(), self.server.namespace());
        Door { from, source: None, to, address: self.server.address() }
    }
}

impl Setup for Tortie {
    fn name(&self) -> &'static str {
        self.name
    }

    fn way(&self) -> Way<'_> {
        Way::direct(self.client.namespace(), self.server.namespace(), self.server.address())
    }
}
