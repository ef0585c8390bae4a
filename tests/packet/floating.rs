//! Floating addresses: what the programs make of the bytes of a packet to one, and of its answers.
//! In: packets of pods, of the network and of the node itself, to an address that floats to a pod by its manifest. Out: packets,
//! byte by byte.
//! Invariant: what leaves is, to the byte, what its sender would have sent to the pod itself, and back; both families from one text.
//! Never: a checksum that only the code under test has made.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, Frame, GATEWAY_MAC, SYN},
    kernel::{Kernel, on_a_node},
    scenario::{Rules as _, Scenario, allow, policy},
    services::{
        errors::{ROUTER, error, words},
        goes, received,
    },
    table::{Action, By, Hook},
};
use abi::{DropReason, Outcome, maps};
use model::Direction;

/// An address of nobody's, that floats to the db.
const FLOAT: Actor = Actor::outside("float", 99);
const ID: u16 = 7;

fn pods() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

fn scenario() -> Scenario {
    pods().floating(DB, FLOAT)
}

/// A packet of each protocol, and its answer; a client's port is the number.
type Packet = fn(Family, Actor, Actor, (u16, u16)) -> Frame;
const PACKETS: [(Packet, Packet); 6] = [
    (|f, from, to, ports| from.tcp(f, to, ports, SYN), |f, from, to, ports| from.tcp(f, to, ports, SYN | ACK)),
    (udp, udp),
    (sctp, sctp),
    (|f, from, to, (id, _)| from.ping(f, to, id), |f, from, to, (_, id)| from.pong(f, to, id)),
    (lite, lite),
    (gre, gre),
];

fn udp(f: Family, from: Actor, to: Actor, ports: (u16, u16)) -> Frame {
    from.udp(f, to, ports, b"meow")
}

fn sctp(f: Family, from: Actor, to: Actor, ports: (u16, u16)) -> Frame {
    from.sctp_init(f, to, ports)
}

/// A UDP-Lite datagram, whose checksum covers as much as that of UDP.
fn lite(f: Family, from: Actor, to: Actor, ports: (u16, u16)) -> Frame {
    Frame { protocol: 136, ..udp(f, from, to, ports) }
}

/// A protocol without ports, and with no sum over its addresses.
fn gre(f: Family, from: Actor, to: Actor, _: (u16, u16)) -> Frame {
    from.ip(f, to, 47, vec![0, 0, 8, 0, 1, 2, 3, 4])
}

/// A frame of the network's to this node.
fn comes(frame: Frame) -> Vec<u8> {
    frame.with_destination_mac(NODE.mac.0).bytes()
}

/// As the host sends it to a pod.
fn of_node(frame: Frame) -> Frame {
    frame.with_source_mac(GATEWAY_MAC).with_destination_mac(DB.mac.0)
}

/// The packet goes on through the stack, or to the pod behind this hook, as this.
fn passes(kernel: &mut Kernel, hook: Hook, sent: &Frame, wanted: &Frame) {
    let ran = kernel.run(hook, &sent.bytes());
    assert_eq!(ran.action, Action::PassOn);
    let wanted = wanted.clone().with_source_mac(sent.source_mac).bytes();
    assert_eq!(ran.bytes, wanted, "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
}

/// The packet leaves by its route, as this.
fn leaves(kernel: &mut Kernel, sent: &Frame, wanted: Frame) {
    let ran = kernel.run(Hook::Pod(DB), &sent.bytes());
    assert_eq!(ran.action, Action::Redirect);
    let wanted = wanted.ttl(63).bytes();
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
}

#[test]
fn spf_4_a_pod_reads_what_was_sent_to_its_floating_address_as_sent_to_itself_and_its_answers_as_of_that_address() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for f in Family::BOTH {
            for (asks, answers) in PACKETS {
                for _ in 0..3 {
                    let (there, back) = ((ID, 80), (80, ID));
                    let asked = received(asks(f, CLIENT, DB, there), DB);
                    goes(&mut kernel, Hook::Pod(CLIENT), &asks(f, CLIENT, FLOAT, there).bytes(), &asked);
                    let heard = received(answers(f, FLOAT, CLIENT, back), CLIENT);
                    goes(&mut kernel, Hook::Pod(DB), &answers(f, DB, CLIENT, back).bytes(), &heard);
                    let asked = received(asks(f, OUTSIDE, DB, there), DB);
                    goes(&mut kernel, Hook::Uplink, &comes(asks(f, OUTSIDE, FLOAT, there)), &asked);
                    leaves(&mut kernel, &answers(f, DB, OUTSIDE, back), answers(f, FLOAT, OUTSIDE, back));
                    let (sent, meant) = (of_node(asks(f, NODE, FLOAT, there)), of_node(asks(f, NODE, DB, there)));
                    passes(&mut kernel, Hook::ToPod(DB, By::Host), &sent, &meant);
                    let (sent, heard) = (answers(f, DB, NODE, back), answers(f, FLOAT, NODE, back));
                    passes(&mut kernel, Hook::Pod(DB), &sent, &heard);
                }
            }
        }
        // All but those of TCP are kept: of two families, five protocols and three clients a flow and what leads to it.
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 60);
        for protocol in [1, 6, 17, 47, 58, 132, 136] {
            assert!(kernel.flows().iter().any(|key| key.protocol == protocol), "{protocol}");
        }
    });
}

