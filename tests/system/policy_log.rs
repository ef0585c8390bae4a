//! Log rules: what they have written, where people read it: CAL-8.
//! In: Calico's policies with action Log, and traffic. Out: lines of the agent's log.
//! Invariant: a line for each new flow that meets a Log rule, whoever decides it; none for what does not.
//! Never: waits for a line by time.

use crate::story::{Story, story, story_on};
use anyhow::{Context as _, Result};
use tests::{NodeSpec, Outcome, Probe::Tcp, wait};

/// Whoever comes to `x/a`'s port 80 is logged, and then let in from `x` alone.
const WATCH: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: watch }
spec:
  selector: pod == 'a' && projectcalico.org/namespace == 'x'
  types: [Ingress]
  ingress:
  - { action: Log, protocol: TCP, destination: { ports: [80] } }
  - { action: Allow, source: { namespaceSelector: projectcalico.org/name == 'x' } }
";

/// The lines of Log rules so far.
fn lines(s: &Story) -> Vec<String> {
    s.node.agent.log().lines().filter(|line| line.contains("logged by")).map(str::to_owned).collect()
}

fn wait_line(s: &Story, parts: &[&str]) -> Result<()> {
    let found = || Ok(lines(s).iter().any(|line| parts.iter().all(|part| line.contains(part))));
    wait::wait_until(&format!("the log has a line with {parts:?}"), wait::PATIENCE, found)
        .with_context(|| format!("lines so far: {:#?}", lines(s)))
}

#[test]
fn cal_8_a_log_rule_has_a_line_written_for_what_is_let_in_and_for_what_is_not() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.cluster.manifest("watch", WATCH)?;
        s.wait_probe("y/a", "x/a", Tcp(80), Outcome::Refused)?;
        assert_eq!(s.probe("x/b", "x/a", Tcp(80))?, Outcome::Allowed);
        let rule = "GlobalNetworkPolicy watch ingress rule";
        let (decided, logged) = (format!("by {rule} 1"), format!("logged by {rule} 0"));
        wait_line(s, &["allowed: x/b (", ") to x/a (", ":80) TCP, ingress of x/a", &decided, &logged])?;
        wait_line(s, &["denied: y/a (", ") to x/a (", ":80) TCP, ingress of x/a", "by no ingress rule of", &logged])?;
        assert_eq!(s.probe("x/b", "x/a", Tcp(81))?, Outcome::Allowed);
        assert_eq!(s.probe("x/b", "x/a", Tcp(80))?, Outcome::Allowed);
        let of_port_80 = |lines: Vec<String>| lines.iter().all(|line| line.contains(":80) TCP"));
        assert!(of_port_80(lines(s)), "the Log rule asks for port 80: {:#?}", lines(s));
        let output = s.node.tortie(&["explain", "--from", "x/b", "--to", "x/a", "--port", "80", "--output", "json"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("loggedBy") && said.contains(&format!("{rule} 0")), "{said}");
        Ok(())
    })
}

#[test]
fn a_flood_writes_no_more_lines_than_the_rate_and_says_how_many_are_missing() -> Result<()> {
    let spec = NodeSpec::new(1).argument("--policy-log-rate=1");
    story_on(spec, &["x/a", "x/b", "y/a"], |s| {
        s.cluster.manifest("watch", WATCH)?;
        s.wait_probe("y/a", "x/a", Tcp(80), Outcome::Refused)?;
        // Each processor may write 100 lines at once.
        let missing = || {
            for _ in 0..50 {
                assert_eq!(s.probe("x/b", "x/a", Tcp(80))?, Outcome::Allowed, "a flood of lines slows nobody down");
            }
            Ok(s.node.agent.log().contains("lines of Log rules were left out"))
        };
        wait::wait_until("lines were left out", wait::PATIENCE, missing)
    })
}
