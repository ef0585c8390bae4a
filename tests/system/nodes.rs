//! Two agents on one machine: two network namespaces, two bpffs, one directory of manifests.
//! In: pods on both nodes. Out: tables across nodes, both families; the agents' routes between them.
//! Invariant: the nodes share the directory and the fabric, and nothing else.
//! Never: lets one agent's end touch the other's pods.

use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, net::IpAddr};
use tests::{
    Cluster, Fabric, Node, NodeSpec, Outcome, Pod, PodSpec,
    Probe::{self, Tcp, Udp},
    Servers, Table,
    expect::Actor,
    fabric,
    probe::probe,
    routed::reach_each_other,
    server::Listen,
    wait::{PATIENCE, wait_until},
};

/// Two nodes and their pods.
pub struct Two {
    pub pods: BTreeMap<String, Pod>,
    pub nodes: [Node; 2],
    pub cluster: Cluster,
}

/// x/a and y/a on node 1, x/b and y/b on node 2.
pub fn two(test: impl FnOnce(&mut Two) -> Result<()>) -> Result<()> {
    two_of([NodeSpec::new(1), NodeSpec::new(2)], test)
}

fn two_of([first, second]: [NodeSpec; 2], test: impl FnOnce(&mut Two) -> Result<()>) -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    for namespace in ["x", "y"] {
        cluster.namespace(namespace, &[("ns", namespace)])?;
    }
    let mut nodes = [cluster.node(first)?, cluster.node(second)?];
    for node in &mut nodes {
        node.start()?;
    }
    let mut two = Two { pods: BTreeMap::new(), nodes, cluster };
    for (id, number) in [("x/a", 1), ("y/a", 1), ("x/b", 2), ("y/b", 2)] {
        two.add(id, number)?;
    }
    let result = test(&mut two);
    let logs =
        two.nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail())).collect::<String>();
    result.context(logs)
}

impl Two {
    fn add(&mut self, id: &str, number: u8) -> Result<()> {
        let pod = self.nodes[usize::from(number) - 1].pod(&self.cluster, &PodSpec::new(id).listen(Listen::Sctp(80)))?;
        pod.addresses().iter().try_for_each(|address| Fabric::route(self.cluster.outside(), *address, number))?;
        self.pods.insert(id.to_owned(), pod);
        Ok(())
    }

    pub fn policy(&self, id: &str, spec: &str) -> Result<()> {
        self.cluster.manifest(&id.replace('/', "-"), &crate::story::policy(id, spec))
    }

    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        Table::parse(table)?.expect(&self.actors()?, what)
    }

    fn actors(&self) -> Result<Vec<Actor<'_>>> {
        let addresses = [fabric::OUTSIDE_V4, fabric::OUTSIDE_V6];
        let addresses = addresses.iter().map(|text| Ok(text.parse::<IpAddr>()?)).collect::<Result<_>>()?;
        let outside = Actor { name: "outside".to_owned(), namespace: self.cluster.outside(), addresses };
        Ok(self.pods.values().map(Pod::actor).chain(self.nodes.iter().map(Node::actor)).chain([outside]).collect())
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other() -> Result<()> {
    two(|t| reach_each_other(|what, table| t.expect(what, table)))
}

#[test]
fn pods_of_a_node_by_clsact_and_of_another_reach_each_other() -> Result<()> {
    two_of([NodeSpec::new(1).by_clsact(), NodeSpec::new(2)], |t| {
        assert_eq!(t.nodes[0].show("status")?["attachment"], "clsact");
        reach_each_other(|what, table| t.expect(what, table))
    })
}

#[test]
fn np_3_and_np_28_a_policy_holds_across_nodes() -> Result<()> {
    two(|t| {
        t.policy("x/in", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: {} }] }] }")?;
        t.expect(Tcp(80), "x/a y/b\n y/a X .\n x/b . .\n y/b X -")?;
        t.policy("x/out", "{ podSelector: { matchLabels: { pod: b } }, policyTypes: [Egress], egress: [{ to: [{ podSelector: {} }] }] }")?;
        t.expect(Tcp(80), "x/a y/a y/b\n x/b . X X\n y/b X . -")
    })
}

#[test]
fn np_58_a_label_on_one_node_counts_on_the_other() -> Result<()> {
    two(|t| {
        t.policy("x/in", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ namespaceSelector: {}, podSelector: { matchLabels: { role: client } } }] }] }")?;
        t.expect(Tcp(80), "x/a\n x/b X\n y/b X")?;
        t.cluster.pod_manifest(&PodSpec::new("y/b").label("role", "client"), "node2")?;
        t.expect(Tcp(80), "x/a\n x/b X\n y/b .")
    })
}

