//! Send: what the verdict asks of the kernel: rewrite, redirect, answer.
//! In: a packet that may pass. Out: the program's return value, or why it goes no further.
//! Invariant: a packet that is forwarded here left with a smaller TTL; the node's own keeps what it has.
//! Never: judges; runs in a dry run, but for the route lookup, which writes nothing.

use core::mem;

use abi::endpoint::{ENDPOINT_QUEUED, GATEWAY_MAC};
use abi::{Address, DropReason, Endpoint};
use aya_ebpf::bindings::{__sk_buff, bpf_fib_lookup as FibLookup, bpf_redir_neigh as NextHop};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_csum_update, bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
    bpf_skb_change_type,
};
use ebpf::forward::{self, Hop, Stop};
use ebpf::icmp_error::Head;
use ebpf::neighbour::{self, ADVERTISEMENT_FRAME, ARP_FRAME, Answerer, TARGET_AT};
use ebpf::parse::{L3, Packet};
use ebpf::tables::{Announcements as _, Frame};
use ebpf::walk::{ROUTE_WORDS, State};

use crate::maps::Kernel;
use crate::packet::{PACKET_HOST, Skb};
use crate::scratch;
use crate::translate::{translate, translate_own};

/// On to the next program, or the stack.
pub const NEXT: i32 = -1;
/// Dropped.
pub const SHOT: i32 = 2;
/// The loopback interface of every network namespace.
pub const LOOPBACK: u32 = 1;
/// To a device's ingress, include/uapi/linux/bpf.h.
pub const BPF_F_INGRESS: u64 = 1;
/// What the redirect helpers return on success.
const REDIRECT: i64 = 7;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// What the routing table says of a packet that it does not forward (`BPF_FIB_LKUP_RET_NOT_FWDED`).
const NOT_FORWARDED: i64 = 4;
const BPF_MTU_CHK_SEGS: u64 = 1;

/// A route that the kernel found: interface, MACs and next hop lie in the packet's state.
#[derive(Clone, Copy)]
pub struct Route {
    /// How the packet leaves.
    pub hop: Hop,
    here: bool,
}

impl Route {
    /// Whether the packet is at its end: the stack does not forward it.
    #[inline(always)]
    pub fn is_here(&self) -> bool {
        self.here
    }
}

/// The question to the routing table and its answer, in the packet's state: there is little stack.
#[inline(always)]
fn room(state: &mut State) -> (&Packet, &mut FibLookup) {
    const { assert!(size_of::<FibLookup>() == size_of::<[u64; ROUTE_WORDS]>()) };
    let State { packet, route, .. } = state;
    // SAFETY: integers and unions of integers, of this size, for which eight bytes are aligned enough.
    (packet, unsafe { &mut *(&raw mut *route).cast::<FibLookup>() })
}

/// The interface the packet leaves by.
#[inline(always)]
pub fn leaves_by(state: &mut State) -> u32 {
    room(state).1.ifindex
}

/// Hands the packet to a local endpoint, past the host's stack.
#[inline(always)]
pub fn deliver(skb: Skb, state: &State, endpoint: &Endpoint) -> Result<i32, Stop> {
    let packet = &state.packet;
    if !forward::may_age(packet) {
        return Err(Stop::EXPIRED);
    }
    if !fits(skb, packet, endpoint) {
        return Err(Stop::too_big(endpoint.mtu));
    }
    translate(skb, state)?;
    age(skb, packet, endpoint.mac, GATEWAY_MAC)?;
    skb.clear_mark();
    // SAFETY: both helpers only note the target; the kernel redirects when the program has returned.
    let answer = unsafe {
        if endpoint.flags & ENDPOINT_QUEUED != 0 {
            bpf_redirect(endpoint.ifindex, 0)
        } else {
            bpf_redirect_peer(endpoint.ifindex, 0)
        }
    };
    Ok(redirected(answer)?)
}

/// Hands what the node itself sends to a pod's interface, where it leaves the stack as ever.
#[inline(always)]
pub fn hand_over(skb: Skb, state: &State, endpoint: &Endpoint) -> Result<i32, Stop> {
    if !fits(skb, &state.packet, endpoint) {
        return Err(Stop::too_big(endpoint.mtu));
    }
    translate_own(skb, state)?;
    if !skb.store_balanced(0, &endpoint.mac) || !skb.store_balanced(6, &GATEWAY_MAC) {
        return Err(DropReason::ForwardFailed.into());
    }
    // SAFETY: only notes the target.
    Ok(redirected(unsafe { bpf_redirect(endpoint.ifindex, 0) })?)
}

