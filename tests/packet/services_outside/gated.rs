//! Services asked from outside through a host endpoint: which of its layers judge what, and what one program tells the next.
//! In: packets of the network at the gate and then at the uplink's program, answers at the gate. Out: what becomes of each.
//! Invariant: the uplink's program is told by the gate's own words, as in the kernel.
//! Never: shows what policies a layer's rules are made of; `tests/system` does.

use super::*;
use crate::{
    kernel::guard::{ALLOW, DENY, Guard, NO_GUARD, OPEN, Rules},
    table::By,
};
use abi::{SpanKind, handover, rules::x_of};

/// The port of the backends alone, and that of the frontend alone.
const TO_TARGET: Rules = &[
    (0, SpanKind::Deny),
    (x_of(6, TARGET), SpanKind::Allow),
    (x_of(6, TARGET + 1), SpanKind::Deny),
    (x_of(17, TARGET), SpanKind::Allow),
    (x_of(17, TARGET + 1), SpanKind::Deny),
];
const TO_FRONTEND: Rules = &[
    (0, SpanKind::Deny),
    (x_of(6, PORT), SpanKind::Allow),
    (x_of(6, PORT + 1), SpanKind::Deny),
    (x_of(17, PORT), SpanKind::Allow),
    (x_of(17, PORT + 1), SpanKind::Deny),
];

/// The node's own is closed, in both directions.
const CLOSED: Guard = Guard { local: [DENY, DENY], ..NO_GUARD };

fn guarded(chosen: &[Actor], guard: Guard) -> Kernel {
    let mut kernel = served(chosen);
    kernel.guard(&guard);
    kernel
}

/// In by the gate and by the uplink's program: what it does, and the bytes.
fn passes(kernel: &mut Kernel, sent: &[u8]) -> (Action, Vec<u8>) {
    let (ran, words) = kernel.run_handing(Hook::In, sent, [0; 2]);
    if ran.action == Action::Drop {
        return (ran.action, ran.bytes);
    }
    assert_eq!((ran.action, &ran.bytes[..]), (Action::PassOn, sent), "a gate changes nothing");
    let ran = kernel.run_handing(Hook::Uplink, sent, words).0;
    (ran.action, ran.bytes)
}

/// It reaches the pod.
fn arrives(kernel: &mut Kernel, sent: Frame, wanted: Frame) {
    assert_eq!(passes(kernel, &comes(sent)), (Action::Redirect, received(wanted, DB)));
}

fn is_dropped(kernel: &mut Kernel, sent: Frame) {
    assert_eq!(passes(kernel, &comes(sent)).0, Action::Drop);
}

/// The pod's answer leaves as the service's, by the gate.
fn answers(kernel: &mut Kernel, sent: Frame, wanted: Frame) {
    leaves(kernel, Hook::Pod(DB), &sent.bytes(), wanted.clone());
    assert_eq!(kernel.run(Hook::Out(By::Pod(DB)), &wanted.ttl(63).bytes()).action, Action::PassOn);
}

#[test]
fn hep_4_hep_5_the_client_and_the_backend_are_judged_by_what_the_uplink_forwards() {
    for forward in [[OPEN, OPEN], [TO_TARGET, DENY], [ALLOW, DENY]] {
        on_a_node(|| {
            let mut kernel = guarded(&[DB], Guard { forward, ..CLOSED });
            for (vip, port) in [(VIP, 40000), (NODE, 40001)] {
                for f in Family::BOTH {
                    for flags in [SYN, SYN, ACK, ACK] {
                        let answer = if flags == SYN { SYN | ACK } else { ACK };
                        let (asked, sent) =
                            (OUTSIDE.tcp(f, vip, (port, PORT), flags), DB.tcp(f, OUTSIDE, (TARGET, port), answer));
                        arrives(&mut kernel, asked, OUTSIDE.tcp(f, DB, (port, TARGET), flags));
                        answers(&mut kernel, sent, vip.tcp(f, OUTSIDE, (PORT, port), answer));
                    }
                    for data in [b"m", b"n", b"o"] {
                        let (asked, sent) =
                            (OUTSIDE.udp(f, vip, (port, PORT), data), DB.udp(f, OUTSIDE, (TARGET, port), data));
                        arrives(&mut kernel, asked, OUTSIDE.udp(f, DB, (port, TARGET), data));
                        answers(&mut kernel, sent, vip.udp(f, OUTSIDE, (PORT, port), data));
                    }
                }
            }
            for f in Family::BOTH {
                is_dropped(&mut kernel, OUTSIDE.tcp(f, NODE, (40002, 22), SYN));
                is_dropped(&mut kernel, OUTSIDE.tcp(f, NODE, (40002, PORT), ACK));
            }
        });
    }
    on_a_node(|| {
        let mut kernel = guarded(&[DB], Guard { forward: [TO_FRONTEND, OPEN], ..CLOSED });
        for f in Family::BOTH {
            for vip in AT {
                is_dropped(&mut kernel, OUTSIDE.tcp(f, vip, (40000, PORT), SYN));
                is_dropped(&mut kernel, OUTSIDE.udp(f, vip, (40000, PORT), b"x"));
            }
        }
        assert_eq!(kernel.dropped(DropReason::HostEndpoint).values().sum::<u64>(), 8);
        assert_eq!(kernel.dropped(DropReason::HostEndpoint)[&kernel.slot_of(DB)], 8, "behind the gate");
    });
}

