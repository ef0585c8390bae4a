//! Complain: a packet that goes no further becomes what tells its sender so: an ICMP error, or a RST where rules refuse TCP.
//! In: a packet as it came, and what is wrong with it. Out: the program's return value; the drop counted.
//! Invariant: runs apart from the packets' way, so that theirs stays short; one error a packet, within its account's budget.
//! Never: in a dry run; an ICMP error of a route for a segmented packet, which the stack has to take apart first.

use core::ptr;

use abi::{Address, DropReason, handover};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh};
use ebpf::forward::{Kind, Stop, is_by_service};
use ebpf::icmp_error::{self, Fault, HEAD_V4, HEAD_V6, Letter};
use ebpf::parse::{L3, protocol};
use ebpf::reset::{self, RESET_V4, RESET_V6};
use ebpf::tables::{Arrival, Frame};
use ebpf::walk::{Hook, State};

use crate::budget::may_spend;
use crate::maps::{self, count_drop};
use crate::masquerade_maps::is_masked;
use crate::packet::Skb;
use crate::scratch;
use crate::send::{self, BPF_F_INGRESS, NEXT, SHOT};

/// "Do not fragment", in an IPv4 header's byte 6.
const DONT_FRAGMENT: u8 = 0x40;

/// Tells the sender, or leaves it to the stack: where this node has no address of the family to speak from, where the
/// packet is segmented, and where the stack may cut it.
#[inline(always)]
pub fn complain(skb: Skb, hook: Hook, stop: Stop) -> i32 {
    // The verifier then looks at what follows once, not once for each number.
    let (kind, word) = (skb.unknown(stop.kind as u32), skb.unknown(stop.word));
    complain_apart(skb.0, kind, word, hook as u32)
}

/// Where an answer goes from a hook, and by which interface.
#[inline(always)]
fn way_from(hook: u32, arrival: &Arrival) -> (u32, u32) {
    const FROM_WORKLOAD: u32 = Hook::FromWorkload as u32;
    const FROM_UPLINK: u32 = Hook::FromUplink as u32;
    const FROM_HOST_ENDPOINT: u32 = Hook::FromHostEndpoint as u32;
    const TO_HOST_ENDPOINT: u32 = Hook::ToHostEndpoint as u32;
    const FROM_NODE: u32 = Hook::FromNode as u32;
    match hook {
        FROM_WORKLOAD => (INTO_POD, arrival.ifindex),
        FROM_NODE => (TO_SOCKET, 0),
        FROM_UPLINK | FROM_HOST_ENDPOINT => (BY_ROUTE, arrival.ifindex),
        _ if arrival.ingress_ifindex != 0 => (BY_ROUTE, arrival.ingress_ifindex),
        TO_HOST_ENDPOINT => (TO_NODE, arrival.ifindex),
        _ => (NOWHERE, 0),
    }
}

/// Where an answer goes: into the pod that sent the packet.
const INTO_POD: u32 = 0;
/// Out by the interface it came in by, as its address is routed there.
const BY_ROUTE: u32 = 1;
/// To the node itself, as if it came in by the interface that the packet was to leave by.
const TO_NODE: u32 = 2;
/// To nobody that could be reached from here.
const NOWHERE: u32 = 3;
/// To the node's own socket, by loopback.
const TO_SOCKET: u32 = 4;

const EXPIRED: u32 = Kind::Expired as u32;
const TOO_BIG: u32 = Kind::TooBig as u32;
const UNREACHABLE: u32 = Kind::Unreachable as u32;
const REFUSED: u32 = Kind::Refused as u32;

/// A program within the program: called with numbers, it takes no registers and no stack from the hot path.
#[inline(never)]
#[unsafe(no_mangle)]
fn complain_apart(skb: *mut __sk_buff, kind: u32, word: u32, hook: u32) -> i32 {
    let fault = match kind {
        EXPIRED => Fault::Expired,
        TOO_BIG => Fault::TooBig(word),
        UNREACHABLE => Fault::Unreachable,
        _ => Fault::Prohibited,
    };
    let skb = Skb(skb);
    let (way, ifindex) = way_from(hook, &skb.arrival());
    let Some(state) = scratch::state() else {
        return SHOT;
    };
    let slot = state.slot;
    // What is quoted, and who says it, is what its sender wrote.
    state.swap_ends();
    let told = if kind == REFUSED { refusal(skb, state, way, word) } else { told(skb, state, fault, way) };
    match told {
        Ok(false) if kind != REFUSED && !is_masked(state) => {
            state.swap_ends();
            NEXT
        }
        Ok(answered) => {
            count_drop(slot, if kind == REFUSED { word } else { fault.reason() as u32 });
            if answered { sent(skb, ifindex, way) } else { SHOT }
        }
        Err(reason) => {
            count_drop(slot, reason as u32);
            SHOT
        }
    }
}

