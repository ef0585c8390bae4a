//! Requote: the bytes of an ICMP error about a packet that went through a service.
//! In: an error as it came, what it quotes, and who shall stand there. Out: the error with other addresses and ports, within and
//! without, checksums right as far as they are quoted.
//! Invariant: what is quoted is, but for TTL and the like, what the error's receiver sent.
//! Never: decides; touches a packet that no service is about.

use abi::Address;
use aya_ebpf::bindings::{__sk_buff, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use ebpf::conntrack::Socket;
use ebpf::icmp::QUOTE;
use ebpf::parse::{L3, Packet, has_ports, protocol};
use ebpf::rewrite::{both, difference, header_checksum, word_difference};
use ebpf::tables::Frame as _;
use ebpf::translation::{Translated, Translation};
use ebpf::walk::State;

use crate::packet::Skb;
use crate::scratch;
use crate::translate::CHECKSUM_V4;

/// A program within the program. 0: done.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn requote_apart(skb: *mut __sk_buff) -> i32 {
    let Some(State { packet, quoted, translation, .. }) = scratch::state() else {
        return 1;
    };
    // An error goes to whoever sent what it quotes.
    let (source_port, destination_port) = ports(quoted, translation);
    let (source, destination) = if translation.end == Translated::QuotedMasked {
        ((quoted.source, source_port), (translation.mask, destination_port))
    } else if translation.end == Translated::QuotedUnmasked {
        ((packet.destination, source_port), (quoted.destination, destination_port))
    } else if translation.end == Translated::QuotedSource {
        // One that answers itself was seen as the frontend, and so is what it complains about.
        let client = match translation {
            Translation { is_hairpin: true, .. } => packet.source,
            Translation { is_masked: true, .. } => translation.mask,
            _ => quoted.destination,
        };
        ((packet.destination, source_port), (client, destination_port))
    } else {
        ((packet.destination, source_port), (translation.frontend, destination_port))
    };
    let skb = Skb(skb);
    let done = quote(skb, packet, quoted, (source, destination)) && letter(skb, packet, quoted, translation);
    i32::from(!done)
}

/// The ports that shall be quoted.
#[inline(always)]
pub fn ports(quoted: &Packet, translation: &Translation) -> (u16, u16) {
    let Translation { end, port, is_masked, mask_port, .. } = *translation;
    if quoted.is_icmp() && matches!(end, Translated::QuotedMasked | Translated::QuotedUnmasked) {
        return (mask_port, mask_port);
    }
    if end == Translated::QuotedMasked {
        (quoted.source_port, mask_port)
    } else if end == Translated::QuotedUnmasked {
        (mask_port, quoted.destination_port)
    } else if end == Translated::QuotedSource {
        (port, if is_masked { mask_port } else { quoted.destination_port })
    } else {
        (if is_masked { mask_port } else { quoted.source_port }, port)
    }
}

/// Writes who shall be quoted.
#[inline(always)]
fn quote(skb: Skb, packet: &Packet, quoted: &Packet, (source, destination): (Socket, Socket)) -> bool {
    let at = packet.l4 + QUOTE;
    let ([a, b], [c, d]) = (source.1.to_ne_bytes(), destination.1.to_ne_bytes());
    let mut ports = word_difference(quoted.source_port, source.1);
    if !quoted.is_icmp() {
        ports += word_difference(quoted.destination_port, destination.1);
    }
    let addresses = both(difference(quoted.source, source.0), difference(quoted.destination, destination.0));
    // What an IPv4 header's addresses change in the message, its checksum makes up for.
    let (written, mut changed) = if packet.v6 {
        let source = skb.store_balanced(at + 8, &source.0.to_bytes());
        (source && skb.store_balanced(at + 24, &destination.0.to_bytes()), addresses)
    } else {
        (quote_v4(skb, at, (source.0, destination.0), addresses), 0)
    };
    changed = both(changed, ports);
    // A sum of ICMP covers no addresses.
    let by = if quoted.is_icmp() && !packet.v6 { ports } else { both(addresses, ports) };
    let summed = sum_transport(skb, packet, quoted, by, &mut changed);
    // Where an address floats there may be none.
    let numbered = if quoted.is_icmp() {
        source.1 == quoted.source_port || skb.store_balanced(quoted.l4 + 4, &[a, b])
    } else {
        !has_ports(quoted.protocol) || skb.store_balanced(quoted.l4, &[a, b, c, d])
    };
    summed && written && numbered && sum_up(skb, packet, changed, 0)
}

