//! Host ports: who gets one, who is told whose it is, and what CHECK misses.
//! In: requests for pods that want some, beside others, services and a kernel that forgets. Out: replies.
//! Invariant: as of `tests`.
//! Never: as of `tests`.

use super::*;
use model::{EndpointSlice, EndpointSliceId, Node, Service, ServiceKind, ServicePort, SliceEndpoint, SlicePort};

fn prepare_at(container: &str, pod: &str, port: u16, address: Option<&str>) -> Operation {
    let Operation::Prepare(wish) = prepare(container, pod) else { panic!("a prepare") };
    let address = address.map(|text| text.parse().expect("an address"));
    Operation::Prepare(Prepare { host_ports: vec![host_port(port, address)], ..wish })
}

fn host_port(port: u16, address: Option<IpAddr>) -> HostPort {
    HostPort { address, protocol: Protocol::TCP, port, target: 80 }
}

#[test]
fn cni_90_a_host_port_is_one_pods_until_its_del_and_who_else_wants_it_is_told_whose_it_is() {
    let mut bench = Bench::new();
    let told = |reply: Reply| match reply {
        Ok(Answer::Prepared(_)) => String::new(),
        Err(Fault { code: TRY_AGAIN, message, .. }) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(bench.ask(prepare_at("c1", "a", 8080, None))), "");
    assert_eq!(told(bench.ask(prepare_at("c1", "a", 8080, None))), "", "said again");
    assert_eq!(code(&bench.ask(prepare_at("c1", "a", 8081, None))), INVALID_CONFIG, "and otherwise");
    let said = told(bench.ask(prepare_at("c2", "b", 8080, Some("192.0.2.1"))));
    assert!(said.contains("192.0.2.1:8080/TCP of pod default/b is pod default/a's (8080/TCP)"), "{said}");
    assert_eq!(bench.agent.journal.all().count(), 1, "nothing is half made");
    assert_eq!(told(bench.ask(prepare_at("c2", "b", 8081, None))), "");
    // Two in one batch.
    let both = bench.ask_all(vec![prepare_at("c3", "c", 9000, None), prepare_at("c4", "d", 9000, None)]);
    let both: Vec<_> = both.into_iter().map(told).collect();
    assert!(both[0].is_empty() && both[1].contains("is pod default/c's"), "{both:?}");
    // The next sandbox of the pod has it, before its former one's DEL; and after a restart it is still taken.
    assert_eq!(bench.ask(commit("c1")), Ok(Answer::Done));
    let interface = bench.prepared("c9", "z").host_interface;
    assert_eq!(told(bench.ask(prepare_at("c5", "a", 8080, None))), "");
    assert_eq!(bench.ask(commit("c5")), Ok(Answer::Done));
    let mut bench = bench.restarted(&[interface, cni::name::host_interface_name(&PodId::new("default", "a"), "eth0")]);
    assert!(told(bench.ask(prepare_at("c6", "b", 8080, None))).contains("default/a"));
    assert_eq!(bench.ask(del("c5")), Ok(Answer::Done));
    assert_eq!(told(bench.ask(prepare_at("c6", "b", 8080, None))), "");
}

#[test]
fn cni_90_check_names_a_host_port_that_add_was_not_asked_for_or_that_leads_nowhere() {
    let mut bench = Bench::new();
    bench.agent.world.set_host_addresses([[192, 0, 2, 1].into()].into());
    bench.ask(prepare_at("c1", "a", 8080, None)).expect("prepared");
    assert_eq!(bench.ask(commit("c1")), Ok(Answer::Done));
    let check = |port| Operation::Check { id: id("c1"), host_ports: vec![host_port(port, None)] };
    assert_eq!(bench.ask(check(8080)), Ok(Answer::Done));
    let said = bench.ask(check(8081)).expect_err("another").message;
    assert!(said.contains("ADD was not asked for the host port 8081/TCP"), "{said}");
    bench.agent.kernel.lost = Some(Frontend { address: [192, 0, 2, 1].into(), protocol: Protocol::TCP, port: 8080 });
    for operation in [check(8080), self::check("c1")] {
        let fault = bench.ask(operation).expect_err("lost");
        assert_eq!(fault.code, NOT_AS_IT_SHOULD_BE);
        assert!(fault.message.contains("192.0.2.1:8080/TCP does not lead to pod default/a"), "{fault}");
    }
}

