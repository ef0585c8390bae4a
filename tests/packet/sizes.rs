//! Sizes and next hops: what leaves by the program, and what the stack has to see first.
//! In: packets at and above an MTU, and routes of every kind. Out: redirected one hop older, told, or left to the stack.
//! Invariant: what is too big is not cut here; the stack fragments what may be cut.
//! Never: measures a segmented packet; a test run has no transport offset (`wire` sends real ones).

use crate::{
    cast::{CLIENT, DB, Family, OUTSIDE},
    kernel::{Kernel, ip, on_a_node},
    scenario::Scenario,
    table::{Action, Fate, Hook, Step, row, run, sends},
};
use abi::DropReason;

const PORTS: (u16, u16) = (40000, 80);

fn scenario() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db")
}

/// A datagram whose IP packet is this long.
fn datagram(to: crate::cast::Actor, length: usize) -> Step {
    sends(CLIENT, move |f| CLIENT.udp(f, to, PORTS, &vec![7; data_of(f, length)]).bytes())
}

fn data_of(family: Family, length: usize) -> usize {
    length - if family == Family::V4 { 28 } else { 48 }
}

/// The same, which may be cut on its way.
fn divisible(to: crate::cast::Actor, length: usize) -> Step {
    sends(CLIENT, move |f| {
        let mut bytes = CLIENT.udp(f, to, PORTS, &vec![7; data_of(f, length)]).bytes();
        bytes[20] = 0;
        bytes
    })
}

#[test]
fn pkt_32_pkt_33_what_fits_the_mtu_is_forwarded_and_what_may_be_cut_is_left_to_the_stack() {
    let told = Fate::Told(CLIENT, DropReason::TooBig);
    let rows = vec![
        row("PKT-32 as long as the pod's MTU", datagram(DB, 1500), Fate::To(DB)).opens(2),
        row("PKT-32 longer by one", datagram(DB, 1501), told).opens(2),
        row("PKT-32 as long as the uplink's MTU", datagram(OUTSIDE, 1500), Fate::Answered).opens(1),
        row("PKT-32 longer by one, to elsewhere", datagram(OUTSIDE, 1501), told).opens(1),
        row("PKT-32 longer, but may be cut", divisible(DB, 1501), Fate::Host).opens(2).only(&[Family::V4]),
        row("PKT-32 longer, to elsewhere, but may be cut", divisible(OUTSIDE, 1501), Fate::Host)
            .opens(1)
            .only(&[Family::V4]),
    ];
    on_a_node(|| run(&scenario(), rows));
}

/// Whether a packet or an error about it leaves.
fn leaves(kernel: &mut Kernel, family: Family, to: &str, length: usize) -> Action {
    let frame = CLIENT.udp(family, OUTSIDE, PORTS, &vec![7; data_of(family, length)]).with_destination(to);
    kernel.run(Hook::Pod(CLIENT), &frame.bytes()).action
}

#[test]
fn pkt_32_pkt_33_a_routes_own_mtu_counts() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        // Where it forwards, the kernel heeds a route's MTU only if it is locked.
        ip("route add 198.51.100.0/24 via 192.0.2.9 mtu lock 1400");
        ip("route add 2001:db8:1::/48 via 2001:db8::9 mtu lock 1400");
        for (family, to) in [(Family::V4, "198.51.100.7"), (Family::V6, "2001:db8:1::7")] {
            // What leaves may also be an error about the packet; that is counted.
            let too_big = |kernel: &Kernel| kernel.dropped(DropReason::TooBig).values().sum::<u64>();
            let before = too_big(&kernel);
            for (length, errors) in [(1400, 0), (1401, 1)] {
                assert_eq!(leaves(&mut kernel, family, to, length), Action::Redirect, "{family:?} {length}");
                assert_eq!(too_big(&kernel), before + errors, "{family:?} {length}");
            }
        }
    });
}

#[test]
fn a_next_hop_that_nobody_has_resolved_yet_is_no_matter_for_the_stack() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        ip("route add 198.51.100.0/24 via 192.0.2.8");
        ip("route add 2001:db8:1::/48 via 2001:db8::8");
        for (family, to) in [(Family::V4, "198.51.100.7"), (Family::V6, "2001:db8:1::7")] {
            assert_eq!(leaves(&mut kernel, family, to, 100), Action::Redirect, "{family:?}");
        }
    });
}
