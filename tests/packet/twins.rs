//! The dry twins: they say what the live programs do, and leave no trace.
//! In: packets of every fate. Out: twin and live program agree; all maps are as before the twin ran.
//! Invariant: held by a full dump of what programs write, before and after.
//! Never: a twin's answer is taken for granted because it was given.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, FIN, Frame, SYN, arp},
    kernel::{Kernel, OWN_FOLDER, on_a_node},
    port::{OFFLOAD, Port},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    storms::pin,
    table::{Action, By, Hook},
};
use abi::{Answer, DropReason, Outcome};
use model::{Direction, Protocol};
use rustix::mount::{MountFlags, mount};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// So often a twin is asked while packets arrive.
const ASKED: u32 = 20_000;

fn scenario() -> Scenario {
    let rule = allow().pods("client").port(Protocol::TCP, 5432);
    Scenario::default()
        .pod(CLIENT, "client")
        .pod(DB, "db")
        .pod(OTHER, "other")
        .policy(policy("db-in", Some("db"), &[Direction::Ingress]).ingress(rule))
}

fn cases(family: Family) -> Vec<(Hook, Frame)> {
    let sql = (40000, 5432);
    let web = (40000, 80);
    let mut forged = CLIENT.tcp(family, DB, sql, SYN);
    forged.source = OTHER.address(family);
    vec![
        (Hook::Pod(CLIENT), CLIENT.tcp(family, DB, sql, SYN)),
        (Hook::Pod(DB), DB.tcp(family, CLIENT, (5432, 40000), SYN | ACK)),
        (Hook::Pod(DB), DB.tcp(family, CLIENT, (5432, 40000), ACK | FIN)),
        (Hook::Pod(CLIENT), CLIENT.udp(family, OTHER, web, &[7; 56]).fragment(0, 32, true)),
        (Hook::Pod(CLIENT), CLIENT.udp(family, OTHER, web, &[7; 56]).fragment(4, 32, false)),
        (Hook::Pod(CLIENT), CLIENT.tcp(family, DB, web, SYN)),
        (Hook::Pod(OTHER), OTHER.udp(family, DB, sql, b"x")),
        (Hook::Pod(CLIENT), CLIENT.tcp(family, NODE, web, SYN)),
        (Hook::Pod(CLIENT), CLIENT.tcp(family, OUTSIDE, web, SYN)),
        (Hook::Pod(CLIENT), forged),
        (Hook::Pod(CLIENT), CLIENT.tcp(family, DB, (1, 2), ACK)),
        (Hook::ToPod(DB, By::Host), NODE.tcp(family, DB, web, SYN)),
        (Hook::ToPod(DB, By::Uplink), NODE.tcp(family, DB, web, SYN)),
        (Hook::ToPod(DB, By::Pod(OTHER)), CLIENT.tcp(family, DB, sql, ACK)),
        (Hook::Uplink, OUTSIDE.tcp(family, DB, sql, SYN).with_destination_mac(NODE.mac.0)),
        (Hook::Uplink, OUTSIDE.tcp(family, NODE, sql, SYN).with_destination_mac(NODE.mac.0)),
    ]
}

fn agrees(answer: Answer, action: Action, drops: &[DropReason]) -> bool {
    match (answer.outcome, action) {
        (Outcome::Drop(reason), Action::Drop) => drops == [reason],
        (Outcome::ToHost, Action::PassOn) => true,
        (Outcome::ToEndpoint(_) | Outcome::ToInterface(_) | Outcome::Answered, Action::Redirect) => true,
        // At the host's side of a pod's interface, "into the pod" is to let the packet go its way.
        (Outcome::ToEndpoint(_), Action::PassOn) => true,
        _ => false,
    }
}

#[test]
fn the_dry_twin_says_what_the_live_program_does_and_leaves_no_trace() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        for family in Family::BOTH {
            kernel.fresh();
            for (hook, frame) in cases(family) {
                let bytes = frame.bytes();
                let before = kernel.seen();
                let answer = kernel.ask(hook, &bytes);
                assert_eq!(kernel.seen(), before, "the twin wrote something at {hook:?}");
                let action = kernel.run(hook, &bytes).action;
                let after = kernel.seen();
                let dropped: Vec<_> = after
                    .drops
                    .iter()
                    .filter(|(key, count)| before.drops.get(key) != Some(count))
                    .map(|((_, reason), _)| *reason)
                    .collect();
                assert!(agrees(answer, action, &dropped), "{hook:?} {family:?}: {answer:?} but {action:?} {dropped:?}");
            }
        }
        let request = arp(CLIENT, 1, [10, 65, 0, 2], [169, 254, 1, 1]);
        assert_eq!(kernel.ask(Hook::Pod(CLIENT), &request).outcome, Outcome::Answered);
    });
}

#[test]
fn the_dry_twin_leaves_a_flow_that_is_to_be_judged_again_as_it_was() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        let segment = |flags| CLIENT.tcp(Family::V4, DB, (40000, 5432), flags).bytes();
        assert_eq!(kernel.run(Hook::Pod(CLIENT), &segment(SYN)).action, Action::Redirect);
        let deny = policy("db-in", Some("db"), &[Direction::Ingress]);
        for (rules, passes) in [(deny.clone().ingress(allow()), true), (deny, false)] {
            kernel.commit(&scenario().policy(rules));
            let before = kernel.seen();
            let answer = kernel.ask(Hook::Pod(CLIENT), &segment(ACK));
            assert_eq!(matches!(answer.outcome, Outcome::ToEndpoint(_)), passes);
            assert_eq!(kernel.seen(), before);
        }
    });
}

/// Before Linux 6.11 a packet may come between two instructions of a twin that is asked.
#[test]
fn the_dry_twin_is_not_confused_by_packets_that_arrive_on_its_processor_meanwhile() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&scenario());
        arrivals_on_the_first_processor();
        let mut intruder = Port::at(&kernel, OTHER);
        let forged = OTHER.udp(Family::V4, CLIENT, (9, 9), b"forged").with_source("10.65.0.99").bytes();
        let asked = CLIENT.tcp(Family::V4, DB, (40000, 5432), SYN).bytes();
        let expected = kernel.ask(Hook::Pod(CLIENT), &asked);
        let is_over = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                pin(1);
                let mut sent = 0;
                while !is_over.load(Ordering::Relaxed) {
                    intruder.send([0; OFFLOAD], &forged);
                    sent += 1;
                }
                sent
            });
            pin(0);
            let answers: BTreeSet<_> =
                (0..ASKED).map(|_| format!("{:?}", kernel.ask(Hook::Pod(CLIENT), &asked))).collect();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(answers, BTreeSet::from([format!("{expected:?}")]));
            sender.join().expect("the frames are sent")
        });
        let dropped: u64 = kernel.dropped(DropReason::Spoofed).values().sum();
        assert!(sent > 0 && dropped > 0, "{dropped} of {sent} packets came between");
    });
}

/// Receive packet steering: whatever comes in by any interface is taken up by the first processor.
fn arrivals_on_the_first_processor() {
    let sys = Path::new(OWN_FOLDER).join("sys");
    fs::create_dir(&sys).expect("a folder can be made");
    mount("sysfs", &sys, "sysfs", MountFlags::empty(), None).expect("root may mount");
    for interface in fs::read_dir(sys.join("class/net")).expect("interfaces are listed") {
        let queue = interface.expect("an interface is listed").path().join("queues/rx-0/rps_cpus");
        fs::write(queue, "1").expect("packets can be steered");
    }
}
