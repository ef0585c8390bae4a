//! Words: bytes of a packet, read and written by words of four.
//! In: a place and a length. Out: bytes on the stack, or in the packet.
//! Invariant: one access for each word, which the compiler neither splits nor merges.
//! Never: checks bounds: whoever calls has.

use core::mem::MaybeUninit;
use core::ptr;

/// Reads `N` bytes by words of four. A plain unaligned read would be compiled to one load a byte.
///
/// # Safety
/// `N` bytes can be read at `place`. It need not be aligned: each access is one instruction on a packet pointer, which
/// the verifier lets through only on machines that take it at any alignment.
#[inline(always)]
pub unsafe fn read_words<const N: usize>(place: *const [u8; N]) -> [u8; N] {
    let (from, mut bytes) = (place.cast::<u8>(), Room::<N>(MaybeUninit::uninit()));
    let to = bytes.0.as_mut_ptr().cast::<u8>();
    let mut at = 0;
    // SAFETY: the caller's promise for `from`; `to` is as long and aligned to 8. Every byte is written before the end.
    unsafe {
        while at + 4 <= N {
            to.add(at).cast::<u32>().write(ptr::read_volatile(from.add(at).cast::<u32>()));
            at += 4;
        }
        if at + 2 <= N {
            to.add(at).cast::<u16>().write(ptr::read_volatile(from.add(at).cast::<u16>()));
            at += 2;
        }
        if at < N {
            to.add(at).write(ptr::read_volatile(from.add(at)));
        }
        bytes.0.assume_init()
    }
}

/// Room for bytes that words are written to. It is not zeroed first: that would be a loop, a byte a turn.
#[repr(align(8))]
struct Room<const N: usize>(MaybeUninit<[u8; N]>);

/// Writes `N` bytes by words of four.
///
/// # Safety
/// As for [`read_words`], for writing.
#[inline(always)]
pub unsafe fn write_words<const N: usize>(place: *mut [u8; N], bytes: [u8; N]) {
    let to = place.cast::<u8>();
    let mut at = 0;
    while at + 4 <= N {
        let word = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // SAFETY: the caller's promise, for four bytes inside the N.
        unsafe { ptr::write_volatile(to.add(at).cast::<u32>(), word) };
        at += 4;
    }
    if at + 2 <= N {
        let half = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        // SAFETY: the caller's promise, for two bytes inside the N.
        unsafe { ptr::write_volatile(to.add(at).cast::<u16>(), half) };
        at += 2;
    }
    if at < N {
        // SAFETY: the caller's promise, for the last byte.
        unsafe { ptr::write_volatile(to.add(at), bytes[at]) };
    }
}
