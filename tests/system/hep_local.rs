//! What a host endpoint asks of the node's own traffic: nothing passes without a policy but the failsafe ports.
//! In: HostEndpoints, policies, failsafe settings. Out: which ports of the node and of the outside are reached.
//! Invariant: everything is open before the first HostEndpoint, and after the last.
//! Never: a pod's traffic to another pod that a host endpoint without rules on forward would change.

use crate::hep::gate;
use anyhow::{Result, ensure};
use tests::Probe::{Ping, Tcp, Udp};

const ALL: [u16; 6] = [22, 80, 81, 2379, 6443, 8055];
/// Failsafe ports among them.
const IN: [u16; 3] = [22, 2379, 6443];
const OUT: [u16; 2] = [2379, 6443];

/// Of what does not pass the node's interface, or is forwarded there, nothing changes.
const OTHERS: &str = "      x/a x/b
     x/a      -   .
     x/b      .   -
     node1    .   .
     outside  .   .";

#[test]
fn hep_1_hep_2_hep_7_without_policy_nothing_reaches_or_leaves_the_node_but_by_failsafe_ports_and_pods_go_on()
-> Result<()> {
    for interface in ["eth0", "'*'"] {
        gate(&["x/a", "x/b"], |g| {
            g.expect_ports(&ALL, &ALL)?;
            g.host_endpoint("h", &format!("interfaceName: {interface}"))?;
            g.expect_ports(&IN, &OUT)?;
            for what in [Tcp(80), Udp(80), Ping] {
                g.expect_now(what, OTHERS)?;
            }
            // 53 is open outwards alone, whoever asks from inside.
            g.expect_now(Udp(53), "outside node1\n node1 . -\n outside - X")?;
            g.expect_now(Ping, "outside node1\n node1 X -\n outside - X")?;
            // Out of the node's own reach pods are: what they send is forwarded.
            g.expect_now(Tcp(80), "outside\n x/a .\n node1 X")?;
            let dropped = g.row("eth0", "local")?["dropped"].as_u64().unwrap_or_default();
            ensure!(dropped > 0, "drops are on the host endpoint's account");
            g.drop_host_endpoint("h")?;
            g.expect_ports(&ALL, &ALL)
        })?;
    }
    Ok(())
}

#[test]
fn hep_1_a_policy_opens_what_it_allows_in_its_direction_and_replies_need_no_rule() -> Result<()> {
    gate(&["x/a"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.global(
            "own",
            "{ selector: has(host), types: [Ingress, Egress], \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }], \
               egress: [{ action: Allow, protocol: TCP, destination: { ports: [8055] } }] }",
        )?;
        g.expect_ports(&[22, 80, 2379, 6443], &[2379, 6443, 8055])?;
        g.global("own", "{ selector: has(host), types: [Ingress], ingress: [{ action: Allow, protocol: ICMP }, { action: Allow, protocol: ICMPv6 }] }")?;
        g.expect(Ping, "node1 outside\n outside . -\n node1 - X")?;
        g.expect_ports(&IN, &OUT)?;
        // A profile is asked where no policy applies in a direction: the one that allows everything opens what goes out.
        g.host_endpoint("h", "interfaceName: eth0, profiles: [projectcalico-default-allow]")?;
        g.expect_ports(&IN, &ALL)?;
        g.drop_global("own")?;
        g.expect_ports(&ALL, &ALL)
    })
}

#[test]
fn hep_7_failsafe_ports_are_settings_for_a_network_for_none_and_never_open_a_pod() -> Result<()> {
    gate(&["x/a"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect_ports(&IN, &OUT)?;
        g.s.policy("x/closed", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        g.expect(Tcp(80), "x/a\n outside X")?;
        g.felix(
            "{ failsafeInboundHostPorts: [{ protocol: TCP, port: 81 }, { protocol: TCP, port: 80, net: 203.0.113.0/24 }], \
               failsafeOutboundHostPorts: [{ protocol: TCP, port: 8055 }] }",
        )?;
        g.expect_ports(&[81], &[8055])?;
        // A failsafe port is the host's own: towards a pod the same port stays closed.
        g.expect_now(Tcp(81), "x/a\n outside X")?;
        g.felix("{ failsafeInboundHostPorts: [], failsafeOutboundHostPorts: [] }")?;
        g.expect_ports(&[], &[])
    })
}

#[test]
fn hep_11_a_named_interface_goes_before_all_interfaces_and_addresses_find_one() -> Result<()> {
    gate(&[], |g| {
        g.host_endpoint("every", "interfaceName: '*'")?;
        g.expect_ports(&IN, &OUT)?;
        g.global(
            "http",
            "{ selector: host == 'named', ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }] }",
        )?;
        g.host_endpoint("named", "interfaceName: eth0")?;
        g.expect_ports(&[22, 80, 2379, 6443], &OUT)?;
        g.drop_host_endpoint("named")?;
        g.expect_ports(&IN, &OUT)?;
        g.host_endpoint("named", "expectedIPs: [192.0.2.1]")?;
        g.expect_ports(&[22, 80, 2379, 6443], &OUT)?;
        // An interface that comes later is found too, and one that is not there does no harm.
        g.host_endpoint("named", "interfaceName: eth1")?;
        g.expect_ports(&IN, &OUT)?;
        g.s.node.namespace().ip(&["link add eth1 type veth peer name far", "link set eth1 up", "link set far up"])?;
        g.wait_in_force("eth1", true)?;
        g.s.node.namespace().ip(&["link del eth1"])?;
        g.wait_in_force("eth1", false)?;
        g.expect_ports(&IN, &OUT)
    })
}

#[test]
fn cal_12_a_refused_connection_is_told_so_at_once_where_felix_asks_for_reject() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.s.policy("x/closed", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }")?;
        g.expect_ports(&IN, &OUT)?;
        let silent = "x/a node1 outside\n x/b X - -\n outside X X -\n node1 - - X";
        g.expect(Tcp(80), silent)?;
        g.felix("{ iptablesFilterDenyAction: Reject }")?;
        // Between pods, from outside to a pod and to the node, and what the node itself sends.
        let told = "x/a node1 outside\n x/b R - -\n outside R R -\n node1 - - R";
        g.expect(Tcp(80), told)?;
        g.expect_ports(&IN, &OUT)?;
        g.felix("{ iptablesFilterDenyAction: Drop }")?;
        g.expect(Tcp(80), silent)
    })
}
