//! Tiers, orders, passes and profiles: CAL and CNP rows about who is asked, and in which order.
//! In: the cast, and policies of several tiers. Out: who is let in, and who decided it.
//! Invariant: each row names its conformance id; upstream's own cases (felix/bpf/ut/pol_prog_test.go,
//! felix/fv/tiered_policy_test.go, felix/fv/cluster_network_policy_test.go) are said here with other actors.
//! Never: what a rule matches; that has rows of its own.

use super::cast::*;
use model::{Action, EntityMatch, Labels, Order, PolicyKind, Profile, Rule, Selector, Tier, TierEnd, TierName};

const OTHERS: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";
const ADMIN: &str = TierName::KUBE_ADMIN;
const BASELINE: &str = TierName::KUBE_BASELINE;
const DEFAULT: &str = TierName::DEFAULT;

fn tier(name: &str, order: f64, end: TierEnd) -> Tier {
    Tier { name: name.into(), order: Order::At(order), end }
}

/// With two tiers of the user's own: `first` and `second` before all others, both ending in deny.
fn cast<const N: usize>(policies: [Draft; N]) -> Cast {
    let mut cast = Cast::new(policies);
    cast.0.tiers = vec![tier("second", 20.0, TierEnd::Deny), tier("first", 10.0, TierEnd::Deny)];
    cast
}

/// Into x/a, in this tier.
fn to_a(tier: &str, name: &str, rules: impl IntoIterator<Item = Rule>) -> Draft {
    let mut draft = global(tier, name).selecting("pod == 'a' && projectcalico.org/namespace == 'x'").into([]);
    draft.0.ingress = rules.into_iter().enumerate().map(|(at, rule)| Rule { place: at as u16, ..rule }).collect();
    draft
}

fn from(selector: &str, action: Action) -> Rule {
    Rule { source: end(selector), ..does(action) }
}

#[test]
fn cal_1_lower_order_first_unset_last_and_ties_by_name_then_namespace_then_kind() {
    let deny = to_a(DEFAULT, "m", [does(Action::Deny)]).at(5.0);
    let allow = |name: &str| to_a(DEFAULT, name, [does(Action::Allow)]);
    assert_eq!(cast([deny.clone(), allow("m2").at(4.9)]).reach("x/a"), OTHERS);
    assert_eq!(cast([deny.clone(), allow("m2").at(5.1)]).reach("x/a"), "");
    assert_eq!(cast([deny.clone(), allow("a")]).reach("x/a"), "", "no order is the last one");
    assert_eq!(cast([deny.clone(), allow("l").at(5.0)]).reach("x/a"), OTHERS);
    // "m-1/" comes before "m/".
    assert_eq!(cast([deny.clone(), allow("m-1").at(5.0)]).reach("x/a"), OTHERS);
    let mut namespaced = allow("m").at(5.0);
    (namespaced.0.id.kind, namespaced.0.id.namespace) = (PolicyKind::NetworkPolicy, "x".into());
    assert_eq!(cast([deny, namespaced]).reach("x/a"), "", "an empty namespace comes first");
}

#[test]
fn cal_1_tiers_stand_by_order_then_name_whatever_their_policies_orders() {
    let allow = to_a("second", "a", [does(Action::Allow)]).at(1.0);
    let mut cast = cast([allow, to_a("first", "b", [does(Action::Deny)]).at(9.0)]);
    assert_eq!(cast.reach("x/a"), "");
    cast.0.tiers = vec![tier("second", 10.0, TierEnd::Deny), tier("first", 10.0, TierEnd::Deny)];
    assert_eq!(cast.reach("x/a"), "", "of one order, the name decides");
    cast.0.tiers[1].order = Order::Unset;
    assert_eq!(cast.reach("x/a"), OTHERS, "no order is the last one");
}

