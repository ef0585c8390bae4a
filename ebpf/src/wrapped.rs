//! IPIP at the uplink, without a device: the last program before the wire wraps what lies behind another node, the first one behind it
//! unwraps.
//! In: a packet at the uplink. Out: the same with another header, or without one, for the next program.
//! Invariant: what goes on unwrapped was sent by the node behind which its source lies; a drop is counted.
//! Never: judges otherwise; wraps what the uplink would not take.

use abi::tunnel::TunnelEnd;
use abi::{Address, DropReason, endpoint::SLOT_NONE};
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_skb_adjust_room};
use aya_ebpf::programs::TcContext;
use ebpf::ipip::{self, Complaint, HEADER, Header};
use ebpf::parse::{ETHERTYPE_V4, L3};
use ebpf::tables::Frame as _;

use crate::maps::count_drop;
use crate::packet::{PACKET_HOST, Skb};
use crate::send::{NEXT, SHOT};
use crate::tunnelled::{TUNNEL_LOCAL, behind};

/// Behind the Ethernet header, and that segments stay as they are (include/uapi/linux/bpf.h).
const BPF_ADJ_ROOM_MAC: u32 = 1;
const BPF_F_ADJ_ROOM_FIXED_GSO: u64 = 1;
const BPF_F_ADJ_ROOM_ENCAP_L3_IPV4: u64 = 2;

const TCP: u8 = 6;
const INNER: u32 = L3 + HEADER as u32;

/// This node's address on the wire; zero: it has none, and nobody sends to that one. Never an option of a value: of what that leaves
/// open the compiler keeps whatever a register holds, which the verifier does not let it read.
#[inline(always)]
fn local() -> Address {
    match TUNNEL_LOCAL.get(0) {
        Some(local) => local.address,
        None => Address([0; 2]),
    }
}

#[inline(always)]
fn is_v4(skb: Skb) -> bool {
    skb.arrival().ethertype == ETHERTYPE_V4
}

#[inline(always)]
fn done<const DRY: bool>(result: Result<bool, DropReason>) -> i32 {
    match result {
        // A twin that stands in for a moment wraps nothing, and lets nothing out or in that it does not.
        Ok(true) if DRY => SHOT,
        Ok(_) => NEXT,
        Err(reason) => {
            if !DRY {
                count_drop(SLOT_NONE, reason as u32);
            }
            SHOT
        }
    }
}

/// What leaves by the uplink.
#[inline(always)]
pub fn run_leaving<const DRY: bool>(context: &TcContext) -> i32 {
    done::<DRY>(wrap::<DRY>(Skb::new(context)))
}

/// Whether it was wrapped.
#[inline(always)]
fn wrap<const DRY: bool>(skb: Skb) -> Result<bool, DropReason> {
    if !is_v4(skb) {
        return Ok(false);
    }
    let Some(inner) = skb.load::<HEADER>(L3) else {
        return Ok(false);
    };
    let Some(end) = ipip::wrapped_for(behind(ipip::destination(&inner))) else {
        return Ok(false);
    };
    if DRY {
        return Ok(true);
    }
    let (local, remote) = (v4_of(local()), v4_of(end.remote));
    if local == [0; 4] || remote == [0; 4] {
        return Err(DropReason::Unroutable);
    }
    let room = room(skb, &inner)?;
    let length = skb.len() - L3;
    // SAFETY: the helper moves the Ethernet header or refuses; no pointer into the packet is held.
    let widened = unsafe { bpf_skb_adjust_room(skb.0, HEADER as i32, BPF_ADJ_ROOM_MAC, room) };
    if widened == 0 && skb.store_balanced(L3, &ipip::outer(&inner, length, local, remote)) {
        return Ok(true);
    }
    Err(DropReason::ForwardFailed)
}

