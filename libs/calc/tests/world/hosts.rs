//! Which host endpoint governs which interface, and what is asked there.
//! In: small worlds with interfaces, host endpoints and policies. Out: host endpoints and node of Desired.
//! Invariant: each row of the precedence has a test.
//! Never: looks into rows.

use crate::scenery::{
    Fact, State, THERE, allow, attached, attachment_id, enforced, found_by, global, host_endpoint, hosted, interfaces,
    namespace, net, profile, written,
};
use calc::{Desired, HostEndpointSpec};
use model::{
    Created, DenyAction, EndpointToHost, EntityMatch, Failsafe, FelixConfiguration, HostEndpoint, Layer, Node, Policy,
    PolicyTypes, Protocol, Resource, Selector, Tier, TierEnd, TierName,
};
use policy::{Profiles, RuleSet, SetAction};

const TWO: &[(&str, &[&str])] = &[("eth0", &["192.0.2.1", "2001:db8::1"]), ("eth1", &["198.51.100.1"])];

fn desired(facts: impl IntoIterator<Item = Fact>) -> Desired {
    let world = State::of(facts).plus([interfaces(TWO)]).world();
    calc::desired(world.in_sync().expect("the scenery is in sync"))
}

/// `interface: host endpoint` for each that is governed.
fn governed(hosts: impl IntoIterator<Item = HostEndpoint>) -> String {
    let found = desired(hosts.into_iter().map(hosted));
    let said = found.host_endpoints.iter().map(|(interface, spec)| format!("{interface}: {}", spec.name));
    said.collect::<Vec<_>>().join(", ")
}

/// What is asked at `eth0`, governed by `eth0`, where these policies are there.
fn eth0(policies: impl IntoIterator<Item = Policy>) -> HostEndpointSpec {
    let facts = policies.into_iter().map(enforced).chain([hosted(host_endpoint("eth0", Some("eth0"), &[], "edge"))]);
    desired(facts).host_endpoints.into_values().next().expect("eth0 is governed")
}

fn for_hosts(name: &str, layer: Layer) -> Policy {
    let all = allow(EntityMatch::default());
    Policy { subject: Selector::All.into(), layer, ..global("default", name, vec![all.clone()], vec![all]) }
}

fn names(set: &RuleSet) -> String {
    set.policies().map(|policy| &*policy.id.name).collect::<Vec<_>>().join(" ")
}

#[test]
fn hep_11_one_that_means_an_interface_governs_it_and_one_for_all_governs_the_rest() {
    let any = || host_endpoint("a", Some("*"), &[], "edge");
    let eth0 = || host_endpoint("m", Some("eth0"), &[], "edge");
    let by_address = |name: &str, address| host_endpoint(name, None, &[address], "edge");
    assert_eq!(governed([]), "");
    assert_eq!(governed([eth0()]), "eth0: m");
    assert_eq!(governed([any()]), "eth0: a, eth1: a");
    assert_eq!(governed([any(), eth0()]), "eth0: m, eth1: a");
    assert_eq!(governed([any(), by_address("z", "2001:db8::1")]), "eth0: z, eth1: a");
    assert_eq!(governed([eth0(), by_address("n", "192.0.2.1"), by_address("x", "198.51.100.1")]), "eth0: m, eth1: x");
    assert_eq!(governed([eth0(), by_address("b", "192.0.2.1")]), "eth0: b", "of two the smaller name");
    assert_eq!(governed([any(), host_endpoint("0", Some("*"), &[], "edge")]), "eth0: 0, eth1: 0");
}

#[test]
fn hep_11_a_name_that_is_not_there_is_not_made_up_for_by_an_address_and_other_nodes_govern_nothing() {
    let elsewhere = HostEndpoint { node: THERE.into(), ..host_endpoint("a", Some("*"), &[], "edge") };
    assert_eq!(governed([host_endpoint("a", Some("eth9"), &["192.0.2.1"], "edge"), elsewhere]), "");
}

