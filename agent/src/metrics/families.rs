//! The families of metrics, in the order in which they are written.
//! In: what was told, and the maps. Out: samples.
//! Invariant: a map that cannot be read costs its samples, not the others'; the scrape says so.
//! Never: a name that docs/operate.md does not have.

use super::{
    ServicesState, Told,
    text::{Kind, Text},
};
use crate::bird::Seen;
use dataplane::{DriftKind, Filled, Gauges, Usage, usages};
use model::ServiceId;
use service::About;

/// What the kernel says.
pub fn of_maps(text: &mut Text, gauges: &Gauges, filled: &[Filled]) {
    let mut errors = 0u64;
    let mut known = |error| {
        tracing::debug!("metrics: {error}");
        errors += 1;
    };
    let usages = usages(filled, gauges).map_err(&mut known).unwrap_or_default();
    let drops = gauges.drops().map_err(&mut known).unwrap_or_default();
    let mut each = |name, help, value: &dyn Fn(&Usage) -> Option<f64>| {
        text.family(name, Kind::Gauge, help);
        for usage in &usages {
            if let Some(value) = value(usage) {
                text.value(&[("map", usage.map.name)], value);
            }
        }
    };
    each("tortie_map_entries", "Entries of a kernel map in use.", &|usage| usage.used.map(real));
    each("tortie_map_entries_peak", "The most entries in use since the agent started.", &|usage| usage.peak.map(real));
    each("tortie_map_entries_max", "Entries that fit into a kernel map.", &|usage| Some(usage.size.into()));
    each("tortie_map_pressure_ratio", "The part of a kernel map that is in use, 0 to 1.", &Usage::ratio);
    each("tortie_map_memory_bytes", "Kernel memory that a map is charged for.", &|usage| Some(real(usage.memory)));
    let services = gauges.service_flows().map_err(&mut known).unwrap_or_default();
    text.family("tortie_map_read_errors", Kind::Gauge, "Kernel maps that this scrape could not read.");
    text.value(&[], errors);
    text.family("tortie_drops_total", Kind::Counter, "Packets dropped on this node since its tables were made.");
    for (reason, packets) in drops {
        text.value(&[("reason", reason.as_str())], packets);
    }
    let help = "Flows opened through services, those that are gone included, since the node's tables were made.";
    text.family("tortie_services_flows_total", Kind::Counter, help).value(&[], services.0);
    let help = "Packets to services that found no backend, since the node's tables were made.";
    text.family("tortie_services_refused_total", Kind::Counter, help).value(&[], services.1);
}

/// What the agent knows of services.
pub fn of_services(text: &mut Text, state: &ServicesState) {
    text.family("tortie_services", Kind::Gauge, "Services of the cluster.").value(&[], state.services);
    text.family("tortie_services_by", Kind::Gauge, "Who translates services on this node.");
    text.value(&[("proxy", "tortie")], !state.by_host).value(&[("proxy", "kube-proxy")], state.by_host);
    text.family("tortie_service_frontends", Kind::Gauge, "Addresses and ports at which services are reached here.");
    text.value(&[], state.frontends);
    text.family("tortie_service_remarks", Kind::Gauge, "What is odd about services; `tortie show services` names it.");
    for about in About::ALL {
        text.value(&[("about", about.as_str())], state.remarks.get(&about).copied().unwrap_or_default());
    }
    let mut each = |name, help, of: &dyn Fn(&(ServiceId, u64, u64)) -> u64| {
        text.family(name, Kind::Counter, help);
        for service in &state.flows {
            let id = &service.0;
            text.value(&[("namespace", &id.namespace.to_string()), ("service", &id.name)], of(service));
        }
    };
    each("tortie_service_flows_total", "Flows opened to a service at its present frontends.", &|service| service.1);
    let help = "Packets to a service that found no backend, at its present frontends.";
    each("tortie_service_refused_total", help, &|service| service.2);
    text.family("tortie_services_unlabelled", Kind::Gauge, "Services that metrics do not tell apart: serviceMetrics.");
    text.value(&[], state.unlabelled);
}

/// BIRD, where it speaks BGP for this node.
pub fn of_bgp(text: &mut Text, seen: &Seen) {
    text.family("tortie_bird_running", Kind::Gauge, "Whether BIRD answers.").value(&[], seen.running);
    let help = "How often BIRD was started again since the agent started.";
    text.family("tortie_bird_restarts_total", Kind::Counter, help).value(&[], seen.restarts);
    text.family("tortie_bgp_sessions", Kind::Gauge, "BGP sessions, by family and by whether they are established.");
    for family in ["IPv4", "IPv6"] {
        for (state, is_up) in [("established", true), ("other", false)] {
            let of = |session: &&bgp::Session| session.family == family && is_up == (session.info == "Established");
            text.value(&[("family", family), ("state", state)], seen.sessions.iter().filter(of).count());
        }
    }
    text.family(
        "tortie_bgp_problems",
        Kind::Gauge,
        "What of BGP's objects could not be made so; `tortie show status` names it.",
    );
    text.value(&[], seen.problems.len());
}

