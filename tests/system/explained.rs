//! Explain, further: flows that are there, and what a refused one lacks.
//! In: pods, a flow, a policy that comes. Out: which rules let the flow in, whether it would be now; who isolates, and the nearest rule.
//! Invariant: what is said of a flow is what then becomes of it.
//! Never: waits for a policy by time.

use crate::story::{Story, story, story_on};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{NodeSpec, Outcome, Probe::Tcp};

const HTTPS_ONLY: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ ports: [{ protocol: TCP, port: 443 }] }] }";

/// From x/b to x/a, TCP 80: the exit status and the report.
fn explained(s: &Story) -> Result<(Option<i32>, Value)> {
    let output = s.node.tortie(&["explain", "--from", "x/b", "--to", "x/a", "--port", "80", "--output", "json"])?;
    let report = serde_json::from_slice(&output.stdout).context("reading the explanation")?;
    Ok((output.status.code(), report))
}

#[test]
fn explain_says_who_isolates_and_what_the_nearest_rule_asks_for() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", HTTPS_ONLY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        let (status, report) = explained(s)?;
        assert_eq!(status, Some(1), "{report:#}");
        let isolation = &report["isolation"];
        assert_eq!((&isolation["direction"], &isolation["by"]), (&json!("ingress"), &json!(["NetworkPolicy x/p"])));
        let nearest = json!([{
            "policy": "NetworkPolicy x/p", "rule": 0,
            "lacks": [{"of": "port", "text": "asks for port 443, this is for 80"}]
        }]);
        assert_eq!(isolation["nearest"], nearest, "{report:#}");
        Ok(())
    })
}

#[test]
fn explain_says_of_a_live_flow_which_rules_let_it_in_and_whether_they_would_now() -> Result<()> {
    story_on(NodeSpec::new(1).argument("--established-flows=keep"), &["x/a", "x/b"], |s| {
        let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
        assert!(connection.answers()?);
        let flow = |report: &Value| report["flows"][0].clone();
        let (status, before) = explained(s)?;
        assert_eq!((status, &flow(&before)["allowedNow"]), (Some(0), &json!(true)), "{before:#}");
        assert_eq!(flow(&before)["ingressBy"], "no ingress policy applies", "{before:#}");
        s.policy("x/p", HTTPS_ONLY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        assert!(connection.answers()?, "the setting keeps it");
        let (_, after) = explained(s)?;
        let live = after["flows"].as_array().context("flows")?;
        let live = live.iter().find(|each| each["state"] == "established").context("the live flow is named")?;
        assert_eq!((&live["allowedNow"], &live["sourcePort"]), (&json!(false), &flow(&before)["sourcePort"]));
        // The setting lets it pass the new revision without being judged.
        assert_eq!(live["generation"], after["kernel"]["generation"], "{after:#}");
        assert_eq!(live["ingressBy"], "no ingress policy applies", "{after:#}");
        Ok(())
    })
}

#[test]
fn cal_39_what_is_noted_on_a_rule_is_shown_with_it() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let text = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: { namespace: x, name: noted }\n\
            spec: { selector: pod == 'a', ingress: [{ action: Allow, protocol: UDP }, { action: Deny, metadata: { annotations: { ticket: 'NET-7' } } }] }\n";
        s.cluster.manifest("noted", text)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        let (_, report) = explained(s)?;
        assert_eq!((&report["rule"], &report["annotations"]), (&json!(1), &json!({"ticket": "NET-7"})), "{report:#}");
        let shown = s.node.show("policies")?;
        let noted: Vec<_> =
            shown.as_array().context("rows")?.iter().filter(|row| !row["annotations"].is_null()).collect();
        assert!(noted.len() == 1 && noted[0]["rule"] == 1 && noted[0]["annotations"]["ticket"] == "NET-7", "{shown:#}");
        Ok(())
    })
}
