//! What stands where.
//! In: keys and values as Calico writes them. Out: objects.
//! Invariant: the key says what it is.
//! Never: asks an etcd.

use super::*;
use crate::catalog::Catalog;
use model::{Resource, Update};
use std::path::Path;

/// What a key and its value come to.
fn said(name: &str, value: &Value) -> Vec<Resource> {
    let mut catalog = Catalog::default();
    catalog.take_in(Path::new(name), reading(name, value.to_string().as_bytes()).expect("it means something"));
    assert_eq!(catalog.problems(), []);
    let resource = |update| match update {
        Update::Set(resource) => Some(resource),
        _ => None,
    };
    catalog.changes().into_iter().filter_map(resource).collect()
}

fn keys(name: &str, value: &Value) -> Vec<String> {
    said(name, value).iter().map(|resource| resource.key().to_string()).collect()
}

#[test]
fn an_object_is_what_its_key_says() {
    let policy = json!({ "metadata": { "name": "other", "namespace": "elsewhere" }, "spec": { "selector": "all()" } });
    assert_eq!(keys("networkpolicies/shop/web", &policy), ["NetworkPolicy.projectcalico.org shop/web"]);
    assert_eq!(keys("globalnetworkpolicies/web", &policy), ["GlobalNetworkPolicy web"]);
    assert_eq!(keys("nodes/n1", &json!({ "spec": {} })), ["Node n1"]);
    let peer = json!({ "spec": { "peerIP": "192.0.2.9", "asNumber": 65000 } });
    assert_eq!(keys("bgppeers/tor", &peer), ["BGPPeer tor"]);
    assert!(reading("caliconodestatuses/n1", b"{}").is_none());
}

#[test]
fn a_profile_of_calicos_controllers_is_the_namespace_or_account_for_which_they_made_it() {
    let allow = json!([{ "action": "Allow", "source": {}, "destination": {} }]);
    let namespace = json!({ "metadata": { "name": "kns.shop" }, "spec": {
        "ingress": allow, "egress": allow, "labelsToApply": { "pcns.team": "a", "pcns.projectcalico.org/name": "shop" } } });
    let [Resource::Namespace(found)] = &said("profiles/kns.shop", &namespace)[..] else { panic!("a namespace alone") };
    assert_eq!(found.labels.get("team"), Some("a"));
    assert_eq!(found.labels.get("projectcalico.org/name"), None, "it is given to every namespace");
    let account = json!({ "spec": { "labelsToApply": { "pcsa.role": "clerk" } } });
    let [Resource::ServiceAccount(found)] = &said("profiles/ksa.shop.clerk.a", &account)[..] else {
        panic!("an account")
    };
    assert_eq!(
        (found.name.as_str(), &*found.namespace.0, found.labels.get("role")),
        ("clerk.a", "shop", Some("clerk"))
    );
}

#[test]
fn a_profile_that_says_more_is_one_too() {
    let allow = json!([{ "action": "Allow" }]);
    for spec in [
        json!({ "ingress": [{ "action": "Deny" }], "egress": allow }),
        json!({ "ingress": [{ "action": "Allow", "protocol": "TCP" }], "egress": allow }),
        json!({ "egress": allow }),
        json!({ "ingress": allow, "egress": allow, "labelsToApply": { "other": "a" } }),
        json!({ "ingress": [{ "action": "Log" }, { "action": "Allow" }], "egress": allow }),
    ] {
        assert_eq!(
            keys("profiles/kns.shop", &json!({ "spec": spec })),
            ["Namespace shop", "Profile kns.shop"],
            "{spec}"
        );
    }
    assert_eq!(keys("profiles/special", &json!({ "spec": { "ingress": allow } })), ["Profile special"]);
}

#[test]
fn an_endpoint_with_a_name_that_is_too_long_is_still_its_pod() {
    let endpoint = json!({ "spec": { "node": "n1", "pod": "web", "ipNetworks": ["10.65.0.2/32"] } });
    let name = format!("workloadendpoints/shop/n1-k8s-{}-eth0", "a".repeat(260));
    assert_eq!(keys(&name, &endpoint), ["Pod shop/web"]);
}

#[test]
fn calicos_objects_may_be_used_only_where_it_says_so() {
    let said =
        |ready: Value| information(json!({ "spec": { "datastoreReady": ready } }).to_string().as_bytes()).is_ready;
    assert_eq!(
        [said(json!(true)), said(json!(false)), said(json!(null)), information(b"no JSON").is_ready],
        [true, false, false, false]
    );
}
