//! Services asked from outside: what the programs make of the bytes that come by the uplink, and of the answers.
//! In: packets of the network and of pods, services that the agent's own code committed. Out: packets, byte by byte.
//! Invariant: what leaves is, to the byte, what its sender would have sent to the backend itself; both families from one text.
//! Never: a checksum that only the code under test has made.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    complaints::{EXPIRED, tells},
    frame::{ACK, Frame, RST, SYN, fold, sum_of},
    kernel::{Kernel, on_a_node},
    scenario::{Rules as _, Scenario, allow, policy},
    services::{NOBODY, PORT, TARGET, VIP, goes, received, scenario, serve_as},
    table::{Action, Hook},
};
use abi::{DropReason, Outcome, endpoint::SLOT_HOST, maps};
use model::Direction;
use service::{Balance, Kind as Reached};
use std::sync::Arc;

mod errors;
mod gated;
mod hosted;

/// At an address of nobody's and at one of the node's: an external address, and a node port.
const AT: [Actor; 2] = [VIP, NODE];

/// A pod of another node.
const ELSEWHERE: Actor = Actor::outside("elsewhere", 12);

/// Who is outside gets the same as pods.
fn alike(balance: &mut Balance) {
    (balance.kind, balance.outside) = (Reached::ExternalIp, Some(Arc::clone(&balance.inside)));
}

fn served_in(scenario: &Scenario, chosen: &[Actor]) -> Kernel {
    let mut kernel = Kernel::new(scenario);
    serve_as(&mut kernel, scenario, &AT, (chosen, &[]), alike);
    kernel
}

fn served(chosen: &[Actor]) -> Kernel {
    served_in(&scenario(), chosen)
}

/// A frame of the network's to this node.
fn comes(frame: Frame) -> Vec<u8> {
    frame.with_destination_mac(NODE.mac.0).bytes()
}

/// The packet leaves by its route, as this.
fn leaves(kernel: &mut Kernel, hook: Hook, sent: &[u8], wanted: Frame) {
    let ran = kernel.run(hook, sent);
    assert_eq!(ran.action, Action::Redirect);
    let wanted = wanted.ttl(63).bytes();
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
}

#[test]
fn pkt_73_a_flow_from_outside_reads_to_its_ends_as_if_each_spoke_to_whom_it_believes() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for (vip, port) in [(VIP, 40000), (NODE, 40001)] {
            for f in Family::BOTH {
                for flags in [SYN, SYN, ACK, ACK] {
                    let answer = if flags == SYN { SYN | ACK } else { ACK };
                    let arrives = received(OUTSIDE.tcp(f, DB, (port, TARGET), flags), DB);
                    goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.tcp(f, vip, (port, PORT), flags)), &arrives);
                    let sent = DB.tcp(f, OUTSIDE, (TARGET, port), answer).bytes();
                    leaves(&mut kernel, Hook::Pod(DB), &sent, vip.tcp(f, OUTSIDE, (PORT, port), answer));
                }
                for data in [&b""[..], b"m", b"meow", b"meows"] {
                    let arrives = received(OUTSIDE.udp(f, DB, (port, TARGET), data), DB);
                    goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.udp(f, vip, (port, PORT), data)), &arrives);
                    let sent = DB.udp(f, OUTSIDE, (TARGET, port), data).bytes();
                    leaves(&mut kernel, Hook::Pod(DB), &sent, vip.udp(f, OUTSIDE, (PORT, port), data));
                    let arrives = received(OUTSIDE.sctp(f, DB, (port, TARGET), data), DB);
                    goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.sctp(f, vip, (port, PORT), data)), &arrives);
                    let sent = DB.sctp(f, OUTSIDE, (TARGET, port), data).bytes();
                    leaves(&mut kernel, Hook::Pod(DB), &sent, vip.sctp(f, OUTSIDE, (PORT, port), data));
                }
            }
        }
        // Two addresses, two families, three protocols: a flow and what leads to it, on the backend's account.
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 24);
        assert_eq!(kernel.account(kernel.slot_of(DB)), 24);
    });
}

