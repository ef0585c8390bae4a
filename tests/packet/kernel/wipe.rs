//! Tables as they are made: what an earlier test left in them is taken out.
//! In: the folder of a node's pins. Out: maps without an entry, arrays of zeros.
//! Invariant: every map is known by its kind; one that cannot be wiped fails the test.
//! Never: touches programs.

use aya::maps::{Map, MapData, MapInfo, MapType, RingBuf};
use dataplane::Dataplane;
use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

const DELETE: libc::c_long = 3;
const NEXT_KEY: libc::c_long = 4;
const TAKE: libc::c_long = 21;
const UPDATE_MANY: libc::c_long = 26;
/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;
/// Elements that are written at once.
const MANY: u32 = 1024;

/// `union bpf_attr` for single entries (include/uapi/linux/bpf.h).
#[repr(C)]
struct One {
    map: u32,
    pad: u32,
    key: u64,
    /// Or where the next key goes.
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for many.
#[repr(C)]
#[derive(Default)]
struct Many {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    entry_flags: u64,
    flags: u64,
}

/// Wipes all maps that are pinned there: the node's tables, and those that its programs have for themselves.
pub fn maps_below(bpffs: &Path) {
    let own = entries(&bpffs.join("programs")).into_iter().flat_map(|folder| entries(&folder));
    for pin in entries(&bpffs.join("maps")).into_iter().chain(own.filter(|pin| !is_program(pin))) {
        let info = MapInfo::from_pin(&pin).map_err(io::Error::other);
        info.and_then(|info| wipe(&pin, &info)).unwrap_or_else(|why| panic!("{} is not wiped: {why}", pin.display()));
    }
}

/// Both are pinned alike, and the loader takes either for a map.
fn is_program(pin: &Path) -> bool {
    Dataplane::programs().any(|name| pin.ends_with(name))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("a folder is listed").path()).collect()
}

fn wipe(pin: &Path, info: &MapInfo) -> io::Result<()> {
    let map = Opened::new(info)?;
    match info.map_type().map_err(io::Error::other)? {
        MapType::Hash | MapType::LruHash | MapType::LpmTrie => map.delete_all(),
        MapType::Array if info.map_flags() & MMAPABLE != 0 => map.zero_by_memory(),
        MapType::Array | MapType::PerCpuArray => map.zero(),
        MapType::Queue => map.take_all(),
        MapType::RingBuf => read_all(pin),
        other => Err(io::Error::other(format!("nobody said how, for {other:?}"))),
    }
}

/// An open map.
struct Opened {
    fd: aya::maps::MapFd,
    key: usize,
    /// Of all processors together.
    value: usize,
    elements: u32,
}

impl Opened {
    fn new(info: &MapInfo) -> io::Result<Self> {
        let value = (info.value_size() as usize).next_multiple_of(8);
        let per_cpu = info.map_type().is_ok_and(|kind| kind == MapType::PerCpuArray);
        let processors = if per_cpu { aya::util::nr_cpus().map_err(|(_, why)| why)?.get() as usize } else { 1 };
        let fd = info.fd().map_err(io::Error::other)?;
        Ok(Self { fd, key: info.key_size() as usize, value: value * processors, elements: info.max_entries() })
    }

    fn number(&self) -> u32 {
        self.fd.as_fd().as_raw_fd().cast_unsigned()
    }

    fn one(&self, command: libc::c_long, key: Option<&[u8]>, into: Option<&mut [u8]>) -> io::Result<()> {
        let key = key.map_or(0, |key| key.as_ptr() as u64);
        let value = into.map_or(0, |into| into.as_mut_ptr() as u64);
        call(command, &mut One { map: self.number(), pad: 0, key, value, flags: 0 })
    }

    fn delete_all(&self) -> io::Result<()> {
        let mut key = vec![0; self.key];
        while found(self.one(NEXT_KEY, None, Some(&mut key)))? {
            // What has expired, the cursor may remove first.
            found(self.one(DELETE, Some(&key), None))?;
        }
        Ok(())
    }

    fn take_all(&self) -> io::Result<()> {
        let mut value = vec![0; self.value];
        while found(self.one(TAKE, None, Some(&mut value)))? {}
        Ok(())
    }

    /// Elements of zeros. One that has a timer loses it.
    fn zero(&self) -> io::Result<()> {
        let zeros = vec![0u8; MANY as usize * self.value];
        for first in (0..self.elements).step_by(MANY as usize) {
            let keys: Vec<u32> = (first..self.elements.min(first + MANY)).collect();
            let (at, values, count) = (keys.as_ptr() as u64, zeros.as_ptr() as u64, keys.len() as u32);
            call(UPDATE_MANY, &mut Many { keys: at, values, count, map: self.number(), ..Many::default() })?;
        }
        Ok(())
    }

    fn zero_by_memory(&self) -> io::Result<()> {
        use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
        let bytes = self.value * self.elements as usize;
        // SAFETY: a new mapping, which nobody else has, of as many bytes as the kernel keeps for the array; it is gone before
        // this returns.
        unsafe {
            let at =
                mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &self.fd, 0)?;
            at.cast::<u8>().write_bytes(0, bytes);
            munmap(at, bytes)?;
        }
        Ok(())
    }
}

fn read_all(pin: &Path) -> io::Result<()> {
    let map = MapData::from_pin(pin).map_err(io::Error::other)?;
    let mut ring = RingBuf::try_from(Map::RingBuf(map)).map_err(io::Error::other)?;
    while ring.next().is_some() {}
    Ok(())
}

/// Whether there was one.
fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(why) if why.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(why) => Err(why),
    }
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: `T` is the structure of this command; what it points to outlives the call and has the map's sizes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