/// To this node's own sockets, in by loopback: there the stack takes a source that is routed elsewhere, or is its own.
#[inline(always)]
pub fn to_socket(skb: Skb) -> Result<i32, DropReason> {
    if !skb.store_balanced(0, &[0; 12]) {
        return Err(DropReason::ForwardFailed);
    }
    // SAFETY: only notes the target.
    redirected(unsafe { bpf_redirect(LOOPBACK, BPF_F_INGRESS) })
}

/// Whether the packet, or each segment of a GSO packet, is within the endpoint's MTU.
#[inline(always)]
fn fits(skb: Skb, packet: &Packet, endpoint: &Endpoint) -> bool {
    if packet.length <= endpoint.mtu {
        return true;
    }
    if skb.gso_size() == 0 {
        return false;
    }
    let mut mtu: u32 = 0;
    // SAFETY: `mtu` is a valid place for the helper's answer.
    unsafe { bpf_check_mtu(skb.0.cast(), endpoint.ifindex, &raw mut mtu, 0, BPF_MTU_CHK_SEGS) == 0 }
}

/// One hop less to go, and the MACs of the next one.
#[inline(always)]
fn age(skb: Skb, packet: &Packet, destination: [u8; 6], source: [u8; 6]) -> Result<(), DropReason> {
    let aged = if packet.v6 { age_v6(skb, packet) } else { age_v4(skb, packet) };
    if aged && skb.store(0, destination) && skb.store(6, source) { Ok(()) } else { Err(DropReason::ForwardFailed) }
}

#[inline(always)]
fn age_v4(skb: Skb, packet: &Packet) -> bool {
    let Some(checksum) = skb.load::<2>(L3 + 10) else {
        return false;
    };
    skb.store(L3 + 8, [packet.ttl - 1]) && skb.store(L3 + 10, forward::aged_checksum(checksum))
}

/// IPv6 has no header checksum to balance the change, so a checksum that hardware summed over the packet follows it.
#[inline(always)]
fn age_v6(skb: Skb, packet: &Packet) -> bool {
    const ONE_LESS: u32 = u16::from_ne_bytes([0xff, 0xfe]) as u32;
    // SAFETY: changes the sum the kernel keeps, or refuses where it keeps none.
    let _none_kept = unsafe { bpf_csum_update(skb.0, ONE_LESS) };
    skb.store(L3 + 7, [packet.ttl - 1])
}

/// Asks the routing table, as for a packet that is routed; `is_own`: that the node itself sent.
#[inline(always)]
pub fn route(skb: Skb, state: &mut State, ifindex: u32, is_own: bool) -> Result<Route, Stop> {
    state.route = [0; ROUTE_WORDS];
    let (packet, found) = room(state);
    found.family = if packet.v6 { AF_INET6 } else { AF_INET };
    found.l4_protocol = packet.protocol;
    found.sport = packet.source_port;
    found.dport = packet.destination_port;
    found.ifindex = ifindex;
    // A GSO packet is measured by its segments, which the kernel does itself where no length is given.
    if skb.gso_size() == 0 {
        found.__bindgen_anon_1.tot_len = packet.length as u16;
    }
    if packet.v6 {
        found.__bindgen_anon_2.flowinfo = (u32::from(packet.tos) << 20).to_be();
        found.__bindgen_anon_3.ipv6_src = words(packet.source);
        found.__bindgen_anon_4.ipv6_dst = words(packet.destination);
    } else {
        found.__bindgen_anon_2.tos = packet.tos & 0x1c;
        found.__bindgen_anon_3.ipv4_src = words(packet.source)[3];
        found.__bindgen_anon_4.ipv4_dst = words(packet.destination)[3];
    }
    // SAFETY: `found` is the helper's to read and fill, with its true size.
    let answer = unsafe { bpf_fib_lookup(skb.0.cast(), &raw mut *found, mem::size_of::<FibLookup>() as i32, 0) };
    // SAFETY: where the packet is too big, the kernel left the MTU in the place of the length.
    let mtu = u32::from(unsafe { found.__bindgen_anon_1.mtu_result });
    Ok(Route { hop: forward::hop_of(answer, (packet, is_own), mtu)?, here: answer == NOT_FORWARDED })
}

