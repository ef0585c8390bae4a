//! The packet as the kernel holds it: the one place that reads and writes its bytes.
//! In: offsets and values. Out: bytes, or nothing where the packet ends.
//! Invariant: data pointers are taken afresh for every access, so no helper can leave a stale one behind.
//! Never: reads past the end; writes in a dry run (nobody asks it to).

use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use ebpf::tables::{Arrival, Frame};

/// Headers up to here are read in place, beyond it through the kernel's copy.
const NEAR: u32 = 128;

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
        let (ifindex, ingress_ifindex, vlan) =
            unsafe { ((*self.0).ifindex, (*self.0).ingress_ifindex, (*self.0).vlan_present) };
        Arrival { ifindex, ingress_ifindex, vlan: vlan != 0 }
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

    /// Leaves a dry run's answer in the control block.
    #[inline(always)]
    pub fn answer(self, words: [u32; 5]) {
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the five words of the control block are the program's own to write.
            unsafe { ptr::write_volatile(&raw mut (*self.0).cb[index], word) };
        }
    }

    /// Writes `N` bytes at `at`; `false` if the packet has no such place.
    #[inline(always)]
    #[must_use]
    pub fn store<const N: usize>(self, at: u32, bytes: [u8; N]) -> bool {
        match self.place::<N>(at) {
            // SAFETY: `place` checked that N bytes lie there; before a program that writes in place, the kernel makes
            // the linear part its own.
            Some(place) => unsafe { ptr::write_unaligned(place, bytes) },
            None => return self.store_far(at, &bytes),
        }
        true
    }

    /// The same through the kernel, for what may lie outside the linear part.
    #[inline(always)]
    #[must_use]
    pub fn store_far<const N: usize>(self, at: u32, bytes: &[u8; N]) -> bool {
        // SAFETY: the helper copies N bytes from this array, or refuses.
        unsafe { bpf_skb_store_bytes(self.0, at, bytes.as_ptr().cast(), N as u32, 0) == 0 }
    }

    /// Where `N` bytes at `at` lie in the linear part.
    #[inline(always)]
    fn place<const N: usize>(self, at: u32) -> Option<*mut [u8; N]> {
        if at > NEAR {
            return None;
        }
        // SAFETY: as in `arrival`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let place = data + at as usize;
        if place + N > end { None } else { Some(place as *mut [u8; N]) }
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: as in `arrival`.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if let Some(place) = self.place::<N>(at) {
            // SAFETY: `place` checked that N bytes lie there.
            return Some(unsafe { ptr::read_unaligned(place) });
        }
        let mut bytes = [0; N];
        // SAFETY: the helper fills these N bytes, or refuses.
        let answer = unsafe { bpf_skb_load_bytes(self.0.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        if answer == 0 { Some(bytes) } else { None }
    }
}