#[test]
fn pkt_26_every_piece_of_a_datagram_from_outside_is_translated() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let data = [7; 56];
            for (offset, more) in [(0, true), (4, false)] {
                let piece = |frame: Frame| frame.fragment(offset, 32, more);
                let arrives = received(piece(OUTSIDE.udp(f, DB, (40000, TARGET), &data)), DB);
                goes(&mut kernel, Hook::Uplink, &comes(piece(OUTSIDE.udp(f, VIP, (40000, PORT), &data))), &arrives);
            }
            for (offset, more) in [(0, true), (4, false)] {
                let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(0x4242);
                let sent = piece(DB.udp(f, OUTSIDE, (TARGET, 40000), &data)).bytes();
                leaves(&mut kernel, Hook::Pod(DB), &sent, piece(VIP.udp(f, OUTSIDE, (PORT, 40000), &data)));
            }
        }
    });
}

#[test]
fn policy_judges_the_client_outside_at_the_backend() {
    on_a_node(|| {
        let closed = policy("closed", Some("db"), &[Direction::Ingress]);
        let mut kernel = served_in(&scenario().policy(closed.clone()), &[DB]);
        for f in Family::BOTH {
            let ran = kernel.run(Hook::Uplink, &comes(OUTSIDE.tcp(f, VIP, (40000, PORT), SYN)));
            assert_eq!(ran.action, Action::Drop);
        }
        assert_eq!(kernel.dropped(DropReason::IngressPolicy), [(kernel.slot_of(DB), 2)].into());
        serve_as(&mut kernel, &scenario().policy(closed.ingress(allow())), &AT, (&[DB], &[]), alike);
        let arrives = received(OUTSIDE.tcp(Family::V4, DB, (40000, TARGET), SYN), DB);
        goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.tcp(Family::V4, VIP, (40000, PORT), SYN)), &arrives);
    });
}

#[test]
fn spf_1_nobody_outside_asks_in_a_pods_name_or_is_told_anything_under_it() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for chosen in [&[DB][..], &[]] {
            serve_as(&mut kernel, &scenario(), &AT, (chosen, &[]), alike);
            for f in Family::BOTH {
                for from in [CLIENT, NODE] {
                    for frame in [from.tcp(f, VIP, (40000, PORT), SYN), from.udp(f, VIP, (40000, PORT), b"x")] {
                        assert_eq!(kernel.run(Hook::Uplink, &comes(frame)).action, Action::Drop);
                    }
                }
            }
        }
        assert_eq!(kernel.dropped(DropReason::SourceIsLocal).values().sum::<u64>(), 16);
        assert!(kernel.flows().is_empty());
    });
}

/// The answer is a RST of this address for the client's segment.
fn is_reset(f: Family, from: Actor, answer: &[u8], flags: u8) {
    let header = if f == Family::V4 { 20 } else { 40 };
    let wanted = from.tcp(f, OUTSIDE, (PORT, 40000), flags).bytes();
    let (segment, addresses) = (&answer[14 + header..], if f == Family::V4 { 26..34 } else { 22..54 });
    assert_eq!(answer[addresses.clone()], wanted[addresses.clone()], "from the service to the client");
    assert_eq!((&segment[..4], segment[13]), (&wanted[14 + header..14 + header + 4], flags));
    assert_eq!(fold(sum_of(&answer[addresses]) + 6 + 20 + sum_of(segment)), 0, "checksum");
}

#[test]
fn pkt_35_who_asks_from_outside_where_nobody_is_hears_so_unless_they_are_elsewhere() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for f in Family::BOTH {
            for vip in AT {
                let ran = kernel.run(Hook::Uplink, &comes(OUTSIDE.tcp(f, vip, (40000, PORT), SYN)));
                assert_eq!(ran.action, Action::Redirect);
                is_reset(f, vip, &ran.bytes, RST | ACK);
                let sent = comes(OUTSIDE.udp(f, vip, (40000, PORT), b"12345"));
                let ran = kernel.run(Hook::Uplink, &sent);
                assert_eq!(tells(f, &ran.bytes, OUTSIDE, NOBODY, &sent), Ok(()));
            }
        }
        assert_eq!(kernel.dropped(DropReason::NoBackend), [(0, 8)].into());
        serve_as(&mut kernel, &scenario(), &AT, (&[], &[]), |balance| {
            alike(balance);
            let silent = service::Backends { elsewhere: true, ..(*balance.inside).clone() };
            balance.outside = Some(Arc::new(silent));
        });
        for f in Family::BOTH {
            for frame in [OUTSIDE.tcp(f, VIP, (40000, PORT), SYN), OUTSIDE.udp(f, VIP, (40000, PORT), b"x")] {
                assert_eq!(kernel.run(Hook::Uplink, &comes(frame)).action, Action::Drop);
            }
        }
        assert!(kernel.flows().is_empty());
    });
}