/// What an API server was asked to write; nothing, where there is none.
pub fn of_datastore(text: &mut Text, writes: &[(&'static str, u64)]) {
    if writes.is_empty() {
        return;
    }
    text.family(
        "tortie_datastore_writes_total",
        Kind::Counter,
        "Writes that the API server was asked for, by what is written.",
    );
    for (of, count) in writes {
        text.value(&[("of", of)], *count);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
fn real(value: u64) -> f64 {
    value as f64
}

/// What the agent counted.
pub fn of_agent(text: &mut Text, told: &Told) {
    let node = &told.node;
    text.family("tortie_build_info", Kind::Gauge, "The agent's version.");
    text.value(&[("version", env!("CARGO_PKG_VERSION"))], 1u64);
    text.family("tortie_ready", Kind::Gauge, "Whether the datastore was read and what it says was tried.");
    text.value(&[], node.ready);
    text.family("tortie_generation", Kind::Gauge, "The generation in force.").value(&[], node.generation);
    text.family("tortie_endpoints", Kind::Gauge, "Endpoints in force.").value(&[], node.endpoints);
    text.family("tortie_not_in_force", Kind::Gauge, "Items that are not as wanted; `tortie show status` names them.");
    text.value(&[], node.not_in_force);
    text.family("tortie_problems", Kind::Gauge, "What cannot be read; `tortie show status` names it.");
    text.value(&[("kind", "manifest")], node.problems).value(&[("kind", "record")], node.damaged);
    text.family("tortie_rules_uncounted", Kind::Gauge, "Compiled rules that share one counter, because HITS is full.");
    text.value(&[], told.fullness.uncounted);
    text.family(
        "tortie_revision_refused",
        Kind::Gauge,
        "Whether what is wanted does not fit and an older revision is in force.",
    );
    text.value(&[], node.refused);
    text.family("tortie_refused_revisions_total", Kind::Counter, "Revisions that did not fit, each counted once.");
    text.value(&[], told.refused);
    text.family(
        "tortie_staged_flows",
        Kind::Gauge,
        "Judgements of flows that staged policies would have made, by what they would.",
    );
    let tried = &node.tried;
    for (would, flows) in [("allow", tried.would_let_in), ("refuse", tried.would_refuse), ("same", tried.same)] {
        text.value(&[("would", would)], flows);
    }
    text.family("tortie_commits_total", Kind::Counter, "Commits that had something to change, repeated ones included.");
    for result in ["failed", "in-force", "refused"] {
        text.value(&[("result", result)], told.commits.get(result).copied().unwrap_or_default());
    }
    text.family("tortie_drift_repaired_total", Kind::Counter, "What other hands changed and was put back.");
    for kind in DriftKind::ALL {
        text.value(&[("kind", &kind.to_string())], told.repaired.get(&kind).copied().unwrap_or_default());
    }
    of_chores(text, told);
    let help = "Time to put a revision in force, interfaces and routes included.";
    text.family("tortie_commit_duration_seconds", Kind::Histogram, help).durations(&[], &told.commit_times);
    text.family("tortie_cni_requests_total", Kind::Counter, "Requests on the socket; code 0 is done.");
    for ((operation, code), count) in &told.requests {
        text.value(&[("operation", operation), ("code", &code.to_string())], *count);
    }
    text.family("tortie_cni_request_duration_seconds", Kind::Histogram, "Time to answer a request on the socket.");
    for (operation, times) in &told.request_times {
        text.durations(&[("operation", operation)], times);
    }
}

/// What one of the agents does for all; nothing, where this one never does.
fn of_chores(text: &mut Text, told: &Told) {
    let Some(does) = told.does_chores else { return };
    text.family("tortie_chores_leader", Kind::Gauge, "Whether this node does the chores of the cluster.")
        .value(&[], does);
    let help = "What nobody had any more and this node took back.";
    text.family("tortie_chores_taken_back_total", Kind::Counter, help);
    for what in ["address", "block", "claim", "handle", "hold"] {
        text.value(&[("what", what)], told.taken_back.get(what).copied().unwrap_or_default());
    }
}
