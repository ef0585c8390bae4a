//! Spans that refer further, and spans that log, as a specification: what packets of one pair of pods are told.
//! In: a node of two pods with nested rows written by hand. Out: verdicts and records.
//! Invariant: what cannot be found refuses.
//! Never: compiles a rule.

use abi::DropReason::{IngressPolicy, TableCorrupt};
use abi::rules::{SpanKind, x_of};
use abi::{DropReason, RowKey, RowRef, SetEntry, Span};

use crate::fake::{ALLOW, Bytes, Node, Twin, tcp, udp, v4};
use crate::policy::Logged;
use crate::tables::Arrival;
use crate::tracking::{A, ACK, B, SYN, TO_A, TO_B};
use crate::walk::{Hook, State, Verdict, walk};

/// A node where these spans judge what comes to the pod in slot 3: the set's row, and what lies behind it.
fn judged_by(row: &[Span], behind: &[Span]) -> (Node, u32) {
    let mut node = Node::new();
    let offset = node.spans.len() as u32;
    node.spans.extend(row.iter().chain(behind));
    let row = RowRef { offset, len: row.len() as u32 };
    node.sets.push(SetEntry { row, flags: 0, pad: 0 });
    node.change_ingress(3, node.sets.len() as u32 - 1);
    (node, offset + row.len)
}

/// All TCP by source port: from 68 to 69 let in.
fn by_port() -> (Node, u32) {
    let list = [
        Span::new(0, SpanKind::Head, 3),
        Span::new(0, SpanKind::Deny, 11),
        Span::new(68, SpanKind::Allow, 12),
        Span::new(70, SpanKind::Deny, 11),
    ];
    let others = [Span::new(0, SpanKind::Deny, 10), Span::default(), Span::new(x_of(7, 0), SpanKind::Deny, 10)];
    let (mut node, at) = judged_by(&others, &list);
    node.spans[at as usize - 2] = Span::new(x_of(6, 0), SpanKind::Ports, at);
    (node, at)
}

fn opens(node: &Node, port: u16) -> (Result<Verdict, DropReason>, Option<u32>) {
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, 3, (port, 80), SYN));
    (verdict, state.ingress_hit)
}

#[test]
fn cal_21_a_list_is_searched_by_the_openers_port() {
    let (node, _) = by_port();
    for (port, allowed) in [(0, false), (67, false), (68, true), (69, true), (70, false), (u16::MAX, false)] {
        let wanted = if allowed { (TO_B, Some(12)) } else { (Err(IngressPolicy), Some(11)) };
        assert_eq!(opens(&node, port), wanted, "{port}");
    }
    assert_eq!(node.pod_sends(2, &udp(A, 3, (68, 80))), Err(IngressPolicy), "another protocol has its own span");
}

#[test]
fn a_flow_is_judged_again_by_its_openers_port_whichever_way_the_packet_goes() {
    let (mut node, at) = by_port();
    assert_eq!(opens(&node, 69).0, TO_B);
    node.spans[at as usize + 3] = Span::new(69, SpanKind::Deny, 11);
    assert_eq!(opens(&node, 68).0, TO_B);
    node.generation.set(node.generation.get() + 1);
    node.endpoints[3].rev = node.generation.get() as u32;
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 68), SYN | ACK)), TO_A, "its own port is 80");
    assert_eq!(node.pod_sends(3, &tcp(B, 2, (80, 69), SYN | ACK)), Err(DropReason::FlowRefused));
}

#[test]
fn a_list_that_is_none_or_lies_outside_refuses() {
    for broken in [Span::new(0, SpanKind::Allow, 3), Span::new(0, SpanKind::Head, u32::MAX)] {
        let (mut node, at) = by_port();
        node.spans[at as usize] = broken;
        assert_eq!(opens(&node, 68).0, Err(TableCorrupt), "{broken:?}");
    }
    let (mut node, at) = by_port();
    node.spans[at as usize] = Span::new(0, SpanKind::Head, 0);
    assert_eq!(opens(&node, 68), (Err(IngressPolicy), Some(0)), "an empty list refuses by no rule");
    node.spans[at as usize - 2] = Span::new(x_of(6, 0), SpanKind::Ports, u32::MAX);
    assert_eq!(opens(&node, 68).0, Err(TableCorrupt));
    node.spans[at as usize - 2] = Span::new(x_of(6, 0), SpanKind::Head, 0);
    assert_eq!(opens(&node, 68).0, Err(TableCorrupt), "no search ends at a head");
}

/// Set 4 asks the own class: pod 3's own row lets in TCP 80, all others have the default, which refuses.
fn by_own() -> Node {
    let (mut node, behind) = judged_by(
        &[Span::new(0, SpanKind::Cell, 4)],
        &[
            Span::new(0, SpanKind::Deny, 20),
            Span::new(0, SpanKind::Deny, 21),
            Span::new(x_of(6, 80), SpanKind::Allow, 22),
        ],
    );
    node.sets.push(SetEntry { row: RowRef { offset: behind, len: 1 }, flags: 0, pad: 0 });
    node.rows.insert(RowKey { set: 4, class: 3 }, RowRef { offset: behind + 1, len: 2 });
    node
}

