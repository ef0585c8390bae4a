//! Uplinks that are no card: a VLAN on one, a bond of two.
//! In: two nodes whose addresses are on such a device, pools with and without tunnels. Out: who reaches whom, the outside too.
//! Invariant: between nodes, and to the outside, nothing passes but by that device.
//! Never: an address on the card below.

use anyhow::{Context as _, Result, ensure};
use tests::{
    Cluster, NetNs, Node, NodeSpec, Outcome,
    Probe::{Ping, Tcp, Udp},
    Servers, cluster,
    fabric::{self, OUTSIDE_V4, OUTSIDE_V6},
    flow::{Connection, much_comes_whole},
    netns::need_root,
    probe::probe,
    routed::Routed,
    server::Listen,
    wait::{PATIENCE, wait_until},
};

const VLAN: &str = "eth0.7";
const BOND: &str = "bond0";

/// Pools of both families with these modes, whose pods are their node outside.
fn pools(modes: [&str; 2]) -> String {
    let mode = |text: String, mode| text.replacen(" blockSize:", &format!(" natOutgoing: true, {mode}, blockSize:"), 1);
    let [v4, v6] = modes;
    let text = cluster::pools(26, 122);
    let (first, second) = text.split_once("---").unwrap_or((&text, ""));
    format!("{}---{}", mode(first.to_owned(), v4), mode(second.to_owned(), v6))
}

/// The addresses of a host leave one device for another, which is up then.
fn move_addresses(host: &NetNs, [from, to]: [&str; 2], [v4, v6]: &[String; 2]) -> Result<()> {
    host.sysctl(&format!("ipv6/conf/{to}/accept_dad"), "0")?;
    host.ip(&[
        &format!("address flush dev {from} scope global"),
        &format!("address add {v4}/24 dev {to}"),
        &format!("address add {v6}/64 dev {to} nodad"),
        &format!("link set {to} up"),
    ])
}

/// A node whose addresses are on a device that `make` makes.
fn node(
    cluster: &Cluster,
    number: u8,
    uplink: &str,
    make: impl Fn(&Cluster, &NetNs, u8) -> Result<()>,
) -> Result<Node> {
    let node = cluster.node(NodeSpec::new(number).uplink(uplink))?;
    make(cluster, node.namespace(), number)?;
    move_addresses(node.namespace(), ["eth0", uplink], &fabric::addresses(number))?;
    let [v4, v6] = [OUTSIDE_V4, OUTSIDE_V6].map(|outside| format!("route add default via {outside}"));
    node.namespace().ip(&[&v4, &v6])?;
    Ok(node)
}

/// Two of them.
fn two(
    uplink: &str,
    modes: [&str; 2],
    make: fn(&Cluster, &NetNs, u8) -> Result<()>,
    test: impl FnOnce(&mut Routed) -> Result<()>,
) -> Result<()> {
    need_root()?;
    let cluster = Cluster::create()?;
    cluster.manifest("pools", &pools(modes))?;
    let nodes = [node(&cluster, 1, uplink, make)?, node(&cluster, 2, uplink, make)?];
    Routed::start(cluster, nodes, [1, 2].map(fabric::addresses))?.test(test)
}

fn vlan(host: &NetNs, on: &str, name: &str) -> Result<()> {
    host.ip(&[&format!("link add link {on} name {name} type vlan id 7")])
}

fn on_vlan(modes: [&str; 2], test: impl FnOnce(&mut Routed) -> Result<()>) -> Result<()> {
    two(
        VLAN,
        modes,
        |_, node, _| vlan(node, "eth0", VLAN),
        |t| {
            // The outside host is on that VLAN alone.
            let outside = t.cluster.outside();
            vlan(outside, "br0", "br0.7")?;
            move_addresses(outside, ["br0", "br0.7"], &[OUTSIDE_V4.to_owned(), OUTSIDE_V6.to_owned()])?;
            test(t)
        },
    )
}

/// Two cards, of which one works at a time.
fn bond(cluster: &Cluster, node: &NetNs, number: u8) -> Result<()> {
    let (card, name) = (format!("second{number}"), node.name());
    cluster.outside().ip(&[
        &format!("link add {card} type veth peer name eth1 netns {name}"),
        &format!("link set {card} master br0 up"),
    ])?;
    node.ip(&[
        &format!("link add {BOND} type bond mode active-backup miimon 20"),
        "link set eth0 down",
        "link set eth1 down",
        &format!("link set eth0 master {BOND}"),
        &format!("link set eth1 master {BOND}"),
    ])
}

/// Between pods, and out to a server that knows only nodes.
fn reach_all(t: &Routed) -> Result<()> {
    t.reach_each_other()?;
    for outside in [OUTSIDE_V4, OUTSIDE_V6] {
        let to = outside.parse()?;
        for what in [Tcp(80), Udp(80), Ping] {
            let from = t.pods["x/a"].namespace();
            wait_until(&format!("{what} to {to}"), PATIENCE, || Ok(probe(from, to, what)? == Outcome::Allowed))?;
        }
        much_comes_whole(t.pods["x/a"].namespace(), (to, 80), "outside")?;
    }
    let there = t.pods["x/b"].address();
    much_comes_whole(t.pods["x/a"].namespace(), (there, 80), "x/b")
}

fn outside(t: &Routed) -> Result<Servers> {
    Servers::start(t.cluster.outside(), "outside", &[Listen::Tcp(80), Listen::Udp(80)])
}

#[test]
fn pods_of_nodes_on_a_vlan_reach_each_other_by_vxlan_and_by_routes_and_the_outside() -> Result<()> {
    on_vlan(["vxlanMode: Always", "vxlanMode: Never"], |t| {
        let _servers = outside(t)?;
        reach_all(t)
    })
}

#[test]
fn pods_of_nodes_on_a_bond_do_by_ipip_and_by_routes_while_a_card_of_it_lives() -> Result<()> {
    two(BOND, ["ipipMode: Always", "ipipMode: Never"], bond, |t| {
        let _servers = outside(t)?;
        reach_all(t)?;
        let mut connection = Connection::open(t.pods["x/a"].namespace(), t.pods["x/b"].address(), 80)?;
        for card in ["uplink1", "uplink2"] {
            t.cluster.outside().ip(&[&format!("link set {card} down")])?;
        }
        reach_all(t).context("by the second cards")?;
        ensure!(connection.answers()?, "a connection goes on");
        for (down, up) in [("second1", "uplink1"), ("second2", "uplink2")] {
            t.cluster.outside().ip(&[&format!("link set {up} up")])?;
            t.cluster.outside().ip(&[&format!("link set {down} down")])?;
        }
        reach_all(t).context("by the first cards again")?;
        ensure!(connection.answers()?, "and on");
        Ok(())
    })
}
