//! FelixConfiguration live: what it sets is in force without a restart, and what it cannot set is shown.
//! In: objects by kubectl. Out: what is logged, what `tortie node status` says.
//! Invariant: the agent's process is the same all along.
//! Never: waits for a change by time.

use crate::story::{NATIVE, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::wait::{self, PATIENCE};

#[test]
fn what_a_configuration_sets_is_in_force_at_once_and_what_it_cannot_set_is_listed() -> Result<()> {
    story(&[], |s| {
        let pid = s.node.agent.pid();
        let configure = |name: &str, spec: &str| {
            let text = format!(
                "apiVersion: {}/{}\nkind: FelixConfiguration\nmetadata: {{ name: {name} }}\nspec: {spec}\n",
                NATIVE.0, NATIVE.1
            );
            s.cluster.manifest(&format!("felix-{name}"), &text)
        };
        let rows = || -> Result<Vec<String>> {
            let output = s.node.tortie(&["node", "status", "--output", "json"])?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let mut said: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(said["bgp"]["bgp"] == "off", "BIRD is not asked for: {said}");
            let rows: Vec<Value> = serde_json::from_value(said["parameters"].take())?;
            let row = |row: &Value| {
                let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
                format!("{} of {}: {}", text("parameter"), text("of"), text("here"))
            };
            Ok(rows.iter().map(row).collect())
        };
        ensure!(rows()?.is_empty(), "nothing is set");
        configure("default", "{ logSeverityScreen: Debug, healthPort: 9100, logPrefix: x, iptablesBackend: NFT }")?;
        let expected = [
            "healthPort of default: by a setting",
            "iptablesBackend of default: no meaning",
            "logPrefix of default: not yet",
            "logSeverityScreen of default: in force",
        ];
        wait::wait_until("it is all listed", PATIENCE, || Ok(rows()? == expected))?;
        wait::wait_until("more is logged", PATIENCE, || Ok(s.node.agent.log().contains("DEBUG")))?;
        // For nodes of this label, of which this one becomes one.
        configure("some", "{ nodeSelector: \"has(rack)\", logSeverityScreen: Error }")?;
        s.cluster.kubectl(&["label", "node", "node1", "rack=a"], "")?;
        wait::wait_until("the one that selects the node counts", PATIENCE, || {
            Ok(rows()?.contains(&"logSeverityScreen of some: in force".to_owned()))
        })?;
        configure("node.node1", "{ logSeverityScreen: Info }")?;
        wait::wait_until("the node's own counts", PATIENCE, || {
            Ok(rows()?.contains(&"logSeverityScreen of node.node1: in force".to_owned()))
        })?;
        let problems = s.node.show("status")?["problems"].to_string();
        ensure!(problems.contains("healthPort, logPrefix are not served"), "what is not heeded is said: {problems}");
        ensure!(!problems.contains("iptablesBackend"), "what means nothing here is no trouble: {problems}");
        ensure!(s.node.agent.pid() == pid && pid.is_some(), "the agent was started again");
        s.cluster.remove("felix-default").context("it goes")?;
        wait::wait_until("nothing of it is left", PATIENCE, || {
            Ok(rows()? == ["logSeverityScreen of node.node1: in force"])
        })
    })
}
