//! NetworkPolicy, whom it is about: NP-50 to NP-52, NP-55, NP-59, NP-60, NP-62, NP-70, NP-71.
//! In: policies as YAML, and pods of every kind. Out: tables of who reaches whom, both families.
//! Invariant: each test sees at least one cell change, so that it knows the policy was heard.
//! Never: asks a pod for itself (NP-H2).

use crate::story::story;
use anyhow::Result;
use serde_json::json;
use tests::{
    PodSpec,
    Probe::{Ping, Tcp, Udp},
};

#[test]
fn np_50_without_types_ingress_always_and_egress_only_with_a_rule() -> Result<()> {
    story(&["x/a", "y/a", "z/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, egress: [] }")?;
        s.expect(Tcp(80), "x/a y/a\n x/a - .\n y/a X -")?;
        s.policy("x/p", "{ podSelector: {}, egress: [{ to: [{ namespaceSelector: { matchLabels: { ns: z } } }] }] }")?;
        s.expect(Tcp(80), "x/a y/a z/a\n x/a - X .\n y/a X - .")
    })
}

#[test]
fn np_51_with_type_egress_an_ingress_section_is_nothing() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Egress], ingress: [{ ports: [{ port: 81 }] }] }")?;
        s.expect(Tcp(80), "x/a y/a\n x/a - X\n y/a . -")
    })
}

#[test]
fn np_52_the_node_always_reaches_its_pods() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress, Egress] }")?;
        s.expect(Tcp(80), "x/a\n y/a X\n node1 .")?;
        s.expect(Udp(80), "x/a\n y/a X\n node1 .")?;
        s.expect(Ping, "x/a\n y/a X\n node1 .")
    })
}

#[test]
fn np_55_the_node_is_a_peer_by_network_and_by_no_selector() -> Result<()> {
    story(&["x/a"], |s| {
        let servers = tests::Servers::start(s.node.namespace(), "node", &[tests::server::Listen::Tcp(80)])?;
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Egress], egress: [{ to: [{ namespaceSelector: {} }] }] }")?;
        s.expect(Tcp(80), "node1\n x/a X")?;
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Egress], egress: [{ to: [{ ipBlock: { cidr: 192.0.2.0/24 } }, { ipBlock: { cidr: '2001:db8::/64' } }] }] }")?;
        s.expect(Tcp(80), "node1\n x/a .")?;
        drop(servers);
        Ok(())
    })
}

#[test]
fn np_59_a_terminating_pod_is_policed_until_its_del() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: {} }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/a X")?;
        let mut object = PodSpec::new("x/a").manifest("node1");
        object["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
        s.cluster.manifest("pod-x-a", &object.to_string())?;
        // A second policy, to know that the change was heard.
        s.policy("y/q", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.expect(Tcp(80), "x/a y/a\n x/b . X\n y/a X -")
    })
}

#[test]
fn np_62_empty_and_missing_peers_are_everybody() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.policy("x/p", "{ podSelector: {}, ingress: [{ from: [] }] }")?;
        s.expect(Tcp(80), "x/a\n y/a .")?;
        s.expect(Ping, "x/a\n y/a .")?;
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] }")?;
        s.expect(Tcp(81), "x/a\n y/a X")?;
        s.expect(Tcp(80), "x/a\n y/a .")
    })
}

#[test]
fn np_70_not_in_and_does_not_exist_match_an_absent_key() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.add(&PodSpec::new("x/c").label("tier", "db"))?;
        for expression in ["{ key: tier, operator: NotIn, values: [db] }", "{ key: tier, operator: DoesNotExist }"] {
            s.policy("x/p", &format!("{{ podSelector: {{ matchLabels: {{ pod: a }} }}, ingress: [{{ from: [{{ podSelector: {{ matchExpressions: [{expression}] }} }}] }}] }}"))?;
            s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        }
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchExpressions: [{ key: tier, operator: Exists }] } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n x/c .")
    })
}

#[test]
fn np_71_a_policy_before_its_pods_and_after_its_namespace() -> Result<()> {
    story(&["y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.cluster.namespace("x", &[])?;
        s.add(&PodSpec::new("x/a"))?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.cluster.remove("namespace-x")?;
        s.policy("y/q", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.expect(Tcp(80), "x/a y/a\n x/a - X\n y/a X -")
    })
}

#[test]
fn a_pod_that_no_manifest_describes_has_the_labels_of_its_network_configuration() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let mut spec = PodSpec::new("x/bare");
        spec.conf = json!({ "args": { "cni": { "labels": [{ "key": "role", "value": "client" }] } } });
        let bare = tests::Pod::start(s.cluster.stem(), &spec, &s.node.runtime())?;
        s.pods.insert(spec.id(), bare);
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { role: client } } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n x/bare .")
    })
}
