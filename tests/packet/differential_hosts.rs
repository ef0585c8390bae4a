//! The differential at host endpoints: for random policies of every layer, the gates let pass what the reference evaluator does,
//! and so does what the host endpoint of all interfaces asks of pods.
//! In: generated worlds and flows: through the uplink of the node itself and forwarded, begun before a change, and of pods. Out: agreement, or the seed.
//! Invariant: every world goes the whole way: World, Desired, commit, programs attached, live program.
//! Never: pods' rules without a host endpoint; the other differential has those.

use crate::{
    differential::{frame, interface, live, mac, number_of, place_of, seed_of_now, world},
    frame::{ACK, Frame, SYN},
    kernel::{Kernel, UPLINK, on_a_node},
    table::Action,
};
use calc::World;
use model::{Cidr, Direction, FelixConfiguration, HostEndpoint, HostInterface, IfaceName, Protocol, Resource, Update};
use policy::{AtHost, Flow, HostLayer, Judgement, Verdict, View, evaluate, evaluate_at, generate::Case};
use std::{collections::BTreeSet, net::IpAddr};

/// Flows that must have gone through a gate.
const JUDGED_MIN: u32 = 10_000;

#[test]
fn the_gates_agree_with_the_reference_evaluator_in_every_layer() {
    held_in_many(1, 10, held);
}

#[test]
fn own_1_flows_that_are_there_follow_what_the_evaluator_says_after_a_change_at_gates() {
    held_in_many(10, 40, held_over_a_change);
}

#[test]
fn hep_5_hep_6_e2h_6_pods_flows_meet_the_host_endpoint_of_all_interfaces_as_the_evaluator_says() {
    held_in_many(2, 50, held_at_pods);
}

/// Worlds after which the share of refused flows is no longer chance.
const WORLDS_MAX: u64 = 200;

/// Runs seeds until so many flows were judged, of which neither too few nor too many were refused. `held` says how many of a
/// seed's flows were judged, and how many refused.
fn held_in_many(part: u64, few: u64, held: fn(&mut Kernel, u64) -> (u32, u32)) {
    let first = number_of("TORTIE_SEED").unwrap_or_else(seed_of_now);
    let least = number_of("TORTIE_FLOWS").unwrap_or(u64::from(JUDGED_MIN)) / part;
    println!("seed {first}; repeat with TORTIE_SEED={first}");
    on_a_node(|| {
        let mut kernel = Kernel::bare();
        let (mut judged, mut refused, mut seed) = (0, 0, first);
        let mixed = |judged, refused| refused > judged / few && refused < judged - judged / few;
        while judged < least || (!mixed(judged, refused) && seed - first < WORLDS_MAX) {
            let held = held(&mut kernel, seed);
            judged += u64::from(held.0);
            refused += u64::from(held.1);
            seed += 1;
        }
        println!("{judged} flows, {refused} refused, in {} worlds: programs and evaluator agree", seed - first);
        assert!(mixed(judged, refused), "{refused} of {judged} refused");
    });
}

/// Runs the case of this seed; how many flows a gate judged, and how many it refused.
fn held(kernel: &mut Kernel, seed: u64) -> (u32, u32) {
    let Case { view, flows } = Case::from_seed(seed);
    let view = here(view);
    let world = guarded(&view);
    let Some(host) = governor(&view, &world) else { return (0, 0) };
    let name = &host.name;
    wire(kernel, &view);
    kernel.put_in_force(&world);
    let (mut judged, mut refused) = (0, 0);
    for flow in &flows {
        for way in [Way::In, Way::OutOfNode, Way::OutForwarded] {
            kernel.fresh();
            let allowed = passes(kernel, way, flow);
            let expected = expected(&view, host, way, flow);
            assert_eq!(allowed, expected, "seed {seed}: {way:?} at {name}\n{flow:?}\n{view:#?}");
            judged += 1;
            refused += u32::from(!allowed);
        }
    }
    (judged, refused)
}