#[test]
fn cal_1_a_tier_that_nobody_made_comes_last_and_ends_in_deny() {
    let nowhere = to_a("nowhere", "p", [from("pod == 'b'", Action::Allow)]).at(-9.0);
    assert_eq!(cast([nowhere.clone()]).reach("x/a"), "x/b y/b z/b");
    let baseline = to_a(BASELINE, "p", [from("pod == 'c'", Action::Allow), from("pod == 'b'", Action::Deny)]);
    assert_eq!(cast([nowhere.clone(), baseline]).reach("x/a"), "x/c y/c z/c");
    let mut unordered = cast([nowhere, to_a("zone", "p", [from("pod == 'b'", Action::Deny)])]);
    unordered.0.tiers.push(Tier { order: Order::Unset, ..tier("zone", 0.0, TierEnd::Deny) });
    assert_eq!(unordered.reach("x/a"), "", "after a tier that was made without an order, whatever the names");
}

#[test]
fn cal_2_a_tier_whose_policies_match_nothing_ends_in_its_default_action_and_it_may_be_toggled() {
    let mut cast = cast([to_a("first", "p", [from("pod == 'b'", Action::Allow)])]);
    assert_eq!(cast.reach("x/a"), "x/b y/b z/b");
    assert_eq!(
        cast.says("x/c", "x/a"),
        "no ingress rule of GlobalNetworkPolicy p matches, and tier first ends in deny: denied"
    );
    cast.0.tiers[1].end = TierEnd::Pass;
    assert_eq!(cast.reach("x/a"), OTHERS);
    assert_eq!(cast.says("x/c", "x/a"), "every tier passes ingress on to the namespace's profile: allowed");
    cast.0.tiers[1].end = TierEnd::Deny;
    assert_eq!(cast.reach("x/a"), "x/b y/b z/b");
}

#[test]
fn cal_2_a_tier_without_a_policy_for_the_endpoint_in_this_direction_is_not_there() {
    let elsewhere = global("first", "elsewhere").selecting("pod == 'b'").into([]);
    let outwards = to_a("first", "out", []);
    let outwards = Draft(model::Policy { types: model::PolicyTypes { ingress: false, egress: true }, ..outwards.0 });
    let open = to_a("second", "open", [from("pod == 'c'", Action::Allow)]);
    assert_eq!(cast([elsewhere, outwards, open]).reach("x/a"), "x/c y/c z/c");
}

#[test]
fn cal_2_an_allow_of_an_early_tier_makes_later_ones_unreachable_and_so_does_a_deny() {
    for (first, second, reach) in [(Action::Allow, Action::Deny, OTHERS), (Action::Deny, Action::Allow, "")] {
        assert_eq!(cast([to_a("first", "p", [does(first)]), to_a("second", "p", [does(second)])]).reach("x/a"), reach);
    }
}

#[test]
fn cal_3_pass_leaves_the_rest_of_its_tier_unasked() {
    let pass = || to_a("first", "a", [does(Action::Pass), does(Action::Deny)]);
    let unasked = || to_a("first", "b", [does(Action::Deny)]);
    for (action, reach) in [(Action::Allow, OTHERS), (Action::Deny, "")] {
        assert_eq!(cast([pass(), unasked(), to_a("second", "p", [does(action)])]).reach("x/a"), reach);
    }
    let partly = to_a("first", "a", [from("pod == 'b'", Action::Pass)]);
    let both = cast([partly, to_a("second", "p", [does(Action::Allow)])]);
    assert_eq!(both.reach("x/a"), "x/b y/b z/b", "what is not passed meets the end of the first tier");
}

#[test]
fn cal_3_cal_4_pass_out_of_the_last_tier_asks_the_profiles() {
    let pass = || to_a("first", "a", [does(Action::Pass)]);
    assert_eq!(cast([pass()]).reach("x/a"), OTHERS, "the namespace's implied profile");
    let mut nowhere = cast([pass()]);
    nowhere.0.profiles = vec![Profile {
        name: "kns.x".into(),
        labels: Labels::new(),
        ingress: vec![],
        egress: vec![does(Action::Allow)],
    }];
    assert_eq!(nowhere.reach("x/a"), "");
    assert_eq!(nowhere.says("x/b", "x/a"), "no profile allows ingress: denied");
}

