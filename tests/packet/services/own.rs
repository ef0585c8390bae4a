//! What the node's own processes open to services, packet by packet: the bytes that a backend gets, and those that a socket hears.
//! In: packets of the node, of a pod and of the network, whole, in pieces, and errors about them. Out: packets, byte by byte.
//! Invariant: a backend gets what the node would have sent to itself; a socket hears whom it asked.
//! Never: a checksum that only the code under test has made.

use super::{
    PORT, TARGET, VIP,
    errors::{ROUTER, each, error, words},
    scenario, serve_as,
};
use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    frame::{ACK, Frame, RST, SYN, fold, sum_of},
    kernel::{Kernel, UPLINK, ip, on_a_node},
    table::{Action, By, Hook},
};
use abi::{
    DropReason, Outcome,
    endpoint::{GATEWAY_MAC, SLOT_HOST},
    maps,
};
use std::fs;

/// The service's addresses: its own, by the uplink, and a node port, by loopback.
const AT: [(Actor, Hook, u16); 2] = [(VIP, Hook::Node, 40000), (NODE, Hook::Loop, 40001)];
/// Who stands behind it: a pod, somebody elsewhere, the node itself.
const BEHIND: [Actor; 3] = [DB, OUTSIDE, NODE];

/// A node whose loopback is as the agent makes it, with one of them behind the service.
fn served(by: &[Actor]) -> Kernel {
    for family in ["ipv4", "ipv6"] {
        fs::write(format!("/proc/sys/net/{family}/conf/lo/forwarding"), "1").expect("loopback may forward");
    }
    let mut kernel = Kernel::new(&scenario());
    serve(&mut kernel, by);
    kernel
}

fn serve(kernel: &mut Kernel, by: &[Actor]) {
    serve_as(kernel, &scenario(), &[VIP, NODE], (by, &[]), |_| {});
}

/// The packet goes to a backend, as this.
fn goes(kernel: &mut Kernel, hook: Hook, sent: &Frame, (to, wanted): (Actor, &Frame)) {
    let (ran, wanted) = (kernel.run(hook, &sent.bytes()), wanted.bytes());
    assert_eq!(ran.action, Action::Redirect);
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
    match to {
        DB => assert_eq!((&ran.bytes[..6], &ran.bytes[6..12]), (&DB.mac.0[..], &GATEWAY_MAC[..])),
        NODE => assert_eq!(ran.bytes[..12], [0; 12], "by loopback"),
        _ => {}
    }
}

/// What a backend says is heard by a socket, as this.
fn hears(kernel: &mut Kernel, from: Actor, sent: &Frame, wanted: &Frame) {
    let hook = match from {
        DB => Hook::Pod(DB),
        NODE => Hook::Loop,
        _ => Hook::Uplink,
    };
    let sent = if hook == Hook::Uplink { sent.clone().with_destination_mac(NODE.mac.0) } else { sent.clone() };
    let (ran, wanted) = (kernel.run(hook, &sent.bytes()), wanted.bytes());
    assert_eq!(ran.action, Action::Redirect);
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
    assert_eq!(ran.bytes[..12], [0; 12], "by loopback");
    if hook != Hook::Loop {
        assert_eq!(kernel.run_summed(hook, &sent.bytes())[14..], wanted[14..]);
    }
}

