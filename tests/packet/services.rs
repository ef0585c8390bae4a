//! Services: what the programs make of the bytes of a packet to one, and of its answers.
//! In: packets of pods and of the network, services that the agent's own code committed. Out: packets, byte by byte.
//! Invariant: what leaves is, to the byte, what its sender would have sent to the backend itself; both families from one text.
//! Never: a checksum that only the code under test has made.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    complaints::{Kind, tells},
    frame::{ACK, Frame, GATEWAY_MAC, RST, SYN, fold, sum_of},
    kernel::{Kernel, on_a_node},
    scenario::Scenario,
    table::{Action, By, Hook},
};
use abi::{DropReason, Outcome, handover::UNJUDGED, maps};
use dataplane::Gauges;
use model::{NamespaceName, Protocol, ServiceId, ServicePortId};
use service::{Backend, Backends, Balance, Frontend, Kind as Reached};
use std::sync::Arc;

pub mod errors;
mod own;
mod sctp;
mod summed;

/// An address that nobody has.
pub const VIP: Actor = Actor::pod("vip", 99);
pub const PORT: u16 = 443;
pub const TARGET: u16 = 8080;
pub const NOBODY: Kind = Kind { v4: (3, 3, 0), v6: (1, 4, 0) };

pub fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

/// A port of the service.
fn port(name: &str) -> ServicePortId {
    let service = ServiceId { namespace: NamespaceName::from("default"), name: "shop".into() };
    ServicePortId { service, port: name.into() }
}

/// A service of both families and of TCP, UDP and SCTP; its new flows go to the first, and the second are only listed.
fn serve(kernel: &mut Kernel, chosen: &[Actor], listed: &[Actor]) {
    serve_in(&scenario(), kernel, chosen, listed);
}

pub fn serve_in(scenario: &Scenario, kernel: &mut Kernel, chosen: &[Actor], listed: &[Actor]) {
    serve_as(kernel, scenario, &[VIP], (chosen, listed), |_| {});
}

/// The same over a scenario, at these addresses, and otherwise different.
pub fn serve_as(
    kernel: &mut Kernel,
    scenario: &Scenario,
    at: &[Actor],
    behind: (&[Actor], &[Actor]),
    differs: impl Fn(&mut Balance),
) {
    serve_by(kernel, scenario, at, behind, (false, differs));
}

/// The same; `by_host`: by a foreign proxy in the host's stack.
fn serve_by(
    kernel: &mut Kernel,
    scenario: &Scenario,
    at: &[Actor],
    (chosen, listed): (&[Actor], &[Actor]),
    (by_host, differs): (bool, impl Fn(&mut Balance)),
) {
    let world = scenario.world();
    let mut desired = calc::desired(world.in_sync().expect("the world is complete"));
    desired.node.translates = by_host;
    for (name, protocol) in [("tcp", Protocol::TCP), ("udp", Protocol::UDP), ("sctp", Protocol::SCTP)] {
        for family in Family::BOTH {
            let those = |actors: &[Actor]| -> Arc<[Backend]> {
                actors.iter().map(|actor| Backend { address: actor.address(family), port: TARGET }).collect()
            };
            let all = [chosen, listed].concat();
            let inside = Arc::new(Backends { chosen: those(chosen), listed: those(&all), elsewhere: false });
            let mut balance = Balance {
                of: port(name),
                kind: Reached::ClusterIp,
                inside,
                outside: None,
                keeps_source: false,
                has_outside: false,
                affinity_s: None,
                sources: None,
                by_host,
            };
            differs(&mut balance);
            let balance = Arc::new(balance);
            for vip in at {
                let frontend = Frontend { address: vip.address(family), protocol, port: PORT };
                desired.services.insert(frontend, Arc::clone(&balance));
            }
        }
    }
    let applied = kernel.dataplane.apply(&desired);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    kernel.dataplane.settle();
}

fn served(chosen: &[Actor]) -> Kernel {
    let mut kernel = Kernel::new(&scenario());
    serve(&mut kernel, chosen, &[]);
    kernel
}

