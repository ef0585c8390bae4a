//! ICMP errors about packets that went through a service: each end hears of what it sent, and knows the other by one name.
//! In: errors of routers, backends, clients and of this node, whole and with the shortest quotes. Out: errors, byte by byte.
//! Invariant: what arrives is, to the byte, the error about the packet that its receiver sent; nobody may send to the client.
//! Never: an error about a flow that nobody knows, or in the name of somebody who has no part in it.

use super::{PORT, TARGET, VIP, goes, received, serve_in};
use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, Frame, SYN, fold, sum_of},
    kernel::{Kernel, on_a_node},
    scenario::{Rules as _, Scenario, allow, policy},
    table::{Action, By, Hook},
};
use abi::DropReason;
use model::Direction;

pub const ROUTER: Actor = Actor::outside("router", 77);
const CP: u16 = 40000;

/// The client may send; nobody may send to it, or to the db but by its port.
fn scenario() -> Scenario {
    let alone = policy("alone", Some("client"), &[Direction::Ingress, Direction::Egress]).egress(allow());
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other").policy(alone)
}

/// Anybody may send to anybody.
fn open() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

fn served(scenario: &Scenario, by: Actor) -> Kernel {
    let mut kernel = Kernel::new(scenario);
    serve_in(scenario, &mut kernel, &[by], &[]);
    kernel
}

/// What packets of a flow are made of: of each kind one.
pub type Packet = fn(Family, Actor, Actor, (u16, u16)) -> Frame;
pub const PACKETS: [(Packet, u16); 3] = [
    (|f, from, to, ports| from.tcp(f, to, ports, ACK), 20),
    (|f, from, to, ports| from.udp(f, to, ports, b"meow"), 12),
    (|f, from, to, ports| from.sctp_init(f, to, ports), 12),
];

/// "Too big", "unreachable" and "expired" of each family: what stands before the quote.
pub fn words(f: Family) -> [[u8; 8]; 3] {
    if f == Family::V4 {
        [[3, 4, 0, 0, 0, 0, 5, 120], [3, 3, 0, 0, 0, 0, 0, 0], [11, 0, 0, 0, 0, 0, 0, 0]]
    } else {
        [[2, 0, 0, 0, 0, 0, 5, 120], [1, 4, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]]
    }
}

/// An error that quotes the IP header and so many bytes behind it.
pub fn error(f: Family, (from, to): (Actor, Actor), word: [u8; 8], about: &Frame, quoted: u16) -> Frame {
    let header = if f == Family::V4 { 20 } else { 40 };
    let whole = &about.bytes()[14..];
    let quote = &whole[..(header + usize::from(quoted)).min(whole.len())];
    from.icmp(f, to, [&word[..], quote].concat())
}

/// What opens the flows of a client through the service.
fn openings(f: Family) -> [Frame; 3] {
    let ports = (CP, PORT);
    [CLIENT.tcp(f, VIP, ports, SYN), CLIENT.udp(f, VIP, ports, b"meow"), CLIENT.sctp_init(f, VIP, ports)]
}

/// Opens the flows of a client through the service.
fn open_flows(kernel: &mut Kernel, f: Family) {
    for packet in openings(f) {
        assert_eq!(kernel.run(Hook::Pod(CLIENT), &packet.bytes()).action, Action::Redirect);
    }
}

/// Each kind of packet, each error, each length of a quote.
pub fn each(f: Family, mut check: impl FnMut(Packet, [u8; 8], u16)) {
    for (packet, whole) in PACKETS {
        for word in words(f) {
            for quoted in [whole, 8] {
                check(packet, word, quoted);
            }
        }
    }
    // A TCP header that is cut right before its checksum, right behind it, and at an odd length.
    for quoted in [16, 18, 19] {
        check(PACKETS[0].0, words(f)[0], quoted);
    }
}

/// The packet goes on to a pod, as this, also with a sum that hardware made.
fn becomes(kernel: &mut Kernel, hook: Hook, sent: &Frame, wanted: &[u8]) {
    goes(kernel, hook, &sent.bytes(), wanted);
    assert_eq!(kernel.run_summed(hook, &sent.bytes()), wanted);
}

