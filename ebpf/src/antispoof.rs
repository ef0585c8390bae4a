//! Anti-spoof: does a packet from a pod's interface carry that pod's own addresses, or others that it may send from?
//! In: the interface's endpoint, the Ethernet header, source and destination addresses. Out: nothing, or why not.
//! Invariant: an address belongs to the one endpoint that the address table names at the packet's generation.
//! Never: trusts a packet's word for who sent it.

use abi::endpoint::{ENDPOINT_READY, GATEWAY_MAC, SLOT_FIRST, SLOT_HOST};
use abi::rules::x_of;
use abi::tunnel::VXLAN_PORT;
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

/// The source address is the endpoint's own, or one that it may send from: no address that no router sends on, though the
/// networks that it was given be all there are.
#[inline(always)]
pub fn check_source<T: Tables>(
    tables: &T,
    slot: u32,
    source: End,
    packet: &Packet,
    generation: u64,
) -> Result<(), DropReason> {
    if source.slot == slot || (!is_martian(packet) && tables.speaks_for(slot, source.class, generation)) {
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
    if is_nowhere(packet.v6, packet.destination) { Err(DropReason::Unroutable) } else { Ok(()) }
}

/// Whether its source is one by which nobody sends beyond a link.
#[inline(always)]
fn is_martian(packet: &Packet) -> bool {
    let (v6, source) = (packet.v6, packet.source);
    is_nowhere(v6, source) || is_of_group(v6, source) || is_link_local(v6, source)
}

/// Whether it is an IPv6 link-local address, which nobody forwards from or to.
#[inline(always)]
#[must_use]
pub const fn is_link_local(v6: bool, address: Address) -> bool {
    let [first, second, ..] = address.0[0].to_ne_bytes();
    v6 && first == 0xfe && second & 0xc0 == 0x80
}

/// Loopback and the unspecified address, of IPv4 with all that begins like them.
#[inline(always)]
const fn is_nowhere(v6: bool, address: Address) -> bool {
    if v6 {
        address.0[0] == 0 && (address.0[1] == LOOPBACK_V6 || address.0[1] == 0)
    } else {
        matches!(first_v4_octet(address), 0 | 127)
    }
}

const LOOPBACK_V6: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);

/// Tunnels that a pod might build into the node's own overlay; `x`: protocol and port, as spans are searched.
#[inline(always)]
pub fn is_tunnel<T: Tables>(tables: &T, x: u32, generation: u64) -> Result<bool, DropReason> {
    if x >> 16 != protocol::UDP as u32 {
        return Ok(x >> 16 == protocol::IPIP as u32);
    }
    let node = tables.endpoint(SLOT_HOST).ok_or(DropReason::TableCorrupt)?;
    let port = match tables.word(&node.egress).at(generation) {
        0 => u32::from(VXLAN_PORT),
        port => port,
    };
    Ok(x & 0xffff == port)
}

/// The same of a packet.
#[inline(always)]
pub fn is_tunnelled<T: Tables>(tables: &T, packet: &Packet, generation: u64) -> Result<bool, DropReason> {
    is_tunnel(tables, x_of(packet.protocol, packet.detail), generation)
}

/// Whether the destination is a multicast group or a broadcast address.
#[inline(always)]
#[must_use]
pub fn is_group(packet: &Packet) -> bool {
    is_of_group(packet.v6, packet.destination)
}

#[inline(always)]
fn is_of_group(v6: bool, address: Address) -> bool {
    if v6 {
        address.0[0].to_ne_bytes()[0] == 0xff
    } else {
        first_v4_octet(address) & 0xf0 == 0xe0 || address == BROADCAST_V4
    }
}

const BROADCAST_V4: Address = Address::from_v4([255; 4]);

#[inline(always)]
const fn first_v4_octet(address: Address) -> u8 {
    let [_, _, _, _, first, _, _, _] = address.0[1].to_ne_bytes();
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{ALLOW, Node};
    use abi::Word;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// By a pod that may send from every network, and whose own address this is not.
    fn by_leave(source: &str) -> Result<(), DropReason> {
        let mut node = Node::new();
        node.endpoints[2].sources = Word::settled(ALLOW);
        let (v6, source) = match source.parse().expect("an address") {
            IpAddr::V4(v4) => (false, Address::from_v4(Ipv4Addr::octets(&v4))),
            IpAddr::V6(v6) => (true, Address::from_bytes(Ipv6Addr::octets(&v6))),
        };
        let packet = Packet { v6, source, ..Packet::default() };
        check_source(&node, 2, End::default(), &packet, node.generation())
    }

    #[test]
    fn leave_to_send_from_everywhere_is_no_leave_for_what_no_router_sends_on() {
        let martians =
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.1", "239.255.255.255", "255.255.255.255"];
        let martians = martians.iter().chain(&["::", "::1", "ff02::1", "ff0e::1", "fe80::1", "febf::1"]);
        for source in martians {
            assert_eq!(by_leave(source), Err(DropReason::Spoofed), "{source}");
        }
        for source in
            ["1.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255", "::2", "1::1", "fec0::1", "fd00::1"]
        {
            assert_eq!(by_leave(source), Ok(()), "{source}");
        }
    }
}