#[test]
fn hep_4_hep_5_hep_8_hep_9_each_policy_stands_in_the_layers_that_it_is_for() {
    let forward = Layer::Ordinary { on_forward: true };
    let spec = eth0([
        for_hosts("plain", Layer::Ordinary { on_forward: false }),
        for_hosts("forward", forward),
        for_hosts("raw", Layer::Untracked),
        for_hosts("early", Layer::PreDnat),
        Policy { subject: written("role == 'other'"), ..for_hosts("others", forward) },
    ]);
    for (judges, expected) in [
        (&spec.untracked, "raw"),
        (&spec.pre_dnat, "early"),
        (&spec.forward, "forward"),
        (&spec.local, "forward plain"),
    ] {
        assert_eq!(names(judges.ingress.as_ref().unwrap()), expected);
        let egress = judges.egress.as_ref().map(|set| names(set)).unwrap_or_default();
        assert_eq!(egress, if expected == "early" { "" } else { expected });
    }
    let ends = |set: &Option<std::sync::Arc<RuleSet>>| set.as_ref().map(|set| (set.tiers[0].end, set.profiles.clone()));
    assert_eq!(ends(&spec.untracked.ingress), Some((TierEnd::Pass, Profiles::Unasked)));
    assert_eq!(ends(&spec.pre_dnat.ingress), Some((TierEnd::Pass, Profiles::Unasked)));
    assert_eq!(ends(&spec.forward.ingress), Some((TierEnd::Deny, Profiles::Open)));
    assert_eq!(ends(&spec.local.ingress), Some((TierEnd::Deny, Profiles::Given(vec![]))));
}

#[test]
fn hep_1_without_a_policy_only_the_nodes_own_flows_are_asked_about() {
    let spec = eth0([]);
    assert_eq!(spec.untracked.sets().chain(spec.pre_dnat.sets()).chain(spec.forward.sets()).count(), 0);
    assert_eq!(
        spec.local.sets().filter(|set| set.tiers.is_empty() && set.profiles == Profiles::Given(vec![])).count(),
        2
    );
}

#[test]
fn hep_5_a_direction_of_which_no_policy_speaks_is_open_on_the_way_through() {
    let types = PolicyTypes { ingress: true, egress: false };
    let spec = eth0([Policy { types, ..for_hosts("in", Layer::Ordinary { on_forward: true }) }]);
    assert!(spec.forward.ingress.is_some() && spec.forward.egress.is_none());
}

#[test]
fn hep_8_an_untracked_layer_that_speaks_of_one_direction_lets_nothing_pass_in_the_other() {
    let types = PolicyTypes { ingress: true, egress: false };
    let spec = eth0([Policy { types, ..for_hosts("in", Layer::Untracked) }]);
    assert_eq!(spec.untracked.egress.unwrap().profiles, Profiles::Unasked);
}

#[test]
fn hep_7_failsafe_ports_stand_before_policies_but_not_on_the_way_through() {
    let layers = [Layer::Untracked, Layer::PreDnat, Layer::Ordinary { on_forward: true }];
    let spec = eth0(layers.into_iter().zip(["a", "b", "c"]).map(|(layer, name)| for_hosts(name, layer)));
    let failsafes = |set: &Option<std::sync::Arc<RuleSet>>| set.as_ref().unwrap().failsafes.len();
    assert_eq!((failsafes(&spec.local.ingress), failsafes(&spec.local.egress)), (9, 9));
    assert!(failsafes(&spec.untracked.ingress) >= 9 && failsafes(&spec.pre_dnat.ingress) == 9);
    assert_eq!((failsafes(&spec.forward.ingress), failsafes(&spec.forward.egress)), (0, 0));
}

fn felix(name: &str, change: impl FnOnce(&mut FelixConfiguration)) -> Fact {
    let mut felix = FelixConfiguration { name: name.into(), ..FelixConfiguration::default() };
    change(&mut felix);
    Fact::Object(Resource::FelixConfiguration(felix))
}

#[test]
fn hep_7_e2h_1_the_nodes_own_configuration_goes_before_the_default_one_choice_by_choice() {
    let ssh = Failsafe { protocol: Protocol::TCP, port: 22, net: Some(net("10.0.0.0/8")) };
    let found = desired([
        felix("default", |felix| {
            felix.deny_action = Some(DenyAction::Reject);
            felix.endpoint_to_host = Some(EndpointToHost::Drop);
            felix.failsafe_inbound = Some(vec![]);
        }),
        felix("node.n1", |felix| {
            felix.endpoint_to_host = Some(EndpointToHost::Return);
            felix.failsafe_inbound = Some(vec![ssh]);
        }),
        felix("node.n2", |felix| felix.deny_action = Some(DenyAction::Drop)),
        hosted(host_endpoint("eth0", Some("eth0"), &[], "edge")),
    ]);
    assert!(found.node.rejects && !found.node.refuses_workloads);
    let local = &found.host_endpoints.values().next().unwrap().local;
    let [failsafe] = &local.ingress.as_ref().unwrap().failsafes[..] else { panic!("one is left") };
    assert_eq!(failsafe.peer.nets, Some(vec![net("10.0.0.0/8")]));
    assert!(found.nets.contains_key(&net("10.0.0.0/8")), "what a failsafe asks is asked");
    assert_eq!(local.egress.as_ref().unwrap().failsafes.len(), 9);
    assert!(
        desired([felix("default", |felix| felix.endpoint_to_host = Some(EndpointToHost::Drop))]).node.refuses_workloads
    );
}

