//! Metrics as Prometheus sees them: well written, true, and without a step back that is none.
//! In: a node with traffic, refusals, a table that gets full and an agent that dies. Out: scrapes.
//! Invariant: every scrape is read strictly, in both formats.
//! Never: a value without something that was done to make it.

use crate::story::{Story, story, story_on};
use anyhow::{Context as _, Result, ensure};
use std::{
    fmt::Write as _,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
};
use tests::{
    NodeSpec, Outcome,
    Probe::{Tcp, Udp},
    Scrape, scrape,
    wait::{PATIENCE, wait_for, wait_until},
};

const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9091);
const DENY: &str = "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }";

fn look(s: &Story) -> Result<Scrape> {
    Scrape::of(s.node.namespace(), LOCAL.into())
}

/// Waits until the agent has told this much.
fn wait_value(s: &Story, sample: &str, holds: impl Fn(f64) -> bool) -> Result<Scrape> {
    wait_for(sample, PATIENCE, || {
        let scrape = look(s)?;
        Ok(holds(scrape.value(sample)?).then_some(scrape))
    })
}

#[test]
fn agt_12_metrics_are_well_written_and_true() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        assert_eq!(s.probe("x/b", "x/a", Tcp(80))?, Outcome::Allowed);
        s.policy("x/p", DENY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        let generation = s.node.show("status")?["generation"].as_f64().context("a generation")?;
        let seen = wait_value(s, "tortie_generation", |value| (value - generation).abs() < 0.5)?;
        for (sample, value) in [
            ("tortie_endpoints", 2.0),
            ("tortie_ready", 1.0),
            ("tortie_not_in_force", 0.0),
            ("tortie_map_read_errors", 0.0),
            ("tortie_revision_refused", 0.0),
            ("tortie_refused_revisions_total", 0.0),
            ("tortie_commits_total{result=\"in-force\"}", generation),
            ("tortie_commit_duration_seconds_count", generation),
            ("tortie_cni_requests_total{operation=\"commit\",code=\"0\"}", 2.0),
            ("tortie_cni_request_duration_seconds_count{operation=\"commit\"}", 2.0),
            ("tortie_map_entries{map=\"INTERFACES\"}", 2.0),
        ] {
            assert!((seen.value(sample)? - value).abs() < 1e-9, "{sample} is {}, not {value}", seen.value(sample)?);
        }
        assert!(seen.value("process_resident_memory_bytes")? > 1e6 && seen.value("process_cpu_seconds_total")? > 0.0);
        // What both read from the kernel, or the owner from the same tables, is told alike.
        let shown = s.node.show("capacity")?;
        for row in shown.as_array().context("a list")?.iter().filter(|row| row["map"] != "all") {
            let map = row["map"].as_str().context("a name")?;
            let size = seen.value(&format!("tortie_map_entries_max{{map=\"{map}\"}}"))?;
            assert_eq!(Some(size), row["size"].as_f64(), "{map}");
            if let Some(used) = row["used"].as_f64().filter(|_| !["CONNTRACK", "FRAGMENTS"].contains(&map)) {
                let told = seen.value(&format!("tortie_map_entries{{map=\"{map}\"}}"))?;
                assert!((told - used).abs() < 0.5, "{map}: {told} and {used}");
            }
        }
        assert!(seen.value("tortie_map_entries{map=\"CONNTRACK\"}")? >= 1.0);
        drops_are_counted(s)
    })
}

fn drops_are_counted(s: &Story) -> Result<()> {
    let refused = "tortie_drops_total{reason=\"ingress-policy\"}";
    let before = look(s)?.value(refused)?;
    assert_eq!(s.probe("x/b", "x/a", Udp(80))?, Outcome::Refused);
    let after = look(s)?.value(refused)?;
    assert!(after > before, "{before}, then {after}");
    let shown = s.node.show("drops")?;
    let rows = shown.as_array().context("a list")?.iter();
    let sum: f64 = rows.filter(|row| row["reason"] == "ingress-policy").filter_map(|row| row["packets"].as_f64()).sum();
    assert!((sum - after).abs() < 0.5, "show drops says {sum}, metrics {after}");
    Ok(())
}