#[test]
fn a_stray_segment_is_reset_or_the_stacks_where_the_address_is_the_nodes() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let ran = kernel.run(Hook::Uplink, &comes(OUTSIDE.tcp(f, VIP, (40000, PORT), ACK)));
            assert_eq!(ran.action, Action::Redirect);
            is_reset(f, VIP, &ran.bytes, RST);
            let sent = comes(OUTSIDE.tcp(f, NODE, (40000, PORT), ACK));
            let ran = kernel.run(Hook::Uplink, &sent);
            assert_eq!((ran.action, ran.bytes), (Action::PassOn, sent));
        }
    });
}

#[test]
fn a_cluster_ip_is_nobodys_from_outside() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        serve_as(&mut kernel, &scenario(), &[VIP], (&[DB], &[]), |_| {});
        for f in Family::BOTH {
            for frame in [OUTSIDE.tcp(f, VIP, (40000, PORT), SYN), OUTSIDE.udp(f, VIP, (40000, PORT), b"x")] {
                let sent = comes(frame);
                let ran = kernel.run(Hook::Uplink, &sent);
                assert_eq!((ran.action, ran.bytes), (Action::PassOn, sent));
            }
        }
    });
}

#[test]
fn a_change_of_backends_ends_the_flows_of_those_that_are_gone_alone() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        let segment = |f, flags| comes(OUTSIDE.tcp(f, VIP, (40000, PORT), flags));
        for f in Family::BOTH {
            kernel.run(Hook::Uplink, &segment(f, SYN));
            kernel.run(Hook::Pod(DB), &DB.tcp(f, OUTSIDE, (TARGET, 40000), SYN | ACK).bytes());
            kernel.run(Hook::Uplink, &segment(f, ACK));
        }
        serve_as(&mut kernel, &scenario(), &AT, (&[OTHER], &[DB]), alike);
        for f in Family::BOTH {
            let arrives = received(OUTSIDE.tcp(f, DB, (40000, TARGET), ACK), DB);
            goes(&mut kernel, Hook::Uplink, &segment(f, ACK), &arrives);
            let arrives = received(OUTSIDE.tcp(f, OTHER, (40001, TARGET), SYN), OTHER);
            goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.tcp(f, VIP, (40001, PORT), SYN)), &arrives);
        }
        serve_as(&mut kernel, &scenario(), &AT, (&[OTHER], &[]), alike);
        for f in Family::BOTH {
            is_reset(f, VIP, &kernel.run(Hook::Uplink, &segment(f, ACK)).bytes, RST);
        }
    });
}

#[test]
fn the_dry_twin_says_which_pod_a_packet_from_outside_would_reach_and_changes_nothing() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let answer = kernel.ask(Hook::Uplink, &comes(OUTSIDE.tcp(f, VIP, (40000, PORT), SYN)));
            assert_eq!(answer.outcome, Outcome::ToEndpoint(kernel.slot_of(DB)));
        }
        assert!(kernel.flows().is_empty());
    });
}

/// Sends a client's packet on to the backend elsewhere, and says by which port the node stands for the client.
fn sent_on(kernel: &mut Kernel, f: Family, sent: &[u8], wanted: impl Fn(u16) -> Frame) -> u16 {
    let ran = kernel.run(Hook::Uplink, sent);
    assert_eq!(ran.action, Action::Redirect);
    let at = if f == Family::V4 { 34 } else { 54 };
    let port = u16::from_be_bytes([ran.bytes[at], ran.bytes[at + 1]]);
    let wanted = wanted(port).ttl(63).bytes();
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
    assert!((1025..30_000).contains(&port), "{port}");
    port
}

