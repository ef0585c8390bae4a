//! What comes in from outside beside a real kube-proxy: announced addresses of load balancers, and host ports.
//! In: a node on which kube-proxy serves; pods behind a load balancer's address and behind a port of the node. Out: who reaches them.
//! Invariant: the addresses of load balancers are on no interface.
//! Never: waits for a change by time; an answer is the sign.

use crate::{
    announced::{OUTSIDE4, OUTSIDE6, POOLS, VIP4, VIP6},
    beside_kube_proxy::{DEFAULT_ROUTES, MODES, beside, meets, served_by},
    services::slices_of,
    story::{Story, story, story_on},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::net::IpAddr;
use tests::{
    NetNs, NodeSpec, Outcome, PodSpec,
    Probe::{Tcp, Udp},
    cgroup::Cgroup,
    flow::{Connection, Stream},
    frame::{FrameSocket, parse_mac},
    kube_proxy::{KubeProxy, Mode},
    probe::probe,
    wait::{PATIENCE, wait_until},
};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];
const FROM_OUTSIDE: &str = "{ podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 192.0.2.254/32 } }, \
    { ipBlock: { cidr: '2001:db8::fe/128' } }] }] }";
const BY_KUBE_PROXY: &str = "kube-proxy (kube-proxy's rules are there";

/// A load balancer before `x/b`, whose addresses lie in the network of the nodes.
fn front(s: &Story, policy: &str) -> Result<()> {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x }}\n\
         spec: {{ type: LoadBalancer, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00:96::10'], \
         ipFamilies: [IPv4, IPv6], externalTrafficPolicy: {policy}, allocateLoadBalancerNodePorts: false, \
         ports: [{{ name: web, port: 80 }}, {{ name: dns, port: 80, protocol: UDP }}] }}\n\
         status: {{ loadBalancer: {{ ingress: [{{ ip: {VIP4}, ipMode: VIP }}, {{ ip: '{VIP6}', ipMode: VIP }}] }} }}\n"
    );
    let told = |address: &IpAddr| (*address, "conditions: { ready: true }, nodeName: node1".to_owned());
    text += &slices_of(&s.pod("x/b")?.addresses().iter().map(told).collect::<Vec<_>>());
    s.cluster.manifest("shop", &text)
}

fn all_meet(from: &NetNs, wanted: Outcome) -> Result<()> {
    for what in [Tcp(80), Udp(80)] {
        VIPS.iter().try_for_each(|vip| meets(from, *vip, what, wanted))?;
    }
    Ok(())
}

/// Waits until the node's own MAC is told for both addresses.
fn announced(s: &Story) -> Result<()> {
    let link = s.node.namespace().ip_json("link show dev eth0")?;
    let own = Some(parse_mac(link[0]["address"].as_str().unwrap_or_default())?);
    let socket = FrameSocket::open(s.cluster.outside(), "br0")?;
    wait_until("the node answers for both", PATIENCE, || {
        Ok(socket.arp(OUTSIDE4, VIP4)? == own && socket.solicit(OUTSIDE6, VIP6)? == own)
    })
}

#[test]
fn announced_addresses_lead_through_kube_proxy_while_it_serves_and_policy_judges_the_backend() -> Result<()> {
    for mode in MODES {
        for policy in ["Cluster", "Local"] {
            story(&["x/a", "x/b"], |s| {
                s.cluster.manifest("lb-pools", POOLS)?;
                s.node.namespace().ip(&DEFAULT_ROUTES)?;
                front(s, policy)?;
                announced(s)?;
                let (outside, a) = (s.cluster.outside(), s.pod("x/a")?.namespace());
                all_meet(outside, Outcome::Allowed)?;
                let mut live = Connection::open(outside, VIP4.into(), 80)?;
                let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
                served_by(s, BY_KUBE_PROXY)?;
                announced(s)?;
                all_meet(outside, Outcome::Allowed).with_context(|| proxy.log_tail())?;
                all_meet(a, Outcome::Allowed)?;
                ensure!(live.answers()?, "a connection that was there before");
                if policy == "Local" {
                    s.policy("x/in", FROM_OUTSIDE)?;
                    all_meet(a, Outcome::Refused)?;
                    all_meet(outside, Outcome::Allowed).context("who keeps his address is let in by it")?;
                }
                s.policy("x/in", "{ podSelector: {}, ingress: [] }")?;
                all_meet(outside, Outcome::Refused)?;
                s.drop_policy("x/in")?;
                all_meet(outside, Outcome::Allowed)?;
                proxy.clean(&s.node)?;
                served_by(s, "tortie (no rules")?;
                announced(s)?;
                all_meet(outside, Outcome::Allowed)?;
                all_meet(a, Outcome::Allowed)
            })
            .with_context(|| format!("kube-proxy by {}, {policy}", mode.as_str()))?;
        }
    }
    Ok(())
}

