//! VXLAN between nodes: two subnets with a router between them, and a peer that is the kernel's own VXLAN as Calico sets it up.
//! In: pods on both nodes. Out: who reaches whom, by which device, and what is dropped.
//! Invariant: packets between pods of the two subnets find no other way: the router knows no pod.
//! Never: routes to pods by hand, but for the kernel's peer.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::net::IpAddr;
use tests::{
    Cluster, NetNs, Node, NodeSpec, Outcome, PodSpec,
    Probe::{Ping, Tcp, Udp},
    Servers, cluster, fabric,
    probe::probe,
    routed::{Routed, claim, describe, routed},
    server::Listen,
    subnets,
    wait::{PATIENCE, wait_until},
};

const DEVICE: &str = "vxlan.calico";

fn wrapped_pools(mode: &str) -> String {
    cluster::pools(26, 122).replace("blockSize:", &format!("vxlanMode: {mode}, blockSize:"))
}

/// Where both nodes have told where their tunnels end, and have their devices.
fn tunnelled(mode: &str, specs: [NodeSpec; 2], test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    routed(&wrapped_pools(mode), specs, |t| {
        for node in &t.nodes {
            wait_until("the device is up", PATIENCE, || is_up(node.namespace()))?;
        }
        test(t)
    })
}

fn two(mode: &str, test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    tunnelled(mode, [NodeSpec::new(1), NodeSpec::new(2)], test)
}

fn is_up(namespace: &NetNs) -> Result<bool> {
    let shown = namespace.ip_json(&format!("-d link show dev {DEVICE}")).unwrap_or_default();
    let is_ours = shown[0]["linkinfo"]["info_data"]["external"] == true;
    Ok(is_ours && shown[0]["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP")))
}

/// Packets that a device has sent.
fn sent(namespace: &NetNs) -> Result<u64> {
    let shown = namespace.ip_json(&format!("-s link show dev {DEVICE}"))?;
    shown[0]["stats64"]["tx"]["packets"].as_u64().context("a count")
}

/// Pods of both nodes do, and these have sent by the tunnel.
fn reach_each_other_by_the_tunnel(mode: &str) -> Result<()> {
    two(mode, |t| {
        t.reach_each_other()?;
        for node in &t.nodes {
            assert!(sent(node.namespace())? > 0, "{} sends by the tunnel", node.name());
        }
        Ok(())
    })
}

#[test]
fn agt_10_pods_of_two_subnets_reach_each_other_by_vxlan_of_both_families() -> Result<()> {
    reach_each_other_by_the_tunnel("Always")
}

#[test]
fn agt_10_pods_of_two_subnets_reach_each_other_by_vxlan_where_only_subnets_are_crossed() -> Result<()> {
    reach_each_other_by_the_tunnel("CrossSubnet")
}

#[test]
fn agt_10_pods_reach_each_other_by_vxlan_with_programs_attached_by_clsact() -> Result<()> {
    tunnelled("Always", [NodeSpec::new(1).by_clsact(), NodeSpec::new(2)], |t| t.reach_each_other())
}

#[test]
fn np_3_a_policy_holds_through_tunnels() -> Result<()> {
    two("CrossSubnet", |t| {
        let spec =
            "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: {} }] }] }".to_owned();
        t.cluster.manifest("x-in", &crate::story::policy("x/in", &spec))?;
        t.expect(Tcp(80), "x/a y/b\n y/a X .\n x/b . .\n y/b X -")?;
        t.expect(Udp(80), "x/a\n x/b .\n y/b X")?;
        t.expect(Ping, "x/a\n x/b .\n y/b X")
    })
}

