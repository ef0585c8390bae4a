//! The way from a pod: hops, MTUs and refusals, as the pod's own stack learns of them by real ICMP errors.
//! In: a node, pods whose policy lets nobody in, a router outside with a narrower link. Out: what their sockets are told.
//! Invariant: no global sysctl is set on the node; both families learn the same.
//! Never: trusts a capture; the kernel that got the error has checked it.

use crate::story::{Story, story};
use anyhow::{Context as _, Result};
use std::net::{IpAddr, SocketAddr};
use tests::{
    Fabric, NetNs, PodSpec, fabric,
    wait::{PATIENCE, wait_until},
    way::{Kind, Way},
};

/// `x/a` and what it sends may not be answered by anything but errors: nobody may send to it.
pub fn alone(s: &Story) -> Result<()> {
    s.policy("x/alone", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }")?;
    s.wait_probe("x/b", "x/a", tests::Probe::Tcp(80), tests::Outcome::Refused)
}

fn of_family(addresses: &[IpAddr], v4: bool) -> Result<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == v4).context("no address of the family")
}

fn outside(v4: bool) -> Result<IpAddr> {
    Ok(if v4 { fabric::OUTSIDE_V4 } else { fabric::OUTSIDE_V6 }.parse()?)
}

#[test]
fn own_19_pkt_34_traceroute_shows_the_node_to_a_pod_that_lets_nobody_in() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        alone(s)?;
        for v4 in [true, false] {
            let node = of_family(&s.node.addresses(), v4)?;
            for target in [of_family(s.pod("x/b")?.addresses(), v4)?, outside(v4)?] {
                for kind in [Kind::Udp, Kind::Ping, Kind::Tcp] {
                    let way = Way::open(s.pod("x/a")?.namespace(), kind, SocketAddr::new(target, 33434))?;
                    way.hops(1)?;
                    way.send(60)?;
                    let told = way.told().with_context(|| format!("{kind:?} to {target}"))?;
                    assert_eq!(told.from, node, "{kind:?} to {target}");
                    assert_eq!(told.about, if v4 { (11, 0) } else { (3, 0) }, "{kind:?} to {target}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn pkt_32_pkt_33_a_pod_learns_the_mtu_of_another_pod() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let mut narrow = PodSpec::new("x/narrow");
        narrow.conf = serde_json::json!({ "mtu": 1300 });
        s.add(&narrow)?;
        alone(s)?;
        for v4 in [true, false] {
            let target = of_family(s.pod("x/narrow")?.addresses(), v4)?;
            let way = Way::open(s.pod("x/a")?.namespace(), Kind::Udp, SocketAddr::new(target, 9))?;
            assert_eq!(way.mtu()?, 1500, "before");
            way.send(1400)?;
            let told = way.told()?;
            assert_eq!((told.from, told.mtu), (of_family(&s.node.addresses(), v4)?, 1300), "{target}");
            assert_eq!(way.mtu()?, 1300, "{target}: the pod's kernel has learned it");
        }
        Ok(())
    })
}

/// A host behind the outside one, by a link of 1400 bytes, which the outside one routes to.
pub fn far_host(s: &Story) -> Result<NetNs> {
    let far = NetNs::create(s.cluster.stem(), "far")?;
    let router = s.cluster.outside();
    router.ip(&[
        &format!("link add narrow type veth peer name eth0 netns {}", far.name()),
        "link set narrow mtu 1400 up",
        "address add 198.51.100.1/24 dev narrow",
        "address add 2001:db8:64::1/64 dev narrow nodad",
    ])?;
    far.ip(&[
        "link set eth0 mtu 1400 up",
        "address add 198.51.100.2/24 dev eth0",
        "address add 2001:db8:64::2/64 dev eth0 nodad",
        "route add default via 198.51.100.1",
        "route add default via 2001:db8:64::1",
    ])?;
    router.sysctl("ipv4/ip_forward", "1")?;
    router.sysctl("ipv6/conf/all/forwarding", "1")?;
    s.node.namespace().ip(&[
        &format!("route add 198.51.100.0/24 via {}", fabric::OUTSIDE_V4),
        &format!("route add 2001:db8:64::/64 via {}", fabric::OUTSIDE_V6),
    ])?;
    for address in s.pod("x/a")?.addresses() {
        Fabric::route(router, *address, 1)?;
    }
    Ok(far)
}

/// Where the host behind that link is, of each family, and who routes to it.
pub const FAR: [(&str, &str); 2] = [("198.51.100.2", fabric::OUTSIDE_V4), ("2001:db8:64::2", fabric::OUTSIDE_V6)];

/// The router tells x/a of the link's MTU, and the pod's kernel learns it.
pub fn learns_of_the_narrow_link(s: &Story) -> Result<()> {
    for (target, router) in FAR {
        let way = Way::open(s.pod("x/a")?.namespace(), Kind::Udp, SocketAddr::new(target.parse()?, 9))?;
        way.send(1500)?;
        let told = way.told()?;
        assert_eq!((told.from, told.mtu), (router.parse()?, 1400), "{target}");
        assert_eq!(way.mtu()?, 1400, "{target}: the pod's kernel has learned it");
    }
    Ok(())
}

#[test]
fn own_10_a_pod_that_lets_nobody_in_learns_the_mtu_of_a_link_outside() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let _far = far_host(s)?;
        alone(s)?;
        learns_of_the_narrow_link(s)
    })
}