#[test]
fn cal_4_profiles_are_asked_only_where_no_policy_applies_in_this_direction() {
    let profile = |rules: Vec<Rule>| Profile {
        name: "kns.x".into(),
        labels: Labels::new(),
        ingress: rules,
        egress: vec![does(Action::Allow)],
    };
    let mut cast = cast([to_a(DEFAULT, "p", [from("pod == 'c'", Action::Allow)])]);
    cast.0.profiles = vec![profile(vec![from("pod == 'b'", Action::Allow)])];
    assert_eq!(cast.reach("x/a"), "x/c y/c z/c", "a policy applies");
    assert_eq!(cast.reach("x/b"), "y/b z/b", "none applies");
    assert_eq!(cast.says("y/b", "x/b"), "profile kns.x ingress rule 0 allows");
    cast.0.policies.clear();
    cast.0.profiles = vec![profile(vec![from("pod == 'b'", Action::Deny), does(Action::Allow)])];
    assert_eq!(cast.reach("x/a"), "x/c y/a y/c z/a z/c");
}

#[test]
fn cal_4_the_accounts_profile_is_asked_after_the_namespaces() {
    let profile = |name: &str, rule: Rule| Profile {
        name: name.into(),
        labels: Labels::new(),
        ingress: vec![rule],
        egress: vec![],
    };
    let mut cast = cast([]);
    cast.0.endpoints.retain(|pod| *pod.id.namespace.0 != *"x" || *pod.id.name == *"a");
    cast.0.profiles = vec![
        profile("ksa.x.default", from("pod == 'c'", Action::Allow)),
        profile("kns.x", from("pod == 'b'", Action::Allow)),
        profile("ksa.x.other", does(Action::Allow)),
    ];
    let lets = |cast: &Cast, from: &str| cast.lets(from, "x/a", TCP, 80);
    assert!(lets(&cast, "y/b") && lets(&cast, "y/c") && !lets(&cast, "y/a"));
    cast.0.profiles[0].ingress[0] = from("pod in {'b', 'c'}", Action::Deny);
    assert!(lets(&cast, "y/b") && !lets(&cast, "y/c"), "what the namespace's allows is not asked of the account's");
    cast.0.profiles.remove(1);
    assert!(lets(&cast, "y/a"), "the implied one of the namespace comes first, and allows everything");
}

#[test]
fn cal_9_a_pass_in_a_profile_leads_nowhere() {
    let mut cast = cast([]);
    let rules = vec![from("pod == 'b'", Action::Pass), does(Action::Allow)];
    cast.0.profiles = vec![Profile {
        name: "kns.x".into(),
        labels: Labels::new(),
        ingress: rules,
        egress: vec![does(Action::Allow)],
    }];
    assert_eq!(cast.reach("x/a"), "x/c y/a y/c z/a z/c");
}

#[test]
fn cal_6_cal_7_rules_of_a_direction_that_is_not_asked_have_no_effect() {
    let mut one_way = to_a(DEFAULT, "p", [does(Action::Deny)]).out([does(Action::Deny)]);
    one_way.0.types.egress = false;
    let cast = Cast::new([one_way]);
    assert_eq!((cast.reach("x/a"), cast.reached_by("x/a").as_str()), (String::new(), OTHERS));
    let both = to_a(DEFAULT, "p", [does(Action::Allow)]).out([]);
    let cast = Cast::new([both]);
    assert_eq!((cast.reach("x/a").as_str(), cast.reached_by("x/a").as_str()), (OTHERS, ""));
}

#[test]
fn cal_8_a_log_rule_decides_nothing_wherever_it_stands() {
    let logged = |rules: Vec<Rule>| cast([to_a("first", "p", rules)]).reach("x/a");
    assert_eq!(logged(vec![does(Action::Log), does(Action::Allow)]), OTHERS);
    assert_eq!(logged(vec![does(Action::Log), does(Action::Deny)]), "");
    assert_eq!(logged(vec![from("pod == 'b'", Action::Allow), does(Action::Log)]), "x/b y/b z/b");
    assert_eq!(logged(vec![does(Action::Log)]), "");
}

