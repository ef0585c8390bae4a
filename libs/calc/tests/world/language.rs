//! How tiers, sets, nodes, accounts and profiles become rule sets, classes and networks.
//! In: small worlds. Out: the part of Desired that the test's name speaks of.
//! Invariant: what no local endpoint's rules ask for leaves no trace.
//! Never: looks into rows; the compiler has its own tests.

use crate::scenery::{
    Fact, State, account, address, allow, attached, attachment_id, enforced, found_by, global, host, manifest,
    namespace, net, network_set, node, nodes_by, pod, profile, tier, written,
};
use calc::{Desired, Owner, World};
use model::{Family, Labels, Pod, Profile, Resource, Rule, TierEnd};
use policy::{Profiles, RuleSet};

fn desired(facts: impl IntoIterator<Item = Fact>) -> Desired {
    let world = State::of(facts).world();
    calc::desired(world.in_sync().expect("the scenery is in sync"))
}

/// `shop/web` here, and a policy for every pod whose ingress has this one rule.
fn web(rule: Rule) -> State {
    State::of([
        attached("shop/web", &["10.0.0.2", "fd00::2"]),
        pod(manifest("shop/web", "web", &[])),
        enforced(global("default", "p", vec![rule], vec![])),
    ])
}

fn ingress(desired: &Desired) -> &RuleSet {
    &desired.endpoints[&attachment_id("shop/web")].ingress
}

#[test]
fn cal_1_cal_2_tiers_stand_in_order_and_one_without_a_policy_here_is_not_there() {
    let policies = ["default", "second", "first", "nowhere", "kube-baseline", "kube-admin"];
    let policies = policies.map(|tier| enforced(global(tier, tier, vec![], vec![])));
    let tiers =
        [tier("first", 5.0, TierEnd::Pass), tier("second", 2e6, TierEnd::Deny), tier("idle", 1.0, TierEnd::Deny)];
    let found = desired([attached("shop/web", &["10.0.0.2"])].into_iter().chain(policies).chain(tiers));
    let named: Vec<_> = ingress(&found).tiers.iter().map(|tier| (&*tier.name.0, tier.end)).collect();
    let (deny, pass) = (TierEnd::Deny, TierEnd::Pass);
    let expected = [
        ("first", pass),
        ("kube-admin", pass),
        ("default", deny),
        ("second", deny),
        ("kube-baseline", pass),
        ("nowhere", deny),
    ];
    assert_eq!(named, expected);
}

#[test]
fn cal_34_a_set_that_a_rule_finds_is_networks_with_its_selectors_and_one_that_none_finds_is_nothing() {
    let sets = web(allow(found_by("role == 'bank'"))).plus([
        network_set(None, "a", "bank", &["203.0.113.0/24", "10.0.1.0/24"]),
        network_set(None, "b", "other", &["198.51.100.0/24"]),
        pod(manifest("shop/db", "db", &["10.0.1.9"])),
    ]);
    let found = desired(sets.0.clone().into_values());
    let nets: Vec<String> = found.nets.keys().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.1.0/24", "203.0.113.0/24"]);
    assert!(found.nets.values().all(|class| class.selectors.len() == 1));
    assert!(!found.addresses.contains_key(&address("10.0.1.9")), "the pod's network answers for it");
    let narrow = sets.plus([network_set(Some("lab"), "c", "bank", &["203.0.113.7/32"])]);
    let found = desired(narrow.0.into_values());
    assert_eq!(found.nets[&net("203.0.113.7/32")], found.nets[&net("203.0.113.0/24")], "one class");
}

#[test]
fn cal_33_cal_35_labels_of_namespaces_and_accounts_reach_pods_and_sets() {
    let is_peer = |rule: &str, facts: &[Fact]| {
        let state = web(allow(found_by(rule))).plus(facts.to_vec());
        let found = desired(state.0.into_values());
        found.addresses.get(&address("10.0.1.9")).is_some_and(|spec| !spec.class.selectors.is_empty())
    };
    let db = pod(Pod { service_account: Some("robot".into()), ..manifest("lab/db", "db", &["10.0.1.9"]) });
    assert!(!is_peer("pcsa.kind == 'machine'", std::slice::from_ref(&db)));
    assert!(is_peer("pcsa.kind == 'machine'", &[db.clone(), account("lab", "robot", &[("kind", "machine")])]));
    assert!(!is_peer("pcsa.kind == 'machine'", &[db.clone(), account("shop", "robot", &[("kind", "machine")])]));
    assert!(is_peer("projectcalico.org/serviceaccount == 'robot'", std::slice::from_ref(&db)));
    assert!(is_peer("pcns.team == 'red'", &[db, namespace("lab", &[("team", "red")])]));
    let set = || network_set(Some("lab"), "a", "bank", &["203.0.113.0/24"]);
    let of_team = || web(allow(found_by("pcns.team == 'red'"))).plus([set()]);
    assert!(desired(of_team().plus([namespace("lab", &[("team", "blue")])]).0.into_values()).nets.is_empty());
    assert_eq!(desired(of_team().plus([namespace("lab", &[("team", "red")])]).0.into_values()).nets.len(), 1);
}

