//! Services for histories, and what a change of one costs.
//! In: dice. Out: services and slices under few names, which want each other's frontends.
//! Invariant: every field that decides which backends a frontend has takes several values.
//! Never: a service that the converter would refuse.

use super::*;
use crate::{Neighbour, NodePortAddresses};
use model::{
    Created, EndpointSlice, EndpointSliceId, FloatingIps, Hints, HostPort, Node, PodAsks, Service, ServiceAddresses,
    ServiceId, ServiceKind, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy,
};
use service::{About, Frontend, Kind};
use std::sync::Arc;

const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

fn address(dice: &mut Dice, v4: bool, net: u8) -> IpAddr {
    let last = 1 + dice.below(3) as u8;
    if v4 { [10, net, 0, last].into() } else { [0xfd00 + u16::from(net), 0, 0, 0, 0, 0, 0, u16::from(last)].into() }
}

/// None, or one of either family, or of both.
fn addresses(dice: &mut Dice, net: u8) -> Vec<IpAddr> {
    let families: &[bool] = dice.pick(&[&[][..], &[true], &[true], &[false], &[true, false]]);
    families.iter().map(|v4| address(dice, *v4, net)).collect()
}

fn id(dice: &mut Dice) -> ServiceId {
    ServiceId { namespace: dice.pick(&["x", "y"]).into(), name: dice.pick(&["shop", "web"]).into() }
}

fn service(dice: &mut Dice) -> Service {
    let kind = dice.pick(&[ServiceKind::ClusterIp, ServiceKind::NodePort, ServiceKind::LoadBalancer]);
    let port = |name: &str, protocol, number, dice: &mut Dice| ServicePort {
        name: name.into(),
        protocol,
        port: number,
        node_port: dice.pick(&[None, Some(30_000), Some(80)]).filter(|_| kind != ServiceKind::ClusterIp),
    };
    let protocol = dice.pick(&PROTOCOLS);
    let ports = vec![port("", protocol, 80, dice), port("web", dice.pick(&PROTOCOLS), 81, dice)];
    Service {
        id: id(dice),
        created: dice.pick(&[
            Created::UNKNOWN,
            Created::read("2026-01-01T00:00:00Z"),
            Created::read("2025-01-01T00:00:00Z"),
        ]),
        kind: if dice.below(9) == 0 { ServiceKind::Headless } else { kind },
        cluster_ips: addresses(dice, 96),
        external_ips: addresses(dice, 97),
        load_balancer: if kind == ServiceKind::LoadBalancer { addresses(dice, 97) } else { vec![] },
        request: (kind == ServiceKind::LoadBalancer && dice.below(2) == 0).then(Arc::default),
        source_ranges: dice.pick(&[&[][..], &[Cidr::all(Family::V4)]]).to_vec(),
        ports: ports.into_iter().take(1 + dice.below(2)).collect(),
        affinity_s: dice.pick(&[None, Some(60)]),
        internal: dice.pick(&[TrafficPolicy::Cluster, TrafficPolicy::Local]),
        external: dice.pick(&[TrafficPolicy::Cluster, TrafficPolicy::Local]),
        distribution: None,
        health_check_port: dice.pick(&[None, Some(32_000)]),
        unproxied: dice.below(9) == 0,
    }
}

fn slice(dice: &mut Dice) -> EndpointSlice {
    let v4 = dice.below(3) > 0;
    let endpoint = |dice: &mut Dice| SliceEndpoint {
        ready: dice.below(3) > 0,
        serving: dice.below(3) > 0,
        terminating: dice.below(3) == 0,
        node: dice.pick(&[None, Some(HERE), Some("there")]).map(Into::into),
        hints: dice.pick(&[None, Some("a"), Some("b")]).map(|zone| {
            let nodes = dice.pick(&[None, None, Some(HERE)]).into_iter().map(Into::into).collect();
            Hints { zones: vec![zone.into()], nodes }.into()
        }),
        ..SliceEndpoint::ready_at(address(dice, v4, 65))
    };
    let port = |name: &str, dice: &mut Dice| SlicePort {
        name: name.into(),
        protocol: dice.pick(&PROTOCOLS),
        port: dice.pick(&[8080, 8081]),
    };
    let ports: Box<[_]> = [port("", dice), port("web", dice)].into();
    EndpointSlice {
        id: EndpointSliceId { namespace: "x".into(), name: format!("slice-{}", dice.below(4)) },
        service: (dice.below(9) > 0).then(|| id(dice)),
        endpoints: (0..dice.below(4)).map(|_| endpoint(dice)).collect(),
        ports: ports.into_iter().take(dice.below(3)).collect(),
        unproxied: dice.below(9) == 0,
    }
}

