//! How manifests, attachments and other nodes' words become endpoints, addresses and networks.
//! In: small worlds. Out: the part of Desired that the test's name speaks of.
//! Invariant: every rule of precedence has a test in which both claims are made.
//! Never: looks into rows; the compiler has its own tests.

use crate::scenery::{
    Fact, HERE, State, THERE, address, allow, allow_named_port, app, attached, attachment, attachment_id, empty_world,
    enforced, host, manifest, namespace, net, nets, pod, pod_id, pods_in, pods_of, policy, port, published,
};
use calc::{Desired, Live, Owner, World};
use model::{Attachment, Order, Pod, Policy, Resource, Selector, Update};
use std::sync::Arc;

fn desired(facts: impl IntoIterator<Item = Fact>) -> Desired {
    let world = State::of(facts).world();
    calc::desired(world.in_sync().expect("the scenery is in sync"))
}

/// A local pod `shop/web` with a manifest, and a policy that lets pods with `app=db` of its namespace in.
fn policed() -> State {
    State::of([
        attached("shop/web", &["10.0.0.2"]),
        pod(manifest("shop/web", "web", &[])),
        enforced(policy("shop/p", app("web"), vec![allow(pods_in("shop", app("db")))], vec![])),
    ])
}

/// Whether the one active selector matches the pod that has this address.
fn is_peer(desired: &Desired, text: &str) -> bool {
    desired.addresses.get(&address(text)).is_some_and(|spec| !spec.class.selectors.is_empty())
}

fn policies_of(desired: &Desired, pod: &str) -> Vec<String> {
    let endpoint = desired.endpoints.get(&attachment_id(pod)).expect("the pod is attached");
    endpoint.ingress.policies().map(|policy| policy.id.to_string()).collect()
}

#[test]
fn nothing_is_desired_before_the_first_full_list() {
    let mut world = World::new(HERE.into(), false);
    world.attach(attachment("shop/web", &["10.0.0.2"]));
    assert!(world.in_sync().is_none());
    world.apply(Update::InSync);
    assert!(world.in_sync().is_some());
}

#[test]
fn an_attachment_is_an_endpoint_only_once_it_is_committed() {
    let prepared = Attachment { committed: false, ..attachment("shop/web", &["10.0.0.2"]) };
    let found = desired([Fact::Attached(prepared), pod(manifest("shop/web", "web", &[]))]);
    assert_eq!(found, Desired::default());
}

#[test]
fn a_pod_that_no_manifest_describes_has_the_labels_of_its_attachment_and_a_manifest_overrules_them() {
    let policy = enforced(policy("shop/p", app("args"), vec![], vec![]));
    assert_eq!(policies_of(&desired([attached("shop/web", &["10.0.0.2"]), policy.clone()]), "shop/web").len(), 1);
    let described = [attached("shop/web", &["10.0.0.2"]), policy, pod(manifest("shop/web", "web", &[]))];
    assert_eq!(policies_of(&desired(described), "shop/web").len(), 0);
}

#[test]
fn what_the_add_said_holds_until_the_datastore_says_something_of_the_same_container() {
    let said_of = |container: &str| {
        let ports = [port("http", 8080)].into();
        pod(Pod { container: Some(container.into()), ports, ..manifest("shop/web", "web", &["10.0.9.9"]) })
    };
    let web = || attached("shop/web", &["10.0.0.2"]);
    let policy = enforced(policy("shop/p", app("args"), vec![], vec![]));
    let policies = |said| policies_of(&desired([web(), policy.clone(), said]), "shop/web").len();
    assert_eq!(policies(said_of("of-an-earlier-pod")), 1, "its labels, ports and account are not this pod's");
    assert_eq!(policies(said_of("shop-web")), 0, "they are of the same attachment, and newer");
    let view = |facts: Vec<Fact>| State::of(facts).world().view().endpoints.remove(0);
    let stale = view(vec![web(), said_of("of-an-earlier-pod")]);
    assert_eq!((stale.ports, stale.service_account), (None, None), "nobody has said yet");
    assert_eq!(view(vec![said_of("elsewhere")]).addresses, [address("10.0.9.9")], "what is not attached here counts");
    let prepared = Fact::Attached(Attachment { committed: false, ..attachment("shop/web", &["10.0.0.2"]) });
    assert_eq!(view(vec![prepared, said_of("elsewhere")]).addresses, [address("10.0.9.9")]);
}

