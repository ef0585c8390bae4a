//! Translate: the bytes of a packet that goes through a service, once it may pass.
//! In: a packet as it came, and what the stages made of it. Out: the packet with the other address and port, checksums right.
//! Invariant: called once for a packet, after the last thing that may refuse it; what hardware has yet to sum stays so.
//! Never: decides; touches a packet that no service is about.

use abi::{Address, DropReason};
use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use ebpf::parse::{Fragment, L3, Packet, protocol};
use ebpf::rewrite::{difference, header_checksum};
use ebpf::tables::Frame;
use ebpf::translation::{Translated, Translation};
use ebpf::walk::State;

use crate::packet::Skb;
use crate::requote::requote_apart;
use crate::scratch;
use crate::sctp::{sctp_apart, sctp_quoted_apart};

/// Where an IPv4 header has its checksum.
pub const CHECKSUM_V4: u32 = L3 + 10;

/// Writes what the translation says.
#[inline(always)]
pub fn translate(skb: Skb, state: &State) -> Result<(), DropReason> {
    let failed = match state.translation.end {
        Translated::Nothing | Translated::Before | Translated::Ahead | Translated::ByHost => 0,
        // In turn: a function of a function has too little stack.
        Translated::QuotedDestination
        | Translated::QuotedSource
        | Translated::QuotedMasked
        | Translated::QuotedUnmasked => {
            let summed = if state.quoted.protocol == protocol::SCTP { sctp_quoted_apart(skb.0) } else { 0 };
            summed | requote_apart(skb.0)
        }
        _ if state.packet.protocol == protocol::SCTP => translate_apart(skb.0) | sctp_apart(skb.0),
        _ => translate_apart(skb.0),
    };
    if failed == 0 { Ok(()) } else { Err(DropReason::ForwardFailed) }
}

/// The same of what the node itself sends, all through the kernel: a program that writes in place has each packet that it meets
/// copied first, where a socket still holds it.
#[inline(always)]
pub fn translate_own(skb: Skb, state: &State) -> Result<(), DropReason> {
    use Translated::{Destination, Source};
    let failed = match state.translation.end {
        Source | Destination if state.packet.protocol == protocol::SCTP => own_apart(skb.0) | sctp_apart(skb.0),
        Source | Destination => own_apart(skb.0),
        _ if state.quoted.protocol == protocol::SCTP => sctp_quoted_apart(skb.0) | requote_apart(skb.0),
        _ => requote_apart(skb.0),
    };
    if failed == 0 { Ok(()) } else { Err(DropReason::ForwardFailed) }
}

/// One end, of whoever is neither masked nor his own backend. 0: done.
#[inline(never)]
#[unsafe(no_mangle)]
fn own_apart(skb: *mut __sk_buff) -> i32 {
    let Some(State { packet, translation, .. }) = scratch::state() else {
        return 1;
    };
    let is_source = translation.end == Translated::Source;
    i32::from(!write::<FAR>(Skb(skb), packet, ends(packet, translation, is_source), is_source))
}

/// What stands at the end that is rewritten, and what shall.
#[inline(always)]
fn ends(packet: &Packet, translation: &Translation, is_source: bool) -> Ends {
    let frontend = (translation.frontend, translation.port);
    if is_source {
        ((packet.source, packet.source_port), frontend)
    } else {
        (frontend, (packet.destination, packet.destination_port))
    }
}

/// How bytes are written: in place, or through the kernel.
const NEAR: bool = false;
const FAR: bool = true;

/// A program within the program, as all that is not every packet's. 0: done.
#[inline(never)]
#[unsafe(no_mangle)]
fn translate_apart(skb: *mut __sk_buff) -> i32 {
    let Some(state) = scratch::state() else {
        return 1;
    };
    let State { packet, translation, .. } = state;
    let is_source = matches!(translation.end, Translated::Source | Translated::Masked);
    let (from, to) = match translation.end {
        Translated::Masked => ((packet.source, packet.source_port), (translation.mask, translation.mask_port)),
        Translated::Unmasked => {
            ((translation.mask, translation.mask_port), (packet.destination, packet.destination_port))
        }
        _ => ends(packet, translation, is_source),
    };
    let is_turned = translation.is_hairpin && !matches!(translation.end, Translated::Masked | Translated::Unmasked);
    let done = if is_turned {
        turn(Skb(skb), packet, translation.frontend, is_source)
            && change_port::<NEAR>(Skb(skb), packet, (from.1, to.1), is_source)
    } else {
        write::<NEAR>(Skb(skb), packet, (from, to), is_source)
    };
    if done && translation.is_masked {
        let mask = (translation.mask, translation.mask_port);
        let ends = if is_source {
            (mask, (packet.destination, packet.destination_port))
        } else {
            ((packet.source, packet.source_port), mask)
        };
        return i32::from(!write::<NEAR>(Skb(skb), packet, ends, !is_source));
    }
    i32::from(!done)
}

