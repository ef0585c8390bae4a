//! Network sysctls of the calling thread's namespace.
//! In: a path below `/proc/sys/net` and a value. Out: the value in force.
//! Invariant: a written value was read back.
//! Never: leaves `/proc/sys/net`.

use rustix::fs::{Mode, OFlags, openat};
use std::{
    fs,
    io::{self, Read as _},
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

/// The value at `path`, for example `ipv4/conf/eth0/forwarding`, without the line's end.
///
/// # Errors
/// There is no such sysctl here, or it may not be read.
pub fn read(path: &str) -> Result<String, SysctlError> {
    let access = |source| SysctlError::Access { operation: "read", path: path.to_owned(), source };
    fs::read_to_string(place(path)?).map(|text| text.trim_end().to_owned()).map_err(access)
}

/// The folders of both families of one namespace, held open. The kernel keeps those of all namespaces in one list, which it
/// walks whenever one is looked up by its path: where every pod has a namespace that is most of what reading costs.
#[derive(Debug)]
pub struct Families([(&'static str, Option<fs::File>); 2]);

impl Families {
    /// Of the calling thread's namespace. One that the kernel does not have is left out.
    #[must_use]
    pub fn open() -> Self {
        Self(["ipv4/", "ipv6/"].map(|family| (family, fs::File::open(ROOT.join(family)).ok())))
    }

    /// As [`read`].
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self, path: &str) -> Result<String, SysctlError> {
        let held = self.0.iter().find_map(|(family, folder)| Some((folder.as_ref()?, path.strip_prefix(family)?)));
        let Some((folder, within)) = held else { return read(path) };
        place(path)?;
        let value = || {
            let mut text = String::new();
            let file = openat(folder, within, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            fs::File::from(file).read_to_string(&mut text)?;
            Ok(text.trim_end().to_owned())
        };
        value().map_err(|source| SysctlError::Access { operation: "read", path: path.to_owned(), source })
    }
}

/// Sets `path` to `value`, unless it is so already, and reads it back.
///
/// # Errors
/// There is no such sysctl here, it may not be written, or the kernel keeps another value.
pub fn write(path: &str, value: &str) -> Result<(), SysctlError> {
    if read(path)? == value {
        return Ok(());
    }
    let access = |source| SysctlError::Access { operation: "write", path: path.to_owned(), source };
    fs::write(place(path)?, value).map_err(access)?;
    let found = read(path)?;
    let ignored = |found| SysctlError::Ignored { path: path.to_owned(), wanted: value.to_owned(), found };
    if found == value { Ok(()) } else { Err(ignored(found)) }
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
