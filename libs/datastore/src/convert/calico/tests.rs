//! What Calico's manifests mean, and what becomes of those that mean nothing.
//! In: YAML as people write it and as Calico stores it. Out: rules in short text, refusals with their field.
//! Invariant: every refused form stands beside the accepted one it resembles.
//! Never: a cluster.

use super::super::{
    said,
    tests::{known, refusal},
};
use model::{Layer, NetworkSet, Order, Policy, Profile, Resource, Tier};
use std::sync::Arc;

const API: &str = "projectcalico.org/v3";
const STORED: &str = "crd.projectcalico.org/v1";

fn object(api_version: &str, kind: &str, metadata: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {metadata}\nspec:\n{spec}")
}

fn global(spec: &str) -> String {
    object(API, "GlobalNetworkPolicy", "{name: p}", spec)
}

fn namespaced(spec: &str) -> String {
    object(API, "NetworkPolicy", "{name: p, namespace: shop}", spec)
}

fn policy(text: &str) -> (Policy, Vec<String>) {
    match known(text) {
        (Resource::Policy(policy), unreadable) => (Arc::unwrap_or_clone(policy), unreadable),
        (other, _) => panic!("{other:?}"),
    }
}

/// The ingress rules of a GlobalNetworkPolicy.
fn ingress(rules: &str) -> Vec<String> {
    let (policy, unreadable) = policy(&global(&format!("ingress: [{rules}]")));
    let said = said::rules(&policy.ingress);
    let held = said.iter().filter(|rule| rule.ends_with("unreadable")).count();
    assert_eq!(held, unreadable.len(), "every unreadable rule is reported once: {unreadable:?}");
    said
}

/// What is said of the only rule, which cannot be read.
fn complaint(rule: &str) -> String {
    let (policy, unreadable) = policy(&global(&format!("ingress: [{rule}]")));
    assert!(policy.ingress.len() == 1 && policy.ingress[0].unreadable.is_some(), "{rule}: {:?}", policy.ingress);
    assert_eq!(unreadable.len(), 1, "{rule}: {unreadable:?}");
    unreadable[0].clone()
}

/// Of the ingress rule `{action: Allow, PART}`, all but its place and action.
fn part(part: &str) -> String {
    ingress(&format!("{{action: Allow, {part}}}")).remove(0).replacen("0: Allow", "", 1).trim().to_owned()
}

fn source_in_namespace(source: &str) -> String {
    let (policy, unreadable) = policy(&namespaced(&format!("ingress: [{{action: Allow, source: {source}}}]")));
    assert_eq!(unreadable, [""; 0]);
    said::rule(&policy.ingress[0]).replacen("0: Allow", "", 1).trim().to_owned()
}

fn types(text: &str) -> (bool, bool) {
    let types = policy(text).0.types;
    (types.ingress, types.egress)
}

#[test]
fn cal_5_types_follow_from_the_rules_where_they_are_not_given() {
    for of in [global, namespaced] {
        assert_eq!(types(&of("selector: all()")), (true, false));
        assert_eq!(types(&of("types: []")), (true, false));
        assert_eq!(types(&of("ingress: [{action: Allow}]")), (true, false));
        assert_eq!(types(&of("egress: [{action: Allow}]")), (false, true));
        assert_eq!(types(&of("{ingress: [{action: Allow}], egress: [{action: Allow}]}")), (true, true));
        assert_eq!(types(&of("{types: [Egress], ingress: [{action: Allow}]}")), (false, true));
    }
}

#[test]
fn cal_5_what_lies_in_the_store_without_types_is_asked_in_both_directions() {
    for (kind, metadata) in [("GlobalNetworkPolicy", "{name: p}"), ("NetworkPolicy", "{name: p, namespace: shop}")] {
        assert_eq!(types(&object(STORED, kind, metadata, "selector: all()")), (true, true));
        assert_eq!(types(&object(STORED, kind, metadata, "types: [Egress]")), (false, true));
    }
}

#[test]
fn cal_6_rules_of_a_direction_that_is_not_among_the_types_have_no_effect() {
    let (policy, unreadable) = policy(&global("{types: [Egress], ingress: [{action: Allow}, {action: Nonsense}]}"));
    assert!(policy.ingress.is_empty() && unreadable.is_empty());
}

