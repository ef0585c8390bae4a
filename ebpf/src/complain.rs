//! Complain: a packet that goes no further becomes the ICMP error that tells its sender so.
//! In: a packet as it came, and what is wrong with it. Out: the program's return value; the drop counted.
//! Invariant: runs apart from the packets' way, so that theirs stays short; one error a packet, within its account's budget.
//! Never: in a dry run; for a segmented packet, which the stack has to take apart first.

use core::ptr;

use abi::{Address, DropReason};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_redirect_neigh;
use ebpf::forward::{Kind, Stop};
use ebpf::icmp_error::{self, Fault, HEAD_V4, HEAD_V6, Letter};
use ebpf::parse::L3;
use ebpf::tables::Frame;
use ebpf::walk::{Hook, State};

use crate::budget::may_spend;
use crate::maps::{self, count_drop};
use crate::packet::Skb;
use crate::send::{self, NEXT, SHOT};

/// "Do not fragment", in an IPv4 header's byte 6.
const DONT_FRAGMENT: u8 = 0x40;

/// Tells the sender, or leaves it to the stack: where this node has no address of the family to speak from, where the
/// packet is segmented, and where the stack may cut it.
#[inline(always)]
pub fn complain(skb: Skb, hook: Hook, stop: Stop, ifindex: u32) -> i32 {
    // The verifier then looks at what follows once, not once for each number.
    let (kind, word) = (skb.unknown(stop.kind as u32), skb.unknown(stop.word));
    apart(skb.0, kind, word, ifindex, u32::from(hook == Hook::FromUplink))
}

const EXPIRED: u32 = Kind::Expired as u32;
const TOO_BIG: u32 = Kind::TooBig as u32;
const UNREACHABLE: u32 = Kind::Unreachable as u32;

/// A program within the program: called with numbers, it takes no registers and no stack from the hot path.
#[inline(never)]
fn apart(skb: *mut __sk_buff, kind: u32, word: u32, ifindex: u32, by_uplink: u32) -> i32 {
    let fault = match kind {
        EXPIRED => Fault::Expired,
        TOO_BIG => Fault::TooBig(word),
        UNREACHABLE => Fault::Unreachable,
        _ => Fault::Prohibited,
    };
    let (skb, by_uplink) = (Skb(skb), by_uplink != 0);
    let Some(state) = maps::state() else {
        return SHOT;
    };
    let slot = state.slot;
    match told(skb, state, fault, by_uplink) {
        Ok(false) => NEXT,
        Ok(true) => {
            count_drop(slot, fault.reason() as u32);
            let answer = if by_uplink { go_back(ifindex) } else { send::give_back(skb, ifindex) };
            answer.unwrap_or(SHOT)
        }
        Err(reason) => {
            count_drop(slot, reason as u32);
            SHOT
        }
    }
}

/// Whether the packet has become an error about itself; if not, it is as it was and the stack's. Else why neither.
#[inline(always)]
fn told(skb: Skb, state: &mut State, fault: Fault, by_uplink: bool) -> Result<bool, DropReason> {
    let Some(source) = maps::source(state.packet.v6).filter(|_| !is_for_the_stack(skb, state, fault)) else {
        return Ok(false);
    };
    if !icmp_error::may_complain(&state.packet) {
        return Err(fault.reason());
    }
    if !may_spend(state.slot, by_uplink) {
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

/// Back out by the uplink, to wherever the sender's address is routed there.
#[inline(always)]
fn go_back(ifindex: u32) -> Result<i32, DropReason> {
    // SAFETY: no next hop is given: the kernel looks it up when the program has returned.
    send::redirected(unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) })
}
