//! Outside of all pools: a pod whose pool has `natOutgoing` is seen as its node, and hears its answers.
//! In: a node, a host outside that knows no way to pods. Out: whom that host sees, and what pods hear.
//! Invariant: nothing of it is in nftables or iptables; both families learn the same.
//! Never: a route to a pod outside, unless a test says so.

use crate::{
    clean::rules,
    services,
    story::{Story, story},
    way::{FAR, far_host, learns_of_the_narrow_link},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};
use tests::{
    Fabric, NetNs, Outcome, Probe, Servers, fabric,
    flow::Connection,
    probe::probe,
    server::Listen,
    wait::{PATIENCE, wait_until},
    way::{Kind, Way},
};

/// The pools of the cluster, masqueraded or not, and more of the kind.
fn pools(s: &Story, nat_outgoing: bool, more: &str) -> Result<()> {
    let pool = |name: &str, cidr: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: {name} }}\n\
             spec: {{ cidr: '{cidr}', natOutgoing: {nat_outgoing} }}\n---\n"
        )
    };
    s.cluster
        .manifest("pools", &format!("{}{}{more}", pool("pool-v4", "10.65.0.0/16"), pool("pool-v6", "fd00:65::/64")))
}

fn felix(s: &Story, spec: &str) -> Result<()> {
    let text = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: { name: default }\nspec: ";
    s.cluster.manifest("felix", &format!("{text}{spec}\n"))
}

fn outside() -> Result<[IpAddr; 2]> {
    Ok([fabric::OUTSIDE_V4.parse()?, fabric::OUTSIDE_V6.parse()?])
}

/// Two pods of masqueraded pools, and servers outside.
fn masquerading(test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let _servers = Servers::start(s.cluster.outside(), "outside", &[Listen::Tcp(80), Listen::Udp(80)])?;
        pools(s, true, "")?;
        // By ping: a connection that was tried before, in the pod's own name, would go on so when its port comes round again.
        wait_until("pods are masqueraded", PATIENCE, || reaches(s, Probe::Ping, Outcome::Allowed))?;
        test(s)
    })
}

/// Whether a pod's probe of the host outside has this outcome, in both families.
fn reaches(s: &Story, what: Probe, outcome: Outcome) -> Result<bool> {
    let from = s.pod("x/a")?.namespace();
    outside()?.into_iter().try_fold(true, |all, to| Ok(all & (probe(from, to, what)? == outcome)))
}

/// Whom the host outside sees.
fn seen(s: &Story, to: IpAddr) -> Result<SocketAddr> {
    let server = s.cluster.outside().inside(|| Ok(TcpListener::bind((to, 81))?))?;
    let accepts = thread::spawn(move || server.accept().map(|(_, from)| from));
    let _stream = s.pod("x/a")?.namespace().inside(|| Ok(TcpStream::connect_timeout(&(to, 81).into(), PATIENCE)?))?;
    Ok(accepts.join().ok().context("it accepts")??)
}

fn own(s: &Story, like: IpAddr) -> Result<IpAddr> {
    s.node.addresses().into_iter().find(|own| own.is_ipv4() == like.is_ipv4()).context("an address of the family")
}

/// A datagram and its echo.
fn echoes(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"meow\n")?;
    let mut heard = [0; 64];
    let length = socket.recv(&mut heard)?;
    ensure!(heard[..length].ends_with(b"meow\n"), "heard {:?}", &heard[..length]);
    Ok(())
}

fn bound(at: &NetNs, port: u16, to: IpAddr) -> Result<UdpSocket> {
    at.inside(|| {
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse()?;
        let socket = UdpSocket::bind((any, port))?;
        socket.connect((to, 80))?;
        Ok(socket)
    })
}

