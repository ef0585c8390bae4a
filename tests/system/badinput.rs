//! Bad input, line by line of what can be wrong: one clear error, the rest goes on, the last good policy stays.
//! In: torn manifests, wrong selectors, spoofed packets, corrupt state. Out: messages that name what to look at.
//! Invariant: every test has a door that was closed before, and looks that it stays closed.
//! Never: is content with an error alone; something else must be seen to work on.

use crate::story::{Story, policy, story};
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf};
use tests::{
    Cluster, NetNs, NodeSpec, Outcome,
    Probe::{Tcp, Udp},
    frame::FrameSocket,
    wait::{PATIENCE, wait_until},
};

const FROM_B: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }";

/// The door that must stay as it is: into x/a only from x/b.
fn door(s: &Story) -> Result<()> {
    s.policy("x/door", FROM_B)?;
    s.expect(Tcp(80), "x/a\n x/b .\n x/c X")
}

/// Waits until `tortie show status` speaks of all these words.
fn told(s: &Story, words: &[&str]) -> Result<()> {
    let mut last = String::new();
    let came = wait_until(&format!("the status speaks of {words:?}"), PATIENCE, || {
        last = s.node.show("status")?.to_string();
        Ok(words.iter().all(|word| last.contains(word)))
    });
    came.with_context(|| format!("it says {last}"))
}

/// A later, good change is still heard: y/a is closed.
fn still_hears(s: &Story) -> Result<()> {
    s.policy("x/later", "{ podSelector: { matchLabels: { pod: b } }, policyTypes: [Ingress] }")?;
    s.expect(Tcp(80), "x/a x/b\n x/b . -\n x/c X X")
}

#[test]
fn a_manifest_that_is_no_yaml_is_named_with_its_line() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        s.cluster.manifest("broken", "apiVersion: v1\nkind: Pod\nmetadata: { name: [unclosed\n")?;
        told(s, &["broken.yaml"])?;
        still_hears(s)
    })
}

#[test]
fn a_policy_that_becomes_unreadable_stays_in_its_last_good_form() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        s.cluster.overwrite("policy-x-door", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: door, namespace: x }\nspec: { podSelector: 7 }\n")?;
        told(s, &["policy-x-door.yaml", "podSelector"])?;
        still_hears(s)
    })
}

#[test]
fn a_good_document_beside_a_broken_one_counts() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        let good = policy("x/beside", "{ podSelector: { matchLabels: { pod: c } }, policyTypes: [Ingress] }");
        s.cluster.manifest("mixed", &format!("kind: [\n---\n{good}"))?;
        s.expect(Tcp(80), "x/a x/c\n x/b . X\n x/c X -")?;
        told(s, &["mixed.yaml"])
    })
}

#[test]
fn an_invalid_selector_opens_nothing_and_is_named() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        let bad = "{ podSelector: { matchLabels: { pod: a } }, ingress: [
            { from: [{ podSelector: { matchExpressions: [{ key: pod, operator: Like, values: [c] }] } }] },
            { from: [{ podSelector: { matchLabels: { pod: b } } }] } ] }";
        s.policy("x/bad", bad)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        told(s, &["policy-x-bad.yaml", "x/bad", "Like"])
    })
}

#[test]
fn a_wrong_network_opens_nothing_and_is_named() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/bad", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/33 } }] }, { from: [{ podSelector: { matchLabels: { pod: b } } }] }] }")?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        told(s, &["policy-x-bad.yaml", "10.0.0.0/33"])
    })
}

#[test]
fn an_unknown_field_in_the_configuration_is_named() -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    let path = cluster.directory().join("tortie.yaml");
    fs::write(&path, "node: node1\nnoSuchSetting: 1\n")?;
    let mut arguments = node.agent.arguments().to_vec();
    arguments.extend(["--config".into(), path.clone().into()]);
    node.agent.set_arguments(arguments);
    node.agent.start()?;
    wait_until("the agent ends", PATIENCE, || Ok(node.agent.ended()?.is_some()))?;
    assert_eq!(node.agent.ended()?.and_then(|status| status.code()), Some(2));
    let log = node.agent.log();
    assert!(log.contains("tortie.yaml") && log.contains("noSuchSetting"), "{log}");
    Ok(())
}

