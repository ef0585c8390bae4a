//! Processes of this node behind a service, asked from outside: the bytes that the stack gets, and those that leave.
//! In: packets of the network and of the node itself, whole, in pieces, and errors about them. Out: packets, byte by byte.
//! Invariant: the stack gets what a client would have sent to the process itself; a client gets what it knows from the service.
//! Never: a checksum that only the code under test has made.

use super::{AT, alike, comes, served, served_in};
use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    frame::{ACK, Frame, RST, SYN},
    kernel::{Kernel, on_a_node},
    services::{
        PORT, TARGET, VIP,
        errors::{ROUTER, each, error, words},
        scenario, serve_as,
    },
    table::{Action, By, Hook},
};
use abi::{DropReason, Outcome, endpoint::SLOT_HOST, maps};
use netlink::Socket;

const OUT: Hook = Hook::Up(By::Host);

/// The packet goes on, as this.
fn passes_as(kernel: &mut Kernel, hook: Hook, sent: &[u8], wanted: &Frame) {
    let (ran, wanted) = (kernel.run(hook, sent), wanted.bytes());
    assert_eq!(ran.action, Action::PassOn);
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
}

/// Or as it came.
fn is_left(kernel: &mut Kernel, hook: Hook, sent: &[u8], what: &str) {
    let ran = kernel.run(hook, sent);
    assert_eq!((ran.action, ran.bytes), (Action::PassOn, sent.to_vec()), "{what}");
}

#[test]
fn pkt_73_a_process_of_the_node_and_who_asks_it_each_read_what_the_other_sent_to_whom_it_believes() {
    on_a_node(|| {
        let mut kernel = served(&[NODE]);
        for (vip, port) in [(VIP, 40000), (NODE, 40001)] {
            for f in Family::BOTH {
                for flags in [SYN, SYN, ACK, ACK] {
                    let answer = if flags == SYN { SYN | ACK } else { ACK };
                    let sent = comes(OUTSIDE.tcp(f, vip, (port, PORT), flags));
                    passes_as(&mut kernel, Hook::Uplink, &sent, &OUTSIDE.tcp(f, NODE, (port, TARGET), flags));
                    let sent = NODE.tcp(f, OUTSIDE, (TARGET, port), answer).bytes();
                    passes_as(&mut kernel, OUT, &sent, &vip.tcp(f, OUTSIDE, (PORT, port), answer));
                }
                for data in [&b""[..], b"m", b"meow", b"meows"] {
                    let sent = comes(OUTSIDE.udp(f, vip, (port, PORT), data));
                    passes_as(&mut kernel, Hook::Uplink, &sent, &OUTSIDE.udp(f, NODE, (port, TARGET), data));
                    let sent = NODE.udp(f, OUTSIDE, (TARGET, port), data).bytes();
                    passes_as(&mut kernel, OUT, &sent, &vip.udp(f, OUTSIDE, (PORT, port), data));
                    let sent = comes(OUTSIDE.sctp(f, vip, (port, PORT), data));
                    passes_as(&mut kernel, Hook::Uplink, &sent, &OUTSIDE.sctp(f, NODE, (port, TARGET), data));
                    let sent = NODE.sctp(f, OUTSIDE, (TARGET, port), data).bytes();
                    passes_as(&mut kernel, OUT, &sent, &vip.sctp(f, OUTSIDE, (PORT, port), data));
                }
            }
        }
        // Two addresses, two families, three protocols: a flow and what leads to it, on the node's account.
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 24);
        assert_eq!(kernel.account(SLOT_HOST), 24);
    });
}

#[test]
fn pkt_26_every_piece_of_a_datagram_for_a_process_of_the_node_and_of_its_answer_is_translated() {
    on_a_node(|| {
        let mut kernel = served(&[NODE]);
        for (vip, port) in [(VIP, 40000), (NODE, 40001)] {
            for f in Family::BOTH {
                let data = [7; 56];
                for (offset, more) in [(0, true), (4, false)] {
                    let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(port);
                    let sent = comes(piece(OUTSIDE.udp(f, vip, (port, PORT), &data)));
                    let wanted = piece(OUTSIDE.udp(f, NODE, (port, TARGET), &data));
                    passes_as(&mut kernel, Hook::Uplink, &sent, &wanted);
                }
                // Of IPv4 numbers soon come again.
                let number = if f == Family::V4 { 0x4242 } else { port };
                for (offset, more) in [(0, true), (4, false)] {
                    let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(number);
                    let sent = piece(NODE.udp(f, OUTSIDE, (TARGET, port), &data)).bytes();
                    let ran = kernel.run(OUT, &sent);
                    assert_eq!(ran.action, Action::PassOn);
                    let wanted = piece(vip.udp(f, OUTSIDE, (PORT, port), &data)).bytes();
                    assert_eq!(ran.bytes[14..], wanted[14..], "{vip:?} {f:?} {offset}");
                }
            }
        }
    });
}