#[test]
fn cal_1_an_order_is_any_number_and_none_stands_last() {
    let order = |order: &str| policy(&global(&format!("order: {order}"))).0.order;
    assert_eq!([order("-1.5"), order("0"), order("1e3")], [Order::At(-1.5), Order::At(0.0), Order::At(1000.0)]);
    assert_eq!(order("null"), Order::Unset);
    assert!(refusal(&global("order: first")).starts_with("spec.order: "));
}

#[test]
fn cal_9_actions_are_capitalised_and_what_may_have_been_a_deny_refuses() {
    let actions = "{action: Allow}, {action: Deny}, {action: Pass}, {action: Log}";
    assert_eq!(ingress(actions), ["0: Allow", "1: Deny", "2: Pass", "3: Log"]);
    assert_eq!(
        ingress("{action: allow}, {}, {action: 1}, 7"),
        ["0", "1", "2", "3"].map(|at| format!("{at}: Deny unreadable"))
    );
    assert!(
        complaint("{action: allow}").starts_with("spec.ingress[0].action: \"allow\" is not Allow, Deny, Pass or Log")
    );
    assert!(complaint("{}").contains("is required"));
}

#[test]
fn an_unreadable_part_makes_its_rule_unreadable_in_its_place_and_with_its_action() {
    let rules = "{action: Deny, source: {nets: [x]}}, {action: Pass, source: {net: []}}, {action: Log, from: 1}, {action: Allow, ipVersion: 5}";
    assert_eq!(
        ingress(rules),
        ["0: Deny unreadable", "1: Pass unreadable", "2: Log unreadable", "3: Allow unreadable"]
    );
    let (policy, unreadable) =
        policy(&namespaced("egress: [{action: Allow}, {action: Deny, destination: {nets: [10.0.0.0/8, 10.1/16]}}]"));
    assert_eq!(said::rules(&policy.egress), ["0: Allow", "1: Deny unreadable"]);
    assert_eq!(
        unreadable,
        [
            "spec.egress[1].destination.nets[1]: \"10.1/16\" is not a network such as 10.0.0.0/8; the rule refuses everything"
        ]
    );
}

#[test]
fn cal_11_a_field_and_its_negation_stand_side_by_side() {
    let both = "protocol: TCP, notProtocol: UDP, destination: {ports: ['80:90'], notPorts: [85], nets: [10.0.0.0/8], notNets: [10.1.0.0/16], selector: has(a), notSelector: has(b)}";
    assert_eq!(part(both), "TCP !UDP to has(a) !{has(b)} 10.0.0.0/8 -10.1.0.0/16 port 80-90 -port 85");
}

#[test]
fn cal_20_a_protocol_is_a_name_or_a_number() {
    for (written, read) in
        [("TCP", "TCP"), ("6", "TCP"), ("'6'", "TCP"), ("icmpv6", "ICMPv6"), ("UDPLite", "UDPLite"), ("253", "253")]
    {
        assert_eq!(part(&format!("protocol: {written}")), read);
        assert_eq!(part(&format!("notProtocol: {written}")), format!("!{read}"));
    }
    for bad in ["0", "256", "-1", "TPC", "''", "1.5", "[TCP]", "true"] {
        assert!(
            complaint(&format!("{{action: Allow, protocol: {bad}}}")).starts_with("spec.ingress[0].protocol: "),
            "{bad}"
        );
    }
}

#[test]
fn cal_21_ports_are_numbers_and_ranges_beside_a_protocol_that_has_them() {
    assert_eq!(
        part("protocol: SCTP, destination: {ports: [80, '81', '1:65535', '82:82']}"),
        "SCTP to port 80,81,1-65535,82"
    );
    assert_eq!(part("protocol: 17, source: {notPorts: [53]}"), "UDP from -port 53");
    assert_eq!(part("protocol: TCP, destination: {ports: []}"), "TCP");
    assert_eq!(part("protocol: ICMP, destination: {ports: []}"), "ICMP");
    for bad in ["0", "65536", "'0'", "'90:80'", "'0:80'", "'1:65536'", "':80'", "'80-90'", "HTTP", "1.5", "''", "'a:b'"]
    {
        let said = complaint(&format!("{{action: Allow, protocol: TCP, destination: {{ports: [80, {bad}]}}}}"));
        assert!(said.starts_with("spec.ingress[0].destination.ports[1]: "), "{bad}: {said}");
    }
    for without in ["", "protocol: ICMP,", "protocol: UDPLite,", "notProtocol: TCP,"] {
        let said = complaint(&format!("{{action: Deny, {without} source: {{notPorts: [80]}}}}"));
        assert!(
            said.starts_with("spec.ingress[0].source.notPorts: needs protocol TCP, UDP or SCTP"),
            "{without}: {said}"
        );
    }
}

