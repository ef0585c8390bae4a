//! What `explain` and `show` say of host endpoints, held against what a real connection meets.
//! In: host endpoints and policies. Out: verdicts with their rules, rows, counters.
//! Invariant: each verdict is compared with a probe of the same packet.
//! Never: a verdict that nobody tried.

use crate::hep::{Gate, gate};
use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{
    Outcome,
    Probe::Tcp,
    fabric::{OUTSIDE_V4, OUTSIDE_V6},
    probe::probe,
};

/// What `explain` says of a TCP port: allowed or not, and its JSON.
fn explained(g: &Gate<'_>, from: &str, to: &str, port: u16) -> Result<(bool, Value)> {
    explained_from(g, (from, None), to, port)
}

/// The same, from a source port.
fn explained_from(g: &Gate<'_>, (from, by): (&str, Option<u16>), to: &str, port: u16) -> Result<(bool, Value)> {
    let (port, by) = (port.to_string(), by.map(|by| by.to_string()));
    let mut asked = vec!["explain", "--from", from, "--to", to, "--port", &port, "--output", "json"];
    asked.extend(by.iter().flat_map(|by| ["--source-port", by]));
    let told = g.s.node.tortie(&asked)?;
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(!said.contains("ALARM"), "kernel and evaluator disagree: {said}");
    let report: Value = serde_json::from_str(&said)
        .map_err(|error| anyhow::anyhow!("{error}: {said} {}", String::from_utf8_lossy(&told.stderr)))?;
    ensure!(told.status.success() == (report["verdict"] == "allowed"), "exit status and verdict: {said}");
    Ok((told.status.success(), report))
}

#[test]
fn explain_says_of_the_nodes_own_traffic_what_a_connection_meets_and_by_which_rule() -> Result<()> {
    gate(&["x/a"], |g| {
        let own: Vec<_> = g.s.node.addresses().iter().map(ToString::to_string).collect();
        // Without a host endpoint nobody is asked.
        ensure!(explained(g, OUTSIDE_V4, &own[0], 8055)?.0);
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.global(
            "http",
            "{ selector: has(host), types: [Ingress, Egress], \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }], \
               egress: [{ action: Deny, protocol: TCP, destination: { ports: [81] } }, { action: Allow }] }",
        )?;
        g.expect_ports(&[22, 80, 2379, 6443], &[22, 80, 2379, 6443, 8055])?;
        for (outside, own) in [OUTSIDE_V4, OUTSIDE_V6].iter().zip(&own) {
            for (port, by) in [(22, "failsafe"), (80, "GlobalNetworkPolicy http"), (8055, "host-endpoint")] {
                let (lets, said) = explained(g, outside, own, port)?;
                let met = probe(g.s.cluster.outside(), own.parse()?, Tcp(port))? == Outcome::Allowed;
                ensure!(lets == met, "TCP {port} inwards: {said}");
                ensure!(said.to_string().to_lowercase().contains(&by.to_lowercase()), "TCP {port} inwards: {said}");
            }
            for port in [81, 8055] {
                let (lets, said) = explained(g, "host", outside, port)?;
                let met = probe(g.s.node.namespace(), outside.parse()?, Tcp(port))? == Outcome::Allowed;
                ensure!(
                    lets == met && said.to_string().contains("GlobalNetworkPolicy http"),
                    "TCP {port} outwards: {said}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn explain_says_of_what_is_forwarded_which_gate_refuses_it() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        let pod = g.s.pod("x/a")?.address().to_string();
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.global(
            "forward",
            "{ selector: has(host), applyOnForward: true, types: [Ingress, Egress], \
               ingress: [{ action: Deny, protocol: TCP, destination: { ports: [81] } }, { action: Allow }], \
               egress: [{ action: Deny, protocol: TCP, destination: { ports: [80] } }, { action: Allow }] }",
        )?;
        g.expect(Tcp(80), "outside\n x/a X")?;
        g.expect(Tcp(81), "x/a\n outside X")?;
        for (from, to, port, lets) in [
            ("x/a", OUTSIDE_V4, 80, false),
            ("x/a", OUTSIDE_V4, 81, true),
            (OUTSIDE_V4, &*pod, 81, false),
            (OUTSIDE_V4, &*pod, 80, true),
        ] {
            let (says, said) = explained(g, from, to, port)?;
            ensure!(says == lets, "{from} to {to} TCP {port}: {said}");
            let names = said.to_string().contains("host endpoint h on eth0");
            ensure!(names, "the gate on the way is named: {said}");
        }
        let rows = g.s.node.show("drops")?;
        let on_gate = |row: &Value| row["hostEndpoint"] == "h on eth0" && row["reason"] == "host-endpoint";
        ensure!(rows.as_array().is_some_and(|rows| rows.iter().any(on_gate)), "{rows}");
        let policies = g.s.node.show("policies")?;
        let counted = |row: &Value| row["policy"] == "GlobalNetworkPolicy forward" && row["judged"].as_u64() > Some(0);
        ensure!(policies.as_array().is_some_and(|rows| rows.iter().any(counted)), "{policies}");
        // On all interfaces the same rules are asked between pods.
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.expect(Tcp(81), "x/b\n x/a X")?;
        let (lets, said) = explained(g, "x/a", "x/b", 81)?;
        ensure!(!lets && said["policy"] == "GlobalNetworkPolicy forward", "{said}");
        let evaluated = |said: &Value| said["evaluator"]["gates"][0].to_string();
        ensure!(evaluated(&said).contains("h, of pods: GlobalNetworkPolicy forward ingress rule 0 denies"), "{said}");
        let (lets, said) = explained(g, "x/a", "x/b", 82)?;
        ensure!(lets && evaluated(&said).contains("h, of pods: lets it through"), "{said}");
        let forward = g.row("eth0", "forward")?;
        ensure!(forward["ingress"][0] == "GlobalNetworkPolicy forward", "{forward}");
        Ok(())
    })
}

#[test]
fn explain_says_what_the_nearest_rule_of_a_host_endpoint_asks_for_a_source_port_too() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        let own = g.s.node.addresses()[0].to_string();
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.global(
            "dns",
            "{ selector: has(host), applyOnForward: true, types: [Ingress], \
               ingress: [{ action: Allow, protocol: TCP, source: { ports: [5353] }, destination: { ports: [80] } }] }",
        )?;
        g.expect(Tcp(80), "node1 x/b\n outside X X\n x/a . X")?;
        let lacks = |said: &Value| said["isolation"]["nearest"][0]["lacks"].to_string();
        for (from, to) in [(OUTSIDE_V4, &*own), ("x/a", "x/b")] {
            let (lets, said) = explained(g, from, to, 80)?;
            ensure!(!lets && said["isolation"]["by"][0] == "GlobalNetworkPolicy dns", "{said}");
            ensure!(lacks(&said).contains("asks for port 5353 as source port"), "{said}");
            let (lets, said) = explained_from(g, (from, Some(5353)), to, 80)?;
            ensure!(lets && said["isolation"].is_null() && said["sourcePort"] == 5353, "{said}");
        }
        Ok(())
    })
}
