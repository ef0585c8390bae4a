//! What manifests mean, and what becomes of those that mean nothing.
//! In: YAML as people write it. Out: rules in short text, refusals with their field.
//! Invariant: every refused form stands beside the accepted one it resembles.
//! Never: a file system.

use super::*;
use crate::yaml;
use model::{Pod, Policy, PortMatch, Rule, Wrapping};
use std::sync::Arc;

pub(super) fn converted(text: &str) -> Converted {
    convert(&yaml::parse(text).expect("the test's YAML is well formed"))
}

pub(super) fn known(text: &str) -> (Resource, Vec<String>) {
    match converted(text) {
        Converted::Known { resource, unreadable } => (resource, unreadable.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

pub(super) fn refusal(text: &str) -> String {
    match converted(text) {
        Converted::Refused { error, .. } | Converted::Nameless { error } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn policy_text(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
    )
}

fn policy(spec: &str) -> (Policy, Vec<String>) {
    match known(&policy_text(spec)) {
        (Resource::Policy(policy), unreadable) => (Arc::unwrap_or_clone(policy), unreadable),
        (other, _) => panic!("{other:?}"),
    }
}

/// `place: protocol ports from peer`, or `place: unreadable`.
fn said(rule: &Rule) -> String {
    if rule.unreadable.is_some() {
        return format!("{}: unreadable", rule.place);
    }
    let protocol = rule.protocol.map_or("any".to_owned(), |protocol| protocol.to_string());
    let port = |port: &PortMatch| match port {
        PortMatch::Range(range) if range.first() == range.last() => format!(" {}", range.first()),
        PortMatch::Range(range) => format!(" {}-{}", range.first(), range.last()),
        PortMatch::Named(name) => format!(" {name}"),
    };
    let peer = &rule.source;
    let ports: String = rule.destination.ports.iter().flatten().map(port).collect();
    let selector = peer.selector.as_ref().map(|selector| format!(" {}", short(&selector.to_string())));
    let nets: String = peer.nets.iter().flatten().map(|net| format!(" {net}")).collect();
    let not_nets: String = peer.not_nets.iter().map(|net| format!(" -{net}")).collect();
    format!("{}: {protocol}{ports} ~{}{nets}{not_nets}", rule.place, selector.unwrap_or_default())
}

/// `pods of shop && ...`, `pods && ...`: what every selector of this kind begins with.
fn short(selector: &str) -> String {
    let bare = selector.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(selector);
    let bare = bare.replace("projectcalico.org/orchestrator == \"k8s\"", "pods");
    bare.replace(" && projectcalico.org/namespace == \"shop\"", " of shop")
}

fn ingress(spec: &str) -> Vec<String> {
    let (policy, unreadable) = policy(spec);
    let said: Vec<String> = policy.ingress.iter().map(said).collect();
    let held = said.iter().filter(|rule| rule.ends_with("unreadable")).count();
    assert_eq!(held, unreadable.len(), "every unreadable part is reported once: {unreadable:?}");
    said
}

fn types(spec: &str) -> (bool, bool) {
    let types = policy(spec).0.types;
    (types.ingress, types.egress)
}

#[test]
fn np_50_policy_types_default_to_ingress_and_to_egress_only_where_a_rule_is() {
    assert_eq!(types("podSelector: {}"), (true, false));
    assert_eq!(types("{podSelector: {}, egress: []}"), (true, false));
    assert_eq!(types("{podSelector: {}, egress: [{}]}"), (true, true));
    assert_eq!(types("{podSelector: {}, policyTypes: []}"), (true, false));
    assert_eq!(types("{podSelector: {}, policyTypes: [Egress]}"), (false, true));
}

#[test]
fn np_51_an_ingress_section_without_its_type_has_no_effect() {
    let (policy, _) = policy("{podSelector: {}, policyTypes: [Egress], ingress: [{}]}");
    assert!(policy.ingress.is_empty() && !policy.types.ingress);
}

#[test]
fn np_16_no_rule_denies_and_an_empty_rule_allows_everything() {
    assert_eq!(ingress("{podSelector: {}, ingress: []}"), [""; 0]);
    assert_eq!(ingress("{podSelector: {}, ingress: [{}]}"), ["0: any ~"]);
}

#[test]
fn np_62_an_empty_or_absent_peer_list_is_everybody() {
    assert_eq!(ingress("{podSelector: {}, ingress: [{from: []}, {from: null}]}"), ["0: any ~", "1: any ~"]);
}

#[test]
fn np_3_np_5_np_10_selectors_of_a_peer_stay_together_and_pods_alone_stay_in_the_namespace() {
    let spec = "
podSelector: {}
ingress:
- from:
  - podSelector: {matchLabels: {app: web}}
  - namespaceSelector: {}
  - {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}";
    let expected = [
        "0: any ~ pods of shop && app == \"web\"",
        "0: any ~ pods && has(projectcalico.org/namespace)",
        "0: any ~ pods && pcns.team == \"a\" && has(app)",
    ];
    assert_eq!(ingress(spec), expected);
}

#[test]
fn np_14_np_30_ports_group_by_protocol_and_one_without_number_opens_its_protocol() {
    let spec = "
podSelector: {}
ingress:
- {ports: [{port: 80}, {port: 81, endPort: 90}, {port: dns, protocol: UDP}]}
- {ports: [{port: 80}, {protocol: TCP}, {protocol: SCTP, port: 5}]}";
    assert_eq!(ingress(spec), ["0: TCP 80 81-90 ~", "0: UDP dns ~", "1: TCP ~", "1: SCTP 5 ~"]);
}

#[test]
fn np_46_end_port_needs_a_number_and_is_not_below_it() {
    assert_eq!(ingress("{ingress: [{ports: [{port: 80, endPort: 80}]}]}"), ["0: TCP 80 ~"]);
    for bad in ["{endPort: 80}", "{port: http, endPort: 80}", "{port: 80, endPort: 79}", "{port: 80, endPort: 70000}"] {
        assert_eq!(ingress(&format!("{{ingress: [{{ports: [{bad}]}}]}}")), ["0: unreadable"], "{bad}");
    }
}

#[test]
fn np_66_except_lies_inside_its_block() {
    let block = |except: &str| {
        ingress(&format!("{{ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [{except}]}}}}]}}]}}"))
    };
    assert_eq!(block("10.1.0.0/16, 10.2.0.1/32"), ["0: any ~ 10.0.0.0/8 -10.1.0.0/16 -10.2.0.1/32"]);
    for bad in ["11.0.0.0/16", "0.0.0.0/0", "10.0.0.0/8", "'fd00::/16'", "10.1.0.0"] {
        assert_eq!(block(bad), ["0: unreadable"], "{bad}");
    }
}

#[test]
fn np_70_every_operator_of_match_expressions_is_read_and_no_other() {
    let select = |expression: &str| {
        let spec =
            format!("{{ingress: [{{from: [{{podSelector: {{matchExpressions: [{{key: a, {expression}}}]}}}}]}}]}}");
        ingress(&spec).remove(0)
    };
    assert_eq!(select("operator: In, values: [x, z]"), "0: any ~ pods of shop && a in {\"x\", \"z\"}");
    assert_eq!(select("operator: NotIn, values: [x]"), "0: any ~ pods of shop && a not in {\"x\"}");
    assert_eq!(select("operator: DoesNotExist"), "0: any ~ pods of shop && !has(a)");
    for bad in
        ["operator: in, values: [x]", "operator: In", "operator: Exists, values: [x]", "operator: NotIn, values: 1"]
    {
        assert_eq!(select(bad), "0: unreadable", "{bad}");
    }
}

#[test]
fn an_unreadable_part_keeps_its_place_and_never_turns_its_rule_into_everybody() {
    let spec = "
ingress:
- {form: [{podSelector: {}}]}
- {from: [{podSelctor: {}}, {podSelector: {}}]}
- {from: [{}], ports: [{port: 80}]}
- {ports: [{port: 0}, {port: 81}]}
- {ports: [{protocol: tcp}]}
- {from: [{ipBlock: {cidr: 10.0.0.0/33}}]}
- {from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}
- {from: {podSelector: {}}}
- 7
- {ports: [{port: '80'}]}";
    let expected = [
        "0: unreadable",
        "1: any ~ pods of shop",
        "1: unreadable",
        "2: unreadable",
        "3: TCP 81 ~",
        "3: unreadable",
        "4: unreadable",
        "5: unreadable",
        "6: unreadable",
        "7: unreadable",
        "8: unreadable",
        "9: unreadable",
    ];
    assert_eq!(ingress(spec), expected);
}

#[test]
fn a_policy_whose_subject_or_shape_is_unclear_is_refused_as_a_whole_and_names_its_field() {
    let refused = |spec: &str| refusal(&policy_text(spec));
    assert!(
        refused("{podSelector: {matchExpressions: [{key: a, operator: Inn}]}}")
            .starts_with("spec.podSelector.matchExpressions[0].operator: \"Inn\" is not one of")
    );
    assert!(refused("{podSelector: {}, ingres: []}").contains("ingres"));
    assert!(refused("{podSelector: {matchLabels: {a: 1}}}").starts_with("spec.podSelector.matchLabels.a: "));
    assert!(refused("{policyTypes: [ingress]}").starts_with("spec.policyTypes[0]: "));
    assert!(refused("{podSelector: {matchLabels: {'a b': c}}}").contains("is not a label key"));
    assert!(refusal("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}}").contains("spec"));
}

#[test]
fn an_unreadable_field_is_named_by_its_path() {
    let (_, unreadable) = policy("{ingress: [{}, {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]}");
    assert!(unreadable[0].starts_with("spec.ingress[1].from[0].ipBlock.except[0]: \"x\""), "{unreadable:?}");
}

fn pod(text: &str) -> Pod {
    match known(&format!("apiVersion: v1\nkind: Pod\n{text}")).0 {
        Resource::Pod(pod) => Arc::unwrap_or_clone(pod),
        other => panic!("{other:?}"),
    }
}

fn addresses(pod: &Pod) -> Vec<String> {
    pod.addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn np_61_status_addresses_come_before_annotations() {
    let annotated = "metadata: {name: a, annotations: {cni.projectcalico.org/podIPs: '10.0.0.9/32,fd00::9/128'}}\n";
    assert_eq!(addresses(&pod(annotated)), ["10.0.0.9", "fd00::9"]);
    let both = format!("{annotated}status: {{podIP: 10.0.0.1, podIPs: [{{ip: 10.0.0.2}}, {{ip: 'fd00::2'}}]}}\n");
    assert_eq!(addresses(&pod(&both)), ["10.0.0.2", "fd00::2"]);
    assert_eq!(addresses(&pod(&format!("{annotated}status: {{podIP: 10.0.0.1}}\n"))), ["10.0.0.1"]);
}

#[test]
fn np_60_np_59_a_pod_is_finished_when_its_phase_or_its_released_address_says_so() {
    let finished = |text: &str| pod(text).finished;
    assert!(finished("metadata: {name: a}\nstatus: {phase: Succeeded}"));
    assert!(finished("metadata: {name: a}\nstatus: {phase: Failed}"));
    assert!(!finished("metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}\nstatus: {phase: Running}"));
    let released = "annotations: {cni.projectcalico.org/podIP: ''}";
    assert!(finished(&format!("metadata: {{name: a, deletionTimestamp: '2026-01-01T00:00:00Z', {released}}}")));
    assert!(!finished(&format!("metadata: {{name: a, {released}}}")));
}

#[test]
fn np_72_np_69_sidecars_own_named_ports_and_other_init_containers_do_not() {
    let pod = pod("
metadata: {name: a}
spec:
  nodeName: n1
  containers:
  - ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns, containerPort: 54}, {containerPort: 8080}]
  initContainers:
  - {restartPolicy: Always, ports: [{name: side, containerPort: 15001}]}
  - {ports: [{name: once, containerPort: 1}]}");
    let ports: Vec<String> =
        pod.ports.iter().map(|port| format!("{} {} {}", port.name, port.protocol, port.port)).collect();
    assert_eq!(ports, ["dns UDP 53", "dns TCP 54", "side TCP 15001"]);
    assert_eq!(pod.node, Some("n1".into()));
}

#[test]
fn np_h4_a_pod_of_the_suite_has_a_container_and_a_name_for_each_protocol_and_port() {
    let container = |protocol: &str, port: u16| {
        let name = format!("serve-{port}-{}", protocol.to_lowercase());
        format!("{{name: {name}, ports: [{{name: {name}, containerPort: {port}, protocol: {protocol}}}]}}")
    };
    let all = ["TCP", "UDP", "SCTP"].map(|protocol| [80, 81].map(|port| container(protocol, port)).join(", "));
    let pod = pod(&format!("metadata: {{name: a}}\nspec: {{containers: [{}]}}", all.join(", ")));
    let ports: Vec<String> =
        pod.ports.iter().map(|port| format!("{} {}/{}", port.name, port.port, port.protocol)).collect();
    let of =
        |protocol: &str| [80, 81].map(|port| format!("serve-{port}-{} {port}/{protocol}", protocol.to_lowercase()));
    assert_eq!(ports, ["TCP", "UDP", "SCTP"].map(of).concat());
}

#[test]
fn a_pod_with_an_unreadable_part_is_refused_and_names_its_field() {
    let refused = |text: &str| refusal(&format!("apiVersion: v1\nkind: Pod\n{text}"));
    assert!(refused("metadata: {name: a, labels: {x: 1}}").starts_with("metadata.labels.x: "));
    assert!(refused("metadata: {name: a}\nstatus: {podIP: 10.0.0.300}").starts_with("status.podIP: "));
    assert!(
        refused("metadata: {name: a}\nspec: {containers: [{ports: [{name: x, containerPort: 70000}]}]}")
            .starts_with("spec.containers[0].ports[0].containerPort: ")
    );
    assert!(refused("metadata: {}").contains("name"));
    assert!(refused("metadata: {name: ../x}").starts_with("metadata.name: "));
    assert!(refusal("kind: Pod").starts_with("apiVersion: "));
    assert!(refusal("just text").starts_with("kind: "));
}

#[test]
fn np_41_a_namespace_carries_its_name_as_a_label_whatever_it_claims() {
    let text = "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {kubernetes.io/metadata.name: b}}}";
    let Resource::Namespace(namespace) = known(text).0 else { panic!("not a namespace") };
    assert_eq!(namespace.labels.get("kubernetes.io/metadata.name"), Some("a"));
}

#[test]
fn pools_have_calicos_defaults_and_bounds() {
    let pool =
        |spec: &str| format!("{{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: a}}, spec: {spec}}}");
    let size = |spec: &str| match known(&pool(spec)).0 {
        Resource::IpPool(pool) => pool.block_size,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [size("{cidr: 10.0.0.0/16}"), size("{cidr: 'fd00::/48'}"), size("{cidr: 10.0.0.0/24, blockSize: 32}")],
        [26, 122, 32]
    );
    let wraps = |spec: &str| match known(&pool(spec)).0 {
        Resource::IpPool(pool) => (pool.wrapping, pool.uses_vxlan()),
        other => panic!("{other:?} is no pool"),
    };
    for (modes, expected) in [
        ("", (Wrapping::Never, false)),
        (", ipipMode: Never, vxlanMode: Never", (Wrapping::Never, false)),
        (", ipipMode: Always", (Wrapping::Always, false)),
        (", ipipMode: Never, vxlanMode: CrossSubnet", (Wrapping::CrossSubnet, true)),
        (", vxlanMode: AlwaysAndEver", (Wrapping::Always, true)),
    ] {
        assert_eq!(wraps(&format!("{{cidr: 10.0.0.0/16{modes}}}")), expected, "{modes}");
    }
    let uses = |spec: &str| match known(&pool(spec)).0 {
        Resource::IpPool(pool) => (pool.uses.workload, pool.uses.load_balancer, pool.manual),
        other => panic!("{other:?} is no pool"),
    };
    assert_eq!(uses("{cidr: 10.0.0.0/16}"), (true, false, false));
    assert_eq!(uses("{cidr: 10.0.0.0/16, allowedUses: [Tunnel]}"), (false, false, false));
    let manual = "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], assignmentMode: Manual}";
    assert_eq!(uses(manual), (false, true, true));
    for bad in
        ["{cidr: 10.0.0.0/16, allowedUses: [Pods]}", "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Workload]}"]
    {
        assert!(refusal(&pool(bad)).contains("spec.allowedUses"), "{bad}");
    }
    assert!(refusal(&pool("{cidr: 10.0.0.0/16, assignmentMode: Never}")).contains("spec.assignmentMode"));
    for bad in ["{}", "{cidr: 10.0.0.1/16}", "{cidr: 10.0.0.0/16, blockSize: 33}", "{cidr: 10.0.0.0/28}", "{cidr: x}"] {
        assert!(refusal(&pool(bad)).starts_with("spec"), "{bad}");
    }
}

#[test]
fn a_node_has_the_addresses_of_its_status_and_no_names() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: n1}, {type: ExternalIP, address: 'fd00::1'}]}";
    let Resource::Node(node) = known(text).0 else { panic!("not a node") };
    assert_eq!(node.addresses.len(), 2);
}

#[test]
fn calc_24_a_node_has_the_networks_that_the_cluster_gave_it() {
    let read =
        |spec: &str| match known(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: n1}}, spec: {spec}}}")) {
            (Resource::Node(node), unreadable) => {
                (node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), unreadable)
            }
            other => panic!("{other:?}"),
        };
    let both = "{podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:244:1::/64']}";
    assert_eq!(read(both), ("10.244.1.0/24 fd00:244:1::/64".into(), vec![]));
    assert_eq!(read("{podCIDR: 10.244.1.0/24}").0, "10.244.1.0/24", "by the older name alone");
    assert_eq!(read("{}"), (String::new(), vec![]));
    let (networks, problems) = read("{podCIDRs: [10.244.1.0/24, everywhere]}");
    assert!(networks == "10.244.1.0/24" && problems[0].contains("spec.podCIDRs: \"everywhere\""), "{problems:?}");
}

#[test]
fn other_kinds_are_ignored_but_other_policies_are_reported() {
    assert!(matches!(converted("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"), Converted::Foreign { .. }));
    let other = "{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy, metadata: {name: a}}";
    assert!(matches!(converted(other), Converted::NotEnforced { .. }));
}
