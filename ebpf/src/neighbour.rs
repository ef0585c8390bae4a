//! Neighbours: ARP and neighbour discovery of a pod, answered with the gateway's MAC for every target but its own.
//! In: an ARP packet or an ICMPv6 neighbour message from a ready endpoint. Out: whether to answer; the answer's bytes.
//! Invariant: address probes, announcements and the pod's own address stay unanswered, but the gateway's is defended.
//! Never: asks for a route; learns an address.

use abi::endpoint::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use abi::{Address, DropReason, Endpoint};

use crate::icmp_error::{Head, checksum, ethernet, halves, word};
use crate::parse::{Ether, L3, Packet, protocol};
use crate::policy::end_of;
use crate::tables::{Frame, Tables};

/// Length of a frame with an ARP packet for IPv4 over Ethernet.
pub const ARP_FRAME: usize = 42;
/// Length of a frame with a neighbour advertisement that carries one link-layer option.
pub const ADVERTISEMENT_FRAME: usize = 86;
/// Where a solicitation names its target.
pub const TARGET_AT: u32 = L3 + 40 + 8;

pub(crate) const ARP_ETHERNET_V4: [u8; 6] = [0, 1, 8, 0, 6, 4];
pub(crate) const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Longest message that is looked at; a solicitation has 24 bytes and an option or two of 8.
const MESSAGE_MAX: u32 = 96;
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub struct Answerer {
    /// Its MAC.
    pub mac: [u8; 6],
    /// It says of itself that it is a router.
    pub router: bool,
}

impl Answerer {
    /// Of pods' questions.
    pub const GATEWAY: Self = Self { mac: GATEWAY_MAC, router: true };
}

/// The endpoint at whose interface a question was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Its slot.
    pub slot: u32,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// The generation of this packet.
    pub generation: u64,
}

/// Whether a packet is a neighbour or router discovery message (RFC 4861).
#[inline(always)]
#[must_use]
pub const fn is_discovery(packet: &Packet) -> bool {
    packet.v6 && packet.is_icmp() && matches!(packet.icmp_type(), 133..=137)
}

/// Whether a packet is a neighbour solicitation or advertisement.
#[inline(always)]
#[must_use]
pub const fn is_neighbour(packet: &Packet) -> bool {
    is_discovery(packet) && matches!(packet.icmp_type(), SOLICITATION | ADVERTISEMENT)
}

/// Whether a packet is a multicast listener message (RFC 2710, RFC 3810), which every IPv6 host sends on its own.
#[inline(always)]
#[must_use]
pub const fn is_listener(packet: &Packet) -> bool {
    packet.v6 && packet.is_icmp() && matches!(packet.icmp_type(), 130..=132 | 143)
}

/// Whether this ARP packet is to be answered.
#[inline(always)]
pub fn check_arp<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    ether: &Ether,
    asker: Asker<'_>,
) -> Result<(), DropReason> {
    let arp = frame.load::<28>(L3).ok_or(DropReason::Malformed)?;
    if [arp[0], arp[1], arp[2], arp[3], arp[4], arp[5]] != ARP_ETHERNET_V4 {
        return Err(DropReason::Malformed);
    }
    let sender_mac = [arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]];
    if sender_mac != asker.endpoint.mac || ether.source != asker.endpoint.mac {
        return Err(DropReason::Spoofed);
    }
    let request = [arp[6], arp[7]] == [0, 1];
    let sender = [arp[14], arp[15], arp[16], arp[17]];
    let target = [arp[24], arp[25], arp[26], arp[27]];
    // A probe or an announcement. Of the gateway's address it is a conflict, which a reply shows (RFC 5227 §2.4).
    let claims = sender == [0; 4] || sender == target;
    if !request || (claims && target != GATEWAY_V4) {
        return Err(DropReason::NeighbourUnanswered);
    }
    check_target(tables, &Address::from_v4(target), asker)
}