/// This node, in one zone or another.
fn node(dice: &mut Dice) -> Node {
    let zone = dice.pick(&[None, Some("a"), Some("b")]);
    let labels = zone.map(|zone| ("topology.kubernetes.io/zone".to_owned(), zone.to_owned()));
    let addresses = (0..dice.below(3)).map(|_| dice.pick(&[[10, 65, 0, 9], [10, 97, 0, 1]]).into()).collect();
    Node {
        name: HERE.into(),
        addresses,
        labels: labels.into_iter().collect(),
        pod_cidrs: vec![],
        bgp: Default::default(),
        vteps: Default::default(),
        told: Default::default(),
    }
}

/// Services, slices and this node, several times.
pub(super) fn resources(dice: &mut Dice) -> Vec<Resource> {
    let services = (0..16).map(|_| Resource::Service(service(dice).into())).collect::<Vec<_>>();
    let slices = (0..16).map(|_| Resource::EndpointSlice(slice(dice).into())).collect::<Vec<_>>();
    let given = (0..6).map(|_| {
        let (service, addresses) = (id(dice), addresses(dice, 97));
        Resource::ServiceAddresses(ServiceAddresses { service, addresses, remarks: Vec::new() })
    });
    let given = given.collect::<Vec<_>>();
    let nodes = (0..3).map(|_| Resource::Node(node(dice)));
    nodes.chain(services).chain(slices).chain(given).collect()
}

/// Node ports are at these of the node's addresses.
pub(super) fn node_ports(dice: &mut Dice) -> NodePortAddresses {
    let net = || "10.65.0.0/29".parse().expect("a network");
    match dice.below(4) {
        0 => NodePortAddresses::Primary,
        some => NodePortAddresses::Within((0..some / 2).map(|_| net()).collect()),
    }
}

/// A pod with host ports that services may want, too, or without.
fn hosting(dice: &mut Dice) -> Attachment {
    let addresses: Box<[IpAddr]> = [address(dice, true, 65), address(dice, false, 65)].into();
    let id = PodId::new("x", dice.pick(&["shop", "web", "pod"]));
    let pod = Pod { addresses, ..Pod::bare(id, None) };
    let port = |dice: &mut Dice| HostPort {
        address: dice.pick(&[None, Some([0; 4].into()), Some([10, 97, 0, 1].into()), Some([127, 0, 0, 1].into())]),
        protocol: dice.pick(&PROTOCOLS),
        port: dice.pick(&[80, 30_000]),
        target: dice.pick(&[8080, 8081]),
    };
    let host_ports = (0..dice.below(3)).map(|_| port(dice)).collect();
    Attachment { host_ports, ..attachment(&pod, dice.below(3), dice.below(4) > 0) }
}

/// Addresses that a pod asks for, some of which others have.
fn floating(dice: &mut Dice) -> Option<Box<FloatingIps>> {
    let net = dice.pick(&[65, 96, 97, 98, 98, 98]);
    let addresses = (0..dice.below(4)).map(|_| (dice.below(4) > 0, net)).collect::<Vec<_>>();
    let addresses = addresses.into_iter().map(|(v4, net)| address(dice, v4, net)).collect();
    let created = dice.pick(&[Created::UNKNOWN, Created::read("2026-01-01T00:00:00Z")]);
    (dice.below(4) > 0).then(|| Box::new(FloatingIps { addresses, unread: None, created }))
}

