//! Load balancers on a real API server: addresses in the status of Services, leases among nodes, and what they cost.
//! In: Services by kubectl, agents that die, an API server that does. Out: statuses, leases, whose MAC answers outside.
//! Invariant: what is said to stand still is compared over heartbeats that were seen to go on meanwhile.
//! Never: waits for a change by time.

use crate::story::NATIVE;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};
use tests::{
    Cluster, Node, NodeSpec,
    frame::{FrameSocket, Mac, parse_mac},
    wait::{self, PATIENCE},
};

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// Addresses for load balancers.
pub const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: lb }\n\
    spec: { cidr: 192.0.2.128/28, blockSize: 28, allowedUses: [LoadBalancer] }\n";
/// One that asks for such an address.
pub const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: shop, namespace: x }\n\
    spec: { type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{ port: 80 }] }\n";

struct Segment {
    nodes: Vec<Node>,
    macs: Vec<Mac>,
    socket: FrameSocket,
    cluster: Cluster,
}

fn segment(numbers: &[u8], test: impl FnOnce(&mut Segment) -> Result<()>) -> Result<()> {
    let cluster = Cluster::served(NATIVE)?;
    cluster.namespace("x", &[])?;
    cluster.manifest("lb", POOL)?;
    let (mut nodes, mut macs) = (Vec::new(), Vec::new());
    for number in numbers {
        let mut node = cluster.node(NodeSpec::new(*number))?;
        node.start()?;
        let link = node.namespace().ip_json("link show dev eth0")?;
        macs.push(parse_mac(link[0]["address"].as_str().unwrap_or_default())?);
        nodes.push(node);
    }
    let socket = FrameSocket::open(cluster.outside(), "br0")?;
    let mut segment = Segment { nodes, macs, socket, cluster };
    let done = test(&mut segment);
    let tail = |node: &Node| format!("{}:\n{}\n", node.name(), node.agent.log_tail());
    done.with_context(|| segment.nodes.iter().map(tail).collect::<String>())
}

impl Segment {
    fn service(&self) -> Result<Value> {
        self.cluster.get(&["service", "-n", "x", "shop"])
    }

