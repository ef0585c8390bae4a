//! ICMP errors about what passed between a client outside and a backend on another node: each end hears of what it sent itself.
//! In: errors of routers, of the backend and of the client, whole and with the shortest quotes. Out: errors, byte by byte.
//! Invariant: what leaves is, to the byte, the error about the packet that its receiver sent, in the name it knows the other by.
//! Never: an error about a flow that nobody knows, or in the name of a pod.

use super::{AT, ELSEWHERE, comes, leaves, sent_on, served};
use crate::{
    cast::{Actor, CLIENT, Family, NODE, OTHER, OUTSIDE},
    frame::{Frame, SYN},
    kernel::{Kernel, on_a_node},
    services::{
        PORT, TARGET,
        errors::{PACKETS, Packet, ROUTER, each, error, words},
    },
    table::{Action, Hook},
};
use abi::DropReason;

const CP: u16 = 40000;

/// Opens a client's flow of that kind, and says by which port the node stands for him.
fn opened(kernel: &mut Kernel, f: Family, vip: Actor, packet: Packet) -> u16 {
    let opens = |from: Actor, to: Actor, ports| {
        let frame = packet(f, from, to, ports);
        if frame.protocol == 6 { from.tcp(f, to, ports, SYN) } else { frame }
    };
    let sent = comes(opens(OUTSIDE, vip, (CP, PORT)));
    sent_on(kernel, f, &sent, |mask| opens(NODE, ELSEWHERE, (mask, TARGET)))
}

/// The error leaves by its route, as this, also with a sum that hardware made.
fn goes_on(kernel: &mut Kernel, told: Frame, hears: Frame) {
    let told = comes(told);
    leaves(kernel, Hook::Uplink, &told, hears);
    assert_eq!(kernel.run_summed(Hook::Uplink, &told), kernel.run(Hook::Uplink, &told).bytes);
}

/// Who may tell whom about which packet, and who hears of it from whom, as about which.
struct Told {
    by: [Actor; 2],
    to: Actor,
    about: Frame,
    heard: (Actor, Actor),
    as_about: Frame,
}

/// At each of the service's addresses, about a flow of each kind, each error goes on so. The client has one flow by a port at one
/// backend.
fn errors_go_on(told: fn(Packet, Family, Actor, u16) -> Told) {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for (vip, f) in AT.into_iter().flat_map(|vip| Family::BOTH.map(|f| (vip, f))) {
            kernel.fresh();
            each(f, |packet, word, quoted| {
                let mask = opened(&mut kernel, f, vip, packet);
                let Told { by, to, about, heard, as_about } = told(packet, f, vip, mask);
                for from in by {
                    let hears = error(f, heard, word, &as_about, quoted);
                    goes_on(&mut kernel, error(f, (from, to), word, &about, quoted), hears);
                }
            });
        }
    });
}

#[test]
fn pkt_30_errors_about_what_a_masked_client_sent_reach_him_as_the_services() {
    errors_go_on(|packet, f, vip, mask| Told {
        by: [ROUTER, ELSEWHERE],
        to: NODE,
        about: packet(f, NODE, ELSEWHERE, (mask, TARGET)),
        heard: (vip, OUTSIDE),
        as_about: packet(f, OUTSIDE, vip, (CP, PORT)),
    });
}

#[test]
fn pkt_30_errors_about_answers_to_a_masked_client_reach_the_backend_as_this_nodes() {
    errors_go_on(|packet, f, vip, mask| Told {
        by: [ROUTER, OUTSIDE],
        to: vip,
        about: packet(f, vip, OUTSIDE, (PORT, CP)),
        heard: (NODE, ELSEWHERE),
        as_about: packet(f, ELSEWHERE, NODE, (TARGET, mask)),
    });
}

#[test]
fn pkt_31_errors_about_what_no_masked_client_sent_or_heard_are_the_stacks() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for f in Family::BOTH {
            for (packet, whole) in PACKETS {
                let mask = opened(&mut kernel, f, NODE, packet);
                let about = |from: Actor, to: Actor, ports| {
                    error(f, (ROUTER, from), words(f)[1], &packet(f, from, to, ports), whole)
                };
                let arrives = [
                    ("another port of the node's", about(NODE, ELSEWHERE, (mask + 1, TARGET))),
                    ("another port of the backend", about(NODE, ELSEWHERE, (mask, PORT))),
                    ("another backend", about(NODE, OUTSIDE, (mask, TARGET))),
                    ("another client", about(NODE, ROUTER, (PORT, CP))),
                    ("another port of the client", about(NODE, OUTSIDE, (PORT, CP + 1))),
                    ("a piece", about(NODE, ELSEWHERE, (mask, TARGET)).fragment(0, 48, true)),
                    ("a piece, of the other kind", about(NODE, OUTSIDE, (PORT, CP)).fragment(0, 48, true)),
                ];
                for (what, told) in arrives {
                    let sent = comes(told);
                    let ran = kernel.run(Hook::Uplink, &sent);
                    assert_eq!((ran.action, ran.bytes), (Action::PassOn, sent), "{what}");
                }
            }
        }
    });
}

#[test]
fn spf_1_nobody_complains_of_a_masked_clients_flow_in_a_pods_name() {
    on_a_node(|| {
        let mut kernel = served(&[ELSEWHERE]);
        for f in Family::BOTH {
            let (packet, whole) = PACKETS[1];
            let mask = opened(&mut kernel, f, NODE, packet);
            for from in [CLIENT, OTHER, NODE] {
                let question = packet(f, NODE, ELSEWHERE, (mask, TARGET));
                let answer = packet(f, NODE, OUTSIDE, (PORT, CP));
                for about in [question, answer] {
                    let told = comes(error(f, (from, NODE), words(f)[1], &about, whole));
                    assert_eq!(kernel.run(Hook::Uplink, &told).action, Action::Drop);
                }
            }
        }
        assert_eq!(kernel.dropped(DropReason::SourceIsLocal).values().sum::<u64>(), 12);
    });
}
