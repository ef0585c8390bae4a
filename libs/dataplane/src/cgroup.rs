//! The cgroup whose sockets reach services, and the namespace whose sockets alone are meant.
//! In: the setting, the machine's mounts. Out: an open cgroup with its number; a namespace's cookie.
//! Invariant: unless it is told otherwise, it is the root of the version 2 hierarchy: every process is in it.
//! Never: makes a cgroup; moves a process.

use rustix::fs::statfs;
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// include/uapi/asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Which cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cgroup {
    /// The root, wherever it is mounted.
    #[default]
    Root,
    /// The one at this path.
    At(PathBuf),
    /// There is none: the node's own packets are led to services one by one.
    None,
    /// Nobody shall: the node's own sockets do not reach services by this agent.
    Off,
}

/// A cgroup that is there.
#[derive(Debug)]
pub struct Place {
    file: File,
    /// The kernel's number of it.
    pub id: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Place {
    /// Finds it; `None`: there shall be none.
    ///
    /// # Errors
    /// In words: it is not there, or none of version 2.
    pub fn find(cgroup: &Cgroup) -> Result<Option<Self>, String> {
        let path = match cgroup {
            Cgroup::None | Cgroup::Off => return Ok(None),
            Cgroup::At(path) => path.clone(),
            Cgroup::Root => {
                let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
                root(&mounts)
                    .map(Path::to_owned)
                    .ok_or("no cgroup v2 is mounted; mount one, or name a cgroup with --cgroup")?
            }
        };
        let opened = Self::open(path.clone()).map_err(|error| format!("{}: {error}", path.display()))?;
        opened.map(Some).ok_or_else(|| format!("{} is no cgroup of version 2", path.display()))
    }

    fn open(path: PathBuf) -> io::Result<Option<Self>> {
        let file = File::open(&path)?;
        let id = file.metadata()?.ino();
        Ok((statfs(&path)?.f_type == CGROUP2_MAGIC).then_some(Self { file, id, path }))
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where mountinfo has the whole of the version 2 hierarchy; the first, where it is mounted often.
fn root(mounts: &str) -> Option<&Path> {
    let mounted = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (within, at) = (fields.next()?, fields.next()?);
        (kind.split(' ').next() == Some("cgroup2")).then_some((within, Path::new(at)))
    });
    let mounted: Vec<_> = mounted.collect();
    mounted.iter().find(|(within, _)| *within == "/").or(mounted.first()).map(|(_, at)| *at)
}

/// The cookie of the calling thread's network namespace.
///
/// # Errors
/// The kernel does not say (Linux 5.14 and later do).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let (mut cookie, mut len) = (0u64, libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?);
    // SAFETY: the kernel writes at most `len` bytes to `cookie` and how many to `len`; both live on.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        37 31 0:34 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
        38 31 0:35 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_root_is_where_version_2_is_mounted_whole() {
        assert_eq!(root(HYBRID), Some(Path::new("/sys/fs/cgroup/unified")));
        let in_a_pod = "40 1 0:35 /kubepods/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n41 1 0:35 / /host/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(root(in_a_pod), Some(Path::new("/host/cgroup")));
        assert_eq!(
            root("40 1 0:35 /kubepods/x /sys/fs/cgroup rw - cgroup2 cgroup rw"),
            Some(Path::new("/sys/fs/cgroup"))
        );
        assert_eq!(root("37 31 0:34 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_named() {
        let said = |cgroup| Place::find(&cgroup).map(|found| found.is_some());
        assert_eq!(said(Cgroup::Off), Ok(false));
        assert_eq!(said(Cgroup::At("/tmp".into())), Err("/tmp is no cgroup of version 2".to_owned()));
        assert!(said(Cgroup::At("/nowhere".into())).is_err_and(|error| error.starts_with("/nowhere: ")));
    }
}
