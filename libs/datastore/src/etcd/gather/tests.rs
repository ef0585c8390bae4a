//! What comes into force of what etcd says, and when.
//! In: lists and changes. Out: updates, and problems for people.
//! Invariant: nothing goes that is still there, or of which nobody knows.
//! Never: asks an etcd.

use super::{super::watched::Revisions, *};
use crate::standing::Told;
use model::{Resource, ResourceKey};
use std::sync::PoisonError;

const OPEN: &str = r#"{"spec": {"datastoreReady": true}}"#;
const LOCKED: &str = r#"{"spec": {"datastoreReady": false}}"#;

struct Bench {
    gather: Gather,
    told: Told,
    place: tempfile::TempDir,
    /// Of the API server beside it.
    server: Option<&'static str>,
}

impl Bench {
    fn new() -> Self {
        Self::in_place(tempfile::tempdir().expect("a folder"), None)
    }

    /// With an API server beside it.
    fn served() -> Self {
        Self::in_place(tempfile::tempdir().expect("a folder"), Some("https://api:6443"))
    }

    fn in_place(place: tempfile::TempDir, server: Option<&'static str>) -> Self {
        let told = Told::default();
        let mut standing = Standing::new(PathBuf::new(), Told::clone(&told));
        let folder = place.path().join("last-good");
        standing.remember(&folder).expect("a folder");
        let whose = Whose::remembered(&folder).expect("a file, or none");
        let gather = Gather::new(standing, "http://etcd:2379".into(), whose, Services::at(server));
        let mut bench = Self { gather, told, place, server };
        bench.claims(&[]);
        bench
    }

    /// The agent ends, and another one starts.
    fn again(mut self) -> Self {
        while self.gather.keep_one() {}
        Self::in_place(self.place, self.server)
    }

    /// Of Services, and of EndpointSlices.
    fn services(&mut self, said: [Vec<cluster::Said>; 2]) {
        for (kind, all) in said.into_iter().enumerate() {
            all.into_iter().for_each(|said| self.gather.hear_of_services(kind, said));
        }
    }

    /// These Services are all that there are, each with one slice.
    fn serves(&mut self, names: &[&str]) {
        let list = |object: fn(&str) -> serde_json::Value| {
            let each = names.iter().map(|name| cluster::Said::Object(object(name)));
            [cluster::Said::Listing].into_iter().chain(each).chain([cluster::Said::Listed]).collect()
        };
        self.services([list(service), list(slice)]);
    }

    fn say(&mut self, said: Said) {
        self.gather.hear(Part::Resources, said);
    }

    /// The claims that there are, each with its state.
    fn claims(&mut self, claims: &[(&str, &str)]) {
        self.gather.hear(Part::Claims, Said::Listing);
        for (name, state) in claims {
            let (key, value) = (format!("{HOSTS}{name}"), format!(r#"{{"state": "{state}", "deleted": false}}"#));
            let revisions = Revisions { made: 1, at: 1 };
            self.gather.hear(Part::Claims, Said::Is(key, value.into(), revisions));
        }
        self.gather.hear(Part::Claims, Said::Listed);
    }

    fn is(&mut self, name: &str, value: &str) {
        self.is_since(name, value, 1);
    }

    /// A key that was made at this revision.
    fn is_since(&mut self, name: &str, value: &str, made: i64) {
        self.say(Said::Is(format!("{}{name}", layout::RESOURCES), value.into(), Revisions { made, at: made }));
    }

    fn gone(&mut self, name: &str) {
        self.say(Said::Gone(format!("{}{name}", layout::RESOURCES), 0));
    }

    fn list(&mut self, objects: &[(&str, &str)]) {
        self.say(Said::Listing);
        objects.iter().for_each(|(name, value)| self.is(name, value));
        self.say(Said::Listed);
    }

    fn news(&mut self) -> Vec<String> {
        let said = |update| match update {
            Update::Set(resource) => format!("+{}", Resource::key(&resource)),
            Update::Gone(key) => format!("-{}", ResourceKey::to_string(&key)),
            other => format!("{other:?}"),
        };
        self.gather.batch().into_iter().map(said).collect()
    }

    /// The one pod that is new, as `NODE: ADDRESSES`.
    fn pod(&mut self) -> String {
        match &self.gather.batch()[..] {
            [Update::Set(Resource::Pod(pod))] => {
                let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
                format!("{}: {}", pod.node.as_ref().map_or("", |node| &node.0), addresses.join(" "))
            }
            other => format!("{other:?}"),
        }
    }

    fn problems(&self) -> String {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().map(|problem| format!("{problem}\n")).collect()
    }
}

fn service(name: &str) -> serde_json::Value {
    serde_json::json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "x", "name": name },
        "spec": { "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{ "port": 80 }] } })
}

fn slice(service: &str) -> serde_json::Value {
    let labels = serde_json::json!({ "kubernetes.io/service-name": service });
    serde_json::json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "x", "name": format!("{service}-1"), "labels": labels },
        "ports": [{ "port": 80 }], "endpoints": [{ "addresses": ["10.65.0.7"] }] })
}