/// The host endpoint of the uplink.
fn governor<'a>(view: &'a View, world: &World) -> Option<&'a HostEndpoint> {
    let desired = calc::desired(world.in_sync().expect("the world is complete"));
    let spec = desired.host_endpoints.get(&IfaceName(UPLINK.into()))?;
    view.host_endpoints.iter().find(|host| host.name == spec.name)
}

fn wire(kernel: &mut Kernel, view: &View) {
    for number in 0..view.endpoints.len() {
        kernel.wire(&interface(number), &format!("pod{number}"), mac(number));
    }
}

/// Connections that are let in by the policies of one seed, and then meet those of another.
fn held_over_a_change(kernel: &mut Kernel, seed: u64) -> (u32, u32) {
    let Case { view, flows } = Case::from_seed(seed);
    let before = here(view);
    let mut after = before.clone();
    after.policies = Case::from_seed(seed ^ 1).view.policies;
    let (world, then) = (guarded(&before), guarded(&after));
    let Some(host) = governor(&before, &world) else { return (0, 0) };
    // What is not tracked is asked packet by packet, and is no flow.
    let untracked = |view: &View, flow: &Flow| {
        let at = |direction| AtHost { host, layer: HostLayer::Untracked, direction };
        [Direction::Ingress, Direction::Egress].into_iter().any(|to| evaluate_at(view, at(to), flow).is_some())
    };
    wire(kernel, &before);
    kernel.put_in_force(&world);
    kernel.fresh();
    let mut known = BTreeSet::new();
    let is_asked = |flow: &&Flow| flow.protocol == Protocol::TCP && flow.source != flow.destination;
    let opened = flows.iter().filter(is_asked).filter(|flow| !untracked(&before, flow) && !untracked(&after, flow));
    let opened = opened.filter(|flow| {
        let ends = BTreeSet::from([(flow.source, flow.source_port), (flow.destination, flow.detail)]);
        known.insert(ends) && opens(kernel, &before, flow)
    });
    let opened: Vec<&Flow> = opened.collect();
    kernel.put_in_force(&then);
    let mut refused = 0;
    for flow in &opened {
        let passes = sends(kernel, Way::In, flow, ACK);
        assert_eq!(
            passes,
            expected(&after, host, Way::In, flow),
            "seed {seed}: after a change at {}\n{flow:?}",
            host.name
        );
        refused += u32::from(!passes);
    }
    (opened.len() as u32, refused)
}

/// A whole handshake through the gate, opened from outside; whether it went through.
fn opens(kernel: &mut Kernel, view: &View, flow: &Flow) -> bool {
    let back = Flow {
        source: flow.destination,
        destination: flow.source,
        detail: flow.source_port,
        source_port: flow.detail,
        ..*flow
    };
    let answer = if is_nodes(view, flow.destination) { Way::OutOfNode } else { Way::OutForwarded };
    sends(kernel, Way::In, flow, SYN) && sends(kernel, answer, &back, SYN | ACK) && sends(kernel, Way::In, flow, ACK)
}

/// A segment of the flow with these flags.
fn sends(kernel: &mut Kernel, way: Way, flow: &Flow, flags: u8) -> bool {
    let mut frame = frame(flow);
    frame.payload[13] = flags;
    run(kernel, way, &frame)
}

/// What pods send and receive, where one host endpoint is of all interfaces.
fn held_at_pods(kernel: &mut Kernel, seed: u64) -> (u32, u32) {
    let Case { view, flows } = Case::from_seed(seed);
    let mut view = here(view);
    let Some(first) = view.host_endpoints.first_mut() else { return (0, 0) };
    first.interface = Some(HostInterface::Any);
    wire(kernel, &view);
    kernel.put_in_force(&guarded(&view));
    let host = &view.host_endpoints[0];
    let (mut judged, mut refused) = (0, 0);
    for flow in &flows {
        let Some(place) = place_of(&view, flow) else { continue };
        kernel.fresh();
        let (allowed, asked) = (live(kernel, &view, flow, place), refuses_at_pods(&view, host, flow));
        let expected = asked.is_none() && evaluate(&view, flow).verdict() != Verdict::Deny;
        assert_eq!(allowed, expected, "seed {seed}: {place:?}\n{flow:?}\nof all interfaces: {asked:?}\n{view:#?}");
        judged += 1;
        refused += u32::from(asked.is_some());
    }
    (judged, refused)
}

