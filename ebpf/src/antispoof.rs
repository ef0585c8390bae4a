//! Anti-spoof: does a packet from a pod's interface carry that pod's own addresses, or others that it may send from?
//! In: the interface's endpoint, the Ethernet header, source and destination addresses. Out: nothing, or why not.
//! Invariant: an address belongs to the one endpoint that the address table names at the packet's generation.
//! Never: trusts a packet's word for who sent it.

use abi::endpoint::{ENDPOINT_READY, GATEWAY_MAC, SLOT_FIRST};
use abi::{Address, DropReason, Endpoint};

use crate::conntrack::Tracked;
use crate::parse::{Ether, Packet, protocol};
use crate::policy::End;
use crate::tables::{Frame, Tables};
use crate::walk::{State, Walk};

/// The ready endpoint behind an interface, with its slot.
#[inline(always)]
pub fn endpoint_of<T: Tables>(tables: &T, ifindex: u32) -> Result<(u32, &Endpoint), DropReason> {
    let slot = tables.slot_of_interface(ifindex).ok_or(DropReason::NoEndpoint)?;
    let endpoint = tables.endpoint(slot).ok_or(DropReason::TableCorrupt)?;
    let ready = endpoint.flags & ENDPOINT_READY != 0 && endpoint.ifindex == ifindex && slot >= SLOT_FIRST;
    if ready { Ok((slot, endpoint)) } else { Err(DropReason::NoEndpoint) }
}

/// From the endpoint itself, to the gateway: the MACs of a packet that is to be forwarded.
#[inline(always)]
pub fn check_macs(endpoint: &Endpoint, ether: &Ether) -> Result<(), DropReason> {
    if ether.source != endpoint.mac {
        return Err(DropReason::Spoofed);
    }
    if ether.destination != GATEWAY_MAC {
        return Err(DropReason::WrongMac);
    }
    Ok(())
}

/// The source address is the endpoint's own, or one that it may send from.
#[inline(always)]
pub fn check_source<T: Tables>(tables: &T, slot: u32, source: End, generation: u64) -> Result<(), DropReason> {
    if source.slot == slot || tables.speaks_for(slot, source.class, generation) {
        Ok(())
    } else {
        Err(DropReason::Spoofed)
    }
}

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Who opened a flow: the owner of its address; where that is another than the entry says, the pod that may send from it still.
    #[inline(always)]
    pub(crate) fn speaker(&self, state: &State, opener: End, known: Option<Tracked<'_>>) -> End {
        let Some(tracked) = known else {
            return opener;
        };
        let slot = self.frame.unknown(tracked.opening_slots().0);
        let may =
            slot >= SLOT_FIRST && slot != opener.slot && self.tables.speaks_for(slot, opener.class, state.generation);
        if may { End { slot, ..opener } } else { opener }
    }
}

/// Where no pod may send beside groups, which never come so far: loopback, the unspecified address.
#[inline(always)]
pub fn check_destination(packet: &Packet) -> Result<(), DropReason> {
    let nowhere = if packet.v6 {
        packet.destination.0[0] == 0 && (packet.destination.0[1] == LOOPBACK_V6 || packet.destination.0[1] == 0)
    } else {
        matches!(first_v4_octet(packet.destination), 0 | 127)
    };
    if nowhere { Err(DropReason::Unroutable) } else { Ok(()) }
}

const LOOPBACK_V6: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);

/// Tunnels that a pod might build into the node's own overlay.
#[inline(always)]
#[must_use]
pub const fn is_tunnel(packet: &Packet) -> bool {
    packet.protocol == protocol::IPIP || (packet.protocol == protocol::UDP && packet.detail == VXLAN)
}

/// VXLAN's port (RFC 7348).
const VXLAN: u16 = 4789;

/// Whether the destination is a multicast group or a broadcast address.
#[inline(always)]
#[must_use]
pub fn is_group(packet: &Packet) -> bool {
    if packet.v6 {
        packet.destination.0[0].to_ne_bytes()[0] == 0xff
    } else {
        let first = first_v4_octet(packet.destination);
        first & 0xf0 == 0xe0 || packet.destination == BROADCAST_V4
    }
}

const BROADCAST_V4: Address = Address::from_v4([255; 4]);

#[inline(always)]
const fn first_v4_octet(address: Address) -> u8 {
    let [_, _, _, _, first, _, _, _] = address.0[1].to_ne_bytes();
    first
}