/// Whether this neighbour discovery message is to be answered.
#[inline(always)]
pub fn check_discovery<T: Tables, F: Frame>(
    tables: &T,
    frame: &F,
    (ether, packet): (&Ether, &Packet),
    asker: Asker<'_>,
) -> Result<(), DropReason> {
    if ether.source != asker.endpoint.mac {
        return Err(DropReason::Spoofed);
    }
    if packet.detail != u16::from_be_bytes([SOLICITATION, 0]) {
        return Err(DropReason::NeighbourUnanswered);
    }
    // Extension headers before the message would move the target, and no honest stack puts any there.
    let plain = packet.l4 == L3 + 40 && packet.length >= 40 + 24;
    let target = frame.load::<16>(TARGET_AT).ok_or(DropReason::Malformed)?;
    if !plain || packet.ttl != 255 || target[0] == 0xff || !is_sound(frame, packet) {
        return Err(DropReason::Malformed);
    }
    // Somebody tries the target for himself. If it is the gateway's, he must learn that it is taken (RFC 4862 §5.4.3).
    if packet.source == Address::default() && target != GATEWAY_V6 {
        return Err(DropReason::NeighbourUnanswered);
    }
    check_target(tables, &Address::from_bytes(target), asker)
}

/// Whether a message's checksum is right and no option is empty (RFC 4861 §7.1.1). An honest one is far shorter than
/// [`MESSAGE_MAX`]. Apart in the programs, too: it is rare.
#[inline(never)]
pub(crate) fn is_sound<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let length = packet.length - 40;
    if length > MESSAGE_MAX || !length.is_multiple_of(8) {
        return false;
    }
    let [_, _, high, low] = length.to_be_bytes();
    let pseudo = u64::from_ne_bytes([high, low, 0, protocol::ICMPV6, 0, 0, 0, 0]);
    let ([s0, s1], [d0, d1]) = (packet.source.0, packet.destination.0);
    let mut sum = halves(pseudo) + halves(s0) + halves(s1) + halves(d0) + halves(d1);
    let (mut at, mut option) = (0, 24);
    for _ in 0..MESSAGE_MAX / 8 {
        if at >= length {
            break;
        }
        let Some(bytes) = frame.load_at::<8>(L3 + 40 + at) else {
            return false;
        };
        if at == option {
            if bytes[1] == 0 {
                return false;
            }
            option += 8 * u32::from(bytes[1]);
        }
        sum += halves(u64::from_ne_bytes(bytes));
        at += 8;
    }
    checksum(sum) == [0; 2] && option == length
}

/// Any target is answered for but the asker's own address.
#[inline(always)]
fn check_target<T: Tables>(tables: &T, target: &Address, asker: Asker<'_>) -> Result<(), DropReason> {
    if end_of(tables, asker.generation, target)?.slot == asker.slot {
        return Err(DropReason::NeighbourUnanswered);
    }
    Ok(())
}

/// The reply to an ARP request.
#[inline(always)]
#[must_use]
pub fn arp_reply(request: &[u8; ARP_FRAME], own: &[u8; 6]) -> [u8; ARP_FRAME] {
    let mut reply = *request;
    reply[..6].copy_from_slice(&request[6..12]);
    reply[6..12].copy_from_slice(own);
    reply[21] = 2;
    reply[22..28].copy_from_slice(own);
    reply[28..32].copy_from_slice(&request[38..42]);
    reply[32..42].copy_from_slice(&request[22..32]);
    reply
}

