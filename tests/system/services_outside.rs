//! Services asked from outside, with real sockets: over two nodes, by node ports and external addresses.
//! In: a Service and its slices over pods of both nodes. Out: what a host beyond the uplink meets.
//! Invariant: who is outside knows addresses of nodes and of the service alone.
//! Never: waits for a change by time; who answers is the sign.

use crate::{
    nodes::{Two, two},
    services::slices_of,
};
use anyhow::{Result, ensure};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpStream},
};
use tests::{
    Fabric, Outcome,
    Probe::{self, Sctp, Tcp, Udp},
    fabric,
    flow::Connection,
    probe::{probe, read_line},
    wait::{PATIENCE, wait_until},
};

pub const NODE_PORT: u16 = 30080;
/// Where the shop is reached from outside beside its node ports: routed over the first node.
const EXTERNAL: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];

/// The service `x/shop`, and its slices over these pods, each with its node's number.
pub fn serve(t: &Two, more: &str, pods: &[(&str, u8)]) -> Result<()> {
    serve_by(t, more, pods, 80)
}

/// The same by another port of the pods.
fn serve_by(t: &Two, more: &str, pods: &[(&str, u8)], port: u16) -> Result<()> {
    let at = |node: u8| format!("nodeName: node{node}, conditions: {{ ready: true }}");
    let of_pod = |(pod, node): &(&str, u8)| {
        t.pods[*pod].addresses().iter().map(|address| (*address, at(*node))).collect::<Vec<_>>()
    };
    t.cluster.manifest("shop", &shop(more, &pods.iter().flat_map(of_pod).collect::<Vec<_>>(), port))
}

/// The service and its slices over these addresses, by this port of theirs.
pub fn shop(more: &str, endpoints: &[(IpAddr, String)], port: u16) -> String {
    let [v4, v6] = EXTERNAL;
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x, creationTimestamp: '2026-01-01T00:00:00Z' }}\n\
         spec: {{ type: NodePort, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00:96::10'], \
         ipFamilies: [IPv4, IPv6], externalIPs: ['{v4}', '{v6}'], selector: {{ app: shop }}, \
         ports: [{{ name: web, port: 443, targetPort: 80, nodePort: {NODE_PORT} }}, \
         {{ name: dns, port: 443, targetPort: 80, nodePort: {NODE_PORT}, protocol: UDP }}, \
         {{ name: sig, port: 443, targetPort: 80, nodePort: {NODE_PORT}, protocol: SCTP }}]{more} }}\n"
    );
    text + &slices_of(endpoints).replace("port: 80", &format!("port: {port}"))
}

pub fn externals() -> Result<Vec<IpAddr>> {
    EXTERNAL.iter().map(|text| Ok(text.parse()?)).collect()
}

/// Every address and port by which who is outside may ask node 1.
pub fn doors(t: &Two) -> Result<Vec<(IpAddr, u16)>> {
    let mut doors: Vec<(IpAddr, u16)> =
        fabric::addresses(1).iter().map(|text| Ok((text.parse()?, NODE_PORT))).collect::<Result<_>>()?;
    for external in externals()? {
        Fabric::route(t.cluster.outside(), external, 1)?;
        doors.push((external, 443));
    }
    Ok(doors)
}

/// Waits until who is outside meets this at every door.
pub fn expect(t: &Two, what: fn(u16) -> Probe, wanted: Outcome) -> Result<()> {
    let doors = doors(t)?;
    wait_until(&format!("{} from outside: {wanted}", what(NODE_PORT)), PATIENCE, || {
        let mut met = doors.iter().map(|(address, port)| probe(t.cluster.outside(), *address, what(*port)));
        Ok(met.all(|met| met.is_ok_and(|met| met == wanted)))
    })
}

