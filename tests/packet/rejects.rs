//! Deny action Reject: who is refused by rules is told, by a RST or by an ICMP error.
//! In: refused packets of pods, of others and of the node itself. Out: the answer, byte by byte, or silence.
//! Invariant: a refused packet is never left to the stack, told or not, and is counted as what refused it.
//! Never: an answer to a RST, an ICMP error, a group or a piece.

use crate::{
    cast::{Actor, CLIENT, DB, Family, NODE, OUTSIDE},
    complaints::{Kind, octets, tells},
    frame::{ACK, GATEWAY_MAC, RST, SYN, fold, sum_of},
    kernel::{
        Kernel, UPLINK,
        guard::{DENY, Guard, NO_GUARD},
        on_a_node,
    },
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, By, Fate, Hook, arrives, row, run_on, sends},
};
use abi::{
    DropReason,
    conntrack::CT_REFUSED,
    endpoint::{NODE_REFUSES_WORKLOADS, NODE_REJECTS},
};
use model::{Direction, IfaceName, Protocol};
use netlink::{Filter, Side, Socket};
use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    time::Duration,
};

/// Nothing here takes so long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

const WEB: (u16, u16) = (40000, 80);
const PROHIBITED: Kind = Kind { v4: (3, 13, 0), v6: (1, 1, 0) };

/// To the server UDP 53 may come, and TCP 5432; the client sends what it likes but to port 25.
fn scenario() -> Scenario {
    let rules = policy("db-in", Some("db"), &[Direction::Ingress])
        .ingress(allow().port(Protocol::UDP, 53))
        .ingress(allow().port(Protocol::TCP, 5432));
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").policy(rules)
}

fn rejecting() -> Kernel {
    let mut kernel = Kernel::new(&scenario());
    kernel.node_says(NODE_REJECTS, None);
    kernel
}

/// `answer` is the RST that `from` would send to `to` at this MAC, with these numbers and flags.
fn resets(
    family: Family,
    answer: &[u8],
    (from, to): (Actor, Actor),
    macs: [[u8; 6]; 2],
    (numbers, flags): ([u32; 2], u8),
) -> Result<(), String> {
    let header = if family == Family::V4 { 20 } else { 40 };
    let same = |what: &str, found: &[u8], wanted: &[u8]| {
        if found == wanted { Ok(()) } else { Err(format!("{what}: {found:02x?}, not {wanted:02x?}")) }
    };
    same("length", &[u8::try_from(answer.len()).unwrap_or(0)], &[14 + header + 20])?;
    let (packet, header) = (&answer[14..], usize::from(header));
    let addresses = [octets(from.address(family)), octets(to.address(family))].concat();
    let segment = &packet[header..];
    same("MACs", &answer[..12], &macs.concat())?;
    same("addresses", &packet[header - addresses.len()..header], &addresses)?;
    same("ports", &segment[..4], &[0, 80, 0x9c, 0x40])?;
    same("numbers", &segment[4..12], &numbers.map(u32::to_be_bytes).concat())?;
    same("flags", &segment[12..16], &[0x50, flags, 0, 0])?;
    let sum = sum_of(&addresses) + 6 + 20 + sum_of(segment);
    same("checksum", &fold(sum).to_be_bytes(), &[0, 0])?;
    let header_sum = if family == Family::V4 { fold(sum_of(&packet[..20])) } else { 0 };
    same("header checksum", &header_sum.to_be_bytes(), &[0, 0])
}

#[test]
fn cal_12_who_is_refused_by_rules_is_told_in_the_pod_and_outside() {
    let refused = |whom| Fate::Told(whom, DropReason::IngressPolicy);
    on_a_node(|| {
        let rows = vec![
            row("a pod's SYN", sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, SYN).bytes()), refused(DB))
                .judged(2)
                .check(|f, answer| resets(f, answer, (DB, CLIENT), [CLIENT.mac.0, GATEWAY_MAC], ([0, 1], RST | ACK))),
            row("a pod's datagram", sends(CLIENT, |f| CLIENT.udp(f, DB, WEB, b"12345").bytes()), refused(DB))
                .judged(2)
                .check(|f, answer| tells(f, answer, CLIENT, PROHIBITED, &CLIENT.udp(f, DB, WEB, b"12345").bytes())),
            row("a pod's ping", sends(CLIENT, |f| CLIENT.ping(f, DB, 7).bytes()), refused(DB))
                .judged(2)
                .check(|f, answer| tells(f, answer, CLIENT, PROHIBITED, &CLIENT.ping(f, DB, 7).bytes())),
            row("a SYN from outside", arrives(|f| from_outside(f, SYN)), refused(DB))
                .judged(1)
                .check(|f, answer| resets(f, answer, (DB, OUTSIDE), [OUTSIDE.mac.0, NODE.mac.0], ([0, 1], RST | ACK))),
            row(
                "what is let in is not told about",
                sends(CLIENT, |f| CLIENT.tcp(f, DB, (40000, 5432), SYN).bytes()),
                Fate::To(DB),
            )
            .opens(2),
            row(
                "what belongs to no flow is refused by no rule",
                sends(CLIENT, |f| CLIENT.tcp(f, DB, WEB, ACK).bytes()),
                Fate::Drop(Some(CLIENT), DropReason::NoFlow),
            ),
        ];
        run_on(&mut rejecting(), &scenario(), rows);
    });
}

