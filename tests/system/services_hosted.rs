//! Processes of the node itself behind a service, asked from outside: real sockets at both ends.
//! In: a node with servers of its own, a Service over its addresses, host endpoints. Out: what a host beyond the uplink meets.
//! Invariant: who is outside knows addresses of the service and node ports alone.
//! Never: waits for a change by time; who answers is the sign.

use crate::{
    clean::attached,
    hep::{Gate, gate, gate_on},
    services_outside::{NODE_PORT, externals, shop},
};
use anyhow::{Context as _, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use tests::{
    Fabric, NetNs, NodeSpec, Outcome,
    Probe::{self, Sctp, Tcp, Udp},
    Servers,
    flow::{Connection, much_comes_whole},
    probe::{self, probe},
    server::Listen,
    wait::{PATIENCE, wait_until},
};

/// The server's port on the node.
const WEB: u16 = 80;
const PROGRAM: &str = "eth0 Egress to_uplink";

/// The node's own addresses stand behind the shop, by this port; `None`: nobody does.
fn serve(g: &Gate<'_>, port: Option<u16>) -> Result<()> {
    let at = || "nodeName: node1, conditions: { ready: true }".to_owned();
    let own: Vec<_> = g.s.node.addresses().into_iter().map(|address| (address, at())).collect();
    g.s.cluster.manifest("shop", &shop("", if port.is_some() { &own } else { &[] }, port.unwrap_or(WEB)))
}

/// Every address and port by which who is outside may ask.
fn doors(g: &Gate<'_>) -> Result<Vec<(IpAddr, u16)>> {
    let mut doors: Vec<_> = g.s.node.addresses().into_iter().map(|address| (address, NODE_PORT)).collect();
    for external in externals()? {
        Fabric::route(g.s.cluster.outside(), external, 1)?;
        doors.push((external, 443));
    }
    Ok(doors)
}

/// Waits until who is outside meets this at these doors.
fn expect(g: &Gate<'_>, doors: &[(IpAddr, u16)], what: fn(u16) -> Probe, wanted: Outcome) -> Result<()> {
    wait_until(&format!("{} from outside: {wanted}", what(NODE_PORT)), PATIENCE, || {
        let mut met = doors.iter().map(|(address, port)| probe(g.s.cluster.outside(), *address, what(*port)));
        Ok(met.all(|met| met.is_ok_and(|met| met == wanted)))
    })
}

/// A datagram in pieces, there and back, between `from` and a server of this name.
pub fn pieces_come_whole(from: &NetNs, (address, port): (IpAddr, u16), name: &str) -> Result<()> {
    let sent = [7; 2000];
    let to = SocketAddr::new(address, port);
    let socket = from.inside(|| Ok(probe::socket(to)?))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut heard = vec![0; 4096];
    socket.send(&sent)?;
    let length = socket.recv(&mut heard)?;
    ensure!(heard[..length] == [name.as_bytes(), b"\n", &sent[..]].concat(), "so does a datagram in pieces");
    Ok(())
}

fn reached(g: &mut Gate<'_>, program: &str) -> Result<()> {
    let is_there =
        |g: &Gate<'_>| Ok::<_, anyhow::Error>(attached(g.s.node.namespace())?.iter().any(|it| it == program));
    let _sctp = Servers::start(g.s.node.namespace(), "node1", &[Listen::Sctp(WEB)])?;
    ensure!(!is_there(g)?, "nobody answers in a service's name");
    serve(g, Some(WEB))?;
    let doors = doors(g)?;
    for what in [Tcp as fn(u16) -> Probe, Udp, Sctp] {
        expect(g, &doors, what, Outcome::Allowed)?;
    }
    ensure!(is_there(g)?, "{:?}", attached(g.s.node.namespace())?);
    let mut live = Vec::new();
    for door in &doors {
        much_comes_whole(g.s.cluster.outside(), *door, "node1")?;
        pieces_come_whole(g.s.cluster.outside(), *door, "node1")?;
        live.push(Connection::open(g.s.cluster.outside(), door.0, door.1)?);
    }
    g.s.node.agent.kill()?;
    for (at, door) in doors.iter().enumerate() {
        ensure!(live[at].answers()?, "the agent is dead: {door:?}");
        ensure!(Connection::open(g.s.cluster.outside(), door.0, door.1)?.answers()?, "and serves: {door:?}");
    }
    g.s.node.start()?;
    for (at, door) in doors.iter().enumerate() {
        ensure!(live[at].answers()?, "the next agent: {door:?}");
    }
    // A port at which nobody listens: of TCP the stack says so itself, of UDP by an error about what the client sent.
    serve(g, Some(8099))?;
    for what in [Tcp as fn(u16) -> Probe, Udp] {
        expect(g, &doors, what, Outcome::Reset)?;
    }
    for (mut connection, door) in live.into_iter().zip(&doors) {
        wait_until("the connection is reset", PATIENCE, || Ok(connection.answers().is_err()))
            .with_context(|| format!("{door:?}"))?;
    }
    serve(g, None)?;
    wait_until("the program is gone", PATIENCE, || Ok(!is_there(g)?))?;
    expect(g, &doors, Tcp, Outcome::Reset)?;
    serve(g, Some(WEB))?;
    expect(g, &doors, Tcp, Outcome::Allowed)?;
    g.s.node.agent.kill()?;
    let cleaned = g.s.node.cleanup()?;
    ensure!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    // The kernel frees a program a moment after its last link.
    wait_until("cleanup leaves nothing", PATIENCE, || Ok(!is_there(g)?))?;
    Ok(())
}

#[test]
fn who_is_outside_reaches_a_process_of_the_node_by_every_address_whatever_becomes_of_the_agent() -> Result<()> {
    gate(&["x/a"], |g| reached(g, PROGRAM))
}

#[test]
fn by_clsact_who_is_outside_reaches_a_process_of_the_node_by_every_address() -> Result<()> {
    gate_on(NodeSpec::new(1).by_clsact(), &["x/a"], |g| {
        let index = g.s.node.namespace().ip_json("link show eth0")?[0]["ifindex"].as_u64().context("no index")?;
        reached(g, &format!("{index} Egress tortie/to_uplink"))
    })
}

#[test]
fn hep_1_hep_2_the_uplinks_host_endpoint_is_asked_about_the_process_behind_a_service_and_a_new_deny_cuts() -> Result<()>
{
    gate(&["x/a"], |g| {
        serve(g, Some(WEB))?;
        let doors: Vec<_> = doors(g)?.into_iter().filter(|(_, port)| *port != NODE_PORT).collect();
        expect(g, &doors, Tcp, Outcome::Allowed)?;
        let mut before = Vec::new();
        for (address, port) in &doors {
            before.push(Connection::open(g.s.cluster.outside(), *address, *port)?);
        }
        let allow = |port: u16| {
            format!(
                "{{ selector: has(host), types: [Ingress], \
                 ingress: [{{ action: Allow, protocol: TCP, destination: {{ ports: [{port}] }} }}] }}"
            )
        };
        g.global("web", &allow(WEB))?;
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.wait_in_force("eth0", true)?;
        expect(g, &doors, Udp, Outcome::Refused)?;
        expect(g, &doors, Tcp, Outcome::Allowed)?;
        for connection in &mut before {
            ensure!(connection.answers()?, "it is older than the gate, which lets it in");
        }
        // The port that clients ask for says nothing.
        g.global("web", &allow(443))?;
        expect(g, &doors, Tcp, Outcome::Refused)?;
        for mut connection in before {
            ensure!(!connection.answers()?, "a new deny cuts it");
        }
        g.drop_host_endpoint("h")?;
        expect(g, &doors, Tcp, Outcome::Allowed)
    })
}
