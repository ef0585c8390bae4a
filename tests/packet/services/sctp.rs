//! SCTP through services: its sum covers the ports and no address, and is no Internet checksum.
//! In: packets of all lengths, with a sum and without, whole and in pieces. Out: packets, byte by byte.
//! Invariant: what leaves is, to the byte, what its sender would have sent to the backend itself.
//! Never: a sum that only the code under test has made.

use super::{PORT, TARGET, VIP, goes, received, scenario, serve_in, served};
use crate::{
    cast::{Actor, CLIENT, DB, Family, OTHER},
    frame::Frame,
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, allow, policy},
    table::{Action, Hook},
};
use abi::{DropReason, maps};
use model::Direction;
use std::net::IpAddr;

/// The packet's sum is left to somebody else: to the device, or to nobody (RFC 9653).
fn unsummed(frame: &[u8], f: Family) -> Vec<u8> {
    let at = 14 + if f == Family::V4 { 20 } else { 40 } + 8;
    [&frame[..at], &[0; 4], &frame[at + 4..]].concat()
}

/// It becomes this, as it is, with a sum that hardware made over all, and without one of its own.
fn becomes(kernel: &mut Kernel, f: Family, hook: Hook, sent: &Frame, wanted: &[u8]) {
    let bytes = sent.bytes();
    goes(kernel, hook, &bytes, wanted);
    assert_eq!(kernel.run_summed(hook, &bytes), wanted);
    goes(kernel, hook, &unsummed(&bytes, f), &unsummed(wanted, f));
}

#[test]
fn pkt_59_an_association_through_a_service_keeps_its_sums_right() {
    for backend in [DB, CLIENT] {
        on_a_node(|| {
            let mut kernel = served(&[backend]);
            // A pod that is its own backend is seen as the service.
            let seen = if backend == CLIENT { VIP } else { CLIENT };
            let chunks: Vec<u8> = (0..1440u32).map(|at| (at * 7 + at / 13) as u8).collect();
            for f in Family::BOTH {
                for length in [20, 0, 4, 8, 17, 36, 244, 1440] {
                    let data = &chunks[..length];
                    let wanted = received(seen.sctp(f, backend, (40000, TARGET), data), backend);
                    becomes(&mut kernel, f, Hook::Pod(CLIENT), &CLIENT.sctp(f, VIP, (40000, PORT), data), &wanted);
                    let wanted = received(VIP.sctp(f, CLIENT, (PORT, 40000), data), CLIENT);
                    let answer = backend.sctp(f, seen, (TARGET, 40000), data);
                    becomes(&mut kernel, f, Hook::Pod(backend), &answer, &wanted);
                }
            }
            // Two families: a flow and what leads to it.
            assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 4);
        });
    }
}

#[test]
fn pkt_26_pkt_59_an_sctp_packet_in_pieces_whose_sum_nobody_here_can_know_goes_nowhere() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        for f in Family::BOTH {
            let first = CLIENT.sctp(f, VIP, (40000, PORT), &[7; 52]).fragment(0, 32, true);
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &first.bytes()).action, Action::Drop);
        }
        let slot = kernel.slot_of(CLIENT);
        assert_eq!(kernel.dropped(DropReason::ForwardFailed), [(slot, 2)].into());
    });
}

#[test]
fn pkt_26_pkt_59_an_sctp_packet_in_pieces_without_a_sum_goes_through_with_none() {
    on_a_node(|| {
        let mut kernel = served(&[DB]);
        let data: Vec<u8> = (0..52).collect();
        for f in Family::BOTH {
            let piece = |sent: Frame, offset, more| {
                let mut piece = sent.fragment(offset, 32, more);
                if offset == 0 {
                    piece.payload[8..12].fill(0);
                }
                piece
            };
            for (offset, more) in [(0, true), (4, false)] {
                // Where the later piece begins are no ports.
                let sent = piece(CLIENT.sctp(f, VIP, (40000, PORT), &data), offset, more);
                let arrives = received(piece(CLIENT.sctp(f, DB, (40000, TARGET), &data), offset, more), DB);
                goes(&mut kernel, Hook::Pod(CLIENT), &sent.bytes(), &arrives);
            }
        }
    });
}

#[test]
fn own_16_an_association_is_judged_by_the_addresses_of_its_packets_whatever_it_says_of_others() {
    on_a_node(|| {
        let clients_alone = policy("clients", Some("db"), &[Direction::Ingress]).ingress(allow().pods("client"));
        let scenario = scenario().policy(clients_alone);
        let mut kernel = Kernel::new(&scenario);
        serve_in(&scenario, &mut kernel, &[DB], &[]);
        for f in Family::BOTH {
            // An INIT that names another address of its sender's (RFC 9260 §3.3.2.1.1).
            let init = |of: Actor| {
                let (kind, address) = match of.address(f) {
                    IpAddr::V4(address) => (5, address.octets().to_vec()),
                    IpAddr::V6(address) => (6, address.octets().to_vec()),
                };
                let length = 4 + address.len() as u8;
                [
                    &[1, 0, 0, 20 + length, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, kind, 0, length][..],
                    &address,
                ]
                .concat()
            };
            let arrives = received(CLIENT.sctp(f, DB, (40000, TARGET), &init(OTHER)), DB);
            goes(&mut kernel, Hook::Pod(CLIENT), &CLIENT.sctp(f, VIP, (40000, PORT), &init(OTHER)).bytes(), &arrives);
            for chunks in [init(CLIENT), vec![4, 0, 0, 8, 0, 1, 0, 4]] {
                let other = OTHER.sctp(f, VIP, (40000, PORT), &chunks);
                assert_eq!(kernel.run(Hook::Pod(OTHER), &other.bytes()).action, Action::Drop);
            }
        }
        assert_eq!(kernel.dropped(DropReason::IngressPolicy), [(kernel.slot_of(DB), 4)].into());
    });
}