fn from_outside(f: Family, flags: u8) -> Vec<u8> {
    OUTSIDE.tcp(f, DB, WEB, flags).with_destination_mac(NODE.mac.0).bytes()
}

#[test]
fn pkt_38_nobody_is_told_about_a_refused_error_or_piece() {
    on_a_node(|| {
        let silent = Fate::Drop(Some(DB), DropReason::IngressPolicy);
        let unrelated = Fate::Drop(Some(DB), DropReason::IcmpUnrelated);
        let about = |f| DB.udp(f, CLIENT, WEB, b"x");
        let rows = vec![
            row("an error", sends(CLIENT, move |f| CLIENT.unreachable(f, DB, &about(f)).bytes()), unrelated).judged(2),
            row(
                "a first piece",
                sends(CLIENT, |f| CLIENT.udp(f, DB, WEB, &[7; 56]).fragment(0, 32, true).bytes()),
                silent,
            )
            .judged(2),
        ];
        run_on(&mut rejecting(), &scenario(), rows);
    });
}

#[test]
fn a_flow_that_a_new_deny_cuts_is_reset_by_the_numbers_of_its_own_segments() {
    on_a_node(|| {
        for family in Family::BOTH {
            let open = Scenario::default().pod(CLIENT, "client").pod(DB, "db");
            let mut kernel = Kernel::new(&open);
            let segment = |flags| {
                let mut frame = CLIENT.tcp(family, DB, WEB, flags);
                frame.payload[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
                frame.payload.extend([7; 100]);
                frame.bytes()
            };
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &segment(SYN)).action, Action::Redirect);
            kernel.commit(&scenario());
            kernel.node_says(NODE_REJECTS, None);
            // Again and again: the first may be lost.
            for _ in 0..2 {
                let ran = kernel.run(Hook::Pod(CLIENT), &segment(ACK));
                assert_eq!(ran.action, Action::Redirect, "{family:?}");
                let told = ([0x0506_0708, 0], RST);
                resets(family, &ran.bytes, (DB, CLIENT), [CLIENT.mac.0, GATEWAY_MAC], told).expect("the RST is right");
            }
            assert!(kernel.seen().entries.values().all(|entry| entry.flags & CT_REFUSED != 0));
            assert_eq!(kernel.dropped(DropReason::FlowRefused).values().sum::<u64>(), 2);
            assert_eq!(kernel.run(Hook::Pod(CLIENT), &segment(RST | ACK)).action, Action::Drop, "no RST for a RST");
            // A segmented packet becomes a RST as well.
            kernel.segment = 50;
            let ran = kernel.run(Hook::Pod(CLIENT), &segment(ACK));
            assert_eq!((ran.action, ran.bytes.len()), (Action::Redirect, if family == Family::V4 { 54 } else { 74 }));
            drop(kernel);
            remove_links();
        }
    });
}

/// The next node of the same test starts without this one's interfaces.
fn remove_links() {
    let mut socket = netlink::Socket::open().expect("netlink answers");
    for link in socket.links().expect("links are listed") {
        if link.name.0 != "lo" {
            let _ = socket.delete_link(link.index);
        }
    }
}

