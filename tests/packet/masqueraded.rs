//! Masquerade: what the programs make of the bytes that pods send outside of all pools, and of what comes back.
//! In: packets of pods whose pools have `natOutgoing`, and of the network. Out: packets, byte by byte.
//! Invariant: what leaves is, to the byte, what this node would have sent itself, and what arrives what the pod was sent.
//! Never: a checksum that only the code under test has made.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OTHER, OUTSIDE, REMOTE},
    frame::{ACK, Frame, SYN},
    kernel::{Kernel, on_a_node},
    scenario::Scenario,
    services::{
        errors::{ROUTER, each, error, words},
        goes, received,
    },
    table::{Action, Hook},
};
use abi::{DropReason, maps};
use model::{FelixConfiguration, IpPool, Resource};

const CP: u16 = 40000;
const PORT: u16 = 80;

fn with_pools(nat_outgoing: bool, felix: FelixConfiguration) -> Scenario {
    let mut scenario = Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other");
    for (name, cidr, size) in [("v4", "10.65.0.0/16", 26), ("v6", "fd00:65::/64", 122)] {
        let pool = IpPool::of_pods(name, cidr.parse().expect("a network"), size);
        scenario = scenario.with(Resource::IpPool(IpPool { nat_outgoing, ..pool }));
    }
    scenario.with(Resource::FelixConfiguration(FelixConfiguration { name: "default".into(), ..felix }))
}

fn masquerading() -> Kernel {
    Kernel::new(&with_pools(true, FelixConfiguration::default()))
}

fn comes(frame: Frame) -> Vec<u8> {
    frame.with_destination_mac(NODE.mac.0).bytes()
}

