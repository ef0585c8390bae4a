//! Announced addresses: who asks the uplink's link for one that this node holds is answered, though no interface has it.
//! In: an ARP packet or a neighbour solicitation at the uplink. Out: whether to answer.
//! Invariant: what is leased is not answered for once the lease has run out, whatever became of the agent; a pod's address, and one
//! that floats to it, only while the pod is here, by the revision in force.
//! Never: drops: what is not answered is the stack's; answers an announcement of another node.

use abi::announce::{ANNOUNCED_ENDPOINT, ANNOUNCED_LEASED};
use abi::endpoint::SLOT_FIRST;
use abi::service::BALANCER_NONE;
use abi::{Address, ServiceKey};

use crate::neighbour::{ARP_ETHERNET_V4, SOLICITATION, TARGET_AT, is_sound};
use crate::parse::L3;
use crate::tables::{Announcements, Arrival, Frame, Tables};
use crate::walk::State;

/// Whether anything may be announced where the packet arrived. One array read where nothing is.
#[inline(always)]
pub fn is_announcing<T: Announcements>(tables: &T, arrival: &Arrival) -> bool {
    tables.announcing().is_some_and(|announcing| {
        announcing.ifindex == arrival.ifindex && announcing.ifindex != 0 && !arrival.vlan && !arrival.overheard
    })
}

/// Whether this node answers for the address now.
#[inline(always)]
fn is_answered<T: Tables>(tables: &T, address: &Address, generation: u64) -> bool {
    match tables.announced(address) {
        Some(ANNOUNCED_LEASED) => tables.announcing().is_some_and(|announcing| tables.now_ns() < announcing.until_ns),
        Some(ANNOUNCED_ENDPOINT) => {
            let entry = tables.class_of_address(address).and_then(|slot| tables.class(slot));
            entry.is_some_and(|entry| tables.word(&entry.endpoint).at(generation) >= SLOT_FIRST)
                || floats(tables, address, generation)
        }
        _ => false,
    }
}

#[inline(always)]
fn floats<T: Tables>(tables: &T, address: &Address, generation: u64) -> bool {
    let entry = tables.service(&ServiceKey::floating(*address)).and_then(|slot| tables.frontend(slot));
    entry.is_some_and(|entry| tables.word(&entry.outside).at(generation) != BALANCER_NONE)
}

/// Whether an ARP packet asks for an announced address. One who tries it for himself learns that it is taken (RFC 5227 §2.4); who
/// says that it is his is the next owner, or the fault of others. Apart in the programs: it is rare.
#[inline(never)]
pub fn is_asked_by_arp<T: Tables, F: Frame>(tables: &T, frame: &F, state: &State) -> bool {
    let Some(arp) = frame.load::<28>(L3) else {
        return false;
    };
    let is_request = [arp[0], arp[1], arp[2], arp[3], arp[4], arp[5]] == ARP_ETHERNET_V4 && [arp[6], arp[7]] == [0, 1];
    let sender = [arp[14], arp[15], arp[16], arp[17]];
    let target = [arp[24], arp[25], arp[26], arp[27]];
    is_request && sender != target && is_answered(tables, &Address::from_v4(target), state.generation)
}

/// Whether a solicitation asks for an announced address.
#[inline(never)]
pub fn is_solicited<T: Tables, F: Frame>(tables: &T, frame: &F, state: &State) -> bool {
    let packet = &state.packet;
    // Extension headers before the message would move the target, and no honest stack puts any there.
    let plain = packet.l4 == L3 + 40 && packet.length >= 40 + 24 && packet.ttl == 255;
    if !plain || packet.detail != u16::from_be_bytes([SOLICITATION, 0]) {
        return false;
    }
    let Some(target) = frame.load::<16>(TARGET_AT) else {
        return false;
    };
    is_answered(tables, &Address::from_bytes(target), state.generation) && is_sound(frame, packet)
}

#[cfg(test)]
mod tests {
    use abi::Announcing;
    use abi::endpoint::{SLOT_HOST, SLOT_NONE};