fn tier(order: u32) -> String {
    format!(
        r#"{{"kind": "Tier", "apiVersion": "projectcalico.org/v3", "metadata": {{"name": "a"}}, "spec": {{"order": {order}}}}}"#
    )
}

#[test]
fn nothing_is_in_force_before_the_list_is_over_and_what_a_later_one_lacks_goes_when_that_is_over() {
    let mut bench = Bench::new();
    bench.say(Said::Listing);
    bench.is(INFORMATION, OPEN);
    bench.is("tiers/a", &tier(1));
    assert_eq!(bench.news(), [""; 0]);
    bench.say(Said::Listed);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
    // The watch was lost, and what it would have said is not kept any more.
    bench.say(Said::Listing);
    bench.is(INFORMATION, OPEN);
    bench.is("tiers/b", &tier(2));
    assert_eq!(bench.news(), [""; 0], "a may still come, and what b was written with");
    bench.say(Said::Listed);
    assert_eq!(bench.news(), ["+Tier b", "-Tier a", "Anew { listed: true }"], "and all was listed anew");
    bench.gone("tiers/b");
    assert_eq!(bench.news(), ["-Tier b"]);
}

#[test]
fn an_etcd_in_which_nothing_is_takes_nothing_away() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", &tier(1))]);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
    bench.list(&[]);
    assert!(bench.gather.is_locked());
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.problems().contains("clusterinformations/default: there is none"), "{}", bench.problems());
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", &tier(1))]);
    assert_eq!(
        (bench.news(), bench.problems()),
        (vec!["Anew { listed: true }".to_owned()], String::new()),
        "listed anew"
    );
    assert_eq!(bench.news(), [""; 0], "once");
    bench.say(Said::Again);
    assert_eq!(bench.news(), ["Anew { listed: false }"], "it was away");
}

#[test]
fn while_calicos_objects_are_locked_nothing_comes_into_force() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, LOCKED), ("tiers/a", &tier(1))]);
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.problems().contains("datastoreReady is not true"), "{}", bench.problems());
    bench.is(INFORMATION, OPEN);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
    bench.is(INFORMATION, LOCKED);
    bench.gone("tiers/a");
    assert_eq!(bench.news(), [""; 0]);
    bench.say(Said::Listing);
    assert_eq!(bench.news(), [""; 0], "a list that begins unlocks nothing");
    bench.is(INFORMATION, OPEN);
    assert_eq!(bench.news(), [""; 0], "nor does its first page");
    assert!(bench.gather.is_locked(), "and nothing is written");
    bench.say(Said::Listed);
    assert_eq!(bench.news(), ["-Tier a", "Anew { listed: true }"]);
}

