//! Pods that ask for addresses, pools or a MAC by annotations: what they get, which ADD fails, and what is left of it.
//! In: manifests of pods and namespaces as they were read, prepares. Out: replies, what is held.
//! Invariant: an ADD fails rather than leave out what its pod asks for.
//! Never: asks a server; what those say comes the same way.

use super::*;
use crate::observe::Host;
use model::{Family, Labels, Namespace, Pod, PodAsks};
use std::net::IpAddr;

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

fn naming(addresses: &[&str]) -> PodAsks {
    let named = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    PodAsks { named, ..PodAsks::default() }
}

fn wish(container: &str, pod: &str, change: impl FnOnce(&mut Prepare)) -> Operation {
    let Operation::Prepare(mut wish) = prepare(container, pod) else { panic!("a prepare") };
    change(&mut wish);
    Operation::Prepare(wish)
}

fn may_name(container: &str, pod: &str) -> Operation {
    wish(container, pod, |wish| wish.ip_addrs_no_ipam = true)
}

#[test]
fn calc_10_a_pod_that_names_addresses_has_exactly_these_where_the_configuration_allows_it() {
    let mut bench = bench(vec![pod("a", naming(&["192.0.2.7", "2001:db8::7"])), pod("b", naming(&["10.65.9.9"]))]);
    let (code, said) = refusal(bench.ask(prepare("c1", "a")));
    assert!(code == INVALID_CONFIG && said.contains("requested feature is not enabled: ip_addrs_no_ipam"), "{said}");
    let delegated = wish("c1", "a", |wish| (wish.ip_addrs_no_ipam, wish.delegated) = (true, true));
    let (code, said) = refusal(bench.ask(delegated));
    assert!(code == INVALID_CONFIG && said.contains("another IPAM plugin's to give"), "{said}");
    assert_eq!(bench.agent.journal.all().count(), 0);
    for _ in 0..2 {
        match bench.ask(may_name("c1", "a")) {
            Ok(Answer::Prepared(prepared)) => {
                let has: Vec<_> = prepared.addresses.iter().map(ToString::to_string).collect();
                assert_eq!(has, ["192.0.2.7", "2001:db8::7"]);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.ask(commit("c1")), Ok(Answer::Done));
    assert_eq!(bench.held("c1"), 0, "no pool has them");
    assert_eq!(bench.ask(check("c1")), Ok(Answer::Done), "and none is missed");
    // Of a pool's the block says whose it is: nobody gets it besides.
    assert!(matches!(bench.ask(may_name("c2", "b")), Ok(Answer::Prepared(_))));
    assert_eq!(bench.held("c2"), 1);
    let (code, said) = refusal(bench.ask(wish("c3", "x", |wish| wish.ips = vec![[10, 65, 9, 9].into()])));
    assert!(code == TRY_AGAIN && said.contains("10.65.9.9 is taken"), "{said}");
    for container in ["c1", "c2"] {
        assert_eq!(bench.ask(del(container)), Ok(Answer::Done));
        assert_eq!(bench.held(container), 0);
    }
}

#[test]
fn calc_10_an_address_that_somebody_has_is_not_had_by_naming_it() {
    let host: IpAddr = [203, 0, 113, 1].into();
    let told = ["192.0.2.7", "203.0.113.1", "198.51.100.7", "169.254.1.1"];
    let mut named: Vec<_> = ["b", "h", "r", "g"].iter().zip(told).map(|(name, at)| pod(name, naming(&[at]))).collect();
    let remote = Pod::bare(PodId::new("default", "remote"), Some("n2".into()));
    let remote = Pod { addresses: ["198.51.100.7".parse().expect("an address")].into(), ..remote };
    named.extend([pod("a", naming(&["192.0.2.7"])), Update::Set(Resource::Pod(remote.into()))]);
    let mut bench = bench(named);
    bench.agent.take(vec![Event::Host(Host { addresses: [host].into(), ..Host::default() })]);
    assert!(matches!(bench.ask(may_name("c1", "a")), Ok(Answer::Prepared(_))));
    for (name, code, said) in [
        ("b", TRY_AGAIN, "the pod names 192.0.2.7, which pod default/a has"),
        ("h", TRY_AGAIN, "which this node has"),
        ("r", TRY_AGAIN, "which pod default/remote has"),
        ("g", INVALID_CONFIG, "which no pod can have"),
    ] {
        let (refused, text) = refusal(bench.ask(may_name("c2", name)));
        assert!(refused == code && text.contains(said), "{text}");
        assert_eq!(bench.agent.journal.all().count(), 1, "{name} leaves nothing");
    }
    // One that IPAM gave is as well somebody's.
    let given = bench.attached("c3", "ordinary").addresses;
    bench.agent.take(vec![Event::Updates(vec![pod("t", naming(&[&given[0].to_string()]))])]);
    let (code, said) = refusal(bench.ask(may_name("c4", "t")));
    assert!(code == TRY_AGAIN && said.contains("pod default/ordinary has"), "{said}");
}

#[test]
fn calc_7_pools_and_families_of_the_configuration_count_where_nobody_else_says_any() {
    let namespace = |asks| {
        let (name, labels) = ("default".into(), Labels::default());
        Update::Set(Resource::Namespace(Namespace { name, labels, asks: Some(Box::new(asks)) }))
    };
    let mut bench = bench(vec![pod("own", pools(&["p"]))]);
    let conf = |wish: &mut Prepare| wish.pools = [(Family::V4, vec!["other".to_owned()])].into();
    let at = |bench: &mut Bench, container: &str, pod: &str| match bench.ask(wish(container, pod, conf)) {
        Ok(Answer::Prepared(prepared)) => address(&prepared),
        other => panic!("{other:?}"),
    };
    assert!(at(&mut bench, "c1", "plain").starts_with("10.66."), "the configuration's");
    assert!(at(&mut bench, "c2", "own").starts_with("10.65."), "the pod's come first");
    bench.agent.take(vec![Event::Updates(vec![namespace(pools(&["p"]))])]);
    assert!(at(&mut bench, "c3", "of-namespace").starts_with("10.65."), "and the namespace's next");
    let unknown = wish("c4", "plain2", |wish| wish.families = vec![Family::V6]);
    let (code, said) = refusal(bench.ask(unknown));
    assert!(said.contains("IPv6"), "{code} {said}");
    let asks = PodAsks { families: vec![Family::V4], ..PodAsks::default() };
    bench.agent.take(vec![Event::Updates(vec![pod("v4", asks)])]);
    let both = wish("c5", "v4", |wish| wish.families = vec![Family::V6]);
    assert!(matches!(bench.ask(both), Ok(Answer::Prepared(_))), "the pod's families come first");
}

#[test]
fn calc_24_the_nodes_own_networks_are_told_or_it_is_said_who_gives_them() {
    let mut bench = bench(vec![]);
    let asks = |container: &str| {
        wish(container, "a", |wish| (wish.delegated, wish.pod_cidrs) = (true, vec![Family::V4, Family::V6]))
    };
    let status = || Operation::Status { network: "net".into(), delegated: true, pod_cidrs: vec![Family::V4] };
    let (code, said) = refusal(bench.ask(asks("c1")));
    assert!(
        code == TRY_AGAIN
            && said.contains(
                "usePodCidr, and Node n1 has no IPv4 network in spec.podCIDRs: have the cluster give it one ("
            )
            && said.ends_with("or name a subnet"),
        "{said}"
    );
    assert_eq!(refusal(bench.ask(status())).0, NOT_AVAILABLE);
    assert_eq!(bench.agent.journal.all().count(), 0);
    let networks = ["10.244.1.0/24", "fd00:244::/64"].map(|text| text.parse().expect("a network"));
    let node = |networks: &[model::Cidr]| {
        let (addresses, labels) = (vec![], Labels::default());
        let node = model::Node {
            name: "n1".into(),
            addresses,
            labels,
            pod_cidrs: networks.to_vec(),
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        };
        Event::Updates(vec![Update::Set(Resource::Node(node))])
    };
    bench.agent.take(vec![node(&networks[..1])]);
    let (_, said) = refusal(bench.ask(asks("c1")));
    assert!(said.contains("usePodCidrIPv6, and Node n1 has no IPv6 network"), "{said}");
    assert_eq!(bench.ask(status()), Ok(Answer::Done));
    bench.agent.take(vec![node(&networks)]);
    for _ in 0..2 {
        match bench.ask(asks("c1")) {
            Ok(Answer::Prepared(prepared)) => assert_eq!(prepared.pod_cidrs, networks),
            other => panic!("{other:?}"),
        }
    }
}
