//! Kernel maps as plain bytes: what the loader's typed maps do not offer.
//! In: a map's descriptor. Out: many entries by one call, and what a map costs.
//! Invariant: a buffer is at least as large as what the kernel was told it may write.
//! Never: knows what the bytes mean.

use aya::{Pod, maps::MapInfo};
use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Entries asked for at once.
const BATCH: u32 = 4096;

const LOOKUP_AND_DELETE: libc::c_long = 21;
const LOOKUP_BATCH: libc::c_long = 24;

/// `union bpf_attr` for one.
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

/// Calls bpf(2).
pub fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: `T` is a structure for this command, of which the kernel reads and writes at most the size given; the
    // pointers in it are to buffers that outlive the call and hold at least the count of entries stated there.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn at(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
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

    /// Walks over all entries, many by each call. Those that come or go meanwhile may be seen or not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
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
            for (key, value) in keys.chunks_exact(self.key).zip(values.chunks_exact(self.value)).take(found) {
                visit(key, value);
            }
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

/// Processors there could be: so many values an entry has, where each has its own.
pub fn processors() -> io::Result<usize> {
    let count = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    usize::try_from(count.get()).map_err(io::Error::other)
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
