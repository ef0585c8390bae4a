//! Tunnel: where a packet on its way to another node is wrapped for, and which wrapped packets are taken.
//! In: what lies behind which node, and who sent the wrapped packet. Out: the node, or why the packet goes no further.
//! Invariant: a packet is taken only from a node, and an address that lies behind a node only from that one.
//! Never: asks whose packet it is otherwise; the stages of the uplink do.

use abi::tunnel::{ANYONE, FROM_VXLAN, TunnelEnd, TunnelLocal};
use abi::{Address, DropReason};

/// The node for which a packet is wrapped; `found`: behind which its destination lies.
#[inline(always)]
pub fn node_behind(found: Option<&TunnelEnd>) -> Result<&TunnelEnd, DropReason> {
    match found {
        Some(end) if end.mac != [0; 6] => Ok(end),
        _ => Err(DropReason::Unroutable),
    }
}

/// Whether a wrapped packet of this network and from this sender is taken; `own`: this node's end, `outer`: behind which node the
/// sender lies, `inner`: behind which the source of what it sent.
#[inline(always)]
#[must_use]
pub fn is_taken(
    own: &TunnelLocal,
    (vni, sender): (u32, &Address),
    outer: Option<&TunnelEnd>,
    inner: Option<&TunnelEnd>,
) -> bool {
    vni == own.network() && is_from_node(FROM_VXLAN, sender, outer, inner)
}

/// Whether the sender is a node that sends packets this way, and what it sent its own.
#[inline(always)]
#[must_use]
pub fn is_from_node(way: u8, sender: &Address, outer: Option<&TunnelEnd>, inner: Option<&TunnelEnd>) -> bool {
    let is_node = match outer {
        Some(end) => is_peer(outer, sender) && end.ways & way != 0,
        None => false,
    };
    // A pod of a node of which the claim is not known yet is behind nobody, and so is who is none of the cluster's.
    let is_its_own = match inner {
        Some(end) => end.remote == *sender || end.remote == Address([0; 2]),
        None => true,
    };
    is_node && is_its_own
}

/// Whether an address is a node's own, or of who may send as one; `behind`: what is known of the network in which it lies.
#[inline(always)]
#[must_use]
pub fn is_peer(behind: Option<&TunnelEnd>, address: &Address) -> bool {
    match behind {
        Some(end) => end.remote == *address || end.ways & ANYONE != 0,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use abi::tunnel::VNI;

    use super::*;

    fn address(last: u8) -> Address {
        Address::from_v4([192, 0, 2, last])
    }

    fn behind(last: u8) -> TunnelEnd {
        TunnelEnd { remote: address(last), mac: [0x66, 0, 0, 0, 0, last], ways: FROM_VXLAN, pad: 0 }
    }

    #[test]
    fn a_packet_goes_to_the_node_behind_which_its_destination_lies_or_nowhere() {
        assert_eq!(node_behind(Some(&behind(2))), Ok(&behind(2)));
        assert_eq!(node_behind(None), Err(DropReason::Unroutable));
        let silent = TunnelEnd { mac: [0; 6], ..behind(2) };
        assert_eq!(node_behind(Some(&silent)), Err(DropReason::Unroutable));
    }

    #[test]
    fn agt_10_a_wrapped_packet_is_taken_from_the_node_behind_which_its_source_lies() {
        let (plain, silent) = (TunnelLocal::default(), TunnelEnd { mac: [0; 6], ..behind(2) });
        assert!(is_taken(&plain, (VNI, &address(2)), Some(&silent), Some(&behind(2))));
        assert!(is_taken(&plain, (VNI, &address(2)), Some(&silent), None), "its claim may be heard later");
        assert!(!is_taken(&plain, (VNI, &address(3)), None, Some(&behind(3))), "no node");
        assert!(!is_taken(&plain, (VNI, &address(2)), Some(&silent), Some(&behind(3))), "another node's pod");
        assert!(
            !is_taken(&plain, (VNI, &address(9)), Some(&behind(2)), None),
            "of the network of a node's pods, and no node"
        );
        let by_ipip = TunnelEnd { ways: abi::tunnel::FROM_IPIP, ..silent };
        assert!(!is_taken(&plain, (VNI, &address(2)), Some(&by_ipip), None), "a node that sends by IPIP alone");
        assert!(!is_taken(&plain, (VNI + 1, &address(2)), Some(&silent), Some(&behind(2))), "another network");
        let said = TunnelLocal { vni: 7, ..plain };
        assert!(is_taken(&said, (7, &address(2)), Some(&silent), Some(&behind(2))));
        assert!(!is_taken(&said, (VNI, &address(2)), Some(&silent), Some(&behind(2))), "the one it was before");
    }

    #[test]
    fn who_is_none_of_the_clusters_may_send_where_it_is_said_and_no_nodes_sources() {
        let anyone = TunnelEnd { ways: FROM_VXLAN | ANYONE, ..TunnelEnd::default() };
        fn taken(outer: &TunnelEnd, inner: Option<&TunnelEnd>) -> bool {
            is_from_node(FROM_VXLAN, &address(77), Some(outer), inner)
        }
        assert!(taken(&anyone, None));
        assert!(taken(&anyone, Some(&anyone)), "its own network lies behind nobody");
        assert!(!taken(&anyone, Some(&behind(2))), "a pod of a node's");
        assert!(!is_from_node(abi::tunnel::FROM_IPIP, &address(77), Some(&anyone), None), "another way");
        assert!(!taken(&behind(2), None), "a node's network");
        assert!(is_peer(Some(&anyone), &address(77)));
        assert_eq!(node_behind(Some(&anyone)), Err(DropReason::Unroutable), "nothing is sent there");
    }
}
