//! Fragments: a later one is judged by the ports that its first one carried.
//! In: a parsed packet. Out: the packet with its ports, or `FragmentBeforeFirst`, `FragmentOverlap`.
//! Invariant: ports are remembered only of a first fragment that was let through, and only as long as a receiver waits.
//! Never: judges a fragment by less than its first was judged by; lets one pass that lies over its first.

use abi::DropReason;
use abi::fragment::{END_NEVER, FragmentKey, FragmentPorts, LIFE_V4_S, LIFE_V6_S};

use crate::parse::{Fragment, Packet};
use crate::tables::Tables;

/// Gives a later fragment the ports of its first.
#[inline(always)]
pub fn resolve<T: Tables>(tables: &T, packet: &mut Packet, scratch: &mut FragmentKey) -> Result<(), DropReason> {
    if packet.fragment == Fragment::Whole { Ok(()) } else { resolve_part(tables, packet, scratch) }
}

/// Over its first no later fragment must lie: the receiver might take those bytes for the ports. Of IPv6 nothing must lie
/// over anything (RFC 5722), so there a second, different first loses the packet; of IPv4, whose identifications soon
/// come again, it is the first of another packet. No call in the programs, though it is rare (see `options::check`).
#[inline(always)]
fn resolve_part<T: Tables>(tables: &T, packet: &mut Packet, scratch: &mut FragmentKey) -> Result<(), DropReason> {
    if packet.fragment == Fragment::First && !packet.v6 {
        return Ok(());
    }
    key(packet, scratch);
    let known = tables.fragment(scratch).filter(|known| !expired(known, packet.v6, tables.now_s()));
    if packet.fragment == Fragment::First {
        return match known {
            Some(known) if !is_again(&known, packet) => Err(lost(tables, packet, scratch, known)),
            _ => Ok(()),
        };
    }
    let known = known.ok_or(DropReason::FragmentBeforeFirst)?;
    if packet.fragment_at < known.end {
        return Err(lost(tables, packet, scratch, known));
    }
    packet.source_port = u16::from_ne_bytes(known.source);
    packet.destination_port = u16::from_ne_bytes(known.destination);
    packet.detail = known.detail;
    Ok(())
}

/// Whether something is remembered of a packet of this number.
#[inline(always)]
pub fn is_known<T: Tables>(tables: &T, packet: &Packet, scratch: &mut FragmentKey) -> bool {
    key(packet, scratch);
    tables.fragment(scratch).is_some()
}

/// Remembers the ports of a first fragment that is let through.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, packet: &Packet, scratch: &mut FragmentKey) {
    if packet.fragment == Fragment::First && !T::DRY {
        remember_first(tables, packet, scratch);
    }
}

#[inline(always)]
fn remember_first<T: Tables>(tables: &T, packet: &Packet, scratch: &mut FragmentKey) {
    let ports = FragmentPorts {
        source: packet.source_port.to_ne_bytes(),
        destination: packet.destination_port.to_ne_bytes(),
        detail: packet.detail,
        end: packet.fragment_at,
        seen_s: tables.now_s(),
    };
    key(packet, scratch);
    tables.insert_fragment(scratch, &ports);
}

/// The same first fragment once more.
#[inline(always)]
fn is_again(known: &FragmentPorts, packet: &Packet) -> bool {
    let ports = (packet.source_port.to_ne_bytes(), packet.destination_port.to_ne_bytes(), packet.detail);
    (known.source, known.destination, known.detail) == ports && known.end == packet.fragment_at
}

/// An overlap: of IPv6 the whole packet is lost, what is still to come with it.
#[inline(always)]
fn lost<T: Tables>(tables: &T, packet: &Packet, key: &FragmentKey, known: FragmentPorts) -> DropReason {
    if packet.v6 && !T::DRY {
        tables.insert_fragment(key, &FragmentPorts { end: END_NEVER, ..known });
    }
    DropReason::FragmentOverlap
}

#[inline(always)]
fn expired(known: &FragmentPorts, v6: bool, now_s: u32) -> bool {
    now_s.wrapping_sub(known.seen_s) > if v6 { LIFE_V6_S } else { LIFE_V4_S }
}

#[inline(always)]
fn key(packet: &Packet, key: &mut FragmentKey) {
    key.source = packet.source;
    key.destination = packet.destination;
    key.id = packet.fragment_id;
    key.protocol = packet.protocol;
    key.pad = [0; 3];
}