#[test]
fn ipam_26_who_is_outside_sees_the_node_and_the_pod_hears_its_answers() -> Result<()> {
    masquerading(|s| {
        for what in [Probe::Tcp(80), Probe::Udp(80), Probe::Ping] {
            ensure!(reaches(s, what, Outcome::Allowed)?, "{what}");
        }
        for to in outside()? {
            let from = seen(s, to)?;
            assert_eq!(from.ip(), own(s, to)?);
            assert!((1025..30_000).contains(&from.port()), "{from}");
        }
        assert_eq!(rules(s.node.namespace())?, "");
        s.expect(Probe::Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}

#[test]
fn explain_says_as_whom_a_pods_packets_leave_and_as_whom_its_flows_did() -> Result<()> {
    masquerading(|s| {
        let explained = |to: &str| -> Result<Value> {
            let said = s.node.tortie(&["explain", "--from", "x/a", "--to", to, "--port", "80", "--output", "json"])?;
            Ok(serde_json::from_slice(&said.stdout)?)
        };
        for to in outside()? {
            let connection = Connection::open(s.pod("x/a")?.namespace(), to, 80)?;
            let said = explained(&to.to_string())?;
            let (own, pool) = (own(s, to)?, if to.is_ipv4() { "pool-v4" } else { "pool-v6" });
            assert_eq!(said["leavesAs"], format!("{own}, by a port of 1025 to 29999: natOutgoing of pool {pool}"));
            let left: SocketAddr = said["flows"][0]["masqueradedAs"].as_str().context("a flow")?.parse()?;
            assert!(left.ip() == own && (1025..30_000).contains(&left.port()), "{left}");
            drop(connection);
        }
        for inside in ["x/b", &s.node.addresses()[0].to_string()] {
            assert_eq!(explained(inside)?["leavesAs"], Value::Null, "{inside}");
        }
        felix(s, "{ natOutgoingAddress: 192.0.2.77, natPortRange: '4000:4100' }")?;
        wait_until("another address, other ports", PATIENCE, || {
            let said = explained(&outside()?[0].to_string())?["leavesAs"].to_string();
            Ok(said.contains("192.0.2.77, by a port of 4000 to 4100"))
        })
    })
}

#[test]
fn ipam_26_a_service_whose_backend_is_outside_is_asked_as_the_node_and_answers_by_its_own_address() -> Result<()> {
    masquerading(|s| {
        let there: Vec<_> = outside()?.into_iter().map(|address| (address, services::READY.to_owned())).collect();
        services::service(s, "")?;
        s.cluster.manifest("shop-slices", &services::slices_of(&there))?;
        for what in [Probe::Tcp(443), Probe::Udp(53)] {
            services::expect(s, "x/a", what, Outcome::Allowed)?;
        }
        for vip in services::vips() {
            let client = s.pod("x/a")?.namespace().inside(|| {
                let any: IpAddr = if vip.is_ipv4() { "0.0.0.0" } else { "::" }.parse()?;
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect((vip, 53))?;
                Ok(socket)
            })?;
            (0..20).try_for_each(|_| echoes(&client))?;
            let mut connection = Connection::open(s.pod("x/a")?.namespace(), vip, 443)?;
            s.node.agent.kill()?;
            ensure!(connection.answers()?, "without an agent");
            s.node.start()?;
            ensure!(connection.answers()?, "with the next one");
        }
        let flows = s.node.show("conntrack")?;
        let through: Vec<_> =
            flows.as_array().into_iter().flatten().filter(|flow| !flow["service"].is_null()).collect();
        ensure!(!through.is_empty(), "{flows}");
        assert_eq!(rules(s.node.namespace())?, "");
        Ok(())
    })
}

#[test]
fn ipam_26_what_goes_to_a_pool_or_comes_from_one_that_does_not_ask_keeps_its_address() -> Result<()> {
    masquerading(|s| {
        let connection = Connection::open(s.pod("x/a")?.namespace(), outside()?[0], 80)?;
        for address in s.pod("x/a")?.addresses() {
            Fabric::route(s.cluster.outside(), *address, 1)?;
        }
        let is_seen = |s: &Story, by_itself: bool| {
            let pod = s.pod("x/a")?.addresses().to_vec();
            let mut all = outside()?.into_iter();
            all.try_fold(true, |all, to| Ok(all & (pod.contains(&seen(s, to)?.ip()) == by_itself)))
        };
        let until = |what: &str, s: &Story, by_itself| wait_until(what, PATIENCE, || is_seen(s, by_itself));
        let pool = |name: &str, cidr: &str, size: u8| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: {name} }}\n\
                 spec: {{ cidr: '{cidr}', blockSize: {size}, disabled: true }}\n---\n"
            )
        };
        let around = format!("{}{}", pool("o4", "192.0.2.252/30", 30), pool("o6", "2001:db8::f0/124", 124));
        pools(s, true, &around)?;
        until("the host outside is in a pool", s, true)?;
        pools(s, true, "")?;
        until("it is in none", s, false)?;
        pools(s, false, "")?;
        until("nothing is masqueraded", s, true)?;
        pools(s, true, "")?;
        until("it is again", s, false)?;
        felix(s, "{ natOutgoingExclusions: IPPoolsAndHostIPs }")?;
        let node = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{ name: other }}\nstatus: {{ addresses: \
             [{{ type: InternalIP, address: {} }}, {{ type: InternalIP, address: '{}' }}] }}\n",
            fabric::OUTSIDE_V4,
            fabric::OUTSIDE_V6
        );
        s.cluster.manifest("other", &node)?;
        until("it is a node", s, true)?;
        let mut connection = connection;
        ensure!(connection.answers()?, "what was opened before goes on as it was");
        Ok(())
    })
}

