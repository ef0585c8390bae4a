//! This node as a speaker: its identity, what it looks at, what it logs.
//! In: [`Facts`]. Out: the head of a configuration.
//! Invariant: the identity is the node's IPv4 address, and without one the same at every start.
//! Never: two nodes of one identity, but by chance where neither has IPv4.

use crate::{
    facts::Facts,
    text::{Lines, string, sum},
};
use model::BgpLog;
use std::net::{IpAddr, Ipv4Addr};

/// Interfaces whose networks are nobody's next hop: pods', and those that hold services' addresses.
const OURS: [&str; 3] = ["cali*", "kube-ipvs*", "vxlan*.calico"];
/// Seconds that a BIRD that was started again leaves the kernel's routes as they were, if a peer does not come back.
const RESTART_WAIT: u32 = 30;
/// Bytes of BIRD's log before it begins anew; one older is kept.
const LOG_MAX: u32 = 1 << 20;

pub(crate) fn router_id(facts: &Facts) -> Ipv4Addr {
    match facts.own().and_then(|own| Facts::address_of(own, true)) {
        Some(IpAddr::V4(address)) => address,
        // Neither 0.0.0.0 nor of a group.
        _ => Ipv4Addr::from((sum(&facts.node) as u32) >> 1 | 1 << 24),
    }
}

pub(crate) fn head(facts: &Facts, lines: &mut Lines, problems: &mut Vec<String>) {
    let log = facts.chosen(&facts.node, |configuration| configuration.log).unwrap_or(BgpLog::States);
    let path = facts.log.display().to_string();
    if let (Some(file), Some(older)) = (string(&path), string(&format!("{path}.1"))) {
        let said = if log == BgpLog::Quiet { "{ warning, error, auth, fatal, bug }" } else { "all" };
        lines.say(format!("log {file} {LOG_MAX} {older} {said};"));
    }
    lines.all([
        format!("router id {};", router_id(facts)),
        format!("graceful restart wait {RESTART_WAIT};"),
        "timeformat protocol iso long;".to_owned(),
        "timeformat log iso long ms;".to_owned(),
        match log {
            BgpLog::Quiet => "debug protocols off;",
            BgpLog::States => "debug protocols { states };",
            BgpLog::All => "debug protocols all;",
        }
        .to_owned(),
    ]);
    lines.all(["protocol device {", "scan time 2;", "}"]);
    lines.all(["protocol direct {", "ipv4;", "ipv6;"]);
    lines.say(format!("interface {};", interfaces(facts, problems)));
    lines.say("}");
}

fn interfaces(facts: &Facts, problems: &mut Vec<String>) -> String {
    let ignored = facts.cluster().map(|cluster| &*cluster.ignored_interfaces).unwrap_or_default();
    let mut patterns = Vec::new();
    for pattern in ignored {
        match string(pattern) {
            Some(pattern) => patterns.push(format!("-{pattern}")),
            None => problems.push(format!(
                "BGPConfiguration default: ignoredInterfaces: {pattern:?} is no name; it is not ignored"
            )),
        }
    }
    patterns.extend(OURS.iter().map(|pattern| format!("-\"{pattern}\"")));
    patterns.push("\"*\"".to_owned());
    patterns.join(", ")
}
