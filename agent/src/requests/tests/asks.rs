//! Pods that ask for addresses, pools or a MAC by annotations: what they get, which ADD fails, and what is left of it.
//! In: manifests of pods and namespaces as they were read, prepares. Out: replies, what is held.
//! Invariant: an ADD fails rather than leave out what its pod asks for.
//! Never: asks a server; what those say comes the same way.

use super::*;
use model::{Family, Labels, Namespace, Pod, PodAsks};

fn pod(name: &str, asks: PodAsks) -> Update {
    let bare = Pod::bare(PodId::new("default", name), Some("n1".into()));
    Update::Set(Resource::Pod(Pod { asks: Some(Box::new(asks)), ..bare }.into()))
}

fn pools(names: &[&str]) -> PodAsks {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    PodAsks { pools: [(Family::V4, names)].into(), ..PodAsks::default() }
}

fn at(address: &str) -> PodAsks {
    PodAsks { addresses: vec![address.parse().expect("an address")], ..PodAsks::default() }
}

/// On a node that knows these, and a second pool.
fn bench(told: Vec<Update>) -> Bench {
    let mut bench = Bench::new();
    let other = IpPool::of_pods("other", "10.66.0.0/16".parse().expect("a network"), 26);
    let mut all = vec![Update::Set(Resource::IpPool(other))];
    all.extend(told);
    bench.agent.take(vec![Event::Updates(all)]);
    bench
}

fn refusal(reply: Reply) -> (u32, String) {
    match reply {
        Err(Fault { code, message, .. }) => (code, message),
        other => panic!("{other:?}"),
    }
}

fn address(prepared: &Prepared) -> String {
    prepared.addresses[0].to_string()
}

#[test]
fn calc_9_a_pod_gets_the_address_that_it_names_once() {
    let mut bench = bench(vec![pod("a", at("10.65.3.7")), pod("b", at("10.65.3.7")), pod("c", at("192.0.2.1"))]);
    assert_eq!(address(&bench.prepared("c1", "a")), "10.65.3.7");
    assert_eq!(address(&bench.prepared("c1", "a")), "10.65.3.7", "asked again");
    let (code, said) = refusal(bench.ask(prepare("c2", "b")));
    assert!(code == TRY_AGAIN && said.contains("10.65.3.7 is taken"), "{said}");
    let (code, said) = refusal(bench.ask(prepare("c3", "c")));
    assert!(code == INVALID_CONFIG && said.contains("192.0.2.1 was asked for and lies in no enabled IPPool"), "{said}");
    assert_eq!((bench.held("c2"), bench.held("c3")), (0, 0));
}

#[test]
fn calc_7_a_pods_pools_come_before_its_namespaces_and_those_before_all() {
    let namespace =
        Namespace { name: "default".into(), labels: Labels::default(), asks: Some(Box::new(pools(&["other"]))) };
    let mut bench =
        bench(vec![Update::Set(Resource::Namespace(namespace)), pod("a", pools(&["p"])), pod("x", pools(&["none"]))]);
    assert!(address(&bench.prepared("c1", "a")).starts_with("10.65."));
    assert!(address(&bench.prepared("c2", "b")).starts_with("10.66."));
    let (code, said) = refusal(bench.ask(prepare("c3", "x")));
    assert!(code == INVALID_CONFIG && said.contains("IPPool none was asked for, and there is none"), "{said}");
    bench.agent.take(vec![Event::Updates(vec![Update::Gone(ResourceKey::Namespace("default".into()))])]);
    assert!(address(&bench.prepared("c4", "d")).starts_with("10.66."), "of the pools by name the first is asked first");
}

#[test]
fn calc_11_a_pod_has_the_mac_that_it_names_unless_the_runtime_names_another() {
    let mac = |last| Mac([0x0a, 0x58, 0x0a, 0, 0, last]);
    let asks = PodAsks { mac: Some(mac(1)), ..PodAsks::default() };
    let mut bench = bench(vec![pod("a", asks.clone()), pod("b", asks)]);
    assert_eq!(bench.prepared("c1", "a").mac, Some(mac(1)));
    let Operation::Prepare(wish) = prepare("c2", "b") else { panic!("a prepare") };
    match bench.ask(Operation::Prepare(Prepare { mac: Some(mac(2)), ..wish })) {
        Ok(Answer::Prepared(prepared)) => assert_eq!(prepared.mac, Some(mac(2))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calc_10_what_cannot_be_read_or_served_refuses_the_add_by_its_name_and_leaves_nothing() {
    let refused =
        PodAsks { refused: Some("the annotation x/ipAddrs: \"a\" is no JSON list".into()), ..at("10.65.3.7") };
    let mut bench = bench(vec![pod("a", refused), pod("b", at("10.65.3.7"))]);
    let (code, said) = refusal(bench.ask(prepare("c1", "a")));
    assert_eq!((code, &*said), (INVALID_CONFIG, "pod default/a: the annotation x/ipAddrs: \"a\" is no JSON list"));
    assert_eq!((bench.agent.journal.all().count(), bench.held("c1")), (0, 0));
    let Operation::Prepare(wish) = prepare("c2", "b") else { panic!("a prepare") };
    let (code, said) = refusal(bench.ask(Operation::Prepare(Prepare { delegated: true, ..wish })));
    assert!(code == INVALID_CONFIG && said.contains("another IPAM plugin's to give"), "{said}");
}

#[test]
fn of_a_pod_that_is_another_by_the_same_name_nothing_counts_that_was_heard() {
    let bare = Pod::bare(PodId::new("default", "a"), Some("n1".into()));
    let heard = |pod: Pod| bench(vec![Update::Set(Resource::Pod(pod.into()))]).agent;
    let is_heard = |pod: Pod| super::super::prepare::is_heard(&heard(pod), &PodId::new("default", "a"));
    assert!(is_heard(bare.clone()));
    assert!(!is_heard(Pod { addresses: [[10, 65, 0, 1].into()].into(), ..bare.clone() }), "the former had them");
    assert!(!is_heard(Pod { finished: true, ..bare.clone() }));
    assert!(!is_heard(Pod { node: Some("n2".into()), ..bare }));
}