#[test]
fn np_54_a_network_is_a_host_outside_the_cluster() -> Result<()> {
    two(|t| {
        let _servers = Servers::start(t.cluster.outside(), "outside", &[Listen::Tcp(80), Listen::Udp(80)])?;
        t.expect(Tcp(80), "x/a outside\n outside . -\n x/a - .")?;
        t.policy("x/in", "{ podSelector: {}, policyTypes: [Ingress, Egress] }")?;
        t.expect(Tcp(80), "x/a outside\n outside X -\n x/a - X")?;
        let outside =
            "[{ ipBlock: { cidr: 192.0.2.0/24, except: [192.0.2.0/28] } }, { ipBlock: { cidr: '2001:db8::/64' } }]";
        t.policy("x/in", &format!("{{ podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{ from: {outside} }}], egress: [{{ to: {outside} }}] }}"))?;
        t.expect(Tcp(80), "x/a outside\n outside . -\n x/a - .\n y/b X .")
    })
}

#[test]
fn own_1_a_new_deny_cuts_a_connection_between_nodes() -> Result<()> {
    two(|t| {
        let (client, server) = (&t.pods["x/b"], &t.pods["x/a"]);
        let mut connection = client.connect(server, 80)?;
        assert!(connection.answers()?);
        t.policy("x/in", "{ podSelector: { matchLabels: { pod: a } }, policyTypes: [Ingress] }")?;
        wait_until("x/b is refused", PATIENCE, || Ok(client.probe(server, Tcp(80))? == Outcome::Refused))?;
        assert!(!connection.answers()?);
        Ok(())
    })
}

#[test]
fn a_source_that_is_this_nodes_own_is_not_taken_from_the_wire() -> Result<()> {
    two(|t| {
        // The outside host pretends to be x/a of node 1, towards y/a of node 1.
        let (forged, target) = (t.pods["x/a"].address(), t.pods["y/a"].address());
        t.policy(
            "y/in",
            "{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { ns: x } } }] }] }",
        )?;
        t.expect(Udp(80), "y/a\n x/a .\n y/b X\n outside X")?;
        t.cluster.outside().ip(&[
            &format!("address add {forged}/32 dev lo"),
            &format!("route replace {target}/32 via 192.0.2.1 src {forged}"),
        ])?;
        assert_eq!(probe(t.cluster.outside(), target, Udp(80))?, Outcome::Refused);
        let drops = t.nodes[0].show("drops")?.to_string();
        assert!(drops.contains("source-is-local"), "{drops}");
        Ok(())
    })
}

#[test]
fn two_agents_do_not_disturb_each_other() -> Result<()> {
    two(|t| {
        t.policy("x/in", "{ podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] }")?;
        t.expect(Tcp(80), "x/a x/b\n y/a X X\n x/b . -\n x/a - .")?;
        let cleaned = {
            t.nodes[1].agent.stop()?;
            t.nodes[1].cleanup()?
        };
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        t.expect(Tcp(80), "x/a y/a\n y/a X -\n x/a - .")
    })
}

#[test]
fn each_node_gives_addresses_of_its_own_block() -> Result<()> {
    two(|t| {
        let block = |id: &str| match t.pods[id].address() {
            IpAddr::V4(v4) => Ok(u32::from(v4) >> 6),
            IpAddr::V6(_) => anyhow::bail!("the first address is not IPv4"),
        };
        assert_eq!(block("x/a")?, block("y/a")?);
        assert_eq!(block("x/b")?, block("y/b")?);
        assert_ne!(block("x/a")?, block("x/b")?);
        Ok(())
    })
}

#[test]
fn pkt_61_pods_that_come_have_the_mtu_that_the_uplink_has_by_then() -> Result<()> {
    two(|t| {
        let mtu = |pod: &Pod| -> Result<u64> {
            pod.namespace().ip_json("link show dev eth0")?[0]["mtu"].as_u64().context("an MTU")
        };
        assert_eq!(mtu(&t.pods["x/a"])?, 1500);
        t.nodes[0].namespace().ip(&["link set eth0 mtu 1400"])?;
        wait_until("it is heard", PATIENCE, || Ok(t.nodes[0].agent.log_tail().contains("the uplink has another MTU")))?;
        t.add("x/c", 1)?;
        assert_eq!((mtu(&t.pods["x/c"])?, mtu(&t.pods["x/a"])?), (1400, 1500), "who is there keeps what he has");
        Ok(())
    })
}