#[test]
fn pkt_30_a_pod_hears_of_hops_and_of_a_narrower_link_outside() -> Result<()> {
    masquerading(|s| {
        let _far = far_host(s)?;
        for (target, router) in FAR {
            for kind in [Kind::Udp, Kind::Ping, Kind::Tcp] {
                let way = Way::open(s.pod("x/a")?.namespace(), kind, SocketAddr::new(target.parse()?, 33434))?;
                way.hops(2)?;
                way.send(60)?;
                assert_eq!(
                    way.told().with_context(|| format!("{kind:?} to {target}"))?.from,
                    router.parse::<IpAddr>()?
                );
            }
        }
        learns_of_the_narrow_link(s)
    })
}

#[test]
fn pkt_79_the_nodes_own_sockets_and_a_pod_by_the_same_port_both_hear_their_answers() -> Result<()> {
    masquerading(|s| {
        felix(s, "{ natPortRange: '20000:20001' }")?;
        wait_until("ports are those", PATIENCE, || Ok((20_000..=20_001).contains(&seen(s, outside()?[0])?.port())))?;
        for to in outside()? {
            let node = bound(s.node.namespace(), 20_000, to)?;
            echoes(&node)?;
            let pod = bound(s.pod("x/a")?.namespace(), 20_000, to)?;
            for _ in 0..20 {
                echoes(&pod).context("the pod")?;
                echoes(&node).context("the node")?;
            }
            // There is one port for one pod now.
            let other = bound(s.pod("x/b")?.namespace(), 20_000, to)?;
            other.set_read_timeout(Some(tests::probe::SILENCE))?;
            other.send(b"meow\n")?;
            ensure!(other.recv(&mut [0; 8]).is_err(), "no port is left");
        }
        let dropped = s.node.show("drops")?.to_string();
        ensure!(dropped.contains("nat-collision"), "{dropped}");
        Ok(())
    })
}

#[test]
fn thousands_of_flows_to_one_receiver_each_hear_their_own_answers() -> Result<()> {
    masquerading(|s| {
        for to in outside()? {
            let mut ports = BTreeSet::new();
            for _ in 0..2000 {
                let socket = bound(s.pod("x/a")?.namespace(), 0, to)?;
                echoes(&socket)?;
                ports.insert(socket.local_addr()?.port());
            }
            ensure!(ports.len() > 1000, "{}", ports.len());
            let open: Vec<_> =
                (0..300).map(|_| Connection::open(s.pod("x/a")?.namespace(), to, 80)).collect::<Result<_>>()?;
            for mut connection in open {
                ensure!(connection.answers()?);
            }
        }
        Ok(())
    })
}

#[test]
fn a_large_transfer_comes_through_and_connections_outlive_the_agent() -> Result<()> {
    masquerading(|s| {
        // Narrower than the pods: each is told, of segments that its card is to make, too.
        s.node.namespace().ip(&["link set eth0 mtu 1400"])?;
        for to in outside()? {
            const LENGTH: usize = 8 << 20;
            let server = s.cluster.outside().inside(|| Ok(TcpListener::bind((to, 82))?))?;
            let sink = thread::spawn(move || -> std::io::Result<usize> {
                let (mut stream, _) = server.accept()?;
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard)?;
                Ok(heard.len())
            });
            let pod = s.pod("x/a")?.namespace();
            let mut stream = pod.inside(|| Ok(TcpStream::connect_timeout(&(to, 82).into(), PATIENCE)?))?;
            stream.write_all(&vec![7; LENGTH])?;
            drop(stream);
            assert_eq!(sink.join().ok().context("it ends")??, LENGTH);
        }
        let mut open = outside()?
            .map(|to| Connection::open(s.pod("x/a")?.namespace(), to, 80))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        s.node.agent.kill()?;
        for connection in &mut open {
            ensure!(connection.answers()?, "without an agent");
        }
        ensure!(reaches(s, Probe::Udp(80), Outcome::Allowed)?, "new flows, too");
        s.node.start()?;
        for connection in &mut open {
            ensure!(connection.answers()?, "with the next one");
        }
        ensure!(reaches(s, Probe::Tcp(80), Outcome::Allowed)?);
        Ok(())
    })
}