#[test]
fn cal_23_names_stand_beside_numbers_on_both_ends_and_alone_without_a_protocol() {
    let both = "protocol: UDP, source: {ports: [http, 1]}, destination: {notPorts: [dns, '5:6']}";
    assert_eq!(part(both), "UDP from port http,1 to -port dns -port 5-6");
    assert_eq!(part("destination: {ports: [http, dns]}"), "to port http,dns");
    assert!(
        complaint("{action: Allow, destination: {ports: [http, 80]}}")
            .starts_with("spec.ingress[0].destination.ports: ")
    );
}

#[test]
fn cal_26_networks_lose_their_host_bits_and_may_be_of_both_families() {
    let both = "source: {nets: [10.1.2.3/8, 'ffe2::1/16', 192.0.2.1, '::1'], notNets: [0.0.0.0/0]}";
    assert_eq!(part(both), "from 10.0.0.0/8,ffe2::/16,192.0.2.1/32,::1/128 -0.0.0.0/0");
    assert_eq!(part("source: {nets: [], notNets: null}"), "");
    for bad in ["10.0.0.0/33", "10.0.0/8", "x", "''", "10.0.0.0/8 "] {
        let said = complaint(&format!("{{action: Deny, source: {{notNets: ['{}']}}}}", bad.trim_matches('\'')));
        assert!(said.starts_with("spec.ingress[0].source.notNets[0]: "), "{bad}: {said}");
    }
}

#[test]
fn cal_29_icmp_has_a_type_and_with_it_a_code() {
    assert_eq!(part("protocol: ICMP, icmp: {type: 8}"), "ICMP type 8");
    assert_eq!(
        part("protocol: ICMPv6, icmp: {type: 0, code: 255}, notICMP: {type: 254}"),
        "ICMPv6 type 0 code 255 !type 254"
    );
    assert_eq!(part("protocol: 1, icmp: {}, notICMP: {}"), "ICMP");
    assert_eq!(part("notICMP: {type: 8}"), "!type 8");
    for (bad, field) in [
        ("protocol: ICMP, icmp: {type: 255}", "icmp.type"),
        ("protocol: ICMP, icmp: {type: 256}", "icmp.type"),
        ("protocol: ICMP, icmp: {type: 1, code: 256}", "icmp.code"),
        ("protocol: ICMP, icmp: {code: 0}", "icmp.code"),
        ("protocol: ICMP, notICMP: {code: 0}", "notICMP.code"),
        ("protocol: TCP, icmp: {type: 8}", "icmp"),
        ("icmp: {type: 8}", "icmp"),
        ("icmp: {}", "icmp"),
        ("protocol: ICMP, icmp: {kind: 8}", "icmp"),
    ] {
        let said = complaint(&format!("{{action: Allow, {bad}}}"));
        assert!(said.starts_with(&format!("spec.ingress[0].{field}")), "{bad}: {said}");
    }
}

#[test]
fn cal_30_a_rule_may_be_of_one_family_that_its_protocol_has() {
    assert_eq!(part("ipVersion: 4"), "V4");
    assert_eq!(part("ipVersion: 6, protocol: ICMPv6"), "V6 ICMPv6");
    assert_eq!(part("ipVersion: 6, notProtocol: TCP"), "V6 !TCP");
    for (bad, field) in [
        ("ipVersion: 5", "ipVersion"),
        ("ipVersion: 6, protocol: ICMP", "protocol"),
        ("ipVersion: 4, protocol: 58", "protocol"),
        ("ipVersion: 4, notProtocol: ICMPv6", "notProtocol"),
    ] {
        let said = complaint(&format!("{{action: Allow, {bad}}}"));
        assert!(said.starts_with(&format!("spec.ingress[0].{field}: ")), "{bad}: {said}");
    }
}

