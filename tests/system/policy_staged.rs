//! Policies that are tried before they count: staged ones, and `tortie policy test`: CAL-13, AGT-11.
//! In: pods, flows between them, policies that are staged or asked about. Out: the same traffic as before, and what would become of it.
//! Invariant: what a trial foretells is what then happens.
//! Never: waits for a policy by time.

use crate::{
    hep::{gate, object},
    story::{Story, file_of, policy, story},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{fs, process::Output};
use tests::{Outcome, Probe::Tcp, flow::Connection, wait};

const DENY: &str = "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }";

fn staged(id: &str, spec: &str) -> String {
    let text = policy(id, spec).replace("networking.k8s.io/v1", "projectcalico.org/v3");
    text.replace("kind: NetworkPolicy", "kind: StagedKubernetesNetworkPolicy")
}

/// The row of `show staged` that speaks of this policy, and satisfies the test.
fn wait_row(s: &Story, policy: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let found = || -> Result<bool> {
        let shown = s.node.show("staged")?;
        let rows = shown.as_array().context("rows")?;
        Ok(rows.iter().any(|row| row["policy"] == policy && wanted(row)))
    };
    wait::wait_until(&format!("show staged has a row of {policy}"), wait::PATIENCE, found)
}

#[test]
fn cal_13_a_staged_policy_refuses_nothing_and_its_flows_are_counted() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
        s.cluster.manifest("staged", &staged("x/p", DENY))?;
        // Each new flow is one that it would have refused.
        let id = "StagedKubernetesNetworkPolicy x/p";
        wait_row(s, id, |row| row["ifEnforced"].as_str().is_some_and(|text| text.contains("no ingress rule")))?;
        s.expect_now(Tcp(80), "x/a\n x/b .")?;
        wait_row(s, id, |row| row["wouldRefuse"].as_u64() > Some(0) && row["newFlows"] == row["wouldRefuse"])?;
        assert!(connection.answers()?, "a staged policy cut a connection");
        Ok(())
    })
}

#[test]
fn cal_13_a_staged_delete_lets_nothing_in() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        s.cluster.manifest("staged", &staged("x/p", "{ stagedAction: Delete }"))?;
        let id = "StagedKubernetesNetworkPolicy x/p";
        wait_row(s, id, |row| row["ifEnforced"] == "no ingress policy applies")?;
        s.expect_now(Tcp(80), "x/a\n x/b X")?;
        wait_row(s, id, |row| row["wouldLetIn"].as_u64() > Some(0))
    })
}

/// Asks `tortie policy test` of a text. Gives its exit status and its report.
fn tested(s: &Story, text: &str, more: &[&str]) -> Result<(Option<i32>, Value, String)> {
    let file = s.cluster.directory().join("tried.yaml");
    fs::write(&file, text)?;
    let path = file.to_string_lossy();
    let arguments = [&["policy", "test", &*path, "--output", "json"], more].concat();
    let Output { status, stdout, stderr } = s.node.tortie(&arguments)?;
    let report = serde_json::from_slice(&stdout).unwrap_or_default();
    Ok((status.code(), report, String::from_utf8_lossy(&stderr).into_owned()))
}

#[test]
fn a_policy_test_names_the_flows_that_the_policy_then_cuts() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        let only_y = "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { ns: 'y' } } }] }] }";
        // In x alone.
        let (mut goes, mut stays) =
            (s.pod("x/b")?.connect(s.pod("x/a")?, 80)?, s.pod("y/a")?.connect(s.pod("x/a")?, 80)?);
        assert!(goes.answers()? && stays.answers()?);
        let text = policy("x/p", only_y);
        let (status, report, errors) = tested(s, &text, &[])?;
        assert_eq!(status, Some(1), "{report:#} {errors}");
        let refused = report["flows"]["refused"].as_array().context("a list of flows")?;
        let [flow] = &refused[..] else { panic!("one flow would be refused: {report:#}") };
        assert_eq!((&flow["sourcePod"], &flow["destinationPod"]), (&"x/b".into(), &"x/a".into()), "{report:#}");
        assert!(flow["by"].as_str().is_some_and(|by| by.contains("NetworkPolicy x/p")), "{report:#}");
        assert!(goes.answers()? && stays.answers()?, "a test changed something");
        s.cluster.manifest(&file_of("x/p"), &text)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        assert!(!goes.answers()? && stays.answers()?, "what was foretold did not come");
        // The flow that was cut would live again.
        let (status, report, _) = tested(s, &text, &["--delete"])?;
        let back = report["flows"]["letIn"].as_array().context("a list of flows")?;
        let was_cut = |each: &Value| each["sourcePort"] == flow["sourcePort"] && each["state"] == "refused";
        assert!(status == Some(1) && back.iter().any(was_cut), "{report:#}");
        let (status, report, _) = tested(s, &text, &[])?;
        assert_eq!((status, &report["verdict"]), (Some(0), &"same".into()), "it is applied already: {report:#}");
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)
    })
}