#[test]
fn an_etcd_that_was_made_anew_takes_nothing_away_though_calico_says_that_it_is_ready() {
    let open = |cluster: &str| format!(r#"{{"spec": {{"datastoreReady": true, "clusterGUID": "{cluster}"}}}}"#);
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, &open("first")), ("tiers/a", &tier(1))]);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
    bench.list(&[(INFORMATION, &open("second"))]);
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.gather.is_locked());
    assert!(bench.problems().contains("another cluster's"), "{}", bench.problems());
    bench.list(&[(INFORMATION, &open("first")), ("tiers/a", &tier(2))]);
    assert_eq!(bench.news(), ["+Tier a", "Anew { listed: true }"], "restored");
    assert_eq!(bench.problems(), "");
    // So it is for an agent that starts, until somebody says that it is meant.
    let mut bench = bench.again();
    bench.list(&[(INFORMATION, &open("second"))]);
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.gather.is_locked());
    assert!(bench.problems().contains("tortie forget-cluster"), "{}", bench.problems());
    let folder = bench.place.path().join("last-good");
    assert!(crate::forget_cluster(&folder).expect("removed") && !crate::forget_cluster(&folder).expect("gone"));
    let mut bench = bench.again();
    bench.list(&[(INFORMATION, &open("second"))]);
    assert_eq!(bench.news(), ["InSync"]);
    let mut bench = bench.again();
    bench.list(&[(INFORMATION, &open("first"))]);
    assert!(bench.news().is_empty() && bench.gather.is_locked(), "it is the second now");
}

#[test]
fn whose_objects_these_are_is_told_where_it_cannot_be_written_down() {
    let mut bench = Bench::new();
    let file = bench.place.path().join("last-good/cluster");
    std::fs::create_dir_all(file.join("in the way")).expect("a folder");
    let open = r#"{"spec": {"datastoreReady": true, "clusterGUID": "first"}}"#;
    bench.list(&[(INFORMATION, open)]);
    assert_eq!(bench.news(), ["InSync"], "what is in force goes on");
    bench.is("tiers/a", &tier(1));
    assert!(bench.problems().contains("clusterGUID cannot be written down"), "{}", bench.problems());
    std::fs::remove_dir_all(&file).expect("removed");
    assert_eq!(bench.news(), ["+Tier a"]);
    bench.is("tiers/a", &tier(2));
    assert_eq!(bench.problems(), "");
}

#[test]
fn what_comes_unreadable_after_a_first_list_keeps_what_was_good_before_the_restart() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", &tier(1))]);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
    let mut bench = bench.again();
    bench.list(&[(INFORMATION, LOCKED)]);
    bench.is("tiers/a", "no JSON");
    bench.is(INFORMATION, OPEN);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
}

#[test]
fn what_cannot_be_read_keeps_its_last_good_revision_over_a_restart_too() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", &tier(1)), ("tiers/b", &tier(2))]);
    assert_eq!(bench.news(), ["+Tier a", "+Tier b", "InSync"]);
    while bench.gather.keep_one() {}
    bench.is("tiers/a", "no JSON");
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.problems().contains("tiers/a: is no JSON"), "{}", bench.problems());
    let mut bench = bench.again();
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", "no JSON")]);
    assert_eq!(bench.news(), ["+Tier a", "InSync"], "b is gone, and a was good when the agent last ran");
}

#[test]
fn trouble_is_told_and_takes_nothing_away() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", &tier(1))]);
    bench.news();
    bench.say(Said::Trouble(Some("it does not answer".into())));
    assert_eq!(bench.problems(), "http://etcd:2379: it does not answer; all stays as it was\n");
    assert_eq!(bench.news(), [""; 0]);
    bench.say(Said::Trouble(None));
    assert_eq!(bench.problems(), "");
}

#[test]
fn keys_of_others_mean_nothing() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("caliconodestatuses/a", "{"), ("tiers", "{"), ("a/b/c/d", "{")]);
    bench.say(Said::Is(
        "/calico/felix/v2/no-region/host/n1/status".into(),
        b"{".to_vec(),
        Revisions { made: 1, at: 1 },
    ));
    assert_eq!((bench.news(), bench.problems()), (vec!["InSync".to_owned()], String::new()));
}

/// The endpoint of the pod `web` in a container on a node.
fn endpoint(node: &str, container: &str, address: &str) -> String {
    format!(
        r#"{{"spec": {{"node": "{node}", "pod": "web", "containerID": "{container}", "ipNetworks": ["{address}/32"]}}}}"#
    )
}

