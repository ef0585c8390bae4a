//! Tables that are too small: what does not fit is refused by name, what was in force stays, and room is used at once.
//! In: agents with one small table each. Out: what pods can reach, what `show` says, what ADD answers.
//! Invariant: no test restarts an agent to recover.
//! Never: opens or cuts anything for want of room.

use crate::{
    flood,
    story::{Story, story_on},
};
use anyhow::{Context as _, Result};
use std::{
    fmt::Write as _,
    net::{SocketAddrV4, UdpSocket},
};
use tests::{
    NodeSpec, Outcome, PodSpec,
    Probe::Tcp,
    scrape::Scrape,
    wait::{PATIENCE, wait_until},
};

const FROM_B: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }";
/// Where the agent tells its metrics.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 9091);
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

/// Lets a pod be reached from each of these, by a rule of its own.
fn from(pod: &str, peers: &[&str]) -> String {
    let rules: String = peers
        .iter()
        .map(|peer| format!("{{ from: [{{ podSelector: {{ matchLabels: {{ pod: {peer} }} }} }}] }}, "))
        .collect();
    format!("{{ podSelector: {{ matchLabels: {{ pod: {pod} }} }}, ingress: [{rules}] }}")
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

/// Lets a pod be reached at many ports that do not touch.
fn ports(pod: &str, count: u16) -> String {
    let ports: String = (0..count).map(|number| format!("{{ port: {} }}, ", 1000 + 2 * number)).collect();
    format!("{{ podSelector: {{ matchLabels: {{ pod: {pod} }} }}, ingress: [{{ ports: [{ports}] }}] }}")
}

#[test]
fn what_does_not_fit_is_put_off_alone_and_comes_into_force_by_itself_when_there_is_room() -> Result<()> {
    for (map, entries) in [("SPANS", 96), ("ROWS", 3), ("SETS", 6)] {
        story_on(with(map, entries), &["x/a", "x/b", "x/c"], |s| {
            let metric = |name: &str| Scrape::of(s.node.namespace(), METRICS.into())?.value(name);
            s.policy("x/p", FROM_B)?;
            s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
            let (first, second) = match map {
                "SPANS" => (ports("b", 30), ports("c", 30)),
                "ROWS" => (from("b", &["a"]), from("c", &["a", "b"])),
                // Two sets at once.
                _ => (
                    ports("b", 1),
                    ports("c", 2).replace(", ingress:", ", policyTypes: [Ingress, Egress], egress: [{}], ingress:"),
                ),
            };
            s.policy("x/first", &first)?;
            s.expect(Tcp(80), if map == "ROWS" { "x/b\n x/a .\n x/c X" } else { "x/b\n x/a X\n x/c X" })?;
            assert!(not_in_force(s)?.is_empty(), "{:?}", not_in_force(s)?);
            let refused = metric("tortie_refused_revisions_total")?;
            s.policy("x/second", &second)?;
            wait_until("what does not fit is named", PATIENCE, || {
                let told = not_in_force(s)?.join("\n");
                Ok(["NetworkPolicy x/second", "put off", &format!("mapEntries {map}")]
                    .iter()
                    .all(|part| told.contains(part)))
            })
            .with_context(|| not_in_force(s).unwrap_or_default().join("\n"))?;
            s.expect_now(Tcp(80), "x/c\n x/a .\n x/b .").context("its former revision: none")?;
            wait_until("the metrics say so", PATIENCE, || Ok(metric("tortie_revision_refused")? == 1.0))?;
            assert!(metric("tortie_not_in_force")? >= 1.0 && metric("tortie_refused_revisions_total")? > refused);
            // Everything else goes on: a policy changes, and then the pods that wait for room get it.
            s.policy("x/p", "{ podSelector: { matchLabels: { pod: a } }, ingress: [] }")?;
            s.expect(Tcp(80), "x/a\n x/b X\n x/c X").context("another policy")?;
            s.drop_policy("x/first")?;
            let closed = if map == "ROWS" { "x/c\n x/a .\n x/b .\n node1 ." } else { "x/c\n x/a X\n x/b X" };
            wait_until("nothing is put off", PATIENCE, || Ok(not_in_force(s)?.is_empty()))?;
            s.expect(Tcp(80), closed).context("with room again")?;
            wait_until("the metrics say so", PATIENCE, || Ok(metric("tortie_revision_refused")? == 0.0))
        })
        .with_context(|| format!("with a small {map}"))?;
    }
    Ok(())
}

#[test]
fn a_pod_starts_while_a_policy_is_put_off() -> Result<()> {
    story_on(with("SPANS", 96), &["x/a", "x/b"], |s| {
        s.policy("x/big", &ports("b", 60))?;
        wait_until("it is named", PATIENCE, || Ok(not_in_force(s)?.iter().any(|line| line.contains("x/big"))))?;
        s.add(&PodSpec::new("x/c"))?;
        s.expect(Tcp(80), "x/a x/b\n x/c . .")
    })
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

/// What `show capacity` says of a map.
fn shown(s: &Story, map: &str, field: &str) -> Result<f64> {
    let shown = s.node.show("capacity")?;
    let row = shown.as_array().and_then(|rows| rows.iter().find(|row| row["map"] == map));
    row.and_then(|row| row[field].as_f64()).with_context(|| format!("no {field} of {map} in {shown}"))
}

fn is_dropped(s: &Story, pod: &str, reason: &str) -> Result<bool> {
    let drops = s.node.show("drops")?;
    let rows = drops.as_array().context("drops are a list")?;
    Ok(rows.iter().any(|row| row["pod"] == pod && row["reason"] == reason))
}

#[test]
fn pkt_78_a_full_conntrack_is_shown_refuses_new_flows_and_takes_them_when_old_ones_end() -> Result<()> {
    let spec = with("CONNTRACK", 64).argument("--flow-quota").argument("1000");
    let spec = spec.argument("--conntrack-timeouts").argument("tcpFinsSeen=1,tcpResetSeen=1");
    story_on(spec, &["x/a", "x/b"], |s| {
        let mut held = Vec::new();
        while shown(s, "CONNTRACK", "used")? < 64.0 {
            held.push(s.pod("x/b")?.connect(s.pod("x/a")?, 80)?);
        }
        assert_eq!(shown(s, "CONNTRACK", "pressurePercent")?, 100.0);
        s.expect_now(Tcp(81), "x/a\n x/b X").context("with a full table")?;
        assert!(is_dropped(s, "x/a", "conntrack-full")? || is_dropped(s, "x/b", "conntrack-full")?);
        for connection in &mut held {
            assert!(connection.answers()?, "a connection that was there before");
        }
        held.truncate(8);
        s.expect(Tcp(81), "x/a\n x/b .").context("with room again")?;
        assert!(held.iter_mut().all(|connection| connection.answers().is_ok_and(|answers| answers)));
        assert!(shown(s, "CONNTRACK", "peak")? >= 64.0);
        Ok(())
    })
}

#[test]
fn a_full_table_of_fragments_is_shown_drops_what_it_forgot_and_takes_the_next_packet() -> Result<()> {
    story_on(with("FRAGMENTS", 64), &["x/a", "x/b", "x/c"], |s| {
        let [from, flooding] = ["x/b", "x/c"].map(|pod| flood::end(s, pod));
        let (from, flooding) = (from?, flooding?);
        let to = SocketAddrV4::new(flood::v4(s.pod("x/a")?)?, 5400);
        let socket = s.pod("x/a")?.namespace().inside(|| Ok(UdpSocket::bind(to)?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let heard = || {
            let mut bytes = [0; 16];
            socket.recv(&mut bytes).context("a whole datagram")?;
            Ok::<_, anyhow::Error>(bytes)
        };
        let whole = |id| from.piece(to, id, true).and_then(|()| from.piece(to, id, false));
        whole(1)?;
        assert_eq!(heard()?, [1; 16]);
        from.piece(to, 2, true)?;
        for id in (0..=255).cycle().take(1000) {
            flooding.piece(to, id, true)?;
        }
        assert!(shown(s, "FRAGMENTS", "used")? > 32.0 && shown(s, "FRAGMENTS", "pressurePercent")? > 50.0);
        // What is forgotten is dropped; the next packet is whole.
        from.piece(to, 2, false)?;
        whole(3)?;
        assert_eq!(heard()?, [3; 16]);
        assert!(is_dropped(s, "x/b", "fragment-before-first")?, "{}", s.node.show("drops")?);
        Ok(())
    })
}

#[test]
fn rules_that_are_not_counted_apart_decide_as_before_and_are_shown() -> Result<()> {
    story_on(with("HITS", 16), &["x/a", "x/b", "x/c"], |s| {
        let uncounted = || Scrape::of(s.node.namespace(), METRICS.into())?.value("tortie_rules_uncounted");
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        assert_eq!(uncounted()?, 0.0, "small enough");
        let rules: String = (0..MANY).map(|number| format!("{{ ports: [{{ port: {} }}] }}, ", 1000 + number)).collect();
        let of_b = "podSelector: { matchLabels: { pod: b } }, policyTypes: [Egress]";
        s.policy("x/many", &format!("{{ {of_b}, egress: [{rules}] }}"))?;
        s.expect(Tcp(80), "x/a x/c\n x/b X X\n x/c X -").context("cut off by the many rules")?;
        wait_until("it is told how many are not counted", PATIENCE, || Ok(uncounted()? > 0.0))?;
        assert!(shown(s, "HITS", "pressurePercent")? >= 100.0);
        assert!(not_in_force(s)?.is_empty(), "a counter is nothing to refuse a policy for: {:?}", not_in_force(s)?);
        s.drop_policy("x/many")?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        wait_until("what fits is counted", PATIENCE, || Ok(uncounted()? == 0.0))
    })
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
            let is_trie = row["map"] == "NETS" || row["map"] == "TUNNELS";
            assert!(row["memoryBytes"].as_u64().is_some_and(|bytes| bytes > 0 || is_trie), "{row}");
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