/// A packet as a pod here gets it.
pub fn received(frame: Frame, by: Actor) -> Vec<u8> {
    frame.ttl(63).with_source_mac(GATEWAY_MAC).with_destination_mac(by.mac.0).bytes()
}

/// The packet goes on to a pod, as this.
pub fn goes(kernel: &mut Kernel, hook: Hook, sent: &[u8], wanted: &[u8]) {
    let ran = kernel.run(hook, sent);
    assert_eq!(ran.action, Action::Redirect);
    assert_eq!(ran.bytes, wanted, "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
}

#[test]
fn pkt_73_a_flow_through_a_service_reads_to_its_ends_as_if_each_spoke_to_whom_it_believes() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let (to, from) = (Hook::Pod(CLIENT), Hook::Pod(DB));
            for flags in [SYN, SYN, ACK, ACK] {
                let (ask, answer) = ((40000, PORT), if flags == SYN { SYN | ACK } else { ACK });
                let arrives = received(CLIENT.tcp(f, DB, (40000, TARGET), flags), DB);
                goes(&mut kernel, to, &CLIENT.tcp(f, VIP, ask, flags).bytes(), &arrives);
                let arrives = received(VIP.tcp(f, CLIENT, (PORT, 40000), answer), CLIENT);
                goes(&mut kernel, from, &DB.tcp(f, CLIENT, (TARGET, 40000), answer).bytes(), &arrives);
            }
            for data in [&b""[..], b"m", b"meow", b"meows"] {
                let arrives = received(CLIENT.udp(f, DB, (40000, TARGET), data), DB);
                goes(&mut kernel, to, &CLIENT.udp(f, VIP, (40000, PORT), data).bytes(), &arrives);
                let arrives = received(VIP.udp(f, CLIENT, (PORT, 40000), data), CLIENT);
                goes(&mut kernel, from, &DB.udp(f, CLIENT, (TARGET, 40000), data).bytes(), &arrives);
            }
        }
        // Two families, two protocols: a flow and what leads to it.
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 8);
    });
}

/// The stack gets the packet, or goes on with it, as it is.
fn passes(kernel: &mut Kernel, hook: Hook, sent: Frame, mark: u32) {
    let sent = sent.bytes();
    let ran = kernel.run(hook, &sent);
    assert_eq!((ran.action, ran.mark & UNJUDGED), (Action::PassOn, mark));
    assert_eq!(ran.bytes, sent);
}

#[test]
fn what_a_foreign_proxy_serves_goes_up_and_comes_down_again_as_it_is_and_its_answers_go_the_same_way() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        serve_by(&mut kernel, &scenario(), &[VIP], (&[DB], &[]), (true, |_: &mut Balance| {}));
        let (client, db) = (Hook::Pod(CLIENT), Hook::Pod(DB));
        let (to_db, to_client) = (Hook::ToPod(DB, By::Pod(CLIENT)), Hook::ToPod(CLIENT, By::Pod(DB)));
        for f in Family::BOTH {
            for flags in [SYN, ACK, ACK] {
                let answer = if flags == SYN { SYN | ACK } else { ACK };
                passes(&mut kernel, client, CLIENT.tcp(f, VIP, (40000, PORT), flags), UNJUDGED);
                passes(&mut kernel, to_db, CLIENT.tcp(f, DB, (40000, TARGET), flags), 0);
                passes(&mut kernel, db, DB.tcp(f, CLIENT, (TARGET, 40000), answer), 0);
                passes(&mut kernel, to_client, VIP.tcp(f, CLIENT, (PORT, 40000), answer), 0);
                // One whose backend is elsewhere.
                passes(&mut kernel, client, CLIENT.udp(f, VIP, (40001, PORT), b"m"), UNJUDGED);
                passes(&mut kernel, Hook::Out(By::Pod(CLIENT)), CLIENT.udp(f, OUTSIDE, (40001, TARGET), b"m"), 0);
                let answer = OUTSIDE.udp(f, CLIENT, (TARGET, 40001), b"m").with_destination_mac(NODE.mac.0);
                passes(&mut kernel, Hook::Uplink, answer, 0);
                passes(&mut kernel, Hook::ToPod(CLIENT, By::Uplink), VIP.udp(f, CLIENT, (PORT, 40001), b"m"), 0);
            }
        }
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 8, "two entries a flow");
        // The switch back: these go on by their entries, new ones are translated here.
        serve(&mut kernel, &[DB], &[]);
        for f in Family::BOTH {
            passes(&mut kernel, client, CLIENT.tcp(f, VIP, (40000, PORT), ACK), UNJUDGED);
            passes(&mut kernel, db, DB.tcp(f, CLIENT, (TARGET, 40000), ACK), 0);
            let arrives = received(CLIENT.tcp(f, DB, (40002, TARGET), SYN), DB);
            goes(&mut kernel, client, &CLIENT.tcp(f, VIP, (40002, PORT), SYN).bytes(), &arrives);
        }
    });
}

