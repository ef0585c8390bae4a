//! Addresses of load balancers, announced at the nodes' network: which node answers, and who follows when its agent dies.
//! In: two nodes on one segment that share a directory; a host outside that asks by ARP and neighbour discovery.
//! Out: whose MAC is told, asked and unasked.
//! Invariant: the addresses are on no interface.
//! Never: waits for a change by time; who answers is the sign.

use anyhow::{Context as _, Result, ensure};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Instant,
};
use tests::{
    Cluster, Node, NodeSpec, Outcome, PodSpec, Probe,
    frame::{FrameSocket, Mac, parse_mac},
    probe::probe,
    wait::{PATIENCE, wait_until},
};

pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x82);
pub const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);

pub const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: lb-v4 }\n\
    spec: { cidr: 192.0.2.128/26, allowedUses: [LoadBalancer] }\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: lb-v6 }\n\
    spec: { cidr: '2001:db8::80/122', allowedUses: [LoadBalancer] }\n";

struct Segment {
    cluster: Cluster,
    nodes: [Node; 2],
    macs: [Mac; 2],
    socket: FrameSocket,
}

fn segment(test: impl FnOnce(&mut Segment) -> Result<()>) -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.namespace("x", &[])?;
    cluster.manifest("lb-pools", POOLS)?;
    let mut nodes = [cluster.node(NodeSpec::new(1))?, cluster.node(NodeSpec::new(2))?];
    for node in &mut nodes {
        node.start()?;
    }
    let mut macs = [[0; 6]; 2];
    for (mac, node) in macs.iter_mut().zip(&nodes) {
        let link = node.namespace().ip_json("link show dev eth0")?;
        *mac = parse_mac(link[0]["address"].as_str().unwrap_or_default())?;
    }
    let socket = FrameSocket::open(cluster.outside(), "br0")?;
    let mut segment = Segment { cluster, nodes, macs, socket };
    let result = test(&mut segment);
    let tail = |node: &Node| format!("{}:\n{}\n", node.name(), node.agent.log_tail());
    result.with_context(|| segment.nodes.iter().map(tail).collect::<String>())
}

impl Segment {
    /// `x/shop`, with these words more in its spec, and both addresses as its load balancer's.
    fn service(&self, more: &str) -> Result<()> {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x }}\n\
             spec: {{ type: LoadBalancer, clusterIPs: [10.96.0.10, 'fd00:96::10'], ports: [{{ port: 80 }}]{more} }}\n\
             status: {{ loadBalancer: {{ ingress: [{{ ip: {VIP4} }}, {{ ip: '{VIP6}' }}] }} }}\n"
        );
        self.cluster.manifest("shop", &text)
    }

    /// Its backends, each with its node.
    fn backends(&self, backends: &[(IpAddr, &str)]) -> Result<()> {
        let slice = |(number, (address, node)): (usize, &(IpAddr, &str))| {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: shop-{number}, namespace: x, \
                 labels: {{ kubernetes.io/service-name: shop }} }}\naddressType: {family}\n\
                 endpoints: [{{ addresses: ['{address}'], nodeName: {node} }}]\nports: [{{ port: 80 }}]\n"
            )
        };
        let slices: Vec<_> = backends.iter().enumerate().map(slice).collect();
        self.cluster.manifest("shop-slices", &slices.join("---\n"))
    }

    /// One of each family, on this node.
    fn backend_on(&self, node: &str) -> Result<()> {
        self.backends(&[("10.65.0.77".parse()?, node), ("fd00:65::77".parse()?, node)])
    }

    fn is_reached(&self, address: IpAddr) -> Result<bool> {
        Ok(probe(self.cluster.outside(), address, Probe::Tcp(80))? == Outcome::Allowed)
    }

    /// Which node answers for an address: its number.
    fn asked(&self, address: IpAddr) -> Result<Option<usize>> {
        let mac = match address {
            IpAddr::V4(address) => self.socket.arp(OUTSIDE4, address)?,
            IpAddr::V6(address) => self.socket.solicit(OUTSIDE6, address)?,
        };
        Ok(mac.and_then(|mac| self.macs.iter().position(|own| *own == mac)))
    }

    fn both(&self) -> Result<[Option<usize>; 2]> {
        Ok([self.asked(VIP4.into())?, self.asked(VIP6.into())?])
    }

    fn answered_by(&self, wanted: [Option<usize>; 2]) -> Result<()> {
        wait_until(&format!("{wanted:?} answer"), PATIENCE, || Ok(self.both()? == wanted))
    }

    fn answered_by_somebody(&self, address: IpAddr) -> Result<()> {
        wait_until(&format!("somebody answers for {address}"), PATIENCE, || Ok(self.asked(address)?.is_some()))
    }

    /// What the host outside has in its own neighbour table.
    fn known(&self, address: IpAddr) -> Result<Option<usize>> {
        let found = self.cluster.outside().ip_json(&format!("neigh show to {address} dev br0"))?;
        let Some(mac) = found[0]["lladdr"].as_str() else { return Ok(None) };
        let mac = parse_mac(mac)?;
        Ok(self.macs.iter().position(|own| *own == mac))
    }

    /// What `show services` says of where an address is announced.
    fn shown(&self, node: usize, address: &str) -> Result<String> {
        let rows = self.nodes[node].show("services")?;
        let rows = rows.as_array().context("rows")?;
        let row = rows.iter().find(|row| row["frontend"].as_str().is_some_and(|text| text.contains(address)));
        Ok(row.and_then(|row| row["announced"].as_str()).unwrap_or("not shown").to_owned())
    }
}

