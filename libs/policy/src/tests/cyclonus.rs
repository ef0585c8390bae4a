//! Cyclonus' cases, read from manifests, held against the evaluator and the rows; then the same under ClusterNetworkPolicies.
//! In: the cases and what Kubernetes says of each flow. Out: agreement, flow by flow.
//! Invariant: every policy goes the whole way in user space: manifest, converter, evaluator, rule sets, rows.
//! Never: one of the two families alone.

use crate::{
    Flow, Row, Verdict, View,
    compiled::Compiled,
    cyclonus::{Case, Cluster, EXCLUDED, Kind, PORTS, TAGS, allowing_dns, cases, overlays},
    evaluate, row,
};
use model::{Policy, Resource};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

const FAMILIES: [bool; 2] = [true, false];

fn read(manifests: &[String]) -> Vec<Policy> {
    let read = |text: &String| {
        let found = datastore::snapshot::file(Path::new("case.yaml"), text);
        found.unwrap_or_else(|problem| panic!("{problem:?}: {text}"))
    };
    let policy = |resource| match resource {
        Resource::Policy(policy) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    };
    manifests.iter().flat_map(read).map(policy).collect()
}

/// Holds every flow; how many of them pass.
fn held(cluster: &Cluster, v4: bool, ports: &[u16], told: &dyn Fn() -> String) -> (usize, usize) {
    let view = cluster.view(read(&cluster.manifests()));
    let compiled = Compiled::of(&view);
    let mut rows = Rows { view: &view, compiled: &compiled, made: BTreeMap::new() };
    let (mut all, mut passing) = (0, 0);
    for flow in cluster.flows(v4, ports) {
        let wanted = cluster.lets(&flow);
        let evaluated = evaluate(&view, &flow).verdict() == Verdict::Allow;
        assert_eq!(evaluated, wanted, "the evaluator: {flow:?}\n{}\n{:#?}", told(), cluster.manifests());
        assert_eq!(rows.let_pass(&flow), wanted, "the rows: {flow:?}\n{}\n{:#?}", told(), cluster.manifests());
        (all, passing) = (all + 1, passing + usize::from(wanted));
    }
    (all, passing)
}

/// A row serves all ports of a pair.
struct Rows<'a> {
    view: &'a View,
    compiled: &'a Compiled<'a>,
    made: BTreeMap<(IpAddr, IpAddr), [Row; 2]>,
}

impl Rows<'_> {
    fn let_pass(&mut self, flow: &Flow) -> bool {
        let Self { view, compiled, made } = self;
        let at = |address| view.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address));
        let sets = |address| &compiled.sets[at(address).expect("a pod")];
        let classes = [flow.source, flow.destination].map(|address| compiled.class(address));
        let make = || [row(&sets(flow.source).1, &classes[1]), row(&sets(flow.destination).0, &classes[0])];
        let rows = made.entry((flow.source, flow.destination)).or_insert_with(make);
        rows.iter().zip(&classes).all(|(row, own)| row.judge(flow, own).verdict == Verdict::Allow)
    }
}

/// Runs a case to its end, step by step.
fn run(case: &Case, v4: bool, ports: &[u16]) -> (usize, usize) {
    let mut cluster = Cluster::default();
    let mut sum = (0, 0);
    for (number, step) in case.steps.iter().enumerate() {
        step.iter().for_each(|change| cluster.apply(change));
        let told = || format!("{:?} {:?}, step {number}", case.kind, case.tags);
        let (all, passing) = held(&cluster, v4, ports, &told);
        sum = (sum.0 + all, sum.1 + passing);
    }
    sum
}

fn run_all(kind: Kind) {
    let (mut all, mut passing) = (0, 0);
    for v4 in FAMILIES {
        for case in cases(v4).iter().filter(|case| case.kind == kind) {
            let of_case = run(case, v4, &PORTS);
            (all, passing) = (all + of_case.0, passing + of_case.1);
        }
    }
    assert!(passing > all / 100 && passing < all, "{passing} of {all} pass: what refuses nothing shows nothing");
}

#[test]
fn cyc_1_there_are_230_cases_and_as_many_of_each_kind_as_cyclonus_has() {
    for v4 in FAMILIES {
        let mut counts = BTreeMap::new();
        cases(v4).iter().for_each(|case| *counts.entry(case.kind).or_insert(0) += 1);
        let expected = [
            (Kind::Target, 6),
            (Kind::Rules, 4),
            (Kind::Peers, 112),
            (Kind::Ports, 70),
            (Kind::Example, 1),
            (Kind::Actions, 6),
            (Kind::Conflict, 16),
            (Kind::NamespaceLabel, 2),
            (Kind::Upstream, 13),
        ];
        assert_eq!(counts, BTreeMap::from(expected));
        assert_eq!(counts.values().sum::<usize>(), 230);
    }
}

#[test]
fn cyc_1_targets_rules_and_namespaces_by_name() {
    [Kind::Target, Kind::Rules, Kind::NamespaceLabel].into_iter().for_each(run_all);
}

