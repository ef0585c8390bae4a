//! NetworkPolicy, ingress by peer: the rows NP-1 to NP-13, NP-16, NP-23, NP-31 and NP-41.
//! In: policies as YAML. Out: tables of who reaches whom, both families.
//! Invariant: each test sees at least one cell change, so that it knows the policy was heard.
//! Never: asks a pod for itself (NP-H2).

use crate::story::story;
use anyhow::Result;
use tests::Probe::{Sctp, Tcp, Udp};

#[test]
fn np_1_default_deny_ingress_closes_a_namespace_and_no_other() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "y/b"], |s| {
        s.policy("x/deny", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        for what in [Tcp(80), Udp(80), Sctp(80)] {
            s.expect(
                what,
                "    x/a x/b y/a y/b
                 x/a  -   X   .   .
                 x/b  X   -   .   .
                 y/a  X   X   -   .
                 y/b  X   X   .   -",
            )?;
        }
        Ok(())
    })
}

#[test]
fn np_2_deny_all_closes_both_directions() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "y/b"], |s| {
        s.policy("x/deny", "{ podSelector: {}, policyTypes: [Ingress, Egress] }")?;
        s.expect(
            Tcp(80),
            "    x/a x/b y/a y/b
             x/a  -   X   X   X
             x/b  X   -   X   X
             y/a  X   X   -   .
             y/b  X   X   .   -",
        )
    })
}

#[test]
fn np_3_a_pod_selector_means_the_policys_own_namespace() -> Result<()> {
    story(&["x/a", "x/b", "x/c", "y/b"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }")?;
        s.expect(Tcp(80), "x/a x/b\n x/b . -\n x/c X .\n y/b X .")
    })
}

#[test]
fn np_4_an_allow_for_one_target_opens_only_that_one() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/deny", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.policy("x/open", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: {}, namespaceSelector: {} }] }] }")?;
        s.expect(Tcp(80), "x/a x/b\n x/a - X\n x/b . -\n y/a . X")
    })
}

#[test]
fn np_5_an_empty_namespace_selector_is_every_namespace() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a X")?;
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: {} }] }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/a .")
    })
}

#[test]
fn np_6_a_namespace_selector_does_not_include_the_own_namespace() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "z/a"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { ns: 'y' } } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a .\n z/a X")
    })
}

#[test]
fn np_7_match_expressions_of_pods() -> Result<()> {
    story(&["x/a", "x/b", "x/c", "y/b"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchExpressions: [{ key: pod, operator: In, values: [b] }] } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X\n y/b X")
    })
}

#[test]
fn np_8_match_expressions_of_namespaces() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "z/a"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: { matchExpressions: [{ key: ns, operator: In, values: ['y'] }] } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a .\n z/a X")
    })
}

#[test]
fn np_9_two_peers_are_or() -> Result<()> {
    story(&["x/a", "x/b", "x/c", "y/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [
                { podSelector: { matchLabels: { pod: b } } },
                { namespaceSelector: { matchExpressions: [{ key: ns, operator: NotIn, values: [x] }] } } ] }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X\n y/a .")
    })
}

#[test]
fn np_10_both_selectors_in_one_peer_are_and() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "y/b"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [
                { podSelector: { matchLabels: { pod: b } }, namespaceSelector: { matchLabels: { ns: 'y' } } } ] }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a X\n y/b .")
    })
}

#[test]
fn np_11_lists_of_pods_and_namespaces_are_and() -> Result<()> {
    story(&["x/a", "x/b", "y/b", "y/c", "z/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [
                { podSelector: { matchExpressions: [{ key: pod, operator: In, values: [b, c] }] },
                  namespaceSelector: { matchExpressions: [{ key: ns, operator: NotIn, values: [x] }] } } ] }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/b .\n y/c .\n z/a X")
    })
}

#[test]
fn np_12_several_pod_selectors_are_or() -> Result<()> {
    story(&["x/a", "x/b", "x/c", "x/d"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [
                { podSelector: { matchLabels: { pod: b } } }, { podSelector: { matchLabels: { pod: c } } } ] }] }",
        )?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c .\n x/d X")
    })
}

#[test]
fn np_13_one_pod_of_another_namespace_and_no_other() -> Result<()> {
    story(&["x/a", "x/b", "y/a", "y/b", "z/a"], |s| {
        s.policy(
            "x/p",
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [
                { podSelector: { matchLabels: { pod: a } }, namespaceSelector: { matchLabels: { ns: 'y' } } } ] }] }",
        )?;
        for what in [Tcp(80), Udp(80), Sctp(80)] {
            s.expect(what, "x/a\n x/b X\n y/a .\n y/b X\n z/a X")?;
        }
        Ok(())
    })
}

#[test]
fn np_16_an_empty_rule_allows_everything_and_no_rule_nothing() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress], ingress: [] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a X")?;
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress], ingress: [{}] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/a .")
    })
}

#[test]
fn np_23_an_empty_pod_selector_is_the_own_namespace() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] }")?;
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -\n y/a X X")
    })
}

#[test]
fn np_31_an_allow_all_beside_a_narrow_policy_opens_everything() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/narrow", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ ports: [{ port: 81 }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a X")?;
        s.policy("x/all", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{}] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/a .")
    })
}

#[test]
fn np_41_a_namespace_is_known_by_its_name_label() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: 'y' } } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a .")
    })
}