#[test]
fn cal_32_a_namespaced_policys_peers_are_in_its_namespace_unless_it_says_otherwise() {
    assert_eq!(source_in_namespace("{selector: has(a)}"), "from (~namespace == \"shop\" && has(a))");
    assert_eq!(source_in_namespace("{selector: all()}"), "from (~namespace == \"shop\" && all())");
    assert_eq!(source_in_namespace("{namespaceSelector: all()}"), "from has(~namespace)");
    assert_eq!(source_in_namespace("{namespaceSelector: all(), selector: has(a)}"), "from (has(~namespace) && has(a))");
    assert_eq!(source_in_namespace("{namespaceSelector: team == 'a'}"), "from pcns.team == \"a\"");
    assert_eq!(
        source_in_namespace("{namespaceSelector: ' global( ) ', selector: has(a)}"),
        "from (!has(~namespace) && has(a))"
    );
    assert_eq!(source_in_namespace("{nets: [10.0.0.0/8]}"), "from 10.0.0.0/8");
    assert_eq!(source_in_namespace("{selector: '', namespaceSelector: '', notSelector: ''}"), "");
    assert_eq!(part("source: {selector: has(a)}"), "from has(a)");
    assert_eq!(part("source: {selector: all()}"), "from all()");
    assert_eq!(part("source: {namespaceSelector: all()}"), "from has(~namespace)");
}

#[test]
fn cal_31_cal_32_a_negated_selector_alone_stays_in_the_policys_namespace_and_is_everybody_else_in_a_global_one() {
    assert_eq!(source_in_namespace("{notSelector: has(a)}"), "from ~namespace == \"shop\" !{has(a)}");
    assert_eq!(part("source: {notSelector: has(a)}"), "from !{has(a)}");
}

#[test]
fn cal_32_global_stands_alone_and_in_a_rules_namespace_selector_only() {
    for bad in [
        "selector: global()",
        "notSelector: '!global()'",
        "namespaceSelector: global() || has(a)",
        "serviceAccounts: {selector: global()}",
    ] {
        let said = complaint(&format!("{{action: Allow, source: {{{bad}}}}}"));
        assert!(said.starts_with("spec.ingress[0].source.") && said.contains("global()"), "{bad}: {said}");
    }
    for field in ["selector", "namespaceSelector", "serviceAccountSelector"] {
        assert!(
            refusal(&global(&format!("{field}: global()"))).starts_with(&format!("spec.{field}: global()")),
            "{field}"
        );
    }
}

#[test]
fn cal_35_service_accounts_are_names_and_labels_joined_by_and() {
    assert_eq!(part("source: {serviceAccounts: {names: [b, a]}}"), "from ~serviceaccount in {\"a\", \"b\"}");
    assert_eq!(
        source_in_namespace("{serviceAccounts: {names: [a], selector: role == 'x'}, selector: has(b)}"),
        "from (~namespace == \"shop\" && pcsa.role == \"x\" && ~serviceaccount in {\"a\"} && has(b))"
    );
    assert_eq!(part("source: {serviceAccounts: {}}"), "");
    let said = complaint("{action: Allow, source: {serviceAccounts: {names: [\"a', 'b\"]}}}");
    assert!(said.starts_with("spec.ingress[0].source.serviceAccounts.names[0]: "), "{said}");
    assert!(complaint("{action: Allow, source: {serviceAccounts: {name: a}}}").contains("name"));
}

#[test]
fn cal_36_a_service_stands_at_the_other_end_with_its_namespace_or_the_policys() {
    assert_eq!(part("source: {services: {name: a, namespace: b}}"), "service b/a");
    assert_eq!(
        part("protocol: TCP, source: {services: {name: a, namespace: b}, ports: [1]}, destination: {ports: [80]}"),
        "TCP from port 1 to port 80 service b/a"
    );
    assert_eq!(source_in_namespace("{services: {name: a}}"), "service shop/a");
    assert_eq!(source_in_namespace("{services: {name: a, namespace: b}, selector: '', nets: []}"), "service b/a");
    let (policy, unreadable) = policy(&namespaced("egress: [{action: Deny, destination: {services: {name: a}}}]"));
    assert_eq!((said::rules(&policy.egress), unreadable.len()), (vec!["0: Deny service shop/a".to_owned()], 0));
}

