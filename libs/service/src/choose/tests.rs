//! kube-proxy's rules, one row each.
//! In: endpoints in short text, seen from node n1 in zone a. Out: who is chosen under the policies Cluster and Local.
//! Invariant: every row says both; numbers are the last byte of addresses.
//! Never: a port or a family; see `serve`.

use super::*;
use crate::listed::listed;
use model::{EndpointSlice, EndpointSliceId, Family, NodeName, Protocol, ServicePort, SliceEndpoint, SlicePort};
use std::collections::BTreeSet;

/// `elsewhere`: nobody, in silence. `nobody`: nobody, with an answer.
const RULES: &str = "
what                                             | endpoints                                              | Cluster | Local

a ready one of any node, or of this one          | 1 ready n1, 2 ready n2                                 | 1 2     | 1
one that is not ready gets nothing               | 1 unready n1, 2 ready n2                               | 2       | elsewhere
even if it already answers                       | 1 starting n1, 2 ready n2                              | 2       | elsewhere
nor if there is no other                         | 1 unready n1, 2 starting n1                            | nobody  | nobody
where nothing is listed nobody is there          |                                                        | nobody  | nobody
here is only what says that it is here           | 1 ready -                                              | 1       | elsewhere
all that are here                                | 1 ready n1, 2 ready n1, 3 ready n2                     | 1 2 3   | 1 2
none is                                          | 1 ready n2, 2 ready n3                                 | 1 2     | elsewhere

one about to go gets nothing new                 | 1 going n1, 2 ready n1                                 | 2       | 2
unless nothing is ready                          | 1 going n1, 2 going n2, 3 unready n1                   | 1 2     | 1
under each policy for itself                     | 1 going n1, 2 ready n2                                 | 2       | 1
one about to go elsewhere is still there         | 1 going n2                                             | 1       | elsewhere
whatever else is there                           | 1 ready n2, 2 unready n1, 3 going n1, 4 going n2       | 1       | 3
one that has ceased to answer is not             | 1 ended n1, 2 ended n2                                 | nobody  | nobody
what is ready counts, about to go or not         | 1 ready-going n1, 2 going n1                           | 1       | 1

hints keep packets in their zone                 | 1 ready n2 zones=a, 2 ready n3 zones=b                 | 1       | elsewhere
one may be for several zones                     | 1 ready n2 zones=b+a, 2 ready n3 zones=b               | 1       | elsewhere
one that is ready without a hint frees all       | 1 ready n2 zones=a, 2 ready n3 zones=b, 3 ready n3     | 1 2 3   | elsewhere
one that is not ready does not                   | 1 ready n2 zones=a, 2 ready n3 zones=b, 3 unready n3   | 1       | elsewhere
none that is ready for this zone frees all       | 1 ready n2 zones=c, 2 ready n3 zones=b                 | 1 2     | elsewhere
one for it that is not ready changes nothing     | 1 unready n2 zones=a, 2 ready n3 zones=b               | 2       | elsewhere
of its own zone only what is ready               | 1 ready n2 zones=a, 2 ready n3 zones=b, 3 unready n2 zones=a | 1       | elsewhere
those about to go are for everybody              | 1 going n2 zones=a, 2 going n3 zones=b                 | 1 2     | elsewhere
Local heeds no hints                             | 1 ready n1 zones=b, 2 ready n2 zones=a                 | 2       | 1
each policy has its own                          | 1 ready n1 zones=a, 2 ready n1 zones=b, 3 ready n2 zones=a | 1 3     | 1 2

hints keep packets on their node                 | 1 ready n1 nodes=n1, 2 ready n2 nodes=n2               | 1       | 1
which may be another than the endpoint's         | 1 ready n1 nodes=n2, 2 ready n2 nodes=n1               | 2       | 1
one that is ready without a hint frees all       | 1 ready n1 nodes=n1, 2 ready n2                        | 1 2     | 1
nodes go before zones                            | 1 ready n1 nodes=n1 zones=b, 2 ready n2 nodes=n2 zones=a | 1     | 1
none for this node leaves it to zones            | 1 ready n2 nodes=n2 zones=b, 2 ready n3 nodes=n3 zones=a | 2     | elsewhere
so does one without a hint at nodes              | 1 ready n1 nodes=n1 zones=b, 2 ready n3 zones=a        | 2       | 1
unless that one has no hint at all               | 1 ready n1 nodes=n1 zones=a, 2 ready n2, 3 ready n2 nodes=n2 zones=a | 1 2 3   | 1
and they leave it to all                         | 1 ready n2 nodes=n2 zones=b, 2 ready n3 nodes=n3 zones=c | 1 2   | elsewhere
";

