//! Services asked from outside on a node with a host endpoint: which of its policies judge what a service leads on.
//! In: a Service over pods of this node or of another, a host endpoint at the uplink, policies. Out: what a host beyond it meets.
//! Invariant: the host endpoint lets nothing in for the node itself; `explain` says what a real connection meets.
//! Never: waits for a change by time; who answers is the sign.

use crate::{
    hep::{host_endpoint, object},
    nodes::{Two, two},
    services_outside::{NODE_PORT, answered_by, doors, expect, serve},
};
use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    Outcome,
    Probe::{Sctp, Tcp, Udp},
    fabric::{OUTSIDE_V4, OUTSIDE_V6},
    flow::Connection,
    wait::{PATIENCE, wait_until},
};

const DENY_ALL: &str = "{ selector: has(host), types: [Ingress], ingress: [{ action: Deny }] }";

fn global(t: &Two, name: &str, spec: &str) -> Result<()> {
    t.cluster.manifest(&format!("global-{name}"), &object("GlobalNetworkPolicy", name, spec))
}

/// What is forwarded, but for TCP to these ports.
fn on_forward(ports: &str) -> String {
    format!(
        "{{ selector: has(host), applyOnForward: true, types: [Ingress], \
           ingress: [{{ action: Deny, protocol: TCP, destination: {{ ports: [{ports}] }} }}, {{ action: Allow }}] }}"
    )
}

fn before_translation(ports: &str) -> String {
    format!(
        "{{ selector: has(host), preDNAT: true, applyOnForward: true, \
           ingress: [{{ action: Deny, protocol: TCP, destination: {{ ports: [{ports}] }} }}] }}"
    )
}

/// The node's own uplink is closed: what is in force is said.
fn close(t: &Two) -> Result<()> {
    t.cluster.manifest("hep-h", &host_endpoint("h", "interfaceName: eth0"))?;
    wait_until("the host endpoint is in force", PATIENCE, || {
        let rows = t.nodes[0].show("hostendpoints")?;
        Ok(rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["inForce"] == true)))
    })
}

/// What `explain` says of a client outside who asks the node port, over both families.
fn explained(t: &Two, verdict: &str, by: &str) -> Result<()> {
    for (from, (to, port)) in [OUTSIDE_V4, OUTSIDE_V6].into_iter().zip(doors(t)?) {
        let (to, port) = (to.to_string(), port.to_string());
        let asked = ["explain", "--from", from, "--to", &to, "--port", &port, "--output", "json"];
        let told = t.nodes[0].tortie(&asked)?;
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(!said.contains("ALARM"), "kernel and evaluator disagree: {said}");
        let report: Value = serde_json::from_str(&said)?;
        ensure!(report["verdict"] == verdict && said.contains(by), "{verdict} by {by}: {said}");
        ensure!(report["service"].as_str().is_some_and(|service| service.contains("x/shop")), "{said}");
    }
    Ok(())
}

/// Every door, over both families: to a backend here, or on another node.
fn judged_by_what_is_forwarded(pod: &str, node: u8) -> Result<()> {
    two(|t| {
        serve(t, "", &[(pod, node)])?;
        close(t)?;
        answered_by(t, &[pod])?;
        for what in [Tcp as fn(u16) -> _, Udp, Sctp] {
            expect(t, what, Outcome::Allowed)?;
        }
        explained(t, "allowed", "it is sent to")?;
        // Policies for the node itself are not asked.
        global(t, "own", DENY_ALL)?;
        expect(t, Tcp, Outcome::Allowed)?;
        let mut live = doors(t)?
            .into_iter()
            .map(|(address, port)| Connection::open(t.cluster.outside(), address, port))
            .collect::<Result<Vec<_>>>()?;
        for connection in &mut live {
            ensure!(connection.answers()?, "it goes on");
        }
        // Those for what is forwarded are, about the backend's port and not about the frontend's.
        global(t, "forward", &on_forward(&format!("{NODE_PORT}, 443")))?;
        expect(t, Tcp, Outcome::Allowed)?;
        for connection in &mut live {
            ensure!(connection.answers()?, "still let in");
        }
        global(t, "forward", &on_forward("80"))?;
        expect(t, Tcp, Outcome::Refused)?;
        for connection in &mut live {
            ensure!(!connection.answers()?, "a new deny cuts it");
        }
        explained(t, "refused", "GlobalNetworkPolicy forward")?;
        expect(t, Udp, Outcome::Allowed)?;
        t.cluster.remove("global-forward")?;
        expect(t, Tcp, Outcome::Allowed)?;
        // Those before translation are asked about the frontend.
        global(t, "early", &before_translation("80"))?;
        expect(t, Tcp, Outcome::Allowed)?;
        let mut live = Connection::open(t.cluster.outside(), doors(t)?[0].0, NODE_PORT)?;
        ensure!(live.answers()?, "it goes on");
        global(t, "early", &before_translation(&format!("{NODE_PORT}, 443")))?;
        expect(t, Tcp, Outcome::Refused)?;
        ensure!(!live.answers()?, "a new deny cuts it");
        explained(t, "refused", "GlobalNetworkPolicy early")?;
        expect(t, Udp, Outcome::Allowed)?;
        t.cluster.remove("global-early")?;
        expect(t, Tcp, Outcome::Allowed)?;
        // The service goes: the same port is the node's own, and closed.
        serve(t, ", externalTrafficPolicy: Local", &[])?;
        t.cluster.remove("shop")?;
        for what in [Tcp as fn(u16) -> _, Udp] {
            expect(t, what, Outcome::Refused)?;
        }
        Ok(())
    })
}

#[test]
fn hep_4_hep_5_hep_9_what_a_service_leads_to_a_pod_here_is_judged_as_forwarded() -> Result<()> {
    judged_by_what_is_forwarded("x/a", 1)
}

#[test]
fn hep_4_hep_5_hep_9_what_a_service_leads_to_a_pod_of_another_node_is_judged_as_forwarded() -> Result<()> {
    judged_by_what_is_forwarded("x/b", 2)
}
