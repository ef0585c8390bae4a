//! Kubernetes NetworkPolicy, ingress: NP rows about who may come in.
//! In: the cast and policies. Out: who of all reaches whom.
//! Invariant: each row names its conformance id.
//! Never: ports; they have rows of their own.

use super::cast::*;
use crate::Decider;
use model::{Direction, Selector};

const OTHERS: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";

fn into_a(rules: [Allow; 1]) -> Cast {
    Cast::new([policy("x", "in").of(is("pod", "a")).ingress(rules)])
}

#[test]
fn np_1_an_isolating_policy_without_rules_lets_nobody_in_and_touches_no_other_namespace() {
    let cast = Cast::new([policy("x", "in").ingress([])]);
    assert_eq!(cast.reach("x/a"), "");
    assert_eq!(cast.reach("y/b"), "x/a x/b x/c y/a y/c z/a z/b z/c");
}

#[test]
fn np_2_both_directions_closed_is_nothing_from_or_to() {
    let cast = Cast::new([policy("x", "all").ingress([]).egress([])]);
    assert_eq!(cast.reach("x/a") + &cast.reached_by("x/a"), "");
    assert_eq!(cast.reach("y/a"), "y/b y/c z/a z/b z/c");
}

#[test]
fn np_3_np_23_a_pod_selector_alone_means_the_policys_own_namespace() {
    assert_eq!(into_a([peers([pods("x", is("pod", "b"))])]).reach("x/a"), "x/b");
    assert_eq!(into_a([peers([pods("x", Selector::All)])]).reach("x/a"), "x/b x/c");
}

#[test]
fn np_4_an_allow_beside_a_deny_all_opens_only_its_target() {
    let open = policy("x", "open").of(is("pod", "a")).ingress([peers([both(Selector::All, Selector::All)])]);
    let cast = Cast::new([policy("x", "deny").ingress([]), open]);
    assert_eq!(cast.reach("x/a"), OTHERS);
    assert_eq!(cast.reach("x/b"), "");
}

#[test]
fn np_5_an_empty_namespace_selector_is_every_namespace_the_own_one_too() {
    assert_eq!(into_a([peers([namespaces(Selector::All)])]).reach("x/a"), OTHERS);
}

#[test]
fn np_6_np_41_a_namespace_label_does_not_include_the_own_namespace() {
    assert_eq!(into_a([peers([namespaces(is(NAMESPACE_NAME, "y"))])]).reach("x/a"), "y/a y/b y/c");
}

#[test]
fn np_7_np_8_match_expressions_choose_pods_and_namespaces() {
    assert_eq!(into_a([peers([pods("x", within("pod", &["b"]))])]).reach("x/a"), "x/b");
    assert_eq!(into_a([peers([namespaces(within("ns", &["y", "z"]))])]).reach("x/a"), "y/a y/b y/c z/a z/b z/c");
}

#[test]
fn np_9_two_peers_are_or() {
    let two = peers([namespaces(outside("ns", &["x"])), pods("x", is("pod", "b"))]);
    assert_eq!(into_a([two]).reach("x/a"), "x/b y/a y/b y/c z/a z/b z/c");
}

#[test]
fn np_10_np_11_np_13_one_peer_with_both_selectors_is_and() {
    let outside_b = peers([both(outside("ns", &["x"]), is("pod", "b"))]);
    assert_eq!(into_a([outside_b]).reach("x/a"), "y/b z/b");
    let several = peers([both(outside("ns", &["x"]), within("pod", &["b", "c"]))]);
    assert_eq!(into_a([several]).reach("x/a"), "y/b y/c z/b z/c");
    assert_eq!(into_a([peers([both(is("ns", "y"), is("pod", "a"))])]).reach("x/a"), "y/a");
}

#[test]
fn np_11_not_in_matches_a_namespace_without_the_label() {
    let mut cast = into_a([peers([namespaces(outside("team", &["red"]))])]);
    assert_eq!(cast.reach("x/a"), OTHERS);
    cast.0.namespaces.insert("y".into(), labels(&[("team", "red")]));
    assert_eq!(cast.reach("x/a"), "x/b x/c z/a z/b z/c");
}

#[test]
fn np_12_several_pod_selectors_are_or() {
    let two = peers([pods("x", is("pod", "b")), pods("x", is("pod", "c"))]);
    assert_eq!(into_a([two]).reach("x/a"), "x/b x/c");
}