/// The advertisement that answers a solicitation for `target` from `source` at `mac`: override, and solicited.
/// Whoever asked from no address is told with everybody (RFC 4861 §7.2.4).
#[inline(always)]
pub fn advertisement(mac: &[u8; 6], source: Address, target: Address, own: &Answerer, head: &mut Head) {
    let asked = source != Address::default();
    let (mac, source) = if asked { (mac, source) } else { (&ALL_NODES_MAC, Address::from_bytes(ALL_NODES)) };
    let flags = if asked { 0b0110_0000 } else { 0b0010_0000 } | u8::from(own.router) << 7;
    let [a, b, c, d, e, f] = own.mac;
    ethernet(head, mac, &own.mac, [0x86, 0xdd]);
    head[2] = word([0x60, 0, 0, 0, 0, 32, protocol::ICMPV6, 255]);
    [head[3], head[4]] = target.0;
    [head[5], head[6]] = source.0;
    [head[8], head[9]] = target.0;
    head[10] = word([2, 1, a, b, c, d, e, f]);
    let message = |[c0, c1]: [u8; 2]| word([ADVERTISEMENT, 0, c0, c1, flags, 0, 0, 0]);
    let pseudo = halves(word([0, 32, 0, protocol::ICMPV6, 0, 0, 0, 0])) + halves(source.0[0]) + halves(source.0[1]);
    // The target stands there twice: as the source address and in the message.
    let targets = 2 * (halves(target.0[0]) + halves(target.0[1]));
    head[7] = message(checksum(pseudo + targets + halves(head[10]) + halves(message([0; 2]))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Node, mac};
    use crate::icmp_error::HEAD_AT;
    use crate::walk::Verdict;

    fn arp(sender: [u8; 4], target: [u8; 4]) -> [u8; ARP_FRAME] {
        let mut frame = [0; ARP_FRAME];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&mac(2));
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame[22..28].copy_from_slice(&mac(2));
        frame[28..32].copy_from_slice(&sender);
        frame[38..42].copy_from_slice(&target);
        frame
    }

    #[test]
    fn pkt_1_2_3_arp_is_answered_for_all_but_the_own_address_probes_and_announcements() {
        let node = Node::new();
        let own = [10, 65, 0, 2];
        for (sender, target, expected) in [
            (own, [169, 254, 1, 1], Ok(Verdict::AnswerArp)),
            (own, [1, 2, 3, 4], Ok(Verdict::AnswerArp)),
            ([9; 4], own, Err(DropReason::NeighbourUnanswered)),
            ([0; 4], [10, 65, 0, 9], Err(DropReason::NeighbourUnanswered)),
            ([10, 65, 0, 9], [10, 65, 0, 9], Err(DropReason::NeighbourUnanswered)),
        ] {
            assert_eq!(node.pod_sends(2, &arp(sender, target)), expected, "{sender:?} asks for {target:?}");
        }
        let mut forged = arp(own, [1, 2, 3, 4]);
        forged[27] = 9;
        assert_eq!(node.pod_sends(2, &forged), Err(DropReason::Spoofed));
        let reply = arp_reply(&arp(own, [169, 254, 1, 1]), &GATEWAY_MAC);
        assert_eq!(reply[..6], mac(2));
        assert_eq!(reply[6..12], GATEWAY_MAC);
        assert_eq!(reply[20..42], [&[0, 2], &GATEWAY_MAC[..], &[169, 254, 1, 1], &mac(2), &own].concat());
    }

    #[test]
    fn pkt_6_an_advertisement_has_a_correct_checksum() {
        let somebody = core::array::from_fn(|index| 0xf0 + index as u8);
        let target = core::array::from_fn(|index| 3 * index as u8);
        for (source, receiver, to, flags) in
            [(somebody, somebody, mac(2), 0xe0), ([0; 16], ALL_NODES, ALL_NODES_MAC, 0xa0)]
        {
            // What another packet left in the room is no part of this one.
            let mut head = [u64::MAX; 11];
            advertisement(
                &mac(2),
                Address::from_bytes(source),
                Address::from_bytes(target),
                &Answerer::GATEWAY,
                &mut head,
            );
            let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let frame = &bytes[HEAD_AT..][..ADVERTISEMENT_FRAME];
            assert_eq!(frame[..14], [&to[..], &GATEWAY_MAC, &[0x86, 0xdd]].concat());
            assert_eq!(frame[14..54], [&[0x60, 0, 0, 0, 0, 32, 58, 255], &target[..], &receiver].concat());
            assert_eq!((frame[54], frame[55], &frame[58..62]), (136, 0, &[flags, 0, 0, 0][..]));
            assert_eq!(frame[62..], [&target[..], &[2, 1], &GATEWAY_MAC].concat());
            let words = frame[22..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
            assert_eq!((words.sum::<u32>() + 32 + 58) % 0xffff, 0);
        }
    }
}