#[test]
fn a_torn_packet_is_dropped_and_counted_and_the_rest_goes_on() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        let socket = FrameSocket::open(s.pod("x/c")?.namespace(), "eth0")?;
        let ethernet = [&[0xee; 6][..], &socket.mac, &[0x08, 0x00]].concat();
        // Cut in the IP header; a header length of 4 bytes; a total length beyond the packet.
        for torn in [&[0x45, 0, 0][..], &[0x41; 24], &[&[0x45, 0, 0xff, 0xff][..], &[0; 20]].concat()] {
            socket.send(&[&ethernet, torn].concat())?;
        }
        wait_until("torn packets are counted", PATIENCE, || {
            Ok(s.node.show("drops")?.to_string().contains("malformed"))
        })?;
        still_hears(s)
    })
}

#[test]
fn a_corrupt_state_file_is_named_and_opens_nothing() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        s.node.agent.kill()?;
        let broken = journal_of(s, "x/a")?;
        fs::write(&broken, "{ not json")?;
        s.node.start()?;
        let name = broken.file_name().context("no file name")?.to_string_lossy().into_owned();
        assert!(s.node.agent.log().contains(&name), "the log does not name {name}");
        // Whether x/a is served or not: x/c never gets in, and the other pods work on.
        s.wait_probe("x/c", "x/b", Tcp(80), Outcome::Allowed)?;
        assert_ne!(s.probe("x/c", "x/a", Tcp(80))?, Outcome::Allowed);
        Ok(())
    })
}

/// The agent's own file about a pod.
fn journal_of(s: &Story, pod: &str) -> Result<PathBuf> {
    let interface = s.pod(pod)?.host_interface().to_owned();
    Ok(s.node.state_dir().join("attachments").join(format!("{interface}.json")))
}

#[test]
fn a_pin_of_another_layout_is_left_alone_and_named() -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.namespace("x", &[])?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    node.agent.stop()?;
    // The conntrack pin of this layout is now a map of another shape.
    let pins: Vec<_> = fs::read_dir(node.bpffs().join("maps"))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let find =
        |stem: &str| pins.iter().find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(stem)));
    let (conntrack, sets) = (find("CONNTRACK").context("no pin")?, find("FRAGMENTS").context("no pin")?);
    fs::remove_file(conntrack)?;
    fs::rename(sets, conntrack)?;
    node.agent.start()?;
    let runtime = node.runtime();
    let mut seen = false;
    wait_until("the agent ends or says what is wrong", PATIENCE, || {
        seen = node.agent.log().contains("CONNTRACK");
        Ok(seen || node.agent.ended()?.is_some() || runtime.ready()?)
    })?;
    assert!(node.agent.log().contains("CONNTRACK"), "{}", node.agent.log_tail());
    Ok(())
}

#[test]
fn wrong_names_from_the_runtime_are_refused_with_code_4() -> Result<()> {
    story(&["x/a"], |s| {
        let namespace = NetNs::create(s.cluster.stem(), "wrong")?;
        let mut call = s.pod("x/a")?.call().clone();
        call.netns = Some(namespace.path());
        call.container = "../escape".to_owned();
        call.interface = "a/b".to_owned();
        let (code, message) = s.node.runtime().call("ADD", &call)?.failure()?;
        assert_eq!(code, 4, "{message}");
        Ok(())
    })
}

#[test]
fn an_explained_refusal_names_policy_and_rule() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        let explain = |from: &str| {
            let arguments = ["explain", "--from", from, "--to", "x/a", "--port", "80", "--proto", "tcp"];
            s.node.tortie(&arguments)
        };
        let refused = explain("x/c")?;
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said} {}", String::from_utf8_lossy(&refused.stderr));
        assert!(said.contains("x/door") && !said.contains("ALARM"), "{said}");
        let allowed = explain("x/b")?;
        let said = String::from_utf8_lossy(&allowed.stdout).into_owned();
        assert_eq!(allowed.status.code(), Some(0), "{said} {}", String::from_utf8_lossy(&allowed.stderr));
        assert!(said.contains("x/door") && said.contains("rule 0"), "{said}");
        s.expect_now(Udp(80), "x/a\n x/b .\n x/c X")
    })
}

/// A policy of Calico's that lets x/b into x/a by its rule 0.
fn calico_door(rules: &str) -> String {
    let own = "selector: pod == 'a', types: [Ingress]";
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{ name: door, namespace: x }}\nspec: {{ {own}, \
         ingress: [{{ action: Allow, source: {{ selector: pod == 'b' }} }}{rules}] }}\n"
    )
}

