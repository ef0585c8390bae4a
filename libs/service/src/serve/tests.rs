//! Services as people write them, and what becomes of them: one line a frontend.
//! In: a service and its slices, seen from node n1. Out: `frontend kind: inside / outside`, and what else holds there.
//! Invariant: every line of a service is compared.
//! Never: which endpoints are chosen; see `choose`.

use super::*;
use model::{EndpointSliceId, NamespaceName, NodeName, Protocol, ServiceId, ServicePort, SliceEndpoint, SlicePort};

fn address(text: &str) -> IpAddr {
    text.parse().expect("the test's address is one")
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().copied().map(address).collect()
}

fn port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port }
}

/// A ClusterIP service with port web.
fn service(cluster_ips: &[&str]) -> Service {
    Service {
        cluster_ips: addresses(cluster_ips),
        ports: [port("web", Protocol::TCP, 80, None)].into(),
        ..Service::bare(
            ServiceId { namespace: NamespaceName::from("shop"), name: "web".into() },
            ServiceKind::ClusterIp,
        )
    }
}

/// Endpoints, each `address` or `address@node`.
fn slice(endpoints: &[&str], ports: &[(&str, Protocol, u16)]) -> EndpointSlice {
    let endpoint = |text: &&str| {
        let (address_of, node) = text.split_once('@').map_or((*text, None), |(at, node)| (at, Some(node.into())));
        SliceEndpoint { node, ..SliceEndpoint::ready_at(address(address_of)) }
    };
    let port = |(name, protocol, port): &(&str, Protocol, u16)| SlicePort {
        name: (*name).into(),
        protocol: *protocol,
        port: *port,
    };
    EndpointSlice {
        id: EndpointSliceId { namespace: NamespaceName::from("shop"), name: "web-1".into() },
        service: None,
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: ports.iter().map(port).collect(),
        unproxied: false,
    }
}

fn served(service: &Service, slices: &[EndpointSlice]) -> Served {
    let node_addresses = addresses(&["192.168.7.1", "192.168.8.1", "fd07::1"]).into_iter().collect();
    let node = NodeName::from("n1");
    let slices: Vec<_> = slices.iter().collect();
    serve(service, &slices, &Here { node: &node, zone: None, addresses: &node_addresses, by_host: None })
}