#[test]
fn cal_16_a_kubernetes_policy_stands_at_1000_in_the_default_tier() {
    let kubernetes = || policy("x", "k").ingress([]);
    for (order, reach) in [(999.0, OTHERS), (1001.0, "")] {
        let allow = to_a(DEFAULT, "p", [does(Action::Allow)]).at(order);
        let deny = to_a(DEFAULT, "q", [does(Action::Deny)]).at(1000.5);
        assert_eq!(cast([kubernetes(), deny, allow]).reach("x/a"), reach);
    }
    assert_eq!(cast([kubernetes(), to_a("second", "p", [does(Action::Allow)])]).reach("x/a"), OTHERS);
}

#[test]
fn cal_38_a_subject_of_all_is_pods_of_every_namespace() {
    let closed = cast([global("first", "p").selecting("all()").into([])]);
    assert_eq!(["x/a", "y/b", "z/c"].map(|pod| closed.reach(pod)).concat(), "");
    let one = cast([global("first", "p").selecting("pcns.ns == 'y' && pod in {'a', 'b'}").into([])]);
    assert_eq!((one.reach("y/a").as_str(), one.reach("x/a").as_str()), ("", OTHERS));
}

fn cluster_policy(tier: &str, priority: f64, rules: impl IntoIterator<Item = Rule>) -> Draft {
    let mut draft = to_a(tier, &format!("{tier}-{priority}"), rules).at(priority);
    draft.0.id.kind = PolicyKind::ClusterNetworkPolicy;
    draft
}

#[test]
fn cnp_2_cnp_36_admin_before_policies_before_baseline_before_allow() {
    let admin = || cluster_policy(ADMIN, 7.0, [from("pod == 'b'", Action::Deny)]);
    let baseline = || cluster_policy(BASELINE, 7.0, [does(Action::Deny)]);
    assert_eq!(cast([admin()]).reach("x/a"), "x/c y/a y/c z/a z/c", "what no rule matches is allowed in the end");
    assert_eq!(cast([admin(), baseline()]).reach("x/a"), "");
    let open = policy("x", "open").ingress([all()]);
    assert_eq!(cast([admin(), baseline(), open]).reach("x/a"), "x/c y/a y/c z/a z/c");
}

#[test]
fn cnp_3_a_lower_priority_is_asked_first() {
    let deny = |priority| cluster_policy(ADMIN, priority, [does(Action::Deny)]);
    let pass = |priority| cluster_policy(ADMIN, priority, [does(Action::Pass)]);
    assert_eq!(cast([deny(0.0), pass(1.0)]).reach("x/a"), "");
    assert_eq!(cast([deny(1.0), pass(0.0)]).reach("x/a"), OTHERS);
}

#[test]
fn cnp_5_cnp_31_what_no_rule_matches_falls_to_the_next_tier_and_no_rules_isolate_nobody() {
    let mut silent = cluster_policy(ADMIN, 1.0, []);
    silent.0.types.ingress = false;
    assert_eq!(cast([silent]).reach("x/a"), OTHERS);
    let narrow = cluster_policy(ADMIN, 1.0, [from("pod == 'b'", Action::Allow)]);
    assert_eq!(cast([narrow]).reach("x/a"), OTHERS);
}

#[test]
fn cnp_7_accept_and_deny_are_final_and_pass_skips_the_tier() {
    let deny_all = || cluster_policy(ADMIN, 2.0, [does(Action::Deny)]);
    let closed = || policy("x", "closed").ingress([]);
    let accept = cluster_policy(ADMIN, 1.0, [from("pod == 'b'", Action::Allow)]);
    assert_eq!(cast([accept, deny_all(), closed()]).reach("x/a"), "x/b y/b z/b");
    let pass = || cluster_policy(ADMIN, 1.0, [from("pod == 'b'", Action::Pass)]);
    assert_eq!(cast([pass(), deny_all()]).reach("x/a"), "x/b y/b z/b");
    assert_eq!(cast([pass(), deny_all(), closed()]).reach("x/a"), "");
}