/// The same pod, perhaps over by now.
fn told(attachment: &Attachment, finished: bool, floating: Option<Box<FloatingIps>>) -> Resource {
    let (labels, addresses) = (attachment.labels.clone(), attachment.addresses.as_slice().into());
    let bare = Pod::bare(attachment.pod.clone(), Some(HERE.into()));
    // It may ask to send from what it asks to be reached at.
    let asked = floating.as_ref().and_then(|asked| asked.addresses.first());
    let sources = asked.map(|address| vec![Cidr::host(*address)]);
    let asks = sources.map(|sources| Box::new(PodAsks { sources, ..PodAsks::default() }));
    let pod = Pod { labels, addresses, finished, floating, asks, ..bare };
    Resource::Pod(pod.into())
}

/// A pod of another node, older or younger than those here; some have no address yet.
fn elsewhere(dice: &mut Dice) -> Resource {
    let (id, node) = (PodId::new("x", dice.pick(&["afar", "pod", "zoo"])), dice.pick(&["there", "there", HERE]));
    let addresses = (0..dice.below(3)).map(|_| dice.below(4) > 0).collect::<Vec<_>>();
    let addresses = addresses.into_iter().map(|v4| address(dice, v4, 66)).collect();
    let (finished, host_network) = (dice.below(5) == 0, dice.below(5) == 0);
    let pod = Pod { addresses, finished, host_network, floating: floating(dice), ..Pod::bare(id, Some(node.into())) };
    Resource::Pod(pod.into())
}

/// What the kept remarks and those worked out anew say.
pub(super) fn assert_same_remarks(live: &mut Live, when: &str) {
    if live.desired().is_some() {
        let kept: Vec<_> = live.service_remarks().into_iter().map(|(id, said)| (id.clone(), said)).collect();
        let fresh: Vec<_> = World::service_remarks(live).into_iter().collect();
        assert_eq!(kept, fresh, "{when}");
        assert_eq!(*live.health_checks(), World::health_checks(live), "{when}");
        assert_eq!(live.floating_remarks(), World::floating_remarks(live), "{when}");
    }
}

/// Something changes; in words. Services that are not served from then on are counted.
fn change(dice: &mut Dice, live: &mut Live, resource: Resource, put_off: &mut usize) -> String {
    match dice.below(18) {
        0..7 => {
            let text = format!("{resource:?}");
            live.apply(Update::Set(resource));
            text
        }
        7 | 8 => {
            live.apply(Update::Gone(resource.key()));
            format!("{} is gone", resource.key())
        }
        9..12 => {
            let attachment = hosting(dice);
            let text = format!("{attachment:?}");
            live.attach(attachment);
            text
        }
        12 => {
            let attachment = hosting(dice);
            live.detach(&attachment.id);
            let told = told(&attachment, dice.below(2) == 0, floating(dice));
            let text = format!("{} is detached, and {told:?}", attachment.id);
            live.apply(Update::Set(told));
            text
        }
        14 | 15 => {
            let own = dice.below(3) > 0;
            let told = if own { told(&hosting(dice), dice.below(5) == 0, floating(dice)) } else { elsewhere(dice) };
            let text = format!("{told:?}");
            live.apply(Update::Set(told));
            text
        }
        16 => {
            let felix = felix(dice);
            let text = format!("{felix:?}");
            live.apply(Update::Set(Resource::FelixConfiguration(felix)));
            text
        }
        13 => {
            let (id, served) = (id(dice), dice.below(3) > 0);
            live.set_served(&id, served);
            *put_off += usize::from(live.is_put_off(&id) && live.service(&id).is_some());
            format!("{id} is served: {served}")
        }
        _ => {
            let addresses = [[10, 65, 0, 9], [10, 97, 0, 1], [192, 168, 7, 1]].map(IpAddr::from);
            let addresses = addresses.into_iter().take(dice.below(4)).collect();
            let at = node_ports(dice);
            let text = format!("the host has {addresses:?}, node ports are at {at:?}");
            live.set_host_addresses(addresses);
            live.set_node_ports(at);
            live.set_proxy([Neighbour::None, Neighbour::Rests, Neighbour::Serves][dice.below(3)]);
            text
        }
    }
}

