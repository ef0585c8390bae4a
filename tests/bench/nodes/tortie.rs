//! Two nodes of Tortie on one segment, a pod on each.
//! In: the built programs, and what lies between the ends. Out: a way between them, or to a host outside.
//! Invariant: a policy by peer and port judges at each end; the tables are of full size.
//! Never: a route by hand.

use super::{Part, kernel::to_outside};
use crate::setups::{CLIENT, SERVER, Setup, started};
use ::tests::{
    Binaries, Cluster, Node, NodeSpec, Outcome, Pod, PodSpec, Probe, Servers, cluster,
    netns::STEM,
    probe::probe,
    server::Listen,
    traffic::{PORT, Way},
    wait::{PATIENCE, wait_until},
};
use anyhow::Result;
use std::process;

/// The client's egress to the host outside.
const OUT: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: out }
spec:
  podSelector: { matchLabels: { pod: client } }
  policyTypes: [Egress]
  egress:
  - to: [{ ipBlock: { cidr: 192.0.2.254/32 } }]
    ports: [{ protocol: TCP, port: 5201 }, { protocol: UDP, port: 5201 }]
";

/// They stand, and packets pass.
pub struct Tortie {
    name: &'static str,
    is_outside: bool,
    // Dropped in this order: the pods' DEL needs the agents.
    pods: [Pod; 2],
    _nodes: [Node; 2],
    cluster: Cluster,
}

impl Tortie {
    pub fn create(name: &'static str, part: Part, which: &str, binaries: &Binaries) -> Result<Self> {
        let stem = format!("{STEM}{}-{which}-{}", process::id(), part.name());
        let cluster = Cluster::with_stem(&stem, binaries.clone())?;
        let asks = match part {
            Part::Direct => "",
            Part::Vxlan => "vxlanMode: Always, ",
            Part::Ipip => "ipipMode: Always, ",
            Part::Nat => "natOutgoing: true, ",
        };
        cluster.manifest("pools", &cluster::pools(26, 122).replace("blockSize:", &format!("{asks}blockSize:")))?;
        cluster.namespace("bench", &[])?;
        for (policy, text) in [("client", CLIENT), ("server", SERVER), ("out", OUT)] {
            cluster.manifest(policy, text)?;
        }
        let nodes = [started(&cluster, NodeSpec::new(1), None)?, started(&cluster, NodeSpec::new(2), None)?];
        if part == Part::Vxlan {
            for node in &nodes {
                wait_until("the tunnel's device is up", PATIENCE, || has_device(node))?;
            }
        }
        let client = nodes[0].pod(&cluster, &PodSpec::new("bench/client").silent())?;
        let server = nodes[1].pod(&cluster, &PodSpec::new("bench/server").silent())?;
        let tortie = Self { name, is_outside: part == Part::Nat, pods: [client, server], _nodes: nodes, cluster };
        tortie.wait()?;
        Ok(tortie)
    }

    /// Until what is measured passes.
    fn wait(&self) -> Result<()> {
        let way = self.way();
        let (server, to) = way.servers[0];
        let _server = Servers::start(server, "server", &[Listen::Tcp(PORT)])?;
        wait_until("the way between the ends is open", PATIENCE, || {
            Ok(probe(way.client, to, Probe::Tcp(PORT))? == Outcome::Allowed)
        })
    }
}

impl Setup for Tortie {
    fn name(&self) -> &'static str {
        self.name
    }

    fn way(&self) -> Way<'_> {
        let [client, server] = &self.pods;
        if self.is_outside {
            return to_outside(client.namespace(), self.cluster.fabric());
        }
        Way::direct(client.namespace(), server.namespace(), server.address())
    }
}

fn has_device(node: &Node) -> Result<bool> {
    let shown = node.namespace().ip_json("link show dev vxlan.calico").unwrap_or_default();
    Ok(shown[0]["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP")))
}