const PORT: u16 = 8080;

/// `x/a` behind a port of the node, TCP and UDP.
fn hosting() -> PodSpec {
    let mappings = json!([
        { "hostPort": PORT, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": PORT, "containerPort": 81, "protocol": "UDP" },
    ]);
    PodSpec { conf: json!({ "runtimeConfig": { "portMappings": mappings } }), ..PodSpec::new("x/a") }
}

/// Outside, another pod and the pod itself, at every address of the node.
fn everybody_meets(s: &Story, wanted: Outcome) -> Result<()> {
    for from in [s.cluster.outside(), s.pod("x/b")?.namespace(), s.pod("x/a")?.namespace()] {
        for address in s.node.addresses() {
            [Tcp(PORT), Udp(PORT)].into_iter().try_for_each(|what| meets(from, address, what, wanted))?;
        }
    }
    Ok(())
}

#[test]
fn cni_90_host_ports_are_the_agents_beside_kube_proxy_and_their_flows_live_over_both_switches() -> Result<()> {
    for mode in MODES {
        let cgroup = Cgroup::create()?;
        story_on(NodeSpec::new(1).cgroup(Some(cgroup.path())), &["x/b"], |s| {
            s.add(&hosting())?;
            s.node.namespace().ip(&DEFAULT_ROUTES)?;
            everybody_meets(s, Outcome::Allowed)?;
            let own = s.node.addresses();
            let streams = |s: &Story| -> Result<Vec<Stream>> {
                let (outside, b) = (s.cluster.outside(), s.pod("x/b")?.namespace());
                let ends = own.iter().flat_map(|address| [(outside, *address), (b, *address)]);
                ends.flat_map(|(from, at)| [Stream::tcp(from, at, PORT), Stream::udp(from, at, PORT)]).collect()
            };
            let mut live = streams(s)?;
            let node = |wanted: Outcome| -> Result<()> {
                wait_until(&format!("the node itself: {wanted}"), PATIENCE, || {
                    let met = own.iter().map(|at| cgroup.inside(|| probe(s.node.namespace(), *at, Tcp(PORT))));
                    Ok(met.collect::<Result<Vec<_>>>()?.into_iter().all(|met| met == wanted))
                })
            };
            node(Outcome::Allowed)?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            served_by(s, BY_KUBE_PROXY)?;
            everybody_meets(s, Outcome::Allowed).with_context(|| proxy.log_tail())?;
            // Its own sockets are not asked about there.
            node(Outcome::Reset)?;
            live.extend(streams(s)?);
            s.policy("x/in", "{ podSelector: { matchLabels: { pod: b } }, ingress: [] }")?;
            everybody_meets(s, Outcome::Allowed).context("another pod's policy")?;
            proxy.clean(&s.node)?;
            served_by(s, "tortie (no rules")?;
            everybody_meets(s, Outcome::Allowed)?;
            for (number, stream) in live.into_iter().enumerate() {
                let report = stream.stop().with_context(|| format!("stream {number}"))?;
                ensure!(report.lost() == 0, "stream {number}: {report:?}");
            }
            s.policy("x/in", "{ podSelector: { matchLabels: { pod: a } }, ingress: [] }")?;
            everybody_meets(s, Outcome::Refused)
        })
        .with_context(|| format!("kube-proxy by {}", mode.as_str()))?;
    }
    Ok(())
}

#[test]
fn cni_90_a_pod_gets_its_host_port_while_kube_proxy_serves_and_loses_it_with_its_end() -> Result<()> {
    let all: [Mode; 2] = MODES;
    for mode in all {
        beside(mode, &["x/b"], |s| {
            s.add(&hosting())?;
            everybody_meets(s, Outcome::Allowed)?;
            let mut pod = s.pods.remove("x/a").context("the pod")?;
            pod.delete()?;
            let met = s.node.addresses().into_iter().map(|at| probe(s.cluster.outside(), at, Tcp(PORT)));
            let met = met.collect::<Result<Vec<_>>>()?;
            ensure!(met.iter().all(|met| *met == Outcome::Reset), "the port is the node's again: {met:?}");
            Ok(())
        })?;
    }
    Ok(())
}