#[test]
fn whatever_the_history_services_are_what_the_world_says_now() {
    let (mut contested, mut hosted, mut put_off) = (0, 0, 0);
    let (mut floated, mut unfloated, mut elsewhere, mut spoofed) = (0, 0, 0, 0);
    for seed in 1..=400 {
        let mut dice = Dice(seed);
        let all = resources(&mut dice);
        let mut live = Live::new(HERE.into(), false);
        live.apply(Update::InSync);
        let mut history = String::new();
        for _ in 0..60 {
            let resource = all[dice.below(all.len())].clone();
            let text = change(&mut dice, &mut live, resource, &mut put_off);
            let _ = writeln!(history, "{text}");
            // Now and then several changes at once.
            if dice.below(3) > 0 {
                let wanted = live.in_sync().map(crate::desired).expect("in sync");
                let desired = live.desired().expect("in sync");
                assert_eq!(desired.services, wanted.services, "seed {seed}, after:\n{history}");
                assert_eq!(desired.endpoints, wanted.endpoints, "seed {seed}, after:\n{history}");
                assert_eq!(desired.nets, wanted.nets, "seed {seed}, after:\n{history}");
                spoofed += desired.endpoints.values().filter(|endpoint| endpoint.sources.is_some()).count();
                floated += desired.endpoints.values().map(|endpoint| endpoint.floating.len()).sum::<usize>();
                unfloated += live.floating_remarks().iter().filter(|said| !said.contains("Enabled")).count();
                elsewhere += live.floating_remarks().iter().filter(|said| said.contains("elsewhere")).count();
                assert_same_remarks(&mut live, &format!("seed {seed}, after:\n{history}"));
                let said = live.service_remarks();
                let taken = said.values().flatten().filter(|said| said.about == About::Taken);
                contested += taken.clone().count();
                hosted += taken.filter(|said| said.text.contains("host port")).count();
            }
        }
    }
    assert!(spoofed > 1000, "pods of these worlds send from other addresses: {spoofed}");
    assert!(contested > 1000, "services of these worlds want the same frontends: {contested}");
    assert!(hosted > 400, "and so do host ports: {hosted}");
    assert!(put_off > 100, "some are not served: {put_off}");
    assert!(elsewhere > 50, "some float to a pod elsewhere: {elsewhere}");
    assert!(floated > 1000 && unfloated > 1000, "addresses float, and some of them do not: {floated}, {unfloated}");
}

#[test]
fn a_change_that_touches_no_floating_address_looks_at_none_of_them() {
    let mut live = Live::new(HERE.into(), false);
    live.apply(Update::InSync);
    let attachment = hosting(&mut Dice(1));
    let addresses = vec![[192, 0, 2, 7].into(), [203, 0, 113, 9].into()];
    let asked = FloatingIps { addresses, unread: None, created: Created::UNKNOWN };
    live.attach(attachment.clone());
    live.apply(Update::Set(told(&attachment, false, Some(Box::new(asked)))));
    let felix = FelixConfiguration {
        name: FelixConfiguration::DEFAULT.into(),
        floating_ips: Some(true),
        ..FelixConfiguration::default()
    };
    live.apply(Update::Set(Resource::FelixConfiguration(felix)));
    // Each settling writes the remarks anew.
    let remarks = |live: &mut Live| {
        live.desired().expect("in sync");
        (live.floating_remarks().len(), live.floating_remarks().as_ptr())
    };
    live.apply(Update::Set(web(2, "2026-01-01T00:00:00Z")));
    live.latest().expect("in sync");
    let first = remarks(&mut live);
    assert_eq!(first.0, 1, "203.0.113.9 is the service's");
    live.apply(Update::Set(Resource::EndpointSlice(slice(&mut Dice(1)).into())));
    live.apply(Update::Set(Resource::Pod(Pod::bare(PodId::new("y", "other"), Some("there".into())).into())));
    assert_eq!(remarks(&mut live), first);
    live.apply(Update::Gone(web(2, "").key()));
    assert_eq!(remarks(&mut live).0, 0, "it is free");
}