#[test]
fn pkt_73_a_process_and_whoever_it_reaches_each_read_what_the_other_sent_to_whom_it_believes() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for to in BEHIND {
            serve(&mut kernel, &[to]);
            kernel.fresh();
            for ((vip, hook, port), f) in AT.into_iter().flat_map(|at| Family::BOTH.map(|f| (at, f))) {
                // Ports, as a process and as a backend has them.
                let (ask, asked) = ((port, PORT), (port, TARGET));
                let (answer, answered) = ((TARGET, port), (PORT, port));
                for flags in [SYN, SYN, ACK, ACK] {
                    let back = if flags == SYN { SYN | ACK } else { ACK };
                    goes(&mut kernel, hook, &NODE.tcp(f, vip, ask, flags), (to, &NODE.tcp(f, to, asked, flags)));
                    hears(&mut kernel, to, &to.tcp(f, NODE, answer, back), &vip.tcp(f, NODE, answered, back));
                }
                for data in [&b""[..], b"m", b"meow", b"meows"] {
                    goes(&mut kernel, hook, &NODE.udp(f, vip, ask, data), (to, &NODE.udp(f, to, asked, data)));
                    hears(&mut kernel, to, &to.udp(f, NODE, answer, data), &vip.udp(f, NODE, answered, data));
                    goes(&mut kernel, hook, &NODE.sctp(f, vip, ask, data), (to, &NODE.sctp(f, to, asked, data)));
                    hears(&mut kernel, to, &to.sctp(f, NODE, answer, data), &vip.sctp(f, NODE, answered, data));
                }
            }
            assert_eq!(kernel.account(SLOT_HOST), kernel.entries(&maps::CONNTRACK).len() as u64, "all are the node's");
        }
    });
}

#[test]
fn what_the_node_sends_on_its_last_hop_goes_as_far_as_the_stack_would_send_it() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for to in BEHIND {
            serve(&mut kernel, &[to]);
            kernel.fresh();
            for ((vip, hook, port), f) in AT.into_iter().flat_map(|at| Family::BOTH.map(|f| (at, f))) {
                let sent = |to, service| NODE.tcp(f, to, (port, service), SYN).ttl(1);
                let is_told = matches!(kernel.ask(hook, &sent(vip, PORT).bytes()).outcome, Outcome::Drop(_));
                assert!(!is_told, "the twin says {f:?}");
                goes(&mut kernel, hook, &sent(vip, PORT), (to, &sent(to, TARGET)));
                if to == DB {
                    let asked = sent(DB, TARGET).with_source_mac(GATEWAY_MAC).with_destination_mac(DB.mac.0).bytes();
                    let ran = kernel.run(Hook::ToPod(DB, By::Host), &asked);
                    assert_eq!((ran.action, ran.bytes), (Action::PassOn, asked), "and into the pod");
                }
            }
        }
    });
}

#[test]
fn what_goes_to_a_backend_that_is_the_nodes_own_by_its_routes_alone_is_dropped_and_counted() {
    const UNKNOWN: Actor = Actor::outside("unknown", 98);
    on_a_node(|| {
        let mut kernel = served(&[UNKNOWN]);
        for f in Family::BOTH {
            let to = UNKNOWN.address(f);
            ip(&format!("route add local {to} dev {UPLINK}"));
            for (vip, hook, port) in AT {
                let ran = kernel.run(hook, &NODE.tcp(f, vip, (port, PORT), SYN).bytes());
                assert_eq!(ran.action, Action::Drop, "{f:?} {hook:?}");
            }
        }
        assert_eq!(kernel.dropped(DropReason::Unroutable), [(SLOT_HOST, 4)].into());
    });
}

#[test]
fn pkt_26_every_piece_of_a_datagram_of_the_node_and_of_its_answer_is_translated() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for to in BEHIND {
            serve(&mut kernel, &[to]);
            kernel.fresh();
            for ((vip, hook, port), f) in AT.into_iter().flat_map(|at| Family::BOTH.map(|f| (at, f))) {
                for (offset, more) in [(0, true), (4, false)] {
                    let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(port);
                    let (from, data) = ((port, PORT), [7; 56]);
                    let wanted = piece(NODE.udp(f, to, (port, TARGET), &data));
                    goes(&mut kernel, hook, &piece(NODE.udp(f, vip, from, &data)), (to, &wanted));
                }
                // Where all are one address, a number that comes again so soon were an overlap.
                for (offset, more) in [(0, true), (4, false)] {
                    let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(port ^ 0x100);
                    let wanted = piece(vip.udp(f, NODE, (PORT, port), &[7; 56]));
                    let sent = piece(to.udp(f, NODE, (TARGET, port), &[7; 56]));
                    hears(&mut kernel, to, &sent, &wanted);
                }
            }
        }
    });
}