#[test]
fn a_calico_policy_that_gets_a_bad_part_stays_closed_and_the_part_is_named_with_what_holds() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        let closed = "x/a\n x/b .\n x/c X";
        s.cluster.manifest("door", &calico_door(""))?;
        s.expect(Tcp(80), closed)?;
        let long = format!("has(a) || {}", "has(pod) || ".repeat(90) + "has(pod)");
        let many = ", { action: Allow }".repeat(1024);
        let refused = "its last good revision stays in force";
        let unreadable = "the rule matches nothing";
        for (rules, words) in [
            (many.as_str(), ["door.yaml", "spec.ingress: 1025 are more than 1024", refused]),
            (&format!(", {{ action: Allow, source: {{ selector: '{long}' }} }}"), ["door.yaml", "characters", refused]),
            (", { action: Allow, source: { nets: [10.65.0.0/33] } }", ["door.yaml", "10.65.0.0/33", unreadable]),
            (", { action: Allow, source: { nets: [] }, nets: [] }", ["door.yaml", "nets", unreadable]),
            (
                ", { action: Allow, protocol: TCP, destination: { ports: [0] } }",
                ["door.yaml", "spec.ingress[1].destination.ports[0]", unreadable],
            ),
            (
                ", { action: Allow, protocol: TCP, destination: { ports: ['90:80'] } }",
                ["door.yaml", "spec.ingress[1].destination.ports[0]", unreadable],
            ),
            (
                ", { action: Allow, source: { services: { name: s }, selector: all() } }",
                ["door.yaml", "spec.ingress[1].source.selector", unreadable],
            ),
        ] {
            s.cluster.manifest("door", &calico_door(rules))?;
            told(s, &words)?;
            s.expect_now(Tcp(80), closed).with_context(|| words.join(", "))?;
        }
        // A selector that matches everything twice matches everything once.
        for twice in ["all() || all()", "has(pod) || !has(pod)", "all() && all()"] {
            s.cluster.manifest(
                "door",
                &calico_door(&format!(", {{ action: Allow, source: {{ selector: \"{twice}\" }} }}")),
            )?;
            s.expect(Tcp(80), "x/a\n x/b .\n x/c .").context(twice)?;
            s.cluster.manifest("door", &calico_door(""))?;
            s.expect(Tcp(80), closed)?;
        }
        still_hears(s)
    })
}

#[test]
fn a_network_set_of_a_million_members_is_named_and_the_set_that_was_denied_stays_denied() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        let own: Vec<_> = s.pod("x/c")?.addresses().iter().map(|address| format!("'{address}'")).collect();
        let set = |nets: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata:\n  name: bad\n  labels: {{ role: bad }}\n\
                 spec:\n  nets: [{nets}]\n"
            )
        };
        s.cluster.manifest("set", &set(&own.join(", ")))?;
        let deny =
            ", { action: Deny, source: { selector: role == 'bad', namespaceSelector: global() } }, { action: Allow }";
        s.cluster.manifest("door", &calico_door(deny))?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let members = |count: u32| {
            let members = (0..count).map(|number| std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string());
            members.collect::<Vec<_>>().join(", ")
        };
        for (count, words) in [
            (1_000_000, ["set.yaml", "are more than an object's", "objects that this file gave before stay in force"]),
            (131_073, ["set.yaml", "131073 are more than 131072", "its last good revision stays in force"]),
        ] {
            s.cluster.manifest("set", &set(&members(count)))?;
            told(s, &words)?;
            s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")?;
        }
        still_hears(s)?;
        s.cluster.manifest("set", &set(""))?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c .")
    })
}

#[test]
fn of_one_object_in_two_files_the_first_counts_and_the_other_is_named() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        door(s)?;
        s.cluster.manifest("zz-again", &policy("x/door", "{ podSelector: {}, ingress: [{}] }"))?;
        told(s, &["zz-again.yaml", "NetworkPolicy x/door", "also in", "policy-x-door.yaml, which counts"])?;
        s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")?;
        s.drop_policy("x/door")?;
        s.expect(Tcp(80), "x/a x/b x/c\n x/a - . .\n x/b . - .\n x/c . . -")
    })
}