#[test]
fn cal_36_a_service_that_calico_would_refuse_makes_its_rule_unreadable() {
    for (source, field) in [
        ("services: {name: a}", "source.services.namespace: is required"),
        ("services: {namespace: b}", "source.services.name"),
        ("services: {name: A, namespace: b}", "source.services.name"),
        ("services: {name: a, namespace: b.c}", "source.services.namespace"),
        ("services: {name: a, namespace: b, port: 1}", "source.services.port"),
        ("services: [a]", "source.services"),
        ("services: {name: a, namespace: b}, selector: all()", "source.selector"),
        ("services: {name: a, namespace: b}, notSelector: has(a)", "source.notSelector"),
        ("services: {name: a, namespace: b}, namespaceSelector: all()", "source.namespaceSelector"),
        ("services: {name: a, namespace: b}, nets: [10.0.0.0/8]", "source.nets"),
        ("services: {name: a, namespace: b}, notNets: [10.0.0.0/8]", "source.notNets"),
        ("services: {name: a, namespace: b}, serviceAccounts: {}", "source.serviceAccounts"),
    ] {
        let said = complaint(&format!("{{action: Allow, source: {{{source}}}}}"));
        assert!(said.starts_with(&format!("spec.ingress[0].{field}")), "{source}: {said}");
        assert!(said.ends_with("the rule matches nothing"), "{said}");
    }
    let said = complaint("{action: Deny, destination: {services: {name: a, namespace: b}}}");
    assert!(said.starts_with("spec.ingress[0].destination.services: ") && said.contains("source"), "{said}");
    assert!(said.ends_with("the rule refuses everything"), "{said}");
    for egress in [
        "source: {services: {name: a}}",
        "protocol: TCP, destination: {services: {name: a}, ports: [80]}",
        "protocol: TCP, destination: {services: {name: a}, notPorts: [80]}",
    ] {
        let (policy, unreadable) = policy(&namespaced(&format!("egress: [{{action: Allow, {egress}}}]")));
        assert_eq!((said::rules(&policy.egress), unreadable.len()), (vec!["0: Allow unreadable".to_owned()], 1));
    }
}

#[test]
fn cal_37_a_rule_with_http_lets_nothing_in_and_says_so() {
    let said = complaint("{action: Allow, protocol: TCP, http: {methods: [GET]}}");
    assert!(said.starts_with("spec.ingress[0].http: ") && said.ends_with("the rule matches nothing"), "{said}");
    assert_eq!(ingress("{action: Deny, http: {}}"), ["0: Deny unreadable"]);
}

#[test]
fn a_rules_metadata_changes_nothing() {
    assert_eq!(part("protocol: TCP, metadata: {annotations: {a: b}}"), "TCP");
}

fn subject(text: &str) -> String {
    policy(text).0.subject.to_string()
}

#[test]
fn cal_38_a_policys_subject_is_joined_from_its_selectors_and_its_namespace() {
    assert_eq!(subject(&global("order: 1")), "all()");
    assert_eq!(subject(&global("selector: has(a) || has(b)")), "(has(a) || has(b))");
    assert_eq!(
        subject(&global("{selector: has(a), namespaceSelector: has(b), serviceAccountSelector: has(c)}")),
        "(has(a) && has(pcns.b) && has(pcsa.c))"
    );
    assert_eq!(
        subject(&global("{namespaceSelector: all(), serviceAccountSelector: all()}")),
        "(has(projectcalico.org/namespace) && has(projectcalico.org/serviceaccount))"
    );
    assert_eq!(subject(&namespaced("selector: ''")), "projectcalico.org/namespace == \"shop\"");
    assert_eq!(
        subject(&namespaced("{selector: has(a), serviceAccountSelector: has(c)}")),
        "(has(a) && projectcalico.org/namespace == \"shop\" && has(pcsa.c))"
    );
}

#[test]
fn a_policy_names_its_tier_and_stands_in_the_default_one_otherwise() {
    let tier = |spec: &str| policy(&global(spec)).0.tier.0;
    assert_eq!(
        [tier("tier: security"), tier("tier: ''"), tier("order: 1")],
        ["security", "default", "default"].map(Arc::from)
    );
    for bad in ["a.b", "A", "-a", "'a b'"] {
        assert!(refusal(&global(&format!("tier: {bad}"))).starts_with("spec.tier: "), "{bad}");
    }
}

