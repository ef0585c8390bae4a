//! Host endpoints that come and go under traffic: what both revisions allow lives on, what both refuse never passes.
//! In: connections and numbered datagrams, while host endpoints, policies and agents come and go. Out: what arrived.
//! Invariant: one file holds a whole revision, so that one save puts it in force.
//! Never: a loss that is explained away; a datagram that arrived is one too many or it is not.

use crate::{
    clean::attached,
    drift::{detach, harm, index, pin},
    hep::{Gate, gate, gate_on, host_endpoint, object},
    story::policy,
};
use anyhow::{Context as _, Result, ensure};
use std::{net::SocketAddr, time::Duration};
use tests::{
    Node, NodeSpec,
    Probe::Tcp,
    fabric::{OUTSIDE_V4, OUTSIDE_V6},
    flow::Stream,
    steady::Steady,
    tcx,
    wait::{PATIENCE, wait_until},
};

/// How often a host endpoint comes to the interface in the life of a connection.
const ATTACHED: u64 = 2;
/// Flips of a storm.
const FLIPS: usize = 16;
const PAUSE: Duration = Duration::from_micros(500);

const ALLOW_HTTP: &str = "{ selector: has(host), types: [Ingress], ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }] }";
const ALLOW_HTTP_AND_MORE: &str = "{ selector: has(host), types: [Ingress], \
     ingress: [{ action: Deny, protocol: UDP }, { action: Allow, protocol: TCP, destination: { ports: ['79:81'] } }] }";

fn generation(node: &Node) -> Result<u64> {
    node.show("status")?["generation"].as_u64().context("no generation")
}

/// Does something to the cluster, and waits until a later revision is in force.
fn committed(node: &Node, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = generation(node)?;
    change()?;
    wait_until("a later revision is in force", PATIENCE, || Ok(generation(node)? > before))
}

fn connections_live_on(spec: NodeSpec) -> Result<()> {
    gate_on(spec, &["x/a"], |g| {
        g.global("http", ALLOW_HTTP)?;
        let (outside, own) = (g.s.cluster.outside(), g.s.node.addresses());
        let away = [OUTSIDE_V4.parse()?, OUTSIDE_V6.parse()?];
        let mut streams = Vec::new();
        for family in [0, 1] {
            // As an operator's shell, on a failsafe port; on a port that a policy allows; the node's own to an API server; a
            // pod's, which the node forwards.
            streams.push(("ssh", Stream::tcp(outside, own[family], 22)?));
            streams.push(("http", Stream::tcp(outside, own[family], 80)?));
            streams.push(("api server", Stream::tcp(g.s.node.namespace(), away[family], 6443)?));
            streams.push(("pod", Stream::tcp(g.s.pod("x/a")?.namespace(), away[family], 80)?));
        }
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.wait_in_force("eth0", true)?;
        g.s.node.restart()?;
        g.wait_in_force("eth0", true)?;
        g.s.node.agent.kill()?;
        g.s.node.start()?;
        g.wait_in_force("eth0", true)?;
        committed(&g.s.node, || g.global("http", ALLOW_HTTP_AND_MORE))?;
        // The gate is there and shut to others.
        g.expect(Tcp(8055), "node1\n outside X")?;
        g.drop_host_endpoint("h")?;
        g.wait_in_force("eth0", false)?;
        g.host_endpoint("every", "interfaceName: '*'")?;
        g.wait_in_force("eth0", true)?;
        g.expect(Tcp(8055), "node1\n outside X")?;
        for (name, stream) in streams {
            let sent_again = stream.sent_again([outside, g.s.node.namespace()]).unwrap_or_default();
            let report = stream.stop().with_context(|| format!("the connection of {name}"))?;
            ensure!(report.lost() == 0 && report.echoed > 100, "{name}: {report:?}");
            // A gate that comes in the midst of a connection may see an answer first, which nobody lets it open a flow by.
            ensure!(sent_again <= ATTACHED, "{name}: {sent_again} segments were sent again");
        }
        Ok(())
    })
}

#[test]
fn connections_that_may_be_there_live_through_attaching_restart_kill_change_and_detaching() -> Result<()> {
    connections_live_on(NodeSpec::new(1))
}

#[test]
fn connections_live_through_the_same_by_clsact() -> Result<()> {
    connections_live_on(NodeSpec::new(1).by_clsact())
}