#[test]
fn pkt_30_errors_from_the_way_to_a_backend_elsewhere_reach_the_client_as_about_the_service() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), OUTSIDE);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            each(f, |packet, word, quoted| {
                let (seen, sent) = (packet(f, CLIENT, OUTSIDE, (CP, TARGET)), packet(f, CLIENT, VIP, (CP, PORT)));
                // A router stays who it is; the backend is the service.
                for (from, shown) in [(ROUTER, ROUTER), (OUTSIDE, VIP)] {
                    let told = error(f, (from, CLIENT), word, &seen, quoted).with_destination_mac(NODE.mac.0);
                    let hears = received(error(f, (shown, CLIENT), word, &sent, quoted), CLIENT);
                    becomes(&mut kernel, Hook::Uplink, &told, &hears);
                }
            });
        }
    });
}

#[test]
fn pkt_30_errors_of_a_backend_here_reach_the_client_as_the_services() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), DB);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            each(f, |packet, word, quoted| {
                let told = error(f, (DB, CLIENT), word, &packet(f, CLIENT, DB, (CP, TARGET)), quoted);
                let hears = error(f, (VIP, CLIENT), word, &packet(f, CLIENT, VIP, (CP, PORT)), quoted);
                becomes(&mut kernel, Hook::Pod(DB), &told, &received(hears, CLIENT));
            });
        }
    });
}

#[test]
fn pkt_30_errors_of_a_client_about_answers_reach_the_backend_as_about_its_own() {
    for backend in [DB, OUTSIDE] {
        on_a_node(|| {
            let mut kernel = served(&scenario(), backend);
            for f in Family::BOTH {
                open_flows(&mut kernel, f);
                each(f, |packet, word, quoted| {
                    let told = error(f, (CLIENT, VIP), word, &packet(f, VIP, CLIENT, (PORT, CP)), quoted);
                    let hears = error(f, (CLIENT, backend), word, &packet(f, backend, CLIENT, (TARGET, CP)), quoted);
                    let ran = kernel.run(Hook::Pod(CLIENT), &told.bytes());
                    assert_eq!(ran.action, Action::Redirect);
                    assert_eq!(ran.bytes[14..], hears.ttl(63).bytes()[14..]);
                    assert_eq!(kernel.run_summed(Hook::Pod(CLIENT), &told.bytes()), ran.bytes);
                });
            }
        });
    }
}

#[test]
fn own_5_pkt_30_a_pod_that_is_sent_to_itself_complains_to_itself() {
    on_a_node(|| {
        let mut kernel = served(&open(), CLIENT);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            each(f, |packet, word, quoted| {
                // As the backend, about what it heard from the service, and as the client, about its answer.
                let told = error(f, (CLIENT, VIP), word, &packet(f, VIP, CLIENT, (CP, TARGET)), quoted);
                let hears = error(f, (VIP, CLIENT), word, &packet(f, CLIENT, VIP, (CP, PORT)), quoted);
                becomes(&mut kernel, Hook::Pod(CLIENT), &told, &received(hears, CLIENT));
                let told = error(f, (CLIENT, VIP), word, &packet(f, VIP, CLIENT, (PORT, CP)), quoted);
                let hears = error(f, (VIP, CLIENT), word, &packet(f, CLIENT, VIP, (TARGET, CP)), quoted);
                becomes(&mut kernel, Hook::Pod(CLIENT), &told, &received(hears, CLIENT));
                // Nobody else speaks to it so.
                let forged = error(f, (ROUTER, VIP), word, &packet(f, VIP, CLIENT, (CP, TARGET)), quoted);
                let ran = kernel.run(Hook::Uplink, &forged.with_destination_mac(NODE.mac.0).bytes());
                assert_eq!(ran.action, Action::PassOn);
            });
        }
    });
}