/// How room is made, so that each packet on the wire is within the uplink's MTU: segments of TCP may become shorter.
#[inline(always)]
fn room(skb: Skb, inner: &Header) -> Result<u64, DropReason> {
    let mut mtu: u32 = 0;
    // SAFETY: `mtu` is a valid place for the helper's answer; the interface is the packet's own.
    let fits = unsafe { bpf_check_mtu(skb.0.cast(), 0, &raw mut mtu, HEADER as i32, 0) } == 0;
    let segment = skb.gso_size();
    if segment == 0 {
        return if fits { Ok(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) } else { Err(DropReason::TooBig) };
    }
    let (ip, is_tcp) = (u32::from(inner[0] & 15) * 4, inner[9] == TCP);
    let l4 = if is_tcp {
        let Some([offset]) = skb.load_at::<1>(L3 + ip + 12) else {
            return Err(DropReason::Malformed);
        };
        u32::from(offset >> 4) * 4
    } else {
        8
    };
    if HEADER as u32 + ip + l4 + segment <= mtu {
        return Ok(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_FIXED_GSO);
    }
    // By as much as is added: they were within the MTU before.
    if is_tcp { Ok(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) } else { Err(DropReason::TooBig) }
}

/// What comes in by the uplink.
#[inline(always)]
pub fn run_arriving<const DRY: bool>(context: &TcContext) -> i32 {
    done::<DRY>(unwrap::<DRY>(Skb::new(context)))
}

/// Whether it was unwrapped, or what a router says of one that was wrapped here.
#[inline(always)]
fn unwrap<const DRY: bool>(skb: Skb) -> Result<bool, DropReason> {
    if !is_v4(skb) || skb.packet_type() != PACKET_HOST {
        return Ok(false);
    }
    let Some(outer) = skb.load::<HEADER>(L3) else {
        return Ok(false);
    };
    let local = local();
    if ipip::may_complain(&outer, &local) {
        return pass_on::<DRY>(skb, &outer, &local);
    }
    if !ipip::is_for_us(&outer, &local) {
        return Ok(false);
    }
    let Some(inner) = skb.load::<HEADER>(INNER) else {
        return Err(DropReason::Encapsulated);
    };
    ipip::taken(&outer, &inner, [behind(ipip::source(&outer)), behind(ipip::source(&inner))])?;
    if DRY {
        return Ok(true);
    }
    if !narrowed(skb) {
        return Err(DropReason::ForwardFailed);
    }
    match ipip::congested(&outer, &inner) {
        Some(told) if !skb.store_balanced(L3, &told) => Err(DropReason::ForwardFailed),
        _ => Ok(true),
    }
}

/// Takes the first header away.
#[inline(always)]
fn narrowed(skb: Skb) -> bool {
    // SAFETY: as in `wrap`.
    unsafe { bpf_skb_adjust_room(skb.0, -(HEADER as i32), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) == 0 }
}

/// A router's complaint becomes one to whoever sent what was wrapped. What is about something else is the host's.
#[inline(always)]
fn pass_on<const DRY: bool>(skb: Skb, error: &Header, local: &Address) -> Result<bool, DropReason> {
    const ICMP: u32 = INNER;
    const QUOTED: u32 = ICMP + 8;
    let Some(outer) = skb.load::<HEADER>(QUOTED) else {
        return Ok(false);
    };
    let Some(icmp) = skb.load::<8>(ICMP) else {
        return Ok(false);
    };
    let Some(inner) = skb.load::<HEADER>(QUOTED + HEADER as u32) else {
        return Ok(false);
    };
    let told = Complaint { error, icmp: &icmp, outer: &outer, inner: &inner };
    let Some(both) = ipip::passed_on(&told, local, behind(ipip::destination(&inner))) else {
        return Ok(false);
    };
    if DRY {
        return Ok(true);
    }
    if narrowed(skb) && skb.store_far(L3, &both) { Ok(true) } else { Err(DropReason::ForwardFailed) }
}

/// As it lies on the wire; zero where there is none. What a way by IPIP leads to is of IPv4.
#[inline(always)]
fn v4_of(address: Address) -> [u8; 4] {
    let [_, b] = address.0;
    ((b >> 32) as u32).to_ne_bytes()
}