#[test]
fn what_is_no_answer_of_a_process_that_was_asked_leaves_as_it_is() {
    on_a_node(|| {
        let mut kernel = served(&[NODE]);
        for f in Family::BOTH {
            kernel.run(Hook::Uplink, &comes(OUTSIDE.tcp(f, VIP, (40000, PORT), SYN)));
            let answer = NODE.tcp(f, OUTSIDE, (TARGET, 40000), SYN | ACK);
            for (what, by, frame) in [
                ("another port of the client", By::Host, NODE.tcp(f, OUTSIDE, (TARGET, 40001), SYN | ACK)),
                ("another port of the node", By::Host, NODE.tcp(f, OUTSIDE, (PORT, 40000), SYN | ACK)),
                ("another client", By::Host, NODE.tcp(f, ROUTER, (TARGET, 40000), SYN | ACK)),
                ("another protocol", By::Host, NODE.udp(f, OUTSIDE, (TARGET, 40000), b"m")),
                ("a pod's", By::Pod(DB), DB.tcp(f, OUTSIDE, (TARGET, 40000), SYN | ACK)),
                ("forwarded", By::Uplink, answer.clone()),
                ("a later piece of nothing", By::Host, NODE.udp(f, OUTSIDE, (1, 2), &[7; 56]).fragment(4, 32, false)),
            ] {
                is_left(&mut kernel, Hook::Up(by), &frame.bytes(), what);
            }
            is_left(&mut kernel, OUT, &crate::frame::arp(NODE, 1, [10, 65, 0, 1], [10, 65, 0, 2]), "what is not IP");
            passes_as(&mut kernel, OUT, &answer.bytes(), &VIP.tcp(f, OUTSIDE, (PORT, 40000), SYN | ACK));
        }
    });
}

#[test]
fn pkt_30_errors_between_a_client_and_a_process_of_the_node_quote_what_their_receiver_sent() {
    on_a_node(|| {
        let mut kernel = served(&[NODE]);
        for (vip, f) in AT.into_iter().flat_map(|vip| Family::BOTH.map(|f| (vip, f))) {
            kernel.fresh();
            each(f, |packet, word, quoted| {
                let opens = |to: Actor, ports| {
                    let frame = packet(f, OUTSIDE, to, ports);
                    if frame.protocol == 6 { OUTSIDE.tcp(f, to, ports, SYN) } else { frame }
                };
                kernel.run(Hook::Uplink, &comes(opens(vip, (40000, PORT))));
                // Of the node, about what it got.
                let told = error(f, (NODE, OUTSIDE), word, &packet(f, OUTSIDE, NODE, (40000, TARGET)), quoted);
                let hears = error(f, (vip, OUTSIDE), word, &packet(f, OUTSIDE, vip, (40000, PORT)), quoted);
                passes_as(&mut kernel, OUT, &told.bytes(), &hears);
                // Of the client and of those on the way, about what it was answered.
                for from in [OUTSIDE, ROUTER] {
                    let told = comes(error(f, (from, vip), word, &packet(f, vip, OUTSIDE, (PORT, 40000)), quoted));
                    let hears = error(f, (from, NODE), word, &packet(f, NODE, OUTSIDE, (TARGET, 40000)), quoted);
                    passes_as(&mut kernel, Hook::Uplink, &told, &hears);
                    assert_eq!(kernel.run_summed(Hook::Uplink, &told)[14..], hears.bytes()[14..]);
                }
                let other = error(f, (NODE, OUTSIDE), word, &packet(f, OUTSIDE, NODE, (40001, TARGET)), quoted);
                is_left(&mut kernel, OUT, &other.bytes(), "about nothing that came through the service");
            });
        }
    });
}

#[test]
fn spf_1_nobody_speaks_to_a_process_behind_a_service_in_a_pods_name() {
    on_a_node(|| {
        let mut kernel = served(&[NODE]);
        for f in Family::BOTH {
            for from in [CLIENT, NODE] {
                for frame in [from.tcp(f, VIP, (40000, PORT), SYN), from.udp(f, VIP, (40000, PORT), b"x")] {
                    assert_eq!(kernel.run(Hook::Uplink, &comes(frame)).action, Action::Drop);
                }
            }
            kernel.run(Hook::Uplink, &comes(OUTSIDE.udp(f, VIP, (40000, PORT), b"x")));
            let about = VIP.udp(f, OUTSIDE, (PORT, 40000), b"meow");
            let told = comes(error(f, (CLIENT, VIP), words(f)[1], &about, 12));
            assert_eq!(kernel.run(Hook::Uplink, &told).action, Action::Drop);
        }
        assert_eq!(kernel.dropped(DropReason::SourceIsLocal).values().sum::<u64>(), 10);
    });
}