#[test]
fn spf_4_a_pod_that_asks_its_own_floating_address_is_asked_and_answered_under_it() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for f in Family::BOTH {
            for (asks, answers) in PACKETS {
                for _ in 0..2 {
                    let asked = received(asks(f, FLOAT, DB, (ID, 80)), DB);
                    goes(&mut kernel, Hook::Pod(DB), &asks(f, DB, FLOAT, (ID, 80)).bytes(), &asked);
                    let heard = received(answers(f, FLOAT, DB, (80, ID)), DB);
                    goes(&mut kernel, Hook::Pod(DB), &answers(f, DB, FLOAT, (80, ID)).bytes(), &heard);
                }
            }
        }
    });
}

#[test]
fn spf_4_what_the_pod_sends_by_itself_is_its_own_and_nobody_is_reached_by_the_address_without_a_manifest() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for f in Family::BOTH {
            for (asks, _) in PACKETS {
                leaves(&mut kernel, &asks(f, DB, OUTSIDE, (1000, 80)), asks(f, DB, OUTSIDE, (1000, 80)));
            }
        }
        kernel.commit(&pods());
        for f in Family::BOTH {
            for (asks, _) in PACKETS {
                let sent = comes(asks(f, OUTSIDE, FLOAT, (ID, 80)));
                let ran = kernel.run(Hook::Uplink, &sent);
                assert_eq!((ran.action, ran.bytes), (Action::PassOn, sent), "to the stack, as it came");
                let sent = of_node(asks(f, NODE, FLOAT, (ID, 80))).bytes();
                assert_eq!(kernel.run(Hook::ToPod(DB, By::Host), &sent).action, Action::Drop);
            }
        }
    });
}

#[test]
fn spf_4_the_twin_says_what_the_program_does_and_leaves_no_trace() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let slot = kernel.slot_of(DB);
        for f in Family::BOTH {
            for (asks, _) in PACKETS {
                let ask = |kernel: &mut Kernel, hook, bytes: &[u8]| kernel.ask(hook, bytes).outcome;
                let sent = asks(f, CLIENT, FLOAT, (ID, 80)).bytes();
                assert_eq!(ask(&mut kernel, Hook::Pod(CLIENT), &sent), Outcome::ToEndpoint(slot));
                let sent = comes(asks(f, OUTSIDE, FLOAT, (ID, 80)));
                assert_eq!(ask(&mut kernel, Hook::Uplink, &sent), Outcome::ToEndpoint(slot));
            }
        }
        assert!(kernel.flows().is_empty());
    });
}

#[test]
fn spf_4_ingress_policy_is_asked_about_the_pod_itself_and_never_about_the_nodes_own_packets() {
    on_a_node(|| {
        let closed = policy("closed", Some("db"), &[Direction::Ingress]);
        let mut kernel = Kernel::new(&scenario().policy(closed.clone()));
        for f in Family::BOTH {
            for (asks, _) in PACKETS {
                let sent = asks(f, CLIENT, FLOAT, (ID, 80)).bytes();
                assert_eq!(kernel.run(Hook::Pod(CLIENT), &sent).action, Action::Drop);
                let sent = comes(asks(f, OUTSIDE, FLOAT, (ID, 80)));
                assert_eq!(kernel.run(Hook::Uplink, &sent).action, Action::Drop);
                let sent = of_node(asks(f, OUTSIDE, FLOAT, (ID, 80))).bytes();
                assert_eq!(kernel.run(Hook::ToPod(DB, By::Uplink), &sent).action, Action::Drop);
                let (sent, meant) = (of_node(asks(f, NODE, FLOAT, (ID, 80))), of_node(asks(f, NODE, DB, (ID, 80))));
                passes(&mut kernel, Hook::ToPod(DB, By::Host), &sent, &meant);
            }
        }
        assert_eq!(kernel.dropped(DropReason::IngressPolicy), [(kernel.slot_of(DB), 36)].into());
        kernel.commit(&scenario().policy(closed.ingress(allow())));
        for f in Family::BOTH {
            let asked = received(OUTSIDE.ping(f, DB, 8), DB);
            goes(&mut kernel, Hook::Uplink, &comes(OUTSIDE.ping(f, FLOAT, 8)), &asked);
        }
    });
}