#[test]
fn pkt_26_every_piece_of_a_datagram_is_translated() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let data = [7; 56];
            for (offset, more) in [(0, true), (4, false)] {
                let piece = |frame: Frame| frame.fragment(offset, 32, more);
                let arrives = received(piece(CLIENT.udp(f, DB, (40000, TARGET), &data)), DB);
                goes(
                    &mut kernel,
                    Hook::Pod(CLIENT),
                    &piece(CLIENT.udp(f, VIP, (40000, PORT), &data)).bytes(),
                    &arrives,
                );
            }
            for (offset, more) in [(0, true), (4, false)] {
                let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(0x4242);
                let arrives = received(piece(VIP.udp(f, CLIENT, (PORT, 40000), &data)), CLIENT);
                goes(&mut kernel, Hook::Pod(DB), &piece(DB.udp(f, CLIENT, (TARGET, 40000), &data)).bytes(), &arrives);
            }
        }
    });
}

#[test]
fn a_backend_beyond_the_uplink_is_sent_to_by_its_route_and_answers_as_the_service() {
    on_a_node(|| {
        let mut kernel = served(&[OUTSIDE]);
        for f in Family::BOTH {
            let ran = kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes());
            assert_eq!(ran.action, Action::Redirect);
            let wanted = CLIENT.tcp(f, OUTSIDE, (40000, TARGET), SYN).ttl(63).bytes();
            assert_eq!(ran.bytes[14..], wanted[14..]);
            let answer = OUTSIDE.tcp(f, CLIENT, (TARGET, 40000), SYN | ACK).with_destination_mac(NODE.mac.0).bytes();
            goes(&mut kernel, Hook::Uplink, &answer, &received(VIP.tcp(f, CLIENT, (PORT, 40000), SYN | ACK), CLIENT));
        }
    });
}

/// The answer is the service's RST for the client's segment.
fn is_reset(f: Family, answer: &[u8], flags: u8) {
    let header = if f == Family::V4 { 20 } else { 40 };
    let wanted = VIP.tcp(f, CLIENT, (PORT, 40000), flags).bytes();
    let (segment, addresses) = (&answer[14 + header..], if f == Family::V4 { 26..34 } else { 22..54 });
    assert_eq!(answer[..6], CLIENT.mac.0);
    assert_eq!(answer[addresses.clone()], wanted[addresses.clone()], "from the service to the client");
    assert_eq!((&segment[..4], segment[13]), (&wanted[14 + header..14 + header + 4], flags));
    assert_eq!(fold(sum_of(&answer[addresses]) + 6 + 20 + sum_of(segment)), 0, "checksum");
}

