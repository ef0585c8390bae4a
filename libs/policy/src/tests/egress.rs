//! Kubernetes NetworkPolicy, egress and address blocks: NP rows about who may go where.
//! In: the cast and policies. Out: whom a pod reaches.
//! Invariant: each row names its conformance id.
//! Never: ports; they have rows of their own.

use super::cast::*;
use crate::Decider;
use model::{Direction, Selector};

const OTHERS: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";

fn out_of_a(rules: [Allow; 1]) -> Cast {
    Cast::new([policy("x", "out").of(is("pod", "a")).egress(rules)])
}

#[test]
fn np_25_egress_of_one_pod_closed_leaves_others_and_its_ingress_alone() {
    let cast = Cast::new([policy("x", "out").of(is("pod", "a")).egress([])]);
    assert_eq!(cast.reached_by("x/a"), "");
    assert_eq!(cast.reached_by("x/b"), "x/a x/c y/a y/b y/c z/a z/b z/c");
    assert_eq!(cast.reach("x/a"), OTHERS);
}

#[test]
fn np_26_egress_of_a_namespace_closed_refuses_dns_and_strangers_too() {
    let cast = Cast::new([policy("x", "out").egress([])]);
    assert_eq!(cast.reached_by("x/b"), "");
    assert!(!cast.lets("x/b", STRANGER, UDP, 53));
}

#[test]
fn np_27_np_37_ingress_and_egress_of_one_policy_are_independent() {
    let one = policy("x", "a").of(is("pod", "a")).ingress([peers([pods("x", is("pod", "b"))])]);
    let cast = Cast::new([one.egress([all().port(TCP, 80)])]);
    assert!(cast.lets("x/b", "x/a", TCP, 81));
    assert!(!cast.lets("x/c", "x/a", TCP, 81));
    assert!(cast.lets("x/a", "x/b", TCP, 80) && !cast.lets("x/a", "x/b", TCP, 81));
}

#[test]
fn np_28_the_senders_refusal_wins_and_the_receiver_is_not_asked() {
    let cast = Cast::new([policy("x", "out").egress([]), policy("y", "in").ingress([all()])]);
    assert!(!cast.lets("x/a", "y/a", TCP, 80));
    let [from, to] = [block("x/a")[0].network(), block("y/a")[0].network()];
    assert_eq!(cast.outcome(from, to, TCP, 80).ingress, None);
}

#[test]
fn np_29_egress_to_a_pod_of_another_namespace() {
    assert_eq!(out_of_a([peers([both(is("ns", "y"), is("pod", "a"))])]).reached_by("x/a"), "y/a");
}

#[test]
fn np_32_an_egress_allow_all_beside_a_restrictive_policy_opens_everything() {
    let narrow = policy("x", "narrow").egress([peers([pods("x", is("pod", "b"))])]);
    assert_eq!(Cast::new([narrow, policy("x", "open").egress([all()])]).reached_by("x/a"), OTHERS);
}

#[test]
fn np_34_a_block_of_one_address_lets_that_pod_be_reached() {
    assert_eq!(out_of_a([peers([ip_block(&block("y/b"), &[])])]).reached_by("x/a"), "y/b");
}

#[test]
fn np_35_np_66_an_exception_takes_pods_out_of_a_wide_block() {
    let wide = [cidr("10.65.0.0/16"), cidr("fd65::/64")];
    let holes = [block("y/b"), [cidr("10.65.3.0/24"), cidr("fd65::3:0/112")]].concat();
    assert_eq!(out_of_a([peers([ip_block(&wide, &holes)])]).reached_by("x/a"), "x/b x/c y/a y/c");
}

#[test]
fn np_36_an_exception_of_one_peer_is_no_deny_for_another() {
    let wide = [cidr("10.65.0.0/16"), cidr("fd65::/64")];
    let with_hole = ip_block(&wide, &block("y/b"));
    let one_rule = peers([with_hole.clone(), ip_block(&block("y/b"), &[])]);
    assert_eq!(out_of_a([one_rule]).reached_by("x/a"), OTHERS);
    let by_label = policy("x", "z-last").egress([peers([both(is("ns", "y"), is("pod", "b"))])]);
    let two_policies = Cast::new([policy("x", "a-first").egress([peers([with_hole])]), by_label]);
    assert_eq!(two_policies.reached_by("x/a"), OTHERS);
}

#[test]
fn np_42_not_in_over_the_name_of_the_namespace() {
    let elsewhere = out_of_a([peers([namespaces(outside(NAMESPACE_NAME, &["x"]))])]);
    assert_eq!(elsewhere.reached_by("x/a"), "y/a y/b y/c z/a z/b z/c");
}

#[test]
fn np_50_a_policy_without_the_egress_type_leaves_egress_open() {
    assert_eq!(Cast::new([policy("x", "in").ingress([])]).reached_by("x/a"), "y/a y/b y/c z/a z/b z/c");
}

#[test]
fn np_54_a_block_opens_to_strangers_and_a_selector_does_not() {
    let cast = out_of_a([peers([ip_block(&[cidr("203.0.113.0/24")], &[])])]);
    assert!(cast.lets("x/a", STRANGER, TCP, 443) && !cast.lets("x/a", "198.51.100.1", TCP, 443));
    assert!(!out_of_a([peers([namespaces(Selector::All)])]).lets("x/a", STRANGER, TCP, 443));
}

#[test]
fn np_55_a_block_matches_the_address_of_a_node() {
    assert!(out_of_a([peers([ip_block(&[cidr("192.168.7.0/24")], &[])])]).lets("x/a", HOST, TCP, 10250));
    assert!(!out_of_a([peers([namespaces(Selector::All)])]).lets("x/a", HOST, TCP, 10250));
}

#[test]
fn a_lower_order_is_asked_first_and_an_unset_one_last() {
    let mut deny = policy("x", "a-deny").egress([all()]);
    deny.0.egress[0].action = model::Action::Deny;
    let allow = policy("x", "b-allow").egress([all()]);
    let decides = |deny: &Draft| {
        let cast = Cast::new([allow.clone(), deny.clone()]);
        let outcome = cast.outcome(block("x/a")[0].network(), block("y/a")[0].network(), TCP, 80);
        match outcome.egress.map(|end| end.decider) {
            Some(Decider::Rule { policy, direction: Direction::Egress, .. }) => policy.name,
            other => panic!("a rule decides, not {other:?}"),
        }
    };
    assert_eq!(*decides(&deny), *"a-deny");
    deny.0.order = model::Order::Unset;
    assert_eq!(*decides(&deny), *"b-allow");
    deny.0.order = model::Order::At(-1.0);
    assert_eq!(*decides(&deny), *"a-deny");
}
