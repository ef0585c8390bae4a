//! Socket: whether a process of the host hears at an address and port.
//! In: a packet, and an own address. Out: yes or no.
//! Invariant: a socket that was found is given back.
//! Never: looks into another network namespace.

use core::mem;

use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use ebpf::conntrack::Socket;
use ebpf::parse::{Packet, protocol};

use crate::packet::Skb;

/// The packet's own network namespace, as one of the socket helpers (`BPF_F_CURRENT_NETNS`).
const CURRENT_NAMESPACE: u64 = u64::MAX;

/// Whether a socket of the host's hears at `own` what the packet's destination sends there. Of SCTP and ICMP the kernel does not say.
#[inline(always)]
pub fn is_heard(skb: Skb, packet: &Packet, own: Socket) -> bool {
    if packet.protocol == protocol::SCTP || packet.is_icmp() {
        return false;
    }
    // SAFETY: integers and unions of integers; zero is valid.
    let mut ends: bpf_sock_tuple = unsafe { mem::zeroed() };
    let (peer, size) = (packet.destination.0, if packet.v6 { 36 } else { 12 });
    if packet.v6 {
        ends.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: halves_of(peer),
            daddr: halves_of(own.0.0),
            sport: packet.destination_port,
            dport: own.1,
        };
    } else {
        ends.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: (peer[1] >> 32) as u32,
            daddr: (own.0.0[1] >> 32) as u32,
            sport: packet.destination_port,
            dport: own.1,
        };
    }
    // SAFETY: the helpers read the tuple of the size given; a socket that was found is given back.
    unsafe {
        let found = if packet.protocol == protocol::TCP {
            bpf_sk_lookup_tcp(skb.0.cast(), &raw mut ends, size, CURRENT_NAMESPACE, 0)
        } else {
            bpf_sk_lookup_udp(skb.0.cast(), &raw mut ends, size, CURRENT_NAMESPACE, 0)
        };
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
    }
    true
}

#[inline(always)]
const fn halves_of([a, b]: [u64; 2]) -> [u32; 4] {
    [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
}
