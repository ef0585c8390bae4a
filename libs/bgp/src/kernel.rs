//! What goes between BIRD and the kernel, and what is told of it to peers.
//! In: [`Facts`]. Out: functions, filters and protocols of one family.
//! Invariant: what the agent routes itself (wrapped pools, pools' networks behind nodes nearby) is never written by BIRD, and routes
//! of the agent's protocol for other nodes are never told as this node's.
//! Never: tells a network that is neither this node's, nor a service's, nor of a pool.

use crate::{
    facts::Facts,
    filter::{PRIORITY, add, preference},
    peers::Peer,
    services,
    text::Lines,
};
use model::{Cidr, IpPool, Node};
use std::net::IpAddr;

/// The agent's routes to nodes and of its own blocks (`dataplane`).
const NODE_ROUTES: u8 = 85;
/// Its routes to its pods.
const POD_ROUTES: u8 = 84;

/// `4` or `6`.
pub(crate) fn digit(is_v4: bool) -> u8 {
    if is_v4 { 4 } else { 6 }
}

/// Static routes of BIRD's own: they are told, and but for gateways of peers no packet goes by them.
pub(crate) fn statics(facts: &Facts, peers: &[Peer], is_v4: bool, lines: &mut Lines) {
    let d = digit(is_v4);
    lines.say(format!("protocol static own{d} {{"));
    lines.say(format!("ipv{d};"));
    let told = services::told(facts);
    let blocks = facts.blocks.iter().filter(|block| **block != Cidr::host(block.network()));
    let mut nets: Vec<_> = blocks.chain(&told).filter(|net| net.is_v4() == is_v4).collect();
    nets.sort();
    nets.dedup();
    lines.all(nets.iter().map(|net| format!("route {net} blackhole;")));
    lines.say("}");
    let mut gateways: Vec<_> = peers.iter().filter_map(|peer| Some((peer.address, peer.reachable_by?))).collect();
    gateways.sort();
    gateways.dedup_by_key(|(peer, _)| *peer);
    if !gateways.is_empty() {
        lines.say(format!("protocol static gateways{d} {{"));
        lines.say(format!("ipv{d};"));
        lines.all(gateways.iter().map(|(peer, by)| format!("route {} via {by};", Cidr::host(*peer))));
        lines.say("}");
    }
}

pub(crate) fn protocol(facts: &Facts, is_v4: bool, lines: &mut Lines) {
    let d = digit(is_v4);
    lines.say(format!("filter from_kernel{d} {{"));
    lines.say(format!("if krt_source = {NODE_ROUTES} then reject;"));
    // A pod that is here is here, whatever a peer that is late says.
    lines.say(format!("if krt_source = {POD_ROUTES} then preference = 150;"));
    lines.all(["accept;", "}"]);
    lines.say(format!("filter to_kernel{d} {{"));
    lines.say(format!("if proto = \"gateways{d}\" then accept;"));
    lines.say("if source != RTS_BGP then reject;");
    lines.all(services::all(facts, is_v4).iter().map(|net| format!("if net ~ [ {net}+ ] then reject;")));
    let near = near(facts, is_v4);
    let writes = facts.cluster().and_then(|cluster| cluster.programs_unwrapped).unwrap_or(true);
    for pool in facts.pools(is_v4) {
        if Facts::is_wrapped(pool) || !writes {
            lines.say(format!("if net ~ [ {}+ ] then reject;", pool.cidr));
        } else if !near.is_empty() {
            lines.say(format!("if net ~ [ {}+ ] && bgp_next_hop ~ [ {} ] then reject;", pool.cidr, near.join(", ")));
        }
    }
    lines.all(["accept;", "}"]);
    lines.say(format!("protocol kernel kernel{d} {{"));
    lines.all(["learn;", "persist;", "scan time 2;", "graceful restart;", "merge paths on;"]);
    lines.say(format!("ipv{d} {{"));
    lines.say(format!("import filter from_kernel{d};"));
    lines.say(format!("export filter to_kernel{d};"));
    lines.all(["};", "}"]);
}

/// Nodes to whose blocks the agent itself has routes: those in a network of this one.
fn near(facts: &Facts, is_v4: bool) -> Vec<String> {
    if facts.leaves_routes {
        return Vec::new();
    }
    let is_near = |address: &&IpAddr| facts.networks.iter().any(|net| net.contains(**address));
    let others = facts.nodes.values().filter(|node| *node.name.0 != *facts.node);
    // The agent goes by any address of a node that is near, whichever it speaks from.
    let is_reached = |node: &&Node| node.addresses.iter().filter(|at| at.is_ipv4() == is_v4).any(|at| is_near(&at));
    let reached = others.filter(is_reached);
    let mut near: Vec<_> = reached.filter_map(|node| Facts::address_of(node, is_v4)).collect();
    near.sort();
    near.iter().map(ToString::to_string).collect()
}

/// What is told of the table, whomever: `accept` or `reject`.
pub(crate) fn told(facts: &Facts, is_v4: bool, lines: &mut Lines) {
    let d = digit(is_v4);
    lines.say(format!("function communities{d}() {{"));
    let given = facts.chosen(&facts.node, |configuration| {
        Some(&configuration.advertisements).filter(|given| !given.is_empty()).cloned()
    });
    for (net, communities) in given.unwrap_or_default().iter().filter(|(net, _)| net.is_v4() == is_v4) {
        let adds: Vec<_> = communities.iter().map(|community| add(*community)).collect();
        lines.say(format!("if net ~ [ {net}+ ] then {{ {} }}", adds.join(" ")));
    }
    lines.say("}");
    lines.say(format!("function told{d}(bool same_as) {{"));
    let pools = facts.pools(is_v4);
    let within = |pool: &&&IpPool| format!("[ {}+ ]", pool.cidr);
    lines.all(pools.iter().filter(|pool| pool.untold).map(|pool| format!("if net ~ {} then reject;", within(&pool))));
    lines.say(format!("communities{d}();"));
    let mut blocks: Vec<_> = facts.blocks.iter().filter(|block| block.is_v4() == is_v4).collect();
    blocks.sort();
    for block in blocks {
        // The block as a whole, and nothing in it that a pod here has.
        lines.say(format!("if net = {block} then accept;"));
        lines.say(format!("if net ~ [ {block}+ ] then reject;"));
    }
    let statics: Vec<_> = services::told(facts).into_iter().filter(|net| net.is_v4() == is_v4).collect();
    lines.all(statics.iter().map(|net| format!("if net = {net} then accept;")));
    lines.all(services::reflected(facts, is_v4).iter().map(|net| format!("if net ~ [ {net}+ ] then accept;")));
    lines.all(pools.iter().filter(|pool| !pool.untold).map(|pool| format!("if net ~ {} then accept;", within(&pool))));
    lines.all(["reject;", "}"]);
    lines.say(format!("function priority{d}() {{"));
    lines.say(format!("if source != RTS_BGP then bgp_local_pref = {};", preference(PRIORITY)));
    lines.say("}");
}
