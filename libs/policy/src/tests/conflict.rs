//! Conflicting policies: allow-all against deny-all at either end, by pod and by address.
//! In: the cast and two policies. Out: whether y/b reaches x/a.
//! Invariant: an allow wins within one direction, a refusal at either end wins over all.
//! Never: a third policy.

use super::cast::*;
use model::EntityMatch;

/// The other end, by selector and by address.
fn by_pod(namespace: &str, pod: &str) -> EntityMatch {
    both(is("ns", namespace), is("pod", pod))
}

fn by_address(name: &str) -> EntityMatch {
    ip_block(&block(name), &[])
}

/// Everything but the other end, by address: how Kubernetes can say "deny by IP".
fn all_but(name: &str) -> EntityMatch {
    ip_block(&[cidr("0.0.0.0/0"), cidr("::/0")], &block(name))
}

fn y_b_reaches_x_a(policies: [Draft; 2]) -> bool {
    Cast::new(policies).lets("y/b", "x/a", TCP, 80)
}

#[test]
fn cyc_10_within_one_direction_an_allow_wins_over_a_deny_all() {
    for peer in [by_pod("y", "b"), by_address("y/b"), EntityMatch::default()] {
        assert!(y_b_reaches_x_a([policy("x", "deny").ingress([]), policy("x", "open").ingress([peers([peer])])]));
    }
    for peer in [by_pod("x", "a"), by_address("x/a"), EntityMatch::default()] {
        assert!(y_b_reaches_x_a([policy("y", "deny").egress([]), policy("y", "open").egress([peers([peer])])]));
    }
}

#[test]
fn cyc_10_a_deny_by_address_and_an_allow_by_pod_is_an_allow() {
    let closed = policy("x", "all-but-y-b").ingress([peers([all_but("y/b")])]);
    assert!(!y_b_reaches_x_a([closed.clone(), policy("z", "elsewhere").ingress([])]));
    assert!(y_b_reaches_x_a([closed, policy("x", "open").ingress([peers([by_pod("y", "b")])])]));
    let closed = policy("y", "all-but-x-a").egress([peers([all_but("x/a")])]);
    assert!(y_b_reaches_x_a([closed, policy("y", "open").egress([peers([by_pod("x", "a")])])]));
}

#[test]
fn cyc_10_a_refusal_at_either_end_wins_over_an_allow_at_the_other() {
    for (from, to) in [([by_pod("x", "a")], [by_pod("y", "b")]), ([by_address("x/a")], [by_address("y/b")])] {
        let (out, into) = (policy("y", "out").egress([peers(from)]), policy("x", "in").ingress([peers(to)]));
        assert!(y_b_reaches_x_a([out.clone(), into.clone()]));
        assert!(!y_b_reaches_x_a([policy("y", "out").egress([]), into]));
        assert!(!y_b_reaches_x_a([out, policy("x", "in").ingress([])]));
    }
}

#[test]
fn cyc_10_allow_all_at_both_ends_is_open_and_deny_all_at_both_closed() {
    assert!(y_b_reaches_x_a([policy("y", "out").egress([all()]), policy("x", "in").ingress([all()])]));
    assert!(!y_b_reaches_x_a([policy("y", "out").egress([]), policy("x", "in").ingress([])]));
}
