//! ARP and neighbour discovery at the pod's door, asked by hand: PKT-1 to PKT-3, PKT-6, PKT-7.
//! In: frames from a pod. Out: who answers, and with which MAC.
//! Invariant: the node has no default route and no proxy ARP, where Calico stays silent.
//! Never: trusts a pod's neighbour table, which may hold what the kernel guessed.

use crate::story::{Story, story};
use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, Ipv6Addr};
use tests::{Outcome, Probe::Tcp, frame::FrameSocket};

const GATEWAY_MAC: [u8; 6] = [0xee; 6];
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

fn own(s: &Story) -> Result<(FrameSocket, Ipv4Addr, Ipv6Addr)> {
    let pod = s.pod("x/a")?;
    let v4 = pod.addresses().iter().find_map(|address| match address {
        std::net::IpAddr::V4(v4) => Some(*v4),
        std::net::IpAddr::V6(_) => None,
    });
    let v6 = pod.addresses().iter().find_map(|address| match address {
        std::net::IpAddr::V6(v6) => Some(*v6),
        std::net::IpAddr::V4(_) => None,
    });
    let socket = FrameSocket::open(pod.namespace(), "eth0")?;
    Ok((socket, v4.context("no IPv4 address")?, v6.context("no IPv6 address")?))
}

/// The conditions under which Calico gives no answer (its issue 3270).
fn bare_node(s: &Story) -> Result<()> {
    for family in ["-4", "-6"] {
        let routes = s.node.namespace().ip_json(&format!("{family} route show default"))?;
        assert_eq!(routes.as_array().map(Vec::len), Some(0), "the node has a default route: {routes}");
    }
    let interface = s.pod("x/a")?.host_interface();
    let proxy = |path: &str| s.node.namespace().read(&format!("/proc/sys/net/{path}"));
    assert_eq!(proxy(&format!("ipv4/conf/{interface}/proxy_arp"))?.trim(), "0");
    assert_eq!(proxy("ipv4/conf/all/proxy_arp")?.trim(), "0");
    Ok(())
}

#[test]
fn pkt_1_the_gateway_is_answered_without_default_route_and_proxy_arp() -> Result<()> {
    story(&["x/a"], |s| {
        bare_node(s)?;
        let (socket, v4, v6) = own(s)?;
        assert_eq!(socket.arp(v4, GATEWAY_V4)?, Some(GATEWAY_MAC));
        assert_eq!(socket.solicit(v6, GATEWAY_V6)?, Some(GATEWAY_MAC));
        Ok(())
    })
}

#[test]
fn pkt_2_any_other_address_is_answered_and_the_own_one_is_not() -> Result<()> {
    story(&["x/a"], |s| {
        let (socket, v4, v6) = own(s)?;
        assert_eq!(socket.arp(v4, Ipv4Addr::new(203, 0, 113, 9))?, Some(GATEWAY_MAC));
        assert_eq!(socket.solicit(v6, "2001:db8:9::9".parse()?)?, Some(GATEWAY_MAC));
        assert_eq!(socket.arp(v4, v4)?, None);
        assert_eq!(socket.solicit("fe80::9".parse()?, v6)?, None);
        Ok(())
    })
}

#[test]
fn pkt_7_an_address_probe_is_not_answered() -> Result<()> {
    story(&["x/a"], |s| {
        let (socket, v4, v6) = own(s)?;
        for target in [v4, Ipv4Addr::new(203, 0, 113, 9)] {
            assert_eq!(socket.arp(Ipv4Addr::UNSPECIFIED, target)?, None, "{target}");
        }
        for target in [v6, "fe80::9".parse()?] {
            assert_eq!(socket.solicit(Ipv6Addr::UNSPECIFIED, target)?, None, "{target}");
        }
        Ok(())
    })
}

#[test]
fn pkt_3_an_announcement_is_not_answered_and_poisons_nobody() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let (socket, _, _) = own(s)?;
        let Some(std::net::IpAddr::V4(other)) = s.pod("x/b")?.addresses().first().copied() else {
            anyhow::bail!("x/b has no IPv4 address")
        };
        assert_eq!(socket.arp(other, other)?, None);
        s.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -\n node1 . .")
    })
}

#[test]
fn own_11_a_forged_source_reaches_nobody_and_is_counted() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let pod = s.pod("x/a")?;
        // The pod takes an address that is not its own, and speaks from it.
        pod.namespace()
            .ip(&["address add 10.65.255.9/32 dev eth0", "route replace default via 169.254.1.1 src 10.65.255.9"])?;
        assert_eq!(pod.probe(s.pod("x/b")?, Tcp(80))?, Outcome::Refused);
        let drops = s.node.show("drops")?.to_string();
        assert!(drops.contains("spoofed"), "{drops}");
        pod.namespace().ip(&["route replace default via 169.254.1.1", "address del 10.65.255.9/32 dev eth0"])?;
        s.expect(Tcp(80), "x/b\n x/a .")
    })
}
