//! The differential: for random policies and packets, the kernel says what the reference evaluator says.
//! In: generated worlds and flows, ten thousand a run. Out: agreement on verdict and on who decided, or the seed that shows otherwise.
//! Invariant: every world goes the whole way: World, Desired, commit, live program and dry twin.
//! Never: a flow that is left out without being counted.

use crate::{
    cast::{NODE, OUTSIDE},
    frame::{Frame, GATEWAY_MAC, SYN},
    kernel::{Kernel, UPLINK, on_a_node},
    table::Action,
};
use calc::World;
use dataplane::{Origin, Question};
use model::{
    Attachment, AttachmentId, IfaceName, Mac, NamedPort, Namespace, NodeName, Pod, Protocol, Resource, ServiceAccount,
    Update,
};
use policy::{Endpoint, Flow, Hit, Judgement, Outcome, Verdict, View, evaluate, generate::Case};
use std::{collections::BTreeSet, net::IpAddr};

/// Flows that must have gone through the kernel, unless TORTIE_FLOWS names fewer: an emulated machine takes its time.
const JUDGED_MIN: u32 = 10_000;

#[test]
fn the_kernel_agrees_with_the_reference_evaluator() {
    let first = number_of("TORTIE_SEED").unwrap_or_else(seed_of_now);
    let least = number_of("TORTIE_FLOWS").unwrap_or(u64::from(JUDGED_MIN));
    println!("seed {first}; repeat with TORTIE_SEED={first}");
    on_a_node(|| {
        let mut kernel = Kernel::bare();
        let (mut judged, mut seed) = (0, first);
        while judged < least {
            judged += u64::from(held(&mut kernel, seed));
            seed += 1;
        }
        println!("{judged} flows in {} worlds, kernel and evaluator agree", seed - first);
    });
}

pub fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|why| panic!("{variable}={text}: {why}")))
}

pub fn seed_of_now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
    since.as_nanos() as u64 % 1_000_000_000
}

/// Runs the case of this seed; how many of its flows the kernel judged.
fn held(kernel: &mut Kernel, seed: u64) -> u32 {
    let case = Case::from_seed(seed);
    for number in 0..case.view.endpoints.len() {
        kernel.wire(&interface(number), &format!("pod{number}"), mac(number));
    }
    kernel.put_in_force(&world(&case.view));
    let mut judged = 0;
    for flow in &case.flows {
        let expected = evaluate(&case.view, flow);
        let Some(place) = place_of(&case.view, flow) else { continue };
        let told = |what: &str| format!("seed {seed}: {what}\n{flow:?}\nexpected {expected:?}\n{:#?}", case.view);
        kernel.fresh();
        if let Place::Pod(_) | Place::Uplink = place {
            let answer = kernel.dataplane.explain(&question(flow, place)).expect("the twin answers");
            let decided = |judgement: &Option<Judgement>| {
                let hit = |Judgement { verdict, decider, logs }: Judgement| Hit { logs, ..Hit::new(verdict, decider) };
                judgement.clone().map(hit)
            };
            let plain = |hit: Option<Hit>| hit.map(|hit| hit.plain());
            assert_eq!(plain(answer.egress), decided(&expected.egress), "{}", told("the twin, at the sender's end"));
            assert_eq!(
                plain(answer.ingress),
                decided(&expected.ingress),
                "{}",
                told("the twin, at the receiver's end")
            );
        }
        let allowed = live(kernel, &case.view, flow, place);
        assert_eq!(allowed, allows(&expected), "{}", told("the live program"));
        judged += 1;
    }
    judged
}

/// Where a flow's first packet meets a program.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Pod(usize),
    HostTo(usize),
    Uplink,
}

pub fn place_of(view: &View, flow: &Flow) -> Option<Place> {
    if let Some(sender) = pod_at(view, flow.source) {
        return Some(Place::Pod(sender));
    }
    let receiver = pod_at(view, flow.destination)?;
    let host = view.host.iter().any(|net| net.contains(flow.source));
    Some(if host { Place::HostTo(receiver) } else { Place::Uplink })
}

fn pod_at(view: &View, address: IpAddr) -> Option<usize> {
    view.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address))
}

fn allows(outcome: &Outcome) -> bool {
    [&outcome.egress, &outcome.ingress].into_iter().flatten().all(|judgement| judgement.verdict == Verdict::Allow)
}

pub fn live(kernel: &mut Kernel, view: &View, flow: &Flow, place: Place) -> bool {
    let mut frame = frame(flow);
    let (program, interface) = match place {
        Place::Pod(sender) => {
            frame = frame.with_source_mac(mac(sender).0).with_destination_mac(GATEWAY_MAC);
            ("from_workload", interface(sender))
        }
        Place::HostTo(receiver) => {
            frame = frame.with_source_mac(GATEWAY_MAC).with_destination_mac(mac(receiver).0);
            ("to_workload", interface(receiver))
        }
        Place::Uplink => ("from_uplink", IfaceName(UPLINK.into())),
    };
    assert!(view.endpoints.len() < 10, "one digit numbers a pod");
    kernel.run_at(program, &interface, &frame.bytes()).action != Action::Drop
}

