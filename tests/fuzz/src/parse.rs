//! Packets: whatever the bytes, the stages read inside them, agree with another parser, and let nothing forged pass.
//! In: a script. Out: nothing, or a panic that says which promise was broken.
//! Invariant: a drop leaves no flow and no fragment; a pod's packet passes only from its own addresses and MAC.
//! Never: asks what policy says; the packet tests and the differential do.

use crate::{
    scene::{self, MACS, Walked, Watched},
    script::{Place, Step, steps},
};
use abi::endpoint::{ENDPOINT_READY, GATEWAY_MAC};
use abi::{Address, DropReason, FlowKey};
use ebpf::antispoof::is_group;
use ebpf::fake::Node;
use ebpf::parse::{self, ETHERTYPE_ARP, ETHERTYPE_V4, ETHERTYPE_V6, Ether, Fragment, L3, Packet, has_ports, protocol};
use ebpf::tables::Frame as _;
use ebpf::walk::Verdict;
use etherparse::{IpSlice, NetSlice, SlicedPacket};
use std::net::IpAddr;

/// One input.
pub fn run(bytes: &[u8]) {
    let mut node = scene::node();
    for step in steps(bytes) {
        let read = read(step.frame);
        scene::prepare(&mut node, step.before);
        let before = Left::of(&node);
        let walked = scene::play(&node, &step);
        let after = Left::of(&node);
        if walked.verdict.is_err() {
            assert!(after.flows.iter().all(|key| before.flows.contains(key)), "a drop opened a flow");
            assert_eq!(after.fragments, before.fragments, "a drop left a fragment");
        }
        reads_inside(&walked, read.as_ref());
        passes(&node, &step, &walked, read.as_ref());
    }
}

/// What packets leave behind.
struct Left {
    flows: Vec<FlowKey>,
    fragments: usize,
}

impl Left {
    fn of(node: &Node) -> Self {
        let flows = node.flows().into_iter().map(|(key, _)| key).collect();
        Self { flows, fragments: node.fragments.borrow().len() }
    }
}

/// The frame's headers by the parser, with what holds of every packet that it reads.
fn read(bytes: &[u8]) -> Result<(Ether, Packet), DropReason> {
    let frame = Watched::new(bytes);
    let ether = parse::ethernet(&frame)?;
    let mut packet = Packet::default();
    parse::packet(&frame, ether.ethertype, &mut packet)?;
    assert!([ETHERTYPE_V4, ETHERTYPE_V6].contains(&ether.ethertype));
    assert!(L3 + packet.length <= frame.len(), "a packet longer than its frame");
    assert!((L3 + 20..=L3 + packet.length).contains(&packet.l4), "a transport header outside the packet");
    assert!(frame.read_to.get() <= L3 + packet.length, "read past the packet's end");
    let blank = (packet.source_port, packet.destination_port, packet.detail, packet.tcp_flags) == (0, 0, 0, 0);
    assert!(packet.fragment != Fragment::Later || blank, "a later fragment has no ports");
    agrees(bytes, &packet);
    Ok((ether, packet))
}

/// What another parser can read, it reads as ours does.
fn agrees(bytes: &[u8], packet: &Packet) {
    let Ok(SlicedPacket { net: Some(net), .. }) = SlicedPacket::from_ethernet(bytes) else { return };
    let Some(ip) = ip_of(net) else { return };
    assert_eq!(address(ip.source_addr()), packet.source);
    assert_eq!(address(ip.destination_addr()), packet.destination);
    if jumbo(&ip) || packet.fragment == Fragment::Later {
        return;
    }
    let payload = ip.payload();
    if opaque_here(packet) {
        return;
    }
    assert_eq!(payload.ip_number.0, packet.protocol);
    assert_eq!(payload.fragmented, packet.fragment != Fragment::Whole);
    assert_eq!(payload.payload.as_ptr().addr() - bytes.as_ptr().addr(), packet.l4 as usize);
    assert_eq!(packet.l4 as usize + payload.payload.len(), (L3 + packet.length) as usize);
    if has_ports(packet.protocol) {
        let ports = payload.payload.first_chunk::<4>().expect("ports that were read are there");
        assert_eq!(u16::from_be(packet.source_port), u16::from_be_bytes([ports[0], ports[1]]));
        assert_eq!(packet.detail, u16::from_be_bytes([ports[2], ports[3]]));
        assert_eq!(u16::from_be(packet.destination_port), packet.detail);
    }
}