#[test]
fn cal_10_what_is_longer_than_calicos_api_takes_is_refused_as_a_whole() {
    let rules = |count: usize| global(&format!("egress: [{}]", vec!["{action: Deny}"; count].join(", ")));
    assert_eq!(policy(&rules(1024)).0.egress.len(), 1024);
    assert_eq!(refusal(&rules(1025)), "spec.egress: 1025 are more than 1024 entries; divide it between several");
    let selector = |length: usize| global(&format!("selector: a == '{}'", "x".repeat(length - 7)));
    assert_eq!(policy(&selector(1024)).0.order, Order::Unset);
    assert!(refusal(&selector(1025)).starts_with("spec.selector: 1025 are more than 1024 characters"));
    let source = |field: &str, entry: &str, count: usize| {
        global(&format!(
            "ingress: [{{action: Deny}}, {{action: Deny, protocol: TCP, source: {{{field}: [{}]}}}}]",
            vec![entry; count].join(", ")
        ))
    };
    for (field, entry, most) in
        [("nets", "10.0.0.0/8", 256), ("notNets", "10.0.0.0/8", 256), ("ports", "80", 50), ("notPorts", "80", 50)]
    {
        assert_eq!(policy(&source(field, entry, most)).1, [""; 0]);
        let said = refusal(&source(field, entry, most + 1));
        assert!(
            said.starts_with(&format!("spec.ingress[1].source.{field}: {} are more than {most}", most + 1)),
            "{said}"
        );
    }
    let peer =
        global(&format!("egress: [{{action: Allow, destination: {{notSelector: a == '{}'}}}}]", "x".repeat(1024)));
    assert!(refusal(&peer).starts_with("spec.egress[0].destination.notSelector: "));
}

#[test]
fn a_policy_whose_subject_or_shape_is_unclear_is_refused_as_a_whole_and_names_its_field() {
    for (bad, said) in [
        ("selector: a = 'b'", "spec.selector: \"a = 'b'\" is not a selector: at character 3 stands \"= 'b'\""),
        ("selector: [a]", "spec.selector: "),
        ("types: [ingress]", "spec.types[0]: \"ingress\" is neither Ingress nor Egress"),
        ("ingres: []", "spec"),
        ("ingress: {}", "spec.ingress: "),
        ("namespaceSelector: has(", "spec.namespaceSelector: "),
    ] {
        assert!(refusal(&global(bad)).starts_with(said), "{bad}: {}", refusal(&global(bad)));
    }
    assert_eq!(
        refusal("{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: p}}"),
        "spec: is required"
    );
    for field in ["namespaceSelector: has(a)", "doNotTrack: true", "preDNAT: true", "applyOnForward: true"] {
        let path = field.split(':').next().unwrap_or_default();
        assert!(
            refusal(&namespaced(field)).starts_with(&format!("spec.{path}: stands in a GlobalNetworkPolicy only")),
            "{field}"
        );
    }
}

#[test]
fn hep_8_hep_9_hep_10_a_policy_says_in_which_layer_it_is_asked() {
    let layer = |spec: &str| policy(&global(spec)).0.layer;
    assert_eq!(layer("{doNotTrack: true, applyOnForward: true}"), Layer::Untracked);
    assert_eq!(layer("{preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}"), Layer::PreDnat);
    assert_eq!(layer("{applyOnForward: true}"), Layer::Ordinary { on_forward: true });
    assert_eq!(layer("{applyOnForward: false, doNotTrack: false}"), Layer::Ordinary { on_forward: false });
    assert_eq!(policy(&namespaced("selector: all()")).0.layer, Layer::Ordinary { on_forward: false });
    for (spec, field) in [
        ("{doNotTrack: true}", "spec.applyOnForward: "),
        ("{preDNAT: true}", "spec.applyOnForward: "),
        ("{preDNAT: true, doNotTrack: true, applyOnForward: true}", "spec.preDNAT: "),
        ("{preDNAT: true, applyOnForward: true, egress: [{action: Deny}]}", "spec.preDNAT: "),
        ("{preDNAT: true, applyOnForward: true, types: [Egress]}", "spec.preDNAT: "),
    ] {
        assert!(refusal(&global(spec)).starts_with(field), "{spec}");
    }
    assert_eq!(policy(&global("{applyOnForward: true, ingress: [{action: Deny}]}")).0.ingress.len(), 1);
}

#[test]
fn cal_19_hints_change_nothing() {
    let hinted = policy(&global("{selector: has(a), performanceHints: [AssumeNeededOnEveryNode]}"));
    assert_eq!(hinted, policy(&global("selector: has(a)")));
}