#[test]
fn cnp_32_a_policy_of_the_pod_decides_and_the_baseline_is_not_reached() {
    let baseline = || cluster_policy(BASELINE, 1.0, [from("pod == 'b'", Action::Allow), does(Action::Deny)]);
    let narrow = policy("x", "narrow").ingress([peers([namespaces(is("ns", "y"))])]);
    assert_eq!(cast([baseline(), narrow]).reach("x/a"), "y/a y/b y/c");
    let outwards = policy("x", "out").egress([]);
    let cast = cast([baseline(), outwards]);
    assert!(cast.lets("y/b", "x/a", TCP, 80) && !cast.lets("y/c", "x/a", TCP, 80), "in that direction");
}

#[test]
fn cnp_33_an_egress_accept_does_not_waive_the_receivers_end() {
    let mut accept = global(ADMIN, "out").selecting("projectcalico.org/namespace == 'y'").out([does(Action::Allow)]);
    accept.0.id.kind = PolicyKind::ClusterNetworkPolicy;
    assert!(!cast([accept, policy("x", "in").ingress([])]).lets("y/a", "x/a", TCP, 80));
}

#[test]
fn cnp_34_pass_in_the_baseline_allows() {
    let passed = cluster_policy(BASELINE, 1.0, [from("pod == 'b'", Action::Pass), does(Action::Deny)]);
    assert_eq!(cast([passed]).reach("x/a"), "x/b y/b z/b");
}

#[test]
fn cnp_37_a_decision_names_tier_kind_and_rule() {
    let admin = cluster_policy(ADMIN, 1.0, [from("pod == 'b'", Action::Deny), from("pod == 'c'", Action::Pass)]);
    let cast = cast([admin, policy("x", "closed").ingress([])]);
    let refused = "ClusterNetworkPolicy kube-admin-1 ingress rule 0 (tier kube-admin) denies";
    assert_eq!(cast.says("x/b", "x/a"), refused);
    assert_eq!(cast.says("x/c", "x/a"), "no ingress rule of NetworkPolicy x/closed matches: denied");
}

#[test]
fn cnpt_5_deny_then_pass_then_an_allow_gone_and_the_baseline_decides() {
    let admin = |action| cluster_policy(ADMIN, 1.0, [does(action)]);
    let baseline = || cluster_policy(BASELINE, 1.0, [does(Action::Deny)]);
    let open = || policy("x", "open").ingress([all()]);
    assert_eq!(cast([admin(Action::Deny), open(), baseline()]).reach("x/a"), "");
    assert_eq!(cast([admin(Action::Pass), open(), baseline()]).reach("x/a"), OTHERS);
    assert_eq!(cast([admin(Action::Pass), baseline()]).reach("x/a"), "");
}

#[test]
fn the_default_tier_may_be_told_to_pass() {
    let mut cast = cast([policy("x", "closed").ingress([])]);
    assert_eq!(cast.reach("x/a"), "");
    cast.0.tiers.push(tier(DEFAULT, 5.0, TierEnd::Pass));
    assert_eq!(cast.reach("x/a"), OTHERS);
}

#[test]
fn a_rule_for_everybody_is_no_selector_of_pods() {
    let anybody = Rule { source: EntityMatch::default(), ..does(Action::Allow) };
    assert!(cast([to_a("first", "p", [anybody])]).lets(STRANGER, "x/a", TCP, 80));
    let pods = Rule {
        source: EntityMatch { selector: Some(Selector::All.into()), ..EntityMatch::default() },
        ..does(Action::Allow)
    };
    assert!(!cast([to_a("first", "p", [pods])]).lets(STRANGER, "x/a", TCP, 80));
}
