//! The differential at host endpoints: for random policies of every layer, the gates let pass what the reference evaluator does.
//! In: generated worlds and flows, both ways through the uplink, of the node itself and forwarded. Out: agreement, or the seed.
//! Invariant: every world goes the whole way: World, Desired, commit, programs attached, live program.
//! Never: a pod's own rules; the other differential has those.

use crate::{
    differential::{frame, interface, mac, number_of, seed_of_now, world},
    kernel::{Kernel, UPLINK, on_a_node},
    table::Action,
};
use calc::World;
use model::{Cidr, Direction, FelixConfiguration, HostEndpoint, HostInterface, IfaceName, Resource, Update};
use policy::{AtHost, Flow, HostLayer, Verdict, View, evaluate_at, generate::Case};

/// Flows that must have gone through a gate.
const JUDGED_MIN: u32 = 10_000;

#[test]
fn the_gates_agree_with_the_reference_evaluator_in_every_layer() {
    let first = number_of("TORTIE_SEED").unwrap_or_else(seed_of_now);
    let least = number_of("TORTIE_FLOWS").unwrap_or(u64::from(JUDGED_MIN));
    println!("seed {first}; repeat with TORTIE_SEED={first}");
    on_a_node(|| {
        let mut kernel = Kernel::bare();
        let (mut judged, mut refused, mut seed) = (0, 0, first);
        while judged < least {
            let held = held(&mut kernel, seed);
            judged += u64::from(held.0);
            refused += u64::from(held.1);
            seed += 1;
        }
        println!("{judged} flows, {refused} refused, in {} worlds: gates and evaluator agree", seed - first);
        assert!(refused > judged / 10 && refused < judged - judged / 10, "{refused} of {judged} refused");
    });
}

/// Runs the case of this seed; how many flows a gate judged, and how many it refused.
fn held(kernel: &mut Kernel, seed: u64) -> (u32, u32) {
    let Case { view, flows } = Case::from_seed(seed);
    let view = here(view);
    let world = guarded(&view);
    let uplink = IfaceName(UPLINK.into());
    let desired = calc::desired(world.in_sync().expect("the world is complete"));
    let Some(name) = desired.host_endpoints.get(&uplink).map(|spec| spec.name.clone()) else { return (0, 0) };
    let host = view.host_endpoints.iter().find(|host| host.name == name).expect("it is one of the view's");
    for number in 0..view.endpoints.len() {
        kernel.wire(&interface(number), &format!("pod{number}"), mac(number));
    }
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
    let is_nodes = |net: &Cidr| net.contains(flow.destination);
    let forwarded = way == Way::OutForwarded || way == Way::In && !view.host.iter().any(is_nodes);
    match says(HostLayer::Untracked) {
        Some(Verdict::Allow) => return true,
        Some(Verdict::Deny) => return false,
        Some(Verdict::Next) | None => {}
    }
    let last = if forwarded { HostLayer::Forward } else { HostLayer::Local };
    says(HostLayer::PreDnat) != Some(Verdict::Deny) && says(last) != Some(Verdict::Deny)
}

fn passes(kernel: &mut Kernel, way: Way, flow: &Flow) -> bool {
    // By another interface: what leaves by the one it came in by may be an answer of the node's programs.
    let (uplink, other, bytes) = (IfaceName(UPLINK.into()), interface(0), frame(flow).bytes());
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
        deny_action: None,
        endpoint_to_host: None,
        failsafe_inbound: Some(view.failsafes.inbound.clone()),
        failsafe_outbound: Some(view.failsafes.outbound.clone()),
    })));
    let own = view.host.iter().map(Cidr::network).collect();
    world.set_host_interfaces([(IfaceName(UPLINK.into()), own)].into());
    world
}