#[test]
fn pkt_73_a_flow_to_a_backend_elsewhere_goes_on_as_this_nodes_and_its_answers_go_back_as_the_services() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for (vip, port) in [(VIP, 40000), (NODE, 40001)] {
            for f in Family::BOTH {
                let mut masks = Vec::new();
                for flags in [SYN, SYN, ACK, ACK] {
                    let answer = if flags == SYN { SYN | ACK } else { ACK };
                    let sent = comes(OUTSIDE.tcp(f, vip, (port, PORT), flags));
                    let mask = sent_on(&mut kernel, f, &sent, |mask| NODE.tcp(f, ELSEWHERE, (mask, TARGET), flags));
                    let sent = comes(ELSEWHERE.tcp(f, NODE, (TARGET, mask), answer));
                    leaves(&mut kernel, Hook::Uplink, &sent, vip.tcp(f, OUTSIDE, (PORT, port), answer));
                    masks.push(mask);
                }
                assert!(masks.iter().all(|mask| *mask == masks[0]), "{masks:?}");
                for data in [&b""[..], b"m", b"meow", b"meows"] {
                    let sent = comes(OUTSIDE.udp(f, vip, (port, PORT), data));
                    let mask = sent_on(&mut kernel, f, &sent, |mask| NODE.udp(f, ELSEWHERE, (mask, TARGET), data));
                    let sent = comes(ELSEWHERE.udp(f, NODE, (TARGET, mask), data));
                    leaves(&mut kernel, Hook::Uplink, &sent, vip.udp(f, OUTSIDE, (PORT, port), data));
                    let sent = comes(OUTSIDE.sctp(f, vip, (port, PORT), data));
                    let mask = sent_on(&mut kernel, f, &sent, |mask| NODE.sctp(f, ELSEWHERE, (mask, TARGET), data));
                    let sent = comes(ELSEWHERE.sctp(f, NODE, (TARGET, mask), data));
                    leaves(&mut kernel, Hook::Uplink, &sent, vip.sctp(f, OUTSIDE, (PORT, port), data));
                }
            }
        }
        // Two addresses, two families, three protocols: a flow, what leads there, what comes back, on the node's account.
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 36);
        assert_eq!(kernel.account(SLOT_HOST), 36);
    });
}

#[test]
fn pkt_26_pieces_of_a_datagram_for_a_backend_elsewhere_go_where_its_first_went_and_back() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for f in Family::BOTH {
            let data = [7; 56];
            let piece = |frame: Frame, first: bool| frame.fragment(if first { 0 } else { 4 }, 32, first);
            let first = comes(piece(OUTSIDE.udp(f, VIP, (40000, PORT), &data), true));
            let ran = kernel.run(Hook::Uplink, &first);
            let at = if f == Family::V4 { 34 } else { 62 };
            let mask = u16::from_be_bytes([ran.bytes[at], ran.bytes[at + 1]]);
            let wanted = piece(NODE.udp(f, ELSEWHERE, (mask, TARGET), &data), true).ttl(63).bytes();
            assert_eq!(ran.bytes[14..], wanted[14..]);
            let later = comes(piece(OUTSIDE.udp(f, VIP, (40000, PORT), &data), false));
            leaves(&mut kernel, Hook::Uplink, &later, piece(NODE.udp(f, ELSEWHERE, (mask, TARGET), &data), false));
            for first in [true, false] {
                let answers = |frame: Frame| piece(frame, first).identified(0x4242);
                let sent = comes(answers(ELSEWHERE.udp(f, NODE, (TARGET, mask), &data)));
                leaves(&mut kernel, Hook::Uplink, &sent, answers(VIP.udp(f, OUTSIDE, (PORT, 40000), &data)));
            }
        }
    });
}

