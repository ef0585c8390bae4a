//! The tunnel device's two programs: what leaves by it is wrapped, what comes in by it is looked at before it is the uplink's.
//! In: a packet at the device. Out: where the kernel wraps it for; or the stages of the uplink.
//! Invariant: one that no node is known for goes nowhere, and is counted; so is what no node sent.
//! Never: lets in what it cannot say the sender of, but in a test run, in which nothing is delivered.

use core::mem;

use abi::tunnel::{TunnelEnd, TunnelLocal};
use abi::{Address, DropReason, endpoint::SLOT_NONE, maps};
use aya_ebpf::bindings::{__sk_buff, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key as Key};
use aya_ebpf::helpers::generated::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LpmTrie, lpm_trie};
use aya_ebpf::programs::TcContext;
use ebpf::antispoof;
use ebpf::parse::{ETHERTYPE_V4, ETHERTYPE_V6, Ether, L3, Packet, ethernet};
use ebpf::tables::Frame as _;
use ebpf::tunnel::{is_taken, node_behind};
use ebpf::walk::Hook;

use crate::finish::run_on;
use crate::maps::count_drop;
use crate::packet::Skb;
use crate::send::{NEXT, SHOT};

#[map]
static TUNNELS: LpmTrie<Address, TunnelEnd> = LpmTrie::with_max_entries(maps::TUNNELS.default_entries, 0);
/// From where, and in which network, this node's wrapped packets come.
#[map]
pub static TUNNEL_LOCAL: Array<TunnelLocal> = Array::with_max_entries(maps::TUNNEL_LOCAL.default_entries, 0);

/// What a dry run returns for a packet that would pass.
const OK: i32 = 0;

/// Behind which node an address lies.
#[inline(always)]
pub fn behind(address: Address) -> Option<&'static TunnelEnd> {
    TUNNELS.get(&lpm_trie::Key::new(128, address))
}

/// An address that lies in the packet at this place.
#[inline(always)]
fn address_at(skb: Skb, ether: &Ether, v4: u32, v6: u32) -> Result<Address, DropReason> {
    match ether.ethertype {
        ETHERTYPE_V4 => skb.load::<4>(L3 + v4).map(Address::from_v4).ok_or(DropReason::Malformed),
        ETHERTYPE_V6 => skb.load::<16>(L3 + v6).map(Address::from_bytes).ok_or(DropReason::Malformed),
        _ => Err(DropReason::NotIp),
    }
}

/// What leaves by the device.
#[inline(always)]
pub fn run_wrapped<const DRY: bool>(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    match wrap::<DRY>(skb) {
        Ok(()) if DRY => OK,
        Ok(()) => NEXT,
        Err(reason) => {
            if !DRY {
                count_drop(SLOT_NONE, reason as u32);
            }
            SHOT
        }
    }
}

#[inline(always)]
fn wrap<const DRY: bool>(skb: Skb) -> Result<(), DropReason> {
    let ether = ethernet(&skb)?;
    let destination = address_at(skb, &ether, 16, 24)?;
    let v6 = ether.ethertype == ETHERTYPE_V6;
    if antispoof::is_group(&Packet { destination, v6, ..Packet::default() }) {
        return Err(DropReason::Multicast);
    }
    let end = node_behind(behind(destination))?;
    if DRY {
        return Ok(());
    }
    let local = TUNNEL_LOCAL.get(u32::from(v6)).ok_or(DropReason::TableCorrupt)?;
    // SAFETY: integers and unions of integers, for which zero is a value.
    let mut key: Key = unsafe { mem::zeroed() };
    key.tunnel_id = local.network();
    let flags = if v6 {
        key.__bindgen_anon_1.remote_ipv6 = words(end.remote);
        key.__bindgen_anon_3.local_ipv6 = words(local.address);
        BPF_F_TUNINFO_IPV6 | BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(words(end.remote)[3]);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(words(local.address)[3]);
        BPF_F_ZERO_CSUM_TX
    };
    // SAFETY: the key is the helper's to read, with its true size.
    let set = unsafe { bpf_skb_set_tunnel_key(skb.0, &raw mut key, mem::size_of::<Key>() as u32, flags.into()) };
    if set == 0 && skb.store(0, end.mac) { Ok(()) } else { Err(DropReason::ForwardFailed) }
}

/// As they lie in memory.
#[inline(always)]
fn words(address: Address) -> [u32; 4] {
    let [a, b] = address.0;
    [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
}

/// What comes in by the device. Two programs within the program: what the first finds out the verifier forgets.
#[inline(always)]
pub fn run_unwrapped<const DRY: bool>(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let refused = unwrapped_apart(skb.0, DRY.into());
    if refused == 0 {
        return run_on::<DRY>(Hook::FromUplink, skb, 0);
    }
    if !DRY {
        count_drop(SLOT_NONE, refused);
    }
    SHOT
}

/// Why a packet goes no further; 0: it does.
#[inline(never)]
#[unsafe(no_mangle)]
fn unwrapped_apart(skb: *mut __sk_buff, is_dry: u32) -> u32 {
    match unwrapped(Skb(skb), is_dry != 0) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn unwrapped(skb: Skb, is_dry: bool) -> Result<(), DropReason> {
    let ether = ethernet(&skb)?;
    let Some((vni, sender)) = sender(skb) else {
        // In a test run nobody sent it; a twin that stands in for a moment lets nobody's packet in.
        return if is_dry && skb.arrival().ingress_ifindex == 0 { Ok(()) } else { Err(DropReason::Encapsulated) };
    };
    let source = address_at(skb, &ether, 12, 8)?;
    let own = TUNNEL_LOCAL.get(u32::from(ether.ethertype == ETHERTYPE_V6)).ok_or(DropReason::TableCorrupt)?;
    if is_taken(own, (vni, &sender), behind(sender), behind(source)) { Ok(()) } else { Err(DropReason::Encapsulated) }
}

/// Of which network a packet is, and who wrapped it.
#[inline(always)]
fn sender(skb: Skb) -> Option<(u32, Address)> {
    // SAFETY: integers and unions of integers, for which zero is a value.
    let mut key: Key = unsafe { mem::zeroed() };
    let size = mem::size_of::<Key>() as u32;
    // SAFETY: the key is the helper's to fill, with its true size.
    if unsafe { bpf_skb_get_tunnel_key(skb.0, &raw mut key, size, 0) } == 0 {
        // SAFETY: integers, whichever member was written.
        let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        return Some((key.tunnel_id, Address::from_v4(remote.to_be_bytes())));
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_get_tunnel_key(skb.0, &raw mut key, size, BPF_F_TUNINFO_IPV6.into()) } != 0 {
        return None;
    }
    // SAFETY: as above.
    let [a, b, c, d] = unsafe { key.__bindgen_anon_1.remote_ipv6 };
    Some((key.tunnel_id, Address([u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32])))
}