#[test]
fn cyc_1_cyc_7_peers_alone_and_in_pairs() {
    run_all(Kind::Peers);
}

#[test]
fn cyc_1_cyc_8_cyc_9_ports_of_every_protocol_by_number_name_and_range() {
    run_all(Kind::Ports);
}

#[test]
fn cyc_1_cyc_10_policies_that_contradict() {
    run_all(Kind::Conflict);
}

#[test]
fn cyc_1_cyc_11_pods_namespaces_policies_and_labels_that_come_and_go() {
    run_all(Kind::Actions);
}

#[test]
fn cyc_1_the_example_and_the_recipes_of_kubernetes_suite() {
    [Kind::Example, Kind::Upstream].into_iter().for_each(run_all);
}

#[test]
fn cyc_2_cyc_3_nine_pods_ask_nine_at_two_ports_of_three_protocols_themselves_included() {
    let cluster = Cluster::default();
    for v4 in FAMILIES {
        let flows: Vec<Flow> = cluster.flows(v4, &PORTS).collect();
        let different: BTreeSet<_> =
            flows.iter().map(|flow| (flow.source, flow.destination, flow.protocol, flow.detail)).collect();
        assert_eq!((flows.len(), different.len()), (9 * 9 * 6, 9 * 9 * 6));
        assert_eq!(flows.iter().filter(|flow| flow.source == flow.destination).count(), 9 * 6);
        assert_eq!(held(&cluster, v4, &PORTS, &String::new), (9 * 9 * 6, 9 * 9 * 6), "all is open without a policy");
    }
}

#[test]
fn cyc_3_policies_hold_for_a_pods_flow_to_itself_as_written() {
    let closed = cases(true).into_iter().find(|case| case.tags == ["ingress", "deny-all", "upstream-e2e"]);
    let mut cluster = Cluster::default();
    closed.expect("a case").steps[0].iter().for_each(|change| cluster.apply(change));
    held(&cluster, true, &PORTS, &String::new);
    let to_itself = cluster.flows(true, &PORTS).filter(|flow| flow.source == flow.destination);
    let lets: Vec<bool> = to_itself.map(|flow| cluster.lets(&flow)).collect();
    assert_eq!(lets.iter().filter(|lets| !**lets).count(), 3 * 6, "of x alone");
}

#[test]
fn cyc_5_dns_is_let_out_where_a_conflict_closes_everything_else() {
    for v4 in FAMILIES {
        let (plain, with_dns) = (cases(v4), allowing_dns(cases(v4)));
        let mut otherwise = 0;
        for (one, other) in plain.iter().zip(&with_dns).filter(|(one, _)| one.kind == Kind::Conflict) {
            let (before, after) = (run(one, v4, &[53, 80]), run(other, v4, &[53, 80]));
            assert!(after.1 >= before.1, "{:?}", other.steps);
            otherwise += usize::from(after.1 > before.1);
        }
        assert!(otherwise >= 3, "{otherwise} cases have a use for it");
    }
}

#[test]
fn cyc_6_every_tag_has_a_case_and_without_those_left_out_112_cases_are_run() {
    let all = cases(true);
    let tags: BTreeSet<_> = all.iter().flat_map(|case| case.tags.iter().copied()).collect();
    let known: BTreeSet<_> = TAGS.iter().flat_map(|(_, tags)| tags.iter().copied()).collect();
    assert_eq!(tags, known);
    let by_default = all.iter().filter(|case| !case.tags.iter().any(|tag| EXCLUDED.contains(tag)));
    assert_eq!(by_default.count(), 112);
}

#[test]
fn cyc_12_cluster_policies_over_the_cases_decide_before_and_after_them() {
    let (mut all, mut passing, mut flipped) = (0, 0, 0);
    for (number, v4) in (0..).zip(FAMILIES.into_iter().cycle()).take(overlays(true).len()) {
        // Each over a case of its own, and now and then over none.
        let under: Vec<Case> = cases(v4).into_iter().filter(|case| case.steps.len() == 1).collect();
        let under = (number % 4 != 0).then(|| under[number * 7 % under.len()].steps[0].clone());
        let mut cluster = Cluster::default();
        under.iter().flatten().for_each(|change| cluster.apply(change));
        let before: Vec<bool> = cluster.flows(v4, &PORTS).map(|flow| cluster.lets(&flow)).collect();
        overlays(v4)[number].iter().for_each(|change| cluster.apply(change));
        let (flows, passed) = held(&cluster, v4, &PORTS, &|| format!("overlay {number}"));
        (all, passing) = (all + flows, passing + passed);
        let after = cluster.flows(v4, &PORTS).map(|flow| cluster.lets(&flow));
        flipped += after.zip(before).filter(|(after, before)| after != before).count();
    }
    assert!(passing > all / 4 && passing < all && flipped > all / 100, "{flipped} of {all} flipped, {passing} pass");
}