#[test]
fn one_node_answers_for_an_address_and_another_once_its_agent_is_killed() -> Result<()> {
    segment(|s| {
        ensure!(s.both()? == [None; 2], "nobody has asked for it yet");
        s.service("")?;
        wait_until("both are announced", PATIENCE, || Ok(s.both()?.iter().all(Option::is_some)))?;
        // The host outside learns them as it does, and hears of a change unasked.
        for address in [IpAddr::from(VIP4), VIP6.into()] {
            let first = s.asked(address)?.context("somebody answers")?;
            let own: IpAddr = if address.is_ipv4() { OUTSIDE4.into() } else { OUTSIDE6.into() };
            s.cluster.outside().inside(|| {
                UdpSocket::bind((own, 0))?.send_to(b"word", (address, 9))?;
                Ok(())
            })?;
            wait_until("the host outside knows it", PATIENCE, || Ok(s.known(address)? == Some(first)))?;
            let (text, name) = (address.to_string(), s.nodes[first].name().to_owned());
            wait_until("it is shown", PATIENCE, || {
                let shown = [s.shown(first, &text)?, s.shown(1 - first, &text)?];
                Ok(shown == [format!("by {name}, at eth0 of this node"), format!("by {name}")])
            })?;
            let killed = Instant::now();
            s.nodes[first].agent.kill()?;
            let next = Some(1 - first);
            wait_until("the host outside is told of another", PATIENCE, || Ok(s.known(address)? == next))?;
            println!("{address} moved {} ms after the kill", killed.elapsed().as_millis());
            s.answered_by([next; 2])?;
            // One that comes back takes nothing away.
            s.nodes[first].start()?;
            s.answered_by([next; 2])?;
        }
        s.cluster.remove("shop")?;
        s.answered_by([None; 2])
    })
}

#[test]
fn where_clients_keep_their_address_a_node_with_a_backend_answers() -> Result<()> {
    segment(|s| {
        s.service(", externalTrafficPolicy: Local")?;
        wait_until("it is shown", PATIENCE, || Ok(s.shown(0, "192.0.2.130")? == "by nobody"))?;
        ensure!(s.both()? == [None; 2], "there is no backend");
        for (number, name) in [(0, "node1"), (1, "node2"), (0, "node1")] {
            s.backend_on(name)?;
            s.answered_by([Some(number); 2])?;
        }
        let excluded = "apiVersion: v1\nkind: Node\nmetadata: { name: node1, labels: \
                        { node.kubernetes.io/exclude-from-external-load-balancers: '' } }\n";
        s.cluster.manifest("node-node1", excluded)?;
        s.answered_by([None; 2])
    })
}