#[test]
fn a_local_endpoint_has_an_exact_address_even_where_no_rule_asks_for_it() {
    let found = desired([attached("shop/web", &["10.0.0.2", "fd00::2"])]);
    let owner = Owner::Endpoint(attachment_id("shop/web"));
    assert!(found.addresses.len() == 2 && found.addresses.values().all(|spec| spec.owner == owner));
    assert_eq!(found.endpoints[&attachment_id("shop/web")].addresses, [address("10.0.0.2"), address("fd00::2")]);
}

#[test]
fn attached_addresses_overrule_the_manifest_and_so_does_what_the_other_node_published() {
    let stale = policed().plus([pod(manifest("shop/db", "db", &["10.0.1.1"]))]);
    assert!(is_peer(&desired(stale.0.clone().into_values()), "10.0.1.1"));
    let spoken = stale.plus([published("shop/db", THERE, "x", &["10.0.1.2"])]);
    let found = desired(spoken.0.into_values());
    assert!(is_peer(&found, "10.0.1.2") && !is_peer(&found, "10.0.1.1"));
    let local = stale.plus([attached("shop/db", &["10.0.0.3"])]);
    let found = desired(local.0.into_values());
    assert!(is_peer(&found, "10.0.0.3") && !is_peer(&found, "10.0.1.1"));
}

#[test]
fn what_this_node_published_itself_is_nothing_without_the_attachment() {
    let found = desired(policed().plus([published("shop/db", HERE, "db", &["10.0.0.9"])]).0.into_values());
    assert!(!is_peer(&found, "10.0.0.9"));
    let found = desired(policed().plus([published("shop/db", THERE, "db", &["10.0.0.9"])]).0.into_values());
    assert!(is_peer(&found, "10.0.0.9"));
}

#[test]
fn np_55_np_60_host_network_and_finished_pods_are_neither_subject_nor_peer() {
    let on_host = Pod { host_network: true, ..manifest("shop/db", "db", &["10.0.1.1"]) };
    assert!(!is_peer(&desired(policed().plus([pod(on_host)]).0.into_values()), "10.0.1.1"));
    let done = Pod { finished: true, ..manifest("shop/db", "db", &["10.0.1.1"]) };
    assert!(!is_peer(&desired(policed().plus([pod(done)]).0.into_values()), "10.0.1.1"));
    let done = Pod { finished: true, ..manifest("shop/web", "web", &[]) };
    assert!(desired(policed().plus([pod(done)]).0.into_values()).endpoints.is_empty());
}

#[test]
fn a_pod_with_an_interface_of_its_own_is_policed_whatever_its_manifest_says_of_the_hosts_network() {
    let odd = Pod { host_network: true, ..manifest("shop/web", "web", &[]) };
    assert_eq!(policies_of(&desired(policed().plus([pod(odd)]).0.into_values()), "shop/web").len(), 1);
}

#[test]
fn np_22_np_58_a_new_label_makes_a_pod_a_peer() {
    let before = policed().plus([pod(manifest("shop/db", "other", &["10.0.1.1"]))]);
    assert!(!is_peer(&desired(before.0.clone().into_values()), "10.0.1.1"));
    let after = before.plus([pod(manifest("shop/db", "db", &["10.0.1.1"]))]);
    assert!(is_peer(&desired(after.0.into_values()), "10.0.1.1"));
}

#[test]
fn np_21_a_new_namespace_label_makes_its_pods_peers_and_an_undescribed_namespace_has_only_its_name() {
    let by = |key: &str, value: &str| {
        let peer = pods_of(Selector::Equals(key.into(), value.into()), Selector::All);
        State::of([
            attached("shop/web", &["10.0.0.2"]),
            enforced(policy("shop/p", Selector::All, vec![allow(peer)], vec![])),
            pod(manifest("lab/a", "a", &["10.0.1.1"])),
        ])
    };
    let unlabelled = by("team", "a");
    assert!(!is_peer(&desired(unlabelled.0.clone().into_values()), "10.0.1.1"));
    let labelled = unlabelled.plus([namespace("lab", &[("team", "a")])]);
    assert!(is_peer(&desired(labelled.0.into_values()), "10.0.1.1"));
    assert!(is_peer(&desired(by("kubernetes.io/metadata.name", "lab").0.into_values()), "10.0.1.1"));
}

