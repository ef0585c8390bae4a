//! The setups: a bare veth pair, the kernel's routing, and two policed pods of Tortie.
//! In: nothing, or the built programs. Out: a way between two namespaces.
//! Invariant: each stands over the whole run, so that rounds can be interleaved.
//! Never: tunes one of them: same kernel, same devices, same MTU.

use anyhow::Result;
use std::{net::IpAddr, process};
use tests::{BarePair, Binaries, Cluster, NetNs, Node, NodeSpec, Pod, PodSpec, netns::STEM, traffic::Way};

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

/// Pods as Calico wires them, forwarded by the kernel, without any rule.
pub struct Routed {
    client: NetNs,
    server: NetNs,
    _node: NetNs,
    address: IpAddr,
}

impl Routed {
    pub fn create() -> Result<Self> {
        let stem = format!("{STEM}{}-routed", process::id());
        let [node, client, server] = ["node", "client", "server"].map(|role| NetNs::create(&stem, role));
        let (node, client, server) = (node?, client?, server?);
        node.sysctl("ipv4/ip_forward", "1")?;
        for (number, pod) in [(1, &client), (2, &server)] {
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
            node.wait_link(&format!("pod{number}"))?;
        }
        Ok(Self { client, server, _node: node, address: [10, 98, 0, 2].into() })
    }
}

impl Setup for Routed {
    fn name(&self) -> &'static str {
        "kernel routing, no rules"
    }

    fn way(&self) -> Way<'_> {
        Way { client: &self.client, server: &self.server, address: self.address }
    }
}

/// Both ends policed: the client's egress and the server's ingress, each by peer and port.
const POLICY: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: server }
spec:
  podSelector: { matchLabels: { pod: server } }
  ingress:
  - from: [{ podSelector: { matchLabels: { pod: client } } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
---
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

/// Two pods on one node of Tortie.
pub struct Tortie {
    // Dropped in this order: the pods' DEL needs the agent.
    client: Pod,
    server: Pod,
    _node: Node,
    _cluster: Cluster,
}

impl Tortie {
    pub fn create(binaries: Binaries) -> Result<Self> {
        let cluster = Cluster::with_stem(&format!("{STEM}{}-tortie", process::id()), binaries)?;
        cluster.namespace("bench", &[])?;
        cluster.manifest("policy", POLICY)?;
        let mut spec = NodeSpec::new(1);
        spec.full_tables = true;
        let mut node = cluster.node(spec)?;
        node.start()?;
        let client = node.pod(&cluster, &PodSpec::new("bench/client").silent())?;
        let server = node.pod(&cluster, &PodSpec::new("bench/server").silent())?;
        Ok(Self { client, server, _node: node, _cluster: cluster })
    }
}

impl Setup for Tortie {
    fn name(&self) -> &'static str {
        "Tortie, a policy at each end"
    }

    fn way(&self) -> Way<'_> {
        Way { client: self.client.namespace(), server: self.server.namespace(), address: self.server.address() }
    }
}