/// At 10.96.0.7 and 192.0.2.2, port 80, and at the node's port 30080.
fn service() -> Resource {
    let port = ServicePort { name: "".into(), protocol: Protocol::TCP, port: 80, node_port: Some(30_080) };
    let service = Service {
        cluster_ips: vec![[10, 96, 0, 7].into()],
        external_ips: vec![[192, 0, 2, 2].into()],
        ports: [port].into(),
        ..Service::bare(ServiceId { namespace: "shop".into(), name: "web".into() }, ServiceKind::NodePort)
    };
    Resource::Service(service.into())
}

/// A node with 192.0.2.1, where node ports are, and 192.0.2.2, where the service has its port 80.
fn beside_a_service() -> Bench {
    let mut bench = Bench::new();
    let own: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
    bench.agent.world.set_host_addresses(own.into());
    bench.agent.world.set_node_ports(calc::NodePortAddresses::Primary);
    let name = bench.agent.world.node().clone();
    let node = Node {
        name,
        addresses: own[..1].to_vec(),
        labels: model::Labels::default(),
        pod_cidrs: vec![],
        bgp: Default::default(),
        vteps: Default::default(),
        told: Default::default(),
    };
    bench.agent.world.apply(Update::Set(Resource::Node(node)));
    bench.agent.world.apply(Update::Set(service()));
    bench
}

#[test]
fn cni_90_a_node_port_is_not_taken_away_and_any_other_port_of_a_service_gives_way() {
    let mut bench = beside_a_service();
    for address in [None, Some("192.0.2.1"), Some("0.0.0.0")] {
        let fault = bench.ask(prepare_at("c1", "a", 30_080, address)).expect_err("it is the service's");
        assert_eq!(fault.code, TRY_AGAIN);
        assert!(fault.message.ends_with("of pod default/a is a node port of the service shop/web"), "{fault}");
    }
    assert_eq!(bench.agent.journal.all().count(), 0, "nothing is half made");
    bench.ask(prepare_at("c1", "a", 30_080, Some("192.0.2.2"))).expect("at another address it is free");
    bench.ask(prepare_at("c2", "b", 80, None)).expect("a host port comes before what is no node port");
}

#[test]
fn cni_90_two_sandboxes_of_one_pod_in_one_batch_are_not_in_each_others_way() {
    let mut bench = Bench::new();
    let both = bench.ask_all(vec![prepare_at("c1", "a", 9000, None), prepare_at("c2", "a", 9000, None)]);
    for reply in both {
        let said = reply.err().map(|fault| fault.message).unwrap_or_default();
        assert!(!said.contains("host port"), "{said}");
    }
}

#[test]
fn cni_90_check_does_not_look_at_the_services_that_lead_to_the_pod() {
    let mut bench = beside_a_service();
    let Ok(Answer::Prepared(told)) = bench.ask(prepare_at("c1", "a", 8080, None)) else { panic!("prepared") };
    assert_eq!(bench.ask(commit("c1")), Ok(Answer::Done));
    let slice = EndpointSlice {
        id: EndpointSliceId { namespace: "shop".into(), name: "web".into() },
        service: Some(ServiceId { namespace: "shop".into(), name: "web".into() }),
        endpoints: [SliceEndpoint::ready_at(told.addresses[0])].into(),
        ports: [SlicePort { name: "".into(), protocol: Protocol::TCP, port: 80 }].into(),
        unproxied: false,
    };
    bench.agent.world.apply(Update::Set(Resource::EndpointSlice(slice.into())));
    let frontend = Frontend { address: [10, 96, 0, 7].into(), protocol: Protocol::TCP, port: 80 };
    let led = bench.agent.world.desired().expect("in sync").services[&frontend].inside.chosen.len();
    assert_eq!(led, 1, "it leads to the pod");
    bench.agent.kernel.lost = Some(frontend);
    assert_eq!(bench.ask(self::check("c1")), Ok(Answer::Done));
}