#[test]
fn a_host_endpoint_that_refuses_all_lets_nodes_wrap_for_each_other() -> Result<()> {
    two("Always", |t| {
        for node in ["node1", "node2"] {
            let text = format!(
                "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{ name: {node}-eth0 }}\nspec: {{ node: {node}, interfaceName: eth0 }}\n"
            );
            t.cluster.manifest(&format!("hep-{node}"), &text)?;
        }
        let far: IpAddr = subnets::far(2)[0].parse()?;
        wait_until("both refuse what is not wrapped", PATIENCE, || {
            probe(t.nodes[0].namespace(), far, Udp(80))?;
            probe(t.nodes[1].namespace(), fabric::addresses(1)[0].parse()?, Udp(80))?;
            let refuses =
                |node: &Node| -> Result<bool> { Ok(node.show("drops")?.to_string().contains("host-endpoint")) };
            Ok(refuses(&t.nodes[0])? && refuses(&t.nodes[1])?)
        })?;
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}

#[test]
fn pkt_61_pods_and_the_device_have_the_mtu_that_the_tunnel_leaves() -> Result<()> {
    two("Always", |t| {
        let mtu = |namespace: &NetNs, device: &str| -> Result<u64> {
            namespace.ip_json(&format!("link show dev {device}"))?[0]["mtu"].as_u64().context("an MTU")
        };
        assert_eq!(mtu(t.nodes[0].namespace(), DEVICE)?, 1430, "outer headers may be of IPv6");
        assert_eq!(mtu(t.pods["x/a"].namespace(), "eth0")?, 1430);
        let text = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: { name: default }\nspec: { vxlanMTU: 1400, vxlanMTUV6: 1350 }\n";
        t.cluster.manifest("felix", text)?;
        for node in &t.nodes {
            wait_until("the device has the MTU that is said", PATIENCE, || Ok(mtu(node.namespace(), DEVICE)? == 1350))?;
        }
        let pod = t.nodes[0].pod(&t.cluster, &PodSpec::new("x/late"))?;
        assert_eq!(mtu(pod.namespace(), "eth0")?, 1350, "of who comes from then on");
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}

#[test]
fn the_device_goes_and_comes_back_and_is_gone_after_cleanup() -> Result<()> {
    two("Always", |t| {
        t.expect(Ping, "x/a\n x/b .")?;
        t.nodes[0].namespace().ip(&[&format!("link del {DEVICE}")])?;
        t.expect(Ping, "x/a\n x/b .")?;
        t.nodes[0].namespace().ip(&[&format!("link set {DEVICE} down")])?;
        t.expect(Ping, "x/a\n x/b .")?;
        let end = told_end(t, &t.nodes[0])?;
        t.nodes[0].restart()?;
        assert_eq!(told_end(t, &t.nodes[0])?, end, "the same address");
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        t.nodes[0].agent.stop()?;
        t.expect(Ping, "x/a x/b\n x/a - .\n x/b . -")?;
        let cleaned = t.nodes[0].cleanup()?;
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        let links = t.nodes[0].namespace().ip_json("link show")?.to_string();
        assert!(!links.contains(DEVICE), "{links}");
        Ok(())
    })
}

/// What FelixConfiguration says for every node.
fn configure(cluster: &Cluster, spec: &str) -> Result<()> {
    let head = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: { name: default }";
    cluster.manifest("felix", &format!("{head}\nspec: {{ {spec} }}\n"))
}

/// Both devices are up at this port.
fn are_at(t: &Routed, port: u16) -> Result<()> {
    for node in &t.nodes {
        wait_until("the device has the port that is said", PATIENCE, || {
            let shown = node.namespace().ip_json(&format!("-d link show dev {DEVICE}")).unwrap_or_default();
            Ok(is_up(node.namespace())? && shown[0]["linkinfo"]["info_data"]["port"] == port)
        })?;
    }
    Ok(())
}

#[test]
fn agt_10_nodes_speak_the_network_and_the_port_that_are_said_from_then_on_with_calicos_too() -> Result<()> {
    two("Always", |t| {
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        // A flow of a pod's own to a port that is not that of tunnels yet.
        let (pod, node) = (&t.pods["x/a"], fabric::addresses(1)[0].parse()?);
        let servers = Servers::start(t.nodes[0].namespace(), "node1", &[Listen::Udp(4790)])?;
        wait_until("a port like any", PATIENCE, || Ok(probe(pod.namespace(), node, Udp(4790))? == Outcome::Allowed))?;
        drop(servers);
        configure(&t.cluster, "vxlanVNI: 7, vxlanPort: 4790")?;
        are_at(t, 4790)?;
        t.reach_each_other()?;
        let spoofed = || -> Result<bool> {
            let drops = t.nodes[0].show("drops")?;
            let is_it = |row: &Value| row["pod"] == "x/a" && row["reason"] == "encapsulated";
            Ok(drops.as_array().is_some_and(|rows| rows.iter().any(is_it)))
        };
        wait_until("no pod sends into the tunnels", PATIENCE, || {
            let refused = probe(pod.namespace(), node, Udp(4790))? == Outcome::Refused;
            Ok(refused && spoofed()?)
        })?;
        let peer = Peer::create(&t.cluster, 9, (7, 4790))?;
        peer.describe(&t.cluster)?;
        peer.learn_first(t)?;
        let there: IpAddr = PEER_POD.parse()?;
        let _servers = Servers::start(&peer.namespace, "peer", &[Listen::Tcp(80), Listen::Udp(80)])?;
        for what in [Ping, Tcp(80), Udp(80)] {
            wait_until("the pod reaches the peer's", PATIENCE, || {
                Ok(probe(pod.namespace(), there, what)? == Outcome::Allowed)
            })?;
            wait_until("the peer's reaches the pod", PATIENCE, || {
                Ok(probe(&peer.namespace, pod.address(), what)? == Outcome::Allowed)
            })?;
        }
        // The network alone: the devices stay, and the peer is in another.
        let index = |node: &Node| {
            Ok::<_, anyhow::Error>(node.namespace().ip_json(&format!("link show dev {DEVICE}"))?[0]["ifindex"].clone())
        };
        let before = index(&t.nodes[0])?;
        configure(&t.cluster, "vxlanVNI: 8, vxlanPort: 4790")?;
        wait_until("it is in another network", PATIENCE, || {
            Ok(probe(&peer.namespace, pod.address(), Ping)? == Outcome::Refused)
        })?;
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        assert_eq!(index(&t.nodes[0])?, before);
        t.cluster.remove("felix")?;
        are_at(t, 4789)?;
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")
    })
}

#[test]
fn vxlan_that_is_switched_off_is_named_and_comes_back() -> Result<()> {
    two("Always", |t| {
        configure(&t.cluster, "vxlanEnabled: false")?;
        for node in &t.nodes {
            wait_until("the device is gone, and why", PATIENCE, || {
                let is_told = node.show("status")?.to_string().contains("vxlanEnabled of FelixConfiguration is false");
                Ok(is_told && !is_up(node.namespace())?)
            })?;
        }
        t.cluster.remove("felix")?;
        t.reach_each_other()
    })
}

/// A node that runs no agent: the kernel's own VXLAN, with neighbours, FDB entries and routes as Calico makes them.
struct Peer {
    namespace: NetNs,
    number: u8,
}

/// Its tunnel address and its pods' block.
const PEER_BLOCK: &str = "10.65.200.0/26";
const PEER_TUNNEL: &str = "10.65.200.0";
const PEER_POD: &str = "10.65.200.7";
const PEER_MAC: &str = "66:aa:bb:cc:dd:ee";

impl Peer {
    /// In this network, at this port.
    fn create(cluster: &Cluster, number: u8, (vni, port): (u32, u16)) -> Result<Self> {
        let namespace = NetNs::create(cluster.stem(), &format!("peer{number}"))?;
        cluster.fabric().join(&namespace, number)?;
        subnets::move_away(&namespace, number)?;
        let [own, _] = subnets::far(number);
        namespace.ip(&[
            &format!("link add {DEVICE} address {PEER_MAC} mtu 1450 type vxlan id {vni} local {own} dev eth0 dstport {port} nolearning"),
            &format!("address add {PEER_TUNNEL}/32 dev {DEVICE}"),
            &format!("link set {DEVICE} up"),
            // Its pod.
            &format!("address add {PEER_POD}/32 dev lo"),
            "link set lo up",
        ])?;
        Ok(Self { namespace, number })
    }

    /// Says where the tunnel of another ends, as Calico's agent does.
    fn learn(&self, (tunnel, mac, remote): (IpAddr, &str, &str), block: &str) -> Result<()> {
        self.namespace.ip(&[
            &format!("neighbour replace {tunnel} lladdr {mac} dev {DEVICE} nud permanent"),
            &format!("route replace {block} via {tunnel} dev {DEVICE} onlink src {PEER_POD}"),
        ])?;
        let mut bridge = self.namespace.command(std::path::Path::new("bridge"))?;
        let words = ["fdb", "replace", mac, "dev", DEVICE, "dst", remote];
        tests::netns::run(bridge.args(words)).map(drop)
    }

    /// Says where that of the first node ends.
    fn learn_first(&self, t: &Routed) -> Result<()> {
        let (tunnel, mac) = told_end(t, &t.nodes[0])?;
        self.learn((tunnel, &mac, "192.0.2.1"), &t.block("x/a")?)
    }

    fn describe(&self, cluster: &Cluster) -> Result<()> {
        let annotations = format!(
            "projectcalico.org/IPv4VXLANTunnelAddr: '{PEER_TUNNEL}', projectcalico.org/VXLANTunnelMACAddr: '{PEER_MAC}'"
        );
        describe(cluster, "peer", &subnets::far(self.number)[..1], &annotations)?;
        claim(cluster, "peer", PEER_BLOCK)
    }
}

/// What a node tells of its own end.
fn told_end(t: &Routed, node: &Node) -> Result<(IpAddr, String)> {
    let file = t.cluster.datastore().join(".tortie/NodeVteps").join(format!("{}.yaml", node.name()));
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let word = |key: &str| {
        let rest = text.split(key).nth(1).with_context(|| format!("{key} in {text}"))?;
        let is_of_it = |letter: char| letter.is_ascii_hexdigit() || ".:".contains(letter);
        let word = rest.trim_start_matches([' ', '"', '\'']).split(|letter| !is_of_it(letter)).next();
        Ok::<_, anyhow::Error>(word.unwrap_or_default().to_owned())
    };

    Ok((word("address:")?.parse()?, word("mac:")?))
}

#[test]
fn agt_10_a_node_that_runs_calicos_vxlan_is_reached_and_reaches_until_it_is_gone() -> Result<()> {
    two("Always", |t| {
        let peer = Peer::create(&t.cluster, 9, (4096, 4789))?;
        peer.describe(&t.cluster)?;
        peer.learn_first(t)?;
        let pod = t.pods["x/a"].address();
        let listen = [Listen::Tcp(80), Listen::Udp(80)];
        let _servers = Servers::start(&peer.namespace, "peer", &listen)?;
        let there: IpAddr = PEER_POD.parse()?;
        for what in [Ping, Tcp(80), Udp(80)] {
            wait_until("the pod reaches the peer's", PATIENCE, || {
                Ok(probe(t.pods["x/a"].namespace(), there, what)? == Outcome::Allowed)
            })?;
            wait_until("the peer's reaches the pod", PATIENCE, || {
                Ok(probe(&peer.namespace, pod, what)? == Outcome::Allowed)
            })?;
        }
        // The node itself, by the same device.
        wait_until("the node reaches the peer's", PATIENCE, || {
            Ok(probe(t.nodes[0].namespace(), there, Tcp(80))? == Outcome::Allowed)
        })?;
        // Whoever is no node sends in vain.
        t.cluster.remove("node-peer")?;
        // The way back to it goes first: a refused probe alone is no sign.
        wait_until("it is a stranger", PATIENCE, || {
            let refused = probe(&peer.namespace, pod, Ping)? == Outcome::Refused;
            Ok(refused && t.nodes[0].show("drops")?.to_string().contains("encapsulated"))
        })
    })
}

#[test]
fn a_device_that_calico_left_is_replaced_and_told() -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.manifest("pools", &wrapped_pools("Always"))?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    subnets::stay(node.namespace())?;
    describe(&cluster, node.name(), &fabric::addresses(1), "")?;
    node.namespace().ip(&[
        &format!("link add {DEVICE} type vxlan id 4096 dev eth0 dstport 4789 nolearning"),
        &format!("link set {DEVICE} up"),
    ])?;
    node.start()?;
    wait_until("it is ours", PATIENCE, || is_up(node.namespace()))?;
    let log = node.agent.log_tail();
    assert!(log.contains("not ours is replaced"), "{log}");
    Ok(())
}

#[test]
fn where_another_device_has_the_port_it_is_named() -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    cluster.manifest("pools", &wrapped_pools("Always"))?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    subnets::stay(node.namespace())?;
    describe(&cluster, node.name(), &fabric::addresses(1), "")?;
    node.namespace()
        .ip(&["link add flannel.1 type vxlan id 7 dev eth0 dstport 4789 nolearning", "link set flannel.1 up"])?;
    node.start()?;
    wait_until("it is told", PATIENCE, || Ok(node.show("status")?.to_string().contains("may have UDP port 4789")))?;
    node.namespace().ip(&["link del flannel.1"])?;
    wait_until("it is up", PATIENCE, || is_up(node.namespace()))
}