/// Waits until exactly these greet at every door.
pub fn answered_by(t: &Two, wanted: &[&str]) -> Result<()> {
    let doors = doors(t)?;
    wait_until(&format!("{wanted:?} answer who is outside"), PATIENCE, || {
        for door in &doors {
            let mut seen = BTreeSet::new();
            for _ in 0..40 {
                let Ok(who) = who(t, *door) else { return Ok(false) };
                seen.insert(wanted.iter().position(|name| who.contains(name)));
            }
            if seen.len() != wanted.len() || seen.contains(&None) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn who(t: &Two, (address, port): (IpAddr, u16)) -> Result<String> {
    t.cluster.outside().inside(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(read_line(&mut stream)?)
    })
}

#[test]
fn who_is_outside_reaches_a_pod_of_the_node_by_every_address_and_policy_sees_his_own() -> Result<()> {
    two(|t| {
        serve(t, "", &[("x/a", 1)])?;
        for what in [Tcp as fn(u16) -> Probe, Udp, Sctp] {
            expect(t, what, Outcome::Allowed)?;
        }
        answered_by(t, &["x/a"])?;
        let mut live = Connection::open(t.cluster.outside(), doors(t)?[0].0, NODE_PORT)?;
        // The client's own address is what policy is asked about.
        let from_outside = "[{ ipBlock: { cidr: 192.0.2.254/32 } }, { ipBlock: { cidr: '2001:db8::fe/128' } }]";
        t.policy("x/in", &format!("{{ podSelector: {{}}, ingress: [{{ from: {from_outside} }}] }}"))?;
        t.expect(Tcp(80), "x/a\n y/a X")?;
        expect(t, Tcp, Outcome::Allowed)?;
        ensure!(live.answers()?, "the connection goes on");
        t.policy("x/in", "{ podSelector: {}, ingress: [] }")?;
        for what in [Tcp as fn(u16) -> Probe, Udp] {
            expect(t, what, Outcome::Refused)?;
        }
        ensure!(!live.answers()?, "a new deny cuts it");
        Ok(())
    })
}

#[test]
fn pkt_35_nobody_behind_a_service_is_told_to_who_is_outside_unless_they_are_elsewhere() -> Result<()> {
    two(|t| {
        serve(t, "", &[])?;
        for what in [Tcp as fn(u16) -> Probe, Udp] {
            expect(t, what, Outcome::Reset)?;
        }
        serve(t, ", externalTrafficPolicy: Local", &[("x/b", 2)])?;
        for what in [Tcp as fn(u16) -> Probe, Udp] {
            expect(t, what, Outcome::Refused)?;
        }
        serve(t, ", externalTrafficPolicy: Local", &[("x/a", 1), ("x/b", 2)])?;
        answered_by(t, &["x/a"])
    })
}

#[test]
fn pkt_30_who_is_outside_hears_that_a_port_of_a_pod_of_another_node_is_closed() -> Result<()> {
    two(|t| {
        // Of TCP the pod says so itself, of UDP by an error about what the node sent in his name.
        serve_by(t, "", &[("x/b", 2)], 99)?;
        for what in [Tcp as fn(u16) -> Probe, Udp] {
            expect(t, what, Outcome::Reset)?;
        }
        Ok(())
    })
}

#[test]
fn who_is_outside_reaches_a_pod_of_another_node_and_a_change_ends_only_its_own_flows() -> Result<()> {
    two(|t| {
        serve(t, "", &[("x/b", 2)])?;
        for what in [Tcp as fn(u16) -> Probe, Udp, Sctp] {
            expect(t, what, Outcome::Allowed)?;
        }
        answered_by(t, &["x/b"])?;
        serve(t, "", &[("x/a", 1), ("x/b", 2)])?;
        answered_by(t, &["x/a", "x/b"])?;
        for (address, port) in doors(t)? {
            serve(t, "", &[("x/b", 2)])?;
            answered_by(t, &["x/b"])?;
            let mut live = Connection::open(t.cluster.outside(), address, port)?;
            serve(t, "", &[("x/a", 1), ("x/b", 2)])?;
            answered_by(t, &["x/a", "x/b"])?;
            ensure!(live.answers()?, "its backend is still there");
            t.nodes[0].agent.kill()?;
            ensure!(live.answers()?, "the agent is dead");
            t.nodes[0].start()?;
            ensure!(live.answers()?, "the next agent");
            serve(t, "", &[("x/a", 1)])?;
            wait_until("the connection is reset", PATIENCE, || Ok(live.answers().is_err()))?;
        }
        Ok(())
    })
}
