//! Storms over what several programs and slots judge together: the node's own settings, the host endpoint of all interfaces, and
//! a gate before a pod.
//! In: two revisions of which neither lets a packet through, flipped as fast as the tables take them. Out: packets that passed.
//! Invariant: a mixture of both would let it through.
//! Never: is content with one revision: both have to be met.

use super::{nothing_passes_to, pods, storm};
use crate::{
    attaching::has_tcx,
    cast::{DB, Family, NODE, OUTSIDE},
    kernel::{Kernel, UPLINK, on_a_node},
    port::{OFFLOAD, Port},
    scenario::policy,
};
use abi::DropReason;
use dataplane::Attach;
use model::{
    Direction::{Egress, Ingress},
    EndpointToHost, FelixConfiguration, HostEndpoint, HostInterface, IfaceName, Layer, Policy, PolicyId, PolicyKind,
    Resource, Rule, Selector,
};
use std::os::fd::AsFd as _;
use tests::tcx::linger_after;

/// A policy of host endpoints for what comes in, all of it.
fn of_hosts(name: &str, layer: Layer, allows: bool) -> Policy {
    let action = if allows { model::Action::Allow } else { model::Action::Deny };
    Policy {
        id: PolicyId { name: name.into(), namespace: "".into(), kind: PolicyKind::GlobalNetworkPolicy },
        subject: Selector::Has("host".into()).into(),
        layer,
        ingress: [Rule::new(0, action)].into(),
        ..policy(name, None, &[Ingress])
    }
}

/// A host endpoint that governs the uplink.
fn host_endpoint(interface: HostInterface) -> Resource {
    Resource::HostEndpoint(HostEndpoint {
        name: "host".into(),
        node: "node".into(),
        interface: Some(interface),
        expected_ips: Vec::new(),
        labels: [("host".to_owned(), "yes".to_owned())].into(),
        profiles: Vec::new(),
        ports: Vec::new(),
    })
}

/// What the node does with what pods send to it.
fn takes_from_pods(endpoint_to_host: EndpointToHost) -> Resource {
    Resource::FelixConfiguration(FelixConfiguration {
        name: FelixConfiguration::DEFAULT.into(),
        endpoint_to_host: Some(endpoint_to_host),
        ..FelixConfiguration::default()
    })
}

#[test]
fn e2h_1_in_a_storm_of_flips_no_packet_passes_by_what_the_node_takes_in_one_revision_and_the_rules_of_another() {
    let node_refuses = pods().with(takes_from_pods(EndpointToHost::Drop));
    let sender_refuses = pods().policy(policy("out", Some("client"), &[Egress]));
    let reasons = [DropReason::EgressPolicy, DropReason::EndpointToHost];
    on_a_node(|| nothing_passes_to(NODE, [&node_refuses, &sender_refuses], reasons));
}

#[test]
fn e2h_6_in_a_storm_of_flips_no_packet_passes_by_the_layer_of_all_interfaces_of_one_revision_and_the_rules_of_another()
{
    let early =
        |allows| pods().with(host_endpoint(HostInterface::Any)).policy(of_hosts("early", Layer::PreDnat, allows));
    let sender_refuses = early(true).policy(policy("out", Some("client"), &[Egress]));
    let reasons = [DropReason::EgressPolicy, DropReason::HostEndpoint];
    on_a_node(|| nothing_passes_to(DB, [&early(false), &sender_refuses], reasons));
}

/// Neither revision lets OUTSIDE reach DB: the one refuses at the gate, the other at the pod. A frame meets both programs, one
/// after the other, with time in between in which a commit may come into force.
#[test]
fn hep_5_in_a_storm_of_flips_gate_and_pod_judge_each_packet_by_one_revision() {
    let forwards = Layer::Ordinary { on_forward: true };
    let gate = |allows| {
        let uplink = HostInterface::Named(IfaceName(UPLINK.into()));
        pods().with(host_endpoint(uplink)).policy(of_hosts("gate", forwards, allows))
    };
    let pod_refuses = gate(true).policy(policy("in", Some("db"), &[Ingress]));
    on_a_node(|| {
        let mut kernel = Kernel::new(&gate(false));
        let uplink = kernel.index(&IfaceName(UPLINK.into())).0;
        let gate_program = kernel.program("from_host_endpoint");
        // Where the kernel has no TCX nothing can be put between two programs, and a packet takes less time from one to the other.
        let lingers = has_tcx().then(|| linger_after(gate_program.fd().expect("it is loaded").as_fd(), uplink));
        let _lingers = lingers.transpose().expect("a program can be attached between gate and pod");
        let (mut outside, mut db) = (Port::at(&kernel, OUTSIDE), Port::at(&kernel, DB));
        let dropped = |kernel: &Kernel, reason| kernel.dropped(reason).values().sum::<u64>();
        let reasons = [DropReason::HostEndpoint, DropReason::IngressPolicy];
        let before = reasons.map(|reason| dropped(&kernel, reason));
        let mut sent = 0u64;
        storm(&mut kernel, [&gate(false), &pod_refuses], |_| {
            for family in Family::BOTH {
                // No flow twice: one that the gate let pass before is refused as a flow.
                let port = |span: u64, from: u64| u16::try_from(from + span % 50_000).unwrap_or(80);
                let ports = (port(sent, 1024), port(sent / 50_000, 80));
                let frame = OUTSIDE.udp(family, DB, ports, b"of a mixture").with_destination_mac(NODE.mac.0);
                outside.send([0; OFFLOAD], &frame.bytes());
                sent += 1;
            }
        });
        let [at_gate, at_pod] = [0, 1].map(|which| dropped(&kernel, reasons[which]) - before[which]);
        println!("{sent} packets: {at_gate} refused at the gate, {at_pod} at the pod");
        kernel.restart(Attach::Auto);
        kernel.commit(&pods());
        let last = OUTSIDE.udp(Family::V4, DB, (1, 80), b"the last one").with_destination_mac(NODE.mac.0);
        outside.send([0; OFFLOAD], &last.bytes());
        let arrived = db.received_before(b"the last one");
        let mixed = arrived.iter().filter(|frame| frame.ends_with(b"of a mixture")).count();
        assert_eq!((mixed, at_gate + at_pod), (0, sent), "each is refused by one revision");
        assert!(at_gate > 0 && at_pod > 0, "both revisions were met");
    });
}