#[test]
fn clients_outside_go_on_through_the_next_node_once_the_agent_of_the_first_is_killed() -> Result<()> {
    segment(|s| {
        let pods =
            [s.nodes[0].pod(&s.cluster, &PodSpec::new("x/a"))?, s.nodes[1].pod(&s.cluster, &PodSpec::new("x/b"))?];
        let all = pods.iter().zip(["node1", "node2"]);
        let all: Vec<_> =
            all.flat_map(|(pod, node)| pod.addresses().iter().map(move |address| (*address, node))).collect();
        s.backends(&all)?;
        // Each node has one of its own: who is asked may answer by no other.
        s.service(", externalTrafficPolicy: Local")?;
        for address in [IpAddr::from(VIP4), VIP6.into()] {
            wait_until(&format!("{address} is reached"), PATIENCE, || s.is_reached(address))?;
            let first = s.known(address)?.context("the host outside knows who has it")?;
            let killed = Instant::now();
            s.nodes[first].agent.kill()?;
            // Those who know the MAC go on by the first for as long as it is announced nowhere else.
            let mut asked = 0;
            wait_until("the host outside is told of another", PATIENCE, || {
                asked += 1;
                ensure!(s.is_reached(address)?, "request {asked} failed");
                Ok(s.known(address)? == Some(1 - first))
            })?;
            println!("{address}: {asked} requests in the {} ms until it moved", killed.elapsed().as_millis());
            for asked in 0..20 {
                ensure!(s.is_reached(address)?, "request {asked} after the move failed");
            }
            s.nodes[first].start()?;
        }
        Ok(())
    })
}

#[test]
fn a_service_without_an_address_is_given_one_that_is_answered_for_and_keeps_it_over_agents() -> Result<()> {
    segment(|s| {
        let service = |name: &str, last: u8, annotations: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: x, annotations: {{ {annotations} }} }}\n\
                 spec: {{ type: LoadBalancer, clusterIPs: [10.96.0.{last}, 'fd00:96::{last}'], ports: [{{ port: 80 }}] }}\n"
            )
        };
        let asks = "projectcalico.org/loadBalancerIPs: '[\"192.0.2.130\"]'";
        s.cluster.manifest("first", &service("first", 11, asks))?;
        s.cluster.manifest("any", &service("any", 12, ""))?;
        s.answered_by_somebody(VIP4.into())?;
        s.cluster.manifest("second", &service("second", 13, asks))?;
        wait_until("the second is told that it is taken", PATIENCE, || {
            let rows = s.nodes[1].show("services")?.to_string();
            Ok(rows.contains("192.0.2.130 is taken"))
        })?;
        let given = |s: &Segment| -> Result<Vec<String>> {
            let rows = s.nodes[0].show("services")?;
            let own = rows.as_array().context("rows")?.iter().filter(|row| row["service"] == "x/any");
            let frontends = own.filter(|row| row["announced"].is_string()).map(|row| row["frontend"].to_string());
            Ok(frontends.collect())
        };
        wait_until("any has one of each family", PATIENCE, || Ok(given(s)?.len() == 2))?;
        let before = given(s)?;
        for node in &mut s.nodes {
            node.restart()?;
        }
        wait_until("any has them again", PATIENCE, || Ok(given(s)? == before))?;
        // The first goes, and the second gets what it asked for.
        s.cluster.remove("first")?;
        wait_until("the second has it", PATIENCE, || {
            let rows = s.nodes[1].show("services")?;
            let own = rows.as_array().context("rows")?.iter().filter(|row| row["service"] == "x/second");
            Ok(own.into_iter().any(|row| row["frontend"].as_str().is_some_and(|text| text.contains("192.0.2.130"))))
        })?;
        s.answered_by_somebody(VIP4.into())
    })
}

#[test]
fn pods_get_no_address_of_a_pool_for_load_balancers_and_addresses_of_others_are_not_announced() -> Result<()> {
    segment(|s| {
        s.cluster.remove("pools")?;
        wait_until("a pod is refused", PATIENCE, || {
            let refused = s.nodes[0].pod(&s.cluster, &PodSpec::new("x/a"));
            Ok(refused.is_err_and(|error| format!("{error:#}").contains("no enabled IPPool")))
        })?;
        // An address that somebody else gave: of no pool, though of this network.
        let pool = POOLS.replace("192.0.2.128/26", "203.0.113.0/24").replace("2001:db8::80/122", "2001:db8:9::/122");
        s.service("")?;
        wait_until("both are announced", PATIENCE, || Ok(s.both()?.iter().all(Option::is_some)))?;
        s.cluster.manifest("lb-pools", &pool)?;
        s.answered_by([None; 2])
    })
}