    use crate::fake::{Node, UPLINK};
    use crate::fake_services::Announced;
    use crate::tables::Arrival;
    use crate::walk::{Hook, Verdict};

    use super::*;

    const VIP: [u8; 4] = [192, 0, 2, 80];
    const POD: [u8; 4] = [192, 0, 2, 90];

    fn node() -> Node {
        let mut node = Node::new();
        node.announced = Announced {
            announcing: Announcing { until_ns: 2000, ifindex: UPLINK, mac: [2; 6], pad: [0; 6] },
            addresses: [(Address::from_v4(VIP), ANNOUNCED_LEASED), (Address::from_v4(POD), ANNOUNCED_ENDPOINT)].into(),
            now_ns: 1999,
        };
        node
    }

    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> [u8; 42] {
        let mut frame = [0; 42];
        frame[..6].fill(0xff);
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame[28..32].copy_from_slice(&sender);
        frame[38..42].copy_from_slice(&target);
        frame
    }

    fn meets(node: &Node, change: impl Fn(&mut Arrival), frame: &[u8]) -> Verdict {
        let mut arrival = Arrival { ifindex: UPLINK, ingress_ifindex: UPLINK, foreign: true, ..Arrival::default() };
        change(&mut arrival);
        node.run_from(Hook::FromUplink, &arrival, frame).0.expect("nothing here is dropped")
    }

    #[test]
    fn arp_for_an_announced_address_is_answered_until_the_announcement_runs_out() {
        let (mut node, asks) = (node(), arp(1, [192, 0, 2, 254], VIP));
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::AnswerArp);
        assert_eq!(meets(&node, |_| {}, &arp(1, [0; 4], VIP)), Verdict::AnswerArp, "somebody tries it for himself");
        for (why, frame) in [
            ("another address", arp(1, [192, 0, 2, 254], [192, 0, 2, 81])),
            ("an announcement", arp(1, VIP, VIP)),
            ("a reply", arp(2, [192, 0, 2, 254], VIP)),
        ] {
            assert_eq!(meets(&node, |_| {}, &frame), Verdict::Untouched, "{why}");
        }
        assert_eq!(meets(&node, |_| {}, &asks[..41]), Verdict::Untouched, "a torn one");
        assert_eq!(meets(&node, |arrival| arrival.vlan = true, &asks), Verdict::Untouched);
        assert_eq!(meets(&node, |arrival| arrival.overheard = true, &asks), Verdict::Untouched);
        assert_eq!(meets(&node, |arrival| arrival.ifindex = UPLINK + 1, &asks), Verdict::Untouched);
        node.announced.now_ns = 2000;
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::Untouched, "it has run out");
    }

    #[test]
    fn arp_for_a_pods_address_is_answered_without_a_lease_and_only_while_the_pod_is_here() {
        let (mut node, asks) = (node(), arp(1, [192, 0, 2, 254], POD));
        node.announced.announcing.until_ns = 0;
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::Untouched, "nobody has it");
        node.owns(Address::from_v4(POD), SLOT_FIRST);
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::AnswerArp);
        assert_eq!(meets(&node, |_| {}, &arp(1, [0; 4], POD)), Verdict::AnswerArp, "somebody tries it for himself");
        assert_eq!(meets(&node, |_| {}, &arp(1, [192, 0, 2, 254], VIP)), Verdict::Untouched, "that is leased");
        node.owns(Address::from_v4(POD), SLOT_NONE);
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::Untouched, "it is a pod's elsewhere by now");
        node.owns(Address::from_v4(POD), SLOT_HOST);
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::Untouched, "it is the node's own, whose stack answers");
        node.owns(Address::from_v4(POD), SLOT_FIRST);
        node.announced.addresses.clear();
        assert_eq!(meets(&node, |_| {}, &asks), Verdict::Untouched, "nobody is to be answered for it");
        node.announced.addresses.insert(Address::from_v4(POD), ANNOUNCED_ENDPOINT);
        node.announced.announcing.ifindex = 0;
        assert_eq!(meets(&node, |arrival| arrival.ifindex = 0, &asks), Verdict::Untouched, "there is no uplink");
    }
}
