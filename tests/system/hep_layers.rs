//! What a host endpoint asks before everything else: policies without tracking, and those before translation.
//! In: policies with doNotTrack and preDNAT. Out: which ports are reached, and what conntrack holds.
//! Invariant: failsafe ports stay open in every layer.
//! Never: a service: a destination is judged as it comes in.

use crate::hep::{Gate, gate};
use anyhow::{Result, ensure};
use tests::Probe::Tcp;

const IN: [u16; 3] = [22, 2379, 6443];
const OUT: [u16; 2] = [2379, 6443];

/// Flows that the host endpoint tracks to or from this port.
fn tracked(g: &Gate<'_>, port: u16) -> Result<usize> {
    let flows = g.s.node.show("conntrack")?;
    let flows = flows.as_array().cloned().unwrap_or_default();
    let of_port = |flow: &&serde_json::Value| flow["destinationPort"] == port && !flow["hostEndpoint"].is_null();
    Ok(flows.iter().filter(of_port).count())
}

#[test]
fn hep_8_without_tracking_both_directions_need_a_rule_and_failsafe_ports_hold() -> Result<()> {
    gate(&[], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect_ports(&IN, &OUT)?;
        g.global(
            "raw",
            "{ selector: has(host), doNotTrack: true, applyOnForward: true, types: [Ingress], \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [8055] } }] }",
        )?;
        // Nothing says that the answers may leave: no entry stands for them.
        g.expect_ports(&IN, &OUT)?;
        g.global(
            "raw",
            "{ selector: has(host), doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [8055] } }], \
               egress: [{ action: Allow, protocol: TCP, source: { ports: [8055] } }] }",
        )?;
        g.expect_ports(&[22, 2379, 6443, 8055], &OUT)?;
        ensure!(tracked(g, 8055)? == 0, "what is not tracked has no entry");
        // What is refused here is refused whatever comes later, and failsafe ports pass in both directions.
        g.global(
            "raw",
            "{ selector: has(host), doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], \
               ingress: [{ action: Deny }], egress: [{ action: Deny }] }",
        )?;
        g.expect_ports(&IN, &OUT)?;
        g.drop_global("raw")?;
        g.expect_ports(&IN, &OUT)
    })
}

#[test]
fn hep_9_before_translation_a_deny_refuses_and_an_allow_skips_nothing_that_comes_later() -> Result<()> {
    gate(&["x/a"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.global("own", "{ selector: has(host), order: 100, types: [Ingress], ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80, 8055] } }] }")?;
        g.expect_ports(&[22, 80, 2379, 6443, 8055], &OUT)?;
        g.global(
            "pre",
            "{ selector: has(host), preDNAT: true, applyOnForward: true, order: 10, \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [81, 8055] } }, { action: Deny }] }",
        )?;
        // 81 is allowed here and refused by what comes later; 80 the other way round. Failsafe ports come first.
        g.expect_ports(&[22, 2379, 6443, 8055], &OUT)?;
        // It is asked of what is forwarded, too.
        g.expect(Tcp(80), "x/a\n outside X\n node1 .")?;
        g.expect_now(Tcp(81), "x/a\n outside .")?;
        g.drop_global("pre")?;
        g.expect_ports(&[22, 80, 2379, 6443, 8055], &OUT)
    })
}

#[test]
fn hep_12_a_host_port_is_reached_without_a_host_endpoint_and_an_allow_for_another_port_does_not_open_it() -> Result<()>
{
    gate(&[], |g| {
        g.expect(Tcp(8055), "node1\n outside .")?;
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(8055), "node1\n outside X")?;
        g.global(
            "pre",
            "{ selector: has(host), preDNAT: true, applyOnForward: true, \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }] }",
        )?;
        g.wait_in_force("eth0", true)?;
        g.expect_ports(&IN, &OUT)
    })
}