/// A pod's flow comes in by an interface of the node's where it sends it, and goes out by one where it receives it
/// (docs/design/packet.md, "Pods and the node").
fn refuses_at_pods(view: &View, host: &HostEndpoint, flow: &Flow) -> Option<Judgement> {
    let is_pods = |address| view.endpoints.iter().any(|endpoint| endpoint.addresses.contains(&address));
    let (sends, to_node) = (is_pods(flow.source), is_nodes(view, flow.destination));
    let asked = [
        (sends, HostLayer::PreDnat, Direction::Ingress),
        (sends && !to_node, HostLayer::Forward, Direction::Ingress),
        (is_pods(flow.destination) && !is_nodes(view, flow.source), HostLayer::Forward, Direction::Egress),
    ];
    let denies = |(_, layer, direction)| {
        evaluate_at(view, AtHost { host, layer, direction }, flow).filter(|said| said.verdict == Verdict::Deny)
    };
    asked.into_iter().filter(|(is_asked, ..)| *is_asked).find_map(denies)
}

fn is_nodes(view: &View, address: IpAddr) -> bool {
    view.host.iter().any(|net| net.contains(address))
}

/// The way of a packet through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    OutOfNode,
    OutForwarded,
}

/// The order in which a packet meets the layers (docs/design/packet.md).
fn expected(view: &View, host: &HostEndpoint, way: Way, flow: &Flow) -> bool {
    let direction = if way == Way::In { Direction::Ingress } else { Direction::Egress };
    let says = |layer| evaluate_at(view, AtHost { host, layer, direction }, flow).map(|said| said.verdict);
    let forwarded = way == Way::OutForwarded || way == Way::In && !is_nodes(view, flow.destination);
    match says(HostLayer::Untracked) {
        Some(Verdict::Allow) => return true,
        Some(Verdict::Deny) => return false,
        Some(Verdict::Next) | None => {}
    }
    let last = if forwarded { HostLayer::Forward } else { HostLayer::Local };
    says(HostLayer::PreDnat) != Some(Verdict::Deny) && says(last) != Some(Verdict::Deny)
}

fn passes(kernel: &mut Kernel, way: Way, flow: &Flow) -> bool {
    run(kernel, way, &frame(flow))
}

fn run(kernel: &mut Kernel, way: Way, frame: &Frame) -> bool {
    // By another interface: what leaves by the one it came in by may be an answer of the node's programs.
    let (uplink, other, bytes) = (IfaceName(UPLINK.into()), interface(0), frame.bytes());
    let (program, by) = match way {
        Way::In => ("from_host_endpoint", None),
        Way::OutOfNode => ("to_host_endpoint", None),
        Way::OutForwarded => ("to_host_endpoint", Some(&other)),
    };
    kernel.run_by(program, &uplink, by, &bytes).action != Action::Drop
}

/// The view's host endpoints moved to this node and its uplink.
fn here(mut view: View) -> View {
    for host in &mut view.host_endpoints {
        host.node = "node".into();
        if let Some(HostInterface::Named(name)) = &mut host.interface {
            *name = IfaceName(UPLINK.into());
        }
    }
    view
}

fn guarded(view: &View) -> World {
    let mut world = world(view);
    world.apply(Update::Set(Resource::FelixConfiguration(FelixConfiguration {
        name: FelixConfiguration::DEFAULT.into(),
        failsafe_inbound: Some(view.failsafes.inbound.clone()),
        failsafe_outbound: Some(view.failsafes.outbound.clone()),
        ..FelixConfiguration::default()
    })));
    let own = view.host.iter().map(Cidr::network).collect();
    world.set_host_interfaces([(IfaceName(UPLINK.into()), own)].into());
    world
}