#[test]
fn cal_12_a_gate_tells_those_outside_the_pods_and_the_node_itself() {
    on_a_node(|| {
        let mut kernel = rejecting();
        kernel.guard(&Guard { local: [DENY, DENY], forward: [DENY, DENY], ..NO_GUARD });
        for family in Family::BOTH {
            let asks = OUTSIDE.tcp(family, NODE, WEB, SYN).with_destination_mac(NODE.mac.0).bytes();
            let told = ([0, 1], RST | ACK);
            let ran = kernel.run(Hook::In, &asks);
            assert_eq!(ran.action, Action::Redirect, "{family:?}");
            resets(family, &ran.bytes, (NODE, OUTSIDE), [OUTSIDE.mac.0, NODE.mac.0], told).expect("the RST is right");
            // It leaves by the same interface, past the rules that refuse everything.
            assert_eq!(kernel.run(Hook::Out(By::Uplink), &ran.bytes).action, Action::PassOn, "{family:?}");
            let other = OUTSIDE.tcp(family, NODE, WEB, SYN).bytes();
            assert_eq!(kernel.run(Hook::Out(By::Uplink), &other).action, Action::Redirect, "nothing else does");
            let own = NODE.tcp(family, OUTSIDE, WEB, SYN).with_destination_mac(OUTSIDE.mac.0).bytes();
            let (ran, words) = kernel.run_handing(Hook::Out(By::Host), &own, [0; 2]);
            assert_eq!(ran.action, Action::Redirect, "{family:?}");
            resets(family, &ran.bytes, (OUTSIDE, NODE), [NODE.mac.0, OUTSIDE.mac.0], told).expect("the RST is right");
            assert_eq!(kernel.run_handing(Hook::In, &ran.bytes, words).0.action, Action::PassOn, "{family:?}");
            assert_eq!(kernel.run(Hook::In, &ran.bytes).action, Action::Drop, "anybody else's RST");
            assert_eq!(kernel.run_handing(Hook::In, &asks, words).0.action, Action::Redirect, "a RST and no more");
        }
    });
}

/// Puts the programs of a gate at the uplink, as real packets meet them.
fn attach_gate(kernel: &Kernel) {
    let interface = kernel.index(&IfaceName(UPLINK.into()));
    let mut socket = Socket::open().expect("netlink answers");
    socket.add_clsact(interface).expect("a clsact can be added");
    for (side, program) in [(Side::Ingress, "from_host_endpoint"), (Side::Egress, "to_host_endpoint")] {
        let filter = Filter { interface, side, priority: 9, handle: 7, name: program.into(), program: None };
        let program = kernel.program(program);
        let program = program.fd().expect("it is loaded").as_fd();
        socket.replace_filter(&filter, program).expect("a filter can be added");
    }
}

#[test]
fn what_the_node_itself_opens_and_its_gate_refuses_fails_at_once() {
    on_a_node(|| {
        let mut kernel = rejecting();
        kernel.guard(&Guard { local: [DENY, DENY], ..NO_GUARD });
        attach_gate(&kernel);
        for family in Family::BOTH {
            let far = SocketAddr::new(OUTSIDE.address(family), 80);
            let error = TcpStream::connect_timeout(&far, PATIENCE).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
            let socket = UdpSocket::bind(SocketAddr::new(NODE.address(family), 0)).expect("a socket can be bound");
            socket.connect(far).expect("it has one peer");
            socket.set_read_timeout(Some(PATIENCE)).expect("it may wait");
            socket.send(b"x").expect("the error comes later");
            let error = socket.recv(&mut [0; 9]).expect_err("nobody answers");
            let wanted = if family == Family::V4 { ErrorKind::HostUnreachable } else { ErrorKind::PermissionDenied };
            assert_eq!(error.kind(), wanted, "{family:?}");
        }
    });
}

#[test]
fn e2h_1_a_pod_that_the_node_refuses_is_told_and_without_the_setting_nobody_is() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        kernel.node_says(NODE_REFUSES_WORKLOADS, None);
        for family in Family::BOTH {
            for frame in [CLIENT.tcp(family, NODE, WEB, SYN), CLIENT.tcp(family, DB, WEB, SYN)] {
                assert_eq!(kernel.run(Hook::Pod(CLIENT), &frame.bytes()).action, Action::Drop, "{family:?}");
            }
        }
        kernel.node_says(NODE_REFUSES_WORKLOADS | NODE_REJECTS, None);
        for family in Family::BOTH {
            let ran = kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(family, NODE, WEB, SYN).bytes());
            assert_eq!(ran.action, Action::Redirect);
            let told = ([0, 1], RST | ACK);
            resets(family, &ran.bytes, (NODE, CLIENT), [CLIENT.mac.0, GATEWAY_MAC], told).expect("the RST is right");
        }
    });
}

#[test]
fn pkt_38_refusals_are_told_within_the_budget_and_counted_as_what_they_are_beyond() {
    on_a_node(|| {
        let mut kernel = rejecting();
        let refused = CLIENT.udp(Family::V4, DB, WEB, b"x").bytes();
        let told = (0..500).filter(|_| kernel.run(Hook::Pod(CLIENT), &refused).action == Action::Redirect).count();
        assert!(told > 0 && told < 500, "{told} of 500 at once");
        assert_eq!(kernel.dropped(DropReason::IngressPolicy).values().sum::<u64>(), 500);
        assert!(kernel.dropped(DropReason::IcmpLimited).is_empty());
    });
}
