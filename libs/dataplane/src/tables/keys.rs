//! The keys of a kernel map, from any key on: a walk that can stop and go on later.
//! In: a map and the last key seen. Out: the next keys.
//! Invariant: a key that vanished meanwhile lets the walk begin anew, as the kernel does it.
//! Never: reads a value.

use crate::bpf::bpf;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `BPF_MAP_GET_NEXT_KEY` (include/uapi/linux/bpf.h).
const GET_NEXT_KEY: libc::c_long = 4;

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct Attributes {
    map: u32,
    pad: u32,
    key: u64,
    next: u64,
}

/// At most `most` keys after one; the first ones if that one is gone or `None`.
pub fn after<K: aya::Pod>(map: BorrowedFd<'_>, last: Option<K>, most: usize) -> io::Result<Vec<K>> {
    let mut found: Vec<K> = Vec::new();
    let mut last = last;
    while found.len() < most {
        match next(map, last.as_ref())? {
            Some(key) => found.push(key),
            None => break,
        }
        last = found.last().copied();
    }
    Ok(found)
}

fn next<K: aya::Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut found = std::mem::MaybeUninit::<K>::uninit();
    let map = u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?;
    let key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    let mut attributes = Attributes { map, pad: 0, key, next: found.as_mut_ptr() as u64 };
    match bpf(GET_NEXT_KEY, &mut attributes) {
        // SAFETY: the kernel wrote a whole key, of the map's own type `K`, and any bytes are a valid `K` (`Pod`).
        Ok(()) => Ok(Some(unsafe { found.assume_init() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
