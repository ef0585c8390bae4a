//! Services for the node's own processes where there is no cgroup of version 2: their packets are led there, one by one.
//! In: a node without such a cgroup; a Service with a pod, a host elsewhere or the node itself behind it. Out: what programs on it meet.
//! Invariant: they know addresses of the service and node ports alone, and hear of no other.
//! Never: waits for a change by time; who answers is the sign.

use crate::{
    clean::attached,
    hep::{Gate, gate_on},
    services_hosted::pieces_come_whole,
    services_outside::{NODE_PORT, externals, shop},
};
use anyhow::{Context as _, Result, ensure};
use std::net::{IpAddr, SocketAddr, TcpStream};
use tests::{
    NetNs, NodeSpec, Outcome,
    Probe::{self, Sctp, Tcp, Udp},
    Servers,
    cgroup::Cgroup,
    fabric::{OUTSIDE_V4, OUTSIDE_V6},
    flow::{Connection, much_comes_whole},
    probe::{probe, read_line, socket},
    server::Listen,
    wait::{PATIENCE, wait_until},
};

const WEB: u16 = 80;

fn without() -> NodeSpec {
    NodeSpec::new(1).cgroup(Some("none".as_ref()))
}

/// A node without a cgroup, with a pod, servers and a way to everywhere.
fn node(spec: NodeSpec, test: impl FnOnce(&mut Gate<'_>) -> Result<()>) -> Result<()> {
    gate_on(spec, &["x/a"], |g| {
        let _sctp = [
            Servers::start(g.s.node.namespace(), "node1", &[Listen::Sctp(WEB)])?,
            Servers::start(g.s.cluster.outside(), "outside", &[Listen::Sctp(WEB)])?,
            Servers::start(g.s.pod("x/a")?.namespace(), "x/a", &[Listen::Sctp(WEB)])?,
        ];
        g.s.node.namespace().ip(&[
            &format!("route replace default via {OUTSIDE_V4}"),
            &format!("route replace default via {OUTSIDE_V6}"),
        ])?;
        test(g)
    })
}

/// Who may stand behind the shop: what greets there, and where.
fn backends(g: &Gate<'_>) -> Result<Vec<(&'static str, Vec<IpAddr>)>> {
    let outside = [OUTSIDE_V4, OUTSIDE_V6].map(str::parse).into_iter().collect::<Result<_, _>>()?;
    Ok(vec![("x/a", g.s.pod("x/a")?.addresses().to_vec()), ("outside", outside), ("node1", g.s.node.addresses())])
}

/// These stand behind the shop.
fn serve(g: &Gate<'_>, more: &str, addresses: &[IpAddr]) -> Result<()> {
    let told: Vec<_> = addresses.iter().map(|address| (*address, "conditions: { ready: true }".to_owned())).collect();
    g.s.cluster.manifest("shop", &shop(more, &told, WEB))
}

/// Every address and port by which a process of the node may ask.
fn doors(g: &Gate<'_>) -> Result<Vec<(IpAddr, u16)>> {
    let own = g.s.node.addresses().into_iter().map(|address| (address, NODE_PORT));
    let vips = crate::services::vips().into_iter().chain(externals()?).map(|address| (address, 443));
    Ok(own.chain(vips).collect())
}

/// Waits until processes of the node meet this at every door.
fn expect(g: &Gate<'_>, what: fn(u16) -> Probe, wanted: Outcome) -> Result<()> {
    let (doors, mut last) = (doors(g)?, Vec::new());
    let came = wait_until(&format!("{} from the node: {wanted}", what(NODE_PORT)), PATIENCE, || {
        let met = doors.iter().map(|(to, port)| probe(g.s.node.namespace(), *to, what(*port)));
        last = met.collect::<Result<Vec<_>>>()?;
        Ok(last.iter().all(|met| *met == wanted))
    });
    came.with_context(|| format!("seen last: {last:?} at {doors:?}"))
}

/// Who greets, by which address it is known, and who answers a datagram.
fn names(from: &NetNs, to: SocketAddr) -> Result<(String, SocketAddr, SocketAddr)> {
    from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let who = read_line(&mut stream)?;
        let socket = socket(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"word", to)?;
        let (_, by) = socket.recv_from(&mut [0; 64]).context("no answer")?;
        Ok((who, stream.peer_addr()?, by))
    })
}