#[test]
fn an_address_claimed_twice_goes_to_the_host_then_to_the_local_endpoint_then_to_the_smaller_pod() {
    let claimed = policed().plus([
        host(&["192.0.2.1"]),
        pod(manifest("shop/a", "db", &["10.0.0.2", "192.0.2.1", "10.0.1.1"])),
        pod(manifest("shop/b", "other", &["10.0.1.1"])),
    ]);
    let found = desired(claimed.0.clone().into_values());
    assert_eq!(found.addresses[&address("192.0.2.1")].owner, Owner::Host);
    assert_eq!(found.addresses[&address("10.0.0.2")].owner, Owner::Endpoint(attachment_id("shop/web")));
    assert!(!is_peer(&found, "10.0.0.2") && !is_peer(&found, "192.0.2.1"), "a thief's labels give nothing away");
    assert!(is_peer(&found, "10.0.1.1"));
    assert_eq!(claimed.world().pod_at(address("10.0.1.1")), Some(pod_id("shop/a")));
}

/// A local pod's addresses that lead to it.
fn led_to(desired: &Desired, pod: &str) -> Vec<String> {
    let endpoint = desired.endpoints.get(&attachment_id(pod));
    endpoint.into_iter().flat_map(|endpoint| endpoint.addresses.iter().map(ToString::to_string)).collect()
}

#[test]
fn ipam_25_of_two_local_endpoints_with_one_address_one_has_it_until_it_goes_and_a_local_one_beats_a_remote() {
    let shared = address("10.0.0.2");
    let (web, api) = (attachment("shop/web", &["10.0.0.2", "fd00::2"]), attachment("shop/api", &["10.0.0.2"]));
    let remote = manifest("shop/a", "db", &["10.0.0.2"]);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut live = Live::new(HERE.into(), false);
        live.apply(Update::InSync);
        for at in order {
            match at {
                0 => live.attach(web.clone()),
                1 => live.attach(api.clone()),
                _ => drop(live.apply(Update::Set(Resource::Pod(remote.clone().into())))),
            }
            live.desired().expect("in sync");
        }
        let found = live.desired().expect("in sync");
        assert_eq!(led_to(found, "shop/api"), ["10.0.0.2"], "{order:?}");
        assert_eq!(led_to(found, "shop/web"), ["fd00::2"], "{order:?}");
        assert_eq!(found.addresses[&shared].owner, Owner::Endpoint(api.id.clone()), "{order:?}");
        live.detach(&api.id);
        let found = live.desired().expect("in sync");
        assert_eq!(led_to(found, "shop/web"), ["10.0.0.2", "fd00::2"], "{order:?}");
        live.detach(&web.id);
        let found = live.desired().expect("in sync");
        let owner = found.addresses.get(&shared).map(|spec| &spec.owner);
        assert!(!matches!(owner, Some(Owner::Endpoint(_))), "{order:?}: {owner:?}");
    }
}

#[test]
fn policies_stand_by_order_then_name_and_equal_rule_sets_are_one() {
    let named = |id, order| enforced(Policy { order, ..policy(id, Selector::All, vec![], vec![]) });
    let facts = [
        attached("shop/web", &["10.0.0.2"]),
        attached("shop/api", &["10.0.0.3"]),
        named("shop/b", Order::At(1000.0)),
        named("shop/a", Order::Unset),
        named("shop/c", Order::At(5.0)),
    ];
    let found = desired(facts);
    assert_eq!(
        policies_of(&found, "shop/web"),
        ["NetworkPolicy shop/c", "NetworkPolicy shop/b", "NetworkPolicy shop/a"]
    );
    let [web, api] = ["shop/web", "shop/api"].map(|pod| &found.endpoints[&attachment_id(pod)]);
    assert!(Arc::ptr_eq(&web.ingress, &api.ingress) && Arc::ptr_eq(&web.egress, &api.egress));
}

#[test]
fn np_3_a_policy_of_another_namespace_selects_nobody_here() {
    let found =
        desired([attached("shop/web", &["10.0.0.2"]), enforced(policy("lab/p", Selector::All, vec![], vec![]))]);
    assert_eq!(policies_of(&found, "shop/web"), [""; 0]);
}

