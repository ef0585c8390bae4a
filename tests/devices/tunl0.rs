//! IPIP beside the kernel's own: a peer with `tunl0` as Calico sets it up, and a node where Calico left one.
//! In: pods on a node, a pod behind the peer. Out: who reaches whom, and that much comes whole.
//! Invariant: packets between the two find no way but IPIP: they are in two subnets, and the router knows neither.
//! Never: our programs on the peer.

use anyhow::Result;
use std::net::IpAddr;
use tests::{
    Cluster, NetNs, NodeSpec, Outcome,
    Probe::{self, Ping, Tcp, Udp},
    Servers,
    flow::much_comes_whole,
    probe::probe,
    routed::{Routed, claim, describe, ipip_pool, routed},
    server::Listen,
    subnets,
    wait::{PATIENCE, wait_until},
};

const BLOCK: &str = "10.65.200.0/26";
/// The peer's end of the tunnel, as Calico's node takes one of its block.
const TUNNEL: &str = "10.65.200.0/32";
const POD: &str = "10.65.200.7";

/// A node of the second subnet with the kernel's tunnel, and a pod behind it.
struct Peer {
    node: NetNs,
    pod: NetNs,
}

impl Peer {
    fn create(cluster: &Cluster) -> Result<Self> {
        let (node, pod) = (NetNs::create(cluster.stem(), "peer9")?, NetNs::create(cluster.stem(), "peer9-pod")?);
        cluster.fabric().join(&node, 9)?;
        subnets::move_away(&node, 9)?;
        node.sysctl("ipv4/ip_forward", "1")?;
        node.ip(&[
            "link set tunl0 mtu 1480 up",
            &format!("address add {TUNNEL} dev tunl0"),
            &format!("link add cali9 type veth peer name eth0 mtu 1480 netns {}", pod.name()),
            "link set cali9 mtu 1480 up",
            &format!("route add {POD} dev cali9 src 198.51.100.9"),
        ])?;
        pod.ip(&[
            &format!("address add {POD}/32 dev eth0"),
            "link set eth0 up",
            "route add 198.51.100.9 dev eth0",
            "route add default via 198.51.100.9",
        ])?;
        describe(cluster, "peer", &subnets::far(9)[..1], "")?;
        claim(cluster, "peer", BLOCK)?;
        Ok(Self { node, pod })
    }

    /// As BIRD writes it for Calico.
    fn route(&self, block: &str) -> Result<()> {
        self.node.ip(&[&format!("route replace {block} via 192.0.2.1 dev tunl0 onlink proto bird")])
    }
}

fn come_together(from: &NetNs, to: IpAddr, what: Probe) -> Result<()> {
    wait_until(&format!("{what} to {to}"), PATIENCE, || Ok(probe(from, to, what)? == Outcome::Allowed))
}

fn reach_each_other(t: &Routed) -> Result<()> {
    let peer = Peer::create(&t.cluster)?;
    peer.route(&t.block("x/a")?)?;
    let _servers = Servers::start(&peer.pod, "peer", &[Listen::Tcp(80), Listen::Udp(80)])?;
    let (ours, theirs) = (t.pods["x/a"].address(), POD.parse::<IpAddr>()?);
    for what in [Ping, Tcp(80), Udp(80)] {
        come_together(t.pods["x/a"].namespace(), theirs, what)?;
        come_together(&peer.pod, ours, what)?;
        // The nodes themselves, from their addresses of the pool.
        come_together(t.nodes[0].namespace(), theirs, what)?;
        come_together(&peer.node, ours, what)?;
    }
    much_comes_whole(t.pods["x/a"].namespace(), (theirs, 80), "peer")?;
    much_comes_whole(&peer.pod, (ours, 80), "x/a")
}

#[test]
fn agt_10_pods_and_those_of_a_node_with_the_kernels_own_tunnel_reach_each_other() -> Result<()> {
    routed(&ipip_pool("CrossSubnet"), [NodeSpec::new(1).by_clsact(), NodeSpec::new(2)], |t| reach_each_other(t))
}

#[test]
fn agt_10_a_tunnel_that_calico_left_on_a_node_takes_nothing_from_its_pods() -> Result<()> {
    routed(&ipip_pool("Always"), [NodeSpec::new(1), NodeSpec::new(2)], |t| {
        for node in &t.nodes {
            node.namespace().ip(&["link set tunl0 mtu 1480 up", "address add 10.65.99.0/32 dev tunl0"])?;
        }
        t.reach_each_other()?;
        reach_each_other(t)
    })
}
