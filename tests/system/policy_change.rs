//! NetworkPolicy in motion: updates, labels, deletion and live connections: NP-20 to NP-22, NP-24, NP-33, OWN-1, OWN-3, OWN-4.
//! In: policies, labels and pods that change. Out: tables before and after, and connections that stay or are cut.
//! Invariant: what is expected after a change differs from what was seen before it.
//! Never: waits for a change by time.

use crate::story::{story, story_on};
use anyhow::Result;
use tests::{
    NodeSpec, Outcome, PodSpec,
    Probe::{Tcp, Udp},
};

const DENY: &str = "{ podSelector: {}, policyTypes: [Ingress] }";
const ONLY_Y: &str = "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { ns: 'y' } } }] }] }";

#[test]
fn np_20_an_updated_policy_is_enforced() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.policy("x/p", "{ podSelector: {}, ingress: [{}] }")?;
        s.expect(Tcp(80), "x/a\n x/b .")?;
        // In place, too, as a plain editor saves.
        s.cluster.overwrite("policy-x-p", &crate::story::policy("x/p", DENY))?;
        s.expect(Tcp(80), "x/a\n x/b X")
    })
}

#[test]
fn np_21_a_labelled_namespace_becomes_a_peer() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.cluster.namespace("y", &[("ns", "other")])?;
        s.policy("x/p", ONLY_Y)?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.cluster.namespace("y", &[("ns", "y")])?;
        s.expect(Tcp(80), "x/a\n y/a .")
    })
}

#[test]
fn np_22_a_labelled_pod_becomes_a_peer() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { role: client } } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.cluster.pod_manifest(&PodSpec::new("x/b").label("role", "client"), "node1")?;
        s.expect(Tcp(80), "x/a\n x/b .")?;
        s.cluster.pod_manifest(&PodSpec::new("x/b"), "node1")?;
        s.expect(Tcp(80), "x/a\n x/b X")
    })
}

#[test]
fn np_24_a_relabelled_pod_becomes_a_subject() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { role: closed } }, policyTypes: [Ingress] }")?;
        s.expect(Tcp(80), "x/a\n x/b .")?;
        s.cluster.pod_manifest(&PodSpec::new("x/a").label("role", "closed"), "node1")?;
        s.expect(Tcp(80), "x/a\n x/b X")
    })
}

#[test]
fn np_33_a_deleted_policy_no_longer_refuses() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.drop_policy("x/p")?;
        s.expect(Tcp(80), "x/a\n x/b .")
    })
}

#[test]
fn own_1_a_new_deny_cuts_an_established_connection() -> Result<()> {
    a_new_deny_cuts(NodeSpec::new(1))
}

#[test]
fn own_1_by_clsact_a_new_deny_cuts_an_established_connection() -> Result<()> {
    a_new_deny_cuts(NodeSpec::new(1).by_clsact())
}

fn a_new_deny_cuts(spec: NodeSpec) -> Result<()> {
    story_on(spec, &["x/a", "x/b"], |s| {
        let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
        assert!(connection.answers()?);
        s.policy("x/p", DENY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        assert!(!connection.answers()?, "the connection outlived the policy that refuses it");
        Ok(())
    })
}

#[test]
fn own_1_a_connection_that_stays_allowed_is_not_cut() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        let mut connection = s.pod("y/a")?.connect(s.pod("x/a")?, 80)?;
        assert!(connection.answers()?);
        s.policy("x/p", ONLY_Y)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        for _ in 0..3 {
            assert!(connection.answers()?);
        }
        Ok(())
    })
}

#[test]
fn own_1_a_deleted_allow_cuts_what_it_allowed() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/deny", DENY)?;
        s.policy("x/open", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{}] }")?;
        s.expect(Tcp(80), "x/a x/b\n x/a - X\n x/b . -")?;
        let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
        assert!(connection.answers()?);
        s.drop_policy("x/open")?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        assert!(!connection.answers()?, "the connection outlived the policy that allowed it");
        Ok(())
    })
}

#[test]
fn np_56_with_the_setting_keep_an_established_connection_lives_on() -> Result<()> {
    let spec = NodeSpec::new(1).argument("--established-flows").argument("keep");
    story_on(spec, &["x/a", "x/b"], |s| {
        let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
        assert!(connection.answers()?);
        s.policy("x/p", DENY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        assert!(connection.answers()?, "the connection was cut");
        Ok(())
    })
}

#[test]
fn own_3_np_57_a_pod_is_policed_from_its_first_packet() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.expect(Udp(80), "x/a\n x/b X")?;
        s.policy("x/out", "{ podSelector: { matchLabels: { pod: late } }, policyTypes: [Egress] }")?;
        for turn in 0..3 {
            let mut late = s.node.pod(&s.cluster, &PodSpec::new("x/late"))?;
            let early = [late.probe(s.pod("x/a")?, Udp(80))?, s.pod("x/a")?.probe(&late, Udp(80))?];
            assert_eq!(early, [Outcome::Refused; 2], "turn {turn}");
            late.delete()?;
        }
        Ok(())
    })
}

#[test]
fn own_4_a_pod_with_anothers_address_inherits_nothing() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }")?;
        s.add(&PodSpec::new("x/stranger"))?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/stranger X")?;
        let before = s.pod("x/b")?.addresses().to_vec();
        let mut gone = s.pods.remove("x/b").ok_or_else(|| anyhow::anyhow!("no pod x/b"))?;
        gone.delete()?;
        // Addresses come back in the order in which they were released: go round the block until this one is back.
        for turn in 0..80 {
            let mut next = s.node.pod(&s.cluster, &PodSpec::new(&format!("x/heir{turn}")).silent())?;
            if next.addresses()[0] == before[0] {
                assert_eq!(next.probe(s.pod("x/a")?, Tcp(80))?, Outcome::Refused);
                return Ok(());
            }
            next.delete()?;
        }
        anyhow::bail!("the address {} never came back", before[0])
    })
}