#[inline(always)]
fn write<const BY: bool>(skb: Skb, packet: &Packet, ((from, from_port), (to, to_port)): Ends, is_source: bool) -> bool {
    let changed = difference(from, to);
    let written = if packet.v6 {
        // The checksum of all that hardware summed follows these bytes, for no header's checksum balances them.
        skb.store_far(L3 + if is_source { 8 } else { 24 }, &to.to_bytes())
    } else {
        let [_, _, _, _, a, b, c, d] = to.0[1].to_ne_bytes();
        let Some(sum) = skb.load::<2>(CHECKSUM_V4) else {
            return false;
        };
        put::<BY, 4>(skb, L3 + if is_source { 12 } else { 16 }, [a, b, c, d])
            && put::<BY, 2>(skb, CHECKSUM_V4, header_checksum(sum, changed))
    };
    if packet.fragment == Fragment::Later {
        return written;
    }
    if packet.protocol == protocol::SCTP {
        // Its sum covers no addresses, and its port comes later.
        return written;
    }
    let Some((at, mangled)) = checksum_of(packet) else {
        // Of ICMP it covers the identifier, and no address.
        return written && change_port::<BY>(skb, packet, (from_port, to_port), is_source);
    };
    // SAFETY: the helper changes two bytes of the packet, or refuses; no pointer into it is held.
    let summed =
        unsafe { bpf_l4_csum_replace(skb.0, at, 0, changed.into(), u64::from(BPF_F_PSEUDO_HDR) | mangled) == 0 };
    written && summed && change_port::<BY>(skb, packet, (from_port, to_port), is_source)
}

/// Where the transport has a checksum that covers the addresses, and whether none at all may stand there.
#[inline(always)]
fn checksum_of(packet: &Packet) -> Option<(u32, u64)> {
    match packet.protocol {
        protocol::TCP => Some((packet.l4 + 16, 0)),
        protocol::UDP => Some((packet.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0))),
        protocol::UDPLITE => Some((packet.l4 + 6, 0)),
        protocol::ICMPV6 if packet.v6 => Some((packet.l4 + 2, 0)),
        _ => None,
    }
}

#[inline(always)]
fn change_port<const BY: bool>(skb: Skb, packet: &Packet, (from, to): (u16, u16), is_source: bool) -> bool {
    if from == to || packet.fragment == Fragment::Later || packet.protocol == protocol::SCTP {
        return true;
    }
    let (at, mangled) = match checksum_of(packet) {
        Some(sum) => sum,
        None if packet.is_icmp() => (packet.l4 + 2, 0),
        None => return true,
    };
    // SAFETY: as in `write`.
    let summed = unsafe { bpf_l4_csum_replace(skb.0, at, from.into(), to.into(), 2 | mangled) == 0 };
    let at = packet.l4
        + match is_source {
            _ if packet.is_icmp() => 4,
            true => 0,
            false => 2,
        };
    summed && if BY == FAR { skb.store_balanced(at, &to.to_ne_bytes()) } else { skb.store_near(at, to.to_ne_bytes()) }
}

#[inline(always)]
fn put<const BY: bool, const N: usize>(skb: Skb, at: u32, bytes: [u8; N]) -> bool {
    if BY == FAR { skb.store_balanced(at, &bytes) } else { skb.store(at, bytes) }
}

/// Back to its sender, in the frontend's name: the addresses change places, which changes no sum.
#[inline(always)]
fn turn(skb: Skb, packet: &Packet, frontend: Address, is_source: bool) -> bool {
    let pod = if is_source { packet.source } else { packet.destination };
    if packet.v6 {
        skb.store_far(L3 + 8, &frontend.to_bytes()) && skb.store_far(L3 + 24, &pod.to_bytes())
    } else {
        let ([_, _, _, _, a, b, c, d], [_, _, _, _, e, f, g, h]) =
            (frontend.0[1].to_ne_bytes(), pod.0[1].to_ne_bytes());
        skb.store(L3 + 12, [a, b, c, d, e, f, g, h])
    }
}

/// What stood there, and what shall.
type Ends = ((Address, u16), (Address, u16));
