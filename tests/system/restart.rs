//! The agent dies and comes back: traffic goes on, state is adopted, what happened meanwhile is caught up with (OWN-2).
//! In: running connections and streams, kill -9, changes while nobody listens. Out: lost packets, tables.
//! Invariant: loss is counted by numbers on the words, and by what TCP had to send again.
//! Never: restarts nicely where a test says kill.

use crate::story::{Story, policy, story, story_on};
use anyhow::{Context as _, Result};
use std::fs;
use tests::{
    NodeSpec, Outcome, PodSpec,
    Probe::{Tcp, Udp},
    flow::Stream,
    wait::{PATIENCE, wait_until},
};

const DENY: &str = "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }";
const FROM_B: &str =
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }";

#[test]
fn own_2_kill_and_restart_lose_no_packet_of_running_flows() -> Result<()> {
    lose_no_packet_of_running_flows(NodeSpec::new(1))
}

#[test]
fn own_2_by_clsact_kill_and_restart_lose_no_packet_of_running_flows() -> Result<()> {
    lose_no_packet_of_running_flows(NodeSpec::new(1).by_clsact())
}

fn lose_no_packet_of_running_flows(spec: NodeSpec) -> Result<()> {
    story_on(spec, &["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let (client, server) = (s.pod("x/b")?, s.pod("x/a")?);
        let (tcp, udp) = (client.tcp_stream(server, 80)?, client.udp_stream(server, 80)?);
        s.node.agent.kill()?;
        // Nobody is there, and the rules still hold, for new flows too.
        s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")?;
        s.node.start()?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        nothing_was_lost(s, tcp, udp)
    })
}

/// Ends a connection and a stream of datagrams between x/b and x/a, of which no word may be missing.
fn nothing_was_lost(s: &Story, tcp: Stream, udp: Stream) -> Result<()> {
    let again = tcp.sent_again([s.pod("x/a")?.namespace(), s.pod("x/b")?.namespace()])?;
    let (tcp, udp) = (tcp.stop()?, udp.stop()?);
    assert_eq!((tcp.lost(), udp.lost()), (0, 0), "of {} and {}", tcp.sent, udp.sent);
    assert_eq!(again, 0, "TCP had to send something again");
    Ok(())
}

#[test]
fn own_2_a_restarted_agent_serves_the_pods_of_the_former() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.node.agent.kill()?;
        s.node.start()?;
        s.policy("x/p", DENY)?;
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b X -")?;
        let mut gone = s.pods.remove("x/b").context("no pod x/b")?;
        gone.delete()?;
        s.add(&PodSpec::new("x/c"))?;
        s.expect(Tcp(80), "x/a x/c\n x/a - .\n x/c X -")
    })
}

#[test]
fn a_policy_written_while_nobody_listens_takes_effect_after() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/old", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let mut connection = s.pod("x/b")?.connect(s.pod("x/a")?, 80)?;
        s.node.agent.kill()?;
        s.drop_policy("x/old")?;
        s.policy("x/new", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: c } } }] }] }")?;
        s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")?;
        assert!(connection.answers()?);
        s.node.start()?;
        s.expect(Tcp(80), "x/a\n x/b X\n x/c .")?;
        assert!(!connection.answers()?, "a connection outlived the policy that refuses it");
        Ok(())
    })
}

#[test]
fn a_pod_that_went_while_nobody_listened_is_forgotten() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        s.node.agent.kill()?;
        let mut gone = s.pods.remove("x/b").context("no pod x/b")?;
        assert!(gone.delete().is_err(), "DEL has to fail while nobody listens: it would lose the release");
        s.node.start()?;
        gone.delete()?;
        let shown = s.node.show("endpoints")?.to_string();
        assert!(shown.contains("x/a") && !shown.contains("x/b"), "{shown}");
        Ok(())
    })
}

#[test]
fn kill_in_a_row_leaves_every_policy_in_force() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        for _ in 0..4 {
            s.node.agent.kill()?;
            s.node.agent.start()?;
            // Killed again before or after it serves: both are to be survived.
            s.expect_now(Udp(80), "x/a\n x/b .\n x/c X")?;
        }
        s.node.wait_ready()?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")
    })
}

#[test]
fn nothing_opens_before_the_first_full_list() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        s.node.agent.kill()?;
        // Many files make the first list long; while it is read, the old rules hold.
        for number in 0..300 {
            s.cluster.manifest(&format!("filler-{number}"), &policy(&format!("z/p{number}"), "{ podSelector: {} }"))?;
        }
        let refused = s.pod("x/c")?.probe(s.pod("x/a")?, Tcp(80))?;
        assert_eq!(refused, Outcome::Refused);
        s.node.agent.start()?;
        wait_until("the agent serves, and x/c stays out meanwhile", PATIENCE, || {
            assert_eq!(s.pod("x/c")?.probe(s.pod("x/a")?, Udp(80))?, Outcome::Refused);
            s.node.runtime().ready()
        })?;
        s.expect_now(Tcp(80), "x/a\n x/b .\n x/c X")
    })
}

#[test]
fn a_second_agent_on_the_same_state_is_refused_and_harms_nothing() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let program = &s.cluster.binaries().agent;
        let mut command = s.node.namespace().command(program)?;
        let output = command.args(s.node.agent.arguments()).output().context("starting a second agent")?;
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&*s.node.state_dir().to_string_lossy()), "it does not name the directory: {said}");
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        assert!(fs::exists(s.node.socket())? && s.node.runtime().ready()?);
        Ok(())
    })
}

#[test]
fn agt_8_tables_that_grow_at_a_restart_lose_no_packet_of_running_flows() -> Result<()> {
    story(&["x/a", "x/b", "x/c"], |s| {
        s.policy("x/p", FROM_B)?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let (client, server) = (s.pod("x/b")?, s.pod("x/a")?);
        let (tcp, udp) = (client.tcp_stream(server, 80)?, client.udp_stream(server, 80)?);
        s.node.agent.stop()?;
        let mut arguments = s.node.agent.arguments().to_vec();
        for larger in ["CONNTRACK=131072", "ENDPOINTS=2048", "ADDRESSES=16384", "SPANS=131072", "CLASSES=32768"] {
            arguments.extend(["--map-entries".into(), larger.into()]);
        }
        s.node.agent.set_arguments(arguments);
        s.node.start()?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        nothing_was_lost(s, tcp, udp)?;
        let shown = s.node.show("capacity")?;
        let size = |map: &str| shown.as_array()?.iter().find(|row| row["map"] == map)?["size"].as_u64();
        assert_eq!((size("CONNTRACK"), size("ENDPOINTS")), (Some(131_072), Some(2048)));
        Ok(())
    })
}
