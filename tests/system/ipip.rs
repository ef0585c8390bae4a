//! IPIP between nodes: two subnets with a router between them, and a peer that speaks Calico's wire format from raw sockets.
//! In: pods on both nodes, packets that nobody should take. Out: who reaches whom, what is on the wire, and what is dropped.
//! Invariant: packets between pods of the two subnets find no other way: the router knows no pod.
//! Never: needs IPIP in the kernel.

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recvfrom, sendto, socket,
    sockopt::{self, Timeout},
};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};
use tests::{
    Cluster, NetNs, Node, NodeSpec, Outcome, Pod, PodSpec,
    Probe::{Ping, Tcp, Udp},
    probe::probe,
    routed::{Routed, claim, describe, ipip_pool, routed},
    subnets,
    traffic::{self, Row},
    wait::{PATIENCE, wait_until},
    way::{Kind, Way},
};

/// The peer: its block, and a pod of its own.
const PEER_BLOCK: &str = "10.65.200.0/26";
const PEER_POD: Ipv4Addr = Ipv4Addr::new(10, 65, 200, 7);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const NODE1: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// So long nobody answers.
const SILENCE: Duration = Duration::from_millis(500);
/// "More fragments follow".
const MORE: u8 = 0x20;

fn two(mode: &str, test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    routed(&ipip_pool(mode), [NodeSpec::new(1), NodeSpec::new(2)], test)
}

/// Node 1's route to the block of a pod on node 2.
fn route(t: &Routed, to: &str) -> Result<Value> {
    let block = t.block(to)?;
    let shown = t.nodes[0].namespace().ip_json(&format!("-d -4 route show {block}"))?;
    Ok(shown.get(0).cloned().unwrap_or_default())
}

/// A pod of node 1 whose network says the uplink's MTU.
fn wide(t: &Routed) -> Result<Pod> {
    let mut spec = PodSpec::new("x/c");
    spec.conf = serde_json::json!({ "mtu": 1500 });
    t.nodes[0].pod(&t.cluster, &spec)
}

/// Packets of this kind that node 1 has dropped on nobody's account.
fn encapsulated(t: &Routed) -> Result<u64> {
    Ok(count(&t.nodes[0].show("drops")?))
}

/// Drops of tunnels, wherever they stand.
fn count(shown: &Value) -> u64 {
    match shown {
        Value::Array(all) => all.iter().map(count).sum(),
        Value::Object(row) if row.get("reason").is_some_and(|reason| reason == "encapsulated") => {
            row.values().filter_map(Value::as_u64).max().unwrap_or_default()
        }
        Value::Object(row) => row.values().map(count).sum(),
        _ => 0,
    }
}

#[test]
fn agt_10_pods_of_two_subnets_reach_each_other_by_ipip() -> Result<()> {
    two("Always", |t| {
        t.reach_each_other()?;
        let route = route(t, "x/b")?;
        assert_eq!((&route["gateway"], &route["dev"]), (&"192.0.2.254".into(), &"eth0".into()), "{route}");
        assert!(route["metrics"].to_string().contains("1480"), "{route}");
        Ok(())
    })
}

#[test]
fn agt_10_pods_of_two_subnets_reach_each_other_by_ipip_where_only_subnets_are_crossed() -> Result<()> {
    two("CrossSubnet", |t| t.reach_each_other())
}

#[test]
fn agt_10_pods_reach_each_other_by_ipip_with_programs_attached_by_clsact() -> Result<()> {
    routed(&ipip_pool("Always"), [NodeSpec::new(1).by_clsact(), NodeSpec::new(2)], |t| t.reach_each_other())
}

#[test]
fn np_3_a_policy_holds_through_ipip() -> Result<()> {
    two("CrossSubnet", |t| {
        let spec = "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: {} }] }] }";
        t.cluster.manifest("x-in", &crate::story::policy("x/in", spec))?;
        t.expect(Tcp(80), "x/a y/b\n y/a X .\n x/b . .\n y/b X -")?;
        t.expect(Udp(80), "x/a\n x/b .\n y/b X")
    })
}

/// A node's address within, as it tells it.
fn told(t: &Routed, node: &Node) -> Result<Option<Ipv4Addr>> {
    let file = t.cluster.datastore().join(".tortie/NodeVteps").join(format!("{}.yaml", node.name()));
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
    let Some(rest) = text.split("ipip:").nth(1) else { return Ok(None) };
    let word = rest.trim_start_matches([' ', '"', '\'']);
    Ok(word.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next().and_then(|word| word.parse().ok()))
}