#[test]
fn a_cell_asks_the_class_of_the_very_address_at_this_end() {
    let mut node = by_own();
    assert_eq!(opens(&node, 1), (TO_B, Some(22)));
    assert_eq!(node.pod_sends(2, &tcp(A, 3, (1, 79), SYN)), Err(IngressPolicy));
    // A second address of the same pod, of another class.
    node.classes.push(abi::ClassEntry { class: abi::Word::settled(9), endpoint: abi::Word::settled(3) });
    node.addresses.insert(v4(33), node.classes.len() as u32 - 1);
    let (verdict, state) = node.run(Hook::FromWorkload, 2, 2, &tcp(A, 33, (1, 80), SYN));
    assert_eq!((verdict, state.ingress_hit), (Err(IngressPolicy), Some(20)));
}

#[test]
fn a_cell_may_lead_to_a_list_and_to_nothing_deeper() {
    let mut node = by_own();
    let list = node.spans.len() as u32;
    node.spans.extend([
        Span::new(0, SpanKind::Head, 2),
        Span::new(0, SpanKind::Deny, 30),
        Span::new(68, SpanKind::Allow, 31),
    ]);
    let own = node.rows[&RowKey { set: 4, class: 3 }].offset as usize;
    node.spans[own + 1] = Span::new(x_of(6, 80), SpanKind::Ports, list);
    assert_eq!((opens(&node, 67).1, opens(&node, 68)), (Some(30), (TO_B, Some(31))));
    node.spans[own + 1] = Span::new(x_of(6, 80), SpanKind::Cell, 4);
    assert_eq!(opens(&node, 69).0, Err(TableCorrupt));
    node.spans[own - 2] = Span::new(0, SpanKind::Cell, 77);
    assert_eq!(opens(&node, 69).0, Err(TableCorrupt), "a set past the table's end");
}

/// What a packet of the pod behind this interface is told, and what was noted of it.
fn noted(node: &Node, ifindex: u32, frame: &[u8]) -> (Result<Verdict, DropReason>, std::vec::Vec<Logged>) {
    let (verdict, state) = node.run(Hook::FromWorkload, ifindex, ifindex, frame);
    (verdict, state.logged[..state.log_count as usize].to_vec())
}

#[test]
fn cal_8_what_a_span_with_the_log_bit_decides_is_noted_as_from_the_openers_side() {
    let denied = |x| Span::new(x, SpanKind::Deny, 40).logged();
    let row = [denied(0), Span::new(x_of(6, 80), SpanKind::Allow, 41).logged(), denied(x_of(6, 81))];
    let (mut node, _) = judged_by(&row, &[]);
    let note = |x, source_port, span, is_reply| Logged { slot: 3, is_ingress: 1, is_reply, x, source_port, span };
    let (web, dns) = (x_of(6, 80), x_of(17, 53));
    assert_eq!(noted(&node, 2, &tcp(A, 3, (4000, 80), SYN)), (TO_B, [note(web, 4000, row[1], 0)].into()));
    assert_eq!(noted(&node, 2, &udp(A, 3, (9, 53))), (Err(IngressPolicy), [note(dns, 9, row[2], 0)].into()));
    assert_eq!(noted(&node, 2, &tcp(A, 3, (4000, 80), ACK)), (TO_B, [].into()), "what is tracked is judged no more");
    node.generation.set(node.generation.get() + 1);
    node.endpoints[3].rev = node.generation.get() as u32;
    let answer = tcp(B, 2, (80, 4000), SYN | ACK);
    assert_eq!(noted(&node, 3, &answer), (TO_A, [note(web, 4000, row[1], 1)].into()), "judged again by the answer");
    node.change_ingress(3, ALLOW);
    assert_eq!(noted(&node, 2, &tcp(A, 3, (4001, 80), SYN)), (TO_B, [].into()), "nobody asks for a line");
}

#[test]
fn cal_8_both_ends_of_a_packet_may_log() {
    let (mut node, at) = judged_by(&[Span::new(0, SpanKind::Allow, 40).logged()], &[]);
    node.endpoints[2].egress = node.endpoints[3].ingress;
    let slots = |notes: std::vec::Vec<Logged>| {
        notes.iter().map(|note| (note.slot, note.is_ingress)).collect::<std::vec::Vec<_>>()
    };
    assert_eq!(slots(noted(&node, 2, &tcp(A, 3, (4000, 80), SYN)).1), [(2, 0), (3, 1)]);
    assert_eq!(at, node.spans.len() as u32);
}

#[test]
fn a_dry_run_notes_nothing() {
    let (node, _) = judged_by(&[Span::new(0, SpanKind::Deny, 40).logged()], &[]);
    let arrival = Arrival { ifindex: 2, ..Arrival::default() };
    let (frame, mut state) = (tcp(A, 3, (4000, 80), SYN), State::default());
    let dry = walk(Hook::FromWorkload, &Twin(&node), &Bytes(&frame), &arrival, &mut state);
    assert_eq!((dry, state.log_count), (Err(IngressPolicy), 0));
}