#[test]
fn pkt_30_errors_between_a_process_and_whoever_it_asked_quote_what_their_receiver_sent() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        let each_way = |to| AT.into_iter().flat_map(move |at| Family::BOTH.map(|f| (to, at, f)));
        for (to, (vip, hook, port), f) in BEHIND.into_iter().flat_map(each_way) {
            serve(&mut kernel, &[to]);
            kernel.fresh();
            each(f, |packet, word, quoted| {
                let open = packet(f, NODE, vip, (port, PORT));
                let open = if open.protocol == 6 { NODE.tcp(f, vip, (port, PORT), SYN) } else { open };
                kernel.run(hook, &open.bytes());
                // About what the node sent: of who got it, in the service's name, and of one on the way in his own.
                let question = packet(f, NODE, to, (port, TARGET));
                let told = |from: Actor| error(f, (from, NODE), word, &question, quoted);
                let heard = |from: Actor| error(f, (from, NODE), word, &packet(f, NODE, vip, (port, PORT)), quoted);
                hears(&mut kernel, to, &told(to), &heard(vip));
                if to == OUTSIDE {
                    hears(&mut kernel, to, &told(ROUTER), &heard(ROUTER));
                }
                // About what it was answered.
                let sent = error(f, (NODE, vip), word, &packet(f, vip, NODE, (PORT, port)), quoted);
                let wanted = error(f, (NODE, to), word, &packet(f, to, NODE, (TARGET, port)), quoted);
                goes(&mut kernel, hook, &sent, (to, &wanted));
            });
        }
    });
}

#[test]
fn pkt_35_a_process_hears_that_nobody_is_there_from_the_service() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for ((vip, hook, port), f) in AT.into_iter().flat_map(|at| Family::BOTH.map(|f| (at, f))) {
            let ran = kernel.run(hook, &NODE.tcp(f, vip, (port, PORT), SYN).bytes());
            assert_eq!(ran.action, Action::Redirect);
            is_reset(f, vip, port, &ran.bytes, RST | ACK);
            let sent = NODE.udp(f, vip, (port, PORT), b"12345").bytes();
            let ran = kernel.run(hook, &sent);
            let told = error(f, (vip, NODE), words(f)[1], &NODE.udp(f, vip, (port, PORT), b"12345"), 13);
            assert_eq!((ran.action, &ran.bytes[..12]), (Action::Redirect, &[0; 12][..]));
            let addresses = if f == Family::V4 { 26..34 } else { 22..54 };
            assert_eq!(ran.bytes[addresses.clone()], told.bytes()[addresses], "from the service");
            let header = if f == Family::V4 { 34 } else { 54 };
            assert_eq!(ran.bytes[header..header + 2], told.bytes()[header..header + 2]);
            assert_eq!(ran.bytes[header + 8..], sent[14..], "what it sent is quoted");
        }
        assert_eq!(kernel.dropped(DropReason::NoBackend), [(SLOT_HOST, 8)].into());
    });
}

fn is_reset(f: Family, from: Actor, port: u16, answer: &[u8], flags: u8) {
    let header = if f == Family::V4 { 20 } else { 40 };
    let wanted = from.tcp(f, NODE, (PORT, port), flags).bytes();
    let (segment, addresses) = (&answer[14 + header..], if f == Family::V4 { 26..34 } else { 22..54 });
    assert_eq!(answer[..12], [0; 12], "by loopback");
    assert_eq!(answer[addresses.clone()], wanted[addresses.clone()], "from the service to the node");
    assert_eq!((&segment[..4], segment[13]), (&wanted[14 + header..14 + header + 4], flags));
    assert_eq!(fold(sum_of(&answer[addresses]) + 6 + 20 + sum_of(segment)), 0, "checksum");
}

