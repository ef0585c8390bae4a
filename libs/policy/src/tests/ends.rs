//! What a rule asks of its two ends: CAL and CNP rows about selectors, networks, sets, accounts and nodes.
//! In: the cast, with network sets around it, and one rule. Out: whom it lets in.
//! Invariant: each row names its conformance id.
//! Never: tiers; one policy in the default tier is enough.

use super::cast::*;
use model::{Action, EntityMatch, Family, Labels, NetworkSet, NetworkSetId, Node, Profile, Rule};

const OTHERS: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";
const FAR: &str = "198.51.100.9";

/// x/a lets in what this rule allows.
fn allowing(rule: Rule) -> Cast {
    let subject = "pod == 'a' && projectcalico.org/namespace == 'x'";
    Cast::new([global("default", "p").selecting(subject).into([rule])])
}

fn allowing_from(source: EntityMatch) -> Cast {
    allowing(Rule { source, ..does(Action::Allow) })
}

fn network_set(namespace: Option<&str>, name: &str, role: &str, nets: &[&str]) -> NetworkSet {
    let id = NetworkSetId { namespace: namespace.map(Into::into), name: name.into() };
    NetworkSet { id, labels: labels(&[("role", role)]), nets: nets.iter().map(|net| cidr(net)).collect() }
}

fn account(cast: &mut Cast, pod: &str, name: &str, pairs: &[(&str, &str)]) {
    let pod = cast.pod(pod);
    pod.service_account = Some(name.into());
    let key = (pod.id.namespace.clone(), name.to_owned());
    cast.0.accounts.insert(key, labels(pairs));
}