#[test]
fn a_port_at_which_a_socket_of_the_hosts_listens_stands_for_nobody() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        // A socket that is closed may be heard by for a moment yet: a process that was just started has it until it runs.
        for (f, port) in Family::BOTH.into_iter().zip([40_000, 40_001]) {
            let tcp = comes(OUTSIDE.tcp(f, VIP, (port, PORT), SYN));
            let sent_tcp =
                |kernel: &mut Kernel| sent_on(kernel, f, &tcp, |mask| NODE.tcp(f, ELSEWHERE, (mask, TARGET), SYN));
            let udp = comes(OUTSIDE.udp(f, VIP, (port, PORT), b"x"));
            let sent_udp =
                |kernel: &mut Kernel| sent_on(kernel, f, &udp, |mask| NODE.udp(f, ELSEWHERE, (mask, TARGET), b"x"));
            let before = (sent_tcp(&mut kernel), sent_udp(&mut kernel));
            kernel.fresh();
            assert_eq!((sent_tcp(&mut kernel), sent_udp(&mut kernel)), before, "the same flows once more");
            kernel.fresh();
            let any = std::net::Ipv6Addr::UNSPECIFIED;
            let listener = std::net::TcpListener::bind((any, before.0)).expect("the port is free");
            let socket = std::net::UdpSocket::bind((any, before.1)).expect("the port is free");
            let now = (sent_tcp(&mut kernel), sent_udp(&mut kernel));
            assert!(now.0 != before.0 && now.1 != before.1, "{now:?} {before:?}");
            drop((listener, socket));
            kernel.fresh();
        }
    });
}

#[test]
fn a_packet_for_a_backend_elsewhere_whose_hops_are_spent_is_told_of_as_it_was_sent() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for f in Family::BOTH {
            let sent = comes(OUTSIDE.udp(f, VIP, (40000, PORT), b"12345").ttl(1));
            let ran = kernel.run(Hook::Uplink, &sent);
            assert_eq!(tells(f, &ran.bytes, OUTSIDE, EXPIRED, &sent), Ok(()));
            let sent = comes(OUTSIDE.udp(f, VIP, (40000, PORT), b"12345"));
            let mask = sent_on(&mut kernel, f, &sent, |mask| NODE.udp(f, ELSEWHERE, (mask, TARGET), b"12345"));
            let sent = comes(ELSEWHERE.udp(f, NODE, (TARGET, mask), b"54321").ttl(1));
            let ran = kernel.run(Hook::Uplink, &sent);
            assert_eq!(tells(f, &ran.bytes, ELSEWHERE, EXPIRED, &sent), Ok(()));
        }
    });
}

#[test]
fn who_asks_from_outside_as_this_node_is_sent_on_to_nobody() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for f in Family::BOTH {
            for from in [NODE, CLIENT] {
                let ran = kernel.run(Hook::Uplink, &comes(from.tcp(f, VIP, (40000, PORT), SYN)));
                assert_eq!(ran.action, Action::Drop);
            }
        }
        assert_eq!(kernel.dropped(DropReason::SourceIsLocal).values().sum::<u64>(), 4);
        assert!(kernel.flows().is_empty());
    });
}

#[test]
fn pkt_30_an_error_about_an_answer_to_a_client_outside_reaches_the_backend_as_about_its_own() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            kernel.run(Hook::Uplink, &comes(OUTSIDE.udp(f, VIP, (40000, PORT), b"x")));
            let answer = |from: Actor, port| from.udp(f, OUTSIDE, (port, 40000), b"12345678").ttl(63);
            // A router on the way to the client says it.
            let error = comes(ELSEWHERE.unreachable(f, VIP, &answer(VIP, PORT)));
            let arrives = received(ELSEWHERE.unreachable(f, DB, &answer(DB, TARGET)), DB);
            goes(&mut kernel, Hook::Uplink, &error, &arrives);
            let other = comes(ELSEWHERE.unreachable(f, VIP, &answer(VIP, PORT + 1)));
            let ran = kernel.run(Hook::Uplink, &other);
            assert_eq!((ran.action, ran.bytes), (Action::PassOn, other), "about no flow: not ours");
        }
    });
}

/// Who may ask: of IPv4 the networks that this client outside and this pod are in, of IPv6 that client's address alone.
const RANGES: [&str; 3] = ["192.0.2.8/30", "10.65.0.2/32", "2001:db8::9/128"];

