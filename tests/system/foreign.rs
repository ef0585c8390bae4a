//! Beside others: rules of the host's own, nodes that do not forward, addresses of tunnels, packets that belong to nobody.
//! In: a node whose owner has set it up in his own way. Out: what pods and host endpoints make of it.
//! Invariant: what the test adds to the host is the host's, and the agent leaves it there.
//! Never: a rule of ours in netfilter.

use crate::{hep::gate, story::story};
use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};
use tests::{
    NetNs, Outcome,
    Probe::{Ping, Tcp, Udp},
    fabric::{OUTSIDE_V4, OUTSIDE_V6},
    netns,
    probe::{SILENCE, probe},
    raw,
};

/// Rules that somebody else has made; they go when this is dropped.
pub struct Rules<'a>(&'a NetNs);

/// Puts chains into a table of nftables.
pub fn rules_of_the_hosts_own<'a>(namespace: &'a NetNs, chains: &str) -> Result<Rules<'a>> {
    nft(namespace, &format!("table inet somebody {{\n{chains}\n}}\n"))?;
    Ok(Rules(namespace))
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        // With the namespace they are gone in any case.
        let _ = nft(self.0, "delete table inet somebody");
    }
}

fn nft(namespace: &NetNs, text: &str) -> Result<String> {
    let path = ["/usr/sbin/nft", "/sbin/nft", "/bin/nft"].map(Path::new).into_iter().find(|path| path.exists());
    netns::run(namespace.command(path.context("nft is not installed")?)?.arg(text))
}

#[test]
fn hep_15_a_host_that_drops_what_it_forwards_keeps_no_pod_from_anybody() -> Result<()> {
    gate(&["x/a", "x/b"], |g| {
        let closed = "chain f { type filter hook forward priority 0; policy drop; }";
        let _rules = rules_of_the_hosts_own(g.s.node.namespace(), closed)?;
        let open = "      x/a x/b outside\n x/a - . .\n x/b . - .\n node1 . . -\n outside . . -";
        for what in [Tcp(80), Udp(80), Ping] {
            g.expect(what, open)?;
        }
        // With a host endpoint on the way, too.
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect(Tcp(80), "outside\n node1 X")?;
        g.expect_now(Tcp(80), open)
    })
}

#[test]
fn hep_14_on_a_node_that_does_not_forward_host_endpoints_police_what_is_its_own() -> Result<()> {
    gate(&[], |g| {
        let node = g.s.node.namespace();
        node.sysctl("ipv4/ip_forward", "0")?;
        node.sysctl("ipv6/conf/all/forwarding", "0")?;
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect_ports(&[22, 2379, 6443], &[2379, 6443])?;
        g.global(
            "http",
            "{ selector: has(host), types: [Ingress, Egress], \
               ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }], \
               egress: [{ action: Allow, protocol: TCP, destination: { ports: [8055] } }] }",
        )?;
        g.expect_ports(&[22, 80, 2379, 6443], &[2379, 6443, 8055])?;
        ensure!(node.read("/proc/sys/net/ipv4/ip_forward")?.trim() == "0", "the whole node's setting is its owner's");
        Ok(())
    })
}

#[test]
fn own_15_a_kubelets_probes_from_any_address_of_its_node_reach_a_pod_that_lets_nobody_in() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        // A second address of the uplink, and a tunnel's.
        let more = ["192.0.2.201", "2001:db8::201", "10.98.0.1", "fd98::1"];
        s.node.namespace().ip(&[
            "address add 192.0.2.201/24 dev eth0",
            "address add 2001:db8::201/64 dev eth0 nodad",
            "link add tunl9 type veth peer name far9",
            "link set far9 up",
            "address add 10.98.0.1/32 dev tunl9",
            "address add fd98::1/128 dev tunl9 nodad",
            "link set tunl9 up",
        ])?;
        s.policy("x/closed", "{ podSelector: {}, policyTypes: [Ingress, Egress] }")?;
        s.expect(Tcp(80), "x/a\n x/b X\n node1 .")?;
        let own: Vec<IpAddr> = more.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        for from in own.into_iter().chain(s.node.addresses()) {
            let to = s.pod("x/a")?.addresses().iter().copied().find(|to| to.is_ipv4() == from.is_ipv4());
            let to = SocketAddr::new(to.context("the pod has both families")?, 80);
            s.node.namespace().inside(|| connect_from(from, to)).with_context(|| format!("from {from} to {to}"))?;
        }
        Ok(())
    })
}

/// Opens a TCP connection from this address.
fn connect_from(from: IpAddr, to: SocketAddr) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None).context("opening a socket")?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(SILENCE)).context("bounding it")?;
    bind(&socket, &SocketAddr::new(from, 0)).context("taking the address")?;
    connect(&socket, &to).context("connecting")
}

#[test]
fn spf_5_a_stray_segment_to_the_node_meets_a_reset_and_no_silence() -> Result<()> {
    gate(&["x/a"], |g| {
        let (outside, own) = (g.s.cluster.outside(), g.s.node.addresses());
        let meets_a_reset = |port: u16| -> Result<bool> {
            let ends = [OUTSIDE_V4, OUTSIDE_V6].iter().zip(&own);
            let all = ends.map(|(from, to)| outside.inside(|| raw::stray_segment(from.parse()?, *to, port, SILENCE)));
            Ok(all.collect::<Result<Vec<bool>>>()?.into_iter().all(|reset| reset))
        };
        ensure!(meets_a_reset(80)?, "without a host endpoint");
        g.host_endpoint("h", "interfaceName: eth0")?;
        g.expect_ports(&[22, 2379, 6443], &[2379, 6443])?;
        ensure!(meets_a_reset(2379)?, "at a port that is open");
        ensure!(!meets_a_reset(80)?, "at a port that is closed there is silence");
        ensure!(probe(outside, own[0], Tcp(80))? == Outcome::Refused, "as there is for whoever opens");
        Ok(())
    })
}