#[test]
fn pkt_30_errors_of_this_nodes_own_stack_reach_the_client_as_about_the_service() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), OUTSIDE);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            each(f, |packet, word, quoted| {
                let told = error(f, (NODE, CLIENT), word, &packet(f, CLIENT, OUTSIDE, (CP, TARGET)), quoted);
                let hears = error(f, (NODE, CLIENT), word, &packet(f, CLIENT, VIP, (CP, PORT)), quoted);
                let hook = Hook::ToPod(CLIENT, By::Host);
                let ran = kernel.run(hook, &told.bytes());
                assert_eq!((ran.action, ran.bytes), (Action::PassOn, hears.bytes()));
                assert_eq!(kernel.run_summed(hook, &told.bytes()), hears.bytes());
                // What was translated at the uplink and came through the stack stays so.
                let told = error(f, (ROUTER, CLIENT), word, &packet(f, CLIENT, VIP, (CP, PORT)), quoted);
                let ran = kernel.run(Hook::ToPod(CLIENT, By::Uplink), &told.bytes());
                assert_eq!((ran.action, ran.bytes), (Action::PassOn, told.bytes()));
            });
        }
    });
}

#[test]
fn pkt_30_errors_of_this_node_as_a_backend_reach_the_client_as_the_services() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), NODE);
        for f in Family::BOTH {
            for packet in openings(f) {
                assert_eq!(kernel.run(Hook::Pod(CLIENT), &packet.bytes()).action, Action::PassOn);
            }
            each(f, |packet, word, quoted| {
                let told = error(f, (NODE, CLIENT), word, &packet(f, CLIENT, NODE, (CP, TARGET)), quoted);
                let hears = error(f, (VIP, CLIENT), word, &packet(f, CLIENT, VIP, (CP, PORT)), quoted);
                let ran = kernel.run(Hook::ToPod(CLIENT, By::Host), &told.bytes());
                assert_eq!((ran.action, ran.bytes), (Action::PassOn, hears.with_source_mac(NODE.mac.0).bytes()));
            });
        }
    });
}

#[test]
fn pkt_31_errors_about_what_nobody_sent_through_a_service_reach_nobody() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), OUTSIDE);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            each(f, |packet, word, quoted| {
                let about = |from: Actor, to: Actor, ports| packet(f, from, to, ports);
                let arrives = [
                    ("another port of the client", about(CLIENT, OUTSIDE, (CP + 1, TARGET))),
                    ("another port of the backend", about(CLIENT, OUTSIDE, (CP, PORT))),
                    ("the service's address, which no wire has seen", about(CLIENT, VIP, (CP, PORT))),
                    ("what another sent", about(OTHER, OUTSIDE, (CP, TARGET))),
                ];
                for (what, about) in arrives {
                    let told = error(f, (ROUTER, CLIENT), word, &about, quoted).with_destination_mac(NODE.mac.0);
                    assert_eq!(kernel.run(Hook::Uplink, &told.bytes()).action, Action::Drop, "{what}");
                }
                for (who, hook) in [(DB, Hook::Pod(DB)), (OTHER, Hook::Pod(OTHER))] {
                    let told = error(f, (who, CLIENT), word, &about(CLIENT, OUTSIDE, (CP, TARGET)), quoted);
                    assert_eq!(kernel.run(hook, &told.bytes()).action, Action::Drop, "no part in it");
                }
            });
        }
        let slot = kernel.slot_of(CLIENT);
        let dropped = kernel.dropped(DropReason::IcmpUnrelated);
        assert_eq!(dropped.keys().collect::<Vec<_>>(), [&slot]);
        assert_eq!(kernel.dropped(DropReason::IcmpUnrelated)[&slot], 2 * 21 * 6);
    });
}