#[test]
fn pkt_35_a_service_without_backends_answers_a_connection_by_a_rst_and_a_datagram_by_port_unreachable() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for f in Family::BOTH {
            let ran = kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes());
            assert_eq!(ran.action, Action::Redirect, "back into the pod");
            is_reset(f, &ran.bytes, RST | ACK);
            let sent = CLIENT.udp(f, VIP, (40000, PORT), b"12345").bytes();
            let ran = kernel.run(Hook::Pod(CLIENT), &sent);
            assert_eq!(tells(f, &ran.bytes, CLIENT, NOBODY, &sent), Ok(()));
        }
        let slot = kernel.slot_of(CLIENT);
        assert_eq!(kernel.dropped(DropReason::NoBackend), [(slot, 4)].into());
        assert!(kernel.flows().is_empty());
    });
}

#[test]
fn a_connection_to_a_backend_that_is_gone_is_reset_and_a_datagram_goes_to_another() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        let hook = Hook::Pod(CLIENT);
        for f in Family::BOTH {
            kernel.run(hook, &CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes());
            kernel.run(Hook::Pod(DB), &DB.tcp(f, CLIENT, (TARGET, 40000), SYN | ACK).bytes());
            kernel.run(hook, &CLIENT.tcp(f, VIP, (40000, PORT), ACK).bytes());
            kernel.run(hook, &CLIENT.udp(f, VIP, (40000, PORT), b"x").bytes());
        }
        // About to go: what is there goes on.
        serve(&mut kernel, &[OTHER], &[DB]);
        for f in Family::BOTH {
            let arrives = received(CLIENT.tcp(f, DB, (40000, TARGET), ACK), DB);
            goes(&mut kernel, hook, &CLIENT.tcp(f, VIP, (40000, PORT), ACK).bytes(), &arrives);
            let arrives = received(CLIENT.tcp(f, OTHER, (40001, TARGET), SYN), OTHER);
            goes(&mut kernel, hook, &CLIENT.tcp(f, VIP, (40001, PORT), SYN).bytes(), &arrives);
        }
        serve(&mut kernel, &[OTHER], &[]);
        for f in Family::BOTH {
            let ran = kernel.run(hook, &CLIENT.tcp(f, VIP, (40000, PORT), ACK).bytes());
            assert_eq!(ran.action, Action::Redirect);
            is_reset(f, &ran.bytes, RST);
            let arrives = received(CLIENT.udp(f, OTHER, (40000, TARGET), b"x"), OTHER);
            goes(&mut kernel, hook, &CLIENT.udp(f, VIP, (40000, PORT), b"x").bytes(), &arrives);
        }
        assert_eq!(kernel.dropped(DropReason::BackendGone).values().sum::<u64>(), 2);
    });
}

#[test]
fn two_flows_that_would_share_addresses_and_ports_at_a_backend_are_not_mixed_up() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let straight = CLIENT.tcp(f, DB, (40000, TARGET), SYN);
            goes(&mut kernel, Hook::Pod(CLIENT), &straight.clone().bytes(), &received(straight, DB));
            let ran = kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes());
            assert_eq!(ran.action, Action::Drop);
        }
        let slot = kernel.slot_of(CLIENT);
        assert_eq!(kernel.dropped(DropReason::NatCollision), [(slot, 2)].into());
    });
}

#[test]
fn agt_8_a_restarted_agent_knows_the_services_again_and_no_flow_is_cut() {
    on_a_node(|| {
        let mut kernel = served(&[DB, OTHER]);
        let hook = Hook::Pod(CLIENT);
        let mut went = Vec::new();
        for port in 40000..40010 {
            went.push(kernel.run(hook, &CLIENT.tcp(Family::V4, VIP, (port, PORT), SYN).bytes()).bytes);
        }
        let entries = kernel.entries(&maps::NEWFLOW).len();
        kernel.restart(dataplane::Attach::Auto);
        for again in 0..2 {
            for (port, before) in (40000..40010).zip(&went) {
                let ran = kernel.run(hook, &CLIENT.tcp(Family::V4, VIP, (port, PORT), SYN).bytes());
                assert_eq!(&ran.bytes, before, "port {port}, {again}");
            }
            serve(&mut kernel, &[DB, OTHER], &[]);
        }
        assert_eq!(kernel.entries(&maps::NEWFLOW).len(), entries);
    });
}

