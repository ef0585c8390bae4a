//! Announced addresses: who asks the uplink's link for one that this node holds is answered, though no interface has it.
//! In: an ARP packet or a neighbour solicitation at the uplink. Out: whether to answer.
//! Invariant: nothing is answered once the announcement has run out, whatever became of the agent.
//! Never: drops: what is not answered is the stack's; answers an announcement of another node.

use abi::Address;

use crate::neighbour::{ARP_ETHERNET_V4, SOLICITATION, TARGET_AT, is_sound};
use crate::parse::{L3, Packet};
use crate::tables::{Announcements, Arrival, Frame};

/// Whether anything is announced at this moment where the packet arrived. One array read where nothing is.
#[inline(always)]
pub fn is_announcing<T: Announcements>(tables: &T, arrival: &Arrival) -> bool {
    tables.announcing().is_some_and(|announcing| {
        announcing.until_ns != 0
            && announcing.ifindex == arrival.ifindex
            && !arrival.vlan
            && !arrival.overheard
            && tables.now_ns() < announcing.until_ns
    })
}

/// Whether an ARP packet asks for an announced address. One who tries it for himself learns that it is taken (RFC 5227 §2.4); who
/// says that it is his is the next owner, or the fault of others. Apart in the programs: it is rare.
#[inline(never)]
pub fn is_asked_by_arp<T: Announcements, F: Frame>(tables: &T, frame: &F) -> bool {
    let Some(arp) = frame.load::<28>(L3) else {
        return false;
    };
    let is_request = [arp[0], arp[1], arp[2], arp[3], arp[4], arp[5]] == ARP_ETHERNET_V4 && [arp[6], arp[7]] == [0, 1];
    let sender = [arp[14], arp[15], arp[16], arp[17]];
    let target = [arp[24], arp[25], arp[26], arp[27]];
    is_request && sender != target && tables.is_announced(&Address::from_v4(target))
}

/// Whether a solicitation asks for an announced address.
#[inline(never)]
pub fn is_solicited<T: Announcements, F: Frame>(tables: &T, frame: &F, packet: &Packet) -> bool {
    // Extension headers before the message would move the target, and no honest stack puts any there.
    let plain = packet.l4 == L3 + 40 && packet.length >= 40 + 24 && packet.ttl == 255;
    if !plain || packet.detail != u16::from_be_bytes([SOLICITATION, 0]) {
        return false;
    }
    let Some(target) = frame.load::<16>(TARGET_AT) else {
        return false;
    };
    tables.is_announced(&Address::from_bytes(target)) && is_sound(frame, packet)
}

#[cfg(test)]
mod tests {
    use abi::Announcing;

    use crate::fake::{Node, UPLINK};
    use crate::fake_services::Announced;
    use crate::tables::Arrival;
    use crate::walk::{Hook, Verdict};

    use super::*;

    const VIP: [u8; 4] = [192, 0, 2, 80];

    fn node() -> Node {
        let mut node = Node::new();
        node.announced = Announced {
            announcing: Announcing { until_ns: 2000, ifindex: UPLINK, mac: [2; 6], pad: [0; 6] },
            addresses: [Address::from_v4(VIP)].into(),
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
}
