//! Tables that are too small: what does not fit is refused by name, what was in force stays, and room is used at once.
//! In: agents with one small table each. Out: what pods can reach, what `show` says, what ADD answers.
//! Invariant: no test restarts an agent to recover.
//! Never: opens or cuts anything for want of room.

use crate::story::{Story, story_on};
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use tests::{
    NodeSpec, Outcome, PodSpec,
    Probe::Tcp,
    wait::{PATIENCE, wait_until},
};

const FROM_B: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }";
/// As many as would fill every small table here.
const MANY: u16 = 64;

/// A node whose one table is small.
fn with(map: &str, entries: u32) -> NodeSpec {
    NodeSpec::new(1).argument("--map-entries").argument(&format!("{map}={entries}"))
}

/// Cuts x/b off from everything but many ports at many networks and pods elsewhere.
fn big() -> String {
    let cidrs: String = (0..MANY).fold(String::new(), |mut text, number| {
        let _ = write!(text, "{{ ipBlock: {{ cidr: 198.51.{number}.0/24 }} }}, ");
        text
    });
    let ports: String = (0..MANY).fold(String::new(), |mut text, number| {
        let _ = write!(text, "{{ port: {} }}, ", 1000 + 2 * number);
        text
    });
    let far = "{ podSelector: { matchLabels: { far: away } } }";
    format!(
        "{{ podSelector: {{ matchLabels: {{ pod: b }} }}, policyTypes: [Egress], \
         egress: [{{ to: [{cidrs}{far}], ports: [{ports}] }}] }}"
    )
}

/// Pods of another node that match it.
fn far_pods() -> String {
    (0..MANY).fold(String::new(), |mut text, number| {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ namespace: x, name: far{number}, labels: {{ far: away }} }}\n\
             spec: {{ nodeName: elsewhere }}\nstatus: {{ podIP: 10.99.0.{number}, podIPs: [{{ ip: 10.99.0.{number} }}] }}"
        );
        text
    })
}

fn not_in_force(s: &Story) -> Result<Vec<String>> {
    serde_json::from_value(s.node.show("status")?["notInForce"].clone()).context("reading notInForce")
}

#[test]
fn a_policy_that_does_not_fit_is_named_changes_nothing_and_is_in_force_once_it_fits() -> Result<()> {
    for (map, entries) in [("ADDRESSES", 32), ("NETS", 32), ("CLASSES", 48), ("SETS", 4), ("ROWS", 32), ("SPANS", 64)] {
        story_on(with(map, entries), &["x/a", "x/b", "x/c"], |s| {
            s.policy("x/p", FROM_B)?;
            s.expect(Tcp(80), "x/a\n x/b .\n x/c X").with_context(|| format!("{map}: small enough"))?;
            s.cluster.manifest("far", &far_pods())?;
            s.policy("x/big", &big())?;
            wait_until(&format!("{map} is named"), PATIENCE, || {
                Ok(not_in_force(s)?.iter().any(|line| line.contains(map)))
            })?;
            let told = not_in_force(s)?.join("\n");
            for part in [map, "NetworkPolicy x/", "previous revision stays", &format!("mapEntries {map}")] {
                assert!(told.contains(part), "{part} is missing in: {told}");
            }
            // It would cut x/b off from x/a.
            s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")?;
            // Less is asked for, and what is wanted then is in force without a restart.
            s.drop_policy("x/big")?;
            s.drop_policy("x/p")?;
            s.expect(Tcp(80), "x/a\n x/b .\n x/c .")?;
            s.policy("x/big", "{ podSelector: { matchLabels: { pod: b } }, policyTypes: [Egress] }")?;
            s.expect(Tcp(80), "x/a\n x/b X\n x/c .").with_context(|| format!("{map}: it fits now"))?;
            assert!(not_in_force(s)?.is_empty());
            Ok(())
        })
        .with_context(|| format!("with a small {map}"))?;
    }
    Ok(())
}

#[test]
fn a_pod_for_which_there_is_no_slot_is_told_to_try_again_and_gets_one_when_another_goes() -> Result<()> {
    for map in ["ENDPOINTS", "INTERFACES"] {
        let mut spec = with(map, if map == "ENDPOINTS" { 4 } else { 2 });
        if map == "INTERFACES" {
            spec = spec.argument("--map-entries").argument("ENDPOINTS=4");
        }
        story_on(spec, &["x/a", "x/b"], |s| {
            let refused = s.add(&PodSpec::new("x/c")).err().context("a third pod was served")?;
            let said = format!("{refused:#}");
            assert!(said.contains("11") && said.contains(map), "{said}");
            s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
            assert!(not_in_force(s)?.is_empty(), "a pod that was refused is nobody's worry: {:?}", not_in_force(s)?);
            s.pods.remove("x/b").context("no pod x/b")?.delete()?;
            s.add(&PodSpec::new("x/c"))?;
            s.expect(Tcp(80), "x/a x/c\n x/a - .\n x/c . -")
        })
        .with_context(|| format!("with a small {map}"))?;
    }
    Ok(())
}

#[test]
fn capacity_tells_entries_pressure_memory_and_the_setting_of_every_table() -> Result<()> {
    story_on(NodeSpec::new(1), &["x/a", "x/b"], |s| {
        assert_eq!(s.probe("x/a", "x/b", Tcp(80))?, Outcome::Allowed);
        let shown = s.node.show("capacity")?;
        let rows = shown.as_array().context("capacity is a list")?;
        let row = |map: &str| rows.iter().find(|row| row["map"] == map).with_context(|| format!("no row {map}"));
        let number = |map: &str, field: &str| Ok::<_, anyhow::Error>(row(map)?[field].as_f64().unwrap_or(-1.0));
        assert_eq!((number("ENDPOINTS", "used")?, number("INTERFACES", "used")?), (4.0, 2.0), "{shown:#}");
        assert!(number("CONNTRACK", "used")? >= 1.0 && number("CONNTRACK", "peak")? >= number("CONNTRACK", "used")?);
        assert_eq!(row("SPANS")?["setting"], "mapEntries SPANS");
        assert_eq!(row("DROPS")?["setting"], "mapEntries ENDPOINTS");
        for row in rows.iter().filter(|row| row["map"] != "all") {
            // A trie takes memory by the entry.
            assert!(row["memoryBytes"].as_u64().is_some_and(|bytes| bytes > 0 || row["map"] == "NETS"), "{row}");
            assert!(row["whenFull"].is_string() && row["size"].as_u64().is_some_and(|size| size > 0), "{row}");
            let (used, size, peak) = (row["used"].as_f64(), row["size"].as_f64(), row["peak"].as_f64());
            let pressure = used.zip(size).map(|(used, size)| (used / size * 1000.0).round() / 10.0);
            assert_eq!(row["pressurePercent"].as_f64(), pressure, "{row}");
            assert!(peak >= used, "{row}");
        }
        let sum: u64 =
            rows.iter().filter(|row| row["map"] != "all").filter_map(|row| row["memoryBytes"].as_u64()).sum();
        assert_eq!(row("all")?["memoryBytes"].as_u64(), Some(sum));
        Ok(())
    })
}