#[test]
fn pkt_26_every_piece_is_translated_and_summed_where_its_sum_is() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for f in Family::BOTH {
            for (asks, answers) in PACKETS {
                let long = |mut frame: Frame| {
                    frame.payload.resize(56, 7);
                    // Summed before it was cut.
                    frame.sealed()
                };
                for (offset, more) in [(0, true), (4, false)] {
                    let piece = |frame: Frame| long(frame).fragment(offset, 32, more).identified(0x4242);
                    let asked = received(piece(asks(f, OUTSIDE, DB, (ID, 80))), DB);
                    goes(&mut kernel, Hook::Uplink, &comes(piece(asks(f, OUTSIDE, FLOAT, (ID, 80)))), &asked);
                }
                for (offset, more) in [(0, true), (4, false)] {
                    let piece = |frame: Frame| long(frame).fragment(offset, 32, more).identified(0x4242);
                    let sent = piece(answers(f, DB, OUTSIDE, (80, ID)));
                    leaves(&mut kernel, &sent, piece(answers(f, FLOAT, OUTSIDE, (80, ID))));
                }
            }
        }
    });
}

#[test]
fn pkt_30_errors_quote_what_their_receiver_sent_in_both_directions() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for f in Family::BOTH {
            for (asks, answers) in PACKETS {
                kernel.run(Hook::Pod(CLIENT), &asks(f, CLIENT, FLOAT, (ID, 80)).bytes());
                kernel.run(Hook::Uplink, &comes(asks(f, OUTSIDE, FLOAT, (ID, 80))));
                kernel.run(Hook::ToPod(DB, By::Host), &of_node(asks(f, NODE, FLOAT, (ID, 80))).bytes());
                let (there, back) = ((ID, 80), (80, ID));
                for (word, quoted) in words(f).into_iter().flat_map(|word| [8, 20, 60].map(|quoted| (word, quoted))) {
                    // The pod about the question.
                    let about = |client: Actor, to: Actor| asks(f, client, to, there);
                    let told = error(f, (DB, CLIENT), word, &about(CLIENT, DB), quoted);
                    let heard = error(f, (FLOAT, CLIENT), word, &about(CLIENT, FLOAT), quoted);
                    goes(&mut kernel, Hook::Pod(DB), &told.bytes(), &received(heard.clone(), CLIENT));
                    assert_eq!(kernel.run_summed(Hook::Pod(DB), &told.bytes()), received(heard, CLIENT));
                    let told = error(f, (DB, OUTSIDE), word, &about(OUTSIDE, DB), quoted);
                    leaves(&mut kernel, &told, error(f, (FLOAT, OUTSIDE), word, &about(OUTSIDE, FLOAT), quoted));
                    let told = error(f, (DB, NODE), word, &about(NODE, DB), quoted);
                    passes(
                        &mut kernel,
                        Hook::Pod(DB),
                        &told,
                        &error(f, (FLOAT, NODE), word, &about(NODE, FLOAT), quoted),
                    );
                    // The client, or a router on its side, about the answer.
                    let about = |from: Actor, client: Actor| answers(f, from, client, back);
                    let told = error(f, (CLIENT, FLOAT), word, &about(FLOAT, CLIENT), quoted);
                    let heard = error(f, (CLIENT, DB), word, &about(DB, CLIENT), quoted);
                    goes(&mut kernel, Hook::Pod(CLIENT), &told.bytes(), &received(heard, DB));
                    for from in [OUTSIDE, ROUTER] {
                        let told = error(f, (from, FLOAT), word, &about(FLOAT, OUTSIDE), quoted);
                        let heard = error(f, (from, DB), word, &about(DB, OUTSIDE), quoted);
                        goes(&mut kernel, Hook::Uplink, &comes(told), &received(heard, DB));
                    }
                    let told = of_node(error(f, (NODE, FLOAT), word, &about(FLOAT, NODE), quoted));
                    let heard = of_node(error(f, (NODE, DB), word, &about(DB, NODE), quoted));
                    passes(&mut kernel, Hook::ToPod(DB, By::Host), &told, &heard);
                }
            }
        }
    });
}