#[test]
fn flows_are_counted_where_they_are_opened_and_a_restarted_agent_goes_on_counting() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        let hook = Hook::Pod(CLIENT);
        for f in Family::BOTH {
            let first = CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes();
            kernel.ask(hook, &first);
            for frame in [&first, &first, &CLIENT.tcp(f, VIP, (40001, PORT), SYN).bytes()] {
                kernel.run(hook, frame);
            }
            let at = |port| Frontend { address: VIP.address(f), protocol: Protocol::TCP, port };
            let to = Backend { address: DB.address(f), port: TARGET };
            let counted = kernel.dataplane.counts_of(&port("tcp"));
            assert_eq!((counted.frontends.get(&at(PORT)), counted.backends.get(&to)), (Some(&(2, 0)), Some(&2)));
            assert_eq!(counted.frontends.get(&at(80)), None);
        }
        kernel.restart(dataplane::Attach::Auto);
        serve(&mut kernel, &[], &[DB]);
        kernel.run(hook, &CLIENT.tcp(Family::V4, VIP, (40002, PORT), SYN).bytes());
        let counted = kernel.dataplane.counts_of(&port("tcp"));
        let (at, to): (Vec<_>, Vec<_>) = (counted.frontends.values().collect(), counted.backends.values().collect());
        assert_eq!((at, to), (vec![&(2, 1), &(2, 0)], vec![&2, &2]));
        // Gone and come back, it is another.
        serve(&mut kernel, &[], &[]);
        serve(&mut kernel, &[DB], &[]);
        assert!(kernel.dataplane.counts_of(&port("tcp")).backends.values().all(|opened| *opened == 0));
        // So is a service; what it counted stays in the sum of all.
        let all = |kernel: &Kernel| {
            let maps = kernel.pins_dir();
            let gauges = Gauges::open(maps.parent().expect("a directory")).expect("the maps are there");
            gauges.service_flows().expect("they can be read")
        };
        assert_eq!(all(&kernel), (4, 1));
        let world = scenario().world();
        kernel.dataplane.apply(&calc::desired(world.in_sync().expect("the world is complete")));
        kernel.dataplane.settle();
        serve(&mut kernel, &[OTHER], &[]);
        let counted = kernel.dataplane.counts_of(&port("tcp"));
        assert!(counted.frontends.len() == 2 && counted.frontends.values().all(|counts| *counts == (0, 0)));
        assert_eq!(all(&kernel), (4, 1));
    });
}

#[test]
fn own_5_a_pod_that_is_sent_to_itself_hears_the_service() {
    on_a_node(|| {
        let mut kernel = served(&[CLIENT]);
        for f in Family::BOTH {
            for flags in [SYN, ACK] {
                let answer = if flags == SYN { SYN | ACK } else { ACK };
                let arrives = received(VIP.tcp(f, CLIENT, (40000, TARGET), flags), CLIENT);
                goes(&mut kernel, Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (40000, PORT), flags).bytes(), &arrives);
                let arrives = received(VIP.tcp(f, CLIENT, (PORT, 40000), answer), CLIENT);
                goes(&mut kernel, Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (TARGET, 40000), answer).bytes(), &arrives);
            }
            let arrives = received(VIP.udp(f, CLIENT, (40000, TARGET), b"odd"), CLIENT);
            goes(&mut kernel, Hook::Pod(CLIENT), &CLIENT.udp(f, VIP, (40000, PORT), b"odd").bytes(), &arrives);
        }
    });
}

#[test]
fn the_dry_twin_says_which_pod_a_packet_to_a_service_would_reach_and_changes_nothing() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let answer = kernel.ask(Hook::Pod(CLIENT), &CLIENT.tcp(f, VIP, (40000, PORT), SYN).bytes());
            assert_eq!(answer.outcome, Outcome::ToEndpoint(kernel.slot_of(DB)));
        }
        assert!(kernel.flows().is_empty());
    });
}