#[test]
fn cal_15_a_stored_policy_has_the_name_its_user_gave() {
    let name = |annotation: &str, tier: &str| {
        let metadata = format!("{{name: default.web, annotations: {annotation}}}");
        policy(&object(STORED, "GlobalNetworkPolicy", &metadata, &format!("tier: {tier}"))).0.id.name
    };
    assert_eq!(&*name("{projectcalico.org/metadata: '{\"name\": \"web\"}'}", "default"), "web");
    assert_eq!(&*name("{projectcalico.org/metadata: '{\"uid\": \"1\"}'}", "default"), "web");
    assert_eq!(&*name("{projectcalico.org/metadata: '{}'}", "security"), "default.web");
    assert_eq!(&*name("{}", "default"), "default.web");
    let written = object(API, "GlobalNetworkPolicy", "{name: default.web}", "tier: default");
    assert_eq!(&*policy(&written).0.id.name, "default.web");
    for bad in ["{", "{\"name\": \"../x\"}", "{\"labels\": 1}"] {
        let metadata = format!("{{name: p, annotations: {{projectcalico.org/metadata: '{bad}'}}}}");
        let said = refusal(&object(STORED, "GlobalNetworkPolicy", &metadata, "order: 1"));
        assert!(said.starts_with("metadata.annotations[projectcalico.org/metadata]: "), "{bad}: {said}");
    }
}

fn set(text: &str) -> (NetworkSet, Vec<String>) {
    match known(text) {
        (Resource::NetworkSet(set), unreadable) => (Arc::unwrap_or_clone(set), unreadable),
        (other, _) => panic!("{other:?}"),
    }
}

fn nets(set: &NetworkSet) -> Vec<String> {
    set.nets.iter().map(ToString::to_string).collect()
}

#[test]
fn cal_33_a_set_has_labels_a_namespace_or_none_and_each_network_once() {
    let spec = "nets: [10.1.2.3/8, 10.0.0.0/8, 0.0.0.0/0, 192.0.2.7, 'fd00::/8']";
    for version in [API, STORED] {
        let (own, unreadable) = set(&object(version, "NetworkSet", "{name: s, namespace: shop, labels: {a: b}}", spec));
        assert_eq!((own.id.to_string(), unreadable), ("NetworkSet shop/s".into(), vec![]));
        assert_eq!(own.labels.get("a"), Some("b"));
        assert_eq!(nets(&own), ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]);
        let (global, _) = set(&object(version, "GlobalNetworkSet", "{name: s}", "nets: []"));
        assert_eq!((global.id.to_string(), global.nets.len()), ("GlobalNetworkSet s".into(), 0));
    }
}

#[test]
fn cal_33_a_stored_set_has_the_labels_its_user_gave() {
    let metadata =
        "{name: s, labels: {a: old, c: d}, annotations: {projectcalico.org/metadata: '{\"labels\": {\"a\": \"b\"}}'}}";
    let (stored, _) = set(&object(STORED, "GlobalNetworkSet", metadata, "nets: [10.0.0.0/8]"));
    let labels: Vec<_> = stored.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["a=b", "c=d"]);
    let (written, _) = set(&object(API, "GlobalNetworkSet", metadata, "nets: [10.0.0.0/8]"));
    assert_eq!(written.labels.get("a"), Some("old"));
}

#[test]
fn a_set_that_cannot_be_read_whole_is_refused() {
    let refused = |spec: &str| refusal(&object(API, "GlobalNetworkSet", "{name: s}", spec));
    assert_eq!(
        refused("nets: [10.0.0.0/8, 10.0.0.0/88]"),
        "spec.nets[1]: \"10.0.0.0/88\" is not a network such as 10.0.0.0/8"
    );
    assert!(refused("net: [10.0.0.0/8]").starts_with("spec"));
    assert!(refused("nets: 10.0.0.0/8").starts_with("spec.nets: "));
}

#[test]
fn a_set_has_as_many_members_as_a_cluster_can_hold_in_one_object() {
    let of = |count: u32| {
        let nets: Vec<_> = (0..count).map(|number| std::net::Ipv4Addr::from(number << 8).to_string()).collect();
        object(API, "GlobalNetworkSet", "{name: s}", &format!("nets: [{}]", nets.join(", ")))
    };
    assert_eq!(nets(&set(&of(131_072)).0).len(), 131_072);
    let said = refusal(&of(131_073));
    assert_eq!(said, "spec.nets: 131073 are more than 131072 members; divide them between several sets");
}

