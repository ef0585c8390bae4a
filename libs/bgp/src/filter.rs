//! BGPFilter as functions of BIRD, one a direction and family.
//! In: rules. Out: functions that end a filter by `accept` or `reject`, or come back.
//! Invariant: rules are asked in their order; what none decides goes on to what is asked of all routes.
//! Never: a rule that asks for less than it says.

use crate::text::{Lines, string, symbol};
use model::{BgpFilter, BgpOperation, BgpRule, Community, NetMatch};

/// Calico's priorities are metrics, of which less is better; of a local preference more is.
const PREFERENCE_MAX: u32 = i32::MAX as u32;
/// The metric of routes of which nobody says another.
pub(crate) const PRIORITY: u32 = 1024;

/// The name of one function.
pub(crate) fn name(filter: &str, is_import: bool, is_v4: bool) -> String {
    let after = match (is_import, is_v4) {
        (true, true) => "_import_v4",
        (true, false) => "_import_v6",
        (false, true) => "_export_v4",
        (false, false) => "_export_v6",
    };
    symbol("filter_", filter, after)
}

/// The rules of one function.
pub(crate) fn rules(filter: &BgpFilter, is_import: bool, is_v4: bool) -> &[BgpRule] {
    match (is_import, is_v4) {
        (true, true) => &filter.import_v4,
        (true, false) => &filter.import_v6,
        (false, true) => &filter.export_v4,
        (false, false) => &filter.export_v6,
    }
}

pub(crate) fn functions<'a>(
    filters: impl Iterator<Item = &'a BgpFilter>,
    lines: &mut Lines,
    problems: &mut Vec<String>,
) {
    for filter in filters {
        for (is_import, is_v4) in [(true, true), (true, false), (false, true), (false, false)] {
            let rules = rules(filter, is_import, is_v4);
            if rules.is_empty() {
                continue;
            }
            lines.say(format!("function {}(bool same_as) {{", name(&filter.name, is_import, is_v4)));
            for rule in rules {
                match statement(rule) {
                    Some(text) => lines.say(text),
                    None => {
                        problems.push(format!(
                            "BGPFilter {}: interface {:?} is no name; nothing passes from that rule on",
                            filter.name,
                            rule.interface.as_deref().unwrap_or_default()
                        ));
                        lines.say("reject;");
                    }
                }
            }
            lines.say("}");
        }
    }
}

/// `None`: what it asks cannot be said.
fn statement(rule: &BgpRule) -> Option<String> {
    let mut asked = Vec::new();
    asked.extend(rule.is_internal.map(|is| if is { "same_as" } else { "!same_as" }.to_owned()));
    asked.extend(rule.net.as_ref().map(net));
    asked.extend(rule.is_learned.then(|| "source = RTS_BGP".to_owned()));
    if let Some(interface) = &rule.interface {
        asked.push(format!("ifname ~ {}", string(interface)?));
    }
    asked.extend(rule.community.map(|community| {
        let (value, list) = said(community);
        format!("{value} ~ {list}")
    }));
    if !rule.path.is_empty() {
        let path: Vec<_> = rule.path.iter().map(ToString::to_string).collect();
        asked.push(format!("bgp_path ~ [= {} * =]", path.join(" ")));
    }
    asked.extend(rule.priority.map(|priority| format!("bgp_local_pref = {}", preference(priority))));
    let mut done: Vec<String> = rule.operations.iter().flat_map(operation).collect();
    done.push(if rule.accepts { "accept;" } else { "reject;" }.to_owned());
    let done = done.join(" ");
    Some(match asked.is_empty() {
        true => done,
        false => format!(
            "if {} then {{ {done} }}",
            asked.iter().map(|each| format!("({each})")).collect::<Vec<_>>().join(" && ")
        ),
    })
}

fn net(asked: &NetMatch) -> String {
    let NetMatch { net, within, negated, lengths } = asked;
    let longest = if net.is_v4() { 32 } else { 128 };
    let set = match (lengths, within) {
        (Some((least, most)), _) => {
            format!("[ {net}{{{},{}}} ]", (*least).max(net.prefix_len()), (*most).min(longest))
        }
        (None, true) => format!("[ {net}+ ]"),
        (None, false) => format!("[ {net} ]"),
    };
    format!("net {} {set}", if *negated { "!~" } else { "~" })
}

fn operation(operation: &BgpOperation) -> Vec<String> {
    match operation {
        BgpOperation::Add(community) => vec![add(*community)],
        // Each goes before those that are there.
        BgpOperation::Prepend(path) => path.iter().rev().map(|number| format!("bgp_path.prepend({number});")).collect(),
        BgpOperation::Priority(priority) => vec![format!("bgp_local_pref = {};", preference(*priority))],
    }
}

pub(crate) fn preference(priority: u32) -> u32 {
    PREFERENCE_MAX.saturating_sub(priority)
}

/// A route bears it from then on.
pub(crate) fn add(community: Community) -> String {
    let (value, list) = said(community);
    format!("{list}.add({value});")
}

fn said(community: Community) -> (String, &'static str) {
    match community {
        Community::Standard(a, b) => (format!("({a}, {b})"), "bgp_community"),
        Community::Large(a, b, c) => (format!("({a}, {b}, {c})"), "bgp_large_community"),
    }
}
