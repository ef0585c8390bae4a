//! The dry twins: they say what the live programs do, and leave no trace.
//! In: packets of every fate. Out: twin and live program agree; all maps are as before the twin ran.
//! Invariant: held by a full dump of what programs write, before and after.
//! Never: a twin's answer is taken for granted because it was given.

use crate::{
    cast::{CLIENT, DB, Family, NODE, OTHER, OUTSIDE},
    frame::{ACK, FIN, Frame, SYN, arp},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, By, Hook},
};
use abi::{Answer, DropReason, Outcome};
use model::{Direction, Protocol};

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