#[test]
fn what_may_be_a_peer_once_more_is_known_is_kept_apart_from_what_is_one() {
    let found = desired(
        web(allow(found_by("pcns.team == 'red'"))).plus([pod(manifest("lab/db", "db", &["10.0.1.9"]))]).0.into_values(),
    );
    let class = &found.addresses[&address("10.0.1.9")].class;
    assert_eq!((class.selectors.len(), class.unsure.len()), (0, 1));
}

#[test]
fn cnp_12_nodes_that_a_rule_finds_are_networks_of_one_address_and_the_host_has_its_own_entry() {
    let found = desired(
        web(allow(nodes_by("rack == 'a'")))
            .plus([
                node("n1", "a", &["192.0.2.1", "fd00:2::1"]),
                node("n2", "b", &["192.0.2.2"]),
                host(&["192.0.2.1", "192.0.2.9"]),
            ])
            .0
            .into_values(),
    );
    let nets: Vec<String> = found.nets.keys().map(ToString::to_string).collect();
    assert_eq!(nets, ["192.0.2.1/32", "fd00:2::1/128"]);
    let host = |text: &str| &found.addresses[&address(text)];
    assert!(host("192.0.2.1").owner == Owner::Host && host("192.0.2.1").class.nodes.len() == 1);
    assert!(host("192.0.2.9").class.nodes.is_empty());
}

#[test]
fn cal_4_a_namespaces_profile_is_implied_until_an_object_gives_it() {
    let implied = web(allow(found_by("all()")));
    assert_eq!(ingress(&desired(implied.0.clone().into_values())).profiles, Profiles::Implied);
    let other = implied.plus([profile("kns.lab", vec![]), profile("ksa.shop.default", vec![])]);
    assert_eq!(ingress(&desired(other.0.clone().into_values())).profiles, Profiles::Implied);
    let given = desired(other.plus([profile("kns.shop", vec![])]).0.into_values());
    let Profiles::Given(profiles) = &ingress(&given).profiles else { panic!("an object gives it") };
    assert_eq!(
        profiles.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>(),
        ["kns.shop", "ksa.shop.default"]
    );
}

/// What is asked of the pod after its policies, and what is said of it.
fn profiled(profiles_are_told: bool, named: Option<&[&str]>, facts: &[Fact]) -> (Profiles, Vec<String>) {
    let profiles = named.map(|named| named.iter().map(|name| (*name).into()).collect());
    let pod = pod(Pod { profiles, ..manifest("shop/web", "web", &[]) });
    let mut world = State::of([attached("shop/web", &["10.0.0.2"]), pod]).plus(facts.to_vec()).world();
    world.set_profiles_told(profiles_are_told);
    let found = calc::desired(world.in_sync().expect("the scenery is in sync"));
    (ingress(&found).profiles.clone(), world.profile_remarks())
}