fn of_blocks(own: &Pod, other: &Pod) -> BTreeMap<String, String> {
    let block = |address: &IpAddr| match address {
        IpAddr::V4(v4) => format!("{}/26", std::net::Ipv4Addr::from(u32::from(*v4) >> 6 << 6)),
        IpAddr::V6(v6) => format!("{}/122", std::net::Ipv6Addr::from(u128::from(*v6) >> 6 << 6)),
    };
    let [v4, v6] = fabric::addresses(2);
    let via = |address: &IpAddr| if address.is_ipv4() { v4.clone() } else { v6.clone() };
    let own = own.addresses().iter().map(|address| (block(address), "blackhole".to_owned()));
    own.chain(other.addresses().iter().map(|address| (block(address), via(address)))).collect()
}

#[test]
fn ipam_24_blocks_of_other_nodes_have_routes_and_own_ones_lead_nowhere_until_cleanup() -> Result<()> {
    two(|t| {
        let expected = of_blocks(&t.pods["x/a"], &t.pods["x/b"]);
        wait_until("node1 has routes", PATIENCE, || Ok(t.nodes[0].routes()? == expected))?;
        // Somebody flushes what is not his, as systemd-networkd does.
        for family in ["-4", "-6"] {
            let mut flush = t.nodes[0].namespace().command(std::path::Path::new("ip"))?;
            let status = flush.args([family, "route", "flush", "proto", "85"]).status()?;
            assert!(status.success(), "{status}");
        }
        wait_until("they are back", PATIENCE, || Ok(t.nodes[0].routes()? == expected))?;
        let drift = t.nodes[0].agent.log_tail();
        assert!(drift.contains("the route to"), "{drift}");
        t.expect(Tcp(80), "x/a x/b\n x/a - .\n x/b . -")?;
        t.nodes[0].agent.stop()?;
        assert_eq!(t.nodes[0].routes()?, expected, "they stay while the agent is away");
        let cleaned = t.nodes[0].cleanup()?;
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        assert_eq!(t.nodes[0].routes()?, BTreeMap::new());
        Ok(())
    })
}

#[test]
fn ipam_4_a_borrowed_address_has_a_route_of_its_own_and_anothers_route_stays() -> Result<()> {
    two(|t| {
        // Of node 2's block, at node 1.
        let IpAddr::V4(own) = t.pods["x/b"].address() else { anyhow::bail!("IPv4 first") };
        let borrowed = std::net::Ipv4Addr::from((u32::from(own) >> 6 << 6) + 50);
        let asks = format!("[\"{borrowed}\"]");
        let spec = PodSpec::new("x/c").listen(Listen::Sctp(80)).annotation("cni.projectcalico.org/ipAddrs", &asks);
        let pod = t.nodes[0].pod(&t.cluster, &spec)?;
        t.pods.insert("x/c".to_owned(), pod);
        let [first, _] = fabric::addresses(1);
        let leads = |t: &Two| Ok(t.nodes[1].routes()?.get(&borrowed.to_string()) == Some(&first));
        wait_until("node2 has a route to it", PATIENCE, || leads(t))?;
        t.expect(Tcp(80), "x/b x/c\n x/b - .\n x/c . -")?;
        t.pods.remove("x/c");
        t.cluster.remove("pod-x-c").ok();
        wait_until("it is gone with its pod", PATIENCE, || Ok(!leads(t)?))?;
        // Where somebody else leads to the same network, his route stays.
        let IpAddr::V4(elsewhere) = t.pods["x/a"].address() else { anyhow::bail!("IPv4 first") };
        let block = format!("{}/26", std::net::Ipv4Addr::from(u32::from(elsewhere) >> 6 << 6));
        t.nodes[1].namespace().ip(&[&format!("route replace {block} via 192.0.2.77 proto static")])?;
        wait_until("it is told", PATIENCE, || {
            Ok(t.nodes[1].show("status")?.to_string().contains("there is one of another's"))
        })?;
        let theirs = t.nodes[1].namespace().ip_json(&format!("-4 route show {block}"))?;
        assert_eq!(theirs[0]["gateway"], "192.0.2.77", "{theirs}");
        t.nodes[1].namespace().ip(&[&format!("route del {block} proto static")])?;
        wait_until("ours is there again", PATIENCE, || Ok(t.nodes[1].routes()?.get(&block) == Some(&first)))
    })
}