#[test]
fn sel_9_a_set_does_not_say_in_which_namespace_it_is() {
    let metadata = "{name: s, labels: {projectcalico.org/namespace: bank, pcns.team: a, a: b}}";
    let (_, unreadable) = set(&object(API, "GlobalNetworkSet", metadata, "nets: [10.0.0.0/8]"));
    assert_eq!(unreadable.len(), 2);
    assert!(unreadable[0].starts_with("metadata.labels[pcns.team]: "), "{unreadable:?}");
}

fn tier(text: &str) -> Tier {
    match known(text).0 {
        Resource::Tier(tier) => tier,
        other => panic!("{other:?}"),
    }
}

#[test]
fn cal_1_a_tier_has_an_order_and_an_end_that_refuses_unless_it_passes() {
    for version in [API, STORED] {
        let of = |spec: &str| {
            let tier = tier(&object(version, "Tier", "{name: a}", spec));
            format!("{} {:?}", tier.order, tier.end)
        };
        assert_eq!(of("order: 2.5"), "2.5 Deny");
        assert_eq!(of("{order: 7, defaultAction: Pass}"), "7 Pass");
        assert_eq!(of("{defaultAction: Deny}"), "unset Deny");
    }
    for (spec, said) in [
        ("defaultAction: Allow", "spec.defaultAction: \"Allow\" is neither Deny nor Pass"),
        ("defaultaction: Pass", "spec"),
        ("order: '1'", "spec.order: "),
    ] {
        assert!(refusal(&object(API, "Tier", "{name: a}", spec)).starts_with(said), "{spec}");
    }
    assert!(refusal(&object(API, "Tier", "{name: a.b}", "order: 1")).starts_with("metadata.name: "));
}

#[test]
fn cnp_36_the_tiers_that_are_always_there_keep_their_order_and_their_end() {
    let of = |name: &str, spec: &str| object(API, "Tier", &format!("{{name: {name}}}"), spec);
    for built_in in Tier::built_in() {
        let order = built_in.order;
        assert_eq!(tier(&of(&built_in.name.0, "{}")), built_in);
        let same = format!("{{order: {order}, defaultAction: {:?}}}", built_in.end);
        assert_eq!(tier(&of(&built_in.name.0, &same)), built_in);
        assert!(refusal(&of(&built_in.name.0, "order: 7")).starts_with("spec.order: 7 is not "));
    }
    assert!(refusal(&of("default", "defaultAction: Pass")).starts_with("spec.defaultAction: "));
    assert!(refusal(&of("kube-admin", "defaultAction: Deny")).starts_with("spec.defaultAction: "));
}

fn profile(text: &str) -> (Profile, Vec<String>) {
    match known(text) {
        (Resource::Profile(profile), unreadable) => (profile, unreadable),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn a_profile_has_rules_for_both_directions() {
    let spec =
        "{ingress: [{action: Allow, source: {selector: has(a)}}], egress: [{action: Pass}, {action: Deny, http: {}}]}";
    let (profile, unreadable) = profile(&object(API, "Profile", "{name: kns.shop}", spec));
    assert_eq!(profile.name, "kns.shop");
    assert_eq!(said::rules(&profile.ingress), ["0: Allow from has(a)"]);
    assert_eq!(said::rules(&profile.egress), ["0: Pass", "1: Deny unreadable"]);
    assert_eq!(unreadable.len(), 1);
}

#[test]
fn sel_9_a_profile_has_labels_to_apply() {
    let (profile, unreadable) =
        profile(&object(API, "Profile", "{name: kns.shop}", "labelsToApply: {pcns.team: a, b: c}"));
    let said = profile.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    assert_eq!((said.join(" ").as_str(), unreadable.len()), ("b=c pcns.team=a", 0));
    assert!(refusal(&object(API, "Profile", "{name: a}", "{labelsToApply: {a: 1}}")).contains("labelsToApply"));
    assert!(refusal(&object(API, "Profile", "{name: a}", "{tags: [b]}")).starts_with("spec"));
}

#[test]
fn cal_39_what_is_noted_on_a_rule_is_kept_and_asks_nothing() {
    let noted = "{action: Deny, metadata: {annotations: {ticket: NET-7}}}";
    let (policy, _) = policy(&global(&format!("ingress: [{noted}, {{action: Deny}}]")));
    assert_eq!(policy.ingress[0].annotations.get("ticket"), Some("NET-7"));
    assert_eq!(said::rules(&policy.ingress), ["0: Deny", "1: Deny"]);
}
