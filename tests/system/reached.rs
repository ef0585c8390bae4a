//! Pods' addresses of the nodes' own network, answered for at the uplink (Calico's localSubnetL2Reachability).
//! In: a node whose pods have addresses of its uplink's network; a host outside with no route to them. Out: whose MAC it is told,
//! asked and unasked, and whether it reaches them.
//! Invariant: the addresses are on no interface of the node.
//! Never: waits for a change by time.

use anyhow::{Result, ensure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tests::{
    Cluster, Node, NodeSpec, Outcome, Pod, PodSpec, Probe,
    frame::{FrameSocket, Mac, parse_mac},
    probe::probe,
    wait::{PATIENCE, wait_until},
};

const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: pods-v4 }\n\
    spec: { cidr: 192.0.2.64/26, ipipMode: Never, vxlanMode: Never }\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: pods-v6 }\n\
    spec: { cidr: '2001:db8::100/122' }\n";

struct Segment {
    cluster: Cluster,
    node: Node,
    mac: Mac,
    socket: FrameSocket,
}

fn segment() -> Result<Segment> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.namespace("x", &[])?;
    cluster.manifest("pools", POOLS)?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let link = node.namespace().ip_json("link show dev eth0")?;
    let mac = parse_mac(link[0]["address"].as_str().unwrap_or_default())?;
    let socket = FrameSocket::open(cluster.outside(), "br0")?;
    Ok(Segment { cluster, node, mac, socket })
}

impl Segment {
    fn asks_for(&self, mode: &str) -> Result<()> {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{ name: default }}\n\
             spec: {{ localSubnetL2Reachability: {mode} }}\n"
        );
        self.cluster.manifest("felix", &text)
    }

    /// Whether the node answers for an address.
    fn is_answered(&self, address: IpAddr) -> Result<bool> {
        let mac = match address {
            IpAddr::V4(address) => self.socket.arp(OUTSIDE4, address)?,
            IpAddr::V6(address) => self.socket.solicit(OUTSIDE6, address)?,
        };
        ensure!(mac.is_none_or(|mac| mac == self.mac), "{address}: somebody else answers");
        Ok(mac.is_some())
    }

    fn are_answered(&self, pod: &Pod, wanted: bool) -> Result<()> {
        for address in pod.addresses() {
            wait_until(&format!("{address}: {wanted}"), PATIENCE, || Ok(self.is_answered(*address)? == wanted))?;
        }
        Ok(())
    }

    fn reached(&self, address: IpAddr) -> Result<Outcome> {
        probe(self.cluster.outside(), address, Probe::Tcp(80))
    }
}

#[test]
fn pkt_9_a_host_on_the_nodes_network_reaches_a_pod_by_an_address_of_that_network() -> Result<()> {
    let mut s = segment()?;
    let pod = s.node.pod(&s.cluster, &PodSpec::new("x/a"))?;
    s.are_answered(&pod, false)?;
    s.asks_for("PodsAndLoadBalancers")?;
    s.are_answered(&pod, true)?;
    for address in pod.addresses() {
        ensure!(s.reached(*address)? == Outcome::Allowed, "{address}");
    }
    let shown = s.node.show("endpoints")?[0]["announced"].to_string();
    ensure!(shown.contains(" at eth0") && shown.matches("eth0").count() == pod.addresses().len(), "{shown}");
    // Its policy is asked as ever.
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: shut, namespace: x }\n\
                spec: { podSelector: {}, policyTypes: [Ingress] }\n";
    s.cluster.manifest("shut", deny)?;
    for address in pod.addresses() {
        let cut = || Ok(s.reached(*address)? != Outcome::Allowed);
        wait_until("its policy cuts it off", PATIENCE, cut)?;
        ensure!(s.is_answered(*address)?, "{address}");
    }
    s.cluster.remove("shut")?;
    // Pods are here whether an agent is or not.
    s.node.agent.kill()?;
    for address in pod.addresses().iter().filter(|address| address.is_ipv4()) {
        ensure!(s.is_answered(*address)?, "{address}, while no agent runs");
    }
    s.node.start()?;
    s.are_answered(&pod, true)?;
    // One who would take the address for himself learns that it is a pod's (RFC 4862 §5.4, RFC 5227 §2.1).
    for address in pod.addresses() {
        let probed = match *address {
            IpAddr::V4(address) => s.socket.arp(Ipv4Addr::UNSPECIFIED, address)?,
            IpAddr::V6(address) => s.socket.solicit(Ipv6Addr::UNSPECIFIED, address)?,
        };
        ensure!(probed == Some(s.mac), "{address} is defended");
    }
    let addresses = pod.addresses().to_vec();
    drop(pod);
    for address in &addresses {
        wait_until("nobody answers for a pod that is gone", PATIENCE, || Ok(!s.is_answered(*address)?))?;
    }
    Ok(())
}

#[test]
fn pkt_9_the_network_is_told_when_a_pod_comes_and_nothing_is_left_when_it_is_asked_for_no_more() -> Result<()> {
    let s = segment()?;
    s.asks_for("PodsAndLoadBalancers")?;
    let first = s.node.pod(&s.cluster, &PodSpec::new("x/a"))?;
    s.are_answered(&first, true)?;
    // A neighbour who has another MAC for the next address hears of this one, unasked.
    let IpAddr::V4(taken) = first.addresses()[0] else { anyhow::bail!("the first is of IPv4") };
    let wrong = "02:00:00:00:00:99";
    s.cluster.outside().ip(&[&format!("neigh replace {taken} lladdr {wrong} dev br0 nud stale")])?;
    s.asks_for("Disabled")?;
    s.are_answered(&first, false)?;
    s.asks_for("PodsAndLoadBalancers")?;
    wait_until("the neighbour is told", PATIENCE, || {
        let found = s.cluster.outside().ip_json(&format!("neigh show to {taken} dev br0"))?;
        Ok(found[0]["lladdr"].as_str().is_some_and(|mac| parse_mac(mac).is_ok_and(|mac| mac == s.mac)))
    })?;
    // What is of no pool is nobody's to announce.
    s.cluster.manifest("pools", &POOLS.replace("vxlanMode: Never", "vxlanMode: Always"))?;
    wait_until("an address of a pool that is wrapped", PATIENCE, || Ok(!s.is_answered(taken.into())?))
}