    /// What its status says.
    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let service = self.service()?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        let ips = ingress.iter().map(|ingress| ingress["ip"].as_str().unwrap_or_default().parse());
        Ok(ips.collect::<Result<_, _>>()?)
    }

    fn address(&self) -> Result<Ipv4Addr> {
        let found = wait::wait_for("the status says an address", PATIENCE, || Ok(self.addresses()?.first().copied()))?;
        let IpAddr::V4(address) = found else { anyhow::bail!("{found} is given where IPv4 is asked for") };
        Ok(address)
    }

    /// Which node answers for an address.
    fn asked(&self, address: Ipv4Addr) -> Result<Option<usize>> {
        let mac = self.socket.arp(OUTSIDE, address)?;
        Ok(mac.and_then(|mac| self.macs.iter().position(|own| *own == mac)))
    }

    fn somebody_answers(&self, address: Ipv4Addr) -> Result<usize> {
        wait::wait_for(&format!("somebody answers for {address}"), PATIENCE, || self.asked(address))
    }

    /// All but that of who does the chores, which one node always holds.
    fn leases(&self) -> Result<Vec<Value>> {
        let all = self.cluster.get(&["leases", "-n", "tortie-system"])?;
        let all = all["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|lease| lease["metadata"]["name"] != "chores").collect())
    }

    /// The version of a node's heartbeat; none: it has not written any.
    fn heartbeat(&self, node: &str) -> Result<Option<String>> {
        let name = format!("node.{node}");
        let found = self.leases()?.into_iter().find(|lease| lease["metadata"]["name"] == name.as_str());
        Ok(found.and_then(|lease| lease["metadata"]["resourceVersion"].as_str().map(str::to_owned)))
    }

    /// Nodes that hold a lease.
    fn holders(&self) -> Result<BTreeSet<String>> {
        let leases = self.leases()?;
        let held = leases
            .iter()
            .filter(|lease| !lease["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("node.")));
        let node = |lease: &Value| Some(lease["spec"]["holderIdentity"].as_str()?.rsplit_once('_')?.0.to_owned());
        Ok(held.filter_map(node).collect())
    }

    /// Until a node has written three heartbeats.
    fn three_heartbeats(&self, node: &str) -> Result<()> {
        for _ in 0..3 {
            let before = self.heartbeat(node)?;
            wait::wait_until(&format!("{node} beats"), PATIENCE, || Ok(self.heartbeat(node)? != before))?;
        }
        Ok(())
    }
}

#[test]
fn a_load_balancer_is_given_an_address_in_its_status_that_one_node_answers_for_and_another_after_it() -> Result<()> {
    segment(&[1, 2, 3], |s| {
        ensure!(
            s.leases()?.is_empty(),
            "nobody has written a lease before there is anything to hold: {:?}",
            s.leases()?
        );
        s.cluster.manifest("shop", SERVICE)?;
        let address = s.address()?;
        ensure!(address.octets()[3] & 0xf0 == 128, "{address} is of another pool");
        let first = s.somebody_answers(address)?;

        // Only those that hold something write, and nothing but heartbeats.
        let holders = s.holders()?;
        ensure!(
            holders.contains(s.nodes[first].name()) && holders.len() < 3,
            "{holders:?} hold one address and one task"
        );
        let idle = s.nodes.iter().map(Node::name).find(|name| !holders.contains(*name)).context("one is idle")?;
        let (service, heartbeat) = (s.service()?, s.heartbeat(idle)?);
        s.three_heartbeats(s.nodes[first].name())?;
        ensure!(s.heartbeat(idle)? == heartbeat, "{idle} holds nothing and beats");
        ensure!(s.service()? == service, "the Service is written again and again");

        let killed = Instant::now();
        s.nodes[first].agent.kill()?;
        let next = wait::wait_for("another answers", PATIENCE, || Ok(s.asked(address)?.filter(|next| *next != first)))?;
        println!("{address} moved {} ms after the kill", killed.elapsed().as_millis());
        s.nodes[first].start()?;
        // One that comes back takes nothing away: it hears who has it before it can.
        s.three_heartbeats(s.nodes[next].name())?;
        wait::wait_until("the same one answers", PATIENCE, || Ok(s.asked(address)? == Some(next)))?;

        s.cluster.remove("shop")?;
        wait::wait_until("nobody answers any more", PATIENCE, || Ok(s.asked(address)?.is_none()))?;
        wait::wait_until("the address is free", PATIENCE, || Ok(s.cluster.held_addresses()? == 0))?;
        wait::wait_until("nobody holds a lease", PATIENCE, || Ok(s.holders()?.is_empty()))
    })
}

#[test]
fn while_the_api_server_is_away_nobody_answers_for_long_and_somebody_does_when_it_is_back() -> Result<()> {
    segment(&[1], |s| {
        s.cluster.manifest("shop", SERVICE)?;
        let address = s.address()?;
        s.somebody_answers(address)?;
        s.cluster.kill_apiserver()?;
        wait::wait_until("nobody answers", PATIENCE, || Ok(s.asked(address)?.is_none()))?;
        s.cluster.start_apiserver()?;
        s.somebody_answers(address)?;
        ensure!(s.address()? == address, "it is the same address");
        Ok(())
    })
}

#[test]
fn what_another_says_of_a_load_balancer_is_left_to_him_and_announced_where_a_pool_has_it() -> Result<()> {
    segment(&[1], |s| {
        let foreign = SERVICE.replace("type: LoadBalancer", "type: LoadBalancer, loadBalancerClass: example.com/cloud");
        s.cluster.manifest("shop", &foreign)?;
        let said = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.141"}]}}}"#;
        let patch = ["patch", "service", "-n", "x", "shop", "--subresource=status", "--type=merge", "-p", said];
        s.cluster.kubectl(&patch, "")?;
        let address = Ipv4Addr::new(192, 0, 2, 141);
        s.somebody_answers(address)?;
        let before = s.service()?;
        s.three_heartbeats("node1")?;
        ensure!(s.service()? == before, "its status is as he wrote it");
        Ok(())
    })
}

#[test]
fn what_a_load_balancer_cannot_have_stands_in_its_status() -> Result<()> {
    segment(&[1], |s| {
        let asks = SERVICE.replace(
            "name: shop,",
            "name: shop, annotations: { projectcalico.org/loadBalancerIPs: '[\"192.0.2.77\"]' },",
        );
        s.cluster.manifest("shop", &asks)?;
        wait::wait_until("the status says why", PATIENCE, || {
            let conditions = s.service()?["status"]["conditions"].to_string();
            Ok(conditions.contains("tortie.net/AddressesGiven") && conditions.contains("192.0.2.77"))
        })?;
        ensure!(s.addresses()?.is_empty(), "it has none");
        let before = s.service()?;
        s.three_heartbeats("node1")?;
        ensure!(s.service()? == before, "it is said once");
        s.cluster.manifest("shop", &asks.replace("192.0.2.77", "192.0.2.133"))?;
        ensure!(s.address()? == Ipv4Addr::new(192, 0, 2, 133), "{:?}", s.addresses()?);
        wait::wait_until("nothing is lacking any more", PATIENCE, || {
            Ok(!s.service()?["status"]["conditions"].to_string().contains("AddressesGiven"))
        })
    })
}
