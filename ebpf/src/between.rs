//! Between: what nodes wrap for each other passes their host endpoints before anything is asked, as by Calico (felix/rules/static.go).
//! In: a packet at a gate, and which addresses are nodes'. Out: whether it is one node's to another.
//! Invariant: one end is this node itself, the other a node that tunnels lead to, or who may send as one; what is within is judged where it is unwrapped.
//! Never: for what another wraps: that is the rules' like anything else.

use abi::DropReason;
use abi::endpoint::SLOT_HOST;

use crate::antispoof::is_tunnelled;
use crate::tables::{Frame, Tables};
use crate::tunnel::is_peer;
use crate::walk::{Hook, State, Walk};

impl<T: Tables, F: Frame> Walk<'_, T, F> {
    /// Whether a packet at the gate is a node's for another, wrapped.
    #[inline(always)]
    pub(crate) fn is_between_nodes(&self, state: &State) -> Result<bool, DropReason> {
        let packet = &state.packet;
        if !is_tunnelled(self.tables, packet, state.generation)? {
            return Ok(false);
        }
        let (own, other) = match self.hook {
            Hook::FromHostEndpoint => (packet.destination, packet.source),
            _ => (packet.source, packet.destination),
        };
        Ok(is_peer(self.tables.tunnel_behind(&other), &other) && self.end_of(state, &own)?.slot == SLOT_HOST)
    }
}

#[cfg(test)]
mod tests {
    use abi::endpoint::SLOT_HOST;
    use abi::{TunnelEnd, Word};

    use crate::fake::{Node, ipv4, udp, v4};
    use crate::gates::{HOST, NOTHING, REFUSED, UNTOUCHED, comes_in, forwarding, goes_out, pods_goes_out};
    use crate::tracking::OUTSIDE;

    /// Another node, and a pod behind it.
    const OTHER: u8 = 150;
    const POD: u8 = 151;

    fn refusing() -> Node {
        let mut node = forwarding([NOTHING, NOTHING], [NOTHING, NOTHING]);
        let end = TunnelEnd { remote: v4(OTHER), ..TunnelEnd::default() };
        node.tunnels.extend([(v4(OTHER), end), (v4(POD), end)]);
        node
    }

    #[test]
    fn what_nodes_wrap_for_each_other_passes_a_host_endpoint_that_refuses_all() {
        let node = refusing();
        assert_eq!(comes_in(&node, &udp((7, OTHER), 1, (5000, 4789))), UNTOUCHED);
        assert_eq!(goes_out(&node, &udp(HOST, OTHER, (5000, 4789))), UNTOUCHED);
        assert_eq!(pods_goes_out(&node, &udp(HOST, OTHER, (5000, 4789))), UNTOUCHED, "what a pod sent is in it");
        assert_eq!(comes_in(&node, &ipv4((7, OTHER), 1, 4, &[0x45; 20])), UNTOUCHED);
        assert!(node.flows().is_empty());
    }

    #[test]
    fn where_tunnels_have_another_port_it_is_that_one() {
        let mut node = refusing();
        node.endpoints[SLOT_HOST as usize].egress = Word::settled(4790);
        assert_eq!(comes_in(&node, &udp((7, OTHER), 1, (5000, 4790))), UNTOUCHED);
        assert_eq!(comes_in(&node, &udp((7, OTHER), 1, (5000, 4789))), REFUSED);
    }

    #[test]
    fn what_others_wrap_and_what_a_node_sends_otherwise_is_the_rules() {
        let node = refusing();
        assert_eq!(comes_in(&node, &udp(OUTSIDE, 1, (5000, 4789))), REFUSED, "a stranger");
        assert_eq!(comes_in(&node, &udp((7, POD), 1, (5000, 4789))), REFUSED, "behind a node, and none itself");
        assert_eq!(comes_in(&node, &udp((7, OTHER), 1, (5000, 4790))), REFUSED, "another port");
        assert_eq!(comes_in(&node, &udp((7, OTHER), 2, (5000, 4789))), REFUSED, "to a pod");
        assert_eq!(comes_in(&node, &udp((7, OTHER), 201, (5000, 4789))), REFUSED, "through this node");
        assert_eq!(goes_out(&node, &udp(HOST, 200, (5000, 4789))), REFUSED);
        assert_eq!(pods_goes_out(&node, &udp((2, 2), OTHER, (5000, 4789))), REFUSED, "a pod's own");
    }
}
