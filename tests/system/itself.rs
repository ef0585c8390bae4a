//! The node itself: how it gets its address, whom it hears in groups and over loopback, and by how many uplinks.
//! In: a node with an agent. Out: what its own processes, and pods, meet where it is not one card with one address.
//! Invariant: what the node does here it would do without an agent.
//! Never: a route of the agent's on the host outside.

use crate::{hep::gate, story::story};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
};
use tests::{
    NetNs, Outcome,
    Probe::{self, Ping, Tcp, Udp},
    Servers, netns,
    probe::{SILENCE, probe},
    server::Listen,
    wait::{PATIENCE, wait_until},
};

/// What a client does with what it is given: the words are busybox's.
const TAKES: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip address add \"$ip/$mask\" dev \"$interface\"\n";

fn reaches(from: &NetNs, to: IpAddr, what: Probe) -> Result<()> {
    wait_until(&format!("{what} to {to}"), PATIENCE, || Ok(probe(from, to, what)? == Outcome::Allowed))
}

/// busybox as a DHCP server outside, which has one address to give.
struct Leases(Child);

impl Leases {
    fn start(outside: &NetNs, folder: &Path, address: Ipv4Addr) -> Result<Self> {
        let file = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            "start {address}\nend {address}\ninterface br0\nlease_file {}\npidfile {}\nopt subnet 255.255.255.0\nopt lease 600\n",
            file("leases"),
            file("udhcpd.pid"),
        );
        fs::write(file("leases"), "").context("a file of leases")?;
        fs::write(file("udhcpd.conf"), text).context("a server's configuration")?;
        let mut server = outside.command(Path::new("busybox"))?;
        // Before it offers an address it asks so long, in milliseconds, whether somebody has it.
        server.args(["udhcpd", "-f", "-a", "100", &file("udhcpd.conf")]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(server.spawn().context("starting busybox")?))
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // One that has ended is what was wanted.
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// busybox as a client, once.
fn asks(node: &NetNs, script: &Path) -> Result<Command> {
    let mut client = node.command(Path::new("busybox"))?;
    client.args(["udhcpc", "-n", "-q", "-t", "20", "-T", "1", "-i", "eth0", "-s"]).arg(script);
    Ok(client)
}

#[test]
fn hep_7_a_node_gets_its_address_by_dhcp_through_a_host_endpoint_that_lets_nothing_else_in() -> Result<()> {
    gate(&["x/a"], |g| {
        let (node, folder) = (g.s.node.namespace(), g.s.node.directory());
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), "outside\n node1 X")?;
        let _server = Leases::start(g.s.cluster.outside(), folder, "192.0.2.1".parse()?)?;
        let script = folder.join("takes.sh");
        fs::write(&script, TAKES).context("a client's script")?;
        netns::run(Command::new("chmod").arg("+x").arg(&script))?;
        node.ip(&["address del 192.0.2.1/24 dev eth0"])?;
        netns::run(&mut asks(node, &script)?)?;
        let has = node.ip_json("-4 address show dev eth0")?.to_string();
        ensure!(has.contains("192.0.2.1"), "{has}");
        // As before: its pods, and its own failsafe ports.
        g.expect(Tcp(80), "      x/a outside\n x/a - .\n outside . -")?;
        g.expect_ports(&[22, 2379, 6443], &[2379, 6443])
    })
}