#[test]
fn a_policy_test_of_what_cannot_be_read_is_one_error_and_no_answer() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        for (text, said) in [
            (policy("x/p", "{ podSelektor: {} }"), "NetworkPolicy x/p: spec"),
            (policy("x/p", "{ podSelector: {}, ingress: [{ from: [{ x: 1 }] }] }"), "spec.ingress[0]"),
            ("kind: [".to_owned(), "tried.yaml:1"),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: s}}".to_owned(),
                "no object that policy or services are made of",
            ),
        ] {
            let (status, report, errors) = tested(s, &text, &[])?;
            assert_eq!((status, report), (Some(2), Value::Null), "{text}");
            assert!(errors.contains(said) && errors.lines().count() == 1, "{said} is missing in: {errors}");
        }
        s.expect_now(Tcp(80), "x/a\n x/b .")
    })
}

#[test]
fn a_policy_test_of_a_directory_needs_no_agent() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.node.agent.stop()?;
        let datastore = format!("file:{}", s.cluster.datastore().display());
        let (status, report, errors) = tested(s, &policy("x/p", DENY), &["--datastore", &datastore])?;
        assert_eq!(status, Some(1), "{report:#} {errors}");
        assert_eq!(report["pods"], serde_json::json!(["x/a"]), "{report:#}");
        let between = report["between"].as_array().context("a list")?;
        let to = |each: &Value| each["to"] == serde_json::json!(["x/a"]) && each["would"] == "be refused";
        assert!(!between.is_empty() && between.iter().all(to), "{report:#}");
        let (status, ..) = tested(s, &policy("x/p", DENY), &[])?;
        assert_eq!(status, Some(2), "without an agent there is no answer about flows");
        s.node.start()
    })
}

#[test]
fn cal_13_a_policy_that_is_staged_for_a_host_endpoint_refuses_nothing_and_its_flows_are_counted() -> Result<()> {
    gate(&[], |g| {
        let spec = |action: &str| {
            format!(
                "{{ selector: has(host), types: [Ingress], ingress: [{{ action: {action}, protocol: TCP, destination: {{ ports: [80] }} }}] }}"
            )
        };
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), "node1\n outside X")?;
        g.global("web", &spec("Allow"))?;
        g.expect(Tcp(80), "node1\n outside .")?;
        g.s.cluster.manifest("staged", &object("StagedGlobalNetworkPolicy", "web", &spec("Deny")))?;
        let id = "StagedGlobalNetworkPolicy web";
        wait_row(g.s, id, |row| row["ifEnforced"].as_str().is_some_and(|text| text.contains("ingress rule 0")))?;
        g.expect_now(Tcp(80), "node1\n outside .")?;
        wait_row(g.s, id, |row| row["wouldRefuse"].as_u64() > Some(0))
    })
}

#[test]
fn a_policy_test_names_the_flow_and_the_layer_of_a_host_endpoint_that_the_policy_then_refuses() -> Result<()> {
    gate(&[], |g| {
        let own = g.s.node.addresses()[0];
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), "node1\n outside X")?;
        g.global("open", "{ selector: has(host), order: 10, types: [Ingress], ingress: [{ action: Allow }] }")?;
        g.expect(Tcp(80), "node1\n outside .")?;
        let mut goes = Connection::open(g.s.cluster.outside(), own, 80)?;
        ensure!(goes.answers()?);
        let deny = "{ selector: has(host), order: 5, types: [Ingress], ingress: [{ action: Deny, protocol: TCP, destination: { ports: [80] } }] }";
        let text = object("GlobalNetworkPolicy", "deny", deny);
        let (status, report, errors) = tested(g.s, &text, &[])?;
        let refused = report["flows"]["refused"].as_array().context("a list of flows")?;
        let is_it = |flow: &Value| flow["hostEndpoint"] == "eth0" && flow["destination"] == own.to_string();
        ensure!(status == Some(1) && refused.iter().any(is_it), "{report:#} {errors}");
        let layer = &report["atHostEndpoints"][0];
        let said = ["interface", "layer", "direction", "would"].map(|field| layer[field].as_str().unwrap_or_default());
        ensure!(said == ["eth0", "local", "ingress", "be refused"] && layer["what"][0] == "TCP 80", "{report:#}");
        ensure!(goes.answers()?, "a test changed something");
        g.s.cluster.manifest("global-deny", &text)?;
        g.expect(Tcp(80), "node1\n outside X")?;
        ensure!(!goes.answers()?, "what was foretold did not come");
        let (status, report, _) = tested(g.s, &text, &["--delete"])?;
        let back = report["atHostEndpoints"].as_array().context("a list")?.iter().any(|found| found["would"] == "pass");
        ensure!(status == Some(1) && back, "{report:#}");
        Ok(())
    })
}