#[test]
fn pkt_30_an_error_that_quotes_half_a_checksum_is_right_itself() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), OUTSIDE);
        let f = Family::V4;
        open_flows(&mut kernel, f);
        let about = CLIENT.tcp(f, OUTSIDE, (CP, TARGET), ACK);
        let told = error(f, (ROUTER, CLIENT), words(f)[0], &about, 17).with_destination_mac(NODE.mac.0);
        let ran = kernel.run(Hook::Uplink, &told.bytes());
        let hears = error(f, (ROUTER, CLIENT), words(f)[0], &CLIENT.tcp(f, VIP, (CP, PORT), ACK), 16).bytes();
        assert_eq!((ran.action, &ran.bytes[42..78]), (Action::Redirect, &hears[42..78]));
        assert_eq!(fold(sum_of(&ran.bytes[34..])), 0);
    });
}

#[test]
fn pkt_30_a_quote_without_a_checksum_gets_none() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), OUTSIDE);
        open_flows(&mut kernel, Family::V4);
        let f = Family::V4;
        let unsummed = |to: Actor, port: u16| {
            let mut bytes = CLIENT.udp(f, to, (CP, port), b"meow").bytes();
            bytes[14 + 20 + 6..14 + 20 + 8].fill(0);
            bytes[14..].to_vec()
        };
        let told = |to, port| ROUTER.icmp(f, CLIENT, [&words(f)[0][..], &unsummed(to, port)].concat());
        let sent = told(OUTSIDE, TARGET).with_destination_mac(NODE.mac.0);
        becomes(&mut kernel, Hook::Uplink, &sent, &received(told(VIP, PORT), CLIENT));
    });
}

/// Quotes of an SCTP packet whose sum nobody here can follow: it has none, it covers more than this piece, it is beyond the packet's end.
fn unfollowed(f: Family, to: Actor, port: u16) -> [Vec<u8>; 3] {
    let whole = CLIENT.sctp(f, to, (CP, port), &[7; 52]);
    let header = if f == Family::V4 { 20 } else { 40 };
    let mut unsummed = whole.bytes()[14..].to_vec();
    unsummed[header + 8..header + 12].fill(0);
    let mut piece = whole.clone().fragment(0, 32, true);
    piece.payload[8..12].fill(9);
    let mut short = whole;
    short.payload.truncate(8);
    [unsummed, piece.bytes()[14..].to_vec(), [&short.bytes()[14..], &[9; 4]].concat()]
}

#[test]
fn pkt_30_pkt_59_a_quoted_sctp_sum_that_nobody_here_can_follow_stays_as_it_is() {
    on_a_node(|| {
        let mut kernel = served(&scenario(), OUTSIDE);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            for (told, hears) in unfollowed(f, OUTSIDE, TARGET).iter().zip(unfollowed(f, VIP, PORT)) {
                let error = |quote: &[u8]| ROUTER.icmp(f, CLIENT, [&words(f)[1][..], quote].concat());
                let told = error(told).with_destination_mac(NODE.mac.0);
                becomes(&mut kernel, Hook::Uplink, &told, &received(error(&hears), CLIENT));
            }
        }
    });
}

#[test]
fn a_segmented_answer_that_is_too_big_for_the_client_goes_to_the_stack_as_its_sender_wrote_it() {
    on_a_node(|| {
        let mut kernel = served(&open(), OUTSIDE);
        for f in Family::BOTH {
            open_flows(&mut kernel, f);
            let mut answer = OUTSIDE.tcp(f, CLIENT, (TARGET, CP), ACK).with_destination_mac(NODE.mac.0);
            answer.payload.extend(vec![7; 3000]);
            // The stack tells the backend, not the service, how large a segment may be.
            kernel.segment = 1480;
            let ran = kernel.run(Hook::Uplink, &answer.bytes());
            assert_eq!((ran.action, ran.bytes == answer.bytes()), (Action::PassOn, true));
            kernel.segment = 0;
            // What it makes of it is translated at the pod's own hook.
            let answer = OUTSIDE.tcp(f, CLIENT, (TARGET, CP), ACK);
            let hears = VIP.tcp(f, CLIENT, (PORT, CP), ACK).with_source_mac(OUTSIDE.mac.0);
            let ran = kernel.run(Hook::ToPod(CLIENT, By::Uplink), &answer.bytes());
            assert_eq!((ran.action, ran.bytes), (Action::PassOn, hears.bytes()));
        }
    });
}