#[test]
fn of_two_endpoints_of_a_pod_the_one_that_was_made_last_counts_and_the_other_is_told() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN)]);
    assert_eq!(bench.news(), ["InSync"]);
    let [first, second] = ["n1", "n2"].map(|node| format!("workloadendpoints/shop/{node}-k8s-web-eth0"));
    bench.is_since(&first, &endpoint("n1", "c1", "10.65.0.1"), 5);
    assert_eq!(bench.pod(), "n1: 10.65.0.1");
    // The first node died, and nobody took its endpoint away.
    bench.is_since(&second, &endpoint("n2", "c2", "10.65.0.2"), 9);
    assert_eq!(bench.pod(), "n2: 10.65.0.2");
    assert!(
        bench.problems().starts_with(&format!("{first}: Pod shop/web: also in {second}, which is newer")),
        "{}",
        bench.problems()
    );
    // Who writes into the first, as those do who keep labels there, does not make it the pod's.
    bench.is_since(&first, &endpoint("n1", "c1", "10.65.0.3"), 5);
    assert_eq!(bench.news(), [""; 0]);
    // And back: it was removed and made anew.
    bench.is_since(&first, &endpoint("n1", "c3", "10.65.0.4"), 12);
    assert_eq!(bench.pod(), "n1: 10.65.0.4");
    bench.gone(&first);
    assert_eq!((bench.pod(), bench.problems()), ("n2: 10.65.0.2".to_owned(), String::new()));
    bench.gone(&second);
    assert_eq!(bench.news(), ["-Pod shop/web"]);
}

#[test]
fn the_endpoints_of_one_container_are_one_pod_with_all_their_addresses() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN)]);
    assert_eq!(bench.news(), ["InSync"]);
    let name = |interface: &str| format!("workloadendpoints/shop/n1-k8s-web-{interface}");
    bench.is_since(&name("eth0"), &endpoint("n1", "c1", "10.65.0.1"), 5);
    assert_eq!(bench.pod(), "n1: 10.65.0.1");
    bench.is_since(&name("net1"), &endpoint("n1", "c1", "10.65.0.2"), 6);
    assert_eq!((bench.pod(), bench.problems()), ("n1: 10.65.0.1 10.65.0.2".to_owned(), String::new()));
    bench.is_since(&name("eth0"), &endpoint("n1", "c1", "10.65.0.3"), 5);
    assert_eq!(bench.pod(), "n1: 10.65.0.3 10.65.0.2");
    // Of another container is another pod of that name.
    bench.is_since(&name("net1"), &endpoint("n1", "c2", "10.65.0.9"), 7);
    assert_eq!(bench.pod(), "n1: 10.65.0.9");
    bench.gone(&name("net1"));
    assert_eq!(bench.pod(), "n1: 10.65.0.3");
}

#[test]
fn a_profile_that_cannot_be_read_opens_nothing_and_closes_nothing() {
    let profile = |rule: &str| {
        format!(r#"{{"spec": {{"ingress": {rule}, "egress": {rule}, "labelsToApply": {{"pcns.team": "a"}}}}}}"#)
    };
    let (good, bad) = (profile(r#"[{"action": "Allow"}]"#), profile("7"));
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("profiles/kns.shop", &bad)]);
    assert_eq!(
        bench.news(),
        ["InSync"],
        "there is no such namespace as long as nobody knows what its profile lets through"
    );
    bench.is("profiles/kns.shop", &good);
    assert_eq!(bench.news(), ["+Namespace shop"]);
    bench.is("profiles/kns.shop", &bad);
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.problems().contains("profiles/kns.shop"), "{}", bench.problems());
    bench.gone("profiles/kns.shop");
    assert_eq!(bench.news(), ["-Namespace shop"]);
}

#[test]
fn claims_on_blocks_are_heard_beside_resources_and_a_list_of_either_takes_nothing_of_the_other() {
    let mut bench = Bench::new();
    bench.list(&[(INFORMATION, OPEN), ("tiers/a", &tier(1))]);
    assert_eq!(bench.news(), ["+Tier a", "InSync"]);
    bench.claims(&[("n1/ipv4/block/10.65.0.0-26", "confirmed"), ("n2/ipv4/block/10.65.0.64-26", "pending")]);
    assert_eq!(bench.news(), ["+BlockAffinity n1-10-65-0-0-26"], "who is not sure has none");
    bench.list(&[(INFORMATION, OPEN)]);
    assert_eq!(bench.news(), ["-Tier a", "Anew { listed: true }"], "claims are no resources");
    bench.gather.hear(Part::Claims, Said::Listing);
    assert_eq!(bench.news(), [""; 0], "it may still come");
    bench.gather.hear(Part::Claims, Said::Listed);
    assert_eq!(bench.news(), ["-BlockAffinity n1-10-65-0-0-26"]);
}