/// Its addresses on loopback that are ours.
fn on_loopback(node: &Node) -> Result<String> {
    Ok(node.namespace().ip_json("-4 address show dev lo label lo:tortie-ipip")?.to_string())
}

#[test]
fn agt_10_the_node_itself_reaches_pods_by_ipip_from_an_address_of_the_pool_that_it_tells() -> Result<()> {
    two("Always", |t| {
        wait_until("node 1 has told its address", PATIENCE, || Ok(told(t, &t.nodes[0])?.is_some()))?;
        let own = told(t, &t.nodes[0])?.context("an address")?.to_string();
        wait_until("its packets come from there", PATIENCE, || Ok(route(t, "x/b")?["prefsrc"] == own.as_str()))?;
        let (node, there) = (t.nodes[0].namespace(), t.pods["x/b"].address());
        for what in [Tcp(80), Udp(80), Ping] {
            wait_until("the node reaches the pod", PATIENCE, || Ok(probe(node, there, what)? == Outcome::Allowed))?;
        }
        assert!(on_loopback(&t.nodes[0])?.contains(&own));
        let text = std::fs::read_dir(t.cluster.datastore().join(".tortie/IPAMHandle"))?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect::<String>();
        assert!(text.contains(&format!("ipip-tunnel-addr-{}", t.nodes[0].name())), "{text}");
        Ok(())
    })
}

#[test]
fn pkt_61_large_transfers_come_through_whole_and_pods_have_the_mtu_that_is_left() -> Result<()> {
    two("Always", |t| {
        let mtu = t.pods["x/a"].namespace().ip_json("link show dev eth0")?[0]["mtu"].take();
        assert_eq!(mtu, 1480);
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        for (from, to) in [("x/a", "x/b"), ("x/b", "x/a")] {
            transfer(t.pods[from].namespace(), &t.pods[to])?;
        }
        transfer(t.nodes[0].namespace(), &t.pods["x/b"])?;
        // One that was there before the tunnels has the uplink's.
        let old = wide(t)?;
        transfer(old.namespace(), &t.pods["x/b"])
    })
}

/// Much more than a window, within a time in which a stalled connection moves nothing.
fn transfer(from: &NetNs, to: &Pod) -> Result<()> {
    let way = traffic::Way::direct(from, to.namespace(), to.address());
    let rate = traffic::measure(&way, Row::Bulk, Duration::from_secs(1))?;
    assert!(rate > 4e6, "{rate} bytes");
    Ok(())
}

#[test]
fn own_10_a_pod_learns_of_a_narrow_link_between_the_nodes() -> Result<()> {
    two("Always", |t| {
        t.expect(Udp(80), "x/b\n x/a .")?;
        t.cluster.outside().ip(&["route replace 198.51.100.0/24 dev br0 mtu lock 1400"])?;
        let to = SocketAddr::new(t.pods["x/b"].address(), 9);
        let way = Way::open(t.pods["x/a"].namespace(), Kind::Udp, to)?;
        way.send(1480)?;
        let told = way.told()?;
        assert_eq!((told.from, told.mtu), ("192.0.2.254".parse()?, 1380));
        assert_eq!(way.mtu()?, 1380, "the pod's kernel has learned it");
        transfer(t.pods["x/a"].namespace(), &t.pods["x/b"])
    })
}

#[test]
fn without_a_pool_that_asks_for_it_everything_is_given_back_and_a_restart_stops_nothing() -> Result<()> {
    two("Always", |t| {
        wait_until("it has an address within", PATIENCE, || Ok(on_loopback(&t.nodes[0])?.contains("10.65.")))?;
        let own = told(t, &t.nodes[0])?;
        let stream = t.pods["x/a"].tcp_stream(&t.pods["x/b"], 80)?;
        t.nodes[0].restart()?;
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        let report = stream.stop()?;
        assert_eq!(report.lost(), 0, "{report:?}");
        assert_eq!(told(t, &t.nodes[0])?, own, "the same address");
        t.cluster.overwrite("pools", &ipip_pool("Never"))?;
        for node in &t.nodes {
            wait_until("the address is given back", PATIENCE, || Ok(!on_loopback(node)?.contains("10.65.")))?;
            wait_until("and no one is told of it", PATIENCE, || Ok(told(t, node)?.is_none()))?;
            wait_until("the programs are gone", PATIENCE, || Ok(!has_programs(node)?))?;
        }
        wait_until("there is no way", PATIENCE, || Ok(route(t, "x/b")?.is_null()))?;
        t.cluster.overwrite("pools", &ipip_pool("CrossSubnet"))?;
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        t.nodes[0].agent.stop()?;
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        let cleaned = t.nodes[0].cleanup()?;
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        assert!(!on_loopback(&t.nodes[0])?.contains("10.65."), "cleaned up");
        assert!(route(t, "x/b")?.is_null());
        Ok(())
    })
}

