//! Network sysctls of the calling thread's namespace.
//! In: a path below `/proc/sys/net` and a value. Out: the value in force.
//! Invariant: a written value was read back.
//! Never: leaves `/proc/sys/net`.

use rustix::fs::{CWD, Mode, OFlags, openat};
use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Where they are. In a container nobody may write there, whatever its rights: an agent's has the node's mounted elsewhere.
/// Both show the namespace of whoever looks.
static ROOT: LazyLock<&Path> = LazyLock::new(|| {
    let mounted = Path::new("/host/proc/sys/net");
    if mounted.is_dir() { mounted } else { Path::new("/proc/sys/net") }
});

/// A sysctl that could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The path is not one below `/proc/sys/net`.
    #[error("sysctl path {0:?} is not one such as ipv4/conf/eth0/forwarding")]
    Path(String),
    /// The kernel refused.
    #[error("{operation} sysctl net/{path}: {source}")]
    Access {
        /// "read" or "write".
        operation: &'static str,
        /// Which.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// It was written and reads otherwise.
    #[error("sysctl net/{path} was set to {wanted} and reads {found}")]
    Ignored {
        /// Which.
        path: String,
        /// Written.
        wanted: String,
        /// Read back.
        found: String,
    },
}

/// The value at `path`, for example `ipv4/conf/eth0/forwarding`, without the line's end. Who reads many holds
/// [`Families`] open.
///
/// # Errors
/// There is no such sysctl here, or it may not be read.
pub fn read(path: &str) -> Result<String, SysctlError> {
    read_at(CWD, &place(path)?).map_err(|errno| failed("read", path, errno))
}

/// The folders of both families of one namespace, held open. The kernel keeps those of all namespaces in one list, which it
/// walks whenever one is looked up by its path: where every pod has a namespace that is most of what a setting costs.
#[derive(Debug)]
pub struct Families([(&'static str, Option<fs::File>); 2]);

impl Families {
    /// Of the calling thread's namespace. One that the kernel does not have is left out.
    #[must_use]
    pub fn open() -> Self {
        Self(["ipv4/", "ipv6/"].map(|family| (family, fs::File::open(ROOT.join(family)).ok())))
    }

    /// As the function of this name.
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, path: &str) -> Result<String, SysctlError> {
        let whole = place(path)?;
        let (folder, within) = self.within(path, &whole);
        read_at(folder, within).map_err(|errno| failed("read", path, errno))
    }

    /// Sets `path` to `value`, unless it is so already, and reads it back.
    ///
    /// # Errors
    /// There is no such sysctl here, it may not be written, or the kernel keeps another value.
    pub fn write(&self, path: &str, value: &str) -> Result<(), SysctlError> {
        let whole = place(path)?;
        let (folder, within) = self.within(path, &whole);
        // What may only be read may be right.
        if read_at(folder, within).map_err(|errno| failed("read", path, errno))? == value {
            return Ok(());
        }
        let found = write_at(folder, within, value).map_err(|errno| failed("write", path, errno))?;
        let ignored = |found| SysctlError::Ignored { path: path.to_owned(), wanted: value.to_owned(), found };
        if found == value { Ok(()) } else { Err(ignored(found)) }
    }

    /// Where a path begins that is looked up, and the rest of it.
    fn within<'a>(&'a self, path: &'a str, whole: &'a Path) -> (BorrowedFd<'a>, &'a Path) {
        let held = self.0.iter().find_map(|(family, folder)| Some((folder.as_ref()?, path.strip_prefix(family)?)));
        held.map_or((CWD, whole), |(folder, within)| (folder.as_fd(), Path::new(within)))
    }
}

fn read_at(folder: BorrowedFd<'_>, path: &Path) -> io::Result<String> {
    whole(&openat(folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What is in force then.
fn write_at(folder: BorrowedFd<'_>, path: &Path, value: &str) -> io::Result<String> {
    let file = openat(folder, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::pwrite(&file, value.as_bytes(), 0)?;
    whole(&file)
}

/// From the beginning. No sysctl of a network is longer.
fn whole(file: &OwnedFd) -> io::Result<String> {
    let mut bytes = [0; 4096];
    let length = rustix::io::pread(file, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned())
}

fn failed(operation: &'static str, path: &str, source: io::Error) -> SysctlError {
    SysctlError::Access { operation, path: path.to_owned(), source }
}

/// Interface names may hold dots, so parts are divided by slashes only.
fn place(path: &str) -> Result<PathBuf, SysctlError> {
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if path.split('/').all(good) { Ok(ROOT.join(path)) } else { Err(SysctlError::Path(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_the_networks_sysctls() {
        for path in ["", "/etc/passwd", "../kernel/panic", "ipv4//conf", "ipv4/conf/.."] {
            assert!(matches!(place(path), Err(SysctlError::Path(_))), "{path}");
        }
        assert!(place("ipv4/conf/eth0.100/forwarding").is_ok());
    }
}