fn ip_of(net: NetSlice<'_>) -> Option<IpSlice<'_>> {
    match net {
        NetSlice::Ipv4(v4) => Some(IpSlice::Ipv4(v4)),
        NetSlice::Ipv6(v6) => Some(IpSlice::Ipv6(v6)),
        NetSlice::Arp(_) => None,
    }
}

/// The other parser takes an IPv6 packet that states no length for as long as its frame.
fn jumbo(ip: &IpSlice<'_>) -> bool {
    ip.ipv6().is_some_and(|v6| v6.header().payload_length() == 0)
}

/// Headers that the other parser looks into and ours does not: authentication in IPv4; mobility, HIP and Shim6 in IPv6.
fn opaque_here(packet: &Packet) -> bool {
    if packet.v6 { matches!(packet.protocol, 135 | 139 | 140) } else { packet.protocol == 51 }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::from_bytes(v6.octets()),
    }
}

/// Nothing passes on the word of bytes behind the packet.
fn reads_inside(walked: &Walked, read: Result<&(Ether, Packet), &DropReason>) {
    if let (Ok(_), Ok((_, packet))) = (walked.verdict, read) {
        assert!(walked.read_to <= L3 + packet.length, "passed on the word of bytes behind the packet's end");
    }
}

/// What passes may pass.
fn passes(node: &Node, step: &Step<'_>, walked: &Walked, read: Result<&(Ether, Packet), &DropReason>) {
    let Ok(verdict) = walked.verdict else { return };
    match (step.place, read) {
        (Place::Uplink, Err(_)) => assert_eq!(verdict, Verdict::Untouched),
        (Place::Uplink, Ok((_, packet))) => from_outside(node, verdict, packet),
        (Place::Pod(pod), Ok((ether, packet))) => from_pod(node, (pod, step.vlan), verdict, ether, packet),
        (_, Err(_)) => {
            let ethertype = step.frame.get(12..14);
            assert_eq!(ethertype, Some(&ETHERTYPE_ARP.to_be_bytes()[..]), "what cannot be read passed");
        }
        (Place::ToPod(pod, _), Ok((_, packet))) => to_pod(node, (pod, step.vlan), verdict, packet),
    }
}

fn owns(node: &Node, slot: u32, address: &Address) -> bool {
    let class = node.addresses.get(address).map(|at| node.classes[*at as usize]);
    class.is_some_and(|class| class.endpoint.at(node.generation.get()) == slot)
}

/// A local endpoint gets only what is for it, while it is ready.
fn reaches(node: &Node, verdict: Verdict, packet: &Packet) {
    if let Verdict::ToEndpoint(slot) = verdict {
        assert!(node.endpoints[slot as usize].flags & ENDPOINT_READY != 0, "to a pod that is not ready");
        assert!(owns(node, slot, &packet.destination), "to a pod that it is not for");
    }
}

fn from_outside(node: &Node, verdict: Verdict, packet: &Packet) {
    reaches(node, verdict, packet);
    assert!(matches!(verdict, Verdict::ToEndpoint(_) | Verdict::Untouched), "{verdict:?} from outside");
    let local = node.addresses.contains_key(&packet.source);
    assert!(!local || verdict == Verdict::Untouched, "let in from outside with an address of this node");
}

fn from_pod(node: &Node, (pod, vlan): (usize, bool), verdict: Verdict, ether: &Ether, packet: &Packet) {
    reaches(node, verdict, packet);
    let slot = scene::SLOTS[pod];
    assert!(!vlan, "a tagged frame passed");
    assert!(node.endpoints[slot as usize].flags & ENDPOINT_READY != 0, "from a pod that is not ready");
    assert_eq!(ether.source, MACS[pod], "with another MAC");
    if matches!(verdict, Verdict::AnswerArp | Verdict::AnswerSolicitation) {
        let solicitation = packet.v6 && packet.protocol == protocol::ICMPV6 && packet.icmp_type() == 135;
        assert!(solicitation && verdict == Verdict::AnswerSolicitation);
        return;
    }
    assert_eq!(ether.destination, GATEWAY_MAC, "to another MAC");
    assert!(owns(node, slot, &packet.source), "from an address that is not the pod's");
    assert!(!is_group(packet), "to a group");
    assert!(verdict != Verdict::Untouched, "untouched by the pod's own hook");
}

fn to_pod(node: &Node, (pod, vlan): (usize, bool), verdict: Verdict, packet: &Packet) {
    assert!(!vlan, "a tagged frame passed");
    let slot = scene::SLOTS[pod];
    assert!(node.endpoints[slot as usize].flags & ENDPOINT_READY != 0, "to a pod that is not ready");
    match verdict {
        Verdict::ToEndpoint(to) => assert_eq!(to, slot, "into another pod"),
        // The host's own neighbour and listener messages.
        Verdict::ToHost => assert!(packet.v6 && packet.is_icmp()),
        other => panic!("{other:?} before a pod's interface"),
    }
}