#[test]
fn a_configuration_that_selects_the_node_goes_before_the_default_and_after_the_nodes_own_and_of_two_the_older() {
    let of_rack = |name: &str, selector: &str, created: &str, action| {
        felix(name, |felix| {
            felix.selector = Some(selector.parse().expect("a selector"));
            felix.created = Created::read(created);
            felix.deny_action = Some(action);
        })
    };
    let node = |rack: &str| {
        let labels = [("rack".to_owned(), rack.to_owned())].into();
        Fact::Object(Resource::Node(Node {
            name: "n1".into(),
            addresses: vec![],
            labels,
            pod_cidrs: vec![],
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        }))
    };
    let default = || felix("default", |felix| felix.deny_action = Some(DenyAction::Drop));
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let rejects = |facts: Vec<Fact>| desired(facts).node.rejects;
    let a = || of_rack("a", "rack == 'a'", new, DenyAction::Reject);
    assert!(rejects(vec![default(), a(), node("a")]));
    assert!(!rejects(vec![default(), a(), node("b")]), "another rack");
    assert!(!rejects(vec![default(), a()]), "nothing is known of the node");
    let own = || felix("node.n1", |felix| felix.deny_action = Some(DenyAction::Drop));
    assert!(!rejects(vec![default(), a(), own(), node("a")]));
    assert!(!rejects(vec![a(), of_rack("b", "has(rack)", old, DenyAction::Drop), node("a")]), "the older counts");
}