/// Where the port stands that tells the flow, or the identifier.
fn port_of(f: Family, frame: &Frame, bytes: &[u8]) -> u16 {
    let at = if f == Family::V4 { 34 } else { 54 } + if matches!(frame.protocol, 1 | 58) { 4 } else { 0 };
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A pod's packet leaves as this; by which port.
fn leaves(kernel: &mut Kernel, f: Family, sent: &Frame, wanted: impl Fn(u16) -> Frame) -> u16 {
    let ran = kernel.run(Hook::Pod(CLIENT), &sent.bytes());
    assert_eq!(ran.action, Action::Redirect);
    let port = port_of(f, sent, &ran.bytes);
    let wanted = wanted(port).ttl(63).bytes();
    assert_eq!(ran.bytes[14..], wanted[14..], "\n{:02x?} is not\n{wanted:02x?}", ran.bytes);
    assert!((1025..30_000).contains(&port), "{port}");
    port
}

/// What comes back for a pod is this there, also with a sum that hardware made.
fn arrives(kernel: &mut Kernel, sent: Frame, wanted: Frame) {
    let (sent, wanted) = (comes(sent), received(wanted, CLIENT));
    goes(kernel, Hook::Uplink, &sent, &wanted);
    assert_eq!(kernel.run_summed(Hook::Uplink, &sent), wanted);
}

#[test]
fn ipam_26_a_pods_flow_leaves_all_pools_as_this_nodes_and_what_answers_it_reads_as_to_the_pod() {
    on_a_node(|| {
        let mut kernel = masquerading();
        for f in Family::BOTH {
            for flags in [SYN, SYN, ACK, ACK] {
                let answer = if flags == SYN { SYN | ACK } else { ACK };
                let sent = CLIENT.tcp(f, OUTSIDE, (CP, PORT), flags);
                let mask = leaves(&mut kernel, f, &sent, |mask| NODE.tcp(f, OUTSIDE, (mask, PORT), flags));
                let back = OUTSIDE.tcp(f, NODE, (PORT, mask), answer);
                goes(
                    &mut kernel,
                    Hook::Uplink,
                    &comes(back),
                    &received(OUTSIDE.tcp(f, CLIENT, (PORT, CP), answer), CLIENT),
                );
            }
            for data in [&b""[..], b"m", b"meow", b"meows"] {
                let sent = CLIENT.udp(f, OUTSIDE, (CP, PORT), data);
                let mask = leaves(&mut kernel, f, &sent, |mask| NODE.udp(f, OUTSIDE, (mask, PORT), data));
                let back = OUTSIDE.udp(f, NODE, (PORT, mask), data);
                arrives(&mut kernel, back, OUTSIDE.udp(f, CLIENT, (PORT, CP), data));
                let sent = CLIENT.sctp(f, OUTSIDE, (CP, PORT), data);
                let mask = leaves(&mut kernel, f, &sent, |mask| NODE.sctp(f, OUTSIDE, (mask, PORT), data));
                let back = OUTSIDE.sctp(f, NODE, (PORT, mask), data);
                arrives(&mut kernel, back, OUTSIDE.sctp(f, CLIENT, (PORT, CP), data));
                let id = leaves(&mut kernel, f, &CLIENT.ping(f, OUTSIDE, 7), |id| NODE.ping(f, OUTSIDE, id));
                arrives(&mut kernel, OUTSIDE.pong(f, NODE, id), OUTSIDE.pong(f, CLIENT, 7));
            }
        }
        // Two families, four protocols: a flow, and what its answers find.
        assert_eq!(kernel.entries(&maps::CONNTRACK).len(), 16);
        assert_eq!(kernel.account(kernel.slot_of(CLIENT)), 16);
    });
}

#[test]
fn ipam_26_what_stays_in_pools_or_comes_from_one_that_does_not_ask_keeps_its_address() {
    on_a_node(|| {
        let mut kernel = masquerading();
        let plain = |kernel: &mut Kernel, f, to: Actor| {
            let sent = CLIENT.udp(f, to, (CP, PORT), b"meow");
            let ran = kernel.run(Hook::Pod(CLIENT), &sent.bytes());
            let wanted = sent.ttl(63).bytes();
            assert_eq!((ran.action, &ran.bytes[14..]), (Action::Redirect, &wanted[14..]));
        };
        for f in Family::BOTH {
            plain(&mut kernel, f, REMOTE);
            plain(&mut kernel, f, DB);
        }
        kernel.commit(&with_pools(false, FelixConfiguration::default()));
        Family::BOTH.into_iter().for_each(|f| plain(&mut kernel, f, OUTSIDE));
    });
}

#[test]
fn ipam_26_the_address_and_the_ports_that_felix_configuration_names_are_taken() {
    on_a_node(|| {
        let (nat_address, nat_ports) = (Some([198, 51, 100, 9].into()), Some((3000, 3000)));
        let felix = FelixConfiguration { nat_address, nat_ports, ..FelixConfiguration::default() };
        let mut kernel = Kernel::new(&with_pools(true, felix));
        let ran = kernel.run(Hook::Pod(CLIENT), &CLIENT.udp(Family::V4, OUTSIDE, (CP, PORT), b"meow").bytes());
        let wanted = NODE.udp(Family::V4, OUTSIDE, (3000, PORT), b"meow").with_source("198.51.100.9").ttl(63).bytes();
        assert_eq!(ran.bytes[14..], wanted[14..]);
        let second = CLIENT.udp(Family::V4, OUTSIDE, (CP + 1, PORT), b"meow").bytes();
        assert_eq!(kernel.run(Hook::Pod(CLIENT), &second).action, Action::Drop);
        assert_eq!(kernel.dropped(DropReason::NatCollision), [(kernel.slot_of(CLIENT), 1)].into());
    });
}

/// Opens a flow of that kind, and says by which port.
fn opened(kernel: &mut Kernel, f: Family, packet: fn(Family, Actor, Actor, (u16, u16)) -> Frame) -> u16 {
    let opens = |from: Actor, ports| {
        let frame = packet(f, from, OUTSIDE, ports);
        if frame.protocol == 6 { from.tcp(f, OUTSIDE, ports, SYN) } else { frame }
    };
    leaves(kernel, f, &opens(CLIENT, (CP, PORT)), |mask| opens(NODE, (mask, PORT)))
}

#[test]
fn pkt_30_errors_about_what_a_pod_sent_quote_it_as_it_did_and_stay_those_of_who_complains() {
    on_a_node(|| {
        let mut kernel = masquerading();
        for f in Family::BOTH {
            each(f, |packet, word, quoted| {
                let mask = opened(&mut kernel, f, packet);
                let (seen, sent) = (packet(f, NODE, OUTSIDE, (mask, PORT)), packet(f, CLIENT, OUTSIDE, (CP, PORT)));
                for from in [ROUTER, OUTSIDE] {
                    let hears = error(f, (from, CLIENT), word, &sent, quoted);
                    arrives(&mut kernel, error(f, (from, NODE), word, &seen, quoted), hears);
                }
            });
            let id = leaves(&mut kernel, f, &CLIENT.ping(f, OUTSIDE, 7), |id| NODE.ping(f, OUTSIDE, id));
            for word in words(f) {
                let hears = error(f, (ROUTER, CLIENT), word, &CLIENT.ping(f, OUTSIDE, 7), 8);
                arrives(&mut kernel, error(f, (ROUTER, NODE), word, &NODE.ping(f, OUTSIDE, id), 8), hears);
            }
        }
    });
}

#[test]
fn pkt_30_a_pods_error_about_what_it_heard_leaves_as_this_nodes_about_what_came_here() {
    on_a_node(|| {
        let mut kernel = masquerading();
        for f in Family::BOTH {
            each(f, |packet, word, quoted| {
                let mask = opened(&mut kernel, f, packet);
                let told = error(f, (CLIENT, OUTSIDE), word, &packet(f, OUTSIDE, CLIENT, (PORT, CP)), quoted);
                let hears = error(f, (NODE, OUTSIDE), word, &packet(f, OUTSIDE, NODE, (PORT, mask)), quoted);
                let ran = kernel.run(Hook::Pod(CLIENT), &told.bytes());
                let hears = hears.ttl(63).bytes();
                assert_eq!(ran.action, Action::Redirect);
                assert_eq!(ran.bytes[14..], hears[14..], "\n{:02x?} is not\n{hears:02x?}", ran.bytes);
            });
        }
    });
}

#[test]
fn pkt_26_every_piece_of_a_datagram_goes_out_and_comes_back() {
    on_a_node(|| {
        let mut kernel = masquerading();
        for f in Family::BOTH {
            let data = [7; 56];
            let mut mask = 0;
            for (offset, more) in [(0, true), (4, false)] {
                let piece = |frame: Frame| frame.fragment(offset, 32, more);
                let ran = kernel.run(Hook::Pod(CLIENT), &piece(CLIENT.udp(f, OUTSIDE, (CP, PORT), &data)).bytes());
                assert_eq!(ran.action, Action::Redirect);
                if offset == 0 {
                    let at = if f == Family::V4 { 34 } else { 62 };
                    mask = u16::from_be_bytes([ran.bytes[at], ran.bytes[at + 1]]);
                }
                let wanted = piece(NODE.udp(f, OUTSIDE, (mask, PORT), &data)).ttl(63).bytes();
                assert_eq!(ran.bytes[14..], wanted[14..]);
            }
            for (offset, more) in [(0, true), (4, false)] {
                let piece = |frame: Frame| frame.fragment(offset, 32, more).identified(0x4242);
                let wanted = received(piece(OUTSIDE.udp(f, CLIENT, (PORT, CP), &data)), CLIENT);
                goes(&mut kernel, Hook::Uplink, &comes(piece(OUTSIDE.udp(f, NODE, (PORT, mask), &data))), &wanted);
            }
        }
    });
}
