//! Atomic: the two read-modify-writes that the tables need, as the kernel's instructions (from Linux 5.12 on).
//! In: a word in a map's value. Out: what was there before.
//! Invariant: one instruction each, so that one of two processors is first.
//! Never: used where a plain write of one field will do. Rust offers neither for this target.

use core::arch::asm;

/// Puts a value in the place of another.
///
/// # Safety
/// An aligned word of memory that the program may write.
#[inline(always)]
pub unsafe fn exchange(place: *mut u32, value: u32) -> u32 {
    let mut word = value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "{word} = xchg32_32({place} + 0, {word})",
            word = inout(wreg) word,
            place = in(reg) place,
            options(nostack),
        );
    }
    word
}

/// Adds, with wrapping.
///
/// # Safety
/// As for [`exchange`].
#[inline(always)]
pub unsafe fn add(place: *mut u64, value: u64) -> u64 {
    let mut word = value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "{word} = atomic_fetch_add((u64 *)({place} + 0), {word})",
            word = inout(reg) word,
            place = in(reg) place,
            options(nostack),
        );
    }
    word
}
