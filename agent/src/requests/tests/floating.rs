//! Pods that ask for floating addresses: which ADD fails, and what is left of it.
//! In: manifests with the annotation read or not, prepares that allow it or not. Out: replies, what is held.
//! Invariant: as Calico's plugin, an ADD fails rather than leave out what its pod asks for.
//! Never: a pod that is refused because another has the address.

use super::*;
use model::{Created, FelixConfiguration, FloatingIps, Pod};

fn told(addresses: &[&str], unread: Option<&str>) -> Update {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let floating = FloatingIps { addresses, unread: unread.map(str::to_owned), created: Created::UNKNOWN };
    let bare = Pod::bare(PodId::new("default", "a"), Some("n1".into()));
    let pod = Pod { floating: Some(Box::new(floating)), ..bare };
    Update::Set(Resource::Pod(pod.into()))
}

fn allowed(container: &str, pod: &str) -> Operation {
    let Operation::Prepare(wish) = prepare(container, pod) else { panic!("a prepare") };
    Operation::Prepare(Prepare { floating_ips: true, ..wish })
}

fn bench(pod: Update) -> Bench {
    let mut bench = Bench::new();
    let name = FelixConfiguration::DEFAULT.into();
    let felix = FelixConfiguration { name, floating_ips: Some(true), ..FelixConfiguration::default() };
    bench.agent.take(vec![Event::Updates(vec![pod, Update::Set(Resource::FelixConfiguration(felix))])]);
    bench
}

fn refusal(reply: Reply) -> String {
    match reply {
        Err(Fault { code: INVALID_CONFIG, message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn spf_4_an_add_fails_where_the_network_does_not_have_floating_addresses() {
    let mut bench = bench(told(&["192.0.2.7"], None));
    let said = refusal(bench.ask(prepare("c1", "a")));
    assert!(said.starts_with("requested feature is not enabled: floating_ips; pod default/a has"), "{said}");
    assert_eq!((bench.agent.journal.all().count(), bench.held("c1")), (0, 0), "nothing is half made");
    bench.attached("c2", "b");
    assert!(matches!(bench.ask(allowed("c1", "a")), Ok(Answer::Prepared(_))));
    assert_eq!(bench.ask(commit("c1")), Ok(Answer::Done));
    let floating = |bench: &mut Bench| {
        let desired = bench.agent.world.desired().expect("in sync");
        desired.endpoints.values().flat_map(|endpoint| endpoint.floating.clone()).collect::<Vec<_>>()
    };
    assert_eq!(floating(&mut bench), ["192.0.2.7".parse::<IpAddr>().expect("one")]);
    assert!(bench.agent.problems().is_empty(), "{:?}", bench.agent.problems());
    // Who has it keeps it, and the pod runs on without.
    bench.agent.world.set_host_addresses(["192.0.2.7".parse().expect("one")].into());
    assert!(floating(&mut bench).is_empty());
    assert!(bench.agent.problems()[0].contains("192.0.2.7 does not float to it: it is this node's own"));
}

#[test]
fn spf_4_a_pod_that_was_attached_without_them_gets_none_by_an_annotation_that_comes_later() {
    let bare = Pod::bare(PodId::new("default", "a"), Some("n1".into()));
    let mut bench = bench(Update::Set(Resource::Pod(bare.into())));
    bench.attached("c1", "a");
    bench.agent.take(vec![Event::Updates(vec![told(&["192.0.2.7"], None)])]);
    let desired = bench.agent.world.desired().expect("in sync");
    assert!(desired.endpoints.values().all(|endpoint| endpoint.floating.is_empty()));
    assert!(bench.agent.problems()[0].contains("feature_control"), "{:?}", bench.agent.problems());
    // Nor by an ADD of another configuration: what is recorded of it says so after a restart, too.
    let said = refusal(bench.ask(allowed("c1", "a")));
    assert!(said.contains("is attached already, and otherwise; DEL comes first"), "{said}");
}

#[test]
fn spf_4_an_add_fails_where_the_annotation_cannot_be_read_or_is_of_another_family() {
    let mut bench = bench(told(&[], Some("\"x\" is no JSON list")));
    let said = refusal(bench.ask(allowed("c1", "a")));
    assert!(said.contains("cni.projectcalico.org/floatingIPs of pod default/a: \"x\" is no JSON list"), "{said}");
    let mut bench = self::bench(told(&["192.0.2.7", "2001:db8::7"], None));
    let said = refusal(bench.ask(allowed("c1", "a")));
    assert!(said.contains("2001:db8::7 cannot float to it, for it has no IPv6 address"), "{said}");
    assert_eq!((bench.agent.journal.all().count(), bench.held("c1")), (0, 0), "its address is free again");
    // The same of addresses that another plugin gives.
    let Operation::Prepare(wish) = allowed("c2", "a") else { panic!("a prepare") };
    let wish = Operation::Prepare(Prepare { delegated: true, ..wish });
    assert!(matches!(bench.ask(wish), Ok(Answer::Prepared(_))));
    let addresses = vec!["10.66.0.2".parse().expect("an address")];
    let wired = Operation::Commit { id: id("c2"), mac: Mac([2, 0, 0, 0, 0, 1]), addresses };
    assert!(refusal(bench.ask(wired)).contains("it has no IPv6 address"));
    assert!(bench.agent.kernel.endpoints.is_empty());
}
