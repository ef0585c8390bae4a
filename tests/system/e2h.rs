//! What a pod sends to its own node: let in unless the node says otherwise, and never a host endpoint's business.
//! In: defaultEndpointToHostAction, policies of pods and of host endpoints. Out: tables between pods and their node.
//! Invariant: the node reaches its pods, and is answered, whatever is refused the other way.
//! Never: another node's address.

use crate::{foreign::rules_of_the_hosts_own, hep::gate};
use anyhow::{Result, ensure};
use tests::{
    Probe::{Ping, Tcp, Udp},
    flow::Connection,
};

#[test]
fn e2h_1_e2h_7_drop_refuses_what_a_pod_opens_to_its_node_and_answers_pass() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        let open = "      x/a x/b node1\n x/a - . .\n x/b . - .\n node1 . . -";
        g.expect(Tcp(80), open)?;
        let address = g.s.node.addresses()[0];
        let mut before = Connection::open(g.s.pod("x/a")?.namespace(), address, 80)?;
        ensure!(before.answers()?, "a connection of before");
        g.felix("{ defaultEndpointToHostAction: Drop }")?;
        let refused = "      x/a x/b node1 outside\n x/a - . X .\n x/b . - X .\n node1 . . - .";
        for what in [Tcp(80), Udp(80), Ping] {
            g.expect(what, refused)?;
        }
        ensure!(!before.answers()?, "a connection of before is refused too");
        g.felix("{ defaultEndpointToHostAction: Accept }")?;
        g.expect(Tcp(80), open)?;
        // Return leaves it to the host's own rules, which let it in here.
        g.felix("{ defaultEndpointToHostAction: Drop }")?;
        g.expect(Tcp(80), "node1\n x/a X")?;
        g.felix("{ defaultEndpointToHostAction: Return }")?;
        g.expect(Tcp(80), open)
    })
}

#[test]
fn e2h_6_the_endpoint_of_all_interfaces_refuses_before_translation_what_pods_send_and_an_allow_there_rescues_nothing()
-> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        let early = |rules: &str| {
            let head = "selector: has(host), preDNAT: true, applyOnForward: true, types: [Ingress]";
            g.global("early", &format!("{{ {head}, ingress: {rules} }}"))
        };
        let own = "{ selector: has(host), types: [Ingress, Egress], ingress: [{ action: Allow }], egress: [{ action: Allow }] }";
        g.global("own", own)?;
        g.host_endpoint("h", "interfaceName: '*'")?;
        early("[{ action: Deny, protocol: TCP, destination: { ports: [80] } }]")?;
        let refused = "      x/a x/b node1 outside\n x/a - X X X\n x/b X - X X\n node1 . . - .";
        g.expect(Tcp(80), refused)?;
        let others = "      x/a x/b node1 outside\n x/a - . . .\n x/b . - . .\n node1 . . - .";
        g.expect_now(Udp(80), others)?;
        g.expect_now(Ping, others)?;
        let told = |port: &str| {
            let told =
                g.s.node.tortie(&["explain", "--from", "x/a", "--to", "x/b", "--port", port, "--output", "json"])?;
            anyhow::Ok(String::from_utf8_lossy(&told.stdout).into_owned())
        };
        let said = told("80")?;
        let names = said.contains("GlobalNetworkPolicy early") && said.contains("h, of pods");
        ensure!(names && !said.contains("ALARM"), "{said}");
        ensure!(g.row("of pods", "preDNAT")?["ingress"][0] == "GlobalNetworkPolicy early", "it is shown");
        // One of a named interface asks nothing of pods.
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), "x/b node1\n x/a . .")?;
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.expect(Tcp(80), "x/b node1\n x/a X X")?;
        // An allow skips nothing that is asked later: neither what the node takes from pods nor their own rules.
        early("[{ action: Allow }]")?;
        g.expect(Tcp(80), others)?;
        g.felix("{ defaultEndpointToHostAction: Drop }")?;
        g.expect(Tcp(80), "x/b node1\n x/a . X")?;
        g.s.policy("x/closed", "{ podSelector: {}, policyTypes: [Egress] }")?;
        g.expect(Tcp(80), "x/b node1\n x/a X X")?;
        g.expect_now(Tcp(80), "x/a\n node1 .")?;
        let said = told("80")?;
        ensure!(!said.contains("ALARM"), "{said}");
        Ok(())
    })
}