/// Where the node's own packets are led.
fn led(g: &Gate<'_>) -> Result<Vec<String>> {
    let all = attached(g.s.node.namespace())?;
    Ok(all.into_iter().filter(|program| program.contains("from_node")).collect())
}

fn reaches_all(g: &mut Gate<'_>) -> Result<()> {
    for (name, addresses) in backends(g)? {
        serve(g, "", &addresses)?;
        for what in [Tcp as fn(u16) -> Probe, Udp, Sctp] {
            expect(g, what, Outcome::Allowed).context(name)?;
        }
        for (address, port) in doors(g)? {
            let at = || format!("{name} at {address}");
            let to = SocketAddr::new(address, port);
            wait_until(&format!("{name} answers"), PATIENCE, || {
                Ok(names(g.s.node.namespace(), to).with_context(at)?.0.contains(name))
            })?;
            let (who, peer, by) = names(g.s.node.namespace(), to).with_context(at)?;
            ensure!(who.contains(name) && peer == to && by == to, "{who} at {peer} and {by}, asked {to}");
            much_comes_whole(g.s.node.namespace(), (address, port), &who).with_context(at)?;
            // By loopback the stack cuts nothing for somebody who is elsewhere.
            if port != NODE_PORT || name == "node1" {
                pieces_come_whole(g.s.node.namespace(), (address, port), &who).with_context(at)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_process_reaches_a_pod_a_host_elsewhere_and_the_node_itself_by_every_address_of_a_service() -> Result<()> {
    node(without(), |g| {
        reaches_all(g)?;
        ensure!(led(g)? == ["lo Egress from_node", "eth0 Egress from_node"], "{:?}", led(g)?);
        let said = g.s.node.show("status")?["nodeSockets"].to_string();
        ensure!(said.contains("reach services packet by packet: cgroup is none"), "{said}");
        Ok(())
    })
}

#[test]
fn by_clsact_and_where_sources_are_checked_strictly_a_process_reaches_all_of_them_too() -> Result<()> {
    node(without().by_clsact(), |g| {
        g.s.node.namespace().sysctl("ipv4/conf/all/rp_filter", "1")?;
        reaches_all(g)
    })
}

#[test]
fn a_backend_with_a_smaller_mtu_is_sent_no_more_than_it_takes() -> Result<()> {
    node(without().argument("--mtu").argument("1300"), |g| {
        let (name, addresses) = backends(g)?.remove(0);
        serve(g, "", &addresses)?;
        expect(g, Tcp, Outcome::Allowed)?;
        for door in doors(g)? {
            let (who, ..) = names(g.s.node.namespace(), SocketAddr::new(door.0, door.1))?;
            ensure!(who.contains(name), "{who}");
            let mut stream = g.s.node.namespace().inside(|| Ok(TcpStream::connect(door)?))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            read_line(&mut stream)?;
            let word = ["m".repeat(60_000).as_str(), "\n"].concat();
            std::io::Write::write_all(&mut stream, word.as_bytes())?;
            ensure!(read_line(&mut stream)?.len() == 60_000, "{door:?}: more than a segment comes back");
        }
        Ok(())
    })
}

#[test]
fn flows_live_while_the_agent_dies_and_end_with_their_backend_and_nobody_refuses() -> Result<()> {
    node(without(), |g| {
        for (name, addresses) in backends(g)? {
            serve(g, "", &addresses)?;
            expect(g, Tcp, Outcome::Allowed).context(name)?;
            let mut live = Vec::new();
            for (address, port) in doors(g)? {
                live.push((Connection::open(g.s.node.namespace(), address, port)?, address));
            }
            g.s.node.agent.kill()?;
            for (connection, address) in &mut live {
                ensure!(connection.answers()?, "{name} at {address}: the agent is dead");
            }
            expect(g, Tcp, Outcome::Allowed).context("the agent is dead")?;
            g.s.node.start()?;
            for (connection, address) in &mut live {
                ensure!(connection.answers()?, "{name} at {address}: the next agent");
            }
            serve(g, "", &[])?;
            for (mut connection, address) in live {
                wait_until(&format!("{name} at {address}: the connection is reset"), PATIENCE, || {
                    Ok(connection.answers().is_err())
                })?;
            }
            for what in [Tcp as fn(u16) -> Probe, Udp] {
                expect(g, what, Outcome::Reset).context(name)?;
            }
        }
        Ok(())
    })
}

#[test]
fn hep_12_the_uplinks_host_endpoint_is_asked_about_the_backend_and_pods_about_nothing() -> Result<()> {
    node(without(), |g| {
        let all = backends(g)?;
        let egress = |port: u16| {
            let rules = format!("egress: [{{ action: Allow, protocol: TCP, destination: {{ ports: [{port}] }} }}]");
            g.global("out", &format!("{{ selector: host == 'up', types: [Ingress, Egress], ingress: [], {rules} }}"))
        };
        egress(WEB)?;
        g.host_endpoint("up", "interfaceName: eth0")?;
        g.s.policy("x/none", "{ podSelector: {}, policyTypes: [Ingress, Egress] }")?;
        for (port, elsewhere) in [(WEB, true), (443, false)] {
            egress(port)?;
            for (name, addresses) in &all {
                serve(g, "", addresses)?;
                let wanted = if *name == "outside" && !elsewhere { Outcome::Refused } else { Outcome::Allowed };
                let met = |(to, port): &(IpAddr, u16)| probe(g.s.node.namespace(), *to, Tcp(*port));
                wait_until(&format!("{name} behind port {port} is met: {wanted}"), PATIENCE, || {
                    Ok(doors(g)?.iter().map(met).collect::<Result<Vec<_>>>()?.iter().all(|met| {
                        // Whether who is refused is told is a setting of its own.
                        if wanted == Outcome::Allowed { *met == wanted } else { *met != Outcome::Allowed }
                    }))
                })?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_node_that_gets_a_cgroup_keeps_what_was_opened_without_and_one_that_loses_it_what_was_opened_by_it() -> Result<()> {
    let cgroup = Cgroup::create()?;
    node(without(), |g| {
        let restart = |g: &mut Gate<'_>, at: &str| {
            g.s.node.agent.stop()?;
            let mut arguments = g.s.node.agent.arguments().to_vec();
            let flag = arguments.iter().position(|argument| argument == "--cgroup").context("no --cgroup")?;
            arguments[flag + 1] = at.into();
            g.s.node.agent.set_arguments(arguments);
            g.s.node.start()
        };
        let (_, addresses) = backends(g)?.remove(0);
        serve(g, "", &addresses)?;
        expect(g, Tcp, Outcome::Allowed)?;
        let (vip, port) = doors(g)?.pop().context("a door")?;
        let mut by_packet = Connection::open(g.s.node.namespace(), vip, port)?;
        let path = cgroup.path().display().to_string();
        restart(g, &path)?;
        ensure!(by_packet.answers()? && led(g)?.len() == 2, "what was opened goes on");
        let mut by_socket = cgroup.inside(|| Connection::open(g.s.node.namespace(), vip, port))?;
        restart(g, &path)?;
        wait_until("packets are led no more", PATIENCE, || Ok(led(g)?.is_empty()))?;
        ensure!(by_socket.answers()?, "a socket needs no leading");
        restart(g, "none")?;
        ensure!(by_socket.answers()?, "the cgroup is gone");
        expect(g, Tcp, Outcome::Allowed)
    })
}