#[test]
fn pkt_32_pkt_33_a_host_outside_learns_the_mtu_of_a_pod() -> Result<()> {
    story(&[], |s| {
        s.cluster.namespace("x", &[("ns", "x")])?;
        let mut narrow = PodSpec::new("x/a");
        narrow.conf = serde_json::json!({ "mtu": 1300 });
        s.add(&narrow)?;
        for address in s.pod("x/a")?.addresses() {
            Fabric::route(s.cluster.outside(), *address, 1)?;
            let way = Way::open(s.cluster.outside(), Kind::Udp, SocketAddr::new(*address, 9))?;
            way.send(1400)?;
            let told = way.told()?;
            assert_eq!((told.from, told.mtu), (of_family(&s.node.addresses(), address.is_ipv4())?, 1300), "{address}");
            assert_eq!(way.mtu()?, 1300, "{address}: the host's kernel has learned it");
        }
        Ok(())
    })
}

#[test]
fn pkt_35_a_way_that_is_refused_or_not_there_is_told() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        alone(s)?;
        s.node.namespace().ip(&[
            "route add unreachable 203.0.113.0/25",
            "route add prohibit 203.0.113.128/25",
            "route add unreachable 2001:db8:a::/48",
            "route add prohibit 2001:db8:b::/48",
        ])?;
        // The last of each family: no route at all, which the stack says.
        for (target, about) in [
            ("203.0.113.1", (3, 1)),
            ("203.0.113.129", (3, 13)),
            ("203.0.114.1", (3, 0)),
            ("2001:db8:a::1", (1, 0)),
            ("2001:db8:b::1", (1, 1)),
            ("2001:db8:c::1", (1, 0)),
        ] {
            let way = Way::open(s.pod("x/a")?.namespace(), Kind::Udp, SocketAddr::new(target.parse()?, 9))?;
            way.send(60)?;
            assert_eq!(way.told()?.about, about, "{target}");
        }
        Ok(())
    })
}

#[test]
fn pkt_7_a_pod_that_tries_the_gateways_address_learns_that_it_is_taken() -> Result<()> {
    story(&["x/a"], |s| {
        let pod = s.pod("x/a")?.namespace();
        for (name, value) in [("accept_dad", "1"), ("dad_transmits", "1")] {
            pod.sysctl(&format!("ipv6/conf/eth0/{name}"), value)?;
        }
        pod.ip(&["address add fe80::ecee:eeff:feee:eeee/64 dev eth0"])?;
        wait_until("the pod's kernel finds the duplicate", PATIENCE, || {
            Ok(pod.ip_json("-6 address show dev eth0")?.to_string().contains("dadfailed"))
        })
    })
}

#[test]
fn a_queue_that_appears_on_a_pods_interface_is_heeded_from_the_next_pass_on() -> Result<()> {
    story(&["x/a", "x/b"], |s| {
        let interface = s.pod("x/b")?.host_interface().to_owned();
        let node = s.node.namespace();
        let sent = || -> Result<u64> {
            let shown =
                node.command(std::path::Path::new("tc"))?.args(["-s", "qdisc", "show", "dev", &interface]).output()?;
            let text = String::from_utf8(shown.stdout)?;
            let mut words = text.split_whitespace().skip_while(|word| *word != "Sent").skip(1);
            words.next().and_then(|bytes| bytes.parse().ok()).with_context(|| format!("no count in {text}"))
        };
        let added = node
            .command(std::path::Path::new("tc"))?
            .args(["qdisc", "add", "dev", &interface, "root", "pfifo"])
            .status()?;
        assert!(added.success());
        wait_until("packets for the pod pass its queue", PATIENCE, || {
            let before = sent()?;
            s.probe("x/a", "x/b", tests::Probe::Udp(80))?;
            Ok(sent()? > before)
        })
    })
}