fn endpoint(text: &str) -> SliceEndpoint {
    let [number, state, rest @ ..] = &text.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{text}") };
    let (ready, serving, terminating) = match *state {
        "ready" => (true, true, false),
        "unready" => (false, false, false),
        "starting" => (false, true, false),
        "going" => (false, true, true),
        "ready-going" => (true, true, true),
        "ended" => (false, false, true),
        other => panic!("{other}"),
    };
    let hinted = |kind: &str| {
        let list = rest.iter().find_map(|word| word.strip_prefix(kind)?.strip_prefix('=')).unwrap_or_default();
        list.split('+').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let hints = Hints { zones: hinted("zones"), nodes: hinted("nodes").into_iter().map(NodeName::from).collect() };
    let node = rest.first().filter(|node| **node != "-" && !node.contains('='));
    SliceEndpoint {
        ready,
        serving,
        terminating,
        node: node.map(|node| NodeName::from(*node)),
        hints: (hints != Hints::default()).then(|| hints.into()),
        ..SliceEndpoint::ready_at([10, 65, 0, number.parse().expect("a number")].into())
    }
}

/// Seen from node n1.
fn chosen(endpoints: &str, zone: Option<&str>, policy: TrafficPolicy) -> String {
    let port = SlicePort { name: "web".into(), protocol: Protocol::TCP, port: 8080 };
    let slice = EndpointSlice {
        id: EndpointSliceId { namespace: "shop".into(), name: "web-1".into() },
        service: None,
        endpoints: endpoints.split(", ").filter(|text| !text.is_empty()).map(endpoint).collect(),
        ports: [port].into(),
        unproxied: false,
    };
    let (node, addresses) = (NodeName::from("n1"), BTreeSet::new());
    let here = Here { node: &node, zone, addresses: &addresses, by_host: None };
    let port = ServicePort { name: "web".into(), protocol: Protocol::TCP, port: 80, node_port: None };
    let listed = listed(&[&slice], &port, Family::V4, &here);
    let all = listed.iter().map(|each| each.backend).collect();
    let Backends { chosen, listed, elsewhere } = choose(policy, &listed, &all, &here);
    assert_eq!(listed.len(), slice.endpoints.len(), "every one is listed");
    match (&chosen[..], elsewhere) {
        ([], true) => "elsewhere".to_owned(),
        ([], false) => "nobody".to_owned(),
        (some, elsewhere) => {
            assert!(!elsewhere, "somebody is chosen");
            let number =
                |backend: &Backend| backend.address.to_string().rsplit('.').next().unwrap_or_default().to_owned();
            some.iter().map(number).collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn backends_are_chosen_by_kube_proxys_rules() {
    let rows: Vec<_> = RULES.lines().filter(|line| !line.is_empty()).skip(1).collect();
    assert_eq!(rows.len(), 33);
    for row in rows {
        let [_, endpoints, cluster, local] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        assert_eq!(chosen(endpoints, Some("a"), TrafficPolicy::Cluster), cluster, "Cluster: {row}");
        assert_eq!(chosen(endpoints, Some("a"), TrafficPolicy::Local), local, "Local: {row}");
    }
}

#[test]
fn a_node_that_does_not_know_its_zone_heeds_no_hint_at_zones() {
    for zone in [None, Some("")] {
        assert_eq!(chosen("1 ready n2 zones=a, 2 ready n3 zones=b", zone, TrafficPolicy::Cluster), "1 2");
    }
    assert_eq!(chosen("1 ready n2 nodes=n1, 2 ready n3 nodes=n3", None, TrafficPolicy::Cluster), "1");
}
