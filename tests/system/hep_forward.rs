//! What a host endpoint asks of what the node forwards: nothing, but for policies that apply on forward.
//! In: policies with applyOnForward, on one interface and on all. Out: tables between pods, the node and the outside.
//! Invariant: what the node itself sends to its pods is let in, whatever is refused on forward.
//! Never: a policy without applyOnForward that changes a pod's traffic.

use crate::hep::gate;
use anyhow::Result;
use tests::Probe::{Tcp, Udp};

const OPEN: &str = "      x/a x/b outside
     x/a      -   .   .
     x/b      .   -   .
     node1    .   .   -
     outside  .   .   -";

#[test]
fn hep_4_a_policy_that_does_not_apply_on_forward_leaves_forwarded_traffic_alone() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.global("deny", "{ selector: has(host), types: [Ingress, Egress], ingress: [{ action: Deny }], egress: [{ action: Deny }] }")?;
        g.expect(Tcp(80), "node1 outside\n outside X -\n node1 - X")?;
        g.expect_now(Tcp(80), OPEN)?;
        g.expect_now(Udp(80), OPEN)
    })
}

#[test]
fn hep_5_what_a_pod_sends_out_is_asked_on_forward_at_the_interface_and_by_the_endpoint_of_all_interfaces() -> Result<()>
{
    gate(&["x/a", "x/b"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), "outside\n node1 X")?;
        g.expect_now(Tcp(80), OPEN)?;
        let deny = |direction: &str, port: u16| {
            let rules = direction.to_lowercase();
            let denied = format!("{{ action: Deny, protocol: TCP, destination: {{ ports: [{port}] }} }}");
            format!(
                "{{ selector: has(host), applyOnForward: true, types: [{direction}], {rules}: [{denied}, {{ action: Allow }}] }}"
            )
        };
        // The interface's egress rules are asked of what pods send out, and of nothing that comes in.
        g.global("out", &deny("Egress", 80))?;
        g.expect(Tcp(80), "outside\n x/a X\n x/b X")?;
        g.expect_now(Tcp(80), "      x/a x/b\n x/a - .\n x/b . -\n node1 . .\n outside . .")?;
        g.expect_now(Tcp(81), "outside\n x/a .\n x/b .")?;
        g.global("out", &deny("Ingress", 81))?;
        g.expect(Tcp(81), "      x/a x/b outside\n x/a - . .\n x/b . - .\n node1 . . -\n outside X X -")?;
        g.expect_now(Tcp(80), OPEN)?;
        // On all interfaces its ingress rules are asked of what a pod sends as well.
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.expect(Tcp(81), "      x/a x/b outside\n x/a - X X\n x/b X - X\n node1 . . -\n outside X X -")?;
        g.expect_now(Tcp(80), OPEN)?;
        g.drop_global("out")?;
        g.expect(Tcp(80), OPEN)
    })
}

#[test]
fn hep_5_rules_on_forward_ask_for_both_ends_as_the_packet_has_them() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.global(
            "by-end",
            "{ selector: has(host), applyOnForward: true, types: [Ingress, Egress], \
               ingress: [{ action: Deny, destination: { selector: pod == 'b' } }, { action: Allow }], \
               egress: [{ action: Deny, source: { selector: pod == 'a' } }, { action: Allow }] }",
        )?;
        let by_end = "      x/a x/b outside\n x/a - . X\n x/b . - .\n node1 . . -\n outside . X -";
        g.expect(Tcp(80), by_end)?;
        g.expect_now(Udp(80), by_end)
    })
}

#[test]
fn hep_4_hep_6_the_endpoint_of_all_interfaces_refuses_between_pods_on_forward_and_never_the_nodes_own() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.expect(Tcp(80), "outside\n node1 X")?;
        g.expect_now(Tcp(80), OPEN)?;
        let deny = |direction: &str| {
            let rules = direction.to_lowercase();
            format!(
                "{{ selector: has(host), applyOnForward: true, types: [{direction}], {rules}: [{{ action: Deny }}] }}"
            )
        };
        let closed = "      x/a x/b outside\n x/a - X X\n x/b X - X\n node1 . . -\n outside X X -";
        for direction in ["Ingress", "Egress"] {
            g.global("deny", &deny(direction))?;
            g.expect(Tcp(80), closed)?;
            g.expect_now(Udp(80), closed)?;
            g.drop_global("deny")?;
            g.expect(Tcp(80), OPEN)?;
        }
        Ok(())
    })
}