/// Streams that no revision lets in, and such that every one does: from outside or to it.
struct Storm {
    never: Vec<(&'static str, Steady)>,
    always: Vec<(&'static str, Steady)>,
}

impl Storm {
    /// Flips between two files, and looks at what arrived.
    fn rage(self, g: &Gate<'_>, revisions: [&str; 2], is_there: [bool; 2]) -> Result<()> {
        for flip in 0..FLIPS {
            committed(&g.s.node, || g.s.cluster.manifest("revision", revisions[flip % 2]))?;
            g.wait_in_force("eth0", is_there[flip % 2])?;
        }
        for (name, stream) in self.never {
            let account = stream.stop()?;
            ensure!(account.sent > 500 && account.arrived == 0, "{name}: both revisions refuse it: {account:?}");
        }
        for (name, stream) in self.always {
            let account = stream.stop()?;
            ensure!(account.sent > 500 && account.missing.is_empty(), "{name}: both revisions allow it: {account:?}");
        }
        Ok(())
    }
}

/// Numbered datagrams between the outside host and an address of the node or of its pod.
fn stream(g: &Gate<'_>, from: &str, to: &str, port: u16) -> Result<Steady> {
    let namespace = |name: &str| match name {
        "outside" => Ok(g.s.cluster.outside()),
        "node1" => Ok(g.s.node.namespace()),
        pod => g.s.pod(pod).map(tests::Pod::namespace),
    };
    let address = match to {
        "outside" => OUTSIDE_V4.parse()?,
        "node1" => g.s.node.addresses()[0],
        pod => g.s.pod(pod)?.address(),
    };
    Steady::start(namespace(from)?, namespace(to)?, SocketAddr::new(address, port), 4, PAUSE)
}

fn udp(action: &str, port: u16) -> String {
    format!("{{ action: {action}, protocol: UDP, destination: {{ ports: [{port}] }} }}")
}

#[test]
fn in_a_storm_of_attaching_and_detaching_nothing_passes_that_both_revisions_refuse_and_nothing_is_lost_that_both_allow()
-> Result<()> {
    gate(&["x/a"], |g| {
        let (deny_in, deny_out) = (udp("Deny", 5001), udp("Deny", 5003));
        // The interface refuses in one revision, the pod in the other, which has no host endpoint at all.
        let at_the_interface = [
            host_endpoint("h", "interfaceName: eth0"),
            object(
                "GlobalNetworkPolicy",
                "gate",
                &format!(
                    "{{ selector: has(host), applyOnForward: true, types: [Ingress, Egress], \
                       ingress: [{deny_in}, {{ action: Allow }}], egress: [{deny_out}, {{ action: Allow }}] }}"
                ),
            ),
        ]
        .join("---\n");
        let at_the_pod = policy(
            "x/closed",
            "{ podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ ports: [{ protocol: UDP, port: 5002 }] }], \
               egress: [{ ports: [{ protocol: UDP, port: 5005 }] }] }",
        );
        committed(&g.s.node, || g.s.cluster.manifest("revision", &at_the_pod))?;
        let storm = Storm {
            never: vec![
                ("into the pod", stream(g, "outside", "x/a", 5001)?),
                ("out of the pod", stream(g, "x/a", "outside", 5003)?),
            ],
            always: vec![
                ("into the pod", stream(g, "outside", "x/a", 5002)?),
                ("out of the pod", stream(g, "x/a", "outside", 5005)?),
                ("into the node", stream(g, "outside", "node1", 5004)?),
                ("out of the node", stream(g, "node1", "outside", 5006)?),
            ],
        };
        storm.rage(g, [&at_the_interface, &at_the_pod], [true, false])
    })
}

#[test]
fn in_a_storm_of_policies_no_packet_is_asked_by_the_layers_of_two_revisions() -> Result<()> {
    gate(&["x/a"], |g| {
        let revision = |before: &str, after: &str| {
            let policy = |name, spec: &str| object("GlobalNetworkPolicy", name, spec);
            [
                host_endpoint("h", "interfaceName: '*'"),
                policy("pre", &format!("{{ selector: has(host), order: 1, preDNAT: true, applyOnForward: true, ingress: [{before}, {{ action: Allow }}] }}")),
                policy("own", &format!("{{ selector: has(host), order: 2, types: [Ingress], ingress: [{after}, {{ action: Allow }}] }}")),
            ]
            .join("---\n")
        };
        // Refused before translation, or by what comes after it.
        let deny = udp("Deny", 5001);
        let (one, other) = (revision(&deny, "{ action: Allow }"), revision("{ action: Allow }", &deny));
        committed(&g.s.node, || g.s.cluster.manifest("revision", &other))?;
        g.wait_in_force("eth0", true)?;
        let storm = Storm {
            never: vec![("into the node", stream(g, "outside", "node1", 5001)?)],
            always: vec![
                ("into the node", stream(g, "outside", "node1", 5004)?),
                ("into the pod", stream(g, "outside", "x/a", 5002)?),
            ],
        };
        storm.rage(g, [&one, &other], [true, true])
    })
}

#[test]
fn programs_of_a_host_endpoint_stand_before_the_uplinks_and_are_put_back_there() -> Result<()> {
    gate(&["x/a"], |g| {
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.wait_in_force("eth0", true)?;
        let line = |g: &Gate<'_>| {
            let all = attached(g.s.node.namespace())?;
            Ok::<_, anyhow::Error>(all.into_iter().filter(|text| text.starts_with("eth0")).collect::<Vec<_>>())
        };
        // Names as the kernel keeps them.
        let wanted = ["eth0 Ingress from_host_endpo", "eth0 Ingress from_uplink", "eth0 Egress to_host_endpoin"];
        ensure!(line(g)? == wanted, "{:?}", line(g)?);
        for program in ["from_host_endpoint", "to_host_endpoint", "from_uplink"] {
            harm(g.s, "program", &format!("{program} detached"), |s| detach(&pin(s, "eth0", program)?))?;
            ensure!(line(g)? == wanted, "{program}: {:?}", line(g)?);
        }
        let eth0 = index(g.s, "eth0")?;
        let mut foreign = None;
        harm(g.s, "program", "another program put before them", |s| {
            foreign = Some(tcx::put_first(s.node.namespace(), eth0)?);
            Ok(())
        })?;
        wait_until("ours are before it", PATIENCE, || Ok(line(g)?[..2] == wanted[..2]))?;
        drop(foreign);
        g.expect(Tcp(8055), "node1\n outside X")?;
        g.expect_now(Tcp(22), "node1\n outside .")?;
        // The next agent finds them where they belong.
        g.s.node.agent.kill()?;
        g.s.node.start()?;
        g.wait_in_force("eth0", true)?;
        ensure!(line(g)? == wanted, "{:?}", line(g)?);
        g.expect_now(Tcp(8055), "node1\n outside X")
    })
}

#[test]
fn cleanup_leaves_no_program_of_a_host_endpoint() -> Result<()> {
    for spec in [NodeSpec::new(1), NodeSpec::new(1).by_clsact()] {
        gate_on(spec, &[], |g| {
            g.host_endpoint("every", "interfaceName: '*'")?;
            g.expect(Tcp(8055), "node1\n outside X")?;
            let line = attached(g.s.node.namespace())?;
            // By either way: the host endpoint's before the uplink's.
            let place = |program: &str| line.iter().position(|text| text.contains(program));
            ensure!(place("from_host_endp").is_some() && place("from_host_endp") < place("from_uplink"), "{line:?}");
            g.s.node.agent.stop()?;
            // Who stops the agent opens nothing.
            g.expect_now(Tcp(8055), "node1\n outside X")?;
            let told = g.s.node.cleanup()?;
            ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
            ensure!(attached(g.s.node.namespace())?.is_empty(), "{:?}", attached(g.s.node.namespace())?);
            g.expect_now(Tcp(8055), "node1\n outside .")
        })?;
    }
    Ok(())
}

#[test]
fn a_host_endpoint_without_room_is_named_and_its_interface_stays_open() -> Result<()> {
    gate_on(NodeSpec::new(1).argument("--map-entries").argument("ENDPOINTS=3"), &[], |g| {
        let forward = "{ selector: has(host), applyOnForward: true, types: [Ingress], ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }] }";
        g.global("forward", forward)?;
        g.host_endpoint("h", "interfaceName: eth0")?;
        wait_until("the host endpoint is named", PATIENCE, || {
            let status = g.s.node.show("status")?;
            Ok(status["notInForce"].to_string().contains("host endpoint h on eth0"))
        })?;
        g.expect_now(Tcp(8055), "node1\n outside .")?;
        g.global("forward", &forward.replace("applyOnForward: true, ", ""))?;
        g.wait_in_force("eth0", true)?;
        g.expect(Tcp(8055), "node1\n outside X")?;
        g.expect_now(Tcp(80), "node1\n outside .")
    })
}