fn question(flow: &Flow, place: Place) -> Question {
    let from = if let Place::Pod(sender) = place { Origin::Pod(id(sender)) } else { Origin::Outside(None) };
    let Flow { source, destination, protocol, detail, source_port } = *flow;
    Question { from, source, destination, protocol, detail, source_port }
}

/// The flow's first packet, as it comes in by the uplink.
pub fn frame(flow: &Flow) -> Frame {
    let (from, port) = (flow.source_port.to_be_bytes(), flow.detail.to_be_bytes());
    let icmp = if flow.source.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
    let payload = match flow.protocol {
        Protocol::TCP => [&from[..], &port, &[0; 8], &[0x50, SYN, 0x20, 0, 0, 0, 0, 0]].concat(),
        Protocol::UDP => [&from[..], &port, &[0, 8, 0, 0]].concat(),
        protocol if protocol == icmp => [&port[..], &[0, 0, 0, 7, 0, 1], &quoted(flow)].concat(),
        protocol if protocol.has_ports() => [&from[..], &port, &[0; 8]].concat(),
        _ => vec![0; 16],
    };
    Frame {
        destination_mac: NODE.mac.0,
        source_mac: OUTSIDE.mac.0,
        source: flow.source,
        destination: flow.destination,
        ttl: 64,
        protocol: flow.protocol.0,
        payload,
        fragment: None,
        options: Vec::new(),
    }
}

/// What an ICMP error quotes: a datagram of the receiver that nobody sent.
fn quoted(flow: &Flow) -> Vec<u8> {
    let (source, destination) = (flow.destination, flow.source);
    let back = Flow { source, destination, protocol: Protocol::UDP, detail: 9, source_port: 40_000 };
    frame(&back).bytes()[14..].to_vec()
}

pub fn interface(number: usize) -> IfaceName {
    IfaceName(format!("cali{number}"))
}

pub fn mac(number: usize) -> Mac {
    Mac([0x0a, 0x58, 0, 0, 0, u8::try_from(number).expect("a case has few pods")])
}

fn id(number: usize) -> AttachmentId {
    AttachmentId { network: "tortie".into(), container: format!("c{number}"), interface: "eth0".into() }
}

/// What an agent would know of this view, all its pods being here.
pub fn world(view: &View) -> World {
    let node = NodeName::from("node");
    let mut world = World::new(node.clone(), false);
    for (name, labels) in &view.namespaces {
        let namespace = Namespace { name: name.clone(), labels: labels.clone(), asks: None };
        world.apply(Update::Set(Resource::Namespace(namespace)));
    }
    let accounts = view.accounts.iter().map(|((namespace, name), labels)| {
        let (namespace, name, labels) = (namespace.clone(), name.clone(), labels.clone());
        Resource::ServiceAccount(ServiceAccount { namespace, name, labels })
    });
    let told = accounts
        .chain(view.nodes.iter().cloned().map(Resource::Node))
        .chain(view.network_sets.iter().map(|set| Resource::NetworkSet(set.clone().into())))
        .chain(view.slices.iter().map(|slice| Resource::EndpointSlice(slice.clone().into())))
        .chain(view.host_endpoints.iter().cloned().map(Resource::HostEndpoint))
        .chain(view.tiers.iter().cloned().map(Resource::Tier))
        .chain(view.policies.iter().map(|policy| Resource::Policy(policy.clone().into())))
        .chain(view.profiles.iter().cloned().map(Resource::Profile));
    for resource in told {
        world.apply(Update::Set(resource));
    }
    for (number, endpoint) in view.endpoints.iter().enumerate() {
        if let Some(ports) = &endpoint.ports {
            world.apply(Update::Set(Resource::Pod(pod(endpoint, ports, &node).into())));
        }
        world.attach(attachment(endpoint, number));
    }
    world.set_host_addresses(view.host.iter().map(model::Cidr::network).collect::<BTreeSet<_>>());
    world.apply(Update::InSync);
    world
}

fn pod(endpoint: &Endpoint, ports: &[NamedPort], node: &NodeName) -> Pod {
    Pod {
        labels: endpoint.labels.clone(),
        service_account: endpoint.service_account.as_deref().map(Into::into),
        addresses: endpoint.addresses.as_slice().into(),
        ports: ports.into(),
        profiles: endpoint.profiles.as_ref().map(|named| named.iter().map(|name| name.as_str().into()).collect()),
        ..Pod::bare(endpoint.id.clone(), Some(node.clone()))
    }
}

fn attachment(endpoint: &Endpoint, number: usize) -> Attachment {
    Attachment {
        id: id(number),
        pod: endpoint.id.clone(),
        host_interface: interface(number),
        mac: mac(number),
        addresses: endpoint.addresses.clone(),
        mtu: 1500,
        labels: endpoint.labels.clone(),
        delegated: false,
        host_ports: Vec::new(),
        floating_ips: true,
        named: false,
        committed: true,
    }
}