#[test]
fn a_process_that_is_gone_ends_its_flows_and_one_that_is_only_listed_keeps_them() {
    on_a_node(|| {
        let mut kernel = served(&[NODE]);
        let asks = |f, flags| comes(OUTSIDE.tcp(f, VIP, (40000, PORT), flags));
        let answer = |f| NODE.tcp(f, OUTSIDE, (TARGET, 40000), SYN | ACK).bytes();
        for f in Family::BOTH {
            kernel.run(Hook::Uplink, &asks(f, SYN));
            kernel.run(OUT, &answer(f));
            kernel.run(Hook::Uplink, &asks(f, ACK));
        }
        serve_as(&mut kernel, &scenario(), &AT, (&[DB], &[NODE]), alike);
        for f in Family::BOTH {
            passes_as(&mut kernel, Hook::Uplink, &asks(f, ACK), &OUTSIDE.tcp(f, NODE, (40000, TARGET), ACK));
        }
        serve_as(&mut kernel, &scenario(), &AT, (&[DB], &[]), alike);
        for f in Family::BOTH {
            let ran = kernel.run(Hook::Uplink, &asks(f, ACK));
            assert_eq!(ran.action, Action::Redirect);
            super::is_reset(f, VIP, &ran.bytes, RST);
        }
    });
}

#[test]
fn the_dry_twins_say_that_the_node_gets_it_and_leave_no_trace() {
    on_a_node(|| {
        let mut kernel = served_in(&scenario(), &[NODE]);
        for f in Family::BOTH {
            let asks = comes(OUTSIDE.tcp(f, VIP, (40000, PORT), SYN));
            let answer = NODE.tcp(f, OUTSIDE, (TARGET, 40000), SYN | ACK).bytes();
            assert_eq!(kernel.ask(Hook::Uplink, &asks).outcome, Outcome::ToHost);
            assert_eq!(kernel.ask(OUT, &answer).outcome, Outcome::ToHost);
        }
        assert!(kernel.flows().is_empty());
    });
}

/// The programs at the uplink's egress, by whatever way they are there.
fn at_egress(kernel: &Kernel) -> Vec<String> {
    let index = kernel.index(&model::IfaceName(crate::kernel::UPLINK.into()));
    let filters = Socket::open().expect("netlink answers").filters(index, netlink::Side::Egress);
    let filters = filters.expect("filters are listed").into_iter().map(|filter| filter.name.replace("tortie/", ""));
    // An older kernel has no links.
    let links = aya::programs::SchedClassifier::query_tcx(index.0, aya::programs::TcAttachType::Egress);
    let links = links.map(|(_, programs)| programs).unwrap_or_default();
    let links = links.iter().map(|program| program.name_as_str().unwrap_or_default().to_owned());
    filters.chain(links).collect()
}

#[test]
fn the_program_at_the_uplinks_egress_is_there_while_a_process_may_answer_over_a_restart_and_then_gone() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        assert_eq!(at_egress(&kernel), [""; 0]);
        serve_as(&mut kernel, &scenario(), &AT, (&[NODE], &[]), alike);
        assert_eq!(at_egress(&kernel), ["to_uplink"]);
        kernel.restart(dataplane::Attach::Auto);
        assert_eq!(at_egress(&kernel), ["to_uplink"], "adopted");
        serve_as(&mut kernel, &scenario(), &AT, (&[DB], &[NODE]), alike);
        assert_eq!(at_egress(&kernel), ["to_uplink"], "its flows may live on");
        serve_as(&mut kernel, &scenario(), &AT, (&[DB], &[]), alike);
        assert_eq!(at_egress(&kernel), [""; 0]);
    });
    // By filters the same; and what they were put on goes with them.
    on_a_node(|| {
        let filters = || {
            let mut socket = Socket::open().expect("netlink answers");
            let uplink = socket.link(&model::IfaceName(crate::kernel::UPLINK.into())).expect("links are listed");
            let found = socket.filters(uplink.expect("the uplink").index, netlink::Side::Egress);
            found.expect("filters are listed").into_iter().map(|filter| filter.name).collect::<Vec<_>>()
        };
        let mut kernel = Kernel::attached(dataplane::Attach::Clsact);
        kernel.commit(&scenario());
        serve_as(&mut kernel, &scenario(), &AT, (&[NODE], &[]), alike);
        assert_eq!(filters(), ["tortie/to_uplink"]);
        kernel.restart(dataplane::Attach::Clsact);
        assert_eq!(filters(), ["tortie/to_uplink"]);
        serve_as(&mut kernel, &scenario(), &AT, (&[DB], &[]), alike);
        assert_eq!(filters(), [""; 0]);
        serve_as(&mut kernel, &scenario(), &AT, (&[NODE], &[]), alike);
        kernel.cleanup();
        assert_eq!(filters(), [""; 0]);
    });
}