#[test]
fn e2h_1_a_pods_own_egress_rules_are_asked_first() -> Result<()> {
    gate(&["x/a"], |g| {
        g.s.policy("x/closed", "{ podSelector: {}, policyTypes: [Egress] }")?;
        g.expect(Tcp(80), "node1\n x/a X")?;
        g.expect_now(Tcp(80), "x/a\n node1 .")
    })
}

#[test]
fn e2h_5_a_policy_of_the_endpoint_of_all_interfaces_neither_refuses_nor_opens_what_a_pod_sends_to_its_node()
-> Result<()> {
    gate(&["x/a"], |g| {
        g.host_endpoint("h", "interfaceName: '*'")?;
        g.expect(Tcp(80), "node1\n outside X")?;
        g.expect_now(Tcp(80), "node1\n x/a .")?;
        g.felix("{ defaultEndpointToHostAction: Drop }")?;
        g.expect(Tcp(80), "node1\n x/a X")?;
        g.global("open", "{ selector: has(host), types: [Ingress, Egress], ingress: [{ action: Allow }], egress: [{ action: Allow }] }")?;
        g.expect(Tcp(80), "node1\n outside .")?;
        g.expect_now(Tcp(80), "node1\n x/a X")?;
        g.expect_now(Tcp(80), "x/a\n node1 .")
    })
}

#[test]
fn e2h_2_the_hosts_own_input_rules_are_asked_after_us_and_decide() -> Result<()> {
    gate(&["x/a"], |g| {
        let closed = "chain in { type filter hook input priority 0; iifname \"cali*\" tcp dport 80 drop; }";
        for action in ["Return", "Accept"] {
            g.felix(&format!("{{ defaultEndpointToHostAction: {action} }}"))?;
            g.expect(Tcp(80), "node1\n x/a .")?;
            let rules = rules_of_the_hosts_own(g.s.node.namespace(), closed)?;
            g.expect(Tcp(80), "node1\n x/a X\n outside .")?;
            g.expect_now(Tcp(81), "node1\n x/a .")?;
            drop(rules);
            g.expect(Tcp(80), "node1\n x/a .")?;
        }
        // What we refuse, no rule of the host's own lets in.
        g.felix("{ defaultEndpointToHostAction: Drop }")?;
        let open = "chain in { type filter hook input priority -400; accept; }";
        let _rules = rules_of_the_hosts_own(g.s.node.namespace(), open)?;
        g.expect(Tcp(80), "node1\n x/a X\n outside .")
    })
}

#[test]
fn e2h_4_a_host_endpoint_of_a_named_interface_has_no_say_in_what_a_pod_sends_to_its_node() -> Result<()> {
    gate(&["x/a"], |g| {
        let table = |from_outside: char, from_pod: char| format!("node1\n outside {from_outside}\n x/a {from_pod}");
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), &table('X', '.'))?;
        g.global("deny", "{ selector: has(host), applyOnForward: true, types: [Ingress, Egress], ingress: [{ action: Deny }], egress: [{ action: Deny }] }")?;
        g.expect(Tcp(80), "x/a\n outside X")?;
        g.expect_now(Tcp(80), &table('X', '.'))?;
        g.felix("{ defaultEndpointToHostAction: Drop }")?;
        g.global("deny", "{ selector: has(host), types: [Ingress, Egress], ingress: [{ action: Allow }], egress: [{ action: Allow }] }")?;
        g.expect(Tcp(80), &table('.', 'X'))
    })
}
