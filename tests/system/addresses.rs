//! `tortie ipam`: addresses shown, checked and taken back, with the agent running and without.
//! In: pods whose objects go while no agent gives their addresses back. Out: what the commands print, and what blocks say then.
//! Invariant: nothing is written that was not asked for by `--yes`.
//! Never: reads a block file itself.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{fs, net::IpAddr, path::PathBuf};
use tests::{
    Cluster, Node,
    Probe::Tcp,
    wait::{PATIENCE, wait_until},
};

/// What a command of `tortie ipam` prints, and whether it went well.
pub fn ipam(s: &Story, arguments: &[&str]) -> Result<(bool, String)> {
    ipam_at(&s.cluster, &s.node, arguments)
}

fn ipam_at(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<(bool, String)> {
    let place = format!("file:{}", cluster.datastore().display());
    let arguments: Vec<&str> = ["ipam"].iter().chain(arguments).chain(&["--datastore", &place]).copied().collect();
    let output = node.tortie(&arguments)?;
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    Ok((output.status.success(), text))
}

pub fn done(s: &Story, arguments: &[&str]) -> Result<String> {
    done_at(&s.cluster, &s.node, arguments)
}

pub fn done_at(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<String> {
    let (is_done, text) = ipam_at(cluster, node, arguments)?;
    ensure!(is_done, "{arguments:?}: {text}");
    Ok(text)
}

/// Addresses in use of both pools.
fn used(s: &Story) -> Result<Vec<String>> {
    let shown: Value = serde_json::from_str(&done(s, &["show", "--output", "json"])?)?;
    let rows = shown.as_array().context("rows")?.iter();
    Ok(rows.map(|row| row["ipsInUse"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The pod's object goes, and what its agent told of it, and nobody gives its addresses back.
fn lose(s: &Story, name: &str) -> Result<()> {
    s.cluster.remove(&format!("pod-x-{name}"))?;
    let told = told(s, name);
    fs::remove_file(&told).with_context(|| format!("removing {}", told.display()))
}

/// What the pod's agent tells of it, soon after its ADD.
fn told(s: &Story, name: &str) -> PathBuf {
    s.cluster.datastore().join(format!(".tortie/WorkloadAddress/x.{name}.yaml"))
}

fn report(s: &Story, name: &str) -> PathBuf {
    s.cluster.directory().join(name)
}

#[test]
fn addresses_are_shown_whether_the_agent_runs_or_not() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let address = s.pod("x/a")?.address().to_string();
        for is_running in [true, false] {
            assert_eq!(used(s)?, ["2 (0%)", "2 (0%)"]);
            let blocks = done(s, &["show", "--show-blocks"])?;
            ensure!(blocks.contains("2 (3%)"), "{blocks}");
            let one = done(s, &["show", "--ip", &address])?;
            ensure!(one.contains("is in use") && one.contains("pod: a"), "{one}");
            let free = done(s, &["show", "--ip", "10.65.255.255"])?;
            ensure!(free.contains("10.65.255.255 is not assigned"), "{free}");
            let checked = done(s, &["check"])?;
            ensure!(checked.contains("Check complete; found 0 problems."), "{checked}");
            if is_running {
                s.node.agent.kill()?;
            }
        }
        Ok(())
    })
}

#[test]
fn ipam_23_what_nobody_has_is_named_and_taken_back_by_a_report_once_that_is_asked_for() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let addresses: Vec<IpAddr> = s.pod("x/b")?.addresses().to_vec();
        wait_until("it is told of", PATIENCE, || Ok(told(s, "b").exists()))?;
        s.node.agent.kill()?;
        let early = report(s, "early.json");
        let file = early.display().to_string();
        done(s, &["check", "-o", &file])?;
        lose(s, "b")?;
        let late = report(s, "late.json");
        let named = done(s, &["check", "--show-problem-ips", "-o", &late.display().to_string()])?;
        ensure!(named.contains("found 2 problems") && named.contains("there is no such pod"), "{named}");
        for address in &addresses {
            ensure!(named.contains(&format!("{address} leaked; it was of x/b")), "{address}: {named}");
        }
        // What the journal of this node has is nobody's to take.
        let own = s.node.state_dir().display().to_string();
        let served = done(s, &["check", "--state-dir", &own])?;
        ensure!(served.contains("found 0 problems"), "{served}");
        let late = late.display().to_string();
        let both = ["release", "--from-report", &late, "--from-report", &file, "--yes"];
        ensure!(done(s, &both)?.contains("No addresses need to be released"), "it was in use at the first");
        let dry = done(s, &["release", "--from-report", &late])?;
        ensure!(dry.contains("2 IPs and 0 handles would be released; nothing was done"), "{dry}");
        assert_eq!(used(s)?, ["2 (0%)", "2 (0%)"]);
        let released = done(s, &["release", "--from-report", &late, "--yes"])?;
        ensure!(released.contains("Released 2 IPs"), "{released}");
        assert_eq!(used(s)?, ["1 (0%)", "1 (0%)"]);
        ensure!(
            done(s, &["release", "--from-report", &late, "--yes"])?.contains("No addresses need"),
            "twice is no error"
        );
        let other = report(s, "other.json");
        fs::write(&other, fs::read_to_string(&late)?.replace("\"clusterGUID\": \"\"", "\"clusterGUID\": \"x\""))?;
        let (is_done, refused) =
            ipam(s, &["release", "--from-report", &other.display().to_string(), "--yes", "--force"])?;
        ensure!(!is_done && refused.contains("of another cluster"), "{refused}");
        Ok(())
    })
}

#[test]
fn an_address_that_somebody_has_is_taken_back_only_by_force_and_the_agent_goes_on() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let address = s.pod("x/b")?.address().to_string();
        let (is_done, refused) = ipam(s, &["release", "--ip", &address, "--yes"])?;
        ensure!(!is_done && refused.contains("is in use by pod x/b"), "{refused}");
        let dry = done(s, &["release", "--ip", &address, "--force"])?;
        ensure!(dry.contains("would be released; nothing was done"), "{dry}");
        assert_eq!(used(s)?, ["2 (0%)", "2 (0%)"]);
        let taken = done(s, &["release", "--ip", &address, "--force", "--yes"])?;
        ensure!(taken.contains(&format!("Successfully released IP address {address}")), "{taken}");
        let (is_done, gone) = ipam(s, &["release", "--ip", &address, "--yes"])?;
        ensure!(!is_done && gone.contains("is not assigned"), "{gone}");
        let checked = done(s, &["check", "--show-problem-ips"])?;
        ensure!(checked.contains(&format!("  {address} in use by Workload(x/b)")), "{checked}");
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}
