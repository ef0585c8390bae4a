//! What ClusterNetworkPolicies mean, and what becomes of those that mean nothing.
//! In: YAML as people write it. Out: rules in short text, refusals with their field.
//! Invariant: every refused form stands beside the accepted one it resembles.
//! Never: a cluster.

use super::super::{
    said,
    tests::{known, refusal},
};
use model::{Order, Policy, Resource};
use std::sync::Arc;

const POD: &str = "~orchestrator == \"k8s\"";

fn text(spec: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p, namespace: ignored}}\nspec: {spec}"
    )
}

fn with(rest: &str) -> String {
    text(&format!("{{tier: Admin, priority: 10, subject: {{namespaces: {{}}}}, {rest}}}"))
}

fn policy(text: &str) -> (Policy, Vec<String>) {
    match known(text) {
        (Resource::Policy(policy), unreadable) => (Arc::unwrap_or_clone(policy), unreadable),
        (other, _) => panic!("{other:?}"),
    }
}

fn ingress(rules: &str) -> Vec<String> {
    said::rules(&policy(&with(&format!("ingress: [{rules}]"))).0.ingress)
}

fn egress(rules: &str) -> Vec<String> {
    said::rules(&policy(&with(&format!("egress: [{rules}]"))).0.egress)
}

/// What is said of the only egress rule, which cannot be read.
fn complaint(rule: &str) -> String {
    let (policy, unreadable) = policy(&with(&format!("egress: [{rule}]")));
    assert!(policy.egress.len() == 1 && policy.egress[0].unreadable.is_some(), "{rule}: {:?}", policy.egress);
    assert_eq!(unreadable.len(), 1, "{rule}: {unreadable:?}");
    unreadable[0].clone()
}

/// `port` as a protocol of a rule to all pods.
fn ports(protocols: &str) -> Vec<String> {
    let all = format!("to ({POD} && has(~namespace))");
    let rules = egress(&format!("{{action: Accept, to: [{{namespaces: {{}}}}], protocols: [{protocols}]}}"));
    rules.iter().map(|rule| rule.replacen("0: Allow ", "", 1).replacen(&all, "", 1).trim().replace("  ", " ")).collect()
}

#[test]
fn cnp_1_cnp_2_cnp_3_cnp_36_a_policy_stands_in_a_tier_of_its_own_by_priority() {
    let of = |tier: &str, priority: &str| {
        text(&format!("{{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}}}"))
    };
    let place = |tier: &str, priority: &str| {
        let policy = policy(&of(tier, priority)).0;
        (policy.id.to_string(), policy.tier.0, policy.order)
    };
    let name = || "ClusterNetworkPolicy p".to_owned();
    assert_eq!(place("Admin", "0"), (name(), "kube-admin".into(), Order::At(0.0)));
    assert_eq!(place("Baseline", "1000"), (name(), "kube-baseline".into(), Order::At(1000.0)));
    for (tier, priority, field) in [
        ("admin", "1", "spec.tier: \"admin\" is neither Admin nor Baseline"),
        ("Admin", "1001", "spec.priority: "),
        ("Admin", "-1", "spec.priority: "),
        ("Admin", "1.5", "spec.priority: "),
    ] {
        assert!(refusal(&of(tier, priority)).starts_with(field), "{tier} {priority}");
    }
    assert!(refusal(&text("{tier: Admin, subject: {namespaces: {}}}")).contains("priority"));
}

#[test]
fn cnp_4_cal_17_the_subject_is_pods_by_exactly_one_way_to_select_them() {
    let subject = |subject: &str| text(&format!("{{tier: Admin, priority: 1, subject: {subject}}}"));
    let said = |text: &str| policy(&subject(text)).0.subject.to_string().replace("projectcalico.org/", "~");
    assert_eq!(said("{namespaces: {}}"), format!("({POD} && has(~namespace))"));
    assert_eq!(said("{namespaces: {matchLabels: {a: b}}}"), format!("({POD} && pcns.a == \"b\")"));
    assert_eq!(
        said(
            "{pods: {namespaceSelector: {matchExpressions: [{key: a, operator: DoesNotExist}]}, podSelector: {matchLabels: {c: d}}}}"
        ),
        format!("({POD} && !has(pcns.a) && c == \"d\")")
    );
    assert_eq!(said("{pods: {podSelector: {}}}"), format!("({POD} && has(~namespace))"));
    for bad in [
        "{}",
        "{namespaces: {}, pods: {podSelector: {}}}",
        "{pods: {}}",
        "{nodes: {}}",
        "{namespaces: {matchLabel: {}}}",
        "{pods: {podSelector: {matchExpressions: [{key: a, operator: x}]}}}",
    ] {
        assert!(refusal(&subject(bad)).starts_with("spec.subject"), "{bad}: {}", refusal(&subject(bad)));
    }
}

