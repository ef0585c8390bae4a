//! Kernel maps as plain bytes: what the loader's typed maps do not offer.
//! In: a map's descriptor. Out: many entries by one call, and entries of maps whose type is not asked.
//! Invariant: a buffer is at least as large as what the kernel was told it may write.
//! Never: knows what the bytes mean.

use aya::{Pod, maps::MapInfo};
use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::OnceLock,
};

/// Entries asked for at once.
const BATCH: u32 = 4096;

const UPDATE_ELEM: libc::c_long = 2;
const LOOKUP_AND_DELETE: libc::c_long = 21;
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;

/// A key must be new.
pub const NEW_ONLY: u64 = 1;

/// `union bpf_attr` for single entries (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct OneEntry {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for many.
#[repr(C)]
#[derive(Default)]
struct ManyEntries {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    entry_flags: u64,
    flags: u64,
}

/// A map whose entries are bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    fd: BorrowedFd<'a>,
    key: usize,
    /// Of all processors together, where each has its own.
    value: usize,
}

/// Calls bpf(2) for what gives nothing back but by its attributes.
pub fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    call(command, attributes).map(drop)
}

/// Calls bpf(2): what it gives back.
pub fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `T` is a structure for this command, of which the kernel reads and writes at most the size given; the
    // pointers in it are to buffers that outlive the call and hold at least the count of entries stated there.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Where the kernel may read; a map without keys wants none.
fn at(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { 0 } else { bytes.as_ptr() as u64 }
}

/// Where the kernel may write.
fn into(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr() as u64
}

impl<'a> Bytes<'a> {
    /// Over a map of which this is said.
    ///
    /// # Errors
    /// The number of processors is not known.
    pub fn new(fd: BorrowedFd<'a>, info: &MapInfo) -> io::Result<Self> {
        let size = |bytes: u32| usize::try_from(bytes).map_err(io::Error::other);
        let (key, value) = (size(info.key_size())?, size(info.value_size())?);
        let value = if is_per_cpu(info) { value.next_multiple_of(8) * processors()? } else { value };
        Ok(Self { fd, key, value })
    }

    /// Walks over all entries. Those that come or go meanwhile may be seen or not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.walk_many(|keys, values, _| {
            keys.chunks_exact(self.key).zip(values.chunks_exact(self.value)).for_each(|(key, value)| visit(key, value));
            Ok(())
        })
    }

    /// The same, many entries at once: their keys, their values, and how many.
    ///
    /// # Errors
    /// The kernel refuses, or `visit` fails.
    pub fn walk_many(&self, mut visit: impl FnMut(&[u8], &[u8], u32) -> io::Result<()>) -> io::Result<()> {
        let mut count = BATCH;
        let (mut from, mut to) = (vec![0u8; self.key.max(8)], vec![0u8; self.key.max(8)]);
        let mut is_first = true;
        loop {
            let room = usize::try_from(count).map_err(io::Error::other)?;
            let (mut keys, mut values) = (vec![0u8; room * self.key], vec![0u8; room * self.value]);
            let mut ask = ManyEntries {
                from: if is_first { 0 } else { at(&from) },
                to: into(&mut to),
                keys: into(&mut keys),
                values: into(&mut values),
                count,
                map: self.number(),
                ..ManyEntries::default()
            };
            let result = bpf(LOOKUP_BATCH, &mut ask);
            let ended = match result {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // More entries lie in one bucket of a hash than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    count = count.saturating_mul(2);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let found = usize::try_from(ask.count).map_err(io::Error::other)?.min(room);
            visit(&keys[..found * self.key], &values[..found * self.value], ask.count)?;
            if ended {
                return Ok(());
            }
            std::mem::swap(&mut from, &mut to);
            is_first = false;
        }
    }

    /// Takes an entry out; `None` if there was none. What comes back is what was taken out, whoever else writes or deletes.
    ///
    /// # Errors
    /// The kernel refuses.
    ///
    /// # Panics
    /// The key has another length than the map's.
    pub fn take(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        assert_eq!(key.len(), self.key, "a key of this map");
        let mut value = vec![0u8; self.value];
        let mut ask = OneEntry { map: self.number(), key: at(key), value: into(&mut value), ..OneEntry::default() };
        match bpf(LOOKUP_AND_DELETE, &mut ask) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// The kernel refuses: there is no room, or the key is there and must be new.
    pub fn put(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key, self.value), "an entry of this map");
        let mut ask = OneEntry { map: self.number(), key: at(key), value: at(value), flags, ..OneEntry::default() };
        bpf(UPDATE_ELEM, &mut ask)
    }

    /// Writes an entry of nothing but zeros.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&self, key: &[u8]) -> io::Result<()> {
        self.put(key, &vec![0u8; self.value], 0)
    }

    /// Writes so many entries at once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn put_many(&self, keys: &[u8], values: &[u8], count: u32) -> io::Result<()> {
        let entries = usize::try_from(count).map_err(io::Error::other)?;
        assert_eq!((keys.len(), values.len()), (entries * self.key, entries * self.value), "entries of this map");
        if count == 0 {
            return Ok(());
        }
        let (keys, values, map) = (at(keys), at(values), self.number());
        bpf(UPDATE_BATCH, &mut ManyEntries { keys, values, count, map, ..ManyEntries::default() })
    }

    fn number(&self) -> u32 {
        u32::try_from(self.fd.as_raw_fd()).expect("an open descriptor is not negative")
    }
}

/// The value that these bytes are; `None` if they are not as many as it has.
#[must_use]
pub fn value_of<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: so many bytes can be read there, aligned or not, and any bytes are a `T` (`Pod`).
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes that this value is.
#[must_use]
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: a `Pod` has no padding, so all its bytes are written.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Each processor has its own values.
fn is_per_cpu(info: &MapInfo) -> bool {
    use aya::maps::MapType;
    matches!(info.map_type(), Ok(MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash))
}

/// Processors there could be: so many values an entry has, where each has its own. The kernel says it in a file, and never
/// anything else.
pub fn processors() -> io::Result<usize> {
    static KNOWN: OnceLock<usize> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let count = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let count = usize::try_from(count.get()).map_err(io::Error::other)?;
    Ok(*KNOWN.get_or_init(|| count))
}

/// Bytes of kernel memory that a map is charged for.
///
/// # Errors
/// The kernel does not say.
pub fn memory(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let charged = said.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    charged.ok_or_else(|| io::Error::other("its memory is not told"))
}