/// The same, as the names of the profiles that are asked; a lonely `*`: everything is let through.
fn asked(profiles_are_told: bool, named: Option<&[&str]>, facts: &[Fact]) -> String {
    match profiled(profiles_are_told, named, facts).0 {
        Profiles::Given(given) => given.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>().join(" "),
        Profiles::Implied => "*".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn cal_4_where_profiles_are_told_a_pod_whose_namespaces_is_not_there_gets_and_sends_nothing() {
    let denied = "Pod shop/web: there is no profile kns.shop, and what no policy allows is denied";
    assert_eq!(profiled(true, None, &[]), (Profiles::Given(vec![]), vec![denied.to_owned()]));
    assert_eq!(profiled(true, None, &[namespace("shop", &[])]), (Profiles::Implied, vec![]));
    assert_eq!(asked(true, None, &[profile("kns.shop", vec![])]), "kns.shop");
    assert_eq!(profiled(false, None, &[]), (Profiles::Implied, vec![]), "every namespace has one elsewhere");
    let world = State::of([attached("shop/web", &["10.0.0.2"])]).world();
    let mut told = world.clone();
    told.set_profiles_told(true);
    let of = |world: &World| ingress(&calc::desired(world.in_sync().expect("in sync"))).profiles.clone();
    assert_eq!(
        [of(&world), of(&told)],
        [Profiles::Implied, Profiles::Given(vec![])],
        "nor one without an endpoint yet"
    );
    assert_eq!(told.view().endpoints[0].profiles, Some(vec![]));
}

#[test]
fn cal_4_profiles_that_an_endpoint_names_are_asked_in_their_order_up_to_the_first_that_is_not_there() {
    let known = [namespace("shop", &[]), namespace("lab", &[]), profile("special", vec![]), account("shop", "a", &[])];
    for is_told in [true, false] {
        let asked = |named: &[&str]| asked(is_told, Some(named), &known);
        assert_eq!(asked(&["special", "kns.shop"]), "special kns.shop");
        assert_eq!(asked(&["special", "nobodys", "kns.shop"]), "special", "what comes to it is denied");
        assert_eq!(asked(&["nobodys", "kns.shop"]), "");
        assert_eq!(asked(&["kns.lab", "nobodys"]), "*", "the first lets everything through");
        assert_eq!(asked(&["ksa.shop.a"]), "ksa.shop.a");
        assert_eq!(asked(&[]), "");
    }
    let said = |named: &[&str]| profiled(true, Some(named), &known).1;
    assert_eq!(said(&["special", "kns.shop", "nobodys"]), [""; 0]);
    assert_eq!(
        said(&["special", "nobodys"]),
        ["Pod shop/web: there is no profile nobodys, and what no policy allows is denied"]
    );
    assert_eq!(said(&[]), ["Pod shop/web: it names no profile, and what no policy allows is denied"]);
}

#[test]
fn cal_33_a_pod_has_the_labels_of_the_profiles_that_it_names_and_of_no_other() {
    let is_peer = |named: Option<&[&str]>| {
        let applying = |name: &str, role: &str| {
            let labels = Labels::from([("role", role)]);
            Fact::Object(Resource::Profile(Profile { name: name.into(), labels, ingress: vec![], egress: vec![] }))
        };
        let profiles = named.map(|named| named.iter().map(|name| (*name).into()).collect());
        let db = pod(Pod { profiles, ..manifest("lab/db", "db", &["10.0.1.9"]) });
        let facts = [db, applying("special", "bank"), applying("kns.lab", "shop")];
        let found = desired(web(allow(found_by("role == 'bank'"))).plus(facts).0.into_values());
        found.addresses.get(&address("10.0.1.9")).is_some_and(|spec| !spec.class.selectors.is_empty())
    };
    assert!(!is_peer(None));
    assert!(is_peer(Some(&["special", "kns.lab"])));
    assert!(!is_peer(Some(&["kns.lab", "special"])), "the first that says it");
    assert!(!is_peer(Some(&["kns.lab"])));
}

#[test]
fn cal_30_a_rule_for_one_family_asks_for_all_of_its_network_only_where_the_endpoint_has_both() {
    let rule = || Rule { family: Some(Family::V4), ..allow(found_by("all()")) };
    let both = desired(web(rule()).0.into_values());
    assert_eq!(both.nets.keys().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0/0"]);
    let one = web(rule()).plus([attached("shop/web", &["10.0.0.2"])]);
    assert!(desired(one.0.into_values()).nets.is_empty());
}

#[test]
fn a_policy_that_the_pods_labels_rule_out_is_in_no_rule_set_and_its_peers_are_not_looked_for() {
    let mut policy = global("default", "p", vec![allow(found_by("role == 'bank'"))], vec![]);
    policy.subject = written("app == 'other'");
    let found = desired([
        attached("shop/web", &["10.0.0.2"]),
        enforced(policy),
        network_set(None, "a", "bank", &["203.0.113.0/24"]),
    ]);
    assert!(ingress(&found).tiers.is_empty() && found.nets.is_empty());
}

#[test]
fn cal_1_a_policy_of_no_tier_is_remarked_on_until_there_is_one() {
    let odd = State::of([enforced(global("nowhere", "p", vec![], vec![]))]);
    let remarks = odd.world().remarks();
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].starts_with("GlobalNetworkPolicy p: there is no tier nowhere"), "{remarks:?}");
    let mended = odd.plus([tier("nowhere", 1.0, TierEnd::Deny)]);
    assert!(mended.world().remarks().is_empty());
    assert!(web(allow(found_by("all()"))).world().remarks().is_empty());
}