/// Sends an answer its way.
#[inline(always)]
fn sent(skb: Skb, ifindex: u32, way: u32) -> i32 {
    let answer = match way {
        INTO_POD => send::give_back(skb, ifindex),
        BY_ROUTE => go_back(ifindex),
        TO_SOCKET => send::to_socket(skb),
        _ => {
            skb.leave([handover::ANSWER, 0]);
            // SAFETY: only notes the target: the packet comes in by the interface that it was to leave by.
            send::redirected(unsafe { bpf_redirect(ifindex, BPF_F_INGRESS) })
        }
    };
    answer.unwrap_or(SHOT)
}

/// Whether a packet that rules refuse has become its sender's answer: a RST for TCP, else "prohibited". A refused packet
/// is never the stack's.
#[inline(always)]
fn refusal(skb: Skb, state: &mut State, way: u32, reason: u32) -> Result<bool, DropReason> {
    let may = way != NOWHERE && reset::may_refuse(&state.ether, &state.packet);
    if !may || !may_spend(state.slot, way == BY_ROUTE) {
        return Ok(false);
    }
    if state.packet.protocol == protocol::TCP {
        return Ok(write_reset(skb, state));
    }
    // The node hears nothing from itself that comes in from outside: the far end says it.
    let far = state.packet.destination;
    let is_own = matches!(way, TO_NODE | TO_SOCKET);
    let source = if is_own { Some(&far) } else { maps::source(state.packet.v6) };
    let fault = if is_by_service(reason) { Fault::NobodyThere } else { Fault::Prohibited };
    Ok(source.is_some_and(|source| write(skb, state, fault, source)))
}

/// Turns the segment into the RST that answers it.
#[inline(always)]
fn write_reset(skb: Skb, state: &mut State) -> bool {
    let State { packet, ether, head, .. } = state;
    let Some(answer) = reset::answer_to(&skb, packet) else {
        return false;
    };
    if packet.v6 {
        reset::reset_v6(answer, ether, packet, head);
        skb.resize(RESET_V6 as u32) && skb.store_head::<RESET_V6>(head)
    } else {
        reset::reset_v4(answer, ether, packet, head);
        skb.resize(RESET_V4 as u32) && skb.store_head::<RESET_V4>(head)
    }
}

/// Whether the packet has become an error about itself; if not, it is as it was and the stack's. Else why neither.
#[inline(always)]
fn told(skb: Skb, state: &mut State, fault: Fault, way: u32) -> Result<bool, DropReason> {
    // Of what its own sockets send, the stack has nothing left to cut; of what goes on as this node's it takes nothing.
    let is_left = way != TO_SOCKET && !is_masked(state) && is_for_the_stack(skb, state, fault);
    let Some(source) = maps::source(state.packet.v6).filter(|_| !is_left) else {
        return Ok(false);
    };
    if !icmp_error::may_complain(&state.packet) {
        return Err(fault.reason());
    }
    if !may_spend(state.slot, way == BY_ROUTE) {
        return Err(DropReason::IcmpLimited);
    }
    if write(skb, state, fault, source) { Ok(true) } else { Err(DropReason::ForwardFailed) }
}

#[inline(always)]
fn is_for_the_stack(skb: Skb, state: &State, fault: Fault) -> bool {
    let may_be_cut = || match skb.load::<1>(L3 + 6) {
        Some([flags]) => flags & DONT_FRAGMENT == 0,
        None => true,
    };
    skb.gso_size() != 0 || (matches!(fault, Fault::TooBig(_)) && !state.packet.v6 && may_be_cut())
}

/// Turns the packet into the quote of an error about it.
#[inline(always)]
fn write(skb: Skb, state: &mut State, fault: Fault, source: &Address) -> bool {
    let State { packet, ether, head, .. } = state;
    let quoted = icmp_error::quoted(packet.v6, packet.length);
    let head_len = if packet.v6 { HEAD_V6 } else { HEAD_V4 } as u32;
    if !skb.resize(L3 + quoted) || !skb.widen((head_len - L3) as i32) {
        return false;
    }
    let letter = Letter { source, destination: &packet.source, mac: &ether.source, quoted, sum: skb.sum(head_len) };
    if packet.v6 {
        icmp_error::head_v6(fault, &letter, head);
        skb.store_head::<HEAD_V6>(head)
    } else {
        icmp_error::head_v4(fault, &letter, head);
        skb.store_head::<HEAD_V4>(head)
    }
}

/// Back out by an interface, to wherever the sender's address is routed there.
#[inline(always)]
fn go_back(ifindex: u32) -> Result<i32, DropReason> {
    // SAFETY: no next hop is given: the kernel looks it up when the program has returned.
    send::redirected(unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) })
}
