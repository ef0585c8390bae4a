//! Fragments: a later one is judged by the ports that its first one carried.
//! In: a parsed packet. Out: the packet with its ports, or `FragmentBeforeFirst`.
//! Invariant: ports are remembered only of a first fragment that was let through.
//! Never: judges a fragment by less than its first was judged by.

use abi::DropReason;
use abi::fragment::{FragmentKey, FragmentPorts};

use crate::parse::{Fragment, Packet};
use crate::tables::Tables;

/// Gives a later fragment the ports of its first.
#[inline(always)]
pub fn resolve<T: Tables>(tables: &T, packet: &mut Packet, scratch: &mut FragmentKey) -> Result<(), DropReason> {
    if packet.fragment != Fragment::Later {
        return Ok(());
    }
    key(packet, scratch);
    let ports = tables.fragment(scratch).ok_or(DropReason::FragmentBeforeFirst)?;
    packet.source_port = u16::from_ne_bytes(ports.source);
    packet.destination_port = u16::from_ne_bytes(ports.destination);
    packet.detail = ports.detail;
    Ok(())
}

/// Remembers the ports of a first fragment that is let through.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, packet: &Packet, scratch: &mut FragmentKey) {
    if packet.fragment != Fragment::First || T::DRY {
        return;
    }
    let ports = FragmentPorts {
        source: packet.source_port.to_ne_bytes(),
        destination: packet.destination_port.to_ne_bytes(),
        detail: packet.detail,
        pad: [0; 2],
    };
    key(packet, scratch);
    tables.insert_fragment(scratch, &ports);
}

#[inline(always)]
fn key(packet: &Packet, key: &mut FragmentKey) {
    key.source = packet.source;
    key.destination = packet.destination;
    key.id = packet.fragment_id;
    key.protocol = packet.protocol;
    key.pad = [0; 3];
}
