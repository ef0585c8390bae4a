//! Rules as lines of short text, for tests.
//! In: rules. Out: `PLACE: ACTION what it asks [from SOURCE] [to DESTINATION]`, or that it is unreadable.
//! Invariant: every test that a rule asks is in its line.
//! Never: the reason why a rule is unreadable; tests ask for that by its field.

use model::{Cidr, EntityMatch, IcmpMatch, PortMatch, Rule};

pub(super) fn rules(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(rule).collect()
}

pub(super) fn rule(rule: &Rule) -> String {
    let mut words = vec![format!("{}: {:?}", rule.place, rule.action)];
    if rule.unreadable.is_some() {
        words.push("unreadable".to_owned());
        return words.join(" ");
    }
    words.extend(rule.family.map(|family| format!("{family:?}")));
    words.extend(rule.protocol.map(|protocol| protocol.to_string()));
    words.extend(rule.not_protocol.map(|protocol| format!("!{protocol}")));
    words.extend(rule.icmp.as_ref().map(icmp));
    words.extend(rule.not_icmp.as_ref().map(|not| format!("!{}", icmp(not))));
    words.extend(entity("from", &rule.source));
    words.extend(entity("to", &rule.destination));
    words.extend(rule.service.as_ref().map(|service| format!("service {service}")));
    words.join(" ")
}

fn icmp(icmp: &IcmpMatch) -> String {
    icmp.code.map_or(format!("type {}", icmp.kind), |code| format!("type {} code {code}", icmp.kind))
}

fn entity(end: &str, entity: &EntityMatch) -> Option<String> {
    let mut words = vec![end.to_owned()];
    words.extend(entity.selector.as_ref().map(|selector| short(&selector.to_string())));
    words.extend(entity.not_selector.as_ref().map(|selector| format!("!{{{}}}", short(&selector.to_string()))));
    words.extend(entity.nodes.as_ref().map(|selector| format!("nodes {selector}")));
    words.extend(entity.nets.as_deref().map(|nets| list(nets, Cidr::to_string)));
    words.extend(entity.not_nets.iter().map(|net| format!("-{net}")));
    words.extend(entity.ports.as_deref().map(|ports| format!("port {}", list(ports, port))));
    words.extend(entity.not_ports.iter().map(|not| format!("-port {}", port(not))));
    (words.len() > 1).then(|| words.join(" "))
}

fn list<T>(entries: &[T], said: impl Fn(&T) -> String) -> String {
    entries.iter().map(said).collect::<Vec<_>>().join(",")
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Range(range) if range.first() == range.last() => range.first().to_string(),
        PortMatch::Range(range) => format!("{}-{}", range.first(), range.last()),
        PortMatch::Named(name) => name.to_string(),
    }
}

/// `projectcalico.org/` is what tells Calico's own labels apart, and long.
fn short(selector: &str) -> String {
    selector.replace("projectcalico.org/", "~")
}