#[test]
fn a_connection_whose_backend_is_gone_hears_a_rst_and_datagrams_go_to_another() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            for (flags, back) in [(SYN, SYN | ACK), (ACK, ACK)] {
                goes(
                    &mut kernel,
                    Hook::Node,
                    &NODE.tcp(f, VIP, (40000, PORT), flags),
                    (DB, &NODE.tcp(f, DB, (40000, TARGET), flags)),
                );
                hears(&mut kernel, DB, &DB.tcp(f, NODE, (TARGET, 40000), back), &VIP.tcp(f, NODE, (PORT, 40000), back));
            }
            kernel.run(Hook::Node, &NODE.udp(f, VIP, (40000, PORT), b"meow").bytes());
        }
        serve(&mut kernel, &[CLIENT]);
        for f in Family::BOTH {
            let ran = kernel.run(Hook::Node, &NODE.tcp(f, VIP, (40000, PORT), ACK).bytes());
            is_reset(f, VIP, 40000, &ran.bytes, RST);
            let sent = NODE.udp(f, VIP, (40000, PORT), b"meow");
            goes(&mut kernel, Hook::Node, &sent, (CLIENT, &NODE.udp(f, CLIENT, (40000, TARGET), b"meow")));
        }
    });
}

#[test]
fn pkt_36_what_a_pod_does_not_take_is_told_to_the_socket_also_where_the_kernel_was_to_cut_it() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for segment in [0, 1600] {
            kernel.segment = segment;
            kernel.fresh();
            for ((vip, hook, port), f) in AT.into_iter().flat_map(|at| Family::BOTH.map(|f| (at, f))) {
                let sent = NODE.udp(f, vip, (port, PORT), &[7; 1700]).bytes();
                let ran = kernel.run(hook, &sent);
                assert_eq!((ran.action, &ran.bytes[..12]), (Action::Redirect, &[0; 12][..]));
                let (header, kind) = if f == Family::V4 { (34, [3, 4]) } else { (54, [2, 0]) };
                assert_eq!(ran.bytes[header..header + 2], kind, "{f:?} {segment}");
                let quoted = &ran.bytes[header + 8..];
                assert_eq!(quoted, &sent[14..14 + quoted.len()], "as it was sent");
            }
            assert!(kernel.flows().len() == 8, "a flow and what leads to it each");
        }
    });
}

#[test]
fn the_node_s_own_word_is_left_alone_where_it_is_no_service_s_and_forwarded_packets_are() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            for (what, hook, frame) in [
                ("another port", Hook::Node, NODE.tcp(f, VIP, (40000, 22), SYN)),
                ("another address", Hook::Node, NODE.udp(f, OUTSIDE, (40000, PORT), b"m")),
                ("a pod's source", Hook::Node, CLIENT.tcp(f, VIP, (40000, PORT), SYN)),
                ("by loopback", Hook::Loop, NODE.tcp(f, NODE, (40000, 22), SYN)),
                (
                    "about nothing",
                    Hook::Node,
                    error(f, (NODE, VIP), words(f)[1], &VIP.udp(f, NODE, (PORT, 40000), b"m"), 8),
                ),
            ] {
                let sent = frame.bytes();
                let ran = kernel.run(hook, &sent);
                assert_eq!((ran.action, ran.bytes), (Action::PassOn, sent), "{what} {f:?}");
            }
        }
        assert!(kernel.flows().is_empty());
    });
}

#[test]
fn the_dry_twin_says_where_it_goes_and_leaves_no_trace() {
    on_a_node(|| {
        let mut kernel = served(&[]);
        for to in BEHIND {
            serve(&mut kernel, &[to]);
            kernel.fresh();
            for ((vip, hook, port), f) in AT.into_iter().flat_map(|at| Family::BOTH.map(|f| (at, f))) {
                let told = kernel.ask(hook, &NODE.tcp(f, vip, (port, PORT), SYN).bytes()).outcome;
                let wanted = match to {
                    DB => matches!(told, Outcome::ToEndpoint(slot) if slot == kernel.slot_of(DB)),
                    NODE => told == Outcome::ToHost,
                    _ => matches!(told, Outcome::ToInterface(_)),
                };
                assert!(wanted, "{told:?}");
            }
            assert!(kernel.flows().is_empty());
        }
    });
}