#[test]
fn hep_9_the_frontend_is_judged_before_translation_at_the_gate() {
    on_a_node(|| {
        let mut kernel = guarded(&[DB], Guard { pre_dnat: TO_FRONTEND, ..CLOSED });
        for f in Family::BOTH {
            for vip in AT {
                arrives(&mut kernel, OUTSIDE.tcp(f, vip, (40000, PORT), SYN), OUTSIDE.tcp(f, DB, (40000, TARGET), SYN));
                kernel.fresh();
            }
        }
    });
    on_a_node(|| {
        let mut kernel = guarded(&[DB], Guard { pre_dnat: TO_TARGET, forward: [ALLOW, ALLOW], ..CLOSED });
        for f in Family::BOTH {
            for vip in AT {
                is_dropped(&mut kernel, OUTSIDE.tcp(f, vip, (40000, PORT), SYN));
            }
        }
        assert!(kernel.flows().is_empty());
    });
}

#[test]
fn hep_5_a_backend_elsewhere_is_judged_so_too_and_answers_through_the_gate() {
    for forward in [[OPEN, OPEN], [TO_TARGET, OPEN]] {
        on_a_node(|| {
            let mut kernel = guarded(&[ELSEWHERE], Guard { forward, ..CLOSED });
            for f in Family::BOTH {
                for flags in [SYN, ACK, ACK] {
                    let answer = if flags == SYN { SYN | ACK } else { ACK };
                    let (action, bytes) = passes(&mut kernel, &comes(OUTSIDE.tcp(f, NODE, (40000, PORT), flags)));
                    assert_eq!(action, Action::Redirect);
                    assert_eq!(kernel.run(Hook::Out(By::Uplink), &bytes).action, Action::PassOn);
                    let at = if f == Family::V4 { 34 } else { 54 };
                    let mask = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                    let (action, bytes) = passes(&mut kernel, &comes(ELSEWHERE.tcp(f, NODE, (TARGET, mask), answer)));
                    assert_eq!(action, Action::Redirect);
                    assert_eq!(kernel.run(Hook::Out(By::Uplink), &bytes).action, Action::PassOn);
                }
                is_dropped(&mut kernel, ELSEWHERE.tcp(f, NODE, (TARGET, 19_999), SYN | ACK));
            }
        });
    }
    on_a_node(|| {
        let mut kernel = guarded(&[ELSEWHERE], Guard { forward: [TO_FRONTEND, OPEN], ..CLOSED });
        for f in Family::BOTH {
            is_dropped(&mut kernel, OUTSIDE.tcp(f, NODE, (40000, PORT), SYN));
        }
        assert_eq!(kernel.dropped(DropReason::HostEndpoint).values().sum::<u64>(), 2);
    });
}

#[test]
fn what_a_gate_left_to_the_uplinks_program_and_no_service_leads_on_is_dropped() {
    on_a_node(|| {
        let mut kernel = guarded(&[DB], CLOSED);
        for f in Family::BOTH {
            let (ran, words) = kernel.run_handing(Hook::In, &comes(OUTSIDE.tcp(f, NODE, (40000, PORT), SYN)), [0; 2]);
            let generation = kernel.generation();
            assert_eq!((ran.action, words), (Action::PassOn, handover::to_cb_ahead(generation)));
            let other = comes(OUTSIDE.tcp(f, NODE, (40000, 22), SYN));
            assert_eq!(kernel.run_handing(Hook::Uplink, &other, words).0.action, Action::Drop);
            let ran = kernel.run_handing(Hook::Uplink, &other, handover::to_cb(generation)).0;
            assert_eq!((ran.action, ran.bytes), (Action::PassOn, other), "another layer let it in");
            // Its flow ended with its backend: the client hears so.
            let segment = comes(OUTSIDE.tcp(f, NODE, (40000, PORT), ACK));
            let ran = kernel.run_handing(Hook::Uplink, &segment, words).0;
            is_reset(f, NODE, &ran.bytes, RST);
            kernel.fresh();
        }
    });
}