#[test]
fn cal_26_cal_27_networks_match_in_their_own_family_and_no_other() {
    let v4 = allowing_from(end_nets(&["0.0.0.0/0"], &[]));
    assert!(v4.lets(STRANGER, "x/a", TCP, 80) && !v4.lets("2001:db8::7", "x/a", TCP, 80));
    let both = allowing_from(end_nets(&["10.65.2.1/32", "fd65::3:0/112"], &[]));
    let [in_v4, in_v6] =
        [("10.65.2.1", true), ("fd65::2:1", false)].map(|(from, lets)| both.lets(from, "x/a", TCP, 80) == lets);
    assert!(in_v4 && in_v6 && both.lets("fd65::3:1", "x/a", TCP, 80));
    let host_bits = allowing_from(end_nets(&["203.0.113.99/24"], &[]));
    assert!(host_bits.lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn cal_26_a_negated_network_of_everything_never_matches() {
    let none = allowing_from(end_nets(&[], &["0.0.0.0/0", "::/0"]));
    assert!(!none.lets(STRANGER, "x/a", TCP, 80) && !none.lets("x/b", "x/a", TCP, 80));
}

#[test]
fn cal_27_excepted_networks_of_one_family_say_nothing_of_the_other() {
    let cast = allowing_from(end_nets(&[], &["10.65.0.0/16"]));
    assert!(cast.lets(STRANGER, "x/a", TCP, 80));
    assert!(!cast.lets("2001:db8::7", "x/a", TCP, 80), "felix renders the rule for IPv4 alone");
    let cast = allowing_from(end_nets(&[], &["10.65.0.0/16", "fd65::/16"]));
    assert!(cast.lets("2001:db8::7", "x/a", TCP, 80) && !cast.lets("x/b", "x/a", TCP, 80));
    let own = EntityMatch { not_nets: [cidr("10.99.0.0/16")].into(), ..EntityMatch::default() };
    let cast = allowing(Rule { destination: own, ..does(Action::Allow) });
    assert!(cast.lets(STRANGER, "x/a", TCP, 80) && !cast.lets("2001:db8::7", "x/a", TCP, 80), "of the own end neither");
}

#[test]
fn cal_28_an_empty_list_of_networks_and_a_selector_of_nobody_match_nothing() {
    let empty = EntityMatch { nets: Some([].into()), ..EntityMatch::default() };
    assert!(!allowing_from(empty).lets(STRANGER, "x/a", TCP, 80));
    assert_eq!(allowing_from(end("pod == 'nobody'")).reach("x/a"), "");
    let negated = EntityMatch { not_selector: Some(written("pod == 'nobody'").into()), ..EntityMatch::default() };
    let cast = allowing_from(negated);
    assert_eq!(cast.reach("x/a"), OTHERS);
    assert!(cast.lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn cal_30_an_ip_version_holds_for_both_ends() {
    for (family, v4) in [(Family::V4, true), (Family::V6, false)] {
        let cast = allowing(Rule { family: Some(family), ..does(Action::Allow) });
        assert_eq!(cast.lets(STRANGER, "x/a", TCP, 80), v4);
        assert_eq!(cast.lets("2001:db8::7", "x/a", TCP, 80), !v4);
    }
}

#[test]
fn cal_31_a_negation_in_the_selector_covers_endpoints_and_a_negated_selector_everybody() {
    let inside = allowing_from(end("!has(pod)"));
    assert!(!inside.lets(STRANGER, "x/a", TCP, 80) && !inside.lets("x/b", "x/a", TCP, 80));
    let negated = |text: &str| EntityMatch { not_selector: Some(written(text).into()), ..EntityMatch::default() };
    let outside = allowing_from(negated("has(pod)"));
    assert!(outside.lets(STRANGER, "x/a", TCP, 80) && !outside.lets("x/b", "x/a", TCP, 80));
}

#[test]
fn cal_11_a_selector_and_a_negated_selector_must_both_hold() {
    let both = EntityMatch { not_selector: Some(written("pod == 'b'").into()), ..end("pcns.ns in {'x', 'y'}") };
    assert_eq!(allowing_from(both).reach("x/a"), "x/c y/a y/c");
    let nets = EntityMatch {
        selector: Some(written("pod in {'b', 'c'}").into()),
        ..end_nets(&["10.65.2.0/24", "fd65::2:0/112"], &[])
    };
    assert_eq!(allowing_from(nets).reach("x/a"), "y/b y/c");
}

#[test]
fn cal_32_a_namespace_all_names_pods_of_every_namespace_and_global_only_sets_of_none() {
    let sets = || {
        vec![
            network_set(None, "far", "r", &["203.0.113.0/24"]),
            network_set(Some("y"), "near", "r", &[&format!("{FAR}/32")]),
        ]
    };
    let asking = |selector: model::Selector| {
        let mut cast = allowing_from(EntityMatch { selector: Some(selector.into()), ..EntityMatch::default() });
        cast.0.network_sets = sets();
        cast
    };
    let any = asking(written("all()").of_namespaces());
    assert_eq!(any.reach("x/a"), OTHERS);
    assert!(any.lets(FAR, "x/a", TCP, 80) && !any.lets(STRANGER, "x/a", TCP, 80));
    let global = asking(written("global()").of_namespaces());
    assert_eq!(global.reach("x/a"), "");
    assert!(!global.lets(FAR, "x/a", TCP, 80) && global.lets(STRANGER, "x/a", TCP, 80));
    let everything = asking(written("all()"));
    assert!(everything.lets(FAR, "x/a", TCP, 80) && everything.lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn cal_33_a_namespaced_set_is_chosen_through_its_namespace() {
    let mut cast = allowing_from(end("pcns.ns == 'y' && role == 'r'"));
    cast.0.network_sets = vec![
        network_set(Some("y"), "a", "r", &["203.0.113.0/24"]),
        network_set(Some("z"), "b", "r", &[&format!("{FAR}/32")]),
        network_set(Some("y"), "c", "other", &[&format!("{FAR}/32")]),
    ];
    assert!(cast.lets(STRANGER, "x/a", TCP, 80) && !cast.lets(FAR, "x/a", TCP, 80));
}

#[test]
fn cal_34_sets_that_overlap_or_share_a_network_keep_it_while_one_of_them_has_it() {
    let mut cast = allowing_from(end("role == 'r'"));
    let lets = |cast: &Cast, from: &str| cast.lets(from, "x/a", TCP, 80);
    cast.0.network_sets = vec![
        network_set(None, "a", "r", &["203.0.113.0/24"]),
        network_set(None, "b", "r", &["203.0.113.0/24", "203.0.113.0/25"]),
        network_set(None, "c", "other", &["203.0.113.7/32"]),
    ];
    assert!(lets(&cast, STRANGER), "a wider set holds inside a narrower network of another");
    cast.0.network_sets.remove(0);
    assert!(lets(&cast, STRANGER));
    cast.0.network_sets[0].nets.remove(0);
    assert!(lets(&cast, STRANGER) && !lets(&cast, "203.0.113.200"));
    cast.0.network_sets.remove(0);
    assert!(!lets(&cast, STRANGER));
    cast.0.network_sets = vec![network_set(None, "all", "r", &["0.0.0.0/0"])];
    assert!(lets(&cast, STRANGER) && !lets(&cast, "2001:db8::7"));
}

#[test]
fn cal_34_a_set_finds_pods_by_their_addresses_and_kubernetes_selectors_find_no_set() {
    let set = || vec![network_set(None, "a", "r", &["10.65.2.0/24", "fd65::2:0/112", "203.0.113.0/24"])];
    let mut cast = allowing_from(end("role == 'r'"));
    cast.0.network_sets = set();
    assert_eq!(cast.reach("x/a"), "y/a y/b y/c");
    let mut cast =
        Cast::new([policy("x", "p").of(is("pod", "a")).ingress([peers([both(written("all()"), is("role", "r"))])])]);
    cast.0.network_sets = set();
    assert_eq!(cast.reach("x/a"), "");
    assert!(!cast.lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn cal_35_accounts_by_name_or_by_label() {
    let by = |selector: model::Selector| {
        let mut cast = allowing_from(EntityMatch { selector: Some(selector.into()), ..EntityMatch::default() });
        account(&mut cast, "y/a", "robot", &[("kind", "machine")]);
        account(&mut cast, "z/b", "clerk", &[("kind", "machine")]);
        cast
    };
    let names = |names: &[&str]| model::Selector::service_accounts(names.iter().map(|name| (*name).to_owned()));
    assert_eq!(by(names(&["robot", "nobody"])).reach("x/a"), "y/a");
    assert_eq!(by(written("kind == 'machine'").of_accounts()).reach("x/a"), "y/a z/b");
    let and = model::Selector::all_of(vec![names(&["clerk"]), written("kind == 'machine'").of_accounts()]);
    let mut cast = by(and);
    assert_eq!(cast.reach("x/a"), "z/b");
    cast.0.accounts.insert(("z".into(), "clerk".into()), Labels::new());
    assert_eq!(cast.reach("x/a"), "", "an account's label goes, and with it the match");
}

#[test]
fn a_rule_asks_its_own_end_too() {
    let into = |destination| Rule { destination, ..does(Action::Allow) };
    let everybody = |rule| Cast::new([global("default", "p").selecting("all()").into([rule])]);
    let cast = everybody(into(end("pod == 'a'")));
    assert_eq!((cast.reach("x/a").as_str(), cast.reach("x/b").as_str()), (OTHERS, ""));
    let cast = everybody(into(end_nets(&["10.65.1.1/32", "fd65::1:1/128"], &[])));
    assert_eq!((cast.reach("x/a").as_str(), cast.reach("x/b").as_str()), (OTHERS, ""));
    let outwards = Rule { source: end("pod == 'a'"), ..does(Action::Allow) };
    let cast = Cast::new([global("default", "p").selecting("all()").out([outwards])]);
    assert_eq!((cast.reached_by("x/a").as_str(), cast.reached_by("x/b").as_str()), (OTHERS, ""));
}

#[test]
fn an_own_end_that_differs_by_family_is_judged_by_family() {
    let own = Rule { destination: end_nets(&["10.65.1.1/32"], &[]), ..does(Action::Allow) };
    let cast = Cast::new([global("default", "p").selecting("pod == 'a'").into([own])]);
    assert!(cast.lets(STRANGER, "x/a", TCP, 80) && !cast.lets("2001:db8::7", "x/a", TCP, 80));
    let negated = EntityMatch { not_nets: [cidr("10.65.1.1/32"), cidr("fd99::/16")].into(), ..EntityMatch::default() };
    let deny = Rule { destination: negated, ..does(Action::Deny) };
    let cast = Cast::new([global("default", "p").selecting("pod == 'a'").into([deny, does(Action::Allow)])]);
    assert!(cast.lets(STRANGER, "x/a", TCP, 80) && !cast.lets("2001:db8::7", "x/a", TCP, 80));
}

#[test]
fn an_own_end_that_tells_two_addresses_of_one_family_apart_is_asked_of_the_very_address() {
    let only = |action| Rule { destination: end_nets(&["10.65.1.1/32"], &[]), ..does(action) };
    let two = |rules: [Rule; 2]| {
        let mut cast = Cast::new([global("default", "p").selecting("pod == 'a'").into(rules)]);
        cast.pod("x/a").addresses.push("10.65.77.1".parse().expect("an address"));
        cast
    };
    let asked = |rules: [Rule; 2]| {
        let cast = two(rules);
        ["x/a", "10.65.77.1"].map(|to| cast.lets(STRANGER, to, TCP, 80))
    };
    assert_eq!(asked([only(Action::Allow), does(Action::Log)]), [true, false]);
    assert_eq!(asked([only(Action::Deny), does(Action::Allow)]), [false, true]);
    assert_eq!(asked([only(Action::Pass), does(Action::Deny)]), [true, false]);
    let out = Rule { source: end_nets(&["10.65.1.1/32"], &[]), ..does(Action::Deny) };
    let mut cast = Cast::new([global("default", "p").selecting("pod == 'a'").out([out, does(Action::Allow)])]);
    cast.pod("x/a").addresses.push("10.65.77.1".parse().expect("an address"));
    assert!(!cast.lets("x/a", STRANGER, TCP, 80) && cast.lets("10.65.77.1", STRANGER, TCP, 80));
}

#[test]
fn cnp_12_nodes_are_found_by_their_addresses_and_in_all_of_them() {
    let nodes = |text: &str| EntityMatch { nodes: Some(written(text).into()), ..EntityMatch::default() };
    let rule = |text: &str| Rule { destination: nodes(text), ..does(Action::Allow) };
    let asking = |text: &str| {
        let mut cast = Cast::new([global("default", "p").selecting("pod == 'a'").out([rule(text)])]);
        let node = |name: &str, addresses: &[&str]| Node {
            name: name.into(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            labels: labels(&[("rack", name)]),
            pod_cidrs: vec![],
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        };
        cast.0.nodes = vec![node("here", &[HOST, "fd07::1"]), node("there", &[STRANGER, FAR])];
        cast
    };
    let there = asking("rack == 'there'");
    assert!(there.lets("x/a", STRANGER, TCP, 80) && there.lets("x/a", FAR, TCP, 80));
    assert!(!there.lets("x/a", HOST, TCP, 80) && there.reached_by("x/a").is_empty());
    let any = asking("all()");
    assert!(any.lets("x/a", HOST, TCP, 80) && any.lets("x/a", "fd07::1", TCP, 80));
    assert!(!asking("rack == 'nowhere'").lets("x/a", STRANGER, TCP, 80));
}

#[test]
fn cnp_13_a_network_matches_pods_inside_it_too_and_icmp() {
    let deny = Rule { destination: end_nets(&["0.0.0.0/0", "::/0"], &[]), ..does(Action::Deny) };
    let first = Rule { destination: end("pcns.ns == 'y'"), ..does(Action::Allow) };
    let cast = Cast::new([global("kube-admin", "p").selecting("pod == 'a'").out([first, deny])]);
    assert_eq!(cast.reached_by("x/a"), "y/a y/b y/c");
    assert!(!cast.lets("x/a", STRANGER, model::Protocol::ICMP, 0x0800));
}

#[test]
fn cnp_8_cnp_11_peers_by_namespace_are_pods_alone() {
    let peer = model::Selector::all_of(vec![model::Selector::pods(), written("all()").of_namespaces()]);
    let mut cast = allowing_from(EntityMatch { selector: Some(peer.into()), ..EntityMatch::default() });
    cast.0.network_sets = vec![network_set(Some("y"), "near", "r", &["203.0.113.0/24"])];
    assert_eq!(cast.reach("x/a"), OTHERS);
    assert!(!cast.lets(STRANGER, "x/a", TCP, 80));
}

#[test]
fn sel_9_labels_that_a_profile_applies_count_where_nothing_nearer_says_something_else() {
    let profile = |name: &str, pairs: &[(&str, &str)]| Profile {
        name: name.into(),
        labels: labels(pairs),
        ingress: vec![],
        egress: vec![does(Action::Allow)],
    };
    let mut cast = allowing_from(end("zone == 'far' && pcns.ns == 'y'"));
    assert_eq!(cast.reach("x/a"), "");
    cast.0.profiles = vec![profile("kns.y", &[("zone", "far"), ("pod", "other"), ("pcns.ns", "z")])];
    assert_eq!(cast.reach("x/a"), "y/a y/b y/c", "the namespace itself says where it is");
    cast.pod("y/b").labels = labels(&[("pod", "b"), ("zone", "near")]);
    assert_eq!(cast.reach("x/a"), "y/a y/c", "a pod's own label comes first");
    cast.0.profiles.push(profile("ksa.y.default", &[("zone", "near"), ("role", "clerk")]));
    assert_eq!(cast.reach("x/a"), "y/a y/c", "the namespace's profile comes before the account's");
    cast.0.profiles.remove(0);
    assert_eq!(cast.reach("x/a"), "");

    let mut subject = Cast::new([global("default", "p").selecting("role == 'clerk'").into([])]);
    subject.0.profiles = vec![profile("ksa.z.default", &[("role", "clerk")])];
    let closed: Vec<_> = everybody().filter(|to| !subject.lets("y/a", to, TCP, 80)).collect();
    assert_eq!(closed, ["z/a", "z/b", "z/c"]);
    // What is told of a namespace that nobody has described is known; the rest is not.
    let mut cast = allowing_from(end("pcns.ns == 'y' && !has(pcns.closed)"));
    cast.0.namespaces.remove(&"y".into());
    cast.0.profiles = vec![profile("kns.y", &[("pcns.ns", "y")])];
    assert_eq!(cast.reach("x/a"), "");
    let cast_of = |rule| {
        let mut cast = allowing_from(end(rule));
        cast.0.namespaces.remove(&"y".into());
        cast.0.profiles = vec![profile("kns.y", &[("pcns.ns", "y")])];
        cast.reach("x/a")
    };
    assert_eq!(cast_of("pcns.ns == 'y'"), "y/a y/b y/c");
}