#[test]
fn cnp_5_cnp_31_a_direction_without_rules_is_left_alone() {
    let types = |rest: &str| policy(&with(rest)).0.types;
    let rule = "[{action: Deny, from: [{namespaces: {}}]}]";
    assert!(!types("").ingress && !types("").egress);
    assert!(!types("ingress: [], egress: null").ingress);
    let one = types(&format!("ingress: {rule}"));
    assert!(one.ingress && !one.egress);
    let many = |count: usize| {
        with(&format!("ingress: [{}]", vec!["{action: Deny, from: [{namespaces: {}}]}"; count].join(", ")))
    };
    assert_eq!(policy(&many(25)).0.ingress.len(), 25);
    assert!(refusal(&many(26)).starts_with("spec.ingress: 26 are more than 25"));
}

#[test]
fn cnp_7_cnp_6_actions_are_accept_deny_and_pass() {
    let rule = |action: &str| format!("{{name: first, action: {action}, from: [{{namespaces: {{}}}}]}}");
    let all = ["Accept", "Deny", "Pass"].map(rule).join(", ");
    let first: Vec<String> =
        ingress(&all).iter().map(|rule| rule.split(" from").next().unwrap_or_default().to_owned()).collect();
    assert_eq!(first, ["0: Allow", "1: Deny", "2: Pass"]);
    assert_eq!(ingress(&rule("Allow")), ["0: Deny unreadable"]);
    assert!(complaint("{to: [{namespaces: {}}]}").starts_with("spec.egress[0].action: is required"));
    let named = format!("{{name: {}, action: Accept, to: [{{namespaces: {{}}}}]}}", "x".repeat(101));
    assert!(complaint(&named).starts_with("spec.egress[0].name: 101 are more than 100"));
}

#[test]
fn cnp_8_cnp_11_ingress_is_from_pods_alone() {
    let peers = "{namespaces: {matchLabels: {a: b}}}, {pods: {podSelector: {matchLabels: {c: d}}}}";
    assert_eq!(
        ingress(&format!("{{action: Pass, from: [{peers}]}}")),
        [
            format!("0: Pass from ({POD} && pcns.a == \"b\")"),
            format!("0: Pass from ({POD} && has(~namespace) && c == \"d\")")
        ]
    );
    for bad in [
        "{networks: [10.0.0.0/8]}",
        "{nodes: {}}",
        "{domainNames: [a.b]}",
        "{}",
        "{namespaces: {}, pods: {podSelector: {}}}",
    ] {
        let rule = |action: &str| ingress(&format!("{{action: {action}, from: [{{namespaces: {{}}}}, {bad}]}}"));
        assert_eq!(rule("Accept"), ["0: Allow unreadable"], "{bad}");
        assert_eq!(rule("Deny"), ["0: Deny unreadable"], "{bad}");
    }
    assert_eq!(ingress("{action: Deny, to: [{namespaces: {}}]}"), ["0: Deny unreadable"]);
}

#[test]
fn cnp_9_cnp_12_cnp_13_egress_is_to_pods_nodes_and_networks() {
    let peers = "{nodes: {matchLabels: {a: b}}}, {nodes: {}}, {networks: [10.1.2.3/8, 'fd00::/8']}, {namespaces: {}}";
    assert_eq!(
        egress(&format!("{{action: Deny, to: [{peers}]}}")),
        [
            "0: Deny to nodes a == \"b\"".to_owned(),
            "0: Deny to nodes all()".to_owned(),
            "0: Deny to 10.0.0.0/8,fd00::/8".to_owned(),
            format!("0: Deny to ({POD} && has(~namespace))")
        ]
    );
    for (bad, field) in [
        ("{networks: []}", "networks: "),
        ("{networks: [10.0.0.1]}", "networks[0]: "),
        ("{networks: [10.0.0.0/8], nodes: {}}", "must give exactly one"),
        ("{node: {}}", "unknown field"),
        ("{networks: [10.0.0.0/8], except: [10.1.0.0/16]}", "unknown field"),
    ] {
        let said = complaint(&format!("{{action: Accept, to: [{{namespaces: {{}}}}, {bad}]}}"));
        assert!(said.starts_with("spec.egress[0].to[1]") && said.contains(field), "{bad}: {said}");
    }
    let networks = vec!["10.0.0.0/8"; 26].join(", ");
    assert!(
        complaint(&format!("{{action: Accept, to: [{{networks: [{networks}]}}]}}")).contains("26 are more than 25")
    );
}