#[test]
fn np_16_np_62_an_empty_rule_lets_everybody_in_and_no_rule_nobody() {
    let cast = into_a([all()]);
    assert_eq!(cast.reach("x/a"), OTHERS);
    assert!(cast.lets(STRANGER, "x/a", TCP, 80));
    assert!(cast.lets(STRANGER, "x/a", model::Protocol::ICMP, 0x0800));
    assert!(!Cast::new([policy("x", "in").ingress([])]).lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn np_20_np_33_what_no_longer_stands_no_longer_holds() {
    let mut cast = into_a([all()]);
    cast.0.policies = vec![policy("x", "in").ingress([]).0];
    assert_eq!(cast.reach("x/a"), "");
    cast.0.policies.clear();
    assert_eq!(cast.reach("x/a"), OTHERS);
}

#[test]
fn np_21_np_22_a_label_added_to_a_namespace_or_a_pod_makes_it_a_peer() {
    let mut cast = into_a([peers([namespaces(is("team", "red")), pods("x", is("team", "red"))])]);
    assert_eq!(cast.reach("x/a"), "");
    cast.pod("x/c").labels = labels(&[("pod", "c"), ("team", "red")]);
    cast.0.namespaces.insert("z".into(), labels(&[("team", "red")]));
    assert_eq!(cast.reach("x/a"), "x/c z/a z/b z/c");
}

#[test]
fn np_24_a_pod_is_isolated_once_its_labels_match_the_subject() {
    let mut cast = Cast::new([policy("x", "in").of(is("closed", "yes")).ingress([])]);
    assert_eq!(cast.reach("x/a"), OTHERS);
    cast.pod("x/a").labels = labels(&[("pod", "a"), ("closed", "yes")]);
    assert_eq!(cast.reach("x/a"), "");
}

#[test]
fn np_31_an_allow_all_beside_a_restrictive_policy_opens_everything() {
    let narrow = policy("x", "narrow").ingress([peers([pods("x", is("pod", "b"))])]);
    assert_eq!(Cast::new([narrow, policy("x", "open").ingress([all()])]).reach("x/a"), OTHERS);
}

#[test]
fn np_51_without_the_ingress_type_ingress_rules_have_no_effect() {
    let mut only_egress = policy("x", "out").ingress([]).egress([all()]);
    only_egress.0.types.ingress = false;
    assert_eq!(Cast::new([only_egress]).reach("x/a"), OTHERS);
}

#[test]
fn np_52_this_nodes_own_traffic_is_let_in_and_not_even_asked_for() {
    let cast = Cast::new([policy("x", "in").ingress([])]);
    assert!(cast.lets(HOST, "x/a", TCP, 80) && cast.lets("fd07::1", "x/a", TCP, 80));
    let asked = cast.outcome("192.168.7.1".parse().expect("an address"), cast.0.endpoints[0].addresses[0], TCP, 80);
    assert_eq!((asked.egress, asked.ingress), (None, None));
}

#[test]
fn np_53_a_pods_flow_to_itself_is_judged_as_written_should_it_ever_come() {
    assert!(!Cast::new([policy("x", "in").ingress([])]).lets("x/a", "x/a", TCP, 80));
    assert!(into_a([peers([pods("x", is("pod", "a"))])]).lets("x/a", "x/a", TCP, 80));
}

#[test]
fn np_55_an_address_of_no_pod_matches_no_selector() {
    assert!(!into_a([peers([namespaces(Selector::All)])]).lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn np_65_a_block_of_one_family_never_matches_the_other() {
    let cast = into_a([peers([ip_block(&[cidr("0.0.0.0/0")], &[])])]);
    assert!(cast.lets(STRANGER, "x/a", TCP, 80));
    assert!(!cast.lets("2001:db8::7", "x/a", TCP, 80));
}

#[test]
fn np_71_a_pod_may_be_subject_and_peer_of_one_policy() {
    let cast = Cast::new([policy("x", "mesh").ingress([peers([pods("x", Selector::All)])])]);
    assert_eq!(cast.reach("x/a"), "x/b x/c");
}

#[test]
fn a_namespace_not_heard_of_matches_no_label_of_namespaces() {
    let mut cast = into_a([peers([namespaces(outside("team", &["red"]))])]);
    cast.0.namespaces.remove(&"y".into());
    assert_eq!(cast.reach("x/a"), "x/b x/c z/a z/b z/c");
}

#[test]
fn a_refusal_names_every_policy_that_isolates_in_order() {
    let cast = Cast::new([policy("x", "second").ingress([]), policy("x", "first").ingress([])]);
    let outcome = cast.outcome(cast.0.endpoints[1].addresses[0], cast.0.endpoints[0].addresses[0], TCP, 80);
    let Some(Decider::EndOfTier { direction: Direction::Ingress, policies, .. }) =
        outcome.ingress.map(|end| end.decider)
    else {
        panic!("two policies isolate the pod")
    };
    assert_eq!(policies.iter().map(|id| &*id.name).collect::<Vec<_>>(), ["first", "second"]);
}

#[test]
fn an_unreadable_allow_matches_nothing_and_still_isolates() {
    let mut unread = policy("x", "in").ingress([all()]);
    unread.0.ingress[0].unreadable = Some("an operator of another world".into());
    assert_eq!(Cast::new([unread]).reach("x/a"), "");
}

#[test]
fn an_unreadable_deny_matches_everything() {
    let mut unread = policy("x", "in").ingress([peers([pods("x", is("pod", "b"))]).port(TCP, 81), all()]);
    unread.0.ingress[0].action = model::Action::Deny;
    assert!(Cast::new([unread.clone()]).lets("z/a", "x/a", TCP, 80));
    unread.0.ingress[0].unreadable = Some("an operator of another world".into());
    assert_eq!(Cast::new([unread]).reach("x/a"), "");
}