#[inline(always)]
fn words(address: Address) -> [u32; 4] {
    let [a, b] = address.0;
    [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
}

/// Sends the packet the way the routing table said.
#[inline(always)]
pub fn leave(skb: Skb, state: &mut State, route: Route) -> Result<i32, Stop> {
    translate(skb, state)?;
    let (packet, found) = room(state);
    match route.hop {
        Hop::Stack => Ok(NEXT),
        Hop::Known => {
            // SAFETY: on this answer the kernel filled in both MACs.
            let (destination, source) =
                unsafe { (found.__bindgen_anon_6.__bindgen_anon_2.dmac, found.__bindgen_anon_6.__bindgen_anon_2.smac) };
            age(skb, packet, destination, source)?;
            // SAFETY: only notes the target.
            Ok(redirected(unsafe { bpf_redirect(found.ifindex, 0) })?)
        }
        Hop::Unresolved => {
            age(skb, packet, [0; 6], [0; 6])?;
            Ok(redirected(by_neighbour(state))?)
        }
    }
}

/// To the neighbour that the lookup found.
#[inline(always)]
pub fn by_neighbour(state: &mut State) -> i64 {
    const { assert!(size_of::<NextHop>() <= size_of::<Head>()) };
    state.head[..3].fill(0);
    // SAFETY: integers and a union of integers, in room for more, for which eight bytes are aligned enough.
    let next = unsafe { &mut *(&raw mut state.head).cast::<NextHop>() };
    let (_, found) = room(state);
    next.nh_family = u32::from(found.family);
    // SAFETY: the lookup left the next hop in the union of its own family, which is also that of `next`.
    unsafe {
        if found.family == AF_INET6 {
            next.__bindgen_anon_1.ipv6_nh = found.__bindgen_anon_4.ipv6_dst;
        } else {
            next.__bindgen_anon_1.ipv4_nh = found.__bindgen_anon_4.ipv4_dst;
        }
        bpf_redirect_neigh(found.ifindex, &raw mut *next, mem::size_of::<NextHop>() as i32, 0)
    }
}

/// Turns an ARP request into its reply and gives it back to who asked: the pod, or by the uplink, where an announced address
/// was asked for.
#[inline(always)]
pub fn answer_arp(skb: Skb, ifindex: u32, at_uplink: bool) -> Result<i32, DropReason> {
    if write_reply(skb.0, at_uplink) { return_to(skb, ifindex, at_uplink) } else { Err(DropReason::ForwardFailed) }
}

/// Apart, like the other rare ways: its stack is its own.
#[inline(never)]
#[unsafe(no_mangle)]
fn write_reply(skb: *mut __sk_buff, at_uplink: bool) -> bool {
    let skb = Skb(skb);
    let own = answerer(at_uplink);
    skb.load::<ARP_FRAME>(0).is_some_and(|request| skb.store_far(0, &neighbour::arp_reply(&request, &own.mac)))
}

/// Who is the neighbour that was asked for.
#[inline(always)]
fn answerer(at_uplink: bool) -> Answerer {
    match Kernel::<false>.announcing() {
        Some(announcing) if at_uplink => Answerer { mac: announcing.mac, router: false },
        _ => Answerer::GATEWAY,
    }
}

/// Where an answer belongs.
#[inline(always)]
fn return_to(skb: Skb, ifindex: u32, at_uplink: bool) -> Result<i32, DropReason> {
    if at_uplink {
        // SAFETY: only notes the target.
        return redirected(unsafe { bpf_redirect(ifindex, 0) });
    }
    give_back(skb, ifindex)
}

/// Turns a neighbour solicitation into its advertisement, likewise.
#[inline(always)]
pub fn answer_solicitation(skb: Skb, ifindex: u32, at_uplink: bool) -> Result<i32, DropReason> {
    let written = write_advertisement(skb.0, at_uplink);
    if written { return_to(skb, ifindex, at_uplink) } else { Err(DropReason::ForwardFailed) }
}

#[inline(never)]
#[unsafe(no_mangle)]
fn write_advertisement(skb: *mut __sk_buff, at_uplink: bool) -> bool {
    let skb = Skb(skb);
    let (Some(State { ether, packet, head, .. }), Some(target)) = (scratch::state(), skb.load::<16>(TARGET_AT)) else {
        return false;
    };
    let own = answerer(at_uplink);
    neighbour::advertisement(&ether.source, packet.source, Address::from_bytes(target), &own, head);
    skb.resize(ADVERTISEMENT_FRAME as u32) && skb.store_head::<ADVERTISEMENT_FRAME>(head)
}

/// Back to the pod that sent it.
#[inline(always)]
pub fn give_back(skb: Skb, ifindex: u32) -> Result<i32, DropReason> {
    if skb.packet_type() != PACKET_HOST {
        // SAFETY: changes one field of the packet; a refusal shows in the pod, which asks again.
        let _changed = unsafe { bpf_skb_change_type(skb.0, PACKET_HOST) };
    }
    // SAFETY: only notes the target.
    redirected(unsafe { bpf_redirect_peer(ifindex, 0) })
}

/// Adds to the mark of a packet that the stack gets.
#[inline(always)]
pub fn mark(skb: Skb, bits: u32) {
    // SAFETY: the context pointer is the kernel's, and the mark is writable at TCX hooks.
    unsafe { (*skb.0).mark |= bits };
}

/// What a redirect helper's answer means.
#[inline(always)]
pub const fn redirected(answer: i64) -> Result<i32, DropReason> {
    if answer == REDIRECT { Ok(REDIRECT as i32) } else { Err(DropReason::ForwardFailed) }
}