/// The quoted checksum follows; what the message changes by that is added.
#[inline(always)]
fn sum_transport(skb: Skb, packet: &Packet, quoted: &Packet, by: u32, changed: &mut u32) -> bool {
    let Some(at) = checksum_of(packet, quoted) else {
        return true;
    };
    let Some(sum) = skb.load_at::<2>(at) else {
        return false;
    };
    // Of UDP, zero says that there is none.
    let is_udp = quoted.protocol == protocol::UDP;
    if is_udp && sum == [0; 2] {
        return true;
    }
    let mut fresh = header_checksum(sum, by);
    if is_udp && fresh == [0; 2] {
        fresh = [0xff; 2];
    }
    *changed = both(*changed, word_difference(u16::from_ne_bytes(sum), u16::from_ne_bytes(fresh)));
    skb.store_balanced(at, &fresh)
}

#[inline(always)]
fn quote_v4(skb: Skb, at: u32, (source, destination): (Address, Address), changed: u32) -> bool {
    let Some(sum) = skb.load_at::<2>(at + 10) else {
        return false;
    };
    skb.store_balanced(at + 12, &addresses_v4(source, destination))
        && skb.store_balanced(at + 10, &header_checksum(sum, changed))
}

#[inline(always)]
fn addresses_v4(source: Address, destination: Address) -> [u8; 8] {
    let ([_, _, _, _, a, b, c, d], [_, _, _, _, e, f, g, h]) =
        (source.0[1].to_ne_bytes(), destination.0[1].to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Where the quoted transport has its checksum, if so much is quoted.
#[inline(always)]
fn checksum_of(packet: &Packet, quoted: &Packet) -> Option<u32> {
    match quoted.protocol {
        protocol::UDP | protocol::UDPLITE => Some(quoted.l4 + 6),
        protocol::ICMPV6 if quoted.v6 => Some(quoted.l4 + 2),
        protocol::ICMP if !quoted.v6 => Some(quoted.l4 + 2),
        protocol::TCP if quoted.l4 + 18 <= L3 + packet.length => Some(quoted.l4 + 16),
        _ => None,
    }
}

/// Writes whom the error itself is from, and whom it goes to.
#[inline(always)]
fn letter(skb: Skb, packet: &Packet, quoted: &Packet, translation: &Translation) -> bool {
    let Translation { end, frontend, is_hairpin, is_masked, mask, .. } = translation;
    let about_answer = *end == Translated::QuotedSource;
    if matches!(*end, Translated::QuotedMasked | Translated::QuotedUnmasked) {
        // Who complains about a pod stays who it is; a pod that complains is this node.
        let from = if *end == Translated::QuotedMasked { *mask } else { packet.source };
        let was_to = if *end == Translated::QuotedMasked { packet.destination } else { quoted.source };
        return address(skb, packet, (packet.source, was_to), from);
    }
    let was_from = if *is_hairpin { packet.destination } else { packet.source };
    let was_to = match (about_answer, *is_masked) {
        (true, _) => *frontend,
        (false, true) => quoted.source,
        (false, false) if *is_hairpin => *frontend,
        (false, false) => packet.destination,
    };
    // A router on the way stays who it is. What this node only sends on is its word, whoever it is from: another's address may
    // not pass the networks between.
    let from = match (about_answer, *is_masked) {
        (true, true) => *mask,
        (false, true) => *frontend,
        (false, false) if packet.source == quoted.destination => *frontend,
        _ => packet.source,
    };
    address(skb, packet, (was_from, was_to), from)
}

/// Writes both addresses of the error, in the place of others.
#[inline(always)]
fn address(skb: Skb, packet: &Packet, (was_from, was_to): (Address, Address), from: Address) -> bool {
    let changed = both(difference(was_from, from), difference(was_to, packet.destination));
    if packet.v6 {
        return skb.store_far(L3 + 8, &from.to_bytes())
            && skb.store_far(L3 + 24, &packet.destination.to_bytes())
            && sum_up(skb, packet, changed, BPF_F_PSEUDO_HDR.into());
    }
    let Some(sum) = skb.load::<2>(CHECKSUM_V4) else {
        return false;
    };
    skb.store_balanced(L3 + 12, &addresses_v4(from, packet.destination))
        && skb.store_balanced(CHECKSUM_V4, &header_checksum(sum, changed))
}

/// The message's own checksum follows what was changed.
#[inline(always)]
pub fn sum_up(skb: Skb, packet: &Packet, changed: u32, flags: u64) -> bool {
    // SAFETY: the helper changes two bytes of the packet, or refuses; no pointer into it is held.
    unsafe { bpf_l4_csum_replace(skb.0, packet.l4 + 2, 0, changed.into(), flags) == 0 }
}