#[test]
fn np_66_each_network_has_the_class_of_all_networks_over_it_and_exceptions_are_networks_too() {
    let rule = allow(nets(&["10.0.0.0/8", "0.0.0.0/0"], &["10.0.1.0/24"]));
    let found = desired([
        attached("shop/web", &["10.0.0.2"]),
        enforced(policy("shop/p", Selector::All, vec![rule], vec![])),
        pod(manifest("shop/far", "x", &["10.0.1.1"])),
        host(&["10.0.1.7"]),
    ]);
    assert_eq!(found.nets.len(), 3);
    let over: Vec<String> = found.nets[&net("10.0.1.0/24")].nets.iter().map(ToString::to_string).collect();
    assert_eq!(over, ["0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24"]);
    assert_eq!(
        found.addresses[&address("10.0.0.2")].class.nets.len(),
        2,
        "an exact entry includes the networks over it"
    );
    assert_eq!(found.addresses[&address("10.0.1.7")].class.nets.len(), 3, "the host's too");
    assert!(!found.addresses.contains_key(&address("10.0.1.1")), "its network answers for it");
}

#[test]
fn np_19_a_pods_port_names_are_in_its_class_only_where_an_egress_rule_asks_for_them() {
    let server =
        Pod { ports: [port("http", 8080), port("other", 1)].into(), ..manifest("shop/db", "db", &["10.0.1.1"]) };
    let asking = |name| {
        desired([
            attached("shop/web", &["10.0.0.2"]),
            pod(server.clone()),
            enforced(policy("shop/p", Selector::All, vec![], vec![allow_named_port(name)])),
        ])
    };
    let ports = asking("http").addresses[&address("10.0.1.1")].class.ports.clone();
    assert_eq!(ports, [port("http", 8080)].into());
    assert!(!asking("none").addresses.contains_key(&address("10.0.1.1")));
}

#[test]
fn np_71_a_policy_without_a_pod_here_activates_nothing() {
    let rules = vec![allow(nets(&["10.0.0.0/8"], &[])), allow(pods_in("shop", Selector::All))];
    let found = desired([
        enforced(policy("shop/p", Selector::All, rules, vec![])),
        pod(manifest("shop/db", "db", &["10.0.1.1"])),
    ]);
    assert_eq!(found, Desired::default());
}

#[test]
fn the_evaluators_view_holds_the_same_pods_addresses_and_labels() {
    let view = policed()
        .plus([host(&["192.0.2.1"]), pod(manifest("shop/thief", "db", &["10.0.0.2", "192.0.2.1"]))])
        .world()
        .view();
    let said: Vec<String> = view.endpoints.iter().map(|pod| format!("{} {:?}", pod.id, pod.addresses)).collect();
    assert_eq!(said, ["shop/thief []", "shop/web [10.0.0.2]"]);
    assert!(view.namespaces.is_empty(), "nobody described a namespace: {:?}", view.namespaces);
    assert_eq!((view.policies.len(), view.host), (1, vec![net("192.0.2.1/32")]));
}

#[test]
fn a_pods_addresses_are_found_by_its_name() {
    let world = policed().plus([pod(Pod { host_network: true, ..manifest("shop/h", "h", &["192.0.2.1"]) })]).world();
    assert_eq!(world.addresses_of(&pod_id("shop/web")), Some(vec![address("10.0.0.2")]));
    assert_eq!(world.addresses_of(&pod_id("shop/h")), Some(vec![address("192.0.2.1")]));
    assert_eq!(world.addresses_of(&pod_id("shop/nobody")), None);
}

#[test]
fn what_this_node_told_the_others_is_no_news_to_itself() {
    let mut world = empty_world();
    assert!(!published("shop/web", HERE, "web", &["10.0.0.2"]).tell(&mut world));
    assert!(published("shop/web", THERE, "web", &["10.0.0.2"]).tell(&mut world), "the pod has moved");
    assert!(!published("shop/web", THERE, "web", &["10.0.0.2"]).tell(&mut world), "told twice");
    assert!(published("shop/web", HERE, "web", &["10.0.0.2"]).tell(&mut world), "and has come back");
    assert!(!published("shop/web", HERE, "web", &["10.0.0.2"]).take_back(&mut world));
}