#[test]
fn hep_13_profiles_stand_in_the_order_of_the_list_up_to_the_first_that_is_not_there() {
    let profiles = |names: &[&str]| {
        let profiles = names.iter().map(|name| (*name).to_owned()).collect();
        let host = HostEndpoint { profiles, ..host_endpoint("eth0", Some("eth0"), &[], "edge") };
        let found = desired([hosted(host), profile("own", vec![]), namespace("shop", &[])]);
        let spec = found.host_endpoints.into_values().next().unwrap();
        let Profiles::Given(given) = &spec.local.ingress.unwrap().profiles else {
            panic!("a host endpoint has its own")
        };
        let said = given.iter().map(|profile| match &profile.rules[..] {
            [rule] if rule.action == SetAction::Allow => format!("{} allows", profile.name),
            _ => profile.name.clone(),
        });
        said.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(profiles(&["projectcalico-default-allow"]), "projectcalico-default-allow allows");
    assert_eq!(profiles(&["own", "kns.shop", "own"]), "own, kns.shop allows, own");
    assert_eq!(profiles(&["own", "nobodys", "projectcalico-default-allow"]), "own");
    assert_eq!(profiles(&["kns.nowhere"]), "");
}

#[test]
fn hep_5_hep_6_pods_flows_meet_what_the_host_endpoint_of_all_interfaces_asks_on_forward() {
    let policies = [for_hosts("forward", Layer::Ordinary { on_forward: true }), for_hosts("raw", Layer::Untracked)];
    let policies = policies.map(enforced);
    let named = host_endpoint("eth0", Some("eth0"), &[], "edge");
    let found = desired(policies.clone().into_iter().chain([hosted(named)]));
    assert_eq!(found.node.forward.sets().count(), 0);
    let found = desired(policies.into_iter().chain([hosted(host_endpoint("all", Some("*"), &[], "edge"))]));
    assert_eq!(names(found.node.forward.ingress.as_ref().unwrap()), "forward");
    let spec = found.host_endpoints.into_values().next().unwrap();
    assert_eq!(spec.untracked.sets().count(), 0, "as in Calico, not for all interfaces at once");
}

#[test]
fn e2h_6_what_pods_send_meets_what_the_host_endpoint_of_all_interfaces_asks_before_translation() {
    let early = || enforced(for_hosts("early", Layer::PreDnat));
    let named = host_endpoint("eth0", Some("eth0"), &[], "edge");
    assert_eq!(desired([early(), hosted(named)]).node.sets().count(), 0, "a named one is of its interface alone");
    let found = desired([early(), hosted(host_endpoint("all", Some("*"), &[], "edge"))]).node;
    assert_eq!(names(found.pre_dnat.ingress.as_ref().unwrap()), "early");
    assert_eq!(
        (found.pre_dnat.egress, found.forward.sets().count()),
        (None, 0),
        "of what comes in, and of nothing else"
    );
}

#[test]
fn cal_38_policies_of_kubernetes_find_no_host_endpoint_and_pods_none_of_the_other_layers() {
    let of_pods = crate::scenery::policy("shop/p", Selector::All, vec![], vec![]);
    assert_eq!(names(eth0([of_pods]).local.ingress.as_ref().unwrap()), "");
    let layers = [Layer::Untracked, Layer::PreDnat, Layer::Ordinary { on_forward: true }];
    let policies = layers.into_iter().zip(["a", "b", "c"]).map(|(layer, name)| enforced(for_hosts(name, layer)));
    let found = desired(policies.chain([attached("shop/web", &["10.0.0.2"])]));
    assert_eq!(names(&found.endpoints[&attachment_id("shop/web")].ingress), "c");
}

#[test]
fn what_a_host_endpoint_asks_of_both_ends_is_asked() {
    let source = found_by("app == 'web'");
    let destination = EntityMatch { nets: Some([net("203.0.113.0/24")].into()), ..EntityMatch::default() };
    let rule = model::Rule { destination, ..allow(source) };
    let policy = Policy { subject: Selector::All.into(), ..global("default", "p", vec![rule], vec![]) };
    let found = desired([
        enforced(policy),
        hosted(host_endpoint("eth0", Some("eth0"), &[], "edge")),
        crate::scenery::pod(crate::scenery::manifest("shop/web", "web", &["10.0.1.9"])),
    ]);
    assert!(found.nets.contains_key(&net("203.0.113.0/24")), "what is asked of the own end");
    assert!(found.addresses.contains_key(&crate::scenery::address("10.0.1.9")), "what is asked of the peer");
}

#[test]
fn a_tier_that_passes_reaches_the_next_one_at_a_host_endpoint_too() {
    let made = Tier { name: "first".into(), order: model::Order::At(1.0), end: TierEnd::Pass };
    let first = Policy { tier: TierName("first".into()), ..for_hosts("one", Layer::Ordinary { on_forward: false }) };
    let facts = [first, for_hosts("two", Layer::Ordinary { on_forward: false })].map(enforced);
    let host = hosted(host_endpoint("eth0", Some("eth0"), &[], "edge"));
    let found = desired(facts.into_iter().chain([host, Fact::Object(Resource::Tier(made))]));
    let spec = found.host_endpoints.into_values().next().unwrap();
    assert_eq!(names(&spec.local.ingress.unwrap()), "one two");
}

/// What is said of these host endpoints.
fn remarks(facts: impl IntoIterator<Item = Fact>) -> Vec<String> {
    State::of(facts).plus([interfaces(TWO)]).world().host_remarks()
}

#[test]
fn hep_11_a_host_endpoint_that_guards_nothing_is_spoken_of() {
    let guards = [host_endpoint("a", Some("eth0"), &[], "edge"), host_endpoint("b", None, &["198.51.100.1"], "edge")];
    assert_eq!(remarks(guards.clone().map(hosted)), [""; 0]);
    let idle = [
        host_endpoint("m", Some("eth0"), &[], "edge"),
        host_endpoint("n", Some("eth9"), &[], "edge"),
        host_endpoint("o", None, &["203.0.113.1"], "edge"),
        host_endpoint("p", Some("*"), &[], "edge"),
    ];
    let expected = [
        "HostEndpoint m: another one, whose name comes first, guards eth0",
        "HostEndpoint n: this node has no interface eth9; it guards nothing",
        "HostEndpoint o: no interface of this node has an address that it expects; it guards nothing",
        "HostEndpoint p: others guard all interfaces of this node",
    ];
    assert_eq!(remarks(guards.into_iter().chain(idle).map(hosted)), expected);
}

#[test]
fn hep_8_what_is_not_asked_at_all_interfaces_is_spoken_of_and_so_is_a_profile_that_is_not_there() {
    let profiles = vec!["nobodys".to_owned()];
    let host = HostEndpoint { profiles, ..host_endpoint("all", Some("*"), &[], "edge") };
    let policies = [for_hosts("early", Layer::PreDnat), for_hosts("raw", Layer::Untracked)].map(enforced);
    let expected = [
        "HostEndpoint all: there is no profile nobodys, and what comes to it is denied",
        "HostEndpoint all: GlobalNetworkPolicy raw is not asked, as doNotTrack policies are at named interfaces alone",
    ];
    assert_eq!(remarks(policies.into_iter().chain([hosted(host)])), expected);
}
