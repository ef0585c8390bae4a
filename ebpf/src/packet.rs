//! The packet as the kernel holds it: the one place that reads and writes its bytes.
//! In: offsets and values. Out: bytes, or nothing where the packet ends.
//! Invariant: data pointers are taken afresh for every access, so no helper can leave a stale one behind.
//! Never: reads past the end; writes in a dry run (nobody asks it to).

use core::arch::asm;
use core::mem::offset_of;
use core::ptr;

use abi::DropReason;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use ebpf::conntrack::Socket;
use ebpf::icmp_error::{HEAD_AT, Head};
use ebpf::parse::Packet;
use ebpf::tables::{Arrival, Frame, Tables};
use ebpf::walk::{State, Walk};

use crate::socket::is_heard;
use crate::words::{read_words, write_words};
use crate::{apart, ask};

/// Headers begin up to here. The longest chain that is walked ends before: what begins later counts as torn.
const NEAR: u32 = 255;

/// Bytes summed at most: an ICMP error quotes no more. They lie at offsets of so many bits.
const SUMMED: u32 = 1280;
const SUMMED_MASK: u32 = 2047;
/// Room behind the Ethernet header, include/uapi/linux/bpf.h.
const BPF_ADJ_ROOM_MAC: u32 = 1;
/// A checksum that hardware summed over the packet follows what is written.
const BPF_F_RECOMPUTE_CSUM: u64 = 1;

/// What the kernel calls a frame that is for this interface's own MAC (include/uapi/linux/if_packet.h).
pub const PACKET_HOST: u32 = 0;
/// One for another's MAC.
const PACKET_OTHERHOST: u32 = 3;
/// The VLAN's number in a tag (IEEE 802.1Q).
const VLAN_ID: u32 = 0x0fff;

