//! A kernel array in this process's memory, so that a word is stored by one aligned store.
//! In: a map made with BPF_F_MMAPABLE. Out: reads and stores of whole 8-byte words.
//! Invariant: an index past the end is refused, never followed.
//! Never: a copy through bpf(2), which stores bytes in any order.

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

const WORD: usize = size_of::<u64>();

/// An array of `T`, a type whose size is a multiple of 8.
#[derive(Debug)]
pub struct MappedArray<T> {
    base: NonNull<u8>,
    bytes: usize,
    entries: u32,
    values: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone and is only accessed by atomic operations.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T: aya::Pod> MappedArray<T> {
    const WORDS: usize = size_of::<T>() / WORD;
    const WHOLE: () = assert!(size_of::<T>().is_multiple_of(WORD), "a value of whole words");

    /// Maps an array of `entries` values.
    pub fn map(fd: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        let () = Self::WHOLE;
        let bytes = usize::try_from(entries).map_err(io::Error::other)? * size_of::<T>();
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, rustix::mm::MapFlags::SHARED, fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { base, bytes, entries, values: PhantomData })
    }

    /// Number of values.
    pub fn len(&self) -> u32 {
        self.entries
    }

    /// The value at `index`, read word by word.
    pub fn get(&self, index: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        for number in 0..Self::WORDS {
            let word = self.word(index, number)?.load(Ordering::Acquire);
            // SAFETY: `number` is below the words of a `T`, so the target lies inside `value`; it may be unaligned.
            unsafe { value.as_mut_ptr().cast::<u64>().add(number).write_unaligned(word) };
        }
        // SAFETY: every word was written, and any bytes are a valid `T` (`Pod`).
        Some(unsafe { value.assume_init() })
    }

    /// Stores a value word by word, the first word last. `None`: no such index.
    pub fn set(&self, index: u32, value: &T) -> Option<()> {
        for number in (0..Self::WORDS).rev() {
            // SAFETY: `number` is below the words of a `T`, which has no padding (`Pod`); it may be unaligned.
            let word = unsafe { std::ptr::from_ref(value).cast::<u64>().add(number).read_unaligned() };
            let target = self.word(index, number)?;
            if target.load(Ordering::Relaxed) != word {
                target.store(word, Ordering::Release);
            }
        }
        Some(())
    }

    /// Adds to the first word of a value that programs count in. No such index: nothing.
    pub fn add(&self, index: u32, by: u64) {
        if let Some(word) = self.word(index, 0) {
            word.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Takes from the first word of a value that programs count in. No such index: nothing.
    pub fn subtract(&self, index: u32, by: u64) {
        if let Some(word) = self.word(index, 0) {
            word.fetch_sub(by, Ordering::Relaxed);
        }
    }

    fn word(&self, index: u32, number: usize) -> Option<&AtomicU64> {
        let index = usize::try_from(index).ok().filter(|_| index < self.entries)?;
        let offset = index * size_of::<T>() + number * WORD;
        // SAFETY: `index` and `number` are in range, so the word lies inside the mapping, which is page-aligned and lives
        // as long as `self`; everybody who shares it uses whole aligned words.
        Some(unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this address and length, and nobody borrows from it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}
