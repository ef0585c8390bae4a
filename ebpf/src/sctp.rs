//! SCTP: the ports of a packet that goes through a service, and the sum that covers it.
//! In: a packet of which the addresses are rewritten, or an error of which the quote is not yet. Out: the ports and the sum after them.
//! Invariant: a sum of zero stays zero: a device has yet to make it, which counts on the zero, or both ends do without (RFC 9653).
//! Never: changes a port of a packet in pieces that has a sum: nobody here knows its length.

use aya_ebpf::bindings::__sk_buff;
use ebpf::crc32c;
use ebpf::icmp::QUOTE;
use ebpf::parse::{Fragment, L3, Packet};
use ebpf::rewrite::{both, word_difference};
use ebpf::tables::Frame as _;
use ebpf::translation::{Translated, Translation};
use ebpf::walk::State;

use crate::packet::Skb;
use crate::requote::{ports, sum_up};
use crate::scratch;

/// Where a header has the sum.
const SUM: u32 = 8;

/// A program within the program. 0: done.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn sctp_apart(skb: *mut __sk_buff) -> i32 {
    let Some(State { packet, translation, .. }) = scratch::state() else {
        return 1;
    };
    let skb = Skb(skb);
    let ((source, new_source), (destination, new_destination)) = changes(packet, translation);
    let ([a, b], [c, d]) = ((source ^ new_source).to_ne_bytes(), (destination ^ new_destination).to_ne_bytes());
    if (source == new_source && destination == new_destination) || packet.fragment == Fragment::Later {
        return 0;
    }
    let Some(sum) = skb.load_at::<4>(packet.l4 + SUM) else {
        return 1;
    };
    if sum != [0; 4] {
        let fresh = after(sum, [a, b, c, d], L3 + packet.length - packet.l4);
        if packet.fragment != Fragment::Whole || !skb.store_far(packet.l4 + SUM, &fresh) {
            return 1;
        }
    }
    let ([a, b], [c, d]) = (new_source.to_ne_bytes(), new_destination.to_ne_bytes());
    i32::from(!skb.store_far(packet.l4, &[a, b, c, d]))
}

/// Each port as it stands there, and as it shall.
#[inline(always)]
fn changes(packet: &Packet, translation: &Translation) -> ((u16, u16), (u16, u16)) {
    let Translation { port, is_masked, mask_port, .. } = *translation;
    let (source, destination) = (packet.source_port, packet.destination_port);
    if translation.end == Translated::Masked {
        ((source, mask_port), (destination, destination))
    } else if translation.end == Translated::Unmasked {
        ((source, source), (mask_port, destination))
    } else if translation.end == Translated::Source {
        ((source, port), (if is_masked { mask_port } else { destination }, destination))
    } else {
        ((source, if is_masked { mask_port } else { source }), (port, destination))
    }
}

/// The same of a quote's sum alone, if as much is quoted, and it was no piece. 0: done.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn sctp_quoted_apart(skb: *mut __sk_buff) -> i32 {
    let Some(State { packet, quoted, translation, .. }) = scratch::state() else {
        return 1;
    };
    let skb = Skb(skb);
    let (source, destination) = ports(quoted, translation);
    let ([a, b], [c, d]) =
        ((quoted.source_port ^ source).to_ne_bytes(), (quoted.destination_port ^ destination).to_ne_bytes());
    let (at, end) = (quoted.l4 + SUM, packet.l4 + QUOTE + quoted.length);
    let is_quoted = at + 4 <= L3 + packet.length && at + 4 <= end;
    if source == quoted.source_port && destination == quoted.destination_port {
        return 0;
    }
    if !is_quoted || quoted.fragment != Fragment::Whole {
        return 0;
    }
    let Some(sum) = skb.load_at::<4>(at) else {
        return 1;
    };
    if sum == [0; 4] {
        return 0;
    }
    let fresh = after(sum, [a, b, c, d], end - quoted.l4);
    let ([a, b, c, d], [e, f, g, h]) = (sum, fresh);
    let words =
        |[a, b]: [u8; 2], [c, d]: [u8; 2]| word_difference(u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
    let changed = both(words([a, b], [e, f]), words([c, d], [g, h]));
    let written = skb.store_balanced(at, &fresh) && sum_up(skb, packet, changed, 0);
    i32::from(!written)
}

/// A packet's sum after a change of its ports.
#[inline(always)]
fn after(sum: [u8; 4], by: [u8; 4], length: u32) -> [u8; 4] {
    (u32::from_ne_bytes(sum) ^ u32::from_ne_bytes(crc32c::change(by, length))).to_ne_bytes()
}