/// A packet.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Skb {
    /// The packet of this run.
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self(context.as_ptr().cast())
    }

    /// What the context says beside the bytes.
    #[inline(always)]
    pub fn arrival(self) -> Arrival {
        // SAFETY: the context pointer is the kernel's, and these fields are readable at TCX hooks.
        let (context, packet_type) = unsafe { (&*self.0, self.packet_type()) };
        Arrival {
            ifindex: context.ifindex,
            ingress_ifindex: context.ingress_ifindex,
            vlan: context.vlan_present != 0,
            untagged: context.vlan_tci & VLAN_ID == 0,
            foreign: packet_type != PACKET_HOST,
            overheard: packet_type == PACKET_OTHERHOST,
            ethertype: u16::from_be(context.protocol as u16),
            handed: [context.cb[0], context.cb[1]],
            mark: context.mark,
        }
    }

    /// Segment size of a GSO packet, else 0.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: as in `arrival`.
        unsafe { (*self.0).gso_size }
    }

    /// Whom the kernel took the frame to be for (`PACKET_*`, include/uapi/linux/if_packet.h).
    #[inline(always)]
    pub fn packet_type(self) -> u32 {
        // SAFETY: as in `arrival`.
        unsafe { (*self.0).pkt_type }
    }

    /// Forgets a mark that another hook left.
    #[inline(always)]
    pub fn clear_mark(self) {
        // SAFETY: as in `arrival`; the mark is writable there.
        unsafe {
            if (*self.0).mark != 0 {
                (*self.0).mark = 0;
            }
        }
    }

    /// Leaves words in the control block: a dry run's answer, or what the next program is told.
    #[inline(always)]
    pub fn leave<const N: usize>(self, words: [u32; N]) {
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the words of the control block, five, are the program's own to write.
            unsafe { ptr::write_volatile(&raw mut (*self.0).cb[index], word) };
        }
    }

    /// Writes `N` bytes at `at`, where the packet itself makes up for what that changes in its sum, or they are no part of it;
    /// `false` if the packet has no such place.
    #[inline(always)]
    #[must_use]
    pub fn store<const N: usize>(self, at: u32, bytes: [u8; N]) -> bool {
        match self.place::<N>(at) {
            // SAFETY: `place` checked that N bytes lie there; before a program that writes in place, the kernel makes
            // the linear part its own.
            Some(place) => unsafe { write_words(place, bytes) },
            None => return self.store_balanced(at, &bytes),
        }
        true
    }

    /// The same at an offset that was read from the packet.
    #[inline(always)]
    #[must_use]
    pub fn store_near<const N: usize>(self, at: u32, bytes: [u8; N]) -> bool {
        at <= NEAR && self.store(within::<NEAR>(at), bytes)
    }

    /// The same through the kernel, for what may lie outside the linear part; a sum that hardware made of all follows.
    #[inline(always)]
    #[must_use]
    pub fn store_far<const N: usize>(self, at: u32, bytes: &[u8; N]) -> bool {
        // SAFETY: the helper copies N bytes from this array, or refuses.
        unsafe { bpf_skb_store_bytes(self.0, at, bytes.as_ptr().cast(), N as u32, BPF_F_RECOMPUTE_CSUM) == 0 }
    }

    /// The same where the packet itself makes up for what that changes in its sum.
    #[inline(always)]
    #[must_use]
    pub fn store_balanced<const N: usize>(self, at: u32, bytes: &[u8; N]) -> bool {
        // SAFETY: as in `store_far`.
        unsafe { bpf_skb_store_bytes(self.0, at, bytes.as_ptr().cast(), N as u32, 0) == 0 }
    }

    /// Writes the `N` bytes of a frame that stand in `head` at the packet's beginning.
    #[inline(always)]
    #[must_use]
    pub fn store_head<const N: usize>(self, head: &Head) -> bool {
        const { assert!(HEAD_AT + N <= size_of::<Head>()) };
        // SAFETY: the frame's N bytes lie within the room; the helper copies them, or refuses.
        unsafe {
            let frame = head.as_ptr().cast::<u8>().add(HEAD_AT);
            bpf_skb_store_bytes(self.0, 0, frame.cast(), N as u32, BPF_F_RECOMPUTE_CSUM) == 0
        }
    }

    /// Cuts the packet, or fills it up, to this length; all of it then lies in the linear part.
    #[inline(always)]
    #[must_use]
    pub fn resize(self, len: u32) -> bool {
        // SAFETY: the helper changes the packet's length or refuses; no pointer into it is held.
        unsafe { bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    /// Makes room for another L3 header before the one there is.
    #[inline(always)]
    #[must_use]
    pub fn widen(self, by: i32) -> bool {
        // SAFETY: the helper moves the Ethernet header or refuses; no pointer into the packet is held.
        unsafe { bpf_skb_adjust_room(self.0, by, BPF_ADJ_ROOM_MAC, 0) == 0 }
    }

    /// The sum of all 16-bit words from `at` to the linear part's end, as they lie in memory, not folded.
    #[inline(always)]
    pub fn sum(self, at: u32) -> u64 {
        sum_apart(self.0, at)
    }

    /// The same of `N` bytes a turn, as long as there are so many.
    #[inline(always)]
    fn sum_by<const N: usize>(self, at: &mut u32, turns: u32) -> u64 {
        let mut sum = 0;
        for _ in 0..turns {
            // With the place known the verifier would remember each turn, and each number of words that may be the last.
            *at = within::<SUMMED_MASK>(self.unknown(*at));
            let Some(place) = self.place::<N>(*at) else {
                break;
            };
            for index in 0..N / 8 {
                // SAFETY: `place` checked that N bytes lie there; see `read_words` for the alignment.
                let word = unsafe { ptr::read_volatile(place.cast::<u64>().add(index)) };
                sum += (word & 0xffff_ffff) + (word >> 32);
            }
            *at += N as u32;
        }
        sum
    }

    /// The same for the last bytes, fewer than eight.
    #[inline(always)]
    fn sum_of_rest(self, mut at: u32) -> u64 {
        let mut sum = 0;
        // SAFETY: as in `sum`.
        unsafe {
            if let Some(place) = self.place::<4>(at) {
                sum += u64::from(ptr::read_volatile(place.cast::<u32>()));
                at += 4;
            }
            if let Some(place) = self.place::<2>(at) {
                sum += u64::from(ptr::read_volatile(place.cast::<u16>()));
                at += 2;
            }
            if let Some(place) = self.place::<1>(at) {
                sum += u64::from(ptr::read_volatile(place.cast::<u8>()));
            }
        }
        sum
    }

    /// Brings the first `len` bytes into the linear part, where that is shorter; `false` if the packet is.
    #[inline(always)]
    fn pull(self, len: u32) -> bool {
        // SAFETY: the helper moves bytes within the packet; no pointer into it is held.
        unsafe { bpf_skb_pull_data(self.0, len) == 0 }
    }

    /// Where the linear part begins and ends. The context calls these pointers `u32`; loaded by hand they are whole from
    /// the start, and the compiler has no reason to cut them to 32 bits again, after which the verifier would no longer
    /// know them for pointers.
    #[inline(always)]
    fn linear(self) -> (usize, usize) {
        let (data, end);
        // SAFETY: two loads from the context, which the kernel turns into loads of the real pointers.
        unsafe {
            asm!(
                "{data} = *(u32 *)({context} + {data_at})",
                "{end} = *(u32 *)({context} + {end_at})",
                context = in(reg) self.0,
                data = out(reg) data,
                end = lateout(reg) end,
                data_at = const offset_of!(__sk_buff, data),
                end_at = const offset_of!(__sk_buff, data_end),
                options(pure, readonly, nostack),
            );
        }
        (data, end)
    }

    /// Where `N` bytes at `at` lie in the linear part.
    #[inline(always)]
    fn place<const N: usize>(self, at: u32) -> Option<*mut [u8; N]> {
        let (data, end) = self.linear();
        let place = data + at as usize;
        if place + N > end { None } else { Some(place as *mut [u8; N]) }
    }
}

/// A program within the program.
#[inline(never)]
#[unsafe(no_mangle)]
fn sum_apart(skb: *mut __sk_buff, mut at: u32) -> u64 {
    let skb = Skb(skb);
    let most = skb.sum_by::<32>(&mut at, SUMMED / 32);
    most + skb.sum_by::<8>(&mut at, 3) + skb.sum_of_rest(at)
}

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: as in `arrival`.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let place = match self.place::<N>(at) {
            Some(place) => place,
            None if self.pull(at + N as u32) => self.place::<N>(at)?,
            None => return None,
        };
        // SAFETY: `place` checked that N bytes lie there.
        Some(unsafe { read_words(place) })
    }

    #[inline(always)]
    fn load_at<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if at > NEAR { None } else { self.load(within::<NEAR>(at)) }
    }

    #[inline(always)]
    fn check_options(&self, header_len: u32) -> Result<(), DropReason> {
        match DropReason::from_number(apart::options_apart(self.0, header_len)) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn ask<T: Tables>(
        &self,
        walk: &Walk<'_, T, Self>,
        state: &mut State,
        is_new: bool,
    ) -> Result<Option<u32>, DropReason> {
        if T::DRY {
            ask::ask::<true>(walk.hook, *self, state, is_new)
        } else {
            ask::ask::<false>(walk.hook, *self, state, is_new)
        }
    }

    #[inline(always)]
    fn has_socket(&self, packet: &Packet, own: Socket) -> bool {
        is_heard(*self, packet, own)
    }

    #[inline(always)]
    fn unknown(&self, number: u32) -> u32 {
        let mut number = u64::from(number);
        // SAFETY: a load from the context, which no verifier knows the value of, and two instructions on a register, of
        // which the second undoes the first.
        unsafe {
            asm!(
                "{any} = *(u32 *)({context} + {len_at})",
                "{number} ^= {any}",
                "{number} ^= {any}",
                context = in(reg) self.0,
                any = out(reg) _,
                number = inout(reg) number,
                len_at = const offset_of!(__sk_buff, len),
                options(pure, readonly, nostack),
            );
        }
        number as u32
    }
}

/// The same offset, bounded by an instruction that the compiler cannot prove away and the verifier therefore sees.
#[inline(always)]
fn within<const MASK: u32>(at: u32) -> u32 {
    let mut at = u64::from(at);
    // SAFETY: one arithmetic instruction on one register.
    unsafe { asm!("{0} &= {1}", inout(reg) at, const MASK, options(pure, nomem, nostack)) };
    at as u32
}