fn web(number: u8, created: &str) -> Resource {
    let mut service = service(&mut Dice(1));
    service.id.name = format!("web-{number}");
    service.created = Created::read(created);
    service.kind = ServiceKind::ClusterIp;
    service.cluster_ips = vec![[10, 96, 0, number].into()];
    service.external_ips = vec![[203, 0, 113, 9].into()];
    service.load_balancer = vec![];
    service.ports = [ServicePort { name: "".into(), protocol: Protocol::TCP, port: 80, node_port: None }].into();
    service.unproxied = false;
    Resource::Service(service.into())
}

#[test]
fn of_two_services_with_one_frontend_the_older_has_it_and_the_other_hears_of_it() {
    let mut live = Live::new(HERE.into(), false);
    live.apply(Update::InSync);
    let frontend = Frontend { address: [203, 0, 113, 9].into(), protocol: Protocol::TCP, port: 80 };
    let holder = |live: &mut Live| {
        live.desired().and_then(|desired| Some(desired.services.get(&frontend)?.of.service.name.clone()))
    };
    live.apply(Update::Set(web(2, "2026-01-01T00:00:00Z")));
    assert_eq!(holder(&mut live).as_deref(), Some("web-2"));
    live.apply(Update::Set(web(1, "2026-01-02T00:00:00Z")));
    assert_eq!(holder(&mut live).as_deref(), Some("web-2"), "it is older");
    let said: Vec<_> = live.service_remarks().into_iter().map(|(id, said)| (id.name.clone(), said.len())).collect();
    assert_eq!(said, [("web-1".to_owned(), 1)]);
    live.apply(Update::Set(web(2, "2026-01-02T00:00:00Z")));
    assert_eq!(holder(&mut live).as_deref(), Some("web-1"), "made anew, and its name is the greater one");
    live.apply(Update::Set(web(3, "2020-01-01T00:00:00Z")));
    assert_eq!(holder(&mut live).as_deref(), Some("web-3"));
    for (gone, left) in [(web(3, ""), Some("web-1")), (web(1, ""), Some("web-2")), (web(2, ""), None)] {
        live.apply(Update::Gone(gone.key()));
        assert_eq!(holder(&mut live).as_deref(), left);
    }
    assert!(live.service_remarks().is_empty());
}

#[test]
fn a_service_that_is_put_off_has_no_frontend_whatever_is_told_of_it_and_stays_known() {
    let mut live = Live::new(HERE.into(), false);
    live.apply(Update::InSync);
    let (first, second) = (web(1, "2026-01-01T00:00:00Z"), web(2, "2026-01-02T00:00:00Z"));
    let frontend = Frontend { address: [203, 0, 113, 9].into(), protocol: Protocol::TCP, port: 80 };
    let served = |live: &mut Live| {
        let desired = live.desired().expect("in sync");
        let holder = desired.services.get(&frontend).map(|balance| balance.of.service.name.clone());
        (holder.unwrap_or_default(), desired.services.len())
    };
    live.apply(Update::Set(first.clone()));
    live.apply(Update::Set(second));
    let Resource::Service(told) = &first else { panic!("a service") };
    assert_eq!(served(&mut live), ("web-1".to_owned(), 3));
    assert!(live.set_served(&told.id, false) && !live.set_served(&told.id, false));
    assert_eq!(served(&mut live), ("web-2".to_owned(), 2), "another has what it had");
    assert!(live.service_remarks().is_empty() && live.service(&told.id).is_some());
    live.apply(Update::Set(first.clone()));
    assert_eq!(served(&mut live), ("web-2".to_owned(), 2), "told again");
    assert!(live.set_served(&told.id, true));
    assert_eq!(served(&mut live), ("web-1".to_owned(), 3));
}

