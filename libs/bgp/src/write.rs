//! The configuration as a whole.
//! In: [`Facts`]. Out: [`Written`].
//! Invariant: a node that nobody described, or that has no address of a family, speaks with nobody by it.
//! Never: what BIRD would refuse: the agent asks it before, and this is not what it should find.

use crate::{
    facts::{Facts, Written},
    filter, kernel, node,
    peers::{self, Kind, Peer},
    text::{Lines, string, symbol},
};
use model::{BgpFilter, NextHop};
use std::collections::BTreeSet;

/// Writes it.
#[must_use]
pub fn configuration(facts: &Facts) -> Written {
    let (mut lines, mut problems) = (Lines::default(), Vec::new());
    lines.say("# Written by tortie, and written again when objects change.");
    node::head(facts, &mut lines, &mut problems);
    if facts.own().is_none() {
        problems.push(format!("Node {}: nobody has described it; it speaks BGP with nobody", facts.node));
    }
    let families = [true, false].map(|is_v4| (is_v4, peers::sessions(facts, is_v4, &mut problems)));
    let named: BTreeSet<_> =
        families.iter().flat_map(|(_, peers)| peers.iter().flat_map(|peer| &peer.filters)).collect();
    let used = |filter: &&BgpFilter| named.contains(&filter.name);
    filter::functions(facts.filters.values().filter(used), &mut lines, &mut problems);
    for (is_v4, peers) in &families {
        kernel::statics(facts, peers, *is_v4, &mut lines);
        kernel::protocol(facts, *is_v4, &mut lines);
        kernel::told(facts, *is_v4, &mut lines);
        peers.iter().for_each(|peer| session(facts, peer, *is_v4, &mut lines));
    }
    Written { text: lines.end(), problems }
}

/// The name of a session: what `tortie node status` tells its kind by.
fn name(peer: &Peer) -> String {
    let plain = peer.address.to_string().replace(['.', ':'], "_");
    let port = peer.port.filter(|_| peer.kind != Kind::Mesh).map(|port| format!("_port_{port}")).unwrap_or_default();
    symbol(peer.kind.prefix(), &plain, &port)
}

fn session(facts: &Facts, peer: &Peer, is_v4: bool, lines: &mut Lines) {
    lines.say(format!("protocol bgp {} {{", name(peer)));
    lines.all(string(&peer.of).map(|of| format!("description {of};")));
    ends(facts, peer, lines);
    if peer.waits {
        lines.say("passive on;");
    }
    match peer.hops {
        Some(hops) => lines.all([format!("multihop {hops};"), "ttl security on;".to_owned()]),
        None => lines.say("multihop;"),
    }
    lines.all(["graceful restart on;", "connect delay time 2;", "connect retry time 5;", "error wait time 5, 30;"]);
    lines.all(peer.restart.map(|seconds| format!("graceful restart time {seconds};")));
    lines.all(peer.keepalive.map(|seconds| format!("keepalive time {seconds};")));
    lines.all(
        peer.password.as_ref().and_then(|password| string(password.text())).map(|text| format!("password {text};")),
    );
    if let Some(id) = peer.reflects {
        lines.all(["rr client;".to_owned(), format!("rr cluster id {id};")]);
    }
    if peer.allowed_local_as > 0 {
        lines.say(format!("allow local as {};", peer.allowed_local_as));
    }
    channel(facts, peer, is_v4, lines);
    lines.say("}");
}

/// Who speaks, and with whom.
fn ends(facts: &Facts, peer: &Peer, lines: &mut Lines) {
    let listens = facts.chosen(&facts.node, |configuration| configuration.listen_port);
    let port = listens.map(|port| format!(" port {port}")).unwrap_or_default();
    let source = peer.source.map(|source| format!(" {source}")).unwrap_or_default();
    lines.say(format!("local{source}{port} as {};", peer.local_as));
    let port = peer.port.map(|port| format!(" port {port}")).unwrap_or_default();
    lines.say(format!("neighbor {}{port} as {};", peer.address, peer.as_number));
    if peer.source.is_some() && facts.cluster().is_some_and(|cluster| cluster.binds) {
        lines.say("strict bind on;");
    }
}

/// What is heard and told.
fn channel(facts: &Facts, peer: &Peer, is_v4: bool, lines: &mut Lines) {
    let (d, internal) = (kernel::digit(is_v4), peer.as_number == peer.local_as);
    let calls = |is_import: bool| {
        let named = peer.filters.iter().filter_map(|name| facts.filters.get(name));
        let asked = named.filter(move |filter| !filter::rules(filter, is_import, is_v4).is_empty());
        asked.map(move |filter| format!("{}({internal});", filter::name(&filter.name, is_import, is_v4)))
    };
    lines.say(format!("ipv{d} {{"));
    lines.say("add paths on;");
    match peer.next_hop {
        NextHop::Own => lines.say("next hop self;"),
        NextHop::Keep => lines.say("next hop keep;"),
        NextHop::Auto | NextHop::KeepOutside => {}
    }
    if peer.is_closed {
        lines.all(["import none;", "export none;"]);
    } else {
        lines.say("import filter {");
        lines.all(calls(true));
        lines.all(["accept;", "};"]);
        lines.say("export filter {");
        lines.say(format!("priority{d}();"));
        lines.all(calls(false));
        lines.say(format!("told{d}({internal});"));
        lines.all(["reject;", "};"]);
    }
    lines.say("};");
}