#[test]
fn counters_of_the_kernel_survive_the_agent_and_the_pod_and_those_of_the_agent_begin_anew() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.policy("x/p", DENY)?;
        s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        let before = look(s)?;
        let drops = |scrape: &Scrape| scrape.sum("tortie_drops_total");
        assert!(drops(&before) > 0.0);
        s.node.agent.kill()?;
        s.node.start()?;
        let after = look(s)?;
        assert!(drops(&after) >= drops(&before), "the kernel's own count goes on");
        let started = "process_start_time_seconds";
        assert!(after.value(started)? > before.value(started)?, "by this a reader knows that the others begin anew");
        assert!(after.value("tortie_cni_requests_total{operation=\"commit\",code=\"0\"}").is_err());
        s.pods.remove("x/a").context("no pod x/a")?.delete()?;
        let drops_of_pods = |s: &Story| -> Result<bool> {
            let shown = s.node.show("drops")?;
            Ok(shown.as_array().context("a list")?.iter().any(|row| row["pod"] == "endpoints that are gone"))
        };
        wait_until("the drops of x/a are with those that are gone", PATIENCE, || drops_of_pods(s))?;
        assert!(drops(&look(s)?) >= drops(&after), "a pod that goes takes nothing out of the sum");
        Ok(())
    })
}

#[test]
fn pressure_rises_and_a_refused_revision_is_counted_once() -> Result<()> {
    let small = NodeSpec::new(1).argument("--map-entries").argument("SPANS=128");
    story_on(small, &["x/a"], |s| {
        let pressure = "tortie_map_pressure_ratio{map=\"SPANS\"}";
        let low = wait_value(s, pressure, |ratio| ratio > 0.0)?.value(pressure)?;
        s.policy("x/p", &ports(12))?;
        let high = wait_value(s, pressure, |ratio| ratio > low)?.value(pressure)?;
        assert!(high < 1.0);
        s.policy("x/p", &ports(100))?;
        let refused = wait_value(s, "tortie_revision_refused", |refused| refused > 0.5)?;
        let again = "tortie_commits_total{result=\"refused\"}";
        let tries = refused.value(again)?;
        let seen = wait_value(s, again, |now| now > tries)?;
        assert!((seen.value("tortie_refused_revisions_total")? - 1.0).abs() < 1e-9, "each revision counts once");
        assert!((seen.value("tortie_not_in_force")? - 1.0).abs() < 1e-9);
        let told = s.node.agent.log().lines().filter(|line| line.contains("the map SPANS has")).count();
        assert_eq!(told, 1, "one line, though it was tried {} times", seen.value(again)?);
        s.policy("x/p", &ports(12))?;
        wait_value(s, "tortie_revision_refused", |refused| refused < 0.5)?;
        Ok(())
    })
}

fn ports(count: u16) -> String {
    let ports = (0..count).fold(String::new(), |mut text, number| {
        let _ = write!(text, "{{ port: {} }}, ", 1000 + 2 * number);
        text
    });
    format!("{{ podSelector: {{ matchLabels: {{ pod: a }} }}, ingress: [{{ ports: [{ports}] }}] }}")
}

#[test]
fn metrics_answer_on_the_host_only_and_nobody_can_hold_them_up() -> Result<()> {
    story(&[], |s| {
        let node = s.node.addresses().first().copied().context("an address")?;
        let outside = s.cluster.outside();
        assert!(scrape::page(outside, SocketAddr::new(node, LOCAL.1), "/metrics", "*/*").is_err());
        let held: Vec<TcpStream> = s.node.namespace().inside(|| {
            let mut held = Vec::new();
            for _ in 0..4 {
                let mut stream = TcpStream::connect(LOCAL)?;
                stream.write_all(b"GET /metr")?;
                held.push(stream);
            }
            Ok(held)
        })?;
        wait_until("somebody else is answered", PATIENCE, || Ok(look(s).is_ok()))?;
        drop(held);
        let (head, _) = scrape::page(s.node.namespace(), LOCAL.into(), "/", "*/*")?;
        ensure!(head.starts_with("HTTP/1.1 404 "), "{head}");
        Ok(())
    })?;
    let off = NodeSpec::new(1).argument("--metrics-address").argument("off");
    story_on(off, &[], |s| {
        assert!(look(s).is_err());
        Ok(())
    })
}