#[test]
fn cnp_14_domain_names_are_refused_with_a_clear_status() {
    let said = complaint("{action: Accept, to: [{domainNames: ['*.example.com']}]}");
    assert_eq!(
        said,
        "spec.egress[0].to[0].domainNames: names are not resolved here; give networks instead; the rule matches nothing"
    );
    let denied = complaint("{action: Deny, to: [{domainNames: [a.b]}]}");
    assert!(
        denied.contains("may stand in an Accept rule only") && denied.ends_with("the rule refuses everything"),
        "{denied}"
    );
}

#[test]
fn own_6_cnp_10_cal_18_one_bad_peer_voids_its_whole_rule_against_the_traffic() {
    let rule = |action: &str| format!("{{action: {action}, to: [{{namespaces: {{}}}}, {{future: {{}}}}]}}");
    let rules = ["Accept", "Deny", "Pass"].map(rule).join(", ");
    assert_eq!(egress(&rules), ["0: Allow unreadable", "1: Deny unreadable", "2: Pass unreadable"]);
    assert!(complaint(&rule("Accept")).ends_with("the rule matches nothing"));
    assert!(complaint(&rule("Pass")).ends_with("the rule refuses everything"));
    for none in ["{action: Deny}", "{action: Deny, to: []}", "{action: Deny, to: null}"] {
        assert!(complaint(none).starts_with("spec.egress[0].to: must have an entry"), "{none}");
    }
}

#[test]
fn cnp_15_cnp_16_cnp_17_cnp_20_protocols_say_one_thing_each_and_say_it_whole() {
    assert_eq!(egress("{action: Accept, to: [{networks: [10.0.0.0/8]}]}"), ["0: Allow to 10.0.0.0/8"]);
    let mixed = "{udp: {destinationPort: {number: 53}}, }, {tcp: {destinationPort: {range: {start: 80, end: 90}}}}, {tcp: {destinationPort: {number: 65535}}}, {sctp: {destinationPort: {number: 1}}}";
    assert_eq!(ports(mixed), ["TCP port 80-90,65535", "UDP port 53", "SCTP port 1"]);
    for bad in [
        "{}",
        "{tcp: {}}",
        "{tcp: {destinationPort: {}}}",
        "{tcp: {destinationPort: {number: 0}}}",
        "{tcp: {destinationPort: {number: 65536}}}",
        "{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}",
        "{tcp: {destinationPort: {range: {start: 80, end: 80}}}}",
        "{tcp: {destinationPort: {range: {start: 80, end: 79}}}}",
        "{tcp: {destinationPort: {range: {start: 80}}}}",
        "{tcp: {sourcePort: {number: 1}}}",
        "{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}",
        "{icmp: {}}",
        "{destinationNamedPort: ''}",
    ] {
        let rule = format!(
            "{{action: Accept, to: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{number: 1}}}}}}, {bad}]}}"
        );
        let said = complaint(&rule);
        assert!(said.starts_with("spec.egress[0].protocols[1]"), "{bad}: {said}");
    }
    assert!(
        complaint("{action: Accept, to: [{namespaces: {}}], protocols: []}").starts_with("spec.egress[0].protocols: ")
    );
}

#[test]
fn cnp_19_a_named_port_is_of_whichever_protocol_the_container_says() {
    assert_eq!(ports("{destinationNamedPort: web}, {tcp: {destinationPort: {number: 1}}}"), ["port web", "TCP port 1"]);
    assert_eq!(
        ingress("{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}"),
        [format!("0: Allow from ({POD} && has(~namespace)) to port web")]
    );
}

#[test]
fn cnp_18_a_named_port_beside_a_peer_that_has_none_voids_the_rule() {
    for peer in ["{networks: [10.0.0.0/8]}", "{nodes: {}}"] {
        let rule = format!(
            "{{action: Accept, to: [{{namespaces: {{}}}}, {peer}], protocols: [{{destinationNamedPort: web}}]}}"
        );
        assert!(complaint(&rule).starts_with("spec.egress[0].protocols: "), "{peer}");
    }
}

#[test]
fn an_unknown_field_of_a_policy_is_refused() {
    assert!(refusal(&with("ingres: []")).contains("ingres"));
    assert_eq!(
        refusal("{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}}"),
        "spec: is required"
    );
}