fn backends(backends: &Backends) -> String {
    match (&backends.chosen[..], backends.elsewhere) {
        ([], true) => "elsewhere".to_owned(),
        ([], false) => "nobody".to_owned(),
        (some, _) => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

fn lines(served: &Served) -> Vec<String> {
    let line = |(frontend, balance): &(Frontend, Balance)| {
        let outside = balance.outside.as_ref().map_or("-".to_owned(), |outside| backends(outside));
        let sources = balance.sources.iter().flat_map(|list| list.iter()).map(|net| format!(" from {net}"));
        let keeps = if balance.keeps_source { " kept" } else { "" };
        let sticky = balance.affinity_s.map_or(String::new(), |seconds| format!(" sticky {seconds}"));
        let further: String = sources.collect::<String>() + keeps + &sticky;
        format!("{frontend} {}: {} / {outside}{further}", balance.kind, backends(&balance.inside))
    };
    served.frontends.iter().map(line).collect()
}

const WEB: (&str, Protocol, u16) = ("web", Protocol::TCP, 8080);

#[test]
fn a_cluster_ip_is_asked_from_inside_alone() {
    let slices = [slice(&["10.65.0.2", "10.65.0.3"], &[WEB])];
    let served = served(&service(&["10.96.0.7"]), &slices);
    assert_eq!(lines(&served), ["10.96.0.7:80/TCP ClusterIP: 10.65.0.2:8080 10.65.0.3:8080 / -"]);
    assert_eq!(served.frontends[0].1.of.to_string(), "shop/web:web");
}

#[test]
fn every_address_of_a_service_is_a_frontend_and_node_ports_are_at_the_nodes_own() {
    let service = Service {
        kind: ServiceKind::LoadBalancer,
        external_ips: addresses(&["203.0.113.9"]),
        load_balancer: addresses(&["192.0.2.1", "2001:db8::1"]),
        source_ranges: vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")],
        ports: [port("web", Protocol::TCP, 80, Some(30080))].into(),
        affinity_s: Some(60),
        ..service(&["10.96.0.7", "fd96::7"])
    };
    let slices = [slice(&["10.65.0.2"], &[WEB]), slice(&["fd65::2"], &[("web", Protocol::TCP, 9090)])];
    assert_eq!(
        lines(&served(&service, &slices)),
        [
            "10.96.0.7:80/TCP ClusterIP: 10.65.0.2:8080 / - sticky 60",
            "203.0.113.9:80/TCP ExternalIP: 10.65.0.2:8080 / 10.65.0.2:8080 sticky 60",
            "192.0.2.1:80/TCP LoadBalancer: 10.65.0.2:8080 / 10.65.0.2:8080 from 10.0.0.0/8 sticky 60",
            "192.168.7.1:30080/TCP NodePort: 10.65.0.2:8080 / 10.65.0.2:8080 sticky 60",
            "192.168.8.1:30080/TCP NodePort: 10.65.0.2:8080 / 10.65.0.2:8080 sticky 60",
            "[fd96::7]:80/TCP ClusterIP: [fd65::2]:9090 / - sticky 60",
            "[2001:db8::1]:80/TCP LoadBalancer: [fd65::2]:9090 / [fd65::2]:9090 from fd00::/8 sticky 60",
            "[fd07::1]:30080/TCP NodePort: [fd65::2]:9090 / [fd65::2]:9090 sticky 60",
        ]
    );
}

/// pkg/proxy/iptables, "pod traffic for external destinations": as if it went out and came back to another node.
#[test]
fn pods_get_every_backend_at_an_address_for_clients_outside_whatever_the_policies_say() {
    let slices = [slice(&["10.65.0.2@n1", "10.65.1.2@n2"], &[WEB])];
    let both = "10.65.0.2:8080 10.65.1.2:8080";
    for (internal, external, cluster_ip, outside) in [
        (TrafficPolicy::Cluster, TrafficPolicy::Cluster, both, both.to_owned()),
        (TrafficPolicy::Cluster, TrafficPolicy::Local, both, "10.65.0.2:8080 kept".to_owned()),
        (TrafficPolicy::Local, TrafficPolicy::Cluster, "10.65.0.2:8080", both.to_owned()),
        (TrafficPolicy::Local, TrafficPolicy::Local, "10.65.0.2:8080", "10.65.0.2:8080 kept".to_owned()),
    ] {
        let external_ips = addresses(&["203.0.113.9"]);
        let service = Service { internal, external, external_ips, ..service(&["10.96.0.7"]) };
        assert_eq!(
            lines(&served(&service, &slices)),
            [
                format!("10.96.0.7:80/TCP ClusterIP: {cluster_ip} / -"),
                format!("203.0.113.9:80/TCP ExternalIP: {both} / {outside}"),
            ]
        );
    }
    let away = [slice(&["10.65.1.2@n2"], &[WEB])];
    let local = Service { internal: TrafficPolicy::Local, ..service(&["10.96.0.7"]) };
    assert_eq!(lines(&served(&local, &away)), ["10.96.0.7:80/TCP ClusterIP: elsewhere / -"]);
}

#[test]
fn backends_are_found_by_a_ports_name_and_protocol_each_once() {
    let named =
        |name: &str, protocol| Service { ports: [port(name, protocol, 53, None)].into(), ..service(&["10.96.0.7"]) };
    let slices = [
        slice(&["10.65.0.2", "10.65.0.2", "10.65.0.9"], &[("dns", Protocol::UDP, 5353), ("", Protocol::TCP, 80)]),
        slice(&["10.65.0.2", "10.65.0.1"], &[("dns", Protocol::UDP, 5353), ("dns", Protocol::TCP, 5354)]),
        slice(&["fd65::2"], &[("dns", Protocol::UDP, 5353)]),
    ];
    for (name, protocol, found) in [
        ("dns", Protocol::UDP, "10.65.0.1:5353 10.65.0.2:5353 10.65.0.9:5353"),
        ("dns", Protocol::TCP, "10.65.0.1:5354 10.65.0.2:5354"),
        ("", Protocol::TCP, "10.65.0.2:80 10.65.0.9:80"),
        ("", Protocol::UDP, "nobody"),
        ("web", Protocol::UDP, "nobody"),
    ] {
        let lines = lines(&served(&named(name, protocol), &slices));
        assert_eq!(lines, [format!("10.96.0.7:53/{protocol} ClusterIP: {found} / -")], "{name}");
    }
}

#[test]
fn of_two_that_speak_of_one_endpoint_the_one_that_says_it_is_here_counts_then_the_one_that_says_it_is_ready() {
    let of = |text: &str, ready| {
        let mut slice = slice(&[text], &[WEB]);
        slice.endpoints[0].ready = ready;
        slice
    };
    let chosen = |slices: &[EndpointSlice]| {
        let local = Service { internal: TrafficPolicy::Local, ..service(&["10.96.0.7"]) };
        backends(&served(&local, slices).frontends[0].1.inside)
    };
    let pairs = [
        ([of("10.65.0.2@n2", true), of("10.65.0.2@n1", true)], "10.65.0.2:8080"),
        ([of("10.65.0.2@n2", true), of("10.65.0.2@n1", false)], "nobody"),
        ([of("10.65.0.2@n1", true), of("10.65.0.2@n1", false)], "10.65.0.2:8080"),
    ];
    for ([one, other], expected) in pairs {
        assert_eq!(chosen(&[one.clone(), other.clone()]), expected);
        assert_eq!(chosen(&[other, one]), expected, "in the other order");
    }
}

#[test]
fn what_is_headless_another_name_or_another_proxys_is_left_alone() {
    let slices = [slice(&["10.65.0.2"], &[WEB])];
    for service in [
        Service { kind: ServiceKind::Headless, ..service(&[]) },
        Service { kind: ServiceKind::ExternalName, ..service(&[]) },
        Service { unproxied: true, ..service(&["10.96.0.7"]) },
    ] {
        assert_eq!(served(&service, &slices), Served::default(), "{service:?}");
    }
    let other = EndpointSlice { unproxied: true, ..slice(&["10.65.0.9"], &[WEB]) };
    let lines = lines(&served(&service(&["10.96.0.7"]), &[other]));
    assert_eq!(lines, ["10.96.0.7:80/TCP ClusterIP: nobody / -"]);
}

#[test]
fn an_address_that_a_service_has_twice_is_what_it_is_first() {
    let twice = addresses(&["203.0.113.9", "192.168.7.1"]);
    let service = Service {
        kind: ServiceKind::LoadBalancer,
        external_ips: twice.clone(),
        load_balancer: twice,
        ports: [port("web", Protocol::TCP, 80, Some(80))].into(),
        ..service(&["10.96.0.7"])
    };
    let kinds: Vec<_> = served(&service, &[]).frontends.iter().map(|(at, of)| format!("{at} {}", of.kind)).collect();
    assert_eq!(
        kinds,
        [
            "10.96.0.7:80/TCP ClusterIP",
            "203.0.113.9:80/TCP ExternalIP",
            "192.168.7.1:80/TCP ExternalIP",
            "192.168.8.1:80/TCP NodePort",
        ]
    );
}

#[test]
fn what_its_writer_should_know_is_said() {
    let slices = [slice(&["10.65.0.2"], &[("http", Protocol::TCP, 80), ("", Protocol::UDP, 53)])];
    let said = |served: Served| served.remarks.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let remarks = |service: &Service| said(served(service, &slices));
    let fine = Service { ports: [port("http", Protocol::TCP, 80, None)].into(), ..service(&["10.96.0.7"]) };
    assert_eq!(remarks(&fine), "");
    assert_eq!(said(served(&service(&["10.96.0.7"]), &[])), "", "where nothing is known nothing is wrong");
    let range = vec!["10.0.0.0/8".parse().expect("a network")];
    for (service, said) in [
        (service(&[]), "has no cluster IP"),
        (Service { ports: [].into(), ..fine.clone() }, "has no ports"),
        (
            service(&["10.96.0.7"]),
            "no slice has a port web/TCP, which it needs behind port 80; they have UDP, http/TCP",
        ),
        (Service { external_ips: addresses(&["2001:db8::9"]), ..fine.clone() }, "of the family of 2001:db8::9"),
        (
            Service {
                kind: ServiceKind::LoadBalancer,
                load_balancer: addresses(&["2001:db8::1"]),
                source_ranges: range,
                cluster_ips: addresses(&["10.96.0.7", "fd96::7"]),
                ..fine.clone()
            },
            "no network of the family of 2001:db8::1, which everybody may ask",
        ),
    ] {
        let found = remarks(&service);
        assert!(found.contains(said) && found.lines().count() == 1, "{said} is missing in {found}");
    }
}

#[test]
fn frontends_that_are_served_alike_share_their_backends() {
    let service = Service { external_ips: addresses(&["203.0.113.9"]), ..service(&["10.96.0.7"]) };
    let served = served(&service, &[slice(&["10.65.0.2"], &[WEB])]);
    let [(_, own), (_, brought)] = &served.frontends[..] else { panic!("{:?}", lines(&served)) };
    assert!(Arc::ptr_eq(&own.inside, &brought.inside));
    assert!(brought.outside.as_ref().is_some_and(|outside| Arc::ptr_eq(outside, &own.inside)));
    assert!(Arc::ptr_eq(&own.inside.chosen, &own.inside.listed), "all are chosen");
}

#[test]
fn a_load_balancer_is_told_how_many_addresses_here_are_ready_and_nobody_else_is_told_anything() {
    let ports = [("web", Protocol::TCP, 8080), ("more", Protocol::TCP, 8081)];
    let mut own = slice(&["10.65.0.2", "10.65.0.3", "10.65.0.4", "10.65.0.5"], &ports);
    let mut v6 = slice(&["fd65::2"], &ports);
    own.endpoints.iter_mut().chain(&mut v6.endpoints).for_each(|endpoint| endpoint.node = Some("n1".into()));
    (own.endpoints[1].ready, own.endpoints[1].terminating) = (false, true);
    own.endpoints[2].node = Some("n2".into());
    let balanced = Service {
        kind: ServiceKind::LoadBalancer,
        external: TrafficPolicy::Local,
        health_check_port: Some(32000),
        ports: [port("web", Protocol::TCP, 80, None), port("more", Protocol::TCP, 81, None)].into(),
        ..service(&["10.96.0.7", "fd96::7"])
    };
    let of = |service: &Service, slices: &[EndpointSlice]| served(service, slices).health;
    let local = [(Family::V4, 2), (Family::V6, 1)].into();
    assert_eq!(of(&balanced, &[own.clone(), v6.clone()]), Some(HealthCheck { port: 32000, local }));
    let local = [(Family::V4, 0), (Family::V6, 0)].into();
    assert_eq!(of(&balanced, &[]), Some(HealthCheck { port: 32000, local }), "it is told to go elsewhere");
    for other in [
        Service { external: TrafficPolicy::Cluster, ..balanced.clone() },
        Service { kind: ServiceKind::NodePort, ..balanced.clone() },
        Service { health_check_port: None, ..balanced.clone() },
        Service { unproxied: true, ..balanced },
    ] {
        assert_eq!(of(&other, &[own.clone(), v6.clone()]), None);
    }
}

#[test]
fn a_foreign_proxy_gets_what_comes_from_outside_and_cluster_ips_without_a_backend_at_the_node_itself() {
    let service = Service {
        kind: ServiceKind::LoadBalancer,
        load_balancer: addresses(&["192.0.2.1"]),
        ports: [port("web", Protocol::TCP, 80, Some(30080))].into(),
        ..service(&["10.96.0.7"])
    };
    let (node, own) = (NodeName::from("n1"), addresses(&["192.168.7.1", "192.168.7.2"]).into_iter().collect());
    let at = addresses(&["192.168.7.1"]).into_iter().collect();
    for (backends, expected) in [(&["10.65.0.2"][..], true), (&["10.65.0.2", "192.168.7.2"], false), (&[], true)] {
        let slice = slice(backends, &[WEB]);
        let here = Here { node: &node, zone: None, addresses: &at, by_host: Some(&own) };
        let served = serve(&service, &[&slice], &here);
        assert_eq!(served.frontends.len(), 3);
        for (frontend, balance) in &served.frontends {
            assert_eq!(balance.outside, None, "{frontend}");
            let is_left = balance.kind == Kind::ClusterIp && expected;
            assert_eq!(balance.by_host, is_left, "{frontend} with {backends:?}");
        }
    }
}