#[test]
fn who_is_in_no_source_range_of_a_load_balancer_hears_nothing() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let ranged = |balance: &mut Balance| {
            alike(balance);
            balance.kind = Reached::LoadBalancer;
            let family = balance.inside.chosen.first().map(|backend| backend.address.is_ipv4());
            let own = RANGES.iter().filter(|net| Some(!net.contains(':')) == family);
            balance.sources = Some(own.map(|net| net.parse().expect("a network")).collect());
        };
        serve_as(&mut kernel, &scenario(), &AT, (&[DB], &[]), ranged);
        for f in Family::BOTH {
            let arrives = received(OUTSIDE.tcp(f, DB, (40000, TARGET), SYN), DB);
            goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.tcp(f, VIP, (40000, PORT), SYN)), &arrives);
            let arrives = received(OUTSIDE.udp(f, DB, (40000, TARGET), b"x"), DB);
            goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.udp(f, NODE, (40000, PORT), b"x")), &arrives);
            for frame in [ELSEWHERE.tcp(f, VIP, (40000, PORT), SYN), ELSEWHERE.udp(f, VIP, (40000, PORT), b"x")] {
                assert_eq!(kernel.ask(Hook::Uplink, &comes(frame.clone())).outcome, NO_BACKEND);
                assert_eq!(kernel.run(Hook::Uplink, &comes(frame)).action, Action::Drop);
            }
            let sent = OTHER.tcp(f, VIP, (40000, PORT), SYN).bytes();
            assert_eq!(kernel.ask(Hook::Pod(OTHER), &sent).outcome, NO_BACKEND);
            assert_eq!(kernel.run(Hook::Pod(OTHER), &sent).action, Action::Drop);
        }
        let arrives = received(CLIENT.tcp(Family::V4, DB, (40000, TARGET), SYN), DB);
        goes(&mut kernel, Hook::Pod(CLIENT), &CLIENT.tcp(Family::V4, VIP, (40000, PORT), SYN).bytes(), &arrives);
        let ran = kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(Family::V6, VIP, (40000, PORT), SYN).bytes());
        assert_eq!(ran.action, Action::Drop, "of IPv6 it is in no range");
        assert_eq!(kernel.dropped(DropReason::NoBackend).values().sum::<u64>(), 7);
    });
}

const NO_BACKEND: Outcome = Outcome::Drop(DropReason::NoBackend);

#[test]
fn a_client_is_found_among_thousands_of_source_ranges() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        // Every other address of 192.0.0.0/20, the client among them.
        let others = (0..1u32 << 11).map(|number| format!("{}/32", std::net::Ipv4Addr::from(0xc000_0001 + 2 * number)));
        let nets: Arc<[_]> = others.map(|text| text.parse().expect("a network")).collect();
        serve_as(&mut kernel, &scenario(), &[VIP], (&[DB], &[]), |balance| {
            alike(balance);
            (balance.kind, balance.sources) = (Reached::LoadBalancer, Some(Arc::clone(&nets)));
        });
        for (actor, action) in [(OUTSIDE, Action::Redirect), (ELSEWHERE, Action::Drop)] {
            let ran = kernel.run(Hook::Uplink, &comes(actor.tcp(Family::V4, VIP, (40000, PORT), SYN)));
            assert_eq!(ran.action, action, "{}", actor.name);
        }
    });
}

#[test]
fn a_flow_to_an_address_of_several_nodes_goes_to_the_same_backend_whatever_was_there_before() {
    let went = |first: &[Actor]| {
        let mut went = Vec::new();
        on_a_node(|| {
            let mut kernel = served(first);
            serve_as(&mut kernel, &scenario(), &AT, (&[CLIENT, DB, OTHER], &[]), alike);
            for port in 40000..40060 {
                let sent = comes(OUTSIDE.tcp(Family::V4, VIP, (port, PORT), SYN));
                let ran = kernel.run(Hook::Uplink, &sent);
                assert_eq!(ran.action, Action::Redirect);
                let to = [CLIENT, DB, OTHER].into_iter().position(|actor| ran.bytes[..6] == actor.mac.0);
                went.push(to.expect("one of them"));
            }
        });
        went
    };
    let (mine, others) = (went(&[OTHER]), went(&[DB]));
    assert_eq!(mine, others);
    for actor in 0..3 {
        let count = mine.iter().filter(|to| **to == actor).count();
        assert!((8..35).contains(&count), "{actor} got {count} of 60");
    }
}