#[test]
fn a_node_and_a_host_outside_hear_each_other_in_a_group_and_pods_hear_neither() -> Result<()> {
    story(&["x/a"], |s| {
        const GROUP: Ipv4Addr = Ipv4Addr::new(239, 85, 85, 85);
        let member = |host: &NetNs, own: &str| {
            let own: Ipv4Addr = own.parse()?;
            host.inside(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8585))?;
                socket.join_multicast_v4(&GROUP, &own)?;
                socket.set_read_timeout(Some(SILENCE))?;
                Ok(socket)
            })
        };
        let node = member(s.node.namespace(), "192.0.2.1")?;
        let outside = member(s.cluster.outside(), "192.0.2.254")?;
        let pod = s.pod("x/a")?;
        let IpAddr::V4(own) = pod.address() else { anyhow::bail!("IPv4 first") };
        let inside = member(pod.namespace(), &own.to_string())?;
        s.node.namespace().ip(&[&format!("route replace {GROUP}/32 dev eth0")])?;
        s.cluster.outside().ip(&[&format!("route replace {GROUP}/32 dev br0")])?;
        let heard = |socket: &UdpSocket| socket.recv_from(&mut [0; 9]).is_ok_and(|(length, _)| length == 4);
        for (from, to) in [(&node, &outside), (&outside, &node)] {
            wait_until("the group hears", PATIENCE, || {
                from.send_to(b"word", (GROUP, 8585))?;
                Ok(heard(to))
            })?;
        }
        ensure!(!heard(&inside), "a pod is no member of the node's network");
        Ok(())
    })
}

#[test]
fn hep_10_a_node_speaks_with_itself_by_every_address_whatever_its_host_endpoints_say() -> Result<()> {
    gate(&["x/a"], |g| {
        g.host_endpoint("all", "interfaceName: '*'")?;
        g.expect(Tcp(80), "outside\n node1 X")?;
        let own = ["127.0.0.1", "::1"].map(str::parse).into_iter().collect::<Result<Vec<IpAddr>, _>>()?;
        for to in own.into_iter().chain(g.s.node.addresses()) {
            for what in [Tcp(80), Udp(80), Ping] {
                reaches(g.s.node.namespace(), to, what)?;
            }
        }
        Ok(())
    })
}

/// A second network of node and host outside, over which half of a third's addresses are reached.
fn second_uplink(node: &NetNs, outside: &NetNs) -> Result<()> {
    outside.ip(&[
        &format!("link add second1 type veth peer name eth1 netns {}", node.name()),
        "address add 203.0.113.254/24 dev second1",
        "link set second1 up",
        "address add 198.18.0.0/24 dev lo",
    ])?;
    node.ip(&[
        "address add 203.0.113.1/24 dev eth1",
        "link set eth1 up",
        "route add 198.18.0.0/24 nexthop via 192.0.2.254 nexthop via 203.0.113.254",
    ])?;
    node.sysctl("ipv4/ip_forward", "1")
}

/// Packets that a device has sent.
fn sent(node: &NetNs, device: &str) -> Result<u64> {
    let link = node.ip_json(&format!("-s link show dev {device}"))?;
    link[0]["stats64"]["tx"]["packets"].as_u64().context("a count")
}

#[test]
fn pods_are_reached_and_reach_by_several_uplinks_and_policy_holds_at_each() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        let (node, outside) = (g.s.node.namespace(), g.s.cluster.outside());
        second_uplink(node, outside)?;
        let far = (1..=32).map(|last| IpAddr::from([198, 18, 0, last])).collect::<Vec<_>>();
        let _servers = Servers::start(outside, "far", &[Listen::Tcp(8080), Listen::Udp(8080)])?;
        let pod = g.s.pod("x/a")?;
        let before = [sent(node, "eth0")?, sent(node, "eth1")?];
        for what in [Probe::Tcp(8080), Ping] {
            for to in &far {
                reaches(pod.namespace(), *to, what)?;
            }
        }
        let now = [sent(node, "eth0")?, sent(node, "eth1")?];
        ensure!(now[0] > before[0] + 20 && now[1] > before[1] + 20, "by both: {before:?} {now:?}");
        // What comes in by the second, of which the agent knows nothing.
        let IpAddr::V4(own) = pod.address() else { anyhow::bail!("IPv4 first") };
        outside.ip(&[&format!("route replace {own}/32 via 203.0.113.1")])?;
        for what in [Probe::Tcp(80), Probe::Udp(80), Ping] {
            reaches(outside, own.into(), what)?;
        }
        g.s.policy("x/closed", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }")?;
        g.s.wait_probe("x/b", "x/a", Tcp(80), Outcome::Refused)?;
        ensure!(probe(outside, own.into(), Tcp(80))? == Outcome::Refused, "policy holds there, too");
        Ok(())
    })
}