/// By their pins.
fn has_programs(node: &Node) -> Result<bool> {
    let pins = std::fs::read_dir(node.bpffs().join("links"))?;
    Ok(pins.filter_map(Result::ok).any(|pin| pin.file_name().to_string_lossy().ends_with("_ipip")))
}

/// A node that runs no agent: raw sockets, from which packets leave as Calico's nodes send them.
struct Peer {
    sends: OwnedFd,
    hears: OwnedFd,
    _namespace: NetNs,
}

fn sum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes()
}

/// An IPv4 packet (RFC 791).
fn packet(protocol: u8, flags: u8, [from, to]: [Ipv4Addr; 2], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 77, flags, 0, 64, protocol, 0, 0];
    header.extend(from.octets().into_iter().chain(to.octets()));
    let check = sum(&header);
    header[10..12].copy_from_slice(&check);
    header.extend(payload);
    header
}

/// An echo request to a pod.
fn question(from: Ipv4Addr, to: Ipv4Addr, id: u8) -> Vec<u8> {
    let mut echo = [8, 0, 0, 0, 0, id, 0, 1];
    let check = sum(&echo);
    echo[2..4].copy_from_slice(&check);
    packet(1, 0, [from, to], &echo)
}

impl Peer {
    fn create(cluster: &Cluster) -> Result<Self> {
        let namespace = NetNs::create(cluster.stem(), "peer9")?;
        cluster.fabric().join(&namespace, 9)?;
        subnets::move_away(&namespace, 9)?;
        let open = |protocol| socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).context("a raw socket");
        let (sends, hears) = namespace.inside(|| Ok((open(ipproto::RAW)?, open(ipproto::IPIP)?)))?;
        sockopt::set_socket_timeout(&hears, Timeout::Recv, Some(SILENCE))?;
        describe(cluster, "peer", &subnets::far(9)[..1], "")?;
        claim(cluster, "peer", PEER_BLOCK)?;
        Ok(Self { sends, hears, _namespace: namespace })
    }

    fn send(&self, outer: &[u8]) -> Result<()> {
        sendto(&self.sends, outer, SendFlags::empty(), &SocketAddr::new(NODE1.into(), 0)).context("sending")?;
        Ok(())
    }

    /// The next packet of IPIP that comes, both headers.
    fn hear(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let (length, _, _) = recvfrom(&self.hears, &mut buffer[..], RecvFlags::empty()).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// Whether what is sent is answered to the peer's pod; the answer.
    fn asks(&self, outer: &[u8], id: u8) -> Result<Option<Vec<u8>>> {
        self.send(outer)?;
        while let Some(heard) = self.hear() {
            if heard.get(40) == Some(&0) && heard.get(45) == Some(&id) {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }
}

#[test]
fn agt_10_a_node_that_speaks_calicos_ipip_is_answered_in_kind_and_nobody_else_is_heard() -> Result<()> {
    two("Always", |t| {
        let peer = Peer::create(&t.cluster)?;
        let (pod, others) = (t.address("x/a")?, t.address("x/b")?);
        let wrapped = |flags, outer, inner, id| packet(4, flags, [outer, NODE1], &question(inner, pod, id));
        let mut heard = None;
        wait_until("the peer's pod is answered", PATIENCE, || {
            heard = peer.asks(&wrapped(0, PEER, PEER_POD, 1), 1)?;
            Ok(heard.is_some())
        })?;
        let heard = heard.context("an answer")?;
        let (outer, inner) = heard.split_at(20);
        assert_eq!(
            (outer[0], outer[9], sum(outer)),
            (0x45, 4, [0, 0]),
            "a header without options, IPIP, its sum right"
        );
        assert_eq!(&outer[12..20], [NODE1.octets(), PEER.octets()].concat(), "from node to node");
        assert_eq!(&inner[12..20], [pod.octets(), PEER_POD.octets()].concat(), "from pod to pod");
        // The router between the nodes was one.
        assert_eq!((outer[8] + 1, outer[6] & 0x40), (inner[8], 0x40), "its hops, and not to be cut");
        assert_eq!(usize::from(u16::from_be_bytes([outer[2], outer[3]])), heard.len());
        let mut taken = Vec::new();
        for (what, refused) in [
            ("a stranger", wrapped(0, Ipv4Addr::new(198, 51, 100, 77), PEER_POD, 2)),
            ("a pod of another node", wrapped(0, PEER, others, 2)),
            ("another node's name", wrapped(0, NODE2, PEER_POD, 2)),
            ("a piece", wrapped(MORE, PEER, PEER_POD, 2)),
        ] {
            let before = encapsulated(t)?;
            if peer.asks(&refused, 2)?.is_some() || encapsulated(t)? == before {
                taken.push(what);
            }
        }
        assert_eq!(taken, Vec::<&str>::new(), "none is heard, each is counted");
        assert!(peer.asks(&wrapped(0, PEER, PEER_POD, 3), 3)?.is_some(), "the peer is, as before");
        Ok(())
    })
}

/// Echo requests that a namespace has heard.
fn echoes(namespace: &NetNs) -> Result<u64> {
    let text = namespace.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp").context("counts"))?;
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("Icmp:")).map(|line| line.split(' ').collect()).collect();
    let [names, counts] = rows.as_slice() else { anyhow::bail!("{text}") };
    let place = names.iter().position(|name| *name == "InEchos").context("InEchos")?;
    Ok(counts[place].parse()?)
}

#[test]
fn who_is_none_of_the_clusters_is_heard_where_external_nodes_are_listed_and_not_in_a_nodes_name() -> Result<()> {
    two("Always", |t| {
        let peer = Peer::create(&t.cluster)?;
        let (stranger, inner) = (Ipv4Addr::new(198, 51, 100, 77), Ipv4Addr::new(10, 99, 0, 1));
        let pod = t.address("x/a")?;
        let wrapped = |inner| packet(4, 0, [stranger, NODE1], &question(inner, pod, 5));
        wait_until("a stranger is not heard", PATIENCE, || {
            let before = encapsulated(t)?;
            peer.send(&wrapped(inner))?;
            Ok(encapsulated(t)? > before)
        })?;
        let (namespace, felix) =
            (t.pods["x/a"].namespace(), "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration");
        assert_eq!(echoes(namespace)?, 0);
        let spec = "metadata: { name: default }\nspec: { externalNodesList: [198.51.100.64/26] }";
        t.cluster.manifest("felix", &format!("{felix}\n{spec}\n"))?;
        wait_until("it is", PATIENCE, || {
            peer.send(&wrapped(inner))?;
            Ok(echoes(namespace)? > 0)
        })?;
        wait_until("but not with the source of a node's pod", PATIENCE, || {
            let before = (encapsulated(t)?, echoes(namespace)?);
            peer.send(&wrapped(PEER_POD))?;
            Ok(encapsulated(t)? > before.0 && echoes(namespace)? == before.1)
        })?;
        t.cluster.remove("felix")?;
        wait_until("nor any more", PATIENCE, || {
            let before = encapsulated(t)?;
            peer.send(&wrapped(inner))?;
            Ok(encapsulated(t)? > before)
        })
    })
}

#[test]
fn agt_10_pods_and_the_node_reach_the_peers_pods_wrapped_for_it() -> Result<()> {
    two("CrossSubnet", |t| {
        let peer = Peer::create(&t.cluster)?;
        for from in [t.pods["x/a"].namespace(), t.nodes[0].namespace()] {
            wait_until("a packet for its pod comes", PATIENCE, || {
                // Nobody answers: it is the packet that counts.
                probe(from, PEER_POD.into(), Ping)?;
                let for_pod = |heard: &Vec<u8>| heard.get(36..40) == Some(&PEER_POD.octets()[..]);
                Ok(std::iter::from_fn(|| peer.hear()).find(for_pod).is_some())
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_large_datagram_of_a_pod_with_the_uplinks_mtu_is_refused_with_the_mtu_that_is_left() -> Result<()> {
    two("Always", |t| {
        let old = wide(t)?;
        let to = SocketAddr::new(t.pods["x/b"].address(), 80);
        t.expect(Udp(80), "x/b\n x/a .")?;
        let way = Way::open(old.namespace(), Kind::Udp, to)?;
        way.send(1500)?;
        let told = way.told()?;
        assert_eq!((told.mtu, way.mtu()?), (1480, 1480));
        Ok(())
    })
}