#[test]
fn one_that_names_an_address_goes_before_an_older_one_with_a_node_port_there() {
    let mut live = Live::new(HERE.into(), false);
    live.apply(Update::InSync);
    live.set_host_addresses([[203, 0, 113, 9].into()].into());
    let Resource::Service(at_node) = web(1, "2020-01-01T00:00:00Z") else { panic!("a service") };
    let mut at_node = Service::clone(&at_node);
    at_node.kind = ServiceKind::NodePort;
    at_node.external_ips = vec![];
    at_node.ports[0].node_port = Some(80);
    live.apply(Update::Set(Resource::Service(at_node.into())));
    let frontend = Frontend { address: [203, 0, 113, 9].into(), protocol: Protocol::TCP, port: 80 };
    let kind = |live: &mut Live| live.desired().and_then(|desired| Some(desired.services.get(&frontend)?.kind));
    assert_eq!(kind(&mut live), Some(Kind::NodePort));
    live.apply(Update::Set(web(2, "2026-01-01T00:00:00Z")));
    assert_eq!(kind(&mut live), Some(Kind::ExternalIp));
    assert_eq!(live.service_remarks().into_keys().map(|id| &*id.name).collect::<Vec<_>>(), ["web-1"]);
}

#[test]
fn a_host_port_goes_before_a_service_which_hears_of_it_and_gives_way_with_its_pod() {
    let mut live = Live::new(HERE.into(), false);
    live.apply(Update::InSync);
    live.set_host_addresses([[203, 0, 113, 9].into()].into());
    live.apply(Update::Set(web(1, "2020-01-01T00:00:00Z")));
    let frontend = Frontend { address: [203, 0, 113, 9].into(), protocol: Protocol::TCP, port: 80 };
    let holder = |live: &mut Live| {
        live.desired().and_then(|desired| Some(desired.services.get(&frontend)?.of.to_string())).unwrap_or_default()
    };
    assert_eq!(holder(&mut live), "x/web-1");
    let port = HostPort { address: None, protocol: Protocol::TCP, port: 80, target: 8080 };
    // A pod of the service's own name is another.
    let attached =
        Attachment { pod: PodId::new("x", "web-1"), host_ports: vec![port], committed: true, ..hosting(&mut Dice(1)) };
    live.attach(attached.clone());
    assert_eq!(holder(&mut live), "x/web-1:80/TCP");
    let said: Vec<_> = live.service_remarks().into_values().flatten().map(|said| said.text).collect();
    assert_eq!(said, ["203.0.113.9:80/TCP is a host port of the pod x/web-1, which comes first"]);
    live.detach(&attached.id);
    assert_eq!(holder(&mut live), "x/web-1");
    assert!(live.service_remarks().is_empty());
}

#[test]
fn a_change_of_one_service_leaves_the_others_as_they_are_and_replaces_nothing_that_is_equal() {
    let mut live = Live::new(HERE.into(), false);
    live.apply(Update::InSync);
    for number in 1..=9 {
        live.apply(Update::Set(web(number, "2026-01-01T00:00:00Z")));
    }
    let before = live.desired().expect("in sync").services.clone();
    let slice = EndpointSlice {
        id: EndpointSliceId { namespace: "x".into(), name: "slice".into() },
        service: before.values().find(|balance| balance.of.service.name == "web-5").map(|it| it.of.service.clone()),
        endpoints: [SliceEndpoint::ready_at([10, 65, 0, 2].into())].into(),
        ports: [SlicePort { name: "".into(), protocol: Protocol::TCP, port: 8080 }].into(),
        unproxied: false,
    };
    live.apply(Update::Set(Resource::EndpointSlice(slice.into())));
    let now = live.desired().expect("in sync").services.clone();
    let fresh: Vec<_> =
        now.iter().filter(|(at, _)| !std::sync::Arc::ptr_eq(&now[at], &before[at])).map(|(at, _)| at.address).collect();
    assert_eq!(fresh, [IpAddr::from([10, 96, 0, 5])]);
    live.apply(Update::Set(web(5, "2026-01-01T00:00:01Z")));
    let again = live.desired().expect("in sync").services.clone();
    assert!(again.iter().all(|(at, balance)| std::sync::Arc::ptr_eq(balance, &now[at])), "nothing was to change");
}