#[test]
fn services_are_heard_of_an_api_server_beside_it_and_all_comes_into_force_together() {
    let mut bench = Bench::served();
    bench.list(&[("clusterinformations/default", OPEN), ("tiers/a", &tier(1))]);
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.gather.awaits_services());
    bench.serves(&["web"]);
    assert!(!bench.gather.awaits_services());
    assert_eq!(bench.news(), ["+Tier a", "+Service x/web", "+EndpointSlice x/web-1", "InSync"]);
    // What lies in etcd is not taken for what the API server says.
    bench.is("kubernetes/services/x/web", "{}");
    bench.gone("kubernetes/services/x/web");
    bench.list(&[("clusterinformations/default", OPEN)]);
    assert_eq!(bench.news(), ["-Tier a", "Anew { listed: true }"], "its list has no say in services");
    bench.services([vec![cluster::Said::Trouble("connection refused".into())], vec![]]);
    assert_eq!(bench.news(), [""; 0]);
    assert!(bench.problems().contains("https://api:6443: connection refused; services stay as they were"));
    bench.serves(&[]);
    assert_eq!(bench.news(), ["-Service x/web", "-EndpointSlice x/web-1"]);
    assert_eq!(bench.problems(), "");
}

#[test]
fn policies_do_not_wait_for_services_for_ever_and_no_service_goes_before_a_whole_list_lacks_it() {
    let mut bench = Bench::served();
    bench.list(&[("clusterinformations/default", OPEN)]);
    bench.serves(&["web", "gone", "db"]);
    assert_eq!(bench.news().len(), 7);
    let mut bench = bench.again();
    bench.list(&[("clusterinformations/default", OPEN), ("tiers/a", &tier(1))]);
    // Half a list has come when nobody waits any longer.
    let web = cluster::Said::Object(service("web"));
    bench.services([vec![cluster::Said::Listing, web], vec![cluster::Said::Trouble("forbidden".into())]]);
    assert_eq!(bench.news(), [""; 0]);
    bench.gather.leave_services();
    let all = ["db", "gone", "web"];
    let mut expected = vec!["+Tier a".to_owned()];
    expected.extend(all.iter().map(|name| format!("+Service x/{name}")));
    expected.extend(all.iter().map(|name| format!("+EndpointSlice x/{name}-1")));
    expected.push("InSync".to_owned());
    assert_eq!(bench.news(), expected);
    assert!(bench.problems().contains("forbidden; until it has said them all"), "{}", bench.problems());
    // Still nobody has said what there is; and that outlives one more start.
    let mut bench = bench.again();
    bench.list(&[("clusterinformations/default", OPEN), ("tiers/a", &tier(1))]);
    bench.services([vec![cluster::Said::Listing, cluster::Said::Object(service("web"))], vec![]]);
    bench.gather.leave_services();
    assert_eq!(bench.news().len(), 8);
    bench.services([vec![cluster::Said::Object(service("db")), cluster::Said::Listed], vec![]]);
    assert_eq!(bench.news(), ["-Service x/gone"], "the list is over");
    bench.serves(&["web", "db"]);
    assert_eq!(bench.news(), ["-EndpointSlice x/gone-1"]);
    assert_eq!(bench.problems(), "");
}

#[test]
fn what_a_service_was_given_outlives_a_start_without_an_api_server() {
    let mut given = service("web");
    given["metadata"]["managedFields"] = serde_json::json!([{ "manager": "tortie",
        "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } } }]);
    given["status"] = serde_json::json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] } });
    let mut bench = Bench::served();
    bench.list(&[("clusterinformations/default", OPEN)]);
    let list = vec![cluster::Said::Listing, cluster::Said::Object(given), cluster::Said::Listed];
    bench.services([list, vec![cluster::Said::Listing, cluster::Said::Listed]]);
    let all = ["+Service x/web", "+ServiceAddresses x/web", "InSync"];
    assert_eq!(bench.news(), all);
    let mut bench = bench.again();
    bench.list(&[("clusterinformations/default", OPEN)]);
    bench.gather.leave_services();
    assert_eq!(bench.news(), all);
}
