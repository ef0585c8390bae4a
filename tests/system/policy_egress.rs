//! NetworkPolicy, egress and networks: the rows NP-25 to NP-29, NP-32, NP-34 to NP-37, NP-42 and NP-65.
//! In: policies as YAML. Out: tables of who reaches whom, both families.
//! Invariant: each test sees at least one cell change, so that it knows the policy was heard.
//! Never: asks a pod for itself (NP-H2).

use crate::story::{Story, story};
use anyhow::{Context as _, Result};
use std::net::IpAddr;
use tests::{Outcome, Probe::Tcp, probe::probe};

/// A pod's address of one family.
fn address(s: &Story, id: &str, v4: bool) -> Result<IpAddr> {
    s.pod(id)?.addresses().iter().copied().find(|address| address.is_ipv4() == v4).context("no such family")
}

#[test]
fn np_25_egress_closed_for_one_pod() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Egress] }")?;
        s.expect(Tcp(80), "x/a x/b y/a\n x/a - X X\n x/b . - .\n y/a . . -")
    })
}

#[test]
fn np_26_egress_closed_for_a_namespace() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Egress], egress: [] }")?;
        s.expect(Tcp(80), "x/a x/b y/a\n x/a - X X\n x/b X - X\n y/a . . -")
    })
}

#[test]
fn np_27_ingress_and_egress_of_one_policy_are_independent() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress, Egress],
               ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }], egress: [{ ports: [{ port: 80 }] }] }",
        )?;
        s.expect(Tcp(80), "x/a x/b y/a\n x/a - . .\n x/b . - .\n y/a X . -")?;
        // The answers of x/a leave it, though its egress allows no such port.
        s.expect(Tcp(81), "x/a x/b y/a\n x/a - X X\n x/b . - .\n y/a X . -")
    })
}

#[test]
fn np_28_a_refusing_client_wins_over_an_allowing_server() -> Result<()> {
    story(&["x/a", "x/b", "y/b"], |s| {
        s.policy("x/client", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Egress], egress: [{ to: [{ podSelector: { matchLabels: { pod: b } } }] }] }")?;
        s.policy("y/server", "{ podSelector: { matchLabels: { pod: b } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { ns: x } } }] }] }")?;
        s.expect(Tcp(80), "x/b y/b\n x/a . X\n x/b - .")
    })
}

#[test]
fn np_29_egress_to_a_pod_of_another_namespace() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "y/b"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Egress], egress: [{ to: [
                { namespaceSelector: { matchLabels: { ns: 'y' } }, podSelector: { matchLabels: { pod: a } } } ] }] }",
        )?;
        s.expect(Tcp(80), "x/b y/a y/b\n x/a X . X\n x/b - . .")
    })
}

#[test]
fn np_32_an_allow_all_beside_a_narrow_egress_opens_everything() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy(
            "x/narrow",
            "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Egress], egress: [{ ports: [{ port: 81 }] }] }",
        )?;
        s.expect(Tcp(80), "y/a\n x/a X")?;
        s.policy("x/all", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Egress], egress: [{}] }")?;
        s.expect(Tcp(80), "y/a\n x/a .")
    })
}

#[test]
fn np_34_a_network_of_one_address_is_that_pod() -> Result<()> {
    story(&["x/a", "y/a", "y/b"], |s| {
        let (v4, v6) = (address(s, "y/b", true)?, address(s, "y/b", false)?);
        let peers = format!("{{ ipBlock: {{ cidr: {v4}/32 }} }}, {{ ipBlock: {{ cidr: '{v6}/128' }} }}");
        s.policy("x/p", &format!("{{ podSelector: {{}}, policyTypes: [Egress], egress: [{{ to: [{peers}] }}] }}"))?;
        s.expect(Tcp(80), "y/a y/b\n x/a X .")
    })
}

#[test]
fn np_35_except_takes_a_pod_out_of_a_network() -> Result<()> {
    story(&["x/a", "y/a", "y/b"], |s| {
        let (v4, v6) = (address(s, "y/b", true)?, address(s, "y/b", false)?);
        let peers = format!(
            "{{ ipBlock: {{ cidr: 10.65.0.0/16, except: [{v4}/32] }} }},
             {{ ipBlock: {{ cidr: 'fd00:65::/64', except: ['{v6}/128'] }} }}"
        );
        s.policy("x/p", &format!("{{ podSelector: {{}}, policyTypes: [Egress], egress: [{{ to: [{peers}] }}] }}"))?;
        s.expect(Tcp(80), "y/a y/b\n x/a . X")
    })
}

#[test]
fn np_36_an_exception_is_a_hole_in_its_own_peer_only() -> Result<()> {
    story(&["x/a", "y/a", "y/b"], |s| {
        let (v4, v6) = (address(s, "y/b", true)?, address(s, "y/b", false)?);
        let wide = format!(
            "{{ ipBlock: {{ cidr: 10.65.0.0/16, except: [{v4}/32] }} }},
             {{ ipBlock: {{ cidr: 'fd00:65::/64', except: ['{v6}/128'] }} }}"
        );
        s.policy("x/wide", &format!("{{ podSelector: {{}}, policyTypes: [Egress], egress: [{{ to: [{wide}] }}] }}"))?;
        s.expect(Tcp(80), "y/a y/b\n x/a . X")?;
        let one = format!("{{ ipBlock: {{ cidr: {v4}/32 }} }}, {{ ipBlock: {{ cidr: '{v6}/128' }} }}");
        s.policy("x/one", &format!("{{ podSelector: {{}}, policyTypes: [Egress], egress: [{{ to: [{one}] }}] }}"))?;
        s.expect(Tcp(80), "y/a y/b\n x/a . .")
    })
}

#[test]
fn np_37_one_pod_may_send_where_it_may_not_be_reached() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress, Egress],
               egress: [{ to: [{ podSelector: { matchLabels: { pod: b } } }] }] }",
        )?;
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b X -")
    })
}

#[test]
fn np_42_not_in_of_the_name_label_for_egress() -> Result<()> {
    story(&["x/a", "y/a", "z/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: {}, policyTypes: [Egress], egress: [{ to: [{ namespaceSelector: {
                matchExpressions: [{ key: kubernetes.io/metadata.name, operator: NotIn, values: ['y'] }] } }] }] }",
        )?;
        s.expect(Tcp(80), "y/a z/a\n x/a X .")
    })
}

#[test]
fn np_65_a_network_of_one_family_never_matches_the_other() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: {}, policyTypes: [Egress], egress: [{ to: [{ ipBlock: { cidr: 0.0.0.0/0 } }] }] }",
        )?;
        let from = s.pod("x/a")?.namespace();
        let (v4, v6) = (address(s, "y/a", true)?, address(s, "y/a", false)?);
        tests::wait::wait_until("IPv6 is refused", tests::wait::PATIENCE, || {
            Ok(probe(from, v6, Tcp(80))? == Outcome::Refused)
        })?;
        assert_eq!(probe(from, v4, Tcp(80))?, Outcome::Allowed);
        Ok(())
    })
}
